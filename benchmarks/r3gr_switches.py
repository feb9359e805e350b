"""What each switch of R3GR does to its validation NDCG@10, one at a time.

    python benchmarks/r3gr_switches.py --data_path dataset --dataset amazon-beauty

Every variant is ``properties/model/R3GR.yaml`` with the keys of ``VARIANTS`` changed, trained for ``--epochs`` epochs (so cosine ends
there) and validated once, after the last. The test split is not looked at. Adds one line a variant to
``results/r3gr_switches_<dataset>.json``, passing over those that are there, and writes the table beside it, as Markdown.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from recbole_r3vae.config import Config
from recbole_r3vae.io import atomic_write, write_json
from recbole_r3vae.provenance import provenance_line
from recbole_r3vae.quick_start.lookup import create_dataset, data_preparation, get_trainer
from recbole_r3vae.quick_start.provide import provide
from recbole_r3vae.quick_start.run import make_network, start_logging

VARIANTS = {
    "default": {},
    "encoder: transformer": {"encoder": "transformer"},
    "item_inputs: codes": {"item_inputs": ["codes"]},
    "item_inputs: text": {"item_inputs": ["text"]},
    "item_inputs: codes, text, id (hybrid)": {"item_inputs": ["codes", "text", "id"]},
    "hybrid, id_dropout 0.2": {"item_inputs": ["codes", "text", "id"], "id_dropout": 0.2},
    "tied_heads": {"tied_heads": True},
    "sid_dropout 0.1": {"sid_dropout": 0.1},
    "label_smoothing 0.1": {"label_smoothing": 0.1},
}


def measure(keys: dict, options: argparse.Namespace) -> dict[str, float]:
    """Train one variant; its validation NDCG@10, parameters and seconds.

    Args:
        keys: settings beside those of the YAML files.
        options: of the command line.
    """
    shared = {
        "data_path": options.data_path, "seed": options.seed, "epochs": options.epochs, "eval_step": options.epochs, "show_progress": False,
        "checkpoint_dir": "saved", "state": "warning", "device": options.device,
    }  # fmt: skip
    config = Config("R3GR", options.dataset, config_dict={**shared, **keys})
    start_logging(config)
    data = create_dataset(config)
    sources = provide(config, data, show_progress=False).sources
    config.contract.give(data, sources, config)
    train_data, valid_data, _ = data_preparation(config, data)
    network = make_network(config, train_data.dataset, sources)
    begin = time.monotonic()
    score, _ = get_trainer(config)(config, network).fit(train_data, valid_data, saved=False, show_progress=False)
    parameters = sum(p.numel() for p in network.parameters())
    return {"ndcg@10": score, "parameters": parameters, "seconds": round(time.monotonic() - begin, 1)}


def main(words: list[str] | None = None, **keys) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="amazon-beauty")
    parser.add_argument("--data_path", default="dataset")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seed", type=int, default=2020)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(words)
    path = Path("results") / f"r3gr_switches_{options.dataset}.json"
    rows = json.loads(path.read_text())["variants"] if path.is_file() else {}
    for name, changed in VARIANTS.items():
        if name not in rows:
            rows[name] = measure({**keys, **changed}, options)
            print(f"{name}: {rows[name]}", flush=True)
            command = f"python benchmarks/r3gr_switches.py --dataset {options.dataset} --epochs {options.epochs} --seed {options.seed}"
            write_json(path, {"command": command, "provenance": provenance_line(), "variants": rows})
    report = json.loads(path.read_text())
    base = rows["default"]["ndcg@10"]
    lines = [
        f"# R3GR's switches on {options.dataset}",
        "",
        f"`{report['command']}`",
        "",
        f"Validation NDCG@10 after {options.epochs} epochs, seed {options.seed}, each variant one change away from "
        "`properties/model/R3GR.yaml`.",
        "",
        "| variant | valid NDCG@10 | against default | parameters | seconds |",
        "|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        lines.append(f"| {name} | {row['ndcg@10']:.4f} | {row['ndcg@10'] / base - 1:+.1%} | {row['parameters']:,} | {row['seconds']:.0f} |")
    with atomic_write(path.with_suffix(".md")) as file:
        file.write("\n".join([*lines, "", report["provenance"]]) + "\n")


if __name__ == "__main__":
    main()
