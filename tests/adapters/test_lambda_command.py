"""``asyncpar lambda``, run as a user runs it, on a Lambda on this machine."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import moto
import pytest

pytest.importorskip("cyclopts", reason="the cli extra is not installed")

from asyncpar.cli import main
from asyncpar.cli.errors import CommandError
from asyncpar_lambda.cli.deploying import confirm

FUNCTIONS = """
import collections

def total(prices, factor=1):
    print("counting", len(prices))
    return sum(prices) * factor

def size(text):
    return len(text)

def letters(text):
    return collections.Counter(text)

def fail(what):
    raise ValueError(f"no {what}")

LIMIT = 3
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with a user's module and settings, in which commands run."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shop.py").write_text(FUNCTIONS)
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    text = f'name = "shop"\npaths = ["shop.py"]\nallow = ["shop:*"]\npython = "{here}"\n'
    (tmp_path / "asyncpar-lambda.toml").write_text(text + f'machine = "{machine()}"\n')
    return tmp_path


def machine():
    return "arm64" if os.uname().machine in ("aarch64", "arm64") else "x86_64"


def environment(folder, **more):
    """Of the commands: nothing of this user's AWS, and keys of their own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    nothing = {"AWS_CONFIG_FILE": "/nonexistent", "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent"}
    path = os.pathsep.join(filter(None, sys.path))
    return {
        **kept, **nothing, "AWS_EC2_METADATA_DISABLED": "true", "XDG_CONFIG_HOME": str(folder / "config"),
        "PYTHONPATH": path, "COLUMNS": "150", **more,
    }  # fmt: skip


def command(folder, *arguments, env=None):
    return subprocess.run(
        [sys.executable, "-m", "asyncpar", "lambda", *arguments], env=env or environment(folder), cwd=folder,
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=150, check=False,
    )  # fmt: skip


@pytest.fixture
def local(project):
    """``asyncpar lambda local``, while it runs: the environment for other commands, and the process."""
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "asyncpar", "lambda", "local"], env=environment(project), cwd=project,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    with process:
        said = []
        for line in process.stdout:
            said.append(line)
            if line.startswith("Ctrl-C"):
                break
        exports = [line.split()[1].split("=", 1) for line in said if line.startswith("  export ")]
        assert exports, "".join(said)
        yield environment(project, **dict(exports)), process
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.stdout.read()


def test_the_commands_are_listed(project, capsys):
    main(["--help"])
    assert (
        "AWS Lambda: deploy functions, call them, and remove" in capsys.readouterr().out
    )  # as wide as any terminal
    main(["lambda", "--help"])
    said = capsys.readouterr().out
    for name in ("init", "deploy", "invoke", "logs", "plan", "local", "remove"):
        assert f"{name} " in said


def test_the_command_loads_no_client_of_aws_before_it_needs_one():
    program = "import sys; import asyncpar.cli.app; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "asyncpar_lambda.cli.app" in loaded
    assert (
        loaded
        & {"boto3", "botocore", "aiobotocore", "asyncpar_lambda.pool", "asyncpar_lambda.aws", "cryptography"}
        == set()
    )


def test_init_and_plan(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("shop.py").touch()
    assert main(["lambda", "init", "shop.py", "--name", "till", "--allow", "shop:total"]) == 0
    assert "LambdaPool('till') is what your program opens" in capsys.readouterr().out
    assert 'allow = ["shop:total"]' in Path("asyncpar-lambda.toml").read_text()
    assert main(["lambda", "init", "shop.py"]) == 1
    assert "is there already" in capsys.readouterr().err
    assert main(["lambda", "plan", "10000", "--seconds", "0.5"]) == 0
    assert capsys.readouterr().out.startswith(
        "10,000 calls of 500 ms in 3,334 invocations, at most 1,000 at a time"
    )
    assert main(["lambda", "plan", "10"]) == 0
    assert "(a guess: pass --seconds)" in capsys.readouterr().out


def test_without_settings(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in (["deploy"], ["remove"], ["logs"], ["plan", "3"], ["invoke", "a:b"], ["local"]):
        assert main(["lambda", *name]) == 1
        assert "write one with 'asyncpar lambda init'" in capsys.readouterr().err


def test_without_credentials(project):
    done = command(project, "deploy", env=environment(project, AWS_REGION="us-east-1"))
    assert done.returncode == 1
    assert done.stderr.startswith(
        "asyncpar: no AWS credentials were found: set AWS_PROFILE or AWS_ACCESS_KEY_ID"
    )
    assert "Traceback" not in done.stderr
    assert not (project / "config").exists()  # no key of what was not deployed


def test_a_deployment_from_one_end_to_the_other(project, local):
    env, process = local
    same = command(project, "deploy", env=env)
    assert (same.returncode, same.stderr) == (0, "")
    assert "nothing to change" in same.stdout
    assert "1,000 calls of 1 s cost $0.0" in same.stdout

    called = command(project, "invoke", "shop:total", "[1, 2, 3.5]", "2", env=env)
    assert (called.returncode, called.stdout) == (0, "13.0\n")
    assert called.stderr.startswith("shop: ")
    assert re.search(r"s, a cold start, \d+ of 1769 MB, \$0\.00", called.stderr)
    assert json.loads(command(project, "invoke", "shop:letters", "aba", env=env).stdout) == {"a": 2, "b": 1}
    failed = command(project, "invoke", "shop:fail", "way", env=env)
    assert (failed.returncode, failed.stdout) == (1, "")
    assert failed.stderr.startswith("ValueError: no way\n")
    assert "shop.py" in failed.stderr  # the traceback of the worker
    logged = command(project, "logs", env=env)
    assert "counting 3" in logged.stdout

    file = project / "asyncpar-lambda.toml"
    file.write_text(file.read_text() + "memory = 512\n")
    looked = command(project, "deploy", "--dry-run", env=env)
    assert "~ function shop\n    MemorySize: 1769 -> 512\n~ alias live\n" in looked.stdout
    assert "changing" not in looked.stdout
    asked = command(project, "deploy", env=env)
    assert asked.returncode == 2
    assert "there is nobody to ask here: add --yes, or --dry-run to only look" in asked.stderr
    done = command(project, "deploy", "--yes", env=env)
    assert (
        "changing the function\nchanging the alias\ndeployed shop to us-east-1: LambdaPool('shop')"
        in done.stdout
    )

    removed = command(project, "remove", "--yes", env=env)
    assert removed.stdout.endswith("nothing of shop is left\n")
    assert "- bucket asyncpar-shop-" in removed.stdout
    assert command(project, "remove", "--yes", env=env).stdout.endswith("there is nothing of shop\n")
    gone = command(project, "invoke", "shop:total", "[]", env=env)
    assert (
        "there is no function shop:live in us-east-1: deploy it with 'asyncpar lambda deploy'" in gone.stderr
    )

    assert command(project, "deploy", "--yes", env=env).returncode == 0
    process.send_signal(signal.SIGINT)
    assert process.stdout.read().endswith("stopped; nothing is left\n")
    assert process.wait(10) == 0


KEYS = "config/asyncpar/lambda"


def test_deployments_of_one_name_in_two_regions_have_keys_of_their_own(project, monkeypatch, capsys):
    for name, value in environment(project, AWS_REGION="eu-central-1").items():
        monkeypatch.setenv(name, value)
    here, there = (
        project / KEYS / f"123456789012/{region}/shop.key" for region in ("eu-central-1", "us-east-1")
    )
    with moto.mock_aws():
        assert main(["lambda", "deploy", "--yes"]) == 0
        assert "deployed shop to eu-central-1: LambdaPool('shop')" in capsys.readouterr().out
        key = here.read_text()
        with monkeypatch.context() as elsewhere:
            elsewhere.setenv("AWS_REGION", "us-east-1")
            elsewhere.setenv("AWS_DEFAULT_REGION", "us-east-1")
            assert main(["lambda", "deploy", "--yes"]) == 0
            assert there.read_text() != key
            assert main(["lambda", "remove", "--yes"]) == 0
        assert not there.exists()
        assert here.read_text() == key
        capsys.readouterr()
        assert main(["lambda", "remove", "--yes"]) == 0
    said = capsys.readouterr().out
    assert f"removing the key {here}" in said
    assert said.endswith("nothing of shop is left\n")
    assert not here.exists()


def test_another_key_is_noticed(project, local):
    env, _ = local
    key = project / KEYS / "000000000000/us-east-1/shop.key"
    key.unlink()
    looked = command(project, "deploy", "--dry-run", env=env)
    assert "ASYNCPAR_PUBLIC_KEY: " in looked.stdout
    assert "it was deployed with another key, which will be refused from now on" in looked.stdout
    assert not key.exists()


@pytest.mark.parametrize(
    ("answer", "goes_on"), [("y", True), ("YES", True), ("", False), ("n", False), ("what", False)]
)
def test_the_answer_of_whoever_is_asked(monkeypatch, answer, goes_on):
    asked = []
    monkeypatch.setattr(sys, "stdin", type("Terminal", (), {"isatty": lambda self: True})())
    monkeypatch.setattr("builtins.input", lambda question: asked.append(question) or answer)
    if goes_on:
        confirm("Deploy", yes=False)
    else:
        with pytest.raises(CommandError, match="nothing was changed"):
            confirm("Deploy", yes=False)
    assert asked == ["Deploy? [y/N] "]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("total", "total: name a function as module:function"),
        ("shop:none", "shop:none cannot be found: module 'shop' has no attribute 'none'"),
        ("nowhere:total", "nowhere:total cannot be found: No module named 'nowhere'"),
        ("shop:LIMIT", "shop:LIMIT is a int, and no function"),
    ],
)
def test_what_cannot_be_called(project, name, message):
    done = command(project, "invoke", name)
    assert (done.returncode, done.stderr) == (2, f"asyncpar: {message}\n")


def test_what_serverless_reads(project, monkeypatch):
    for name, value in environment(project, AWS_REGION="eu-central-1").items():
        monkeypatch.setenv(name, value)
    with moto.mock_aws():
        assert main(["lambda", "deploy", "--package-only"]) == 0
        made = json.loads((project / ".asyncpar/serverless.json").read_text())
        assert made["artifact"] == ".asyncpar/package.zip"
        assert made["region"] == "eu-central-1"  # which the key is for
        assert (project / ".asyncpar/package.zip").stat().st_size > 10_000
        assert (project / ".asyncpar/.gitignore").read_text() == "*\n"
        key = project / KEYS / "123456789012/eu-central-1/shop.key"
        assert key.stat().st_mode & 0o777 == 0o600
        assert key.read_text() not in json.dumps(made)  # the private key stays here
        assert main(["lambda", "deploy", "--package-only"]) == 0
        assert json.loads((project / ".asyncpar/serverless.json").read_text()) == made


def test_the_policy_of_programs_that_call(project, local):
    env, _ = local
    policy = json.loads(command(project, "deploy", "--client-policy", env=env).stdout)
    assert policy["Statement"][0]["Resource"] == ["arn:aws:lambda:us-east-1:000000000000:function:shop:live"]


PROGRAM = """
import asyncpar, asyncpar_lambda, shop

