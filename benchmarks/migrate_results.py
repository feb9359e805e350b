"""Result files of version 0.1 as records of today, with both rules on met items in one.

    python benchmarks/migrate_results.py results results/r3vae_ablation
    python benchmarks/migrate_results.py results --grids properties/benchmark/*.yaml --data_path dataset

Version 0.1 tested a checkpoint under one rule, which its key ``mask_history`` stated, and under the other by a script that wrote files of
the same names into ``<results>/mask_history/runs``. Both become one record in ``<results>/runs``: ``mask_history: False`` becomes
``valid_rule: stay``, since that is how the epoch was selected, ``True`` becomes ``left_out``. Files are named by the hash of their
configuration, which has another key now, so they get other names. Records of today, and files without a schema, are passed over. Nothing
in ``mask_history`` is changed; delete it when the records are to your liking.

With ``--grids`` (an experiment's YAML files), records take the place of the units that they are of, so that a grid does not run them again:
those whose data and settings are a unit's, as far as the record has them. Keys that came later have their defaults in such a unit, which
is what the code did before it had them; a unit that sets one differently is none of these.
"""

from __future__ import annotations

import argparse
import dataclasses
import glob
import json
from pathlib import Path
from typing import Any

from recbole_r3vae.config import Config
from recbole_r3vae.config.identity import fingerprint, identity
from recbole_r3vae.experiments.grid import Unit, load_grid, units_of
from recbole_r3vae.io import write_json
from recbole_r3vae.record import SCHEMA, Record

SAME = ("name", "model", "seed", "hash", "data", "seconds")
"""What two files of one checkpoint agree in; seconds tell two trainings of one unit apart."""
UNFELT = ("eval_batch_size",)
"""Keys that came later with another default and change no figure: users are ranked one by one, however many at a time."""
AS_THEY_WERE = (
    "dataset", "name", "model", "tokenizer", "family", "seed", "data", "max_minutes", "tuning_trials", "collision_policy", "content",
    "text_encoder", "loss", "n_parameters", "valid", "quality", "seconds", "peak_memory_mb", "epochs", "valid_history", "stopped_at_budget",
    "versions", "commit", "hardware", "command", "error",
)  # fmt: skip


def unit_hash(config: dict[str, Any], data: dict[str, str]) -> str:
    """The hash that names a unit of a grid, as :attr:`recbole_r3vae.experiments.grid.units.Unit.hash` makes it."""
    return fingerprint(identity(config, data))


def migrated(old: dict[str, Any], other: dict[str, Any] | None = None) -> Record:
    """One record of a checkpoint.

    Args:
        old: content of its result file, of schema 1.
        other: content of the file of its test under the other rule, if there was one.

    Raises:
        ValueError: the two are not of one checkpoint and one split, or the record would contradict itself.
    """
    rule, opposite = ("left_out", "stay") if old["mask_history"] else ("stay", "left_out")
    config = {**{key: value for key, value in old["config"].items() if key != "mask_history"}, "valid_rule": rule}
    found = {rule: old, opposite: other}
    if other is not None:
        differing = [key for key in SAME if old.get(key) != other.get(key)]
        differing += [f"users.{key}" for key in ("split", "k") if (old.get("users") or {}).get(key) != (other.get("users") or {}).get(key)]
        if differing or other["mask_history"] == old["mask_history"]:
            raise ValueError(f"no test of the same checkpoint under the other rule: {', '.join(differing) or 'mask_history'} tells")
    test = {rule: part.get("test") if part else None for rule, part in found.items()}
    users = None
    if old.get("users"):
        users = {key: old["users"][key] for key in ("split", "k")}
        users |= {rule: part["users"]["ranks"] if part else None for rule, part in found.items()}
    return Record.of({
        **{key: old[key] for key in AS_THEY_WERE if key in old},
        "schema": SCHEMA,
        "hash": unit_hash(config, old["data"]),
        "config": config,
        "valid_rule": rule,
        "precision": "float32",
        "test": test,
        "users": users,
        # The script that tested under the other rule refused data in which a target had been met before.
        "repeated_targets": 0 if other is not None else None,
    })  # fmt: skip


def migrate(results: Path) -> list[str]:
    """Migrate all files under ``<results>/runs``.

    Returns:
        A line for each file that could not be, and for each record without the other rule.
    """
    lines = []
    for path in sorted((results / "runs").glob("*/*.json")):
        old = json.loads(path.read_text(encoding="utf-8"))
        if old.get("schema") != 1:
            continue
        if path.name.startswith("split-"):
            write_json(path, {**old, "schema": SCHEMA})
            continue
        beside = results / "mask_history" / "runs" / path.parent.name / path.name
        other = json.loads(beside.read_text(encoding="utf-8")) if beside.is_file() else None
        try:
            record = migrated(old, other)
        except (ValueError, KeyError) as error:
            lines.append(f"{path} stays as it is: {error!r}")
            continue
        new = path.with_name(f"{record.name}-{record.seed}-{record.hash}.json")
        if new.exists():
            lines.append(f"{path} stays as it is: {new.name} is there")
            continue
        record.write(new)
        path.unlink()
        if other is None and record.error is None:
            lines.append(f"{new} has one rule only")
    return lines


def adopted(record: Record, unit: Unit) -> Record | None:
    """The record as that of a unit, under its configuration and hash; ``None`` where it is of another one."""
    same = all(getattr(record, key) == getattr(unit, key) for key in ("dataset", "name", "seed", "data"))
    defaults = Config(unit.model, unit.dataset).declared
    later = {key: value for key, value in unit.config.items() if key not in record.config}
    if not same or any(unit.config.get(key, value) != value for key, value in record.config.items()):
        return None
    if any(key in defaults and defaults[key] != value for key, value in later.items() if key not in UNFELT):
        return None
    return dataclasses.replace(record, config=unit.config, hash=unit.hash)


def adopt(results: Path, grids: list[Path], where: dict[str, str]) -> list[str]:
    """Put records in the places of the units that they are of.

    Returns:
        A line for each record that got another name.
    """
    lines = []
    for grid in grids:
        for unit in units_of(load_grid(grid), where):
            place = unit.file(results / "runs")
            if place.exists():
                continue
            for path in sorted(place.parent.glob(f"{glob.escape(unit.name)}-{unit.seed}-*.json")):
                try:
                    record = adopted(Record.read(path), unit)
                except ValueError:
                    continue
                if record is not None:
                    record.write(place)
                    path.unlink()
                    lines.append(f"{path.name} is {place.name} of {grid.name}")
                    break
    return lines


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+", type=Path, help="folders of results, each with runs/")
    parser.add_argument("--grids", nargs="+", type=Path, default=[], help="YAML files of grids whose units the records are of")
    parser.add_argument("--data_path", help="where their datasets lie")
    options = parser.parse_args(words)
    where = {"data_path": options.data_path} if options.data_path else {}
    for results in options.results:
        print("\n".join([f"{results}: migrated", *migrate(results), *adopt(results, options.grids, where)]))


if __name__ == "__main__":
    main()
