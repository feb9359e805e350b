"""Cleaning a shop's events and catalogue; what is repaired is counted, what cannot be read is refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from recbole_r3vae.data.atomic_check import MISSING, PADDING
from recbole_r3vae.data.raw.columns import Columns, list_of
from recbole_r3vae.data.raw.files import clean_text, name_sequence
from recbole_r3vae.data.raw.format import Rows
from recbole_r3vae.data.raw.tables import Table
from recbole_r3vae.data.raw.times import parse_times
from recbole_r3vae.errors import UserError, short_repr

ORDER, SECONDS = ":order", ":seconds"
"""Columns beside those of a table, which no shop calls so: times without loss, and as seconds since 1970."""

_NONE = MISSING | {PADDING, ""}
_NO_ID = re.compile(r'^"|[\x00-\x1f\x7f-\x9f\u2028\u2029]')
_ID = "an id without a quotation mark before it or a line end in it"
_UNTIDY = r"[\t\n\r\v\f]"


@dataclass
class Repairs:
    """Counts what is repaired, and refuses what is not.

    Args:
        skip_bad_lines: Whether what cannot be read is dropped.
        counts: Kind of repair to how often it was made.
    """

    skip_bad_lines: bool
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, what: str, n: int) -> None:
        """Count a repair that was made ``n`` times."""
        if n:
            self.counts[what] = self.counts.get(what, 0) + int(n)

    def keep(self, rows: pd.DataFrame, kept: np.ndarray | pd.Series, what: str) -> pd.DataFrame:
        """The rows that are ``kept``, bool ``[n]``; the others are counted."""
        self.add(what, (~kept).sum())
        return rows[kept]

    def drop_bad(self, table: Table, rows: pd.DataFrame, bad: np.ndarray, column: str, expected: str) -> pd.DataFrame:
        """Rows without those that are ``bad``, bool ``[n]``; their index says where they stand in the table.

        Raises:
            UserError: some are bad, and bad lines are not skipped; the message names file, line and value.
        """
        if bad.any() and not self.skip_bad_lines:
            first = int(bad.argmax())
            way = "no line has one: mend the column" if bad.all() else f"mend it, or drop {bad.sum():,} such lines by --skip_bad_lines"
            raise UserError(
                f"{table.path}, line {table.line_of(int(rows.index[first]))}: {column} is {short_repr(rows[column].iloc[first])}; expected "
                f"{expected}; {way}"
            )
        return self.keep(rows, ~bad, f"lines dropped whose {column} is not {expected}")


def clean_events(table: Table, found: Columns, repairs: Repairs) -> tuple[pd.DataFrame, str]:
    """The events in the order of the table, with their times as :data:`ORDER` and :data:`SECONDS`; and what the times are, in words."""
    wanted = [column for column in (found.user, found.item, found.time, found.rating) if column is not None]
    rows = table.cells[wanted].apply(lambda cells: cells.str.strip())
    for column in wanted[:3]:
        rows = repairs.keep(rows, ~rows[column].isin(_NONE), f"events dropped without {column}")
    for column in wanted[:2]:
        rows = repairs.drop_bad(table, rows, _in_unique(rows[column], _NO_ID.search), column, _ID)
    times = parse_times(rows[found.time])
    rows = rows.assign(**{ORDER: times.order, SECONDS: times.seconds})
    rows = repairs.drop_bad(table, rows, times.bad, found.time, f"a time in {times.form}")
    if found.rating is not None:
        number = pd.to_numeric(rows[found.rating].str.replace(",", ".", regex=False), errors="coerce")
        bad = ~np.isfinite(number) & ~rows[found.rating].isin(_NONE)
        rows = repairs.drop_bad(table, rows, bad.to_numpy(), found.rating, "a finite number")
        rows = rows.assign(**{found.rating: number[rows.index]})
        repairs.add("events kept without a rating", rows[found.rating].isna().sum())
    same = [found.user, found.item, ORDER, *wanted[3:]]
    rows = repairs.keep(rows, ~rows.duplicated(same), "events dropped that another repeats exactly")
    if rows[SECONDS].nunique() < rows[ORDER].nunique():  # nanoseconds that a float64 does not tell apart: the file's order will
        rows = rows.sort_values(ORDER, kind="stable")
    return rows, times.form


def clean_catalogue(table: Table, found: Columns, repairs: Repairs) -> Rows:
    """Item to its texts, one for each column of text."""
    cells = table.cells[[found.id, *found.text]]
    cells = cells.assign(**{found.id: cells[found.id].str.strip()})
    cells = repairs.keep(cells, ~cells[found.id].isin(_NONE), f"items dropped without {found.id}")
    cells = repairs.drop_bad(table, cells, _in_unique(cells[found.id], _NO_ID.search), found.id, _ID)
    cells = repairs.keep(cells, ~cells[found.id].duplicated(), "rows of the catalogue dropped whose item came before")
    texts = []
    for column in found.text:
        repairs.add(f"texts of {column} in which tabs or line ends became spaces", cells[column].str.strip().str.contains(_UNTIDY).sum())
        lists = [list_of(text.strip()) for text in cells[column]]
        as_lists = sum(entries is not None for entries in lists) > 0.5 * (cells[column].str.strip() != "").sum()
        texts.append([
            name_sequence(map(str, entries)) if as_lists and entries is not None else clean_text(text)
            for entries, text in zip(lists, cells[column])
        ])  # fmt: skip
    return dict(zip(cells[found.id], zip(*texts) if texts else [()] * len(cells)))


def _in_unique(cells: pd.Series, is_so: Callable[[str], object]) -> np.ndarray:
    """Whether something holds of each cell, bool ``[n]``, asked once for each value."""
    codes, unique = pd.factorize(cells)
    return np.array([bool(is_so(value)) for value in unique], dtype=bool)[codes]
