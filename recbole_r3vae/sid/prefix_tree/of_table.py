"""The one prefix tree of each table of semantic IDs."""

from __future__ import annotations

from weakref import WeakKeyDictionary

from recbole_r3vae.sid.prefix_tree.tree import PrefixTree
from recbole_r3vae.sid.table import SemanticIDs

_TREES: WeakKeyDictionary[SemanticIDs, PrefixTree] = WeakKeyDictionary()  # a table is immutable, and so is its tree


def prefix_tree_of(sids: SemanticIDs) -> PrefixTree:
    """The tree of all prefixes of a table: built the first time, kept as long as the table lives.

    Args:
        sids: Semantic IDs with ordered codes.

    Returns:
        The tree, on the CPU.

    Raises:
        ValueError: the codes have no order, so that a prefix means nothing: a model that generates codes level by level was
            given parallel ones.
    """
    if not sids.ordered:
        raise ValueError(
            f"{sids!r} have no prefix tree: their codes are parallel, each independent of the others; rank items by the sum of their "
            "digits' log-probabilities, or take a tokenizer whose codes are ordered"
        )
    if sids not in _TREES:
        _TREES[sids] = PrefixTree.from_codes(sids.codes, sids.codebook_sizes)
    return _TREES[sids]
