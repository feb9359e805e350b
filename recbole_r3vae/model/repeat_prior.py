"""A prior on repeats: how much more or less likely an item becomes because its user has met it, by how long ago that was.

On data of reviews nobody rates a thing twice, and a model that cannot say so spends its first places on the history. Where people return
to what they know, as to a restaurant, the same few numbers say the opposite. They are learnt with the model, on training positions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

SCALE = 50.0
"""The numbers are stored divided by it, so that an optimizer's step for weights moves them as far as log-odds have to go."""


@dataclass
class Reading:
    """B histories, read: what a dense head and a prior on repeats rank from."""

    user: Tensor  # [B, d]
    items: Tensor  # [B, T], 0 on the right
    lengths: Tensor  # [B]


class RepeatPrior(nn.Module):
    """Log-odds that are added to the scores of items of the history, one for each range of distances: 1, 2, 3–4, 5–8 … steps ago.

    An item that was met more than once counts as met the last time.

    Args:
        max_length: positions of the longest history.
        penalty: weight of the squared log-odds in :meth:`regularization`.
    """

    def __init__(self, max_length: int, penalty: float = 0.0):
        super().__init__()
        self.penalty = penalty
        self.scaled = nn.Parameter(torch.zeros(1 + math.ceil(math.log2(max(2, max_length)))))

    @property
    def log_odds(self) -> Tensor:
        """``[n_ranges]``, the most recent first."""
        return SCALE * self.scaled

    def regularization(self) -> Tensor:
        """What bounds the log-odds, as a term of the loss: a scalar."""
        return self.penalty * self.log_odds.square().sum()

    def range_of(self, steps: Tensor) -> Tensor:
        """Which range a distance in steps, from 1, falls into."""
        return torch.ceil(torch.log2(steps.float())).long().clamp(max=len(self.scaled) - 1)

    def training_cells(self, items: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Which items have been met at each position of each window, that position's own item included.

        Args:
            items: ``[B, T]``, 0 on the right where there is nothing; nothing is said of positions there.

        Returns:
            Position in ``B * T``, item and range of each cell, ``[C]`` each.
        """
        n_rows, length = items.shape
        row, then = items.nonzero(as_tuple=True)  # [M], of each interaction
        item = items[row, then]
        # Interactions of one item stand side by side in the order of (row, item, place), so that the next one is when it is met again.
        order = (row * (items.max() + 1) + item).argsort(stable=True)
        same = (row[order][1:] == row[order][:-1]) & (item[order][1:] == item[order][:-1])
        until = torch.bincount(row, minlength=n_rows)[row]  # [M]: the end of the history, …
        until[order[:-1][same]] = then[order[1:][same]]  # … or when it is met again
        counts = until - then  # positions that each interaction is the last of its item for
        which = torch.arange(len(then), device=items.device).repeat_interleave(counts)  # [C]
        ago = torch.arange(len(which), device=items.device) - (counts.cumsum(0) - counts)[which]  # [C], from 0
        return row[which] * length + then[which] + ago, item[which], self.range_of(ago + 1)

    def extra(self, items: Tensor, place: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Terms of a loss over the catalogue, as :func:`~recbole_r3vae.model.losses.catalogue_cross_entropy` takes them.

        Args:
            items: ``[B, T]`` histories of a batch of windows.
            place: ``[N]``, where in ``B * T`` each position with a target lies.

        Returns:
            Row among the N, item from 0 (without the padding item) and log-odds of each met item, ``[C]`` each.
        """
        row, item, steps = self.cells_of(items, place)
        return row, item - 1, self.log_odds[steps]

    def cells_of(self, items: Tensor, place: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """:meth:`training_cells` of some positions: row among them, item and range."""
        position, item, steps = self.training_cells(items)
        row = torch.full((items.numel(),), -1, device=items.device)
        row[place] = torch.arange(len(place), device=items.device)
        row = row[position]
        kept = row >= 0
        return row[kept], item[kept], steps[kept]

    def cells(self, items: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Which items have been met when a history ends.

        Args:
            items: ``[B, T]``, oldest first, 0 on the right.
            lengths: ``[B]``.

        Returns:
            Row, item and range of each cell, ``[C]`` each; an item once a row.
        """
        steps = lengths[:, None] - torch.arange(items.shape[1], device=items.device)  # [B, T], from 1
        same = (items[:, :, None] == items[:, None, :]) & (steps[:, None, :] < steps[:, :, None]) & (items[:, None, :] > 0)
        last = (items > 0) & ~same.any(2)
        row, place = last.nonzero(as_tuple=True)
        return row, items[row, place], self.range_of(steps[row, place])

    def bias(self, items: Tensor, lengths: Tensor, n_items: int) -> Tensor:
        """The log-odds of every item of the catalogue for histories that end.

        Args:
            items, lengths: as of :meth:`cells`.
            n_items: the padding item included.

        Returns:
            float32 ``[B, n_items]``, 0 where an item has not been met.
        """
        row, item, steps = self.cells(items, lengths)
        return torch.zeros(len(items), n_items, device=items.device).index_put((row, item), self.log_odds.float()[steps])
