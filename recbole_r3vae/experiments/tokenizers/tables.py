"""What the semantic IDs of all tokenizers are worth, as Markdown with how to read it, CSV and JSON."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recbole_r3vae.experiments.tables import escaped, figure, markdown_table, write_csv
from recbole_r3vae.io import atomic_write, write_json

TABLE, LEVELS = "tokenizers", "levels"  # file names without their endings
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
