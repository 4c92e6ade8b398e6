"""``asyncpar lambda init``, ``deploy`` and ``remove``."""

from __future__ import annotations

import json
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.text import Text

from asyncpar.cli.errors import CommandError
from asyncpar.errors import AsyncparError
from asyncpar_lambda.cost import Tariff
from asyncpar_lambda.deploy import Cloud
from asyncpar_lambda.envelope import new_key
from asyncpar_lambda.keys import key_path, load_key, public_of, save_key
from asyncpar_lambda.package import Package, build
from asyncpar_lambda.resources import Properties, Resources, changes, client_policy, for_serverless, wanted
from asyncpar_lambda.settings import Settings, read_settings, write_settings

FOLDER = Path(".asyncpar")
BUCKET_MONTH, LOGGED = 0.023, 0.50
"""Dollars of a GB: kept in S3 for a month, and written to CloudWatch Logs; us-east-1."""


@contextmanager
def plainly() -> Generator[None]:
    """What goes wrong is a line for the user, not a traceback.

    :raises CommandError: for asyncpar's own errors, and where the extra is not installed
    """
    try:
        yield
    except AsyncparError as error:
        raise CommandError(str(error)) from error
    except ModuleNotFoundError as error:
        if error.name not in ("boto3", "botocore", "cryptography", "msgpack", "awslambdaric", "packaging"):
            raise
        raise CommandError(f'{error.name} is missing: pip install "asyncpar[lambda-local]"') from error


@contextmanager
def cloud_of(settings: Settings) -> Generator[Cloud]:
    """What is deployed, for as long as the block runs."""
    cloud = Cloud(settings)
    try:
        yield cloud
    finally:
        cloud.close()


def write(file: Path, paths: list[Path], name: str | None, allow: list[str]) -> int:
    """Write the settings."""
    with plainly():
        write_settings(file, paths, name, allow)
        settings = read_settings(file)
    print(f"wrote {file}: look through it, then run 'asyncpar lambda deploy'")
    print(f"meanwhile, LambdaPool({settings.name!r}) is what your program opens")
    return 0


def deploy(file: Path, *, yes: bool, dry_run: bool) -> int:
    """Show what would change, ask, and change it."""
    with plainly():
        settings = read_settings(file)
        package = make_package(settings)
        with cloud_of(settings) as cloud:
            private, public = _key(cloud)
            to = wanted(settings, cloud.place, package.code, public.hex())
            found = cloud.read()
            different = changes(found, to)
            show_changes(different, found, to)
            _warn_of_key(found["function"], public.hex())
            if different and not dry_run:
                confirm("Deploy", yes=yes)
                save_key(_path(cloud), private)
                cloud.apply(to, package, _say)
                print(f"deployed {settings.name} to {cloud.place.region}: LambdaPool({settings.name!r})")
    print(costs(settings))
    return 0


def deploy_now(settings: Settings) -> Path | None:
    """Deploy without showing or asking: to a server that has just been started. The key's file, if it is new."""
    package = make_package(settings)
    with cloud_of(settings) as cloud:
        path = _path(cloud)
        new = not path.exists()
        private, public = _key(cloud)
        save_key(path, private)
        cloud.apply(wanted(settings, cloud.place, package.code, public.hex()), package, _say)
    return path if new else None


def make_package(settings: Settings) -> Package:
    """The package, as it is uploaded."""
    extra = ("cloudpickle",) if settings.functions == "by_value" else ()
    package = build(settings.paths, settings.target, (*settings.requirements, *extra))
    sizes = f"{len(package.data) / 1e6:.1f} MB, {package.size / 1e6:.1f} MB unpacked"
    _say(
        f"packaged {', '.join(package.modules)} for {settings.target.runtime} on {settings.machine}: {sizes}"
    )
    return package


def _path(cloud: Cloud) -> Path:
    """Where its private key is kept."""
    return key_path(cloud.settings.name, "lambda", cloud.place.account, cloud.place.region)


def _key(cloud: Cloud) -> tuple[bytes, bytes]:
    """The private key of this deployment, which need not be kept yet, and its public one."""
    path = _path(cloud)
    if not path.exists():
        return new_key()
    private = load_key(path)
    return private, public_of(private)


