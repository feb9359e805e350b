"""Stacks of levels: one after the other on what is left of a vector, or side by side on its parts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from recbole_r3vae.model.tokenizer.quantize.assign import Level

CHUNK_CELLS = 2**24
"""Ratings ``[rows, K]`` that are in memory at once while codebooks are initialised: 64 MiB in float32."""


Estimator = Callable[[Tensor, Tensor], Tensor]
"""Gives the quantised vector ``[B, d]`` a gradient towards the input ``[B, d]``; see :mod:`.gradient`."""


@dataclass
class LevelCodes:
    """What a stack of levels makes of ``B`` vectors.

    Attributes:
        codes: ``[B, L]``, int64.
        quantized: All levels together ``[B, d]``, with the gradient of the stack's estimator where it has one.
        joined: The same numbers, whose gradient reaches the codewords of every level too. Where an estimator hands the gradient past
            the codewords, what is asked of the codes themselves, such as their cohesion, is asked of these.
        residuals: What entered each level, ``L`` tensors: residuals ``[B, d]``, or parts of the vector.
        levels: What each level made of it, ``L`` tensors of those shapes with the gradient of its codewords.
    """

    codes: Tensor
    quantized: Tensor
    joined: Tensor
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
        estimator: How what reaches the sum of all levels goes on to the input, for levels without a gradient
            of their own; the codewords then learn from :meth:`LevelCodes.codebook_loss` alone. ``None``: the
            gradient goes through every level, for levels that are differentiable.
    """

    def __init__(self, levels: Iterable[Level], estimator: Estimator | None = None):
        super().__init__()
        self.levels = nn.ModuleList(levels)
        self.estimator = estimator

    def forward(self, x: Tensor) -> LevelCodes:
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
            residual = residual - (q if self.estimator is None else q.detach())
        quantized, joined = _estimated(x, torch.stack(levels).sum(0), self.estimator)  # [B, d]
        return LevelCodes(torch.stack(codes, dim=1), quantized, joined, residuals, levels)

    @torch.no_grad()
    def initialise(self, x: Tensor, iterations: int, seed: int) -> None:
        """Start every codebook from k-means of the residuals that the levels before it leave.

        Args:
            x: Sample of vectors ``[n, d]``, at least as many as codewords; overwritten by its residuals.
            iterations: Iterations of k-means.
            seed: Of the first level; level ``l`` uses ``seed + l``.
        """
        for number, level in enumerate(self.levels):
            level.initialise(x, iterations, seed + number)
            for rows in x.split(max(1, CHUNK_CELLS // level.codebook.size)):
                rows -= level(rows)[1]


class ParallelQuantizer(nn.Module):
    """Quantise the parts of a vector side by side: product quantisation. No code says more than another.

    Args:
        levels: A codebook with its assignment rule for each part; the dimensions of their codewords add up
            to that of the vectors.
        estimator: As in :class:`ResidualQuantizer`.
    """

    def __init__(self, levels: Iterable[Level], estimator: Estimator | None = None):
        super().__init__()
        self.levels = nn.ModuleList(levels)
        self.estimator = estimator
        self.part_sizes = [level.codebook.weight.shape[1] for level in self.levels]

    def forward(self, x: Tensor) -> LevelCodes:
        """Quantise vectors.

        Args:
            x: ``[B, d]``.

        Returns:
            Codes, the quantised parts joined, and what entered and left each level.
        """
        parts = x.split(self.part_sizes, dim=-1)  # L of [B, d_l]
        codes, levels = zip(*(level(part) for level, part in zip(self.levels, parts)))
        quantized, joined = _estimated(x, torch.cat(levels, dim=-1), self.estimator)  # [B, d]
        return LevelCodes(torch.stack(codes, dim=1), quantized, joined, list(parts), list(levels))

    @torch.no_grad()
    def initialise(self, x: Tensor, iterations: int, seed: int) -> None:
        """Start every codebook from k-means of its part.

        Args:
            x: Sample of vectors ``[n, d]``, at least as many as codewords.
            iterations: Iterations of k-means.
            seed: Of the first level; level ``l`` uses ``seed + l``.
        """
        for number, (level, part) in enumerate(zip(self.levels, x.split(self.part_sizes, dim=-1))):
            level.initialise(part, iterations, seed + number)


def _estimated(x: Tensor, together: Tensor, estimator: Estimator | None) -> tuple[Tensor, Tensor]:
    """``quantized`` and ``joined`` of :class:`LevelCodes`, of vectors ``[B, d]`` and of what all levels made of them ``[B, d]``."""
    if estimator is None:
        return together, together
    quantized = estimator(x, together)
    return quantized, quantized + (together - together.detach())  # adds zeros, and the gradient of the codewords


def _squared_error(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).square().sum(-1).mean()
