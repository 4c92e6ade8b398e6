"""The contract: what every pool promises, as a class of tests to inherit from. One module for each theme."""

from __future__ import annotations

from asyncpar.testing.contract.bounds import BoundsContract
from asyncpar.testing.contract.calls import CallsContract
from asyncpar.testing.contract.failures import FailuresContract
from asyncpar.testing.contract.journal import JournalContract
from asyncpar.testing.contract.lifetime import LifetimeContract
from asyncpar.testing.contract.maps import MapsContract
from asyncpar.testing.contract.stateful import StatefulContract
from asyncpar.testing.contract.wholes import WholesContract

__all__ = ["PoolContract"]


class PoolContract(
    CallsContract,
    LifetimeContract,
    MapsContract,
    BoundsContract,
    FailuresContract,
    JournalContract,
    StatefulContract,
    WholesContract,
):
    """Inherit from this, name the class ``Test...``, define ``make_pool``; pytest collects the rest.

    Async tests need ``anyio_mode = "auto"`` in pytest's settings (or asyncio_mode of pytest-asyncio). For readable
    assertions, call ``pytest.register_assert_rewrite("asyncpar.testing.contract")`` before the import.

    Say what the pool does not promise by class variables. Tests of that are skipped, with a reason that begins with
    ``not promised:``.

    :cvar stops: whether a call that runs can be stopped, and so a timeout ends it
    :cvar abandons: whether the caller of a call that runs is freed by a timeout or cancellation
    :cvar parallel: whether several calls run at the same time
    :cvar shares_files: whether workers see this machine's files; tests that count calls need it
    :cvar stateful: whether the pool has actors and streams
    """
