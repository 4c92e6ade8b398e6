"""Politeness without I/O, pages and addresses: what must hold for whatever comes."""

from __future__ import annotations

import asyncio
import os
import pickle
import random
import subprocess
import sys
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

import asyncpar
import asyncpar_scrape
from asyncpar_scrape import Hosts, Page
from asyncpar_scrape.addresses import canonical, is_public
from asyncpar_scrape.turns import Turns

STEPS = st.lists(
    st.tuples(st.sampled_from(["start", "good", "slow", "bad", "pause"]), st.integers(0, 2), st.floats(0, 3)),
    max_size=60,
)


@given(STEPS, st.integers(1, 4), st.floats(0, 2), st.integers(0, 99))
def test_hosts_are_never_pressed(steps, per_host, delay, seed):
    """Never more requests than may be, never sooner than the delay or a pause, and always again some time."""
    hosts = Hosts(per_host, delay, jitter=random.Random(seed))
    now, out, began, free = 0.0, [0] * 3, [-inf] * 3, [-inf] * 3
    for what, host, seconds in steps:
        now += seconds
        wait = hosts.wait(str(host), now)
        if what == "start":
            if wait == 0:
                assert out[host] < per_host
                assert now >= began[host] + delay - 1e-9
                assert now >= free[host] - 1e-9
                hosts.start(str(host), now)
                out[host] += 1
                began[host] = now
            continue
        if out[host]:
            out[host] -= 1
            pause = 50.0 if what == "pause" else 0.0
            free[host] = max(free[host], now + pause)
            hosts.finish(str(host), now, seconds={"good": 0.1, "slow": 9.0}.get(what), retry_after=pause)
    for host in range(3):
        assert (hosts.wait(str(host), now) == inf) <= (out[host] > 0)
        for _ in range(out[host]):
            hosts.release(str(host))
        assert hosts.wait(str(host), now) < inf


def test_room_grows_and_shrinks():
    """Good answers let more requests run at once; a failure halves that."""
    hosts = Hosts(4, 0)
    for _ in range(20):
        hosts.start("a", 0)
        hosts.finish("a", 0, seconds=0.1)

    def room():
        began = 0
        while hosts.wait("a", 1000) == 0:
            hosts.start("a", 1000)
            began += 1
        for _ in range(began):
            hosts.release("a")
        return began

    assert room() == 4
    hosts.start("a", 1000)
    hosts.finish("a", 1000)
    assert hosts.wait("a", 1000) <= 1.0  # full jitter, after one failure
    hosts._hosts["a"].free_at = 0
    assert room() == 2


def test_crawl_delay():
    """A site's own delay counts from the last request on, if it is longer than ours."""
    hosts = Hosts(4, 1.0)
    hosts.start("a", 10)
    hosts.slow_down("a", 5.0, 10)
    hosts.finish("a", 10, seconds=0.1)
    assert hosts.wait("a", 10) == 5
    hosts.slow_down("a", 5.0, 10)
    assert hosts.wait("a", 10) == 5
    assert hosts.wait("a", 15) == 0


def test_idle_hosts_are_forgotten(monkeypatch):
    """Memory holds so many hosts, and those that must not be asked yet."""
    monkeypatch.setattr("asyncpar_scrape.hosts.KNOWN_HOSTS", 10)
    hosts = Hosts(1, 0)
    hosts.start("busy", 0)
    for n in range(100):
        hosts.start(str(n), 0)
        hosts.finish(str(n), 0, seconds=0.1)
    assert len(hosts._hosts) <= 11
    assert hosts.wait("busy", 0) == inf


@pytest.mark.parametrize(("per_host", "delay"), [(0, 1), (1, -1), (1, inf), (1, float("nan"))])
def test_bad_limits(per_host, delay):
    """They are refused where they are given."""
    with pytest.raises(ValueError, match=r"must be"):
        Hosts(per_host, delay)


# Addresses


@given(st.text("abAB%2/?&=;:@.#[] é\n", max_size=30))
def test_canonical_is_idempotent(rest):
    """The canonical form of a canonical address is itself."""
    try:
        once = canonical("http://Host" + rest)
    except ValueError:
        return
    assert canonical(once) == once


@pytest.mark.parametrize(
    ("url", "same"),
    [
        ("HTTP://A.test:80", "http://a.test/"),
        ("https://a.test:443/x#y", "https://a.test/x"),
        ("http://a.test/?b=1&a=2", "http://a.test/?a=2&b=1"),
        ("http://[2001:DB8::1]:80/", "http://[2001:db8::1]/"),
        ("http://a.test/é", "http://a.test/%C3%A9"),
    ],
)
def test_canonical(url, same):
    """Addresses that mean the same are the same."""
    assert canonical(url) == same


@pytest.mark.parametrize(
    "url", ["", "/a", "mailto:a@b", "file:///etc/passwd", "http://", "http://a:x/", "http://[::1"]
)
def test_no_address(url):
    """What is not HTTP is refused."""
    with pytest.raises(ValueError, match=r"."):
        canonical(url)


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.215.14", True), ("2606:2800:21f:cb07:6820:80da:af6b:8b2c", True),
        ("127.0.0.1", False), ("0.0.0.0", False), ("10.1.2.3", False), ("192.168.0.1", False),
        ("169.254.169.254", False), ("100.64.0.1", False), ("224.0.0.1", False), ("255.255.255.255", False),
        ("::1", False), ("::", False), ("fe80::1%eth0", False), ("fc00::1", False), ("ff02::1", False),
        ("::ffff:127.0.0.1", False), ("64:ff9b::7f00:1", False), ("2002:7f00:1::", False),
        ("fec0::1", False), ("::7f00:1", False), ("64:ff9b:1::a00:1", False), ("192.0.0.8", False),
    ],
)  # fmt: skip
def test_is_public(address, public):
    """Also for IPv6 addresses that carry one of IPv4."""
    assert is_public(address) is public


