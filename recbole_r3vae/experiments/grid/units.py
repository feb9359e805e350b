"""The units that a grid stands for, each with the hash of everything that decides its result."""

from __future__ import annotations

import functools
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recbole_r3vae.config import Config, decisive, fingerprint, identity, tokenizer_config
from recbole_r3vae.config.registry import get_model, get_tokenizer, settings_file
from recbole_r3vae.config.sources import load_yaml
from recbole_r3vae.config.stages import without_unread_keys
from recbole_r3vae.data.file_hash import sha256_of
from recbole_r3vae.errors import UserError, did_you_mean
from recbole_r3vae.experiments.grid.file import LEVEL_KEYS, levels_of
from recbole_r3vae.experiments.inputs import content_hashes
from recbole_r3vae.model.contract import RANK, TOKENIZE, collisions_of
from recbole_r3vae.model.recbole_models import contract_of
from recbole_r3vae.quick_start.lookup import dataset_folder
from recbole_r3vae.quick_start.provide import check_stages
from recbole_r3vae.quick_start.summary import result_name

MEASURED = {"metrics": ["Recall", "NDCG", "MRR", "ItemCoverage", "GiniIndex"], "topk": [5, 10, 20]}
EVALUATION = {"group_by": "user", "order": "TO", "mode": "full"}


@dataclass(frozen=True)
class Unit:
    """One dataset, model, tokenizer and seed of a grid.

    Attributes:
        dataset: its name.
        model: likewise.
        tokenizer: likewise; ``None`` for models that read no semantic IDs.
        name: what the result is called, such as ``R3GR[R3VAE]``.
        label: what the grid's file calls it, where that is not its model's or its tokenizer's name; ``None`` otherwise.
        family: ``generative``, ``sequential`` (models of item ids) or ``general`` (all others).
        seed: of everything, the tokenizer included.
        max_minutes: budget of the training; ``None`` is no limit.
        collision_policy: of the semantic IDs; ``None`` without them.
        tuning_trials: settings that were tried on this dataset before these were chosen, as the YAML file states.
        settings: what the run is given.
        config: all keys that decide the result, those of the tokenizer stage as ``tokenizer_X`` where they differ from X.
        data: sha256 of each file of the dataset and of item vectors.
    """

    dataset: str
    model: str
    tokenizer: str | None
    name: str
    label: str | None
    family: str
    seed: int
    max_minutes: float | None
    collision_policy: str | None
    tuning_trials: int
    settings: dict[str, Any]
    config: dict[str, Any]
    data: dict[str, str]

    def __str__(self):
        return f"{self.dataset} {self.name} seed {self.seed}"

    @functools.cached_property
    def hash(self) -> str:
        """Identifies everything that decides the result; needs no dataset to be loaded."""
        return fingerprint(identity(self.config, self.data))

    @property
    def folder(self) -> str:
        """Name of the run's folder: not that of a plain run, which may be resumed with other epochs or minutes."""
        return f"{self.name.replace('[', '-').rstrip(']')}-{self.seed}-{self.hash}"

    def file(self, runs: Path) -> Path:
        """Its result file in ``results/runs``."""
        return runs / self.dataset / f"{self.name}-{self.seed}-{self.hash}.json"

    def identity(self) -> dict[str, Any]:
        """What its record holds whether it failed or not."""
        keys = (
            "dataset", "name", "label", "model", "tokenizer", "family", "seed", "hash", "config", "data", "max_minutes", "tuning_trials",
            "collision_policy",
        )  # fmt: skip
        return {**{key: getattr(self, key) for key in keys}, "valid_rule": self.config["valid_rule"]}


def units_of(grid: dict[str, Any], where: dict[str, str]) -> list[Unit]:
    """The units of a grid, checked as far as is possible without loading data.

    Args:
        grid: as of :func:`~recbole_r3vae.experiments.grid.file.load_grid`.
        where: ``device`` and places for all units.

    Returns:
        The units: dataset after dataset, and all models under one seed before the next seed.

    Raises:
        UserError: unknown model, tokenizer or key, a setting that a model refuses, or a missing dataset.
    """
    cells, known = [], {}
    for name, own in grid["models"].items():
        model = _called("model", name, own)
        for tokenizer, entry, more in _tokenizers(model, own):
            levels = [grid, own, more]
            innermost = {key: level[key] for level in levels for key in LEVEL_KEYS if key in level}
            for key in ("datasets", "seeds"):
                if key not in innermost:
                    raise UserError(f"no {key} for model {model}; give `{key}:` for the grid or for the model")
            for dataset in innermost["datasets"]:
                cell, keys = _cell(dataset, model, tokenizer, innermost, levels, grid, where)
                cell["label"] = ", ".join(called for called, what in ((name, model), (entry, tokenizer)) if called != what) or None
                cells.append((cell, innermost["seeds"]))
                for level in levels:
                    known.setdefault(level["where"], set()).update(keys)
    for level in levels_of(grid):
        for key in level["settings"]:
            if key not in known[level["where"]]:
                hint = did_you_mean(key, known[level["where"]], otherwise="correct it, or leave it out")
                raise UserError(f"unknown key {key} in the settings of {level['where']}{hint}")
    datasets = list(dict.fromkeys(cell["dataset"] for cell, _ in cells))
    seeds = list(dict.fromkeys(seed for _, own in cells for seed in own))
    units = [
        _unit(cell, seed)
        for dataset in datasets
        for seed in seeds
        for cell, own in cells
        if cell["dataset"] == dataset and seed in own
    ]
    twice = [unit for unit, count in Counter((str(unit), unit.hash) for unit in units).items() if count > 1]
    if twice:
        raise UserError(f"{grid['where']} has {twice[0][0]} twice with the same settings; leave one of them out")
    return units


