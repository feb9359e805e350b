"""Entry points: run a model end to end, load what was trained, search for settings."""

from recbole_r3vae.quick_start.launch import objective_function
from recbole_r3vae.quick_start.reload import load_data_and_model
from recbole_r3vae.quick_start.run import run_recbole_r3vae
from recbole_r3vae.quick_start.search import HyperTuning

__all__ = ["HyperTuning", "load_data_and_model", "objective_function", "run_recbole_r3vae"]
