"""The cells of the tables beside the main ones: leads, tokenizers and generators, published figures, failed units."""

from __future__ import annotations

from collections import Counter
from typing import Any

from recbole_r3vae.experiments.leaderboard.figures import (
    KINDS, NONE, RANKED_BY, TABLE_METRICS, decimal, label, p_value, ranked_test, signed, title_of,
)  # fmt: skip
from recbole_r3vae.experiments.leaderboard.records import RULE_NAMES
from recbole_r3vae.experiments.leaderboard.sentences import verdict
from recbole_r3vae.record import RULES, Rule

def answer_table(report: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Who leads under each rule, by how much and at what cost, the rules side by side: the head of the table and its rows."""
    answers = report.get("answers") or {}  # reports of earlier versions have none
    found = list(answers.values())
    other_kind = {"without semantic IDs" if answer["reads_sids"] else "with semantic IDs" for answer in found}
    beside = f"Best row {' or '.join(sorted(other_kind))}"
    lines = {
        "Leads": [_with_figure(answer["best"]) for answer in found],
        "Next": [_behind(answer["next"]) for answer in found],
        beside: [_behind(answer["beside"]) for answer in found],
        "Behind by more than noise": [_told_apart(answer) for answer in found],
        "Cost of the leader": [_cost(answer["best"]) for answer in found],
        f"Cost of the {beside[0].lower()}{beside[1:]}": [_cost(answer["beside"]) for answer in found],
    }
    rows = [[name, *cells] for name, cells in lines.items() if any(cell != NONE for cell in cells)]
    return [title_of(RANKED_BY), *(RULE_NAMES[rule] for rule in answers)], rows if found else []


def _with_figure(row: dict[str, Any]) -> str:
    deviation = "" if row["test"]["std"] is None else f" ± {row['test']['std']:.4f}"
    return f"{label(row)}: {decimal(row['test']['mean'])}{deviation} ({row['seeds']} {'seed' if row['seeds'] == 1 else 'seeds'})"


def _behind(row: dict[str, Any] | None) -> str:
    if row is None:
        return NONE
    interval = "" if row["low"] is None else f" [{signed(row['low'], 4)}, {signed(row['high'], 4)}]"
    return f"{_with_figure(row)}, behind by {decimal(row['lead'])}{interval}"


def _told_apart(answer: dict[str, Any]) -> str:
    if not answer["others"]:
        return NONE
    alone = f", {answer['by_users']} more by users alone, for want of seeds" if answer["by_users"] else ""
    return f"{answer['by_both']} of {answer['others']} other rows by seeds and users{alone}"


def _cost(row: dict[str, Any] | None) -> str:
    if row is None or row["seconds"] is None and row["n_parameters"] is None:
        return NONE
    return f"{decimal(row['seconds'], 0)} s of training, {decimal(row['n_parameters'], 0)} parameters"


LEAD_HEAD = ("Metric", "Best", "Next", "Lead", "p, seeds", "p, users", "p, Holm", "Verdict")
BEST_HEAD = ("Metric", "Best", "Other", *LEAD_HEAD[3:])


def lead_cells(lead: dict[str, Any]) -> list[str]:
    """A row under ``LEAD_HEAD`` or ``BEST_HEAD``."""
    interval = "" if lead["low"] is None else f" [{signed(lead['low'], 4)}, {signed(lead['high'], 4)}]"
    chances = (p_value(lead[key]) for key in ("p_seeds", "p_users", "p_holm"))
    return [title_of(lead["metric"]), label(lead["best"]), label(lead["next"]), decimal(lead["lead"]) + interval, *chances, verdict(lead)]


def grid_table(report: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Tokenizers down, generators across: the head of the table and its rows, empty where no generator has two tokenizers."""
    cells = {(cell["tokenizer"], cell["generator"]): cell for cell in report["grid"]}
    counts = Counter(generator for _, generator in cells)
    if max(counts.values(), default=0) < 2:
        return [], []
    generators = sorted(counts, key=lambda name: (-counts[name], name))
    rules = [rule for rule in RULES if any(cell["test"][rule] for cell in cells.values())]
    columns = [(name, rule, metric) for name in generators for rule in rules for metric in TABLE_METRICS]
    best = {tokenizer: max(ranked_test(cells[key])[RANKED_BY]["mean"] for key in cells if key[0] == tokenizer) for tokenizer, _ in cells}
    head = ["Tokenizer", *(f"{generator} {title_of(metric)}, {RULE_NAMES[rule]}" for generator, rule, metric in columns)]
    tokenizers = sorted(best, key=lambda tokenizer: (-best[tokenizer], tokenizer))
    return head, [[name, *(_grid_cell(cells.get((name, column[0])), *column[1:]) for column in columns)] for name in tokenizers]


def _grid_cell(cell: dict[str, Any] | None, rule: Rule, metric: str) -> str:
    figures = cell["test"][rule].get(metric) if cell else None
    if figures is None:
        return NONE
    behind = cell["behind"].get(metric) if rule == cell["rule"] else None
    deviation = "" if figures["std"] is None else f" ± {figures['std']:.4f}"
    return f"{figures['mean']:.4f}{deviation}{' †' if behind and behind['supported'] else ''}"


PUBLISHED_HEAD = ("Method", "Recall@10", "NDCG@10", "Met items", "History", "Text encoder", "Beside row", "Kind", "Source")


def published_cells(entry: dict[str, Any]) -> list[str]:
    """A row under ``PUBLISHED_HEAD``."""
    deviation = "" if entry["recall@10_std"] is None else f" ± {entry['recall@10_std']:.4f}"
    return [
        entry["method"], decimal(entry["recall@10"]) + deviation, decimal(entry["ndcg@10"]),
        RULE_NAMES.get(entry["rule"], "unknown").removeprefix("met items "), decimal(entry["history"], 0), entry["text"] or NONE,
        entry["row"] or NONE, KINDS[entry["kind"]], entry["source"],
    ]  # fmt: skip


FAILED_HEAD = ("Model", "Seeds", "Why it failed")


def failed_rows(report: dict[str, Any]) -> list[list[str]]:
    """Rows under ``FAILED_HEAD``; seeds that failed for the same reason share one."""
    seeds: dict[tuple[str, str], list[str]] = {}
    for unit in report["failed"]:
        seeds.setdefault((str(unit["name"]), unit["error"]), []).append(NONE if unit["seed"] is None else str(unit["seed"]))
    return [[name, ", ".join(found), error] for (name, error), found in seeds.items()]