def _called(key: str, name: str, own: dict[str, Any]) -> str:
    """The model or tokenizer that an entry is of: what it names, or its own name."""
    value = own.get(key, name)
    if not isinstance(value, str):
        raise UserError(f"{key} of {own['where']} is {value!r}; give a name, such as {'SASRec' if key == 'model' else 'R3VAE'}")
    return value


def _tokenizers(model: str, own: dict[str, Any]) -> list[tuple[str | None, str | None, dict[str, Any]]]:
    """Name of each tokenizer, of its entry, and what the entry says; one of ``None`` for a model that reads no semantic IDs."""
    model_class = get_model(model)
    contract = contract_of(model_class, "full")
    if contract.task == TOKENIZE:
        raise UserError(f"{model} is a tokenizer; name a generator such as R3GR, with `tokenizers: [{model}]`")
    if contract.task != RANK or not contract.ranks_catalogues:
        raise UserError(f"{model} predicts clicks; a grid compares rankings of the whole catalogue: name a general or sequential model")
    default = load_yaml(file).get("tokenizer") if (file := settings_file(model_class)) else None
    if default is None:
        if "tokenizers" in own:
            raise UserError(f"model {model} reads no semantic IDs; leave its `tokenizers:` out")
        return [(None, None, own)]
    tokenizers = own.get("tokenizers") or {default: own}
    entries = [(_called("tokenizer", name, more), name, more) for name, more in tokenizers.items()]
    for name, *_ in entries:
        get_tokenizer(name)  # raises for a name that does not exist
    return entries


def _cell(dataset, model, tokenizer, innermost, levels, grid, where) -> tuple[dict[str, Any], set[str]]:
    """What the units of one dataset, model and tokenizer have in common, and the keys that they have."""
    same = {"eval_args": {key: grid[key] for key in ("split", "ties") if key in grid} | EVALUATION, "valid_rule": grid["valid_rule"]}
    fixed = {**MEASURED, **same, "max_minutes": innermost.get("max_minutes")}
    if tokenizer:
        fixed["tokenizer"] = tokenizer
    given = without_unread_keys({key: value for level in levels for key, value in level["settings"].items()}, tokenizer)
    known = Config(model, dataset, config_dict={**fixed, **where}).known_keys()  # others of the grid may have more
    settings = {**{key: value for key, value in given.items() if key in known}, **fixed}
    config = Config(model, dataset, config_dict={**settings, **where})
    if config.contract.needs(config).semantic_ids is None:  # under these settings, as where R3GR reads texts alone
        tokenizer = None
    check_stages(config)
    files = [config, tokenizer_config(config)] if tokenizer else [config]
    cell = {
        "dataset": dataset,
        "model": model,
        "tokenizer": tokenizer,
        "name": result_name(config),
        "family": "generative" if tokenizer else config.contract.family,
        "max_minutes": innermost.get("max_minutes"),
        "collision_policy": collisions_of(config.contract.needs(config), config),
        "tuning_trials": innermost.get("tuning_trials", 0),
        "settings": settings,
        "config": json.loads(json.dumps(decisive(config), default=str)),
        "data": _data(files),
    }
    return cell, known


def _unit(cell: dict[str, Any], seed: int) -> Unit:
    return Unit(**{**cell, "seed": seed, "settings": {**cell["settings"], "seed": seed}, "config": {**cell["config"], "seed": seed}})


def _data(configs: list[Config]) -> dict[str, str]:
    folder, name = dataset_folder(configs[0]), configs[0]["dataset"]
    hashes = {path.name: sha256_of(path) for path in sorted(folder.glob(f"{name}.*")) if path.is_file()}
    return {**hashes, **content_hashes(configs)}
