"""The ``.sid`` file: a tab-separated table of codes, and its sidecar ``<path>.json``; ``.sid.gz`` is the same, compressed."""

from __future__ import annotations

import gzip
import io
import json
import logging
import os
import re
import zlib
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import torch
from torch import Tensor

from recbole_r3vae.errors import UserError, short_repr
from recbole_r3vae.io import atomic_write
from recbole_r3vae.sid import foreign

logger = logging.getLogger(__name__)
SCHEMA = 1  # of the sidecar file
_LINES = 65536  # of a table, written at a time
PACKED = ".gz"
"""The ending of a compressed table; its sidecar is not compressed."""


def write_sid_file(path: str | os.PathLike, item_ids: Sequence[str], codes: Tensor, sidecar: dict) -> None:
    """Write a table and, beside it, its sidecar; :func:`read_sid_file` gives them back.

    Args:
        path: File to write, usually ``*.sid``, or ``*.sid.gz``; its folder is made.
        item_ids: n item tokens, without the padding item.
        codes: int64 ``[n, L]``, a row for each of them.
        sidecar: Plain data: ``codebook_sizes``, ``content_hash``, ``n_items`` and ``meta``; ``ordered`` where it is False.

    Raises:
        UserError: a file cannot be written.
    """
    if Path(path).suffix == foreign.ENDING:
        raise UserError(f"{path} would be a .sid file by another name; write {Path(path).with_suffix('.sid')}, then convert it")
    # The inner file is renamed first: after a crash in between, a new sidecar stands beside no table or
    # an old one, which a table refuses to be loaded from. A table without its sidecar would pass for a foreign
    # file and lose its sizes.
    with _writable(Path(path)) as table, atomic_write(sidecar_path(path)) as side:
        table.write("\t".join(_columns(codes.shape[1])) + "\n")
        for start in range(0, len(codes), _LINES):  # Python's own numbers of all codes would take ten times their memory
            for item, row in zip(item_ids[start : start + _LINES], codes[start : start + _LINES].tolist()):
                table.write("\t".join((item, *map(str, row))) + "\n")
        side.write(json.dumps({"schema": SCHEMA, **sidecar}, indent=2) + "\n")


def read_sid_file(path: str | os.PathLike) -> tuple[list[str], Tensor, dict]:
    """Read a table and its sidecar; what they say of each other is not compared.

    Args:
        path: The table, or an ``*.index.json``, see :mod:`~recbole_r3vae.sid.foreign`.

    Returns:
        n item tokens without the padding item; codes int64 ``[n, L]``; and the sidecar. Where there is none, ``codebook_sizes`` are the
        largest code of each column + 1, levels whose codes are sparse are numbered anew, with a warning, and ``meta["renumbered"]``
        lists their old codes.

    Raises:
        UserError: a file is missing, malformed or of another schema; the message names it.
    """
    item_ids, codes = foreign.read_index(path) if Path(path).suffix == foreign.ENDING else _read_table(Path(path))
    beside = sidecar_path(path)
    if beside.exists():
        return item_ids, codes, _read_sidecar(beside)
    codes, old = foreign.dense(codes)
    for level, used in old.items():
        logger.warning(
            f"{path}: the codes of level {level} reach {used[-1]:,} and {len(used):,} of them are used; numbered anew from 0 to "
            f"{len(used) - 1:,}"
        )
    return item_ids, codes, {"codebook_sizes": (codes.amax(0) + 1).tolist(), "meta": {"renumbered": old} if old else {}}


@contextmanager
def _writable(path: Path) -> Iterator[IO[str]]:
    """A table to write into; compressed where its name says so, the same table to the same bytes."""
    if path.suffix != PACKED:
        with atomic_write(path) as table:
            yield table
        return
    with atomic_write(path, "wb") as file, gzip.GzipFile("", "wb", 9, file, mtime=0) as packed:
        with io.TextIOWrapper(packed, encoding="utf-8", newline="\n") as table:
            yield table


