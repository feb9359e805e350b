"""Times as people write them, to seconds since 1970 in UTC that keep the order of what was written."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

import numpy as np
import pandas as pd

UNITS = {"seconds": 1, "milliseconds": 10**3, "microseconds": 10**6, "nanoseconds": 10**9}
"""What the numbers of a column may count since 1970, to how many of them make a second."""

NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_COMPACT = r"(?:19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])(?:[01]\d[0-5]\d[0-5]\d|2[0-3][0-5]\d[0-5]\d)?"
_ZONE_NAME = re.compile(r"\s*(?:UTC|GMT)$")
_SPACE_BEFORE_OFFSET = re.compile(r"\s+(?=[+-]\d\d:?\d\d$)")
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_LATEST = 7.26e9  # seconds, in the year 2200: what is later in one unit is a time in the next
_UNREADABLE = np.iinfo(np.int64).min


@dataclass(frozen=True)
class Times:
    """A column of times.

    Args:
        order: int64 or float64 ``[n]``: the times without loss, in a unit that all share.
        seconds: float64 ``[n]``, since 1970 in UTC. Times a few nanoseconds apart may be the same float64; ``order`` tells them apart.
        bad: bool ``[n]``: could not be read, or are of another kind than most; their other entries mean nothing.
        form: What the column holds, in words.
    """

    order: np.ndarray
    seconds: np.ndarray
    bad: np.ndarray
    form: str


def parse_times(values: pd.Series) -> Times:
    """Read a column of times, all written alike.

    Numbers count seconds, milliseconds, microseconds or nanoseconds since 1970: the unit in which the median lies before the year 2200. A
    column of ``20210304`` or ``20210304050607`` alone holds dates. Everything else is ISO 8601, with a space or a ``T``, with or without a
    time of day, a fraction and a zone; ``UTC`` and ``GMT`` are zones too, and a time without a zone is one in UTC.

    Args:
        values: Text ``[n]``, none of it blank.
    """
    is_number = values.str.fullmatch(NUMBER).to_numpy(dtype=bool)  # [n]
    if not len(values) or 2 * is_number.sum() <= len(values):
        return _written(values)
    if values[is_number].str.fullmatch(_COMPACT).all():
        return _written(values)
    return _counted(values, is_number)


def _counted(values: pd.Series, is_number: np.ndarray) -> Times:
    numbers = values.where(is_number, "0")
    try:
        order = numbers.astype(np.int64).to_numpy()  # [n]: a float64 has no room for nanoseconds
    except (ValueError, OverflowError):
        order = numbers.astype(np.float64).to_numpy()
    size = np.abs(order.astype(np.float64))
    unit_of = np.searchsorted([_LATEST * per_second for per_second in UNITS.values()], size)  # [n], 4: later than 2200 in all units
    unit = min(int(np.median(unit_of[size > 0])), len(UNITS) - 1) if size.any() else 0
    name, per_second = list(UNITS.items())[unit]
    bad = ~is_number | (unit_of != unit) & (size > 0)
    return Times(order, order / per_second, bad, f"{name} since 1970")


def _written(values: pd.Series) -> Times:
    codes, unique = pd.factorize(values)  # days and seconds repeat
    read = [_microseconds(value) for value in unique]
    order = np.array([_UNREADABLE if entry is None else entry[0] for entry in read], dtype=np.int64)[codes]  # [n]
    zoneless = any(entry is not None and entry[1] for entry in read)
    return Times(order, order / 10**6, order == _UNREADABLE, "ISO 8601, read as UTC where no zone is given" if zoneless else "ISO 8601")


def _microseconds(text: str) -> tuple[int, bool] | None:
    """Microseconds since 1970 and whether a zone was lacking; ``None`` for what is no time."""
    text = _ZONE_NAME.sub("Z", text.strip())
    text = _SPACE_BEFORE_OFFSET.sub("", text)
    if len(text) == 14 and text.isdigit():
        text = f"{text[:8]}T{text[8:]}"
    if text[4:5] == text[7:8] == "/":
        text = text.replace("/", "-", 2)
    try:
        moment = datetime.fromisoformat(text)
        aware = moment.replace(tzinfo=timezone.utc) if moment.tzinfo is None else moment
        return (aware - _EPOCH) // timedelta(microseconds=1), moment.tzinfo is None
    except (ValueError, OverflowError):
        return None
