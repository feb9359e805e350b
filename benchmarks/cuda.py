"""What a GPU does with this package, in at most eight minutes on one card.

    python benchmarks/cuda.py --data_path dataset --output results/cuda     # goes on where it stopped; give it again for what is left
    python benchmarks/cuda.py --device cpu --smoke --output smoke            # everything, shrunken, without a GPU: does it run?

In this order, each part a cell of the output, written as soon as it is done:

* ``tests``: the tests that need a GPU, ``pytest -m cuda``.
* ``epoch …``: an epoch of R3GR, TIGER and SASRec on Amazon Beauty in float32 and bfloat16, from 50 steps after three that warm up. Its share
  of the roofline is the operations of its matrix products over its seconds, by the rate of products of 4096 x 4096 matrices in the same
  precision on the same card in the same minute (float32 is float32, not TF32).
* ``decoding``: TIGER's constrained beam search against Hugging Face's on the same card with the same weights; the same items come out.
* ``million …``: a million items of 768 dimensions and three codebooks of 8,192: encoding by R3VAE, the prefix tree, and 20
  items for 64 users by a beam of 20 with R3GR.
* ``grid``: what time is left goes to cells of properties/benchmark/amazon-beauty-dense.yaml, in the order of that file; a cell that the end
  of the time cuts off goes on the next time. ``vectors/amazon-beauty-mpnet.npy`` has to be there for most of them.

Writes ``<card>.json`` and ``<card>.md``. A cell that failed says why and is tried again the next time. A cell is begun only where the seconds
that it takes at most are left.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from recbole_r3vae.experiments.leaderboard.records import files_of
from recbole_r3vae.experiments.tables import markdown_table
from recbole_r3vae.io import atomic_write, write_json
from recbole_r3vae.provenance import commit, versions

ROOT = Path(__file__).parents[1]
GRID = ROOT / "properties" / "benchmark" / "amazon-beauty-dense.yaml"
MODELS = ("R3GR", "TIGER", "SASRec")
PRECISIONS = ("float32", "bfloat16")
SMOKE = {"train_batch_size": 8, "tokenizer": "RKMeans", "tokenizer_epochs": 0}
SMOKE_GRID = "{datasets: [ml-100k], seeds: [2020], settings: {epochs: 1, eval_step: 1}, models: {BPR: }}\n"
MARK = "@pytest.mark.cuda"  # files that hold it are collected, not the whole of tests/
DONE, FAILED, CUT = "done", "failed", "out of time"


class OutOfTime(BaseException):
    """Passes every ``except Exception`` of what is being measured."""


@dataclass(frozen=True)
class Cell:
    """A part of the output.

    Attributes:
        name: in the output.
        seconds: that have to be left for it to be begun.
        measure: takes the seconds that are left and returns figures by name.
    """

    name: str
    seconds: float
    measure: Callable[[float], dict[str, Any]]


class Report:
    """The output: figures of each cell and the machine, as JSON, and as Markdown made of it.

    Args:
        folder: where it lies.
        device: ``cuda``, ``cuda:1``, ``cpu``.
    """

    def __init__(self, folder: Path, device: str):
        self.card = card_of(device)
        slug = re.sub(r"[^a-z0-9]+", "-", self.card.lower()).strip("-")
        self.json, self.markdown = folder / f"{slug}.json", folder / f"{slug}.md"
        stored = json.loads(self.json.read_text(encoding="utf-8")) if self.json.is_file() else {}
        self.cells: dict[str, dict[str, Any]] = stored.get("cells", {})

    def is_done(self, cell: Cell) -> bool:
        return self.cells.get(cell.name, {}).get("state") == DONE

    def put(self, cell: Cell, state: str, seconds: float, figures: dict[str, Any]) -> None:
        """Keep what a cell gave, and write both files."""
        self.cells[cell.name] = {"state": state, "seconds": round(seconds, 1), "commit": commit(), **figures}
        values = {"card": self.card, "versions": versions(), "cuda": torch.version.cuda, "machine": platform.machine(), "cells": self.cells}
        write_json(self.json, values)
        with atomic_write(self.markdown) as file:
            file.write(self.as_markdown())

    def as_markdown(self) -> str:
        """A table of all cells."""
        rows = []
        for name, cell in self.cells.items():
            figures = ", ".join(f"{key} {shown(value)}" for key, value in cell.items() if key not in ("state", "seconds", "commit"))
            rows.append([name, cell["state"], shown(cell["seconds"]), figures])
        table = "\n".join(markdown_table(["cell", "state", "seconds", "figures"], rows))
        told = ", ".join(f"{name} {version}" for name, version in versions().items())
        return f"# {self.card}\n\nCUDA {torch.version.cuda}; {told}\n\n{table}\n"


def shown(value: Any) -> str:
    return f"{value:,.4g}" if isinstance(value, float) and abs(value) < 1e4 else f"{value:,.0f}" if isinstance(value, float) else str(value)


def card_of(device: str) -> str:
    """A device's name."""
    return torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else f"CPU {platform.machine()}"


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Raise :class:`OutOfTime` in a block that takes longer."""

    def ring(*_: Any) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.001))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def run_cells(cells: list[Cell], report: Report, seconds: float) -> bool:
    """Measure what is not yet done, in order, within a budget.

    Args:
        cells: all of them.
        report: what is known, and where what is found goes.
        seconds: for all together.

    Returns:
        Whether every cell is done.
    """
    end = time.monotonic() + seconds
    for cell in cells:
        left = end - time.monotonic()
        if report.is_done(cell):
            continue
        if left < cell.seconds:
            print(f"{cell.name}: {left:.0f} s are left, it takes up to {cell.seconds:.0f}; give the command again", flush=True)
            continue
        begin, figures = time.monotonic(), {}
        try:
            with at_most(left):
                figures, state = cell.measure(left), DONE
            state = figures.pop("state", state)
        except OutOfTime:
            state = CUT
        except Exception as error:  # the other cells are worth having
            state, figures = FAILED, {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        report.put(cell, state, time.monotonic() - begin, figures)
        print(f"{cell.name}: {state}, {report.as_markdown().splitlines()[-1]}", flush=True)
    return all(report.is_done(cell) for cell in cells)


# -- cells ---------------------------------------------------------------------------------------------------------------------------


def gpu_tests(seconds: float, folder: Path) -> dict[str, Any]:
    """The tests that need a GPU, in a process of their own."""
    marked = [str(path) for path in sorted((ROOT / "tests").rglob("test_*.py")) if MARK in path.read_text(encoding="utf-8")]
    command = [sys.executable, "-m", "pytest", "-m", "cuda", "-p", "no:cacheprovider", "--rootdir", str(ROOT), *marked]
    done = stopped_at_the_end(command, seconds, folder)
    last = next((line.strip("= ") for line in reversed(done.stdout.splitlines()) if " in " in line), done.stdout[-200:])
    if done.returncode:
        raise RuntimeError(last)
    return {"result": last}


def stopped_at_the_end(command: list[str], seconds: float, folder: Path) -> subprocess.CompletedProcess:
    """A command, interrupted as by Ctrl-C when its time is over.

    Raises:
        OutOfTime: it was.
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])}
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        shown, _ = process.communicate(timeout=seconds)
    except BaseException as error:
        os.killpg(process.pid, signal.SIGINT)
        try:
            process.communicate(timeout=5)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
        raise OutOfTime if isinstance(error, subprocess.TimeoutExpired) else error
    return subprocess.CompletedProcess(command, process.returncode, shown, "")


