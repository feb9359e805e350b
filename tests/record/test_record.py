"""The record of a run: what is written is read again, what is damaged or contradicts itself is refused with a reason."""

from __future__ import annotations

import base64
import dataclasses
import json
import re
import math
import typing
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from recbole_r3vae.data.split import HeldOut, pack
from recbole_r3vae.record import RULES, SCHEMA, Record, quality_of, unpack, user_metric
from recbole_r3vae.record.ranks import beam_levels

N_USERS = 50
METRICS = ("recall@5", "recall@20", "ndcg@10", "mrr@10")


def ranks_of(seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    return (random.integers(1, 21, N_USERS) * (random.random(N_USERS) < 0.6)).astype(np.uint8)


def record(**more) -> Record:
    ranks = {"left_out": ranks_of(1), "stay": ranks_of(2)}
    values = {
        "dataset": "toy", "name": "R3GR[R3VAE]", "model": "R3GR", "tokenizer": "R3VAE", "family": "generative", "seed": 7, "hash": "abc",
        "config": {"epochs": 3, "topk": [5, 20]}, "data": {"toy.inter": "f00"}, "max_minutes": 2.5, "tuning_trials": 0,
        "valid_rule": "stay", "collision_policy": "suffix", "content": {"kind": "tfidf-svd"}, "text_encoder": "tfidf-svd", "loss": "CE", "n_parameters": 12,
        "valid": {"ndcg@10": 0.5}, "test": {rule: {m: round(user_metric(ranks[rule], m).mean(), 6) for m in METRICS} for rule in RULES},
        "users": {"split": "s", "k": 20, **{rule: pack(ranks[rule]) for rule in RULES}}, "repeated_targets": 0,
        "quality": {"sc_raw": 0.8, "pd_raw": None}, "seconds": {"tokenizer": 1.0, "training": 2, "evaluation": 0.5, "per_user_ms": None},
        "peak_memory_mb": {"process": 10.0, "gpu": None}, "epochs": 3, "valid_history": [[1, 0.5, 0.1], [2, 1.0, None]],
        "versions": {"torch": "2"}, "commit": "abc1234", "hardware": {"machine": "x86", "threads": 1, "device": "cpu"},
    }  # fmt: skip
    return Record(**{**values, **more})


def plain(**changes) -> dict:
    return {**json.loads(record().to_json()), **changes}


# -- ranks -----------------------------------------------------------------------------------------------------------------------


def test_users_metrics_are_those_of_their_definition():
    ranks = np.array([1, 3, 10, 11, 20, 0])
    assert user_metric(ranks, "recall@10").tolist() == [1, 1, 1, 0, 0, 0]
    assert user_metric(ranks, "mrr@20") == pytest.approx([1, 1 / 3, 1 / 10, 1 / 11, 1 / 20, 0])
    assert user_metric(ranks, "ndcg@5") == pytest.approx([1, 1 / 2, 0, 0, 0, 0])


def test_levels_of_the_beam_by_hand():
    first, second, third = beam_levels(np.array([[1, 4, 2], [3, 0, 0], [2, 2, 0], [0, 0, 0]]))
    assert first == {"in_beam": 0.75, "first": 0.25, "rank": 2.0, "crp": None}
    assert second == {"in_beam": 0.5, "first": 0.0, "rank": 3.0, "crp": 1.5}  # ranks 1 to 4 and 2 to 2
    assert third == {"in_beam": 0.25, "first": 0.0, "rank": 2.0, "crp": -2.0}
    assert beam_levels(np.zeros((3, 2), dtype=int))[1] == {"in_beam": 0.0, "first": 0.0, "rank": None, "crp": None}


@pytest.mark.parametrize("seed", range(5))
def test_levels_of_the_beam_by_loops(seed):
    random = np.random.default_rng(seed)
    ranks = random.integers(1, 9, (40, 4)) * (np.arange(4) < random.integers(0, 5, 40)[:, None])  # each leaves the beam at some level
    for level, found in enumerate(beam_levels(ranks)):
        there = [row for row in ranks.tolist() if row[level]]
        changes = [row[level] - row[level - 1] for row in there] if level else []
        assert found["in_beam"] == pytest.approx(len(there) / 40) and found["first"] == pytest.approx(sum(r[level] == 1 for r in there) / 40)
        assert found["rank"] == pytest.approx(sum(row[level] for row in there) / len(there))
        assert found["crp"] == (pytest.approx(sum(changes) / len(changes)) if changes else None)


@pytest.mark.parametrize("seed", range(5))
def test_users_metrics_against_brute_force(seed):
    ranks = ranks_of(seed)
    for k in (1, 5, 20):
        hits = [0 < int(rank) <= k for rank in ranks]
        assert user_metric(ranks, f"recall@{k}").tolist() == hits
        assert user_metric(ranks, f"ndcg@{k}") == pytest.approx([1 / math.log2(int(r) + 1) if hit else 0 for r, hit in zip(ranks, hits)])
        assert user_metric(ranks, f"mrr@{k}") == pytest.approx([1 / int(r) if hit else 0 for r, hit in zip(ranks, hits)])


@pytest.mark.parametrize("dtype", ["uint8", "int32"])
def test_unpack_inverts_packing(dtype):
    values = np.random.default_rng(1).integers(0, 200, 77).astype(dtype)
    assert unpack(pack(values), dtype).tolist() == values.tolist()


@pytest.mark.parametrize("text", ["", "no base64!", base64.b64encode(b"no zlib").decode()])
def test_unpack_refuses_other_texts(text):
    with pytest.raises(ValueError, match="not base64 of zlib"):
        unpack(text, "uint8")


# -- there and back ----------------------------------------------------------------------------------------------------------------


def test_what_is_written_is_read_again(tmp_path):
    one = record()
    one.write(tmp_path / "run" / "result.json")
    assert Record.read(tmp_path / "run" / "result.json") == one
    text = (tmp_path / "run" / "result.json").read_text(encoding="utf-8")
    assert text == one.to_json() and json.loads(text)["schema"] == SCHEMA
    assert one.ranks("left_out").tolist() == ranks_of(1).tolist() and one.ranks("stay").tolist() == ranks_of(2).tolist()


def test_every_attribute_is_typed_and_explained():
    kinds = typing.get_type_hints(Record)
    attributes = Record.__doc__.partition("Attributes:")[2]
    for entry in dataclasses.fields(Record):
        assert entry.name in kinds and f"\n        {entry.name}: " in attributes, entry.name


def test_what_is_no_number_is_none(tmp_path):
    one = record(quality={"sc_raw": math.nan, "pd_raw": np.float64(0.5)}, valid={"ndcg@10": math.inf}, n_parameters=np.int64(3))
    one.write(tmp_path / "a.json")
    found = Record.read(tmp_path / "a.json")
    assert (found.quality, found.valid, found.n_parameters) == ({"sc_raw": None, "pd_raw": 0.5}, {"ndcg@10": None}, 3)


def test_a_failed_unit_needs_no_figures(tmp_path):
    identity = {"dataset": "toy", "name": "BPR", "model": "BPR", "seed": 1, "hash": "abc", "config": {}, "data": {}}
    Record(**identity, error="out of memory").write(tmp_path / "a.json")
    found = Record.read(tmp_path / "a.json")
    assert found.error == "out of memory" and found.test == {"left_out": None, "stay": None} and found.ranks("stay") is None


def test_a_rule_may_be_missing():
    users = {**record().users, "left_out": None}
    found = Record.of(plain(test={**record().test, "left_out": None}, users=users))
    assert found.ranks("left_out") is None and len(found.ranks("stay")) == N_USERS


# -- what is refused ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key, value, place", [
    ("test", "high", "test"), ("test", {"stay": None}, "test.left_out"),
        ("test", {"stay": None, "left_out": None, "other": None}, "test.other"),
    ("test", {"left_out": {"ndcg@10": "high"}, "stay": None}, "test.left_out.ndcg@10"), ("config", [], "config"),
        ("seconds", [1], "seconds"),
    ("seconds", {"tokenizer": 1, "training": "2", "evaluation": 1, "per_user_ms": 1}, "seconds.training"), ("hardware", "fast", "hardware"),
    ("hardware", {"threads": [1]}, "hardware.threads"), ("versions", [2], "versions"), ("versions", {"torch": 2}, "versions.torch"),
    ("name", ["A"], "name"), ("max_minutes", "ten", "max_minutes"), ("valid", {"ndcg@10": "high"}, "valid.ndcg@10"),
    ("users", {"split": "s", "k": None, "left_out": "", "stay": ""}, "users.k"),
        ("users", {"split": "s", "k": 20, "stay": ""}, "users.left_out"),
    ("users", {"split": "s", "k": 20, "left_out": 7, "stay": None}, "users.left_out"), ("quality", {"sc_raw": "high"}, "quality.sc_raw"),
    ("epochs", "3", "epochs"), ("epochs", True, "epochs"), ("seed", "1", "seed"), ("seed", 1.5, "seed"), ("commit", 7, "commit"),
    ("data", [], "data"), ("data", {"toy.inter": 7}, "data.toy.inter"), ("stopped_at_budget", None, "stopped_at_budget"),
    ("stopped_at_budget", 1, "stopped_at_budget"), ("valid_rule", "all", "valid_rule"), ("precision", "float16", "precision"),
    ("valid_history", [[1, 2, "x"]], "valid_history.0.2"), ("valid_history", [1], "valid_history.0"), ("labelled", 3, "labelled"),
])  # fmt: skip
def test_a_value_of_the_wrong_kind_is_named(key, value, place):
    with pytest.raises(ValueError, match=rf"in which {place} is absent or of another kind; delete it and run again"):
        Record.of(plain(**{key: value}))


