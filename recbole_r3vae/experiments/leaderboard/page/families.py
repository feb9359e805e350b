"""How the families of models are told apart on the page: their marks, and the key to them."""

from __future__ import annotations

from collections.abc import Sequence

from recbole_r3vae.experiments.leaderboard.figures import Row
from recbole_r3vae.experiments.leaderboard.page.charts import FAMILIES, mark


def family_of(row: Row) -> str:
    """The family of a row or of a failed unit; ``other`` where it is none of those with a mark of their own."""
    return row["family"] if row["family"] in FAMILIES else "other"


def glyph(family: str) -> str:
    """The mark of a family, small, as it stands before a name."""
    return f'<svg class="glyph {family}" viewBox="0 0 12 12" aria-hidden="true">{mark(family, 6, 6)}</svg>'


def families_of(rows: Sequence[Row]) -> list[str]:
    """The families that some rows are of, in one order everywhere."""
    return [family for family in (*FAMILIES, "other") if any(family_of(row) == family for row in rows)]


def key_to_families(rows: Sequence[Row]) -> str:
    """Mark and name of each family of some rows."""
    return f'<span class="key">{"".join(f"<span>{glyph(family)}{family}</span>" for family in families_of(rows))}</span>'
