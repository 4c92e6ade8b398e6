"""``GCFPool.local``: Google's functions-framework on this machine, and the pool that uses it."""

from __future__ import annotations

import asyncio
import math
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from asyncpar.errors import BrokenPoolError, NestedPoolError, UnsupportedError
from asyncpar_gcf.folder import KIND, TARGET
from asyncpar_gcf.pool import GCFPool
from asyncpar_http.folder import make_folder
from asyncpar_http.transport import HTTPTransport
from asyncpar_lambda.envelope import new_key
from asyncpar_lambda.transport import TransportError

START_SECONDS = 30.0
"""How long the framework may take to answer."""
STOP_SECONDS = 10.0
INSIDE = "ASYNCPAR_GCF_LOCAL"
"""Set in the framework's processes."""


class LocalPool(GCFPool):
    """A ``GCFPool`` whose function runs on this machine, in the real functions-framework, for as long as it is open.

    The framework runs on what ``package`` makes, on 127.0.0.1 only, with one process for each request at a time, as
    Google runs it with a concurrency of 1. What the functions need is taken from this interpreter's environment.

    :param paths: files and folders that are packaged; each is importable under its own name
    :param allow: ``"module:function"`` or ``"module:*"``; default: everything of the modules in ``paths``
    :param limit: the most requests at the same time, and the processes of the framework
    :param timeout: in seconds, after which the framework kills the process of a request
    :param functions: ``"names"`` or ``"by_value"``
    :param patience: seconds for which the framework may be out of reach before calls fail
    """

    def __init__(
        self,
        paths: Iterable[str | Path],
        *,
        allow: Sequence[str] | None = None,
        limit: int = 4,
        timeout: float = 60.0,
        functions: Literal["names", "by_value"] = "names",
        patience: float = 10.0,
    ) -> None:
        super().__init__("http://127.0.0.1", limit=limit, functions=functions, patience=patience)
        self._made: dict[str, Any] = {
            "paths": tuple(map(Path, paths)), "allow": allow, "timeout": timeout, "functions": functions,
        }  # fmt: skip
        self._packaging: asyncio.Task[None] | None = None
        self.server = LocalFramework(limit, timeout)

    async def _open(self) -> None:
        if INSIDE in os.environ:
            raise NestedPoolError(
                "GCFPool.local was opened inside its own function, which imports the script to find what it runs: "
                "put the call under 'if __name__ == \"__main__\":'"
            )
        self._key, _ = new_key()
        self._packaging = asyncio.create_task(
            asyncio.to_thread(self._package, self._key), name="asyncpar: package"
        )
        await asyncio.shield(self._packaging)
        self.url = self.function_name = await self.server.start()
        await super()._open()

    def _package(self, key: bytes) -> None:
        folder = self.server.make_folder()
        make_folder(KIND, folder=folder, name="local", requirements=(), key=key, **self._made)

    async def _close(self) -> None:
        try:
            await super()._close()
        finally:
            if self._packaging is not None:  # a thread that writes goes on when its caller is cancelled
                await asyncio.wait([self._packaging])
            await self.server.aclose()


class LocalFramework:
    """The functions-framework in processes of its own, until it is closed or this process ends.

    :ivar pid: of its first process, whose children answer requests
    """

    def __init__(self, processes: int, timeout: float) -> None:
        self.pid = 0
        self._processes, self._timeout = processes, timeout
        self._folder: Path | None = None
        self._keeper: asyncio.subprocess.Process | None = None

    def make_folder(self) -> Path:
        """A temporary folder for what it runs."""
        self._folder = Path(tempfile.mkdtemp(prefix="asyncpar-gcf-"))
        return self._folder

    async def start(self) -> str:
        """Start it, and return the function's address when it answers.

        :raises UnsupportedError: it is not installed
        :raises BrokenPoolError: it does not start; its standard error says why
        """
        from importlib.util import find_spec

        if find_spec("functions_framework") is None:
            raise UnsupportedError(
                "GCFPool.local needs functions-framework: pip install 'asyncpar[gcf-local]'"
            )
        with _reserved() as held:
            return await self._start(held.getsockname()[1])

    async def _start(self, port: int) -> str:
        assert self._folder is not None
        self._keeper = await asyncio.create_subprocess_exec(
            sys.executable, "-S", "-E", str(Path(__file__).with_name("keeper.py")), str(self._folder),
            sys.executable, "-m", "functions_framework",
            "--source", str(self._folder / "main.py"), "--target", TARGET, "--host", "127.0.0.1", "--port", str(port),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, cwd=self._folder, env=self._environ(),
            start_new_session=True,  # Ctrl-C is for the program; this ends when the program lets it
        )  # fmt: skip
        assert self._keeper.stdout is not None
        self.pid = int(await self._keeper.stdout.readline())
        url = f"http://127.0.0.1:{port}"
        await self._wait_for(url)
        return url

    def _environ(self) -> dict[str, str]:
        settings = {
            INSIDE: "1",
            "XDG_RUNTIME_DIR": str(self._folder),  # gunicorn puts a socket there
            "THREADS": "1",  # requests in the main thread, where calls can be stopped
            "WORKERS": str(self._processes),
            "CLOUD_RUN_TIMEOUT_SECONDS": str(math.ceil(self._timeout)),
        }
        return {**os.environ, **settings}

    async def _wait_for(self, url: str) -> None:
        transport = await HTTPTransport.open(url, _no_headers, seconds=START_SECONDS)
        try:
            async with asyncio.timeout(START_SECONDS):
                while True:
                    try:
                        await transport.about()
                    except TransportError:
                        self._check_alive()
                        await asyncio.sleep(0.02)
                    else:
                        return
        except TimeoutError:
            raise BrokenPoolError(
                f"the functions-framework does not answer after {START_SECONDS:g} s"
            ) from None
        finally:
            await transport.aclose()

    def _check_alive(self) -> None:
        if self._keeper is None or self._keeper.returncode is not None:
            raise BrokenPoolError("the functions-framework did not start; its standard error says why")

    async def aclose(self) -> None:
        """End it and all of its processes, at once."""
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            assert keeper.stdin is not None
            keeper.stdin.close()
            try:
                async with asyncio.timeout(STOP_SECONDS):
                    await keeper.wait()
            except TimeoutError:
                keeper.kill()
                await keeper.wait()
            keeper._transport.close()  # type: ignore[attr-defined]
        if self._folder is not None and (keeper is None or keeper.returncode):  # else it has tidied up
            await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)


async def _no_headers() -> dict[str, str]:
    return {}


def _reserved() -> socket.socket:
    """A socket with a port that nobody else is given; who asks for this very port may listen on it all the same."""
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(("127.0.0.1", 0))
    return held
