"""A grid from its file to its result files: what is wrong is said before anything runs, nothing runs twice, a kill changes nothing."""

from __future__ import annotations

import json
import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from recbole.trainer import Trainer

from recbole_r3vae.cli import main
from recbole_r3vae.config import fingerprint, identity
from recbole_r3vae.config.sources import properties
from recbole_r3vae.data.split import pack
from recbole_r3vae.errors import UserError
from recbole_r3vae.experiments.grid import run as module
from recbole_r3vae.experiments.grid.file import load_grid
from recbole_r3vae.experiments.grid.progress import time_left
from recbole_r3vae.experiments.grid.run import run_unit
from recbole_r3vae.experiments.grid.units import units_of
from recbole_r3vae.io import locked
from recbole_r3vae.record import RULES, Record, user_metric

SETTINGS = {
    "load_col": {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "movie_title", "class"]},
    "item_text_fields": ["movie_title", "class"], "content_dim": 32, "MAX_ITEM_LIST_LENGTH": 10, "epochs": 2, "eval_step": 1,
}  # fmt: skip
SMALL = {
    "hidden_size": 16, "inner_size": 32, "n_heads": 2, "valid_num_beams": 20, "num_beams": 30, "tokenizer_codebook_sizes": [8, 8, 8],
}  # fmt: skip
MODELS = {
    "R3GR": {"tokenizers": ["RKMeans"], "settings": SMALL},
    "SASRec": {"settings": {"loss_type": "CE", "hidden_size": 8}},
    "BPR": {"settings": {"epochs": 3}},
}
COSTS = {"seconds", "peak_memory_mb"}


def write(path, models, **more) -> str:
    values = {"datasets": ["tiny"], "seeds": [2020], "settings": SETTINGS, "models": models, **more}
    Path(path).write_text(yaml.safe_dump({key: value for key, value in values.items() if value is not None}, sort_keys=False))
    return str(path)


def in_this_process(function, calls, workers=1, threads=None):
    """In place of new processes, which take seconds to start."""
    for place, arguments in enumerate(calls):
        try:
            yield place, function(*arguments), None
        except UserError as error:
            yield place, None, str(error)


def benchmark(data, config, *words) -> int:
    return main(["benchmark", f"--config={config}", f"--data_path={data}", "--device=cpu", *words])


def results(folder=".") -> dict[str, dict]:
    files = Path(folder).glob("results/runs/tiny/*.json")
    return {path.name: json.loads(path.read_text()) for path in files if not path.name.startswith("split-")}


def without_costs(record) -> dict:
    history = [(epoch, score) for epoch, _, score in record["valid_history"] or []]
    return {**{key: value for key, value in record.items() if key not in COSTS}, "valid_history": history}


