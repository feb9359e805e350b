"""What autograd's anomaly detection costs RecBole's models: RecBole's look-up of a model leaves it on, this package's does not.

    python benchmarks/anomaly_mode.py --dataset ml-100k

RecBole's settings, 20-item histories and cross-entropy where a model reads histories, float32, one thread. Steps with and without take
turns on the same stream of batches, so that other work on the machine hits both alike; the ratio is of the medians of their CPU seconds.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time

import torch
from recbole.utils import ModelType, init_seed

from recbole_r3vae.config import Config
from recbole_r3vae.config.registry import get_model
from recbole_r3vae.quick_start.lookup import create_dataset, data_preparation, get_trainer

MODELS = ("SASRec", "GRU4Rec", "BPR", "LightGCN")


def seconds(model: str, options: argparse.Namespace, keys: dict) -> dict[bool, float]:
    """Median CPU seconds of an optimizer step with anomaly detection (``True``) and without it."""
    keys = {"data_path": options.data_path, "device": "cpu", "show_progress": False, **keys}
    if get_model(model).type == ModelType.SEQUENTIAL:
        keys |= {"MAX_ITEM_LIST_LENGTH": 20, "loss_type": "CE", "train_neg_sample_args": None}
    if options.data_path is None:
        del keys["data_path"]
    config = Config(model, options.dataset, config_dict=keys)
    init_seed(config["seed"], True)
    batches, *_ = data_preparation(config, create_dataset(config))
    network = config.model_class(config, batches.dataset).train()
    optimizer = get_trainer(config)(config, network).optimizer
    stream = itertools.chain.from_iterable(itertools.repeat(batches))
    taken = {True: [], False: []}
    for _ in range(options.steps + 1):
        for mode, steps in taken.items():
            batch = next(stream)
            with torch.autograd.set_detect_anomaly(mode):
                begin = time.process_time()
                optimizer.zero_grad()
                network.calculate_loss(batch).backward()
                optimizer.step()
                steps.append(time.process_time() - begin)
    return {mode: statistics.median(steps[1:]) for mode, steps in taken.items()}  # the first warms up


def main(words: list[str] | None = None, **keys) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_path", help="default: the folder of RecBole's own ml-100k")
    parser.add_argument("--dataset", default="ml-100k")
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--steps", type=int, default=20, help="optimizer steps with and as many without")
    options = parser.parse_args(words)
    torch.set_num_threads(1)
    for model in options.models:
        found = seconds(model, options, keys)
        print(f"{model}: {1000 * found[True]:.1f} ms a step with anomaly detection, {1000 * found[False]:.1f} without; "
              f"ratio={found[True] / found[False]:.2f}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
