"""What goes out: a folder of Parquet files, one a shard, and a manifest that names them; resumable, each shard exactly once."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recbole_r3vae.config import fingerprint
from recbole_r3vae.errors import UserError
from recbole_r3vae.io import atomic_write, locked, write_json

if TYPE_CHECKING:
    from recbole_r3vae.serve.sharded.shards import Shard

MANIFEST = "manifest.json"
SCHEMA = 1  # of the manifest
MARK = b"recbole_r3vae"
"""Under which a part's metadata says of which work it is."""


def pyarrow_parquet():
    """The module.

    Raises:
        UserError: it is not installed.
    """
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise UserError("sharded work reads and writes Parquet, which needs pyarrow; run pip install 'recbole-r3vae[ray]'") from error
    return parquet


def read_manifest(folder: str | os.PathLike) -> dict[str, Any]:
    """The manifest of a folder.

    Raises:
        UserError: there is none, or it is damaged or of another schema.
    """
    path = Path(folder) / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if manifest["schema"] != SCHEMA:
            raise ValueError(f"schema {manifest['schema']!r}, this version reads {SCHEMA}")
        return manifest
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is no manifest of sharded work ({error}); give a folder that this package wrote") from error


class ShardFolder:
    """A folder that fills up with one Parquet file a shard, in any order and by any number of processes.

    A part is whole or absent, and says in its own metadata of which work and which shard it is. So whatever kills a process, what is there
    is right and stays, and who writes a part twice puts the same rows into the same place.

    Args:
        path: the folder; it is made.
        command: what is done, ``embed``, ``tokenize`` or ``recommend``.
        settings: all that the rows depend on, as plain data.
        shards: what the parts are made of.

    Attributes:
        key: a hash of command, settings and shards; another one is other work.
    """

    def __init__(self, path: str | os.PathLike, command: str, settings: Mapping[str, Any], shards: Sequence[Shard]):
        self.path, self.command, self.settings = Path(path), command, dict(settings)
        self.sources = [shard.source for shard in shards]
        self.key = fingerprint({"command": command, "settings": self.settings, "sources": self.sources})

    @contextmanager
    def opened(self) -> Iterator[bool]:
        """Make the folder this work's, and keep other processes from starting work in it.

        Yields:
            Whether it is complete already.

        Raises:
            UserError: it holds other files, or other work.
        """
        if self.path.is_dir() and not (self.path / MANIFEST).is_file() and any(not p.name.startswith(".") for p in self.path.iterdir()):
            raise UserError(f"--output {self.path} holds files already; give a new folder")
        with locked(self.path / ".lock", "--output"):
            complete = False
            if (self.path / MANIFEST).is_file():
                manifest = read_manifest(self.path)
                if manifest["key"] != self.key:
                    raise UserError(
                        f"--output {self.path} holds the shards of other work: command, settings, model or input differ; give another folder, "
                        "or delete this one"
                    )
                complete = manifest["complete"]
            else:
                self._write_manifest(False, [{"file": self.part(n).name, "source": source} for n, source in enumerate(self.sources)])
            yield complete

    def part(self, number: int) -> Path:
        """The file of a shard."""
        return self.path / f"part-{number:05d}.parquet"

    def rows_of(self, number: int) -> int | None:
        """How many rows the finished part of a shard has; ``None`` where there is none of this work."""
        parquet = pyarrow_parquet()
        try:
            footer = parquet.read_metadata(self.part(number))
        except (OSError, ValueError):
            return None
        return footer.num_rows if (footer.metadata or {}).get(MARK) == self._mark(number) else None

    def write(self, number: int, tables: Iterator[Any]) -> int:
        """Write the part of a shard, whole or not at all.

        Args:
            number: of the shard.
            tables: pyarrow tables of one schema, at least one.

        Returns:
            Its rows.
        """
        parquet, rows = pyarrow_parquet(), 0
        with atomic_write(self.part(number), "wb") as file:
            first = next(tables)
            schema = first.schema.with_metadata({MARK: self._mark(number)})
            with parquet.ParquetWriter(file, schema) as writer:
                writer.write_table(first.cast(schema))
                rows += first.num_rows
                for table in tables:
                    writer.write_table(table.cast(schema))
                    rows += table.num_rows
        return rows

    def finish(self, **more: Any) -> dict[str, Any]:
        """Write the manifest of a complete folder.

        Args:
            more: plain data to keep in it.

        Raises:
            UserError: a part is missing.
        """
        parts = []
        for number, source in enumerate(self.sources):
            rows = self.rows_of(number)
            if rows is None:
                raise UserError(f"{self.part(number)} is gone or was replaced; run the same command again")
            parts.append({"file": self.part(number).name, "source": source, "rows": rows, "bytes": self.part(number).stat().st_size})
        return self._write_manifest(True, parts, rows=sum(part["rows"] for part in parts), **more)

    def _mark(self, number: int) -> bytes:
        return f"{self.key}/{number}".encode()

    def _write_manifest(self, complete: bool, parts: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        manifest = {
            "schema": SCHEMA, "command": self.command, "key": self.key, "complete": complete, **more, "settings": self.settings, "shards": parts
        }  # fmt: skip
        write_json(self.path / MANIFEST, manifest)
        return manifest


def read_parts(folder: str | os.PathLike) -> Iterator[Any]:
    """The pyarrow tables of a complete folder, part by part, in the order of its shards.

    Raises:
        UserError: it is no such folder, incomplete, or a part is not as the manifest says.
    """
    folder, parquet = Path(folder), pyarrow_parquet()
    manifest = read_manifest(folder)
    if not manifest["complete"]:
        raise UserError(f"{folder} is incomplete; run the command that makes it again, which goes on where it stopped")
    for part in manifest["shards"]:
        table = parquet.read_table(folder / part["file"])
        if table.num_rows != part["rows"]:
            raise UserError(f"{folder / part['file']} has {table.num_rows} rows, the manifest says {part['rows']}; make the folder again")
        yield table
