"""Writes the table of README.md from the records of benchmarks: ``python docs/build_table.py``, after new results came."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from recbole_r3vae.experiments.leaderboard.records import read_runs
from recbole_r3vae.experiments.leaderboard.rows import grouped
from recbole_r3vae.experiments.tables import markdown_table
from recbole_r3vae.io import atomic_write
from recbole_r3vae.record import RULES, Record

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "README.md"
RUNS = tuple(ROOT / "results" / grid / "runs" / "amazon-beauty" for grid in ("dense", "ids"))
ROWS: dict[str, tuple[str, str | None]] = {
    "32 text codes, text vector (mpnet)": ("R3GR-dense[OPQ]", "codes and text"),
    "16 R3-VAE codes, text vector": ("R3GR-dense[R3VAE]", "R3VAE, 16 levels"),
    "its id, text vector": ("R3GR-dense-hybrid", "ids and text"),
    "its id, no prior on repeats": ("BSARec", "more patience"),
    "likewise": ("HSTU", "HSTU, without prior"),
    "its id": ("WindowSASRec", None),
}
"""What an item is to the model, in the order of the table, to the name of the result and what the grid's file calls it."""

METRICS = ("recall@10", "ndcg@10")
HEAD = ("an item is", "model", "seeds", "left out", "stay", "parameters", "minutes")
NO_BREAK = "\u00a0"
BEGIN, END = "<!-- table -->\n", "<!-- /table -->\n"


def chosen(name: str, label: str | None, groups: Sequence[list[Record]]) -> list[Record]:
    """The runs of a name and a label, a seed each: of several configurations that of most seeds, then the best one on the validation users.

    Raises:
        ValueError: there is none.
    """
    found = [group for group in groups if (group[0].name, group[0].label) == (name, label)]
    if not found:
        raise ValueError(f"RUNS have no record of {name}; run its benchmark, or take it out of ROWS")
    return max(found, key=lambda group: (len(group), group[0].valid_rule == RULES[0], mean(group, "valid", "ndcg@10")))


def mean(records: Sequence[Record], part: str, metric: str) -> float:
    """Of a metric over seeds."""
    return float(np.mean([getattr(record, part)[metric] for record in records]))


def figures(records: Sequence[Record], rule: str) -> str:
    """``.0713 / .0403 ± .0000``: means, and of the last metric the sample standard deviation over seeds; ``.0838 / .0506`` of a single one."""
    cells = []
    for metric in METRICS:
        values = [record.test[rule][metric] for record in records]
        deviation = f" ± {np.std(values, ddof=1):.4f}" if len(values) > 1 and metric == METRICS[-1] else ""
        cells.append(f"{np.mean(values):.4f}{deviation}".replace("0.", "."))
    return " / ".join(cells).replace(" ", NO_BREAK)


def minutes(records: Sequence[Record]) -> str:
    """Of the training of tokenizer and model, mean over seeds, and whether a budget ended it."""
    spent = float(np.mean([record.seconds["training"] + (record.seconds["tokenizer"] or 0) for record in records])) / 60
    stopped = sum(record.stopped_at_budget for record in records)
    words = f"{spent:.0f}" if spent >= 1 else "< 1"
    return f"{words}, stopped" if stopped == len(records) else f"{words}, {stopped} stopped" if stopped else words


def table() -> str:
    """The table as Markdown.

    Raises:
        ValueError: the rows are of different splits or precisions, and do not compare.
    """
    groups = grouped([record for folder in RUNS for record in read_runs(folder)[0]], [])
    rows = [(name, item, chosen(name, label, groups)) for item, (name, label) in ROWS.items()]
    if len({(record.users["split"], record.precision) for *_, found in rows for record in found}) > 1:
        raise ValueError("the rows are of different splits or precisions; take those out of ROWS that do not compare")
    cells = [
        (item, name, str(len(found)), *(figures(found, rule) for rule in RULES), f"{found[0].n_parameters / 1e6:.2f}{NO_BREAK}M", minutes(found))
        for name, item, found in rows
    ]
    return "\n".join(markdown_table(HEAD, cells)) + "\n"


def page() -> str:
    """README.md with the table of today's records."""
    text = PAGE.read_text(encoding="utf-8")
    return re.sub(f"(?<={BEGIN}).*?(?={END})", lambda _: table(), text, flags=re.DOTALL)


if __name__ == "__main__":
    written = page()
    with atomic_write(PAGE) as file:
        file.write(written)
