"""Items by their semantic ID, where several may share one: a beam finds IDs, and something else chooses among their items."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_r3vae.model.generator.decoding.rules import Allowed, Excluded, check_allowed, is_allowed
from recbole_r3vae.sid.prefix_tree import PrefixTree, prefix_tree_of
from recbole_r3vae.sid.table import PAD, SemanticIDs

CELLS = 2**16
"""Candidates whose vectors exist at a time."""


class Buckets:
    """The items of every distinct semantic ID. Buckets are numbered from 1, in lexicographic order; 0 is none.

    Args:
        sids: semantic IDs of n_items items.
        device: where tensors lie.

    Attributes:
        tree: prefix tree of the IDs, whose "items" are the buckets.
        of_item: int64 ``[n_items]``, the bucket of each item; 0 of the padding item.
        size: int64 ``[1 + n]``, how many items each bucket has.
    """

    def __init__(self, sids: SemanticIDs, device: torch.device | str):
        codes, of_item, size = sids.codes[1:].unique(dim=0, return_inverse=True, return_counts=True)
        names = [PAD, *map(str, range(1, len(codes) + 1))]
        ids = replace(sids, codes=torch.cat([sids.codes[:1], codes]), item_ids=names)
        self.tree: PrefixTree = prefix_tree_of(ids).to(device)
        self.of_item = F.pad(of_item + 1, (1, 0)).to(device)
        self.size = F.pad(size, (1, 0)).to(device)
        self._items = (1 + of_item.argsort(stable=True)).to(device)  # bucket after bucket, in each in the order of item numbers
        self._first = self.size.cumsum(0) - self.size  # [1 + n]

    def __len__(self) -> int:
        return len(self.size) - 1

    def items(self, buckets: Tensor) -> Tensor:
        """Items of buckets ``[...]``: int64 ``[..., C]``, C the size of the largest; 0 where there are no more."""
        column = torch.arange(max(1, int(self.size[buckets].max())), device=buckets.device)
        place = (self._first[buckets].unsqueeze(-1) + column).clamp(max=len(self._items) - 1)
        return self._items[place].where(column < self.size[buckets].unsqueeze(-1), 0)

    def first_items(self, buckets: Tensor) -> Tensor:
        """An item of each bucket, the same shape; of bucket 0 any."""
        return self._items[self._first[buckets]]

    def allowed(self, rule: Allowed, n_users: int) -> Tensor | None:
        """The buckets with an item that a rule lets through: bool ``[1 + n]`` or ``[n_users, 1 + n]``; ``None`` where all are.

        Raises:
            UserError: the rule does not fit the batch and the catalogue.
        """
        check_allowed(rule, n_users, len(self.of_item))
        if rule is None:
            return None
        flags = rule.flags(n_users, len(self.of_item)) if isinstance(rule, Excluded) else rule.to(self.of_item.device)
        counts = torch.zeros(*flags.shape[:-1], len(self.size), device=flags.device).index_add_(-1, self.of_item, flags.float())
        counts[..., 0] = 0
        return counts > 0

    def nearest(
        self, found: Tensor, vectors: Tensor, catalogue: Tensor, n: int, rule: Allowed = None, bias: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The items of buckets whose vectors have the largest products with the one that each bucket is asked by.

        Args:
            found: int64 ``[B, M]`` buckets; 0 is none.
            vectors: floats ``[B, M, d]``, of each of them.
            catalogue: floats ``[n_items, d]``.
            n: items of a bucket, at most.
            rule: the items that may be returned.
            bias: floats ``[B, n_items]`` that are added to the products.

        Returns:
            int64 ``[B, M, N]`` items, N at most n, the nearest first, and their products with what is added; 0 and ``-inf`` where there are no more.
        """
        items = self.items(found)  # [B, M, C]
        items = items.where(is_allowed(rule, items, len(self.of_item)), 0)
        products = torch.full(items.shape, -torch.inf, device=items.device)
        cells = items.nonzero()  # [R, 3], those that there are: most buckets are smaller than the largest
        of_cells = [(vectors[c[:, 0], c[:, 1]] * catalogue[items[tuple(c.T)]]).sum(-1).float() for c in cells.split(CELLS)]
        products[tuple(cells.T)] = torch.cat(of_cells)
        if bias is not None:
            products = products + bias.gather(1, items.flatten(1)).view_as(products)
        products, place = products.topk(min(n, items.shape[2]), dim=2)
        return items.gather(2, place), products
