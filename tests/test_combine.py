"""gather, as_completed and first: what they return, what they raise, and that nothing runs on behind them."""

# mypy: allow-untyped-calls, disable-error-code="comparison-overlap, var-annotated, union-attr"

from __future__ import annotations

import asyncio
import contextvars
import functools
import gc
import inspect
import sys
import types
import warnings
import weakref
from concurrent.futures import Future as ConcurrentFuture
from contextlib import contextmanager, suppress

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncpar.combine import as_completed, first, gather
from asyncpar.limits import Limiter, RateLimiter

pytestmark = pytest.mark.anyio


class Boom(Exception):
    """What the children of these tests fail with."""


async def value(x, *, after=0):
    """Return `x` after some passes of the loop."""
    for _ in range(after):
        await asyncio.sleep(0)
    return x


async def boom(message="boom", *, after=0):
    await value(None, after=after)
    raise Boom(message)


FAILURE = Boom("always the same")


class Sleeper:
    """A child that sleeps for ever, and remembers how it ended."""

    def __init__(self, *, cleanup=3, on_cancel=None):
        self.started = self.cancelled = self.cleaned = self.ended = False
        self.cleanup, self.on_cancel = cleanup, on_cancel
        self.scope = None

    def ends(self, scope):
        """Let the time of this scope be over soon after it has started: not before, as on a machine that pauses."""
        self.scope = scope

    async def sleep(self):
        self.started = True
        if self.scope is not None:
            soon = asyncio.get_running_loop().time() + 0.001
            if isinstance(self.scope, anyio.CancelScope):
                self.scope.deadline = soon
            else:
                self.scope.reschedule(soon)
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            self.cancelled = True
            await value(None, after=self.cleanup)
            self.cleaned = True
            if self.on_cancel is not None:
                raise self.on_cancel from None
            raise
        finally:
            self.ended = True


class Crowd:
    """Counts how many of its members run at the same time."""

    def __init__(self):
        self.now = self.most = self.started = 0

    async def member(self, x=None, *, fail=False):
        self.now += 1
        self.started += 1
        self.most = max(self.most, self.now)
        try:
            await value(None, after=3)
            if fail:
                raise Boom
            return x
        finally:
            self.now -= 1


class Lazy:
    """An awaitable that is neither coroutine nor future."""

    def __init__(self, x):
        self.x = x

    def __await__(self):
        yield from asyncio.sleep(0).__await__()
        return self.x


@types.coroutine
def old_style(x):
    """A coroutine made from a generator."""
    yield
    return x


@contextmanager
def overheard():
    """Collect what goes to the loop's exception handler."""
    loop, heard = asyncio.get_running_loop(), []
    before = loop.get_exception_handler()
    loop.set_exception_handler(lambda _, context: heard.append(context))
    try:
        yield heard
    finally:
        loop.set_exception_handler(before)


async def passes(n=10):
    await value(None, after=n)


def loop_factories():
    factories = [pytest.param(asyncio.new_event_loop, id="asyncio")]
    with suppress(ImportError):
        import uvloop

        factories.append(pytest.param(uvloop.new_event_loop, id="uvloop"))
    return factories


# gather: results


async def test_gather_returns_results_in_the_order_of_its_arguments():
    """Order is that of the arguments, not of completion; every kind of awaitable can be mixed."""
    future = asyncio.get_running_loop().create_future()
    future.set_result("future")
    task = asyncio.create_task(value("task", after=5))
    assert await gather(value("coroutine", after=3), task, future, Lazy("lazy"), old_style("old")) == [
        "coroutine",
        "task",
        "future",
        "lazy",
        "old",
    ]


async def test_gather_of_nothing_is_an_empty_list():
    """No arguments: no results."""
    assert await gather() == []
    assert await gather(limit=3, return_exceptions=True) == []


@pytest.mark.parametrize("limit", [None, 1])
async def test_gather_runs_what_is_passed_twice_once(limit):
    """The same awaitable gives its result in both places, and takes room once."""
    coroutine, lazy, task = value("c"), Lazy("l"), asyncio.create_task(value("t"))
    assert await gather(coroutine, lazy, coroutine, task, lazy, task, limit=limit) == [
        "c",
        "l",
        "c",
        "t",
        "l",
        "t",
    ]


