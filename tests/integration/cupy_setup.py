"""What the tests of CuPyPool need first: CuPy, on a software GPU (``make integration``) or a real one (``make test-gpu``)."""

from __future__ import annotations

import os
from importlib.util import find_spec

import pytest

SOFTWARE = "FAKEGPU_COMPILE" in os.environ
"""Whether the GPU is that of tests/fakegpu, which tests can turn."""

if find_spec("cupy") is None:
    pytest.skip("no machine here: CuPy is installed by 'make integration'", allow_module_level=True)
if not SOFTWARE:
    import cupy

    if not cupy.cuda.is_available():
        pytest.skip("no machine here: CuPy finds no CUDA device", allow_module_level=True)

needs_software = pytest.mark.skipif(not SOFTWARE, reason="no machine here: it turns the software GPU")
