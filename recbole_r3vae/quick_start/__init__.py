"""Entry points: run a model end to end, load what was trained."""

from recbole_r3vae.quick_start.run import load_data_and_model, run_recbole_r3vae

__all__ = ["load_data_and_model", "run_recbole_r3vae"]
