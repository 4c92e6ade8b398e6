"""``LambdaPool.local``: a Lambda of its own on this machine, deployed to and used."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from asyncpar_lambda.aws import LambdaPool
from asyncpar_lambda.envelope import new_key
from asyncpar_lambda.local.client import LocalLambda, build_here
from asyncpar_lambda.local.faults import Faults
from asyncpar_lambda.sigv4 import Credentials


class LocalPool(LambdaPool):
    """A ``LambdaPool`` whose Lambda runs on this machine, in processes with AWS's own runtime client.

    While the pool is open, ``endpoint_url`` and ``function_name`` are for any AWS client. Nothing of AWS is contacted,
    and no credentials are needed.

    :param paths: files and folders that are packaged, as ``deploy`` would; each is importable under its own name
    :param allow: ``"module:function"`` or ``"module:*"``; default: everything of the modules in ``paths``
    :param limit: the most invocations at the same time, each in a process of its own
    :param timeout: of the function, in seconds
    :param memory: in MB, for the prices
    :param requirements: that the functions need, as pip takes them; what is installed here is used
    :param functions: ``"names"`` or ``"by_value"``
    :param concurrency: of the account
    :param ramp: environments that may be added in each 10 seconds
    :param reserved: the function's reserved concurrency
    :param transport: ``"fast"`` or ``"aiobotocore"``
    :param faults: what is to go wrong, as keywords of ``Faults``: ``cold_start=0.3, throttles=0.05``
    """

    def __init__(
        self,
        paths: Iterable[str | Path],
        *,
        allow: Sequence[str] | None = None,
        limit: int = 8,
        timeout: float = 60.0,
        memory: int = 1769,
        requirements: Iterable[str] = (),
        functions: Literal["names", "by_value"] = "names",
        concurrency: int = 1000,
        ramp: int = 1000,
        reserved: int | None = None,
        transport: Literal["fast", "aiobotocore"] | None = None,
        **faults: Any,
    ) -> None:
        super().__init__(
            f"asyncpar-{uuid.uuid4().hex[:8]}", limit=limit, alias=None, region="us-east-1",
            credentials=Credentials("local", "local"), transport=transport, functions=functions,
        )  # fmt: skip
        self._paths = tuple(map(Path, paths))
        self._allow = tuple(allow) if allow is not None else tuple(f"{path.stem}:*" for path in self._paths)
        self._requirements = (*requirements, *(["cloudpickle"] if functions == "by_value" else []))
        self._deployed: dict[str, Any] = {"timeout": timeout, "memory": memory, "reserved": reserved}
        self.server = LocalLambda(concurrency=concurrency, ramp=ramp, faults=Faults(**faults))

    async def _open(self) -> None:
        package = await build_here(self._paths, self._requirements)
        await self.server.__aenter__()
        self.endpoint_url = self.server.endpoint_url
        self._key, public = new_key()
        await self.server.create_bucket("asyncpar")
        variables = {
            "ASYNCPAR_JOB": self.function_name,
            "ASYNCPAR_CODE": package.code,
            "ASYNCPAR_PUBLIC_KEY": public.hex(),
            "ASYNCPAR_ALLOW": ",".join(self._allow),
            "ASYNCPAR_FUNCTIONS": "by_value" if self._by_value else "names",
            "ASYNCPAR_BUCKET": "asyncpar",
        }
        await self.server.deploy(self.function_name, package, variables=variables, **self._deployed)
        await super()._open()

    async def _close(self) -> None:
        try:
            await super()._close()
        finally:
            await self.server.aclose()