async def main():
    async with asyncpar_lambda.LambdaPool("shop") as cloud:
        print(await cloud.run(shop.size, "x" * 7_000_000), await cloud.map(shop.total, [[1], [2, 3]]))

asyncpar.run(main)
"""


def test_a_program_talks_to_the_local_lambda_by_what_was_exported(project, local):
    env, _ = local
    (project / "program.py").write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, "program.py"], env=env, cwd=project, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == (
        "7000000 [1, 5]\n",
        "",
    )  # large arguments go through its object store


PAGE = Path(__file__).parents[2] / "docs/lambda.md"


def sessions():
    """The commands of the page's section on deploying, with what it says that they print."""
    section = PAGE.read_text().split("\n## Deploying\n")[1].split("\n## ")[0]
    for block in re.findall(r"^```console\n(.*?)^```$", section, re.MULTILINE | re.DOTALL):
        for one in block.split("$ asyncpar lambda ")[1:]:
            line, _, printed = one.partition("\n")
            yield shlex.split(line), printed


def test_the_page_on_deploying_says_what_happens(project, local):
    env, _ = local
    section = PAGE.read_text().split("\n## Deploying\n")[1]
    (project / "words.py").write_text(re.search(r"```python\n(.*?)```", section, re.DOTALL)[1])
    here = (project / "asyncpar-lambda.toml").read_text().splitlines()[-2:]  # python and machine of this test
    (project / "asyncpar-lambda.toml").unlink()
    for arguments, printed in sessions():
        done = command(project, *arguments, env=env)
        expected = (
            re.escape(printed).replace("…", ".*").replace("arm64:", ".*:").replace("python3\\.13", ".*")
        )
        assert re.fullmatch(expected, done.stdout), (arguments, done.stdout, done.stderr)
        if arguments[0] == "plan":  # the page's target is AWS's arm64; this is a Lambda on this machine
            file = project / "asyncpar-lambda.toml"
            text = re.sub(r'^(python|machine) = ".*"\n', "", file.read_text(), flags=re.MULTILINE)
            file.write_text(text + "\n".join(here) + "\n")