def epoch(model: str, precision: str, options: argparse.Namespace, keys: dict[str, Any]) -> dict[str, Any]:
    """Seconds of an epoch and their share of the roofline."""
    from training import Epoch, matrix_rate

    half = precision == "bfloat16"
    options = argparse.Namespace(**{**vars(options), "float32": not half})
    keys = keys if model != "SASRec" else {key: value for key, value in keys.items() if not key.startswith("tokenizer")}
    trained = Epoch(model, options, {"device": options.device, **keys})
    trained.train(3, count=False)
    trained.train(options.steps, count=True)
    seconds = trained.seconds
    with FlopCounterMode(display=False) as counted:
        trained.step()
    rate = matrix_rate(half, 1.0, options.square, options.device)
    n_steps = len(trained.batches)
    achieved = counted.get_total_flops() * n_steps / seconds
    return {
        "seconds an epoch": seconds, "steps": n_steps, "Tflop an epoch": counted.get_total_flops() * n_steps / 1e12,
        "Tflop/s": achieved / 1e12, "Tflop/s of the card": rate / 1e12, "share of the roofline": achieved / rate, **memory(options.device),
    }  # fmt: skip


def memory(device: str) -> dict[str, float]:
    """GiB that torch has held on the card since the last call."""
    if torch.device(device).type != "cuda":
        return {}
    peak = torch.cuda.max_memory_allocated(device) / 2**30
    torch.cuda.reset_peak_memory_stats(device)
    return {"GiB": peak}


