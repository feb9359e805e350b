"""What an epoch of training costs on one thread, where it goes, and how far it is from the machine's rate.

    python benchmarks/training.py --data_path dataset --models R3GR-dense WindowSASRec HSTU R3GR TIGERCausal TIGER
    python benchmarks/training.py --data_path dataset --models R3GR TIGER --float32

On a CPU; `cuda.py` takes :class:`Epoch` to a GPU.

Models take turns in one process, ``--rounds`` rounds of ``--steps`` optimizer steps each on the batches of a shuffled epoch, the first a
warm-up. Seconds a step, times the steps of an epoch, is the epoch; every model sees every training interaction of every user once as a
target. bfloat16 where the processor has it (``--float32``: nowhere). Then ``--profiled`` steps of each under torch's profiler say the shares.
The floor of an epoch is its matrix products at the rate that square matrices of 1,024 reach on the same machine in the same minute.

Ends with ``ratio=<epoch of the last model / of the first> target=20``, which is a target for TIGER and R3GR as in their YAML files, and
``ratio=<share of matrix products in the first> target=0.6``, one for R3GR-dense.
"""

from __future__ import annotations

import argparse
import itertools
import time

import torch
from recbole.utils import init_seed
from torch.profiler import ProfilerActivity, profile

from recbole_r3vae.config import Config
from recbole_r3vae.config.sources import properties
from recbole_r3vae.quick_start.lookup import create_dataset, data_preparation, get_trainer
from recbole_r3vae.quick_start.provide import provide

DENSE = {"hidden_size": 128, "n_layers": 2, "n_heads": 4}
CELLS = {
    "R3GR-dense": ("R3GR", ["R3GR-dense"], DENSE),
    "R3GR-dense, 256 x 3": ("R3GR", ["R3GR-dense"], {"n_heads": 4}),
    "WindowSASRec": ("WindowSASRec", [], {**DENSE, "encoder": "hstu", "temperature": 0.07, "MAX_ITEM_LIST_LENGTH": 50}),
    "WindowSASRec, Transformer": ("WindowSASRec", [], {**DENSE, "MAX_ITEM_LIST_LENGTH": 50}),
    "HSTU": ("HSTU", [], {"MAX_ITEM_LIST_LENGTH": 50}),
    "R3GR": ("R3GR", [], {"tokenizer": "RKMeans"}),
    "TIGERCausal": ("TIGERCausal", [], {"tokenizer": "RKMeans"}),
    "TIGER": ("TIGER", [], {"tokenizer": "RKMeans"}),
    "BSARec": ("BSARec", [], {}),
    "WindowSASRec, 2 x 64": ("WindowSASRec", [], {"n_heads": 1, "dropout": 0.5, "MAX_ITEM_LIST_LENGTH": 20}),
    "SASRec": ("SASRec", [], {"loss_type": "CE", "n_heads": 1, "train_batch_size": 512, "MAX_ITEM_LIST_LENGTH": 20}),
}
"""Name to model, presets and settings beside those of its YAML file."""

KINDS = {
    "matrix products": ("mm", "addmm", "bmm", "baddbmm", "mkldnn_linear", "_scaled_dot_product_flash_attention_for_cpu"),
    "their gradients of attention": ("_scaled_dot_product_flash_attention_for_cpu_backward",),
    "softmax and exponentials": ("exp", "exp_", "amax", "sum", "_softmax", "_log_softmax", "_softmax_backward_data", "log", "silu", "gelu"),
    "rows of tables": ("index", "index_select", "index_put_", "index_add_", "embedding_dense_backward", "gather", "scatter_add_", "index_copy"),
    "copies and casts": ("copy_", "cat", "stack", "clone", "contiguous"),
    "dropout": ("bernoulli_", "native_dropout", "random_", "ge"),
    "optimizer": ("_fused_adamw_", "_foreach_mul_", "_foreach_add_", "_foreach_lerp_", "_foreach_addcdiv_", "_foreach_sqrt", "_foreach_div_"),
}
"""Kinds of work to torch's names of the operations; what is in none of them is "other"."""


