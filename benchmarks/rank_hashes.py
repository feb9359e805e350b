"""Whether a change of the code changes results: a hash of the ranks of every test user, model by model.

    python benchmarks/rank_hashes.py --output ranks.json          # before the change
    python benchmarks/rank_hashes.py --against ranks.json         # after it

Small models of every kind, two epochs each on `ml-100k`: generators of semantic IDs, item-id models of this package and of RecBole, a model
of clicks, a cold-start run, and a run that is interrupted in its second epoch and resumed. The hash covers the rank of every test user's
target, or, where nothing is ranked, the metrics with ten decimals. Weights are drawn by the seed, so equal code on one machine gives equal
hashes; another machine, thread count or version of torch may not. Ends with ``same=<n> of <n>``; exit status 1 where a hash differs.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import hashlib
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from recbole_r3vae.config.registry import get_model
from recbole_r3vae.errors import UserError
from recbole_r3vae.quick_start import run_recbole_r3vae

COMMON = {
    "device": "cpu", "show_progress": False, "state": "error", "epochs": 2, "MAX_ITEM_LIST_LENGTH": 20, "metric_decimal_place": 10,
    "eval_step": 1, "content_cache_dir": "content",
}  # fmt: skip
GENERATOR = {
    "hidden_size": 32, "inner_size": 64, "n_layers": 1, "n_decoder_layers": 1, "n_heads": 2, "tokenizer_epochs": 3,
    "tokenizer_codebook_sizes": [32, 32], "num_beams": 20, "valid_num_beams": 20,
}  # fmt: skip
HYBRID = {"tokenizer": "RKMeans", "tokenizer_epochs": 0, "item_inputs": ["codes", "text", "id"], "encoder": "transformer"}
SEQUENTIAL = {"hidden_size": 32, "inner_size": 64, "n_layers": 1, "n_heads": 2, "loss_type": "CE", "train_batch_size": 512}


N_BATCHES = 144
"""Of an epoch of the interrupted run, windows of 20 in batches of 64."""


def hashed(values: Any) -> str:
    """Sixteen hexadecimal digits that stand for plain data."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:16]


def run(model: str, rule: str = "stay", **settings: Any) -> dict[str, Any]:
    """A run on ml-100k, with the hash of its ranks and of its metrics under a rule on items that users have met."""
    found = run_recbole_r3vae(model, "ml-100k", config_dict={**COMMON, "valid_rule": rule, **settings})
    test = found["test"].get(rule) or found["test_result"]
    return {"ranks": found["users"] and hashed(found["users"][rule]), "metrics": hashed(test), "test": test}


def interrupted() -> dict[str, Any]:
    """R3GR, stopped in the middle of its second epoch and resumed."""
    model, settings = get_model("R3GR"), {**GENERATOR, "seed": 2021, "train_batch_size": 64}
    calculate_loss, n_batches = model.calculate_loss, []

    def stopped(self, interaction):
        n_batches.append(len(interaction))
        if len(n_batches) > N_BATCHES * 3 // 2:
            raise KeyboardInterrupt
        return calculate_loss(self, interaction)

    model.calculate_loss = stopped
    try:
        run("R3GR", **settings)
        raise UserError(f"the run ended after {len(n_batches)} batches, before it was to be interrupted; correct N_BATCHES")
    except KeyboardInterrupt:
        pass
    finally:
        model.calculate_loss = calculate_loss
    return run("R3GR", **settings, resume=True)


def cold_start() -> dict[str, Any]:
    """The cold-start study: its figures, without seconds."""
    from recbole_r3vae.experiments.coldstart import CANDIDATES, EPSILONS, run_coldstart

    settings = {**COMMON, **GENERATOR, "valid_rule": "stay"}
    words = [f"--{key}={json.dumps(value)}" for key, value in settings.items()]
    run_coldstart("ml-100k", "R3GR", 0.1, "random", EPSILONS, CANDIDATES, False, "results", [], words)
    report = json.loads(Path("results/coldstart_ml-100k.json").read_text())
    found = {key: report[key] for key in ("rows", "tokenized")}
    return {"ranks": None, "metrics": hashed(found), "test": {}}


CASES: dict[str, Callable[[], dict[str, Any]]] = {
    "R3GR": lambda: run("R3GR", **GENERATOR),
    "R3GR, hybrid": lambda: run("R3GR", **{**GENERATOR, **HYBRID}),
    "TIGER": lambda: run("TIGER", **GENERATOR, head_size=16),
    "HSTU": lambda: run("HSTU", hidden_size=32, n_layers=1, attention_dim=16, linear_dim=16),
    "SASRec": lambda: run("SASRec", **SEQUENTIAL),
    "LightGCN": lambda: run("LightGCN", "left_out", embedding_size=32, n_layers=1),
    "DeepFM": lambda: run("DeepFM", sid_features="replace", tokenizer="RKMeans", tokenizer_codebook_sizes=[32, 32]),
    "interrupted": interrupted,
    "cold start": cold_start,
}


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="file to write")
    parser.add_argument("--against", type=Path, help="file to compare with")
    parser.add_argument("--only", nargs="+", choices=list(CASES), default=list(CASES))
    options = parser.parse_args(words)
    output = options.output and options.output.absolute()
    before = json.loads(options.against.read_text()) if options.against else {}
    found, home = {}, Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            for name in options.only:
                found[name] = CASES[name]()
                old = before.get(name)
                keys = ("ranks", "metrics")
                verdict = "" if old is None else "same" if all(old[key] == found[name][key] for key in keys) else "DIFFERENT"
                print(f"{name:12} ranks {found[name]['ranks']}  metrics {found[name]['metrics']}  {verdict}", flush=True)
                if verdict == "DIFFERENT":
                    print(f"{'':12} before {old['test']}\n{'':12} after  {found[name]['test']}", flush=True)
        finally:
            os.chdir(home)
    if output:
        output.write_text(json.dumps(found, indent=2) + "\n")
    same = sum(all(before[name][key] == found[name][key] for key in ("ranks", "metrics")) for name in found if name in before)
    print(f"same={same} of {len(found)}")
    return int(bool(before) and same < len(found))


if __name__ == "__main__":
    sys.exit(main())