@pytest.fixture(scope="module")
def finished(tiny_data, tmp_path_factory):
    """A folder in which a grid of a generator, a sequential and a general model ran."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        patched.setattr(module, "in_own_processes", in_this_process)
        assert benchmark(tiny_data, write("grid.yaml", MODELS)) == 0
    return folder


@pytest.fixture
def here(monkeypatch):
    monkeypatch.setattr(module, "in_own_processes", in_this_process)


# -- what a file stands for ------------------------------------------------------------------------------------------------------


def units(path, data, **more):
    return units_of(load_grid(path, **more), {"data_path": str(data), "device": "cpu"})


def test_levels_win_from_the_inside(tiny_data, tmp_path):
    models = {
        "R3GR": {
            "seeds": [1, 2],
            "max_minutes": 3,
            "settings": {"learning_rate": 0.5, "dropout": 0.1},
            "tokenizers": {"RKMeans": {"seeds": [2], "settings": {"dropout": 0.2, "tokenizer_kmeans_iterations": 7}}, "RQVAE": None},
        },
        "Pop": None,
    }
    settings = {**SETTINGS, "dropout": 0.9, "tokenizer_epochs": 9}
    path = write(tmp_path / "grid.yaml", models, settings=settings, seeds=[2, 3], max_minutes=5)
    found = units(path, tiny_data)
    assert [str(unit) for unit in found] == [
        "tiny R3GR[RKMeans] seed 2", "tiny R3GR[RQVAE] seed 2", "tiny Pop seed 2", "tiny R3GR[RQVAE] seed 1", "tiny Pop seed 3",
    ]  # fmt: skip
    by_name = {unit.name: unit for unit in found}
    kmeans, rqvae, pop = (by_name[name] for name in ("R3GR[RKMeans]", "R3GR[RQVAE]", "Pop"))
    assert (kmeans.config["dropout"], rqvae.config["dropout"], kmeans.config["learning_rate"]) == (0.2, 0.1, 0.5)
    assert (kmeans.max_minutes, pop.max_minutes) == (3, 5) and pop.config["max_minutes"] == 5
    assert kmeans.config["tokenizer_kmeans_iterations"] == 7 and rqvae.config["tokenizer_epochs"] == 9
    assert "tokenizer_epochs" not in kmeans.settings and "dropout" not in pop.settings  # neither has it
    assert (kmeans.family, pop.family) == ("generative", "general") and kmeans.config["valid_rule"] == "left_out"
    assert {unit.max_minutes for unit in units(path, tiny_data, max_minutes=0.5)} == {0.5}


def test_what_files_of_content_hold_is_part_of_a_unit(tiny_data, tmp_path):
    """Those that ``content_encoder`` names itself, and a sentence encoder in a folder, too."""
    vectors, ids, weights = (tmp_path / name for name in ("v.npy", "v.ids", "encoder/model.bin"))
    weights.parent.mkdir()
    encoder = {"text": f"sentence-transformers/{weights.parent}", "image": {"encoder": "file", "file": str(vectors)}}
    path = write(tmp_path / "grid.yaml", {"R3GR": {"tokenizers": ["RKMeans"], "settings": {**SMALL, "content_encoder": encoder}}, "Pop": None})
    hashes = []
    for number, name, content in ((0, "1", b"a"), (1, "1", b"a"), (1, "2", b"a"), (1, "2", b"b"), (1, "2", b"b")):
        np.save(vectors, np.full((1, 2), number + 1, "f"))
        ids.write_text(f"{name}\n")
        weights.write_bytes(content)
        hashes.append([unit.hash for unit in units(path, tiny_data)])
    of_codes, of_ids = zip(*hashes)
    assert len(set(of_codes[:4])) == 4 and of_codes[3] == of_codes[4] and len(set(of_ids)) == 1


def test_a_model_and_a_tokenizer_stand_more_than_once_under_names_of_their_own(tiny_data, tmp_path):
    variants = {"RKMeans": None, "without rounds": {"tokenizer": "RKMeans", "settings": {"tokenizer_kmeans_iterations": 1}}}
    losses = {"SASRec": None, "SASRec with BPR": {"model": "SASRec", "settings": {"loss_type": "BPR"}}}
    found = units(write(tmp_path / "grid.yaml", {"R3GR": {"tokenizers": variants, "settings": SMALL}, **losses}), tiny_data)
    assert [unit.name for unit in found] == ["R3GR[RKMeans]", "R3GR[RKMeans]", "SASRec", "SASRec"]
    assert [unit.config["tokenizer_kmeans_iterations"] for unit in found[:2]] == [25, 1]
    assert [unit.config["loss_type"] for unit in found[2:]] == ["CE", "BPR"]
    assert [unit.label for unit in found] == [None, "without rounds", None, "SASRec with BPR"]
    assert len({unit.file(tmp_path) for unit in found}) == 4


def test_the_split_is_the_grids(tiny_data, tmp_path):
    """Leave-one-out is what it was without the key; another split makes other units, and every row has it."""
    models = {"R3GR": {"tokenizers": ["RKMeans"], "settings": SMALL}, "Pop": None}
    plain, same, by_time = (
        units(write(tmp_path / "grid.yaml", models, split=split), tiny_data) for split in (None, {"LS": "valid_and_test"}, {"GTS": [0.7, 0.9]})
    )
    assert [unit.hash for unit in plain] == [unit.hash for unit in same]
    assert not {unit.hash for unit in plain} & {unit.hash for unit in by_time}
    whole = {"split": {"GTS": [0.7, 0.9]}, "group_by": "user", "order": "TO", "mode": "full"}
    assert [unit.config["eval_args"] for unit in by_time] == [whole] * 2
    assert all("tokenizer_eval_args" not in unit.config for unit in by_time)
    for split, message in (({"RS": [8, 1, 1]}, "a grid asks each user for one item"), ({"GTS": [9, 1]}, "of GTS write two shares"), ("LS", "LS")):
        with pytest.raises(UserError, match=message):
            load_grid(write(tmp_path / "grid.yaml", models, split=split))


def test_keys_of_other_models_of_the_grid_are_no_unknown_ones(tiny_data, tmp_path, caplog):
    models = {"TIGER": {"tokenizers": ["RKMeans"], "settings": SMALL}, "Pop": None}
    tiger, pop = units(write(tmp_path / "grid.yaml", models, settings={**SETTINGS, "head_size": 8}), tiny_data)
    assert tiger.config["head_size"] == 8 and "head_size" not in pop.config and "unknown keys" not in caplog.text


def test_ties_are_the_grids(tiny_data, tmp_path):
    models = {"R3GR": {"tokenizers": ["RKMeans"], "settings": SMALL}, "Pop": None}
    plain, drawn, again = (units(write(tmp_path / "grid.yaml", models, ties=ties), tiny_data) for ties in (None, 0, 1))
    assert len({unit.hash for unit in (*plain, *drawn, *again)}) == 6
    whole = {"split": {"LS": "valid_and_test"}, "ties": 0, "group_by": "user", "order": "TO", "mode": "full"}
    assert [unit.config["eval_args"] for unit in drawn] == [whole] * 2
    for ties in (-1, "file", True, 0.5):
        with pytest.raises(UserError, match="ties in grid .* give a seed, a whole number from 0, or leave it out"):
            load_grid(write(tmp_path / "grid.yaml", models, ties=ties))


def test_models_may_share_their_tokenizers_by_an_anchor(tiny_data, tmp_path):
    path = tmp_path / "grid.yaml"
    path.write_text(
        "datasets: [tiny]\nseeds: [2020]\nmodels:\n"
        "  wide: {model: R3GR, settings: {hidden_size: 32}, tokenizers: &same {RKMeans: , Random: {seeds: [7]}}}\n"
        "  narrow: {model: R3GR, settings: {hidden_size: 16}, tokenizers: *same}\n"
    )
    found = [(unit.label, unit.tokenizer, unit.config["hidden_size"], unit.seed) for unit in units(path, tiny_data)]
    assert sorted(found) == sorted((n, t, w, s) for n, w in (("wide", 32), ("narrow", 16)) for t, s in (("RKMeans", 2020), ("Random", 7)))


def test_the_hash_follows_what_decides_the_result_and_nothing_else(tiny_data, tmp_path):
    def hash_of(model="R3GR", given=None, data=tiny_data, **more):
        models = {model: {"settings": given or {}, **({"tokenizers": ["RKMeans"]} if model == "R3GR" else {})}}
        [unit] = units(write(tmp_path / "grid.yaml", models, **more), data)
        assert unit.hash == fingerprint(identity(unit.config, unit.data))
        return unit.hash

    first = hash_of()
    assert hash_of() == first and hash_of(tuning_trials=4) == first and hash_of(given={"show_progress": True}) == first
    others = [
        hash_of(given=given)
        for given in (
            {"epochs": 3}, {"num_beams": 40}, {"tokenizer_kmeans_iterations": 3}, {"content_dim": 16}, {"stopping_step": 1},
            {"eval_batch_size": 7},
        )  # fmt: skip
    ]
    others += [hash_of(seeds=[1]), hash_of(max_minutes=1), hash_of(valid_rule="stay"), hash_of("Pop")]
    copy = tmp_path / "copy" / "tiny"
    copy.mkdir(parents=True)
    for name in ("tiny.inter", "tiny.item"):
        (copy / name).write_bytes((tiny_data / "tiny" / name).read_bytes())
    assert hash_of(data=copy.parent) == first  # wherever the same data lies, and whenever it was written
    with open(copy / "tiny.inter", "a", encoding="utf-8") as file:
        file.write((copy / "tiny.inter").read_text(encoding="utf-8").splitlines()[-1] + "\n")
    others.append(hash_of(data=copy.parent))
    assert len({first, *others}) == 1 + len(others)


def test_the_hash_follows_the_item_ids_beside_item_vectors(tiny_data, tmp_path):
    np.save(tmp_path / "v.npy", np.ones((2, 4), "float32"))
    given = {"content_encoder": "file", "content_file": str(tmp_path / "v.npy")}

    def hash_of(ids: str) -> str:
        (tmp_path / "v.ids").write_text(ids)
        [unit] = units(write(tmp_path / "grid.yaml", {"R3GR": {"tokenizers": ["RKMeans"], "settings": given}}), tiny_data)
        return unit.hash

    assert hash_of("1\n2\n") != hash_of("2\n1\n")


@pytest.mark.parametrize("change, expected", [
    ({"models": None}, ["models", "None"]),
    ({"models": {"R3GRR": None}}, ["no model 'R3GRR'", "'R3GR'"]),
    ({"models": {"R3GR": {"tokenizers": ["RKMean"]}}}, ["no tokenizer 'RKMean'", "'RKMeans'"]),
    ({"models": {"R3GR": {"tokenizers": "all"}}}, ["tokenizers of model R3GR", "'all'", "give a list"]),
    ({"models": {"R3GR": {"tokenizer": ["RKMeans"]}}}, ["unknown key tokenizer of model R3GR", "'tokenizers'"]),
    ({"models": {"RKMeans": None}}, ["RKMeans is a tokenizer", "tokenizers: [RKMeans]"]),
    ({"models": {"SASRec": {"tokenizers": ["RKMeans"]}}}, ["SASRec reads no semantic IDs"]),
    ({"models": {"DeepFM": None}}, ["DeepFM predicts clicks"]),
    ({"models": {"SASRec": ["loss_type"]}}, ["model SASRec", "give keys"]),
    ({"models": {"SASRec": {"learning_rate": 0.1}}}, ["unknown key learning_rate of model SASRec", "settings:"]),
    ({"models": {"SASRec": {"settings": {"los_type": "CE"}}}}, ["unknown key los_type in the settings of model SASRec", "'loss_type'"]),
    ({"models": {"R3GR": None, "SASRec": {"settings": {"dropout": 0.1}}}}, ["unknown key dropout", "model SASRec"]),
    ({"models": {"R3GR": {"settings": {"num_beams": 7}}}}, ["num_beams=7 is below"]),
    ({"models": {"R3GR": {"settings": {"encoder": "lstm"}}}}, ["lstm"]),
    ({"models": {"R3GR": {"tokenizers": {"with more": {"tokenizer": ["RKMeans"]}}}}}, ["tokenizer of tokenizer with more", "give a name"]),
    ({"models": {"again": {"model": "Pop"}, "Pop": None}}, ["Pop seed 2020 twice", "leave one of them out"]),
    ({"models": {"R3GR": {"tokenizers": {"RKMeans": {"tokenizer_epochs": 5}}}}}, ["unknown key tokenizer_epochs", "under `settings:`"]),
    ({"models": {"R3GR": {"settings": {"n_heads": 3}}}}, ["n_heads is 3 and hidden_size"]),
    ({"models": {"R3GR": {"settings": {"hidden_size": 0}}}}, ["hidden_size is 0"]),
    ({"models": {"Pop": None}, "setings": {}}, ["unknown key setings of grid", "'settings'"]),
    ({"models": {"Pop": None}, "settings": {"dropout": 0.1}}, ["unknown key dropout in the settings of grid"]),
    ({"models": {"Pop": None}, "settings": {"seed": 3}}, ["seed stands in the settings", "as `seeds:`"]),
    ({"models": {"SASRec": {"settings": {"init_from": "x"}}}}, ["init_from stands in the settings of model SASRec", "the weights of their seed"]),
    ({"models": {"Pop": None}, "settings": {"topk": [3]}}, ["topk stands in the settings", "compare"]),
    ({"models": {"Pop": None}, "settings": {"benchmark_filename": ["a", "b", "c"]}}, ["benchmark_filename stands in the settings", "compare"]),
    ({"models": {"Pop": None}, "seeds": [2020, "2021"]}, ["seeds", "'2021'", "whole numbers"]),
    ({"models": {"Pop": None}, "seeds": [1, 1]}, ["seeds", "once"]),
    ({"models": {"Pop": None}, "seeds": [-1]}, ["seeds", "from 0"]),
    ({"models": {"Pop": None}, "seeds": None}, ["no seeds for model Pop"]),
    ({"models": {"Pop": None}, "datasets": ["tinny"]}, ["dataset 'tinny'", "'tiny'"]),
    ({"models": {"Pop": None}, "datasets": "tiny"}, ["datasets", "list of names"]),
    ({"models": {"Pop": None}, "max_minutes": "10"}, ["max_minutes", "'10'", "above 0"]),
    ({"models": {"Pop": None}, "valid_rule": "left out"}, ["valid_rule", "'left out'", "choose left_out or stay"]),
    ({"models": {"Pop": None}, "mask_history": False}, ["mask_history of grid", "no key any more", "valid_rule: stay"]),
    ({"models": {"Pop": None}, "settings": {"valid_rule": "stay"}}, ["valid_rule stands in the settings", "as `valid_rule:`"]),
    ({"models": {"Pop": None}, "tuning_trials": -1}, ["tuning_trials", "-1"]),
])  # fmt: skip
def test_mistakes_in_the_file_run_nothing(tiny_data, tmp_path, capfd, monkeypatch, change, expected):
    monkeypatch.setattr(module, "in_own_processes", lambda *args: pytest.fail("ran"))
    values = {"settings": {}, **change}
    assert benchmark(tiny_data, write(tmp_path / "grid.yaml", values.pop("models"), **values)) == 2
    [line] = [line for line in capfd.readouterr().err.splitlines() if line.startswith("recbole-r3vae: ")]
    for text in expected:
        assert text in line
    assert not Path("results").exists()


@pytest.mark.parametrize("words, expected", [
    (["--config=grid.yaml", "--dataset=tiny"], ["--dataset does not go with --config"]),
    (["--config=grid.yaml", "--tokenizers=RKMeans"], ["--tokenizers does not go with --config"]),
    (["--config=absent.yaml"], ["absent.yaml"]),
    (["--config=grid.yaml", "--epochs=3"], ["unknown option --epochs", "grid.yaml"]),
    (["--config=grid.yaml", "--workers=0"], ["--workers is 0"]),
    (["--config=grid.yaml", "--max_minutes=-1"], ["--max_minutes is -1"]),
    (["--config=grid.yaml", "--device=gpu"], ["device 'gpu'"]),
    ([], ["--config=", "--dataset="]),
])  # fmt: skip
def test_mistakes_in_the_command_run_nothing(tiny_data, capfd, monkeypatch, words, expected):
    monkeypatch.setattr(module, "in_own_processes", lambda *args: pytest.fail("ran"))
    write("grid.yaml", {"Pop": None})
    assert main(["benchmark", *words, f"--data_path={tiny_data}"]) == 2
    [line] = [line for line in capfd.readouterr().err.splitlines() if line.startswith("recbole-r3vae: ")]
    for text in expected:
        assert text in line


def test_a_folder_that_cannot_be_made_runs_nothing(tiny_data, capfd, monkeypatch):
    """A log file called ``log``, say, where RecBole wants a folder of that name."""
    monkeypatch.setattr(module, "in_own_processes", lambda *_: pytest.fail("ran"))
    Path("log").write_text("of another run")
    assert benchmark(tiny_data, write("grid.yaml", MODELS)) == 2
    assert "/log/" in (shown := capfd.readouterr().err) and "Not a directory; run in a folder you may write to" in shown
    assert not Path("results").exists()


def test_an_output_that_cannot_be_written_runs_nothing(tiny_data, capfd, monkeypatch):
    monkeypatch.setattr(module, "in_own_processes", lambda *_: pytest.fail("ran"))
    Path("taken").write_text("a file")
    assert benchmark(tiny_data, write("grid.yaml", {"Pop": None}), "--output=taken") == 2
    assert "taken/runs/tiny: Not a directory; run in a folder you may write to" in capfd.readouterr().err


@pytest.mark.parametrize("name", ["lastfm", "lastfm_r3vae", "ml-100k", "amazon-beauty", "amazon-toys"])
def test_provided_grids_are_sound(name, tmp_path):
    """All but the dataset, which has to be prepared first: here it is an empty file."""
    dataset = name.partition("_")[0]
    (tmp_path / dataset).mkdir()
    (tmp_path / dataset / f"{dataset}.inter").touch()
    found = units_of(load_grid(properties() / "benchmark" / f"{name}.yaml"), {"data_path": str(tmp_path), "device": "cpu"})
    assert len({unit.hash for unit in found}) == len(found) > 2 and all(unit.max_minutes for unit in found)


# -- records ---------------------------------------------------------------------------------------------------------------------


def measured(unit, **more) -> Record:
    """The record that a run of a unit's settings may leave, under a name and hash of its own."""
    ranks = {rule: np.random.default_rng(seed).integers(0, 21, 30).astype(np.uint8) for seed, rule in enumerate(RULES)}
    users = {"split": "0123456789ab", "k": 20, **{rule: pack(found) for rule, found in ranks.items()}}
    values = {
        "dataset": unit.dataset, "name": unit.name, "model": unit.model, "seed": unit.seed, "hash": "of the run", "config": {"seed": 1},
        "data": {"as loaded": "f00"}, "valid_rule": "left_out", "precision": "bfloat16", "valid": {"ndcg@10": 0.5}, "users": users,
        "test": {rule: {"ndcg@10": round(user_metric(found, "ndcg@10").mean(), 6)} for rule, found in ranks.items()}, "epochs": 2,
        "seconds": {"tokenizer": None, "training": 2.0, "evaluation": 1.0, "per_user_ms": 0.1},
        "hardware": {"machine": "x86", "threads": 1, "device": "cpu"},
        "split": {"split": "0123456789ab", "users": 30, "popularity": pack(np.ones(30, np.int32)), "history": pack(np.ones(30, np.int32))},
    }  # fmt: skip
    return Record(**{**values, **more})


