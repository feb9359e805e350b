"""Choosing a tokenizer's settings by the quality of its semantic IDs; no generator is trained."""

from __future__ import annotations

import math
import os
import shlex
import time
import traceback
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from recbole.data.dataset import Dataset

from recbole_r3vae.config import Config, tokenizer_config, tokenizer_defaults
from recbole_r3vae.config.registry import get_model, settings_file
from recbole_r3vae.config.sources import load_yaml, parse_arguments
from recbole_r3vae.config.stages import PREFIX
from recbole_r3vae.data.content import ItemContent
from recbole_r3vae.errors import UserError
from recbole_r3vae.experiments.tables import figure
from recbole_r3vae.experiments.tune.space import Settings, grid, load_space, sample
from recbole_r3vae.experiments.tune.tables import write_search
from recbole_r3vae.experiments.words import as_word, describe
from recbole_r3vae.model.recbole_models import contract_of
from recbole_r3vae.provenance import versions
from recbole_r3vae.quick_start.collaborative import item_content
from recbole_r3vae.quick_start.lookup import create_dataset
from recbole_r3vae.quick_start.semantic_ids import train_tokenizer
from recbole_r3vae.sid.quality.choice import RULE, choose
from recbole_r3vae.trainer.tokenizer import summary

PLACES = {"data_path", "checkpoint_dir", "content_cache_dir"}  # where things lie; no part of what was tuned


def run_tune(
    tokenizer: str,
    dataset: str,
    space: str | os.PathLike | None = None,
    trials: int | None = None,
    output: str | os.PathLike | None = None,
    config_file_list: Iterable[str] = (),
    arguments: Sequence[str] = (),
    model: str = "R3GR",
) -> list[dict[str, Any]]:
    """Train a tokenizer under each setting of a search space and choose one by :func:`recbole_r3vae.sid.quality.choice.choose`.

    Each trial is the tokenizer stage of ``recbole-r3vae run --model=R3GR`` with the same words, so its tokenizer is taken up where it was
    trained before (by a trial of a search that was killed, or by a run), and a run with the chosen settings takes up the trial's. A
    trial that fails is a row that says why; the others go on.

    Written beside each other: ``output``, the chosen keys, ready for ``--config_files``; and with the endings ``.md`` and ``.json``
    all trials, best first.

    Args:
        tokenizer: name of the tokenizer.
        dataset: name of a folder of atomic files.
        space: YAML file of the search space, see :func:`load_space`; default ``properties/tune/<tokenizer>.yaml``.
        trials: so many settings, drawn at random with the run's seed; default all.
        output: the YAML file to write; default ``results/tune/<tokenizer>_<dataset>.yaml``.
        config_file_list: YAML files, later ones win.
        arguments: command-line words as for a run; a key given here or in a file leaves the search.
        model: the generator that the semantic IDs are meant for; its YAML may set keys of the tokenizer.

    Returns:
        One dict a trial, best first, as in the JSON file; ``error`` is ``None`` or the reason why the trial failed.

    Raises:
        UserError: unknown tokenizer, key or dataset, an unusable space, or no trial succeeded.
    """
    files, arguments = list(config_file_list), list(arguments)
    output = Path(output or Path("results") / "tune" / f"{tokenizer}_{dataset}.yaml")
    if output.suffix not in (".yaml", ".yml"):
        raise UserError(f"--output {output} has to be a YAML file; write {output.with_suffix('.yaml')}")
    _check_words(arguments, tokenizer, model)
    generator = Config(model, dataset, files, {"tokenizer": tokenizer}, arguments)
    fixed = _given(generator)
    config = tokenizer_config(generator)
    candidates = grid(load_space(tokenizer, space), fixed)
    n_grid = len(candidates)
    if trials is not None:
        candidates = sample(candidates, trials, config["seed"])

    data = create_dataset(generator)
    content = item_content(data, config)
    print(f"{tokenizer} on {dataset}: {len(candidates)} of the {n_grid} settings of the search space", flush=True)
    rows, trained, spent = [], 0, 0.0
    for number, settings in enumerate(candidates, start=1):
        started = time.monotonic()
        keys = {"tokenizer": tokenizer, **{f"tokenizer_{key}": value for key, value in settings.items()}}
        row = _trial(tokenizer_config(Config(model, dataset, files, keys, arguments)), content, data, settings)
        if not row["reused"]:
            trained, spent = trained + 1, spent + time.monotonic() - started
        left = len(candidates) - number
        rest = f"; about {_duration(spent / trained * left)} left" if trained and left else ""
        print(f"[{number}/{len(candidates)}] {describe(settings)}: {_outcome(row)}{rest}", flush=True)
        rows.append(row)

    rows = _ranked(rows)
    given = parse_arguments(arguments)
    words = [f"--{key}={as_word(value)}" for key, value in given.items() if key not in PLACES]
    names = [f"--model={model}", f"--tokenizer={tokenizer}", f"--dataset={dataset}"]
    search = [f"--{key}={value}" for key, value in (("space", space), ("trials", trials)) if value is not None]
    report = {
        "schema": 1,
        "tokenizer": tokenizer,
        "dataset": dataset,
        "command": shlex.join(["recbole-r3vae", "tune", *names, *search, *words, *(["--config_files", *files] if files else [])]),
        "next": shlex.join(["recbole-r3vae", "run", *names, *words, "--config_files", *files, str(output)]),
        "settings_in_space": n_grid,
        "rule": RULE,
        "seed": config["seed"],
        "content": content.encoder,
        "content_hash": content.content_hash,
        "versions": versions(),
        "trials": rows,
    }
    write_search(output, report)
    print(f"chosen: {describe(rows[0]['settings'])}\nall trials: {output.with_suffix('.md')}, .json")
    places = shlex.join(f"--{key}={given[key]}" for key in sorted(PLACES & set(given)))
    print(f"next: {report['next']} {places}".rstrip(), flush=True)
    return rows


