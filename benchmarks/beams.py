"""What a wider beam buys a trained generator: accuracy on the validation split, and milliseconds a user.

    python benchmarks/beams.py --checkpoint saved/amazon-beauty/R3GR-R3VAE-<hash>/best.pth --data_path dataset

One thread. ``exact`` scores every item. Milliseconds are those of encoding and decoding, the best of ``--repeats`` passes over the first
``--users`` users, in batches of ``eval_batch_size``.
"""

from __future__ import annotations

import argparse
import itertools
import time

import torch

from recbole_r3vae.quick_start.lookup import get_trainer
from recbole_r3vae.quick_start import load_data_and_model


def milliseconds(model, batches: list, k: int, repeats: int) -> float:
    """Best time a user over ``batches``."""
    best = float("inf")
    for _ in range(repeats):
        begin = time.perf_counter()
        for batch in batches:
            model.recommend(batch, k)
        best = min(best, time.perf_counter() - begin)
    return 1000 * best / sum(len(batch) for batch in batches)


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, help="a run's best.pth")
    parser.add_argument("--data_path", help="where the dataset lies, if not where it lay in training")
    parser.add_argument("--beams", nargs="+", default=["20", "50", "100", "exact"])
    parser.add_argument("--users", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args(words)
    torch.set_num_threads(1)
    keys = {"device": "cpu", "show_progress": False, **({"data_path": options.data_path} if options.data_path else {})}
    config, model, _, _, valid_data, _ = load_data_and_model(options.checkpoint, keys)
    trainer, k = get_trainer(config)(config, model), max(config["topk"])
    batches = [batch[0] for batch in itertools.islice(valid_data, -(-options.users // config["eval_batch_size"]))]
    print("| beam | valid Recall@10 | valid NDCG@10 | ms a user |\n|---|---|---|---|")
    for beams in options.beams:
        model.num_beams = beams if beams == "exact" else int(beams)
        metrics = trainer.evaluate(valid_data, load_best_model=False)
        cost = milliseconds(model, batches, k, options.repeats)
        print(f"| {beams} | {metrics['recall@10']:.4f} | {metrics['ndcg@10']:.4f} | {cost:.2f} |", flush=True)


if __name__ == "__main__":
    main()
