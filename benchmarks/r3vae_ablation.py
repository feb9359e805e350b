"""What each switch of R3-VAE does to its semantic IDs: the paper's ablation, measured on the IDs themselves.

    python benchmarks/r3vae_ablation.py --data_path dataset --dataset amazon-beauty --seeds 2020

Writes ``results/r3vae_ablation_<dataset>.md``. Every variant differs from the defaults of ``properties/model/R3VAE.yaml`` in the keys
listed in ``VARIANTS``; RKMeans on the same vectors is the baseline. SC and PD are means over the three levels on the full
catalogue, without sampling.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from recbole_r3vae.io import atomic_write
from recbole_r3vae.provenance import provenance_line
from recbole_r3vae.quick_start import run_recbole_r3vae
from recbole_r3vae.quick_start.semantic_ids import load_tokenizer

VARIANTS = {
    "RKMeans": {"model": "RKMeans"},
    "R3VAE (default)": {},
    "reference vector off": {"reference_vector": False},
    "rating replaced by STE": {"rating_mode": "ste"},
    "rating `softmax`, tau 0.1": {"rating_mode": "softmax"},
    "SC off": {"sc_weight": 0.0},
    "PD off": {"pd_weight": 0.0},
    "lambda 0.001": {"sc_weight": 0.001, "pd_weight": 0.001},
    "lambda 0.1": {"sc_weight": 0.1, "pd_weight": 0.1},
    "prefix-grouped batches": {"prefix_grouped_batches": True},
    "k-means initialisation alone": {"epochs": 0},
}


def row(name: str, report: dict, seconds: float) -> str:
    levels = report["levels"]
    usage = min(level["usage"] for level in levels)
    means = [
        sum(level["spaces"][space][metric] for level in levels) / len(levels)
        for metric in ("sc", "pd")
        for space in ("raw", "residual")
    ]
    cells = [f"{usage:.4f}", f"{report['unique_ratio']:.4f}", *(f"{m:.4f}" for m in means), f"{report['reconstruction']['mse']:.4f}"]
    return f"| {name} | {' | '.join(cells)} | {seconds:.0f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="amazon-beauty")
    parser.add_argument("--data_path", default="dataset")
    parser.add_argument("--seeds", type=int, nargs="+", default=[2020])
    options = parser.parse_args()
    shared = {"data_path": options.data_path, "show_progress": False}
    lines = [
        f"# R3-VAE's switches on {options.dataset}",
        "",
        f"`python benchmarks/r3vae_ablation.py --dataset {options.dataset} --seeds {' '.join(map(str, options.seeds))}`",
        "",
        "| variant | lowest usage | unique ratio | SC raw | SC residual | PD raw | PD residual | reconstruction | seconds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for seed in options.seeds:
        for name, keys in VARIANTS.items():
            keys = {"model": "R3VAE", **shared, **keys, "seed": seed}
            result = run_recbole_r3vae(keys.pop("model"), options.dataset, config_dict=keys)
            lines.append(row(f"{name}, seed {seed}", load_tokenizer(result["run_dir"]).description["quality"], result["seconds"]))
            print(lines[-1], flush=True)
    lines += ["", provenance_line()]
    path = Path("results") / f"r3vae_ablation_{options.dataset}.md"
    with atomic_write(path) as file:
        file.write("\n".join(lines) + "\n")
    print(path)


if __name__ == "__main__":
    main()