@pytest.mark.parametrize("key", ["dataset", "name", "model", "seed", "hash", "config", "data"])
def test_what_every_record_needs_is_named(key):
    values = plain()
    del values[key]
    with pytest.raises(ValueError, match=f"without {key}; delete"):
        Record.of(values)


@pytest.mark.parametrize("values, told", [
    ([], "no record of a run"), ({}, "no record of a run"),
        ({"schema": 1}, "schema 1, this version reads 2; migrate it by benchmarks/migrate"),
    ({"schema": 3}, "schema 3, this version reads 2; delete it"), ({"schema": None}, "schema None"),
])  # fmt: skip
def test_other_data_is_no_record(values, told):
    with pytest.raises(ValueError, match=told):
        Record.of(values)


def test_an_unknown_key_is_refused():
    with pytest.raises(ValueError, match="record with mask_history, which schema 2 has not"):
        Record.of(plain(mask_history=False))


@pytest.mark.parametrize("text", ["", "{", '{"schema": 2, "na', '{"schema": 2, "seed": NaN}', None])
def test_a_file_that_cannot_be_read(tmp_path, text):
    if text is not None:
        (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match="unreadable record: .*; delete it"):
        Record.read(tmp_path / "a.json")


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("metric", METRICS)
def test_ranks_must_give_the_recorded_metrics(rule, metric):
    values = plain()
    values["test"][rule][metric] += 0.00009
    assert Record.of(values)
    values["test"][rule][metric] += 0.001
    with pytest.raises(ValueError, match=rf"ranks give {metric} 0\.\d+ \({rule}\), it records"):
        Record.of(values)


