"""Jobs that are killed: a process that has imported everything forks one for each line that it reads.

A line has four words: the journal, a log, where to run (loop, thread, process), and how many items. The job appends the
number of each result that it was given to the log. The answer is the job's process id, and to the next line, which is
empty, its status when it has ended.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import sys

import asyncpar
import asyncpar.journal.replay
import asyncpar.lanes
import asyncpar.process
import asyncpar.thread


def expected(number: int) -> tuple[int, bytes]:
    """What the work returns: of very different sizes, so that rows span pages."""
    digest = hashlib.sha256(b"%d" % number).digest()
    return number, digest * (1 + digest[0] ** 2 // 400)


def work(number: int) -> tuple[int, bytes]:
    return expected(number)


async def work_async(number: int) -> tuple[int, bytes]:
    await asyncio.sleep(0)
    return expected(number)


async def run(journal: str, log: str, place: str, count: int) -> None:
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    async with asyncpar.open_runtime():
        if place == "loop":
            results = asyncpar.map(work_async, range(count), ordered=False, journal=journal)
        else:
            results = asyncpar.map(work, range(count), on=place, ordered=False, limit=256, journal=journal)
        async for number, content in results:
            assert (number, content) == expected(number)
            os.write(out, number.to_bytes(4))
    os.close(out)


def main() -> None:
    for line in sys.stdin:
        journal, log, place, count = line.split()
        pid = os.fork()
        if not pid:
            status = 1
            try:
                asyncio.run(run(journal, log, place, int(count)))
                status = 0
            finally:
                os._exit(status)
        print(pid, flush=True)
        sys.stdin.readline()  # until then its number is its own
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
