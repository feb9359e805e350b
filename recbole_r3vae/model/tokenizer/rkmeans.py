"""Residual k-means (R-KMeans): the strongest simple tokenizer, without encoder and without gradient.

Reference:
    Xinchen Luo et al. "QARM: Quantitative Alignment Multi-Modal Recommendation at Kuaishou." CIKM 2025,
    arXiv 2411.11739; there the quantitative code of level l is the nearest k-means centroid of the residual.
"""

from __future__ import annotations

import torch
from recbole.config import Config
from torch import Tensor

from recbole_r3vae.data.items import ItemVectors
from recbole_r3vae.model.parameters import Whole
from recbole_r3vae.model.tokenizer.base import FittedTokenizer, Quantized
from recbole_r3vae.model.tokenizer.quantize.assign import Level, NearestNeighbour
from recbole_r3vae.model.tokenizer.quantize.codebook import SAMPLES_PER_CODEWORD, Codebook
from recbole_r3vae.model.tokenizer.quantize.residual import ResidualQuantizer


class RKMeans(FittedTokenizer):
    r"""k-means on the embeddings, then on what the nearest centroids leave, level after level.

    .. math:: c_l = \arg\min_k \|e^{(l-1)} - m^{(l)}_k\|, \quad e^{(l)} = e^{(l-1)} - m^{(l)}_{c_l}, \quad
              e^{(0)} = x

    Items with equal embeddings always collide.

    Args:
        config: Keys of ``properties/model/RKMeans.yaml``.
        items: Embeddings of the catalogue.
    """

    hyperparameters = {"kmeans_iterations": Whole()}

    def __init__(self, config: Config, items: ItemVectors):
        super().__init__(config, items)
        self.kmeans_iterations = config["kmeans_iterations"]
        generator = torch.Generator().manual_seed(self.seed)
        levels = [self._level(Codebook(size, self.dim, generator), config) for size in self.codebook_sizes]
        self.quantizer = ResidualQuantizer(levels).requires_grad_(False)

    def _level(self, codebook: Codebook, config: Config) -> Level:
        return NearestNeighbour(codebook)

    def initialise(self, items: ItemVectors) -> None:
        """Fit the codebooks, level by level.

        Args:
            items: Embeddings of the catalogue, of which a seeded sample is read.

        Raises:
            UserError: a codebook has more codes than the catalogue has items.
        """
        super().initialise(items)
        sample = items.sample(SAMPLES_PER_CODEWORD * max(self.codebook_sizes), self.seed)
        x = torch.from_numpy(sample).to(self.device)  # [n, d]
        self.quantizer.initialise(x, self.kmeans_iterations, self.seed)

    def own_space(self, x: Tensor) -> Tensor:
        return x

    def quantize(self, x: Tensor) -> Quantized:
        out = self.quantizer(x)
        return Quantized(out.codes, out.quantized, None, out.residuals, out.quantized)

    def level_distances(self, x: Tensor, level: int) -> Tensor:
        residual = self.quantizer(x).residuals[level]  # [B, d]
        return -self.quantizer.levels[level].rating(residual)  # [B, K]
