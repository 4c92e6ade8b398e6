"""Limiter and RateLimiter: their bounds, their order, and that no cancellation loses a token or a wake-up."""

# mypy: allow-untyped-calls, disable-error-code="var-annotated"

from __future__ import annotations

import asyncio
import contextvars
import selectors
import time
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from asyncpar.limits import Limiter, LimiterStatistics, RateLimiter, RateLimiterStatistics

pytestmark = pytest.mark.anyio

LOOP_FACTORIES = [asyncio.new_event_loop]
with suppress(ImportError):
    import uvloop

    LOOP_FACTORIES.append(uvloop.new_event_loop)


async def passes(n=5):
    for _ in range(n):
        await asyncio.sleep(0)


def waiter(limiter, name, log, n=1):
    """Start a task that acquires `n` and then logs its name."""

    async def wait():
        await limiter.acquire(n)
        log.append(name)

    return asyncio.create_task(wait())


@pytest.fixture
async def in_line():
    """Start tasks that wait, as `waiter` does; those that still wait when the test is over are cancelled."""
    tasks = []

    def start(*args):
        tasks.append(waiter(*args))
        return tasks[-1]

    yield start
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class Pump:
    """A user without a task, like a map: it takes a token for each item it has, now or when it is called."""

    def __init__(self, limiter, name, log, items=0):
        self.limiter, self.name, self.log, self.items = limiter, name, log, items
        self.calls = 0
        self.unsubscribe = limiter.subscribe(self.call)

    def call(self):
        self.calls += 1
        self.pump()

    def pump(self):
        while self.items and self.limiter.acquire_nowait():
            self.items -= 1
            self.log.append(self.name)


# Limiter


async def test_no_more_tokens_than_there_are():
    """acquire_nowait says False, and takes nothing, when there are too few."""
    limiter = Limiter(3)
    assert limiter.acquire_nowait(2)
    assert not limiter.acquire_nowait(2)
    assert limiter.acquire_nowait()
    assert not limiter.acquire_nowait()
    limiter.release(3)
    assert limiter.acquire_nowait(3)


async def test_the_block_holds_one_token():
    """And gives it back when it is left by an exception."""
    limiter = Limiter(1)
    with suppress(LookupError):
        async with limiter as same:
            assert same is limiter
            assert limiter.statistics().in_use == 1
            raise LookupError
    assert limiter.statistics().in_use == 0


async def test_statistics_and_repr(in_line):
    """They count tokens and waiting tasks."""
    limiter = Limiter(2)
    await limiter.acquire(2)
    task = in_line(limiter, "w", [])
    Pump(limiter, "p", [], items=1).pump()
    await passes()
    assert limiter.statistics() == LimiterStatistics(total=2, in_use=2, waiting=1)
    assert repr(limiter) == "<Limiter total=2 in_use=2 waiting=1>"
    with pytest.raises(AttributeError):
        limiter.statistics().total = 3  # type: ignore[misc]
    limiter.release(2)
    await task


async def test_those_who_wait_are_served_in_order(in_line):
    """A later one that would fit does not overtake one that needs more."""
    limiter, log = Limiter(3), []
    await limiter.acquire(3)
    for name, n in [("one", 1), ("three", 3), ("late", 1)]:
        in_line(limiter, name, log, n)
    await passes()
    limiter.release(2)
    await passes()
    assert log == ["one"]
    assert not limiter.acquire_nowait()  # there is one token, and it is the line's
    limiter.release(1)
    await passes()
    limiter.release(1)
    await passes()
    assert log == ["one", "three"]
    limiter.release(3)
    await passes()
    assert log == ["one", "three", "late"]


async def test_when_one_gives_up_those_behind_may_fit(in_line):
    """Nobody waits for somebody who has gone."""
    limiter, log = Limiter(3), []
    await limiter.acquire(2)
    big = in_line(limiter, "big", log, 3)
    in_line(limiter, "small", log)
    await passes()
    assert log == []
    big.cancel()
    await passes()
    assert log == ["small"]


