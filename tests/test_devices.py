"""`asyncpar.device()`: what the adapters find, and what is said where there is nothing."""

from __future__ import annotations

import pytest

import asyncpar
from asyncpar.devices import Devices
from asyncpar.errors import BrokenPoolError


class Entry:
    """As `importlib.metadata` has it."""

    def __init__(self, name, answer):
        self.name, self.answer = name, answer

    def load(self):
        if isinstance(self.answer, ImportError):
            raise self.answer
        return self

    def __call__(self):
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.fixture
def entries(monkeypatch):
    made: list[Entry] = []
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: made)
    return made


def test_what_is_found_and_what_is_not(entries):
    """A failing driver does not hide another's devices."""
    entries += [
        Entry("one", ["device 0: a card"]),
        Entry("two", BrokenPoolError("no device: install a driver")),
        Entry("three", ImportError("no module named three")),
        Entry("four", []),
    ]
    devices = asyncpar.device()
    assert devices
    assert devices.found == {"one": ("device 0: a card",)}
    assert str(devices).splitlines() == [
        "one: device 0: a card",
        "four: no device",
        "three: no module named three",
        "two: no device: install a driver",
    ]


def test_none_is_said_in_plain_words(entries):
    """And it is false."""
    assert not asyncpar.device()
    assert (
        str(Devices({}, {"two": "install a driver"}))
        == "No device for array work was found.\ntwo: install a driver"
    )
