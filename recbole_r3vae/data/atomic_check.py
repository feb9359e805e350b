"""What RecBole would misread in an atomic file without a word, found before it reads it."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Container, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from recbole_r3vae.errors import UserError, short_repr

TYPES = ("token", "token_seq", "float", "float_seq")
MISSING = frozenset("#N/A|#N/A N/A|#NA|-1.#IND|-1.#QNAN|-NaN|-nan|1.#IND|1.#QNAN|<NA>|N/A|NA|NULL|NaN|None|n/a|nan|null".split("|"))
"""Cells that pandas, with which RecBole reads, takes for empty."""

PADDING = "[PAD]"
"""RecBole's own name of the item and the user that are none."""


def check_atomic_file(
    path: Path,
    separator: str = "\t",
    encoding: str = "utf-8",
    numbers: Iterable[str] = (),
    ids: Iterable[str] = (),
    unique: str | None = None,
    read: Container[str] | None = None,
) -> None:
    """Refuse a file whose lines are not what their header says.

    RecBole reads a line that is too short as missing values and fills them in by the mean of the column; a cell that begins with a
    quotation mark swallows everything up to the next one; a line whose user or item is called ``NA`` or ``null`` goes without a word; an
    item that comes twice moves the features of all items after it. Cells are those that RecBole's reader finds: one in quotation marks
    may hold the separator.

    Args:
        path: An ``.inter``, ``.item`` or ``.user`` file.
        separator: Between columns.
        encoding: Of the text.
        numbers: Fields that must hold a finite number in every line, such as the time of an interaction.
        ids: Fields that must name something in every line.
        unique: The one of them that no two lines may share, such as the id of an item in an ``.item`` file.
        read: Fields that will be read; those of type ``float`` must hold numbers, or nothing. ``None``: all of them.

    Raises:
        UserError: the file cannot be read, or its header or a line is malformed; the message names file and line.
    """
    with _readable(path, encoding), open(path, encoding=encoding, newline="\n") as file:
        types = _fields(path, file.readline(), separator)
        columns = _Columns(types, set(numbers), set(ids), unique, read)
        columns.check_types(path)
        number = 1
        for number, line in enumerate(file, start=2):
            columns.check(number, _cells(f"{path}, line {number}", line, separator, len(types)), path)
    if number == 1:
        raise UserError(f"{path} has no lines after its header; write one line an interaction or item")


class _Columns:
    """What the cells of each column must be.

    Args:
        types: Field to type, in the order of the columns.
        numbers, ids, unique, read: As of :func:`check_atomic_file`.
    """

    def __init__(self, types: dict[str, str], numbers: set[str], ids: set[str], unique: str | None, read: Container[str] | None):
        places = list(enumerate(types))
        optional = {name for name, kind in types.items() if kind == "float" and (read is None or name in read)} - numbers
        self._types, self._numbers, self._ids = types, numbers, ids
        self._number_places = [(place, name, name in optional) for place, name in places if name in numbers | optional]
        self._id_places = [(place, name) for place, name in places if name in ids]
        self._unique_place = next((place for place, name in places if name == unique), None)
        self._line_of: dict[str, int] = {}

    def check_types(self, path: Path) -> None:
        for fields, wanted in ((self._ids, "token"), (self._numbers, "float")):
            wrong = next((name for name in self._types if name in fields and self._types[name] != wanted), None)
            if wrong is not None:
                raise UserError(f"{path}, line 1: column {wrong}:{self._types[wrong]} must be {wrong}:{wanted}; correct its type")

    def check(self, line: int, cells: list[str], path: Path) -> None:
        for place, name in self._id_places:
            if not cells[place].strip() or cells[place] in MISSING or cells[place] == PADDING:
                reason = "RecBole would read that as padding" if cells[place] == PADDING else "RecBole would read that as missing"
                raise UserError(f"{path}, line {line}: {name} is {cells[place]!r}, and {reason}; take another name")
        for place, name, may_be_empty in self._number_places:
            if may_be_empty and (not cells[place] or cells[place] in MISSING):
                continue
            try:
                finite = math.isfinite(float(cells[place]))
            except ValueError:
                finite = False
            if not finite:
                raise UserError(f"{path}, line {line}: {name} is {short_repr(cells[place])}; write a finite number")
        if self._unique_place is not None:
            name = cells[self._unique_place]
            if self._line_of.setdefault(name, line) != line:
                raise UserError(f"{path}, line {line}: {short_repr(name)} stands in line {self._line_of[name]} already; keep one of the lines")


def read_fields(path: Path, separator: str = "\t", encoding: str = "utf-8") -> dict[str, str]:
    """What an atomic file holds, by its first line.

    Args:
        path: An ``.inter``, ``.item`` or ``.user`` file.
        separator: Between columns.
        encoding: Of the text.

    Returns:
        Field to type, in the order of the columns.

    Raises:
        UserError: as of :func:`check_atomic_file`.
    """
    with _readable(path, encoding), open(path, encoding=encoding, newline="\n") as file:
        return _fields(path, file.readline(), separator)


@contextmanager
def _readable(path: Path, encoding: str) -> Iterator[None]:
    try:
        yield
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not {encoding} text ({error.reason}); save it as {encoding}, or set `encoding`") from error
    except (OSError, LookupError) as error:
        raise UserError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}; give a file that can be read") from error


def _fields(path: Path, header: str, separator: str) -> dict[str, str]:
    """Field to type, in the order of the columns of a first line."""
    if not separator:
        raise UserError("field_separator is empty; give what stands between columns, such as a tab or a comma")
    if header.startswith("\ufeff"):
        raise UserError(f"{path}, line 1: the file begins with a byte order mark; save it as UTF-8 without one")
    columns = header.rstrip("\r\n").split(separator)
    parts = [column.split(":") for column in columns]
    for column, part in zip(columns, parts):
        if len(part) != 2 or not part[0] or part[1] not in TYPES:
            raise UserError(
                f"{path}, line 1: column {short_repr(column)} is not <name>:<type>; types are {', '.join(TYPES)}, and {separator!r} separates "
                "columns: set field_separator where another one does"
            )
    names = [name for name, _ in parts]
    twice = next((name for place, name in enumerate(names) if name in names[:place]), None)
    if twice is not None:
        raise UserError(f"{path}, line 1: column {twice!r} comes twice; rename one of them")
    return dict(parts)


def _cells(where: str, line: str, separator: str, n_columns: int) -> list[str]:
    """The cells of a line as RecBole's reader, pandas with its engine ``python``, finds them."""
    line = line.removesuffix("\n").removesuffix("\r")
    if "\r" in line or "\0" in line:
        raise UserError(f"{where}: a carriage return or a zero byte stands within the line; take it out")
    if len(separator) > 1:  # pandas takes it for a regular expression, and knows no quotation marks then
        cells = re.split(separator, line.strip())
    elif line.startswith('"') or f'{separator}"' in line:
        reader = csv.reader([line, ""], delimiter=separator)
        cells = next(reader)
        if reader.line_num != 1:
            raise UserError(f"{where}: a cell begins with a quotation mark that does not end in it; take the mark out")
    else:
        cells = line.split(separator)
    if len(cells) != n_columns:
        raise UserError(f"{where}: expected {n_columns} columns as in line 1, got {len(cells)}; correct the line")
    return cells
