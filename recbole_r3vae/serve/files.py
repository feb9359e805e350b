"""The files around a trained model: histories as they stream in, recommendations as they stream out."""

from __future__ import annotations

import ast
import csv
import json
import os
import re
from collections.abc import Container, Iterator
from itertools import chain
from pathlib import Path
from typing import IO, TYPE_CHECKING

import pandas as pd

from recbole_r3vae.errors import UserError, did_you_mean, short_repr
from recbole_r3vae.io import atomic_write

if TYPE_CHECKING:
    import pyarrow


def split_ids(text: str, known: Container[str] = ()) -> list[str]:
    """Item ids of one cell or argument.

    A list as JSON, Python or numpy writes it, ``[21, 22]``, ``["a, b", "c"]``, ``['a' 'b']``, is taken as it is. Otherwise ids are
    separated by commas, semicolons or white space: by that of these which finds most known ids, and where it makes no difference by the
    first that occurs. So ids may hold one of them.

    Args:
        text: of the cell.
        known: the ids that exist, where that is known.
    """
    text = text.strip()
    if text in known:
        return [text]
    listed = _listed(text) if text[:1] + text[-1:] == "[]" else None
    if listed is not None:
        return listed
    ways = [[item for item in map(str.strip, text.split(mark)) if item] for mark in (",", ";", None) if mark is None or mark in text]
    return max(ways, key=lambda items: sum(item in known for item in items)) if known and len(ways) > 1 else ways[0]


QUOTED = r"""\"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'"""
ENTRY = re.compile(rf"({QUOTED}|[^\s,;\"'\[\]]+)(?:\s*[,;]\s*|\s+|$)")


def _listed(text: str) -> list[str] | None:
    """The entries of a list in brackets as they are written there; ``None`` if it is none."""
    try:
        entries = json.loads(text, parse_int=str, parse_float=str)
    except (ValueError, RecursionError):
        inside, entries, place = text[1:-1].strip(), [], 0
        while place < len(inside):
            match = ENTRY.match(inside, place)
            if match is None:
                return None
            entry, place = match[1], match.end()
            try:
                entries.append(ast.literal_eval(entry) if entry[0] in "\"'" else entry)  # a text in quotation marks makes a text
            except (ValueError, SyntaxError):  # with an escape that is none
                return None
    return entries if all(isinstance(entry, str) for entry in entries) else None


def read_ids(path: str | os.PathLike) -> list[str]:
    """A text file of ids, one a line; blank lines are passed over.

    Raises:
        UserError: it cannot be read, or names nothing.
    """
    with _open(path) as file:
        ids = [line.strip() for line in _text(path, file) if line.strip()]
    if not ids:
        raise UserError(f"{path} names no item; write one item id a line")
    return ids


def read_histories(path: str | os.PathLike, known: Container[str] = ()) -> tuple[str, Iterator[tuple[str | int, list[str]]]]:
    """Histories of a CSV file, read line by line as they are asked for.

    The header names a column ``history``, item ids from the oldest to the newest (see :func:`split_ids`), and may name a column ``user``,
    any label of the line. Other columns are passed over. Columns are separated by commas, semicolons or tabs, as in the header.

    Args:
        path: The file.
        known: The item ids that exist, see :func:`split_ids`.

    Returns:
        What the lines are called, ``"user"`` or ``"row"`` (numbered from 0), and an iterator of pairs of name and item ids.

    Raises:
        UserError: there is no such file or column; later, while reading: a line is malformed, or there is none.
    """
    file = _open(path)
    text = _text(path, file)
    try:
        first = next(text, "")
        separator = next((mark for mark in (",", ";", "\t") if "history" in _names(first, mark)), ",")
        header = _names(first, separator)
        if "history" not in header:
            raise UserError(
                f"{path}: its first line names no column 'history', it reads {short_repr(first.rstrip())}; write "
                "user,history or history, and in each line the item ids of a history, separated by spaces"
            )
    except BaseException:
        file.close()
        raise
    lines = csv.reader(text, delimiter=separator)
    history, user = header.index("history"), header.index("user") if "user" in header else None

    def rows() -> Iterator[tuple[str | int, list[str]]]:
        row = -1
        with file:
            try:
                for row, cells in enumerate(cells for cells in lines if cells):
                    if len(cells) != len(header):
                        raise UserError(
                            f"{path}, line {1 + lines.line_num}: expected {len(header)} columns, got {len(cells)}; separate the items of a "
                            "history by spaces, or put it in double quotes"
                        )
                    yield (row if user is None else cells[user]), split_ids(cells[history], known)
            except csv.Error as error:
                raise UserError(f"{path}, line {1 + lines.line_num}: {error}; write it as plain CSV") from error
        if row < 0:
            raise UserError(f"{path} holds no history after its header; write one a line")

    return ("row" if user is None else "user"), rows()


