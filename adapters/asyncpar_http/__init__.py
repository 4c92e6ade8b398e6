"""Functions behind an address: what the pools for Google's and Azure's functions share. Nothing to use by itself.

General layout:

    pool        HTTPPool, which ``asyncpar_gcf.GCFPool`` and ``asyncpar_azure.AzurePool`` extend
    transport   a POST of the signed request, the answer in its reply
    replies     what statuses mean for calls
    batch       requests where there is no object store
    worker      the far side: Lambda's worker, asked over HTTP
    folder      what is deployed

What travels, who signs it and how many are in flight is that of ``asyncpar_lambda``.
"""

from __future__ import annotations

from typing import Any


def load(module: str, name: str, extra: str) -> Any:
    """A public name of an adapter, imported at its first use: the worker imports these packages too.

    :raises ImportError: something is missing; the message says what to install
    """
    from importlib import import_module

    try:
        for needed in ("cryptography", "msgpack"):
            import_module(needed)
        return getattr(import_module(module), name)
    except ModuleNotFoundError as error:
        raise ImportError(f"{name} needs {error.name}: pip install 'asyncpar[{extra}]'") from error
