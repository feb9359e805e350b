"""From codes to the flat tensors of a prefix tree: one sort, then a pass over each level."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

DENSE_CELLS = 2**24  # largest dense child table: 64 MB, and as much for its mask


def layout(codes: Tensor, sizes: tuple[int, ...], seed: int) -> dict[str, Any]:
    """The tensors of a tree, on the CPU.

    Args:
        codes: int64 ``[n, L]``, n >= 1, of the items 1 … n: no padding row, and all of them in their codebooks.
        sizes: ``K_0 … K_{L-1}``.
        seed: Of the order of items within a leaf.

    Returns:
        Attributes of :class:`~recbole_r3vae.sid.prefix_tree.PrefixTree`, but for its ``codebook_sizes``.
    """
    n = len(codes)
    order = _lexicographic_order(codes, sizes, seed)  # [n]

    is_new = torch.zeros(n, dtype=torch.bool)  # does the prefix differ from that of the item before?
    is_new[0] = True
    starts = [torch.zeros(1, dtype=torch.int64)]  # for each depth d: [n_d], place of a node's first item
    first_child, last_codes, tables, max_children = [], [], [], []
    for level in range(len(sizes)):
        column = codes[:, level].index_select(0, order)  # [n]
        is_new[1:] |= column[1:] != column[:-1]
        starts.append(is_new.nonzero().squeeze(1))  # [n_{l+1}]
        node = is_new.cumsum(0, dtype=torch.int32) - 1  # [n], of depth l + 1, of each item
        first_child.append(_closed(node[starts[level]], len(starts[-1])))  # [n_l + 1]
        max_children.append(int(first_child[-1].diff().max()))
        column = column[starts[-1]].int()  # [n_{l+1}]
        tables.append(_child_table(first_child[-1], column, sizes[level]))
        last_codes.append(F.pad(column, (0, max_children[-1] - 1)))
    return {
        "n_nodes": tuple(map(len, starts)),
        "max_children": tuple(max_children),
        "first_child": tuple(first_child),
        "codes": tuple(last_codes),
        "child_table": tuple(tables),
        "cell_penalty": tuple(None if table is None else penalty_of(table >= 0) for table in tables),
        "leaf_start": _closed(starts[-1].int(), n),
        "leaf_items": (order + 1).int(),
    }


def _lexicographic_order(codes: Tensor, sizes: tuple[int, ...], seed: int) -> Tensor:
    """int64 [n]: the rows sorted by their codes, equal ones by a hash of the item."""
    order = torch.from_numpy(np.argsort(_hash(len(codes), seed)))
    level = len(sizes)
    while level:  # stable sorts from the last level to the first, each by as many codes as one integer holds
        key, radix = torch.zeros(len(codes), dtype=torch.int64), 1
        while level and radix * sizes[level - 1] < 2**63:
            level -= 1
            key.add_(codes[:, level], alpha=radix)
            radix *= sizes[level]
        order = order[key[order].argsort(stable=True)]
    return order


def _hash(n: int, seed: int) -> np.ndarray:
    """uint64 [n]: pseudo-random, distinct, each from its row and the seed alone (SplitMix64's finaliser)."""
    x = np.arange(n, dtype=np.uint64) + np.uint64(seed * 0x632BE59BD9B4E019 % 2**64)
    x *= np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x ^= x >> np.uint64(shift)
        x *= np.uint64(factor)
    return x ^ (x >> np.uint64(31))


def _child_table(first_child: Tensor, codes: Tensor, size: int) -> Tensor | None:
    """int32 [n_l, K_l] of children by code, -1 for none; ``None`` where it would not pay."""
    n_nodes = len(first_child) - 1
    if not len(codes) < n_nodes * size <= min(2 * len(codes), DENSE_CELLS):
        return None
    table = torch.full((n_nodes, size), -1, dtype=torch.int32)
    parents = torch.repeat_interleave(first_child.diff())  # [n_{l+1}]
    table[parents, codes] = torch.arange(len(codes), dtype=torch.int32)
    return table


def penalty_of(is_open: Tensor) -> Tensor:
    """float32: log 1 = 0 where open, log 0 = -inf elsewhere. On a CPU, adding it beats a masked fill."""
    return is_open.float().log_()


def _closed(starts: Tensor, end: int) -> Tensor:
    """int32 [n + 1]: starts of contiguous ranges, and the end of the last."""
    return torch.cat([starts, starts.new_tensor([end])])
