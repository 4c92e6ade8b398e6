"""PoCL for tests: two devices, which are the processor twice, and its cache in a folder that goes. Import this first."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile

_cache = tempfile.mkdtemp(prefix="asyncpar-opencl-")
atexit.register(shutil.rmtree, _cache, ignore_errors=True)
os.environ["POCL_CACHE_DIR"] = _cache  # by default it writes to the user's home
os.environ["PYOPENCL_NO_CACHE"] = "1"  # so does PyOpenCL
os.environ["POCL_DEVICES"] = "pthread pthread"
os.environ["POCL_MEMORY_LIMIT"] = "1"  # GiB of each device
os.environ["PYOPENCL_COMPILER_OUTPUT"] = "0"
os.environ["XDG_CACHE_HOME"] = _cache

import pyopencl  # noqa: E402
import pyopencl.array  # noqa: E402

from asyncpar_opencl.pocl import name_processor  # noqa: E402

# What a process keeps of its first program, such as a descriptor of PyOpenCL's cache, is no test's.
_device = pyopencl.get_platforms()[0].get_devices()[0]
name_processor(_device)
(pyopencl.array.zeros(pyopencl.CommandQueue(pyopencl.Context([_device])), 3, "f4") + 1).get()
del _device
