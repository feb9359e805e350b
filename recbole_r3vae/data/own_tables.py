"""From one's own events and catalogue to atomic files and their settings: ``recbole-r3vae prepare csv``."""

from __future__ import annotations

import argparse
import os
import re
import tempfile
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from recbole_r3vae.config.sources import recbole_properties
from recbole_r3vae.data.atomic_files import publish, write_interactions, write_rows
from recbole_r3vae.data.content.vectors import VectorFile
from recbole_r3vae.data.prepare import DATASETS, k_core
from recbole_r3vae.data.raw.cleaning import SECONDS, Repairs, clean_catalogue, clean_events
from recbole_r3vae.data.raw.columns import Columns, find_columns
from recbole_r3vae.data.raw.format import Interactions, Rows
from recbole_r3vae.data.raw.tables import Table, read_table
from recbole_r3vae.errors import UserError, short_repr
from recbole_r3vae.io import beside, temporary_folder

_NAME = re.compile(r"\w[\w.-]*")
_TAKEN_FIELDS = {"user_id", "item_id", "timestamp", "rating"}
_FEWEST_ITEMS = 1024  # with fewer there are less than four items to a code of the default codebooks
_ITEMS_PER_CODE = 8


@dataclass(frozen=True)
class OwnTablesSummary:
    """What was made of one's own tables.

    Args:
        folder: Where the atomic files are.
        settings: The YAML file that says how to read them.
        n_users, n_items, n_interactions: Counts of what was written; items without an interaction are among them.
        columns: A line for each thing that was found: what it is called now, the column that it came from, what that holds.
        repairs: Kind of repair to how often it was made; none that was not.
    """

    folder: Path
    settings: Path
    n_users: int
    n_items: int
    n_interactions: int
    columns: list[str]
    repairs: dict[str, int]

    def __str__(self) -> str:
        counts = f"{self.n_users:,} users, {self.n_items:,} items, {self.n_interactions:,} interactions"
        repairs = [f"{what}: {n:,}" for what, n in self.repairs.items()] or ["nothing to repair"]
        return "\n".join([*self.columns, *repairs, f"{self.folder.name}: {counts}; in {self.folder}"])


def prepare_tables(
    events: str | os.PathLike,
    items: str | os.PathLike,
    name: str,
    vectors: str | os.PathLike | None = None,
    output: str | os.PathLike = "dataset",
    columns: Mapping[str, str | Sequence[str]] | None = None,
    kcore: int = 0,
    skip_bad_lines: bool = False,
    overwrite: bool = False,
    show_progress: bool = True,
) -> OwnTablesSummary:
    """Turn a table of events and one of items into ``<output>/<name>/<name>.inter``, ``.item`` and ``.yaml``.

    Events keep their time and the order of the table. Items of events that the catalogue lacks are kept, with
    blank text; so are items that nobody met. With vectors, an item without one is left out and its events with it.

    Args:
        events: CSV (commas, semicolons or tabs), JSON lines or Parquet: a user, an item and a time in each row, perhaps a rating.
        items: The catalogue, likewise: an item's id and any columns of text; a list of texts becomes one token each.
        name: Of the data set.
        vectors: Item vectors as :class:`VectorFile` reads them; without a file of ids, a row for each row of the catalogue.
        output: Folder that holds one folder a data set: RecBole's ``data_path``.
        columns: Role to column, or columns of ``text``, where guessing them is not wanted; see :func:`find_columns`.
        kcore: Drop users and items with fewer than this many interactions until none is left; 0 or 1 keeps all.
        skip_bad_lines: Drop lines that cannot be read, and count them.
        overwrite: Replace the files of an earlier call; other files in the folder are left alone.
        show_progress: Show progress bars on standard error.

    Raises:
        UserError: a file or a line cannot be read, a column is not found, the data set exists, or nothing is left to write.
    """
    folder, repairs = Path(output).expanduser() / name, Repairs(skip_bad_lines)
    _check_name(name)
    if kcore < 0:
        raise UserError(f"kcore is {kcore}; expected 0 (no filter) or more")
    _refuse_existing(folder, overwrite)
    event_table, item_table = (read_table(Path(path).expanduser(), skip_bad_lines, show_progress) for path in (events, items))
    given = {role: [names] if isinstance(names, str) else list(names) for role, names in (columns or {}).items()}
    found = find_columns(event_table, item_table, given)
    if not found.text and vectors is None:
        reasons = _reasons(found) or "only ids"
        raise UserError(f"{item_table.path} has no column of text ({reasons}); name some with --columns text=<column>, or give --vectors")
    for table in (event_table, item_table):
        repairs.add(f"lines of {table.path.name} passed over, which are no rows", table.n_skipped)
    met, form = clean_events(event_table, found, repairs)
    rows = clean_catalogue(item_table, found, repairs)
    names = _names(met, rows, event_table, item_table, found, repairs)
    stored = None if vectors is None else _open_vectors(Path(vectors).expanduser(), item_table, found)
    if stored is not None:
        there = set(stored.ids)
        repairs.add("items left out that have no vector", sum(item not in there for item in names))
        names = [item for item in names if item in there]
        met = repairs.keep(met, met[found.item].isin(there), "events dropped whose item has no vector")
    if kcore > 1 and len(met):
        core = k_core(*(pd.factorize(met[column])[0] for column in (found.user, found.item)), kcore)
        met = repairs.keep(met, core, f"events dropped outside of the {kcore}-core")
        there = set(met[found.item])
        repairs.add(f"items left out of the {kcore}-core", sum(item not in there for item in names))
        names = [item for item in names if item in there]
    if not len(met):
        dropped = ", ".join(f"{what}: {n:,}" for what, n in repairs.counts.items()) or "none was there"
        raise UserError(f"no event of {event_table.path} is left ({dropped}); check the columns, or lower --kcore")

    settings = _settings(folder, found, len(names), stored is not None)
    try:
        with temporary_folder(folder) as temporary:
            _write_events(temporary / f"{name}.inter", met, found)
            write_rows(temporary / f"{name}.item", "item_id", [f"{text}:token_seq" for text in _fields(found.text)], names, rows)
            if stored is not None:
                _write_vectors(temporary / f"{name}.npy", stored, names)
            _write_settings(temporary / f"{name}.yaml", settings)
            _refuse_existing(folder, overwrite)  # again: another process may have been faster
            publish(temporary, folder, [f"{name}.{ending}" for ending in ("yaml", "npy", "ids")])
    except OSError as error:
        raise UserError(
            f"cannot write {folder}: {error.strerror or error}; check free space and permissions, or choose another output folder"
        ) from error
    lines = _column_lines(event_table, item_table, found, met, form)
    n_users = met[found.user].nunique()
    return OwnTablesSummary(folder, folder / f"{name}.yaml", n_users, len(names), len(met), lines, repairs.counts)


