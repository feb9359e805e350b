"""Ranked lists with places for cold items, and what they are worth.

Lists are int64 ``[n, k]``, a row for each user: numbers of items from 1, best first, and 0 where there is none.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from recbole.evaluator import Evaluator
from recbole.evaluator.collector import DataStruct

from recbole_r3vae.config import Config


def similarities(vectors: np.ndarray, histories: Sequence[Sequence[int]]) -> np.ndarray:
    """Content ItemKNN: the mean cosine of an item's text vector with those of the history's items.

    Args:
        vectors: ``[1 + n_items, d]``, unit rows but for row 0.
        histories: numbers of items.

    Returns:
        ``[len(histories), 1 + n_items]``; ``-inf`` for the history's own items, which would come first, and for number 0.
    """
    scores = np.stack([vectors[history].mean(0) for history in histories]) @ vectors.T
    for row, history in zip(scores, histories):
        row[[0, *history]] = -np.inf
    return scores


def best(scores: np.ndarray, k: int) -> np.ndarray:
    """Numbers of the items with the k largest scores ``[n, 1 + n_items]``, 0 instead of those with ``-inf``."""
    values, items = torch.from_numpy(scores).topk(min(k, scores.shape[1]))
    lists = items.masked_fill(values == -torch.inf, 0).numpy()
    return np.pad(lists, ((0, 0), (0, k - lists.shape[1])))


def flags(lists: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """bool ``[n, 1 + n_items]``: whether an item is in the list."""
    in_list = np.zeros(shape, dtype=bool)
    np.put_along_axis(in_list, lists, True, axis=1)
    return in_list


def slots(epsilon: float, k: int) -> np.ndarray:
    """Which places of a list are for cold items: bool ``[k]``.

    Of the first j places floor(epsilon * j) are, for every j at once, so that one list serves all cut-offs: with epsilon = 0.2 the 5th,
    10th, 15th … With epsilon = 0.1 a list of 5 has none.
    """
    reserved = np.floor(epsilon * np.arange(k + 1) + 1e-9)  # 0.29 * 100 is 28.999999999999996
    return np.diff(reserved) > 0


def mix(warm: np.ndarray, cold: np.ndarray, epsilon: float) -> np.ndarray:
    """Lists with a share of places for cold items, TIGER's epsilon.

    Args:
        warm: ``[n, k]``, without cold items.
        cold: ``[n, k]``, without warm ones; 0 from where there are no more.
        epsilon: see :func:`slots`.

    Returns:
        ``[n, k]``: each place has the best item of its kind that is not above it. Where cold items run out, warm ones go on.
    """
    places = slots(epsilon, warm.shape[1])
    next_cold = cold[:, np.maximum(np.cumsum(places) - 1, 0)]  # [n, k]
    is_cold = places & (next_cold > 0)
    next_warm = np.take_along_axis(warm, np.maximum(np.cumsum(~is_cold, axis=1) - 1, 0), axis=1)
    return np.where(is_cold, next_cold, next_warm)


def measure(config: Config, lists: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    """RecBole's evaluator over ranked lists.

    Args:
        config: with ``metrics``, ``topk`` and ``metric_decimal_place``.
        lists: ``[n, k]``, k the largest ``topk``.
        targets: ``[n]``, one item each.

    Returns:
        Metric to mean over the n users.
    """
    hits = torch.from_numpy(lists == targets[:, None]).int()  # [n, k]
    collected = DataStruct()
    collected.set("rec.topk", torch.cat([hits, torch.ones(len(hits), 1, dtype=torch.int)], dim=1))
    return {name: float(value) for name, value in Evaluator(config).evaluate(collected).items()}


def random_expectation(epsilon: float, n_cold: int, metrics: Sequence[str], topk: Sequence[int]) -> dict[str, float | None]:
    """What cold items drawn at random, each at most once in a list, are expected to reach in the places that are theirs.

    A target is one of ``n_cold`` items and equally likely in each place, so each metric is the mean over items of the value that a hit in
    the place has: 1 for Recall, 1 / log2(1 + place) for NDCG.

    Returns:
        Metric to expectation; ``None`` for metrics other than these.
    """
    places = 1 + slots(epsilon, max(topk)).nonzero()[0][:n_cold]
    worth = {"recall": np.ones(len(places)), "ndcg": 1 / np.log2(1 + places)}
    return {
        f"{name}@{k}": float(worth[name][places <= k].sum() / n_cold) if name in worth else None
        for name in map(str.lower, metrics) for k in topk
    }  # fmt: skip
