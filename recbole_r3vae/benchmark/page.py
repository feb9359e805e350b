"""All leaderboards on one HTML page: no network, complete without scripts, every string escaped."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from html import escape
from importlib import resources
from itertools import groupby
from typing import Any
from urllib.parse import quote

from recbole_r3vae.benchmark import leaderboard_text as text
from recbole_r3vae.benchmark.charts import FAMILIES, Point, mark, scatter
from recbole_r3vae.benchmark.leaderboard_columns import Column, cost_columns, main_columns, metric_columns, slice_columns
from recbole_r3vae.benchmark.leaderboard_text import RANKED_BY, Row, ranked_test
from recbole_r3vae.benchmark.run_files import RULE_NAMES
from recbole_r3vae.record import RULES

LONG = 40  # letters from which on a cell is given more room
SHADED = "Shaded columns are published elsewhere and not comparable with ours."
LEAST_SECONDS = 0.1  # where the logarithmic axis begins


def page(reports: Sequence[dict[str, Any]]) -> str:
    """The page.

    The data are in its tables only. Its security policy lets it load nothing and run no script but its own, which it names by hash.

    Args:
        reports: of :func:`recbole_r3vae.benchmark.leaderboard.leaderboard`, one a dataset.
    """
    folder = resources.files("recbole_r3vae.benchmark")
    style, script = (folder.joinpath(name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
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
    parts = [f"<h2>{escape(dataset)}</h2>", _notes(report)]
    if rows:
        parts += [_filter(rows), _main_table(report)]
    reading = " ".join([text.READING, text.ranking_line(report), *[SHADED, text.BESIDE] * any(row["published"] for row in rows)])
    parts += [f'<p class="small">{escape(reading)}</p>', _apart(report), _failed(report), _leads(report), _grid(report)]
    if rows:
        parts += [_all_metrics(report), _cost_chart(report), _relations(report), _slices(report)]
        costs = _table(rows, cost_columns(rows), f"Cost and conditions on {dataset}")
        parts.append(f'<h3>Cost and conditions</h3><p class="small">{escape(text.COSTS)}</p>{costs}')
    parts += [_published(report), _made(report)]
    return f'<section id="{escape(dataset)}">{"".join(parts)}</section>'


def _notes(report: dict[str, Any]) -> str:
    opening = " ".join(filter(None, (text.summary(report), text.why_nothing_is_bold(report))))
    return "".join(f"<p>{escape(note)}</p>" for note in (opening, *report["notes"]))


# -- tables ------------------------------------------------------------------------------------------------------------------


def _main_table(report: dict[str, Any]) -> str:
    rows = report["rows"]
    columns = main_columns(rows)
    finished = {row["name"] for row in rows}
    errors = {unit["name"]: unit for unit in report["failed"] if unit["name"] not in finished}
    last = "".join(
        f'<tr class="failed" data-family="{_family(unit)}"><th scope="row" class="row">{_glyph(_family(unit))}{escape(str(name))}</th>'
        f'<td colspan="{len(columns)}">failed: {escape(unit["error"])}</td></tr>'
        for name, unit in errors.items()
    )
    return _table(rows, columns, f"Test metrics on {report['dataset']}", last)


def _all_metrics(report: dict[str, Any]) -> str:
    parts = [f'<h3>All metrics</h3><p class="small">{escape(text.ALL_METRICS)}</p>']
    for rule in (rule for rule in RULES if any(row["test"][rule] for row in report["rows"])):
        name = RULE_NAMES[rule].capitalize()
        parts.append(f"<h4>{name}</h4>{_table(report['rows'], metric_columns(rule), f'All metrics, {name.lower()}')}")
    return "".join(parts)


def _apart(report: dict[str, Any]) -> str:
    """Rows of other precisions than most."""
    parts = []
    for part in report["apart"]:
        precision = escape(part["precision"])
        table = _table(part["rows"], main_columns(part["rows"]), f"Test metrics in {part['precision']}")
        why = escape(text.apart_line(part, report["rows"][0]["precision"]))
        parts.append(f'<h3>Rows in {precision}</h3><p class="small">{why}</p>{table}')
    return "".join(parts)


def _table(rows: Sequence[Row], columns: Sequence[Column], title: str, last: str = "") -> str:
    """A table that scrolls in its own frame; above its head the rules on met items where it has both, and ``last`` rows, never sorted."""
    heads = [_head("Model", "words", False)]
    greatest = []
    ordering = next((column for column in columns if column.orders and any(column.value(row) is not None for row in rows)), None)
    groups = _rules(columns) if len({column.rule for column in columns} - {None}) > 1 else ""
    begins = [" begins" * bool(groups and column.rule != before) for column, before in zip(columns, [None, *(c.rule for c in columns)])]
    for column, begin in zip(columns, begins):
        heads.append(_head(column.title, _kind(column) + begin, column.falling, column is ordering))
        greatest.append(max((column.value(row) or 0 for row in rows), default=0) if column.metric else 0)
    body = []
    for row in rows:
        cells = "".join(_cell(row, column, most, column is ordering, begin) for column, most, begin in zip(columns, greatest, begins))
        body.append(f'<tr data-family="{_family(row)}">{_name_cell(row)}{cells}</tr>')
    return _frame(title, f"{groups}<tr>{''.join(heads)}</tr>", "".join(body) + last, "sortable")


def _rules(columns: Sequence[Column]) -> str:
    """A row above a table's head: which columns are of which rule on met items."""
    cells = ["<td></td>"]
    for rule, part in groupby(columns, key=lambda column: column.rule):
        tag, scope, words = ("th", ' scope="colgroup"', RULE_NAMES[rule]) if rule else ("td", "", "")
        cells.append(f'<{tag}{scope} class="begins" colspan="{len(list(part))}">{words}</{tag}>')
    return f'<tr class="groups">{"".join(cells)}</tr>'


