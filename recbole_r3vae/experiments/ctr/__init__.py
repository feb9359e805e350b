"""Semantic IDs as features of models that predict clicks: item id against semantic IDs of several tokenizers, over seeds."""

from recbole_r3vae.experiments.ctr.cells import FEATURES
from recbole_r3vae.experiments.ctr.run import MODELS, SEEDS, TOKENIZERS, run_ctr

__all__ = ["FEATURES", "MODELS", "SEEDS", "TOKENIZERS", "run_ctr"]
