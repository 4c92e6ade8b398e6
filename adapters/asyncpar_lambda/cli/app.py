"""``asyncpar lambda``: what each command takes. Registered in the entry-point group ``asyncpar.commands``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter
from cyclopts.validators import Number

from asyncpar.cli.errors import CommandError, exit_codes

PositiveInt = Annotated[int, Parameter(validator=Number(gte=1))]
Seconds = Annotated[float, Parameter(validator=Number(gt=0))]
Flag = Annotated[bool, Parameter(negative="")]
CONFIG = Path("asyncpar-lambda.toml")

app = App(name="lambda", help="AWS Lambda: deploy functions, call them, and remove all of it again.")


@app.command
@exit_codes
def init(
    paths: list[Path],
    /,
    *,
    name: str | None = None,
    allow: Annotated[list[str] | None, Parameter(negative="")] = None,
    config: Path = CONFIG,
) -> int:
    """Write the settings of a deployment, to be read and changed.

    Parameters
    ----------
    paths
        Files and folders with the functions to run.
    name
        Of the deployment: lower-case letters, digits and hyphens. By default that of the first path.
    allow
        What may be called: `module:function`, or `module:*` with the modules in it, if it is a package. By default
        everything in these paths.
    config
        The file to write.
    """
    from asyncpar_lambda.cli.deploying import write

    return write(config, paths, name, allow or [])


@app.command
@exit_codes
def deploy(
    *,
    config: Path = CONFIG,
    yes: Flag = False,
    dry_run: Flag = False,
    package_only: Flag = False,
    client_policy: Flag = False,
) -> int:
    """Package the code and make what the settings say; done again, change what differs.

    It shows what would change and asks, and says what that costs. The package is made of wheels, without Docker.

    Parameters
    ----------
    config
        The settings, as `asyncpar lambda init` writes them.
    yes
        Do not ask.
    dry_run
        Only show what would change.
    package_only
        Only write the package and its settings into `.asyncpar/`, for the Serverless Framework and `serverless.yml`, and
        keep a key for the account and region.
    client_policy
        Only print the IAM policy that programs with a LambdaPool need.
    """
    from asyncpar_lambda.cli import deploying

    if client_policy:
        return deploying.show_client_policy(config)
    if package_only:
        return deploying.write_package(config)
    return deploying.deploy(config, yes=yes, dry_run=dry_run)


@app.command
@exit_codes
def remove(*, config: Path = CONFIG, yes: Flag = False) -> int:
    """Remove the function, its role, its log, its bucket with all that is in it, and its key.

    Parameters
    ----------
    config
        The settings that it was deployed with.
    yes
        Do not ask.
    """
    from asyncpar_lambda.cli.deploying import remove

    return remove(config, yes=yes)


@app.command
@exit_codes
def invoke(
    function: str,
    /,
    *arguments: Annotated[str, Parameter(allow_leading_hyphen=True)],
    config: Path = CONFIG,
) -> int:
    """Call one function in Lambda and print what it returns; time and cost go to stderr.

    Parameters
    ----------
    function
        `module:function`. Its module is imported here too.
    arguments
        JSON, or else text: `3`, `'[1, 2]'`, `'{"a": null}'`, `hello`.
    config
        The settings that it was deployed with.
    """
    from asyncpar_lambda.cli.calling import invoke

    return invoke(config, function, arguments)


@app.command
@exit_codes
def logs(*, config: Path = CONFIG, since: Seconds = 10) -> int:
    """Print what the function wrote.

    Parameters
    ----------
    config
        The settings that it was deployed with.
    since
        How many minutes to look back.
    """
    from asyncpar_lambda.cli.calling import logs

    return logs(config, since)


@app.command
@exit_codes
def plan(
    calls: PositiveInt,
    /,
    *,
    seconds: Seconds | None = None,
    limit: PositiveInt = 1000,
    config: Path = CONFIG,
) -> int:
    """Say how long so many calls take and what they cost. Nothing is asked of AWS.

    Parameters
    ----------
    calls
        How many.
    seconds
        That one call takes. Without it, one second is assumed.
    limit
        The most invocations at the same time, as `LambdaPool(limit=...)` takes it.
    config
        The settings, for the memory and the machine.
    """
    from asyncpar_lambda.cli.calling import show_plan

    return show_plan(config, calls, seconds, limit)


@app.command
@exit_codes
def local(*, config: Path = CONFIG, port: int = 0, concurrency: PositiveInt = 1000) -> int:
    """Deploy to a Lambda on this machine, and keep it running until Ctrl-C.

    It prints what to set so that the other commands, and any AWS client, talk to it. No credentials are needed.

    Parameters
    ----------
    config
        The settings; the package is made for this Python and this machine.
    port
        To listen on, on 127.0.0.1. By default a free one.
    concurrency
        How many environments may run at the same time.
    """
    if not 0 <= port < 65_536:
        raise CommandError(f"--port {port}: a port is between 1 and 65535, or 0 for a free one", exit_code=2)
    from asyncpar_lambda.cli.calling import serve

    return serve(config, port, concurrency)