def test_coarser_rounding_is_no_contradiction():
    values = plain(config={"metric_decimal_place": 2})
    values["test"] = {rule: {metric: round(value, 2) for metric, value in part.items()} for rule, part in values["test"].items()}
    assert Record.of(values)
    values["test"]["stay"]["recall@5"] += 0.01
    with pytest.raises(ValueError, match="it records"):
        Record.of(values)


def test_metrics_beyond_the_ranks_are_not_compared():
    values = plain()
    values["test"]["stay"]["recall@50"] = 1.0
    assert Record.of(values)


@pytest.mark.parametrize("part", ["test", "users"])
def test_figures_and_ranks_of_a_rule_come_together(part):
    values = plain()
    values[part]["left_out"] = None
    with pytest.raises(ValueError, match="only one of test.left_out and users.left_out"):
        Record.of(values)


def test_both_rules_are_of_the_same_users():
    values = plain()
    values["users"]["stay"] = pack(ranks_of(2)[:-1])
    with pytest.raises(ValueError, match="ranks of 50 and 49 users"):
        Record.of(values)


# -- what a run builds ---------------------------------------------------------------------------------------------------------------


CONFIG = {
    "dataset": "toy", "model": "R3GR", "seed": 7, "max_minutes": None, "valid_rule": "left_out",
    "topk": [5, 20], "metrics": ["NDCG", "Precision"],
}  # fmt: skip
MADE = {"config": {"seed": 7}, "versions": {"torch": "2"}, "commit": "now", "hardware": {"machine": "x86", "threads": 1, "device": "cpu"}}
TOKENIZER = {
    "name": "R3VAE", "seconds": 3.0, "stopped_at_budget": True, "peak_memory_mb": {"process": 5.0}, "content": {"kind": "tfidf-svd"},
    "quality": {
        "unique_ratio": 0.9, "collision_rate": 0.1, "reconstruction": {"mse": 0.2},
        "levels": [
            {"usage": 1.0, "spaces": {"raw": {"sc": 0.5, "pd": None}}}, {"usage": 0.75, "spaces": {"raw": {"sc": 0.7, "pd": None}}},
        ],
    },
}  # fmt: skip


ORDER = np.random.default_rng(0).permutation(N_USERS)
FIGURES = np.arange(N_USERS, dtype=np.int32)
HELD_OUT = HeldOut(ORDER, FIGURES, FIGURES, "0123456789ab", np.arange(N_USERS) % 2 == 0)
RANKS = {rule: ranks_of(seed).astype(np.int64) for seed, rule in enumerate(RULES)}
TRAINER = SimpleNamespace(
    seconds=lambda: 2.00049, finished_epochs=3, stopped_at_budget=False, commit="then, now",
    valid_history=[{"epoch": 1, "seconds": 1.5, "score": np.float64(0.25)}],
)  # fmt: skip


