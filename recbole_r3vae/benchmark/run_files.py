"""The result files of a benchmark: which may be used, which belong to one row, and what the row is."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recbole_r3vae.benchmark.statistics import mean_std, unpack, user_metric
from recbole_r3vae.benchmark.tune import describe
from recbole_r3vae.config.identity import fingerprint

SCHEMA = 1
ACCURACY = ("ndcg@5", "ndcg@10", "ndcg@20", "recall@5", "recall@10", "recall@20", "mrr@10")
CATALOGUE = ("itemcoverage@10", "giniindex@10")
CONDITIONS = ("text_encoder", "collision_policy", "loss", "tuning_trials", "mask_history", "max_minutes")
SEEDS = ("seed", "tokenizer_seed")  # keys in which the runs of one row differ
QUALITY = ("sc_raw", "pd_raw", "collision_rate", "unique_ratio")
_KINDS: dict[type | tuple[type, ...], tuple[str, ...]] = {  # of what tables read; null wherever it is not asked for below
    str: ("name", "model", "tokenizer", "family", "hash", "text_encoder", "collision_policy", "loss", "commit", "command"),
    int: ("seed", "n_parameters", "epochs", "tuning_trials", "mask_history", "stopped_at_budget"),
    (int, float): ("max_minutes",),
    dict: ("config", "test", "valid", "users", "quality", "seconds", "peak_memory_mb", "content", "data", "versions", "hardware"),
}
_NUMBERS = ("test", "valid", "quality", "seconds", "peak_memory_mb")
_OF_USERS = {"split": str, "k": int, "ranks": str}
ROUNDING = 1e-4  # RecBole rounds to 4 decimals or more


@dataclass(frozen=True)
class Run:
    """One finished unit: its result file, and [n_users] ranks of the test targets where the file has them."""

    record: dict[str, Any]
    ranks: np.ndarray | None

    @property
    def split(self) -> str | None:
        return self.record["users"]["split"] if self.record.get("users") else None


def read_runs(folder: Path) -> tuple[list[Run], list[dict[str, Any]], dict[str, dict[str, Any]]]:
    """Read ``results/runs/<dataset>``.

    Returns:
        The runs that may be used; ``name``, ``family``, ``seed``, ``hash`` and ``error`` of each unit that failed or whose file is
        damaged; hash to content of the split files.
    """
    splits = {path.stem.removeprefix("split-"): _read(path) for path in sorted(folder.glob("split-*.json"))}
    runs, failed = [], []
    for path, record in records_of(folder):
        try:
            runs.append(_checked(record, splits))
        except ValueError as error:
            known = {key: record.get(key) for key in ("name", "family", "seed", "hash")}
            failed.append({**known, "name": known["name"] or path.stem, "error": str(error)})
    return runs, failed, splits


def records_of(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    """The result files of a folder and what they hold. Files without a schema are from before the benchmark and are passed over."""
    paths = (path for path in sorted(folder.glob("*.json")) if not path.name.startswith("split-"))
    return [(path, record) for path in paths if "schema" in (record := _read(path))]


def read_run(path: Path) -> Run:
    """The run in a result file, seen without its split.

    Raises:
        ValueError: there is no such file, the unit failed, or the file is damaged or contradicts itself.
    """
    record = _read(path)
    if "schema" not in record:
        raise ValueError("no result file of a benchmark")
    return _checked(record, {})


def _read(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return {"schema": SCHEMA, "error": f"unreadable result file: {error}"}
    return record if isinstance(record, dict) else {}


def _checked(record: dict[str, Any], splits: dict[str, dict[str, Any]]) -> Run:
    """A run that may be used.

    Raises:
        ValueError: the unit failed, or its file contradicts itself.
    """
    if record["schema"] != SCHEMA:
        found = f"result file of schema {record['schema']!r}, this version reads {SCHEMA}"
        raise ValueError(f"{found}; delete it and run the benchmark again")
    if record.get("error") is not None:
        raise ValueError(record["error"])
    missing = [key for key in ("name", "model", "seed", "config", "test") if record.get(key) is None]
    missing += [f"users.{key}" for key in ("split", "k", "ranks") if record.get("users") and key not in record["users"]]
    if missing:
        raise ValueError(f"result file without {', '.join(missing)}; delete it and run the benchmark again")
    wrong = [key for kind, keys in _KINDS.items() for key in keys if not isinstance(record.get(key), (kind, type(None)))]
    if not wrong:
        wrong = [f"{part}.{key}" for part in _NUMBERS for key, value in (record.get(part) or {}).items()
                 if not isinstance(value, (int, float, type(None)))]  # fmt: skip
        wrong += [f"users.{key}" for key, kind in _OF_USERS.items() if record.get("users") and not isinstance(record["users"][key], kind)]
    if wrong:
        kind = f"result file in which {', '.join(wrong)} is of another kind than it should be"
        raise ValueError(f"{kind}; delete it and run the benchmark again")
    if not record.get("users"):
        return Run(record, None)
    ranks = unpack(record["users"]["ranks"], "uint8")
    split = splits.get(record["users"]["split"], {})
    if split.get("users", len(ranks)) != len(ranks):
        raise ValueError(f"ranks of {len(ranks)} users, its split has {split['users']}; delete the file and run the benchmark again")
    for metric in ACCURACY:
        recorded = record["test"].get(metric)
        if recorded is not None and int(metric.partition("@")[2]) <= record["users"]["k"]:
            of_ranks = user_metric(ranks, metric).mean()
            if abs(of_ranks - recorded) > ROUNDING:
                contradiction = f"its ranks give {metric} {of_ranks:.4f}, it records {recorded:.4f}"
                raise ValueError(f"{contradiction}; delete the file and run the benchmark again")
    return Run(record, ranks)


def grouped(runs: list[Run], notes: list[str]) -> list[list[Run]]:
    """Runs that differ in their seed only, each seed once."""
    groups: dict[str, dict[int, Run]] = {}
    for run in runs:
        record = run.record
        config = {key: value for key, value in record["config"].items() if key not in SEEDS}
        same = (record["name"], run.split, config, record.get("content"), record.get("data"), *map(record.get, CONDITIONS))
        key = json.dumps(same, sort_keys=True)
        seeds = groups.setdefault(key, {})
        if record["seed"] in seeds:  # the same unit on another device, say: it must not count as another seed
            kept = seeds[record["seed"]].record
            again = f"{kept.get('hash')} is used, {record.get('hash')} is the same unit again"
            notes.append(f"{record['name']}, seed {record['seed']}: {again}.")
        else:
            seeds[record["seed"]] = run
    return [[seeds[seed] for seed in sorted(seeds)] for seeds in groups.values()]


def row_of(runs: list[Run]) -> dict[str, Any]:
    """One configuration over its seeds."""
    records = [run.record for run in runs]
    first = records[0]
    names = (*ACCURACY, *CATALOGUE)
    return {
        **{key: first.get(key) for key in ("name", "model", "tokenizer", "family")},
        "seeds": [record["seed"] for record in records],
        "hashes": [record.get("hash") for record in records],
        "split": runs[0].split,
        "data": fingerprint(first["data"]) if first.get("data") else None,
        "content": first.get("content"),
        **{part: {name: mean_std(found) for name in names if (found := _all(records, part, name))} for part in ("test", "valid")},
        **{key: first.get(key) for key in ("n_parameters", *CONDITIONS)},
        "seconds": {key: _mean(records, "seconds", key) for key in ("tokenizer", "training", "evaluation", "per_user_ms")},
        "peak_memory_mb": {key: _mean(records, "peak_memory_mb", key) for key in ("process", "gpu")},
        "epochs": [record.get("epochs") for record in records],
        "stopped_at_budget": sum(bool(record.get("stopped_at_budget")) for record in records),
        "quality": {key: value for key in QUALITY if (value := _mean(records, "quality", key)) is not None},
        "commits": sorted({record["commit"] for record in records if record.get("commit")}),
        "hardware": sorted({_hardware_line(record["hardware"]) for record in records if record.get("hardware")}),
        "versions": sorted({_versions_line(record["versions"]) for record in records if record.get("versions")}),
        "config": {key: value for key, value in first["config"].items() if key not in SEEDS},
        "bold": [],
    }


def _all(records: list[dict[str, Any]], part: str, key: str) -> list[float]:
    """The figures of all seeds; none where one of them lacks it, because a mean over fewer seeds would look like one over all."""
    found = [(record.get(part) or {}).get(key) for record in records]
    return [] if None in found else found


def _mean(records: list[dict[str, Any]], part: str, key: str) -> float | None:
    found = _all(records, part, key)
    return float(np.mean(found)) if found else None


def variants(rows: list[dict[str, Any]]) -> list[str]:
    """What sets a row apart from the others of its name, ``sc_weight=0.1``; nothing where it is the only one."""
    variants = []
    for row in rows:
        told = {}
        for part in (lambda row: row["config"], lambda row: {key: row[key] for key in (*CONDITIONS, "split", "data")}):
            peers = [part(other) for other in rows if other["name"] == row["name"]]
            for key in sorted(set().union(*peers)):
                if any(peer.get(key) != part(row).get(key) for peer in peers):
                    told[key] = part(row).get(key)
        variants.append(describe(told) if told else "")
    return variants


def _versions_line(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in versions.items())


def _hardware_line(hardware: dict[str, Any]) -> str:
    """``x86_64, 1 thread(s), cpu``, and whatever else is recorded of the machine."""
    threads = f"{hardware['threads']} thread(s)" if "threads" in hardware else ""
    more = [f"{key} {value}" for key, value in hardware.items() if key not in ("machine", "threads", "device") and value is not None]
    return ", ".join(part for part in (hardware.get("machine"), threads, hardware.get("device"), *more) if part)
