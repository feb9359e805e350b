"""The columns of a leaderboard's tables: the same on the page and in Markdown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from recbole_r3vae.experiments.leaderboard.figures import (
    KINDS, NONE, RANKED_BY, TABLE_METRICS, Row, budget, decimal, numbers_in_short, title_of,
)  # fmt: skip
from recbole_r3vae.experiments.leaderboard.records import RULE_NAMES
from recbole_r3vae.experiments.leaderboard.rows import ACCURACY, CATALOGUE
from recbole_r3vae.record import RULES, Rule


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes:
        title: its head.
        text: what a cell shows.
        value: what it is sorted by; ``None`` sorts last.
        note: small print beside or under the text.
        falling: whether the first sort shows the greatest value on top.
        metric: the metric it shows, if any.
        rule: the rule on met items that its figures are of, if they are.
        words: whether it holds words, which stand to the left.
        outside: whether its figures are not ours.
    """

    title: str
    text: Callable[[Row], str]
    value: Callable[[Row], Any]
    note: Callable[[Row], str] = lambda row: ""
    falling: bool = False
    metric: str | None = None
    rule: Rule | None = None
    words: bool = False
    outside: bool = False

    @property
    def heading(self) -> str:
        """The title with the rule, for tables that have no row of rules above their head."""
        return self.title if self.rule is None else f"{self.title}, {RULE_NAMES[self.rule]}"

    def is_bold(self, row: Row) -> bool:
        """Whether the row is ahead of all others in what this column shows."""
        return self.metric in row["bold"] and self.rule == row["rule"]

    @property
    def orders(self) -> bool:
        """Whether rows are ordered by its metric."""
        return self.metric == RANKED_BY


def _numbers(title: str, value: Callable[[Row], float | None], places: int, falling: bool = False) -> Column:
    return Column(title, lambda row: decimal(value(row), places), value, falling=falling)


def _as_it_is(title: str, key: str, words: bool = True) -> Column:
    return Column(title, lambda row: NONE if row[key] is None else str(row[key]), lambda row: row[key], words=words)


def _metric(metric: str, rule: Rule) -> Column:
    def figures(row: Row) -> dict[str, Any]:
        return row["test"][rule].get(metric, {"mean": None, "std": None})

    def note(row: Row) -> str:
        return "" if figures(row)["std"] is None else f"± {figures(row)['std']:.4f}"

    def mean(row: Row) -> float | None:
        return figures(row)["mean"]

    falling = not metric.startswith("giniindex")
    return Column(title_of(metric), lambda row: decimal(mean(row)), mean, note, falling, metric, rule)


def _published(kind: str, rule: Rule) -> Column:
    def entry(row: Row) -> dict[str, Any]:
        return row["published"].get(rule, {}).get(kind, {})

    def text(row: Row) -> str:
        return f"{decimal(entry(row)['recall@10'])} / {decimal(entry(row)['ndcg@10'])}" if entry(row) else ""

    def note(row: Row) -> str:
        if not entry(row):
            return ""
        method = "" if entry(row)["method"] == row["model"] else f"{entry(row)['method']}, "  # SASRec (BCE) is not our SASRec of CE
        return method + entry(row)["source"].partition(" (")[0].rpartition(", ")[2]

    def recall(row: Row) -> float | None:
        return entry(row).get("recall@10")

    return Column(f"{KINDS[kind]}, R@10 / N@10", text, recall, note, falling=True, rule=rule, outside=True)


def main_columns(rows: list[Row]) -> list[Column]:
    """Both rules side by side, each with what others published under it, the number of seeds, and how many of them the budget stopped: a
    model that is not trained to its end says so where it is ranked."""
    columns = []
    for rule in RULES:
        columns += [_metric(metric, rule) for metric in TABLE_METRICS]
        columns += [_published(kind, rule) for kind in KINDS if any(kind in row["published"].get(rule, {}) for row in rows)]
    return [*columns, Column("Seeds", lambda row: str(len(row["seeds"])), lambda row: len(row["seeds"]), _how_many_stopped, falling=True)]


def metric_columns(rule: Rule) -> list[Column]:
    """Every metric under one rule."""
    return [_metric(metric, rule) for metric in (*ACCURACY, *CATALOGUE)]


def cost_columns(rows: list[Row]) -> list[Column]:
    """What a row cost and under which conditions it was made; rule of selection, machine and commit only where rows differ in them.

    The validation figure stands here because settings and epochs are chosen by it: it is a condition, not a result.
    """
    columns = [
        _numbers(f"Valid {title_of(RANKED_BY)}", lambda row: row["valid"].get(RANKED_BY, {}).get("mean"), 4, falling=True),
        _numbers("Parameters", lambda row: row["n_parameters"], 0),
        _numbers("Tokenizer, s", lambda row: row["seconds"]["tokenizer"], 0),
        _numbers("Training, s", lambda row: row["seconds"]["training"], 0),
        _numbers("Evaluation, s", lambda row: row["seconds"]["evaluation"], 1),
        _numbers("Inference a user, ms", lambda row: row["seconds"]["per_user_ms"], 2),
        _numbers("Memory, MiB", lambda row: row["peak_memory_mb"]["process"], 0),
    ]
    if any(row["peak_memory_mb"]["gpu"] is not None for row in rows):
        columns.append(_numbers("GPU memory, MiB", lambda row: row["peak_memory_mb"]["gpu"], 0))
    columns += [
        Column("Seeds", lambda row: numbers_in_short(row["seeds"]), lambda row: len(row["seeds"])),
        Column("Epochs", lambda row: numbers_in_short(row["epochs"]), lambda row: row["epochs"][0]),
        Column("Budget", budget, lambda row: row["max_minutes"], _stopped),
        _as_it_is("Tuning trials", "tuning_trials", words=False),
        _as_it_is("Text encoder", "text_encoder"),
        _as_it_is("Collisions", "collision_policy"),
        _as_it_is("Loss", "loss"),
    ]
    differing = [
        ("Epochs selected with", lambda row: RULE_NAMES.get(row["valid_rule"], NONE)),
        ("Machine", lambda row: "; ".join(row["hardware"]) or NONE),
        ("Commit", lambda row: ", ".join(row["commits"]) or NONE),
    ]
    columns += [Column(title, words, words, words=True) for title, words in differing if len(set(map(words, rows))) > 1]
    return columns


def slice_columns(report: dict[str, Any], metric: str) -> list[Column]:
    """A metric in each slice of the users."""

    def value(row: Row, index: int) -> float | None:
        return row["slices"][index].get(metric)

    of = {"popularity": "targets", "history": "histories"}
    return [
        _numbers(f"{part['name']} {of[part['group']]} ({part['says']})", lambda row, index=index: value(row, index), 4, falling=True)
        for index, part in enumerate(report["slices"])
    ]


def _how_many_stopped(row: Row) -> str:
    return f"{row['stopped_at_budget']} stopped" if row["stopped_at_budget"] else ""


def _stopped(row: Row) -> str:
    return f"{row['stopped_at_budget']} of {len(row['seeds'])} stopped" if row["stopped_at_budget"] else ""
