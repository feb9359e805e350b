"""A prior on repeats: how much more or less likely an item becomes because its user has met it, by how long ago that was.

On data of reviews nobody rates a thing twice, and a model that cannot say so spends its first places on the history. Where people return
to what they know, as to a restaurant, the same few numbers say the opposite. They are learnt with the model, on training positions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from recbole_r3vae.data.sequences import TARGET_LIST_FIELD
from recbole_r3vae.model.parameters import Flag, Number

if TYPE_CHECKING:
    from recbole.config import Config
    from recbole.data.interaction import Interaction

KEYS = {"repeat_prior": Flag(), "repeat_penalty": Number(at_least=0)}
"""The keys of a model that has a prior on repeats, for its ``hyperparameters``."""

OFF = {"repeat_prior": False, "repeat_penalty": 0.00001}
"""Their defaults, for :attr:`.Contract.neutral` of models that had results before they had a prior."""

HISTORIES = 64
"""Histories of a batch from which :func:`prior_loss` learns, at least, where there are as many."""

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
        self.max_length = max_length
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
        row, place, steps = self._last_places(items, lengths)
        return row, items[row, place], steps

    def _last_places(self, items: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """:meth:`cells` with the place of each, in T, instead of its item."""
        steps = lengths[:, None] - torch.arange(items.shape[1], device=items.device)  # [B, T], from 1
        same = (items[:, :, None] == items[:, None, :]) & (steps[:, None, :] < steps[:, :, None]) & (items[:, None, :] > 0)
        row, place = ((items > 0) & ~same.any(2)).nonzero(as_tuple=True)
        return row, place, self.range_of(steps[row, place])

    def loss(self, log_p: Tensor, items: Tensor, lengths: Tensor, target: Tensor) -> Tensor:
        """Mean negative log-likelihood of targets with the prior, but for what a model without it says of them.

        An item's probability ``p`` becomes ``p exp(b) / Z`` with ``Z = 1 + sum over met items of p (exp(b) - 1)``: the probabilities of met
        items are all that it asks for.

        Args:
            log_p: ``[B, T]``, what a model says of each item of each history, without the prior.
            items, lengths: as of :meth:`cells`.
            target: ``[B]``.

        Returns:
            A scalar; gradients go to the log-odds.
        """
        row, place, steps = self._last_places(items, lengths)
        odds = self.log_odds[steps]  # [C]
        z = torch.ones(len(items), device=odds.device).index_add(0, row, log_p[row, place].exp() * odds.expm1())
        gain = torch.zeros(len(items), device=odds.device).index_add(0, row, odds * (items[row, place] == target[row]))
        return (z.clamp(min=1e-6).log() - gain).mean()

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


def prior_of(config: Config, max_length: int) -> RepeatPrior | None:
    """The prior of a model with :data:`KEYS`; ``None`` where it is to have none."""
    return RepeatPrior(max_length, config["repeat_penalty"]) if config["repeat_prior"] else None


def prior_loss(model: Any, interaction: Interaction) -> Tensor | int:
    """What a prior learns from where no loss of its model goes over the catalogue: :meth:`RepeatPrior.loss`, and its penalty.

    Some histories of the batch are read as for a ranking, without dropout and without a gradient, so that the rest of the model learns
    nothing from it.

    Args:
        model: a :class:`~recbole_r3vae.model.ranker.Ranker` with one head.
        interaction: training rows of a :class:`~recbole_r3vae.data.sequences.WindowDataset` or ``PrefixDataset``.

    Returns:
        A scalar; 0 where the model has no prior.
    """
    if model.prior is None:
        return 0
    rows, target = some_histories(model, interaction)
    lengths = rows[model.ITEM_SEQ_LEN]
    items, is_training, (head,) = rows[model.ITEM_SEQ][:, : int(lengths.max())], model.training, model.heads.values()
    with torch.no_grad():
        model.eval()
        log_p = head.item_log_probs(model.read(rows), items)
        model.train(is_training)
    return model.prior.loss(log_p, items, lengths, target) + model.prior.regularization()


def some_histories(model: Any, interaction: Interaction) -> tuple[Interaction, Tensor]:
    """Histories of a batch that end before a target, spread evenly over it, and their targets ``[R]``."""
    if TARGET_LIST_FIELD not in interaction:
        target = interaction[model.ITEM_ID]
        some = torch.arange(0, len(target), max(1, len(target) // HISTORIES), device=target.device)
        return interaction[some], target[some]
    row, place = interaction[TARGET_LIST_FIELD].nonzero(as_tuple=True)
    some = torch.arange(0, len(row), max(1, len(row) // HISTORIES), device=row.device)
    row, place = row[some], place[some]  # [R]
    rows = interaction[row]
    items = rows[model.ITEM_SEQ]
    rows[model.ITEM_SEQ] = items.where(torch.arange(items.shape[1], device=items.device) <= place[:, None], 0)
    rows[model.ITEM_SEQ_LEN] = place + 1
    return rows, rows[TARGET_LIST_FIELD].gather(1, place[:, None]).squeeze(1)
