"""``asyncpar.device()``: which devices for array work are found here, and what to do where there is none.

Adapters say what they find: each registers a function under the entry-point group ``asyncpar.devices``. It returns a line
for each device, and raises ``ImportError`` or ``BrokenPoolError`` where there is none, with what to install.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Devices:
    """What was found. True if there is any; as text, it says so in plain words.

    :ivar found: a line for each device, by the name of the pool that reaches it
    :ivar missing: of the pools that found none, why not, and what to install
    """

    found: dict[str, tuple[str, ...]]
    missing: dict[str, str]

    def __bool__(self) -> bool:
        return bool(self.found)

    def __str__(self) -> str:
        lines = [f"{name}: {line}" for name, each in self.found.items() for line in each]
        if not lines:
            lines = ["No device for array work was found."]
        return "\n".join([*lines, *(f"{name}: {why}" for name, why in self.missing.items())])


def device() -> Devices:
    """Look for devices: through CuPy, OpenCL, numba, and what other packages register.

    This loads the libraries and their drivers, which takes up to seconds: on an event loop, call it as
    ``await asyncpar.to_thread(asyncpar.device)``. ``asyncpar doctor`` looks in a process of its own.
    """
    from importlib.metadata import entry_points

    found: dict[str, tuple[str, ...]] = {}
    missing: dict[str, str] = {}
    for entry in sorted(entry_points(group="asyncpar.devices"), key=lambda entry: entry.name):
        try:
            lines = tuple(entry.load()())
        except Exception as error:  # a driver may fail in any way, and this is what is to be told
            missing[entry.name] = str(error) or type(error).__name__
            continue
        if lines:
            found[entry.name] = lines
        else:
            missing[entry.name] = "no device"
    return Devices(found, missing)
