"""What a newer export of interactions changed: who came and went, and whether histories only grew."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from recbole_r3vae.data.atomic_check import check_atomic_file
from recbole_r3vae.errors import UserError

LINE, REPEAT, NOW = ":line", ":repeat", ":now"
"""Columns beside those of a file, and what the newer file's end in: no column is called so."""


@dataclass(frozen=True)
class Difference:
    """How two ``.inter`` files differ. An interaction is a user, an item and, where both files have times, a time; each counts.

    Attributes:
        counts: ``users``, ``items`` and ``interactions`` to how many there are in the old and in the new file, are added, are removed.
        lines_of_both: interactions of both files.
        same_order: whether these come in the same order.
        other_cells: of these, how many have another value in another column of both files.
        histories: of users in both files, how many have the history that they had (``same``), one that goes on where it ended
            (``longer``), or another (``changed``).
        columns: the columns that only the new file has, and those that only the old one has.
    """

    counts: dict[str, tuple[int, int, int, int]]
    lines_of_both: int
    same_order: bool
    other_cells: int
    histories: dict[str, int]
    columns: tuple[list[str], list[str]]


def differences(old: str | os.PathLike, new: str | os.PathLike, config: Mapping[str, Any]) -> Difference:
    """Compare two ``.inter`` files, whatever their names.

    Args:
        old: the file of before.
        new: that of now.
        config: says how they are read: ``USER_ID_FIELD``, ``ITEM_ID_FIELD``, ``TIME_FIELD``, ``field_separator``, ``encoding``.

    Raises:
        UserError: a file is malformed, or lacks users or items.
    """
    user, item, time = (config[f"{name}_FIELD"] for name in ("USER_ID", "ITEM_ID", "TIME"))
    before, now = (_read(path, config) for path in (old, new))
    columns = ([name for name in now if name not in before], [name for name in before if name not in now])
    key = [user, item, *([time] if time in before and time in now else [])]
    counts = {}
    for name, field in (("users", user), ("items", item)):
        was, found = set(before[field]), set(now[field])
        counts[name] = (len(was), len(found), len(found - was), len(was - found))
    numbered = [frame.assign(**{LINE: range(len(frame)), REPEAT: frame.groupby(key).cumcount()}) for frame in (before, now)]
    both = numbered[0].merge(numbered[1], on=[*key, REPEAT], suffixes=("", NOW)).sort_values(LINE)
    counts["interactions"] = (len(before), len(now), len(now) - len(both), len(before) - len(both))
    others = [name for name in before if name in now and name not in key]
    changed = (both[others].to_numpy() != both[[f"{name}{NOW}" for name in others]].to_numpy()).any(1).sum() if others else 0
    histories = Counter({"same": 0, "longer": 0, "changed": 0})
    was, found = (_histories(frame, user, item, key[2:]) for frame in (before, now))
    for name in was.keys() & found.keys():
        begins = found[name][: len(was[name])] == was[name]
        histories["changed" if not begins else "longer" if len(found[name]) > len(was[name]) else "same"] += 1
    return Difference(counts, len(both), bool(both[f"{LINE}{NOW}"].is_monotonic_increasing), int(changed), dict(histories), columns)


def table(found: Difference) -> str:
    """A :class:`Difference` as a short table."""
    lines = [f"{'':<14}{'old':>12}{'new':>12}{'added':>12}{'removed':>12}"]
    lines += [f"{name:<14}" + "".join(f"{count:>12,}" for count in counts) for name, counts in found.counts.items()]
    order = "the same order" if found.same_order else "another order"
    others = f"{found.other_cells:,} with another value elsewhere"
    lines.append(f"the {found.lines_of_both:,} interactions of both files come in {order}, {others}")
    same, longer, changed = (found.histories[name] for name in ("same", "longer", "changed"))
    lines.append(f"histories of users in both: {same:,} as they were, {longer:,} longer, {changed:,} changed before their end")
    for what, names in zip(("new", "old"), found.columns):
        if names:
            lines.append(f"columns of the {what} file alone: {', '.join(names)}")
    return "\n".join(lines)


def _read(path: str | os.PathLike, config: Mapping[str, Any]) -> pd.DataFrame:
    """Cells as text, times as numbers; columns without their types."""
    fields = [config["USER_ID_FIELD"], config["ITEM_ID_FIELD"]]
    check_atomic_file(Path(path), config["field_separator"], config["encoding"], [config["TIME_FIELD"]], fields)
    frame = pd.read_csv(path, sep=config["field_separator"], encoding=config["encoding"], dtype=str, keep_default_na=False, engine="python")
    frame.columns = [column.partition(":")[0] for column in frame.columns]
    missing = next((field for field in fields if field not in frame), None)
    if missing is not None:
        raise UserError(f"{path} has no column {missing!r}, only {', '.join(frame)}; set USER_ID_FIELD and ITEM_ID_FIELD to its names")
    if config["TIME_FIELD"] in frame:
        frame[config["TIME_FIELD"]] = frame[config["TIME_FIELD"]].astype("float64")
    return frame


def _histories(frame: pd.DataFrame, user: str, item: str, time: list[str]) -> dict[str, list[str]]:
    """Each user's items, in time order where there are times, otherwise as they come."""
    ordered = frame.sort_values(time, kind="stable") if time else frame
    return ordered.groupby(user)[item].agg(list).to_dict()
