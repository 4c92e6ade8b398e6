"""`python -m asyncpar_mpi SCRIPT`: which part a process takes, how the job ends, and with which code."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

pytest.importorskip("mpi4py", reason="needs the extra 'mpi'")

from tests.adapters import mpi_jobs

SLOW_MAP = """
def work(x):
    time.sleep(0.02)
    return x

async def main():
    got = []
    try:
        async with asyncpar.open_pool() as pool:
            async for value in pool.map(work, range(100_000)):
                got.append(value)
                if value == 3:
                    open("begun", "w").close()
    finally:
        print("cleaned up", len(got) > 3, got == list(range(len(got))), flush=True)
"""


def job(folder, text, *options, ranks=3):
    return mpi_jobs.run(ranks, *options, mpi_jobs.script(folder, text), folder=folder)


def by_itself(folder, text, **environ):
    """Run a script as a process that thinks that a launcher made it."""
    done = subprocess.run(
        [sys.executable, "-m", "asyncpar_mpi", mpi_jobs.script(folder, text)],
        cwd=folder, env=mpi_jobs.environment(folder) | environ, capture_output=True, text=True, timeout=150, check=False,
    )  # fmt: skip
    return mpi_jobs.Job(done.returncode, done.stdout, done.stderr)


def signalled(folder, text, number):
    """Start a job, send its launcher a signal once it has results, and wait for its end."""
    process = mpi_jobs.start(3, mpi_jobs.script(folder, text), folder=folder)
    end = time.monotonic() + 100
    while not (folder / "begun").exists() and time.monotonic() < end:
        time.sleep(0.01)
    with open(f"/proc/{process.pid}/task/{process.pid}/children") as children:
        os.kill(int(children.read().split()[0]), number)
    out, err = process.communicate(timeout=150)
    return mpi_jobs.Job(process.returncode, out, err)


# -- parts


def test_open_pool_is_ranks_under_the_launcher(tmp_path):
    """The same script: rank 0 runs it, the others are its workers, whose lines are tagged."""
    text = """
def work(x):
    print("at work")
    return x + os.getppid() * 0

async def main():
    async with asyncpar.open_pool() as pool:
        print(type(pool).__name__, pool.workers, await pool.map(work, range(4)), sys.argv[1:])
"""
    done = mpi_jobs.run(3, mpi_jobs.script(tmp_path, text), "--n", "5", folder=tmp_path)
    assert done.code == 0, done.err
    lines = done.out.split("\n")
    assert "MPIPool 2 [0, 1, 2, 3] ['--n', '5']" in lines
    assert sum(line in ("[1] at work", "[2] at work") for line in lines) == 4


def test_on_one_rank_it_runs_on_processes_and_says_so(tmp_path):
    """Without a launcher, or with one rank, mpi4py is not even imported."""
    text = """
async def main():
    async with asyncpar.open_pool() as pool:
        print(type(pool).__name__, await pool.run(abs, -3), "mpi4py" in sys.modules)
"""
    for done in (by_itself(tmp_path, text), job(tmp_path, text, ranks=1)):
        assert done.code == 0, done.err
        assert done.out == "ProcessPool 3 False\n"
        assert "one rank: running on processes; for ranks start it with 'asyncpar mpi -n 4 ...'" in done.err


def test_a_module_is_run_as_python_does(tmp_path):
    """`-m NAME`, with the current folder first in the path, and workers find its functions."""
    mpi_jobs.script(tmp_path, "def f(x): return x * 2\n\nasync def main():\n"
                    "    async with asyncpar.open_pool() as pool: print(await pool.map(f, [1, 2]), __name__)")  # fmt: skip
    done = mpi_jobs.run(2, "-m", "job", folder=tmp_path)
    assert (done.code, done.out) == (0, "[2, 4] __main__\n"), done.err


def test_one_log_file_for_each_rank(tmp_path):
    """`--log-dir`: what the rank prints and what its children print, untagged; nothing on the common streams."""
    text = """
def work(x):
    print("at work", flush=True)
    os.system("echo child")

async def main():
    async with asyncpar.open_pool() as pool:
        await pool.map(work, range(6))
        print("leader", file=sys.stderr)
