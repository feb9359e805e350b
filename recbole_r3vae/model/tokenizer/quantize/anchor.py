"""Codebooks that follow categories of items, and are spread: PRISM's hierarchical anchoring and its balance (arXiv 2601.16556)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_r3vae.model.tokenizer.mlp import mlp
from recbole_r3vae.model.tokenizer.quantize.codebook import EPS, unit


class Anchor(nn.Module):
    """The categories of one level: where they lie among its codewords, and the head that reads them off codes.

    Args:
        n: Categories C.
        n_codes: Codewords K of the level.
        level: From 1; the head reads the codes of so many levels.
        sizes: Of the perceptron that projects a category's vector ``[D]`` into the space of codewords ``[d']``: ``[D, hidden, d']``.
        generator: Source of the weights.

    Attributes:
        vectors: Content of the categories ``[C, D]``.
        smoothed: Running means of their assignments ``[C, K]``, uniform at first.
    """

    def __init__(self, n: int, n_codes: int, level: int, sizes: Sequence[int], generator: torch.Generator):
        super().__init__()
        self.register_buffer("vectors", torch.zeros(n, sizes[0]))
        self.register_buffer("smoothed", torch.full((n, n_codes), 1 / n_codes))
        self.projection = mlp(sizes, generator)
        self.head = mlp([level * sizes[-1], n], generator)

    def assignment(self, codewords: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        """Projected categories ``[C, d']``, and the softmax of their negative distances to codewords ``[C, K]``."""
        projected = self.projection(self.vectors)
        return projected, torch.softmax(-distances(projected, codewords) / temperature, dim=-1)

    def losses(self, codewords: Tensor, temperature: float) -> Tensor:
        """How far each category is from a mixture of codewords, and its assignment from what it was: ``[C]``.

        Smooth L1 (a mean over dimensions) of the mixture and the projected category, and half the KL divergence of the assignment from
        its running mean; a flat assignment counts less, between a quarter and one and a half.

        Args:
            codewords: Of the level ``[K, d']``.
            temperature: Of the softmax over them.
        """
        projected, share = self.assignment(codewords, temperature)
        log_share = share.clamp_min(EPS).log()  # [C, K]
        apart = F.smooth_l1_loss(share @ codewords, projected, reduction="none").mean(-1)  # [C]
        drift = (share * (log_share - self.smoothed.clamp_min(EPS).log())).sum(-1)
        entropy = -(share * log_share).sum(-1).detach()
        scale = (0.35 * math.log(len(codewords)) / entropy.clamp_min(EPS)).clamp(0.25, 1.5)
        return scale * (apart + 0.5 * drift)

    @torch.no_grad()
    def follow(self, codewords: Tensor, temperature: float, decay: float) -> None:
        """Move the running means towards the assignments of now."""
        self.smoothed.lerp_(self.assignment(codewords, temperature)[1], 1 - decay)


def balance_loss(codewords: Tensor, codes: Tensor, entered: Tensor, usage_weight: float, temperature: float) -> Tensor:
    """How alike the codewords are that a batch uses, and how unevenly it uses all.

    Args:
        codewords: Of one level ``[K, d]``.
        codes: Which of them the items of a batch have ``[B]``.
        entered: What the level quantised ``[B, d]``.
        usage_weight: Of the uneven use: the squared difference from 1 of K times a code's share of the batch. Shares are those of a softmax
            over distances, since counted ones have no gradient.
        temperature: Of that softmax.

    Returns:
        A scalar.
    """
    used = unit(codewords[codes.unique()])  # [u, d]
    cosine = (used @ used.T).fill_diagonal_(0)
    alike = F.relu(cosine - 0.5).sum() / max(1, len(used) * (len(used) - 1))
    share = torch.softmax(-distances(entered, codewords) / temperature, dim=-1).mean(0)  # [K]
    return alike + usage_weight * (len(codewords) * share - 1).square().mean()


def distances(x: Tensor, codewords: Tensor) -> Tensor:
    """Euclidean distances: ``[n, d]`` and ``[K, d]`` -> ``[n, K]``; an equal pair has a gradient of zero."""
    squared = x.square().sum(-1, keepdim=True) + codewords.square().sum(-1) - 2 * x @ codewords.T
    return squared.clamp_min(EPS).sqrt()
