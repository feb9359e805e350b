"""Residual k-means whose codes hold equally many items at every level.

Reference:
    Jiaxin Deng et al. "OneRec: Unifying Retrieve and Rank with Generative Recommender and Iterative
    Preference Alignment." arXiv 2502.18965, 2025, Algorithm 1.

The paper fills the clusters in a fixed order, each with its nearest of the items that are left, so that the
last one gets items from everywhere. Here an auction finds the balanced assignment of least total distance,
in which no cluster comes first.
"""

from __future__ import annotations

from recbole.config import Config

from recbole_r3vae.model.parameters import Whole
from recbole_r3vae.model.tokenizer.quantize.assign import Level
from recbole_r3vae.model.tokenizer.quantize.balanced import BalancedNearestNeighbour
from recbole_r3vae.model.tokenizer.quantize.codebook import Codebook
from recbole_r3vae.model.tokenizer.rkmeans import RKMeans


class BalancedRKMeans(RKMeans):
    r"""Residual k-means under a capacity: each code of a level has at most :math:`\lceil n / K \rceil` items.

    The capacity becomes a price on each codeword, :math:`c = \arg\min_k \|e - m_k\|^2 + p_k`, see
    :class:`.BalancedNearestNeighbour`; so the rule also holds for items that were not there. Each level is
    balanced over all items, not within a prefix: tuples still collide.

    Items with equal embeddings have equal codes, so that many of them can overfill a code. A catalogue of
    more than 256 items a code is balanced on a sample, and as a whole nearly.

    Args:
        config: Keys of ``properties/model/BalancedRKMeans.yaml``.
        items: Embeddings of the catalogue.
    """

    hyperparameters = {"balance_iterations": Whole(0)}

    def _level(self, codebook: Codebook, config: Config) -> Level:
        return BalancedNearestNeighbour(codebook, config["balance_iterations"])