def _readable(path: Path) -> IO[str]:
    return gzip.open(path, "rt", encoding="utf-8-sig") if path.suffix == PACKED else open(path, encoding="utf-8-sig")


def _columns(n_levels: int) -> list[str]:
    return ["item_id:token", *(f"sid_{level + 1}:token" for level in range(n_levels))]


def sidecar_path(path: str | os.PathLike) -> Path:
    """Where the sidecar of a table lies."""
    return Path(f"{os.fspath(path)}.json")


def _read_table(path: Path) -> tuple[list[str], Tensor]:
    """Item ids and codes int64 ``[n, L]`` of a table file, every line checked."""
    item_ids, codes = [], array("q")  # of all lines, one after the other
    try:
        with _readable(path) as file:  # other tools may write a byte order mark
            header = file.readline().rstrip("\n").split("\t")
            n_levels = len(header) - 1
            if n_levels < 1 or header != _columns(n_levels):
                raise UserError(
                    f"{path}, line 1: expected the tab-separated columns "
                    f"{' '.join(_columns(max(n_levels, 1)))}, got {short_repr(' '.join(header))}; rename the "
                    "columns, or make the file with `tokenize`"
                )
            wanted = re.compile(r"([^\t]+)\t((?:[0-9]{1,9}\t){%d}[0-9]{1,9})\n?" % (n_levels - 1))
            for number, line in enumerate(file, start=2):
                match, (item, *cells) = wanted.fullmatch(line), line.rstrip("\n").split("\t")
                own = [int(code) for code in match[2].split("\t")] if match else foreign.codes_of_tokens(cells)
                if own is None or len(own) != n_levels or not item:
                    raise UserError(
                        f"{path}, line {number}: expected an item id and {n_levels} codes (whole numbers "
                        f"of at most nine digits, or tokens <a_12> <b_3> …), separated by tabs, got {short_repr(line.rstrip())}; correct the "
                        "line or tokenize again"
                    )
                item_ids.append(item)
                codes.extend(own)
    except FileNotFoundError as error:
        raise UserError(f"no semantic IDs at {path}; check the path, or make them with `tokenize`") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text ({error.reason}); save it as UTF-8") from error
    except (OSError, EOFError, zlib.error) as error:  # what is no gzip file is an OSError without a number, one cut short an EOFError
        why = getattr(error, "strerror", None) or f"{error}, so it is damaged or not compressed"
        raise UserError(f"cannot read {path}: {why}; give a file that can be read") from error
    if not codes:
        raise UserError(f"{path} names no items after its header; tokenize again")
    return item_ids, torch.frombuffer(codes, dtype=torch.int64).view(-1, n_levels)


def _read_sidecar(path: Path) -> dict:
    """The sidecar of a table, its fields checked for presence and type."""
    remedy = "restore it, tokenize again, or delete it to take the table as it is"
    try:
        sidecar = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # errors of JSON and of UTF-8 are ValueErrors
        raise UserError(f"cannot read {path}: {error}; {remedy}") from error
    schema = sidecar.get("schema") if isinstance(sidecar, dict) else None
    if schema != SCHEMA:
        raise UserError(f"{path} has schema {schema!r}, expected {SCHEMA}; tokenize again with this version")
    for key, kind in {"codebook_sizes": list, "content_hash": str, "n_items": int, "meta": dict}.items():
        if not isinstance(sidecar.get(key), kind):
            raise UserError(f"{path}: {key!r} must be a {kind.__name__}, got {sidecar.get(key)!r}; {remedy}")
    if not isinstance(sidecar.get("ordered", True), bool):
        raise UserError(f"{path}: 'ordered' must be true or false, got {short_repr(sidecar['ordered'])}; {remedy}")
    if not all(isinstance(size, int) for size in sidecar["codebook_sizes"]):
        sizes = sidecar["codebook_sizes"]
        raise UserError(f"{path}: 'codebook_sizes' must hold integers, got {sizes}; {remedy}")
    return sidecar