async def test_a_token_granted_to_a_cancelled_task_goes_to_the_next(in_line):
    """The cancellation comes after the grant and before the task runs."""
    limiter, log = Limiter(1), []
    await limiter.acquire()
    one, _two = in_line(limiter, "one", log), in_line(limiter, "two", log)
    await passes()
    limiter.release()
    # Runs right after the deal in which `one` is granted its token.
    asyncio.get_running_loop().call_soon(one.cancel)
    await passes()
    assert one.cancelled()
    assert log == ["two"]
    assert limiter.statistics() == LimiterStatistics(total=1, in_use=1, waiting=0)


async def test_a_task_cancelled_before_its_grant_takes_nothing(in_line):
    """The cancellation comes after the release and before the deal."""
    limiter, log = Limiter(1), []
    await limiter.acquire()
    one, _two = in_line(limiter, "one", log), in_line(limiter, "two", log)
    await passes()
    limiter.release()
    one.cancel()
    await passes()
    assert log == ["two"]
    assert limiter.statistics().in_use == 1


async def test_many_give_up_in_any_order(in_line):
    """None of them is left in line."""
    limiter = Limiter(1)
    await limiter.acquire()
    tasks = [in_line(limiter, i, []) for i in range(50)]
    await passes()
    for task in reversed(tasks):
        task.cancel()
    await asyncio.wait(tasks)
    assert limiter.statistics().waiting == 0
    limiter.release()
    assert limiter.acquire_nowait()


# Limiter: users without a task


async def test_a_subscriber_is_called_when_there_is_room_again():
    """Not before, not without having been refused, and not after it has ended its subscription."""
    limiter, log = Limiter(1), []
    pump = Pump(limiter, "p", log, items=2)
    pump.pump()
    await passes()
    assert (log, pump.calls) == (["p"], 0)
    limiter.release()
    assert log == ["p"]  # soon, not at once
    await passes()
    assert (log, pump.calls) == (["p", "p"], 1)
    limiter.release()
    await passes()
    assert pump.calls == 1
    pump.items = 2
    pump.pump()
    pump.unsubscribe()
    pump.unsubscribe()
    limiter.release()
    await passes()
    assert pump.calls == 1


async def test_a_subscriber_is_called_in_its_own_context():
    """Tasks that it starts belong to whoever subscribed, not to whoever released."""
    var, seen = contextvars.ContextVar("var", default="releaser"), []
    limiter = Limiter(1)
    assert limiter.acquire_nowait()

    async def subscribe():
        var.set("subscriber")
        limiter.subscribe(lambda: seen.append(var.get()))
        assert not limiter.acquire_nowait()

    await asyncio.create_task(subscribe())
    limiter.release()
    await passes()
    assert seen == ["subscriber"]


async def test_subscribers_take_turns():
    """Whoever releases most does not get all."""
    limiter, log = Limiter(1), []
    one, two = Pump(limiter, "one", log, 10), Pump(limiter, "two", log, 10)
    for _ in range(6):
        one.pump()
        two.pump()
        await passes()
        limiter.release()
        one.pump()  # at once, as a map does when a call has ended: refused, as `two` stands in line
    assert log == ["one", "one", "two", "one", "two", "one"]


async def test_tasks_and_subscribers_do_not_starve_each_other(in_line):
    """However many tasks stand in line, a subscriber has its turn among them, and the other way round."""
    limiter, log = Limiter(1), []
    await limiter.acquire()
    pump = Pump(limiter, "pump", log, 1_000)
    pump.pump()
    for _ in range(2):
        in_line(limiter, "task", log)
    await passes()
    for _ in range(12):
        in_line(limiter, "task", log)
        limiter.release()
        await passes()
    # The subscriber was first; then as many tasks as stood in line when its turn was over.
    assert log[:4] == ["pump", "task", "task", "task"]
    assert log.count("pump") >= 3
    assert log.count("task") >= 6


