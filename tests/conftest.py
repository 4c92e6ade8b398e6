"""What every test gets.

An async test runs twice: on asyncio's loop in debug mode, and on uvloop. While it runs, a call that
blocks the loop raises `blockbuster.BlockingError`; mark the test `may_block` if it does so on purpose.

After every test, async or not, nothing may be left behind: see `Traces`, and `orphans` for what a test's processes
left in their turn. What a fixture of wider scope opened beforehand does not count.

With CI set in the environment a skipped test is a failure, unless its reason begins with one of
`ALLOWED_SKIPS`: continuous integration is to notice that something is no longer tested.
"""

from __future__ import annotations

import asyncio
import asyncio.constants
import contextlib
import functools
import gc
import logging
import os
import resource
import signal
import threading
import time
import traceback
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, NoReturn

import pytest
from _pytest.outcomes import OutcomeException
from anyio.pytest_plugin import extract_backend_and_options, get_runner
from blockbuster import BlockBuster
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

    import pytest_timeout

ALLOWED_SKIPS = ("no machine here:", "not promised:")
"""What a skip's reason may begin with in CI: it names hardware or a service that no set-up can install, or what a pool
says in its contract that it does not promise."""

GRACE = 20.0
"""Seconds for what is ending to end: a reaped child, a thread on its last line. Only a test that fails takes them."""

SLOW_CALLBACK = 10.0
"""Seconds that one step may hold asyncio's loop, but for a test that is marked `may_block`. Blocking calls are found by
name, but a long computation only by its time; this is far above a pause of a busy machine."""

TEST_RUN = f"{os.getpid()}-{time.time_ns()}"
os.environ["ASYNCPAR_TEST_RUN"] = TEST_RUN  # inherited, so that an orphan is still known as ours


# How long an example takes, and to make one, says something of the machine and nothing of what is tested. The rest is
# Hypothesis' own profile for the place: in CI, always the same examples.
settings.register_profile(
    "asyncpar", settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("asyncpar")


# Loops


# Debug mode notes who made each future, task and handle: all frames, which are sixty under pytest and take half of
# the time of a test, or ten. The last few tell as much.
asyncio.constants.DEBUG_STACK_DEPTH = 4
traceback.extract_stack.__defaults__ = (None, 4)


def debug_loop() -> asyncio.AbstractEventLoop:
    """asyncio's loop, for debug mode."""
    loop = asyncio.new_event_loop()
    loop.slow_callback_duration = SLOW_CALLBACK
    return loop


def _has_uvloop() -> bool:
    try:
        import uvloop
    except ImportError:
        return False
    uvloop.new_event_loop().close()  # libuv's first loop opens two descriptors and keeps them for good
    return True


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(("asyncio", {"debug": True, "loop_factory": debug_loop}), id="asyncio"),
        pytest.param(
            ("asyncio", {"use_uvloop": True}),
            id="uvloop",
            marks=pytest.mark.skipif(not _has_uvloop(), reason="uvloop is not installed"),
        ),
    ],
)
def anyio_backend(request: pytest.FixtureRequest) -> object:
    """The loop of an async test."""
    return request.param


# The loop stays free


@pytest.fixture(autouse=True)
def loop_stays_free(request: pytest.FixtureRequest) -> Iterator[None]:
    """A blocking call on the loop of an async test raises."""
    if "anyio_backend" not in request.fixturenames or request.node.get_closest_marker("may_block"):
        yield
        return
    guard = _guard()
    guard.activate()
    try:
        yield
    finally:
        guard.deactivate()


@functools.cache
def _guard() -> BlockBuster:
    guard = BlockBuster()
    # A module's first import reads files; names of the lazy package are loaded at first use, wherever that is.
    for function in guard.functions.values():
        function.can_block_in("<frozen importlib._bootstrap>", "_find_and_load")
        # A pool that opens reads a few lines of /proc, which no disk delays, and starts one process, which listens.
        function.can_block_in("asyncpar/cpus.py", "_read")
        function.can_block_in("asyncpar_scrape/memory.py", "peak")
        function.can_block_in("asyncpar/process/nursery.py", ("start", "spawn"))
        # A thread of its own, with a loop of its own.
        function.can_block_in("asyncpar_lambda/transport/aio.py", "_enter")
    # os.read, os.write and sockets are let through by blockbuster where the descriptor is non-blocking.
    return guard


# Nothing is left behind


