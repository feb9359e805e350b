"""The YAML file of a grid, read and checked as far as is possible without its models."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from recbole_r3vae.config.sources import load_yaml
from recbole_r3vae.data.time_split import points_of
from recbole_r3vae.errors import UserError, did_you_mean
from recbole_r3vae.record import RULES

_ELSEWHERE = {
    **dict.fromkeys(("model", "models", "tokenizer", "tokenizers"), "under `models:`"),
    **dict.fromkeys(("seed", "seeds", "tokenizer_seed"), "as `seeds:`"),
    **dict.fromkeys(("dataset", "datasets"), "as `datasets:`"),
    "max_minutes": "as `max_minutes:`",
    "valid_rule": "as `valid_rule:` of the whole grid, one rule for all rows",
    "eval_args": "as `split:` and `ties:` of the whole grid, the same for all rows, so that they compare",
    **dict.fromkeys(("data_path", "checkpoint_dir", "content_cache_dir", "device"), "on the command line"),
    **dict.fromkeys(
        ("metrics", "topk", "benchmark_filename"), "to no grid: it is the same for all rows, so that they compare"
    ),
    **dict.fromkeys(("run_dir", "resume", "sid_file"), "to no grid, which keeps its own runs and trains its own tokenizers"),
    "init_from": "to no grid, whose runs all begin with the weights of their seed",
}
"""Settings that a grid has another place for."""

LEVEL_KEYS = ("datasets", "seeds", "max_minutes", "settings", "tuning_trials")
"""Keys of the grid, of a model in it and of a tokenizer of that model."""


def load_grid(path: str | os.PathLike, max_minutes: float | None = None) -> dict[str, Any]:
    """Read a grid.

    A file looks so; a model, and a tokenizer of a model, may have ``datasets``, ``seeds``, ``max_minutes``, ``settings`` and
    ``tuning_trials`` of its own, which win (settings key by key)::

        datasets: [lastfm]
        seeds: [2020, 2021, 2022]
        max_minutes: 10                 # of a unit's training; no limit without it
        valid_rule: left_out            # which rule on items that users have met selects epochs: left_out (default) or stay
        split: {LS: valid_and_test}     # leave-one-out (default), or by time: {GTS: [0.8, 0.9]}, see data/time_split.py
        ties: 2020                      # seed that orders a user's interactions of one time; without it the file does
        settings: {MAX_ITEM_LIST_LENGTH: 20}    # each key for all models that have it
        models:
          R3GR: {tokenizers: [R3VAE, RKMeans]}
          TIGER:
            seeds: [2020]
            tokenizers: {RQVAE: {settings: {tokenizer_epochs: 100}}}    # keys of the tokenizer as tokenizer_KEY
          SASRec: {settings: {loss_type: CE}}
          SASRec with BPR: {model: SASRec, settings: {loss_type: BPR}}    # under a name of its own, the same model once more
          Pop:

    A tokenizer stands more than once likewise: ``without PD: {tokenizer: R3VAE, settings: {tokenizer_pd_weight: 0}}``. In results a
    row is called after its model and tokenizer; where another is too, these names tell them apart, or else the settings do.

    Args:
        path: the file.
        max_minutes: a budget that wins over those of the file.

    Returns:
        The file's content, with ``{}`` for what is left empty and, as ``where``, a name for each level.

    Raises:
        UserError: an unknown key, or a value of the wrong kind.
    """
    grid = _level(load_yaml(path), f"grid {path}", ("models", "valid_rule", "split", "ties"))
    models = grid.get("models")
    if not isinstance(models, dict) or not models:
        raise UserError(f"models in grid {path} is {models!r}; name them, such as `models: {{R3GR: {{tokenizers: [R3VAE]}}, SASRec: }}`")
    if grid.setdefault("valid_rule", RULES[0]) not in RULES:
        raise UserError(f"valid_rule in grid {path} is {grid['valid_rule']!r}; choose {' or '.join(RULES)}, one rule for all models")
    split = grid.setdefault("split", {"LS": "valid_and_test"})
    if split != {"LS": "valid_and_test"} and points_of({"split": split}) is None:
        raise UserError(
            f"split in grid {path} is {split!r}; a grid asks each user for one item: write {{LS: valid_and_test}}, or {{GTS: [0.8, 0.9]}}"
        )
    if "ties" in grid and (type(grid["ties"]) is not int or grid["ties"] < 0):
        raise UserError(f"ties in grid {path} is {grid['ties']!r}; give a seed, a whole number from 0, or leave it out")
    for name, values in models.items():
        models[name] = values = _level(values, f"model {name} in grid {path}", ("model", "tokenizers"))
        tokenizers = values.get("tokenizers")
        if isinstance(tokenizers, list):
            values["tokenizers"] = tokenizers = dict.fromkeys(_names(tokenizers, f"tokenizers of model {name} in grid {path}", str))
        if "tokenizers" in values and (not isinstance(tokenizers, dict) or not tokenizers):
            raise UserError(f"tokenizers of model {name} in grid {path} is {tokenizers!r}; give a list, such as [R3VAE, RKMeans]")
        if tokenizers:  # a mapping of its own: an anchor of YAML makes one mapping serve several models
            where = f"of model {name} in grid {path}"
            values["tokenizers"] = {entry: _level(own, f"tokenizer {entry} {where}", ("tokenizer",)) for entry, own in tokenizers.items()}
    if max_minutes is not None:
        minutes = _minutes(max_minutes, "--max_minutes")
        for level in levels_of(grid):
            level["max_minutes"] = minutes
    return grid


def levels_of(grid: dict[str, Any]) -> Iterable[dict[str, Any]]:
    """The grid itself, its models and their tokenizers."""
    yield grid
    for model in grid["models"].values():
        yield model
        yield from model.get("tokenizers", {}).values()


def _level(values: Any, where: str, more: tuple[str, ...]) -> dict[str, Any]:
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise UserError(f"{where} is {values!r}; give keys, such as {{seeds: [2020]}}, or nothing")
    for key in values:
        if key == "mask_history":
            gone = "every test ranks with met items and without them"
            raise UserError(f"mask_history of {where} is no key any more, as {gone}; write `valid_rule: stay` for False, left_out for True")
        if key not in (*LEVEL_KEYS, *more):
            hint = "; it belongs under `settings:`" if key not in _ELSEWHERE else ""
            close = "" if str(key).startswith("tokenizer_") else did_you_mean(str(key), (*LEVEL_KEYS, *more))
            raise UserError(f"unknown key {key} of {where}{close or hint}")
    for key, kind in (("datasets", str), ("seeds", int)):
        if key in values:
            _names(values[key], f"{key} of {where}", kind)
    if any(seed < 0 for seed in values.get("seeds", [])):
        raise UserError(f"seeds of {where} are {values['seeds']}; a seed is a whole number from 0")
    if values.get("max_minutes") is not None:
        values = {**values, "max_minutes": _minutes(values["max_minutes"], f"max_minutes of {where}")}
    trials = values.get("tuning_trials", 0)
    if type(trials) is not int or trials < 0:
        raise UserError(f"tuning_trials of {where} is {trials!r}; give a whole number, 0 where none were tried")
    settings = values.get("settings") or {}
    if not isinstance(settings, dict):
        raise UserError(f"settings of {where} is {settings!r}; give keys and values, such as {{learning_rate: 1e-3}}")
    for key in settings:
        if key in _ELSEWHERE:
            raise UserError(f"{key} stands in the settings of {where}; give it {_ELSEWHERE[key]}")
    return {**values, "settings": settings, "where": where}


def _names(values: Any, where: str, kind: type) -> list:
    what = "whole numbers" if kind is int else "names"
    if not isinstance(values, list) or not values or any(type(value) is not kind for value in values):
        raise UserError(f"{where} is {values!r}; give a list of {what}")
    if len(set(values)) < len(values):
        raise UserError(f"{where} is {values}; name each once")
    return values


def _minutes(minutes: Any, where: str) -> float:
    """Checked; whole ones as ``int``, since 10 and 10.0 are one budget and must have one hash."""
    if type(minutes) not in (int, float) or not minutes > 0:
        raise UserError(f"{where} is {minutes!r}; give minutes above 0")
    return int(minutes) if minutes == minutes // 1 else minutes
