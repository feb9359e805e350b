"""Augmented views of histories: which places of a history change, and the contrast that tells its views from those of all others."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def part_of(length: Tensor, share: float, least: int = 0) -> Tensor:
    """How many places a share of each history is, rounded down.

    Args:
        length: ``[B]`` int64.
        share: from 0 to 1.
        least: but at least so many.

    Returns:
        ``[B]`` int64.
    """
    return (length.double() * share).long().clamp(min=least)


def some_places(real: Tensor, count: Tensor) -> Tensor:
    """Random places of histories: every set of so many is as likely as any other.

    Args:
        real: ``[B, T]`` bool, places to choose from.
        count: ``[B]``, how many; all where there are fewer.

    Returns:
        bool ``[B, T]``.
    """
    order = torch.rand(real.shape, device=real.device).masked_fill(~real, 2).argsort(1)  # real places first, in random order
    return (order.argsort(1) < count[:, None]) & real


def view_contrast(first: Tensor, second: Tensor, temperature: float = 1.0) -> Tensor:
    """InfoNCE of two views of each history: mean cross-entropy of a view's partner among all other views of the batch.

    Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations", ICML 2020, arXiv 2002.05709, equation 1, with dot
    products. A view has one partner and 2 (B - 1) negatives: itself is left out.

    Args:
        first, second: ``[B, d]``, a vector of each history's one and other view.
        temperature: divides the products.

    Returns:
        A scalar, float32.
    """
    views = torch.cat([first, second])  # [2B, d]
    logits = (views @ views.T).float() / temperature  # [2B, 2B]
    place = torch.arange(len(views), device=views.device)
    return F.cross_entropy(logits.masked_fill(place[:, None] == place, -torch.inf), place.roll(len(first)))
