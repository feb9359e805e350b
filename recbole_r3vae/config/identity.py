"""What a run is: everything that can change its result, under one short hash. The only place that defines it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from recbole_r3vae.config.configurator import Config

PLACES = frozenset(
    "data_path checkpoint_dir run_dir content_cache_dir content_file content_ids sid_file resume init_from strict_config state "
    "show_progress log_wandb wandb_project gpu_id use_gpu device config_files config_file nproc ip port world_size group_offset "
    "save_dataset dataset_save_path save_dataloaders dataloaders_save_path".split()
)
"""Keys that say where and how loudly a run happens. What files hold counts by their content; the device counts as resolved."""

EXTENT = frozenset({"epochs", "stopping_step", "max_minutes"})
"""Keys that say how long a run trains. A run that differs from a shorter one in these alone may go on where that one ended."""


NEUTRAL: Mapping[str, Any] = {"train_items": None, "n_negatives": None, "crop_probability": 0.0, "shuffle_ties": None}
"""Keys that came when runs had their names, and the values at which a run is what it was before: no part of its identity at these."""


def without_neutral(settings: Mapping[str, Any], more: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Settings without those that have the value which :data:`NEUTRAL`, or ``more``, says."""
    neutral = {**NEUTRAL, **(more or {})}
    return {key: value for key, value in settings.items() if not (key in neutral and value == neutral[key])}


def fingerprint(values: Mapping[str, Any]) -> str:
    """A short stable hash of plain settings, whatever the order of their keys.

    Returns:
        Twelve hexadecimal digits.
    """
    text = json.dumps(values, sort_keys=True, default=str, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def identity(settings: Mapping[str, Any], data: Any, **more: Any) -> dict[str, Any]:
    """What a run, a tokenizer or a unit of a benchmark is.

    Args:
        settings: of every stage, as :func:`~recbole_r3vae.config.stages.decisive` gives them.
        data: fingerprint of what it learns from and is measured on.
        **more: what settings and data do not say: hashes of semantic IDs and item content, the machine, what it continues.

    Returns:
        Plain data; :func:`fingerprint` of it names the folder.
    """
    values = {"settings": settings, "data": data, **{key: value for key, value in more.items() if value is not None}}
    return json.loads(json.dumps(values, default=str))


def arithmetic(config: Config) -> dict[str, Any]:
    """What of the machine changes the last digits of a result: kind of device, threads of a CPU, processes, precision.

    Args:
        config: of a run.
    """
    device = torch.device(config["device"]).type
    return {
        "device": device,
        "threads": torch.get_num_threads() if device == "cpu" else None,
        "processes": config["world_size"],
        "precision": precision(config),
    }


def precision(config: Config) -> str:
    """``bfloat16`` where ``enable_amp`` asks for it, else ``float32``."""
    return "bfloat16" if config["enable_amp"] else "float32"


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Where two identities differ.

    Returns:
        Name of the entry, such as ``learning_rate`` or ``threads``, to its two values; ``None`` where one has none.
    """
    found: dict[str, tuple[Any, Any]] = {}
    for key in sorted({*one, *other}):
        same = key.removeprefix("tokenizer_")  # a setting of the tokenizer stage is named where it differs from the model's alone
        mine, its = (values.get(key, values.get(same)) for values in (one, other))
        if isinstance(mine, dict) and isinstance(its, dict) and key in ("settings", "arithmetic", "sources"):
            found.update(differences(mine, its))
        elif mine != its:
            found[key] = (mine, its)
    return found


def differences_in_words(differing: Mapping[str, tuple[Any, Any]], n: int = 4) -> str:
    """Differences in words: ``epochs 10 instead of 20, other data``."""
    hashed = {"data": "other data", "semantic_ids": "other semantic IDs", "content": "other item content"}  # a hash would say nothing
    words = [hashed.get(key) or f"{key} {b!r} instead of {a!r}" for key, (a, b) in differing.items()]
    return ", ".join(words[:n]) + (f" and {len(words) - n} more" if len(words) > n else "")
