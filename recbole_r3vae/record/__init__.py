"""What is kept of a run: one record. Runs write it, grids complete it, leaderboards read it; no other file knows its form.

Both rules on items that users have met stand in it, of one and the same checkpoint: under ``stay`` they are candidates like all others,
under ``left_out`` they are none.
"""

from recbole_r3vae.config import RULES
from recbole_r3vae.record.form import SCHEMA, Record, quality_of
from recbole_r3vae.record.parts import ByRule, Metrics, Precision, Rule, Seconds, UserRanks
from recbole_r3vae.record.plain import load
from recbole_r3vae.record.ranks import by_repeat, unpack, user_metric

__all__ = [
    "RULES", "SCHEMA", "ByRule", "Metrics", "Precision", "Record", "Rule", "Seconds", "UserRanks", "by_repeat", "load", "quality_of", "unpack",
    "user_metric",
]  # fmt: skip
