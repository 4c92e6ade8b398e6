"""What is deployed to a cloud that installs requirements by itself: a folder with the user's files and the worker."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from asyncpar_http.worker import SETTINGS
from asyncpar_lambda.keys import key_path, load_key, public_of, save_key
from asyncpar_lambda.package import WORKER_NEEDS, PackageError, add_paths, add_worker, digest

NAME = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,62}")


@dataclass(frozen=True, slots=True)
class Kind:
    """How a cloud wants it.

    :ivar place: the pool's name
    :ivar needs: what its own framework is, as pip takes it
    :ivar files: names and contents of what the framework looks for
    :ivar max_bytes: the largest request and answer
    :ivar longest: seconds that a function may take there
    """

    place: str
    needs: tuple[str, ...]
    files: Mapping[str, str]
    max_bytes: int
    longest: float


@dataclass(frozen=True, slots=True)
class Folder:
    """What can be deployed.

    :ivar path: the folder
    :ivar name: under which to deploy it; its key has it too
    :ivar code: SHA-256 of what it holds, in hex; requests are signed for it
    :ivar timeout: to be deployed with, in seconds
    """

    path: Path
    name: str
    code: str
    timeout: float


def make_folder(
    kind: Kind,
    paths: Iterable[str | Path],
    folder: str | Path,
    *,
    name: str,
    allow: Sequence[str] | None,
    timeout: float,
    requirements: Sequence[str],
    functions: Literal["names", "by_value"],
    key: bytes | None = None,
) -> Folder:
    """Write it. What an earlier call has written there is replaced. Blocking.

    :param allow: ``"module:function"`` or ``"module:*"``; default: everything of the modules in ``paths``
    :param key: the private key; default: that of ``key_path(name)``, which is made if it is not there
    :raises PackageError: a path is not there, or something else lies in the folder
    :raises ValueError: the name or the timeout cannot be deployed
    """
    path = Path(folder)
    if not NAME.fullmatch(name):
        raise ValueError(f"name= must be letters, digits and hyphens, not {name!r}")
    if not 0 < timeout <= kind.longest:
        raise ValueError(f"timeout= must be at most {kind.longest:g} seconds here, not {timeout:g}")
    sources: dict[str, Path] = {}
    modules = list(add_paths(sources, paths))
    add_worker(sources, ("asyncpar_http", f"asyncpar_{kind.place}"))
    contents = {file: source.read_bytes() for file, source in sorted(sources.items())}
    by_value = ("cloudpickle",) if functions == "by_value" else ()
    needs = "\n".join(dict.fromkeys((*kind.needs, *WORKER_NEEDS, *by_value, *requirements)))
    for file, text in {**kind.files, "requirements.txt": f"{needs}\n"}.items():
        if file in contents:
            raise PackageError(f"{file} is what the worker is started by: give yours another name")
        contents[file] = text.encode()
    code = digest(contents)
    settings = {
        "ASYNCPAR_JOB": name,
        "ASYNCPAR_CODE": code,
        "ASYNCPAR_PUBLIC_KEY": public_of(key or _key(key_path(name, kind.place))).hex(),
        "ASYNCPAR_ALLOW": ",".join(allow if allow is not None else [f"{module}:*" for module in modules]),
        "ASYNCPAR_FUNCTIONS": functions,
        "ASYNCPAR_TIMEOUT": f"{timeout:g}",
        "ASYNCPAR_MAX_BYTES": str(kind.max_bytes),
    }
    _write(path, {**contents, SETTINGS: json.dumps(settings, indent=2).encode()})
    return Folder(path, name, code, timeout)


def _key(path: Path) -> bytes:
    if not path.exists():
        from asyncpar_lambda.envelope import new_key

        save_key(path, new_key()[0])
    return load_key(path)


def _write(path: Path, contents: Mapping[str, bytes]) -> None:
    if path.exists() and not (path / SETTINGS).is_file() and (not path.is_dir() or any(path.iterdir())):
        raise PackageError(f"{path} holds something else: name a folder that is empty or not there")
    if path.exists():
        shutil.rmtree(path)
    for name, data in contents.items():
        file = path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
