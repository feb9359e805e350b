"""The prefix tree of all semantic IDs, which constrained decoding walks."""

from recbole_r3vae.sid.prefix_tree.of_table import prefix_tree_of
from recbole_r3vae.sid.prefix_tree.restriction import Restriction
from recbole_r3vae.sid.prefix_tree.tree import PrefixTree

__all__ = ["PrefixTree", "Restriction", "prefix_tree_of"]