"""
    done = job(tmp_path, text, "--log-dir", tmp_path / "logs")
    assert (done.code, done.out, done.err) == (0, "", "")
    logs = {path.name: path.read_text() for path in (tmp_path / "logs").iterdir()}
    assert sorted(logs) == ["rank-0.log", "rank-1.log", "rank-2.log"]
    assert logs["rank-0.log"] == "leader\n"
    assert (logs["rank-1.log"] + logs["rank-2.log"]).count("at work\n") == 6
    assert (logs["rank-1.log"] + logs["rank-2.log"]).count("child\n") == 6


# -- launchers that do not fit


def test_the_launcher_of_another_mpi_is_refused(tmp_path):
    """It would start N jobs of one rank, or abort somewhere in MPI: each says so, with advice, before MPI starts."""
    text = "async def main():\n    print('ran')"
    done = by_itself(tmp_path, text, OMPI_COMM_WORLD_SIZE="4", OMPI_COMM_WORLD_RANK="0")
    assert (done.code, done.out) == (2, "")
    assert "Open MPI's mpiexec started 4 ranks, but mpi4py uses MPICH" in done.err
    assert "start the program with the mpiexec of MPICH, which 'asyncpar mpi -n 4 SCRIPT' finds" in done.err
    done = by_itself(tmp_path, text, OMPI_COMM_WORLD_SIZE="4", OMPI_COMM_WORLD_RANK="3")
    assert (done.code, done.out, done.err) == (2, "", "")  # said once


def test_ranks_that_do_not_see_each_other_are_refused(tmp_path):
    """As `srun --mpi=none` starts them."""
    done = by_itself(
        tmp_path, "async def main():\n    print('ran')", SLURM_STEP_NUM_TASKS="4", SLURM_PROCID="0"
    )
    assert (done.code, done.out) == (2, "")
    assert "srun started 4 ranks, but MPI sees 1" in done.err
    assert "srun --mpi=pmi2" in done.err


# -- ends


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        ("sys.exit(3)", 3, ""),
        ("sys.exit('no input')", 1, "no input"),
        ("raise KeyError('mine')", 1, "in main\n    raise KeyError('mine')\nKeyError: 'mine'"),
        ("await asyncpar.open_pool().__aenter__(); sys.exit(4)", 4, ""),
    ],
)
def test_the_exit_code_is_the_scripts(tmp_path, body, code, said):
    """Also where a pool was left open; a traceback begins in the script."""
    done = job(tmp_path, f"async def main():\n    {body}")
    assert done.code == code
    assert said in done.err
    assert "asyncpar_mpi/job.py" not in done.err


def test_an_error_in_a_call_ends_the_job_with_both_tracebacks(tmp_path):
    """The script's, and that of the rank."""
    done = job(tmp_path, "def f(x): return 1 / x\n\nasync def main():\n"
               "    async with asyncpar.open_pool() as pool: await pool.map(f, [0])")  # fmt: skip
    assert done.code == 1
    assert "in main" in done.err
    assert "Traceback in worker" in done.err
    assert "ZeroDivisionError" in done.err


def test_an_error_in_a_rank_itself_ends_the_job(tmp_path):
    """Outside any call: the rank prints its traceback, and no other rank waits for it."""
    text = """
def break_it():
    from asyncpar_mpi import worker
    worker.Rank.note = lambda self, arrival: 1 / 0

async def main():
    async with asyncpar.open_pool() as pool:
        await pool.run(break_it)
        await pool.run(break_it)
        await asyncio.sleep(100)
"""
    done = job(tmp_path, text, ranks=2)
    assert done.code not in (0, 124, 137)
    assert "ZeroDivisionError" in done.err + done.out


def test_under_mpich_a_killed_rank_ends_the_job(tmp_path):
    """With the signal in the code, at once: MPICH does not outlive its ranks."""
    done = job(tmp_path, "def f(x): os.kill(os.getpid(), 9)\n\nasync def main():\n"
               "    async with asyncpar.open_pool() as pool: await pool.map(f, [0])")  # fmt: skip
    assert done.code == 9


