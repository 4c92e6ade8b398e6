"""The frontier: nothing is lost or doubled, hosts take turns, who must wait takes nobody's place, traps have an end."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncpar_scrape.addresses import host_of
from asyncpar_scrape.database import SITEMAP, connect, traps
from asyncpar_scrape.frontier import Frontier, Outcome
from asyncpar_scrape.hosts import Hosts
from asyncpar_scrape.links import address_of
from asyncpar_scrape.traps import pattern_of
from tests.programs import environment


def found(*urls):
    addresses = {}
    for url in urls:
        addresses.setdefault(*address_of(url))
    return addresses


def addresses(*urls, depth=0):
    return found(*urls), depth


@pytest.fixture
def connection():
    with closing(connect("", write=True)) as made:
        yield made


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["add", "take", "settle", "fail", "put back", "time"]),
        st.integers(0, 3),
        st.integers(0, 30),
    ),
    max_size=80,
)


@given(ACTIONS, st.integers(1, 4), st.one_of(st.none(), st.integers(0, 40)))
def test_every_page_once_whatever_the_order(actions, per_host, max_pages):
    """Against a plain model: at most so many of a host are out, none of one that is away, and each page is settled once."""
    with closing(connect("", write=True)) as connection:
        frontier = Frontier(connection, per_host=per_host, max_pages=max_pages)
        known, out, settled, away, now = set(), [], [], {}, 1.0

        def take(most):
            entries = frontier.take(most, now)
            assert len(entries) <= most
            for entry in entries:
                assert entry.url in known
                assert entry.url not in [one.url for one in out]
                assert entry.url not in settled
                assert away.get(entry.host, 0) <= now
                out.append(entry)
            assert all(count <= per_host for count in Counter(entry.host for entry in out).values())
            assert max_pages is None or len(out) + len(settled) <= max_pages

        def settle(entry, error=None, links=()):
            out.remove(entry)
            away.pop(entry.host, None)
            settled.append(entry.url)
            frontier.settle([Outcome(entry, error, (), found(*links))])
            known.update(links)

        for what, host, number in actions:
            url = f"http://h{host}/{number}"
            if what == "add":
                known.add(url)
                frontier.add(addresses(url))
            elif what == "take":
                take(number)
            elif what == "time":
                now += number
            elif out:
                entry = out[number % len(out)]
                if what == "put back":
                    out.remove(entry)
                    frontier.put_back(entry, now + host)
                    away[entry.host] = max(away.get(entry.host, 0), now + host)
                else:
                    settle(entry, "Error: x" if what == "fail" else None, [url] if what == "settle" else [])
        while not frontier.exhausted():
            now += 100
            take(3)
            for entry in out[:]:
                settle(entry)
        assert sorted(settled) == sorted(set(settled))
        assert len(settled) == min(len(known), len(known) if max_pages is None else max_pages)
        assert (frontier.counts.waiting, frontier.out) == (len(known) - len(settled), 0)


@given(
    st.lists(st.integers(1, 200), min_size=2, max_size=8), st.integers(1, 5), st.integers(1, 9), st.randoms()
)
def test_hosts_take_turns(pages, per_host, most, chance):
    """Between two pages of a host each other that has pages waiting, and may have one more out, has one handed out."""
    with closing(connect("", write=True)) as connection:
        frontier = Frontier(connection, per_host=per_host)
        for host, count in enumerate(pages):
            frontier.add(addresses(*(f"http://h{host}/{n}" for n in range(count))))
        left = Counter({f"http://h{host}": count for host, count in enumerate(pages)})
        out, passed, waited = [], Counter(), Counter()
        while not frontier.exhausted():
            for entry in frontier.take(most, 1.0):
                host = host_of(entry.url)
                out.append(entry)
                left[host] -= 1
                waited[host] = 0
                at_most = Counter(host_of(one.url) for one in out)
                for other in left:
                    if other != host and left[other] and at_most[other] < per_host:
                        waited[other] += 1
                        assert waited[other] < len(pages)
                passed[host] += 1
            for entry in [one for one in out if chance.random() < 0.7] or out[:1]:
                out.remove(entry)
                frontier.settle([Outcome(entry)])
        assert passed == Counter({f"http://h{host}": count for host, count in enumerate(pages)})


def test_a_host_that_waits_takes_no_place(connection):
    """While it is away the others have all turns; then it goes on with the page that was put back."""
    frontier = Frontier(connection, per_host=2)
    frontier.add(addresses("http://slow/1", "http://fast/1", "http://slow/2", "http://fast/2"))
    [slow, fast] = frontier.take(2, 1.0)
    frontier.put_back(slow, 31.0)
    assert [entry.url for entry in frontier.take(9, 2.0)] == ["http://fast/2"]
    assert frontier.due() == 31.0
    assert not frontier.exhausted()
    frontier.settle([Outcome(fast)])
    assert [entry.url for entry in frontier.take(9, 31.0)] == ["http://slow/1", "http://slow/2"]


def test_what_is_settled_of_a_host_that_waits_lets_it_be_asked_again(connection):
    """Its pause was a guess; by now more is known."""
    frontier = Frontier(connection, per_host=2)
    frontier.add(addresses("http://a/1", "http://a/2"))
    first, second = frontier.take(2, 1.0)
    frontier.put_back(second, 99.0)
    assert frontier.take(9, 2.0) == []
    frontier.settle([Outcome(first)])
    assert frontier.take(9, 3.0) == [second]


def test_addresses_that_mean_the_same_are_one_page(connection):
    """It is asked as it was first written."""
    frontier = Frontier(connection, per_host=9)
    frontier.add(addresses("http://A/x?b=1&a=2#top", "http://a:80/x?a=2&b=1"))
    frontier.add(addresses("http://a/x?a=2&b=1"))
    assert [entry.url for entry in frontier.take(9, 1.0)] == ["http://a/x?b=1&a=2"]


# Traps


@pytest.mark.parametrize(
    ("url", "pattern"),
    [
        ("http://a/calendar/2026/11/25", "http://a/calendar/*/*/*"),
        ("http://a/x;jsessionid=0A1B2C3D", "http://a/x;jsessionid=*"),
        ("http://a/x?sid=abc&page=2", "http://a/x?sid=*&page=*"),
        ("http://a/wiki/Parallel_computing", "http://a/wiki/Parallel_computing"),
        ("http://a/v2.1/item-17.html", "http://a/*.*/item-*.html"),
        ("http://a/x/y/x/y/x/y", "http://a/(x|y)..."),
        ("http://a/x?a=1=2&b=c/d_e5", "http://a/x?a=*&b=*/d_*"),
        ("http://a:8080/", "http://a:8080/"),
    ],
)
def test_patterns(url, pattern):
    """What varies without an end is left out."""
    assert pattern_of(url) == pattern


@pytest.mark.timeout(30)
def test_patterns_of_what_is_long():
    """They take no more than a look at each character."""
    for url in (
        "http://a/" + "a" * 200_000,
        "http://a/?a=" + "a" * 200_000,
        "http://a/" + "/".join(map(str, range(40_000))),
    ):
        assert pattern_of(url).startswith("http://a/")


def test_a_trap_has_an_end(connection):
    """Links of one pattern are taken up to a number; others, start addresses and sitemaps' are not held back by it."""
    frontier = Frontier(connection, per_host=999, max_per_pattern=10)
    frontier.add(addresses(*(f"http://a/day/{n}" for n in range(12))))
    frontier.add(addresses(*(f"http://a/day/{n}" for n in range(100)), depth=1))
    frontier.add(addresses("http://a/about", *(f"http://a/x?s={n}" for n in range(10)), depth=2))
    assert len(frontier.take(999, 1.0)) == 12 + 10 + 1 + 10
    assert frontier.counts.refused == 78
    assert list(traps(connection)) == [("http://a/day/*", 78)]


