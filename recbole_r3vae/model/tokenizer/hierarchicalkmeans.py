"""Hierarchical k-means: a tree of clusters, an item's codes are the turns on its way down.

References:
    David Nister and Henrik Stewenius. "Scalable Recognition with a Vocabulary Tree." CVPR 2006.
    Yi Tay et al. "Transformer Memory as a Differentiable Search Index." NeurIPS 2022, arXiv 2202.06991, whose
    semantically structured identifiers are such paths.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from recbole.config import Config
from torch import Tensor, nn

from recbole_r3vae.data.items import ItemVectors
from recbole_r3vae.model.parameters import Either, Number, Whole
from recbole_r3vae.model.tokenizer.base import FittedTokenizer, Quantized
from recbole_r3vae.model.tokenizer.quantize.codebook import SAMPLES_PER_CODEWORD, kmeans

ASSIGN_ROWS = 8192
"""Items assigned at once while the tree grows."""


class HierarchicalKMeans(FittedTokenizer):
    """k-means on all embeddings, then on the items of each cluster by themselves, level after level.

    A code is the number of a child within its node: the same code under different prefixes means different
    things, unlike in residual quantisation. Items collide where a node of the last but one level holds more
    items than it may have children.

    A tree multiplies: three levels of 256 would have 16 million leaves, and of a node with fewer items than
    children most codes would stay unused. So the branching comes from the catalogue, the same at every level
    with ``slots_per_item`` leaves for each item, and ``codebook_sizes`` gives the number of levels and at
    most so many children.

    Args:
        config: Keys of ``properties/model/HierarchicalKMeans.yaml``.
        items: Embeddings of the catalogue.

    Attributes:
        codebook_sizes: Those configured; after :meth:`initialise` those of the tree.
    """

    hyperparameters = {"kmeans_iterations": Whole(), "slots_per_item": Either(None, Number(above=0))}

    def __init__(self, config: Config, items: ItemVectors):
        super().__init__(config, items)
        self.kmeans_iterations = config["kmeans_iterations"]
        self.slots_per_item = config["slots_per_item"]
        self.levels = nn.ModuleList(TreeLevel(self.dim) for _ in self.codebook_sizes)
        self.register_buffer("sizes", torch.tensor(self.codebook_sizes))

    @torch.no_grad()
    def initialise(self, items: ItemVectors) -> None:
        """Grow the tree, level by level; no more items than k-means samples are in memory at once.

        Args:
            items: Embeddings of the catalogue.

        Raises:
            UserError: a codebook has more codes than the catalogue has items.
        """
        n = items.n_items - 1
        if self.slots_per_item is not None:
            most = branching(self.slots_per_item * n, self.codebook_sizes)
            self.sizes.copy_(torch.tensor(self.codebook_sizes).clamp(max=most))
            self.codebook_sizes = tuple(self.sizes.tolist())
        super().initialise(items)
        random = np.random.default_rng(self.seed)
        parents = torch.zeros(1, self.dim)  # centroids of the nodes to split
        node = np.zeros(n, dtype=np.int64)  # of each item among them
        for depth, (level, size) in enumerate(zip(self.levels, self.codebook_sizes)):
            children = []
            ends = np.bincount(node, minlength=len(parents)).cumsum()
            for parent, rows in zip(parents, np.split(np.argsort(node, kind="stable"), ends)):
                if len(rows) > SAMPLES_PER_CODEWORD * size:
                    rows = np.sort(random.choice(rows, SAMPLES_PER_CODEWORD * size, replace=False))
                x = items.gather(1 + rows)  # [m, d]
                children.append(self._split(x, size, depth) if len(x) else parent.cpu().numpy()[None])
            level.grow([torch.from_numpy(centroids).to(self.device) for centroids in children])
            parents = level.centroids
            nodes = torch.from_numpy(node).to(self.device)
            children = [
                level(x.to(self.device), nodes[rows - 1])[1].cpu() for rows, x in items.batches(ASSIGN_ROWS)
            ]
            node = torch.cat(children).numpy()

    def _split(self, x: np.ndarray, size: int, depth: int) -> np.ndarray:
        """Centroids ``[at most size, d]`` of the items ``[m, d]`` of one node: themselves, if that many."""
        if len(x) <= size:
            return np.unique(x, axis=0)
        return kmeans(x, size, self.kmeans_iterations, self.seed + depth)

    def quantize(self, x: Tensor) -> Quantized:
        codes, child = self._descend(x, len(self.levels))
        centroid = self.levels[-1].centroids[child]  # [B, d]
        return Quantized(torch.stack(codes, dim=1), centroid, None, [x] * len(self.levels), centroid)

    def _descend(self, x: Tensor, depth: int) -> tuple[list[Tensor], Tensor]:
        """The first ``depth`` codes of items, and the nodes ``[B]`` that they lead to."""
        codes, node = [], torch.zeros(len(x), dtype=torch.int64, device=x.device)
        for level in self.levels[:depth]:
            code, node = level(x, node)
            codes.append(code)
        return codes, node

    def level_distances(self, x: Tensor, level: int) -> Tensor:
        """Squared distances to the centroids of a node's children; codes without a child are infinitely far.

        Args:
            x: Embeddings ``[B, d]``.
            level: From 0.

        Returns:
            ``[B, K_level]``.
        """
        _, node = self._descend(x, level)
        return self.levels[level].distances(x, node, self.codebook_sizes[level])

    def _load_from_state_dict(self, state_dict, prefix, *args):
        super()._load_from_state_dict(state_dict, prefix, *args)
        self.codebook_sizes = tuple(self.sizes.tolist())


class TreeLevel(nn.Module):
    """The children of all nodes of one depth, those of a node next to each other.

    Args:
        dim: Dimension ``d`` of items.

    Attributes:
        first_child: Where each node's children start, and where the last one's end ``[nodes + 1]``.
        centroids: Of all children ``[children, d]``.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.register_buffer("first_child", torch.zeros(1, dtype=torch.int64))
        self.register_buffer("centroids", torch.zeros(0, dim))

    def grow(self, children: list[Tensor]) -> None:
        """Take the children of every node, ``[1 or more, d]`` each."""
        numbers = torch.tensor([0, *map(len, children)], device=self.first_child.device)
        self.first_child = numbers.cumsum(0)
        self.centroids = torch.cat(children)

    def distances(self, x: Tensor, node: Tensor, size: int) -> Tensor:
        """Squared distances of items to the children of their nodes.

        Args:
            x: ``[B, d]``.
            node: ``[B]``.
            size: ``K``, the most children of a node.

        Returns:
            ``[B, K]``, infinite where a node has no such child.
        """
        out = x.new_full((len(x), size), torch.inf)
        nodes, counts = node.unique(return_counts=True)
        for n, rows in zip(nodes.tolist(), node.argsort(stable=True).split(counts.tolist())):
            centroids = self.centroids[self.first_child[n] : self.first_child[n + 1]]  # [k, d]
            ours = x[rows]  # [b, d]
            squares = ours.square().sum(-1, keepdim=True) + centroids.square().sum(-1)
            out[rows, : len(centroids)] = squares - 2 * ours @ centroids.T
        return out

    def forward(self, x: Tensor, node: Tensor) -> tuple[Tensor, Tensor]:
        """Take the nearest child: items ``[B, d]`` in nodes ``[B]`` -> codes ``[B]``, children ``[B]``."""
        most = int(self.first_child.diff().max())
        code = self.distances(x, node, most).argmin(-1)
        return code, self.first_child[node] + code

    def _load_from_state_dict(self, state_dict, prefix, *args):
        # How many nodes a tree has is known from the checkpoint only.
        for name in ("first_child", "centroids"):
            if prefix + name in state_dict:
                setattr(self, name, getattr(self, name).new_empty(state_dict[prefix + name].shape))
        super()._load_from_state_dict(state_dict, prefix, *args)


def branching(leaves: float, most: Sequence[int]) -> int:
    """The smallest number of children that gives a tree so many leaves, with at most ``most[l]`` a level.

    Args:
        leaves: At least so many, as far as ``most`` allows.
        most: Of each level.

    Returns:
        The number, 2 or more; a level has as many children, or ``most[l]`` if that is less.
    """
    k = 2
    while k < max(most) and math.prod(min(k, size) for size in most) < leaves:
        k += 1
    return k
