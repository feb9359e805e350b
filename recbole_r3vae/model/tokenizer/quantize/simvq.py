"""A codebook whose codewords move together: fixed random vectors under one learned linear map."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from recbole_r3vae.model.tokenizer.quantize.codebook import kmeans


class SimVQCodebook(nn.Module):
    """``K`` codewords ``basis @ projection``, of which only the projection learns.

    Zhu et al., "Addressing Representation Collapse in Vector Quantized Models with One Linear Layer",
    arXiv 2411.02038: every item that is assigned anywhere moves all codewords, so that none is left behind.

    Args:
        size: Number of codewords ``K``.
        dim: Their dimension ``d``.
        generator: Source of the random basis, of expected squared length 1.

    Attributes:
        basis: ``[K, d]``, fixed.
        projection: ``[d, d]``, a parameter; the identity at first.
    """

    def __init__(self, size: int, dim: int, generator: torch.Generator):
        super().__init__()
        self.size = size
        self.register_buffer("basis", torch.randn(size, dim, generator=generator) / math.sqrt(dim))
        self.projection = nn.Parameter(torch.eye(dim))

    @property
    def weight(self) -> Tensor:
        """The codewords ``[K, d]``."""
        return self.basis @ self.projection

    def forward(self, codes: Tensor) -> Tensor:
        """Look codewords up: codes ``[B]`` -> ``[B, d]``."""
        return self.basis[codes] @ self.projection

    @torch.no_grad()
    def initialise(self, x: Tensor, iterations: int, seed: int) -> None:
        """Make the codewords the k-means centroids of ``x`` ``[n, d]``, as :meth:`.Codebook.initialise`."""
        self.basis.copy_(torch.from_numpy(kmeans(x.cpu().numpy(), self.size, iterations, seed)))
        nn.init.eye_(self.projection)
