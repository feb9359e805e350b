"""What a recommender in a program needs: memory, milliseconds a user, and what items that come cost those who ask meanwhile.

    python benchmarks/serving.py

An untrained R3GR with the settings of its YAML over a synthetic catalogue, once with its decoder and once with its dense head, on one
thread, each in a process of its own. Items are added by another thread, as a server would. What a call costs beside the network's own work
must stay small: ends with ``ratio=<ms of recommend() for 256 users / of the network alone> limit=1.5``, the greatest of all rows.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from threading import Thread

import numpy as np
import torch
from recbole.data.interaction import Interaction
from recommend import LONGEST, write_checkpoint

from recbole_r3vae.experiments.processes import in_own_process
from recbole_r3vae.provenance import peak_memory_mb
from recbole_r3vae.serve import Recommender
from recbole_r3vae.sid.table import SemanticIDs

K, NEW = 10, 100


def milliseconds(function, n: int) -> list[float]:
    """Of each of n calls, after one that counts for nothing."""
    function()
    found = []
    for _ in range(n):
        begin = time.perf_counter()
        function()
        found.append(1000 * (time.perf_counter() - begin))
    return found


def new_items(recommender: Recommender, path: Path) -> Path:
    """Semantic IDs of :data:`NEW` items, those of old ones without the last code, and vectors."""
    sids = recommender.served.sids
    names = ["[PAD]", *(f"new{number}" for number in range(NEW))]
    rows = torch.cat([sids.codes[:1], sids.codes[1 : NEW + 1]])[:, :3]
    SemanticIDs(rows, sids.codebook_sizes[:3], names).save(path)
    dim = recommender.served.model.sources.content.embeddings.shape[1]
    np.save(path.with_suffix(".npy"), np.random.default_rng(2).normal(size=(NEW, dim)).astype(np.float32))
    path.with_suffix(".ids").write_text("".join(f"{name}\n" for name in names[1:]))
    return path


def measure(folder: str, n_items: int, calls: int) -> dict[str, float]:
    """All of one checkpoint, in the process that is measured."""
    torch.set_num_threads(1)
    begin, before = time.perf_counter(), peak_memory_mb()
    recommender = Recommender(folder)
    loaded = {"load_s": time.perf_counter() - begin, "imported_mb": before, "loaded_mb": peak_memory_mb()}
    rng = np.random.default_rng(1)
    histories = [[str(item) for item in rng.integers(1, n_items + 1, LONGEST)] for _ in range(256)]
    served = recommender.served
    model, few = served.model, max(3, calls // 40)
    items = torch.tensor([[int(item) for item in history] for history in histories])
    batch = Interaction({model.ITEM_SEQ: items, model.ITEM_SEQ_LEN: torch.full((256,), LONGEST)})
    one = milliseconds(lambda: recommender.recommend(histories[:1], K), calls)
    network, many = [], []
    for _ in range(few):  # by turns, so that a busy machine is busy for both
        network += milliseconds(lambda: model.recommend(batch, K, strict=False), 1)
        many += milliseconds(lambda: recommender.recommend(histories, K), 1)
    asked_mb, path = peak_memory_mb(), new_items(recommender, Path(folder) / "new.sid")
    took: list[float] = []

    def add() -> None:
        begin = time.perf_counter()
        recommender.add_items(path)
        took.append(1000 * (time.perf_counter() - begin))

    writer, beside = Thread(target=add), []
    writer.start()
    while writer.is_alive():
        beside += milliseconds(lambda: recommender.recommend(histories[:1], K), 1)
    writer.join()
    return {
        **loaded, "one_ms": statistics.median(one), "p95_ms": float(np.percentile(one, 95)), "network_ms": statistics.median(network) / 256,
        "each_of_256_ms": statistics.median(many) / 256, "asked_mb": asked_mb, "add_ms": took[0], "slowest_beside_ms": max(beside),
        "grown_mb": peak_memory_mb(),
    }  # fmt: skip


def main(words: list[str] | None = None, **keys) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, nargs="+", default=[12_101, 100_000])
    parser.add_argument("--calls", type=int, default=200)
    options = parser.parse_args(words)
    print("| items | ranked by | load, s | MiB: imported | loaded | asked | grown | one user, ms | 95 % | each of 256, ms "
          f"| network alone, ms | {NEW} added, ms | slowest call meanwhile, ms |\n|{'---|' * 13}")  # fmt: skip
    ratios = []
    for n_items in options.items:
        for rank_by in ("generate", "dense"):
            with tempfile.TemporaryDirectory() as folder:
                write_checkpoint(Path(folder) / "best.pth", n_items, {"rank_by": rank_by, **keys})
                found, error = in_own_process(measure, folder, n_items, options.calls)
            if error:
                raise SystemExit(error)
            ratios.append(found["each_of_256_ms"] / found["network_ms"])
            mb = " | ".join(f"{found[key]:.0f}" for key in ("imported_mb", "loaded_mb", "asked_mb", "grown_mb"))
            ms = " | ".join(f"{found[key]:.2f}" for key in ("one_ms", "p95_ms", "each_of_256_ms", "network_ms"))
            print(
                f"| {n_items:,} | {rank_by} | {found['load_s']:.1f} | {mb} | {ms} | {found['add_ms']:.0f} | {found['slowest_beside_ms']:.1f} |",
                flush=True,
            )
    print(f"a call for 256 users against the network's own work; ratio={max(ratios):.2f} limit=1.5")


if __name__ == "__main__":
    main()
