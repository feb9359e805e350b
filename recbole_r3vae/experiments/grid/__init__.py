"""Models x tokenizers x datasets x seeds from one YAML file."""

from recbole_r3vae.experiments.grid.file import load_grid
from recbole_r3vae.experiments.grid.run import run_grid
from recbole_r3vae.experiments.grid.units import Unit, units_of

__all__ = ["Unit", "load_grid", "run_grid", "units_of"]
