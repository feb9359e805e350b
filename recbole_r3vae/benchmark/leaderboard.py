"""Leaderboards from the result files of a benchmark: every model once a configuration, over its seeds, with what may be concluded."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from recbole_r3vae.benchmark import statistics
from recbole_r3vae.benchmark.leaderboard_markdown import flat_rows, markdown
from recbole_r3vae.benchmark.leaderboard_text import RANKED_BY, TABLE_METRICS
from recbole_r3vae.benchmark.page import page
from recbole_r3vae.benchmark.run_files import ACCURACY, CONDITIONS, SCHEMA, Run, grouped, read_runs, row_of, variants
from recbole_r3vae.benchmark.statistics import user_metric
from recbole_r3vae.benchmark.tables import write_csv
from recbole_r3vae.errors import UserError
from recbole_r3vae.io import atomic_write, write_json
from recbole_r3vae.config.sources import load_yaml, properties

RELATED = ("sc_raw", "pd_raw", "collision_rate")  # what of the SIDs' quality is set against Recall@10


def write_leaderboards(results: Path) -> list[Path]:
    """Write the tables of every dataset under ``results/runs``, and one page with all of them.

    Per dataset ``leaderboard_<dataset>.md``, ``.csv`` and ``.json``; ``leaderboard.html`` for all, which needs no network. They are a
    function of the result files alone, so that writing them again changes nothing.

    Args:
        results: the folder that holds ``runs/<dataset>/*.json``.

    Returns:
        The files written.

    Raises:
        UserError: there is no result file.
    """
    results = Path(results)
    folders = sorted(path for path in (results / "runs").glob("*") if path.is_dir())
    reports = [report for report in map(leaderboard, folders) if report["rows"] or report["failed"]]
    if not reports:
        way_out = "run recbole-r3vae benchmark first, or name the folder that holds runs/"
        raise UserError(f"there are no results in {results / 'runs'}; {way_out}")
    written = []
    for report in reports:
        paths = [results / f"leaderboard_{report['dataset']}.{ending}" for ending in ("md", "csv", "json")]
        with atomic_write(paths[0]) as file:
            file.write(markdown(report))
        write_csv(paths[1], flat_rows(report))
        write_json(paths[2], report)
        written += paths
    written.append(results / "leaderboard.html")
    with atomic_write(written[-1]) as file:
        file.write(page(reports))
    return written


def leaderboard(folder: Path) -> dict[str, Any]:
    """What ``leaderboard_<dataset>.json`` holds.

    Args:
        folder: ``results/runs/<dataset>``.

    Returns:
        Plain data: ``rows``, best test NDCG@10 first; ``leads``, of each accuracy metric, and ``best``, of the best row over every other
        by NDCG@10; ``grid`` of tokenizers and generators; ``slices``; ``relations`` of SID quality to Recall@10; ``published``; ``failed``
        units; ``notes`` on what could not be used. Tests and slices need one question to one set of users: they are of the split, and of
        the rule on items met before, that most rows share.
    """
    runs, failed, splits = read_runs(folder)
    notes: list[str] = []
    groups = grouped(runs, notes)
    rows = [row_of(group) for group in groups]
    for row, variant in zip(rows, variants(rows)):
        row["variant"] = variant
    split = _most_common(row["split"] for row in rows)
    of_split = [index for index, row in enumerate(rows) if row["split"] in (split, None)]
    rule = _most_common(rows[index]["mask_history"] for index in of_split)
    usable = [index for index in of_split if rows[index]["mask_history"] in (rule, None)]
    users = [_user_metrics(group) if index in usable and row["split"] else {} for index, (group, row) in enumerate(zip(groups, rows))]
    if len(of_split) < len(rows):
        notes.append(f"Not all rows share a split. Tests and slices are of split {split} only, and rows of others do not compare with it.")
    if len(usable) < len(of_split):
        notes.append(
            f"Not all rows treat items already seen alike. Tests and slices are of mask_history: {rule} only, and rows of the other rule do "
            "not compare with it."
        )
    leads, of_best = _leads(rows, users, usable)
    default_command = f"recbole-r3vae benchmark --config=properties/benchmark/{folder.name}.yaml"
    report = {
        "schema": SCHEMA,
        "dataset": folder.name,
        "commands": sorted({run.record.get("command", default_command) for run in runs}) or [default_command],
        "users": splits.get(split, {}).get("users"),
        "leads": leads,
        "best": of_best,
        "grid": _grid(rows, users, usable, notes),
        "slices": _sliced(rows, users, splits.get(split, {}), notes) if rows else [],
        "relations": _relations(rows, usable),
        "published": _published(folder.name, rows),
        "failed": failed,
        "notes": notes,
    }
    rows.sort(key=lambda row: (-row["test"].get(RANKED_BY, {"mean": -1.0})["mean"], row["name"], row["variant"]))
    return {**report, "rows": rows}


# -- what may be concluded ---------------------------------------------------------------------------------------------------


def _most_common(values: Iterable[Any]) -> Any:
    counts = Counter(value for value in values if value is not None)
    return counts.most_common(1)[0][0] if counts else None


def _user_metrics(runs: list[Run]) -> dict[str, np.ndarray]:
    """Metric to [n_users], averaged over the seeds."""
    if any(run.ranks is None for run in runs):
        return {}
    deepest = min(run.record["users"]["k"] for run in runs)
    return {
        metric: np.mean([user_metric(run.ranks, metric) for run in runs], axis=0)
        for metric in ACCURACY
        if int(metric.partition("@")[2]) <= deepest
    }


def _pairs(
    metric: str, rows: list[dict[str, Any]], users: list[dict[str, np.ndarray]], members: list[int]
) -> dict[tuple[int, int], dict[str, Any]]:
    """All pairs of some rows, the better first; see :func:`recbole_r3vae.benchmark.statistics.leads`."""
    seeds = {index: rows[index]["test"][metric]["values"] for index in members if metric in rows[index]["test"]}
    return statistics.leads(seeds, {index: users[index][metric] for index in seeds if metric in users[index]})


def _named(metric: str, pair: tuple[int, int], found: dict[str, Any], rows: list[dict[str, Any]]) -> dict[str, Any]:
    named = {
        key: {"name": rows[index]["name"], "variant": rows[index]["variant"], "seeds": len(rows[index]["test"][metric]["values"])}
        for key, index in zip(("best", "next"), pair)
    }
    return {"metric": metric, **named, **found}


def _leads(
    rows: list[dict[str, Any]], users: list[dict[str, np.ndarray]], usable: list[int]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The best row of each metric over the next one, and the best by NDCG@10 over every other; marks what is ahead of all as bold."""
    leads, of_best = [], []
    for metric in ACCURACY:
        pairs = _pairs(metric, rows, users, usable)
        if not pairs:
            continue
        best = next(iter(pairs))[0]
        of_metric = [_named(metric, pair, found, rows) for pair, found in pairs.items() if pair[0] == best]
        tested = [lead["supported"] for lead in of_metric if lead["p_seeds"] is not None]
        if tested and all(tested):
            rows[best]["bold"].append(metric)
        leads.append({**of_metric[0], "tested": len(tested)})
        of_best = of_metric if metric == RANKED_BY else of_best
    return leads, of_best


def _grid(
    rows: list[dict[str, Any]], users: list[dict[str, np.ndarray]], usable: list[int], notes: list[str]
) -> list[dict[str, Any]]:
    """A cell for each generator and tokenizer: its figures, and how far the best tokenizer of the same generator is ahead of it."""
    cells = []
    for generator, of_generator in _by_generator(rows, usable):
        chosen = _one_a_tokenizer(rows, [index for index in of_generator if all(metric in rows[index]["test"] for metric in TABLE_METRICS)])
        behind: dict[int, dict[str, Any]] = {index: {} for index in chosen}
        for metric in TABLE_METRICS:
            pairs = _pairs(metric, rows, users, chosen)
            best = next(iter(pairs), (None,))[0]
            for (one, other), found in pairs.items():
                if one == best:
                    behind[other][metric] = found
        for index in chosen:
            kept = {"generator": generator, **{key: rows[index][key] for key in ("tokenizer", "name", "variant", "seeds")}}
            cells.append({**kept, "test": {metric: rows[index]["test"][metric] for metric in TABLE_METRICS}, "behind": behind[index]})
        more = _differing([rows[index] for index in chosen])
        if more:
            notes.append(f"The rows of {generator} differ in more than how a tokenizer learns: {'; '.join(more)}.")
    return cells


def _differing(rows: list[dict[str, Any]]) -> list[str]:
    """What else is not the same for all rows of a generator, with the rows that most others differ from.

    A tokenizer's own keys are what the rows are to differ in, but for the text that it reads and the number of codes that it writes: a
    longer semantic ID makes another generator.
    """
    found = []
    settings = [_beside_the_tokenizer(row) for row in rows]
    for key in sorted(set().union(*settings)):
        told = [json.dumps(one.get(key), sort_keys=True) for one in settings]
        usual = Counter(told).most_common(1)[0][0]
        others = {value: [row["name"] for row, own in zip(rows, told) if own == value] for value in sorted(set(told) - {usual})}
        found += [f"{key} is {value} in {', '.join(names)}, {usual} elsewhere" for value, names in others.items()]
    return found


def _beside_the_tokenizer(row: dict[str, Any]) -> dict[str, Any]:
    own = {key: value for key, value in row["config"].items() if not key.startswith("tokenizer")}
    conditions = {key: row[key] for key in ("content", "data", *CONDITIONS) if key != "tuning_trials"}
    return {**own, **conditions, "tokenizer_codebook_sizes": row["config"].get("tokenizer_codebook_sizes")}


def _by_generator(rows: list[dict[str, Any]], usable: list[int]) -> list[tuple[str, list[int]]]:
    """Name of each generator, such as ``R3GR`` or ``R3GR-hybrid``, and its rows."""
    found: dict[str, list[int]] = {}
    for index in usable:
        if rows[index]["tokenizer"]:
            found.setdefault(rows[index]["name"].partition("[")[0], []).append(index)
    return sorted(found.items())


def _one_a_tokenizer(rows: list[dict[str, Any]], usable: list[int]) -> list[int]:
    """Of several configurations of a tokenizer the one with the most seeds, then the best validation NDCG@10; by tokenizer."""
    chosen: dict[str, int] = {}
    for index in usable:
        tokenizer = rows[index]["tokenizer"]
        if tokenizer not in chosen or _preference(rows[index]) > _preference(rows[chosen[tokenizer]]):
            chosen[tokenizer] = index
    return [chosen[tokenizer] for tokenizer in sorted(chosen)]


def _preference(row: dict[str, Any]) -> tuple[int, float]:
    return len(row["seeds"]), row["valid"].get(RANKED_BY, {"mean": -1.0})["mean"]


def _sliced(
    rows: list[dict[str, Any]], users: list[dict[str, np.ndarray]], split: dict[str, Any], notes: list[str]
) -> list[dict[str, Any]]:
    """Describe the slices and give each row its figures in them, under ``slices``."""
    try:
        if "users" not in split:
            raise ValueError(split.get("error", "there is no split file"))
        popularity, history = (statistics.unpack(split[key], "int32") for key in ("popularity", "history"))
        if not len(popularity) == len(history) == split["users"]:
            raise ValueError(f"popularity of {len(popularity)} and history of {len(history)} users, not of {split['users']}")
    except (KeyError, ValueError) as error:
        notes.append(f"No slices: {error}.")
        return []
    parts = statistics.slices(popularity, history)
    for row, of_users in zip(rows, users):
        row["slices"] = [
            {metric: float(of_users[metric][part.users].mean()) for metric in TABLE_METRICS if metric in of_users} for part in parts
        ]
    return [{"group": part.group, "name": part.name, "says": part.says, "users": int(part.users.sum())} for part in parts]


def _relations(rows: list[dict[str, Any]], usable: list[int]) -> list[dict[str, Any]]:
    """SID quality and Recall@10 over the tokenizers of each generator that has three or more; a tokenizer is one point."""
    found = []
    for generator, of_generator in _by_generator(rows, usable):
        measured = [index for index in of_generator if rows[index]["quality"] and "recall@10" in rows[index]["test"]]
        chosen = [rows[index] for index in _one_a_tokenizer(rows, measured)]
        of_each = {}
        for key in RELATED:
            pairs = [(row["quality"][key], row["test"]["recall@10"]["mean"]) for row in chosen if key in row["quality"]]
            if len(pairs) >= 3:
                of_each[key] = statistics.spearman(*zip(*pairs))
        if of_each:
            kept = ("name", "variant", "tokenizer", "family", "seeds", "quality")
            marks = [{**{key: row[key] for key in kept}, "recall@10": row["test"]["recall@10"]} for row in chosen]
            found.append({"generator": generator, "spearman": of_each, "points": marks})
    return found


def _published(dataset: str, rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The published figures of a dataset; each row gets those for it, the first of each kind, under ``published``."""
    source = load_yaml(properties() / "benchmark" / "published.yaml")
    entries = []
    for kind in ("authors", "independent"):
        for entry in source[kind]:
            if dataset not in entry:
                continue
            recall, ndcg, *deviation = entry[dataset]
            figures = {"recall@10": recall, "ndcg@10": ndcg, "recall@10_std": deviation[0] if deviation else None}
            entries.append({"kind": kind, "method": entry["method"], "source": entry["source"], "row": entry.get("row"), **figures})
    for row in rows:
        row["published"] = {entry["kind"]: entry for entry in reversed(entries) if entry["row"] == row["name"]}
    return {"note": source["note"], "entries": entries} if entries else None
