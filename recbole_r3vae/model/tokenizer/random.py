"""Random codes: the lower bound that TIGER's ablation compares semantic IDs with.

Reference:
    Shashank Rajput et al. "Recommender Systems with Generative Retrieval." NeurIPS 2023, arXiv 2305.05065.
"""

from __future__ import annotations

import torch
from recbole.config import Config
from torch import Tensor

from recbole_r3vae.data.items import ItemVectors
from recbole_r3vae.model.tokenizer.base import FittedTokenizer, Quantized


class Random(FittedTokenizer):
    """Every code drawn uniformly, whatever the item's content.

    The draw is a hash of the embedding's bits, so that an item keeps its codes and new items get some: equal
    embeddings have equal codes, and the slightest difference makes them independent. So are the codes of one
    item: none says more than another.

    Args:
        config: Keys of ``properties/model/Random.yaml``.
        items: Embeddings of the catalogue.

    Attributes:
        mean: Mean embedding ``[d]``, all that random codes can tell of an item.
    """

    ordered = False

    def __init__(self, config: Config, items: ItemVectors):
        super().__init__(config, items)
        self.register_buffer("mean", torch.zeros(self.dim))
        generator = torch.Generator().manual_seed(self.seed)
        shape = (self.dim, len(self.codebook_sizes))
        factors = torch.randint(-(2**63), 2**63 - 1, shape, generator=generator)
        self.register_buffer("factors", factors | 1)  # [d, L]; odd: multiplication loses no bit
        self.register_buffer("sizes", torch.tensor(self.codebook_sizes), persistent=False)

    def initialise(self, items: ItemVectors) -> None:
        super().initialise(items)
        total = sum(x.double().sum(0) for _, x in items.batches(8192))
        self.mean.copy_(total / (items.n_items - 1))

    def quantize(self, x: Tensor) -> Quantized:
        bits = (x.float() + 0.0).contiguous().view(torch.int32).long()  # [B, d]; + 0.0 turns -0.0 into 0.0
        # Integer arithmetic wraps around; the upper bits of a sum of products depend on all bits below.
        mixed = torch.stack([(bits * factor).sum(-1) for factor in self.factors.unbind(1)], dim=1)  # [B, L]
        codes = (mixed >> 32) % self.sizes
        mean = self.mean.expand(len(x), -1)
        return Quantized(codes, mean, None, [x] * len(self.codebook_sizes), mean)

    def level_distances(self, x: Tensor, level: int) -> Tensor:
        """Steps from the item's code to every other, counted upwards and around the codebook.

        Args:
            x: Embeddings ``[B, d]``.
            level: From 0.

        Returns:
            ``[B, K_level]``.
        """
        own = self.quantize(x).codes[:, level, None]  # [B, 1]
        size = self.codebook_sizes[level]
        return ((torch.arange(size, device=x.device) - own) % size).float()