async def test_a_subscriber_that_fails_stops_nobody(in_line):
    """Its exception goes to the loop's exception handler, and the next is served."""
    limiter, log, heard = Limiter(1), [], []
    loop = asyncio.get_running_loop()
    before = loop.get_exception_handler()
    loop.set_exception_handler(lambda _, context: heard.append(context))
    await limiter.acquire()

    def fail():
        raise LookupError

    limiter.subscribe(fail)
    in_line(limiter, "next", log)
    await passes()
    limiter.release()
    await passes()
    loop.set_exception_handler(before)
    assert log == ["next"]
    assert [type(context["exception"]) for context in heard] == [LookupError]
    assert heard[0]["message"] == f"asyncpar: {fail!r}, subscribed to a limiter, failed"


async def test_a_try_for_more_than_is_free_does_not_spin():
    """It is called again when there is more, and not before."""
    limiter, calls = Limiter(3), []

    def call():
        calls.append(limiter.acquire_nowait(3))

    limiter.subscribe(call)
    await limiter.acquire(2)
    assert not limiter.acquire_nowait(3)
    await passes(20)
    assert calls == []
    limiter.release()
    await passes(20)
    assert calls == []
    limiter.release()
    await passes(20)
    assert calls == [True]


# Limiter: what is wrong


@pytest.mark.parametrize(
    ("total", "error", "message"),
    [
        (0, ValueError, "total must be at least 1, not 0"),
        (-3, ValueError, "total must be at least 1, not -3"),
        (1.5, TypeError, "total must be an int, not 1.5 (float)"),
        (True, TypeError, "total must be an int, not True (bool)"),
        (None, TypeError, "total must be an int, not None (NoneType)"),
    ],
)
def test_a_bad_total_is_named(total, error, message):
    """At construction."""
    with pytest.raises(error) as caught:
        Limiter(total)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("n", "error", "message"),
    [
        (0, ValueError, "n must be at least 1, not 0"),
        ("1", TypeError, "n must be an int, not '1' (str)"),
        (4, ValueError, "n must be at most 3, which is all there is, not 4: it would wait for ever"),
    ],
)
@pytest.mark.parametrize("limiter", [Limiter(3), RateLimiter(3, per=1)])
async def test_a_bad_n_is_named(limiter, n, error, message):
    """Instead of a wait that never ends."""
    with pytest.raises(error) as caught:
        await limiter.acquire(n)
    assert str(caught.value) == message
    with pytest.raises(error):
        limiter.acquire_nowait(n)


async def test_releasing_more_than_is_held_is_refused():
    """The bound would else be silently higher."""
    limiter = Limiter(3)
    await limiter.acquire(2)
    with pytest.raises(RuntimeError) as caught:
        limiter.release(3)
    assert str(caught.value) == "release(3) with 2 tokens in use: release once what was acquired once"
    assert limiter.statistics().in_use == 2
    with pytest.raises(ValueError, match=r"^n must be at least 1, not 0$"):
        limiter.release(0)


# One object, several loops


@pytest.mark.parametrize("loop_factory", LOOP_FACTORIES)
@pytest.mark.parametrize("make", [lambda: Limiter(1), lambda: RateLimiter(1, per=0.05)])
def test_a_limiter_outlives_a_loop(loop_factory, make):
    """A limiter of a module serves one `run` after the other, even if the first was left in the middle."""
    limiter, log = make(), []

    async def left_in_the_middle():
        await limiter.acquire()
        Pump(limiter, "gone", log, 5).pump()
        waiter(limiter, "gone", log)
        await asyncio.sleep(0)

    async def main():
        await limiter.acquire()
        log.append("here")

    loop = loop_factory()
    loop.run_until_complete(left_in_the_middle())
    tasks = asyncio.all_tasks(loop)
    if isinstance(limiter, Limiter):
        limiter.release()  # the deal that this asks for never comes
    loop.close()
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(asyncio.wait_for(main(), 50))
    assert log[-1] == "here"
    for task in tasks:
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        task.get_coro().close()


# Limiter: every order of events


