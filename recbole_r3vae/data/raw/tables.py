"""Tables as shops export them, read as text: CSV and its kin, JSON lines, Parquet."""

from __future__ import annotations

import csv
import gzip
import json
import re
import warnings
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from recbole_r3vae.data.raw.files import RawFile
from recbole_r3vae.errors import UserError, short_repr

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}
_LOOKED_AT = 50  # lines by which the separator is found
_ROWS_AT_ONCE = 200_000
_SKIPPED = re.compile(r"Skipping line \d+")


@dataclass(frozen=True)
class Table:
    """A table as text.

    Args:
        path: Its file.
        form: What the file is, in words.
        cells: Text ``[n, columns]``; what is missing is empty. Lists and mappings are JSON.
        n_skipped: Lines that are none of a table, where they may be passed over.
        line_of: Row to its line in the file, for messages.
    """

    path: Path
    form: str
    cells: pd.DataFrame
    n_skipped: int
    line_of: Callable[[int], int]


def read_table(path: Path, skip_bad_lines: bool = False, show_progress: bool = True) -> Table:
    """Read a table whose columns have names.

    Args:
        path: A file that ends in ``.parquet`` or ``.pq``; in ``.jsonl``, ``.ndjson`` or ``.json``, with an object a line; or in anything
            else, with a first line of names and commas, semicolons or tabs between cells. Text may be gzip-compressed.
        skip_bad_lines: Pass over lines that are no JSON object or have more cells than the first.
        show_progress: Show a progress bar over the file's bytes.

    Raises:
        UserError: the file cannot be read, is no such table, holds no rows, or has a line that is malformed.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist or is no file; give the path of a table")
    ending = Path(path.stem if path.suffix == ".gz" else path.name).suffix.lower()
    with open(path, "rb") as file:
        magic = file.read(4)
    if ending in (".parquet", ".pq"):
        table = _read_parquet(path)
    elif magic.startswith(b"PK\x03\x04"):
        raise UserError(f"{path} is a zip archive or a workbook; unpack it, or save the sheet as CSV")
    elif ending in (".jsonl", ".ndjson", ".json"):
        table = _read_json_lines(path, skip_bad_lines, show_progress)
    else:
        table = _read_delimited(path, magic.startswith(b"\x1f\x8b"), skip_bad_lines, show_progress)
    if table.cells.empty:
        raise UserError(f"{path} holds no rows; give a table with a first line of names and a line for each row")
    return table


# -- CSV -----------------------------------------------------------------------------------------------------------------


def _read_delimited(path: Path, compressed: bool, skip_bad_lines: bool, show_progress: bool) -> Table:
    first_lines = [line for _, line in islice(RawFile(path).lines(show_progress=False), _LOOKED_AT)]
    separator = _separator(path, first_lines)
    try:
        with open(path, "rb") as raw, warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always", pd.errors.ParserWarning)
            chunks = pd.read_csv(
                gzip.GzipFile(fileobj=raw) if compressed else raw, sep=separator, dtype=str, na_filter=False, index_col=False,
                encoding="utf-8-sig", on_bad_lines="warn" if skip_bad_lines else "error", chunksize=_ROWS_AT_ONCE,
            )  # fmt: skip
            bar = tqdm(total=path.stat().st_size, desc=path.name, unit="B", unit_scale=True, disable=not show_progress)
            with chunks, bar:
                read = []
                for chunk in chunks:
                    read.append(chunk)
                    bar.update(raw.tell() - bar.n)
            cells = pd.concat(read)
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text ({error.reason}); save it as UTF-8") from error
    except (pd.errors.ParserError, EOFError, OSError) as error:
        reason = str(error).removeprefix("Error tokenizing data. C error: ").strip()
        raise UserError(f"{path} cannot be read as a table: {reason}; mend it, or pass over such lines by --skip_bad_lines") from error
    n_skipped = sum(len(_SKIPPED.findall(str(warning.message))) for warning in said)
    cells = cells.fillna("")  # those that a short line lacks
    return Table(path, f"{SEPARATORS[separator]} between cells", cells, n_skipped, lambda row: _line_of(path, separator, row))


def _separator(path: Path, lines: list[str]) -> str:
    """What stands between cells: that which cuts most lines into as many cells as the first has names, and then into most."""
    widths = {separator: _widths(lines, separator) for separator in SEPARATORS}
    best = max(SEPARATORS, key=lambda separator: _fit(widths[separator]))
    if _fit(widths[best]) == (0, 0):
        raise UserError(
            f"{path}: the first line {short_repr(lines[0] if lines else '')} names no two columns; separate cells by commas, semicolons or "
            "tabs, and begin with a line of names"
        )
    if len(widths[best]) > 1 and widths[best][1] > widths[best][0]:  # pandas would take the first cells for numbers of rows
        n_names, n_cells = widths[best][:2]
        raise UserError(f"{path}: the first line names {n_names} columns and the second has {n_cells} cells; name every column")
    return best


def _widths(lines: list[str], separator: str) -> list[int]:
    try:
        return [len(cells) for cells in csv.reader(lines, delimiter=separator)]
    except csv.Error:  # a cell of more than 131,072 characters, since quotation marks pair otherwise with this separator
        return []


def _fit(widths: list[int]) -> tuple[float, int]:
    """How well a separator fits: the share of lines as wide as the first, and how wide that is."""
    if not widths or widths[0] < 2:
        return 0, 0
    return sum(width == widths[0] for width in widths) / len(widths), widths[0]


def _line_of(path: Path, separator: str, row: int) -> int:
    """The line on which a row begins; a cell in quotation marks may hold line ends."""
    with gzip.open(path) if path.read_bytes()[:2] == b"\x1f\x8b" else open(path, "rb") as raw:
        reader = csv.reader((line.decode("utf-8-sig") for line in raw), delimiter=separator)
        place, start = -2, 1
        for cells in reader:
            place += bool(cells) and (len(cells) > 1 or bool(cells[0].strip()))  # pandas passes over blank lines
            if place == row:
                return start
            start = reader.line_num + 1
    raise IndexError(f"{path} has no row {row}")


# -- JSON lines, Parquet -------------------------------------------------------------------------------------------------


def _read_json_lines(path: Path, skip_bad_lines: bool, show_progress: bool) -> Table:
    file, records, lines, n_skipped = RawFile(path), [], array("q"), 0
    for number, line in file.lines(show_progress):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        if isinstance(record, dict):
            records.append({str(name): _text(value) for name, value in record.items()})
            lines.append(number)
        elif skip_bad_lines:
            n_skipped += 1
        else:
            raise file.error(number, line, "one JSON object a line (--skip_bad_lines passes over others)")
    return Table(path, "JSON lines", pd.DataFrame(records, dtype=object).fillna(""), n_skipped, lines.__getitem__)


def _read_parquet(path: Path) -> Table:
    try:
        frame = pd.read_parquet(path)
    except ImportError as error:
        raise UserError(f"{path} is Parquet, which pandas reads with pyarrow; pip install pyarrow, or save it as CSV") from error
    except Exception as error:  # pyarrow has its own for each kind of damage
        raise UserError(f"{path} cannot be read as Parquet ({' '.join(str(error).split())}); write it again") from error
    if isinstance(frame.index, pd.MultiIndex) or frame.index.name is not None:
        frame = frame.reset_index()
    cells = pd.DataFrame({str(name): _column_text(frame[name]) for name in frame}, dtype=object)
    return Table(path, "Parquet", cells, 0, lambda row: row + 1)


def _column_text(column: pd.Series) -> list[str]:
    if isinstance(column.dtype, pd.DatetimeTZDtype) or column.dtype.kind == "M":
        return ["" if pd.isna(value) else value.isoformat() for value in column]
    return [_text(value) for value in column.astype(object)]


def _text(value: Any) -> str:
    """One cell. Whole numbers have no point: a column of numbers with gaps holds floats, ids among them."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, str):
        return value
    if isinstance(value, (list, tuple, dict, np.ndarray)):
        return json.dumps(value, ensure_ascii=False, default=lambda entry: entry.tolist() if isinstance(entry, np.ndarray) else str(entry))
    if value is None or value is pd.NA or value is pd.NaT or value != value:
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return value.isoformat() if isinstance(value, date) else str(value)