async def test_gather_accepts_gather():
    """It is an awaitable like any other."""
    assert await gather(gather(value(1), value(2)), value(3)) == [[1, 2], 3]


async def test_children_see_the_callers_context():
    """With a limit too, where they are started from callbacks; what a child sets is its own."""
    var = contextvars.ContextVar("var", default="outside")

    async def read_and_spoil():
        seen = var.get()
        var.set("spoilt")
        await asyncio.sleep(0)
        return seen

    var.set("mine")
    assert await gather(*(read_and_spoil() for _ in range(5)), limit=2) == ["mine"] * 5
    assert var.get() == "mine"


# gather: failures


async def test_the_first_failure_is_raised_as_itself_after_the_others_have_ended():
    """Not in a group, and with the cleaning-up of the others behind it."""
    sleepers = [Sleeper(), Sleeper()]
    failure = Boom("mine")

    async def fail():
        await asyncio.sleep(0)
        raise failure

    with pytest.raises(Boom) as caught:
        await gather(sleepers[0].sleep(), fail(), sleepers[1].sleep())
    assert caught.value is failure
    assert not hasattr(failure, "__notes__")
    assert all(sleeper.cancelled and sleeper.ended for sleeper in sleepers)


async def test_tasks_that_were_running_before_are_cancelled_too():
    """Whatever is passed has ended when gather does, unless it is shielded."""
    task, kept = asyncio.create_task(Sleeper().sleep()), asyncio.create_task(value("kept", after=20))
    with pytest.raises(Boom):
        await gather(task, asyncio.shield(kept), boom(after=1))
    assert task.cancelled()
    assert await kept == "kept"


async def test_further_failures_are_named_in_the_notes_of_the_first():
    """Whether they come while being cancelled or in the same pass of the loop."""
    sleeper = Sleeper(on_cancel=OSError("disk full"))
    with pytest.raises(Boom) as caught, overheard() as heard:
        await gather(value(1), sleeper.sleep(), boom("one"), boom("two"))
    assert str(caught.value) == "one"
    assert sorted(caught.value.__notes__) == [
        "asyncpar.gather: argument 2 failed as well: OSError: disk full",
        "asyncpar.gather: argument 4 failed as well: Boom: two",
    ]
    assert heard == []


async def test_one_exception_raised_by_two_children_has_no_note_about_itself():
    """A failure is told once."""
    failure = Boom()

    async def fail():
        raise failure

    with pytest.raises(Boom) as caught:
        await gather(fail(), fail())
    assert not hasattr(caught.value, "__notes__")


async def test_return_exceptions_puts_failures_in_the_place_of_results():
    """And nothing is cancelled; an awaitable that somebody else cancelled gives CancelledError."""
    victim = asyncio.create_task(Sleeper().sleep())
    asyncio.get_running_loop().call_soon(victim.cancel)
    one, two, three = await gather(boom(), value(2, after=20), victim, return_exceptions=True)
    assert (type(one), two, type(three)) == (Boom, 2, asyncio.CancelledError)  # type: ignore[has-type]


async def test_a_child_cancelled_by_somebody_else_is_a_failure():
    """As it is when one awaits it; the caller itself was not cancelled."""
    victim, sleeper = asyncio.create_task(Sleeper().sleep()), Sleeper()
    asyncio.get_running_loop().call_later(0.001, victim.cancel)
    with pytest.raises(asyncio.CancelledError):
        await gather(sleeper.sleep(), victim)
    assert sleeper.ended
    assert asyncio.current_task().cancelling() == 0


async def test_a_failed_future_fails_gather():
    """What has ended already counts as the others do."""
    future = asyncio.get_running_loop().create_future()
    future.set_exception(Boom("before"))
    with pytest.raises(Boom, match="before"):
        await gather(Sleeper().sleep(), future)


async def test_a_child_that_swallows_cancellation_is_waited_for():
    """Its result is dropped, and the failure raised, when it has ended."""
    ended = []

    async def stubborn():
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        await passes(20)
        ended.append(True)

    with pytest.raises(Boom):
        await gather(stubborn(), boom(after=2))
    assert ended


