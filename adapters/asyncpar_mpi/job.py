"""A job: rank 0 runs the script, the others serve, and all come to one end, with one exit code."""

from __future__ import annotations

import os
import re
import runpy
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from asyncpar_mpi import output
from asyncpar_mpi.errors import DrainedError
from asyncpar_mpi.launch import LaunchError, check_library, check_size, find_launch

FINISH_SECONDS = 1.0
"""How long ranks may take to come to an end after the script, before the job is aborted."""


def run(command: Sequence[str], module: bool, log_dir: Path | None) -> int:
    """Be this process's part of the job; return the exit code.

    :param command: the script, or the module's name, and its arguments
    :param module: whether it is a module
    :param log_dir: a folder for one file of output for each rank
    """
    launch = find_launch()
    if launch is None or launch.size < 2:
        print(
            "asyncpar_mpi: one rank: running on processes; for ranks start it with 'asyncpar mpi -n 4 ...'",
            file=sys.stderr,
        )
        return exit_code(command, module)
    try:
        check_library(launch)
        from mpi4py import MPI

        if not MPI.Is_initialized():
            from asyncpar_mpi.faults import prepare

            prepare()
            MPI.Init_thread()
            import atexit

            atexit.register(_finalize)
        check_size(launch, MPI.COMM_WORLD.size)
    except LaunchError as error:
        if launch.rank == 0:
            print(f"asyncpar_mpi: {error}", file=sys.stderr, flush=True)
        else:
            time.sleep(
                1.0
            )  # a launcher ends all ranks with the first that fails, and rank 0 has something to say
        return 2
    return _part(MPI.COMM_WORLD, command, module, log_dir)


def _finalize() -> None:
    from mpi4py import MPI

    if not MPI.Is_finalized():
        MPI.Finalize()


def _part(world: Any, command: Sequence[str], module: bool, log_dir: Path | None) -> int:
    if log_dir is not None:
        output.to_file(log_dir, world.rank, world.size)
    elif world.rank:
        output.tag(world.rank)
    try:
        world.Barrier()  # all have started, and have mapped what they share
        forget_files()
        if world.rank:
            _serve(world)
            return 0
        return _lead(world, command, module)
    except BaseException:  # whatever it is, no rank may wait for this one
        traceback.print_exc()
        _abort(world, 1)


def _serve(world: Any) -> None:
    for number in (
        signal.SIGUSR1,
        signal.SIGTERM,
    ):  # launchers send them to every rank; rank 0 knows what to do
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGINT, lambda number, frame: None)
    from asyncpar_mpi.worker import serve

    serve(world)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, output.Tagged):
            stream.end()


def _lead(world: Any, command: Sequence[str], module: bool) -> int:
    from asyncpar_mpi import pool
    from asyncpar_mpi.fleet import Fleet

    fleet = pool.job = Fleet(world)
    os.environ.setdefault("ASYNCPAR_POOL", "mpi")

    def told(number: int, frame: object) -> None:
        if number == signal.SIGTERM and fleet.draining:  # SIGUSR1 was the warning, and now the time is over
            fleet.hurry()
        fleet.drain()
        if number == signal.SIGTERM:  # who says it again does not want to wait
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    for number in (signal.SIGUSR1, signal.SIGTERM):
        signal.signal(number, told)
    code = exit_code(command, module)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    if busy := fleet.finish(FINISH_SECONDS):
        names = ", ".join(map(str, busy))
        print(
            f"asyncpar_mpi: ending the job, though still in a call: rank {names}", file=sys.stderr, flush=True
        )
        _abort(world, code)
    return code


def forget_files() -> None:
    """Take MPICH's shared memory out of its folder, where it would stay if the job ends by a death or by ``Abort``."""
    try:
        maps = Path("/proc/self/maps").read_text()
    except OSError:  # not Linux
        return
    for path in set(re.findall(r"/dev/shm/mpich_shm_\S+$", maps, re.MULTILINE)):  # noqa: S108 - MPICH's name
        Path(path).unlink(missing_ok=True)


def _abort(world: Any, code: int) -> NoReturn:
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    world.Abort(code)
    os._exit(code)


def exit_code(command: Sequence[str], module: bool) -> int:
    """Run the script as ``__main__``; its exit code as Python and shells would have it, 75 if it was drained."""
    try:
        _run_main(command, module)
    except SystemExit as error:
        return _code(error)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BaseException as error:  # uncaught: it ends the program
        if _drained(error):
            print(f"asyncpar_mpi: {error}", file=sys.stderr)
            return DrainedError.exit_code
        error.__traceback__ = _below(error, command[0])
        sys.excepthook(type(error), error, error.__traceback__)
        return 1
    return 0


def _run_main(command: Sequence[str], module: bool) -> None:
    if module:
        sys.argv = list(command)
        sys.path[0] = str(Path.cwd())
        runpy.run_module(command[0], run_name="__main__", alter_sys=True)
        return
    path = Path(command[0]).absolute()  # workers import the script again, from wherever they are
    sys.argv = list(command)
    if not sys.flags.safe_path:
        sys.path[0] = str(path.resolve().parent)
    runpy.run_path(str(path), run_name="__main__")


def _code(error: SystemExit) -> int:
    if error.code is None:
        return 0
    if isinstance(error.code, int):
        return error.code & 0xFF
    print(error.code, file=sys.stderr)
    return 1


def _drained(error: BaseException) -> bool:
    """Whether this is a drain and nothing else, also in a group of task groups."""
    if isinstance(error, BaseExceptionGroup):
        return all(_drained(one) for one in error.exceptions)
    return isinstance(error, DrainedError)


def _below(error: BaseException, script: str) -> Any:
    """The part of the traceback that begins in the script: its user did not write the rest."""
    frames = whole = error.__traceback__
    path = str(Path(script).absolute())
    while frames is not None and frames.tb_frame.f_code.co_filename != path:
        frames = frames.tb_next
    return frames or whole
