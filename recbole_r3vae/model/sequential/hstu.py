"""HSTU: causal attention without softmax over item ids, positions and times.

Zhai et al., "Actions Speak Louder than Words: Trillion-Parameter Sequential Transducers for Generative Recommendations", ICML 2024,
arXiv 2402.17152. Settings are those of an independent five-seed reproduction (RecBoard), which found it above every semantic-ID model.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import InputType
from torch import Tensor, nn

from recbole_r3vae.data.sequences import TARGET_LIST_FIELD, TimedWindowDataset
from recbole_r3vae.errors import UserError, nearest

LOSSES = ("InfoNCE", "CE")
ROWS = 32  # histories whose negatives are scored together: their vectors, 4 MB, stay in a CPU's cache, the 32 MB of a batch do not
BUCKET_GROWTH = 0.301  # each bucket of time distances is e^0.301 = 1.35 times as wide as the one before, as in the authors' code


class Block(nn.Module):
    """Pointwise-aggregated attention, gated instead of followed by a feed-forward layer (equations 1 to 3 of the paper).

    The weighted sum is not divided by the length of the window, as it is in the authors' code. The normalisation after it takes the scale
    away but for its epsilon, which in their code damps the first positions and hardly does here.

    Args:
        size: width d.
        n_heads: attention heads H.
        attention_dim: width A of a head's queries and keys.
        linear_dim: width V of a head's values and gates.
        dropout: probability on the residual branch.
    """

    def __init__(self, size: int, n_heads: int, attention_dim: int, linear_dim: int, dropout: float):
        super().__init__()
        self.n_heads = n_heads
        self.widths = [n_heads * width for width in (linear_dim, linear_dim, attention_dim, attention_dim)]
        self.input_norm, self.gate_norm = nn.LayerNorm(size), nn.LayerNorm(n_heads * linear_dim)
        self.uvqk, self.out = nn.Linear(size, sum(self.widths), bias=False), nn.Linear(n_heads * linear_dim, size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, bias: Tensor, future: Tensor) -> Tensor:
        """One block.

        Args:
            x: ``[B, T, d]``.
            bias: ``[B, T, T]``, added to the attention logits of query and key, the same for all heads.
            future: ``[T, T]`` bool, whether the key lies after the query.

        Returns:
            ``[B, T, d]``.
        """
        gate, *vqk = F.silu(self.uvqk(self.input_norm(x))).split(self.widths, dim=-1)
        value, query, key = (part.unflatten(-1, (self.n_heads, -1)).transpose(1, 2) for part in vqk)  # [B, H, T, V or A]
        weights = F.silu(query @ key.transpose(-1, -2) + bias[:, None]).masked_fill(future, 0)  # [B, H, T, T]
        attended = (weights @ value).transpose(1, 2).flatten(2)  # [B, T, H * V]
        return x + self.out(self.dropout(self.gate_norm(attended) * gate))


class HSTU(SequentialRecommender):
    """Item-id recommender that trains on all positions of a history at once.

    A score is the cosine between the history and the item, over a temperature. The loss at each position is InfoNCE, the cross-entropy of
    the target among itself and ``n_negatives`` items drawn uniformly with replacement, or the cross-entropy over all items. Each history
    has draws of its own, which its positions share (draws for each position would take as many times the memory); a draw that is a
    position's target is left out there.

    In each block the attention logit of two positions has a learnt bias for their distance and one for the time between them. The time
    of a position is that of its own interaction. The authors' code takes the next one's, which is the target's in training.

    Args:
        config: ``hidden_size``, ``n_layers``, ``n_heads``, ``attention_dim``, ``linear_dim``, ``n_time_buckets``,
            ``embedding_dropout_prob``, ``hidden_dropout_prob``, ``loss_type``, ``n_negatives``, ``temperature``; see
            ``properties/model/HSTU.yaml``.
        dataset: training dataset.

    Raises:
        UserError: ``loss_type`` is unknown, or ``n_negatives`` or ``temperature`` is not positive.
    """

    input_type = InputType.POINTWISE
    dataset_class = TimedWindowDataset

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        size = config["hidden_size"]
        self.loss_type, self.n_negatives, self.temperature = (config[key] for key in ("loss_type", "n_negatives", "temperature"))
        if self.loss_type not in LOSSES:
            raise UserError(f"loss_type is {self.loss_type!r}{nearest(str(self.loss_type), LOSSES)}; choose {' or '.join(LOSSES)}")
        for key in ("n_negatives", "temperature"):
            if not config[key] > 0:
                raise UserError(f"{key} must be above 0, got {config[key]}; the published value is in properties/model/HSTU.yaml")
        self.TIME_SEQ = config["TIME_FIELD"] + config["LIST_SUFFIX"]
        self.n_time_buckets = config["n_time_buckets"]
        self.item_embedding = nn.Embedding(self.n_items, size, padding_idx=0)
        self.position_embedding = nn.Embedding(self.max_seq_length, size)
        self.dropout = nn.Dropout(config["embedding_dropout_prob"])
        n_layers, block = config["n_layers"], [config[key] for key in ("n_heads", "attention_dim", "linear_dim", "hidden_dropout_prob")]
        self.position_bias = nn.Embedding(self.max_seq_length, n_layers)
        self.time_bias = nn.Embedding(self.n_time_buckets, n_layers)
        self.blocks = nn.ModuleList(Block(size, *block) for _ in range(n_layers))
        self._initialise(size)

    @torch.no_grad()
    def _initialise(self, size: int) -> None:
        for module in self.modules():
            if isinstance(module, nn.Embedding):
                nn.init.trunc_normal_(module.weight, std=0.02, a=-0.04, b=0.04)
        nn.init.trunc_normal_(self.position_embedding.weight, std=size**-0.5, a=-2 * size**-0.5, b=2 * size**-0.5)
        nn.init.zeros_(self.item_embedding.weight[0])

    def time_buckets(self, times: Tensor) -> Tensor:
        """Which bucket the time between every two positions falls into.

        Args:
            times: ``[B, T]``, in the unit of the data, usually seconds.

        Returns:
            ``[B, T, T]``: the floor of the logarithm over 0.301, at most the last bucket; up to one unit is bucket 0.
        """
        apart = (times[:, :, None] - times[:, None]).abs().clamp(min=1)  # [B, T, T]
        return (apart.log() / BUCKET_GROWTH).long().clamp(max=self.n_time_buckets - 1)

    def forward(self, interaction) -> Tensor:
        """Histories as vectors of unit length, one for each position.

        Args:
            interaction: B rows with ``item_id_list``, padded with 0 on the right, ``item_length`` and ``<time field>_list``.

        Returns:
            ``[B, T, d]``, T = the longest history among them.
        """
        length = int(interaction[self.ITEM_SEQ_LEN].max())
        items, times = interaction[self.ITEM_SEQ][:, :length], interaction[self.TIME_SEQ][:, :length]
        position = torch.arange(length, device=items.device)
        behind = position[:, None] - position  # [T, T]
        buckets = self.time_buckets(times)  # [B, T, T]
        if buckets.is_cuda:
            time_bias = self.time_bias(buckets)  # [B, T, T, n_layers]
        else:  # where few rows are read often, the gradient of the look-up above takes five times as long on a CPU
            time_bias = self.time_bias.weight.index_select(0, buckets.flatten()).view(*buckets.shape, -1)
        bias = self.position_bias(behind.clamp(min=0)) + time_bias
        x = self.item_embedding(items)  # [B, T, d]
        x = self.dropout(x * x.shape[-1] ** 0.5 + self.position_embedding(position))
        for block, block_bias in zip(self.blocks, bias.unbind(-1)):
            x = block(x, block_bias, behind < 0)
        return F.normalize(x, dim=-1)

    def calculate_loss(self, interaction) -> Tensor:
        """Mean loss over the targets of all positions.

        Args:
            interaction: windows of a :class:`~recbole_r3vae.data.sequences.TimedWindowDataset`.
        """
        x = self.forward(interaction)  # [B, T, d]
        target = interaction[TARGET_LIST_FIELD][:, : x.shape[1]]  # [B, T]
        has_target, items = target > 0, F.normalize(self.item_embedding.weight, dim=-1)  # [n_items, d]
        if self.loss_type == "CE":
            return F.cross_entropy(x[has_target] @ items[1:].T / self.temperature, target[has_target] - 1)
        x = x / self.temperature
        others = []
        for rows in zip(x.split(ROWS), target.split(ROWS), self.sample_negatives(len(x)).split(ROWS)):
            history, wanted, negatives = rows  # [n, T, d], [n, T], [n, K]
            logits = F.embedding(negatives, items) @ history.transpose(1, 2)  # [n, K, T]
            lowest = torch.finfo(logits.dtype).min  # -inf would make gradients nan where every draw is the target
            others.append(logits.masked_fill(negatives[:, :, None] == wanted[:, None], lowest).logsumexp(1))
        logit = (x * F.embedding(target, items)).sum(-1)  # [B, T]
        return F.softplus(torch.cat(others) - logit)[has_target].mean()

    def sample_negatives(self, n_rows: int) -> Tensor:
        """Items drawn uniformly with replacement, ``[n_rows, n_negatives]``."""
        return torch.randint(1, self.n_items, (n_rows, self.n_negatives), device=self.item_embedding.weight.device)

    def predict(self, interaction) -> Tensor:
        """Scores ``[B]`` of ``item_id``."""
        items = F.normalize(self.item_embedding(interaction[self.ITEM_ID]), dim=-1)  # [B, d]
        return (self._last(interaction) * items).sum(-1) / self.temperature

    def full_sort_predict(self, interaction) -> Tensor:
        """Scores of all items, ``[B, n_items]``."""
        return self._last(interaction) @ F.normalize(self.item_embedding.weight, dim=-1).T / self.temperature

    def _last(self, interaction) -> Tensor:
        """Histories at their last positions, ``[B, d]``."""
        return self.gather_indexes(self.forward(interaction), interaction[self.ITEM_SEQ_LEN] - 1)
