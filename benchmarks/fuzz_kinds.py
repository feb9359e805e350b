"""Inputs for ``fuzz.py`` that are made anew rather than damaged: what must come out of them is known, because the maker knows what it made.

* ``data``: the interactions of a trained model in another order, with more lines, without a user, an item or some lines: users whose
  history stayed get what they got before.
* ``settings``: settings from Python as numpy, torch, tuples, paths: the same configuration as of plain values, in a file that can be read.
* ``parts``: data that is split already, in three files: a run, or one line about the file.
* ``quoted``: comma-separated files with quoted cells that hold commas, quotation marks and spaces: all items, and none else.
* ``histories``: as pandas, JSON, numpy and spreadsheets write them: recommendations for each with a known item.
* ``index``: ``*.index.json`` and tokens, sparse codes too: the same semantic IDs.

One in three is damaged in addition; then the answer may also be one line.
"""

from __future__ import annotations

import csv
import datetime
import io
import json
import random
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from recbole_r3vae.config import Config
from recbole_r3vae.errors import UserError
from recbole_r3vae.sid.table import SemanticIDs

MODELS = ("SASRec", "BPR", "HSTU", "R3GR")
"""Models that :func:`fuzz.write_inputs` trains as ``trained_<model>``, with what they recommend in ``recommended_<model>.csv``."""

Damage = Callable[[str, random.Random, str], bytes]


@dataclass(frozen=True)
class Made:
    """One input.

    Attributes:
        words: the command.
        files: what is written before it.
        check: what is wrong with its result, or ``None``; called where it ended well.
        refusable: whether it may be refused.
        names: one of these stands in a refusal.
        call: instead of a command; raises what it finds.
    """

    words: list[str] = field(default_factory=list)
    files: dict[Path, bytes] = field(default_factory=dict)
    check: Callable[[], str | None] = lambda: None
    refusable: bool = True
    names: tuple[str, ...] = ("small",)
    call: Callable[[], None] | None = None


def make(kind: str, rng: random.Random, top: Path, damaged: Damage, words: dict[str, list[str]]) -> Made:
    """The input of a kind that a generator of random numbers leads to.

    Args:
        kind: of :data:`MAKERS`.
        rng: the same makes the same.
        top: folder of the valid inputs.
        damaged: damages a text.
        words: valid commands of ``fuzz.py`` by name.
    """
    return MAKERS[kind](rng, top, damaged if rng.random() < 1 / 3 else None, words)


def _maybe(damaged: Damage | None, text: str, rng: random.Random, separator: str) -> bytes:
    return text.encode() if damaged is None else damaged(text, rng, separator)


# -- data that changed under a trained model ---------------------------------------------------------------------------------------


def changed_data(rng: random.Random, top: Path, damaged: Damage | None, words: dict[str, list[str]]) -> Made:
    path = top / "data" / "small" / "small.inter"
    head, *lines = path.read_text().splitlines()
    before, model = [line.split("\t") for line in lines], rng.choice(MODELS)
    rows = list(before)
    for what in rng.sample(("shuffle", "append", "without a user", "without an item", "without lines"), rng.randint(1, 2)):
        if what == "shuffle":
            rng.shuffle(rows)
        elif what == "append":
            new = rng.random() < 0.3
            for _ in range(rng.randint(1, 5)):
                user, item = (rng.choice(before)[place] for place in (0, 1))
                rows.append([user, f"new{rng.randrange(3)}" if new else item, str(rng.randint(5, 9))])
        elif what == "without lines":
            rows = [row for row in rows if rng.random() < 0.9] or rows
        else:
            place = 0 if what == "without a user" else 1
            gone = rng.choice(before)[place]
            rows = [row for row in rows if row[place] != gone] or rows
    was, found = _by_user(before), _by_user(rows)
    same = [user for user in found if was.get(user) == found[user]] if model != "BPR" else [user for user in found if user in was]
    users = same or list(found)

    def check() -> str | None:
        if damaged is not None:
            return None
        expected, given = (_recommended(top / name) for name in (f"recommended_{model}.csv", "out.csv"))
        other = [user for user in same if not _close(expected[user], given.get(user, []))]
        return f"{model}: others for {other}: {given.get(other[0])} instead of {expected[other[0]]}" if other else None

    text = "\n".join([head, *("\t".join(row) for row in rows)]) + "\n"
    command = ["recommend", f"--checkpoint=trained_{model}", f"--users={','.join(users)}", "--topk=3", "--output=out.csv"]
    return Made(command, {path: _maybe(damaged, text, rng, "\t")}, check)


