"""Models x tokenizers x datasets x seeds from one YAML file: every cell a resumable unit with a result file of its own."""

from __future__ import annotations

import json
import math
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recbole_r3vae.benchmark.grid_file import load_grid
from recbole_r3vae.benchmark.processes import THREAD_VARIABLES, in_own_processes
from recbole_r3vae.benchmark.run_files import read_run, records_of
from recbole_r3vae.benchmark.tokenizers import row_of
from recbole_r3vae.benchmark.units import Unit, units_of
from recbole_r3vae.errors import UserError, nearest
from recbole_r3vae.io import locked, write_json
from recbole_r3vae.quick_start.run import make_folder, make_folders, run_recbole_r3vae
from recbole_r3vae.quick_start.semantic_ids import DESCRIPTION
from recbole_r3vae.config.sources import parse_arguments

PLACES = ("data_path", "checkpoint_dir", "content_cache_dir")
OPTIONS = ("max_minutes", "device", "workers", *PLACES)


def run_grid(config: str | os.PathLike, output: str | os.PathLike = "results", arguments: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Run every unit of a grid that has no result yet, each in a process of its own, and make the leaderboards anew.

    Nothing is run before everything is checked. A unit whose result file exists is passed over, a failed one is tried again, and one that
    was killed goes on from its last finished epoch. Tokenizers are trained once for all units that share them.

    Written into ``output``: ``runs/<dataset>/<name>-<seed>-<hash>.json`` for each unit, ``runs/<dataset>/split-<hash>.json``, and what
    :func:`recbole_r3vae.benchmark.leaderboard.write_leaderboards` makes of them. In a script, call this under
    ``if __name__ == "__main__":``, because every process begins by importing the script.

    Args:
        config: YAML file, see :func:`~recbole_r3vae.benchmark.grid_file.load_grid`.
        output: folder of the results.
        arguments: command-line words: ``--max_minutes`` (of every unit's training, instead of the file's), ``--device``, ``--workers``
            (units at a time, default 1; the cores are shared out among them, unless ``OMP_NUM_THREADS`` says otherwise) and places:
            ``--data_path``, ``--checkpoint_dir``, ``--content_cache_dir``.

    Returns:
        The content of each unit's result file, in the order of the grid; ``error`` is ``None`` or why it failed.

    Raises:
        UserError: anything in the file or the arguments is unknown or out of range, or a dataset is missing.
    """
    options = parse_arguments(arguments)
    for key in options:
        if key not in OPTIONS:
            raise UserError(f"unknown option --{key} of a grid{nearest(key, OPTIONS)}; settings of models stand in {config}")
    workers = options.get("workers", 1)
    if type(workers) is not int or workers < 1:
        raise UserError(f"--workers is {workers!r}; give a whole number from 1")
    minutes = options.get("max_minutes")
    where = {key: str(options[key]) for key in ("device", *PLACES) if key in options}
    units = units_of(load_grid(config, minutes), where)
    runs = Path(output) / "runs"
    own = {"max_minutes": minutes, "output": None if str(output) == "results" else output}
    words = [f"--{key}={value}" for key, value in {"config": config, **own}.items() if value is not None]
    command = shlex.join(["recbole-r3vae", "benchmark", *words])

    records = [_finished(unit.file(runs)) for unit in units]
    for unit, record in zip(units, records):  # what the YAML file states of a row, without any effect on its figures
        if record is not None and record.get("tuning_trials") != unit.tuning_trials:
            record["tuning_trials"] = unit.tuning_trials
            write_json(unit.file(runs), record)
    waiting = [place for place, record in enumerate(records) if record is None]
    for model in {units[place].model for place in waiting}:  # a folder that cannot be made would fail every unit
        make_folders(model, where.get("checkpoint_dir", "saved"))
    for dataset in {unit.dataset for unit in units}:
        make_folder(runs / dataset)
    done = len(units) - len(waiting)
    print(f"{config}: {len(units)} units, {done} finished before", flush=True)
    threads = None if any(name in os.environ for name in THREAD_VARIABLES) else max(1, _cores() // workers)
    for number, value, error in in_own_processes(run_unit, [(units[place], where) for place in waiting], workers, threads):
        place = waiting[number]
        unit = units[place]
        record, split = value or ({}, None)
        if record and workers > 1:  # a budget is of minutes, which go further for a unit that runs alone
            record["hardware"]["workers"] = workers
        records[place] = record = {**unit.identity(), **record, "command": command, "error": error}
        if split is not None:
            write_json(runs / unit.dataset / f"split-{split['split']}.json", {"schema": 1, "dataset": unit.dataset, **split})
        if error is not None and (other := _finished(unit.file(runs))) is not None:  # by another benchmark, meanwhile
            records[place] = record = other
        else:
            write_json(unit.file(runs), record)
        done += 1
        print(_progress(unit, record, records, units, done, workers), flush=True)

    for unit, record in zip(units, records):
        if record["error"] is not None:
            print(f"failed: {unit}: {record['error']}", flush=True)
    others = _of_other_grids(units, runs)
    if others:
        told = f"on the leaderboards too, of other grids or of earlier settings ({len(others)} files; delete what is out of date):"
        print("\n".join([told, *(f"  {path}" for path in others)]), flush=True)

    from recbole_r3vae.benchmark.leaderboard import write_leaderboards

    print("\n".join(str(path) for path in write_leaderboards(Path(output))), flush=True)
    return records


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _of_other_grids(units: Sequence[Unit], runs: Path) -> list[Path]:
    """Result files of the grid's datasets that are of none of its units."""
    own = {unit.file(runs) for unit in units}
    found = [path for dataset in sorted({unit.dataset for unit in units}) for path, _ in records_of(runs / dataset)]
    return [path for path in found if path not in own]


def _finished(path: Path) -> dict[str, Any] | None:
    """A unit's result; ``None`` where it has none, failed, or its file, or that of its split, is none that a leaderboard would take."""
    try:
        run = read_run(path)
    except ValueError:
        return None
    split_is_there = run.split is None or path.with_name(f"split-{run.split}.json").is_file()
    return run.record if split_is_there and run.record.get("seconds") else None  # of the seconds, the time left is told


# -- a unit, in its own process --------------------------------------------------------------------------------------------------


def run_unit(unit: Unit, where: dict[str, str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Train and test one unit, from its ``last.pth`` where it was killed before.

    Args:
        unit: what to run.
        where: ``device``, and where data, checkpoints and item vectors lie.

    Returns:
        What its result file holds beside :meth:`~recbole_r3vae.benchmark.units.Unit.identity`, and its split.
    """
    run_dir = Path(where.get("checkpoint_dir", "saved")) / unit.dataset / unit.folder
    quiet = {"state": "warning", "show_progress": False}
    settings = {**unit.settings, **where, **quiet, "resume": True, "run_dir": str(run_dir)}
    with locked(f"{run_dir}.lock", "checkpoint_dir"):  # another benchmark that has the unit waits, and then finds it trained
        run_recbole_r3vae(unit.model, unit.dataset, config_dict=settings)
        result = json.loads((run_dir / "result.json").read_text(encoding="utf-8"))
        described = run_dir / "tokenizer" / DESCRIPTION
        tokenizer = json.loads(described.read_text(encoding="utf-8")) if unit.tokenizer else None
    return _plain(_record(unit, result, tokenizer)), result["split"]


def _record(unit: Unit, result: dict[str, Any], tokenizer: dict[str, Any] | None) -> dict[str, Any]:
    quality = row_of(tokenizer, tokenizer["name"]) if tokenizer else {}
    keys = ("unique_ratio", "collision_rate", "sc_raw", "pd_raw", "lowest_usage", "reconstruction")
    content = result["content"]
    return {
        "content": content,
        "text_encoder": content["kind"] if content else None,
        "loss": result["loss"],
        "n_parameters": result["n_parameters"],
        "valid": result["best_valid_result"],
        "test": result["test_result"],
        "users": result["users"],
        "quality": {key: quality[key] for key in keys} if tokenizer else None,
        "seconds": {
            "tokenizer": tokenizer["seconds"] if tokenizer else None,
            "training": result["seconds"],
            "evaluation": result["seconds_testing"],
            "per_user_ms": round(1000 * result["seconds_testing"] / result["split"]["users"], 4),
        },
        "peak_memory_mb": {"tokenizer": tokenizer["peak_memory_mb"]["process"] if tokenizer else None, **result["peak_memory_mb"]},
        "epochs": result["epochs"],
        "valid_history": [[entry["epoch"], entry["seconds"], entry["score"]] for entry in result["valid_history"]] or None,
        "stopped_at_budget": result["stopped_at_budget"] or bool(tokenizer and tokenizer["stopped_at_budget"]),
        **{key: result[key] for key in ("versions", "commit", "hardware")},
    }


def _plain(value: Any) -> Any:
    """JSON has no NaN and no infinity: ``None`` in their place."""
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# -- progress --------------------------------------------------------------------------------------------------------------------


def _progress(unit: Unit, record: dict[str, Any], records: list[dict[str, Any] | None], units: list[Unit], done: int, workers: int) -> str:
    if record["error"] is None:
        metric = record["config"]["valid_metric"].lower()
        told = f"test {metric} {record['test'][metric]:.4f}, {_duration(_seconds(record))}"
        told += ", stopped at its budget" if record["stopped_at_budget"] else ""
    else:
        told = f"failed: {record['error']}"
    failed = sum(record is not None and record["error"] is not None for record in records)
    left = time_left(units, records) / workers
    rest = f"; about {_duration(left)} left" if left else ""
    return f"[{done}/{len(units)}{f', {failed} failed' if failed else ''}] {unit}: {told}{rest}"


def time_left(units: Sequence[Unit], records: Sequence[dict[str, Any] | None]) -> float:
    """Seconds that the units without a record will take, one after the other.

    A unit is expected to take as long as the finished ones of its name on its dataset did on average; where there are none, as all
    finished ones did; 0 where nothing is known.
    """
    known: dict[tuple, list[float]] = {}
    for unit, record in zip(units, records):
        if record is not None and record["error"] is None:
            for key in ((unit.dataset, unit.name), ()):
                known.setdefault(key, []).append(_seconds(record))
    left = 0.0
    for unit, record in zip(units, records):
        found = known.get((unit.dataset, unit.name)) or known.get(())
        if record is None and found:
            left += sum(found) / len(found)
    return left


def _seconds(record: dict[str, Any]) -> float:
    return sum(record["seconds"][stage] or 0 for stage in ("tokenizer", "training", "evaluation"))


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
