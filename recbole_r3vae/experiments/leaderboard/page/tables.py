"""A leaderboard's tables as HTML: of rows and columns, which are sorted and filtered, and of words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from itertools import groupby

from recbole_r3vae.experiments.leaderboard.columns import Column
from recbole_r3vae.experiments.leaderboard.figures import Row
from recbole_r3vae.experiments.leaderboard.page.families import family_of, glyph
from recbole_r3vae.experiments.leaderboard.records import RULE_NAMES

LONG = 40  # letters from which on a cell is given more room


def row_table(rows: Sequence[Row], columns: Sequence[Column], title: str, last: str = "") -> str:
    """A table that scrolls in its own frame, which says so where it does.

    Above its head stand the rules on met items where it has both, below it ``last`` rows, which are never sorted.
    """
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
        body.append(f'<tr data-family="{family_of(row)}">{_name_cell(row)}{cells}</tr>')
    return _frame(title, f"{groups}<tr>{''.join(heads)}</tr>", "".join(body) + last, "sortable")


def _rules(columns: Sequence[Column]) -> str:
    """A row above a table's head: which columns are of which rule on met items."""
    cells = ["<td></td>"]
    for rule, part in groupby(columns, key=lambda column: column.rule):
        tag, scope, words = ("th", ' scope="colgroup"', RULE_NAMES[rule]) if rule else ("td", "", "")
        cells.append(f'<{tag}{scope} class="begins" colspan="{len(list(part))}">{words}</{tag}>')
    return f'<tr class="groups">{"".join(cells)}</tr>'


def _head(title: str, kind: str, falling: bool, chosen: bool = False) -> str:
    order = ' aria-sort="descending"' if chosen else ""
    return f'<th scope="col" class="{kind}" data-falling="{str(falling).lower()}"{order}>{escape(title)}</th>'


def _name_cell(row: Row) -> str:
    variant = f"<small>{escape(row['variant'])}</small>" if row["variant"] else ""
    return f'<th scope="row" class="row" data-value="{escape(row["name"])}">{glyph(family_of(row))}{escape(row["name"])}{variant}</th>'


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


def _kind(column: Column) -> str:
    return "outside" if column.outside else "words" if column.words else ""


def plain_table(title: str, head: Sequence[str], rows: Iterable[Sequence[str]], figures: bool = False, kind: str = "") -> str:
    """A table of words, or of figures: the first cell of a row is its head. ``kind`` is a class of the style sheet."""
    kinds = ["words", *["" if figures else "words"] * (len(head) - 1)]
    heads = "".join(f'<th scope="col" class="{kind}">{escape(name)}</th>' for kind, name in zip(kinds, head))
    body = []
    for first, *cells in rows:
        shown = "".join(f'<td class="{"" if figures else _words(cell)}">{escape(cell)}</td>' for cell in cells)
        body.append(f'<tr><th scope="row">{escape(first)}</th>{shown}</tr>')
    return _frame(title, f"<tr>{heads}</tr>", "".join(body), kind)


def _words(shown: str) -> str:
    return "words long" if len(shown) > LONG else "words"


def _frame(title: str, head: str, body: str, kind: str = "") -> str:
    return (
        f'<div class="frame"><p class="hint" aria-hidden="true">more columns: scroll sideways →</p>'
        f'<div class="scroll" role="region" aria-label="{escape(title)}" tabindex="0"><table class="{kind}">'
        f"<thead>{head}</thead><tbody>{body}</tbody></table></div></div>"
    )
