"""What is deployed to Google Cloud: a folder for ``gcloud functions deploy --source``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from asyncpar_http.folder import Folder, Kind, make_folder

MAX_BYTES = 30_000_000
"""The largest request and reply. Google takes 32 MB: https://cloud.google.com/functions/quotas"""
LONGEST = 600.0
"""Seconds. Google allows an hour; but a connection that is silent for so long does not survive most networks."""
TARGET = "asyncpar"
MAIN = f"""from asyncpar_gcf.worker import make_function

{TARGET} = make_function(__file__)
"""

KIND = Kind("gcf", ("functions-framework>=3.5",), {"main.py": MAIN}, MAX_BYTES, LONGEST)


def package(
    paths: Iterable[str | Path],
    folder: str | Path,
    *,
    name: str,
    allow: Sequence[str] | None = None,
    timeout: float = 300.0,
    requirements: Sequence[str] = (),
    functions: Literal["names", "by_value"] = "names",
) -> Folder:
    """Write the folder that ``gcloud functions deploy`` takes. Blocking; docs/http-functions.md has the command.

    :param paths: files and folders of the user; each is importable under its own name
    :param folder: to write to; what an earlier call has left there is replaced
    :param name: of the function: letters, digits and hyphens
    :param allow: ``"module:function"`` or ``"module:*"``; default: everything of the modules in ``paths``
    :param timeout: of the function in seconds, at most 600; deploy it with the same
    :param requirements: that the functions need, as pip takes them
    :param functions: ``"names"``, or ``"by_value"`` for any function and value, by cloudpickle
    :raises PackageError: a path is not there, or something else lies in the folder
    :raises ValueError: the name or the timeout cannot be deployed
    """
    return make_folder(
        KIND, paths, folder, name=name, allow=allow, timeout=timeout, requirements=requirements, functions=functions
    )  # fmt: skip
