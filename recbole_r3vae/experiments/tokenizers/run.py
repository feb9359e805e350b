"""Every tokenizer once on one catalogue, each in a process of its own, before any generator is trained."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from recbole_r3vae.config import Config, tokenizer_defaults
from recbole_r3vae.config.registry import MODEL_ROOMS, get_tokenizer, own_models
from recbole_r3vae.config.sources import given_settings
from recbole_r3vae.config.stages import deal
from recbole_r3vae.data.items import ItemVectors
from recbole_r3vae.experiments.processes import in_own_process
from recbole_r3vae.experiments.tokenizers.rows import PLACES, row_of
from recbole_r3vae.experiments.tokenizers.tables import LEVELS, TABLE, write_tables
from recbole_r3vae.experiments.words import as_word
from recbole_r3vae.provenance import versions
from recbole_r3vae.quick_start.collaborative import item_content
from recbole_r3vae.quick_start.lookup import create_dataset
from recbole_r3vae.quick_start.run import run_recbole_r3vae
from recbole_r3vae.quick_start.semantic_ids import DESCRIPTION, load_tokenizer


def run_tokenizer_benchmark(
    dataset: str,
    tokenizers: str = "all",
    output: str | os.PathLike | None = None,
    config_file_list: Iterable[str] = (),
    arguments: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Train each tokenizer once, in a process of its own, and write table and plots.

    A tokenizer that was trained before with the same content, settings and seed is taken up, so that a killed benchmark goes on
    where it stopped. One that fails is a row that says why; the others are trained all the same. In a script, call this under
    ``if __name__ == "__main__":``, because every process begins by importing the script.

    Written into ``output``: ``tokenizers.md``, ``tokenizers.csv`` (a row each), ``levels.csv`` (a row for each level of each) and
    ``tokenizers.json`` (all of it, with configurations and training histories); with matplotlib, the plots of
    :mod:`recbole_r3vae.experiments.tokenizers.plots`.

    Args:
        dataset: name of a folder of atomic files.
        tokenizers: ``all``, or names separated by commas.
        output: folder for the results; default ``results/tokenizers/<dataset>``.
        config_file_list: YAML files, later ones win.
        arguments: command-line words. A key goes to every tokenizer that has it, ``epochs`` to those that train in epochs, and
            ``--RQVAE.epochs=5`` to that one alone.

    Returns:
        One dict a tokenizer, as in ``tokenizers.json``; ``error`` is ``None`` or the reason why it failed.

    Raises:
        UserError: unknown tokenizer, key or dataset, or no usable item content.
    """
    given = given_settings(config_file_list, arguments)
    names = tokenizer_names(tokenizers)
    settings = settings_of_each(names, dataset, given)
    configs = [Config(name, dataset, config_dict=settings[name]) for name in names]  # all, to find mistakes before hours of training
    # Made here once, so that no tokenizer's memory includes the encoding of texts.
    items = ItemVectors(item_content(create_dataset(configs[0]), configs[0]))
    output = Path(output or Path("results") / "tokenizers" / dataset)

    rows, folders = [], {}
    for number, name in enumerate(names, start=1):
        place = f"[{number}/{len(names)}] {name}"
        print(f"{place} …", flush=True)
        result, error = in_own_process(run_recbole_r3vae, name, dataset, None, {"state": "warning", **settings[name]})
        if error is None:
            folders[name] = folder = Path(result["run_dir"])
            row = row_of(json.loads((folder / DESCRIPTION).read_text(encoding="utf-8")), folder.name)
            how = "reused" if result["reused"] else "trained"
            outcome = f"{how}, {row['seconds']:.0f} s, unique SIDs {row['unique_ratio']:.4f}, lowest usage {row['lowest_usage']:.4f}"
        else:
            row, outcome = {"name": name, "error": error}, f"failed: {error}"
        print(f"{place}: {outcome}", flush=True)
        rows.append(row)

    words = [f"--{key}={as_word(value)}" for key, value in given.items() if key not in PLACES]
    report = {
        "schema": 1,
        "dataset": dataset,
        "command": shlex.join(["recbole-r3vae", "benchmark", f"--tokenizers={tokenizers}", f"--dataset={dataset}", *words]),
        "items": items.n_items - 1,
        "dim": items.dim,
        "content": items.content.encoder,
        "content_hash": items.content.content_hash,
        "versions": versions(),
        "tokenizers": rows,
    }
    write_tables(output, report)
    print(f"tables: {output / TABLE}.md, .csv, .json, {output / LEVELS}.csv", flush=True)
    if folders:
        _draw(output, report, folders, items)
    return rows


def tokenizer_names(text: str) -> list[str]:
    """The tokenizers meant by ``all`` or by names separated by commas, each once.

    Raises:
        UserError: there is no tokenizer of a name; the message gives the nearest.
    """
    known = sorted(own_models(MODEL_ROOMS[0]))
    names = known if text == "all" else list(dict.fromkeys(word.strip() for word in text.split(",")))
    for name in names:
        get_tokenizer(name)  # raises for a name that does not exist
    return names


def settings_of_each(names: Sequence[str], dataset: str, given: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Deal the user's keys out.

    Args:
        names: the tokenizers.
        dataset: name of the dataset, whose YAML adds keys.
        given: key, or ``Tokenizer.key``, to value.

    Returns:
        Name to the keys and values for that tokenizer.

    Raises:
        UserError: no tokenizer has the key, or the one it is meant for has not.
    """
    known = {name: Config(name, dataset).known_keys() - {"model", "dataset"} for name in names}
    own = {name: set(tokenizer_defaults(name)) for name in names}  # data and item content have to be the same for all
    return deal(given, known, own, tokenizers=True)


def _draw(output: Path, report: dict[str, Any], folders: dict[str, Path], items: ItemVectors) -> None:
    try:
        from recbole_r3vae.experiments.tokenizers.plots import draw_plots
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "matplotlib":
            raise
        print("no plots: matplotlib is missing; pip install matplotlib, then give the same command again (nothing is trained twice)")
        return
    plots = draw_plots(output, [load_tokenizer(folder, named=name) for name, folder in folders.items()], items)
    write_tables(output, report, plots)
    print(f"plots: {', '.join(str(output / name) for name, _ in plots)}", flush=True)