class Big:
    """Something that one would not want to keep alive."""


async def test_a_raised_exception_keeps_nothing_alive():
    """No cycle runs through its traceback: frames go with it, without the garbage collector."""
    alive = []

    async def fail():
        big = Big()
        alive.append(weakref.ref(big))
        await asyncio.sleep(0)
        raise Boom

    async def be_cancelled():
        big = Big()
        alive.append(weakref.ref(big))
        await gather(Sleeper().sleep())

    gc.collect()
    gc.disable()
    try:
        for verb in (gather, first, functools.partial(gather, limit=1)):
            with suppress(Boom, ExceptionGroup):
                await verb(fail())
        with suppress(Boom):
            async for _ in as_completed(fail()):
                pass
        task = asyncio.create_task(be_cancelled())
        await passes()
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        del task
        await passes()
        assert [ref() for ref in alive] == [None] * 5
    finally:
        gc.enable()


# gather: cancelling


async def test_cancelling_gather_cancels_and_awaits_all():
    """Nothing runs on behind it."""
    sleepers = [Sleeper() for _ in range(3)]
    task = asyncio.create_task(gather(*(sleeper.sleep() for sleeper in sleepers)))
    await passes()
    task.cancel("enough")
    with pytest.raises(asyncio.CancelledError):
        await task
    assert all(sleeper.cancelled and sleeper.ended for sleeper in sleepers)


async def test_a_timeout_around_gather_is_a_timeout():
    """The cancellation belongs to asyncio.timeout, which takes it back."""
    sleeper = Sleeper()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(None) as scope:
            sleeper.ends(scope)
            await gather(sleeper.sleep(), value(1))
    assert sleeper.ended
    assert asyncio.current_task().cancelling() == 0
    await asyncio.sleep(0)  # no cancellation is left over


async def test_a_timeout_inside_a_child_is_that_childs_failure():
    """And the others are cancelled because of it."""
    sleeper = Sleeper()

    async def slow():
        while not sleeper.started:
            await asyncio.sleep(0)
        async with asyncio.timeout(0.005):
            await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        await gather(sleeper.sleep(), slow())
    assert sleeper.ended


async def test_failures_while_gather_is_cancelled_go_to_the_loops_exception_handler():
    """The cancellation itself goes on: asyncio.timeout sees it."""
    disk_full = OSError("disk full")
    with pytest.raises(TimeoutError), overheard() as heard:
        async with asyncio.timeout(None) as scope:
            sleeper = Sleeper(on_cancel=disk_full)
            sleeper.ends(scope)
            await gather(value(1), sleeper.sleep())
    assert [(context["message"], context["exception"]) for context in heard] == [
        ("asyncpar.gather: argument 2 failed when nobody waited for it any more", disk_full)
    ]


async def test_a_cancellation_wins_over_a_failure_that_was_about_to_be_raised():
    """Else the canceller would be ignored; the failure goes to the exception handler."""
    sleeper = Sleeper(cleanup=10)
    task = asyncio.create_task(gather(sleeper.sleep(), boom("first", after=1)))
    while not sleeper.cancelled:
        await asyncio.sleep(0)
    with overheard() as heard:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert [str(context["exception"]) for context in heard] == ["first"]


async def test_a_second_cancellation_does_not_cut_cleaning_up_short():
    """It would else run on behind the caller, or be interrupted half-way."""
    sleeper = Sleeper(cleanup=20)
    task = asyncio.create_task(gather(sleeper.sleep()))
    await passes()
    for _ in range(3):
        task.cancel()
        await passes(2)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert sleeper.cleaned


async def test_gather_in_an_anyio_scope():
    """Where a task is cancelled again and again until it ends, children still clean up."""
    sleeper = Sleeper(cleanup=20)
    with anyio.CancelScope() as scope:
        sleeper.ends(scope)
        await gather(sleeper.sleep())
    assert scope.cancelled_caught
    assert sleeper.cleaned


