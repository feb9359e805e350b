"""A Markdown table of runs from their ``result.json`` files, best validation NDCG@10 first.

    python benchmarks/compare.py results/runs/amazon-beauty/*.json > results/amazon-beauty.md
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

METRICS = [f"{metric}@{k}" for metric in ("recall", "ndcg") for k in (5, 10, 20)]


def cells(result: dict) -> list[str]:
    config = result["config"]
    marked = " (stopped at its budget)" if result["stopped_at_budget"] else ""
    content = result["content"] or {}
    text = f"{content['kind']}: {', '.join(content['fields'])}" if "fields" in content else content.get("kind", "")
    policy = config.get("collision_policy", "")
    return [
        result["name"] + marked,
        result["loss"],
        text,
        policy,
        str(config["seed"]),
        f"{result['n_parameters']:,}",
        f"{result['seconds'] / 60:.0f}",
        f"{result['best_valid_result']['ndcg@10']:.4f}",
        *(f"{result['test_result'][metric]:.4f}" for metric in METRICS),
    ]


def main(paths: list[str]) -> None:
    results = sorted((json.loads(Path(path).read_text()) for path in paths), key=lambda r: -r["best_valid_result"]["ndcg@10"])
    datasets = {result["config"]["dataset"] for result in results}
    head = ["model", "loss", "item text", "collisions", "seed", "parameters", "minutes", "valid ndcg@10", *METRICS]
    print(f"# {', '.join(sorted(datasets))}\n")
    print("Leave-one-out in time order, full ranking over all items, no history mask; the epoch with the best validation NDCG@10 is tested.")
    print("Minutes are those of training, validation included.\n")
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for result in results:
        print(f"| {' | '.join(cells(result))} |")
    for result in results:
        hardware, versions = result["hardware"], result["versions"]
        print(f"\n{result['name']}: {hardware['machine']}, {hardware['threads']} thread(s), {hardware['device']}; ", end="")
        print(", ".join(f"{name} {number}" for name, number in versions.items()))


if __name__ == "__main__":
    main(sys.argv[1:])