def _by_user(rows: list[list[str]]) -> dict[str, list[tuple[float, str]]]:
    found: dict[str, list[tuple[float, str]]] = {}
    for user, item, when in rows:
        found.setdefault(user, []).append((float(when), item))
    return {user: sorted(history) for user, history in found.items()}


def _recommended(path: Path) -> dict[str, list[tuple[str, float]]]:
    found: dict[str, list[tuple[str, float]]] = {}
    with open(path, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            found.setdefault(row["user"], []).append((row["item"], float(row["score"])))
    return found


def _close(one: list[tuple[str, float]], other: list[tuple[str, float]]) -> bool:
    """Equal scores, and equal items where the scores of their neighbours are apart; the last one's next neighbour is not in the list."""
    scores, others = ([score for _, score in best] for best in (one, other))
    if len(one) != len(other) or not np.allclose(scores, others, atol=1e-4):
        return False
    apart = [True, *(np.abs(np.diff(scores)) > 1e-4), False]
    return all(a == b or not (apart[place] and apart[place + 1]) for place, ((a, _), (b, _)) in enumerate(zip(one, other)))


# -- settings from Python ----------------------------------------------------------------------------------------------------------

PLAIN = {
    "learning_rate": 0.01, "epochs": 3, "seed": 7, "topk": [5, 10], "codebook_sizes": [4, 4], "dropout": 0.1, "tokenizer": "RKMeans",
    "valid_metric": "NDCG@10", "metrics": ["Recall", "NDCG"], "resume": False,
    "eval_args": {"split": {"LS": "valid_and_test"}, "mode": "full"},
    "item_text_fields": ["title"], "load_col": {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "title"]},
    "checkpoint_dir": "saved", "num_beams": 24, "valid_num_beams": 24, "tokenizer_epochs": 1, "max_minutes": 1.5,
}  # fmt: skip
NEVER = (object(), b"x", datetime.date(2020, 1, 1), 3j, lambda: 0, np.datetime64("2020-01-01"), [object()], {"a": object()}, {"a": [b"x"]})
"""Values that no YAML file of settings can hold."""


class Text(str):
    """A text of a class of its own."""


def python_settings(rng: random.Random, top: Path, damaged: Damage | None, words: dict[str, list[str]]) -> Made:
    keys = rng.sample(sorted(PLAIN), rng.randint(1, len(PLAIN)))
    plain = {key: PLAIN[key] for key in keys}
    spelled = {key: _spelled(value, rng) for key, value in plain.items()}
    if damaged is not None:
        spelled[rng.choice(keys)] = rng.choice(NEVER)

    def call() -> None:
        declared = Config("R3GR", "small", config_dict=spelled).declared
        if damaged is not None:
            raise ValueError("what no file can hold was taken")
        file = io.BytesIO()
        torch.save(declared, file)
        file.seek(0)
        if not _equal(torch.load(file, weights_only=True), Config("R3GR", "small", config_dict=plain).declared):
            raise ValueError("another configuration than that of plain values")

    return Made([repr(spelled)], call=call, refusable=damaged is not None, names=tuple(keys))


