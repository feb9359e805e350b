"""Feeds malformed files, settings and commands to the command line and counts what it answers.

    python benchmarks/fuzz.py --rounds 1000
    python benchmarks/fuzz.py --kinds item --only 298

Each input is a valid one with one to three random damages: bytes flipped or cut off; lines dropped, doubled, swapped, emptied or ragged;
columns dropped or doubled; headers of other types; cells of control characters, zero bytes, other scripts, huge numbers, NaN and
infinities, quotation marks, negative codes, repeated ids; byte order marks and foreign line ends; YAML tags, anchors and bombs; values of
other types; words dropped, doubled, misspelt or without their value. It goes to the commands that read it:

* ``inter``: ``embed``; ``run`` of a generator;
* ``item``: ``embed``; ``run`` of a tokenizer; ``tokenize --checkpoint --items``;
* ``sid``: ``quality``; ``inspect``; ``run --sid_file``; ``recommend --add``;
* ``yaml``: ``run --config_files``;
* ``command``: all of these.

Other kinds are made anew, see ``fuzz_kinds.py``: ``data``, ``settings``, ``parts``, ``quoted``, ``histories``, ``index``.

The answer must be exit status 0 and a result that is what the input says, or exit status 2 and exactly one printable line on standard
error, which names the thing (a file by its name, a setting by its key) and, after a semicolon, the remedy. Nothing in an input may be
executed. Everything else is printed with its kind and number, and ``--only`` repeats it. Ends with a line for each kind,
``<kind> inputs=<n> accepted=<n> refused=<n> wrong=<n> inputs_per_second=<x>``; exit status 1 where one is wrong.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the inputs are tiny

import argparse
import contextlib
import csv
import io
import itertools
import json
import logging
import math
import random
import re
import resource
import shutil
import signal
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recbole_r3vae.cli import main as recbole_r3vae
from recbole_r3vae.sid.table import SemanticIDs

import fuzz_kinds

DAMAGED = ("inter", "item", "sid", "yaml", "command")
KINDS = (*DAMAGED, *fuzz_kinds.MAKERS)
ITEMS, USERS, SECONDS, BYTES = 12, 8, 60, 24 << 30
"""Size of the valid dataset; what a process may use for one input."""

HOSTILE = [
    "", " ", "0", "-1", "3.5", "1e309", "-1e400", "nan", "NaN", "inf", "NA", "None", "null", "true", "0x10", "9" * 40, "9" * 5000, "1_0",
    '"', 'a"b', '"a', '"a"', "'", "a\rb", "a\0b", "\x0b", "\x1b[31mred", "\x7f", "\u2028", "\u202e", "\ufeff", "ж 漢字 🜁", "é" * 300,
    "i0", "i1 ", "u0", "[PAD]", "a:b", "a,b", "word " * 20_000, "[1", "[" * 3000, "{", "{a: b}", "[]", "{}", "[true, 5]", "[[5]]", "[0]",
    "[-5]", "[nan]", "[5, five]", "[=1+1]", "[Recall, Recall]", "=1+1", "#", "-", "--", "~", "*a", "&a b", "%", "@x", "!!int x", "!!bool x",
    "!!timestamp x", "!!python/object/apply:os.system [touch executed]", "!!python/name:os.system",
    "__import__('os').system('touch executed')",
    "$(touch executed)", "2020-13-45", "on", "absent", "..", "R3VAE", "SASRec", "Pop", "GAUC", "AUC", "[AUC]", "[GAUC]", "NDCG@5", "NDCG@",
]  # fmt: skip
"""Cells, values and words that programs stumble over."""

HEADERS = [
    "token", "token_seq", "float", "float_seq", "int", "", ":", "item_id:token", "item_id", "\ufeffitem_id:token", "title:float",
    "x:token:y",
]  # fmt: skip
LINES = [
    "a: &a [x, x]\nb: &b [*a, *a]", "epochs: 2", "metrics: [Recall, true]", "metrics: [=1+1]", "? [a]\n: b", "1: 2", "<<: {seed: 3}", "- 1",
    "seed: &s [*s]",
    "bomb0: &b0 [1, 1]\n" + "\n".join(f"bomb{n}: &b{n} [{', '.join([f'*b{n - 1}'] * 9)}]" for n in range(1, 9)) + "\ntopk: *b8",
    "\tseed: 1", "...", "---", "%YAML 9.9", "seed: !!python/object/apply:os.system ['touch executed']", "valid_metric: =1+1",
]  # fmt: skip

SETTINGS = {
    "data_path": "data", "device": "cpu", "state": "error", "content_dim": "4", "item_text_fields": "[title]",
    "load_col": "{inter: [user_id, item_id, timestamp], item: [item_id, title]}",
}  # fmt: skip
GENERATOR = {
    "eval_step": "1", "hidden_size": "8", "inner_size": "8", "n_heads": "1", "num_beams": "9", "valid_num_beams": "9", "topk": "[5]",
    "valid_metric": "NDCG@5", "metrics": "[Recall, NDCG]", "tokenizer": "RKMeans", "codebook_sizes": "[3, 3]", "MAX_ITEM_LIST_LENGTH": "5",
    "train_batch_size": "16", "learning_rate": "0.01", "dropout": "0.1", "seed": "1", "eval_args": "{order: TO, mode: full}",
    "item_inputs": "[codes, text]", "checkpoint_dir": "saved", "max_minutes": "5", "collision_policy": "suffix", "warmup_steps": "2",
}  # fmt: skip
OF_ANY_MODEL = (
    "eval_step", "topk", "valid_metric", "metrics", "MAX_ITEM_LIST_LENGTH", "train_batch_size", "learning_rate", "seed", "checkpoint_dir",
)  # fmt: skip
QUIET = ["--show_progress=False", "--content_cache_dir=~"]
ONE_EPOCH = [*QUIET, "--epochs=1", "--tokenizer_epochs=0"]
NEVER_DAMAGED = {"embed": QUIET, "tokenizer": [*QUIET, "--epochs=0"], **dict.fromkeys(("generator", "sid_file", "config_files"), ONE_EPOCH)}
"""Words without which a run might not end."""


# -- valid inputs ------------------------------------------------------------------------------------------------------------------


def words_of(settings: dict[str, str]) -> list[str]:
    return [f"--{key}={value}" for key, value in settings.items()]


RUN = ["run", "--model=R3GR", "--dataset=small", *words_of(SETTINGS)]
COMMANDS = {
    "embed": ["embed", "--dataset=small", "--output=out.npy", *words_of(SETTINGS)],
    "generator": [*RUN, *words_of(GENERATOR)],
    "tokenizer": ["run", "--model=RKMeans", "--dataset=small", *words_of(SETTINGS), "--codebook_sizes=[3, 3]"],
    "sid_file": [*RUN, *words_of({key: value for key, value in GENERATOR.items() if key != "tokenizer"}), "--sid_file=small.sid"],
    "config_files": ["run", "--config_files=small.yaml"],
    "new_items": ["tokenize", "--checkpoint=trained", "--items=new.item", "--output=out.sid"],
    "tokenize": ["tokenize", "--tokenizer=RKMeans", "--embeddings=v.npy", "--output=out.sid", "--set",
                 "codebook_sizes=[3, 3]", "device=cpu"],
    "quality": ["quality", "--sid=small.sid", "--embeddings=v.npy", "--json=out.json"],
    "inspect": ["inspect", "--sid=small.sid", "--depth=2", "--item=i1"],
    "recommend": ["recommend", "--checkpoint=trained", "--users=all", "--topk=3", "--output=out.csv", "--exclude-seen"],
    "id_model": ["run", "--dataset=small", *words_of(SETTINGS), *words_of({key: GENERATOR[key] for key in OF_ANY_MODEL})],
    "add": ["recommend", "--checkpoint=trained", "--history=i1,i2", "--topk=3", "--output=out.csv", "--add=new.sid"],
}
STAGES = {
    "inter": ("embed", "generator"),
    "item": ("embed", "tokenizer", "new_items"),
    "sid": ("quality", "inspect", "sid_file", "add"),
    "yaml": ("config_files",),
    "command": ("embed", "generator", "tokenizer", "tokenize", "new_items", "quality", "inspect", "recommend"),
}
BAR = re.compile(r".*\[\d\d:\d\d.*\]")
"""A progress bar."""

SEPARATORS = {"yaml": ": ", "command": "="}


def write_inputs(top: Path) -> None:
    """A small dataset, vectors, semantic IDs, new items, a configuration file; and a generator trained on them, for ``recommend``."""
    data = top / "data" / "small"
    data.mkdir(parents=True)
    lines = [f"u{user}\ti{(3 * user + step) % ITEMS}\t{step}" for user in range(USERS) for step in range(5)]
    (data / "small.inter").write_text("\n".join(["user_id:token\titem_id:token\ttimestamp:float", *lines]) + "\n")
    lines = [f"i{item}\tword{item % 3} word{item % 5} title{item}\t{item}" for item in range(ITEMS)]
    (data / "small.item").write_text("\n".join(["item_id:token\ttitle:token_seq\tprice:float", *lines]) + "\n")
    new = [line.replace("i", "n", 1) for line in lines[:4]]
    (top / "new.item").write_text("\n".join(["item_id:token\ttitle:token_seq\tprice:float", *new]) + "\n")
    lines = [f"i{item}\t{item % 4}\t{item // 4}" for item in range(ITEMS)]
    (top / "small.sid").write_text("\n".join(["item_id:token\tsid_1:token\tsid_2:token", *lines]) + "\n")
    settings = {"model": "R3GR", "dataset": "small", **SETTINGS, **GENERATOR}
    (top / "small.yaml").write_text("".join(f"{key}: {value}\n" for key, value in settings.items()))
    np.save(top / "v.npy", np.random.default_rng(0).normal(size=(ITEMS, 4)).astype("float32"))
    (top / "v.ids").write_text("".join(f"i{item}\n" for item in range(ITEMS)))
    prepared = [[*COMMANDS["generator"], "--run_dir=trained", *ONE_EPOCH], ["tokenize", *COMMANDS["new_items"][1:-1], "--output=new.sid"]]
    for model in fuzz_kinds.MODELS:
        how = [*COMMANDS["generator"], *ONE_EPOCH] if model == "R3GR" else [*COMMANDS["id_model"], f"--model={model}", *QUIET, "--epochs=1"]
        prepared.append([*how, f"--run_dir=trained_{model}"])
        users = ",".join(f"u{user}" for user in range(USERS))
        prepared.append(["recommend", f"--checkpoint=trained_{model}", f"--users={users}", "--topk=3", f"--output=recommended_{model}.csv"])
    for words in prepared:
        status, shown = answer(words)
        if status != 0:
            raise SystemExit(f"a valid command fails: {shown}")
    shutil.rmtree(top / "saved")


# -- damages -----------------------------------------------------------------------------------------------------------------------


def damaged(text: str, rng: random.Random, separator: str) -> bytes:
    """A text with one to three damages."""
    data = text.encode()
    for _ in range(rng.choice((1, 1, 2, 3))):
        data = rng.choice(DAMAGES)(data.decode("utf-8", "surrogateescape"), rng, separator).encode("utf-8", "surrogateescape")
        if rng.random() < 0.1:
            data = rng.choice(BYTE_DAMAGES)(data, rng)
    return data


def _line(text: str, rng: random.Random, separator: str) -> str:
    lines = text.split("\n")
    at = rng.randrange(len(lines))
    what = rng.randrange(5)
    if what == 0:
        del lines[at]
    elif what == 1:
        lines.insert(at, rng.choice(lines))
    elif what == 2:
        lines[at] = rng.choice(("", " ", separator, separator * 4))
    elif what == 3:
        other = rng.randrange(len(lines))
        lines[at], lines[other] = lines[other], lines[at]
    elif separator == ": ":
        lines.insert(rng.randrange(len(lines)), rng.choice(LINES))
    else:
        cells = lines[at].split(separator)
        lines[at] = separator.join(cells[: rng.randint(0, len(cells))] if rng.random() < 0.5 else [*cells, rng.choice(HOSTILE)])
    return "\n".join(lines)


def _cell(text: str, rng: random.Random, separator: str) -> str:
    lines = text.split("\n")
    at = rng.randrange(len(lines))
    cells = lines[at].split(separator)
    cells[rng.randrange(len(cells)) if separator == "\t" else -1] = rng.choice(HOSTILE)
    lines[at] = separator.join(cells)
    return "\n".join(lines)


def _header(text: str, rng: random.Random, separator: str) -> str:
    head, *lines = text.split("\n")
    cells = head.split(separator)
    at, new = rng.randrange(len(cells)), rng.choice(HEADERS)
    cells[at] = new if ":" in new[1:-1] else f"{cells[at].split(':')[0]}:{new}"
    return "\n".join([separator.join(cells), *lines])


def _column(text: str, rng: random.Random, separator: str) -> str:
    rows = [line.split(separator) for line in text.split("\n")]
    at, drop = rng.randrange(max(map(len, rows))), rng.random() < 0.5
    return "\n".join(separator.join(row[:at] + row[at + 1 :] if drop else row[:at] + row[at : at + 1] * 2 + row[at + 1 :]) for row in rows)


def _whole(text: str, rng: random.Random, separator: str) -> str:
    lines = text.split("\n")
    return rng.choice(
        (
            "\ufeff" + text, text.replace("\n", "\r\n"), text.rstrip("\n"), text + "\n\n",
            text.replace(separator, rng.choice((",", " ", ";"))),
            "", "\n", lines[0], "\n".join(lines[1:]), text.replace("i1", rng.choice(HOSTILE)), text * 2, text.upper(),
        )
    )  # fmt: skip


def _flip(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data)) if data else 0
    return data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]


def _cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


DAMAGES: tuple[Callable[[str, random.Random, str], str], ...] = (_line, _line, _cell, _cell, _cell, _header, _column, _whole)
BYTE_DAMAGES: tuple[Callable[[bytes, random.Random], bytes], ...] = (_flip, _cut)


def damaged_words(words: list[str], rng: random.Random) -> list[str]:
    """A command with one to three damages; a process is never handed a zero byte."""
    words = list(words)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(words))
        key, equals, value = words[at].partition("=")
        what = rng.randrange(9)
        if what == 0 and len(words) > 1:
            del words[at]
        elif what == 1:
            words.insert(at, rng.choice(words))
        elif what == 2:
            words[at] = key
        elif what == 3:
            words.insert(rng.randrange(len(words) + 1), rng.choice((rng.choice(HOSTILE), f"--{rng.choice(HOSTILE)}", "--unknown=1", "-x")))
        elif what == 4:
            place = rng.randrange(len(key) + 1)
            words[at] = key[:place] + rng.choice(("", "s", "-", "é", "\x1b")) + key[place + 1 :] + equals + value
        else:
            words[at] = f"{key}{equals}{rng.choice(HOSTILE)}" if equals else rng.choice(HOSTILE)
    return [word.replace("\0", "") for word in words]


# -- one input ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Attempt:
    """What one input led to.

    Args:
        answer: ``accepted``, ``refused`` or ``wrong``.
        words: The command.
        shown: What stood on standard error, and what is wrong with it.
        given: The damaged file.
    """

    answer: str
    words: list[str]
    shown: str
    given: bytes


def answer(words: list[str]) -> tuple[int | None, str]:
    """Exit status and standard error of a command in this process; no status where it raises."""
    shown = io.StringIO()
    with contextlib.redirect_stderr(shown), contextlib.redirect_stdout(io.StringIO()), limited_time():
        try:
            status = recbole_r3vae(words)
        except SystemExit as ended:  # --help and --version
            status = ended.code
        except BaseException:
            return None, traceback.format_exc()
    return status, shown.getvalue()


@contextlib.contextmanager
def limited_time() -> Iterator[None]:
    def stop(*_):
        raise TimeoutError(f"no answer within {SECONDS} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def attempt(kind: str, number: int, top: Path) -> Attempt:
    """Try one input in a folder that :func:`write_inputs` filled and that is the current one; it is left as it was found.

    Args:
        kind: One of :data:`KINDS`.
        number: Of the input; the same number makes the same one.
        top: That folder.
    """
    rng = random.Random(f"{kind} {number}")
    if kind in fuzz_kinds.MAKERS:
        return attempt_made(kind, rng, top)
    stage = STAGES[kind][number % len(STAGES[kind])]
    words, path, given = list(COMMANDS[stage]), None, b""
    if kind == "command":
        words = damaged_words(words, rng)
    else:
        path = top / {"new_items": "new.item", "add": "new.sid"}.get(stage, f"small.{kind}")
        path = path if path.exists() else top / "data" / "small" / f"small.{kind}"
    saved = {file: file.read_bytes() for file in ([path, *path.parent.glob(f"{path.name}.json")] if path else [])}
    before = set(top.iterdir())
    try:
        if path:
            path.write_bytes(given := damaged(saved[path].decode(), rng, SEPARATORS.get(kind, "\t")))
            if rng.random() < 0.7:
                Path(f"{path}.json").unlink(missing_ok=True)  # a table of another tool has no sidecar
        status, shown = answer([*words, *NEVER_DAMAGED.get(stage, [])])
        wrong = fault(kind, stage, status, shown, path, words, top)
        verdict = "wrong" if wrong else "accepted" if status == 0 else "refused"
        return Attempt(verdict, words, f"{wrong}: {shown}" if wrong else shown, given)
    finally:
        for file, content in saved.items():
            file.write_bytes(content)
        for file in set(top.iterdir()) - before:
            shutil.rmtree(file) if file.is_dir() else file.unlink()


def attempt_made(kind: str, rng: random.Random, top: Path) -> Attempt:
    """As :func:`attempt`, of a kind of ``fuzz_kinds.py``."""
    made = fuzz_kinds.make(kind, rng, top, damaged, COMMANDS)
    saved = {file: file.read_bytes() for file in made.files if file.exists()}
    before, beside = set(top.iterdir()), set((top / "data" / "small").iterdir())
    try:
        for file, content in made.files.items():
            file.write_bytes(content)
        words = [*made.words, *(ONE_EPOCH if "--tokenizer=RKMeans" in made.words else [*QUIET, "--epochs=1"] if kind == "parts" else [])]
        status, shown = answer(words) if made.call is None else fuzz_kinds.outcome(made.call)
        wrong, line = form_of(status, shown, top)
        if wrong is None and line is None:
            wrong = made.check()
        elif wrong is None and not made.refusable:
            wrong = "what is right was refused"
        elif wrong is None and not any(name in line for name in made.names):
            wrong = "the thing is not named"
        verdict = "wrong" if wrong else "accepted" if status == 0 else "refused"
        return Attempt(verdict, words, f"{wrong}: {shown}" if wrong else shown, b"\n".join(made.files.values()))
    finally:
        for file in {*(set(top.iterdir()) - before), *(set((top / "data" / "small").iterdir()) - beside)}:
            shutil.rmtree(file) if file.is_dir() else file.unlink()
        for file, content in saved.items():
            file.write_bytes(content)


def form_of(status: int | None, shown: str, top: Path) -> tuple[str | None, str | None]:
    """What is wrong with the form of an answer, or ``None``; and its one line, where it is a refusal."""
    if (top / "executed").exists():
        return "the input was executed", None
    lines = [line for line in shown.splitlines() if line and not BAR.fullmatch(line)]
    if status == 0:
        return ("said something" if lines else None), None
    if status != 2 or "Traceback" in shown:
        return f"exit status {status}", None
    if len(lines) != 1 or not lines[0].startswith("recbole-r3vae: ") or not lines[0].isprintable():
        return "not one printable line", None
    [line] = lines
    if "; " not in line or len(line) > 2000:
        return "no remedy", line
    return None, line


def fault(kind: str, stage: str, status: int | None, shown: str, path: Path | None, words: list[str], top: Path) -> str | None:
    """What is wrong with an answer, or ``None``."""
    wrong, line = form_of(status, shown, top)
    if wrong is not None or line is None:
        return wrong or inconsistency(kind, stage, path, top)
    if kind == "yaml":
        keys = [spelling for key in {**SETTINGS, **GENERATOR} for spelling in (key, key.replace("_", " "))]
        telling = [path.name, "no model", "model '", "has no class", "no dataset", "dataset '", "dataset is", *keys]
        named = any(name in line for name in telling)
    elif stage == "inspect" and "item 'i1'" in line:
        named = True  # a table without it
    else:
        named = path is None or f"{path.stem}." in line or "dataset 'small'" in line  # new.ids belongs to new.sid
    return None if named else "the thing is not named"


def inconsistency(kind: str, stage: str, path: Path | None, top: Path) -> str | None:
    """How the result of a stage that ended well contradicts itself or its input, or ``None``."""
    for result in top.glob("saved/**/result.json"):
        record = json.loads(result.read_text())
        measured = [*record["test"].values(), (record["labelled"] or {}).get("metrics")]
        scores = [score for metrics in measured if metrics for score in metrics.values()]
        if not scores:
            return "nothing was measured, and nothing says so"
        if not all(score is not None and math.isfinite(score) and score >= 0 for score in scores):
            return f"scores are {scores}"
    if kind == "command" or stage == "config_files":
        return None
    if stage == "inspect":
        return None if SemanticIDs.load(path).n_items > 1 else "no items"
    if stage == "embed":
        vectors, items = np.load(top / "out.npy"), (top / "out.ids").read_text().split("\n")[:-1]
        if not np.isfinite(vectors).all() or len(vectors) != len(items):
            return "vectors that are no numbers, or too many"
        return difference(items, catalogue(top))
    if stage in ("generator", "tokenizer"):
        name = "suffix" if stage == "generator" else "raw"
        found, *copies = [SemanticIDs.load(file) for file in top.glob("saved/**/*.sid") if file.stem == name]
        if any(copy.content_hash != found.content_hash for copy in copies):
            return "the run's copy of its semantic IDs is another table"
        return difference(found.item_ids[1:], catalogue(top))
    if stage == "new_items":
        return difference(SemanticIDs.load(top / "out.sid").item_ids[1:], set(column(path, "item_id")) - {f"i{n}" for n in range(ITEMS)})
    if stage == "add":
        with open(top / "out.csv", newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        known = set(column(path, "item_id")) | {f"i{n}" for n in range(ITEMS)}
        ranks = [int(row["rank"]) for row in rows]
        return None if ranks == [1, 2, 3] and all(row["item"] in known for row in rows) else f"recommended {rows}"
    table = SemanticIDs.load(path)
    codes = {tuple(row) for row in table.align(["[PAD]", *(f"i{n}" for n in range(ITEMS))]).codes[1:].tolist()}
    if stage == "quality" and json.loads((top / "out.json").read_text())["unique_ratio"] != len(codes) / ITEMS:
        return "another share of unique semantic IDs"
    return difference(table.item_ids[1:], column(path, "item_id"))


def difference(found, expected) -> str | None:
    found, expected = list(found), set(expected)
    return None if set(found) == expected and len(found) == len(expected) else f"items {sorted(found)} for {sorted(expected)}"


def catalogue(top: Path) -> set[str]:
    """Every item of the ``.item`` file: RecBole leaves out interactions with others."""
    return set(column(top / "data" / "small" / "small.item", "item_id"))


def column(path: Path, field: str) -> list[str]:
    """The cells of a column, read by other means than the package's."""
    with open(path, encoding="utf-8-sig", newline="") as file:
        head, *rows = csv.reader(file, delimiter="\t")
    place = [name.split(":")[0] for name in head].index(field)
    return [row[place] for row in rows]


