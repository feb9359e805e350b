"""What comes in: files cut into shards, each read by whoever works on it, a bounded number of rows at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from recbole_r3vae.data.content.vectors import VectorFile, unit_rows
from recbole_r3vae.errors import UserError, did_you_mean
from recbole_r3vae.serve.sharded.folder import MANIFEST, pyarrow_parquet, read_manifest

ROWS = 4096
"""Rows that are held at a time."""

SHARD_ROWS = 100_000
"""Rows of a shard, where it is not a row group of a Parquet file."""

VECTOR = "vector"
"""What item vectors are called among the columns of a Parquet file."""


@dataclass(frozen=True)
class Shard:
    """Some rows of a file.

    Attributes:
        number: of the shard, from 0 over all files.
        path: of the file.
        start, stop: the rows, from 0 in the file.
        before: how many rows the shards before this one have.
        group: row group of a Parquet file; ``None`` of others.
    """

    number: int
    path: str
    start: int
    stop: int
    before: int
    group: int | None = None

    @property
    def rows(self) -> int:
        """How many."""
        return self.stop - self.start

    @property
    def source(self) -> str:
        """Which rows, in words."""
        return f"{Path(self.path).name}[{self.start}:{self.stop}]"


def shards_of(source: str | os.PathLike, shard_rows: int = SHARD_ROWS) -> list[Shard]:
    """The shards of a file or of all files of a folder, in the order of their names.

    A shard of Parquet is a row group; of ``.npy`` a slice of ``shard_rows`` rows, whose item ids stand beside it with the ending ``.ids``.
    A folder that this package wrote has to be complete.

    Raises:
        UserError: there is no such file, none that ends so, or files of both kinds; one is damaged; nothing is in them; or the folder is
            incomplete.
    """
    source = Path(source)
    parquet = pyarrow_parquet()
    if source.is_dir():
        if (source / MANIFEST).is_file() and not read_manifest(source)["complete"]:
            raise UserError(f"{source} is incomplete; run the command that makes it again, which goes on where it stopped")
        paths = sorted(path for ending in (".parquet", ".npy") for path in source.glob(f"*{ending}") if not path.name.startswith((".", "_")))
    else:
        paths = [source]
    endings = {path.suffix for path in paths}
    if not paths or not endings <= {".parquet", ".npy"} or len(endings) > 1:
        raise UserError(f"{source} must be a .parquet or .npy file, or a folder of files of one of these kinds; it has {sorted(endings)}")
    pieces: list[tuple[str, int, int, int | None]] = []
    for path in paths:
        if not path.is_file():
            raise UserError(f"there is no {path}; check the path")
        if path.suffix == ".npy":
            n = _shape_of_npy(path)
            pieces += [(str(path), start, min(start + shard_rows, n), None) for start in range(0, n, shard_rows)]
            continue
        try:
            with parquet.ParquetFile(path) as file:
                sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
        except (OSError, ValueError) as error:  # pyarrow's own errors are among these
            raise UserError(f"{path} is no Parquet file or a damaged one ({' '.join(str(error).split())}); write it again") from error
        ends = np.cumsum(sizes).tolist()
        pieces += [(str(path), end - size, end, group) for group, (size, end) in enumerate(zip(sizes, ends)) if size]
    if not pieces:
        raise UserError(f"{source} holds no rows; give files that do")
    shards, before = [], 0
    for number, (path, start, stop, group) in enumerate(pieces):
        shards.append(Shard(number, path, start, stop, before, group))
        before += stop - start
    return shards


def _shape_of_npy(path: Path) -> int:
    try:
        shape = np.lib.format.open_memmap(path, mode="r").shape
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is damaged or no .npy file ({' '.join(str(error).split())}); write it again") from error
    return shape[0] if shape else 0


def stamp_of(shards: Sequence[Shard]) -> list[list[Any]]:
    """What tells whether files are still those that the shards were cut from: name, size, time of change and rows of each shard."""
    stats = {path: os.stat(path) for path in dict.fromkeys(shard.path for shard in shards)}
    return [[Path(s.path).name, stats[s.path].st_size, stats[s.path].st_mtime_ns, s.start, s.stop] for s in shards]


def columns_of(shard: Shard) -> list[str]:
    """The columns of a Parquet shard; of ``.npy`` those that it would have."""
    if shard.group is None:
        return ["item_id", VECTOR]
    with pyarrow_parquet().ParquetFile(shard.path) as file:
        return file.schema_arrow.names


def read_columns(shard: Shard, columns: Sequence[str]) -> Iterator[Any]:
    """Record batches of a Parquet shard with these columns.

    Raises:
        UserError: it has not all of them.
    """
    with pyarrow_parquet().ParquetFile(shard.path) as file:
        missing = next((name for name in columns if name not in file.schema_arrow.names), None)
        if missing is not None:
            hint = did_you_mean(missing, file.schema_arrow.names, otherwise="rename it")
            raise UserError(f"{shard.path} has no column {missing!r}; it has {', '.join(file.schema_arrow.names)}{hint}")
        yield from file.iter_batches(batch_size=ROWS, row_groups=[shard.group], columns=list(columns))


def read_vectors(
    shard: Shard, dim: int, parts: dict[str, slice] | None = None, id_field: str = "item_id"
) -> Iterator[tuple[list[str], np.ndarray]]:
    """Item ids and unit vectors float32 ``[m, d]``, block by block.

    Args:
        shard: of ``.npy``, or of Parquet with a column ``vector`` of lists of numbers.
        dim: d.
        parts: columns of each modality, where there are several; each is scaled by itself.
        id_field: what the ids' column is called in Parquet.

    Raises:
        UserError: a vector has no direction, or another length than d.
    """
    if shard.group is None:
        file = _vector_file(shard.path)
        if file.dim != dim:
            raise UserError(f"{shard.path} gives vectors of length {file.dim}, the model takes {dim}; use the same encoder")
        for start in range(shard.start, shard.stop, ROWS):
            rows = np.arange(start, min(start + ROWS, shard.stop))
            yield [file.ids[row] for row in rows], np.concatenate(list(file.unit_blocks(rows, parts))).astype(np.float32, copy=False)
        return
    import pyarrow.compute

    for batch in read_columns(shard, [id_field, VECTOR]):
        ids, column = text_of(batch.column(0)), batch.column(1)
        lengths = set(pyarrow.compute.list_value_length(column).to_pylist())
        if lengths != {dim}:
            given = ", ".join(sorted("none" if n is None else str(n) for n in lengths))
            raise UserError(f"{shard.path} gives vectors of length {given}, the model takes {dim}; use the same encoder")
        raw = column.flatten().to_numpy(zero_copy_only=False).astype(np.float64).reshape(-1, dim)  # [m, d]
        yield ids, unit_rows(raw, parts, lambda row: f"{shard.path}: the vector of item {ids[row]!r}").astype(np.float32)


@lru_cache(maxsize=4)
def _vector_file(path: str) -> VectorFile:
    return VectorFile(path)  # its ids are read once, however many shards it has


def read_records(shard: Shard, id_field: str, fields: Sequence[str]) -> Iterator[tuple[list[str], list[dict[str, Any]]]]:
    """Item ids and the fields of each item, block by block; fields that the file lacks are left out.

    Raises:
        UserError: it has none of the fields, or no ids.
    """
    present = [field for field in fields if field in columns_of(shard)]
    if not present:
        raise UserError(f"{shard.path} has none of the text fields {', '.join(fields)}; it has {', '.join(columns_of(shard))}")
    for batch in read_columns(shard, [id_field, *present]):
        records = [{key: "" if value is None else value for key, value in row.items()} for row in batch.select(present).to_pylist()]
        yield text_of(batch.column(0)), records


def text_of(column: Any) -> list[str]:
    """The ids of a column, numbers as text.

    Raises:
        UserError: one is missing.
    """
    values = column.to_pylist()
    if None in values:
        raise UserError(f"row {values.index(None)} of a block has no id; every row needs one")
    return [str(value) for value in values]
