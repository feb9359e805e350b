"""All leaderboards on one HTML page."""

from recbole_r3vae.experiments.leaderboard.page.document import page

__all__ = ["page"]
