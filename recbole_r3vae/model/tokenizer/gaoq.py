"""GAOQ: a tree of balanced k-means in which a code stands for the same direction under every parent.

Reference:
    ReSID, arXiv 2602.02338, 2026, the quantisation stage. GAOQ takes whatever embeddings the catalogue has; those of the paper's item
    encoder, :class:`~recbole_r3vae.model.sequential.famae.FAMAE`, with ``content_encoder: FAMAE``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from recbole.config import Config
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from recbole_r3vae.data.items import ItemVectors
from recbole_r3vae.errors import UserError
from recbole_r3vae.model.parameters import Either, Number, Whole
from recbole_r3vae.model.tokenizer.base import FittedTokenizer, Quantized
from recbole_r3vae.model.tokenizer.hierarchicalkmeans import branching
from recbole_r3vae.model.tokenizer.quantize.balanced import balanced_kmeans
from recbole_r3vae.model.tokenizer.quantize.codebook import unit
from recbole_r3vae.sid.codes import prefix_groups

_BLOCK_NUMBERS = 2**24  # distances held at once


class GAOQ(FittedTokenizer):
    r"""A balanced tree of clusters, the children of all nodes numbered by shared directions.

    The items of a node with mean :math:`\mu` are split by balanced k-means into clusters with means
    :math:`\mu_j`. At the first level the number of a cluster is its code. Below, every level has as many
    fixed, nearly orthonormal anchors :math:`a_k` as codes, the same for all parents, and

    .. math:: d_j = \mu_j - \mu, \qquad \max_{\text{injective } c} \sum_j \cos(d_j, a_{c(j)})

    gives cluster j the code :math:`c(j)`: an equal code under two parents means a similar way off their
    means. The last level only tells the items of a prefix apart, the one nearest to their mean first. So no
    two items share their codes, not even items with equal embeddings.

    With b codes at each level but the last, a prefix of l codes has :math:`n / b^l` items, rounded down or up,
    and the last codebook as many codes as the largest prefix has items. The branching comes from the
    catalogue, by ``items_per_prefix``, and ``codebook_sizes`` gives the number of levels and at most so many
    codes.

    A vector from elsewhere gets the codes of the nearest item of the catalogue. (Balance moves the borders of
    clusters off the middle between their means: on the way down by nearest means, 17 % of amazon-beauty's own
    items would miss their prefix.) The reconstruction is the mean of the items that share all codes but the
    last, which says nothing of content.

    All embeddings are in memory while the tree grows, and in the checkpoint.

    Args:
        config: Keys of ``properties/model/GAOQ.yaml``.
        items: Embeddings of the catalogue.

    Attributes:
        codebook_sizes: Those configured; after :meth:`initialise` those of the tree.
        codes: Of the catalogue's items ``[n, L]``.
        leaf: Number of each item's prefix of ``L - 1`` codes ``[n]``.
        centroids: Mean of the items of each such prefix ``[leaves, d]``.
        rows: Items with different vectors, ordered by codes; of equal vectors the first is here ``[m]``.
        vectors: Their embeddings ``[m, d]``.
    """

    hyperparameters = {
        "kmeans_iterations": Whole(),
        "balance_iterations": Whole(0),
        "items_per_prefix": Either(None, Number(above=0)),
    }

    @classmethod
    def check(cls, config: Config) -> None:
        """Refuse ranges, a sample, and a single level.

        Raises:
            UserError: the message names the key.
        """
        super().check(config)
        if config["train_items"] is not None:
            raise UserError("train_items must be ~ for GAOQ: its codes are those of the items that it is fitted to; take RKMeans for a sample")
        if len(config["codebook_sizes"]) < 2:
            raise UserError(
                f"codebook_sizes is {config['codebook_sizes']}; GAOQ needs two levels or more, the last of which only tells items "
                "apart, such as [256, 256, 256]"
            )

    def __init__(self, config: Config, items: ItemVectors):
        super().__init__(config, items)
        self.kmeans_iterations = config["kmeans_iterations"]
        self.balance_iterations = config["balance_iterations"]
        self.items_per_prefix = config["items_per_prefix"]
        n_levels = len(self.codebook_sizes)
        self.register_buffer("sizes", torch.tensor(self.codebook_sizes))
        self.register_buffer("codes", torch.zeros(0, n_levels, dtype=torch.int64))
        self.register_buffer("leaf", torch.zeros(0, dtype=torch.int64))
        self.register_buffer("centroids", torch.zeros(0, self.dim))
        self.register_buffer("rows", torch.zeros(0, dtype=torch.int64))
        self.register_buffer("vectors", torch.zeros(0, self.dim))

    @torch.no_grad()
    def initialise(self, items: ItemVectors) -> None:
        """Grow the tree, level by level.

        Args:
            items: Embeddings of the catalogue.

        Raises:
            UserError: the codebooks have no room for the catalogue, or one has more codes than it has items.
        """
        self._take_sizes(items.n_items - 1)
        super().initialise(items)
        x = torch.from_numpy(items.gather(torch.arange(1, items.n_items)))  # [n, d]
        generator = torch.Generator().manual_seed(self.seed)
        columns, node = [], torch.zeros(len(x), dtype=torch.int64)  # node of each item
        for level, size in enumerate(self.codebook_sizes[:-1]):
            anchors = orthogonal_anchors(size, self.dim, generator) if level else None
            code = torch.empty_like(node)
            for rows in _members(node):
                code[rows] = self._split(x[rows], size, anchors, self.seed + level)
            columns.append(code)
            node = prefix_groups(torch.stack(columns, dim=1))[-1]
        centroids = _means(x, node)  # [leaves, d]
        last = torch.empty_like(node)
        for rows in _members(node):
            distance = (x[rows] - centroids[node[rows]]).square().sum(-1)
            last[rows[distance.argsort(stable=True)]] = torch.arange(len(rows))
        codes = torch.stack([*columns, last], dim=1)  # [n, L]
        rows = _first_of_equals(x, codes)
        fitted = {"codes": codes, "leaf": node, "centroids": centroids, "rows": rows, "vectors": x[rows]}
        for name, value in fitted.items():
            setattr(self, name, value.to(self.device))

    def _take_sizes(self, n: int) -> None:
        """Codebook sizes for a catalogue of ``n`` items."""
        *most, last = self.codebook_sizes
        if self.items_per_prefix is not None:
            b = branching(n / min(self.items_per_prefix, last), most)
            most = [min(size, b) for size in most]
        largest = math.ceil(n / math.prod(most))  # items of a prefix
        if largest > last:
            raise UserError(
                f"codebook_sizes is {list(self.codebook_sizes)}, but the catalogue has {n} items, up to "
                f"{largest} for each of {math.prod(most)} prefixes, which only the last code tells apart; give "
                f"it {largest} codes, or more to the levels before"
            )
        self.codebook_sizes = (*most, largest)
        self.sizes.copy_(torch.tensor(self.codebook_sizes))

    def _split(self, x: Tensor, size: int, anchors: Tensor | None, seed: int) -> Tensor:
        """Codes ``[m]`` of the items ``[m, d]`` of one node at the next level."""
        if len(x) <= size:
            child = torch.arange(len(x))
        else:
            _, child, _ = balanced_kmeans(x, size, self.kmeans_iterations, self.balance_iterations, seed)
            child = torch.from_numpy(child)
        if anchors is None:
            return child
        return aligned_codes(_means(x, child) - x.mean(0), anchors)[child]

    def catalogue_codes(self) -> Tensor:
        return self.codes

    def quantize(self, x: Tensor) -> Quantized:
        rows = self.rows[torch.cat([distances.argmin(-1) for distances in self._distances(x)])]  # [B]
        centroid = self.centroids[self.leaf[rows]]  # [B, d]
        return Quantized(self.codes[rows], centroid, None, [x] * len(self.codebook_sizes), centroid)

    def level_distances(self, x: Tensor, level: int) -> Tensor:
        """Squared distances to the nearest item with each code that has the prefix; infinite without one.

        Args:
            x: Embeddings ``[B, d]``.
            level: From 0.

        Returns:
            ``[B, K_level]``.
        """
        codes, blocks = self.codes[self.rows], []  # [m, L]
        for distances in self._distances(x):  # [b, m]
            prefix = codes[distances.argmin(-1), :level]  # [b, level]
            apart = (prefix[:, None] != codes[:, :level]).any(-1)  # [b, m]
            distances = distances.masked_fill(apart, torch.inf)
            out = distances.new_full((len(distances), self.codebook_sizes[level]), torch.inf)
            blocks.append(out.scatter_reduce(1, codes[:, level].expand_as(distances), distances, "amin"))
        return torch.cat(blocks)

    def _distances(self, x: Tensor) -> Iterator[Tensor]:
        """Squared distances to the catalogue's different vectors, blocks ``[b, m]`` of all rows ``[B, d]``."""
        # float64: in float32 rounding is larger than what tells nearly equal texts apart
        vectors = self.vectors.double()
        squares = vectors.square().sum(-1)
        for rows in x.double().split(max(1, _BLOCK_NUMBERS // len(vectors))):
            yield squares + rows.square().sum(-1, keepdim=True) - 2 * rows @ vectors.T

    def _load_from_state_dict(self, state_dict, prefix, *args):
        # How large the catalogue was is known from the checkpoint only.
        for name in ("codes", "leaf", "centroids", "rows", "vectors"):
            if prefix + name in state_dict:
                setattr(self, name, getattr(self, name).new_empty(state_dict[prefix + name].shape))
        super()._load_from_state_dict(state_dict, prefix, *args)
        self.codebook_sizes = tuple(self.sizes.tolist())


def orthogonal_anchors(n: int, dim: int, generator: torch.Generator) -> Tensor:
    """Random directions that are orthonormal, or, where more than dimensions, ``dim`` at a time.

    Each orthonormal set is the Q of a random Gaussian matrix. Two vectors of different sets have a cosine of
    about ``1 / sqrt(dim)``.

    Args:
        n: How many.
        dim: Their dimension ``d``.
        generator: Source of the random matrices.

    Returns:
        Unit rows ``[n, d]``.
    """
    bases = [torch.linalg.qr(torch.randn(dim, dim, generator=generator))[0].T for _ in range(-(-n // dim))]
    return torch.cat(bases)[:n]


def aligned_codes(directions: Tensor, anchors: Tensor) -> Tensor:
    """Give every direction an anchor of its own so that the sum of their cosines is largest.

    Args:
        directions: ``[k, d]``; a zero vector has cosine 0 with every anchor.
        anchors: Unit rows ``[g, d]``, ``g >= k``.

    Returns:
        Number of the anchor of each direction ``[k]``, int64, all different.
    """
    cosine = unit(directions) @ anchors.T  # [k, g]
    return torch.from_numpy(linear_sum_assignment(cosine.numpy(), maximize=True)[1])


def _members(node: Tensor) -> tuple[Tensor, ...]:
    """The rows of each node, ascending: nodes ``[n]``, numbered from 0 and none empty."""
    return node.argsort(stable=True).split(node.bincount().tolist())


def _means(x: Tensor, group: Tensor) -> Tensor:
    """Mean of each group: ``[n, d]`` and groups ``[n]``, none empty, -> ``[groups, d]``."""
    sizes = group.bincount()
    sums = x.new_zeros(len(sizes), x.shape[1]).index_add_(0, group, x)
    return sums / sizes.unsqueeze(1)


def _first_of_equals(x: Tensor, codes: Tensor) -> Tensor:
    """Rows ``[m]`` in the order of their codes, of equal vectors only the first."""
    _, equal = x.unique(dim=0, return_inverse=True)  # [n], the same number for equal vectors
    rank = prefix_groups(codes)[-1]  # [n]: codes are different
    first = torch.full((int(equal.max()) + 1,), len(x)).scatter_reduce_(0, equal, rank, "amin")
    return rank.argsort()[first.sort().values]
