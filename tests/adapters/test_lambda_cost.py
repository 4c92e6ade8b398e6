"""Dollars and plans: arithmetic, checked by hand."""

from __future__ import annotations

import math
from operator import length_hint

import pytest

pytest.importorskip("msgpack", reason="needs the extra 'lambda'")

from asyncpar_lambda.cost import Budget, CostError, Meter, Tariff, billed_seconds, make_plan, ramped

ARM = Tariff(1769, "arm64")


def test_ten_thousand_times_ten_seconds_cost_what_aws_says():
    assert ARM.dollars(100_000, 10_000) == pytest.approx(2.31, abs=0.01)
    assert Tariff(1769, "x86_64").dollars(100_000, 10_000) == pytest.approx(2.88, abs=0.01)


def test_a_meter_adds_up():
    meter = Meter(ARM)
    meter.add(1.5)
    meter.add(0.25)
    assert (meter.invocations, meter.seconds) == (2, 1.75)
    assert meter.dollars == ARM.dollars(1.75, 2)


def test_what_is_billed_is_read_from_the_log():
    log = b"END RequestId: 1\nREPORT RequestId: 1\tDuration: 12.3 ms\tBilled Duration: 213 ms\tMemory Size: 128 MB\n"
    assert billed_seconds(log, 0.0123) == 0.213
    assert billed_seconds(b"", 0.0123) == 0.013


def plan(calls, seconds, **changes):
    options = {"limit": 1000, "chunk_seconds": 1.5, "overhead": 0.02, **changes}
    return make_plan(calls, seconds, ARM, **options)


def test_a_plan_of_long_calls_has_one_in_each_invocation():
    made = plan(10_000, 10.0)
    assert (made.invocations, made.concurrency, made.assumed) == (10_000, 1000, False)
    assert made.seconds == pytest.approx(100.6, abs=0.1)
    assert made.dollars == pytest.approx(2.33, abs=0.02)


def test_a_plan_of_short_calls_puts_them_together():
    made = plan(1_000_000, 0.01)
    assert made.invocations == 6667
    assert made.dollars == pytest.approx(0.25, abs=0.02)


def test_few_calls_are_spread_rather_than_put_together():
    assert plan(100, 0.01).invocations == 100


def test_a_plan_says_what_it_guesses():
    made = plan(1000, None)
    assert made.assumed
    assert made.call_seconds == 1.0
    assert str(made) == (
        "1,000 calls of 1 s (a guess: pass seconds=, or run a few first) in 1,000 invocations, at most 1,000 at a "
        "time: about 1.42 s and $0.03"
    )


def test_nothing_costs_nothing():
    assert (plan(0, 1.0).dollars, plan(0, 1.0).seconds, plan(0, 1.0).invocations) == (0.0, 0.0, 0)


def test_the_ramp_is_lambdas():
    assert ramped(500.0, 1000) == 0.5
    # 1,000 at once and 100 a second more, up to 2,000: 15,000 seconds of work in 10 seconds.
    assert ramped(15_000, 2000) == pytest.approx(10.0)
    assert ramped(25_000, 2000) == pytest.approx(15.0)
    assert ramped(1050, 2000) == pytest.approx(1.0, abs=0.01)
    assert ramped(0, 2000) == 0


def spent(dollars):
    meter = Meter(ARM)
    meter.seconds = dollars / ARM.dollars(1.0, 0)
    return meter


def test_a_budget_counts_what_runs_at_what_calls_have_cost():
    meter = spent(0.0)
    budget = Budget(1.0, meter, expected=0.0)
    [source] = budget.limits([range(100)])
    assert length_hint(source) == 100
    items = iter(source)
    read = [next(items) for _ in range(5)]  # nothing is known yet
    meter.seconds = spent(0.5).seconds
    budget.ended = 5  # each cost 10 cents
    with pytest.raises(CostError) as caught:
        while True:
            read.append(next(items))
    assert read == list(range(10))
    error = caught.value
    assert (error.done, error.left, error.max_cost) == (10, 90, 1.0)
    assert math.isclose(error.spent, 0.5)
    assert str(error) == (
        "max_cost=$1.00 is reached: 10 calls ran for $0.5000, 90 items were not started; map(function, *error.rest, "
        "max_cost=...) goes on with them"
    )
    assert [list(rest) for rest in error.rest] == [list(range(10, 100))]


def limited(*sources, affords=3, max_cost=1.0):
    """Sources of a map that may run so many calls."""
    return Budget(max_cost, spent(0.0), expected=max_cost / (affords + 0.5)).limits(sources)


def test_a_budget_uses_what_is_known_of_a_function_and_loses_nothing_of_a_generator():
    [source] = limited(n for n in range(100))
    with pytest.raises(CostError, match=r"3 calls ran .*the rest of its items were not started") as caught:
        list(source)
    [rest] = caught.value.rest
    assert list(rest) == list(range(3, 100))  # what was read to see whether there is more is among them


def test_what_is_read_beside_is_not_lost_either():
    letters, numbers = (chr(97 + n) for n in range(10)), iter(range(10, 20))
    with pytest.raises(CostError) as caught:
        list(zip(*limited(letters, numbers), strict=False))
    assert caught.value.left is None
    assert list(zip(*caught.value.rest, strict=True))[:2] == [("d", 13), ("e", 14)]


def test_the_end_of_the_source_comes_before_the_end_of_the_money():
    assert [list(one) for one in limited([1, 2], affords=2)] == [[1, 2]]


@pytest.mark.parametrize("affords", [10, 2], ids=["left early", "at the end of the money"])
def test_a_generator_is_closed_with_its_map_unless_it_goes_on(affords):
    closed = []

    def numbers():
        try:
            yield from range(100)
        finally:
            closed.append(True)

    source = iter(limited(numbers(), affords=affords)[0])
    try:
        read = [next(source) for _ in range(3)]
    except CostError as error:
        [rest] = error.rest
        source.close()
        assert not closed
        assert next(rest) == 2
    else:
        source.close()
        assert (read, closed) == ([0, 1, 2], [True])


async def numbers(closed):
    try:
        for n in range(100):
            yield n
    finally:
        closed.append(True)


async def test_an_async_source_is_limited_and_loses_nothing():
    closed, read = [], []
    [source] = limited(numbers(closed), affords=2)
    with pytest.raises(CostError) as caught:
        async for n in source:
            read.append(n)
    [rest] = caught.value.rest
    assert (read, closed) == ([0, 1], [])
    assert [n async for n in rest] == list(range(2, 100))


async def test_an_async_source_is_closed_with_its_map():
    closed = []
    source = aiter(limited(numbers(closed))[0])
    assert await anext(source) == 0
    await source.aclose()
    assert closed == [True]