# -- many ----------------------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Logging and warnings off, memory bounded."""
    limits = resource.getrlimit(resource.RLIMIT_AS)
    logging.disable(logging.CRITICAL)
    resource.setrlimit(resource.RLIMIT_AS, (BYTES, limits[1]))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
        logging.disable(logging.NOTSET)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=100, help="inputs of each kind")
    parser.add_argument("--seconds", type=float, default=math.inf, help="begin no round after so many")
    parser.add_argument("--seed", type=int, default=0, help="number of the first input")
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS)
    parser.add_argument("--only", type=int, help="the input of this number alone, with its command, its file and what it was answered")
    options = parser.parse_args(arguments)
    numbers = range(options.seed, options.seed + options.rounds) if options.only is None else [options.only]
    counts = {kind: dict.fromkeys(("accepted", "refused", "wrong"), 0) for kind in options.kinds}
    spent = dict.fromkeys(options.kinds, 0.0)
    here = os.getcwd()
    with tempfile.TemporaryDirectory() as temporary, quietly():
        top = Path(temporary)
        os.chdir(top)
        write_inputs(top)
        ends = time.monotonic() + options.seconds
        for number in itertools.takewhile(lambda _: time.monotonic() < ends, numbers):
            for kind in options.kinds:
                began = time.monotonic()
                tried = attempt(kind, number, top)
                spent[kind] += time.monotonic() - began
                counts[kind][tried.answer] += 1
                if tried.answer == "wrong" or options.only is not None:
                    words = " ".join(tried.words)
                    print(f"{tried.answer} {kind} {number}: {words[:300]!r}\n    {tried.shown[-900:]}", flush=True)
                if options.only is not None:
                    print(tried.given.decode(errors="replace")[:2000])
        os.chdir(here)
    for kind, count in counts.items():
        n_inputs, numbers = sum(count.values()), " ".join(f"{name}={n}" for name, n in count.items())
        print(f"{kind} inputs={n_inputs} {numbers} inputs_per_second={n_inputs / max(spent[kind], 1e-9):.1f}")
    return int(any(count["wrong"] for count in counts.values()))


if __name__ == "__main__":
    raise SystemExit(main())
