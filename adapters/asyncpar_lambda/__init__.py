"""asyncpar on AWS Lambda: bulk jobs as invocations, with the verbs of every pool.

General layout:

    aws             LambdaPool, beside ``asyncpar.ProcessPool`` and its like
    pool            FunctionPool: what it shares with the pools of other clouds
    batch           chunks as signed requests, answers as outcomes
    envelope codec calls naming     what travels, and what may
    control         how many invocations may be in flight
    replies         what Lambda's answers mean for calls
    cost            plans, meters, budgets
    store           the object store: large arguments and results, constants, outcomes
    transport/      the Invoke API: ours, and aiobotocore
    deployment keys sigv4           what is deployed, and who may ask for it
    worker objects once             the far side, which imports almost nothing
    package         the zip
    settings resources deploy       what is deployed besides: role, log, bucket;  cli/ ``asyncpar lambda``
    local/          a Lambda on this machine
    errors
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asyncpar_lambda.aws import LambdaPool as LambdaPool
    from asyncpar_lambda.aws import LambdaStatistics as LambdaStatistics
    from asyncpar_lambda.cost import CostError as CostError
    from asyncpar_lambda.cost import Plan as Plan
    from asyncpar_lambda.cost import Prices as Prices
    from asyncpar_lambda.errors import CodecError as CodecError
    from asyncpar_lambda.errors import RefusedError as RefusedError
    from asyncpar_lambda.errors import RemoteError as RemoteError
    from asyncpar_lambda.errors import StoreError as StoreError
    from asyncpar_lambda.sigv4 import Credentials as Credentials

_MODULES = {
    "CodecError": "errors",
    "CostError": "cost",
    "Credentials": "sigv4",
    "LambdaPool": "aws",
    "LambdaStatistics": "aws",
    "Plan": "cost",
    "Prices": "cost",
    "RefusedError": "errors",
    "RemoteError": "errors",
    "StoreError": "errors",
}

__all__ = list(_MODULES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    """The public names are loaded at first use: the worker imports this package too."""
    if name not in _MODULES:
        raise AttributeError(f"module 'asyncpar_lambda' has no attribute {name!r}")
    from importlib import import_module

    value = globals()[name] = getattr(import_module(f"asyncpar_lambda.{_MODULES[name]}"), name)
    return value
