"""A grid is run: every cell of models x tokenizers x datasets x seeds a resumable unit with a result file of its own."""

from __future__ import annotations

import dataclasses
import os
import shlex
from collections.abc import Sequence
from pathlib import Path

import torch

from recbole_r3vae.config.sources import parse_arguments
from recbole_r3vae.errors import UserError, did_you_mean
from recbole_r3vae.experiments.grid.file import load_grid
from recbole_r3vae.experiments.grid.progress import progress_line
from recbole_r3vae.experiments.grid.units import Unit, units_of
from recbole_r3vae.experiments.leaderboard import write_leaderboards
from recbole_r3vae.experiments.leaderboard.records import files_of, usable
from recbole_r3vae.experiments.processes import THREAD_VARIABLES, in_own_processes
from recbole_r3vae.io import locked, write_json
from recbole_r3vae.quick_start.run import make_folder, make_folders, run_recbole_r3vae
from recbole_r3vae.record import SCHEMA, Record

PLACES = ("data_path", "checkpoint_dir", "content_cache_dir")
OPTIONS = ("max_minutes", "device", "workers", *PLACES)


def run_grid(config: str | os.PathLike, output: str | os.PathLike = "results", arguments: Sequence[str] = ()) -> list[Record]:
    """Run every unit of a grid that has no result yet, each in a process of its own, and make the leaderboards anew.

    Nothing is run before everything is checked. A unit whose result file exists is passed over, a failed one is tried again, and one that
    was killed goes on from its last finished epoch. Tokenizers are trained once for all units that share them.

    Written into ``output``: ``runs/<dataset>/<name>-<seed>-<hash>.json`` for each unit, ``runs/<dataset>/split-<hash>.json``, and what
    :func:`recbole_r3vae.experiments.leaderboard.write_leaderboards` makes of them. In a script, call this under
    ``if __name__ == "__main__":``, because every process begins by importing the script.

    Args:
        config: YAML file, see :func:`~recbole_r3vae.experiments.grid.file.load_grid`.
        output: folder of the results.
        arguments: command-line words: ``--max_minutes`` (of every unit's training, instead of the file's), ``--device``, ``--workers``
            (units at a time, default 1; the cores are shared out among them, unless ``OMP_NUM_THREADS`` says otherwise) and places:
            ``--data_path``, ``--checkpoint_dir``, ``--content_cache_dir``.

    Returns:
        The record of each unit, in the order of the grid; ``error`` is ``None`` or why it failed.

    Raises:
        UserError: anything in the file or the arguments is unknown or out of range, or a dataset is missing.
    """
    options = parse_arguments(arguments)
    for key in options:
        if key not in OPTIONS:
            raise UserError(f"unknown option --{key} of a grid{did_you_mean(key, OPTIONS)}; settings of models stand in {config}")
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
    for place, (unit, record) in enumerate(zip(units, records)):  # what the YAML file states of a row, without effect on its figures
        stated = {"tuning_trials": unit.tuning_trials, "label": unit.label}
        if record is not None and any(getattr(record, key) != value for key, value in stated.items()):
            records[place] = dataclasses.replace(record, **stated)
            records[place].write(unit.file(runs))
    waiting = [place for place, record in enumerate(records) if record is None]
    for model in {units[place].model.rpartition(":")[2] for place in waiting}:  # a folder that cannot be made would fail every unit
        make_folders(model, where.get("checkpoint_dir", "saved"))
    for dataset in {unit.dataset for unit in units}:
        make_folder(runs / dataset)
    done = len(units) - len(waiting)
    print(f"{config}: {len(units)} units, {done} finished before", flush=True)
    threads = None if any(name in os.environ for name in THREAD_VARIABLES) else max(1, _cores() // workers)
    for number, record, error in in_own_processes(run_unit, [(units[place], where) for place in waiting], workers, threads):
        place = waiting[number]
        unit = units[place]
        if error is None:
            split = record.split
            if split is not None:
                write_json(runs / unit.dataset / f"split-{split['split']}.json", {"schema": SCHEMA, "dataset": unit.dataset, **split})
            # A budget is of minutes, which go further for a unit that runs alone.
            hardware = record.hardware if workers == 1 else {**(record.hardware or {}), "workers": workers}
            record = dataclasses.replace(record, split=None, hardware=hardware, command=command)
        else:
            record = _finished(unit.file(runs)) or Record(
                **unit.identity(), command=command, error=error
            )  # by another benchmark, meanwhile
        records[place] = record
        record.write(unit.file(runs))
        done += 1
        print(progress_line(unit, record, records, units, done, workers), flush=True)

    for unit, record in zip(units, records):
        if record.error is not None:
            print(f"failed: {unit}: {record.error}", flush=True)
    others = _of_other_grids(units, runs)
    if others:
        heading = f"on the leaderboards too, of other grids or of earlier settings ({len(others)} files; delete what is out of date):"
        print("\n".join([heading, *(f"  {path}" for path in others)]), flush=True)

    print("\n".join(str(path) for path in write_leaderboards(Path(output))), flush=True)
    return records


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _of_other_grids(units: Sequence[Unit], runs: Path) -> list[Path]:
    """Result files of the grid's datasets that are of none of its units."""
    own = {unit.file(runs) for unit in units}
    found = [path for dataset in sorted({unit.dataset for unit in units}) for path in files_of(runs / dataset)]
    return [path for path in found if path not in own]


def _finished(path: Path) -> Record | None:
    """A unit's record; ``None`` where it has none, failed, or its file, or that of its split, is none that a leaderboard would take."""
    try:
        record = usable(Record.read(path), {})
    except ValueError:
        return None
    split_is_there = record.users is None or path.with_name(f"split-{record.users['split']}.json").is_file()
    return record if split_is_there and record.seconds else None  # of the seconds, the time left is told


# -- a unit, in its own process ----------------------------------------------------------------------------------------------


def run_unit(unit: Unit, where: dict[str, str]) -> Record:
    """Train and test one unit, from its ``last.pth`` where it was killed before.

    Args:
        unit: what to run.
        where: ``device``, and where data, checkpoints and item vectors lie.

    Returns:
        The run's own record, under the name and hash of the unit.
    """
    # Another number of threads adds in another order: what they left is another run, which is not gone on with.
    place = f"{unit.folder}-{where.get('device', 'auto').replace(':', '')}-{torch.get_num_threads()}"
    run_dir = Path(where.get("checkpoint_dir", "saved")) / unit.dataset / place
    quiet = {"state": "warning", "show_progress": False}
    settings = {**unit.settings, **where, **quiet, "resume": True, "run_dir": str(run_dir)}
    with locked(f"{run_dir}.lock", "checkpoint_dir"):  # another benchmark that has the unit waits, and then finds it trained
        run_recbole_r3vae(unit.model, unit.dataset, config_dict=settings)
        record = Record.read(run_dir / "result.json")
    return dataclasses.replace(record, **unit.identity())
