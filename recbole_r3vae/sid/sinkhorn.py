"""Balanced assignment of vectors to codes by entropic optimal transport (Sinkhorn-Knopp)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_TINY = 1e-30  # the share of a code that nothing reaches, so that its logarithm is a number


def sinkhorn(distances: Tensor, epsilon: float, iterations: int = 100) -> Tensor:
    r"""How much of each item goes to each code, when no code may get more than its share.

    The plan :math:`P` that minimises :math:`\sum_{ik} P_{ik} D_{ik} - \epsilon H(P)` among those whose rows
    sum to :math:`1/n` and columns to at most :math:`1 / \min(n, K)` (Cuturi, NeurIPS 2013): all codes get
    equally much of many items, and of few items each code gets one at most, the far ones none. As in LC-Rec
    and LETTER the distances are first brought to a range of length 2, so that epsilon means the same at every
    level; small values come close to a hard assignment.

    A round divides the columns by their sums; rows always sum to :math:`1/n`. Epsilon is halved from 1 down
    to its value on the way: at 0.003 and after 100 rounds without that, some codes still got twice their
    share.

    Args:
        distances: ``[n, K]``, smaller is nearer; infinite ones count as one range beyond the largest.
        epsilon: Strength of the entropy, above 0.
        iterations: Rounds.

    Returns:
        The plan ``[n, K]``, float32 (float64 for float64). The largest entry of a row is the item's code.
    """
    cost = distances if distances.dtype == torch.float64 else distances.float()
    finite = cost[cost.isfinite()]
    low, high = (finite.min(), finite.max()) if len(finite) else (cost.new_zeros(()), cost.new_zeros(()))
    cost = (cost.clamp(max=2 * high - low) - low) * (2 / (high - low).clamp_min(_TINY))  # [n, K]
    n, k = cost.shape
    prices = cost.new_zeros(k)  # epsilon times the logarithm of what each column is divided by
    stages = 1 + max(0, math.ceil(-math.log2(epsilon)))
    for step in range(iterations):
        current = max(epsilon, 0.5 ** (step * stages // iterations))
        share = torch.softmax((-cost - prices) / current, dim=1).mean(0)  # [K]
        prices += current * (share * min(n, k)).clamp_min(_TINY).log()
        if n < k:  # a code below its share is not made to get more
            prices.clamp_(min=0)
    return torch.softmax((-cost - prices) / epsilon, dim=1) / n