def _check_words(arguments: list[str], tokenizer: str, model: str) -> None:
    """Refuse words that would reach the generator only, where the user of this command surely means the tokenizer."""
    if contract_of(get_model(model)).family != "generative":
        raise UserError(f"--model={model} makes no use of semantic IDs; give a generator such as R3GR")
    words, defaults = parse_arguments(arguments), tokenizer_defaults(tokenizer)
    for key in sorted(set(words) & set(defaults) & set(load_yaml(settings_file(get_model(model))))):
        raise UserError(f"--{key} would be {model}'s, which is not trained here; write --tokenizer_{key}={as_word(words[key])}")


def _given(generator: Config) -> set[str]:
    """Keys of the tokenizer that the user has set; a file's key without ``tokenizer_`` is the generator's where that has it."""
    return {key.removeprefix(PREFIX) for key in generator.asked if key.startswith(PREFIX) or key not in generator.model_keys}


def _trial(config: Config, content: ItemContent, data: Dataset, settings: Settings) -> dict[str, Any]:
    nothing = ("error", "rank", "score", "rejected", "configuration", "seconds", "summary", "quality")
    row = {"settings": settings, "reused": False, **dict.fromkeys(nothing)}
    try:
        trained = train_tokenizer(config, content, config["show_progress"], data)
    except UserError as error:
        return {**row, "error": _one_line(error)}
    except Exception as error:
        traceback.print_exc()
        return {**row, "error": f"{type(error).__name__}: {_one_line(error)}"}
    quality = trained.description["quality"]
    return {
        **row,
        "configuration": trained.folder.name.removeprefix(f"{config.model}-"),
        "reused": trained.reused,
        "seconds": trained.description["seconds"],
        "summary": {name: None if math.isnan(value) else value for name, value in summary(quality).items()},
        "quality": quality,
    }


def _ranked(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The trials with the rule's verdicts, best first, failed ones last.

    Raises:
        UserError: all failed.
    """
    good = [row for row in rows if row["error"] is None]
    if not good:
        raise UserError(f"none of the {len(rows)} trials succeeded; the first failed so: {rows[0]['error']}")
    for row, verdict in zip(good, choose([row["quality"] for row in good])):
        row.update(rank=verdict.rank, score=verdict.score, rejected=verdict.rejected)
    return sorted(good, key=lambda row: row["rank"]) + [row for row in rows if row["error"] is not None]


def _outcome(row: dict[str, Any]) -> str:
    if row["error"] is not None:
        return f"failed: {row['error']}"
    values = row["summary"]
    how = "reused" if row["reused"] else f"{row['seconds']:.0f} s"
    return f"{how}, SC {figure(values['sc'])}, PD {figure(values['pd'])}, unique SIDs {figure(values['unique_ratio'])}"


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
