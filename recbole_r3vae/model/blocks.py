"""The blocks that causal models of histories are made of: a Transformer's and HSTU's, over packed positions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_r3vae.model.attention import attend
from recbole_r3vae.model.dropout import Dropout
from recbole_r3vae.model.packing import Packing

ENCODERS = ("transformer", "hstu")
"""Values of a key ``encoder``."""


class TransformerBlock(nn.Module):
    """Pre-norm Transformer block in which every position of a history attends to itself and those before it.

    Vaswani et al., "Attention Is All You Need", NeurIPS 2017, with GELU and the norms in front, as in GPT-2. A subclass that attends over
    something else than packed histories overrides :meth:`attend`.

    Args:
        size: width d.
        n_heads: attention heads H.
        inner_size: width of the feed-forward layer.
        dropout: probability on both residual branches.
    """

    def __init__(self, size: int, n_heads: int, inner_size: int, dropout: float):
        super().__init__()
        self.n_heads = n_heads
        self.attention_norm, self.mlp_norm = nn.LayerNorm(size), nn.LayerNorm(size)
        self.qkv, self.out = nn.Linear(size, 3 * size), nn.Linear(size, size)
        self.mlp = nn.Sequential(nn.Linear(size, inner_size), nn.GELU(), nn.Linear(inner_size, size))
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, layout: Packing) -> Tensor:
        """``x`` [..., d] to [..., d]; ``layout`` says which positions belong together."""
        qkv = self.qkv(self.attention_norm(x)).unflatten(-1, (3, self.n_heads, -1))  # [..., 3, H, d/H]
        x = x + self.dropout(self.out(self.attend(qkv, layout)))
        return x + self.dropout(self.mlp(self.mlp_norm(x)))

    def attend(self, qkv: Tensor, packing: Packing) -> Tensor:
        """Queries, keys and values of packed positions [M, 3, H, d/H] to [M, d]."""
        heads = (part.permute(2, 0, 3, 1, 4) for part in packing.split(qkv))  # each [3, n, H, t, d/H]
        attended = (attend(*part, causal=True) for part in heads)  # [n, H, t, d/H]
        return torch.cat([part.transpose(1, 2).flatten(2).flatten(0, 1) for part in attended])


@dataclass
class Past:
    """What a :class:`ContinuedBlock` knows of histories of at most S positions."""

    key: Tensor  # [B, S, H, d/H]
    value: Tensor  # likewise
    real: Tensor  # [B, S], False where there is nothing


class ContinuedBlock(TransformerBlock):
    """Transformer block over packed histories, and then over single positions that may come next, many after each history."""

    def past(self, x: Tensor, packing: Packing) -> Past:
        """Keys and values of histories ``[M, d]``, the input of this block, in the order of the batch."""
        kv = packing.pad(self.qkv(self.attention_norm(x))[:, x.shape[1] :])  # [B, S, 2 d]
        real = packing.pad(x.new_ones(len(x), 1))[..., 0] > 0
        return Past(*kv.unflatten(-1, (2, self.n_heads, -1)).unbind(2), real)

    def attend(self, qkv: Tensor, layout: Packing | Past) -> Tensor:
        """Packed positions [M, 3, H, d/H] to [M, d]; or C next positions of each history [B, C, 3, H, d/H] to [B, C, d], each by itself."""
        if isinstance(layout, Packing):
            return super().attend(qkv, layout)
        query, key, value = qkv.unbind(2)  # [B, C, H, d/H] each
        query = query * query.shape[-1] ** -0.5
        of_past = torch.einsum("bchd,bshd->bchs", query, layout.key).masked_fill(~layout.real[:, None, None], -torch.inf)
        of_own = (query * key).sum(-1, keepdim=True)  # [B, C, H, 1]
        weights = torch.cat([of_past, of_own], -1).softmax(-1)  # [B, C, H, S + 1]
        attended = torch.einsum("bchs,bshd->bchd", weights[..., :-1], layout.value) + weights[..., -1:] * value
        return attended.flatten(2)


class HSTUBlock(nn.Module):
    """Pointwise-aggregated causal attention without softmax, gated instead of followed by a feed-forward layer.

    Zhai et al., "Actions Speak Louder than Words", ICML 2024, arXiv 2402.17152, equations 1 to 3. The attention logit of two positions has
    a learnt bias for their distance; a model that knows times adds its own. The sum is not divided by the number of positions: the
    normalisation after it takes every scale away but for its epsilon.

    Args:
        size: width d.
        n_heads: attention heads H.
        max_length: positions of the longest history.
        dropout: probability on the residual branch.
        key_size: width A of a head's queries and keys; default: d / H.
        value_size: width V of a head's values and gates; default: d / H.
        gate_dropout: probability on the gated sums, before the last projection, where the authors' code has its dropout.
        shared_bias: whether all heads have the same bias of distances, as in the authors' code.
        linear_bias: whether queries, keys, values and gates have additive terms; the authors' have none.
    """

    def __init__(
        self,
        size: int,
        n_heads: int,
        max_length: int,
        dropout: float = 0.0,
        key_size: int | None = None,
        value_size: int | None = None,
        gate_dropout: float = 0.0,
        shared_bias: bool = False,
        linear_bias: bool = True,
    ):
        super().__init__()
        key_size, value_size = key_size or size // n_heads, value_size or size // n_heads
        self.n_heads = n_heads
        self.widths = [n_heads * width for width in (key_size, key_size, value_size, value_size)]
        self.attention_norm, self.gate_norm = nn.LayerNorm(size), nn.LayerNorm(n_heads * value_size)
        self.qkvu, self.out = nn.Linear(size, sum(self.widths), bias=linear_bias), nn.Linear(n_heads * value_size, size)
        self.distance_bias = nn.Parameter(torch.zeros(1 if shared_bias else n_heads, max_length))
        self.gate_dropout, self.dropout = Dropout(gate_dropout), Dropout(dropout)

    def forward(self, x: Tensor, packing: Packing, bias: Sequence[Tensor] | None = None) -> Tensor:
        """One block.

        Args:
            x: ``[M, d]``, packed positions.
            packing: where they lie.
            bias: for each block of histories of one length ``[n, t, t]``, added to the attention logits of query and key beside the bias
                of their distance; default: none.

        Returns:
            ``[M, d]``.
        """
        *qkv, gate = F.silu(self.qkvu(self.attention_norm(x))).split(self.widths, dim=-1)
        heads = zip(*(packing.split(part.unflatten(-1, (self.n_heads, -1))) for part in qkv))  # each three of [n, t, H, A or V]
        position = torch.arange(packing.longest, device=x.device)
        behind = position[:, None] - position  # [T, T], how far the key lies behind the query
        distance_bias, future = self.distance_bias[:, behind.clamp(min=0)], behind < 0  # [H or 1, T, T], [T, T]
        attended = []
        for place, ((_, t), (query, key, value)) in enumerate(zip(packing.blocks, heads)):
            of_pair = distance_bias[:, :t, :t] if bias is None else distance_bias[:, :t, :t] + bias[place][:, None]  # [(n,) H or 1, t, t]
            attended.append(self.attend(query, key, value, of_pair, future[:t, :t]).flatten(0, 1))
        return x + self.dropout(self.out(self.gate_dropout(self.gate_norm(torch.cat(attended)) * gate)))

    @staticmethod
    def attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor, future: Tensor) -> Tensor:
        """Each position's sum over all but future ones: queries and keys [n, t, H, A] and values [n, t, H, V] to [n, t, H * V]."""
        query, key, value = (part.transpose(1, 2) for part in (query, key, value))  # [n, H, t, A or V]
        weights = F.silu(query @ key.transpose(-1, -2) + bias).masked_fill(future, 0)  # [n, H, t, t]
        return (weights @ value).transpose(1, 2).flatten(2)


def causal_blocks(
    encoder: str, n_layers: int, size: int, n_heads: int, inner_size: int, max_length: int, dropout: float
) -> nn.ModuleList:
    """The encoder of histories that the key ``encoder`` names; each block maps ``[M, d]`` and a :class:`~.Packing` to ``[M, d]``.

    Args:
        encoder: one of :data:`ENCODERS`.
        n_layers: number of blocks.
        size: width d.
        n_heads: attention heads.
        inner_size: width of the feed-forward layers, which HSTU's blocks do not have.
        max_length: positions of the longest history.
        dropout: probability on residual branches.
    """
    if encoder == "transformer":
        return nn.ModuleList(TransformerBlock(size, n_heads, inner_size, dropout) for _ in range(n_layers))
    return nn.ModuleList(HSTUBlock(size, n_heads, max_length, dropout) for _ in range(n_layers))


def initialise(module: nn.Module) -> None:
    """For ``Module.apply``: weights from a normal distribution of deviation 0.02, biases and the padding item at zero."""
    if isinstance(module, (nn.Linear, nn.Embedding)):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
    if isinstance(module, nn.Embedding) and module.padding_idx is not None:
        nn.init.zeros_(module.weight[module.padding_idx])
