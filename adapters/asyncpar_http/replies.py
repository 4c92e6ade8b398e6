"""What the reply of a function behind HTTP means for the calls that were sent. No I/O."""

from __future__ import annotations

import time
from email.utils import parsedate_to_datetime

from asyncpar_lambda.replies import Verdict
from asyncpar_lambda.transport import Reply


def judge(reply: Reply, advice: str) -> Verdict:
    """The meaning of a reply.

    A status of 5xx may come from in front of the function or from its death, and no header tells which: its calls may
    have run. A 503 that says when to come back has turned the request away.

    :param advice: what to do where the caller is not let in
    """
    status = reply.status
    if status == 200:
        return Verdict("answer")
    wish = retry_after(reply.headers.get("retry-after"))
    if status == 429 or (status == 503 and wish is not None):
        return Verdict("throttled", str(status), wish)
    said = reply.body[:200].decode("utf-8", "replace").strip()
    what = f"it answered {status}: {said}" if said else f"it answered {status}"
    if status >= 500:
        return Verdict("lost", what)
    if status in (401, 403):
        return Verdict("refused", f"{what}; {advice}")
    if status == 404:
        return Verdict("refused", f"{what}; deploy the function, or look at its address")
    if 300 <= status < 400:
        return Verdict("refused", f"{what}; open the pool with the address {reply.headers.get('location')}")
    return Verdict("refused", what)


def retry_after(text: str | None) -> float | None:
    """Seconds from a ``Retry-After``, which holds seconds or a date; ``None`` if it holds neither."""
    if text is None:
        return None
    try:
        return max(0.0, float(text))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError:
        return None
