"""Attention over the few levels of a semantic ID, all at once in training and level by level in decoding."""

from __future__ import annotations

import torch
from torch import Tensor


def attend_levels(query: Tensor, past: list[Tensor], bias: Tensor | None = None) -> Tensor:
    """Attention of one level of a semantic ID to itself and the levels before it.

    A few keys a query: products and sums, level by level, beat thousands of tiny matrix products.

    Args:
        query: ``[..., H, A/H]``, already scaled.
        past: keys and values ``[..., 2, H, A/H]`` of each of the l levels so far; may broadcast.
        bias: ``[H, l]``, added to the attention logits; default: none.

    Returns:
        ``[..., A]``.
    """
    logits = torch.stack([(query * kv[..., 0, :, :]).sum(-1) for kv in past], -1)  # [..., H, l]
    weights = (logits if bias is None else logits + bias).softmax(-1).unsqueeze(-1).unbind(-2)  # l of [..., H, 1]
    return sum(weight * kv[..., 1, :, :] for weight, kv in zip(weights, past)).flatten(-2)


class LevelCache:
    """What one layer of a decoder keeps of each beam: keys and values of the levels that are written.

    Attributes:
        levels: ``[B, W, 2, H, A/H]`` each; W is 1 where one entry serves all beams of a user.
    """

    def __init__(self) -> None:
        self.levels: list[Tensor] = []

    def append(self, kv: Tensor) -> None:
        """Keys and values ``[B, W, 2, H, A/H]`` of the next level."""
        self.levels.append(kv)

    def reorder(self, parents: Tensor) -> None:
        """Keep what belongs to ``parents`` [B, W]: which of the beams before each of the W new ones extends."""
        self.levels = [kv if kv.shape[1] == 1 else self._of_parents(kv, parents) for kv in self.levels]

    @staticmethod
    def _of_parents(kv: Tensor, parents: Tensor) -> Tensor:
        n_rows, width = kv.shape[:2]
        rows = parents + width * torch.arange(n_rows, device=parents.device)[:, None]  # [B, W], in B * W'
        return kv.flatten(0, 1).index_select(0, rows.flatten()).view(*parents.shape, *kv.shape[2:])

    def attend(self, query: Tensor, bias: Tensor | None = None) -> Tensor:
        """Queries of the newest level ``[B, W, H, A/H]`` to all levels, ``[B, W, A]``; see :func:`attend_levels`."""
        return attend_levels(query, self.levels, bias)