def test_a_crawl_that_goes_on_counts_on(connection):
    """What an earlier run took of a pattern counts."""
    Frontier(connection, per_host=9, max_per_pattern=5).add(
        addresses(*(f"http://a/{n}" for n in range(4)), depth=1)
    )
    again = Frontier(connection, per_host=9, max_per_pattern=5)
    again.add(addresses(*(f"http://a/{n}" for n in range(9)), depth=1))
    assert (again.counts.waiting, again.counts.refused) == (5, 4)


def test_sitemaps_are_pages_of_their_own_depth(connection):
    """What they list is as near as a start address; more sitemaps are sitemaps again."""
    frontier = Frontier(connection, per_host=9)
    frontier.add(addresses("http://a/"))
    [start] = frontier.take(9, 1.0)
    frontier.settle([Outcome(start, sitemaps=found("http://a/sitemap.xml"))])
    [sitemap] = frontier.take(9, 1.0)
    assert sitemap.depth == SITEMAP
    frontier.settle([Outcome(sitemap, links=found("http://a/x"), sitemaps=found("http://a/2.xml"))])
    assert {(entry.url, entry.depth) for entry in frontier.take(9, 1.0)} == {
        ("http://a/x", 0), ("http://a/2.xml", SITEMAP),
    }  # fmt: skip