class Epoch:
    """Endless training of one model, a few steps at a time.

    Args:
        name: one of :data:`CELLS`.
        options: of the command line.
        keys: settings beside those.
    """

    def __init__(self, name: str, options: argparse.Namespace, keys: dict):
        model, presets, more = CELLS[name]
        keys = {**({"data_path": options.data_path} if options.data_path else {}), "device": "cpu", "show_progress": False, **more, **keys}
        config = Config(model, options.dataset, [properties() / "preset" / f"{preset}.yaml" for preset in presets], keys)
        init_seed(config["seed"], True)
        data = create_dataset(config)
        config.contract.give(data, provide(config, data, show_progress=False).sources, config)
        self.batches, *_ = data_preparation(config, data)
        self.device = config["device"]
        self.network = config.model_class(config, self.batches.dataset).to(self.device).train()
        self.trainer = get_trainer(config)(config, self.network)
        self.clip = config["clip_grad_norm"]
        self.stream = itertools.chain.from_iterable(itertools.repeat(self.batches))
        self.half = not options.float32
        self.spent, self.steps = 0.0, 0

    def step(self) -> None:
        """One step of the optimizer, as the trainers make it."""
        batch = next(self.stream).to(self.device)
        self.trainer.optimizer.zero_grad()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
            loss = self.network.calculate_loss(batch)
        loss.backward()
        if self.clip:
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), **self.clip)
        self.trainer.optimizer.step()

    def train(self, steps: int, count: bool) -> None:
        """Some steps, whose time counts or not."""
        finished(self.device)
        begin = time.perf_counter()
        for _ in range(steps):
            self.step()
        finished(self.device)
        if count:
            self.spent, self.steps = self.spent + time.perf_counter() - begin, self.steps + steps

    @property
    def seconds(self) -> float:
        """Of a whole epoch."""
        return self.spent / self.steps * len(self.batches)

    def shares(self, steps: int) -> tuple[dict[str, float], float]:
        """Each kind's share of the time of ``steps`` steps, and floating-point operations of the matrix products a step."""
        with profile(activities=[ProfilerActivity.CPU], with_flops=True) as found:
            for _ in range(steps):
                self.step()
        kind_of = {f"aten::{name}": kind for kind, names in KINDS.items() for name in names}
        spent, flops = dict.fromkeys([*KINDS, "other"], 0.0), 0.0
        for event in found.key_averages():
            spent[kind_of.get(event.key, "other")] += event.self_cpu_time_total
            flops += event.flops if kind_of.get(event.key) == "matrix products" else 0
        total = sum(spent.values())
        return {kind: part / total for kind, part in spent.items()}, flops / steps


def finished(device: torch.device | str) -> None:
    """Wait for a GPU: its work is only begun when a call returns."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def matrix_rate(half: bool, seconds: float = 1.0, size: int = 1024, device: torch.device | str = "cpu") -> float:
    """Floating-point operations a second of products of square matrices, the best of several."""
    a, b = (torch.randn(size, size, dtype=torch.bfloat16 if half else torch.float32, device=device) for _ in range(2))
    best, until = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < until:
        finished(device)
        begin = time.perf_counter()
        a @ b
        finished(device)
        best = min(best, time.perf_counter() - begin)
    return 2 * size**3 / best


def main(words: list[str] | None = None, **keys) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_path", default="dataset")
    parser.add_argument("--dataset", default="amazon-beauty")
    parser.add_argument("--models", nargs="+", choices=CELLS, default=["R3GR", "TIGER"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10, help="optimizer steps a round")
    parser.add_argument("--profiled", type=int, default=5, help="steps under the profiler")
    parser.add_argument("--float32", action="store_true", help="no bfloat16")
    options = parser.parse_args(words)
    torch.set_num_threads(1)
    epochs = {name: Epoch(name, options, keys) for name in options.models}
    for round_ in range(options.rounds + 1):  # the first warms up
        for epoch in epochs.values():
            epoch.train(options.steps if round_ else 1, count=round_ > 0)
    rate, of_matrices = matrix_rate(not options.float32), {}
    for name, epoch in epochs.items():
        shares, flops = epoch.shares(options.profiled)
        n_steps, of_matrices[name] = len(epoch.batches), shares["matrix products"]
        print(
            f"{name}: {sum(p.numel() for p in epoch.network.parameters()):,} parameters, {1000 * epoch.spent / epoch.steps:.0f} ms a step over "
            f"{epoch.steps} steps, {n_steps} steps an epoch: {epoch.seconds:.3g} s"
        )
        print(f"  matrix products: {flops * n_steps / 1e12:.2f} Tflop an epoch, {flops * n_steps / rate:.1f} s at {rate / 1e9:.0f} Gflop/s")
        print("  " + ", ".join(f"{kind} {share:.0%}" for kind, share in sorted(shares.items(), key=lambda pair: -pair[1])))
    first, last = options.models[0], options.models[-1]
    print(f"an epoch over {options.dataset}, {last} / {first}; ratio={epochs[last].seconds / epochs[first].seconds:.2f} target=20")
    print(f"matrix products in the steps of {first}; ratio={of_matrices[first]:.2f} target=0.6")


if __name__ == "__main__":
    main()
