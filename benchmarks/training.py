"""What an epoch of training costs: R3GR against TIGER on the same histories and semantic IDs.

    python benchmarks/training.py --data_path dataset --dataset amazon-beauty

Both as in their YAML files, float32, one thread, in one process taking turns: ``--rounds`` rounds of ``--steps`` optimizer steps each, on
batches drawn from the shuffled epoch. Seconds a step, times the steps of an epoch, is the epoch. Both see every training interaction of
every user once as a target; R3GR predicts all targets of a history from one reading, TIGER reads the history anew for each.
Ends with ``ratio=<TIGER's epoch / R3GR's> target=20``.
"""

from __future__ import annotations

import argparse
import itertools
import time

import torch
from recbole.utils import init_seed

from recbole_r3vae.config import Config
from recbole_r3vae.quick_start.lookup import create_dataset, data_preparation, get_trainer
from recbole_r3vae.quick_start.provide import provide

MODELS = ("R3GR", "TIGER")


class Epoch:
    """Endless training of one model, a few steps at a time.

    Args:
        model: its name.
        options: of the command line.
        keys: settings beside those of the YAML files.
    """

    def __init__(self, model: str, options: argparse.Namespace, keys: dict):
        keys = {"data_path": options.data_path, "device": "cpu", "tokenizer": "RKMeans", "show_progress": False, **keys}
        config = Config(model, options.dataset, config_dict=keys)
        init_seed(config["seed"], True)
        data = create_dataset(config)
        config.contract.give(data, provide(config, data, show_progress=False).sources, config)
        self.batches, *_ = data_preparation(config, data)
        self.network = config.model_class(config, self.batches.dataset).train()
        self.trainer = get_trainer(config)(config, self.network)
        self.clip = config["clip_grad_norm"]
        self.stream = itertools.chain.from_iterable(itertools.repeat(self.batches))
        self.seconds, self.steps = 0.0, 0

    def train(self, steps: int, count: bool) -> None:
        begin = time.perf_counter()
        for batch in itertools.islice(self.stream, steps):
            self.trainer.optimizer.zero_grad()
            self.network.calculate_loss(batch).backward()
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), **self.clip)
            self.trainer.optimizer.step()
        if count:
            self.seconds += time.perf_counter() - begin
            self.steps += steps

    @property
    def length(self) -> float:
        """Seconds of a whole epoch."""
        return self.seconds / self.steps * len(self.batches)


def main(words: list[str] | None = None, **keys) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_path", default="dataset")
    parser.add_argument("--dataset", default="amazon-beauty")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10, help="optimizer steps a round")
    options = parser.parse_args(words)
    torch.set_num_threads(1)
    epochs = {model: Epoch(model, options, keys) for model in MODELS}
    for round_ in range(options.rounds + 1):  # the first warms up
        for epoch in epochs.values():
            epoch.train(options.steps if round_ else 1, count=round_ > 0)
    for model, epoch in epochs.items():
        parameters = sum(p.numel() for p in epoch.network.parameters())
        print(
            f"{model}: {parameters:,} parameters, {1000 * epoch.seconds / epoch.steps:.0f} ms a step over {epoch.steps} steps, "
            f"{len(epoch.batches)} steps an epoch: {epoch.length:.3g} s"
        )
    print(f"an epoch over {options.dataset}; ratio={epochs['TIGER'].length / epochs['R3GR'].length:.2f} target=20")


if __name__ == "__main__":
    main()
