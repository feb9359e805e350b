"""Locality-sensitive hashing (LSH): codes are the sides of random hyperplanes that an item lies on.

References:
    Shashank Rajput et al. "Recommender Systems with Generative Retrieval." NeurIPS 2023, arXiv 2305.05065,
    the ablation of semantic IDs.
    Moses Charikar. "Similarity Estimation Techniques from Rounding Algorithms." STOC 2002.
"""

from __future__ import annotations

import math

import torch
from recbole.config import Config
from torch import Tensor

from recbole_r3vae.data.items import ItemVectors
from recbole_r3vae.errors import UserError
from recbole_r3vae.model.tokenizer.base import FittedTokenizer, Quantized


class LSH(FittedTokenizer):
    r"""A code of :math:`h_l = \log_2 K_l` bits at each level, each bit the side of one random hyperplane.

    .. math:: c_l = \sum_{j=0}^{h_l - 1} 2^j \, [w^{(l)}_j \cdot x > 0], \quad w \sim N(0, I)

    The hyperplanes of all codes are drawn alike and independently: no code says more than another, and any order of them is as good.

    Nothing is learned but the scale at which the sum of the hyperplanes' normals, each on the item's side,
    comes nearest to the items; it serves the reconstruction only.

    Args:
        config: Keys of ``properties/model/LSH.yaml``.
        items: Embeddings of the catalogue.

    Attributes:
        hyperplanes: Normals of all levels, one after the other ``[sum_l h_l, d]``.
        scale: Of the reconstruction, a scalar.
    """

    ordered = False

    @classmethod
    def check(cls, config: Config) -> None:
        """Refuse ranges, and sizes that no whole number of bits makes.

        Raises:
            UserError: the message names the key.
        """
        super().check(config)
        sizes = config["codebook_sizes"]
        if not all(math.log2(size).is_integer() for size in sizes):
            raise UserError(
                f"codebook_sizes is {sizes}; a code of LSH is a number of bits: give powers of two, such as [256, 256, 256]"
            )

    def __init__(self, config: Config, items: ItemVectors):
        super().__init__(config, items)
        self.bits = [int(math.log2(size)) for size in self.codebook_sizes]
        generator = torch.Generator().manual_seed(self.seed)
        self.register_buffer("hyperplanes", torch.randn(sum(self.bits), self.dim, generator=generator))
        self.register_buffer("scale", torch.ones(()))

    def initialise(self, items: ItemVectors) -> None:
        super().initialise(items)
        product = square = 0.0
        for _, x in items.batches(8192):
            x = x.to(self.device)
            sides = self._sides(x @ self.hyperplanes.T)
            product += (x * sides).sum().item()
            square += sides.square().sum().item()
        self.scale.fill_(product / square if square > 0 else 0.0)

    def _sides(self, products: Tensor) -> Tensor:
        """Sum of the normals, each on the item's side: ``[B, sum_l h_l]`` -> ``[B, d]``."""
        return torch.where(products > 0, 1.0, -1.0) @ self.hyperplanes

    def quantize(self, x: Tensor) -> Quantized:
        products = x @ self.hyperplanes.T  # [B, sum_l h_l]
        codes = []
        for level in products.split(self.bits, dim=1):  # [B, h_l]
            powers = 2 ** torch.arange(level.shape[1], device=x.device)
            codes.append(((level > 0) * powers).sum(-1))
        reconstruction = self.scale * self._sides(products)
        residuals = [x] * len(self.codebook_sizes)
        return Quantized(torch.stack(codes, dim=1), reconstruction, None, residuals, reconstruction)

    def level_distances(self, x: Tensor, level: int) -> Tensor:
        """How far an item would have to move to get each code: the distances to the hyperplanes in between.

        Args:
            x: Embeddings ``[B, d]``.
            level: From 0.

        Returns:
            ``[B, K_level]``, each the sum of ``|w_j . x|`` over the bits that differ.
        """
        products = (x @ self.hyperplanes.T).split(self.bits, dim=1)[level]  # [B, h]
        codes = torch.arange(self.codebook_sizes[level], device=x.device)  # [K]
        sides = (codes[:, None] >> torch.arange(self.bits[level], device=x.device)) & 1  # [K, h]
        # |w . x| where the bit differs: all positive products for a 0, all negative ones for a 1
        return products.clamp(min=0) @ (1.0 - sides).T + (-products).clamp(min=0) @ sides.float().T