def decoding(options: argparse.Namespace) -> dict[str, Any]:
    """TIGER's beam search and Hugging Face's."""
    from decoding import K, Peer, assert_same, batch_of, best_of, build, random_codes
    from training import finished

    codes = random_codes(options.items)
    tiger = build("TIGER", codes, device=options.device)
    peer, batch, found = Peer(tiger), batch_of(options.users, options.items).to(options.device), {}
    tiger.num_beams = beams = 20

    def ours() -> None:
        found["ours"] = tuple(value.cpu() for value in tiger.recommend(batch, K))
        finished(options.device)

    def theirs() -> None:
        found["theirs"] = peer.recommend(batch, beams)

    with torch.no_grad():
        seconds = best_of(options.repeats, {"ours": ours, "theirs": theirs})
    share = assert_same(found["ours"], found["theirs"])
    ms = {name: 1000 * taken / options.users for name, taken in seconds.items()}
    return {
        "ms a user": ms["ours"], "Hugging Face's": ms["theirs"], "ratio": ms["theirs"] / ms["ours"], "same at": share, **memory(options.device),
    }  # fmt: skip


def million_encoded(options: argparse.Namespace) -> dict[str, Any]:
    """Items a second of an untrained R3VAE, which costs what a trained one does, and the share of the roofline."""
    from training import finished, matrix_rate

    from recbole_r3vae.config import Config

    device, block = options.device, min(options.many, 65536)
    config = Config("R3VAE", "synthetic", config_dict={"codebook_sizes": [options.codebook] * 3, "device": device})
    model = config.model_class(config, SimpleNamespace(dim=options.dim, parts={"text": slice(0, options.dim)})).to(device).eval()
    x = torch.nn.functional.normalize(torch.randn(block, options.dim, generator=torch.Generator().manual_seed(0))).to(device)
    with FlopCounterMode(display=False) as counted:
        model.tokenize(x)
    finished(device)
    begin, n = time.perf_counter(), 0
    while n < options.many:
        model.tokenize(x)
        n += block
    finished(device)
    seconds = time.perf_counter() - begin
    achieved, rate = counted.get_total_flops() * n / block / seconds, matrix_rate(False, 1.0, options.square, device)
    return {"items a second": n / seconds, "Tflop/s": achieved / 1e12, "share of the roofline": achieved / rate, **memory(device)}


def million_decoded(options: argparse.Namespace) -> dict[str, Any]:
    """The prefix tree of a million items on the card, and R3GR's beam in it."""
    from decoding import K, batch_of, best_of, build
    from training import finished

    from recbole_r3vae.sid.collisions import resolve_collisions
    from recbole_r3vae.sid.prefix_tree import PrefixTree

    codes = torch.randint(options.codebook, (options.many, 3), generator=torch.Generator().manual_seed(0))
    codes, sizes, _ = resolve_collisions(codes, (options.codebook,) * 3, "suffix")
    codes = torch.cat([torch.full((1, codes.shape[1]), -1), codes])
    begin = time.perf_counter()
    tree = PrefixTree.from_codes(codes, sizes)
    built = time.perf_counter() - begin
    model = build("R3GR", codes, sizes, options.device, item_inputs=["codes"])
    model.num_beams = 20
    batch = batch_of(options.users, options.many).to(options.device)

    def rank() -> None:
        model.recommend(batch, K)
        finished(options.device)

    with torch.no_grad():
        taken = best_of(options.repeats, {"rank": rank})["rank"]
    return {"tree s": built, "tree GB": tree.nbytes / 1e9, "ms a user": 1000 * taken / options.users, **memory(options.device)}


