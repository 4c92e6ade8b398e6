"""The calls of a request and their outcomes, as plain data. No I/O.

A body is ``[calls, bound, star]``: of a map the items, of single calls ``[function, args, kwargs]`` each, where
``function`` is an index into the head's ``functions``; ``bound`` holds for each function the arguments and keywords
that a partial or a method adds in front.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from asyncpar_lambda import codec
from asyncpar_lambda.envelope import MAX_BODY, Answer, Head
from asyncpar_lambda.errors import CodecError
from asyncpar_lambda.naming import Names, bound

BY_VALUE = "by value"
MAP, STARMAP, SINGLES = "map", "starmap", "singles"

Share = Callable[[Any], str]
Pickle = Callable[[Any], bytes]


class Functions:
    """The functions of one request, each once: what the head and the body say of them.

    :param names: how they are named
    :param pickle: for ``functions="by_value"``
    """

    def __init__(self, names: Names, pickle: Pickle | None = None) -> None:
        self.names, self.pickle = names, pickle
        self.listed: list[str] = []
        self.bound: list[list[Any]] = []
        self._index: dict[int, int] = {}

    def add(self, function: Callable[..., Any]) -> int:
        """The function's index.

        :raises CodecError: it has no name, and functions do not travel by value
        """
        index = self._index.get(id(function))
        if index is not None:
            return index
        inner, args, kwargs = bound(function)
        if self.pickle is None:
            name, sent = self.names.name(inner), None
        else:
            name, sent = BY_VALUE, self.pickle(inner)
        self._index[id(function)] = index = len(self.listed)
        self.listed.append(name)
        self.bound.append([sent, list(args), kwargs])
        return index


def dump_items(functions: Functions, items: Sequence[Any], star: bool, share: Share | None = None) -> bytes:
    """The body of a map's chunk: the only one of ``functions``, with these items."""
    content = [list(item) for item in items] if star else list(items)
    return codec.dumps(
        [STARMAP if star else MAP, functions.bound, content],
        functions.names,
        share=share,
        pickle=functions.pickle,
    )


def dump_singles(
    functions: Functions,
    calls: Sequence[tuple[int, Sequence[Any], dict[str, Any]]],
    share: Share | None = None,
) -> bytes:
    """The body of calls that were made one by one: ``(index of the function, arguments, keywords)`` each."""
    content = [[index, list(args), kwargs] for index, args, kwargs in calls]
    return codec.dumps(
        [SINGLES, functions.bound, content], functions.names, share=share, pickle=functions.pickle
    )


Prepared = tuple[Callable[..., Any], list[Any], dict[str, Any]]


def load_calls(
    head: Head,
    body: bytes,
    names: Names,
    constant: Callable[[str], Any] | None,
    unpickle: Callable[[bytes], Any] | None,
) -> list[Prepared]:
    """Function, arguments and keywords of each call, on the worker's side.

    :raises CodecError: something cannot be decoded, or is not there
    :raises RefusedError: a function is not allowed
    """
    content = codec.loads(body, names, constant=constant, unpickle=unpickle, max_bytes=MAX_BODY)
    try:
        ready = _prepare(head, content, names, unpickle)
    except CodecError:
        raise
    except (TypeError, ValueError, IndexError) as error:
        raise CodecError(f"the calls are malformed: {type(error).__name__}: {error}") from error
    if len(ready) != head.count:
        raise CodecError(f"the request holds {len(ready)} calls and says {head.count}")
    return ready


def _prepare(
    head: Head, content: Any, names: Names, unpickle: Callable[[bytes], Any] | None
) -> list[Prepared]:
    kind, added, calls = content
    ready = [
        (_function(name, sent, names, unpickle), args, kwargs)
        for name, (sent, args, kwargs) in zip(head.functions, added, strict=True)
    ]
    if kind == SINGLES:
        return [(ready[i][0], [*ready[i][1], *args], {**ready[i][2], **kwargs}) for i, args, kwargs in calls]
    [(function, args, kwargs)] = ready
    return [(function, [*args, *(item if kind == STARMAP else (item,))], kwargs) for item in calls]


def _function(
    name: str, sent: Any, names: Names, unpickle: Callable[[bytes], Any] | None
) -> Callable[..., Any]:
    if name != BY_VALUE:
        function: Callable[..., Any] = names.find(name, "function")
        return function
    if unpickle is None:
        raise CodecError("a function by value was refused: deploy with functions='by_value'")
    made: Callable[..., Any] = unpickle(sent)
    return made


def dump_answer(answer: Answer, names: Names) -> bytes:
    """The answer's body. A value that is no plain data fails alone, as that call's error."""
    parts = [dump_outcome(ok, value, names) for ok, value in answer.outcomes]
    about = [answer.environment, answer.cold, answer.memory, answer.total, answer.again]
    return codec.dumps([parts, list(answer.seconds), *about])


class Encoded:
    """An outcome that is encoded already."""

    def __init__(self, blob: bytes) -> None:
        self.blob = blob


def dump_outcome(ok: bool, value: Any, names: Names) -> list[Any]:
    """Encoded by itself, so that the client decodes each result apart and one bad one harms no other."""
    if isinstance(value, Encoded):
        return [ok, value.blob]
    try:
        return [ok, codec.dumps(value, names)]
    except CodecError as error:
        made = CodecError(f"the result cannot be sent back: {error}")
        return [False, codec.dumps(made, names)]


def load_answer(data: bytes, names: Names, max_bytes: int = MAX_BODY) -> Answer:
    """The answer, on the client's side. A result that may not be built here becomes that call's error.

    :raises CodecError: the answer as a whole is malformed, or too large
    """
    try:
        parts, seconds, environment, cold, memory, total, again = codec.loads(data, max_bytes=max_bytes)
        outcomes = tuple(_load_outcome(bool(ok), blob, names) for ok, blob in parts)
        return Answer(
            outcomes=outcomes,
            seconds=tuple(map(float, seconds)),
            environment=str(environment),
            cold=bool(cold),
            memory=int(memory),
            total=float(total),
            again=int(again),
        )
    except CodecError:
        raise
    except (TypeError, ValueError) as error:
        raise CodecError(f"the worker's answer is malformed: {error}") from error


def _load_outcome(ok: bool, blob: Any, names: Names) -> tuple[bool, Any]:
    try:
        value = codec.loads(blob, names)
    except CodecError as error:
        return False, error
    if not ok and not isinstance(value, BaseException):
        return False, CodecError("the worker's answer is malformed: an error that is no exception")
    return ok, value
