"""One result by its function and item, for readers of a journal."""

from __future__ import annotations

import json
import pickle
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

from asyncpar.errors import JournalError
from asyncpar.journal import rows
from asyncpar.journal.canonical import NotCanonicalError, digest, encode
from asyncpar.journal.identity import changes, identify


def find(
    connection: sqlite3.Connection,
    path: Path,
    function: Callable[..., Any],
    version: str | None,
    item: Any,
    default: Any,
) -> Any:
    """What is kept for the item, or for the key or the tuple of items that it is; else the default."""
    for key in (
        None,
        find,
    ):  # of a map without and with key=; which key function that was does not matter here
        identity = identify(function, version, key)
        known = connection.execute(
            "SELECT version FROM functions WHERE salt = ?", (identity.salt,)
        ).fetchone()
        if known is None:
            continue
        old = identity.version if known[0] is None else json.loads(known[0])
        changed = changes({**old, "key": ""}, {**identity.version, "key": ""})
        if changed:
            raise JournalError(f"the journal {path} holds results of {identity.label}, but {changed}")
        try:
            content = encode(item)
        except NotCanonicalError as error:
            raise JournalError(
                f"an item of type {type(item).__name__} cannot be in a journal: {error}"
            ) from None
        for spelled in (content, b"*" + content):
            row = connection.execute(
                "SELECT key, function, item, value, checksum FROM results WHERE key = ?",
                (digest(spelled, identity.salt),),
            ).fetchone()
            if row is not None and rows.is_sound(row):
                return pickle.loads(row[3])
    return default
