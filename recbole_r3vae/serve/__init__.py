"""Using what was trained: recommendations, items that come and go, and a look into semantic IDs."""

from recbole_r3vae.serve.inspect import Explanation, explain_item, inspect_item, items_below
from recbole_r3vae.serve.recommender import Recommender
from recbole_r3vae.serve.titles import dataset_titles
from recbole_r3vae.serve.tokenize import tokenize_items
from recbole_r3vae.serve.tree import catalogue_tree, write_html
from recbole_r3vae.serve.users import UserHistories

__all__ = [
    "Explanation",
    "Recommender",
    "UserHistories",
    "catalogue_tree",
    "dataset_titles",
    "explain_item",
    "inspect_item",
    "items_below",
    "tokenize_items",
    "write_html",
]
