"""Gradients through a choice that has none: how the quantised vector passes its gradient to the input."""

from __future__ import annotations

import torch
from torch import Tensor

from recbole_r3vae.model.tokenizer.quantize.codebook import EPS, unit


def straight_through(x: Tensor, q: Tensor) -> Tensor:
    """The quantised vector, with the gradient of the input: as if nothing had been quantised.

    Van den Oord et al., "Neural Discrete Representation Learning", NeurIPS 2017, section 3.2.

    Args:
        x: What was quantised ``[B, d]``.
        q: What it became ``[B, d]``; gets no gradient.

    Returns:
        ``[B, d]``, the value of ``q``.
    """
    return x + (q - x).detach()


def rotation(x: Tensor, q: Tensor) -> Tensor:
    r"""The quantised vector as a rotation and scaling of the input, both held constant for the gradient.

    Fifty et al., "Restructuring Vector Quantization with the Rotation Trick", ICLR 2025, arXiv 2410.06424.
    Of each sample by itself, with :math:`\hat x = x / \|x\|` and :math:`\hat q = q / \|q\|`,

    .. math::
        \tilde q = \frac{\|q\|}{\|x\|} R\, x, \qquad
        R = I - 2 r r^T + 2 \hat q \hat x^T, \qquad r = \frac{\hat x + \hat q}{\|\hat x + \hat q\|}.

    R is the rotation in the plane of both vectors that takes :math:`\hat x` to :math:`\hat q`. A gradient
    keeps its angle to ``q`` on its way to ``x``, and is scaled by :math:`\|q\| / \|x\|`. Where either vector
    is zero there is no rotation: :func:`straight_through`.

    Args:
        x: What was quantised ``[B, d]``.
        q: What it became ``[B, d]``; gets no gradient.

    Returns:
        ``[B, d]``, the value of ``q`` up to rounding.
    """
    q = q.detach()
    from_, to = unit(x.detach()), unit(q)  # [B, d]
    r = unit(from_ + to)
    x_norm = torch.linalg.vector_norm(x.detach(), dim=-1, keepdim=True)  # [B, 1]
    q_norm = torch.linalg.vector_norm(q, dim=-1, keepdim=True)
    rotated = x - 2 * _along(x, r) * r + 2 * _along(x, from_) * to
    scaled = q_norm / x_norm.clamp_min(EPS) * rotated
    return torch.where((x_norm > EPS) & (q_norm > EPS), scaled, straight_through(x, q))


ESTIMATORS = {"straight_through": straight_through, "rotation": rotation}


def _along(x: Tensor, direction: Tensor) -> Tensor:
    return (x * direction).sum(-1, keepdim=True)  # [B, 1]
