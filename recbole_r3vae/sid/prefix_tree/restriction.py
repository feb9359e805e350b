"""The part of a prefix tree that leads to allowed items."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_r3vae.sid.prefix_tree.layout import penalty_of


@dataclass(frozen=True, eq=False)
class Restriction:
    """The part of a tree that leads to allowed items; made by :meth:`~recbole_r3vae.sid.prefix_tree.PrefixTree.restrict`.

    Attributes:
        penalty: L of float32 ``[n_{l+1} + F_l - 1]``, 0 for each node of depth l + 1 that leads to an allowed
            item, else ``-inf``; with a leading ``[B]`` where the users differ. The end is padding.
        cell_penalty: L of float32 ``[n_l, K_l]``, the same for the cells of the tree's ``child_table``;
            ``None`` where it has none or the users differ.
        items_before: int32 ``[n_items]`` or ``[B, n_items]``, how many of the first p items in leaf order are
            allowed.
        n_nodes: ``L + 1`` numbers of open nodes, one a depth; of the user who has most.
    """

    penalty: tuple[Tensor, ...]
    cell_penalty: tuple[Tensor | None, ...]
    items_before: Tensor
    n_nodes: tuple[int, ...]

    @classmethod
    def to_items(
        cls,
        allowed: Tensor,
        leaf_start: Tensor,
        leaf_items: Tensor,
        first_child: Sequence[Tensor],
        max_children: Sequence[int],
        child_table: Sequence[Tensor | None],
    ) -> Restriction:
        """Close every node that leads to no allowed item.

        Args:
            allowed: bool ``[n_items]`` or ``[B, n_items]``, on the tree's device.
            leaf_start, leaf_items, first_child, max_children, child_table: Of the
                :class:`~recbole_r3vae.sid.prefix_tree.PrefixTree`.
        """
        is_open = allowed.index_select(-1, leaf_items)  # [..., n], in leaf order
        before = items_before = _counts_before(is_open)  # [..., n + 1]
        penalty, n_nodes = [], []
        for first, fan_out in zip((leaf_start, *first_child[:0:-1]), max_children[::-1]):
            counts = before.index_select(-1, first)  # [..., n_d + 1] for d = L … 1
            is_open = counts[..., 1:] > counts[..., :-1]  # [..., n_d]: is one of the node's children open?
            before = _counts_before(is_open)
            n_nodes.append(before[..., -1].max())
            penalty.append(F.pad(penalty_of(is_open), (0, fan_out - 1)))
        penalty.reverse()
        cells = [None] * len(child_table)
        for level, table in enumerate(child_table):
            if table is not None and allowed.dim() == 1:  # B tables would cost more than they save
                cells[level] = penalty[level][table.long()].masked_fill_(table < 0, -torch.inf)
        open_nodes = torch.stack(n_nodes[::-1]).tolist()
        return cls(tuple(penalty), tuple(cells), items_before, (1, *open_nodes))

    @property
    def n_users(self) -> int | None:
        """For how many users it was made; ``None`` if it holds for any."""
        return len(self.items_before) if self.items_before.dim() == 2 else None


def _counts_before(flags: Tensor) -> Tensor:
    """int32 [..., n + 1]: how many of the first p flags are set."""
    return F.pad(flags.cumsum(-1, dtype=torch.int32), (1, 0))
