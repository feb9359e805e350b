"""What a search writes: the chosen keys as YAML, and all its trials as Markdown and JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from recbole_r3vae.experiments.tables import figure, markdown_table
from recbole_r3vae.experiments.words import describe
from recbole_r3vae.io import atomic_write, write_json


def write_search(output: Path, report: dict[str, Any]) -> None:
    """The chosen keys, and the table and JSON of all trials beside them."""
    chosen = report["trials"][0]
    keys = {f"tokenizer_{key}": value for key, value in {**chosen["settings"], "seed": report["seed"]}.items()}
    write_json(output.with_suffix(".json"), report)
    with atomic_write(output.with_suffix(".md")) as file:
        file.write(markdown(report))
    with atomic_write(output) as file:
        file.write(f"# Chosen by: {report['command']}\n# Use: {report['next']}\n")
        yaml.safe_dump(keys, file, default_flow_style=None, sort_keys=False)


HEAD = ("rank", "settings", "score", "SC raw", "PD raw", "unique ratio", "usage", "unexplained share", "seconds", "configuration", "remark")


def markdown(report: dict[str, Any]) -> str:
    """All trials of a search as a page, best first.

    Args:
        report: what :func:`run_tune` writes as JSON.
    """
    in_words = f"{len(report['trials'])} of the {report['settings_in_space']} settings of the search space, seed {report['seed']}"
    lines = [
        f"# {report['tokenizer']} on {report['dataset']}: choice of settings",
        "",
        f"`{report['command']}`",
        "",
        f"{in_words}. {report['rule']}",
        "",
        f"Chosen: `{describe(report['trials'][0]['settings'])}`",
        "",
        *markdown_table(HEAD, map(_cells, report["trials"])),
        "",
        "SC, PD (both of the item vectors) and usage are means over the levels where they are defined.",
        "",
        ", ".join(f"{name} {number}" for name, number in report["versions"].items()),
    ]
    return "\n".join(lines) + "\n"


def _cells(row: dict[str, Any]) -> list[str]:
    settings = f"`{describe(row['settings'])}`"
    if row["error"] is not None:
        return ["–", settings, *["–"] * 8, f"failed: {row['error']}".replace("|", "\\|")]
    values = [row["summary"][name] for name in ("sc", "pd", "unique_ratio", "usage")]
    return [
        str(row["rank"]),
        settings,
        *map(figure, [row["score"], *values, row["quality"]["reconstruction"]["relative"]]),
        f"{row['seconds']:.0f}",
        f"`{row['configuration']}`",
        "chosen" if row["rank"] == 1 else row["rejected"] or "",
    ]
