"""Bytes in flight: the bound holds whatever happens, and everybody comes to an end."""

from __future__ import annotations

import asyncio
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

import asyncpar
from asyncpar_scrape.clocks import stopped
from asyncpar_scrape.inflight import BytesInFlight
from tests.adapters.scrape_faults import Faults
from tests.adapters.test_scrape_fetch import fetcher

PART = 10

bodies = st.lists(st.lists(st.integers(1, PART), max_size=12), min_size=1, max_size=12)
"""The parts of the bodies of some requests."""


@given(
    most=st.integers(1, 60), bodies=bodies, keeps=st.booleans(), cancels=st.floats(0, 0.5), seed=st.integers()
)
def test_the_bound_holds_and_all_end(most, bodies, keeps, cancels, seed):
    """Requests that read, keep what they read for a while, fail and are cancelled at any moment: no more than the
    bound and one body is ever held, nobody waits for ever, and all is given back.
    """
    draw = random.Random(seed)
    flight = BytesInFlight(most)
    largest = max(map(sum, bodies))

    async def pause():
        for _ in range(draw.randrange(3)):
            await asyncio.sleep(0)

    async def read(parts):
        with flight.share() as share:
            for n in parts:
                if not share.add_nowait(n):
                    await share.add(n)
                assert flight.held <= most + largest
                await pause()
                if draw.random() < 0.05:
                    share.clear()
            size = share.held
        if keeps:
            flight.keep(size)
            assert flight.held <= most + largest
            try:
                await pause()
            finally:
                flight.drop(size)

    async def cancel(tasks):
        while not all(task.done() for task in tasks):
            if draw.random() < cancels:
                draw.choice(tasks).cancel()
            await asyncio.sleep(0)

    async def main():
        tasks = [asyncio.create_task(read(parts)) for parts in bodies]
        async with asyncio.timeout(20):
            await cancel(tasks)
            for result in await asyncio.gather(*tasks, return_exceptions=True):
                assert result is None or isinstance(result, asyncio.CancelledError), result
        await asyncio.sleep(0)
        assert (flight.held, flight.waiting) == (0, 0)

    asyncio.run(main())


async def test_the_oldest_goes_on():
    """Two that fill the bound and want more: the older is let through, the other waits for its end."""
    flight = BytesInFlight(100)
    with flight.share() as old, flight.share() as new:
        assert old.add_nowait(50)
        assert new.add_nowait(50)
        waiting = asyncio.create_task(new.add(30))
        await asyncio.sleep(0)
        assert old.add_nowait(70)
        assert (flight.held, flight.waiting) == (170, 1)
        old.clear()
        await waiting
        assert (flight.held, new.held) == (80, 80)


async def test_what_is_kept_is_waited_for():
    """The oldest waits, too, while bytes are kept that will be dropped without it; ``drop`` wakes it."""
    flight = BytesInFlight(100)
    flight.keep(90)
    with flight.share() as share:
        waiting = asyncio.create_task(share.add(20))
        await asyncio.sleep(0)
        assert flight.waiting == 1
        flight.drop(90)
        await waiting
        assert flight.held == 20
    assert flight.held == 0


async def test_who_waits_is_not_overtaken():
    """A small part waits behind a large one that came before."""
    flight = BytesInFlight(100)
    with flight.share() as first, flight.share() as second, flight.share() as third:
        assert first.add_nowait(80)
        large = asyncio.create_task(second.add(50))
        await asyncio.sleep(0)
        assert not third.add_nowait(10)
        large.cancel()
        await asyncio.gather(large, return_exceptions=True)
        assert third.add_nowait(10)


def test_mistakes():
    """They say what to do."""
    with pytest.raises(ValueError, match=r"bytes_in_flight must be at least 1, not 0"):
        BytesInFlight(0)
    flight = BytesInFlight(10)
    flight.keep(3)
    with pytest.raises(RuntimeError, match=r"drop\(4\) with 3 bytes kept: drop once what was kept once"):
        flight.drop(4)


# In a fetcher


async def test_a_fetcher_stays_within():
    """Many large bodies at once: all come, and at no time are more bytes held."""
    held = []

    class Watched(BytesInFlight):
        def _add(self, share, n):
            added = super()._add(share, n)
            held.append(self.held)
            return added

    async with Faults() as site, fetcher(per_host=8) as fetch:
        fetch._in_flight = Watched(300_000)
        urls = [site.url("/large", f"h{n}.test") for n in range(20)]
        pages = await asyncpar.map(fetch, urls, limit=20)
        assert [len(page.body) for page in pages] == [200_001] * 20
        assert 200_001 < max(held) <= 300_000 + 200_001
        assert fetch.in_flight.held == 0


async def test_waiting_costs_no_time():
    """While a request waits for room its time limit stands still; what was left before is left then."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(100) as limit:
        due = limit.when()
        with stopped(limit):
            assert limit.when() is None
            await asyncio.sleep(0.01)
        assert due < limit.when() <= due + loop.time()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0) as limit:
            try:
                await asyncio.sleep(1)
            finally:
                with stopped(limit):  # it is over: there is nothing to stop
                    await asyncio.sleep(0)


async def test_a_request_that_waits_for_room():
    """It reads nothing, its sender waits, and it goes on when room is made; errors and cancelling leave nothing."""
    async with Faults() as site, fetcher(bytes_in_flight=100_000) as fetch:
        fetch.in_flight.keep(90_000)
        page = asyncio.create_task(fetch(site.url("/large")))
        while not fetch.in_flight.waiting:
            await asyncio.sleep(0.01)
        given_up = asyncio.create_task(fetch(site.url("/large", "other.test")))
        while fetch.in_flight.waiting < 2:
            await asyncio.sleep(0.01)
        given_up.cancel()
        await asyncio.gather(given_up, return_exceptions=True)
        assert fetch.in_flight.waiting == 1
        fetch.in_flight.drop(90_000)
        assert len((await page).body) == 200_001
        assert (fetch.in_flight.held, fetch.in_flight.waiting) == (0, 0)
