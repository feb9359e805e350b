"""RecBole's habits: a queue, a trial's function, several processes, a checkpoint by its keyword; and settings that are numpy's."""

from __future__ import annotations

import json
import queue
import socket
from pathlib import Path

import numpy as np
import pytest
import torch

from recbole_r3vae.errors import UserError
from recbole_r3vae.quick_start import launch, load_data_and_model, objective_function, run_recbole_r3vae
from recbole_r3vae.quick_start.launch import run
from recbole_r3vae.quick_start.lookup import get_trainer


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def measured_again(result) -> dict[str, float]:
    config, model, _, _, _, test_data = load_data_and_model(model_file=Path(result["run_dir"]) / "best.pth")
    found = get_trainer(config)(config, model).evaluate(test_data, load_best_model=False)
    return {key: float(value) for key, value in found.items()}


def test_a_queue_gets_what_the_run_returns(tiny_settings):
    results = queue.SimpleQueue()
    result = run_recbole_r3vae("BPR", "tiny", config_dict={**tiny_settings, "epochs": 1}, queue=results)
    assert results.get() is result and measured_again(result) == {key: float(value) for key, value in result["test_result"].items()}


def test_a_trial_returns_what_recboles_search_reads(tiny_settings):
    settings = {**tiny_settings, "epochs": 1, "model": "SASRec", "dataset": "tiny", "loss_type": "CE"}
    for key in ("codebook_sizes", "tokenizer_epochs", "num_beams", "valid_num_beams", "warmup_steps"):
        del settings[key]
    found = objective_function(settings)
    assert set(found) == {"model", "best_valid_score", "valid_score_bigger", "best_valid_result", "test_result"}
    assert found["model"] == "SASRec" and found["best_valid_score"] == found["best_valid_result"]["ndcg@10"]
    assert objective_function(settings, saved=False)["best_valid_score"] == found["best_valid_score"]


def test_one_process_is_this_one(monkeypatch):
    seen = []
    monkeypatch.setattr(launch, "run_recbole_r3vae", lambda *given, arguments: seen.append((given, list(arguments))) or {"name": "x"})
    assert run("SASRec", "tiny", config_dict={"epochs": 1}, saved=False, arguments=["--epochs=2"]) == {"name": "x"}
    assert seen == [(("SASRec", "tiny", [], {"epochs": 1}, False), ["--epochs=2"])]


@pytest.mark.parametrize("model", ["R3GR", "SASRec"])
def test_two_processes_measure_what_one_does(tiny_settings, port, model):
    """``nproc`` with gloo: the metrics of both processes are those of one process on the same checkpoint."""
    more = {"tokenizer": "RKMeans", "tokenizer_epochs": 0} if model == "R3GR" else {"loss_type": "CE"}
    settings = {**tiny_settings, **more, "epochs": 1, "eval_batch_size": 7}
    result = run(model, "tiny", config_dict=settings, nproc=2, port=port)
    [folder] = (Path(settings["checkpoint_dir"]) / "tiny").glob(f"{model}-*/run.json")  # both write into one
    assert folder.parent == Path(result["run_dir"])
    assert {key: float(value) for key, value in result["test_result"].items()} == pytest.approx(measured_again(result), abs=1e-6)
    alone = run_recbole_r3vae(model, "tiny", config_dict=settings)  # another number of processes adds in another order
    assert alone["run_dir"] != result["run_dir"] and alone["users"]["split"] == result["users"]["split"]


def put_much(number: int, queue) -> None:
    if number == 0:
        queue.put("x" * 2**20)


def test_a_result_beyond_what_a_pipe_holds_arrives():
    """The ranks of tens of thousands of users are more than the 64 KiB that wait in a pipe."""
    results = torch.multiprocessing.get_context("spawn").SimpleQueue()
    workers = torch.multiprocessing.spawn(put_much, args=(results,), nprocs=2, join=False)
    assert launch._result(workers, results) == "x" * 2**20
    workers = torch.multiprocessing.spawn(put_much, args=(results,), nprocs=0, join=False)
    assert launch._result(workers, results) is None


@pytest.mark.parametrize("given, expected", [
    ({"nproc": 0}, "nproc is 0; give a whole number from 1"), ({"nproc": "2"}, "nproc is '2'"),
    ({"nproc": 2, "world_size": 1}, "world_size is 1; give a whole number from 2"),
    ({"group_offset": -1}, "group_offset is -1"),
])  # fmt: skip
def test_a_number_of_processes_that_is_none(given, expected):
    with pytest.raises(UserError, match=expected):
        run("BPR", "tiny", **given)


@pytest.mark.parametrize("model, given", [
    ("R3GR", {
        "learning_rate": np.float64(0.01), "n_layers": np.int64(1), "seed": np.int32(7), "topk": (np.int64(5), 10),
        "dropout": torch.tensor(0.1),
        "codebook_sizes": np.array([8, 8]), "eval_args": {"split": {"LS": np.str_("valid_and_test")}, "mode": "full"},
        "num_beams": torch.tensor(12),
        "valid_num_beams": 12.0, "tokenizer": np.str_("RKMeans"), "item_text_fields": ("movie_title", "class"),
        "metrics": {"NDCG", "Recall"},
    }),
    ("SASRec", {"n_layers": np.int8(1), "hidden_dropout_prob": np.float16(0.5), "loss_type": np.str_("CE"), "epochs": 1.0}),
    ("BPR", {
        "learning_rate": torch.tensor(0.01, dtype=torch.float64), "topk": np.array([10]), "train_neg_sample_args": {"sample_num": np.int64(2)},
    }),
])  # fmt: skip
def test_a_run_with_numpys_and_torchs_settings_reads_its_own_checkpoint(tiny_settings, model, given):
    places = {key: Path(tiny_settings[key]) for key in ("data_path", "checkpoint_dir", "content_cache_dir")}
    result = run_recbole_r3vae(model, "tiny", config_dict={**tiny_settings, **places, "epochs": 1, "tokenizer_epochs": 0, **given})
    assert measured_again(result) == {key: float(value) for key, value in result["test_result"].items()}
    config = load_data_and_model(model_file=result["run_dir"])[0]
    if model == "BPR":
        assert config["train_neg_sample_args"]["sample_num"] == 2 and config["train_neg_sample_args"]["distribution"] == "uniform"
    plain = json.loads(json.dumps(config.declared))
    assert plain == config.declared
    again = run_recbole_r3vae(model, "tiny", config_dict={**plain, "resume": True})
    assert again["run_dir"] == result["run_dir"]
