"""What RecBole would misread in an atomic file without a word, found before it reads it."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable
from pathlib import Path

from recbole_r3vae.errors import UserError

TYPES = ("token", "token_seq", "float", "float_seq")


def check_atomic_file(path: Path, separator: str = "\t", encoding: str = "utf-8", numbers: Iterable[str] = ()) -> None:
    """Refuse a file whose lines are not what their header says.

    RecBole reads a line that is too short as missing values and fills them in by the mean of the column; a cell that begins with a
    quotation mark swallows everything up to the next one.

    Args:
        path: An ``.inter``, ``.item`` or ``.user`` file.
        separator: Between columns.
        encoding: Of the text.
        numbers: Fields that must hold a finite number in every line, such as the time of an interaction.

    Raises:
        UserError: the file cannot be read, or its header or a line is malformed; the message names file and line.
    """
    try:
        with open(path, encoding=encoding, newline="\n") as file:
            names = _field_names(path, file.readline(), separator)
            places = [(name, place) for place, name in enumerate(names) if name in set(numbers)]
            number = 1
            for number, line in enumerate(file, start=2):
                _check_line(f"{path}, line {number}", line, separator, len(names), places)
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not {encoding} text ({error.reason}); save it as {encoding}, or set `encoding`") from error
    except (OSError, LookupError) as error:
        raise UserError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}; give a file that can be read") from error
    if number == 1:
        raise UserError(f"{path} has no lines after its header; write one line an interaction or item")


def _field_names(path: Path, header: str, separator: str) -> list[str]:
    columns = header.rstrip("\r\n").split(separator)
    parts = [column.split(":") for column in columns]
    for column, part in zip(columns, parts):
        if len(part) != 2 or not part[0] or part[1] not in TYPES:
            raise UserError(f"{path}, line 1: column {column!r} is not <name>:<type>; types are {', '.join(TYPES)}, tabs separate columns")
    names = [name for name, _ in parts]
    twice = next((name for place, name in enumerate(names) if name in names[:place]), None)
    if twice is not None:
        raise UserError(f"{path}, line 1: column {twice!r} comes twice; rename one of them")
    return names


def _check_line(where: str, line: str, separator: str, n_columns: int, numbers: list[tuple[str, int]]) -> None:
    line = line.removesuffix("\n").removesuffix("\r")
    if "\r" in line or "\0" in line:
        raise UserError(f"{where}: a carriage return or a zero byte stands within the line; take it out")
    found = line.count(separator) + 1
    if found != n_columns:
        raise UserError(f"{where}: expected {n_columns} columns as in line 1, got {found}; correct the line")
    if line.startswith('"') or f'{separator}"' in line:
        reader = csv.reader([line, ""], delimiter=separator)
        if len(next(reader)) != n_columns or reader.line_num != 1:
            raise UserError(f"{where}: a cell begins with a quotation mark that does not end in it; take the mark out")
    if numbers:
        cells = line.split(separator)
        for name, place in numbers:
            try:
                finite = math.isfinite(float(cells[place]))
            except ValueError:
                finite = False
            if not finite:
                raise UserError(f"{where}: {name} is {cells[place]!r}; write a finite number")
