"""The pool keeps the contract of every pool, on the local Lambda: AWS's own runtime client runs the calls."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("awslambdaric", reason="needs the extra 'lambda-local'")
pytest.register_assert_rewrite("asyncpar.testing.contract")

import asyncpar  # noqa: E402 - after the rewrite is registered
from asyncpar.testing import PoolContract  # noqa: E402
from asyncpar_lambda import LambdaPool  # noqa: E402

BUILTINS = ("pow", "complex", "str", "str.split")
ALLOW = ["asyncpar.testing.functions:*", *(f"builtins:{name}" for name in BUILTINS)]


class TestLambdaPool(PoolContract):
    stops = stateful = False

    @pytest.fixture(scope="class")
    @classmethod
    def anyio_backend(cls):
        return "asyncio", {"use_uvloop": True}  # one loop will do: each test starts a Lambda

    def make_pool(self):
        return LambdaPool.local([Path(asyncpar.__file__).parent], allow=ALLOW, limit=4)
