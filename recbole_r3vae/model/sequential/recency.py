"""Recency: items of the history, the most recent first, then the most popular. What a model of return visits has to beat."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from recbole_r3vae.model.heads import DenseHead
from recbole_r3vae.model.ranker import Ranker
from recbole_r3vae.model.repeat_prior import Reading

if TYPE_CHECKING:
    from recbole.config import Config
    from recbole.data.interaction import Interaction


class Recency(Ranker):
    """A baseline that is counted, not trained.

    An item of the history scores the higher the fewer steps ago it was met, the last time if it was met more than once. Among all others,
    which come after them, the share of training targets decides. With met items left out it is popularity.

    Args:
        config: its YAML has nothing that it reads.
        dataset: training dataset.
    """

    def __init__(self, config: Config, dataset: Any):
        super().__init__(config, dataset)
        counts = dataset.counter(self.ITEM_ID)
        frequency = torch.tensor([[float(counts[item])] for item in range(self.n_items)])  # [n_items, 1]
        self.register_buffer("popularity", frequency / (frequency.max() + 1))  # below 1: it decides where recency does not
        self.unused = nn.Parameter(torch.zeros(1))  # RecBole's trainer asks for a parameter and a loss
        self.heads["dense"] = DenseHead(self)

    def calculate_loss(self, interaction: Interaction) -> Tensor:
        """Zero: there is nothing to learn."""
        return self.unused.sum() * 0

    def read(self, interaction: Interaction) -> Reading:
        """The histories as they are."""
        items = interaction[self.ITEM_SEQ]
        return Reading(torch.ones(len(items), 1, device=items.device), items, interaction[self.ITEM_SEQ_LEN])

    def user_vectors(self, reading: Reading) -> Tensor:
        """``[B, 1]``, all 1: popularity is the same for everybody."""
        return reading.user

    def item_vectors(self) -> Tensor:
        """``[n_items, 1]``, from 0 to below 1."""
        return self.popularity

    def item_bias(self, reading: Reading) -> Tensor:
        """``[B, n_items]``: the longest history's length for its last item, one less for each step before; 0 where an item was not met."""
        items, last = reading.items, reading.lengths[:, None] - 1  # [B, T], [B, 1]
        recent = (self.max_seq_length - last + torch.arange(items.shape[1], device=items.device)) * (items > 0)  # [B, T]
        bias = torch.zeros(len(items), self.n_items, device=items.device)
        return bias.scatter_reduce(1, items, recent.to(bias.dtype), "amax")

    @classmethod
    def loss_name(cls, config: Config) -> str:
        """None."""
        return "none"
