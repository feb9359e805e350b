"""Results of models that predict clicks as a page of Markdown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from recbole_r3vae.experiments.statistics import mean_std
from recbole_r3vae.experiments.tables import figure, markdown_table
from recbole_r3vae.io import atomic_write

METRICS = ("auc", "uauc", "logloss")
TITLES = {"auc": "AUC", "uauc": "UAUC", "logloss": "LogLoss"}


def write_tables(path: Path, dataset: str, cells: list[dict[str, Any]]) -> None:
    """Write two tables: all test rows, and those of cold items.

    Args:
        path: the file.
        dataset: its name.
        cells: of one dataset and settings, as :func:`~recbole_r3vae.experiments.ctr.run.run_cell` returns them; of several that are the same but
            for the version that made them, the last counts.
    """
    rows: dict[tuple, dict[int, dict[str, Any]]] = {}
    for cell in cells:
        rows.setdefault((cell["model"], cell["tokenizer"], cell["features"]), {})[cell["seed"]] = cell
    models = list(dict.fromkeys(model for model, *_ in rows))
    tokenizers = list(dict.fromkeys(tokenizer for _, tokenizer, _ in rows))
    keys = sorted(rows, key=lambda key: (models.index(key[0]), key[1] is not None, tokenizers.index(key[1]), key[2] != "replace"))
    last, test, config = cells[-1], cells[-1]["labelled"]["test"], cells[-1]["config"]
    seconds = [cell["seconds"]["training"] for cell in cells]
    commits = ", ".join(sorted({cell["commit"] or "unknown" for cell in cells}))
    made_by = ", ".join(f"`{command}`" for command in dict.fromkeys(cell["command"] for cell in cells))
    lines = [
        f"# Semantic IDs as features of click models on {dataset}",
        "",
        f"Made by {made_by}; commit {commits}. Training took {min(seconds):.0f} to {max(seconds):.0f} s a cell.",
        "",
        f"Labels: {last['labelled']['labels']}. Split of each user in time order: {config['eval_args']['split']};",
        f"{test['rows']:,} test rows, {test['positives']:,} of them positive. *id*: the item id; *replace*: semantic-ID features in its",
        f"place; *append*: beside it. All see the user id and, where present, {', '.join(config['ctr_features'])}.",
        f"AUC and LogLoss are RecBole's; UAUC is the mean of the AUC of each of the {test['users_with_both']:,} users with both labels.",
        "Mean ± sample standard deviation over seeds. *against id*: mean difference of UAUC to the item id under the same seed, and in",
        "how many seeds it is positive.",
        "",
        "## All test rows",
        "",
    ]
    lines += _table(rows, keys, "")
    lines += [
        "",
        f"## Rows of cold items: at most {config['cold_item_interactions']} training interactions",
        "",
        f"{test['cold_rows']:,} rows, {test['cold_positives']:,} of them positive, "
        f"{test['cold_users_with_both']:,} users with both labels,",
        f"under seed {last['seed']}; where negatives are sampled, another seed has others.",
        "",
    ]
    lines += _table(rows, keys, "cold_")
    stopped = sorted({cell["name"] for cell in cells if cell["stopped_at_budget"]})
    if stopped:
        lines += ["", f"Stopped at max_minutes under some seed: {', '.join(stopped)}."]
    with atomic_write(path) as file:
        file.write("\n".join(lines) + "\n")


def _table(rows: dict[tuple, dict[int, dict[str, Any]]], keys: list[tuple], prefix: str) -> list[str]:
    head = ["model", "item features", "seeds", *(TITLES[name] for name in METRICS), "against id", "parameters", "epochs"]
    lines = []
    for key in keys:
        model, tokenizer, kind = key
        cells = rows[key]
        by_id = rows.get((model, None, "none"), {})
        values = [_mean([cell["test"].get(prefix + name) for cell in cells.values()]) for name in METRICS]
        uauc = f"{prefix}uauc"
        pairs = [(cells[seed]["test"], by_id[seed]["test"]) for seed in sorted(cells) if seed in by_id]
        gains = [mine[uauc] - other[uauc] for mine, other in pairs if uauc in mine and uauc in other]
        lines.append([
            model, "id" if tokenizer is None else f"{kind} {tokenizer}", str(len(cells)), *values,
            "–" if tokenizer is None or not gains else f"{np.mean(gains):+.4f} ({sum(gain > 0 for gain in gains)} of {len(gains)})",
            f"{max(cell['n_parameters'] for cell in cells.values()):,}", "/".join(str(cells[seed]["epochs"]) for seed in sorted(cells)),
        ])  # fmt: skip
    return markdown_table(head, lines)


def _mean(values: list[float | None]) -> str:
    if None in values:
        return "–"
    found = mean_std(values)
    return figure(found["mean"]) + (f" ± {figure(found['std'])}" if found["std"] is not None else "")
