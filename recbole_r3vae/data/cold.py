"""Cold-start splits: items that no training sees, and what users are asked about the items that are left and those that were taken."""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from recbole_r3vae.data.time_split import are_positions
from recbole_r3vae.errors import UserError, did_you_mean

LEAST_HISTORY = 2
"""Warm items before a target. With fewer, RecBole's leave-one-out keeps the target for training."""


@dataclass(frozen=True)
class Question:
    """Which item comes next?

    Attributes:
        user: external id.
        history: external ids of the warm items before the target, oldest first; cold ones are as if they had never been.
        target: the user's last item, warm or cold.
    """

    user: str
    history: list[str]
    target: str


def check_share(share: float) -> None:
    """Refuse a share that leaves no item cold, or none warm.

    Raises:
        UserError: it is not a number above 0 and below 1.
    """
    if type(share) is not float or not 0 < share < 1:
        raise UserError(f"cold_share is {share!r}; give a share above 0 and below 1, such as 0.05")


def random_items(items: Iterable[str], share: float, seed: int) -> set[str]:
    """A random share of items, the same in whatever order they come.

    Args:
        items: external ids.
        share: above 0 and below 1; at least one item is drawn, and one left.
        seed: of the draw.

    Raises:
        UserError: see :func:`check_share`; or there are fewer than two items.
    """
    check_share(share)
    items = np.array(sorted(set(items)), dtype=object)
    if len(items) < 2:
        raise UserError(f"{len(items)} items cannot be divided into warm and cold ones; take another dataset")
    n_cold = min(max(1, round(share * len(items))), len(items) - 1)
    return set(np.random.default_rng(seed).choice(items, n_cold, replace=False))


def recent_items(users: np.ndarray, items: np.ndarray, times: np.ndarray, share: float) -> set[str]:
    """Items first seen in the last share of all events.

    Args:
        users: ``[n]``, of each event.
        items: ``[n]`` external ids.
        times: ``[n]``, in any unit; equal times fall on the same side.
        share: of events, above 0 and below 1.

    Raises:
        UserError: see :func:`check_share`; the times are positions in each user's history, which say nothing about items; or no item, or
            every item, is that new.
    """
    check_share(share)
    if are_positions(users, times):
        raise UserError(
            "times are the same 1, 2, 3 … for every user: positions, not times, so no item can be called recent; take cold_by=random"
        )
    since = np.sort(times)[len(times) - max(1, math.floor(share * len(times)))]
    first = pd.Series(times).groupby(items).min()
    cold = set(first.index[first >= since])
    if not 0 < len(cold) < len(first):
        raise UserError(f"{len(cold)} of {len(first)} items are first seen in the last {share:g} of the events; choose another cold_share")
    return cold


def ask(histories: Iterable[tuple[str, list[str]]], cold: Container[str]) -> tuple[list[Question], int]:
    """The question that each user's last item makes.

    Args:
        histories: users and all their items, oldest first.
        cold: items that no history may hold.

    Returns:
        The questions, and how many users have none because fewer than :data:`LEAST_HISTORY` warm items come before their last.
    """
    questions, left_out = [], 0
    for user, (*before, target) in histories:
        history = [item for item in before if item not in cold]
        if len(history) < LEAST_HISTORY:
            left_out += 1
        else:
            questions.append(Question(user, history, target))
    return questions, left_out


def select_lines(path: Path, wanted: Mapping[str, Container[str]], separator: str = "\t", encoding: str = "utf-8") -> str:
    """Those lines of an atomic file whose fields have wanted values, unchanged, after its header.

    Args:
        path: a file whose header reads ``user_id:token  item_id:token …``.
        wanted: field to its values.
        separator: between its fields.
        encoding: of its text.

    Raises:
        UserError: the file cannot be read or lacks a field.
    """
    try:
        with open(path, encoding=encoding, newline="") as file:
            header, *lines = file.read().removesuffix("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}; a cold-start split needs it") from error
    names = [column.partition(":")[0] for column in header.rstrip("\r").split(separator)]
    for field in wanted:
        if field not in names:
            raise UserError(f"{path} has no field {field!r}{did_you_mean(field, names)}; it has {', '.join(names)}")
    columns = [(names.index(field), values) for field, values in wanted.items()]
    rows = ((line, line.rstrip("\r").split(separator)) for line in lines)
    kept = (line for line, cells in rows if all(len(cells) > column and cells[column] in values for column, values in columns))
    return "\n".join([header, *kept]) + "\n"
