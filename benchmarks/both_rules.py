"""What it costs to measure both rules on met items in one test: its time over that of a test under one rule.

    python benchmarks/both_rules.py --data_path dataset --models R3GR R3GR-dense WindowSASRec

Untrained weights, one thread, the test split, ``--repeats`` of each by turns, the best of each. Ends with a line
``ratio=<the largest> target=1.3``.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from recbole.utils import init_seed

from recbole_r3vae.config import Config
from recbole_r3vae.config.sources import properties
from recbole_r3vae.quick_start.lookup import create_dataset, data_preparation, get_trainer
from recbole_r3vae.quick_start.provide import provide

CELLS = {
    "R3GR": ("R3GR", [], {"tokenizer": "RKMeans"}),
    "R3GR-dense": ("R3GR", ["R3GR-dense"], {"tokenizer": "Random"}),
    "WindowSASRec": ("WindowSASRec", [], {}),
    "TIGERCausal": ("TIGERCausal", [], {"tokenizer": "RKMeans"}),
    "ItemKNN": ("ItemKNN", [], {"eval_batch_size": 2_000_000}),
}
"""Name to model, presets and settings beside those of its YAML file."""


def main(words: list[str] | None = None, **keys) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_path", type=Path, default="dataset")
    parser.add_argument("--dataset", default="amazon-beauty")
    parser.add_argument("--models", nargs="+", choices=CELLS, default=["R3GR", "R3GR-dense"])
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args(words)
    torch.set_num_threads(1)
    ratios = []
    for name in options.models:
        model, presets, more = CELLS[name]
        files = [properties() / "preset" / f"{preset}.yaml" for preset in presets]
        config = Config(
            model, options.dataset, files, {"data_path": str(options.data_path), "device": "cpu", "show_progress": False, **more, **keys}
        )
        init_seed(config["seed"], True)
        data = create_dataset(config)
        config.contract.give(data, provide(config, data, show_progress=False).sources, config)
        train, _, test = data_preparation(config, data)
        trainer = get_trainer(config)(config, config.model_class(config, train.dataset))
        best = {"one rule": float("inf"), "both": float("inf")}
        for _ in range(options.repeats):
            for rules in best:
                begin = time.perf_counter()
                trainer._both_rules = rules == "both"  # as the trainer itself turns it off while it validates
                trainer.evaluate(test, load_best_model=False)
                best[rules] = min(best[rules], time.perf_counter() - begin)
        ratios.append(best["both"] / best["one rule"])
        print(f"{name}: one rule {best['one rule']:.2f} s, both {best['both']:.2f} s, {ratios[-1]:.2f} times")
    print(f"both rules in one test; ratio={max(ratios):.2f} target=1.3")


if __name__ == "__main__":
    main()
