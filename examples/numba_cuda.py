"""Numba's CUDA kernels, awaited: brighten images on a GPU, copying one while another is computed.

Without a GPU, numba's simulator runs the kernel, in Python and slowly, hence the small images.

Needs numba: pip install "asyncpar[numba]", and for a GPU "asyncpar[numba-cuda]"
"""

from __future__ import annotations

import os
import shutil
from typing import Any

if not shutil.which("nvidia-smi"):
    os.environ.setdefault("NUMBA_ENABLE_CUDASIM", "1")  # numba reads it when it is imported

import numpy as np
from numba import cuda

import asyncpar
from asyncpar_numba import NumbaCUDAPool, current_stream

THREADS = 16, 16


@cuda.jit  # type: ignore[untyped-decorator]
def brighten(image: Any, result: Any, factor: float) -> None:
    row, column = cuda.grid(2)  # type: ignore[attr-defined] # made for kernels
    if row < image.shape[0] and column < image.shape[1]:
        result[row, column] = min(255, int(image[row, column] * factor))


def brightened(image: Any) -> Any:
    """On the device: NumPy arrays arrive there, and what is returned goes back."""
    stream = current_stream()
    result = cuda.device_array(image.shape, dtype=image.dtype, stream=stream)
    blocks = -(-image.shape[0] // THREADS[0]), -(-image.shape[1] // THREADS[1])
    brighten[blocks, THREADS, stream](image, result, 1.5)
    return result


async def main() -> None:
    random = np.random.default_rng(1)
    images = [random.integers(0, 256, (16, 24), dtype=np.uint8) for _ in range(6)]
    async with NumbaCUDAPool(streams=2) as gpu:
        after = await gpu.map(brightened, images)
        print(f"{gpu.workers} stream(s): {len(after)} images")
    for image, result in zip(images, after, strict=True):
        assert np.array_equal(result, np.minimum(255, image * 1.5).astype(np.uint8))
    print(f"mean brightness {np.mean(images):.0f}, then {np.mean(after):.0f}")


if __name__ == "__main__":
    asyncpar.run(main)
