"""The items of an atomic ``.item`` file, a bounded number at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recbole_r3vae.data.atomic_check import check_atomic_file, read_fields
from recbole_r3vae.errors import UserError, short_repr

ROWS = 4096
"""Lines that are held at a time."""


@dataclass(frozen=True)
class ReadingSettings:
    """How an atomic file is read: RecBole's keys of a run.

    Attributes:
        separator: ``field_separator``.
        encoding: of the text.
        id_field: ``ITEM_ID_FIELD``.
    """

    separator: str = "\t"
    encoding: str = "utf-8"
    id_field: str = "item_id"

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> ReadingSettings:
        """Those of a run's settings, as they stand in its checkpoint; what they do not say is RecBole's default."""
        keys = {"separator": "field_separator", "encoding": "encoding", "id_field": "ITEM_ID_FIELD"}
        return cls(**{name: settings[key] for name, key in keys.items() if settings.get(key) is not None})


def read_items(
    path: str | os.PathLike, fields: Sequence[str], reading: ReadingSettings = ReadingSettings()
) -> Iterator[tuple[list[str], list[dict]]]:
    """Items of an atomic file, a bounded number at a time, parsed as RecBole parses them.

    Args:
        path: A file whose header reads ``item_id:token  title:token_seq …``.
        fields: The fields to read; those that the file lacks are left out.
        reading: What separates its columns, and what the item's id is called.

    Yields:
        Item ids and, for each, its fields by name: words as a string, a ``float`` as a number.

    Raises:
        UserError: the file cannot be read, or has no item ids or none of the fields.
    """
    id_field, form = reading.id_field, (reading.separator, reading.encoding)
    check_atomic_file(Path(path), *form, ids=[id_field], unique=id_field, read={*fields, id_field})
    kind = read_fields(Path(path), *form)
    present = [field for field in fields if field in kind and kind[field] != "float_seq"]
    if id_field not in kind or not present:
        missing = f"the field {id_field!r}" if id_field not in kind else f"any of the fields {', '.join(fields)}"
        raise UserError(f"{path} lacks {missing}: its first line names {short_repr(', '.join(kind))}; correct it")
    types = {f"{field}:{kind[field]}": np.float64 if kind[field] == "float" else str for field in (id_field, *present)}
    try:
        blocks = pd.read_csv(
            path, sep=reading.separator, usecols=list(types), dtype=types, encoding=reading.encoding, engine="python", chunksize=ROWS
        )
        for block in blocks:
            block.columns = [column.partition(":")[0] for column in block.columns]
            words = [field for field in (id_field, *present) if kind[field] != "float"]
            block[words] = block[words].fillna("")
            yield block[id_field].tolist(), block[present].to_dict("records")
    except (pd.errors.ParserError, UnicodeDecodeError, ValueError) as error:
        raise UserError(f"{path} cannot be read as an atomic file: {' '.join(str(error).split())}; correct the line") from error
