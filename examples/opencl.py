"""Array work on a GPU's queues; with PoCL, on the processor: pip install "asyncpar[opencl-cpu]"."""

from typing import Any

import numpy as np

import asyncpar
from asyncpar_opencl import OpenCLPool, current_queue, kernel

SOURCE = """
kernel void wave(global float *x) { int i = get_global_id(0); x[i] = sin(x[i]) * sin(x[i]); }
"""


def wave(x: Any) -> Any:  # x is a pyopencl.array.Array on this call's queue
    x.add_event(kernel(SOURCE, "wave")(current_queue(), x.shape, None, x.data, wait_for=x.events))
    return x


async def main() -> None:
    print(asyncpar.device())
    async with OpenCLPool(streams=4, memory="256 MiB") as gpu:
        signal = np.linspace(0, 10, 100_000, dtype=np.float32)
        print(f"{(await gpu.run(wave, signal)).mean():.3f}")  # NumPy in, NumPy out
        parts = await gpu.map(
            wave, np.array_split(signal, 20)
        )  # copies of one overlap the computing of others
        print(f"{np.concatenate(parts).mean():.3f}")


if __name__ == "__main__":
    asyncpar.run(main)