@dataclass(frozen=True)
class Traces:
    """What this process holds: what is there after a test and was not before, was left behind."""

    processes: frozenset[str]
    descriptors: frozenset[str]
    mappings: frozenset[str]
    shared_memory: frozenset[str]
    threads: frozenset[str]

    @classmethod
    def now(cls) -> Traces:
        """The traces of this moment."""
        return cls(
            processes=frozenset(_children()),
            descriptors=frozenset(_descriptors()),
            mappings=frozenset(_mappings()),
            shared_memory=frozenset(_names("/dev/shm")),
            threads=frozenset(f"{thread.name} ({thread.ident})" for thread in threading.enumerate()),
        )

    def since(self, before: Traces) -> list[str]:
        """One line for each thing that is here and was not there before."""
        return [
            f"{field.name}: {name}{_command(name) if field.name == 'processes' else ''}"
            for field in fields(self)
            for name in sorted(getattr(self, field.name) - getattr(before, field.name))
        ]


def _children() -> Iterator[str]:
    """The processes whose parent we are."""
    for thread in _names("/proc/self/task"):
        yield from _contents(f"self/task/{thread}", "children").split()


def orphans() -> set[str]:
    """What our processes left in their turn, known by the environment it inherited. This reads all of /proc."""
    ours = {pid for pid in _names("/proc") if pid.isdecimal() and TEST_RUN in _contents(pid, "environ")}
    ours.add(str(os.getpid()))
    return {pid for pid in ours if (parent := _parent(pid)) and parent not in ours} - {str(os.getpid())}


def _parent(pid: str) -> str:
    _, _, rest = _contents(pid, "stat").rpartition(") ")  # a name may hold anything
    return rest.split()[1] if rest else ""


def _children_waited_for() -> object:
    """It changes with every child that has ended: without one there are no new orphans."""
    return resource.getrusage(resource.RUSAGE_CHILDREN)


def _command(pid: str) -> str:
    command = _contents(pid, "cmdline").replace("\0", " ").strip()
    return f" {command[:200] or 'a zombie: it ended, and nobody waited for it'}"


def _contents(process: str, file: str) -> str:
    """What /proc says; nothing if the process has ended or belongs to somebody else."""
    try:
        with open(f"/proc/{process}/{file}", "rb", buffering=0) as opened:
            return opened.readall().decode(errors="replace")
    except OSError:
        return ""


def _descriptors() -> Iterator[str]:
    for descriptor in _names("/proc/self/fd"):
        try:
            yield f"{descriptor} -> {os.readlink(f'/proc/self/fd/{descriptor}')}"
        except OSError:
            continue  # the one that listed the folder


def _mappings() -> Iterator[str]:
    """Shared memory that is mapped, whether or not its name or descriptor is still there."""
    for line in _contents("self", "maps").splitlines():
        if "/memfd:" in line or "/dev/shm/" in line:
            yield " ".join(line.split()[4:])  # its inode and name; addresses may change


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:  # a thread that has ended, or not Linux
        return []


_blamed: set[str] = set()
"""Orphans that a failure has told of, or explains."""


@pytest.fixture(autouse=True)
def nothing_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test after which a process, descriptor, shared memory or thread is there that was not before."""
    before, waited_for = Traces.now(), _children_waited_for()
    yield
    if _failed(request.node):  # its traceback keeps objects alive; its own error is the news
        _blamed.update(orphans())
        return
    left = _poll(lambda: Traces.now().since(before))
    if left or waited_for != _children_waited_for():
        left += _poll(_new_orphans)
    if left:
        _blamed.update(orphans())
        _fail("The test left behind", left)


@pytest.fixture(autouse=True, scope="session")
def nothing_left_in_the_end() -> Iterator[None]:
    """Fail a session after which one of its processes is there, whoever started it."""
    yield
    if left := _poll(_new_orphans):
        _fail("The tests left behind", left)


def _new_orphans() -> list[str]:
    return [f"processes: {pid}{_command(pid)}" for pid in orphans() - _blamed]


def _poll(find: Callable[[], list[str]]) -> list[str]:
    """What `find` still finds when the grace is over."""
    give_up = time.monotonic() + GRACE
    while (left := find()) and time.monotonic() < give_up:
        gc.collect()  # an object in a cycle may be all that holds a descriptor
        time.sleep(0.02)
    return left


@pytest.fixture(autouse=True)
def no_task_left_behind(nothing_left_behind: None, request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail an async test after which a task is there that was not before."""
    if "anyio_backend" not in request.fixturenames:
        yield
        return
    # The loop is held open until the test's own fixtures are gone, and closed before descriptors are counted.
    with get_runner(*extract_backend_and_options(request.getfixturevalue("anyio_backend"))) as runner:
        before: set[asyncio.Task[object]] = set()
        runner.run_test(_add_tasks, {"to": before})
        yield
        if not _failed(request.node):
            runner.run_test(_assert_no_more_tasks_than, {"before": before})


