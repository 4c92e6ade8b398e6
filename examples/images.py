"""A batch of images through a filter of three steps on OpenCL. `python images.py FOLDER` keeps the pictures."""

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import asyncpar
from asyncpar_opencl import OpenCLPool, current_queue, kernel

SOURCE = """
#define AT(x, y) in[clamp(y, 0, h - 1) * w + clamp(x, 0, w - 1)]
kernel void blur(global const float *in, global float *out, int h, int w) {
    int x = get_global_id(1), y = get_global_id(0); float sum = 0;
    for (int j = -2; j <= 2; j++) for (int i = -2; i <= 2; i++) sum += AT(x + i, y + j);
    out[y * w + x] = sum / 25;
}
kernel void edges(global const float *in, global float *out, int h, int w) {
    int x = get_global_id(1), y = get_global_id(0);
    out[y * w + x] = hypot(AT(x + 1, y) - AT(x - 1, y), AT(x, y + 1) - AT(x, y - 1));
}
kernel void stretch(global const float *in, global float *out, int h, int w) {
    int i = get_global_id(0) * w + get_global_id(1);
    out[i] = fmin(1.0f, 8 * in[i]);
}
"""


def outline(image: Any) -> Any:
    """Blur, find edges, stretch the contrast: three kernels, each waiting for the one before."""
    for step in ("blur", "edges", "stretch"):
        out = image._new_like_me()
        event = kernel(SOURCE, step)(
            current_queue(),
            image.shape,
            None,
            image.data,
            out.data,
            *map(np.int32, image.shape),
            wait_for=image.events,
        )
        out.add_event(event)
        image = out
    return image


def picture(seed: int, size: int = 256) -> Any:
    """Discs of random place, size and brightness, with noise."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] / size
    image = np.zeros((size, size))
    for cx, cy, radius, light in random.random((12, 4)):
        image[(x - cx) ** 2 + (y - cy) ** 2 < (radius / 5) ** 2] = light
    return (0.9 * image + 0.1 * random.random(image.shape)).astype(np.float32)


def write(path: Path, image: Any) -> None:
    """As PGM, which every viewer of pictures opens."""
    height, width = image.shape
    path.write_bytes(b"P5 %d %d 255\n" % (width, height) + (255 * image).astype(np.uint8).tobytes())


async def main(folder: str) -> None:
    pictures = [picture(seed) for seed in range(16)]
    async with OpenCLPool(streams=3) as gpu, gpu.map(outline, pictures, limit=8) as results:
        number = 0
        async for result in results:
            for name, image in (("before", pictures[number]), ("after", result)):
                await asyncpar.to_thread(write, Path(folder) / f"{number:02}-{name}.pgm", image)
            number += 1
    print(f"{number} pictures before and after, edges brighten {np.mean(result > 0.5):.1%} of the last")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        asyncpar.run(main, sys.argv[1])
    else:
        with tempfile.TemporaryDirectory() as temporary:
            asyncpar.run(main, temporary)
