"""Where an epoch of training goes: seconds, shares of matrix products and of everything else, and how near they are to the machine's rate.

    python benchmarks/profile_training.py --data_path dataset --models R3GR-dense WindowSASRec HSTU TIGERCausal TIGER

On a CPU; `cuda.py` takes :class:`Epoch` to a GPU. One thread, bfloat16 where the processor has it (``--float32``: never). Each model trains
``--steps`` optimizer steps on the batches of a shuffled epoch, which are timed, then ``--profiled`` more under torch's profiler, which says the
shares. The floor of an epoch is its matrix products at the rate that square matrices of 1,024 reach on the same machine in the same minute. Ends
with a line ``ratio=<share of matrix products> target=0.6`` for the first model.
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
    "WindowSASRec": ("WindowSASRec", [], {**DENSE, "encoder": "hstu", "temperature": 0.07, "MAX_ITEM_LIST_LENGTH": 50}),
    "HSTU": ("HSTU", [], {"MAX_ITEM_LIST_LENGTH": 50}),
    "R3GR": ("R3GR", [], {}),
    "TIGERCausal": ("TIGERCausal", [], {"tokenizer": "RKMeans"}),
    "TIGER": ("TIGER", [], {"tokenizer": "RKMeans"}),
    "BSARec": ("BSARec", [], {}),
    "SASRec": ("SASRec", [], {"loss_type": "CE", "MAX_ITEM_LIST_LENGTH": 20}),
}
"""Name to model, presets and settings beside those of its YAML file."""

KINDS = {
    "matrix products": ("mm", "addmm", "bmm", "baddbmm", "mkldnn_linear", "_scaled_dot_product_flash_attention_for_cpu"),
    "their gradients of attention": ("_scaled_dot_product_flash_attention_for_cpu_backward",),
    "softmax and exponentials": ("exp", "exp_", "amax", "sum", "_softmax", "_log_softmax", "_softmax_backward_data", "log", "silu", "gelu"),
    "rows of tables": ("index", "index_select", "index_put_", "index_add_", "embedding_dense_backward", "gather", "scatter_add_", "index_copy"),
    "copies and casts": ("copy_", "cat", "stack", "clone", "contiguous"),
    "dropout": ("bernoulli_", "native_dropout"),
    "optimizer": ("_fused_adamw_", "_foreach_mul_", "_foreach_add_", "_foreach_lerp_", "_foreach_addcdiv_", "_foreach_sqrt", "_foreach_div_"),
}
"""Kinds of work to torch's names of the operations; what is in none of them is "other"."""


class Epoch:
    """Endless training of one model.

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

    def seconds(self, steps: int) -> float:
        """Of a whole epoch, from ``steps`` steps after three that warm up."""
        for _ in range(3):
            self.step()
        finished(self.device)
        begin = time.perf_counter()
        for _ in range(steps):
            self.step()
        finished(self.device)
        return (time.perf_counter() - begin) / steps * len(self.batches)

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
    parser.add_argument("--models", nargs="+", choices=CELLS, default=["R3GR-dense"])
    parser.add_argument("--steps", type=int, default=20, help="optimizer steps that are timed")
    parser.add_argument("--profiled", type=int, default=5, help="steps under the profiler")
    parser.add_argument("--float32", action="store_true", help="no bfloat16")
    options = parser.parse_args(words)
    torch.set_num_threads(1)
    first = None
    for name in options.models:
        epoch = Epoch(name, options, keys)
        rate, seconds = matrix_rate(epoch.half), epoch.seconds(options.steps)
        shares, flops = epoch.shares(options.profiled)
        n_steps = len(epoch.batches)
        floor = flops * n_steps / rate
        print(f"{name}: {sum(p.numel() for p in epoch.network.parameters()):,} parameters, {n_steps} steps an epoch: {seconds:.1f} s")
        print(f"  matrix products: {flops * n_steps / 1e12:.2f} Tflop an epoch, {floor:.1f} s at the machine's {rate / 1e9:.0f} Gflop/s")
        print("  " + ", ".join(f"{kind} {share:.0%}" for kind, share in sorted(shares.items(), key=lambda pair: -pair[1])))
        first = shares["matrix products"] if first is None else first
    print(f"share of matrix products in the steps of {options.models[0]}; ratio={first:.2f} target=0.6")


if __name__ == "__main__":
    main()