async def test_gather_in_a_task_group():
    """A failing sibling cancels it like any task."""
    sleeper = Sleeper()
    with pytest.raises(ExceptionGroup) as caught:
        async with asyncio.TaskGroup() as group:
            group.create_task(gather(sleeper.sleep(), value(1)))
            group.create_task(boom(after=5))
    assert [type(exc) for exc in caught.value.exceptions] == [Boom]
    assert sleeper.ended


async def test_gather_that_is_closed_cancels_its_children():
    """As when a coroutine is thrown away half-way; nobody can wait then."""
    sleeper = Sleeper()
    coroutine = gather(sleeper.sleep())
    coroutine.send(None)
    await passes()
    coroutine.close()
    await passes()
    assert sleeper.ended


@pytest.mark.parametrize("loop_factory", loop_factories())
@pytest.mark.parametrize("fatal", [SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize("verb", [gather, functools.partial(gather, return_exceptions=True), first])
def test_fatal_exceptions_in_a_child_leave_through_the_loop(loop_factory, fatal, verb):
    """The loop raises them; the children are cancelled and awaited as the loop is closed, and nothing is logged."""
    sleeper, heard = Sleeper(), []

    async def die():
        await asyncio.sleep(0)
        raise fatal("now")

    async def main():
        asyncio.get_running_loop().set_exception_handler(lambda _, context: heard.append(context))
        await verb(sleeper.sleep(), die())

    with pytest.raises(fatal), asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(main())
    assert sleeper.ended
    assert heard == []


@pytest.mark.parametrize("loop_factory", loop_factories())
@pytest.mark.parametrize("fatal", [SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize("verb", [gather, functools.partial(gather, return_exceptions=True), first])
def test_fatal_exceptions_in_a_child_are_raised_to_the_caller(loop_factory, fatal, verb):
    """Where somebody runs the loop again, as a notebook does: they are neither a result nor a loser's failure."""
    sleeper = Sleeper()

    async def die():
        raise fatal("now")

    async def main():
        with suppress(fatal):
            await verb(sleeper.sleep(), die())
        return "survived"

    loop = loop_factory()
    task = loop.create_task(main())
    with pytest.raises(fatal):
        loop.run_until_complete(task)
    assert loop.run_until_complete(asyncio.wait_for(task, 50)) == "survived"
    loop.close()
    assert sleeper.cleaned


def eager(loop, coroutine, *, context=None, **_):
    """As asyncio.eager_task_factory, which does not take all that uvloop passes before Python 3.13.3."""
    return asyncio.Task(coroutine, loop=loop, context=context, eager_start=True)  # type: ignore[call-arg]


@pytest.mark.parametrize("loop_factory", loop_factories())
@pytest.mark.parametrize("task_factory", [None, eager] if sys.version_info >= (3, 12) else [None])
def test_eager_tasks(loop_factory, task_factory):
    """Children may end while they are being started; all is as with tasks that start later."""
    heard = []

    async def now(x):
        return x

    async def fail_now():
        raise FAILURE

    async def die_now():
        raise SystemExit(3)

    async def main():
        asyncio.get_running_loop().set_task_factory(task_factory)
        assert await gather(*map(now, range(50)), limit=3) == list(range(50))
        assert await gather(now(1), value(2, after=2), Lazy(3)) == [1, 2, 3]
        assert await first(fail_now(), Sleeper().sleep(), now(1)) == 1
        assert await gather(now(1), fail_now(), return_exceptions=True, limit=1) == [1, FAILURE]
        assert sorted([x async for x in as_completed(now(1), value(2, after=1), limit=1)]) == [1, 2]
        sleeper = Sleeper()
        with pytest.raises(Boom):
            await gather(sleeper.sleep(), fail_now())
        assert sleeper.ended
        never = Sleeper()
        await as_completed(never.sleep()).aclose()
        assert not never.started
        # An eager task that dies is lost to all but Python, which complains that nobody took its exception.
        asyncio.get_running_loop().set_exception_handler(lambda _, context: heard.append(context))
        await gather(Sleeper().sleep(), die_now())

    with pytest.raises(SystemExit), asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(main())


# gather: limit


@pytest.mark.parametrize("limit", [1, 3, 100])
async def test_limit_bounds_how_many_run(limit):
    """And no more is left idle than must be."""
    crowd = Crowd()
    assert await gather(*map(crowd.member, range(20)), limit=limit) == list(range(20))
    assert crowd.most == min(limit, 20)


async def test_a_limiter_is_shared_by_gathers():
    """Together they keep to it, both get on, and all tokens come back."""
    crowd, limiter = Crowd(), Limiter(3)
    one, two = await gather(
        gather(*map(crowd.member, range(10)), limit=limiter),
        gather(*map(crowd.member, range(10)), limit=limiter),
    )
    assert one == two == list(range(10))
    assert crowd.most == 3
    assert limiter.statistics().in_use == 0
    assert not limiter._places


async def test_running_tasks_take_no_room():
    """They run already; counting them could wait for ever."""
    sleeper, crowd = asyncio.create_task(Sleeper().sleep()), Crowd()
    task = asyncio.create_task(gather(sleeper, crowd.member(), crowd.member(), limit=1))
    await passes(30)
    assert (crowd.started, crowd.now) == (2, 0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_what_waits_for_room_never_starts_after_a_failure():
    """It is closed, so that Python does not warn that it was never awaited; tokens come back."""
    crowd, limiter = Crowd(), Limiter(2)
    waiting = [crowd.member() for _ in range(10)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(Boom):
            await gather(crowd.member(), crowd.member(fail=True), *waiting, limit=limiter)
    assert crowd.now == 0
    assert crowd.started < 6
    assert all(inspect.getcoroutinestate(coroutine) == "CORO_CLOSED" for coroutine in waiting)
    assert limiter.statistics().in_use == 0
    assert limiter.acquire_nowait(2)


async def test_cancelling_while_all_wait_for_a_limiter():
    """Nothing has started, and nothing will."""
    limiter, crowd = Limiter(1), Crowd()
    async with limiter:
        task = asyncio.create_task(gather(crowd.member(), crowd.member(), limit=limiter))
        await passes()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    await passes()
    assert crowd.started == 0
    assert limiter.acquire_nowait()
    assert not limiter._places


# Bad input


async def an_async_generator():
    yield


@pytest.mark.parametrize(
    ("thing", "message"),
    [
        (42, "42 (int): pass coroutines, tasks, futures or objects with __await__"),
        (value, "the function value: call it, and pass what it returns"),
        ([], "a list: if it holds awaitables, unpack it with *"),
        ((x for x in ()), "a generator: if it holds awaitables, unpack it with *"),
        (
            an_async_generator(),
            "an async iterator (async_generator): read it with `async for`, or asyncpar.map()",
        ),
        (ConcurrentFuture(), "a concurrent.futures.Future: pass asyncio.wrap_future(future)"),
    ],
)
async def test_what_is_not_awaitable_is_named(thing, message):
    """With its place and what to do; the coroutines beside it are closed."""
    coroutine = value(1)
    with pytest.raises(TypeError) as caught:
        await gather(coroutine, thing)
    assert str(caught.value) == f"gather() argument 2 is not awaitable, but {message}"
    assert inspect.getcoroutinestate(coroutine) == "CORO_CLOSED"


@pytest.mark.parametrize(
    ("limit", "error", "message"),
    [
        (0, ValueError, "limit= must be at least 1, not 0 (None is for no limit)"),
        (-1, ValueError, "limit= must be at least 1, not -1 (None is for no limit)"),
        ("2", TypeError, "limit= must be an int, a Limiter or None, not '2' (str)"),
        (2.0, TypeError, "limit= must be an int, a Limiter or None, not 2.0 (float)"),
        (True, TypeError, "limit= must be an int, a Limiter or None, not True (bool)"),
        (
            Limiter,
            TypeError,
            "limit= must be an int, a Limiter or None, not <class 'asyncpar.limits.Limiter'> (ABCMeta)",
        ),
    ],
)
@pytest.mark.parametrize("verb", [gather, as_completed])
async def test_a_bad_limit_is_named(verb, limit, error, message):
    """Immediately, and the coroutines are closed."""
    coroutine = value(1)
    with pytest.raises(error) as caught:
        await verb(coroutine, limit=limit)
    assert str(caught.value) == message
    assert inspect.getcoroutinestate(coroutine) == "CORO_CLOSED"


async def test_a_rate_limiter_is_not_a_limit():
    """It bounds something else."""
    with pytest.raises(TypeError, match=r"^limit= must be an int, a Limiter or None, not <RateLimiter "):
        await gather(limit=RateLimiter(1, per=1))  # type: ignore[call-overload]


async def test_a_future_of_another_loop_is_refused():
    """It would never end here."""
    other = asyncio.new_event_loop()
    coroutine = value(1)
    with pytest.raises(
        ValueError, match=r"^gather\(\) argument 2 belongs to another event loop: await it there$"
    ):
        await gather(coroutine, other.create_future())
    other.close()
    assert inspect.getcoroutinestate(coroutine) == "CORO_CLOSED"


async def test_waiting_for_oneself_is_refused():
    """It would take for ever."""
    coroutine = value(1)
    message = r"^first\(\) argument 1 is the task that waits here: it would wait for itself$"
    with pytest.raises(ValueError, match=message):
        await first(asyncio.current_task(), coroutine)  # type: ignore[arg-type]
    assert inspect.getcoroutinestate(coroutine) == "CORO_CLOSED"


# first


async def test_first_returns_the_first_success():
    """Failures before it are dropped; the losers have ended."""
    sleeper = Sleeper()
    with overheard() as heard:
        assert await first(sleeper.sleep(), boom(), value("slow", after=9), value("fast", after=3)) == "fast"
    assert sleeper.ended
    assert heard == []


async def test_first_raises_a_group_if_all_fail():
    """With every exception, in the order of the arguments."""
    with pytest.raises(ExceptionGroup, match=r"first: all 2 awaitables failed") as caught:
        await first(boom("one", after=5), boom("two"))
    assert [str(exc) for exc in caught.value.exceptions] == ["one", "two"]


async def test_first_counts_a_cancelled_child_as_failed():
    """The group is then a BaseExceptionGroup, which `except Exception` lets through."""
    victim = asyncio.create_task(Sleeper().sleep())
    victim.cancel()
    with pytest.raises(BaseExceptionGroup) as caught:
        await first(victim, boom())
    assert [type(exc) for exc in caught.value.exceptions] == [asyncio.CancelledError, Boom]


async def test_first_of_none_is_refused():
    """None of none can be first."""
    with pytest.raises(
        ValueError, match=r"^first\(\) needs at least one awaitable: of none, none can be first$"
    ):
        await first()


async def test_first_names_what_is_not_awaitable():
    """As gather does."""
    coroutine = value(1)
    with pytest.raises(
        TypeError, match=r"^first\(\) argument 2 is not awaitable, but None \(NoneType\): pass "
    ):
        await first(coroutine, None)  # type: ignore[arg-type]
    assert inspect.getcoroutinestate(coroutine) == "CORO_CLOSED"


async def test_a_loser_that_fails_while_it_is_cancelled_is_heard_of():
    """The winner's result is returned; the failure goes to the loop's exception handler."""
    with overheard() as heard:
        assert await first(Sleeper(on_cancel=OSError("disk full")).sleep(), value(1, after=1)) == 1
    assert [context["message"] for context in heard] == [
        "asyncpar.first: argument 1 failed when nobody waited for it any more"
    ]


async def test_cancelling_first_cancels_and_awaits_all():
    """Nothing runs on behind it."""
    sleepers = [Sleeper(), Sleeper()]
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(None) as scope:
            sleepers[-1].ends(scope)
            await first(*(sleeper.sleep() for sleeper in sleepers))
    assert all(sleeper.ended for sleeper in sleepers)


# as_completed


async def test_as_completed_gives_results_as_they_come():
    """The quickest first, whatever kind of awaitable it is."""
    task = asyncio.create_task(value("task", after=10))
    results = as_completed(value("slow", after=20), task, value("fast"), Lazy("lazy"))
    assert [x async for x in results] == ["fast", "lazy", "task", "slow"]


async def test_as_completed_of_nothing_ends_at_once():
    """No arguments: no results."""
    assert [x async for x in as_completed()] == []


async def test_as_completed_starts_with_the_iteration():
    """Not at the call; and aclose() before that closes what was passed."""
    sleeper, task = Sleeper(), asyncio.create_task(Sleeper().sleep())
    coroutine = sleeper.sleep()
    results = as_completed(coroutine, task)
    await passes()
    assert not sleeper.started
    await results.aclose()
    assert inspect.getcoroutinestate(coroutine) == "CORO_CLOSED"
    assert task.cancelled()
    assert [x async for x in results] == []


async def test_as_completed_keeps_to_its_limit():
    """Results that nobody has taken do not count."""
    crowd = Crowd()
    assert sorted([x async for x in as_completed(*map(crowd.member, range(10)), limit=3)]) == list(range(10))
    assert crowd.most == 3


async def test_as_completed_gives_what_is_passed_twice_once():
    """It ends once."""
    coroutine = value(1)
    assert [x async for x in as_completed(coroutine, coroutine)] == [1]


async def test_as_completed_raises_a_failure_after_the_results_before_it():
    """The others are cancelled and awaited; then the iteration is over."""
    sleeper, got = Sleeper(), []
    results = as_completed(sleeper.sleep(), value(1), value(2), boom(after=5))
    with pytest.raises(Boom):
        async for x in results:
            got.append(x)
            await passes(30)
    assert got == [1, 2]
    assert sleeper.ended
    with pytest.raises(StopAsyncIteration):
        await anext(results)


async def test_as_completed_notes_further_failures():
    """As gather does."""
    with pytest.raises(Boom) as caught:
        async for _ in as_completed(Sleeper(on_cancel=OSError("disk full")).sleep(), boom(after=2)):
            pass
    assert caught.value.__notes__ == ["asyncpar.as_completed: argument 1 failed as well: OSError: disk full"]


async def test_leaving_the_block_cancels_and_waits():
    """What had not started is closed; tokens come back."""
    limiter, sleepers = Limiter(2), [Sleeper() for _ in range(4)]
    async with as_completed(value(1), *(sleeper.sleep() for sleeper in sleepers), limit=limiter) as results:
        async for x in results:
            assert x == 1
            break
    assert [sleeper.ended for sleeper in sleepers] == [sleeper.started for sleeper in sleepers]
    assert sleepers[0].ended
    await passes()
    assert limiter.acquire_nowait(2)


async def test_closing_drops_what_nobody_has_taken():
    """The iteration is over, though results have come."""
    async with as_completed(value(1), value(2), value(3, after=99)) as results:
        assert await anext(results) == 1
        await passes()
    assert [x async for x in results] == []


async def test_as_completed_keeps_no_result_that_was_taken():
    """So that many large ones need not fit into memory together."""

    async def big():
        return Big()

    async with as_completed(big(), Sleeper().sleep()) as results:
        taken = weakref.ref(await anext(results))
        await passes()
        assert taken() is None


async def test_breaking_out_of_a_bare_loop_leaks_nothing():
    """What runs is cancelled soon, although nobody waits for it."""
    sleepers = [Sleeper() for _ in range(4)]
    async for _ in as_completed(value(1), *(sleeper.sleep() for sleeper in sleepers), limit=2):
        break
    await passes(30)
    assert sleepers[0].ended
    assert [sleeper.ended for sleeper in sleepers] == [sleeper.started for sleeper in sleepers]


async def test_failures_that_nobody_takes_are_heard_of():
    """When the block is left early, or the iterator is dropped: they go to the loop's exception handler."""
    with overheard() as heard:
        async with as_completed(
            value(1), boom("untaken"), Sleeper(on_cancel=Boom("late")).sleep()
        ) as results:
            assert await anext(results) == 1
            await passes(30)
        assert [str(context["exception"]) for context in heard] == ["untaken", "late"]
        heard.clear()
        results = as_completed(value(1), boom("dropped"))
        assert await anext(results) == 1
        await passes()
        del results
        await passes()
        assert [str(context["exception"]) for context in heard] == ["dropped"]


async def test_cancelling_the_wait_for_one_result_loses_none():
    """The others run on, and come next."""
    gate = asyncio.Event()

    async def gated():
        await gate.wait()
        return "late"

    async with as_completed(gated()) as results:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.005):
                await anext(results)
        gate.set()
        assert await anext(results) == "late"


async def test_several_consumers_share_one_iteration():
    """Each result goes to one of them, and all come to an end."""
    results = as_completed(*(value(x, after=x) for x in range(10)), limit=4)

    async def consume():
        return [x async for x in results]

    taken = await gather(consume(), consume(), consume())
    assert sorted(x for each in taken for x in each) == list(range(10))


async def test_closing_ends_the_wait_of_another_consumer():
    """It sees the end of the iteration."""
    results = as_completed(Sleeper().sleep(), Sleeper().sleep(), limit=1)

    async def consume():
        return [x async for x in results]

    consumer = asyncio.create_task(consume())
    await passes()
    await gather(results.aclose(), results.aclose())
    assert await consumer == []


async def test_what_has_come_is_not_taken_once_closing_has_begun():
    """A failure is then heard of, and not raised to whoever still iterates."""
    results = as_completed(boom(after=2), Sleeper(cleanup=20).sleep())
    async with results:
        await passes()
        with overheard() as heard:
            closing = asyncio.create_task(results.aclose())
            await asyncio.sleep(0)
            assert [x async for x in results] == []
            await closing
    assert [str(context["exception"]) for context in heard] == ["boom"]


async def test_as_completed_is_checked_at_the_call():
    """Before anything is awaited."""
    coroutine = value(1)
    with pytest.raises(
        TypeError, match=r"^as_completed\(\) argument 1 is not awaitable, but a list: if it holds "
    ):
        as_completed([coroutine])  # type: ignore[arg-type]
    with pytest.raises(
        TypeError, match=r"^as_completed\(\) argument 2 is not awaitable, but 'x' \(str\): pass "
    ):
        as_completed(coroutine, "x")  # type: ignore[arg-type]
    assert inspect.getcoroutinestate(coroutine) == "CORO_CLOSED"


@pytest.mark.parametrize("loop_factory", loop_factories())
def test_an_iterator_that_outlives_its_loop_is_dropped_in_peace(loop_factory):
    """Everything was cancelled when the loop was closed."""
    kept, sleeper = [], Sleeper()

    async def main():
        kept.append(as_completed(value(1), sleeper.sleep()))
        assert await anext(kept[0]) == 1

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(main())
    kept.clear()
    gc.collect()
    assert sleeper.ended


# All together


@given(
    children=st.lists(
        st.tuples(st.sampled_from(["value", "fail", "swallow", "fail_late"]), st.integers(0, 6)), max_size=8
    ),
    limit=st.one_of(st.none(), st.integers(1, 4)),
    cancel_after=st.one_of(st.none(), st.integers(0, 12)),
)
@settings(deadline=None, max_examples=150)
def test_every_child_ends_once_and_every_failure_is_told(children, limit, cancel_after):
    """Whatever the children do and whenever gather is cancelled: raised, noted or heard, and nothing left running."""
    running, failed = set(), []

    def failure(index):
        failed.append(str(index))
        return Boom(index)

    async def child(index, kind, after):
        running.add(index)
        try:
            await value(None, after=after)
            if kind == "fail":
                raise failure(index)
        except asyncio.CancelledError:
            if kind == "swallow":
                return await value(index, after=2)
            if kind == "fail_late":
                raise failure(index) from None
            raise
        finally:
            running.discard(index)
        return index

    async def main():
        with overheard() as heard:
            crowd = gather(*(child(i, *spec) for i, spec in enumerate(children)), limit=limit)
            task = asyncio.create_task(crowd)
            if cancel_after is not None:
                await passes(cancel_after + 1)
                task.cancel()
            told = []
            try:
                assert await task == list(range(len(children)))
            except Boom as exc:
                told = [str(exc), *(note.rpartition(" ")[2] for note in getattr(exc, "__notes__", ()))]
            except asyncio.CancelledError:
                assert cancel_after is not None
        assert running == set()
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return sorted(told + [str(context["exception"]) for context in heard])

    with asyncio.Runner() as runner:
        assert runner.run(main()) == sorted(failed)