def _warn_of_key(function: Properties | None, public: str) -> None:
    if function is not None and function["Environment"]["Variables"]["ASYNCPAR_PUBLIC_KEY"] != public:
        _say(
            "it was deployed with another key, which will be refused from now on: to keep it, copy the key's file from "
            "where it was deployed"
        )


def show_changes(
    different: dict[str, list[str] | None], found: dict[str, Properties | None], to: Resources
) -> None:
    """One line for each resource, and one for each of its properties that change."""
    console = Console(highlight=False, soft_wrap=True)
    for kind, properties in to.items():
        name = next(iter(properties.values()))
        if kind not in different:
            console.print(Text(f"  {kind} {name}"))
        elif (lines := different[kind]) is None:
            console.print(Text(f"+ {kind} {name}", "green"))
        else:
            console.print(
                Text(f"~ {kind} {name}", "yellow"), *(Text(f"    {line}") for line in lines), sep="\n"
            )
    if not different:
        console.print("nothing to change")


def costs(settings: Settings) -> str:
    """What it costs, in words."""
    tariff = Tariff(settings.memory, settings.machine)
    most = settings.concurrency or 1000
    return (
        f"While nothing runs it costs nothing but ${BUCKET_MONTH} a month for each GB in the bucket, where what pools "
        f"leave goes after {settings.keep_days} day{'s' * (settings.keep_days > 1)}.\n"
        f"1,000 calls of 1 s cost ${tariff.dollars(1000, 1000):.3f} ({settings.memory} MB on {settings.machine}), a "
        f"minute of {most:,} environments ${tariff.dollars(60 * most, 60 * most):.2f}, and each GB of log ${LOGGED:.2f}. "
        "Prices of us-east-1."
    )


def show_client_policy(file: Path) -> int:
    """Print the policy for those who call."""
    with plainly():
        settings = read_settings(file)
        with cloud_of(settings) as cloud:
            print(json.dumps(client_policy(settings, cloud.place), indent=2))
    return 0


def write_package(file: Path) -> int:
    """Write what ``serverless.yml`` reads, and keep the key."""
    with plainly():
        settings = read_settings(file)
        package = make_package(settings)
        with cloud_of(settings) as cloud:
            path = _path(cloud)
            private, public = _key(cloud)
        FOLDER.mkdir(exist_ok=True)
        (FOLDER / ".gitignore").write_text("*\n")
        artifact = FOLDER / "package.zip"
        artifact.write_bytes(package.data)
        settings = replace(settings, region=cloud.place.region)  # which the key is kept for
        content = for_serverless(settings, artifact.as_posix(), package.code, public.hex())
        (FOLDER / "serverless.json").write_text(json.dumps(content, indent=2))
        save_key(path, private)
    print(
        f"wrote {artifact} and {FOLDER / 'serverless.json'}: deploy them with 'osls deploy' or 'serverless deploy'"
    )
    return 0


def remove(file: Path, *, yes: bool) -> int:
    """Show what is there, ask, and remove it."""
    with plainly():
        settings = read_settings(file)
        with cloud_of(settings) as cloud:
            found = {kind: one for kind, one in cloud.read().items() if one is not None}
            for kind, properties in found.items():
                Console(highlight=False, soft_wrap=True).print(
                    Text(f"- {kind} {next(iter(properties.values()))}", "red")
                )
            if found:
                confirm("Remove", yes=yes)
                cloud.remove(_say)
            key = _path(cloud)
            if key.exists():  # without its function it is of no use
                _say(f"removing the key {key}")
                key.unlink()
    print(f"nothing of {settings.name} is left" if found else f"there is nothing of {settings.name}")
    return 0


def confirm(what: str, *, yes: bool) -> None:
    """Ask, unless the answer was given.

    :raises CommandError: the answer is no, or there is nobody to ask
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise CommandError("there is nobody to ask here: add --yes, or --dry-run to only look", exit_code=2)
    if input(f"{what}? [y/N] ").strip().lower() not in ("y", "yes"):
        raise CommandError("nothing was changed")


def _say(line: str) -> None:
    print(line, flush=True)