# Pages


def page(body=b"", kind="text/html", url="http://a.test/x/y"):
    return Page(url, url, 200, {"content-type": kind}, body)


META = '<meta charset="{}">'


@pytest.mark.parametrize(
    ("kind", "encoded", "text"),
    [
        ("text/html; charset=gb18030", "中文", "gb18030"),
        ("text/html; charset=GB2312", "镕", "gbk"),
        ("text/html; charset=windows-1251", "Привет", "cp1251"),
        ("text/html", META.format("windows-1251") + "Привет", "cp1251"),
        ("text/html", META.format("gb18030") + "中文", "gb18030"),
        ("text/html; charset=iso-8859-1", "“”", "cp1252"),
        ("text/html", "Grüße, 中文", "utf-8"),
        ("text/html", "Grüße", "cp1252"),
        ("text/html; charset=latin1", "Grüße", "utf-8-sig"),
        ("text/html; charset=no-such-one", "Grüße", "utf-8"),
        ("text/html; charset=utf-8", META.format("windows-1251") + "é", "utf-8"),
    ],
)
def test_charset(kind, encoded, text):
    """As browsers find it: a byte order mark, the header, the meta element, else UTF-8 or windows-1252."""
    assert page(encoded.encode(text), kind).text == encoded


def test_links():
    """Absolute, once each, of the same site unless all are wanted, with the document's base."""
    html = b"""<base href="/b/"><a href=c>1</a><a href="c#f">2</a><a href="http://a.test:80/b/c">3</a>
        <a href="mailto:x@y">4</a><a href="https://other.test/">5</a><a href="http://[bad">6</a><a>7</a>"""
    assert list(page(html).follow_links()) == ["http://a.test/b/c"]
    assert list(page(html).follow_links(same_site=False)) == ["http://a.test/b/c", "https://other.test/"]


def test_css_and_xpath():
    """Both are there."""
    one = page(b"<ul><li class=x>a<li>b</ul>")
    assert one.css("li.x::text").get() == "a"
    assert one.xpath("//li/text()").getall() == ["a", "b"]


def test_a_body_is_pickled_out_of_band():
    """The pickle holds no copy of it; without protocol 5 it does."""
    body = b"x" * 100_000
    buffers = []
    data = pickle.dumps(page(body), 5, buffer_callback=buffers.append)
    assert len(data) < 1000
    assert pickle.loads(data, buffers=buffers).body == body
    assert pickle.loads(pickle.dumps(page(body), 4)).body == body


def title(page):
    """What a worker sees of a page."""
    return type(page.body).__name__, page.css("title::text").get(), len(page.body)


async def test_a_page_in_a_worker():
    """A large body arrives as a view, and is read as any other."""
    body = "<title>ü</title>".encode() + b" " * 200_000
    async with asyncpar.ProcessPool(1) as pool:
        assert await pool.run(title, page(body)) == ("memoryview", "ü", len(body))


def test_a_worker_imports_no_client():
    """What reads pages does without aiohttp, the store and the loop; a job's file that makes a crawler, without aiohttp."""
    program = (
        "import sys, asyncpar_scrape.page, asyncpar_scrape.parsing\n"
        "print({*sys.modules} & {'aiohttp', 'sqlite3', 'asyncio'})\n"
        "asyncpar_scrape.Crawler(print, user_agent='test/1.0 (me@example.org)')\n"
        "print({*sys.modules} & {'aiohttp', 'rich', 'protego'})"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "set()\nset()\n", done.stderr


def test_every_name_is_there():
    """The package's names are found where they say."""
    assert {
        name for name in asyncpar_scrape.__all__ if getattr(asyncpar_scrape, name).__name__ == name
    } == set(asyncpar_scrape.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Fecher'"):
        asyncpar_scrape.Fecher  # noqa: B018 - the access is the test


@pytest.mark.parametrize(("seconds", "at_once"), [(0.05, 4), (0.5, 2)])
def test_slow_is_what_takes_over_a_tenth_of_a_second(seconds, at_once):
    """Fifty times the usual is nothing where that is a thousandth: a busy loop adds as much."""
    hosts = Hosts(per_host=4, delay=0)
    for answer in [0.001] * 20 + [seconds]:
        hosts.start("a", 0)
        hosts.finish("a", 0, seconds=answer)
    begun = 0
    while not hosts.wait("a", 0):
        hosts.start("a", 0)
        begun += 1
    assert begun == at_once


# Turns


async def test_nobody_overtakes_who_waits():
    """Who comes when a place is free, and belongs to the next in line, goes to the end of it."""
    turns, order = Turns(Hosts(per_host=1, delay=0), most=9, patience=1.0), []

    async def ask(name, then=()):
        await turns.begin("a")
        order.append(name)
        turns.end("a", failed=False, seconds=0.01)
        for follower in then:  # at once: the next in line has not been woken yet
            await ask(follower)

    await turns.begin("a")
    asking = [asyncio.create_task(ask("first", ["third"]))]
    await asyncio.sleep(0)
    asking.append(asyncio.create_task(ask("second")))
    await asyncio.sleep(0)
    turns.end("a", failed=False, seconds=0.01)
    await asyncio.gather(*asking)
    assert order == ["first", "second", "third"]
