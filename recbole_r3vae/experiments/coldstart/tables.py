"""The cold-start protocol's results as a page of Markdown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recbole_r3vae.experiments.tables import figure, markdown_table
from recbole_r3vae.io import atomic_write


def write_tables(path: Path, report: dict[str, Any]) -> None:
    """Write two tables: users whose target is cold, and users whose target is warm.

    Args:
        path: the file.
        report: what :func:`~recbole_r3vae.experiments.coldstart.run_coldstart` returns.
    """
    split, rows = report["split"], report["rows"]
    names = list(rows[0]["cold"])
    key = "recall@10" if "recall@10" in names else names[0]
    by_random = {row["epsilon"]: row["cold"][key] for row in rows if row["method"] == "random cold items"}
    without = next((row["warm"][key] for row in rows if row["epsilon"] == 0), None)
    chosen = f"{split['cold_share']:.2%} of the items, drawn with seed {split['seed']}"
    if split["cold_by"] == "recent":
        chosen = f"the items first seen in the last {split['cold_share']:.2%} of the events"
    trainings = "; ".join(
        f"{name}: {run['epochs']} epochs in {run['seconds']:.0f} s{', stopped by max_minutes' if run['stopped_at_budget'] else ''}"
        for name, run in report["trainings"].items()
    )
    lines = [
        f"# Cold start on {report['dataset']}",
        "",
        f"Made by `{report['command']}`; commit {report['commit']}. {trainings}.",
        "",
        f"{split['cold_items']:,} items are cold ({chosen}), {split['warm_items']:,} warm. No history, target or text that the text",
        "encoder, the tokenizer, the generator or SASRec was trained on has a cold item. Users are asked for their last item after the",
        f"warm items before it. Because it was taken, {report['tokenized']['moved']:,} cold items have another last code than their own;",
        f"{report['tokenized']['shared']:,} share their semantic ID.",
        "",
        "epsilon: of the first j places of a list, floor(epsilon * j) are for cold items; *one list*: no places are set aside. In the",
        "places are the generator's best cold items; *re-ranked*: some more of these, by the mean cosine of their text vectors with those",
        "of the history; *content ItemKNN*: all cold items by that cosine; *random cold items*: the expectation over drawings. Metrics",
        "are RecBole's.",
        "",
        f"## Cold targets ({split['cold_users']:,} users)",
        "",
    ]
    head = ["method", "epsilon", *names, f"{key}, times random"]
    lines += markdown_table(head, ([*_cells(row, "cold", names), _times(row, by_random, key)] for row in _ordered(rows)))
    lines += ["", f"## Warm targets ({split['warm_users']:,} users)", ""]
    head = ["method", "epsilon", *names, f"{key} against epsilon 0"]
    cells, seen = [], set()
    for row in _ordered(rows):
        if row["epsilon"] is None or row["epsilon"] not in seen:  # whoever fills the cold places: the warm ones are the same
            cells.append([*_cells(row, "warm", names), _change(row["warm"][key], without)])
            seen.add(row["epsilon"])
    lines += markdown_table(head, cells)
    if split["left_out"]:
        lines += ["", f"{split['left_out']:,} users are left out: fewer than two warm items come before their last."]
    with atomic_write(path) as file:
        file.write("\n".join(lines) + "\n")


def _ordered(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those with one list first, then by epsilon."""
    return sorted(rows, key=lambda row: -1 if row["epsilon"] is None else row["epsilon"])


def _cells(row: dict[str, Any], part: str, names: list[str]) -> list[str]:
    epsilon = "–" if row["epsilon"] is None else f"{row['epsilon']:g}"
    return [row["method"], epsilon, *(figure(row[part][name], 5) for name in names)]


def _times(row: dict[str, Any], by_random: dict[float, float], key: str) -> str:
    expected = by_random.get(row["epsilon"])
    return f"{row['cold'][key] / expected:.1f}" if expected else "–"


def _change(value: float, without: float | None) -> str:
    return f"{value / without - 1:+.1%}" if without else "–"
