"""A leaderboard as a Markdown page, and as flat rows for CSV."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from recbole_r3vae.benchmark import leaderboard_text as text
from recbole_r3vae.benchmark.leaderboard_columns import Column, cost_columns, main_columns, metric_columns, slice_columns
from recbole_r3vae.benchmark.leaderboard_text import Row
from recbole_r3vae.benchmark.run_files import ACCURACY, CATALOGUE, CONDITIONS, RULE_NAMES
from recbole_r3vae.benchmark.tables import code, escaped, markdown_table
from recbole_r3vae.record import RULES


def markdown(report: dict[str, Any]) -> str:
    """The page of one dataset.

    Args:
        report: of :func:`recbole_r3vae.benchmark.leaderboard.leaderboard`.
    """
    rows = report["rows"]
    lines = [f"# Leaderboard: {escaped(report['dataset'])}", "", f"{text.READING} {text.ranking_line(report)}", ""]
    if rows:
        lines += _table(rows, main_columns(rows))
        if any(row["published"] for row in rows):
            lines += ["", f"The columns R@10 / N@10 are **published elsewhere**. {text.BESIDE} {escaped(report['published']['note'])}"]
    why = text.why_nothing_is_bold(report)
    if why:
        lines += ["", f"**{why}**"]
    lines += ["", *(f"* {name}: {escaped(words)}" for name, words in text.facts(report))]
    lines += [f"* Command: {code(command)}" for command in report["commands"]]
    lines += [f"* {escaped(note)}" for note in report["notes"]]
    for part in report["apart"]:
        lines += ["", f"## Rows in {part['precision']}", "", text.apart_line(part, rows[0]["precision"]), ""]
        lines += _table(part["rows"], main_columns(part["rows"]))
    if report["failed"]:
        lines += ["", "## Failed units", ""]
        lines += markdown_table(text.FAILED_HEAD, (map(escaped, cells) for cells in text.failed_rows(report)))
    if report["leads"]:
        lines += ["", "## Who leads, and whether it is more than noise", "", text.LEADS, ""]
        lines += markdown_table(text.LEAD_HEAD, (map(escaped, text.lead_cells(lead)) for lead in report["leads"]))
    if report["best"][1:]:  # of a single one the table above has told
        lines += ["", text.BEST, ""]
        lines += markdown_table(text.BEST_HEAD, (map(escaped, text.lead_cells(lead)) for lead in report["best"]))
    head, cells = text.grid_table(report)
    if cells:
        lines += ["", "## Tokenizers and generators", "", text.GRID, ""]
        lines += markdown_table(list(map(escaped, head)), (map(escaped, row) for row in cells))
    if rows:
        lines += ["", "## All metrics", "", text.ALL_METRICS]
        for rule in (rule for rule in RULES if any(row["test"][rule] for row in rows)):
            lines += ["", f"{RULE_NAMES[rule].capitalize()}:", "", *_table(rows, metric_columns(rule), short=True)]
        lines += ["", "## Cost and conditions", "", text.COSTS, "", *_table(rows, cost_columns(rows))]
    if report["slices"]:
        lines += ["", "## Slices of users", "", f"{text.SLICES} {RULE_NAMES[report['rule']].capitalize()}. {text.sizes(report)}"]
        for metric in text.TABLE_METRICS:
            lines += ["", f"{text.title_of(metric)}:", "", *_table(rows, slice_columns(report, metric))]
    if report["relations"]:
        lines += ["", f"## SID quality against Recall@10, {RULE_NAMES[report['rule']]}", "", text.RELATIONS, ""]
        for relation in report["relations"]:
            found = [f"{text.title_of(key)} {text.correlation(part)}" for key, part in relation["spearman"].items()]
            lines.append(f"* {escaped(relation['generator'])}: {'; '.join(found)}. {text.few(relation)}".rstrip())
    if report["published"]:
        lines += ["", "## Published elsewhere", "", escaped(report["published"]["note"]), ""]
        lines += markdown_table(text.PUBLISHED_HEAD, (map(escaped, text.published_cells(e)) for e in report["published"]["entries"]))
    return "\n".join(lines) + "\n"


def _table(rows: Sequence[Row], columns: Sequence[Column], short: bool = False) -> list[str]:
    """A table; ``short`` where the rule on met items stands above it."""
    head = ["Model", *(column.title if short else column.heading for column in columns)]
    return markdown_table(head, ([escaped(text.label(row)), *(_cell(row, column) for column in columns)] for row in rows))


def _cell(row: Row, column: Column) -> str:
    shown = escaped(column.text(row))
    if column.is_bold(row):
        shown = f"**{shown}**"
    note = escaped(column.note(row))
    return f"{shown} {note}".rstrip() if column.metric else f"{shown} ({note})" if note else shown


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
