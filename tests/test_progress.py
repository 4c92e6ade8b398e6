from __future__ import annotations

import contextlib
import io
import re
import sys
import time
from collections.abc import Iterator

import pytest

from asyncpar import progress
from asyncpar.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True

    @property
    def text(self) -> str:
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.getvalue())


@contextlib.contextmanager
def terminal() -> Iterator[Terminal]:
    """A stderr that is a terminal of 100 columns. (Not a fixture: pytest sets stderr anew after those.)"""
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(Terminal()) as stream:
        patch.setenv("TERM", "xterm")
        patch.setenv("COLUMNS", "100")
        yield stream


@pytest.fixture
def no_time_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 0.0)


@pytest.mark.usefixtures("no_time_passes")
def test_a_line_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    """What ends quickly leaves one line on a stderr that is no terminal."""
    bar = Progress()
    bar.start(1000, "squares")
    for _ in range(10):
        bar.advance(100)
    bar.close()
    bar.close()
    out, err = capsys.readouterr()
    assert (out, err) == ("", "squares: 1,000 of 1,000, 0.0 s\n")


def test_lines_now_and_then(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A long map leaves a line every few seconds, and no more."""
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    bar = Progress()
    bar.start(None, "rows")
    for _ in range(110):
        now += 0.125
        bar.advance()
    bar.close()
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == ["rows: 40", "rows: 80", "rows: 110"]


def test_a_live_bar() -> None:
    """On a terminal with rich there is a bar with the label and the counts."""
    pytest.importorskip("rich")
    with terminal() as stderr:
        bar = Progress()
        bar.start(4, "pages")
        bar.advance(3)
        bar.close()
    assert re.search(r"pages .*3/4", stderr.text)


def test_an_unknown_total_is_known_at_the_end() -> None:
    """A map over an endless source shows what it has done."""
    pytest.importorskip("rich")
    with terminal() as stderr:
        bar = Progress()
        bar.start(None, "pages")
        bar.advance(7)
        bar.close()
    assert "7/7" in stderr.text


def test_two_bars_share_the_terminal() -> None:
    """The maps of a pipeline are shown together."""
    pytest.importorskip("rich")
    with terminal() as stderr:
        first, second = Progress(), Progress()
        first.start(2, "fetch")
        second.start(2, "count")
        first.advance(2)
        first.close()
        second.advance(2)
        second.close()
    last_picture = stderr.text.split("fetch")[-1]
    assert "count" in last_picture
    assert progress._Bar._shown is None


@pytest.mark.usefixtures("no_time_passes")
def test_a_terminal_without_rich(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without rich, a terminal gets the plain line."""
    monkeypatch.setitem(sys.modules, "rich.console", None)
    with terminal() as stderr:
        bar = Progress()
        bar.start(1, "squares")
        bar.advance()
        bar.close()
    assert stderr.getvalue() == "squares: 1 of 1, 0.0 s\n"


def test_a_closed_stderr_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stderr that is gone, or None as under pythonw, does not disturb the work."""
    closed = io.StringIO()
    closed.close()
    for stream in (None, closed):
        monkeypatch.setattr(sys, "stderr", stream)
        bar = Progress()
        bar.start(1, "squares")
        bar.advance()
        bar.close()


def test_advance_is_cheap(capsys: pytest.CaptureFixture[str]) -> None:
    """Counting an item costs microseconds at most: 100,000 of them take well under a second."""
    bar = Progress()
    bar.start(100_000, "squares")
    started = time.thread_time()  # not the clock's: the machine may be at something else
    for _ in range(100_000):
        bar.advance()
    assert time.thread_time() - started < 1
    bar.close()


def test_advance_without_start() -> None:
    """An instance that was never started shows nothing."""
    bar = Progress()
    bar.advance()
    bar.close()
