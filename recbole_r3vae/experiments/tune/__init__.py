"""Choosing a tokenizer's settings by the quality of its semantic IDs; no generator is trained."""

from recbole_r3vae.experiments.tune.run import run_tune

__all__ = ["run_tune"]
