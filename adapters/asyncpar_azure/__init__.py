"""asyncpar on Azure Functions: calls as requests to one HTTP-triggered function, with the verbs of every pool.

General layout:

    pool      AzurePool
    folder    the folder that ``func`` publishes
    worker    the far side, an HTTP trigger of ``azure.functions``

All else is in ``asyncpar_http``, which it shares with ``asyncpar_gcf``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asyncpar_azure.folder import package as package
    from asyncpar_azure.pool import AzurePool as AzurePool

_MODULES = {"AzurePool": "pool", "package": "folder"}

__all__ = list(_MODULES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    """The public names are loaded at first use."""
    if name not in _MODULES:
        raise AttributeError(f"module 'asyncpar_azure' has no attribute {name!r}")
    from asyncpar_http import load

    value = globals()[name] = load(f"asyncpar_azure.{_MODULES[name]}", name, "azure")
    return value
