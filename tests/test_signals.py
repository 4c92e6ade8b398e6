"""Programs that are interrupted, terminated and killed; what scripts print; where their functions are found."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import zipapp
from contextlib import contextmanager, suppress
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING

import psutil
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = str(Path(__file__).parents[1])
BUSY = """
    import asyncio, os, sys, time
    import asyncpar
    from tests import process_functions as far

    async def main():
        async with asyncpar.ProcessPool(2) as pool:
            await pool.map(far.double, range(100))
            print("ready", pool.nursery.process.pid, *pool.pids, flush=True)
            try:
                await pool.map(far.{function}, [1000.0] * 8)
            finally:
                print("cleaned up", flush=True)

    if __name__ == "__main__":
        asyncpar.run(main)
"""


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": ROOT}


def run(code: str, tmp_path: Path, *, command: bool = False) -> subprocess.CompletedProcess[str]:
    """Run a script, or with ``command`` the same by ``python -c``."""
    code = dedent(code)
    script = tmp_path / "script.py"
    script.write_text(code)
    arguments = ["-c", code] if command else [str(script)]
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=150,
        check=False,
    )


@contextmanager
def busy(tmp_path: Path, function: str) -> Iterator[tuple[subprocess.Popen[str], list[psutil.Process]]]:
    """A program whose workers are busy, in a process group of its own, and the processes it has made."""
    script = tmp_path / "busy.py"
    script.write_text(dedent(BUSY).format(function=function))
    with subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(), start_new_session=True,
    ) as program:  # fmt: skip
        try:
            assert program.stdout is not None
            word, *pids = program.stdout.readline().split()
            assert word == "ready"
            family = [psutil.Process(int(pid)) for pid in pids]
            time.sleep(0.2)
            yield program, family
        finally:
            program.kill()
            kill(family)


def kill(family: list[psutil.Process]) -> None:
    for process in family:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def all_gone(family: list[psutil.Process]) -> bool:
    """Whether every one of the processes ends."""
    give_up = time.monotonic() + 50
    while any(map(_is_there, family)):
        if time.monotonic() > give_up:
            return False
        time.sleep(0.01)
    return True


def _is_there(process: psutil.Process) -> bool:
    """A zombie that nobody reaps is not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("function", ["nap", "spin"])
@pytest.mark.parametrize("whom", ["process", "group"])
def test_one_ctrl_c_suffices(tmp_path, function, whom):
    with busy(tmp_path, function) as (program, family):
        if whom == "group":
            os.killpg(program.pid, signal.SIGINT)
        else:
            program.send_signal(signal.SIGINT)
        out, errors = program.communicate(timeout=50)  # not the thousand seconds of the calls
        assert program.returncode == 130, errors
        assert out == "cleaned up\n"
        assert errors.count("Traceback") <= 1  # our own, if any: workers are silent
        assert all_gone(family)


STILL = """
    import asyncio, time
    import asyncpar
    from tests import process_functions as far

    def spin_quietly(seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            pass

    async def hold():
        spin_quietly(1000)

    async def main():
        async with asyncpar.InlinePool() as pool:
            print("ready", flush=True)
            try:
                {body}
            finally:
                await asyncio.sleep(0.01)
                print("cleaned up", await pool.run(abs, -1), flush=True)

    if __name__ == "__main__":
        asyncpar.run(main)
"""