def test_ctrl_c_cleans_up_and_ends_with_130(tmp_path):
    done = signalled(tmp_path, SLOW_MAP, signal.SIGINT)
    assert done.code == 130, done.err
    assert "cleaned up True True\n" in done.out


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_a_drained_job_hands_out_what_it_finished_and_ends_with_75(tmp_path, number):
    """Nothing more is started; the map raises after its results, and `finally` runs."""
    done = signalled(tmp_path, SLOW_MAP, number)
    assert done.code == 75, done.err
    assert done.out == "cleaned up True True\n"
    assert "the job was told to end: what ran was finished, and nothing more is started" in done.err
    assert "Traceback" not in done.err


def test_a_second_sigterm_ends_a_job_that_does_not_come_to_its_end(tmp_path):
    """Rank 0 dies of it, and the launcher ends the others."""
    text = """
async def main():
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(100)
"""
    done = job(tmp_path, text)
    assert done.code in (signal.SIGTERM, 128 + signal.SIGTERM)


def test_a_drain_ends_every_kind_of_call(tmp_path):
    """Maps from sync and async sources, ordered or not, retries that wait, single calls that wait; what runs ends well."""
    text = """
import asyncpar_mpi

def work(x):
    time.sleep(0.05)
    return x

def fail(x):
    raise ConnectionError

async def numbers():
    for i in range(100_000):
        yield i

async def until_drained(results, got):
    try:
        async for value in results:
            got.append(value)
    except asyncpar_mpi.DrainedError:
        return len(got) > 0
    return "not drained"

async def main():
    async with asyncpar.open_pool() as pool:
        maps = [pool.map(work, range(100_000)), pool.map(work, numbers(), ordered=False), pool.map(work, numbers())]
        got = [[] for _ in maps]
        readers = [asyncio.create_task(until_drained(*each)) for each in zip(maps, got)]
        again = pool.map(fail, [1], retries=10**6, retry_on=ConnectionError)
        retried = asyncio.create_task(until_drained(again, []))
        while not all(got) or not again.statistics().retried:
            await asyncio.sleep(0.01)
        calls = [asyncio.create_task(pool.run(work, i)) for i in range(20)]
        await asyncio.sleep(0.01)
        os.kill(os.getpid(), signal.SIGUSR1)
        print(await asyncio.gather(*readers, retried))
        ends = await asyncio.gather(*calls, return_exceptions=True)
        print({type(end).__name__ for end in ends} <= {"int", "DrainedError"}, pool.statistics().running)
        try:
            await pool.run(work, 1)
        except asyncpar_mpi.DrainedError:
            print("refused")
    sys.exit(7)
"""
    done = job(tmp_path, text)
    assert done.out == "[True, True, True, False]\nTrue 0\nrefused\n", done.err
    assert done.code == 7  # the script's own goes before


def test_a_drain_that_comes_when_all_is_done_changes_nothing(tmp_path):
    """The job has its results: there is nothing to run again."""
    text = """
async def main():
    async with asyncpar.open_pool() as pool:
        print(await pool.map(abs, [-1, -2]))
    os.kill(os.getpid(), signal.SIGUSR1)
    await asyncio.sleep(0.05)
"""
    done = job(tmp_path, text)
    assert (done.code, done.out) == (0, "[1, 2]\n"), done.err


def test_a_call_that_ignores_everything_does_not_hold_up_the_end(tmp_path):
    """Its caller is freed by the timeout, other ranks go on, and the job ends with the script's code."""
    text = """
def stubborn(x):
    while True:
        try:
            time.sleep(60)
        except BaseException:
            pass

async def main():
    async with asyncpar.open_pool() as pool:
        [error] = await pool.map(stubborn, [1], timeout=0.2, return_exceptions=True)
        print(error)
        print(await pool.map(abs, range(3)))
"""
    done = job(tmp_path, text)
    assert done.code == 0
    assert done.out.startswith("__main__.stubborn ran longer than timeout=0.2 seconds\n[0, 1, 2]\n")
    assert "ending the job, though still in a call: rank 1" in done.err


