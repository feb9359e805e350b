"""The records in the folder of a grid's results: which there are, and which may be used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recbole_r3vae.record import RULES, Record, Rule, load

RULE_NAMES: dict[Rule, str] = {"left_out": "met items left out", "stay": "met items stay"}


def read_runs(folder: Path) -> tuple[list[Record], list[dict[str, Any]], dict[str, dict[str, Any]]]:
    """Read ``results/runs/<dataset>``.

    Returns:
        The records that may be used; ``name``, ``family``, ``seed``, ``hash`` and ``error`` of each unit that failed or whose file is
        damaged; hash to content of the split files.
    """
    splits = {path.stem.removeprefix("split-"): _split(path) for path in sorted(folder.glob("split-*.json"))}
    records, failed = [], []
    for path in files_of(folder):
        try:
            records.append(usable(Record.read(path), splits))
        except ValueError as error:
            known = {key: _plain_of(path).get(key) for key in ("name", "family", "seed", "hash")}
            failed.append({**known, "name": known["name"] or path.stem, "error": str(error)})
    return records, failed, splits


def files_of(folder: Path) -> list[Path]:
    """The result files of a folder, damaged ones among them. Files without a schema are from before the benchmark and are passed over."""
    paths = (path for path in sorted(folder.glob("*.json")) if not path.name.startswith("split-"))
    return [path for path in paths if "schema" in _plain_of(path)]


def usable(record: Record, splits: dict[str, dict[str, Any]]) -> Record:
    """The record itself, if it has what a row needs.

    Args:
        record: of a result file.
        splits: hash to content of the split files beside it.

    Raises:
        ValueError: its unit failed or was tested under no rule, or its users are not those of its split.
    """
    if record.error is not None:
        raise ValueError(record.error)
    if not rules_of(record):
        raise ValueError("record without test figures under either rule; delete it and run again")
    if record.users is not None:
        n_users = len(next(ranks for rule in RULES if (ranks := record.ranks(rule)) is not None))
        expected = splits.get(record.users["split"], {}).get("users", n_users)
        if expected != n_users:
            raise ValueError(f"ranks of {n_users} users, its split has {expected}; delete it and run again")
    return record


def rules_of(record: Record) -> tuple[Rule, ...]:
    """The rules under which a record has test figures."""
    return tuple(rule for rule in RULES if record.test[rule] is not None)


def split_of(record: Record) -> str | None:
    """Hash of the split that a record has ranks of."""
    return record.users["split"] if record.users is not None else None


def _plain_of(path: Path) -> dict[str, Any]:
    """What a file holds; of a file that cannot be read, that it claims to be a record."""
    try:
        values = load(path)
    except ValueError:
        return {"schema": None}
    return values if isinstance(values, dict) else {}


def _split(path: Path) -> dict[str, Any]:
    try:
        values = load(path)
    except ValueError as error:
        return {"error": str(error)}
    return values if isinstance(values, dict) else {}
