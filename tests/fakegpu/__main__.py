"""``python -m tests.fakegpu ARGUMENTS...``: Python with these arguments, on a software GPU that is built if need be."""

from __future__ import annotations

import os
import sys

from tests.fakegpu.build import environment

os.execve(sys.executable, [sys.executable, *sys.argv[1:]], environment(sys.executable))
