"""Leaderboards from the result files of a grid: every model once a configuration, over its seeds, with what may be concluded."""

from recbole_r3vae.experiments.leaderboard.report import leaderboard
from recbole_r3vae.experiments.leaderboard.write import write_leaderboards

__all__ = ["leaderboard", "write_leaderboards"]
