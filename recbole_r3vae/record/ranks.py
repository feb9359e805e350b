"""The ranks of test targets: a byte a user as text, and the metrics that they give."""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from recbole_r3vae.config import RULES
from recbole_r3vae.record.parts import ByRule, Metrics, Rule

DEEPEST = 255
"""Longest list whose ranks are kept: a byte a user."""
ROUNDING = 1e-4
"""By how much a recorded metric may differ from that of the ranks where four decimals or more are recorded."""


def unpack(text: str, dtype: str) -> np.ndarray:
    """The inverse of :func:`recbole_r3vae.data.split.pack`.

    Args:
        text: base64 of zlib of a flat array.
        dtype: ``uint8`` for ranks, ``int32`` for counts; stored little-endian.

    Raises:
        ValueError: it is not such a text.
    """
    try:
        return np.frombuffer(zlib.decompress(base64.b64decode(text, validate=True)), dtype=np.dtype(dtype).newbyteorder("<"))
    except (binascii.Error, zlib.error) as error:
        raise ValueError(f"not base64 of zlib of {dtype}: {error}") from error


GAINS = {
    "recall": np.ones_like,
    "ndcg": lambda ranks: 1 / np.log2(ranks + 1),
    "mrr": lambda ranks: 1 / ranks,
}
"""What a target found at a rank counts, of the metrics that ranks give where a user has one target."""


def user_metric(ranks: np.ndarray, metric: str) -> np.ndarray:
    """A ranking metric of each user, who has one target; the mean is RecBole's figure.

    Args:
        ranks: ``[n_users]``, 1-based rank of the target in the user's list; 0 where it is not there.
        metric: ``recall@k``, ``ndcg@k`` or ``mrr@k``.

    Returns:
        ``[n_users]``, float64.
    """
    name, _, k = metric.partition("@")
    hit = (ranks > 0) & (ranks <= int(k))
    first = np.maximum(ranks, 1).astype(np.float64)  # any value will do where there is no hit
    return np.where(hit, GAINS[name](first), 0.0)


def by_repeat(met_before: np.ndarray, ranks: Mapping[Rule, np.ndarray | None], config: Mapping[str, Any]) -> dict[str, ByRule] | None:
    """Metrics of targets that their users had met before, and of the others.

    Args:
        met_before: bool ``[n]``.
        ranks: rule to the rank of each target, ``[n]`` in the same order.
        config: ``metrics`` and ``topk``; metrics that ranks do not give are left out.

    Returns:
        ``repeated`` and ``new`` to their metrics under each rule; ``None`` where no target, or every one, had been met.
    """
    if met_before.all() or not met_before.any():
        return None
    metrics = [f"{name.lower()}@{k}" for name in config["metrics"] if name.lower() in GAINS for k in config["topk"]]
    return {
        name: {
            rule: None if ranks.get(rule) is None else {metric: float(user_metric(ranks[rule][kept], metric).mean()) for metric in metrics}
            for rule in RULES
        }
        for name, kept in (("repeated", met_before), ("new", ~met_before))
    }


def beam_levels(ranks: np.ndarray) -> list[Metrics]:
    """What became of the targets' prefixes in the beam, level by level.

    The conditional rank progression (CRP) is that of GLASS (arXiv 2602.05663): by how many ranks the true prefix falls from one level to
    the next. The paper's condition is not known to us; here it is that the prefix is in the beam at both levels, and ``in_beam`` says how
    many are.

    Args:
        ranks: integers ``[n, L]``, the rank of each target's prefix of each length in the beam, from 1; 0 where it is not in it. What left
            the beam does not come back.

    Returns:
        Of each level: ``in_beam``, the share of targets whose prefix is there; ``first``, the share at rank 1; ``rank``, the mean rank of
        those there; ``crp``, the mean of their ranks less those at the level before, positive where they fall, ``None`` at the first
        level. ``None`` also where no prefix is there.
    """
    levels = []
    for level in range(ranks.shape[1]):
        here = ranks[:, level]
        there = here > 0
        change = here[there] - ranks[there, level - 1] if level else here[:0]
        levels.append(
            {
                "in_beam": float(there.mean()),
                "first": float((here == 1).mean()),
                "rank": float(here[there].mean()) if there.any() else None,
                "crp": float(change.mean()) if len(change) else None,
            }
        )
    return levels
