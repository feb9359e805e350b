"""Markdown and CSV tables, as all experiments write them."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from recbole_r3vae.io import atomic_write


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table, the first column to the left and the others to the right."""
    lines = [f"| {' | '.join(head)} |", f"|---|{'---:|' * (len(head) - 1)}"]
    return lines + [f"| {' | '.join(cells)} |" for cells in rows]


def escaped(text: str) -> str:
    """Text that Markdown shows as it is: in one line, without cells, tags, code, emphasis or links of its own."""
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    for mark in ("\\", "|", "`", "*"):
        text = text.replace(mark, f"\\{mark}")
    text = re.sub(r"(?<![^\W_])_|_(?![^\W_])|~", r"\\\g<0>", text)  # within a word, an underscore is one
    return text.replace("](", "]\\(")


def code(text: str) -> str:
    """Text as code, in one line."""
    text = " ".join(text.split())
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    space = " " if len(fence) > 1 else ""
    return f"{fence}{space}{text}{space}{fence}"


def figure(value: float | None, places: int = 4) -> str:
    """A figure with so many decimals, ``–`` where there is none."""
    return "–" if value is None else f"{value:.{places}f}"


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write a row for each dict, a column for each key of any of them; lists of sizes as ``256x256``."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with atomic_write(path) as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({key: "x".join(map(str, value)) if isinstance(value, list) else value for key, value in row.items()})
