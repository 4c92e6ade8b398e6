"""asyncpar on Google Cloud Run functions: calls as requests to one deployed function, with the verbs of every pool.

General layout:

    pool      GCFPool
    identity  identity tokens
    folder    the folder that gcloud deploys
    worker    the far side, under Google's functions-framework
    local     the framework on this machine

All else is in ``asyncpar_http``, which it shares with ``asyncpar_azure``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asyncpar_gcf.folder import package as package
    from asyncpar_gcf.pool import GCFPool as GCFPool

_MODULES = {"GCFPool": "pool", "package": "folder"}

__all__ = list(_MODULES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    """The public names are loaded at first use."""
    if name not in _MODULES:
        raise AttributeError(f"module 'asyncpar_gcf' has no attribute {name!r}")
    from asyncpar_http import load

    value = globals()[name] = load(f"asyncpar_gcf.{_MODULES[name]}", name, "gcf")
    return value
