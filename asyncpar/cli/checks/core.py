"""What every program needs: Python, cores, an event loop, memory that processes share."""

from __future__ import annotations

import asyncio
import mmap
import os
import platform
from collections.abc import Iterator

from asyncpar.cli.checks import Check, attempt
from asyncpar.cpus import allowed_cores, cgroup_quota, usable_cpus
from asyncpar.runtime import run

SIZE = 1 << 20  # bytes of shared memory to try


def examine() -> Iterator[Check]:
    """Yield the checks."""
    yield attempt("core", "Python", _python)
    yield attempt("core", "cores", _cores)
    yield attempt("core", "event loop", _event_loop)
    yield _shared_memory()


def _python() -> str:
    return (
        f"{platform.python_implementation()} {platform.python_version()} on {platform.platform(terse=True)}"
    )


def _cores() -> str:
    quota = cgroup_quota()
    quoted = "no cgroup quota" if quota is None else f"a cgroup quota of {quota:g}"
    return f"{usable_cpus()} usable: {os.cpu_count()} in the machine, {allowed_cores()} allowed by affinity, {quoted}"


def _event_loop() -> str:
    async def main() -> str:
        await asyncio.sleep(0)
        loop = type(asyncio.get_running_loop())
        return f"{loop.__module__}.{loop.__name__}"

    return run(main)


def _shared_memory() -> Check:
    if not hasattr(os, "memfd_create"):
        detail = "no memfd_create on this system: large arguments are copied through pipes"
        return Check("core", "shared memory", "missing", detail)
    return attempt("core", "shared memory", _memfd)


def _memfd() -> str:
    descriptor = os.memfd_create("asyncpar-doctor")
    try:
        os.ftruncate(descriptor, SIZE)
        with mmap.mmap(descriptor, SIZE) as writer, mmap.mmap(descriptor, SIZE) as reader:
            writer[-5:] = b"there"
            if reader[-5:] != b"there":
                raise OSError("what one mapping of a memfd wrote, another does not read")
    finally:
        os.close(descriptor)
    return "memfd: written in one mapping, read in another"
