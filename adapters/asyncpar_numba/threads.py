"""``NumbaThreadPool``: threads that share the cores among parallel kernels."""

from __future__ import annotations

import warnings
from importlib import import_module
from typing import Any

from asyncpar.cpus import usable_cpus
from asyncpar.thread import Caller, ThreadPlace, ThreadPool
from asyncpar_numba import layer


class NumbaCaller(Caller):
    """Lets calls that may be parallel wait for each other, where numba's threading layer bears no two."""

    def __init__(self, pool: NumbaThreadPool) -> None:
        super().__init__()
        self.pool = pool

    def call(self, function: Any, args: Any, kwargs: Any) -> Any:
        if not self.pool.one_at_a_time or not layer.may_be_parallel(function):
            return super().call(function, args, kwargs)
        with layer.alone:
            return super().call(function, args, kwargs)


class NumbaThread(ThreadPlace):
    """A thread in which numba may use a part of the cores: numba keeps that number by thread."""

    pool: NumbaThreadPool

    def __init__(self, pool: NumbaThreadPool, number: int) -> None:
        super().__init__(pool, number)
        self.caller = NumbaCaller(pool)

    def serve(self) -> None:
        self.pool.numba.set_num_threads(self.pool.threads_per_worker)
        super().serve()


class NumbaThreadPool(ThreadPool):
    """A ``ThreadPool`` for numba's kernels: parallel ones share the cores, and cannot end the process.

    :param workers: how many threads; default: the CPUs this process may use (affinity and cgroup quota counted)
    :param threads_per_worker: threads that a parallel kernel (``parallel=True``, ``prange``) may use; default: an even
        share of the CPUs, so 1 with the default ``workers``, and all CPUs for ``NumbaThreadPool(1)``. A function that
        calls ``numba.set_num_threads`` itself changes it for its worker.
    :raises ImportError: from opening: numba is not installed
    :raises ValueError: from opening: ``threads_per_worker`` is more than numba was started with (NUMBA_NUM_THREADS)

    Numba runs parallel kernels on TBB, OpenMP or its own ``workqueue``, whatever is found first. The last ends the
    process when two threads run parallel kernels at once. Where it is all there is, opening a pool of several workers
    gives a ``RuntimeWarning``, and calls that may be parallel wait for each other, in all such pools of the process;
    numba functions that are compiled and have no parallel loop go on side by side. Kernels that the program calls
    itself, outside these pools, do not wait.

    Cancelling, timeouts and results are those of ``ThreadPool``: what runs cannot be stopped.
    """

    chunk_seconds = (
        1e-3  # five times ThreadPool's: a thread that waits for its next chunk is a core that idles
    )

    def __init__(self, workers: int | None = None, *, threads_per_worker: int | None = None) -> None:
        if workers is None:
            workers = usable_cpus()
        super().__init__(workers)
        if threads_per_worker is not None:
            if isinstance(threads_per_worker, bool) or not isinstance(threads_per_worker, int):
                raise TypeError(
                    f"threads_per_worker= must be a whole number, not {type(threads_per_worker).__name__}"
                )
            if threads_per_worker < 1:
                raise ValueError(f"threads_per_worker= must be at least 1, not {threads_per_worker}")
        self._threads_asked = threads_per_worker
        self.threads_per_worker = threads_per_worker or max(1, usable_cpus() // workers)
        self.one_at_a_time = False
        self.numba: Any = None

    async def _open(self) -> None:
        async with ThreadPool(1) as loader:
            self.numba = await loader.run(layer.load)
        most = self.numba.config.NUMBA_NUM_THREADS
        if self._threads_asked is not None and self._threads_asked > most:
            raise ValueError(
                f"threads_per_worker={self._threads_asked} is more than the {most} threads that numba was started "
                "with: set NUMBA_NUM_THREADS in the environment before numba is imported"
            )
        self.threads_per_worker = min(self.threads_per_worker, most)
        self.one_at_a_time = self.numba.threading_layer() == layer.UNSAFE
        if self.one_at_a_time and self.workers > 1:
            warnings.warn(
                "numba has only its threading layer 'workqueue' here, which ends the process when two threads run "
                "parallel kernels at once, so this pool runs them one at a time. Install OpenMP (Debian: apt install libgomp1), "
                "and leave NUMBA_THREADING_LAYER alone",
                RuntimeWarning,
                stacklevel=3,
            )

    def _thread(self, number: int) -> NumbaThread:
        return NumbaThread(self, number)

    def _solo(self) -> NumbaThreadPool:
        return NumbaThreadPool(1, threads_per_worker=self.threads_per_worker)


def compile_for(kernel: Any, *args: Any) -> None:
    """Compile ``kernel`` for arguments of these types, without running it: ``await pool.run(compile_for, kernel, x)``.

    On a thread the event loop goes on meanwhile. On a ``ProcessPool`` it is for kernels with ``cache=True``: the worker
    that compiles writes the cache, and the others load from it.

    :raises TypeError: ``kernel`` was not made by ``numba.njit`` or ``numba.jit``
    """
    numba: Any = import_module("numba")
    if not hasattr(kernel, "compile"):
        raise TypeError(
            f"compile_for() takes a function that numba.njit made, not {type(kernel).__name__}: decorate it"
        )
    kernel.compile(tuple(numba.typeof(value) for value in args))
