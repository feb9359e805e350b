"""A leaderboard as a page of Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from recbole_r3vae.experiments.leaderboard import sentences
from recbole_r3vae.experiments.leaderboard.cells import (
    BEST_HEAD, FAILED_HEAD, LEAD_HEAD, PUBLISHED_HEAD, answer_table, failed_rows, grid_table, lead_cells, published_cells,
)  # fmt: skip
from recbole_r3vae.experiments.leaderboard.columns import Column, cost_columns, main_columns, metric_columns, slice_columns
from recbole_r3vae.experiments.leaderboard.figures import TABLE_METRICS, Row, label, title_of
from recbole_r3vae.experiments.leaderboard.records import RULE_NAMES
from recbole_r3vae.experiments.tables import code, escaped, markdown_table
from recbole_r3vae.record import RULES


def markdown(report: dict[str, Any]) -> str:
    """The page of one dataset.

    Args:
        report: of :func:`recbole_r3vae.experiments.leaderboard.report.leaderboard`.
    """
    rows = report["rows"]
    lines = [f"# Leaderboard: {escaped(report['dataset'])}", ""]
    head, answers = answer_table(report)
    if answers:
        lines += [*markdown_table(list(map(escaped, head)), (map(escaped, row) for row in answers)), "", sentences.ANSWER, ""]
    lines += [f"{sentences.READING} {sentences.ranking_line(report)}", ""]
    if rows:
        lines += _table(rows, main_columns(rows))
        if any(row["published"] for row in rows):
            lines += ["", f"The columns R@10 / N@10 are **published elsewhere**. {sentences.BESIDE} {escaped(report['published']['note'])}"]
    why = sentences.why_nothing_is_bold(report)
    if why:
        lines += ["", f"**{why}**"]
    lines += ["", *(f"* {name}: {escaped(words)}" for name, words in sentences.facts(report))]
    lines += [f"* Command: {code(command)}" for command in report["commands"]]
    lines += [f"* {escaped(note)}" for note in report["notes"]]
    for part in report["apart"]:
        lines += ["", f"## Rows in {part['precision']}", "", sentences.apart_line(part), ""]
        lines += _table(part["rows"], main_columns(part["rows"]))
    if report["failed"]:
        lines += ["", "## Failed units", ""]
        lines += markdown_table(FAILED_HEAD, (map(escaped, cells) for cells in failed_rows(report)))
    if report["leads"]:
        lines += ["", "## Who leads, and whether it is more than noise", "", sentences.LEADS, ""]
        lines += markdown_table(LEAD_HEAD, (map(escaped, lead_cells(lead)) for lead in report["leads"]))
    if report["best"][1:]:  # of a single one the table above has told
        lines += ["", sentences.BEST, ""]
        lines += markdown_table(BEST_HEAD, (map(escaped, lead_cells(lead)) for lead in report["best"]))
    head, cells = grid_table(report)
    if cells:
        lines += ["", "## Tokenizers and generators", "", sentences.GRID, ""]
        lines += markdown_table(list(map(escaped, head)), (map(escaped, row) for row in cells))
    if rows:
        lines += ["", "## All metrics", "", sentences.ALL_METRICS]
        for rule in (rule for rule in RULES if any(row["test"][rule] for row in rows)):
            lines += ["", f"{RULE_NAMES[rule].capitalize()}:", "", *_table(rows, metric_columns(rule), short=True)]
        lines += ["", "## Cost and conditions", "", sentences.COSTS, "", *_table(rows, cost_columns(rows))]
    if report["slices"]:
        lines += ["", "## Slices of users", "", f"{sentences.SLICES} {RULE_NAMES[report['rule']].capitalize()}. {sentences.slice_sizes(report)}"]
        for metric in TABLE_METRICS:
            lines += ["", f"{title_of(metric)}:", "", *_table(rows, slice_columns(report, metric))]
    if report["relations"]:
        lines += ["", f"## SID quality against Recall@10, {RULE_NAMES[report['rule']]}", "", sentences.RELATIONS, ""]
        for relation in report["relations"]:
            found = [f"{title_of(key)} {sentences.correlation(part)}" for key, part in relation["spearman"].items()]
            lines.append(f"* {escaped(relation['generator'])}: {'; '.join(found)}. {sentences.warning_of_few_points(relation)}".rstrip())
    if report["published"]:
        lines += ["", "## Published elsewhere", "", escaped(report["published"]["note"]), ""]
        lines += markdown_table(PUBLISHED_HEAD, (map(escaped, published_cells(e)) for e in report["published"]["entries"]))
    return "\n".join(lines) + "\n"


def _table(rows: Sequence[Row], columns: Sequence[Column], short: bool = False) -> list[str]:
    """A table; ``short`` where the rule on met items stands above it."""
    head = ["Model", *(column.title if short else column.heading for column in columns)]
    return markdown_table(head, ([escaped(label(row)), *(_cell(row, column) for column in columns)] for row in rows))


def _cell(row: Row, column: Column) -> str:
    shown = escaped(column.text(row))
    if column.is_bold(row):
        shown = f"**{shown}**"
    note = escaped(column.note(row))
    return f"{shown} {note}".rstrip() if column.metric else f"{shown} ({note})" if note else shown
