"""The prefix tree of all semantic IDs as flat tensors: what constrained decoding walks.

The layout follows STATIC (Su et al., "Vectorizing the Trie: Efficient Constrained Decoding for LLM-based
Generative Retrieval on Accelerators", 2026, arXiv 2602.22647): instead of linked nodes, dense child tables
for the first levels and compressed sparse rows (CSR) below, so that a step over many nodes is a few gathers.

The nodes of depth d are the distinct prefixes of d codes in lexicographic order, and a node's id is its rank
within its depth. Hence the children of a node are contiguous and sorted by code, and where every possible
child exists, the child with code c is the c-th and needs no table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from recbole_r3vae.errors import UserError
from recbole_r3vae.sid.codes import checked_codes
from recbole_r3vae.sid.prefix_tree.layout import layout
from recbole_r3vae.sid.prefix_tree.restriction import Restriction


@dataclass(frozen=True, eq=False, repr=False)
class PrefixTree:
    """All prefixes of a table of semantic IDs. Immutable; :meth:`from_codes` builds it.

    Level l (0 … L-1) leads from the n_l nodes of depth l to those of depth l + 1; F_l is its largest fan-out.

    Attributes:
        codebook_sizes: ``K_0 … K_{L-1}``.
        n_nodes: ``L + 1`` numbers of nodes, one a depth; ``n_nodes[0] == 1`` is the root.
        max_children: ``F_0 … F_{L-1}``.
        first_child: L of int32 ``[n_l + 1]``; the children of node v of depth l are the nodes
            ``first_child[l][v] … first_child[l][v + 1] - 1`` of depth l + 1.
        codes: L of int32 ``[n_{l+1} + F_l - 1]``, the last code of each node of depth l + 1. Zeros pad the
            end, so that F_l codes can be read from any first child.
        child_table: L of int32 ``[n_l, K_l]``, each node's child by its code, -1 where it has none. ``None``
            where more than half of the cells would be empty (reading them and ranking them in a beam search
            costs more than CSR), where none would be (no table needed), and beyond ``DENSE_CELLS``.
        cell_penalty: L of float32 ``[n_l, K_l]``, 0 where ``child_table`` has a child, else ``-inf``.
        leaf_start: int32 ``[n_L + 1]``; leaf v holds ``leaf_items[leaf_start[v] : leaf_start[v + 1]]``.
        leaf_items: int32 ``[n_items - 1]``, item ids by leaf; within a leaf by a seeded hash of the id, so
            that ties favour nobody.
    """

    codebook_sizes: tuple[int, ...]
    n_nodes: tuple[int, ...]
    max_children: tuple[int, ...]
    first_child: tuple[Tensor, ...]
    codes: tuple[Tensor, ...]
    child_table: tuple[Tensor | None, ...]
    cell_penalty: tuple[Tensor | None, ...]
    leaf_start: Tensor
    leaf_items: Tensor

    @classmethod
    def from_codes(cls, codes: Tensor, codebook_sizes: Sequence[int], seed: int = 0) -> PrefixTree:
        """Build the tree on the CPU: one sort, then a pass over each level.

        Args:
            codes: Integers ``[n_items, L]``; row 0 is the padding item, -1 everywhere. Items may share all
                their codes.
            codebook_sizes: ``K_0 … K_{L-1}``.
            seed: Of the order of items within a leaf; default 0.

        Returns:
            The tree over the items 1 … n_items - 1.

        Raises:
            UserError: wrong shape, no items, a first row that is no padding, or a code outside its codebook.
        """
        codes, sizes = torch.as_tensor(codes), tuple(map(int, codebook_sizes))
        if len(codes) < 2 or not bool((codes[0] == -1).all()):
            raise UserError(
                "codes must begin with the padding item, a row of -1, and hold at least one item after it; "
                f"got {len(codes)} rows beginning with {codes[:1].tolist()}"
            )
        codes = checked_codes(codes[1:], sizes, names=range(1, len(codes)))  # [n, L]
        return cls(codebook_sizes=sizes, **layout(codes, sizes, seed))

    def to(self, device: torch.device | str) -> PrefixTree:
        """The same tree on another device; itself if it is there already."""
        if self.leaf_items.device == torch.empty(0, device=device).device:  # resolves "cuda" to "cuda:0"
            return self

        def move(value):
            if isinstance(value, tuple):
                return tuple(map(move, value))
            return value.to(device) if isinstance(value, Tensor) else value

        return replace(self, **{field.name: move(getattr(self, field.name)) for field in fields(self)})

    def __deepcopy__(self, memo: dict) -> PrefixTree:
        return self  # immutable: copies of what holds it share it

    def __repr__(self) -> str:
        size = f"{self.nbytes / 1e6:.1f} MB"
        return f"PrefixTree({self.n_items - 1} items, nodes by depth {self.n_nodes}, {size})"

    @property
    def n_levels(self) -> int:
        """Number of codes in a semantic ID, ``L``."""
        return len(self.codebook_sizes)

    @property
    def n_items(self) -> int:
        """Number of items as RecBole counts them: the padding item included."""
        return len(self.leaf_items) + 1

    @property
    def nbytes(self) -> int:
        """Memory of all tensors in bytes."""
        levels = (*self.first_child, *self.codes, *self.child_table, *self.cell_penalty)
        return sum(t.nbytes for t in (*levels, self.leaf_start, self.leaf_items) if t is not None)

    # -- walking ---------------------------------------------------------------------------------------------

    def children(self, level: int, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """All children of nodes of depth ``level``, ascending.

        Args:
            level: 0 … L-1.
            nodes: Integers ``[...]``, ids of depth ``level``.

        Returns:
            int64 ``[..., F_l]`` ids of depth ``level + 1`` and int64 ``[..., F_l]`` their codes; -1 in both
            where a node has fewer children.
        """
        first, count = self._child_range(level, nodes)  # [...]
        slots = torch.arange(self.max_children[level], device=nodes.device)  # [F]
        absent = slots >= count.unsqueeze(-1)  # [..., F]
        codes = _windows(self.codes[level], first, len(slots)).long()  # [..., F]
        return (first.unsqueeze(-1) + slots).masked_fill_(absent, -1), codes.masked_fill_(absent, -1)

    def find(self, prefixes: Tensor) -> Tensor:
        """The nodes of given prefixes.

        Args:
            prefixes: Integers ``[..., d]``, 0 <= d <= L. Any values: a padding row of -1 is simply not found.

        Returns:
            int64 ``[...]``: ids of depth d, -1 where no item begins with these codes.
        """
        nodes = torch.zeros(prefixes.shape[:-1], dtype=torch.int64, device=prefixes.device)
        found = torch.ones_like(nodes, dtype=torch.bool)
        for level, code in enumerate(prefixes.unbind(-1)):
            codes, last = self.codes[level], self.n_nodes[level + 1] - 1
            low, count = self._child_range(level, nodes)
            end = high = low + count
            for _ in range(self.max_children[level].bit_length()):  # bisect the children of all nodes at once
                middle = (low + high) // 2
                below = (low < high) & (codes[middle.clamp(max=last)] < code)
                low, high = torch.where(below, middle + 1, low), torch.where(below, high, middle)
            nodes = low.long().clamp_(max=last)
            found &= (low < end) & (codes[nodes] == code)
        return nodes.masked_fill_(~found, -1)

    def candidates(
        self, level: int, nodes: Tensor, restriction: Restriction | None = None
    ) -> tuple[Tensor | None, Tensor | None]:
        """How a beam search extends its beams: S slots for the children of each beam's node.

        On a dense level slot s stands for code s, and S = K_l. On any other it stands for the s-th child, so
        that only children that exist are read and ranked, padded to the level's largest fan-out S = F_l.

        Args:
            level: 0 … L-1.
            nodes: int64 ``[B, W]``, ids of depth ``level``.
            restriction: The open part of the tree; default: all of it.

        Returns:
            float32 ``[B, W, S]`` to be added to the scores, 0 for an open child and ``-inf`` elsewhere, or
            ``None`` if all are open; and int64 ``[B, W, S]``, the code of each slot, or ``None`` if slot s
            has code s.
        """
        fan_out = self.max_children[level]
        all_open = restriction is None and self.n_nodes[level + 1] == self.n_nodes[level] * fan_out
        if all_open and fan_out == self.codebook_sizes[level]:
            return None, None
        cells = (self if restriction is None else restriction).cell_penalty[level]
        if cells is not None:
            return cells.index_select(0, nodes.flatten()).view(*nodes.shape, -1), None  # [B, W, K]
        first, count = self._child_range(level, nodes)  # [B, W]
        codes = _windows(self.codes[level], first, fan_out).long()  # [B, W, F]
        if all_open:
            return None, codes
        absent = torch.zeros(2 * fan_out, device=nodes.device)
        absent[fan_out:] = -torch.inf
        penalty = _windows(absent, fan_out - count, fan_out)  # [B, W, F]: count zeros, then -inf
        if restriction is not None:
            table = restriction.penalty[level]  # [n_{l+1} + F - 1] or [B, n_{l+1} + F - 1]
            if table.dim() == 2:
                first = first + torch.arange(len(table), device=table.device)[:, None] * table.shape[1]
            penalty += _windows(table.flatten(), first, fan_out)
        return penalty, codes

    def child(self, level: int, nodes: Tensor, slots: Tensor, by_code: bool) -> Tensor:
        """The children in given slots of :meth:`candidates`.

        Args:
            level: 0 … L-1.
            nodes: int64 ``[...]``, ids of depth ``level``.
            slots: int64 ``[...]``, one slot of each node.
            by_code: Whether :meth:`candidates` gave slots by code, that is, no codes of the slots.

        Returns:
            int64 ``[...]``: ids of depth ``level + 1``; some other node of it where there is no such child.
        """
        table = self.child_table[level]
        if by_code and table is not None:
            return table[nodes, slots].long().clamp_(min=0)
        return (self.first_child[level][nodes] + slots).clamp_(max=self.n_nodes[level + 1] - 1)

    def _child_range(self, level: int, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """int32 [...] id of the first child and int32 [...] number of children."""
        first = self.first_child[level][nodes]
        return first, self.first_child[level][nodes + 1] - first

    # -- items -----------------------------------------------------------------------------------------------

    def restrict(self, allowed: Tensor) -> Restriction:
        """Close every node that leads to no allowed item. The tree itself stays as it is.

        Args:
            allowed: bool ``[n_items]`` for all users (in stock, of a category) or ``[B, n_items]`` where they
                differ (not yet seen). The padding item's flag is ignored.

        Returns:
            The restriction, for the methods of this tree, as often as wanted.

        Raises:
            UserError: ``allowed`` has another type or shape.
        """
        if allowed.dtype != torch.bool or allowed.dim() not in (1, 2) or allowed.shape[-1] != self.n_items:
            raise UserError(
                f"allowed must be bool [{self.n_items}] or [users, {self.n_items}], one flag an item and the "
                f"padding item's first; got {allowed.dtype} {list(allowed.shape)}"
            )
        allowed = allowed.to(self.leaf_items.device)
        return Restriction.to_items(allowed, self.leaf_start, self.leaf_items, self.first_child, self.max_children, self.child_table)

    def expand(
        self, leaves: Tensor, alive: Tensor, k: int, restriction: Restriction | None = None, every: bool = False
    ) -> tuple[Tensor, Tensor]:
        """The first k items of ranked leaves.

        Args:
            leaves: int64 ``[B, W]``, ids of depth L, best first.
            alive: bool ``[B, W]``; other leaves are passed over.
            k: Number of items.
            restriction: Only its items are taken; default: all.
            every: Whether all items of the leaves are wanted: k is raised to the most that a user has.

        Returns:
            int64 ``[B, k]`` items, leaf by leaf and within one in leaf order, 0 where the leaves hold fewer
            than k; and int64 ``[B, k]``, the column of ``leaves`` that each comes from.
        """
        first, end = self.leaf_start[leaves], self.leaf_start[leaves + 1]  # [B, W], places in leaf_items
        if restriction is not None:  # from here on, places among the allowed ones of leaf_items
            before = restriction.items_before.expand(len(leaves), -1)  # [B, n + 1]
            first, end = before.gather(1, first.long()), before.gather(1, end.long())
        count = (end - first) * alive  # [B, W]
        total = count.cumsum(1, dtype=torch.int32)  # [B, W], items up to and including each leaf
        if every:
            k = max(k, int(total[:, -1].max()))
        rank = torch.arange(k, dtype=torch.int32, device=leaves.device).repeat(len(leaves), 1)  # [B, k]
        column = torch.searchsorted(total, rank, right=True).clamp_(max=leaves.shape[1] - 1)  # [B, k]
        place = rank + (first - total + count).gather(1, column)  # rank within the leaf, from its first place
        if restriction is not None:  # the allowed item of place p is where the running count reaches p + 1
            place = torch.searchsorted(restriction.items_before, place + 1) - 1
        items = self.leaf_items[place.clamp(0, len(self.leaf_items) - 1)].long()
        return items.masked_fill_(rank >= total[:, -1:], 0), column


def _windows(table: Tensor, first: Tensor, size: int) -> Tensor:
    """[..., size]: ``table[first : first + size]`` for each ``first`` [...].

    Rows of an overlapping view are copied whole, several times faster than a gather of single elements.
    """
    return table.unfold(0, size, 1).index_select(0, first.flatten()).view(*first.shape, size)
