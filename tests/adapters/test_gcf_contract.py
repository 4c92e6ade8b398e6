"""The pool keeps the contract of every pool, on Google's functions-framework on this machine."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("functions_framework", reason="needs the extra 'gcf-local'")
pytest.register_assert_rewrite("asyncpar.testing.contract")

import asyncpar  # noqa: E402 - after the rewrite is registered
from asyncpar.testing import PoolContract  # noqa: E402
from asyncpar_gcf import GCFPool  # noqa: E402

BUILTINS = ("pow", "complex", "str", "str.split")
ALLOW = ["asyncpar.testing.functions:*", *(f"builtins:{name}" for name in BUILTINS)]


class TestGCFPool(PoolContract):
    stops = stateful = False

    @pytest.fixture(scope="class")
    @classmethod
    def anyio_backend(cls):
        return "asyncio", {"use_uvloop": True}  # one loop will do: each test starts the framework

    def make_pool(self):
        return GCFPool.local([Path(asyncpar.__file__).parent], allow=ALLOW, limit=2)
