"""BSARec: self-attention beside a filter of the history's frequencies.

Shin et al., "An Attentive Inductive Bias for Sequential Recommendation beyond the Self-Attention", AAAI 2024, arXiv 2312.10325. Settings
are those of an independent five-seed reproduction (RecBoard), which found it above every semantic-ID model.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from recbole.model.layers import FeedForward
from torch import Tensor, nn

from recbole_r3vae.data.sequences import PrefixDataset
from recbole_r3vae.errors import UserError
from recbole_r3vae.model.attention import attend
from recbole_r3vae.model.dropout import Dropout
from recbole_r3vae.model.heads import DenseHead
from recbole_r3vae.model.losses import catalogue_cross_entropy
from recbole_r3vae.model.parameters import SHARE, Choice, Either, Number, Whole, check_heads
from recbole_r3vae.model.ranker import Ranker
from recbole_r3vae.model.repeat_prior import KEYS, Reading, prior_of

if TYPE_CHECKING:
    from recbole.config import Config
    from recbole.data.interaction import Interaction


class FrequencyLayer(nn.Module):
    """The slow part of a sequence as it is, the fast part scaled by a learnt beta (equation 9 of the paper).

    ``low + beta * high``: ``low`` keeps the lowest frequencies of the discrete Fourier transform over all positions, ``high`` is the rest.
    Every position of the result depends on every position of the sequence, later ones included. Few frequencies are kept, so ``low`` is
    two products with their waves, which are cheaper than a transform and its inverse.

    Args:
        size: width d.
        length: positions T.
        c: how many of the T components of the transform are low: the constant and ``c // 2`` frequencies, of which each has two.
        dropout: probability on the residual branch.
        layer_norm_eps: added to variances.
    """

    def __init__(self, size: int, length: int, c: int, dropout: float, layer_norm_eps: float):
        super().__init__()
        self.register_buffer("waves", slowest_waves(length, c // 2 + 1), persistent=False)  # [T, W]
        self.sqrt_beta = nn.Parameter(torch.randn(size))  # beta >= 0, one for each dimension
        self.norm = nn.LayerNorm(size, eps=layer_norm_eps)
        self.dropout = Dropout(dropout)

    def filter(self, x: Tensor, n_last: int) -> Tensor:
        """``x`` [B, T, d] with its high frequencies scaled, its last ``n_last`` positions [B, n, d]."""
        low = self.waves[-n_last:] @ (self.waves.T @ x)  # [B, W, d] between
        return low + self.sqrt_beta.square() * (x[:, -n_last:] - low)

    def forward(self, x: Tensor, n_last: int) -> Tensor:
        """``x`` [B, T, d] to its last ``n_last`` positions [B, n, d]."""
        return self.norm(x[:, -n_last:] + self.dropout(self.filter(x, n_last)))


def slowest_waves(length: int, n_low: int) -> Tensor:
    """The first ``n_low`` frequencies of the discrete Fourier transform, the constant among them, as orthonormal columns.

    Args:
        length: positions T.
        n_low: frequencies, at most ``T // 2 + 1``.

    Returns:
        ``[T, W]``: a cosine of each and a sine of all but the constant and, of an even T, the fastest of all, which have none.
    """
    angle = torch.arange(length, dtype=torch.float64)[:, None] * torch.arange(n_low) * (2 * math.pi / length)  # [T, n_low]
    has_sine = [k for k in range(n_low) if 0 < 2 * k < length]
    waves = torch.cat([angle.cos(), angle[:, has_sine].sin()], dim=1)
    return (waves / waves.norm(dim=0)).float()


class Attention(nn.Module):
    """Self-attention with its residual and norm, as RecBole's ``MultiHeadAttention``, of no more positions than are asked for.

    Args:
        n_heads: attention heads H.
        size: width d.
        dropout: probability on the residual branch.
        attention_dropout: probability on attention weights.
        layer_norm_eps: added to variances.
    """

    def __init__(self, n_heads: int, size: int, dropout: float, attention_dropout: float, layer_norm_eps: float):
        super().__init__()
        self.n_heads, self.weights_dropout = n_heads, Dropout(attention_dropout)
        self.query, self.key, self.value, self.out = (nn.Linear(size, size) for _ in range(4))
        self.norm = nn.LayerNorm(size, eps=layer_norm_eps)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor, n_last: int) -> Tensor:
        """``x`` [B, T, d] to its last ``n_last`` positions [B, n, d]; ``mask`` [B, 1, T, T] is added to the attention logits, or is bool."""
        last = x[:, -n_last:]
        projected = (self.query(last), self.key(x), self.value(x))
        heads = (part.unflatten(-1, (self.n_heads, -1)).transpose(1, 2) for part in projected)  # each [B, H, n or T, d/H]
        attended = attend(*heads, mask[:, :, -n_last:], dropout=self.weights_dropout)  # [B, H, n, d/H]
        return self.norm(last + self.dropout(self.out(attended.transpose(1, 2).flatten(2))))


class Block(nn.Module):
    """``alpha * frequency layer + (1 - alpha) * self-attention``, then a feed-forward layer; each has its residual and norm inside.

    Args:
        config: the model's configuration.
    """

    def __init__(self, config: Config):
        super().__init__()
        size, dropout, eps = config["hidden_size"], config["hidden_dropout_prob"], config["layer_norm_eps"]
        self.alpha = config["alpha"]
        self.frequency = FrequencyLayer(size, config["MAX_ITEM_LIST_LENGTH"], config["c"], dropout, eps)
        self.attention = Attention(config["n_heads"], size, dropout, config["attn_dropout_prob"], eps)
        self.feed_forward = FeedForward(size, config["inner_size"], dropout, config["hidden_act"], eps)
        self.feed_forward.dropout = Dropout(dropout)
        if config["hidden_act"] == "gelu":
            self.feed_forward.intermediate_act_fn = F.gelu  # RecBole's is the same function, in five passes

    def forward(self, x: Tensor, mask: Tensor, n_last: int) -> Tensor:
        """``x`` [B, T, d] to its last ``n_last`` positions [B, n, d]; ``mask`` [B, 1, T, T] is added to the attention logits."""
        mixed = self.alpha * self.frequency(x, n_last) + (1 - self.alpha) * self.attention(x, mask, n_last)
        return self.feed_forward(mixed)


class BSARec(Ranker):
    """Item-id recommender with one target a training row.

    The attention is causal, the Fourier transform is not: it mixes every position with later ones. Training on all positions of a history
    at once would show each position its own target, so each target is predicted from the items before it alone, in a row of its own, at
    the last position. An epoch costs accordingly.

    As published, histories end at the last of ``MAX_ITEM_LIST_LENGTH`` positions and padding stands before them, so that the frequencies
    mean the same for all; padded positions take part in the transform with their position embeddings. The loss is the cross-entropy over
    all items.

    Args:
        config: ``hidden_size``, ``inner_size``, ``n_layers``, ``n_heads``, ``hidden_dropout_prob``, ``attn_dropout_prob``,
            ``hidden_act``, ``layer_norm_eps``, ``initializer_range``, ``alpha``, ``c``, ``loss_type``; see
            ``properties/model/BSARec.yaml``. :meth:`check` took it.
        dataset: training dataset.
    """

    dataset_class = PrefixDataset
    hyperparameters = {
        "hidden_size": Whole(),
        "inner_size": Whole(),
        "n_layers": Whole(),
        "n_heads": Whole(),
        "hidden_act": Choice("gelu", "relu", "swish", "tanh", "sigmoid"),
        "hidden_dropout_prob": SHARE,
        "attn_dropout_prob": SHARE,
        "layer_norm_eps": Number(above=0),
        "initializer_range": Number(above=0),
        "alpha": Number(at_least=0, at_most=1),
        "c": Whole(),
        "loss_type": Either("CE"),
        **KEYS,
    }

    def __init__(self, config: Config, dataset: Any):
        super().__init__(config, dataset)
        size = config["hidden_size"]
        self.item_embedding = nn.Embedding(self.n_items, size, padding_idx=0)
        self.position_embedding = nn.Embedding(self.max_seq_length, size)
        self.norm = nn.LayerNorm(size, eps=config["layer_norm_eps"])
        self.dropout = Dropout(config["hidden_dropout_prob"])
        self.blocks = nn.ModuleList(Block(config) for _ in range(config["n_layers"]))
        self.heads["dense"] = DenseHead(self)
        self.prior = prior_of(config, self.max_seq_length)
        self.std = config["initializer_range"]
        self.apply(self._initialise)

    def _initialise(self, module: nn.Module) -> None:
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=self.std)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
        if isinstance(module, nn.Embedding) and module.padding_idx is not None:
            nn.init.zeros_(module.weight[module.padding_idx])

    def forward(self, interaction: Interaction) -> Tensor:
        """Histories as vectors.

        Args:
            interaction: B rows with ``item_id_list``, padded with 0 on the right, and ``item_length``.

        Returns:
            ``[B, d]``.
        """
        items = self.align_right(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN])  # [B, T]
        x = self.dropout(self.norm(self.item_embedding(items) + self.position_embedding.weight))  # [B, T, d]
        mask = self.get_attention_mask(items)  # [B, 1, T, T]
        for block in self.blocks[:-1]:
            x = block(x, mask, n_last=x.shape[1])
        return self.blocks[-1](x, mask, n_last=1)[:, 0]  # nobody reads the other positions

    @staticmethod
    def align_right(items: Tensor, length: Tensor) -> Tensor:
        """Histories ``[B, T]`` of ``length`` [B] with their padding moved from the right to the left."""
        source = torch.arange(items.shape[1], device=items.device) - (items.shape[1] - length)[:, None]  # [B, T]
        return items.gather(1, source.clamp(min=0)).masked_fill(source < 0, 0)

    def calculate_loss(self, interaction: Interaction) -> Tensor:
        """Mean cross-entropy of the targets over all items.

        Args:
            interaction: rows of a :class:`~recbole_r3vae.data.sequences.PrefixDataset`.
        """
        x, items, target = self.forward(interaction), self.item_embedding.weight[1:], interaction[self.ITEM_ID] - 1
        if self.prior is None:
            return catalogue_cross_entropy(x, items, target)
        row, met, steps = self.prior.cells(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN])  # [C] each
        extra = row, met - 1, self.prior.log_odds[steps]
        return catalogue_cross_entropy(x, items, target, extra=extra) + self.prior.regularization()

    # -- ranking -----------------------------------------------------------------------------------------------------------

    def read(self, interaction: Interaction) -> Reading:
        """Histories as vectors."""
        return Reading(self.forward(interaction), interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN])

    def user_vectors(self, reading: Reading) -> Tensor:
        """``[B, d]``."""
        return reading.user

    def item_vectors(self) -> Tensor:
        """``[n_items, d]``."""
        return self.item_embedding.weight

    @classmethod
    def check(cls, config: Config) -> None:
        """Refuse settings that it cannot be made with.

        Raises:
            UserError: a key has a value outside its range, ``n_heads`` does not divide ``hidden_size``, or ``c`` is more components than
                a history has.
        """
        super().check(config)
        check_heads(config)
        c, length = config["c"], config["MAX_ITEM_LIST_LENGTH"]
        if c > length:
            raise UserError(f"c is {c}; give the number of low components, from 1 to MAX_ITEM_LIST_LENGTH={length}")