class LimiterMachine(RuleBasedStateMachine):
    """Tasks and subscribers acquire, release, give up and are cancelled in every order; then all must be served."""

    @initialize(total=st.integers(1, 4))
    def make(self, total):
        self.loop = asyncio.new_event_loop()
        self.total, self.limiter = total, Limiter(total)
        self.waiting = {}  # tasks, in their order, and what they want
        self.held = []  # what was taken, one number for each release to come
        self.order, self.granted = [], []
        self.pumps = []

    def run(self, n=6):
        self.loop.run_until_complete(passes(n))
        self.waiting = {task: n for task, n in self.waiting.items() if not task.done()}

    @rule(n=st.integers(1, 4), steps=st.integers(0, 3))
    def wait(self, n, steps):
        n, index = min(n, self.total), len(self.order)
        self.order.append(index)

        async def acquire():
            await self.limiter.acquire(n)
            self.held.append(n)
            self.granted.append(index)

        self.waiting[self.loop.create_task(acquire())] = n
        self.run(steps)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data(), steps=st.integers(0, 3))
    def cancel(self, data, steps):
        data.draw(st.sampled_from(list(self.waiting))).cancel()
        self.run(steps)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), steps=st.integers(0, 3))
    def release(self, data, steps):
        self.limiter.release(self.held.pop(data.draw(st.integers(0, len(self.held) - 1))))
        self.run(steps)

    @rule(n=st.integers(1, 4))
    def grab(self, n):
        n = min(n, self.total)
        if self.limiter.acquire_nowait(n):
            self.held.append(n)

    @precondition(lambda self: len(self.pumps) < 3)
    @rule(items=st.integers(0, 5))
    def subscribe(self, items):
        async def make():
            return Pump(self.limiter, 1, self.held, items)

        pump = self.loop.run_until_complete(make())
        self.pumps.append(pump)
        pump.pump()

    @precondition(lambda self: self.pumps)
    @rule(data=st.data(), items=st.integers(1, 3))
    def more_items(self, data, items):
        pump = data.draw(st.sampled_from(self.pumps))
        pump.items += items
        pump.pump()

    @precondition(lambda self: self.pumps)
    @rule(data=st.data())
    def unsubscribe(self, data):
        pump = self.pumps.pop(data.draw(st.integers(0, len(self.pumps) - 1)))
        pump.unsubscribe()

    @invariant()
    def the_bound_holds(self):
        if hasattr(self, "limiter"):
            held, in_use = sum(self.held), self.limiter.statistics().in_use
            assert held <= in_use <= self.total

    @invariant()
    def those_who_wait_are_served_in_order(self):
        if hasattr(self, "limiter"):
            assert self.granted == sorted(self.granted)

    @rule()
    def nothing_is_idle_while_somebody_waits(self):
        self.run()
        statistics = self.limiter.statistics()
        assert statistics.in_use == sum(self.held)
        assert statistics.waiting == len(self.waiting)
        free = self.total - statistics.in_use
        if self.waiting:
            assert free < next(iter(self.waiting.values()))
        elif any(pump.items for pump in self.pumps):
            assert free == 0

    def teardown(self):
        if not hasattr(self, "limiter"):
            return
        self.serve_all()
        self.loop.close()

    def serve_all(self):
        for _ in range(1_000):
            self.run()
            if not self.held:
                break
            self.limiter.release(self.held.pop())
        assert not self.waiting
        assert not any(pump.items for pump in self.pumps)
        assert self.limiter.statistics() == LimiterStatistics(total=self.total, in_use=0, waiting=0)


TestLimiterMachine = LimiterMachine.TestCase
TestLimiterMachine.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


# RateLimiter: in virtual time


class VirtualSelector(selectors.SelectSelector):
    """Does not sleep: it moves the clock on instead."""

    now = 0.0

    def select(self, timeout=None):
        ready = super().select(0)
        if not ready:
            assert timeout is not None, "nothing will ever happen"
            self.now += timeout
        return ready


