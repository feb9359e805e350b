"""T5's layers: over histories without padding, and over the levels of a semantic ID.

Raffel et al., "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer", JMLR 2020, arXiv 1910.10683, in its
original form: ReLU, relative positions, no additive terms.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from recbole_r3vae.errors import UserError
from recbole_r3vae.model.attention import attend
from recbole_r3vae.model.dropout import Dropout
from recbole_r3vae.model.generator.levels import LevelCache
from recbole_r3vae.model.packing import Packing


class RMSNorm(nn.Module):
    """Layer normalisation without mean and bias, computed in float32 (Zhang and Sennrich, 2019, arXiv 1910.07467)."""

    def __init__(self, size: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        x = x.float()
        return self.weight * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6))


class RelativePositionBias(nn.Module):
    """A learnt term of the attention logits for the distance between query and key (T5, section 2.1), shared by the layers of a stack.

    Half of the buckets hold one distance each, the others grow logarithmically up to ``max_distance``.

    Args:
        n_heads: attention heads H.
        n_buckets: learnt terms a head.
        max_distance: all distances from here on share one.
        causal: whether keys after the query are masked with ``-inf``; otherwise half of the buckets are for them.
    """

    def __init__(self, n_heads: int, n_buckets: int, max_distance: int, causal: bool):
        super().__init__()
        self.table = nn.Embedding(n_buckets, n_heads)
        self.max_distance, self.causal = max_distance, causal

    def forward(self, length: int) -> Tensor:
        """``[1, H, length, length]``, to be added to the logits of ``length`` queries and keys."""
        position = torch.arange(length, device=self.table.weight.device)
        behind = position[:, None] - position  # [length, length], how far the key lies behind the query
        bias = self.table(self.bucket(behind)).permute(2, 0, 1)  # [H, length, length]
        return (bias.masked_fill(behind < 0, -torch.inf) if self.causal else bias)[None]

    def bucket(self, behind: Tensor) -> Tensor:
        """The bucket of each distance."""
        n_buckets, first = self.table.num_embeddings, 0
        if not self.causal:
            n_buckets //= 2
            first = (behind < 0) * n_buckets
            behind = behind.abs()
        behind = behind.clamp(min=0)
        n_exact = n_buckets // 2
        growth = torch.log(behind.clamp(min=1).float() / n_exact) / math.log(self.max_distance / n_exact)
        far = (n_exact + (growth * (n_buckets - n_exact)).long()).clamp(max=n_buckets - 1)
        return first + torch.where(behind < n_exact, behind, far)


class Attention(nn.Module):
    """Softmax attention with dropped weights. As in T5 the logits are not divided by anything.

    Args:
        n_heads: attention heads H.
        dropout: probability on the weights.
    """

    def __init__(self, n_heads: int, dropout: float):
        super().__init__()
        self.n_heads, self.dropout = n_heads, Dropout(dropout)

    def heads(self, x: Tensor, n: int) -> Tensor:
        """``n`` projections side by side [..., n * A] as [..., n, H, A/H]."""
        return x.unflatten(-1, (n, self.n_heads, -1))

    def forward(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
        """Queries [N, S, H, A/H] to keys and values [N, T, H, A/H], with ``bias`` [..., S, T] on their logits: [N, S, A]."""
        query, key, value = (heads.transpose(1, 2) for heads in (query, key, value))  # each [N, H, S or T, A/H]
        return attend(query, key, value, bias, scale=1.0, dropout=self.dropout).transpose(1, 2).flatten(2)


def projection(size: int, to_size: int) -> nn.Linear:
    """T5's linear layers have no additive terms."""
    return nn.Linear(size, to_size, bias=False)


