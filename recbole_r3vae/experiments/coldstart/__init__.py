"""Items that no training has seen, recommended by their content alone, and what that costs the others."""

from recbole_r3vae.experiments.coldstart.run import CANDIDATES, EPSILONS, run_coldstart

__all__ = ["CANDIDATES", "EPSILONS", "run_coldstart"]