def in_virtual_time(main, *args):
    """Run `main(clock, *args)` on a loop whose clock jumps to the next timer; `clock()` reads it."""
    selector = VirtualSelector()
    loop = asyncio.SelectorEventLoop(selector)
    loop.time = lambda: selector.now  # type: ignore[method-assign]
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(main(loop.time, *args))


def assert_at_most(calls, per, starts):
    """In no window of `per` seconds are there more than `calls` starts."""
    assert starts == sorted(starts)
    for earlier, later in zip(starts, starts[calls:], strict=False):
        assert later - earlier >= per - 1e-9, (earlier, later)


def test_a_window_never_holds_more_starts_than_allowed():
    """The first go at once, the others as soon as the window lets them."""

    async def main(clock):
        rate, starts = RateLimiter(2, per=1.0, clock=clock), []
        for _ in range(5):
            await rate.acquire()
            starts.append(clock())
            await asyncio.sleep(0.3)
        return starts

    assert in_virtual_time(main) == pytest.approx([0.0, 0.3, 1.0, 1.3, 2.0])


def test_the_rate_has_statistics_and_a_delay():
    """In seconds, for users who only look."""

    async def main(clock):
        rate = RateLimiter(2, per=10, clock=clock)
        assert (rate.delay(), rate.acquire_nowait()) == (0.0, True)
        await asyncio.sleep(4)
        assert (rate.delay(), rate.acquire_nowait(), rate.acquire_nowait()) == (0.0, True, False)
        assert rate.delay() == pytest.approx(6.0)
        assert rate.statistics() == RateLimiterStatistics(calls=2, per=10.0, started=2, waiting=0)
        task = waiter(rate, "w", [])
        await asyncio.sleep(0)
        assert repr(rate) == "<RateLimiter calls=2 per=10.0 waiting=1>"
        assert rate.delay() == pytest.approx(10.0)  # the one at 6 is for the task that waits
        await asyncio.sleep(6.5)
        assert task.done()
        assert rate.delay() == pytest.approx(3.5)
        await asyncio.sleep(20)
        assert rate.statistics().started == 0

    in_virtual_time(main)


def test_the_rate_is_kept_in_order_and_to_the_moment():
    """One that needs several is not overtaken."""

    async def main(clock):
        rate, log = RateLimiter(3, per=1, clock=clock), []

        async def start(name, n):
            await rate.acquire(n)
            log.append((name, clock()))

        tasks = [
            asyncio.create_task(start(*spec)) for spec in [("a", 2), ("b", 3), ("c", 1), ("d", 2), ("e", 1)]
        ]
        await asyncio.wait(tasks)
        return log

    assert in_virtual_time(main) == [("a", 0.0), ("b", 1.0), ("c", 2.0), ("d", 2.0), ("e", 3.0)]


def test_a_start_counts_from_when_it_happens():
    """A loop that was busy between the grant and the start cannot squeeze two starts together."""

    async def main(clock):
        rate, starts = RateLimiter(1, per=1.0, clock=clock), []

        def be_busy():
            asyncio.get_running_loop()._selector.now += 0.4  # type: ignore[attr-defined]

        async def start():
            await rate.acquire()
            starts.append(clock())

        loop = asyncio.get_running_loop()
        rate.subscribe(lambda: loop.call_soon(be_busy))  # that is after the grant, and before its task runs
        await asyncio.wait([asyncio.create_task(start()) for _ in range(3)])
        return starts

    assert in_virtual_time(main) == pytest.approx([0.0, 1.4, 2.4])


def test_giving_up_costs_the_others_nothing():
    """A start that was granted to a cancelled task goes to the next."""

    async def main(clock):
        rate, log = RateLimiter(1, per=1, clock=clock), []
        await rate.acquire()
        loop = asyncio.get_running_loop()
        rate.subscribe(
            lambda: loop.call_soon(one.cancel)
        )  # that is after the grant, and before its task runs
        one, two = waiter(rate, "one", log), waiter(rate, "two", log)
        await two
        assert one.cancelled()
        return log, clock()

    assert in_virtual_time(main) == (["two"], 1.0)


