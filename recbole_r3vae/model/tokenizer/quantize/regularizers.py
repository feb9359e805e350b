"""Semantic cohesion and preference discrimination of a batch, differentiable.

The same two numbers judge a whole catalogue in :mod:`recbole_r3vae.sid.quality.clusters`; here they are terms of a
loss. Items that share a code prefix of length ``l`` form a cluster of level ``l``, for every ``l`` from 1
to the whole tuple. Formulas: the regularisers of R3-VAE, arXiv 2604.11440, averaged over levels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from recbole_r3vae.model.tokenizer.quantize.codebook import unit
from recbole_r3vae.sid.codes import prefix_groups


def semantic_cohesion(vectors: Tensor, codes: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    r"""Mean pairwise cosine within clusters: how alike items with the same prefix are; larger is better.

    .. math:: SC = \mathrm{mean}_G \frac{2}{|G|^2 - |G|} \sum_{i<j \in G} \cos(v_i, v_j)
              = \mathrm{mean}_G \frac{\|\sum_{i \in G} u_i\|^2 - |G|}{|G|^2 - |G|}, \quad u_i = v_i / \|v_i\|

    over clusters of two or more items, averaged over the levels that have any.

    Args:
        vectors: ``[B, d]``.
        codes: ``[B, L]``.

    Returns:
        The scalar (0 if no two items share a prefix), and what it rests on: ``clusters`` of two or more
        items and ``pairs`` of items within them, each ``[L]``, int64.
    """
    u = unit(vectors)
    lengths = u.square().sum(-1)  # [B]; 1, but 0 for a zero vector
    values, n_clusters, n_pairs = [], [], []
    for cluster in _clusters(codes):
        size = torch.bincount(cluster)  # [M]
        shared = size >= 2
        sums = u.new_zeros(len(size), u.shape[1]).index_add(0, cluster, u)  # [M, d]
        own = u.new_zeros(len(size)).index_add(0, cluster, lengths)  # [M]
        pairs = size * (size - 1)
        n_clusters.append(shared.sum())
        n_pairs.append(pairs.sum() // 2)
        cohesion = (sums.square().sum(-1) - own) / pairs.clamp(min=1)  # [M]; 0 for clusters of one item
        values.append((cohesion * shared).sum() / shared.sum().clamp(min=1))
    counts = {"clusters": torch.stack(n_clusters), "pairs": torch.stack(n_pairs)}
    used = counts["clusters"] > 0  # [L]
    return (torch.stack(values) * used).sum() / used.sum().clamp(min=1), counts


def preference_discrimination(
    vectors: Tensor, codes: Tensor, temperature: float = 2.0
) -> tuple[Tensor, dict[str, Tensor]]:
    r"""How alike the centres of different clusters are; smaller is better.

    .. math:: PD = \log \frac{2}{M (M - 1)} \sum_{a<b} \exp(-t (1 - \cos(p_a, p_b)))

    with :math:`p` the mean of the unit vectors of each of :math:`M` clusters, averaged over the levels with two
    clusters or more. A centre of length zero has cosine 0 with every other.

    Args:
        vectors: ``[B, d]``.
        codes: ``[B, L]``.
        temperature: :math:`t`.

    Returns:
        The scalar (0 if all items share one code tuple), and the ``clusters`` of each level, ``[L]``, int64.
    """
    u = unit(vectors)
    values, n_clusters = [], []
    for cluster in _clusters(codes):
        size = torch.bincount(cluster)  # [M]
        sums = u.new_zeros(len(size), u.shape[1]).index_add(0, cluster, u)  # [M, d]
        n_clusters.append(len(size))
        if len(size) > 1:
            values.append(_discrimination(sums / size.unsqueeze(1), temperature))
    counts = {"clusters": torch.tensor(n_clusters)}
    return (torch.stack(values).mean() if values else vectors.new_zeros(())), counts


def codeword_discrimination(
    codebooks: Iterable[Tensor], temperature: float = 2.0
) -> tuple[Tensor, dict[str, Tensor]]:
    """Preference discrimination with the codewords of a level in place of cluster centres.

    Args:
        codebooks: Codewords ``[K_l, d]`` of each level.
        temperature: ``t`` of :func:`preference_discrimination`.

    Returns:
        The scalar, averaged over levels, and ``clusters``, here the codebooks' sizes ``[L]``, int64.
    """
    codebooks = list(codebooks)
    values = [_discrimination(codewords, temperature) for codewords in codebooks]
    return torch.stack(values).mean(), {"clusters": torch.tensor([len(codewords) for codewords in codebooks])}


def _clusters(codes: Tensor) -> list[Tensor]:
    """The cluster of each item at every level: ``L`` tensors ``[B]``, numbered from 0."""
    return [group.to(codes.device) for group in prefix_groups(codes.cpu())]


def _discrimination(centres: Tensor, temperature: float) -> Tensor:
    """log mean over pairs of exp(-t (1 - cos)) of centres ``[M, d]``, M >= 2."""
    n = len(centres)
    u = unit(centres)
    itself = torch.eye(n, dtype=torch.bool, device=u.device)
    logits = (-temperature * (1 - u @ u.T)).masked_fill(itself, -math.inf)  # [M, M]; every pair twice
    return torch.logsumexp(logits.flatten(), dim=0) - math.log(n * (n - 1))
