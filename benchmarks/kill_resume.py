"""Kills runs with SIGKILL and resumes them: do they end with what an uninterrupted run ends with?

    python benchmarks/kill_resume.py --rounds 20

Each round starts the same command on a small synthetic dataset, kills its process, gives the command again with ``--resume``, and compares
every file with those of a run that was left alone: weights, semantic IDs and vectors byte by byte, checkpoints tensor by tensor, JSON apart
from times and memory. A file too many, such as a temporary one that the killed process left, counts as a difference. The moments, in turn:

* ``tokenizer``, ``generator``: a random while after a random epoch of that stage has begun;
* ``between``: when the first stage is being packed for the second;
* ``checkpoint``: when a random checkpoint is written and not yet in its place; the writer waits there for the signal;
* ``anywhere``: a random while after the start;
* ``grid``: likewise, in a grid of two models.

Processes are forked from one that has imported everything, so a round takes seconds. Ends with ``rounds=<n> same=<n>``; exit status 1 where
a round differs.
"""

from __future__ import annotations

import os

os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")  # before anything reads them; a fork and threads do not go together

import argparse
import itertools
import json
import multiprocessing
import random
import select
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from recbole_r3vae.cli import main as recbole_r3vae
from recbole_r3vae.quick_start import run as run_module
from recbole_r3vae.trainer import checkpoint_file
from recbole_r3vae.trainer.checkpoint_file import load_checkpoint
from recbole_r3vae.trainer.ranking import RankingTrainer
from recbole_r3vae.trainer.tokenizer import TokenizerTrainer

MOMENTS = ("tokenizer", "between", "generator", "checkpoint", "anywhere", "grid")
COSTS = {"seconds", "seconds_with_scoring", "peak_memory_mb", "resume"}
SETTINGS = {
    "data_path": "../data", "device": "cpu", "show_progress": False, "eval_step": 1, "MAX_ITEM_LIST_LENGTH": 8,
    "item_text_fields": ["title"], "load_col": {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "title"]},
    "content_dim": 8, "topk": [5], "valid_metric": "NDCG@5", "epochs": 5, "train_batch_size": 16,
}  # fmt: skip
GENERATOR = {
    "hidden_size": 8, "inner_size": 16, "n_heads": 2, "warmup_steps": 4, "num_beams": 20, "valid_num_beams": 20, "tokenizer_epochs": 5,
    "tokenizer_codebook_sizes": [4, 4], "tokenizer_train_batch_size": 16, "tokenizer_eval_step": 1,
}  # fmt: skip
RUN = ["run", "--model=R3GR", "--dataset=small", *[f"--{key}={json.dumps(value)}" for key, value in {**SETTINGS, **GENERATOR}.items()]]
GRID = ["benchmark", "--config=../grid.yaml", "--data_path=../data", "--device=cpu"]


def write_inputs(folder: Path, n_users: int = 30, n_items: int = 40) -> None:
    """A dataset in which users keep to one of four kinds of items, and a grid of two models on it."""
    rng = np.random.default_rng(0)
    words = [[f"word{kind}{n}" for n in range(6)] for kind in range(4)]
    data = folder / "data" / "small"
    data.mkdir(parents=True)
    items = [f"i{n}\t{' '.join(rng.choice(words[n % 4], 3))}" for n in range(n_items)]
    (data / "small.item").write_text("\n".join(["item_id:token\ttitle:token_seq", *items]) + "\n")
    lines = ["user_id:token\titem_id:token\ttimestamp:float"]
    for user in range(n_users):
        chosen = rng.permutation(np.arange(user % 4, n_items, 4))[: rng.integers(5, 9)]
        lines += [f"u{user}\ti{item}\t{time}" for time, item in enumerate(chosen)]
    (data / "small.inter").write_text("\n".join(lines) + "\n")
    settings = {key: value for key, value in SETTINGS.items() if key not in ("data_path", "device", "show_progress", "topk")}
    models = {"SASRec": {"settings": {"loss_type": "CE", "hidden_size": 8}}, "R3GR": {"tokenizers": ["R3VAE"], "settings": GENERATOR}}
    grid = {"datasets": ["small"], "seeds": [2020], "settings": settings, "models": models}
    (folder / "grid.yaml").write_text(yaml.safe_dump(grid))


# -- one process -------------------------------------------------------------------------------------------------------------------


