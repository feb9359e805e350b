"""Optimised product quantisation (OPQ): rotate the embedding, cut it into parts, k-means on each.

Reference:
    Tiezheng Ge et al. "Optimized Product Quantization for Approximate Nearest Neighbor Search." CVPR 2013.

The semantic IDs of VQ-Rec, RPG and ACERec, and RecBoard's "OPQ3,PQ3x8". Fitted by faiss.
"""

from __future__ import annotations

import math

import faiss
import torch
from recbole.config import Config
from torch import Tensor

from recbole_r3vae.data.items import ItemVectors
from recbole_r3vae.errors import UserError
from recbole_r3vae.model.parameters import Whole
from recbole_r3vae.model.tokenizer.base import FittedTokenizer, Quantized
from recbole_r3vae.model.tokenizer.quantize.assign import NearestNeighbour
from recbole_r3vae.model.tokenizer.quantize.codebook import SAMPLES_PER_CODEWORD, Codebook
from recbole_r3vae.model.tokenizer.quantize.residual import ParallelQuantizer


class OPQ(FittedTokenizer):
    r"""Parallel codes of the parts of a rotated embedding.

    .. math:: [y_1; \dots; y_L] = R x, \quad c_l = \arg\min_k \|y_l - m^{(l)}_k\|, \quad
              \hat x = R^T [m^{(1)}_{c_1}; \dots; m^{(L)}_{c_L}]

    The codes are unordered and equally important: a prefix of them is not a cluster of the whole embedding.
    R has orthonormal rows; where L does not divide the dimension it leaves out the remainder.

    Args:
        config: Keys of ``properties/model/OPQ.yaml``.
        items: Embeddings of the catalogue.

    Attributes:
        rotation: R ``[d', d]``.

    Raises:
        UserError: there are more digits than dimensions.
    """

    hyperparameters = {"opq_iterations": Whole(), "kmeans_iterations": Whole()}
    ordered = False

    @classmethod
    def check(cls, config: Config) -> None:
        """Refuse ranges, and codebooks that faiss does not make.

        Raises:
            UserError: codebooks of different sizes, or a size that is not a power of two.
        """
        super().check(config)
        sizes = config["codebook_sizes"]
        if len(set(sizes)) > 1 or not math.log2(sizes[0]).is_integer():
            raise UserError(f"codebook_sizes is {sizes}; OPQ needs the same power of two for each digit, such as [256, 256, 256]")

    def __init__(self, config: Config, items: ItemVectors):
        super().__init__(config, items)
        self.kmeans_iterations = config["kmeans_iterations"]
        self.opq_iterations = config["opq_iterations"]
        size, n_digits = self.codebook_sizes[0], len(self.codebook_sizes)
        if n_digits > self.dim:
            raise UserError(
                f"codebook_sizes has {n_digits} digits, and embeddings of {self.dim} dimensions cannot be cut into so many parts; "
                f"give at most {self.dim}"
            )
        part = self.dim // n_digits
        self.register_buffer("rotation", torch.eye(self.dim)[: part * n_digits].clone())
        generator = torch.Generator().manual_seed(self.seed)
        levels = [NearestNeighbour(Codebook(size, part, generator)) for _ in range(n_digits)]
        self.quantizer = ParallelQuantizer(levels).requires_grad_(False)

    def initialise(self, items: ItemVectors) -> None:
        """Fit rotation and codebooks by faiss.

        Args:
            items: Embeddings of the catalogue, of which a seeded sample is read.

        Raises:
            UserError: a codebook has more codes than the catalogue has items.
        """
        super().initialise(items)
        size, n_digits, d_out = self.codebook_sizes[0], len(self.codebook_sizes), len(self.rotation)
        x = items.sample(SAMPLES_PER_CODEWORD * size, self.seed)  # [n, d]
        pq = faiss.ProductQuantizer(d_out, n_digits, size.bit_length() - 1)
        pq.cp.seed = self.seed
        pq.cp.min_points_per_centroid = 1  # faiss prints a warning below
        opq = faiss.OPQMatrix(self.dim, n_digits, d_out)
        opq.pq, opq.niter = pq, self.opq_iterations
        opq.max_train_points = len(x)
        opq.train(x)
        pq.cp.niter = self.kmeans_iterations  # the rotation's training has set its own
        pq.train(opq.apply(x))
        rotation = faiss.vector_to_array(opq.A).reshape(d_out, self.dim)
        self.rotation.copy_(torch.from_numpy(rotation))
        centroids = faiss.vector_to_array(pq.centroids).reshape(n_digits, size, -1)  # [L, K, d' / L]
        for level, weight in zip(self.quantizer.levels, torch.from_numpy(centroids)):
            level.codebook.weight.copy_(weight)

    def quantize(self, x: Tensor) -> Quantized:
        rotated = x @ self.rotation.T  # [B, d']
        out = self.quantizer(rotated)
        residuals = [rotated] * len(self.codebook_sizes)  # every digit has the whole vector before it
        return Quantized(out.codes, out.quantized, None, residuals, out.quantized @ self.rotation)

    def level_distances(self, x: Tensor, level: int) -> Tensor:
        part = self.quantizer(x @ self.rotation.T).residuals[level]  # [B, d' / L]
        return -self.quantizer.levels[level].rating(part)  # [B, K]
