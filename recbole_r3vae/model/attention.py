"""Softmax attention, by whichever of two ways the device does faster."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SHORT = 256
"""Keys up to which a CPU in training has all weights in memory at once."""


def attend(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, *,
    causal: bool = False, scale: float | None = None, dropout: nn.Dropout | None = None,
) -> Tensor:  # fmt: skip
    """``softmax(scale * query key' + mask) value``, what PyTorch's ``scaled_dot_product_attention`` computes.

    Where a gradient is wanted on a CPU, the two products are written out. PyTorch's kernel takes several times as long there for short
    histories in bfloat16, most of it in its gradient (``results/speed.md``). It drops no weights either, and the general path in its place
    looks for rows that are masked throughout.

    Args:
        query: ``[N, H, S, d]``.
        key: ``[N, H, T, d]``.
        value: ``[N, H, T, d]``.
        mask: broadcasts to ``[N, H, S, T]``; added to the logits, or of bool, False where a query may not look. At least one key is left.
        causal: whether query s looks at the keys up to s alone; without ``mask``.
        scale: of the logits; ``d ** -0.5`` by default.
        dropout: of the weights, which are dropped while it is in training.

    Returns:
        ``[N, H, S, d]``.

    Raises:
        ValueError: ``mask`` and ``causal`` are both given.
    """
    if causal and mask is not None:
        raise ValueError("a mask and causal exclude each other; put what is later into the mask")
    if mask is not None and mask.dtype != torch.bool:
        mask = mask.to(query.dtype)  # of bfloat16 queries
    drops = dropout is not None and dropout.training and dropout.p > 0
    if query.device.type != "cpu" or not query.requires_grad or not (drops or key.shape[2] <= SHORT):
        share = dropout.p if drops else 0.0
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=share, is_causal=causal, scale=scale)
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    logits = (query if scale == 1 else query * scale) @ key.transpose(-1, -2)  # [N, H, S, T]
    if causal:
        mask = torch.ones(logits.shape[-2:], dtype=torch.bool).tril_()  # [S, T]
    if mask is not None:
        logits = logits.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else logits + mask
    weights = logits.softmax(-1)
    return (dropout(weights) if drops else weights) @ value