def start(folder: Path, words: list[str], prepare: Callable[[], None] = lambda: None) -> int:
    """The command in a process of its own, in its own folder; returns the process's number."""
    child = os.fork()
    if child:
        return child
    try:
        os.setpgid(0, 0)
        folder.mkdir(exist_ok=True)
        os.chdir(folder)
        shown = os.open("output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(shown, 1), os.dup2(shown, 2)
        fork = multiprocessing.get_context("fork")
        multiprocessing.get_context = lambda method=None: fork  # a grid's own processes, which else import everything again
        prepare()
        os._exit(recbole_r3vae(words))
    finally:
        os._exit(1)


def finish(child: int, folder: Path) -> None:
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status != 0:
        raise SystemExit(f"exit status {status}\n{(folder / 'output.txt').read_text()}")


def kill(child: int) -> None:
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def at(moment: str, nth: int, pipe: int) -> Callable[[], None]:
    """What a process does before it runs the command, so that it tells through ``pipe`` when its moment has come."""
    count = itertools.count(1)

    def tell(pause: float = 0.0) -> None:
        if next(count) == nth:
            os.write(pipe, b"!")
            time.sleep(pause)

    def prepare() -> None:
        if moment == "between":
            bundle = run_module.bundle_tokenizer
            run_module.bundle_tokenizer = lambda *given: (tell(), bundle(*given))
        elif moment == "checkpoint":
            save = checkpoint_file.torch.save
            checkpoint_file.torch.save = lambda *given: (save(*given), tell(pause=60.0))
        else:
            trainer = {"tokenizer": TokenizerTrainer, "generator": RankingTrainer}[moment]
            epoch = trainer._train_epoch
            trainer._train_epoch = lambda *given, **named: (tell(), epoch(*given, **named))[1]

    return prepare


def run_and_kill(folder: Path, words: list[str], moment: str, duration: float, rng: random.Random) -> str:
    """Start the command and kill it at its moment.

    Args:
        folder: where it runs.
        words: the command.
        moment: one of :data:`MOMENTS`.
        duration: seconds that the command takes when it is left alone.
        rng: of the moment within the moment.

    Returns:
        When that was, in words.
    """
    if moment in ("anywhere", "grid"):
        child, delay = start(folder, words), rng.uniform(0, duration)
        time.sleep(delay)
        kill(child)
        return f"after {delay:.2f} of {duration:.2f} s"
    reader, writer = os.pipe()
    nth = {"between": 1, "checkpoint": rng.randint(1, 14)}.get(moment) or rng.randint(1, 5)
    child = start(folder, words, at(moment, nth, writer))
    os.close(writer)
    told = select.select([reader], [], [], 600)[0] and os.read(reader, 1)
    delay = 0.0 if moment == "checkpoint" else rng.uniform(0, 0.03)
    time.sleep(delay)
    kill(child)
    os.close(reader)
    if not told:
        raise SystemExit(f"{moment} {nth} never came\n{(folder / 'output.txt').read_text()}")
    return f"{moment} {nth}, {1000 * delay:.0f} ms later" if delay else f"{moment} {nth}"


# -- comparing ---------------------------------------------------------------------------------------------------------------------


def without_costs(value: Any) -> Any:
    """Plain data and tensors without times, memory and the ``resume`` key."""
    if isinstance(value, dict):
        return {key: without_costs(_scores(entry) if key == "valid_history" else entry) for key, entry in value.items() if key not in COSTS}
    return [without_costs(entry) for entry in value] if isinstance(value, (list, tuple)) else value


def _scores(history: list | None) -> list:
    """A grid's entries are lists: epoch, seconds, score."""
    return [[entry[0], entry[2]] if isinstance(entry, list) else entry for entry in history or []]


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(map(same, a, b))
    return a == b


def content(path: Path) -> Any:
    if path.suffix == ".pth":
        return without_costs(load_checkpoint(path))
    return without_costs(json.loads(path.read_text())) if path.suffix == ".json" else path.read_bytes()


def differences(folder: Path, whole: Path) -> list[str]:
    """Files that only one of two runs has, and files that differ; logs, locks and leaderboards, which show times, aside."""
    found = []
    for run in (folder, whole):
        files = (path.relative_to(run) for part in ("saved", "cache", "results/runs") for path in (run / part).rglob("*") if path.is_file())
        found.append({path for path in files if path.suffix != ".lock"})
    alone = [f"only in {'the resumed' if path in found[0] else 'the uninterrupted'} run: {path}" for path in found[0] ^ found[1]]
    return alone + [f"differs: {path}" for path in found[0] & found[1] if not same(content(folder / path), content(whole / path))]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--moments", nargs="+", default=MOMENTS, choices=MOMENTS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rng, n_same = random.Random(options.seed), 0
    with tempfile.TemporaryDirectory() as temporary:
        top = Path(temporary)
        write_inputs(top)
        commands, durations = {}, {}
        for name in {"grid" if moment == "grid" else "run" for moment in options.moments}:
            commands[name], started = GRID if name == "grid" else RUN, time.monotonic()
            finish(start(top / name, commands[name]), top / name)
            durations[name] = time.monotonic() - started
        for number, moment in zip(range(options.rounds), itertools.cycle(options.moments)):
            name, folder = "grid" if moment == "grid" else "run", top / f"round{number}"
            when = run_and_kill(folder, commands[name], moment, durations[name], rng)
            finish(start(folder, [*commands[name], *(["--resume"] if name == "run" else [])]), folder)
            found = differences(folder, top / name)
            n_same += not found
            print(f"{number + 1:>3} {moment:<10} killed {when}: {'; '.join(found) or 'same'}", flush=True)
    print(f"rounds={options.rounds} same={n_same}")
    return int(n_same < options.rounds)


if __name__ == "__main__":
    raise SystemExit(main())