class Layer(nn.Module):
    """What layers of both stacks have, each on a pre-norm residual branch: self-attention and a feed-forward network.

    Args:
        size: width d.
        n_heads: attention heads H.
        head_size: their dimension A / H.
        inner_size: width of the feed-forward network.
        dropout: probability on the residual branches, the attention weights and inside the feed-forward network.
    """

    def __init__(self, size: int, n_heads: int, head_size: int, inner_size: int, dropout: float):
        super().__init__()
        self.attention, attention_size = Attention(n_heads, dropout), n_heads * head_size
        self.attention_norm, self.mlp_norm = RMSNorm(size), RMSNorm(size)
        self.qkv, self.out = projection(size, 3 * attention_size), projection(attention_size, size)
        self._add_history_reader(size, attention_size)
        self.inner, self.outer = projection(size, inner_size), projection(inner_size, size)
        self.dropout = Dropout(dropout)

    def scale_queries(self, by: float) -> None:
        """Multiply the weights that make queries."""
        self.qkv.weight[: self.qkv.out_features // 3] *= by

    def _add_history_reader(self, size: int, attention_size: int) -> None:
        """A decoder's layer has more weights; they are drawn before those of the feed-forward network, which they stand in front of."""

    def feed_forward(self, x: Tensor) -> Tensor:
        """Its residual branch, [..., d] to [..., d]."""
        return x + self.dropout(self.outer(self.dropout(self.inner(self.mlp_norm(x)).relu_())))


class EncoderLayer(Layer):
    """T5's encoder layer, over packed histories."""

    def forward(self, x: Tensor, packing: Packing, bias: Tensor) -> Tensor:
        """Positions ``[M, d]`` to ``[M, d]``; ``bias`` [1, H, T, T] for the longest history."""
        qkv = packing.split(self.attention.heads(self.qkv(self.attention_norm(x)), 3))  # of [n, t, 3, H, A/H]
        lengths = (t for _, t in packing.blocks)
        attended = [self.attention(*part.unbind(2), bias[..., :t, :t]).flatten(0, 1) for part, t in zip(qkv, lengths)]
        return self.feed_forward(x + self.dropout(self.out(torch.cat(attended))))


@dataclass
class History:
    """Histories as one layer of the decoder reads them, once a user."""

    key: Tensor  # [B, T, H, A/H]
    value: Tensor  # likewise
    mask: Tensor | None  # [B, 1, 1, T], 0 at the positions of the history and -inf elsewhere; None where there is no padding


class DecoderLayer(Layer):
    """T5's decoder layer: between the two branches it reads the history.

    :meth:`forward` is for training, where all levels are known; :meth:`step` writes the next one for many beams.
    """

    def _add_history_reader(self, size: int, attention_size: int) -> None:
        self.cross_norm = RMSNorm(size)
        self.cross_query, self.cross_kv = projection(size, attention_size), projection(size, 2 * attention_size)
        self.cross_out = projection(attention_size, size)

    def scale_queries(self, by: float) -> None:
        """Multiply the weights that make queries, those to the history among them."""
        super().scale_queries(by)
        self.cross_query.weight *= by

    def forward(self, x: Tensor, bias: Tensor, history: list[Tensor], *more: Any) -> Tensor:
        """All levels at once.

        Args:
            x: ``[B, L, d]``, rows in the order of the histories.
            bias: ``[1, H, L, L]``.
            history: encoded histories, ``[n, t, d]`` for each length.
            more: what a subclass reads beside them, see :meth:`beside`.

        Returns:
            ``[B, L, d]``.
        """
        qkv = self.attention.heads(self.qkv(self.attention_norm(x)), 3)  # [B, L, 3, H, A/H]
        x = x + self.dropout(self.out(self.attention(*qkv.unbind(2), bias)))
        h = self.cross_norm(x)
        x = x + self.dropout(self.beside(h, self.cross_out(self.read(self.cross_query(h), history)), *more))
        return self.feed_forward(x)

    def beside(self, h: Tensor, read: Tensor) -> Tensor:
        """The branch that reads: ``read`` [B, Q, d], what the queries of ``h`` [B, Q, d] got from the history; a subclass may add to it."""
        return read

    def read(self, query: Tensor, history: list[Tensor]) -> Tensor:
        """Attention of queries [B, L, A] to encoded histories: [B, L, A].

        A query times a key's projection is the projected query times the key, and a projection of values can wait for their weighted
        sum: L queries a head go through the projections instead of all positions of the history.
        """
        key, value = self.cross_kv.weight.view(2, self.attention.n_heads, -1, self.cross_kv.in_features)  # [H, A/H, d] each
        query = torch.einsum("blha,had->blhd", query.unflatten(-1, (self.attention.n_heads, -1)), key)  # [B, L, H, d]
        queries = query.flatten(1, 2)[:, :, None].split([len(block) for block in history])  # of [n, L * H, 1, d]
        read = torch.cat([self.attention(q, e[:, :, None], e[:, :, None]) for q, e in zip(queries, history)])  # [B, L * H, d]
        return torch.einsum("blhd,had->blha", read.view_as(query), value).flatten(2)

    def step(self, x: Tensor, bias: Tensor, cache: LevelCache, history: History, *more: Any) -> Tensor:
        """The next level of all beams of a user against his one history.

        Args:
            x: ``[B, W, d]``.
            bias: ``[H, l]``, for the l levels so far.
            cache: the levels before, to which this one is added.
            history: its keys and values in this layer.
            more: as of :meth:`forward`.

        Returns:
            ``[B, W, d]``.
        """
        qkv = self.attention.heads(self.qkv(self.attention_norm(x)), 3)  # [B, W, 3, H, A/H]
        cache.append(qkv[:, :, 1:])
        x = x + self.dropout(self.out(cache.attend(qkv[:, :, 0], bias)))
        h = self.cross_norm(x)
        query = self.attention.heads(self.cross_query(h), 1)[:, :, 0]  # [B, W, H, A/H]
        read = self.cross_out(self.attention(query, history.key, history.value, history.mask))
        x = x + self.dropout(self.beside(h, read, *more))
        return self.feed_forward(x)


@torch.no_grad()
def initialise_t5(model: nn.Module, size: int, head_size: int) -> None:
    """T5's initial weights: linear layers keep a variance of one, embeddings are N(0, 1) as torch makes them, and the weights of queries
    hold what the attention logits are not divided by.

    Args:
        model: whose layers are those of this file.
        size: width d.
        head_size: dimension of a head.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.weight.normal_(std=module.in_features**-0.5)
        elif isinstance(module, RelativePositionBias):
            module.table.weight.normal_(std=size**-0.5)
    for module in model.modules():
        if isinstance(module, Layer):
            module.scale_queries(head_size**-0.5)


def check_distances(config: Mapping[str, Any]) -> None:
    """Refuse a :class:`RelativePositionBias` without distances for the buckets that grow.

    Args:
        config: has ``n_position_buckets`` and ``max_position_distance``, each within its range.

    Raises:
        UserError: the distance is half the number of buckets or less.
    """
    n_buckets, distance = config["n_position_buckets"], config["max_position_distance"]
    if distance <= n_buckets // 2:
        raise UserError(
            f"max_position_distance is {distance} and n_position_buckets {n_buckets}; give a distance above half the number of buckets"
        )
