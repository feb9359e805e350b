"""Balanced assignment of vectors to codes by entropic optimal transport (Sinkhorn-Knopp)."""

from __future__ import annotations

import torch
from torch import Tensor

_TINY = 1e-300  # keeps a code or an item that nothing reaches from dividing by zero


def sinkhorn(distances: Tensor, epsilon: float, iterations: int = 100) -> Tensor:
    r"""How much of each item goes to each code, when all codes are to get equally much.

    The plan :math:`P` that minimises :math:`\sum_{ik} P_{ik} D_{ik} - \epsilon H(P)` among those whose rows
    sum to :math:`1/n` and columns to :math:`1/K` (Cuturi, NeurIPS 2013). As in LC-Rec and LETTER the
    distances are first brought to a range of length 2, so that epsilon means the same at every level; small
    values come close to a hard assignment.

    Args:
        distances: ``[n, K]``, smaller is nearer; infinite ones count as one range beyond the largest.
        epsilon: Strength of the entropy. Below about 0.003 some shares can be too small for a number.
        iterations: Rounds of scaling rows and columns.

    Returns:
        The plan ``[n, K]``, float64; its columns sum to ``1 / K``. The row's largest entry is its code.
    """
    cost = distances.double()
    finite = cost[cost.isfinite()]
    low, high = (finite.min(), finite.max()) if len(finite) else (cost.new_zeros(()), cost.new_zeros(()))
    cost = cost.clamp(max=2 * high - low) * (2 / (high - low).clamp_min(_TINY))
    # Shifting rows and columns leaves the plan as it is. A zero in each keeps all of the kernel from vanishing.
    cost = cost - cost.amin(1, keepdim=True)
    cost = cost - cost.amin(0, keepdim=True)
    kernel = torch.exp(-cost / epsilon)  # [n, K]
    n, k = kernel.shape
    columns = kernel.new_full((k,), 1.0)
    for _ in range(iterations):
        rows = 1 / n / (kernel @ columns).clamp_min(_TINY)  # [n]
        columns = 1 / k / (rows @ kernel).clamp_min(_TINY)  # [K]
    return rows[:, None] * kernel * columns
