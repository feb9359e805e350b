"""Entry points: run a model end to end, load what was trained, use it."""

from recbole_r3vae.quick_start.launch import objective_function
from recbole_r3vae.quick_start.run import load_data_and_model, run_recbole_r3vae
from recbole_r3vae.quick_start.search import HyperTuning
from recbole_r3vae.quick_start.serve import Recommender
from recbole_r3vae.quick_start.serve_inspect import catalogue_tree, inspect_item, items_below
from recbole_r3vae.quick_start.serve_tokenize import tokenize_items

__all__ = [
    "HyperTuning",
    "Recommender",
    "catalogue_tree",
    "inspect_item",
    "items_below",
    "load_data_and_model",
    "objective_function",
    "run_recbole_r3vae",
    "tokenize_items",
]
