"""What generators share: histories without padding, and attention over the few levels of a semantic ID."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Packing:
    """Histories end to end without padding, the shortest first, so that histories of one length form a solid block.

    Linear layers see the M real positions alone, and attention runs once for each length that occurs.

    Attributes:
        order: ``[B]``, which row of the batch each history is.
        blocks: ``(n, t)``: the next n histories have t positions each.
        place: ``[M]``, where each position lies in the flattened padded batch ``[B * T]``.
        padded_shape: ``(B, T)``.
    """

    order: Tensor
    blocks: list[tuple[int, int]]
    place: Tensor
    padded_shape: tuple[int, int]

    def split(self, packed: Tensor) -> list[Tensor]:
        """Packed positions ``[M, …]`` as blocks of histories of one length, ``[n, t, …]`` each; nothing is copied."""
        return [part.unflatten(0, block) for part, block in zip(packed.split([n * t for n, t in self.blocks]), self.blocks)]

    def pad(self, packed: Tensor) -> Tensor:
        """Packed positions ``[M, d]`` in the padded layout of the batch ``[B, T, d]``, zeros in between."""
        n_rows, width = self.padded_shape
        return packed.new_zeros(n_rows * width, packed.shape[-1]).index_copy(0, self.place, packed).view(n_rows, width, -1)

    def last(self, packed: Tensor) -> Tensor:
        """The last position of every history ``[B, d]``, in the order of the batch."""
        ends = torch.cat([torch.full((n,), t, device=packed.device) for n, t in self.blocks]).cumsum(0) - 1  # [B]
        return packed.new_empty(len(ends), packed.shape[-1]).index_copy(0, self.order, packed[ends])


def pack(real: Tensor) -> Packing:
    """Find the real positions of a padded batch.

    Args:
        real: ``[B, T]`` bool; at least one position of every row.
    """
    length, order = real.sum(1).sort(stable=True)  # [B]
    row, column = real[order].nonzero(as_tuple=True)  # [M]
    lengths, counts = length.unique_consecutive(return_counts=True)
    return Packing(order, list(zip(counts.tolist(), lengths.tolist())), order[row] * real.shape[1] + column, tuple(real.shape))


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


def reorder(past: Tensor, parents: Tensor) -> Tensor:
    """What was computed for the beams before, for those that extend them.

    Args:
        past: ``[B, W', …]``; W' = 1 has served all beams and is left as it is.
        parents: ``[B, W]``, which of the W' beams each of the W extends.

    Returns:
        ``[B, W, …]``, or ``[B, 1, …]``.
    """
    n_rows, width = past.shape[:2]
    if width == 1:
        return past
    rows = parents + width * torch.arange(n_rows, device=parents.device)[:, None]  # [B, W], in B * W'
    return past.flatten(0, 1).index_select(0, rows.flatten()).view(*parents.shape, *past.shape[2:])
