"""Whether a tokenizer's codebooks survive a random start: the first claim of R3-VAE's paper (arXiv 2604.11440), which has R3-VAE train stably
where RQ-VAE's codebooks collapse.

    python benchmarks/stability.py --data_path=dataset --dataset=amazon-beauty --content_file=vectors/amazon-beauty-mpnet.npy

Trains every variant of ``VARIANTS`` from random codebooks (``kmeans_init: False``), and R3VAE and RQVAE from k-means for comparison, with equal
epochs and all else as their YAMLs have it, and writes ``results/stability_<dataset>.md``: the mean over seeds ± sample standard deviation of the
share of codes used at the level that uses the fewest, of the reconstruction error in shares of the vectors' variance, and of the ratio of
distinct semantic IDs before collisions are resolved. A finished training is not repeated: runs are kept in ``--checkpoint_dir``.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recbole_r3vae.experiments.tables import markdown_table
from recbole_r3vae.io import atomic_write
from recbole_r3vae.provenance import provenance_line
from recbole_r3vae.quick_start import run_recbole_r3vae
from recbole_r3vae.quick_start.semantic_ids import load_tokenizer

VARIANTS: dict[str, dict[str, Any]] = {
    "R3VAE": {"model": "R3VAE"},
    "R3VAE, rating softmax": {"model": "R3VAE", "rating_mode": "softmax"},
    "R3VAE, rating replaced by STE": {"model": "R3VAE", "rating_mode": "ste"},
    "RQVAE, moving averages and restarts": {"model": "RQVAE", "codebook_learning": "ema"},
    "RQVAE, codebook loss (TIGER's formula)": {"model": "RQVAE", "codebook_learning": "loss"},
    "R3VAE, from k-means": {"model": "R3VAE", "kmeans_init": True},
    "RQVAE, from k-means": {"model": "RQVAE", "kmeans_init": True},
}
"""Name of a row to what it changes in its model's YAML; a random start unless it says otherwise."""
HEADER = ("tokenizer", "levels", "seeds", "lowest usage", "reconstruction error", "unique ratio", "seconds")


def figures(quality: Mapping[str, Any]) -> tuple[float, float, float]:
    """Lowest usage of a level, reconstruction error in shares of the variance, and unique ratio, of a tokenizer's quality report."""
    return min(level["usage"] for level in quality["levels"]), quality["reconstruction"]["relative"], quality["unique_ratio"]


def row(name: str, size: int, runs: Sequence[tuple[float, float, float]], seconds: Sequence[float]) -> list[str]:
    """Cells of one variant and size over its seeds."""
    several = len(runs) > 1
    cells = [f"{np.mean(values):.3f}" + (f" ± {np.std(values, ddof=1):.3f}" if several else "") for values in zip(*runs)]
    return [name, f"3 x {size:,}", str(len(runs)), *cells, f"{np.mean(seconds):.0f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="amazon-beauty")
    parser.add_argument("--data_path", default="dataset")
    parser.add_argument("--content_file", help="item vectors; left out: TF-IDF of the dataset's texts")
    parser.add_argument("--checkpoint_dir", default="saved")
    parser.add_argument("--epochs", type=int, default=30, help="of every training")
    parser.add_argument("--seeds", type=int, nargs="+", default=[2020, 2021, 2022, 2023, 2024])
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 2048], help="codes of each of three levels")
    parser.add_argument("--rows", nargs="+", choices=VARIANTS, default=list(VARIANTS), help="of the table; default: all")
    parser.add_argument("--output", type=Path, help="results/stability_<dataset>.md")
    options = parser.parse_args()
    shared = {"data_path": options.data_path, "checkpoint_dir": options.checkpoint_dir, "show_progress": False, "resume": True, "epochs": options.epochs}
    if options.content_file:
        shared |= {"content_encoder": "file", "content_file": options.content_file}
    rows = []
    for size in options.sizes:
        for name in options.rows:
            changes, runs, seconds = VARIANTS[name], [], []
            for seed in options.seeds:
                keys = {"kmeans_init": False, **shared, **changes, "seed": seed, "codebook_sizes": [size] * 3}
                result = run_recbole_r3vae(keys.pop("model"), options.dataset, config_dict=keys)
                made = load_tokenizer(result["run_dir"]).description
                runs.append(figures(made["quality"]))
                seconds.append(made["seconds"])
            rows.append(row(name, size, runs, seconds))
            print(" | ".join(rows[-1]), flush=True)
    page = [
        f"# What a random start does to codebooks, on {options.dataset}",
        "",
        f"`{shlex.join(['python', *sys.argv])}`",
        "",
        f"Codebooks start at random unless a row says otherwise; {options.epochs} epochs; mean over seeds ± sample standard deviation. *Lowest "
        "usage* is the share of codes with an item at the level that uses the fewest. The reconstruction error is in shares of the vectors' variance: "
        "1 is that of the mean vector.",
        "",
        *markdown_table(HEADER, rows),
        "",
        provenance_line(),
    ]
    path = options.output or Path("results") / f"stability_{options.dataset}.md"
    with atomic_write(path) as file:
        file.write("\n".join(page) + "\n")
    print(path)


if __name__ == "__main__":
    main()
