"""Every tokenizer once on one catalogue: a table of what their semantic IDs are worth before any generator is trained."""

from __future__ import annotations

import json
import math
import os
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from recbole_r3vae.benchmark.processes import in_own_process
from recbole_r3vae.benchmark.tables import escaped, figure, markdown_table, write_csv
from recbole_r3vae.config import Config, tokenizer_defaults
from recbole_r3vae.config.registry import MODEL_ROOMS, get_tokenizer, own_models
from recbole_r3vae.config.sources import given_settings
from recbole_r3vae.config.stages import deal
from recbole_r3vae.data.content import load_content
from recbole_r3vae.data.items import ItemVectors
from recbole_r3vae.io import atomic_write, write_json
from recbole_r3vae.provenance import versions
from recbole_r3vae.quick_start.lookup import create_dataset
from recbole_r3vae.quick_start.run import run_recbole_r3vae
from recbole_r3vae.quick_start.semantic_ids import DESCRIPTION, load_tokenizer
from recbole_r3vae.trainer.tokenizer import mean_defined

TABLE, LEVELS = "tokenizers", "levels"  # file names without their endings
PLACES = {"data_path", "checkpoint_dir", "content_cache_dir"}  # where things lie; no part of what was measured


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
    :mod:`recbole_r3vae.benchmark.plots`.

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
    items = ItemVectors(load_content(create_dataset(configs[0]), configs[0]))
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
            told = f"{how}, {row['seconds']:.0f} s, unique SIDs {row['unique_ratio']:.4f}, lowest usage {row['lowest_usage']:.4f}"
        else:
            row, told = {"name": name, "error": error}, f"failed: {error}"
        print(f"{place}: {told}", flush=True)
        rows.append(row)

    words = [f"--{key}={_word(value)}" for key, value in given.items() if key not in PLACES]
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


# -- tables --------------------------------------------------------------------------------------------------------------------


def row_of(description: dict[str, Any], folder: str) -> dict[str, Any]:
    """What the tables say of one tokenizer.

    Args:
        description: its ``tokenizer.json``.
        folder: name of its folder, which ends in the hash of its configuration and of the item content.

    Returns:
        Name to figure; SC and PD are means over the levels where they are defined, perplexity and Gini over all. ``levels`` holds those
        of each level. ``None`` where a figure is not defined, or was not recorded by the version that trained the tokenizer.
    """
    quality = description["quality"]
    levels = [_level_row(level) for level in quality["levels"]]
    error, cost = quality["reconstruction"], description.get("peak_memory_mb", {})
    means = {
        name: _none_for_nan(mean_defined(level[name] for level in levels))
        for name in ("perplexity", "gini", "sc_raw", "pd_raw", "sc_own", "pd_own")
    }
    return {
        "name": description["name"],
        "error": None,
        "codebook_sizes": [level["codebook_size"] for level in levels],
        "lowest_usage": min(level["usage"] for level in levels),
        "perplexity": means["perplexity"],
        "gini": means["gini"],
        **{key: quality[key] for key in ("unique_ratio", "collision_rate", "items_per_used_sid", "largest_sid")},
        **{key: means[key] for key in ("sc_raw", "pd_raw", "sc_own", "pd_own")},
        "reconstruction": error["mse"],
        "reconstruction_share": error["relative"],
        "seconds": description["seconds"],
        "peak_memory_mb": cost.get("process"),
        "peak_gpu_memory_mb": cost.get("gpu"),
        "epochs": description.get("epochs"),
        "stopped_at_budget": description.get("stopped_at_budget"),
        "seed": description["config"]["seed"],
        "configuration": folder.removeprefix(f"{description['name']}-"),
        "levels": levels,
        "config": {key: value for key, value in description["config"].items() if key not in PLACES},
        "history": description.get("history", []),
        "versions": description.get("versions"),
        "hardware": description.get("hardware"),
    }


def _level_row(level: dict[str, Any]) -> dict[str, Any]:
    raw, own = level["spaces"]["raw"], level["spaces"]["residual"]
    keys = ("level", "codebook_size", "used", "reachable", "perplexity", "gini", "clusters", "clusters_2plus")
    return {
        **{key: level[key] for key in keys},
        "usage": level["usage_of_reachable"],
        "sc_raw": raw["sc"],
        "pd_raw": raw["pd"],
        "pd_raw_stderr": raw["pd_stderr"],
        "sc_own": own["sc"],
        "pd_own": own["pd"],
        "pd_own_stderr": own["pd_stderr"],
    }