@pytest.mark.parametrize("subscribes", [True, False])
def test_tasks_and_callbacks_share_a_rate(subscribes):
    """Subscribers take turns with waiting tasks; those who only look at `delay()` come after them."""

    async def main(clock):
        rate, log = RateLimiter(1, per=1, clock=clock), []
        loop = asyncio.get_running_loop()
        tasks = [waiter(rate, "task", log) for _ in range(4)]
        await asyncio.sleep(0)
        if subscribes:
            Pump(rate, "pump", log, 3).pump()
        else:

            def look(left):
                if rate.acquire_nowait():
                    log.append("pump")
                    left -= 1
                if left:
                    loop.call_later(rate.delay(), look, left)

            look(3)
        await asyncio.wait(tasks)
        await asyncio.sleep(10)
        return log

    expected = ["task"] * 4 + ["pump"] * 3
    assert in_virtual_time(main) == expected


@given(
    calls=st.integers(1, 4),
    per=st.sampled_from([0.1, 0.7, 1.0, 60.0]),
    users=st.lists(
        st.tuples(
            st.sampled_from(["task", "cancelled", "nowait", "pump"]), st.floats(0, 3), st.integers(1, 4)
        ),
        max_size=12,
    ),
)
@settings(deadline=None)
def test_the_window_is_strict_whoever_comes_when(calls, per, users):
    """Tasks, cancelled tasks, callbacks: every one is served, and no window holds too many starts."""

    async def main(clock):
        rate, starts = RateLimiter(calls, per=per, clock=clock), []

        async def task(n):
            await rate.acquire(n)
            starts.extend([clock()] * n)

        async def user(kind, after, n):
            await asyncio.sleep(after * per)
            n = min(n, calls)
            if kind == "task":
                await task(n)
            elif kind == "cancelled":
                with suppress(TimeoutError):
                    await asyncio.wait_for(task(n), per * n / 3)
            elif kind == "nowait":
                starts.extend([clock()] * (n if rate.acquire_nowait(n) else 0))
            else:
                await pump(n)

        async def pump(items):
            done = asyncio.get_running_loop().create_future()

            def take():
                nonlocal items
                while items and rate.acquire_nowait():
                    items -= 1
                    starts.append(clock())
                if not items and not done.done():
                    done.set_result(None)

            end = rate.subscribe(take)
            take()
            await done
            end()

        await asyncio.wait_for(asyncio.gather(*(user(*spec) for spec in users)), per * 100)
        return starts

    assert_at_most(calls, per, in_virtual_time(main))


@pytest.mark.parametrize(
    ("calls", "per", "error", "message"),
    [
        (0, 1, ValueError, "calls must be at least 1, not 0"),
        (2.5, 1, TypeError, "calls must be an int, not 2.5 (float)"),
        (1, 0, ValueError, "per must be a number of seconds above 0, not 0"),
        (1, -1.5, ValueError, "per must be a number of seconds above 0, not -1.5"),
        (1, float("nan"), ValueError, "per must be a number of seconds above 0, not nan"),
        (1, float("inf"), ValueError, "per must be a number of seconds above 0, not inf"),
        (1, "1", TypeError, "per must be a number of seconds, not '1' (str)"),
        (1, True, TypeError, "per must be a number of seconds, not True (bool)"),
    ],
)
def test_a_bad_rate_is_named(calls, per, error, message):
    """At construction."""
    with pytest.raises(error) as caught:
        RateLimiter(calls, per=per)
    assert str(caught.value) == message


async def test_the_rate_in_real_time():
    """On the real loop and clock: all are served, and none before its time."""
    rate, starts = RateLimiter(3, per=0.02), []

    async def start():
        await rate.acquire()
        starts.append(time.monotonic())

    before = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for _ in range(10):
            group.create_task(start())
    assert len(starts) == 10
    assert all(start - before >= 0.02 * (place // 3) - 1e-9 for place, start in enumerate(starts))
