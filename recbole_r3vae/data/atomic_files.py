"""Writing atomic files so that a data set's folder holds all of them or none."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from recbole_r3vae.data.raw.format import Interactions, Rows
from recbole_r3vae.errors import UserError


def write_interactions(path: Path, found: Interactions, kept: np.ndarray, has_rating: bool) -> None:
    """Write the interactions at the positions ``kept`` (int ``[n]``) as ``.inter``, in that order."""
    users, items = list(found.users), list(found.items)
    header = ["user_id:token", "item_id:token", *(["rating:float"] if has_rating else []), "timestamp:float"]
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        file.write("\t".join(header) + "\n")
        for row in kept.tolist():
            rating = [_number(found.rating[row])] if has_rating else []
            cells = [users[found.user[row]], items[found.item[row]], *rating, _number(found.timestamp[row])]
            file.write("\t".join(cells) + "\n")


def _number(value: float) -> str:
    """The shortest text that gives the same float64 again."""
    return str(int(value)) if value.is_integer() else repr(value)


def write_rows(path: Path, id_field: str, fields: Sequence[str], names: Iterable[str], rows: Rows) -> None:
    """Write a line for each of ``names`` as ``.item`` or ``.user``; a name without a row gets blank cells."""
    blank = ("",) * len(fields)
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        file.write("\t".join([f"{id_field}:token", *fields]) + "\n")
        for name in names:
            file.write("\t".join([name, *rows.get(name, blank)]) + "\n")


def _atomic_names(folder: Path) -> list[str]:
    return [f"{folder.name}.{suffix}" for suffix in ("inter", "item", "user")]


def refuse_to_overwrite(folder: Path) -> None:
    """Raise a ``UserError`` when the folder of a data set already holds one of its atomic files."""
    for name in _atomic_names(folder):
        if (folder / name).exists():
            raise UserError(
                f"{folder / name} exists; --force (force=True) replaces it, or choose another output folder"
            )


def publish(temporary: Path, folder: Path, others: Sequence[str] = ()) -> None:
    """Move the finished files into place: one rename where the folder is new, else an exchange.

    ``.inter`` leaves first and arrives last, so a machine that dies in between leaves a folder that RecBole
    refuses to load, never new interactions beside old items.

    Args:
        temporary: Folder of the finished files, on the same file system.
        folder: The data set's folder, whose name is the stem of its files.
        others: More files that may be among the finished ones; one that is not leaves an old one of its name alone.

    Raises:
        OSError: a file could not be moved; what was there before is there again.
    """
    if not folder.exists():
        os.replace(temporary, folder)
        return
    names = [*_atomic_names(folder), *(name for name in others if (temporary / name).exists())]
    old = temporary / "old"
    old.mkdir()
    removed, placed = [], []
    try:
        for name in names:
            if (folder / name).exists():
                os.replace(folder / name, old / name)
                removed.append(name)
        for name in reversed(names):
            if (temporary / name).exists():
                os.replace(temporary / name, folder / name)
                placed.append(name)
    except BaseException:
        for name in placed:
            (folder / name).unlink()
        for name in reversed(removed):
            os.replace(old / name, folder / name)
        raise
