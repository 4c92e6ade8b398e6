"""The command line: what each command takes. What it does is in the module of its name, loaded when asked for."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, entry_points, version
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter
from cyclopts.validators import Number

from asyncpar.cli.errors import exit_codes

PositiveInt = Annotated[int, Parameter(validator=Number(gte=1))]
Flag = Annotated[bool, Parameter(negative="")]


def _version() -> str:
    try:
        return version("asyncpar")
    except PackageNotFoundError:
        return "(a checkout that is not installed)"


app = App(
    name="asyncpar",
    help="Asyncio-first parallel work: coroutines, threads, processes.",
    version=_version,
    result_action="return_value",
    suppress_keyboard_interrupt=False,
)


@app.command
@exit_codes
def run(
    script: str,
    /,
    *arguments: Annotated[str, Parameter(allow_leading_hyphen=True)],
    pool: str | None = None,
) -> int:
    """Run a Python script; the pools it opens without a name are of the given kind.

    The exit code is the script's, and 130 after Ctrl-C.

    Parameters
    ----------
    script
        The file to run, as `python SCRIPT` would.
    arguments
        What the script sees in `sys.argv`. Put `--` in front of options that asyncpar knows too.
    pool
        Sets `ASYNCPAR_POOL`: process, thread, inline or what `asyncpar doctor` lists.
    """
    from asyncpar.cli.run import run_script

    return run_script(script, arguments, pool)


@app.command
@exit_codes
def doctor(*, json: Flag = False) -> int:
    """Try everything on this machine, and say what to install for the rest.

    The exit code is 0 unless the core itself does not work.

    Parameters
    ----------
    json
        Print a JSON array, for other programs.
    """
    from asyncpar.cli.doctor import examine

    return examine(as_json=json)


@app.command
@exit_codes
def demo(
    *,
    pool: str | None = None,
    limit: PositiveInt = 64,
    files: PositiveInt | None = None,
    latency: Annotated[float, Parameter(validator=Number(gte=0, lte=1000))] = 0,
) -> int:
    """Fetch, parse and count Python's own sources, and measure it beside doing the same one by one.

    Parameters
    ----------
    pool
        The pool that counts; without it `ASYNCPAR_POOL`, else process. `lambda` is a Lambda on this machine.
    limit
        How many pages are fetched or waiting at once, and as many counted.
    files
        Take this many files at most.
    latency
        Milliseconds by which the local server holds every page back, as a network would.
    """
    from asyncpar.cli.demo.command import show_demo

    return show_demo(pool, limit=limit, files=files, latency=latency / 1000)


journal = App(
    name="journal", help="Files that keep the results of maps: what they hold, and what is to become of it."
)
app.command(journal)


@journal.command
@exit_codes
def show(path: Path, /, *, check: Flag = False) -> int:
    """Say which functions a journal has results of, how many, and whether somebody writes to it now.

    Nothing is unpickled. The exit code is 1 if `--check` finds damage.

    Parameters
    ----------
    path
        The journal.
    check
        Read every result, and say how many are damaged.
    """
    from asyncpar.cli.journal import show

    return show(path, check=check)


@journal.command
@exit_codes
def export(path: Path, output: Path | None = None, /) -> int:
    """Write the results that can be read to another file. The exit code is 1 if there are others.

    This unpickles the results (not for `.journal`): export no file of somebody whom you would not let run code.

    Parameters
    ----------
    path
        The journal.
    output
        A new file. Its suffix is the format: `.jsonl`; `.parquet` (with the extra parquet); or `.journal`, which takes what is
        sound in a damaged journal to a new one. By default JSON lines go to stdout.
    """
    from asyncpar.cli.journal import write_out

    return write_out(path, output)


@journal.command
@exit_codes
def forget(path: Path, function: str | None = None, /, *, yes: Flag = False) -> int:
    """Remove results, so that they are computed anew.

    Parameters
    ----------
    path
        The journal.
    function
        Only those of this function, as `asyncpar journal show` names it.
    yes
        Do not ask.
    """
    from asyncpar.cli.journal import forget

    return forget(path, function, yes=yes)


@journal.command
@exit_codes
def accept(path: Path, function: str | None = None, /, *, yes: Flag = False) -> int:
    """Keep results although their function has changed: the next run takes them as its own.

    Parameters
    ----------
    path
        The journal.
    function
        Only those of this function, as `asyncpar journal show` names it.
    yes
        Do not ask.
    """
    from asyncpar.cli.journal import accept

    return accept(path, function, yes=yes)


# Adapters bring commands of their own, as apps that import little before they are run.
for entry in entry_points(group="asyncpar.commands"):
    try:
        command = entry.load()
    except ImportError:
        command = entry.value  # loaded again when it is asked for, to say what is missing
    app.command(command, name=entry.name)
