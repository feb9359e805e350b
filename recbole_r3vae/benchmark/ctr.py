"""Semantic IDs as features of models that predict clicks: item id against semantic IDs of several tokenizers, over seeds.

The question of the R3-VAE paper's table of ranking (arXiv 2604.11440), which has one industrial model and no public data.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recbole_r3vae.benchmark.ctr_tables import write_tables
from recbole_r3vae.benchmark.units import sha256_of
from recbole_r3vae.config import Config, fingerprint
from recbole_r3vae.config.registry import get_model
from recbole_r3vae.config.sources import given_settings
from recbole_r3vae.config.stages import PREFIX, deal, decisive, without_unread_keys
from recbole_r3vae.errors import UserError, nearest, one_line
from recbole_r3vae.io import locked, write_json
from recbole_r3vae.model.contract import CLICK
from recbole_r3vae.model.recbole_models import SID_FEATURES, contract_of
from recbole_r3vae.quick_start.lookup import dataset_folder
from recbole_r3vae.quick_start.provide import check_stages
from recbole_r3vae.quick_start.run import run_recbole_r3vae
from recbole_r3vae.quick_start.summary import result_name
from recbole_r3vae.record import Record

MODELS = ("DeepFM", "DCNV2", "DIN")
TOKENIZERS = ("RKMeans", "RQVAE", "R3VAE")
SEEDS = (2020, 2021, 2022)
FEATURES = ("replace", "append")
SCHEMA = 1
PLACES = {"data_path", "checkpoint_dir", "content_cache_dir", "device"}  # no part of what was measured
FIXED = {"model", "dataset", "seed", "sid_features", "tokenizer", "sid_file", "run_dir", "resume", "state", "show_progress"}


@dataclass(frozen=True)
class Cell:
    """One model, kind of item features and seed.

    Attributes:
        model: RecBole's name.
        features: ``none`` (the item id alone), ``replace`` or ``append``.
        tokenizer: ``None`` with ``none``.
        seed: of the model, the tokenizer and the sampled negatives.
        name: such as ``DeepFM-replace[R3VAE]``.
        settings: what the run is given.
        hash: of everything that decides the result.
    """

    model: str
    features: str
    tokenizer: str | None
    seed: int
    name: str
    settings: dict[str, Any]
    hash: str

    def __str__(self):
        return f"{self.name} seed {self.seed}"


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
    tried again. The table ``ctr_<dataset>.md`` has all stored cells of the same settings, so models, tokenizers and seeds may be added
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
        told = ", ".join(f"{name} {record['test'][name]:.4f}" for name in ("auc", "uauc") if name in record["test"])
        print(f"[{number}/{len(cells)}] {cell}: test {told}, {record['seconds']['training']:.0f} s", flush=True)
    page = file.with_suffix(".md")
    chosen = [cell for cell in _stored(file) if cell["given"] == given]
    if chosen:
        write_tables(page, dataset, chosen)
        print(f"{file}, {page}", flush=True)
    return failed


def cells_of(
    dataset: str,
    models: Sequence[str],
    tokenizers: Sequence[str],
    seeds: Sequence[int],
    features: Sequence[str],
    given: dict[str, Any],
    where: dict[str, Any],
) -> list[Cell]:
    """The cells, checked as far as is possible without loading data: all of one seed before the next.

    Raises:
        UserError: see :func:`run_ctr`.
    """
    for name in models:
        if contract_of(get_model(name)).task != CLICK:
            raise UserError(f"{name} does not predict clicks; take context-aware models such as DeepFM and DCNV2, and DIN")
    for name in features:
        if name not in FEATURES:
            raise UserError(f"features has {name!r}{nearest(str(name), FEATURES)}; choose among {', '.join(FEATURES)}")
    for seed in seeds:
        if type(seed) is not int:
            raise UserError(f"seeds has {seed!r}; give whole numbers, such as 2020,2021,2022")
    for key in given:
        if key.rpartition(".")[2] in FIXED:
            raise UserError(f"{key} is set by the comparison itself; leave it out (--models, --tokenizers, --seeds, --features choose)")
    kinds = [(SID_FEATURES[-1], None), *((kind, tokenizer) for tokenizer in tokenizers for kind in features)]
    known = {model: set().union(*(_keys(dataset, model, kind, tokenizer, where) for kind, tokenizer in kinds)) for model in models}
    dealt = deal(given, known)
    arms = [_arm(dataset, model, kind, tokenizer, dealt[model], where) for model in models for kind, tokenizer in kinds]
    return [
        Cell(**{**arm, "settings": {**arm["settings"], "seed": seed}}, seed=seed, hash=fingerprint({**deciding, "seed": seed}))
        for seed in seeds
        for arm, deciding in arms
    ]


def _keys(dataset: str, model: str, kind: str, tokenizer: str | None, where: dict[str, Any]) -> set[str]:
    return Config(model, dataset, config_dict={**_fixed(kind, tokenizer), **where}).known_keys()


def _fixed(kind: str, tokenizer: str | None) -> dict[str, Any]:
    return {"sid_features": kind, **({"tokenizer": tokenizer} if tokenizer else {})}


def _arm(
    dataset: str, model: str, kind: str, tokenizer: str | None, given: dict[str, Any], where: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the cells of one model and kind of features have in common, and all that decides their results but the seed."""
    keys = _keys(dataset, model, kind, tokenizer, where)
    settings = {**{key: value for key, value in given.items() if key in keys}, **_fixed(kind, tokenizer)}
    if tokenizer is None:  # what says how semantic IDs are made does not make this another cell
        settings = {key: value for key, value in settings.items() if not key.startswith((PREFIX, "sid_prefix"))}
    settings = without_unread_keys(settings, tokenizer)
    config = Config(model, dataset, config_dict={**settings, **where})
    check_stages(config)
    folder = dataset_folder(config)
    data = {path.name: sha256_of(path) for path in sorted(folder.glob(f"{dataset}.*")) if path.suffix in (".inter", ".item", ".user")}
    arm = {"model": model, "features": kind, "tokenizer": tokenizer, "name": result_name(config), "settings": settings}
    return arm, {"config": decisive(config), "data": data}


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
        **{key: getattr(cell, key) for key in ("model", "features", "tokenizer", "seed", "name", "hash")},
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