@pytest.fixture
def stubbed(monkeypatch, here, tiny_data):
    """A grid of BPR and Pop whose runs train nothing and leave records; returns its units."""
    path = write("grid.yaml", {"BPR": None, "Pop": None}, tuning_trials=3)
    found = {unit.folder: unit for unit in units(path, tiny_data)}

    def run(model, dataset, config_dict):
        run_dir = Path(config_dict["run_dir"])
        folder, device, threads = run_dir.name.rsplit("-", 2)
        assert (device, threads) == ("cpu", str(torch.get_num_threads()))  # of another number, other last digits
        measured(found[folder]).write(run_dir / "result.json")

    monkeypatch.setattr(module, "run_recbole_r3vae", run)
    return list(found.values())


def test_a_runs_record_is_completed_by_its_unit(stubbed, tiny_data, capsys):
    assert benchmark(tiny_data, "grid.yaml") == 0
    for unit in stubbed:
        record, own = Record.read(unit.file(Path("results/runs"))), measured(unit)
        assert {key: getattr(record, key) for key in unit.identity()} == unit.identity() and record.hash == unit.hash != own.hash
        assert (record.tuning_trials, record.valid_rule, record.config) == (3, "left_out", unit.config)
        assert (record.test, record.users, record.seconds, record.precision) == (own.test, own.users, own.seconds, "bfloat16")
        assert record.command.startswith("recbole-r3vae benchmark --config=grid.yaml") and record.split is None
        assert record.hardware == own.hardware, "one unit at a time is no condition"
    split = json.loads(Path("results/runs/tiny/split-0123456789ab.json").read_text())
    assert split == {"schema": 2, "dataset": "tiny", **own.split}
    shown = capsys.readouterr().out
    assert f"test ndcg@10 {own.test['left_out']['ndcg@10']:.4f} (met items left out), 3 s" in shown
    report = json.loads(Path("results/leaderboard_tiny.json").read_text())
    assert [row["name"] for row in report["rows"]] == ["BPR", "Pop"] and report["rule"] == "left_out"


