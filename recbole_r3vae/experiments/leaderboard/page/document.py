"""All leaderboards on one HTML page, section by section: no network, complete without scripts, every string escaped."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from html import escape
from importlib import resources
from typing import Any
from urllib.parse import quote

from recbole_r3vae.experiments.leaderboard import sentences
from recbole_r3vae.experiments.leaderboard.cells import (
    BEST_HEAD, FAILED_HEAD, LEAD_HEAD, PUBLISHED_HEAD, answer_table, failed_rows, grid_table, lead_cells, published_cells,
)  # fmt: skip
from recbole_r3vae.experiments.leaderboard.columns import cost_columns, main_columns, metric_columns, slice_columns
from recbole_r3vae.experiments.leaderboard.figures import RANKED_BY, TABLE_METRICS, Row, label, ranked_test, title_of
from recbole_r3vae.experiments.leaderboard.page.charts import Point, scatter
from recbole_r3vae.experiments.leaderboard.page.families import families_of, family_of, glyph, key_to_families
from recbole_r3vae.experiments.leaderboard.page.tables import plain_table, row_table
from recbole_r3vae.experiments.leaderboard.records import RULE_NAMES
from recbole_r3vae.record import RULES

SHADED = "Shaded columns are published elsewhere and not comparable with ours."
LEAST_SECONDS = 0.1  # where the logarithmic axis begins


def page(reports: Sequence[dict[str, Any]]) -> str:
    """The page.

    The data are in its tables only. Its security policy lets it load nothing and run no script but its own, which it names by hash.

    Args:
        reports: of :func:`recbole_r3vae.experiments.leaderboard.report.leaderboard`, one a dataset.
    """
    folder = resources.files("recbole_r3vae.experiments.leaderboard.page")
    style, script = (folder.joinpath(name).read_text(encoding="utf-8") for name in ("style.css", "script.js"))
    fingerprint = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    links = "".join(f'<a href="#{quote(report["dataset"], safe="")}">{escape(report["dataset"])}</a>' for report in reports)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{fingerprint}'">
<title>Leaderboard: {escape(", ".join(report["dataset"] for report in reports))}</title>
<style>{style}</style>
</head>
<body>
<header>
<h1>Semantic-ID leaderboard</h1>
<p class="lede">Tokenizers and generators beside item-id models: one split, one evaluator, metrics of items.</p>
<nav aria-label="Datasets">{links}</nav>
</header>
<main>
{"".join(map(_section, reports))}
</main>
<script>{script}</script>
</body>
</html>
"""


def _section(report: dict[str, Any]) -> str:
    rows, dataset = report["rows"], report["dataset"]
    parts = [f"<h2>{escape(dataset)}</h2>", _answer(report), _notes(report)]
    if rows:
        parts += [_filter(rows), _main_table(report)]
    reading = " ".join([sentences.READING, sentences.ranking_line(report), *[SHADED, sentences.BESIDE] * any(row["published"] for row in rows)])
    parts += [f'<p class="small">{escape(reading)}</p>', _apart(report), _failed(report)]
    if rows:
        parts += [_cost_chart(report), _slices(report)]
    parts += [_leads(report), _grid(report)]
    if rows:
        parts += [_all_metrics(report), _relations(report)]
        costs = row_table(rows, cost_columns(rows), f"Cost and conditions on {dataset}")
        parts.append(f'<h3>Cost and conditions</h3><p class="small">{escape(sentences.COSTS)}</p>{costs}')
    parts += [_published(report), _made(report)]
    return f'<section id="{escape(dataset)}">{"".join(parts)}</section>'


def _answer(report: dict[str, Any]) -> str:
    head, rows = answer_table(report)
    if not rows:
        return ""
    return plain_table("Who leads under which rule", head, rows, kind="answer") + f'<p class="small">{escape(sentences.ANSWER)}</p>'


def _notes(report: dict[str, Any]) -> str:
    return "".join(f"<p>{escape(note)}</p>" for note in filter(None, (sentences.why_nothing_is_bold(report), *report["notes"])))


def _filter(rows: Sequence[Row]) -> str:
    boxes = "".join(
        f'<label><input type="checkbox" value="{family}" checked>{glyph(family)}{family} '
        f"({sum(family_of(row) == family for row in rows)})</label>"
        for family in families_of(rows)
    )
    return f"<fieldset hidden><legend>Families</legend>{boxes}</fieldset>"


# -- tables of rows ----------------------------------------------------------------------------------------------------------


def _main_table(report: dict[str, Any]) -> str:
    rows = report["rows"]
    columns = main_columns(rows)
    finished = {row["name"] for row in rows}
    errors = {unit["name"]: unit for unit in report["failed"] if unit["name"] not in finished}
    last = "".join(
        f'<tr class="failed" data-family="{family_of(unit)}"><th scope="row" class="row">{glyph(family_of(unit))}{escape(str(name))}</th>'
        f'<td colspan="{len(columns)}">failed: {escape(unit["error"])}</td></tr>'
        for name, unit in errors.items()
    )
    return row_table(rows, columns, f"Test metrics on {report['dataset']}", last)


def _apart(report: dict[str, Any]) -> str:
    """Rows of other precisions than most."""
    parts = []
    for part in report["apart"]:
        precision = escape(part["precision"])
        table = row_table(part["rows"], main_columns(part["rows"]), f"Test metrics in {part['precision']}")
        why = escape(sentences.apart_line(part))
        parts.append(f'<h3>Rows in {precision}</h3><p class="small">{why}</p>{table}')
    return "".join(parts)


