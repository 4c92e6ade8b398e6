"""compile.py FOLDER OPTION...: has g++ make ``FOLDER/kernel.so`` of the kernels in ``FOLDER/kernel.cc``; its words in ``log``.

Each kernel gets two functions beside it, which kernels.c calls: one copies the parameters of a launch, one runs it.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

INCLUDE = Path(__file__).parent / "include"
KERNEL = re.compile(
    r"__global__\s+(?:__launch_bounds__\s*\([^)]*\)\s*)?void\s+(?:__launch_bounds__\s*\([^)]*\)\s*)?(\w+)\s*\("
)
FLAGS = ("-w", "-std=c++17", "-O1", "-ffp-contract=off", "-fPIC", "-shared")
"""Without contraction, since NumPy rounds products before it adds them."""


def with_entries(source: str) -> str:
    """The source, and after it what kernels.c calls."""
    waits = "true" if re.search(r"__sync(threads|warp)", source) else "false"
    entries = (
        f'extern "C" void *fakegpu_pack_{name}(void **given) {{ return fakegpu::pack({name}, given); }}\n'
        f'extern "C" void fakegpu_run_{name}(void *packed, const unsigned *shape) '
        f"{{ fakegpu::run({name}, packed, shape, {waits}); }}\n"
        for name in dict.fromkeys(KERNEL.findall(source))
    )
    return f"{source}\n{''.join(entries)}"


def main(folder: Path, options: list[str]) -> int:
    program = folder / "kernel.cc"
    program.write_text(with_entries(program.read_text()))
    kept = [option for option in options if option.startswith(("-I", "-D"))]  # others are HIP's own
    with (folder / "log").open("wb") as log:
        return subprocess.call(
            ["g++", *FLAGS, "-include", INCLUDE / "kernel.h", *kept, "-o", folder / "kernel.so", program],
            stdout=log, stderr=log,
        )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