def test_a_finished_record_is_kept_and_a_damaged_one_made_anew(stubbed, tiny_data, monkeypatch):
    assert benchmark(tiny_data, "grid.yaml") == 0
    before = results()
    damaged = next(iter(before))
    (Path("results/runs/tiny") / damaged).write_text(json.dumps({**before[damaged], "users": {**before[damaged]["users"], "stay": "7"}}))
    ran = []
    run_of = module.run_unit
    monkeypatch.setattr(module, "run_unit", lambda unit, where: ran.append(unit.name) or run_of(unit, where))
    assert benchmark(tiny_data, "grid.yaml") == 0
    assert ran == [before[damaged]["name"]] and results() == before


def test_a_run_that_left_no_record_is_a_failed_unit(stubbed, tiny_data, monkeypatch):
    def in_this_process_with_all_errors(function, calls, workers=1, threads=None):
        for place, arguments in enumerate(calls):
            try:
                yield place, function(*arguments), None
            except Exception as error:
                yield place, None, str(error)

    monkeypatch.setattr(module, "in_own_processes", in_this_process_with_all_errors)
    monkeypatch.setattr(module, "run_recbole_r3vae", lambda *args, **keys: None)
    assert benchmark(tiny_data, "grid.yaml") == 1
    for unit in stubbed:
        record = Record.read(unit.file(Path("results/runs")))
        assert "unreadable record" in record.error and record.test == dict.fromkeys(RULES) and record.hash == unit.hash


