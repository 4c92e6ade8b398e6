"""Builds the software GPU: libamdhip64 and libhiprtc, and an empty library for each other of ROCm's that CuPy asks for.

Which libraries and symbols these are is read from the installed wheel. What has no code here answers with an error.
"""

from __future__ import annotations

import os
import re
import subprocess
import sysconfig
from collections import defaultdict
from pathlib import Path

HERE = Path(__file__).parent
BUILD = Path(sysconfig.get_path("data")) / "fakegpu"
SOURCES = ("streams.c", "memory.c", "control.c", "hip.c", "kernels.c")
FLAGS = ("-std=c17", "-O2", "-g", "-Wall", "-Wextra", "-fPIC", "-shared", "-pthread")
NOT_SUPPORTED, FAILED = 801, 1
PREFIXES = {
    "hipblas": "libhipblas", "hipfft": "libhipfft", "hiprand": "libhiprand", "hipsparse": "libhipsparse",
    "rocblas": "librocblas", "rocsolver": "librocsolver", "roctracer": "libroctracer64", "roctx": "libroctx64",
    "nccl": "librccl", "rocfft": "librocfft", "hiprtc": "libhiprtc",
}  # fmt: skip
RUNTIME = "libamdhip64"
HIPCC = """#!/bin/sh
printf '#include <...> search starts here:\\n %s\\nEnd of search list.\\n' '{include}' >&2
"""
"""CuPy asks the compiler only where it looks for headers."""


def _output(*command: str | Path) -> list[str]:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def _library_of(symbol: str) -> str:
    return next((library for prefix, library in PREFIXES.items() if symbol.startswith(prefix)), RUNTIME)


def wanted() -> tuple[set[str], dict[str, dict[str, str]]]:
    """The libraries that the wheel asks for, and of each its symbols with their versions."""
    libraries: set[str] = set()
    symbols: dict[str, dict[str, str]] = defaultdict(dict)
    site = Path(sysconfig.get_path("platlib"))
    for extension in [path for folder in site.glob("cupy*") for path in folder.rglob("*.so")]:
        for line in _output("readelf", "-d", extension):
            libraries.update(re.findall(r"\[(lib(?:hip|roc|amd|rccl)[^\]]*)\]", line))
        for line in _output("nm", "-D", "--undefined-only", extension):
            if found := re.match(r"((?:__)?(?:hip|roc|nccl)\w+)(?:@(\S+))?$", line.split()[-1]):
                symbols[_library_of(found[1])][found[1]] = found[2] or ""
    return libraries, symbols


def _version_script(symbols: dict[str, str]) -> str:
    """What the linker needs to give symbols the versions that the wheel asks for; those without any need nothing."""
    by_version: dict[str, list[str]] = defaultdict(list)
    for symbol, version in symbols.items():
        by_version[version].append(symbol)
    by_version.pop("", None)
    return "".join(
        f"{version} {{ global: {'; '.join(names)}; }};\n" for version, names in sorted(by_version.items())
    )


def _link(name: str, sources: list[Path], symbols: dict[str, str]) -> None:
    """Compile one library. Symbols that no source defines return an error."""
    base = name.partition(".so")[0]
    defined = "\n".join(source.read_text() for source in sources)
    error = NOT_SUPPORTED if base == RUNTIME else FAILED
    stubs, script = BUILD / f"{base}.c", BUILD / f"{base}.map"
    missing = [symbol for symbol in symbols if not re.search(rf"\b{symbol}\(", defined)]
    stubs.write_text(
        "".join(f"int {symbol}(void);\nint {symbol}(void) {{ return {error}; }}\n" for symbol in missing)
    )
    script.write_text(_version_script(symbols))
    versions = [f"-Wl,--version-script={script}"] if script.stat().st_size else []
    _output("gcc", *FLAGS, "-o", BUILD / "lib" / name, *sources, stubs, f"-Wl,-soname,{name}", *versions)


def build() -> Path:
    """The folder of the libraries, made anew if anything here is newer; seconds the first time."""
    stamp = BUILD / "stamp"
    inputs = [path for path in HERE.rglob("*") if path.suffix in {".c", ".h", ".py"}]
    if stamp.exists() and stamp.stat().st_mtime > max(path.stat().st_mtime for path in inputs):
        return BUILD
    (BUILD / "lib").mkdir(parents=True, exist_ok=True)
    (BUILD / "bin").mkdir(exist_ok=True)
    libraries, symbols = wanted()
    for name in sorted({*libraries, "libhiprtc.so.7"}):
        base = name.partition(".so")[0]
        own = {RUNTIME: SOURCES, "libhiprtc": ("hiprtc.c",)}.get(base, ())
        _link(name, [HERE / source for source in own], symbols.get(base, {}))
    compiler = BUILD / "bin" / "hipcc"
    compiler.write_text(HIPCC.format(include=HERE / "include"))
    compiler.chmod(0o755)
    stamp.touch()
    return BUILD


def environment(python: str) -> dict[str, str]:
    """What a program finds the software GPU by."""
    folder = build()
    return {
        **os.environ,
        "LD_LIBRARY_PATH": f"{folder / 'lib'}",
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
        "ROCM_HOME": str(folder),
        "CUPY_CACHE_DIR": str(folder / "kernels"),
        "FAKEGPU_PYTHON": python,
        "FAKEGPU_COMPILE": str(HERE / "compile.py"),
    }