def _equal(one: Any, other: Any) -> bool:
    """Equal, and of the same types."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(_equal, one, other))
    return one == other


def _spelled(value: Any, rng: random.Random) -> Any:
    if isinstance(value, bool):
        return rng.choice((value, np.bool_(value), torch.tensor(value)))
    if isinstance(value, int):
        return rng.choice((value, np.int64(value), np.uint8(value), float(value), torch.tensor(value), np.array(value), np.float32(value)))
    if isinstance(value, float):
        return rng.choice((value, np.float64(value), torch.tensor(value, dtype=torch.float64), np.array(value)))
    if isinstance(value, str):
        return rng.choice((value, np.str_(value), Text(value), *([Path(value)] if value == "saved" else [])))
    if isinstance(value, list):
        entries = [_spelled(entry, rng) for entry in value]
        return rng.choice((entries, tuple(entries), np.array(value), *([torch.tensor(value)] if isinstance(value[0], int) else [])))
    entries = {rng.choice((key, np.str_(key))): _spelled(entry, rng) for key, entry in value.items()}
    return rng.choice((entries, OrderedDict(entries), MappingProxyType(entries)))


# -- files ---------------------------------------------------------------------------------------------------------------------------


def split_parts(rng: random.Random, top: Path, damaged: Damage | None, words: dict[str, list[str]]) -> Made:
    folder = top / "data" / "small"
    head, *lines = (folder / "small.inter").read_text().splitlines()
    by_user: dict[str, list[str]] = {}
    for line in lines:
        by_user.setdefault(line.split("\t")[0], []).append(line)
    parts = {"train": [], "valid": [], "test": []}
    for own in by_user.values():
        at = rng.randint(1, len(own) - 2)
        for name, some in (("train", own[:at]), ("valid", own[at : at + 1]), ("test", own[at + 1 :])):
            parts[name] += some
    for some in parts.values():
        rng.shuffle(some)
    hurt = rng.choice(sorted(parts))
    texts = {name: "\n".join([head, *some]) + "\n" for name, some in parts.items()}
    files = {
        folder / f"small.{name}.inter": _maybe(damaged if name == hurt else None, text, rng, "\t") for name, text in texts.items()
    }
    model = rng.choice(("R3GR", "SASRec", "BPR", "HSTU"))

    def check() -> str | None:
        [result] = top.glob("saved/**/result.json")
        scores = json.loads(result.read_text())["test"]
        flat = [score for metrics in scores.values() for score in (metrics or {}).values()]
        return None if flat and all(0 <= score <= 1 for score in flat) else f"scores are {scores}"

    command = [*words["generator"], "--benchmark_filename=[train, valid, test]"] if model == "R3GR" else [
        *words["id_model"], f"--model={model}", "--benchmark_filename=[train, valid, test]"
    ]  # fmt: skip
    return Made(command, files, check, refusable=damaged is not None)


def quoted_cells(rng: random.Random, top: Path, damaged: Damage | None, words: dict[str, list[str]]) -> Made:
    folder, n = top / "data" / "small", 12
    pieces = ("a, b", 'say "it"', " x ", "plain", "comma,", ",", '"', "ü; ö", "tab\there")
    item, inter = io.StringIO(), io.StringIO()
    writer = csv.writer(item, lineterminator="\n", quoting=rng.choice((csv.QUOTE_MINIMAL, csv.QUOTE_ALL)))
    item.write("item_id:token,title:token_seq,price:float\n")  # as RecBole's reader finds it: names of columns are never quoted
    writer.writerows([f"i{number}", f"word{number % 3} {rng.choice(pieces)} title{number}", number] for number in range(n))
    writer = csv.writer(inter, lineterminator="\n", quoting=rng.choice((csv.QUOTE_MINIMAL, csv.QUOTE_ALL)))
    inter.write("user_id:token,item_id:token,timestamp:float\n")
    writer.writerows([f"u{user}", f"i{(3 * user + step) % n}", step] for user in range(8) for step in range(5))

    def check() -> str | None:
        found = (top / "out.ids").read_text().split()
        return None if damaged is not None or sorted(found) == sorted(f"i{number}" for number in range(n)) else f"items {found}"

    hurt = rng.random() < 0.5
    files = {
        folder / "small.item": _maybe(damaged if hurt else None, item.getvalue(), rng, ","),
        folder / "small.inter": _maybe(None if hurt else damaged, inter.getvalue(), rng, ","),
    }
    command = [*words["embed"], "--field_separator=,", "--show_progress=False", "--content_cache_dir=~"]
    return Made(command, files, check, damaged is not None)


def written_histories(rng: random.Random, top: Path, damaged: Damage | None, words: dict[str, list[str]]) -> Made:
    known = [f"i{number}" for number in range(12)]
    spell = rng.choice(
        (" ".join, ",".join, ";".join, json.dumps, repr, lambda items: f"[{' '.join(map(repr, items))}]", lambda some: str(np.array(some)))
    )
    separator = rng.choice((",", ";", "\t"))
    histories = [[rng.choice([*known, "unknown"]) for _ in range(rng.randint(0, 6))] for _ in range(rng.randint(1, 6))]
    text = io.StringIO()
    writer = csv.writer(text, delimiter=separator, lineterminator="\n")
    columns = rng.sample(("user", "history", "when"), 3)
    writer.writerow(columns)
    for number, items in enumerate(histories):
        cells = {"user": f"user {number}", "history": spell(items), "when": number}
        writer.writerow([cells[name] for name in columns])
    named = {f"user {number}" for number, items in enumerate(histories) if set(items) & set(known)}
    asked = any(histories)

    def check() -> str | None:
        if damaged is not None:
            return None
        if asked and not named:
            return "nothing is known, and nothing says so"
        with open(top / "out.csv", newline="", encoding="utf-8") as file:
            found = {row["user"] for row in csv.DictReader(file)}
        return None if found == named else f"recommendations for {found} instead of {named}"

    command = ["recommend", "--checkpoint=trained", "--input=h.csv", "--topk=2", "--output=out.csv"]
    files = {top / "h.csv": _maybe(damaged, text.getvalue(), rng, separator)}
    return Made(command, files, check, damaged is not None or asked and not named, ("h.csv", "of these histories"))


def foreign_table(rng: random.Random, top: Path, damaged: Damage | None, words: dict[str, list[str]]) -> Made:
    n, n_levels = rng.randint(1, 15), rng.randint(1, 4)
    width = rng.choice((4, 300, 700_001))
    pool = [[rng.randrange(width) for _ in range(5)] for _ in range(n_levels)]
    codes = {f"{number}": [rng.choice(column) for column in pool] for number in rng.sample(range(100), n)}
    tokens = {item: [f"<{'abcd'[level]}_{code}>" for level, code in enumerate(row)] for item, row in codes.items()}
    how = rng.choice(("index", "numbers", "text", "table"))
    if how == "table":
        head = "\t".join(["item_id:token", *(f"sid_{level + 1}:token" for level in range(n_levels))])
        name, text = "f.sid", "\n".join([head, *("\t".join([item, *row]) for item, row in tokens.items())]) + "\n"
    else:
        spelled = {"index": tokens, "numbers": codes, "text": {item: "".join(row) for item, row in tokens.items()}}[how]
        name, text = "f.index.json", json.dumps(spelled, indent=rng.choice((None, 0)))

    def check() -> str | None:
        found = SemanticIDs.load(top / "converted.sid")
        if max(found.codebook_sizes) > 4096 and any(size > 8 * found.n_items for size in found.codebook_sizes):
            return f"codebooks of {found.codebook_sizes} for {found.n_items - 1} items"
        if damaged is not None:
            return None
        old = [found.meta.get("renumbered", {}).get(f"{level + 1}", range(size)) for level, size in enumerate(found.codebook_sizes)]
        back = [[own[code] for own, code in zip(old, row)] for row in found.codes[1:].tolist()]
        return None if dict(zip(found.item_ids[1:], back)) == codes else f"{back} instead of {codes}"

    files = {top / name: _maybe(damaged, text, rng, "\t" if how == "table" else ", ")}
    return Made(["convert", f"--input={name}", "--output=converted.sid"], files, check, damaged is not None, (name,))


MAKERS = {
    "data": changed_data, "settings": python_settings, "parts": split_parts, "quoted": quoted_cells, "histories": written_histories,
    "index": foreign_table,
}  # fmt: skip


def outcome(call: Callable[[], None]) -> tuple[int | None, str]:
    """What a call comes to, as a command would: 0, or 2 and one line; no status where it raises something else."""
    try:
        call()
    except UserError as error:
        return 2, f"recbole-r3vae: {error}\n"
    except Exception as error:
        return None, f"{type(error).__name__}: {error}"
    return 0, ""
