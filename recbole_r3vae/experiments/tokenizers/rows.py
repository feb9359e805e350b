"""What the tables say of one tokenizer, from its description."""

from __future__ import annotations

import math
from typing import Any

from recbole_r3vae.trainer.tokenizer import mean_defined

PLACES = {"data_path", "checkpoint_dir", "content_cache_dir"}  # where things lie; no part of what was measured


def row_of(description: dict[str, Any], folder: str) -> dict[str, Any]:
    """What the tables say of one tokenizer.

    Args:
        description: its ``tokenizer.json``.
        folder: name of its folder, which ends in the hash of its configuration and of the item content.

    Returns:
        Name to figure; SC and PD are means over the levels where they are defined, perplexity and Gini over all. ``levels`` holds those
        of each level. ``None`` where a figure is not defined, or was not recorded by the version that trained the tokenizer.
    """
    quality = description["quality"]
    levels = [_level_row(level) for level in quality["levels"]]
    error, cost = quality["reconstruction"], description.get("peak_memory_mb", {})
    means = {
        name: _none_for_nan(mean_defined(level[name] for level in levels))
        for name in ("perplexity", "gini", "sc_raw", "pd_raw", "sc_own", "pd_own")
    }
    return {
        "name": description["name"],
        "error": None,
        "codebook_sizes": [level["codebook_size"] for level in levels],
        "lowest_usage": min(level["usage"] for level in levels),
        "perplexity": means["perplexity"],
        "gini": means["gini"],
        **{key: quality[key] for key in ("unique_ratio", "collision_rate", "items_per_used_sid", "largest_sid")},
        **{key: means[key] for key in ("sc_raw", "pd_raw", "sc_own", "pd_own")},
        "reconstruction": error["mse"],
        "reconstruction_share": error["relative"],
        "seconds": description["seconds"],
        "peak_memory_mb": cost.get("process"),
        "peak_gpu_memory_mb": cost.get("gpu"),
        "epochs": description.get("epochs"),
        "stopped_at_budget": description.get("stopped_at_budget"),
        "seed": description["config"]["seed"],
        "configuration": folder.removeprefix(f"{description['name']}-"),
        "levels": levels,
        "config": {key: value for key, value in description["config"].items() if key not in PLACES},
        "history": description.get("history", []),
        "versions": description.get("versions"),
        "hardware": description.get("hardware"),
    }


def _level_row(level: dict[str, Any]) -> dict[str, Any]:
    raw, own = level["spaces"]["raw"], level["spaces"]["residual"]
    keys = ("level", "codebook_size", "used", "reachable", "perplexity", "gini", "clusters", "clusters_2plus")
    return {
        **{key: level[key] for key in keys},
        "usage": level["usage_of_reachable"],
        "sc_raw": raw["sc"],
        "pd_raw": raw["pd"],
        "pd_raw_stderr": raw["pd_stderr"],
        "sc_own": own["sc"],
        "pd_own": own["pd"],
        "pd_own_stderr": own["pd_stderr"],
    }


def _none_for_nan(value: float) -> float | None:
    return None if math.isnan(value) else value
