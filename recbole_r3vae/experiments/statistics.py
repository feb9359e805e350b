"""What may be concluded from runs: whether a lead is more than noise, slices of users, rank correlation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from scipy.stats import rankdata, ttest_ind_from_stats, ttest_rel

LEVEL = 0.05
"""p-value below which a difference counts."""
LEAST_SEEDS = 3
"""Seeds that a row needs before a lead of it, or over it, can be supported."""
RESAMPLES = 10_000
"""Of the bootstrap."""
LEAST_POINTS = 5
"""Points from which a bootstrap interval means anything."""


def mean_std(values: Sequence[float]) -> dict[str, Any]:
    """Mean and sample standard deviation (n - 1), which a single value has not."""
    return {
        "mean": float(np.mean(values)),
        "std": float(np.std(values, ddof=1)) if len(values) > 1 else None,
        "values": [float(value) for value in values],
    }


# -- leads -------------------------------------------------------------------------------------------------------------------


def seeds_test(first: Sequence[float], second: Sequence[float]) -> float:
    """Two-sided p of Welch's t-test: would the means differ so under other seeds? 0 or 1 where neither row varies at all."""
    if np.ptp(first) == np.ptp(second) == 0:
        return float(first[0] == second[0])
    moments = [moment for values in (first, second) for moment in (np.mean(values), np.std(values, ddof=1), len(values))]
    return float(ttest_ind_from_stats(*moments, equal_var=False).pvalue)  # of the values themselves, scipy warns where one side is constant


def users_test(first: np.ndarray, second: np.ndarray) -> tuple[float, float, float]:
    """The paired t-test over users: would the means differ so with other users?

    Args:
        first: [n_users] metric of each user, averaged over seeds.
        second: [n_users] likewise, of the same users.

    Returns:
        Its two-sided p, and the 95 % interval of the first mean less the second.
    """
    difference = first - second
    if np.ptp(difference) == 0:
        return float(difference[0] == 0), float(difference[0]), float(difference[0])
    found = ttest_rel(first, second)
    return float(found.pvalue), *map(float, found.confidence_interval())


def holm(chances: Sequence[float]) -> list[float]:
    """p-values of a family of tests, corrected for their number by Holm's step-down method, in the order given.

    Of the families whose differences all are noise, no more than a share ``LEVEL`` then has any p below ``LEVEL``, however the tests depend
    on one another, if the family holds every test from which one might have been picked.
    """
    order = np.argsort(chances)
    adjusted = np.empty(len(chances))
    adjusted[order] = np.maximum.accumulate(np.asarray(chances)[order] * np.arange(len(chances), 0, -1))
    return np.minimum(adjusted, 1.0).tolist()


def leads(seeds: Mapping[int, Sequence[float]], users: Mapping[int, np.ndarray]) -> dict[tuple[int, int], dict[str, Any]]:
    """Each pair of rows, the one with the higher mean first: how far it is ahead, and what seeds and users say to that.

    A lead must survive both tests, so the larger p is its own. It is corrected for the number of all pairs that can be tested, and not only
    of those with the best row, because these figures themselves chose which row that is.

    Args:
        seeds: row to its metric under each seed.
        users: row to [n_users], the metric of each user averaged over seeds; rows without are of no user's test.

    Returns:
        Pair to ``lead``; ``low`` and ``high``, its 95 % interval over users, of this pair alone; ``p_seeds``, ``None`` where a row has
        fewer than ``LEAST_SEEDS``; ``p_users``; ``p_holm``, ``None`` where one of these is; ``supported``.
    """
    means = {row: float(np.mean(values)) for row, values in seeds.items()}
    ranked = sorted(means, key=lambda row: -means[row])
    found = {pair: {"lead": means[pair[0]] - means[pair[1]]} for pair in combinations(ranked, 2)}
    for (one, other), pair in found.items():
        enough = min(len(seeds[one]), len(seeds[other])) >= LEAST_SEEDS
        pair["p_seeds"] = seeds_test(seeds[one], seeds[other]) if enough else None
        paired = one in users and other in users
        pair["p_users"], pair["low"], pair["high"] = users_test(users[one], users[other]) if paired else (None, None, None)
        pair |= {"p_holm": None, "supported": False}
    tested = [pair for pair in found.values() if None not in (pair["p_seeds"], pair["p_users"])]
    for pair, chance in zip(tested, holm([max(pair["p_seeds"], pair["p_users"]) for pair in tested])):
        pair |= {"p_holm": chance, "supported": chance < LEVEL}
    return found


