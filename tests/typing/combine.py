"""The types of gather, as_completed and first, for mypy and pyright: this file is checked and never run."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_type

from asyncpar.combine import as_completed, first, gather
from asyncpar.limits import Limiter, LimiterStatistics, RateLimiter, RateLimiterStatistics

if TYPE_CHECKING:
    import asyncio


async def number() -> int:
    return 1


async def text() -> str:
    return ""


async def tuples_up_to_six(task: asyncio.Task[bytes], future: asyncio.Future[float]) -> None:
    assert_type(await gather(number()), tuple[int])
    assert_type(await gather(number(), text()), tuple[int, str])
    assert_type(await gather(number(), text(), task), tuple[int, str, bytes])
    assert_type(await gather(number(), text(), task, future), tuple[int, str, bytes, float])
    assert_type(await gather(number(), text(), task, future, text()), tuple[int, str, bytes, float, str])
    assert_type(
        await gather(number(), text(), task, future, text(), number(), limit=2),
        tuple[int, str, bytes, float, str, int],
    )


async def lists_beyond() -> None:
    assert_type(await gather(*[number()]), list[int])
    assert_type(await gather(*[text()], limit=Limiter(3), return_exceptions=False), list[str])
    assert_type(await gather(*[number()], return_exceptions=True), list[int | BaseException])


async def failures_as_results(flag: bool) -> None:
    assert_type(await gather(number(), return_exceptions=True), tuple[int | BaseException])
    assert_type(
        await gather(number(), text(), limit=1, return_exceptions=flag),
        tuple[int | BaseException, str | BaseException],
    )


async def one_after_the_other() -> None:
    assert_type(await first(number(), number()), int)
    async with as_completed(*[text()], limit=2) as texts:
        async for each in texts:
            assert_type(each, str)


async def limits() -> None:
    async with Limiter(2) as limiter:
        assert_type(limiter, Limiter)
    assert_type(limiter.acquire_nowait(), bool)
    assert_type(limiter.statistics(), LimiterStatistics)
    assert_type(RateLimiter(3, per=1).delay(), float)
    assert_type(RateLimiter(3, per=0.5).statistics(), RateLimiterStatistics)


async def mistakes() -> None:
    await gather(1)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    await gather(number(), limit="2")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    await first(number)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
