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

_lock = threading.Lock()
_users = 0
_folder = ""


def import_ray() -> Any:
    """Ray's package. It takes a second. By name: type checkers do not have it."""
    try:
        ray: Any = import_module("ray")
    except ImportError as error:
        raise ImportError("RayPool needs Ray. Install it with: pip install 'asyncpar[ray]'") from error
    return ray


def join(address: str | None, workers: int, options: dict[str, Any]) -> bool:
    """Use the connection that is there, or make one; true if ``leave`` is to be called."""
    global _users, _folder
    ray = import_ray()
    with _lock:
        if ray.is_initialized():
            _users += _users > 0
            return _users > 0  # else it is the program's own, which ends it
        chosen: dict[str, Any] = {"log_to_driver": True, "logging_level": logging.ERROR}
        if address is None:
            _folder = tempfile.mkdtemp(prefix="asyncpar-ray-", dir=_short_folder())
            chosen |= {"address": "local", "num_cpus": workers, "include_dashboard": False, "_temp_dir": _folder}
        else:
            chosen |= {"address": address}
        try:
            ray.init(**{**chosen, **options})
        except BaseException:
            _end(ray)
            raise
        _users = 1
    return True


def _short_folder() -> str | None:
    """Ray puts sockets into its folder, whose path may have 107 bytes; its own names take 65 of them."""
    return None if len(tempfile.gettempdir()) < 20 else "/tmp"  # noqa: S108 - mkdtemp makes the name


def leave() -> None:
    """The last user ends the connection, and with it a cluster that was started for it."""
    global _users
    with _lock:
        _users -= 1
        if not _users:
            _end(import_ray())


def _end(ray: Any) -> None:
    global _folder
    ray.shutdown()
    if _folder:
        shutil.rmtree(_folder, ignore_errors=True)
        _folder = ""