def _names(line: str, separator: str) -> list[str]:
    try:
        return [name.strip() for name in next(csv.reader([line], delimiter=separator), [])]
    except csv.Error:
        return []


# -- recommendations ----------------------------------------------------------------------------------------------------------------


def _write_csv(file: IO[str], frames: Iterator[pd.DataFrame]) -> None:
    for number, frame in enumerate(frames):
        frame.to_csv(file, index=False, header=number == 0, lineterminator="\n")


def _write_jsonl(file: IO[str], frames: Iterator[pd.DataFrame]) -> None:
    for frame in frames:
        file.writelines(f"{json.dumps(row, ensure_ascii=False)}\n" for row in frame.to_dict("records"))


def parquet_schema(frame: pd.DataFrame) -> pyarrow.Schema:
    """Of a table of recommendations: numbers are numbers, also where it is empty."""
    import pyarrow

    kinds = {"rank": pyarrow.int64(), "row": pyarrow.int64(), "score": pyarrow.float64()}
    return pyarrow.schema([(name, kinds.get(name, pyarrow.string())) for name in frame])


def _write_parquet(file: IO[bytes], frames: Iterator[pd.DataFrame]) -> None:
    import pyarrow
    from pyarrow.parquet import ParquetWriter

    first = next(frames)
    schema = parquet_schema(first)
    with ParquetWriter(file, schema) as writer:
        for frame in chain([first], frames):
            writer.write_table(pyarrow.Table.from_pandas(frame, schema, preserve_index=False))


FORMATS = {".csv": ("w", _write_csv), ".jsonl": ("w", _write_jsonl), ".parquet": ("wb", _write_parquet)}
"""Ending of a file to how it is opened and written."""


def check_output(path: str | os.PathLike) -> None:
    """Refuse a file that could not be written, before anything is computed for it.

    Raises:
        UserError: the ending is none of :data:`FORMATS`, or ``.parquet`` without pyarrow.
    """
    ending = Path(path).suffix
    if ending not in FORMATS:
        raise UserError(f"--output {path} ends in {ending!r}; give a file that ends in {', '.join(FORMATS)}")
    if ending == ".parquet":
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError as error:
            raise UserError(f"--output {path} needs pyarrow; run pip install pyarrow, or write .csv or .jsonl") from error


def write_frames(path: str | os.PathLike, frames: Iterator[pd.DataFrame]) -> int:
    """Write tables of equal columns one below the other, each as it comes; the file is whole or absent.

    Args:
        path: A file that ends in ``.csv``, ``.jsonl`` or ``.parquet``.
        frames: At least one table; tables may be empty.

    Returns:
        Number of rows.

    Raises:
        UserError: as :func:`check_output`, or the file cannot be written.
    """
    check_output(path)
    mode, write = FORMATS[Path(path).suffix]
    n_rows = 0

    def counted() -> Iterator[pd.DataFrame]:
        nonlocal n_rows
        for frame in frames:
            n_rows += len(frame)
            yield frame

    with atomic_write(path, mode) as file:
        write(file, counted())
    return n_rows


def _open(path: str | os.PathLike) -> IO[str]:
    try:
        return open(path, encoding="utf-8-sig", newline="")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; check the path") from error


def _text(path: str | os.PathLike, file: IO[str]) -> Iterator[str]:
    try:
        yield from file
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text ({error.reason}); save it as UTF-8") from error
