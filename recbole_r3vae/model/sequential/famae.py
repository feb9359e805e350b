r"""FAMAE: item vectors from the fields of items and the histories that they stand in; no text, no language model.

Reference:
    ReSID, "Rethinking the generative recommender tokenizer", arXiv 2602.02338, 2026, the encoding stage. Its quantisation stage is
    :class:`~recbole_r3vae.model.tokenizer.gaoq.GAOQ`: ``--tokenizer=GAOQ --content_encoder=FAMAE``.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from recbole.model.layers import FeedForward
from torch import Tensor, nn

from recbole_r3vae.data.item_values import fields_of_items
from recbole_r3vae.data.sequences import PrefixDataset
from recbole_r3vae.errors import UserError, did_you_mean
from recbole_r3vae.model.blocks import initialise
from recbole_r3vae.model.dropout import Dropout
from recbole_r3vae.model.heads import DenseHead
from recbole_r3vae.model.parameters import SHARE, Either, ListOf, MappingOf, Name, Number, Whole, check_heads
from recbole_r3vae.model.ranker import Ranker
from recbole_r3vae.model.sequential.bsarec import Attention, BSARec
from recbole_r3vae.model.tokenizer.quantize.codebook import unit

if TYPE_CHECKING:
    from recbole.config import Config
    from recbole.data.interaction import Interaction

LAYER_NORM_EPS = 1e-12


class Block(nn.Module):
    """A Transformer's encoder layer with its norms behind, of no more positions than are asked for.

    Args:
        config: the model's configuration.
    """

    def __init__(self, config: Config):
        super().__init__()
        size, dropout = config["hidden_size"], config["dropout"]
        self.attention = Attention(config["n_heads"], size, dropout, dropout, LAYER_NORM_EPS)
        self.feed_forward = FeedForward(size, config["inner_size"], dropout, "relu", LAYER_NORM_EPS)

    def forward(self, x: Tensor, is_real: Tensor, n_last: int) -> Tensor:
        """``x`` [B, T, d] to its last ``n_last`` positions [B, n, d]; where ``is_real`` [B, 1, T, T] is False, nobody looks."""
        return self.feed_forward(self.attention(x, is_real, n_last))


class FAMAE(Ranker):
    r"""Field-aware masked auto-encoder: the fields of the next item, predicted from the history and from those of its fields that are shown.

    An item has J fields: its id, and the values of ``item_fields``. A position of the history is the sum of the embeddings of its item's
    fields and of its place; a bidirectional Transformer reads all positions, the target's included. Of the target's fields
    :math:`K \sim U\{1..J\}`, a random subset M, are replaced by mask tokens, one for each field; no other position is masked.

    .. math:: q_k(v) = \mathrm{softmax}_v \; \sqrt d \cos(h_T, e^{(k)}_v), \qquad L = \sum_{k \in M} \alpha_k (-\log q_k(v_k))

    The softmax is over ``n_negatives`` values that are drawn for the batch, all alike, beside the true one; over all values where that is
    0, or where a field has no more. A value that an item lacks has no embedding, and masked, no loss: the paper leaves such items out.

    :meth:`field_vectors`, the embeddings of an item's fields side by side, is what a tokenizer quantises. As a recommender it ranks items by
    ``q`` of the id with all fields masked (the paper's "Metric 1").

    Args:
        config: ``hidden_size`` (d), ``inner_size``, ``n_layers``, ``n_heads``, ``dropout``, ``item_fields``, ``field_values``,
            ``field_weights``, ``n_negatives``; see ``properties/model/FAMAE.yaml``. :meth:`check` took it.
        dataset: training dataset; the fields that it has of ``item_fields`` are taken, and without any the id is the only one.

    Attributes:
        field_names: what the J fields are called, ``item_id`` first.
        values: ``[n_items, J]`` int64, the number of each item's value; 0 where it has none, and for the padding item.
        tables: J embeddings ``[values of the field + 1, d]``, row 0 is zero.

    Raises:
        UserError: ``field_weights`` names what is no field of the items.
    """

    dataset_class = PrefixDataset
    self_contained = False
    hyperparameters = {
        "hidden_size": Whole(),
        "inner_size": Whole(),
        "n_layers": Whole(),
        "n_heads": Whole(),
        "dropout": SHARE,
        "item_fields": Either(None, ListOf(Name(), at_least=0)),
        "field_values": Whole(),
        "field_weights": Either(None, MappingOf(Number(at_least=0))),
        "n_negatives": Whole(0),
    }

    def __init__(self, config: Config, dataset: Any):
        super().__init__(config, dataset)
        size, weights = config["hidden_size"], config["field_weights"] or {}
        fields = fields_of_items(dataset, config["item_fields"] or (), config["field_values"])
        self.field_names = [self.ITEM_ID, *fields]
        unknown = next((name for name in weights if name not in self.field_names), None)
        if unknown is not None:
            hint = did_you_mean(unknown, self.field_names, otherwise="correct it, or leave it out")
            raise UserError(f"field_weights has {unknown!r}, and the fields are {', '.join(self.field_names)}{hint}")
        self.n_negatives = config["n_negatives"]
        values = np.stack([np.arange(self.n_items), *(number for number, _ in fields.values())], axis=1)  # [n_items, J]
        self.register_buffer("values", torch.from_numpy(values), persistent=False)
        n_values = [self.n_items - 1, *(len(names) for _, names in fields.values())]
        self.register_buffer("weights", torch.tensor([float(weights.get(name, 1.0)) for name in self.field_names]), persistent=False)
        self.tables = nn.ModuleList(nn.Embedding(1 + n, size, padding_idx=0) for n in n_values)
        self.mask_tokens = nn.Embedding(len(self.field_names), size)
        self.position_embedding = nn.Embedding(self.max_seq_length + 1, size)  # the target has one too
        self.dropout = Dropout(config["dropout"])
        self.blocks = nn.ModuleList(Block(config) for _ in range(config["n_layers"]))
        self.heads["dense"] = DenseHead(self)
        self.apply(initialise)

    def calculate_loss(self, interaction: Interaction) -> Tensor:
        """Loss of a batch of targets with their histories, a mean over the targets.

        Args:
            interaction: rows of a :class:`~recbole_r3vae.data.sequences.PrefixDataset`.
        """
        target = self.values[interaction[self.ITEM_ID]]  # [B, J]
        masked = draw_masks(*target.shape, target.device)  # [B, J]
        h = self.forward(interaction, target, masked)
        losses = [self.field_loss(h, k, target[:, k], masked[:, k]) for k in range(target.shape[1])]
        return (self.weights * torch.stack(losses)).sum() / len(h)

    def field_loss(self, h: Tensor, k: int, true: Tensor, masked: Tensor) -> Tensor:
        """``-log q_k`` of the true values of one field, summed over the rows where it is masked.

        Args:
            h: what became of the targets' positions ``[B, d]``.
            k: number of the field.
            true: its values ``[B]``; 0 has no loss.
            masked: ``[B]``, bool.

        Returns:
            A scalar.
        """
        asked = masked & (true > 0)
        h, true, n_values = h[asked], true[asked], self.tables[k].num_embeddings - 1
        table = unit(self.tables[k].weight)  # [1 + V, d]
        scale = math.sqrt(h.shape[1])
        if self.n_negatives == 0 or n_values <= self.n_negatives:
            return F.cross_entropy(scale * unit(h) @ table[1:].T, true - 1, reduction="sum")
        drawn = 1 + torch.randint(n_values, (self.n_negatives,), device=h.device)
        logits = scale * unit(h) @ table[drawn].T  # [b, n_negatives]
        logits = logits.masked_fill(drawn == true[:, None], -torch.inf)  # the true value is no negative
        own = scale * (unit(h) * table[true]).sum(-1, keepdim=True)  # [b, 1]
        return (torch.cat([own, logits], dim=1).logsumexp(1) - own[:, 0]).sum()

    def forward(self, interaction: Interaction, target: Tensor, masked: Tensor) -> Tensor:
        """What becomes of the target's position, after the history.

        Args:
            interaction: B rows with ``item_id_list``, padded with 0 on the right, and ``item_length``.
            target: values of the targets' fields ``[B, J]``.
            masked: ``[B, J]``, bool: those that a mask token stands for.

        Returns:
            ``[B, d]``.
        """
        items = BSARec.align_right(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN])  # [B, T], so that all targets are at the end
        shown = torch.stack([table(target[:, k]) for k, table in enumerate(self.tables)], dim=1)  # [B, J, d]
        last = torch.where(masked[..., None], self.mask_tokens.weight, shown).sum(1, keepdim=True)  # [B, 1, d]
        x = torch.cat([self.item_embeddings()[items], last], dim=1) + self.position_embedding.weight  # [B, T + 1, d]
        is_real = F.pad(items > 0, (0, 1), value=True)[:, None, None].expand(-1, -1, x.shape[1], -1)  # [B, 1, T + 1, T + 1]
        x = self.dropout(x)
        for block in self.blocks[:-1]:
            x = block(x, is_real, n_last=x.shape[1])
        return self.blocks[-1](x, is_real, n_last=1)[:, 0]  # nobody reads the other positions

    def item_embeddings(self) -> Tensor:
        """The sum of the embeddings of each item's fields ``[n_items, d]``."""
        return sum(table(self.values[:, k]) for k, table in enumerate(self.tables))

    def field_vectors(self) -> Tensor:
        """The embeddings of each item's fields side by side ``[n_items, J d]``: the vectors of a tokenizer."""
        return torch.cat([table(self.values[:, k]) for k, table in enumerate(self.tables)], dim=1)

    # -- ranking -----------------------------------------------------------------------------------------------------------

    def read(self, interaction: Interaction) -> Tensor:
        """Histories as vectors ``[B, d]``: the position of a target whose fields are all masked."""
        n_users = len(interaction[self.ITEM_SEQ])
        target = self.values.new_zeros(n_users, len(self.tables))
        return self.forward(interaction, target, torch.ones_like(target, dtype=torch.bool))

    def user_vectors(self, reading: Tensor) -> Tensor:
        """``[B, d]``, of length sqrt(d)."""
        return math.sqrt(reading.shape[1]) * unit(reading)

    def item_vectors(self) -> Tensor:
        """``[n_items, d]``, unit embeddings of ids."""
        return unit(self.tables[0].weight)

    # -- what it declares --------------------------------------------------------------------------------------------------

    @classmethod
    def id_fields(cls, dataset: Any) -> set[str]:
        """Users, items and the fields that it reads."""
        features = () if dataset.item_feat is None else dataset.item_feat
        return super().id_fields(dataset) | {field for field in dataset.config["item_fields"] or () if field in features}

    @classmethod
    def loss_name(cls, config: Config) -> str:
        """Of masked fields."""
        return "NLL of masked fields"

    @classmethod
    def check(cls, config: Config) -> None:
        """Refuse settings that it cannot be made with.

        Raises:
            UserError: a key has a value outside its range, or ``n_heads`` does not divide ``hidden_size``.
        """
        super().check(config)
        check_heads(config)


def draw_masks(n: int, n_fields: int, device: torch.device) -> Tensor:
    """Which fields of each target are masked: as many as ``K``, drawn from 1 to all alike, and all subsets of that size alike.

    Args:
        n: rows B.
        n_fields: J.
        device: of the result.

    Returns:
        ``[B, J]``, bool, at least one True a row.
    """
    how_many = 1 + torch.randint(n_fields, (n, 1), device=device)  # [B, 1], K
    rank = torch.rand(n, n_fields, device=device).argsort(1).argsort(1)  # [B, J], a random order
    return rank < how_many