# -- reading -------------------------------------------------------------------------------------------------------------


def _names(met: pd.DataFrame, rows: Rows, events: Table, items: Table, found: Columns, repairs: Repairs) -> list[str]:
    """All items: those of the catalogue and, behind them, those of events alone."""
    sold = dict.fromkeys(met[found.item])
    without_row = [item for item in sold if item not in rows]
    if sold and len(without_row) == len(sold):
        raise UserError(
            f"none of the {len(sold):,} items of {events.path} ({found.item}: {short_repr(without_row[0])}) is in {items.path} ({found.id}: "
            f"{short_repr(next(iter(rows), ''))}); name the right columns with --columns item=<column> id=<column>"
        )
    repairs.add("items of events kept without a row in the catalogue, their texts blank", len(without_row))
    repairs.add("items of the catalogue kept without an event", sum(item not in sold for item in rows))
    return [*rows, *without_row]


def _open_vectors(path: Path, items: Table, found: Columns) -> VectorFile:
    """Vectors with their ids: those of the file beside them, else of the catalogue's rows."""
    if beside(path, ".ids").is_file():
        return VectorFile(path)
    with tempfile.TemporaryDirectory() as folder:
        ids = Path(folder, items.path.name)
        ids.write_text("".join(f"{item.strip()}\n" for item in items.cells[found.id]), encoding="utf-8")
        try:
            return VectorFile(path, ids)
        except UserError as error:
            why = str(error).replace(f"{folder}{os.sep}", "").partition("; ")[0]
            raise UserError(f"{why}; write the item id of each vector into {beside(path, '.ids')}, one a line") from error


# -- writing -------------------------------------------------------------------------------------------------------------


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise UserError(f"--name is {short_repr(name)}; take letters, digits, '_', '-' and '.', such as shop")
    if name in DATASETS or (recbole_properties() / "dataset" / f"{name}.yaml").is_file():
        raise UserError(f"--name is {name!r}, a public data set with settings of its own; take another name")


def _refuse_existing(folder: Path, overwrite: bool) -> None:
    if folder.exists() and not overwrite:
        raise UserError(f"{folder} exists; --overwrite (overwrite=True) replaces its files, or choose another --name or --output")


def _fields(texts: Sequence[str]) -> list[str]:
    """Names of columns as RecBole can have them: words joined by ``_``, each once and none of the interactions' own."""
    fields: list[str] = []
    for text in texts:
        name = re.sub(r"\W+", "_", text).strip("_").lower() or "text"
        while name in fields or name in _TAKEN_FIELDS:
            name = f"{name}_text"
        fields.append(name)
    return fields