def write_tables(output: Path, report: dict[str, Any], plots: Sequence[tuple[str, str]] = ()) -> None:
    """Write the Markdown, CSV and JSON files of :func:`run_tokenizer_benchmark`.

    Args:
        output: their folder.
        report: what ``tokenizers.json`` is to hold.
        plots: file name and caption of each plot that the Markdown is to show.
    """
    write_json(output / f"{TABLE}.json", report)
    nested = ("levels", "config", "history", "versions", "hardware")
    flat = [{key: value for key, value in row.items() if key not in nested} for row in report["tokenizers"]]
    write_csv(output / f"{TABLE}.csv", flat)
    levels = [{"name": row["name"], **level} for row in report["tokenizers"] for level in row.get("levels", [])]
    write_csv(output / f"{LEVELS}.csv", levels)
    with atomic_write(output / f"{TABLE}.md") as file:
        file.write(markdown(report, plots))


HEAD = (
    "tokenizer", "levels", "lowest usage", "perplexity", "Gini", "unique ratio", "collision rate", "items per SID", "SC raw",
    "PD raw", "SC own", "PD own", "reconstruction", "share of variance", "seconds", "memory, MiB", "configuration",
)  # fmt: skip
LEVEL_HEAD = (
    "tokenizer", "level", "codes used", "usage", "perplexity", "Gini", "clusters", "of 2 or more", "SC raw", "PD raw", "SC own", "PD own",
)  # fmt: skip
NO_DECODER = 0.999  # a reconstruction that leaves this share of the variance is no better than the mean of all items

READING = """
**Comparable between tokenizers**, because all are measured on the same items in the same space: usage (of the codes that so many items
can reach), unique ratio, collision rate, items per SID, and SC and PD **raw**, which are those of the item vectors. SC (cohesion within
clusters of equal prefix, higher is better) and PD (separation between them, lower is better) also follow the number of clusters: many
small clusters are more alike inside than few large ones. Read them beside `clusters` in the table of levels. Perplexity and Gini are
comparable where the codebooks have the same sizes. Seconds are those of training; memory is the most that the tokenizer's own process
held, Python, PyTorch and scoring included. Both compare on one machine under one load only.

**Not comparable**: SC and PD **own** are measured in the space that the tokenizer quantises. An encoder can shrink or stretch that space
at will. `=` marks an own space in which both are those of the raw one. **Reconstruction** (squared error, summed over dimensions)
compares tokenizers whose decoder is trained to return to the item's vector; † marks an error no smaller than that of answering every item
with the mean vector, where there is no decoder, or one that was trained for something else. Training losses are not comparable either.

**The unique ratio alone is no ranking: it puts codes without meaning on top.** `Random` codes hardly ever meet: of n different
vectors on N possible tuples, a share of about 1 - n / 2N stays distinct. `LSH`, for which nothing is learned, can come next. A semantic
tokenizer gives like items like codes and so has more collisions. A high unique ratio is worth something only together with a high SC
raw and a low reconstruction error.
"""


def markdown(report: dict[str, Any], plots: Sequence[tuple[str, str]] = ()) -> str:
    """The tables as a Markdown page, with how to read them; arguments as of :func:`write_tables`."""
    rows = report["tokenizers"]
    measured = [row for row in rows if row["error"] is None]
    content = report["content"]
    fields = f" of {', '.join(content['fields'])}" if "fields" in content else ""
    seeds = sorted({row["seed"] for row in measured})
    once = f" Seed {', '.join(map(str, seeds))}, each tokenizer once: small differences are noise." if seeds else ""
    lines = [
        f"# Tokenizers on {report['dataset']}",
        "",
        f"{report['items']:,} items, `{content['kind']}` vectors{fields}, {report['dim']} dimensions.{once}",
        "Semantic IDs (SIDs) are scored before collisions are resolved.",
        "",
        f"`{report['command']}`",
        "",
        *markdown_table(HEAD, [_main_cells(row) for row in rows]),
    ]
    stopped = [row["name"] for row in measured if row["stopped_at_budget"]]
    if stopped:
        lines += ["", f"Stopped at `max_minutes` before the last epoch: {', '.join(stopped)}."]
    lines += ["", "## How to read it", READING.rstrip()]
    if plots:
        lines += ["", "## Plots"]
        for name, caption in plots:
            lines += ["", f"{caption}.", "", f"![{name}]({name})"]
    if measured:
        lines += ["", "## Levels", "", "Means in the table above are over these levels, where defined.", ""]
        lines += markdown_table(LEVEL_HEAD, [cells for row in measured for cells in _level_cells(row)])
        lines += ["", "–: not defined (SC without a cluster of two items, PD with fewer than two clusters), or not recorded."]
        if any(level["pd_raw_stderr"] or level["pd_own_stderr"] for row in measured for level in row["levels"]):
            lines.append("~: PD estimated from random pairs of clusters; standard errors are in the CSV file.")
        lines += ["", "## Versions", "", *_made_with(measured)]
    return "\n".join(lines) + "\n"


