"""The residual loop shared by every tokenizer that quantises level by level."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from recbole_r3vae.model.tokenizer.quantize.assign import Level

CHUNK_ROWS = 65536
"""Rows quantised at once while codebooks are initialised; bounds the ``[rows, K]`` ratings in memory."""


@dataclass
class ResidualCodes:
    """What a residual quantizer makes of ``B`` vectors.

    Attributes:
        codes: ``[B, L]``, int64.
        quantized: The sum over all levels ``[B, d]``.
        residuals: What entered each level, ``L`` tensors ``[B, d]``.
        levels: What each level made of it, ``L`` tensors ``[B, d]`` with the gradient of its codewords.
    """

    codes: Tensor
    quantized: Tensor
    residuals: list[Tensor]
    levels: list[Tensor]

    def codebook_loss(self) -> Tensor:
        """Pulls codewords to residuals: ``sum_l ||sg(e(l-1)) - q(l)||^2``, a mean over the batch."""
        return sum(_squared_error(r.detach(), q) for r, q in zip(self.residuals, self.levels))

    def commitment_loss(self) -> Tensor:
        """Pulls residuals to codewords: ``sum_l ||e(l-1) - sg(q(l))||^2``, a mean over the batch."""
        return sum(_squared_error(r, q.detach()) for r, q in zip(self.residuals, self.levels))


class ResidualQuantizer(nn.Module):
    """Quantise a vector, then what is left of it, level after level: ``e(l) = e(l-1) - q(l)``.

    Args:
        levels: A codebook with its assignment rule for each level, first to last.
        straight_through: Estimate the gradient: what reaches the sum of all levels goes on to the input as
            if nothing had been quantised, and the codewords learn from :meth:`ResidualCodes.codebook_loss`
            alone. Without it the gradient goes through every level, for levels that are differentiable.
    """

    def __init__(self, levels: Iterable[Level], straight_through: bool = False):
        super().__init__()
        self.levels = nn.ModuleList(levels)
        self.straight_through = straight_through

    def forward(self, x: Tensor) -> ResidualCodes:
        """Quantise vectors.

        Args:
            x: ``[B, d]``.

        Returns:
            Codes, their sum, and what entered and left each level.
        """
        residual, codes, residuals, levels = x, [], [], []
        for level in self.levels:
            code, q = level(residual)  # [B], [B, d]
            codes.append(code)
            residuals.append(residual)
            levels.append(q)
            # Cut here, the codewords of a level stay out of the losses of the next, and each level's
            # commitment reaches x. Subtracting a straight-through q would cancel x: no later level could
            # teach an encoder.
            residual = residual - (q.detach() if self.straight_through else q)
        quantized = torch.stack(levels).sum(0)  # [B, d]
        if self.straight_through:
            quantized = x + (quantized - x).detach()
        return ResidualCodes(torch.stack(codes, dim=1), quantized, residuals, levels)

    @torch.no_grad()
    def initialise(self, x: Tensor, iterations: int, seed: int) -> None:
        """Start every codebook from k-means of the residuals that the levels before it leave.

        Args:
            x: Sample of vectors ``[n, d]``, at least as many as codewords; overwritten by its residuals.
            iterations: Iterations of k-means.
            seed: Of the first level; level ``l`` uses ``seed + l``.
        """
        for number, level in enumerate(self.levels):
            level.codebook.initialise(x, iterations, seed + number)
            for rows in x.split(CHUNK_ROWS):
                rows -= level(rows)[1]


def _squared_error(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).square().sum(-1).mean()
