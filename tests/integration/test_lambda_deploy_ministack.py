"""A deployment on MiniStack: by the real command, and by osls from ``serverless.yml``.

``make integration`` installs osls, the fork of the Serverless Framework that is maintained; its command is in
``ASYNCPAR_OSLS``.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from asyncpar_lambda.deploy import Cloud
from asyncpar_lambda.keys import key_path, load_key, public_of
from asyncpar_lambda.resources import changes, wanted
from asyncpar_lambda.settings import read_settings

OSLS = os.environ.get("ASYNCPAR_OSLS", "")
SERVERLESS = Path(__file__).parents[2] / "serverless.yml"

pytestmark = [pytest.mark.may_block, pytest.mark.timeout(240)]


@pytest.fixture
def project(tmp_path, monkeypatch, endpoint):
    """A folder with a user's module and settings, in an environment where AWS is MiniStack."""
    monkeypatch.chdir(tmp_path)
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    machine = "arm64" if platform.machine() in ("aarch64", "arm64") else "x86_64"
    (tmp_path / "till.py").write_text("def total(prices, factor=1): return sum(prices) * factor\n")
    (tmp_path / "asyncpar-lambda.toml").write_text(
        f'name = "till"\npaths = ["till.py"]\nallow = ["till:total"]\npython = "{here}"\nmachine = "{machine}"\n'
    )
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    variables = {
        "AWS_ENDPOINT_URL": endpoint, "AWS_REGION": "us-east-1", "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "HOME": str(tmp_path),
        "XDG_CONFIG_HOME": str(tmp_path / "config"), "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "SLS_TELEMETRY_DISABLED": "1", "SLS_NOTIFICATIONS_MODE": "off",
    }  # fmt: skip
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return tmp_path


def run(*command):
    """What it prints; it must not fail."""
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def asyncpar(*arguments):
    return run(sys.executable, "-m", "asyncpar", "lambda", *arguments)


def different(code=None):
    """What the command would change."""
    settings = read_settings(Path("asyncpar-lambda.toml"))
    cloud = Cloud(settings)
    found = cloud.read()
    if code is None and found["function"]:
        code = found["function"]["Environment"]["Variables"]["ASYNCPAR_CODE"]
    cloud.close()
    key = key_path(settings.name, "lambda", cloud.place.account, cloud.place.region)
    public = public_of(load_key(key)).hex() if key.exists() else ""
    return changes(found, wanted(settings, cloud.place, code or "", public))


def test_the_command_deploys_invokes_and_removes(project):
    assert "deployed till to us-east-1" in asyncpar("deploy", "--yes")
    assert "nothing to change" in asyncpar("deploy")
    assert asyncpar("invoke", "till:total", "[1, 2, 3]", "2") == "12\n"
    assert "REPORT RequestId" in asyncpar("logs")

    settings = Path("asyncpar-lambda.toml")
    settings.write_text(settings.read_text() + "memory = 512\nconcurrency = 3\n")
    changed = asyncpar("deploy", "--yes")
    assert "    MemorySize: 1769 -> 512\n    ReservedConcurrentExecutions: nothing -> 3\n" in changed
    assert different() == {}
    assert asyncpar("invoke", "till:total", "[1, 2, 3]") == "6\n"

    assert asyncpar("remove", "--yes").endswith("nothing of till is left\n")
    assert different() == dict.fromkeys(("role", "log group", "bucket", "function", "alias"))


def test_osls_deploys_the_same_from_serverless_yml(project):
    if not OSLS:
        pytest.skip("osls is not installed: 'make integration' installs it where npm is")
    shutil.copy(SERVERLESS, project)
    asyncpar("deploy", "--package-only")
    run(OSLS, "deploy")
    try:
        # MiniStack's CloudFormation passes over a bucket's lifecycle; tests/adapters/test_lambda_resources.py compares it.
        rest = {"bucket": ['LifecycleConfiguration: nothing -> {"Rules": [{…']}
        assert different() == rest
        assert asyncpar("invoke", "till:total", "[1, 2, 3]", "2") == "12\n"

        settings = Path("asyncpar-lambda.toml")
        settings.write_text(settings.read_text() + "memory = 512\n")
        asyncpar("deploy", "--package-only")
        run(OSLS, "deploy")
        assert different() == rest  # the alias serves the new version
    finally:
        run(OSLS, "remove")
    assert different() == dict.fromkeys(("role", "log group", "bucket", "function", "alias"))