def _frame(title: str, head: str, body: str, kind: str = "") -> str:
    return (
        f'<div class="scroll" role="region" aria-label="{escape(title)}" tabindex="0"><table class="{kind}">'
        f"<thead>{head}</thead><tbody>{body}</tbody></table></div>"
    )


def _head(title: str, kind: str, falling: bool, chosen: bool = False) -> str:
    order = ' aria-sort="descending"' if chosen else ""
    return f'<th scope="col" class="{kind}" data-falling="{str(falling).lower()}"{order}>{escape(title)}</th>'


def _kind(column: Column) -> str:
    return "outside" if column.outside else "words" if column.words else ""


def _words(shown: str) -> str:
    return "words long" if len(shown) > LONG else "words"


def _name_cell(row: Row) -> str:
    variant = f"<small>{escape(row['variant'])}</small>" if row["variant"] else ""
    return f'<th scope="row" class="row" data-value="{escape(row["name"])}">{_glyph(_family(row))}{escape(row["name"])}{variant}</th>'


def _cell(row: Row, column: Column, greatest: float, ordering: bool, begin: str) -> str:
    """A cell; those of metrics carry the length of the bar that shows when the table is sorted by them. ``begin``: a class of its place."""
    value, shown, note = column.value(row), escape(column.text(row)), column.note(row)
    kind = _words(column.text(row)) if column.words else _kind(column)
    if ordering:
        kind = "on"
    bar = f' style="--share:{100 * value / greatest:.1f}%"' if column.metric and value and greatest else ""
    if column.is_bold(row):
        shown = f"<strong>{shown}</strong>"
    small = f"<small>{escape(note)}</small>" if note else ""
    sorted_by = "" if value is None else escape(str(value))
    return f'<td class="{kind}{begin}" data-value="{sorted_by}"{bar}>{shown}{small}</td>'


def _plain_table(title: str, head: Sequence[str], rows: Iterable[Sequence[str]], figures: bool = False) -> str:
    """A table of words, or of figures: the first cell of a row is its head."""
    kinds = ["words", *["" if figures else "words"] * (len(head) - 1)]
    heads = "".join(f'<th scope="col" class="{kind}">{escape(name)}</th>' for kind, name in zip(kinds, head))
    body = []
    for first, *cells in rows:
        shown = "".join(f'<td class="{"" if figures else _words(cell)}">{escape(cell)}</td>' for cell in cells)
        body.append(f'<tr><th scope="row">{escape(first)}</th>{shown}</tr>')
    return _frame(title, f"<tr>{heads}</tr>", "".join(body))


def _failed(report: dict[str, Any]) -> str:
    if not report["failed"]:
        return ""
    return "<h3>Failed units</h3>" + _plain_table("Failed units", text.FAILED_HEAD, text.failed_rows(report))


