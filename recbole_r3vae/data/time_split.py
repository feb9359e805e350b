"""The global time split: nothing that a model learns from is later than anything that it is asked.

Leave-one-out takes each user's last items, so that what one user does in May is learnt before another is asked about March, and every item
of the test has usually been trained on. Here two points of time are the same for all users: ``eval_args: {split: {GTS: [0.8, 0.9]}}``.

=========== ==================================================== ======================================================================
part        targets                                              histories
=========== ==================================================== ======================================================================
training    all interactions up to the first point               what lies before each of them
validation  a user's first interaction after the first point,    all of his interactions up to the first point
            if the second point is not before it
test        a user's first interaction after the second point    all of his interactions up to the second point, those between the points
                                                                 too; no model has learnt from these
=========== ==================================================== ======================================================================

A user without a history up to a point is not asked about what follows it. All other interactions after the first point are in no part. The
points are times of interactions: the quantiles at which the given shares of all interactions lie before. An interaction at a point counts as
before it, so days that are told without hours are never cut.

The name is that of Gusak et al. ("Time to Split", RecSys 2025, arXiv 2507.16289), who compare such splits with leave-one-out. It is not the
``TS`` of RecBole 1.2.1, which takes three ratios and lets validation interactions of one user precede training interactions of another.

What it does not do: the numbers of interactions that users and items must have (k-core) count all of them, and the catalogue holds items that
first occur in the test. So some test targets are cold; their share is said when a run begins and stands in its leaderboard.
"""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd

from recbole_r3vae.errors import UserError, short_repr

NAME = "GTS"
"""Its key in ``split`` of ``eval_args``."""

NO_PART = -1


def points_of(evaluation: Mapping[str, Any]) -> tuple[float, float] | None:
    """The two shares of interactions that a split names; ``None`` where it is another split.

    Args:
        evaluation: ``eval_args``.

    Raises:
        UserError: they are not two shares, the smaller one first.
    """
    split = evaluation["split"]
    if not isinstance(split, Mapping) or NAME not in split:
        return None
    points = split[NAME]
    are_shares = isinstance(points, (list, tuple)) and len(points) == 2 and all(isinstance(p, Real) and type(p) is not bool for p in points)
    if not are_shares or not 0 < points[0] < points[1] < 1:
        raise UserError(
            f"split in eval_args is {short_repr(split)}; of {NAME} write two shares of the interactions, those before the validation and "
            f"before the test: {{{NAME}: [0.8, 0.9]}}"
        )
    return float(points[0]), float(points[1])


def are_positions(users: np.ndarray, times: np.ndarray) -> bool:
    """Whether times are the same 1, 2, 3 … for every user: places in his history, which say nothing of other users.

    Args:
        users, times: ``[n]``, of each interaction.
    """
    grid = np.unique(times)
    place = pd.Series(times).groupby(users).rank(method="first").astype(int).to_numpy() - 1  # 0, 1, … within a user
    return bool(place.max() + 1 == len(grid) and np.array_equal(grid[place], times))


def stages(users: np.ndarray, times: np.ndarray, points: tuple[float, float]) -> np.ndarray:
    """Where interactions lie in time.

    Args:
        users, times: ``[n]``, of all interactions, in any order.
        points: see :func:`points_of`.

    Returns:
        int64 ``[n]``: 0 up to the first point, 1 between the points, 2 after the second.

    Raises:
        UserError: the times are positions; or a stage is empty, because all times are equal.
    """
    if are_positions(users, times):
        raise UserError(
            f"{NAME} splits by time, and the times are the same 1, 2, 3 … for every user: positions, not times; take a dataset with times, "
            "or split: {LS: valid_and_test}"
        )
    stage = np.searchsorted(np.quantile(times, points, method="lower"), times, side="left")
    if len(np.unique(stage)) < 3:
        raise UserError(f"{NAME}: {list(points)} leaves nothing between or after its points of time; choose other shares")
    return stage


def parts(users: np.ndarray, stage: np.ndarray) -> np.ndarray:
    """Which part each interaction is a target of.

    Args:
        users: ``[n]``, of interactions in time order.
        stage: ``[n]``, of :func:`stages`.

    Returns:
        int64 ``[n]``: 0 training, 1 validation, 2 test, :data:`NO_PART`.
    """
    order = np.argsort(users, kind="stable")
    has_history = np.r_[False, users[order][1:] == users[order][:-1]]
    is_later = np.r_[False, stage[order][1:] > stage[order][:-1]]  # than the same user's interaction before, where there is one
    target = np.empty(len(users), dtype=bool)
    target[order] = has_history & is_later
    return np.where((stage == 0) | target, stage, NO_PART)
