"""Ray in this process. Ray knows one connection a process: pools share it, and the last one to leave ends it.

All of this blocks, and runs off the loop.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import threading
from importlib import import_module
from typing import Any


def import_ray() -> Any:
    """Ray's package. It takes a second. By name: type checkers do not have it."""
    try:
        ray: Any = import_module("ray")
    except ImportError as error:
        raise ImportError("RayPool needs Ray. Install it with: pip install 'asyncpar[ray]'") from error
    return ray


class Session:
    """The connection, and who uses it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.users = 0
        self.folder = ""

    def join(self, address: str | None, workers: int, options: dict[str, Any]) -> bool:
        """Use the connection that is there, or make one; true if ``leave`` is to be called."""
        ray = import_ray()
        with self.lock:
            if ray.is_initialized():
                if self.users:
                    self.users += 1
                return self.users > 0  # else it is the program's own, which ends it
            chosen: dict[str, Any] = {"address": address, "logging_level": logging.ERROR}
            if address is None:
                self.folder = tempfile.mkdtemp(prefix="asyncpar-ray-", dir=_short_folder())
                chosen |= {"address": "local", "num_cpus": workers, "include_dashboard": False}
                chosen |= {"_temp_dir": self.folder}
            try:
                ray.init(**{**chosen, **options})
            except BaseException:  # whatever it is, nothing is left
                self._end(ray)
                raise
            self.users = 1
        return True

    def leave(self) -> None:
        """The last user ends the connection, and with it a cluster that was started for it."""
        with self.lock:
            self.users -= 1
            if not self.users:
                self._end(import_ray())

    def _end(self, ray: Any) -> None:
        ray.shutdown()
        if self.folder:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder = ""


SESSION = Session()


def _short_folder() -> str | None:
    """Ray puts sockets into its folder, whose path may have 107 bytes; its own names take 65 of them."""
    return None if len(tempfile.gettempdir()) < 20 else "/tmp"  # noqa: S108 - mkdtemp makes the name
