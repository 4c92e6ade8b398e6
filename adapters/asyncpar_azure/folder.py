"""What is deployed to Azure: a folder for ``func azure functionapp publish``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from asyncpar_http.folder import Folder, Kind, make_folder

MAX_BYTES = 90_000_000
"""The largest request and reply. Azure takes requests of 100 MB, and says nothing of replies:
https://learn.microsoft.com/azure/azure-functions/functions-bindings-http-webhook-trigger#limits"""
LONGEST = 220.0
"""Seconds. After 230 Azure's load balancer answers 502 and the function runs on, as the same page says."""
APP = """from asyncpar_azure.worker import make_app

app = make_app(__file__)
"""
HOST = {
    "version": "2.0",
    "functionTimeout": "00:03:50",
    "extensions": {"http": {"routePrefix": "api", "maxConcurrentRequests": 1}},
}
"""One request at a time on an instance: calls would only take turns there."""

KIND = Kind(
    "azure",
    ("azure-functions",),
    {"function_app.py": APP, "host.json": json.dumps(HOST, indent=2)},
    MAX_BYTES,
    LONGEST,
)


def package(
    paths: Iterable[str | Path],
    folder: str | Path,
    *,
    name: str,
    allow: Sequence[str] | None = None,
    timeout: float = 200.0,
    requirements: Sequence[str] = (),
    functions: Literal["names", "by_value"] = "names",
) -> Folder:
    """Write the folder that ``func azure functionapp publish`` takes. Blocking; docs/http-functions.md has the command.

    :param paths: files and folders of the user; each is importable under its own name
    :param folder: to write to; what an earlier call has left there is replaced
    :param name: of the function app: letters, digits and hyphens
    :param allow: ``"module:function"`` or ``"module:*"``; default: everything of the modules in ``paths``
    :param timeout: seconds for a request, at most 220
    :param requirements: that the functions need, as pip takes them
    :param functions: ``"names"``, or ``"by_value"`` for any function and value, by cloudpickle
    :raises PackageError: a path is not there, or something else lies in the folder
    :raises ValueError: the name or the timeout cannot be deployed
    """
    return make_folder(
        KIND, paths, folder, name=name, allow=allow, timeout=timeout, requirements=requirements, functions=functions
    )  # fmt: skip
