"""The one error that is the user's to mend."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from traceback import walk_tb


class UserError(ValueError):
    """Something in the user's input is wrong and the message says how to mend it.

    The command line prints the message as one line and exits with status 2; library callers get an ordinary ``ValueError``.
    """


@contextmanager
def as_user_error(what: str, remedy: str) -> Iterator[None]:
    """RecBole reading the user's input: what it raises is the input's fault, said in one line.

    What this package raises, or what torch or pandas raise when this package calls them, is a mistake of this package and stays as it is,
    with its traceback; so does a lack of memory.

    Args:
        what: What could not be done.
        remedy: What the user can do.

    Raises:
        UserError: RecBole raised, or something that RecBole called; a ``UserError`` of its own stays as it is.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if _whose(error) != "recbole" or _is_lack_of_memory(error):
            raise
        raise UserError(f"{what}: {type(error).__name__}: {error}; {remedy}") from error


def _whose(error: BaseException) -> str | None:
    """The package, RecBole or this one, that was the last to call when an error was raised."""
    calls = [frame.f_globals.get("__name__", "").partition(".")[0] for frame, _ in walk_tb(error.__traceback__)]
    return next((name for name in reversed(calls) if name in ("recbole", "recbole_r3vae")), None)


def _is_lack_of_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or "out of memory" in str(error).lower() or "can't allocate memory" in str(error).lower()


def one_line(error: object, n: int = 1500) -> str:
    """An error as one line that a terminal can show: no control characters, and the middle of a very long one left out.

    Args:
        error: The error, or its message.
        n: At most so many characters.
    """
    text = " ".join(str(error).split())
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
    return text if len(text) <= n else f"{text[: n // 2]} … {text[-n // 2 + 3 :]}"


def short_repr(value: object, n: int = 60) -> str:
    """A value as Python writes it, for a message; cut where it is long."""
    text = repr(value)
    return text if len(text) <= n else f"{text[:n]}…"


def did_you_mean(name: object, candidates: Iterable[str], n: int = 3, otherwise: str = "") -> str:
    """A hint naming the candidates most like ``name``, for the end of an error message.

    Args:
        name: What the user wrote, which may be no text at all.
        candidates: The names that exist.
        n: At most this many are named.
        otherwise: What to do when nothing is close.

    Returns:
        ``"; did you mean 'a' or 'b'?"``; when nothing is close ``"; "`` and ``otherwise``, or an empty string without it.
    """
    by_lower = {candidate.lower(): candidate for candidate in candidates}
    close = difflib.get_close_matches(str(name)[:100].lower(), by_lower, n=n, cutoff=0.5)
    if not close:
        return f"; {otherwise}" if otherwise else ""
    return f"; did you mean {' or '.join(repr(by_lower[c]) for c in close)}?"
