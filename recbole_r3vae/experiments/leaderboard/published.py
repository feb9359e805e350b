"""Figures that others published: read, checked, and set beside our rows of the same rule on met items."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recbole_r3vae.config.sources import load_yaml, properties
from recbole_r3vae.errors import UserError
from recbole_r3vae.experiments.leaderboard.figures import drawn_ties, split_points
from recbole_r3vae.record import Rule

KINDS = ("authors", "independent")
RULE_WORDS: dict[str, Rule | None] = {"left out": "left_out", "stay": "stay", "unknown": None}
_KEYS = {  # kinds of value, and whether an entry may do without the key
    "method": ((str,), False),
    "source": ((str,), False),
    "rule": ((str,), False),
    "history": ((int, type(None)), False),
    "text": ((str, type(None)), False),
    "row": ((str,), True),
}
_EXAMPLES = {
    "method": "a name", "source": "who published it", "rule": f"one of {', '.join(RULE_WORDS)}", "history": "a whole number, or ~",
    "text": "the text encoder in a few words, or ~", "row": "the name of our row, or leave it out",
}  # fmt: skip


def read_published(path: Path | None = None) -> tuple[str, list[dict[str, Any]]]:
    """Read ``published.yaml``.

    Args:
        path: the file, if not that of ``properties/benchmark``.

    Returns:
        Its note, and its entries in their order, the authors' first: ``kind``, ``method``, ``source``, ``row``, ``history``, ``text``,
        ``rule`` (``left_out``, ``stay`` or ``None`` where it is unknown) and ``figures``, dataset to ``[Recall@10, NDCG@10]`` with,
        perhaps, the deviation of the former.

    Raises:
        UserError: an entry lacks a key, or a value is of the wrong kind; the message names the entry.
    """
    path = path or properties() / "benchmark" / "published.yaml"
    source = load_yaml(path)
    if not isinstance(source.get("note"), str):
        raise UserError(f"note in {path} is {source.get('note')!r}; write what readers must know of the figures")
    entries = []
    for kind in KINDS:
        if not isinstance(source.get(kind), list):
            raise UserError(f"{kind} in {path} is {source.get(kind)!r}; give a list of entries")
        entries += [_entry(values, kind, f"entry {number} of {kind} in {path}") for number, values in enumerate(source[kind], start=1)]
    return source["note"], entries


def _entry(values: Any, kind: str, where: str) -> dict[str, Any]:
    if not isinstance(values, dict):
        raise UserError(f"{where} is {values!r}; give keys, such as {{method: TIGER, rule: stay}}")
    where = f"{where}, {values.get('method')!r}, {values.get('source')!r}"
    for key, (kinds, optional) in _KEYS.items():
        if key not in values and not optional:
            raise UserError(f"{where} has no {key}; give {_EXAMPLES[key]}")
        if key in values and type(values[key]) not in kinds:
            raise UserError(f"{where}: {key} is {values[key]!r}; give {_EXAMPLES[key]}")
    if values["rule"] not in RULE_WORDS:
        raise UserError(f"{where}: rule is {values['rule']!r}; give {_EXAMPLES['rule']}")
    figures = {key: value for key, value in values.items() if key not in _KEYS}
    if not figures:
        raise UserError(f"{where} has no figures; give a dataset, such as amazon-beauty: [0.07, 0.04]")
    for dataset, found in figures.items():
        if not isinstance(found, list) or len(found) not in (2, 3) or not all(_is_share(value) for value in found):
            raise UserError(f"{where}: {dataset} is {found!r}; give [Recall@10, NDCG@10], shares of 1, ~ where one is not reported")
    kept = {key: values.get(key) for key in ("method", "source", "row", "history", "text")}
    return {"kind": kind, **kept, "rule": RULE_WORDS[values["rule"]], "figures": figures}


def _is_share(value: Any) -> bool:
    return value is None or type(value) is float and 0 < value < 1


def published_of(dataset: str, rows: list[dict[str, Any]], path: Path | None = None) -> dict[str, Any] | None:
    """The published figures of a dataset, for a leaderboard.

    Each row gets, under ``published``, rule to kind to entry: the first entry of each kind that names the row, beside our figures of its
    own rule. An entry of unknown rule stands beside none, and a row that was split by time, or whose ties were drawn, beside none: they
    are of leave-one-out in the order of the file.

    Args:
        dataset: its name.
        rows: of the leaderboard.
        path: as of :func:`read_published`.

    Returns:
        ``note`` and ``entries``; ``None`` where there are none, or no row to compare them with.
    """
    for row in rows:
        row["published"] = {}
    comparable = [row for row in rows if split_points(row) is None and drawn_ties(row) is None]
    if rows and not comparable:
        return None
    note, known = read_published(path)
    entries = []
    for entry in known:
        if dataset in entry["figures"]:
            recall, ndcg, *deviation = entry["figures"][dataset]
            figures = {"recall@10": recall, "ndcg@10": ndcg, "recall@10_std": deviation[0] if deviation else None}
            entries.append({**{key: value for key, value in entry.items() if key != "figures"}, **figures})
    for row in comparable:
        for entry in entries:
            if entry["row"] == row["name"] and entry["rule"] is not None:
                row["published"].setdefault(entry["rule"], {}).setdefault(entry["kind"], entry)
    return {"note": note, "entries": entries} if entries else None