def _leads(report: dict[str, Any]) -> str:
    if not report["leads"]:
        return ""
    title = "Who leads, and whether it is more than noise"
    table = _plain_table(title, text.LEAD_HEAD, map(text.lead_cells, report["leads"]))
    parts = [f'<h3>{title}</h3><p class="small">{escape(text.LEADS)}</p>{table}']
    if report["best"][1:]:  # of a single one the table above has told
        table = _plain_table("The best row and every other", text.BEST_HEAD, map(text.lead_cells, report["best"]))
        parts.append(f'<p class="small">{escape(text.BEST)}</p>{table}')
    return "".join(parts)


def _grid(report: dict[str, Any]) -> str:
    head, rows = text.grid_table(report)
    if not rows:
        return ""
    title = "Tokenizers and generators"
    return f'<h3>{title}</h3><p class="small">{escape(text.GRID)}</p>' + _plain_table(title, head, rows, figures=True)


def _slices(report: dict[str, Any]) -> str:
    if not report["slices"]:
        return ""
    parts = [
        f'<h3>Slices of users, {RULE_NAMES[report["rule"]]}</h3><p class="small">{escape(text.SLICES)} {escape(text.sizes(report))}</p>'
    ]
    for metric in text.TABLE_METRICS:
        title = text.title_of(metric)
        table = _table(report["rows"], slice_columns(report, metric), f"{title} in slices of users")
        parts.append(f"<h4>{title}</h4>{table}")
    return "".join(parts)


def _published(report: dict[str, Any]) -> str:
    if not report["published"]:
        return ""
    table = _plain_table("Published elsewhere", text.PUBLISHED_HEAD, map(text.published_cells, report["published"]["entries"]))
    return f'<h3>Published elsewhere</h3><p class="small">{escape(report["published"]["note"])}</p>{table}'


def _made(report: dict[str, Any]) -> str:
    terms = "".join(f"<dt>{escape(name)}</dt><dd>{escape(words)}</dd>" for name, words in text.facts(report))
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
        points.append(Point(text.label(row), _family(row), seconds, figures["mean"], figures["std"] or 0))
    if not points:
        return ""
    titles = ("Training, seconds (tokenizer included)", f"Test NDCG@10, {RULE_NAMES[report['rule']]}")
    wide, narrow = (scatter(points, *titles, *size, log_x=True) for size in ((1120, 440), (380, 360)))
    return (
        f'<h3>Accuracy against cost</h3><figure><div class="wide">{wide}</div><div class="narrow">{narrow}</div>'
        f"<figcaption>Whiskers: ± one standard deviation over seeds. {_key(rows)}</figcaption></figure>"
    )


def _relations(report: dict[str, Any]) -> str:
    if not report["relations"]:
        return ""
    parts = [f'<h3>SID quality against Recall@10, {RULE_NAMES[report["rule"]]}</h3><p class="small">{escape(text.RELATIONS)}</p>']
    for relation in report["relations"]:
        charts = []
        for key, found in relation["spearman"].items():
            points = [
                Point(mark["tokenizer"], mark["family"], mark["quality"][key], mark["recall@10"]["mean"], mark["recall@10"]["std"] or 0)
                for mark in relation["points"]
                if key in mark["quality"]
            ]
            chart = scatter(points, text.title_of(key), "Test Recall@10", 380, 290)
            charts.append(f"<figure>{chart}<figcaption>{text.title_of(key)}: {escape(text.correlation(found))}</figcaption></figure>")
        few = text.few(relation)
        parts.append(f'<h4>{escape(relation["generator"])}</h4><div class="trio">{"".join(charts)}</div><p class="small">{escape(few)}</p>')
    return "".join(parts)


# -- families ----------------------------------------------------------------------------------------------------------------


def _family(row: Row) -> str:
    return row["family"] if row["family"] in FAMILIES else "other"


def _glyph(family: str) -> str:
    return f'<svg class="glyph {family}" viewBox="0 0 12 12" aria-hidden="true">{mark(family, 6, 6)}</svg>'


def _families(rows: Sequence[Row]) -> list[str]:
    return [family for family in (*FAMILIES, "other") if any(_family(row) == family for row in rows)]


def _key(rows: Sequence[Row]) -> str:
    return f'<span class="key">{"".join(f"<span>{_glyph(family)}{family}</span>" for family in _families(rows))}</span>'


def _filter(rows: Sequence[Row]) -> str:
    boxes = "".join(
        f'<label><input type="checkbox" value="{family}" checked>{_glyph(family)}{family} '
        f"({sum(_family(row) == family for row in rows)})</label>"
        for family in _families(rows)
    )
    return f"<fieldset hidden><legend>Families</legend>{boxes}</fieldset>"