# Memory

MILLIONS = """
import sys
from asyncpar_scrape import memory
from asyncpar_scrape.addresses import number_of
from asyncpar_scrape.database import connect
from asyncpar_scrape.frontier import Frontier
connection = connect(sys.argv[1], write=True)
frontier = Frontier(connection, per_host=4, max_per_pattern=None)
count, step = int(sys.argv[2]), 50_000
for at in range(0, count, step):
    connection.execute("BEGIN")
    # Each is found twice: at once, and when what was found lately has been forgotten.
    for first in (at, max(0, at - 500_000)):
        urls = [f"http://h{n % 1000}.test/page/{n}" for n in range(first, first + step)]
        frontier.add(({number_of(url): url for url in urls}, 1))
    connection.execute("COMMIT")
print(frontier.counts.waiting, memory.peak() // 1_000_000)
"""


@pytest.mark.timeout(900)
def test_memory_does_not_grow_with_the_addresses(tmp_path):
    """The peak is about the same for some addresses and for many more: 500,000, in `make integration` two million, or
    ASYNCPAR_ADDRESSES, of which 10,000,000 take some minutes.
    """
    most = int(
        os.environ.get("ASYNCPAR_ADDRESSES") or (2_000_000 if "ASYNCPAR_KILLS" in os.environ else 500_000)
    )
    peaks = []
    for count in (most // 10, most):
        command = [sys.executable, "-c", MILLIONS, str(tmp_path / f"{count}"), str(count)]
        done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True)
        waiting, peak = map(int, done.stdout.split())
        assert waiting == count
        peaks.append(peak)
    print(f"peak memory: {peaks[0]} MB for {most // 10:,} addresses, {peaks[1]} MB for {most:,}")
    assert peaks[1] < 100


# When a host will be asked


def test_what_is_expected_of_a_host():
    """By its delay, its pause, its answers so far, and those who came before."""
    hosts = Hosts(4, 0.5)
    assert hosts.expect("a", 0, 0) == 0
    assert hosts.expect("a", 2, 0) == 1  # nothing is known, and a guess is a second at most
    hosts.start("a", 0)
    assert hosts.expect("a", 1, 0) == 1  # it is out
    hosts.finish("a", 0.1, seconds=0.1)
    assert hosts.expect("a", 0, 0.1) == pytest.approx(0.4)
    assert hosts.expect("a", 1, 0.1) == pytest.approx(0.4 + 0.5)
    hosts.slow_down("a", 30, 0.1)
    assert hosts.expect("a", 1, 0.1) == pytest.approx(29.9 + 1)


@given(st.integers(1, 4), st.floats(0, 2), st.integers(0, 9), st.floats(0, 9))
def test_who_may_be_asked_now_is_expected_at_once(per_host, delay, coming, now):
    """``expect`` and ``wait`` agree where nobody comes before."""
    hosts = Hosts(per_host, delay)
    hosts.start("a", 0)
    hosts.finish("a", 0.1, seconds=0.1)
    assert (hosts.expect("a", 0, now) <= 0) == (hosts.wait("a", now) == 0)
    assert hosts.expect("a", coming, now) >= hosts.expect("a", 0, now)
