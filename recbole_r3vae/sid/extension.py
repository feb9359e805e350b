"""Semantic IDs for items that arrive after a catalogue was tokenized: the old ones stay, the collision policy decides the rest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from recbole_r3vae.errors import UserError
from recbole_r3vae.sid.codes import checked_codes
from recbole_r3vae.sid.collisions import POLICIES, refuse_suffix
from recbole_r3vae.sid.prefix_tree import PrefixTree, prefix_tree_of
from recbole_r3vae.sid.table import SemanticIDs


class TableExtension:
    """Gives new items semantic IDs beside a table that stays as it is.

    What :func:`~recbole_r3vae.sid.collisions.resolve_collisions` does to a whole catalogue is done here item by item, in the order in
    which they come. The codebooks are those of the table, because a trained generator has embeddings for their codes and no others:

    * ``suffix``: the smallest extra code that no item of equal codes has. The table's largest group decides how many there are.
    * ``reassign`` and ``sinkhorn``: the item's own last code if no item of the same prefix has it, else the nearest that is free. (One
      item against a fixed table leaves Sinkhorn nothing to balance.)
    * ``share``: the item's own codes, whoever has them; in a table of policy ``suffix`` the extra code is 0, that of the first of them.

    Where all last codes of a prefix are taken the item has to share: under ``suffix`` the extra code that fewest items have, otherwise its
    own code. :attr:`shared` counts such items; to tell them apart, tokenizer and generator have to be trained again.

    Args:
        table: The existing semantic IDs.
        policy: ``suffix``, ``reassign``, ``sinkhorn`` or ``share``.

    Attributes:
        moved: Items so far whose last code is not the one they would have had alone.
        shared: Items so far that share their semantic ID with another.

    Raises:
        UserError: the policy is unknown, or ``suffix`` for codes without an order.
    """

    def __init__(self, table: SemanticIDs, policy: str):
        if policy not in POLICIES:
            raise UserError(f"collision_policy {policy!r} is unknown; choose {', '.join(POLICIES)}")
        if policy == "suffix" and not table.ordered:
            refuse_suffix()
        self.table, self.policy = table, policy
        # where codes have no order the tree is a mere index of tuples, which any order of their columns serves
        self._tree = prefix_tree_of(table) if table.ordered else PrefixTree.from_codes(table.codes, table.codebook_sizes)
        self.moved = self.shared = 0
        self._new: dict[tuple[int, ...], Counter[int]] = {}  # how many new items have each last code, by prefix

    def occupy(self, item_ids: Sequence[str], codes: Tensor) -> None:
        """Take in new items that have their semantic IDs already.

        Args:
            item_ids: Their names.
            codes: int64 ``[n, L]``, L as the table's.

        Raises:
            UserError: a code is in none of the table's codebooks; or an item has another's semantic ID though the policy is ``suffix`` or
                ``reassign`` and its prefix has codes to spare.
        """
        codes = checked_codes(codes, self.table.codebook_sizes, names=item_ids)
        sharing = []
        for item, (*prefix, last), old in zip(item_ids, codes.tolist(), self._old(codes[:, :-1])):
            new = self._new.setdefault(tuple(prefix), Counter())
            if last in old or last in new:
                sharing.append((item, (*prefix, last), old | new.keys()))
            new[last] += 1
        self.shared += len(sharing)
        if self.policy in ("suffix", "reassign"):
            for item, code, taken in sharing:
                if len(taken | self._new[code[:-1]].keys()) < self.table.codebook_sizes[-1]:
                    raise UserError(
                        f"item {item!r} has the semantic ID {code} of another item; tokenize it against the checkpoint with "
                        "`recbole-r3vae tokenize --checkpoint`, or let items share semantic IDs with the collision policy 'share'"
                    )

    def place(self, item_ids: Sequence[str], codes: Tensor, distances: Callable[[int], Tensor] | None = None) -> Tensor:
        """Semantic IDs for the tokenizer's codes of new items.

        Args:
            item_ids: Their names, for messages.
            codes: int64 ``[n, L]``; for a table of policy ``suffix`` ``[n, L - 1]``, without the extra code.
            distances: For ``reassign`` and ``sinkhorn``: maps a row of ``codes`` to the item's distances to all codes of the last level
                ``[K_L]``, smaller is nearer. Asked only for items whose own code is taken.

        Returns:
            int64 ``[n, L]``.

        Raises:
            UserError: the codes are not of this table's codebooks, or the policy does not fit it.
        """
        sizes, has_suffix = self.table.codebook_sizes, codes.shape[1] == self.table.n_levels - 1
        codes = checked_codes(codes, sizes[:-1] if has_suffix else sizes, names=item_ids)
        if self.policy != "share" and has_suffix != (self.policy == "suffix"):
            raise UserError(
                f"collision policy {self.policy!r} does not fit: items come with {codes.shape[1]} codes, the semantic IDs of the table "
                f"have {self.table.n_levels}; leave the policy to the checkpoint, or choose 'share'"
            )
        if has_suffix:
            codes = torch.cat([codes, codes.new_zeros(len(codes), 1)], dim=1)  # [n, L]
        placed = codes.clone()
        for row, ((*prefix, own), old) in enumerate(zip(codes.tolist(), self._old(codes[:, :-1]))):
            new, last = self._new.setdefault(tuple(prefix), Counter()), own
            if self.policy != "share" and (own in old or own in new):
                nearest = range(sizes[-1]) if has_suffix else distances(row).argsort(stable=True).tolist()
                in_need = min(nearest, key=lambda code: new[code] + (code in old)) if has_suffix else own
                last = next((code for code in nearest if code not in old and code not in new), in_need)
            self.moved += last != own
            self.shared += last in old or last in new
            new[last] += 1
            placed[row, -1] = last
        return placed

    def _old(self, prefixes: Tensor) -> list[set[int]]:
        """The last codes of the table's items under each of the prefixes ``[n, L - 1]``."""
        tree, last = self._tree, self.table.n_levels - 1
        nodes = tree.find(prefixes)  # [n], -1 where no item begins so
        codes = tree.children(last, nodes.clamp(min=0))[1]  # [n, F]
        return [set(row) - {-1} if node >= 0 else set() for node, row in zip(nodes.tolist(), codes.tolist())]