STOPPED = """
import asyncpar.testing.functions as f

def stop(x):
    f.mark("ran", str(x))
    if x == 1:
        f.mark("stopped", str(os.getpid()))
        os.kill(os.getpid(), signal.SIGSTOP)
    return x

async def until(condition):
    while not condition():
        await asyncio.sleep(0.01)
"""


def test_a_stopped_rank_is_caught_by_the_timeout(tmp_path):
    """SIGSTOP: it says nothing more, but its call ends, those that travelled with it run elsewhere, and the job ends."""
    text = """
async def main():
    async with asyncpar.open_pool() as pool:
        await pool.map(stop, [0] * 10)  # it is known to be trivial now
        got = await pool.map(stop, range(6), timeout=1, return_exceptions=True)
        print([type(x).__name__ for x in got])
"""
    done = job(tmp_path, STOPPED + text)
    assert done.out.startswith("['int', 'CallTimeoutError', 'int', 'int', 'int', 'int']\n"), done.err
    assert done.code == 0


def test_calls_behind_a_stopped_one_are_not_sent_to_its_rank_again(tmp_path):
    """Though it is the only one that has nothing to do when it is given up."""
    text = """
async def main():
    async with asyncpar.open_pool(window=1) as pool:
        await pool.map(stop, [0] * 10)
        held = asyncio.create_task(pool.run(f.hold, "held"))
        await until(lambda: f.lines("held.begun"))
        got = []
        async for x in pool.map(stop, range(6), chunksize=6, timeout=0.5, return_exceptions=True):
            got.append(type(x).__name__)
            if isinstance(x, asyncpar.CallTimeoutError):
                f.release("held")
        print(got)
        await held
"""
    done = job(tmp_path, STOPPED + text)
    assert done.out.startswith("['int', 'CallTimeoutError', 'int', 'int', 'int', 'int']\n"), done.err
    assert done.code == 0


def test_a_chunk_that_is_pickled_while_its_rank_is_given_up_goes_elsewhere(tmp_path):
    """It is in nobody's hands then."""
    text = """
class Large:
    nbytes = 1 << 30  # so that it is pickled in the thread

    def __reduce__(self):
        f.mark("pickling")
        f.wait_for_file("pickle")
        return int, ()

async def main():
    async with asyncpar.open_pool() as pool:
        await pool.map(stop, [0] * 10)
        held = asyncio.create_task(pool.run(f.hold, "held"))
        await until(lambda: f.lines("held.begun"))
        stopped = asyncio.create_task(pool.run_within(0.5, stop, 1))
        await until(lambda: f.lines("stopped"))
        behind = asyncio.create_task(pool.run(stop, 2))  # the one that is held: the next goes to the other rank
        await until(lambda: pool.statistics().running == 3)
        large = asyncio.create_task(pool.map(stop, [Large()])._list())
        await until(lambda: f.lines("pickling"))
        await asyncio.wait([stopped])
        f.release("pickle")
        await asyncio.sleep(0.1)
        f.release("held")
        print(type(stopped.exception()).__name__, await large, await held, await behind)
"""
    done = job(tmp_path, STOPPED + text)
    assert done.out.startswith("CallTimeoutError [0] None 2\n"), done.err
    assert done.code == 0


def test_a_rank_that_goes_on_runs_nothing_that_went_elsewhere(tmp_path):
    """It is as good as before then."""
    text = """
async def main():
    async with asyncpar.open_pool() as pool:
        await pool.map(stop, [0] * 10)
        got = await pool.map(stop, range(2, -100, -1), chunksize=50, timeout=0.5, return_exceptions=True)
        print([type(x).__name__ for x in got if not isinstance(x, int)], len(f.lines("ran")))
        [pid] = f.lines("stopped")
        os.kill(int(pid), signal.SIGCONT)
        pids = set()
        while int(pid) not in pids:
            pids.update(await asyncio.gather(*[pool.run(os.getpid) for _ in range(8)]))
        print(len(f.lines("ran")))
"""
    done = job(tmp_path, STOPPED + text)
    assert (done.code, done.out) == (0, "['CallTimeoutError'] 112\n112\n"), done.err


