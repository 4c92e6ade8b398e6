"""The private key's file."""

from __future__ import annotations

import os
import stat

import pytest

from asyncpar.errors import AsyncparError
from asyncpar_lambda.keys import key_path, load_key, save_key


def test_a_key_is_kept_for_its_owner_only(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    path = key_path("job", "lambda", "123456789012", "eu-central-1")
    assert path == tmp_path / "asyncpar/lambda/123456789012/eu-central-1/job.key"
    save_key(path, bytes(range(32)))
    path.chmod(0o644)  # copied from elsewhere, as it happens
    save_key(path, bytes(range(1, 33)))
    assert load_key(path) == bytes(range(1, 33))
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600


def test_a_key_that_is_not_there_or_none_says_what_to_do(tmp_path):
    with pytest.raises(AsyncparError, match="deploy from this machine, copy the file"):
        load_key(tmp_path / "none.key")
    (tmp_path / "bad.key").write_text("abc")
    with pytest.raises(AsyncparError, match=r"bad\.key holds no key: 64 hexadecimal digits"):
        load_key(tmp_path / "bad.key")
