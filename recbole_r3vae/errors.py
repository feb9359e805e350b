"""The one error that is the user's to mend."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Something in the user's input is wrong and the message says how to mend it.

    The command line prints the message as one line and exits with status 2; library callers get an ordinary ``ValueError``.
    """


def nearest(name: str, candidates: Iterable[str], n: int = 3) -> str:
    """A hint naming the candidates most like ``name``, for the end of an error message.

    Args:
        name: What the user wrote.
        candidates: The names that exist.
        n: At most this many are named.

    Returns:
        ``"; did you mean 'a' or 'b'?"``, or an empty string when nothing is close.
    """
    by_lower = {candidate.lower(): candidate for candidate in candidates}
    close = difflib.get_close_matches(name.lower(), by_lower, n=n, cutoff=0.5)
    return f"; did you mean {' or '.join(repr(by_lower[c]) for c in close)}?" if close else ""