def test_a_map_is_left_though_its_rank_is_stopped(tmp_path):
    """With calls behind the stopped one; the pool goes on."""
    text = """
async def main():
    async with asyncpar.open_pool() as pool:
        await pool.map(stop, [0] * 10)
        async with pool.map(stop, range(20), chunksize=5):
            await until(lambda: f.lines("stopped"))
        print(pool.statistics().running, await pool.map(abs, range(3)))
"""
    done = job(tmp_path, STOPPED + text)
    assert done.out.startswith("0 [0, 1, 2]\n"), done.err
    assert done.code == 0


def test_an_actor_does_not_wait_for_a_rank_that_is_given_up(tmp_path):
    """It takes another, as soon as that has nothing to do."""
    text = """
class Actor:
    def pid(self):
        return os.getpid()

async def main():
    async with asyncpar.open_pool() as pool:
        stopped = asyncio.create_task(pool.run_within(0.5, stop, 1))
        await until(lambda: f.lines("stopped"))
        held = asyncio.create_task(pool.run(f.hold, "held"))
        await until(lambda: f.lines("held.begun"))

        async def act():
            async with pool.actor(Actor) as actor:
                return await actor.run(Actor.pid)

        pid = asyncio.create_task(act())
        await asyncio.wait([stopped])
        f.release("held")
        print(type(stopped.exception()).__name__, await pid != int(f.lines("stopped")[0]), await held, pool.workers)
"""
    done = job(tmp_path, STOPPED + text)
    assert done.out.startswith("CallTimeoutError True None 2\n"), done.err
    assert done.code == 0


@pytest.mark.parametrize("timeout", [None, 0.5])
def test_a_drain_does_not_wait_for_a_stopped_rank(tmp_path, timeout):
    """Calls that it had ended are handed out, and those behind it are not started."""
    text = f"""
async def main():
    async with asyncpar.open_pool() as pool:
        await pool.map(stop, [0] * 10)
        got = []
        results = pool.map(stop, range(2, -200_000, -1), timeout={timeout}, return_exceptions=True)
        try:
            async for x in results:
                got.append(x)
                if x == 2:
                    await until(lambda: f.lines("stopped"))
                    calls = [asyncio.create_task(pool.run(stop, x)) for x in (3, 4)]
                    os.kill(os.getpid(), signal.SIGUSR1)
        finally:
            ends = await asyncio.gather(*calls, return_exceptions=True)
            print(got[0], {{type(x).__name__ for x in ends}} <= {{"int", "DrainedError"}})
"""
    done = job(tmp_path, STOPPED + text)
    assert done.out.startswith("2 True\n"), done.err  # the launcher may add words
    assert done.code == 75


def test_sigterm_ends_a_drain_that_waits_for_a_call(tmp_path):
    """The script comes to its end all the same: SIGUSR1 was the warning, and now the time is over."""
    text = """
def stubborn(x):
    f.mark("stubborn")
    while True:
        try:
            time.sleep(60)
        except BaseException:
            pass

async def main():
    try:
        async with asyncpar.open_pool() as pool:
            call = asyncio.create_task(pool.run(stubborn, 1))
            await until(lambda: f.lines("stubborn"))
            os.kill(os.getpid(), signal.SIGUSR1)
            await asyncio.wait([call], timeout=0.3)
            print(call.done())
            os.kill(os.getpid(), signal.SIGTERM)
            await call
    finally:
        print("cleaned up")
"""
    done = job(tmp_path, STOPPED + text)
    assert done.out.startswith("False\ncleaned up\n"), done.err
    assert done.code == 75


def test_a_pool_says_that_every_rank_is_given_up(tmp_path):
    """What waits then, waits for one of them; a drain ends that."""
    text = """
async def main():
    async with asyncpar.open_pool() as pool:
        await pool.map(stop, [0] * 10)
        got = []
        async for x in pool.map(stop, range(6), timeout=0.3, return_exceptions=True):
            got.append(x)
            if len(got) == 2:
                asyncio.get_running_loop().call_later(0.1, os.kill, os.getpid(), signal.SIGUSR1)
"""
    done = job(tmp_path, STOPPED + text, ranks=2)
    assert done.code == 75, done.err
    assert (
        "every rank of this pool is in a call that went on when it was stopped; others wait until one ends"
        in done.err
    )
