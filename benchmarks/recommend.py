"""What `recbole-r3vae recommend` needs of memory, for few histories and for many.

    python benchmarks/recommend.py

An untrained R3GR with the settings of its YAML over a synthetic catalogue recommends 10 items for each history of a CSV file, with 10
beams on one thread, each file in a process of its own. The peak is that of the whole process, everything imported and loaded included.
Histories stream through, so it must not grow with their number. Ends with ``ratio=<peak of the largest file / of the smallest> limit=1.1``.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from recbole_r3vae.cli import main as recbole_r3vae
from recbole_r3vae.config import Config
from recbole_r3vae.data.content import ItemContent
from recbole_r3vae.experiments.processes import in_own_process
from recbole_r3vae.model.contract import Sources
from recbole_r3vae.provenance import peak_memory_mb
from recbole_r3vae.sid.collisions import resolve_collisions
from recbole_r3vae.sid.table import SemanticIDs
from recbole_r3vae.trainer.checkpoint_file import save_checkpoint, sources_state

K, BEAMS, LONGEST = 10, 10, 20
SIZES = (256, 256, 256)


def write_checkpoint(path: Path, n_items: int, keys: dict) -> None:
    """A generator over items 1 … n with random semantic IDs and vectors."""
    config = Config("R3GR", "synthetic", config_dict={"MAX_ITEM_LIST_LENGTH": LONGEST, "device": "cpu", **keys})
    generator = torch.Generator().manual_seed(0)
    raw = torch.stack([torch.randint(size, (n_items,), generator=generator) for size in SIZES], 1)
    codes, sizes, _ = resolve_collisions(raw, SIZES, "suffix")
    items = ["[PAD]", *map(str, range(1, n_items + 1))]
    vectors = torch.randn(n_items + 1, config["content_dim"], generator=generator)
    sources = Sources(
        SemanticIDs(torch.cat([torch.full((1, 4), -1), codes]), sizes, items),
        ItemContent(vectors.numpy(), items, {"kind": "random"}, "random"),
    )
    torch.manual_seed(0)
    model = config.model_class(config, SimpleNamespace(sources=sources, num=lambda field: n_items + 1))
    known = {"config": config.declared, "ids": {"item_id": items, "user_id": items[:1]}, "sources": sources_state(sources)}
    save_checkpoint(path, {**known, "model": model.state_dict(), "other_parameter": model.other_parameter()})


def write_histories(path: Path, n: int, n_items: int) -> None:
    """Random histories of 1 to 20 items."""
    rng = np.random.default_rng(1)
    with open(path, "w", encoding="utf-8") as file:
        file.write("user,history\n")
        for user, length in enumerate(rng.integers(1, LONGEST + 1, n)):
            file.write(f"u{user},{' '.join(map(str, rng.integers(1, n_items + 1, length)))}\n")


def recommend(checkpoint: str, histories: str, output: str) -> dict[str, float]:
    """One call of the command, in the process that is measured."""
    torch.set_num_threads(1)
    begin = time.perf_counter()
    words = ["--checkpoint", checkpoint, "--input", histories, "--output", output, "--topk", str(K), "--num_beams", str(BEAMS)]
    status = recbole_r3vae(["recommend", *words])
    return {"status": status, "mb": peak_memory_mb(), "seconds": time.perf_counter() - begin}


def main(words: list[str] | None = None, **keys) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--histories", type=int, nargs="+", default=[20_000, 200_000])
    parser.add_argument("--items", type=int, default=12_101)
    options = parser.parse_args(words)
    peaks = []
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "best.pth"
        write_checkpoint(checkpoint, options.items, keys)
        for n in options.histories:
            histories, output = Path(folder) / "histories.csv", Path(folder) / "out.csv"
            write_histories(histories, n, options.items)
            result, error = in_own_process(recommend, str(checkpoint), str(histories), str(output))
            if error or result["status"]:
                raise SystemExit(error or "recommend failed")
            with open(output, encoding="utf-8") as file:
                n_rows = sum(1 for _ in file) - 1
            peaks.append(result["mb"])
            print(
                f"{n:,} histories: peak memory {result['mb']:.0f} MiB, {result['seconds']:.0f} s, {n_rows:,} recommendations, "
                f"{output.stat().st_size / 2**20:.1f} MiB of output",
                flush=True,
            )
    print(f"peak memory, {options.histories[-1]:,} against {options.histories[0]:,} histories; ratio={peaks[-1] / peaks[0]:.2f} limit=1.1")


if __name__ == "__main__":
    main()
