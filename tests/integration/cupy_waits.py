"""300 waits for a stream, while another thread asks CuPy how far its own has come, which holds the GIL in the driver.

``callback``: as it is often done, with ``launch_host_func`` and ``call_soon_threadsafe``. ``pool``: with ``CuPyPool``.
Run with FAKEGPU_DRIVER_LOCK=1 in the environment; prints ``done`` at the end, if there is one.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading

import cupy as cp

from asyncpar_cupy import CuPyPool
from tests.fakegpu import control

WAITS, SECONDS = 300, 1e-4


def ask_for_ever():
    stream = cp.cuda.Stream(non_blocking=True)
    while True:
        stream.done  # noqa: B018 - asking is what it does


async def callback():
    loop = asyncio.get_running_loop()
    stream = cp.cuda.Stream(non_blocking=True)
    for _ in range(WAITS):
        happened = loop.create_future()
        control.delay(SECONDS, stream)
        stream.launch_host_func(lambda future: loop.call_soon_threadsafe(future.set_result, None), happened)
        await happened


async def pool():
    async with CuPyPool(streams=1) as gpu:
        for _ in range(WAITS):
            await gpu.run(control.delay, SECONDS)


threading.Thread(target=ask_for_ever, daemon=True).start()
asyncio.run({"callback": callback, "pool": pool}[sys.argv[1]]())
print("done", flush=True)
os._exit(0)  # the thread holds CuPy, which the interpreter would take apart