# -- slices ------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Slice:
    """Some of the test users.

    Attributes:
        group: ``popularity`` of the target item, or length of the training ``history``.
        name: of the slice within the group.
        says: the bounds in words.
        users: [n_users] bool, who belongs to it.
    """

    group: str
    name: str
    says: str
    users: np.ndarray


def slices(popularity: np.ndarray, history: np.ndarray) -> list[Slice]:
    """Users by popularity of their target and by length of their history; slices without users are left out.

    Cold targets (no training interaction) are one slice. The others, and all histories, are cut at the 1/3 and 2/3 quantiles of the users'
    values. Equal values stay together, so thirds are as equal as ties allow.

    Args:
        popularity: [n_users] training interactions of the user's target item.
        history: [n_users] items in the user's training history.
    """
    cold = popularity == 0
    found = [Slice("popularity", "cold", "0", cold)]
    found += _thirds("popularity", ("rare", "medium", "popular"), popularity, ~cold)
    found += _thirds("history", ("short", "medium", "long"), history, np.ones(len(history), bool))
    return [part for part in found if part.users.any()]


def _thirds(group: str, names: tuple[str, str, str], values: np.ndarray, among: np.ndarray) -> list[Slice]:
    if not among.any():
        return []
    least, most = values[among].min(), values[among].max()
    low, high = np.quantile(values[among], [1 / 3, 2 / 3], method="inverted_cdf").astype(int)
    bounds = [(least, low), (low + 1, high), (high + 1, most)]
    return [
        Slice(group, name, str(first) if first == last else f"{first}–{last}", among & (values >= first) & (values <= last))
        for name, (first, last) in zip(names, bounds)
    ]


# -- correlation -------------------------------------------------------------------------------------------------------------


def spearman(x: Sequence[float], y: Sequence[float], seed: int = 2020) -> dict[str, Any]:
    """Spearman's rank correlation with the 95 % percentile bootstrap interval.

    Args:
        x: [n] values; ties get their mean rank.
        y: [n] values.
        seed: of the resampling of pairs.

    Returns:
        ``rho``, ``low``, ``high`` and ``n``. ``None`` where a side does not vary; no interval from fewer than ``LEAST_POINTS``.
        Resamples in which a side does not vary are left out.
    """
    pairs = np.stack([x, y]).astype(np.float64)  # [2, n]
    n = pairs.shape[1]
    rho = float(_rank_correlation(pairs[:, None, :])[0])
    if np.isnan(rho):
        return {"n": n, "rho": None, "low": None, "high": None}
    if n < LEAST_POINTS:
        return {"n": n, "rho": rho, "low": None, "high": None}
    drawn = np.random.default_rng(seed).integers(n, size=(RESAMPLES, n))
    low, high = np.nanquantile(_rank_correlation(pairs[:, drawn]), [0.025, 0.975])
    return {"n": n, "rho": rho, "low": float(low), "high": float(high)}


def _rank_correlation(pairs: np.ndarray) -> np.ndarray:
    """[2, m, n] -> [m]; NaN where a side does not vary."""
    ranks = rankdata(pairs, axis=-1)
    ranks = ranks - ranks.mean(axis=-1, keepdims=True)
    with np.errstate(invalid="ignore"):
        return (ranks[0] * ranks[1]).sum(-1) / np.sqrt((ranks[0] ** 2).sum(-1) * (ranks[1] ** 2).sum(-1))