def _all_metrics(report: dict[str, Any]) -> str:
    parts = [f'<h3>All metrics</h3><p class="small">{escape(sentences.ALL_METRICS)}</p>']
    for rule in (rule for rule in RULES if any(row["test"][rule] for row in report["rows"])):
        name = RULE_NAMES[rule].capitalize()
        parts.append(f"<h4>{name}</h4>{row_table(report['rows'], metric_columns(rule), f'All metrics, {name.lower()}')}")
    return "".join(parts)


def _slices(report: dict[str, Any]) -> str:
    if not report["slices"]:
        return ""
    reading = escape(f"{sentences.SLICES} {sentences.slice_sizes(report)}")
    parts = [f'<h3>Slices of users, {RULE_NAMES[report["rule"]]}</h3><p class="small">{reading}</p>']
    for metric in TABLE_METRICS:
        title = title_of(metric)
        table = row_table(report["rows"], slice_columns(report, metric), f"{title} in slices of users")
        parts.append(f"<h4>{title}</h4>{table}")
    return "".join(parts)


# -- other tables ------------------------------------------------------------------------------------------------------------


def _failed(report: dict[str, Any]) -> str:
    if not report["failed"]:
        return ""
    return "<h3>Failed units</h3>" + plain_table("Failed units", FAILED_HEAD, failed_rows(report))


def _leads(report: dict[str, Any]) -> str:
    if not report["leads"]:
        return ""
    title = "Who leads, and whether it is more than noise"
    table = plain_table(title, LEAD_HEAD, map(lead_cells, report["leads"]))
    parts = [f'<h3>{title}</h3><p class="small">{escape(sentences.LEADS)}</p>{table}']
    if report["best"][1:]:  # of a single one the table above has told
        table = plain_table("The best row and every other", BEST_HEAD, map(lead_cells, report["best"]))
        parts.append(f'<p class="small">{escape(sentences.BEST)}</p>{table}')
    return "".join(parts)


def _grid(report: dict[str, Any]) -> str:
    head, rows = grid_table(report)
    if not rows:
        return ""
    title = "Tokenizers and generators"
    return f'<h3>{title}</h3><p class="small">{escape(sentences.GRID)}</p>' + plain_table(title, head, rows, figures=True)


def _published(report: dict[str, Any]) -> str:
    if not report["published"]:
        return ""
    table = plain_table("Published elsewhere", PUBLISHED_HEAD, map(published_cells, report["published"]["entries"]))
    return f'<h3>Published elsewhere</h3><p class="small">{escape(report["published"]["note"])}</p>{table}'


def _made(report: dict[str, Any]) -> str:
    terms = "".join(f"<dt>{escape(name)}</dt><dd>{escape(words)}</dd>" for name, words in sentences.facts(report))
    commands = escape("\n".join(report["commands"]))
    return f"<h3>How it was made</h3><dl>{terms}</dl><p>To make it again:</p><pre><code>{commands}</code></pre>"


# -- charts ------------------------------------------------------------------------------------------------------------------


def _cost_chart(report: dict[str, Any]) -> str:
    points, rows = [], [row for row in report["rows"] if row["rule"] == report["rule"]]
    for row in rows:
        seconds = row["seconds"]["training"]
        if seconds is None or RANKED_BY not in ranked_test(row):
            continue
        figures = ranked_test(row)[RANKED_BY]
        seconds = max(seconds + (row["seconds"]["tokenizer"] or 0), LEAST_SECONDS)
        points.append(Point(label(row), family_of(row), seconds, figures["mean"], figures["std"] or 0))
    if not points:
        return ""
    titles = ("Training, seconds (tokenizer included)", f"Test NDCG@10, {RULE_NAMES[report['rule']]}")
    wide, narrow = (scatter(points, *titles, *size, log_x=True) for size in ((1120, 440), (380, 360)))
    return (
        f'<h3>Accuracy against cost</h3><figure><div class="wide">{wide}</div><div class="narrow">{narrow}</div>'
        f"<figcaption>Whiskers: ± one standard deviation over seeds. {key_to_families(rows)}</figcaption></figure>"
    )


def _relations(report: dict[str, Any]) -> str:
    if not report["relations"]:
        return ""
    parts = [f'<h3>SID quality against Recall@10, {RULE_NAMES[report["rule"]]}</h3><p class="small">{escape(sentences.RELATIONS)}</p>']
    for relation in report["relations"]:
        charts = []
        for key, found in relation["spearman"].items():
            points = [
                Point(mark["tokenizer"], mark["family"], mark["quality"][key], mark["recall@10"]["mean"], mark["recall@10"]["std"] or 0)
                for mark in relation["points"]
                if key in mark["quality"]
            ]
            chart = scatter(points, title_of(key), "Test Recall@10", 380, 290)
            charts.append(f"<figure>{chart}<figcaption>{title_of(key)}: {escape(sentences.correlation(found))}</figcaption></figure>")
        warning = sentences.warning_of_few_points(relation)
        parts.append(f'<h4>{escape(relation["generator"])}</h4><div class="trio">{"".join(charts)}</div><p class="small">{escape(warning)}</p>')
    return "".join(parts)
