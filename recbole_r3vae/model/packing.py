"""Histories without padding, for every model that reads one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

SPARE = 64
"""Positions of padding that cost about as much as one more block, on a CPU at widths of 64 to 256; see :func:`pack`."""


@dataclass
class Packing:
    """Histories end to end, the shortest first, so that histories of one length, or nearly one, form a solid block.

    Linear layers see the M positions of the blocks alone, and attention runs once for each block.

    Attributes:
        order: ``[B]``, which row of the batch each history is.
        blocks: ``(n, t)``: the next n histories have t positions each, of which shorter ones leave the last to padding.
        place: ``[M]``, where each position lies in the flattened padded batch ``[B * T]``.
        ends: ``[B]``, which of the M positions is the last real one of each history, the shortest first.
        padded_shape: ``(B, T)``.
    """

    order: Tensor
    blocks: list[tuple[int, int]]
    place: Tensor
    ends: Tensor
    padded_shape: tuple[int, int]

    @property
    def longest(self) -> int:
        """Positions of the longest history."""
        return self.blocks[-1][1]

    def lengths(self) -> Tensor:
        """``[B]``, positions that each history has in its block, the shortest first."""
        return torch.cat([torch.full((n,), t, device=self.order.device) for n, t in self.blocks])

    def position(self) -> Tensor:
        """``[M]``, each position's place in its own history, from 0."""
        return self.place % self.padded_shape[1]

    def take(self, padded: Tensor) -> Tensor:
        """The positions of a padded batch ``[B, T, …]``, packed: ``[M, …]``."""
        return padded.flatten(0, 1)[self.place]

    def split(self, packed: Tensor) -> list[Tensor]:
        """Packed positions ``[M, …]`` as blocks, ``[n, t, …]`` each; nothing is copied."""
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
        return self.unsort(packed[self.ends])


def pack(real: Tensor, spare: int = 0) -> Packing:
    """Find the real positions of a padded batch.

    Args:
        real: ``[B, T]`` bool; at least one position of every row.
        spare: positions of padding that are cheaper than one more block. 0, the default, packs no padding: a block for each length. With
            more, histories of several lengths share a block. That is for causal models, in which nothing real looks at what comes after
            it; they ignore what they compute at padding.
    """
    length, order = real.sum(1).sort(stable=True)  # [B]
    lengths, counts = (found.tolist() for found in length.unique_consecutive(return_counts=True))
    blocks = _cheapest_blocks(lengths, counts, spare)
    n_positions = torch.tensor([t for n, t in blocks for _ in range(n)], device=real.device)  # [B], of each history
    if spare:  # real positions first, then padding
        columns = (~real[order]).sort(dim=1, stable=True).indices  # [B, T]
        row, place = (torch.arange(real.shape[1], device=real.device) < n_positions[:, None]).nonzero(as_tuple=True)  # [M]
        column = columns[row, place]
    else:
        row, column = real[order].nonzero(as_tuple=True)
    ends = n_positions.cumsum(0) - n_positions + length - 1
    return Packing(order, blocks, order[row] * real.shape[1] + column, ends, tuple(real.shape))


def _cheapest_blocks(lengths: list[int], counts: list[int], spare: int) -> list[tuple[int, int]]:
    """Neighbouring lengths, in rising order, in one block where that makes the sum of positions and of ``spare`` for each block smaller."""
    if not spare:
        return list(zip(counts, lengths))
    best: list[tuple[int, int]] = [(0, 0)]  # of the first j lengths: the cost, and where the last block begins
    for end, length in enumerate(lengths):
        n_rows, options = 0, []
        for begin in range(end, -1, -1):
            n_rows += counts[begin]
            options.append((best[begin][0] + spare + n_rows * length, begin))
        best.append(min(options))
    blocks, end = [], len(lengths)
    while end:
        begin = best[end][1]
        blocks.append((sum(counts[begin:end]), lengths[end - 1]))
        end = begin
    return blocks[::-1]