def _write_events(path: Path, met: pd.DataFrame, found: Columns) -> None:
    interactions = Interactions()
    for column, numbers in ((found.user, "user"), (found.item, "item")):
        codes, unique = pd.factorize(met[column])
        setattr(interactions, numbers, array("q", codes.tolist()))
        setattr(interactions, f"{numbers}s", {entry: number for number, entry in enumerate(unique)})
    interactions.timestamp = array("d", met[SECONDS].tolist())
    if found.rating is not None:
        interactions.rating = array("d", met[found.rating].tolist())
    write_interactions(path, interactions, np.arange(len(met)), found.rating is not None)


def _write_vectors(path: Path, stored: VectorFile, names: Sequence[str]) -> None:
    np.save(path, np.concatenate(list(stored.unit_blocks(stored.rows_of(names)))))
    path.with_suffix(".ids").write_text("".join(f"{item}\n" for item in names), encoding="utf-8")


def _settings(folder: Path, found: Columns, n_items: int, has_vectors: bool) -> dict:
    """What a run has to know of the data set."""
    fields = _fields(found.text)
    columns = {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", *fields]}
    settings: dict = {"data_path": str(folder.parent), "load_col": columns}
    if fields:
        settings["item_text_fields"] = fields
    if has_vectors:
        settings |= {"content_encoder": "file", "content_file": str(folder / f"{folder.name}.npy")}
    if n_items < _FEWEST_ITEMS:
        settings["codebook_sizes"] = [max(2, 1 << (n_items // _ITEMS_PER_CODE).bit_length() >> 1)] * 3
    return settings


def _write_settings(path: Path, settings: dict) -> None:
    text = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True, default_flow_style=None, width=140)
    path.write_text(f"# How to read {path.stem}, as recbole-r3vae prepare csv wrote it.\n{text}", encoding="utf-8")


# -- telling -------------------------------------------------------------------------------------------------------------


def _reasons(found: Columns) -> str:
    return ", ".join(f"{column}: {reason}" for column, reason in found.left_out.items())


def _column_lines(events: Table, items: Table, found: Columns, met: pd.DataFrame, form: str) -> list[str]:
    first, last = (_day(seconds) for seconds in (met[SECONDS].min(), met[SECONDS].max()))
    lines = [f"{table.path}: {len(table.cells):,} rows, {table.form}" for table in (events, items)]
    for name, column in (("user_id", found.user), ("item_id", found.item)):
        lines.append(f"{name} <- {column} ({met[column].nunique():,} values)")
    lines.append(f"timestamp <- {found.time} ({form}; {first} to {last})")
    if found.rating is not None:
        lines.append(f"rating <- {found.rating} ({met[found.rating].min():g} to {met[found.rating].max():g})")
    lines.append(f"item_id of the catalogue <- {found.id} ({items.cells[found.id].nunique():,} values)")
    for name, column in zip(_fields(found.text), found.text):
        lines.append(f"{name} <- {column} (text of {(items.cells[column].str.strip() != '').sum():,} items)")
    return [*lines, *([f"no text, left out: {_reasons(found)}"] if found.left_out else [])]


def _day(seconds: float) -> str:
    return (datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(seconds=seconds)).date().isoformat()


# -- command line --------------------------------------------------------------------------------------------------------


def run_own_tables(args: argparse.Namespace) -> OwnTablesSummary:
    """``recbole-r3vae prepare csv``: call `prepare_tables`, print what was found, repaired and written, and the command to use next.

    Args:
        args: What the parser of ``recbole-r3vae prepare`` returned.

    Returns:
        What `prepare_tables` returned.
    """
    absent = [f"--{key}" for key in ("events", "items", "name") if not getattr(args, key)]
    if absent:
        raise UserError(f"prepare csv lacks {', '.join(absent)}; write prepare csv --events orders.csv --items products.csv --name shop")
    columns = {}
    for pair in args.columns:
        role, equals, names = pair.partition("=")
        if not equals or role in columns:
            raise UserError(f"--columns: {short_repr(pair)} is no ROLE=COLUMN, or its role comes twice; write user=customer item=sku")
        columns[role] = names.split(",") if role == "text" else [names]
    summary = prepare_tables(
        args.events, args.items, args.name, args.vectors, args.output, columns, args.kcore or 0, args.skip_bad_lines, args.force,
        not args.quiet,
    )  # fmt: skip
    print(summary)
    data_path = "" if args.output == "dataset" else f" --data_path={args.output}"
    print(f"next: recbole-r3vae run --model=R3GR --dataset={args.name}{data_path}   # with the settings of {summary.settings}")
    return summary
