"""Semantic IDs as features of models that predict clicks: item id against semantic IDs of several tokenizers, over seeds.

The question of the R3-VAE paper's table of ranking (arXiv 2604.11440), which has one industrial model and no public data.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from recbole_r3vae.config.sources import given_settings
from recbole_r3vae.errors import UserError, one_line
from recbole_r3vae.experiments.ctr.cells import FEATURES, Cell, cells_of
from recbole_r3vae.experiments.ctr.tables import write_tables
from recbole_r3vae.io import locked, write_json
from recbole_r3vae.quick_start.run import run_recbole_r3vae
from recbole_r3vae.record import Record

MODELS = ("DeepFM", "DCNV2", "DIN")
TOKENIZERS = ("RKMeans", "RQVAE", "R3VAE")
SEEDS = (2020, 2021, 2022)
SCHEMA = 1
PLACES = {"data_path", "checkpoint_dir", "content_cache_dir", "device"}  # no part of what was measured


def run_ctr(
    dataset: str,
    models: Sequence[str] = MODELS,
    tokenizers: Sequence[str] = TOKENIZERS,
    seeds: Sequence[int] = SEEDS,
    features: Sequence[str] = FEATURES,
    output: str | Path = "results",
    config_file_list: Iterable[str] = (),
    arguments: Sequence[str] = (),
) -> list[str]:
    """Train and test every model with the item id, and with the semantic IDs of every tokenizer in its place and beside it.

    All cells of a seed have the same rows, the same other features and the same sampled negatives. Each finished cell is stored at once
    in ``<output>/ctr_<dataset>.json`` and is not run again; a cell that was killed goes on from its last epoch, and one that failed is
    tried again. The table ``ctr_<dataset>.md`` has all stored cells of the same settings and files, so models, tokenizers and seeds may be added
    by later calls.

    Args:
        dataset: name of a folder of atomic files, with item texts.
        models: that predict clicks.
        tokenizers: of item content alone.
        seeds: each for a whole round of cells.
        features: ``replace``, ``append`` or both; the item id alone is always there.
        output: folder of the results.
        config_file_list: YAML files, later ones win.
        arguments: command-line words: a key goes to every model that has it, ``--DIN.epochs=5`` to that model alone, ``--tokenizer_X`` to
            the tokenizers.

    Returns:
        A line for each cell that failed.

    Raises:
        UserError: a name or a setting is unknown, or cannot be used here.
    """
    given = given_settings(config_file_list, arguments)
    where = {key: given.pop(key) for key in PLACES & given.keys()}
    cells = cells_of(dataset, models, tokenizers, seeds, features, given, where)
    words = [f"--{key}={json.dumps(value) if isinstance(value, (list, dict)) else value}" for key, value in given.items()]
    lists = {"models": models, "tokenizers": tokenizers, "seeds": seeds, "features": features}
    lists = [f"--{key}={','.join(map(str, values))}" for key, values in lists.items()]
    command = shlex.join(["recbole-r3vae", "ctr", f"--dataset={dataset}", *lists, *words])
    file, failed = Path(output) / f"ctr_{dataset}.json", []
    lock = Path(where.get("checkpoint_dir", "saved")) / dataset / "ctr.lock"

    finished = {cell["hash"] for cell in _stored(file)}
    waiting = [cell for cell in cells if cell.hash not in finished]
    print(f"{dataset}: {len(cells)} cells, {len(cells) - len(waiting)} finished before", flush=True)
    for number, cell in enumerate(waiting, start=len(cells) - len(waiting) + 1):
        try:
            record = run_cell(cell, dataset, where)
        except (UserError, RuntimeError, MemoryError) as error:  # one model's trouble must not cost the others their turn
            failed.append(f"{cell}: {one_line(error)}")
            print(f"[{number}/{len(cells)}] failed: {failed[-1]}", flush=True)
            continue
        record |= {"command": command, "given": given}
        with locked(lock, "checkpoint_dir"):  # another process may be filling other cells
            stored = [other for other in _stored(file) if other["hash"] != cell.hash]
            write_json(file, {"schema": SCHEMA, "dataset": dataset, "cells": [*stored, record]})
        figures = ", ".join(f"{name} {record['test'][name]:.4f}" for name in ("auc", "uauc") if name in record["test"])
        print(f"[{number}/{len(cells)}] {cell}: test {figures}, {record['seconds']['training']:.0f} s", flush=True)
    page = file.with_suffix(".md")
    read = {name: hashed for cell in cells for name, hashed in cell.data.items()}
    # Cells of data or vectors that are no longer there do not mix with the others. Those of earlier versions do not tell.
    chosen = [cell for cell in _stored(file) if cell["given"] == given and cell.get("data", {}).items() <= read.items()]
    if chosen:
        write_tables(page, dataset, chosen)
        print(f"{file}, {page}", flush=True)
    return failed


def run_cell(cell: Cell, dataset: str, where: dict[str, Any]) -> dict[str, Any]:
    """Train and test one cell, from its last epoch where it was killed before.

    Returns:
        What the result file holds of it.
    """
    folder = f"ctr-{cell.name.replace('[', '-').rstrip(']')}-{cell.seed}-{cell.hash}"
    run_dir = Path(where.get("checkpoint_dir", "saved")) / dataset / folder
    quiet = {"state": "warning", "show_progress": False, "resume": True, "run_dir": str(run_dir)}
    run_recbole_r3vae(cell.model, dataset, config_dict={**cell.settings, **where, **quiet})
    record = Record.read(run_dir / "result.json")
    return {
        **{key: getattr(cell, key) for key in ("model", "features", "tokenizer", "seed", "name", "hash", "data")},
        "valid": record.valid,
        "test": record.labelled["metrics"],
        "labelled": {key: value for key, value in record.labelled.items() if key != "metrics"},
        "n_parameters": record.n_parameters,
        "seconds": {
            "tokenizer": record.seconds["tokenizer"], "training": record.seconds["training"], "testing": record.seconds["evaluation"],
        },
        **{key: getattr(record, key) for key in ("epochs", "valid_history", "stopped_at_budget", "versions", "commit", "hardware")},
        "config": record.config,
    }  # fmt: skip


def _stored(file: Path) -> list[dict[str, Any]]:
    """The cells of a result file.

    Raises:
        UserError: it cannot be read, or another version wrote it.
    """
    if not file.is_file():
        return []
    try:
        report = json.loads(file.read_text(encoding="utf-8"))
        if report["schema"] != SCHEMA:
            raise ValueError(f"schema {report['schema']!r}, this version reads {SCHEMA}")
        return report["cells"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"cannot read {file}: {error}; move it away, or choose another --output") from error