# -- running ---------------------------------------------------------------------------------------------------------------------


def test_result_files_hold_what_was_measured(finished):
    found = {record["name"]: record for record in results(finished).values()}
    assert set(found) == {"R3GR[RKMeans]", "SASRec", "BPR"}
    for name, record in found.items():
        assert record["error"] is None and record["schema"] == 2 and record["valid_rule"] == "left_out" and record["split"] is None
        [split] = [json.loads(path.read_text()) for path in finished.glob("results/runs/tiny/split-*.json")]
        for rule in RULES:
            assert set(record["valid"]) == set(record["test"][rule]) == {
                f"{metric}@{k}" for metric in ("recall", "ndcg", "mrr", "itemcoverage", "giniindex") for k in (5, 10, 20)
            }  # fmt: skip
            ranks = Record.of(record).ranks(rule)
            for metric, value in record["test"][rule].items():
                if metric.startswith(("recall", "ndcg", "mrr")):
                    assert round(float(user_metric(ranks, metric).mean()), 6) == value
            assert record["users"]["split"] == split["split"] and split["users"] == len(ranks) == 60
        assert record["seconds"]["training"] > 0 and record["seconds"]["per_user_ms"] > 0 and record["peak_memory_mb"]["process"] > 50
        assert record["epochs"] == record["config"]["epochs"] == len(record["valid_history"]) == (3 if name == "BPR" else 2)
        assert {"machine", "threads", "device"} <= set(record["hardware"]) and "torch" in record["versions"] and "commit" in record
    generator, sasrec = found["R3GR[RKMeans]"], found["SASRec"]
    assert (generator["family"], generator["tokenizer"], generator["collision_policy"]) == ("generative", "RKMeans", "suffix")
    assert generator["content"]["fields"] == ["movie_title", "class"] and generator["text_encoder"] == "tfidf-svd"
    assert 0 < generator["quality"]["unique_ratio"] <= 1 and generator["seconds"]["tokenizer"] >= 0
    assert (sasrec["family"], sasrec["loss"], sasrec["quality"], sasrec["collision_policy"]) == ("sequential", "CE", None, None)
    assert sasrec["config"]["hidden_size"] == 8 != generator["config"]["hidden_size"]
    assert (finished / "results" / "leaderboard.html").is_file()


