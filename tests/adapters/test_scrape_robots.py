"""robots.txt: hostile files are bounded, odd ones are read."""

from __future__ import annotations

import pytest

from asyncpar_scrape import failures
from asyncpar_scrape.robotsfile import CostlyError, parse
from tests.adapters.scrape_faults import Faults, answer
from tests.adapters.test_scrape_fetch import fetcher

GROUPS = b"User-agent: *\nDisallow: /n1\n\nUser-agent: testbot\nDisallow: /n2\n"


@pytest.mark.parametrize(
    "text",
    [
        "".join(f"User-agent:a{n}\n" for n in range(1000)) + "Disallow:/a\n" * 1000,
        "User-agent: *\n" + "Disallow: /*a*b\n" * 6000,
    ],
    ids=["agents times rules", "wildcards"],
)
async def test_a_costly_file(text):
    """It is not kept, and forbids the site."""
    with pytest.raises(CostlyError, match=r"over 100,000 rules or 10,000 wildcards"):
        await parse(text.encode())
    async with Faults(answer(text.encode())) as site, fetcher(robots=True) as fetch:
        with pytest.raises(failures.RobotsError, match=r"could not be read.*100,000 rules"):
            await fetch(site.url("/n1"))


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
async def test_line_ends_and_marks(end, mark):
    """A byte order mark and other line ends change nothing; our own group counts, and not the one for all."""
    rules = await parse(mark + GROUPS.replace(b"\n", end))
    assert await rules.allow("http://a.test/n1", "testbot")
    assert not await rules.allow("http://a.test/n2", "testbot")
    assert not await rules.allow("http://a.test/n1", "other")


@pytest.mark.parametrize("delay", ["-1", "nan", "inf", "soon", ""])
async def test_a_delay_that_makes_no_sense(delay):
    """It is none."""
    assert (await parse(f"User-agent: *\nCrawl-delay: {delay}\n".encode())).delay("bot") == 0


async def test_relative_sitemaps():
    """They become absolute; what is no address is left out."""
    file = answer(b"Sitemap: /map.xml\nSitemap: file:///etc/passwd\nSitemap: http://[\n")
    async with Faults(file) as site, fetcher(robots=True) as fetch:
        assert await fetch.sitemaps(site.url("/")) == [site.url("/map.xml")]