async def _add_tasks(to: set[asyncio.Task[object]]) -> None:
    to |= _tasks()


async def _assert_no_more_tasks_than(before: set[asyncio.Task[object]]) -> None:
    give_up = time.monotonic() + GRACE
    while (left := _tasks() - before) and time.monotonic() < give_up:
        await asyncio.sleep(0.01)
    if left:
        _fail("The test left tasks behind", map(repr, left))


def _tasks() -> set[asyncio.Task[object]]:
    """The tasks of the running loop, but for those in which anyio runs tests."""
    return {task for task in asyncio.all_tasks() if "TestRunner._" not in repr(task.get_coro())}


@pytest.fixture(autouse=True)
def loop_has_no_complaint(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test during which the loop logged a warning: a slow callback, an exception that nobody took."""
    complaints: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: complaints.append(record.getMessage())  # type: ignore[method-assign]
    if request.node.get_closest_marker("may_block"):
        handler.addFilter(lambda record: not _tells_of_a_slow_step(record))
    logger = logging.getLogger("asyncio")
    logger.addHandler(handler)
    yield
    gc.collect(0)  # an exception that nobody took is reported when its future goes
    logger.removeHandler(handler)
    if complaints and not _failed(request.node):
        _fail("The event loop complained", complaints)


def _tells_of_a_slow_step(record: logging.LogRecord) -> bool:
    return record.msg == "Executing %s took %.3f seconds"


def _fail(what: str, lines: Iterable[str]) -> NoReturn:
    pytest.fail(f"{what}:\n  " + "\n  ".join(lines), pytrace=False)


# Nothing hangs


class TestHangs(OutcomeException, SystemExit):
    """What ends a test wherever it stands.

    Out of a signal's handler uvloop lets only KeyboardInterrupt and SystemExit, and logs all others:
    by pytest-timeout's own exception the test would not end.
    """

    __test__ = False


@pytest.hookimpl(tryfirst=True)
def pytest_timeout_set_timer(settings: pytest_timeout.Settings) -> bool:
    """Start the test's time, in place of pytest-timeout."""

    def interrupt(_signal: int, _frame: object) -> NoReturn:
        _print_tasks()
        raise TestHangs(f"The test hung: it was not over after {settings.timeout:g} seconds.")

    signal.signal(signal.SIGALRM, interrupt)
    # And every five seconds more: the teardown may hang as well, and Hypothesis tries the example again.
    signal.setitimer(signal.ITIMER_REAL, settings.timeout, 5)
    return True


def _print_tasks() -> None:
    """Where each task stands: the traceback of a hanging test shows only its loop."""
    with contextlib.suppress(RuntimeError):  # no loop is running
        for task in asyncio.all_tasks():
            task.print_stack()


@pytest.hookimpl(tryfirst=True)
def pytest_timeout_cancel_timer() -> bool:
    """The test is over."""
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    return True


# Reports


_FAILED = pytest.StashKey[bool]()
_forbidden_skips: list[str] = []


def _failed(item: pytest.Item) -> bool:
    return item.stash.get(_FAILED, False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Remember for the fixtures whether the test failed."""
    report = yield
    if not report.passed:
        item.stash[_FAILED] = True
    return report


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note the skips that CI does not allow."""
    _note_skip(report)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """Note the whole modules that were skipped."""
    _note_skip(report)


def _note_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    if not report.skipped or hasattr(report, "wasxfail") or not os.environ.get("CI"):
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    reason = reason.removeprefix("Skipped: ")
    if not reason.startswith(ALLOWED_SKIPS):
        _forbidden_skips.append(f"{report.nodeid}: {reason}")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a session in which something was skipped that CI is to run."""
    if _forbidden_skips and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say why such a session failed."""
    if not _forbidden_skips:
        return
    terminalreporter.section("skipped, which fails in CI", red=True)
    for line in _forbidden_skips:
        terminalreporter.write_line(line)
    terminalreporter.write_line(
        f"Install what these need (requirements/test.txt), or let the reason begin with "
        f"{' or '.join(map(repr, ALLOWED_SKIPS))} if no set-up could."
    )
