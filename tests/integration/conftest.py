"""MiniStack: another's AWS, on this machine. ``make integration`` installs it in an environment of its own.

The environment's folder is in ``ASYNCPAR_MINISTACK``.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time

import pytest

MINISTACK = os.environ.get("ASYNCPAR_MINISTACK", "")


@pytest.fixture
def nothing_left_behind():
    """Instead of the check of every test: MiniStack keeps processes between them, and ends them with itself."""


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.fixture(scope="session")
def endpoint(tmp_path_factory):
    """MiniStack, for as long as the tests run."""
    if not MINISTACK:
        pytest.skip("no machine here: MiniStack is installed by 'make integration'")
    port, folder = free_port(), tmp_path_factory.mktemp("ministack")
    environ = {
        "PATH": os.environ["PATH"], "TMPDIR": str(folder), "HOME": str(folder), "BIND_HOST": "127.0.0.1",
        "GATEWAY_PORT": str(port), "LOG_LEVEL": "WARNING", "MINISTACK_HOST": "127.0.0.1", "LAMBDA_EXECUTOR": "local",
    }  # fmt: skip
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [f"{MINISTACK}/bin/ministack"], env=environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder,
            start_new_session=True,
        )  # fmt: skip
    try:
        give_up = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            assert server.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < give_up, (folder / "log").read_text()
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()