def test_a_second_time_nothing_runs(finished, tiny_data, monkeypatch, capsys):
    monkeypatch.chdir(finished)
    monkeypatch.setattr(module, "run_unit", lambda *args: pytest.fail("ran again"))
    monkeypatch.setattr(module, "in_own_processes", in_this_process)
    before = results()
    assert benchmark(tiny_data, "grid.yaml") == 0
    assert results() == before and "3 units, 3 finished before" in capsys.readouterr().out


def test_a_split_that_was_deleted_is_written_again(finished, tiny_data, monkeypatch, tmp_path):
    shutil.copytree(finished, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    monkeypatch.setattr(module, "in_own_processes", in_this_process)
    monkeypatch.setattr(Trainer, "_train_epoch", lambda *args, **keys: pytest.fail("trained again"))
    [split] = Path("results/runs/tiny").glob("split-*.json")
    before = split.read_bytes()
    split.unlink()
    assert benchmark(tiny_data, write("grid.yaml", MODELS)) == 0
    assert split.read_bytes() == before


def test_tuning_trials_that_are_stated_later_reach_what_is_finished(finished, tiny_data, monkeypatch, tmp_path):
    shutil.copytree(finished, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    monkeypatch.setattr(module, "run_unit", lambda *args: pytest.fail("ran again"))
    monkeypatch.setattr(module, "in_own_processes", in_this_process)
    before = results()
    assert benchmark(tiny_data, write("grid.yaml", MODELS, tuning_trials=7)) == 0
    assert results() == {name: {**record, "tuning_trials": 7} for name, record in before.items()}


def test_a_name_that_a_row_gets_later_reaches_what_is_finished(finished, tiny_data, monkeypatch, tmp_path):
    shutil.copytree(finished, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    monkeypatch.setattr(module, "run_unit", lambda *args: pytest.fail("ran again"))
    monkeypatch.setattr(module, "in_own_processes", in_this_process)
    before = results()
    named = {f"our {name}": {"model": name, **(own or {})} for name, own in MODELS.items()}
    assert benchmark(tiny_data, write("grid.yaml", named)) == 0
    assert results() == {name: {**record, "label": f"our {record['model']}"} for name, record in before.items()}


def test_a_trained_unit_without_its_result_is_tested_again(finished, tiny_data, monkeypatch, tmp_path):
    shutil.copytree(finished, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    monkeypatch.setattr(module, "in_own_processes", in_this_process)
    monkeypatch.setattr(Trainer, "_train_epoch", lambda *args, **keys: pytest.fail("trained again"))
    before = results()
    for name in before:
        (Path("results/runs/tiny") / name).unlink()
    assert benchmark(tiny_data, "grid.yaml") == 0
    assert {name: without_costs(record) for name, record in results().items()} == {
        name: without_costs(record) for name, record in before.items()
    }


def test_a_failure_does_not_cover_what_another_benchmark_finished(finished, tiny_data, monkeypatch, tmp_path, capsys):
    shutil.copytree(finished, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    before, hidden = results(), {}
    for name in before:
        hidden[name] = (Path("results/runs/tiny") / name).read_text()
        (Path("results/runs/tiny") / name).unlink()

    def finished_elsewhere(unit, where):
        for name, text in hidden.items():
            (Path("results/runs/tiny") / name).write_text(text)
        raise UserError("out of luck")

    monkeypatch.setattr(module, "run_unit", finished_elsewhere)
    monkeypatch.setattr(module, "in_own_processes", in_this_process)
    assert benchmark(tiny_data, "grid.yaml") == 0 and results() == before


def test_a_unit_that_another_benchmark_trains_is_waited_for(tiny_data, tmp_path, monkeypatch):
    [unit] = units(write(tmp_path / "grid.yaml", {"Pop": None}), tiny_data)
    where = {"data_path": str(tiny_data), "device": "cpu", "checkpoint_dir": str(tmp_path / "saved")}
    begun = threading.Event()
    run = module.run_recbole_r3vae
    monkeypatch.setattr(module, "run_recbole_r3vae", lambda *args, **keys: begun.set() or run(*args, **keys))
    other = threading.Thread(target=run_unit, args=(unit, where))
    with locked(tmp_path / "saved" / "tiny" / f"{unit.folder}-cpu-{torch.get_num_threads()}.lock", "checkpoint_dir"):
        other.start()
        assert not begun.wait(1)
    other.join(timeout=60)
    assert begun.is_set() and not other.is_alive()


@pytest.mark.parametrize("model", ["R3GR", "SASRec", "BPR"])
def test_killed_in_an_epoch_it_goes_on_to_the_same_result(finished, here, tiny_data, monkeypatch, capfd, model):
    train_epoch, epochs = Trainer._train_epoch, []

    def train_and_die(self, data, epoch_idx, *args, **keywords):
        loss = train_epoch(self, data, epoch_idx, *args, **keywords)
        if self.config["model"] == model:
            epochs.append(epoch_idx)
            if len(epochs) == 2:
                raise KeyboardInterrupt
        return loss

    monkeypatch.setattr(Trainer, "_train_epoch", train_and_die)
    config = write("grid.yaml", {model: MODELS[model]})
    assert benchmark(tiny_data, config) == 130 and not results()
    assert "same command" in capfd.readouterr().err
    assert benchmark(tiny_data, config) == 0
    assert epochs[:3] == [0, 1, 1]  # the second epoch once more, the first not
    [(name, record)] = results().items()
    assert without_costs(record) == without_costs(results(finished)[name])


def test_a_failed_unit_is_recorded_shown_and_tried_again(here, tiny_data, monkeypatch, capsys):
    models = {"R3GR": {"tokenizers": {"OPQ": {"settings": {**SMALL, "tokenizer_codebook_sizes": [512, 512]}}}}, "Pop": None}
    config = write("grid.yaml", models)
    ran = []
    monkeypatch.setattr(module, "run_unit", lambda unit, where: ran.append(unit.name) or run_unit(unit, where))
    assert benchmark(tiny_data, config) == 1
    [failed] = [record for record in results().values() if record["error"]]
    assert (
        failed["name"] == "R3GR[OPQ]"
        and "512" in failed["error"]
        and failed["test"] == dict.fromkeys(RULES)
        and failed["config"]["seed"] == 2020
    )
    shown = capsys.readouterr().out
    assert "[2/2, 1 failed] tiny Pop" in shown and f"failed: tiny R3GR[OPQ] seed 2020: {failed['error']}" in shown
    assert benchmark(tiny_data, config) == 1 and ran == ["R3GR[OPQ]", "Pop", "R3GR[OPQ]"]
    assert len(results()) == 2


def test_units_run_in_processes_of_their_own(tiny_data, monkeypatch):
    for name in module.THREAD_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(module, "_cores", lambda: 4)
    assert benchmark(tiny_data, write("grid.yaml", {"Pop": None}), "--workers=2") == 0
    [record] = results().values()
    assert (record["hardware"]["threads"], record["hardware"]["workers"]) == (2, 2)  # of four cores
    assert record["n_parameters"] == 0, "RecBole's placeholder is none"
    assert not any(name in os.environ for name in module.THREAD_VARIABLES)


def test_a_tokenizer_that_its_budget_stopped_is_told(here, tiny_data):
    stopped = {"tokenizers": ["RQVAE"], "settings": {**SMALL, "epochs": 1, "tokenizer_max_minutes": 1e-4, "tokenizer_epochs": 1000}}
    assert benchmark(tiny_data, write("grid.yaml", {"R3GR": stopped})) == 0
    [record] = results().values()
    assert record["stopped_at_budget"] and record["epochs"] == 1 and "workers" not in record["hardware"]


def test_time_left_is_that_of_units_of_the_same_name(tiny_data, tmp_path):
    found = units(write(tmp_path / "grid.yaml", {"SASRec": None, "BPR": None, "Pop": None}, seeds=[1, 2]), tiny_data)
    seconds = {"tokenizer": None, "training": 90.0, "evaluation": 10.0, "per_user_ms": 1.0}
    known = {
        ("SASRec", 1): {"seconds": seconds},
        ("BPR", 1): {"seconds": {**seconds, "training": 10.0}},
        ("Pop", 1): {"error": "failed"},
    }
    records = [Record(**unit.identity(), **known[unit.name, unit.seed]) if unit.seed == 1 else None for unit in found]
    assert time_left(found, records) == 100 + 20 + 60
    assert time_left(found, [None] * 6) == 0


def test_results_of_other_settings_are_named(finished, tiny_data, monkeypatch, tmp_path, capsys):
    shutil.copytree(finished, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    monkeypatch.setattr(module, "in_own_processes", in_this_process)
    [bpr] = Path("results/runs/tiny").glob("BPR-*.json")
    Path("results/runs/tiny/before.json").write_text("{}")  # of before the benchmark: on no leaderboard
    without = {name: own for name, own in MODELS.items() if name != "BPR"}
    assert benchmark(tiny_data, write("grid.yaml", without)) == 0
    assert f"of earlier settings (1 files; delete what is out of date):\n  {bpr}\n" in capsys.readouterr().out
    assert benchmark(tiny_data, write("grid.yaml", MODELS)) == 0
    assert "earlier settings" not in capsys.readouterr().out


def test_a_whole_budget_is_one_budget(tiny_data, tmp_path):
    hashes = set()
    for minutes, given in ((10, None), (10.0, None), (3, 10.0), (None, 10)):
        [unit] = units_of(
            load_grid(write(tmp_path / "grid.yaml", {"Pop": None}, max_minutes=minutes), given), {"data_path": str(tiny_data)}
        )
        hashes.add(unit.hash)
        assert unit.max_minutes == 10 and type(unit.max_minutes) is int
    assert len(hashes) == 1


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 1}', '{"error": null}', '{"schema": 2, "error": null, "name": "x"}'])
def test_a_damaged_result_file_is_made_anew(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    assert module._finished(tmp_path / "a.json") is None
