"""How a figure, a metric and a row are written: the same on the page and in Markdown."""

from __future__ import annotations

from typing import Any

from recbole_r3vae.data.time_split import points_of

Row = dict[str, Any]
TITLES = {
    "recall": "Recall", "ndcg": "NDCG", "mrr": "MRR", "itemcoverage": "Coverage", "giniindex": "Gini",
    "sc_raw": "SC", "pd_raw": "PD", "collision_rate": "Collision rate",
}  # fmt: skip
RANKED_BY = "ndcg@10"
TABLE_METRICS = ("recall@10", "ndcg@10")  # of the tables that show two: the main one, the grid, slices of users
NONE = "–"
KINDS = {"authors": "By authors", "independent": "Reproduced by others"}


def ranked_test(row: Row) -> dict[str, Any]:
    """The test figures by which a row is ordered and tested."""
    return row["test"][row["rule"]]


def split_points(row: Row) -> tuple[float, float] | None:
    """Of a row whose users were split by time, the two points; ``None`` under leave-one-out."""
    return points_of({"split": None, **row.get("config", {}).get("eval_args", {})})


def drawn_ties(row: Row) -> int | None:
    """Of a row whose interactions of one time got an order, the seed that drew it; ``None`` where it is the file's."""
    return row.get("config", {}).get("eval_args", {}).get("ties")


def title_of(metric: str) -> str:
    """``ndcg@10`` -> ``NDCG@10``."""
    name, at, k = metric.partition("@")
    return TITLES[name] + at + k


def label(row: Row) -> str:
    """Name, and what sets the row apart from others of that name."""
    return f"{row['name']} {row['variant']}".rstrip()


def decimal(value: float | None, places: int = 4) -> str:
    """A figure with thousands separated, ``–`` where there is none."""
    return NONE if value is None else f"{value:,.{places}f}"


def signed(value: float, places: int = 2) -> str:
    """With a true minus."""
    return f"{value:.{places}f}".replace("-", "−")


def p_value(value: float | None) -> str:
    """A p-value with three decimals; ``–`` where nothing was tested."""
    return NONE if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"


def numbers_in_short(values: list[int | None]) -> str:
    """``2020–2022``, ``30`` where all are the same, ``27, 30, 30`` otherwise."""
    known = [value for value in values if value is not None]
    if len(set(known)) <= 1:
        return str(known[0]) if known else NONE
    if known == list(range(known[0], known[0] + len(known))):
        return f"{known[0]}–{known[-1]}"
    return ", ".join(map(str, known))


def budget(row: Row) -> str:
    """Minutes that a unit's training might take."""
    return "none" if row["max_minutes"] is None else f"{row['max_minutes']:g} min"
