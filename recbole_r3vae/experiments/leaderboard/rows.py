"""A leaderboard's rows: which records belong to one, and what it says of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from recbole_r3vae.config.identity import fingerprint
from recbole_r3vae.experiments.leaderboard.records import split_of
from recbole_r3vae.experiments.statistics import mean_std
from recbole_r3vae.experiments.words import describe
from recbole_r3vae.record import RULES, Record

ACCURACY = ("ndcg@5", "ndcg@10", "ndcg@20", "recall@5", "recall@10", "recall@20", "mrr@10")
CATALOGUE = ("itemcoverage@10", "giniindex@10")
CONDITIONS = ("text_encoder", "collision_policy", "loss", "tuning_trials", "valid_rule", "precision", "max_minutes")
SEEDS = ("seed", "tokenizer_seed")  # keys in which the runs of one row differ
COUNTED = "none"
"""The loss of a model that counts and trains nothing."""
QUALITY = ("sc_raw", "pd_raw", "collision_rate", "unique_ratio")


def grouped(records: Sequence[Record], notes: list[str]) -> list[list[Record]]:
    """Runs that differ in their seed only, each seed once."""
    groups: dict[str, dict[int, Record]] = {}
    for record in records:
        config = {key: value for key, value in record.config.items() if key not in SEEDS}
        conditions = [getattr(record, key) for key in CONDITIONS]
        same = (record.name, split_of(record), config, record.content, record.data, *conditions)
        seeds = groups.setdefault(json.dumps(same, sort_keys=True), {})
        if record.seed in seeds:  # the same unit on another device, say: it must not count as another seed
            again = f"{seeds[record.seed].hash} is used, {record.hash} is the same unit again"
            notes.append(f"{record.name}, seed {record.seed}: {again}.")
        else:
            seeds[record.seed] = record
    return [[seeds[seed] for seed in sorted(seeds)] for seeds in groups.values()]


def row_of(records: Sequence[Record]) -> dict[str, Any]:
    """One configuration over its seeds. Its ``rule``, by which it is ordered, is ``left_out`` where all seeds have figures of that."""
    first = records[0]
    names = (*ACCURACY, *CATALOGUE)
    test = {rule: _means([record.test[rule] for record in records], names) for rule in RULES}
    return {
        **{key: getattr(first, key) for key in ("name", "label", "model", "tokenizer", "family")},
        "seeds": [record.seed for record in records],
        "hashes": [record.hash for record in records],
        "split": split_of(first),
        "data": fingerprint(first.data) if first.data else None,
        "content": first.content,
        "rule": next((rule for rule in RULES if test[rule]), RULES[0]),
        "test": test,
        "valid": _means([record.valid for record in records], names),
        "repeated_targets": first.repeated_targets,
        **{key: getattr(first, key) for key in ("n_parameters", *CONDITIONS)},
        "seconds": {
            key: _mean([record.seconds for record in records], key) for key in ("tokenizer", "training", "evaluation", "per_user_ms")
        },
        "peak_memory_mb": {key: _mean([record.peak_memory_mb for record in records], key) for key in ("process", "gpu")},
        "epochs": [record.epochs for record in records],
        "stopped_at_budget": sum(record.stopped_at_budget for record in records),
        "quality": {key: value for key in QUALITY if (value := _mean([record.quality for record in records], key)) is not None},
        "commits": sorted({record.commit for record in records if record.commit}),
        "hardware": sorted({_hardware_line(record.hardware) for record in records if record.hardware}),
        "versions": sorted({_versions_line(record.versions) for record in records if record.versions}),
        "config": {key: value for key, value in first.config.items() if key not in SEEDS},
        "bold": [],
    }


def _means(parts: Sequence[dict[str, Any] | None], names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Name to mean and deviation over the seeds, of the figures that all of them have."""
    return {name: mean_std(found) for name in names if (found := _all(parts, name))}


def _all(parts: Sequence[dict[str, Any] | None], key: str) -> list[float]:
    """The figures of all seeds; none where one of them lacks it, because a mean over fewer seeds would look like one over all."""
    found = [(part or {}).get(key) for part in parts]
    return [] if None in found else found


def _mean(parts: Sequence[dict[str, Any] | None], key: str) -> float | None:
    found = _all(parts, key)
    return float(np.mean(found)) if found else None


def variants(rows: list[dict[str, Any]]) -> list[str]:
    """What sets a row apart from the others of its name, ``sc_weight=0.1``; nothing where it is the only one.

    Where a grid's file has a name for each of them, that is it.
    """
    variants = []
    for row in rows:
        labels = [other["label"] for other in rows if other["name"] == row["name"]]
        if len(set(labels)) == len(labels):
            variants.append(row["label"] or "" if len(labels) > 1 else "")
            continue
        differing = {}
        for part in (lambda row: row["config"], lambda row: {key: row[key] for key in (*CONDITIONS, "split", "data")}):
            peers = [part(other) for other in rows if other["name"] == row["name"]]
            for key in sorted(set().union(*peers)):
                if any(peer.get(key) != part(row).get(key) for peer in peers):
                    differing[key] = part(row).get(key)
        variants.append(describe(differing) if differing else "")
    return variants


def _versions_line(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in versions.items())


def _hardware_line(hardware: dict[str, Any]) -> str:
    """``x86_64, 1 thread(s), cpu``, and whatever else is recorded of the machine."""
    threads = f"{hardware['threads']} thread(s)" if "threads" in hardware else ""
    more = [f"{key} {value}" for key, value in hardware.items() if key not in ("machine", "threads", "device") and value is not None]
    return ", ".join(part for part in (hardware.get("machine"), threads, hardware.get("device"), *more) if part)