def _main_cells(row: dict[str, Any]) -> list[str]:
    if row["error"] is not None:
        return [row["name"], f"**failed**: {escaped(row['error'])}", *[""] * (len(HEAD) - 2)]
    mark = " †" if (row["reconstruction_share"] or 0) >= NO_DECODER else ""
    memory = figure(row["peak_memory_mb"], 0)
    if row["peak_gpu_memory_mb"] is not None:
        memory += f" + {row['peak_gpu_memory_mb']:.0f} on the GPU"
    return [
        row["name"],
        _sizes(row["codebook_sizes"]),
        figure(row["lowest_usage"]),
        figure(row["perplexity"], 1),
        *(figure(row[key]) for key in ("gini", "unique_ratio", "collision_rate", "items_per_used_sid")),
        *_spaces(row, any(level["pd_raw_stderr"] for level in row["levels"]), any(level["pd_own_stderr"] for level in row["levels"])),
        figure(row["reconstruction"]) + mark,
        figure(row["reconstruction_share"]),
        figure(row["seconds"], 0 if row["seconds"] >= 10 else 1),
        memory,
        f"`{row['configuration']}`",
    ]


def _level_cells(row: dict[str, Any]) -> list[list[str]]:
    return [
        [
            row["name"],
            str(level["level"]),
            f"{level['used']} of {level['reachable']}",
            figure(level["usage"]),
            figure(level["perplexity"], 1),
            figure(level["gini"]),
            f"{level['clusters']:,}",
            f"{level['clusters_2plus']:,}",
            *_spaces(level, level["pd_raw_stderr"], level["pd_own_stderr"]),
        ]
        for level in row["levels"]
    ]


def _spaces(values: dict[str, Any], raw_is_sampled: Any, own_is_sampled: Any) -> list[str]:
    raw = [figure(values["sc_raw"]), "~" * bool(raw_is_sampled) + figure(values["pd_raw"])]
    own = [figure(values["sc_own"]), "~" * bool(own_is_sampled) + figure(values["pd_own"])]
    return raw + (["=", "="] if own == raw else own)


def _made_with(rows: list[dict[str, Any]]) -> list[str]:
    """Which versions and machine trained which tokenizers; one line where they are the same for all."""
    by_origin: dict[str, list[str]] = {}
    for row in rows:
        origin = "not recorded"
        if row["versions"]:
            numbers = ", ".join(f"{name} {number}" for name, number in row["versions"].items())
            origin = f"{row['hardware']['machine']}, {row['hardware']['threads']} thread(s), {row['hardware']['device']}; {numbers}"
        by_origin.setdefault(origin, []).append(row["name"])
    if len(by_origin) == 1:
        return list(by_origin)
    return [f"* {', '.join(names)}: {origin}" for origin, names in by_origin.items()]


def _sizes(sizes: list[int]) -> str:
    return f"{len(sizes)} × {sizes[0]}" if len(set(sizes)) == 1 else " × ".join(map(str, sizes))


def _none_for_nan(value: float) -> float | None:
    return None if math.isnan(value) else value


def _word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def _draw(output: Path, report: dict[str, Any], folders: dict[str, Path], items: ItemVectors) -> None:
    try:
        from recbole_r3vae.benchmark.plots import draw_plots
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "matplotlib":
            raise
        print("no plots: matplotlib is missing; pip install matplotlib, then give the same command again (nothing is trained twice)")
        return
    plots = draw_plots(output, [load_tokenizer(folder, named=name) for name, folder in folders.items()], items)
    write_tables(output, report, plots)
    print(f"plots: {', '.join(str(output / name) for name, _ in plots)}", flush=True)