def of_run(config=CONFIG, trainer=TRAINER, tokenizer=TOKENIZER, held_out=HELD_OUT, ranks=RANKS, **more) -> Record:
    test = {rule: {metric: np.float64(round(user_metric(RANKS[rule], metric).mean(), 6)) for metric in METRICS} for rule in RULES}
    costs = {"seconds_testing": 0.5, "peak_memory_mb": {"process": 9.0, "gpu": None}}
    what = {"name": "R3GR[R3VAE]", "hash": "abc", "data": {"toy.inter": "f00"}, "test": test, "loss": "CE", "n_parameters": 12}
    return Record.of_run(config, MADE, trainer, tokenizer, held_out, ranks, **{**costs, **what, **more})


def test_the_record_of_a_run(tmp_path):
    what = {"precision": "bfloat16", "collision_policy": "suffix"}
    found = of_run(**what, content={"kind": "file"})  # of which the model reads a part, the tokenizer all
    found.write(tmp_path / "result.json")
    assert Record.read(tmp_path / "result.json") == found
    assert found.seconds == {"tokenizer": 3.0, "training": 2.0, "evaluation": 0.5, "per_user_ms": 10.0}
    assert found.stopped_at_budget and found.commit == "then, now" and found.valid_history == [[1, 1.5, 0.25]]
    assert (found.tokenizer, found.collision_policy, found.text_encoder) == ("R3VAE", "suffix", "tfidf-svd")
    assert (found.valid_rule, found.precision, found.users["k"], found.users["split"]) == ("left_out", "bfloat16", 20, "0123456789ab")
    assert found.split["users"] == N_USERS and found.peak_memory_mb == {"tokenizer": 5.0, "process": 9.0, "gpu": None}
    assert found.ranks("stay").tolist() == RANKS["stay"][ORDER].tolist()


def test_the_record_of_a_run_without_tokenizer_and_of_a_trainer_of_recboles(tmp_path):
    found = of_run(CONFIG, SimpleNamespace(), None, None, None)
    found.write(tmp_path / "result.json")
    assert Record.read(tmp_path / "result.json") == found
    assert found.tokenizer is found.content is found.quality is found.collision_policy is found.users is found.split is found.epochs is None
    assert found.precision == "float32" and found.commit == "now" and found.seconds["training"] is None and not found.stopped_at_budget


def test_vectors_that_a_model_reads_are_told_without_a_tokenizer():
    found = of_run(tokenizer=None, content={"kind": "file", "name": "v.npy"})
    assert found.content == {"kind": "file", "name": "v.npy"} and found.text_encoder == "file" and found.tokenizer is None


def test_ranks_that_a_byte_cannot_hold_are_not_kept():
    assert of_run({**CONFIG, "topk": [300]}).users is None


def test_the_record_of_a_click_model(tmp_path):
    config = {**CONFIG, "model": "DeepFM", "valid_rule": None, "topk": None}
    labelled = {"labels": "rating", "metrics": {"auc": 0.7}}
    found = of_run(config, TRAINER, None, None, None, test={"left_out": None, "stay": None}, labelled=labelled, name="DeepFM")
    found.write(tmp_path / "result.json")
    assert Record.read(tmp_path / "result.json").labelled["metrics"] == {"auc": 0.7}


def test_quality_is_that_of_the_table():
    assert quality_of(TOKENIZER["quality"]) == {
        "unique_ratio": 0.9, "collision_rate": 0.1, "sc_raw": pytest.approx(0.6), "pd_raw": None,
        "lowest_usage": 0.75, "reconstruction": 0.2,
    }  # fmt: skip


# -- the records of this repository ------------------------------------------------------------------------------------------------


def test_the_committed_records_are_sound():
    folder = Path(__file__).parents[2] / "results"
    paths = [path for path in folder.rglob("runs/*/*.json") if not path.name.startswith("split-")]
    records = [Record.read(path) for path in paths if "schema" in json.loads(path.read_text(encoding="utf-8"))]
    assert len(records) > 80 and all(one.error is None and one.test[one.valid_rule] for one in records)
    old = [one for one in records if one.precision == "float32" and not re.search(r"acerec|windows|glass|contrast|-ids\.yaml|-time\.yaml", one.command or "")]
    assert len(old) > 80 and {one.valid_rule for one in old} == {"stay"}, "those of 0.1, by the migration"
