"""What is to be deployed: the settings of one function, as ``asyncpar-lambda.toml`` says them. No I/O but that file's."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

from asyncpar.errors import AsyncparError
from asyncpar_lambda.naming import check_patterns
from asyncpar_lambda.package import Target

FILE = "asyncpar-lambda.toml"
LONGEST_NAME = 26
"""The bucket's name holds this, the account and the region, in 63 characters."""
VERSIONS = ("3.11", "3.12", "3.13", "3.14")
TEMPLATE = """\
# What 'asyncpar lambda deploy' makes. Paths are relative to this file.

# Of the function: LambdaPool("{name}")
name = "{name}"
paths = [{paths}]
# What may be called: "module:function", or "module:*" with the modules in it, if it is a package
allow = [{allow}]
# What the code needs beside asyncpar, as pip takes it: ["numpy>=2"]
requirements = []

python = "3.13"
# Or "x86_64", which costs a quarter more
machine = "arm64"
# In MB. CPUs come with it: 1769 is one
memory = 1769
# Seconds that one invocation may take, 600 at most
timeout = 300

# Whoever holds the key may run any code: see "Security" in docs/lambda.md
# functions = "by_value"
# Environments reserved for this function, which are its limit too
# concurrency = 100
# Else what AWS's own settings say
# region = "eu-central-1"
# How long logs are kept, and large arguments, results and outcomes
# log_days = 14
# keep_days = 1
# More environment variables of the function
# variables = {{ LEVEL = "info" }}
"""


class SettingsError(AsyncparError):
    """The settings cannot be used; the message says which, and what they may be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What is to be deployed.

    :ivar name: of the function
    :ivar paths: files and folders of the user's code
    :ivar allow: ``"module:function"`` or ``"module:*"``
    :ivar requirements: what the code needs, as pip takes it
    :ivar functions: ``"names"`` or ``"by_value"``
    :ivar python: version of the runtime
    :ivar machine: ``"arm64"`` or ``"x86_64"``
    :ivar memory: in MB
    :ivar timeout: of an invocation, in seconds
    :ivar concurrency: reserved for the function, or ``None``
    :ivar region: of AWS, or ``None`` for what AWS's own settings say
    :ivar log_days: how long logs are kept
    :ivar keep_days: how long objects in the bucket are kept
    :ivar variables: more environment variables of the function
    :raises SettingsError: a value makes no sense
    """

    name: str
    paths: tuple[Path, ...]
    allow: tuple[str, ...]
    requirements: tuple[str, ...] = ()
    functions: str = "names"
    python: str = "3.13"
    machine: str = "arm64"
    memory: int = 1769
    timeout: int = 300
    concurrency: int | None = None
    region: str | None = None
    log_days: int = 14
    keep_days: int = 1
    variables: dict[str, str] = field(default_factory=dict[str, str])

    def __post_init__(self) -> None:
        _require(
            re.fullmatch(f"[a-z][a-z0-9-]{{0,{LONGEST_NAME - 2}}}[a-z0-9]", self.name) is not None,
            f"name = {self.name!r}: 2 to {LONGEST_NAME} lower-case letters, digits and hyphens",
        )
        _require(bool(self.paths), "paths = []: name the files and folders that your functions are in")
        _require(bool(self.allow), 'allow = []: name what may be called, as "module:function" or "module:*"')
        try:
            check_patterns(self.allow)
        except ValueError as error:
            raise SettingsError(f"allow: {error}") from None
        _require(
            self.functions in ("names", "by_value"), f"functions = {self.functions!r}: names or by_value"
        )
        _require(self.python in VERSIONS, f"python = {self.python!r}: Lambda has {', '.join(VERSIONS)}")
        _require(self.machine in ("arm64", "x86_64"), f"machine = {self.machine!r}: arm64 or x86_64")
        _require(128 <= self.memory <= 10_240, f"memory = {self.memory}: 128 to 10240 MB")
        _require(
            1 <= self.timeout <= 600,
            f"timeout = {self.timeout}: 1 to 600 seconds; make longer calls shorter, or run them on AWS Batch or Fargate",
        )
        _require(
            self.concurrency is None or self.concurrency > 0, f"concurrency = {self.concurrency}: 1 or more"
        )
        ours = [name for name in self.variables if name.startswith(("ASYNCPAR_", "AWS_"))]
        _require(not ours, f"variables: {ours} would hide what asyncpar or AWS sets; take other names")

    @property
    def target(self) -> Target:
        """What the package is made for."""
        return Target(self.python, self.machine)


def read_settings(file: Path) -> Settings:
    """Read ``asyncpar-lambda.toml``.

    :raises SettingsError: it is not there, or does not say what it should
    """
    try:
        found = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SettingsError(
            f"there is no {file}: write one with 'asyncpar lambda init', or name it with --config"
        ) from None
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{file}: {error}") from None
    try:
        return _settings(found, file.parent)
    except SettingsError as error:
        raise SettingsError(f"{file}: {error}") from None


def _settings(found: dict[str, Any], folder: Path) -> Settings:
    known = {one.name: one for one in fields(Settings)}
    unknown = sorted(set(found) - set(known))
    _require(not unknown, f"there is no setting {', '.join(unknown)}; there are {', '.join(known)}")
    missing = [
        name
        for name, one in known.items()
        if one.default is MISSING and one.default_factory is MISSING and name not in found
    ]
    _require(not missing, f"{', '.join(missing)} must be set")
    for name, value in found.items():
        kind, words = _KINDS[known[name].type]
        _require(_fits(value, kind), f"{name} = {value!r}: it must be {words}")
    return Settings(**dict(_values(found, folder)))


def _values(found: dict[str, Any], folder: Path) -> Iterator[tuple[str, Any]]:
    for name, value in found.items():
        if name == "paths":
            yield name, tuple(folder / path for path in value)
        else:
            yield name, tuple(value) if isinstance(value, list) else value


_KINDS: dict[Any, tuple[type, str]] = {
    "str": (str, "text"),
    "str | None": (str, "text"),
    "int": (int, "a whole number"),
    "int | None": (int, "a whole number"),
    "tuple[str, ...]": (list, "a list of texts"),
    "tuple[Path, ...]": (list, "a list of texts"),
    "dict[str, str]": (dict, "a table of texts"),
}


def _fits(value: Any, kind: type) -> bool:
    if isinstance(value, bool) or not isinstance(value, kind):
        return False
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return all(isinstance(one, str) for one in inner)


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise SettingsError(message)


def write_settings(file: Path, paths: list[Path], name: str | None, allow: list[str]) -> None:
    """Write a file to begin with.

    :raises SettingsError: there is one, or a path is not there
    """
    _require(not file.exists(), f"{file} is there already: change it, or remove it first")
    for path in paths:
        _require(path.exists(), f"there is no {path}: name files and folders that are there")
    modules = [path.resolve().name.removesuffix(".py") for path in paths]
    for path, module in zip(paths, modules, strict=True):
        _require(
            module.isidentifier(),
            f"{path} cannot be imported: rename it to letters, digits and underscores",
        )
    name = name or re.sub(r"[^a-z0-9]+", "-", modules[0].lower()).strip("-")[:LONGEST_NAME].strip("-")
    text = TEMPLATE.format(
        name=name,
        paths=", ".join(f'"{path.as_posix()}"' for path in paths),
        allow=", ".join(f'"{one}"' for one in allow or [f"{module}:*" for module in modules]),
    )
    _settings(tomllib.loads(text), file.parent)  # a name given here may be wrong
    file.write_text(text, encoding="utf-8")