def grid(seconds: float, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Cells of the Beauty grid, as many as there is time for."""
    output = folder / "grid"
    command = [
        sys.executable, "-m", "recbole_r3vae.cli", "benchmark", f"--config={options.grid}", f"--output={output}", f"--device={options.device}",
        *([f"--data_path={Path(options.data_path).resolve()}"] if options.data_path else []),
    ]  # fmt: skip
    state, why = DONE, {}
    try:
        done = stopped_at_the_end(command, seconds - 8, Path(options.vectors_from).resolve())
        if done.returncode:
            state, why = FAILED, {"error": " ".join(done.stdout.split())[-300:]}
    except OutOfTime:
        state = CUT
    paths = [path for runs in sorted(output.glob("runs/*")) for path in files_of(runs)]
    records = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    failed = [record for record in records if record.get("error")]
    figures = {"cells": len(records) - len(failed), "failed": len(failed), "records": str(output)}
    if failed:
        why = {"error": " ".join(str(failed[0]["error"]).split())[:300]}
    return {"state": state, **figures, **why}


def all_cells(options: argparse.Namespace, keys: dict[str, Any]) -> list[Cell]:
    """In their order, with the seconds that each takes at most on a card of today; a guess until one has been measured."""
    folder, scale = options.output.resolve(), 0.0 if options.smoke else 1.0
    epochs = [
        Cell(f"epoch {model} {precision}", 40 * scale, lambda left, m=model, p=precision: epoch(m, p, options, keys))
        for model in MODELS for precision in PRECISIONS
    ]  # fmt: skip
    return [
        Cell("tests", 60 * scale, lambda left: gpu_tests(left, folder)),
        *epochs,
        Cell("decoding", 60 * scale, lambda left: decoding(options)),
        Cell("million encoded", 30 * scale, lambda left: million_encoded(options)),
        Cell("million decoded", 60 * scale, lambda left: million_decoded(options)),
        Cell("grid", 45 * scale, lambda left: grid(left, options, folder)),
    ]


def main(words: list[str] | None = None, **keys: Any) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--data_path", help="default: dataset")
    parser.add_argument("--dataset", help="default: amazon-beauty")
    parser.add_argument("--output", type=Path, default=Path("results/cuda"))
    parser.add_argument("--minutes", type=float, default=8, help="for all cells together")
    parser.add_argument("--cells", nargs="+", default=[], help="only those whose names begin so")
    parser.add_argument("--grid", type=Path, help=f"default: {GRID.relative_to(ROOT)}")
    parser.add_argument("--vectors_from", type=Path, default=Path("."), help="the folder that holds the grid's vectors/")
    parser.add_argument("--steps", type=int, default=50, help="of an epoch, that are timed")
    parser.add_argument("--smoke", action="store_true", help="all of it, shrunken, by default on the ml-100k that RecBole brings along")
    options = parser.parse_args(words)
    large = {"items": 12_101, "users": 64, "repeats": 3, "many": 1_000_000, "codebook": 8192, "dim": 768, "square": 4096}
    small = {"items": 300, "users": 2, "repeats": 1, "many": 20_000, "codebook": 64, "dim": 16, "square": 256}
    for name, value in (small if options.smoke else large).items():
        setattr(options, name, value)
    if options.smoke:
        options.steps = min(options.steps, 2)
        keys = {**SMOKE, **keys}
    options.dataset = options.dataset or ("ml-100k" if options.smoke else "amazon-beauty")
    if torch.device(options.device).type == "cuda" and not torch.cuda.is_available():
        print("there is no CUDA device here; --device cpu --smoke runs everything, shrunken", file=sys.stderr)
        return 2
    options.output.mkdir(parents=True, exist_ok=True)
    if options.grid is None:
        options.grid = options.output.resolve() / "smoke.yaml" if options.smoke else GRID
        if options.smoke:
            options.grid.write_text(SMOKE_GRID, encoding="utf-8")
    if options.data_path is None and options.dataset != "ml-100k":
        options.data_path = "dataset"
    # Other scripts of this folder are taken from here; last, or transformers takes tokenizers.py for the library of that name.
    sys.path.append(str(Path(__file__).parent))
    sys.path.sort(key=lambda folder: folder == str(Path(__file__).parent))
    report = Report(options.output, options.device)
    cells = [cell for cell in all_cells(options, keys) if not options.cells or cell.name.startswith(tuple(options.cells))]
    complete = run_cells(cells, report, 60 * options.minutes)
    print(f"{report.markdown}: " + ("all is done" if complete else "give the command again for what is left"))
    return 0 if complete else 1


if __name__ == "__main__":
    raise SystemExit(main())
