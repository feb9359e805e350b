"""Histories without padding, for every model that reads one."""

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

    @property
    def longest(self) -> int:
        """Positions of the longest history."""
        return self.blocks[-1][1]

    def lengths(self) -> Tensor:
        """``[B]``, positions of each history, the shortest first."""
        return torch.cat([torch.full((n,), t, device=self.order.device) for n, t in self.blocks])

    def position(self) -> Tensor:
        """``[M]``, each position's place in its own history, from 0."""
        return self.place % self.padded_shape[1]

    def take(self, padded: Tensor) -> Tensor:
        """The real positions of a padded batch ``[B, T, …]``, packed: ``[M, …]``."""
        return padded.flatten(0, 1)[self.place]

    def split(self, packed: Tensor) -> list[Tensor]:
        """Packed positions ``[M, …]`` as blocks of histories of one length, ``[n, t, …]`` each; nothing is copied."""
        return [part.unflatten(0, block) for part, block in zip(packed.split([n * t for n, t in self.blocks]), self.blocks)]

    def pad(self, packed: Tensor) -> Tensor:
        """Packed positions ``[M, d]`` in the padded layout of the batch ``[B, T, d]``, zeros in between."""
        n_rows, width = self.padded_shape
        return packed.new_zeros(n_rows * width, packed.shape[-1]).index_copy(0, self.place, packed).view(n_rows, width, -1)

    def unsort(self, rows: Tensor) -> Tensor:
        """One entry a history ``[B, …]``, the shortest history's first, in the order of the batch."""
        return torch.empty_like(rows).index_copy(0, self.order, rows)

    def last(self, packed: Tensor) -> Tensor:
        """The last position of every history ``[B, d]``, in the order of the batch."""
        return self.unsort(packed[self.lengths().cumsum(0) - 1])


def pack(real: Tensor) -> Packing:
    """Find the real positions of a padded batch.

    Args:
        real: ``[B, T]`` bool; at least one position of every row.
    """
    length, order = real.sum(1).sort(stable=True)  # [B]
    row, column = real[order].nonzero(as_tuple=True)  # [M]
    lengths, counts = length.unique_consecutive(return_counts=True)
    return Packing(order, list(zip(counts.tolist(), lengths.tolist())), order[row] * real.shape[1] + column, tuple(real.shape))
