"""Result files of version 0.1: both rules on met items end up in one record, and nothing is merged that is not of one checkpoint."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from recbole_r3vae.config.identity import fingerprint, identity
from recbole_r3vae.data.split import pack
from recbole_r3vae.experiments.leaderboard import leaderboard
from recbole_r3vae.record import Record, user_metric

ROOT = Path(__file__).parents[2]


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import migrate_results

    return migrate_results


def old(name="BPR", seed=1, masked=False, recall=0.4, **more) -> dict:
    """A result file of schema 1."""
    random = np.random.default_rng(seed + 10 * masked)
    ranks = (random.integers(1, 21, 40) * (random.random(40) < recall)).astype(np.uint8)
    config = {"epochs": 3, "seed": seed, "mask_history": masked}
    data = {"toy.inter": "f00"}
    return {
        "schema": 1, "dataset": "toy", "name": name, "model": name, "tokenizer": None, "family": "general", "seed": seed,
        "hash": f"{name}{seed:03d}", "config": config, "data": data, "max_minutes": 10, "tuning_trials": 0, "mask_history": masked,
        "collision_policy": None, "content": None, "text_encoder": None, "loss": "pairwise", "n_parameters": 5,
        "valid": {} if masked else {"ndcg@10": 0.5}, "test": {"ndcg@10": round(user_metric(ranks, "ndcg@10").mean(), 6)},
        "users": {"split": "0123456789ab", "k": 20, "ranks": pack(ranks)}, "quality": None,
        "seconds": {"tokenizer": None, "training": 10.0 + seed, "evaluation": 1.0, "per_user_ms": 0.1},
        "peak_memory_mb": {"tokenizer": None, "training": 1.0, "process": 2.0, "gpu": None}, "epochs": 3,
        "valid_history": None if masked else [[1, 1.0, 0.5]], "stopped_at_budget": False, "versions": {"torch": "2"}, "commit": "abc1234",
        "hardware": {"machine": "x86", "threads": 1, "device": "cpu"}, "command": "recbole-r3vae benchmark", "error": None, **more,
    }  # fmt: skip


def write(folder: Path, record: dict) -> Path:
    path = folder / "runs" / "toy" / f"{record['name']}-{record['seed']}-{record['hash']}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record))
    return path


def test_both_rules_become_one_record(script, tmp_path, capsys):
    stay, out = old(), old(masked=True)
    out["hash"] = stay["hash"]  # the script kept the name of the unit
    first = write(tmp_path, stay)
    write(tmp_path / "mask_history", out)
    split = tmp_path / "runs/toy/split-0123456789ab.json"
    split.write_text(json.dumps({"schema": 1, "dataset": "toy", "users": 40}))
    script.main([str(tmp_path)])
    [path] = set((tmp_path / "runs/toy").glob("*.json")) - {split}
    record = Record.read(path)
    config = {"epochs": 3, "seed": 1, "valid_rule": "stay"}
    assert record.config == config and record.hash == fingerprint(identity(config, stay["data"])) == script.unit_hash(
        config, stay["data"]
    )
    assert path.name == f"BPR-1-{record.hash}.json" and not first.exists()
    assert record.test == {"stay": stay["test"], "left_out": out["test"]}
    assert record.users == {"split": "0123456789ab", "k": 20, "stay": stay["users"]["ranks"], "left_out": out["users"]["ranks"]}
    assert (record.valid_rule, record.precision, record.repeated_targets) == ("stay", "float32", 0)
    same = (
        "dataset",
        "name",
        "seed",
        "data",
        "valid",
        "seconds",
        "peak_memory_mb",
        "epochs",
        "valid_history",
        "versions",
        "commit",
        "hardware",
    )
    assert {key: getattr(record, key) for key in same} == {key: stay[key] for key in same} and record.command == "recbole-r3vae benchmark"
    assert json.loads(split.read_text()) == {"schema": 2, "dataset": "toy", "users": 40}
    assert leaderboard(tmp_path / "runs/toy")["rows"][0]["rule"] == "left_out"
    before = {path: path.read_bytes() for path in (tmp_path / "runs").rglob("*.json")}
    script.main([str(tmp_path)])
    assert {path: path.read_bytes() for path in (tmp_path / "runs").rglob("*.json")} == before, "a second time changes nothing"
    assert "one rule only" not in capsys.readouterr().out


def test_a_grid_of_the_other_rule_selected_epochs_by_it(script):
    record = script.migrated(old(masked=True))
    assert record.valid_rule == record.config["valid_rule"] == "left_out" and record.test["stay"] is record.users["stay"] is None
    assert record.test["left_out"] and record.repeated_targets is None


def test_a_record_with_one_rule_is_named(script, tmp_path):
    write(tmp_path, old())
    [told] = script.migrate(tmp_path)
    assert told.endswith("has one rule only") and len(list((tmp_path / "runs/toy").glob("BPR-1-*.json"))) == 1


@pytest.mark.parametrize("change", [
    {"seconds": {"tokenizer": None, "training": 99.0, "evaluation": 1.0, "per_user_ms": 0.1}}, {"hash": "another"},
        {"data": {"toy.inter": "b0b"}},
    {"users": {**old(masked=True)["users"], "split": "another"}}, {"users": {**old(masked=True)["users"], "k": 10}},
        {"mask_history": False},
    {"users": None}, {"seed": 2},
])  # fmt: skip
def test_what_is_not_of_one_checkpoint_is_not_merged(script, change):
    with pytest.raises(ValueError, match="no test of the same checkpoint"):
        script.migrated(old(), {**old(masked=True), **change})


def test_what_cannot_be_migrated_stays(script, tmp_path):
    lying = copy.deepcopy(old("Liar"))
    lying["test"]["ndcg@10"] += 0.1
    torn = old("Torn")
    del torn["mask_history"]
    paths = [write(tmp_path, record) for record in (lying, torn)]
    before = [path.read_bytes() for path in paths]
    told = script.migrate(tmp_path)
    assert [path.read_bytes() for path in paths] == before and all("stays as it is" in line for line in told) and len(told) == 2
    assert "it records" in told[0] and "mask_history" in told[1]


def test_a_record_that_is_there_is_not_overwritten(script, tmp_path):
    write(tmp_path, old())
    script.migrate(tmp_path)
    [made] = (tmp_path / "runs/toy").glob("*.json")
    before = made.read_bytes()
    again = write(tmp_path, old(epochs=7))
    [told] = script.migrate(tmp_path)
    assert again.exists() and made.read_bytes() == before and f"{made.name} is there" in told


def test_a_failed_unit_stays_a_failed_unit(script, tmp_path):
    keys = ("schema", "dataset", "name", "model", "tokenizer", "family", "seed", "hash", "config", "data", "max_minutes", "mask_history")
    write(tmp_path, {**{key: value for key, value in old().items() if key in keys}, "error": "out of memory"})
    assert script.migrate(tmp_path) == []
    [failed] = leaderboard(tmp_path / "runs/toy")["failed"]
    assert failed["error"] == "out of memory"


def test_files_without_a_schema_are_passed_over(script, tmp_path):
    path = tmp_path / "runs/toy/before.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"name": "R3GR"}')
    assert script.migrate(tmp_path) == [] and path.read_text() == '{"name": "R3GR"}'


def test_a_record_takes_the_place_of_its_unit(script, tiny_data, tmp_path):
    """Keys that came after the record have their defaults in the unit; a unit that sets one differently is another."""
    grid = tmp_path / "grid.yaml"
    grid.write_text("datasets: [tiny]\nseeds: [1]\nmodels: {BPR: {settings: {learning_rate: 0.01}}}\n")
    [unit] = script.units_of(script.load_grid(grid), {"data_path": str(tiny_data)})
    earlier = {key: value for key, value in unit.config.items() if key != "embedding_size"}
    record = Record(dataset="tiny", name="BPR", model="BPR", seed=1, hash="before", config=earlier, data=unit.data)
    place = tmp_path / "runs" / "tiny"
    record.write(place / "BPR-1-before.json")
    assert script.adopt(tmp_path, [grid], {"data_path": str(tiny_data)}) == [f"BPR-1-before.json is BPR-1-{unit.hash}.json of grid.yaml"]
    assert Record.read(place / f"BPR-1-{unit.hash}.json").config == unit.config and not (place / "BPR-1-before.json").exists()
    for changed in ({"learning_rate": 0.02}, {"data": None}, {"later": {"embedding_size": 7}}):
        other = dataclasses.replace(record, data={"tiny.inter": "other"}) if "data" in changed else record
        config = {**unit.config, **changed.get("later", {})}
        mine = dataclasses.replace(other, config={**earlier, **{k: v for k, v in changed.items() if k == "learning_rate"}})
        assert script.adopted(mine, dataclasses.replace(unit, config=config)) is None
