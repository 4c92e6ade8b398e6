"""Where the private key of a deployment is kept: a file for each account, region and function, for its owner only."""

from __future__ import annotations

import os
from pathlib import Path

from asyncpar.errors import AsyncparError


def key_path(function_name: str, *place: str) -> Path:
    """The file: ``~/.config/asyncpar/<place>/<function>.key``, or under ``XDG_CONFIG_HOME``.

    :param place: folder by folder, as far as it takes to tell deployments of one name apart:
        ``"lambda", account, region``
    """
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base, "asyncpar", *place, f"{function_name}.key")


def save_key(path: Path, private_key: bytes) -> None:
    """Write it, for its owner's eyes only."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    new = path.with_suffix(".new")  # whoever could read the old file cannot read this one
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(private_key.hex())
    new.replace(path)


def load_key(path: Path) -> bytes:
    """The 32 bytes.

    :raises AsyncparError: there is no such file, or no key in it
    """
    try:
        key = bytes.fromhex(path.read_text().strip())
    except FileNotFoundError:
        raise AsyncparError(
            f"there is no key in {path}: deploy from this machine, copy the file from where it was deployed, or pass key="
        ) from None
    except ValueError:
        key = b""
    if len(key) != 32:
        raise AsyncparError(f"{path} holds no key: 64 hexadecimal digits; deploy again to make a new one")
    return key


def public_of(private_key: bytes) -> bytes:
    """The public key that belongs to it."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Ed25519PrivateKey.from_private_bytes(private_key).public_key().public_bytes_raw()
