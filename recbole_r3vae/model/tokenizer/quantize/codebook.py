"""Codebooks of residual quantizers and their initialisation by k-means."""

from __future__ import annotations

import math

import faiss
import numpy as np
import torch
from torch import Tensor, nn

EPS = 1e-8
"""Vectors shorter than this count as zero."""

SAMPLES_PER_CODEWORD = 256
"""Items that k-means sees for each codeword; more hardly move a centroid."""


def unit(x: Tensor) -> Tensor:
    """Scale vectors to unit length; a zero vector stays zero and gets a zero gradient instead of NaN.

    Args:
        x: Vectors in the last dimension, any shape.

    Returns:
        Tensor of the shape of ``x``.
    """
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return x / torch.where(norm > EPS, norm, torch.inf)  # x / inf: zero value, zero gradient


def kmeans(x: np.ndarray, k: int, iterations: int, seed: int) -> np.ndarray:
    """Lloyd's k-means by faiss, the same for the same seed.

    Args:
        x: Points ``[n, d]``, float32, ``n >= k``. All of them are used; sample before calling.
        k: Number of clusters.
        iterations: Lloyd iterations.
        seed: Of the random points that the centroids start from.

    Returns:
        Centroids ``[k, d]``, float32.
    """
    clustering = faiss.Kmeans(
        x.shape[1],
        k,
        niter=iterations,
        seed=seed,
        min_points_per_centroid=1,  # faiss prints a warning below and samples again above these two
        max_points_per_centroid=max(1, math.ceil(len(x) / k)),
    )
    clustering.train(np.ascontiguousarray(x, dtype=np.float32))
    return clustering.centroids


class Codebook(nn.Module):
    """``K`` codewords of one level.

    Args:
        size: Number of codewords ``K``.
        dim: Their dimension ``d``.
        generator: Source of the random initial codewords, of expected squared length 1.

    Attributes:
        weight: The codewords ``[K, d]``, a parameter.
    """

    def __init__(self, size: int, dim: int, generator: torch.Generator):
        super().__init__()
        self.size = size
        self.weight = nn.Parameter(torch.randn(size, dim, generator=generator) / math.sqrt(dim))

    def forward(self, codes: Tensor) -> Tensor:
        """Look codewords up: codes ``[B]`` -> ``[B, d]``."""
        return self.weight[codes]

    @torch.no_grad()
    def initialise(self, x: Tensor, iterations: int, seed: int) -> None:
        """Replace the codewords by the k-means centroids of ``x``.

        Args:
            x: What this level will quantise, ``[n, d]`` with ``n >= K``.
            iterations: Lloyd iterations.
            seed: Of k-means.
        """
        centroids = kmeans(x.cpu().numpy(), self.size, iterations, seed)
        self.weight.copy_(torch.from_numpy(centroids))
