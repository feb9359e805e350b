"""A leaderboard as flat rows of plain values, for CSV."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from recbole_r3vae.experiments.leaderboard.figures import Row
from recbole_r3vae.experiments.leaderboard.rows import ACCURACY, CATALOGUE, CONDITIONS
from recbole_r3vae.record import RULES


def flat_rows(report: dict[str, Any], rows: Sequence[Row]) -> list[dict[str, Any]]:
    """A dict of plain values for each of some rows of a report: those of one precision."""
    flat = []
    for row in rows:
        cells = {key: row[key] for key in ("name", "variant", "model", "tokenizer", "family")}
        cells["seeds"] = " ".join(map(str, row["seeds"]))
        for prefix, part in {**{f"{rule}_": row["test"][rule] for rule in RULES}, "valid_": row["valid"]}.items():
            for metric in (*ACCURACY, *CATALOGUE):
                figures = part.get(metric, {"mean": None, "std": None})
                cells |= {f"{prefix}{metric}": figures["mean"], f"{prefix}{metric}_std": figures["std"]}
        cells |= {"rule": row["rule"], "bold": " ".join(row["bold"]), "repeated_targets": row["repeated_targets"]}
        cells |= {key: row[key] for key in ("n_parameters", *CONDITIONS, "stopped_at_budget")}
        cells |= {f"seconds_{key}": value for key, value in row["seconds"].items()}
        cells |= {f"memory_mb_{key}": value for key, value in row["peak_memory_mb"].items()}
        cells |= {key: "; ".join(row[key]) for key in ("commits", "hardware", "versions")}
        for part, figures in zip(report["slices"], row.get("slices", [])):
            cells |= {f"{metric}_{part['group']}_{part['name']}": value for metric, value in figures.items()}
        cells |= {f"quality_{key}": value for key, value in row["quality"].items()}
        for rule, kinds in row["published"].items():
            for kind, entry in kinds.items():
                cells |= {f"published_{rule}_{kind}_{key}": entry[key] for key in ("recall@10", "ndcg@10", "source")}
        flat.append(cells)
    return flat


def flat_failures(report: dict[str, Any]) -> list[dict[str, Any]]:
    """A dict with ``error`` for each failed unit."""
    return [{key: unit.get(key) for key in ("name", "family", "error")} | {"seeds": unit.get("seed")} for unit in report["failed"]]