HOLDERS = [
    "await pool.run(time.sleep, 1000)",
    "time.sleep(1000)",
    "await pool.run(spin_quietly, 1000)",
    "await pool.map(time.sleep, [1000, 1000])",
    "await hold()",
    "await asyncio.create_task(hold())",
    "task = asyncio.create_task(hold()); await asyncio.sleep(1000)",
    "asyncio.get_running_loop().call_soon(spin_quietly, 1000); await asyncio.sleep(1000)",
]


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize(
    ("number", "code", "body"),
    [(signal.SIGINT, 130, body) for body in HOLDERS] + [(signal.SIGTERM, 143, body) for body in HOLDERS[:2]],
)
def test_one_signal_suffices_where_the_loop_stands_still(tmp_path, body, number, code, loop):
    script = tmp_path / "still.py"
    script.write_text(dedent(STILL).format(body=body))
    blocked = "import sys; sys.modules['uvloop'] = None; " if loop == "asyncio" else ""
    with subprocess.Popen(
        [sys.executable, "-c", f"{blocked}import runpy; runpy.run_path({str(script)!r}, run_name='__main__')"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(),
    ) as program:  # fmt: skip
        try:
            assert program.stdout is not None
            assert program.stdout.readline() == "ready\n"
            time.sleep(0.05)
            program.send_signal(number)
            out, errors = program.communicate(timeout=50)  # not the thousand seconds that the function takes
        finally:
            program.kill()
    assert (out, errors) == ("cleaned up 1\n", "")
    assert program.returncode == code


def test_sigterm_ends_the_program_in_order(tmp_path):
    with busy(tmp_path, "spin") as (program, family):
        program.send_signal(signal.SIGTERM)
        out, errors = program.communicate(timeout=50)
        assert program.returncode == 143, errors
        assert out == "cleaned up\n"
        assert all_gone(family)


def test_workers_go_when_the_program_is_killed(tmp_path):
    with busy(tmp_path, "spin") as (program, family):
        program.kill()
        program.wait()
        assert all_gone(family)


def test_a_kill_in_the_midst_of_work_leaves_nobody_and_nothing_is_said(tmp_path):
    """Idle workers notice first, and the zygote tells so while nobody listens any more."""
    script = tmp_path / "half_busy.py"
    script.write_text(
        dedent("""
        import asyncio
        import asyncpar
        from tests import process_functions as far

        async def main():
            async with asyncpar.ProcessPool(4) as pool:
                await asyncio.gather(*[pool.run(far.nap, 0.05) for _ in range(4)])
                call = asyncio.create_task(pool.run(far.spin, 1000.0))
                while len(pool.pids) < 4:
                    await asyncio.sleep(0.01)
                await asyncio.sleep(0.1)
                print(pool.nursery.process.pid, *pool.pids, flush=True)
                await call

        if __name__ == "__main__":
            asyncpar.run(main)
        """)
    )
    for _ in range(8):
        with subprocess.Popen(
            [sys.executable, str(script)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(), start_new_session=True,
        ) as program:  # fmt: skip
            assert program.stdout is not None
            family = [psutil.Process(int(pid)) for pid in program.stdout.readline().split()]
            assert len(family) == 5
            program.kill()
            try:
                assert all_gone(family)
            finally:
                kill(family)
            assert program.communicate(timeout=50) == ("", "")


def test_ctrl_c_at_every_moment(tmp_path):
    """From the first import to the last line."""
    script = tmp_path / "short.py"
    script.write_text(
        dedent("""
        import signal, sys
        signal.signal(signal.SIGINT, signal.default_int_handler)
        print("begun", flush=True)
        import asyncpar
        from tests import process_functions as far

        async def main():
            async with asyncpar.ProcessPool(2) as pool:
                await pool.map(far.nap, [0.01] * 20)

        if __name__ == "__main__":
            asyncpar.run(main)
        """)
    )
    for delay in (0.02, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4):
        before = {p.pid for p in psutil.process_iter()}
        with subprocess.Popen(
            [sys.executable, str(script)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(), start_new_session=True,
        ) as program:  # fmt: skip
            assert program.stdout is not None
            program.stdout.readline()
            time.sleep(delay)
            if program.poll() is None:
                os.killpg(program.pid, signal.SIGINT)
            _, errors = program.communicate(timeout=50)
            assert program.returncode in (0, 130, -signal.SIGINT), errors
        left = [
            p for p in psutil.process_iter() if p.pid not in before and "asyncpar" in " ".join(_command(p))
        ]
        assert all_gone(left)


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline() if process.environ().get("PYTHONPATH") == ROOT else []
    except psutil.Error:
        return []


# Scripts


def test_functions_of_a_script_are_found(tmp_path):
    done = run(
        """
        import asyncpar

        def triple(x):
            return 3 * x

        async def main():
            async with asyncpar.ProcessPool(2) as pool:
                print(await pool.run(triple, 2), await pool.map(triple, range(5)))
            print(await asyncpar.to_process(triple, 4))

        if __name__ == "__main__":
            asyncpar.run(main)
        """,
        tmp_path,
    )
    assert (done.stdout, done.stderr) == ("6 [0, 3, 6, 9, 12]\n12\n", "")
    assert done.returncode == 0


@pytest.mark.parametrize("start", ["asyncpar.run(main)", "import asyncio; asyncio.run(main())"])
def test_a_script_without_a_guard_gets_a_clear_error(tmp_path, start):
    done = run(
        f"""
        import asyncpar

        def triple(x):
            return 3 * x

        async def main():
            async with asyncpar.ProcessPool(2) as pool:
                print(await pool.run(triple, 2))

        {start}
        """,
        tmp_path,
    )
    assert done.returncode == 1
    assert "NestedPoolError" in done.stderr
    assert '__name__ == "__main__"' in done.stderr.replace("\\'", "'").replace('\\"', '"')


@pytest.mark.parametrize(("preload", "times"), [("", 3), ('preload=["__main__"]', 2)])
def test_a_script_is_run_once_for_all_workers_if_it_is_preloaded(tmp_path, preload, times):
    done = run(
        f"""
        import asyncio, os
        import asyncpar

        os.write(1, b"imported ")

        def triple(x):
            return 3 * x

        async def main():
            async with asyncpar.ProcessPool(2, {preload}) as pool:
                assert await asyncio.gather(*[pool.run(triple, x) for x in range(2)]) == [0, 3]

        if __name__ == "__main__":
            asyncpar.run(main)
        """,
        tmp_path,
    )
    assert (done.stdout, done.stderr) == ("imported " * times, "")


def test_functions_of_an_interactive_session_are_refused_with_a_way_out(tmp_path):
    done = run(
        """
        import asyncpar

        def triple(x):
            return 3 * x

        async def main():
            async with asyncpar.ProcessPool(1, functions="by_value") as pool:
                print(await pool.run(triple, 2))
            async with asyncpar.ProcessPool(1) as pool:
                await pool.run(triple, 2)

        asyncpar.run(main)
        """,
        tmp_path,
        command=True,
    )
    assert done.stdout == "6\n"
    assert done.stderr.rstrip().endswith(
        "SerializationError: triple was defined in an interactive session, where workers cannot find it: "
        "put it in a module, or open the pool with functions='by_value'"
    )


APPLICATION = """
    import asyncpar

    class Box:
        def __init__(self, content):
            self.content = content

    def double(box):
        return Box(2 * box.content)

    async def main():
        async with asyncpar.ProcessPool(1{options}) as pool:
            made = await pool.run(double, Box(3))
            print(made.content, type(made) is Box, [b.content for b in await pool.map(double, [Box(1), Box(2)])])
            print((await pool.run(double, asyncpar.share(Box(4)))).content)

    if __name__ == "__main__":
        asyncpar.run(main)
"""


@pytest.mark.parametrize("kind", ["directory", "archive", "package", "input", "command"])
def test_programs_of_every_kind_find_their_functions_and_classes(tmp_path, kind):
    interactive = kind in ("input", "command")
    code = dedent(APPLICATION).format(options=', functions="by_value"' if interactive else "")
    application = tmp_path / "application"
    application.mkdir()
    (application / "__main__.py").write_text(code)
    zipapp.create_archive(application, tmp_path / "application.pyz")
    arguments = {
        "directory": ["application"],
        "archive": ["application.pyz"],
        "package": ["-m", "application"],
        "input": ["-"],
        "command": ["-c", code],
    }[kind]
    done = subprocess.run(
        [sys.executable, *arguments],
        input=code if kind == "input" else "",
        capture_output=True,
        text=True,
        env=environment(),
        cwd=tmp_path,
        timeout=150,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("6 True [2, 4]\n8\n", "")


def test_functions_that_came_by_standard_input_are_refused_with_a_way_out(tmp_path):
    code = dedent(APPLICATION).format(options="")
    done = subprocess.run(
        [sys.executable, "-"],
        input=code, capture_output=True, text=True, env=environment(), cwd=tmp_path, timeout=150, check=False,
    )  # fmt: skip
    assert done.stderr.rstrip().endswith(
        "SerializationError: double was defined in an interactive session, where workers cannot find it: "
        "put it in a module, or open the pool with functions='by_value'"
    )


def test_print_goes_to_the_real_stdout(tmp_path):
    done = run(
        """
        import asyncpar
        from tests import process_functions as far

        async def main():
            async with asyncpar.ProcessPool(2) as pool:
                await pool.map(far.speak, [f"line {i} é" for i in range(200)])

        if __name__ == "__main__":
            asyncpar.run(main)
        """,
        tmp_path,
    )
    assert sorted(done.stdout.splitlines()) == sorted(f"line {i} é" for i in range(200))
    assert done.stderr == ""


def test_large_buffers_without_numpy(tmp_path):
    done = run(
        """
        import pickle, sys
        import asyncpar
        from tests import process_functions as far

        async def main():
            async with asyncpar.ProcessPool(1) as pool:
                for size in (100, 200_000, 3_000_000):
                    for kind in (bytes, bytearray, pickle.PickleBuffer):
                        name, n, last = await pool.run(far.check_bytes, kind(b"x" * size))
                        assert (n, last) == (size, ord("x")), (name, n, last)
                        made = await pool.run(far.make_bytes, size, kind.__name__)
                        assert bytes(made) == bytes([size % 251]) * size
            print("numpy" in sys.modules)

        if __name__ == "__main__":
            asyncpar.run(main)
        """,
        tmp_path,
    )
    assert (done.stdout, done.stderr) == ("False\n", "")
