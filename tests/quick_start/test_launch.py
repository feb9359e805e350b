"""Runs are started as RecBole's users start them: from a search, with a queue, in several processes; users and items are told by id."""

from __future__ import annotations

import queue
import shutil
import socket
from pathlib import Path

import pytest
import torch

from recbole_r3vae.errors import UserError
from recbole_r3vae.quick_start import launch, load_data_and_model, run_recbole_r3vae
from recbole_r3vae.quick_start.launch import objective_function, run
from recbole_r3vae.quick_start.lookup import create_dataset
from recbole_r3vae.record import Record

NEEDED = ("data_path", "checkpoint_dir", "device", "show_progress", "load_col", "MAX_ITEM_LIST_LENGTH", "eval_step")


@pytest.fixture
def settings(tiny_settings) -> dict:
    return {**{key: tiny_settings[key] for key in NEEDED}, "loss_type": "CE", "hidden_size": 16, "inner_size": 16, "epochs": 1}


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("localhost", 0))
        return one.getsockname()[1]


def test_an_objective_returns_what_recboles_search_reads(settings):
    given = {**settings, "model": "SASRec", "dataset": "tiny"}
    found = objective_function(given)
    assert set(found) == {"model", "best_valid_score", "valid_score_bigger", "best_valid_result", "test_result"}
    whole = run_recbole_r3vae(config_dict=given)
    assert found == {"model": "SASRec", **{key: whole[key] for key in found.keys() - {"model"}}}
    assert objective_function(given, saved=False)["best_valid_score"] == found["best_valid_score"]


def test_a_queue_gets_the_result_too(settings):
    results: queue.Queue = queue.Queue()
    found = run_recbole_r3vae("SASRec", "tiny", config_dict=settings, queue=results)
    assert results.get_nowait() == found and results.empty()


def test_one_process_is_this_one(settings, monkeypatch):
    seen = []
    monkeypatch.setattr(launch, "run_recbole_r3vae", lambda *given, arguments: seen.append((given, list(arguments))) or {"name": "x"})
    assert run("SASRec", "tiny", config_dict=settings, saved=False, arguments=["--epochs=2"]) == {"name": "x"}
    assert seen == [(("SASRec", "tiny", [], settings, False), ["--epochs=2"])]


def test_two_processes_are_one_run(settings, monkeypatch):
    """Under a name of its own: another number of processes adds in another order."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    found = run("SASRec", "tiny", config_dict=settings, nproc=2, port=free_port())
    [folder] = (Path(settings["checkpoint_dir"]) / "tiny").glob("SASRec-*")
    assert found["run_dir"] == str(folder) and Record.read(folder / "result.json").test == found["test"]
    alone = run_recbole_r3vae("SASRec", "tiny", config_dict=settings)
    assert alone["run_dir"] != found["run_dir"] and alone["users"]["split"] == found["users"]["split"]


@pytest.mark.parametrize("more, message", [
    ({"nproc": 0}, "nproc is 0; give a whole number from 1"), ({"nproc": "2"}, "nproc is '2'"),
    ({"nproc": 4, "world_size": 2}, "world_size is 2; give a whole number from 4"),
    ({"nproc": 2, "group_offset": -1}, "group_offset is -1"),
])  # fmt: skip
def test_numbers_of_processes_that_are_none_are_refused(more, message, monkeypatch):
    monkeypatch.setattr(launch, "run_recbole_r3vae", lambda *given, **named: pytest.fail("ran"))
    with pytest.raises(UserError, match=message):
        run("SASRec", "tiny", **more)


@pytest.mark.parametrize("model", ["SASRec", "R3GR"])
def test_a_checkpoint_tells_users_and_items_by_id(settings, tiny_settings, tmp_path, caplog, model):
    """The users of the file in another order, each with his interactions in theirs."""
    own = settings if model == "SASRec" else {**tiny_settings, "tokenizer": "RKMeans", "tokenizer_epochs": 0, "epochs": 1}
    folder = run_recbole_r3vae(model, "tiny", config_dict=own)["run_dir"]
    turned = tmp_path / "turned"
    shutil.copytree(Path(own["data_path"]) / "tiny", turned / "tiny")
    head, *lines = (turned / "tiny" / "tiny.inter").read_text().splitlines()
    (turned / "tiny" / "tiny.inter").write_text("\n".join([head, *sorted(lines, key=lambda line: line.split("\t")[0], reverse=True)]) + "\n")
    _, network, dataset, _, _, test = load_data_and_model(folder)
    assert "is not as it was" not in caplog.text
    config, again, other, _, _, other_test = load_data_and_model(folder, {"data_path": str(turned)})
    assert list(create_dataset(config).field2id_token["item_id"]) != list(dataset.field2id_token["item_id"])  # by the file alone
    assert "dataset tiny is not as it was" in caplog.text
    for field in ("user_id", "item_id"):
        assert list(dataset.field2id_token[field]) == list(other.field2id_token[field])
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in network.state_dict().items())
    rows = {}
    for name, model_, loader in (("as it was", network, test), ("turned", again, other_test)):
        batch = next(iter(loader))[0]
        scores = model_.full_sort_predict(batch).view(len(batch), -1)
        rows[name] = {int(user): row for user, row in zip(batch["user_id"], scores)}
    assert rows["as it was"].keys() == rows["turned"].keys()
    for user, row in rows["as it was"].items():
        assert torch.allclose(row, rows["turned"][user], atol=1e-5)


def test_items_that_a_checkpoint_does_not_know_are_refused(settings, tmp_path):
    folder = run_recbole_r3vae("SASRec", "tiny", config_dict=settings)["run_dir"]
    more = tmp_path / "more"
    shutil.copytree(Path(settings["data_path"]) / "tiny", more / "tiny")
    with open(more / "tiny" / "tiny.inter", "a", encoding="utf-8") as file:
        user = (more / "tiny" / "tiny.inter").read_text().splitlines()[1].split("\t")[0]
        width = len((more / "tiny" / "tiny.inter").read_text().splitlines()[0].split("\t"))
        file.write("\t".join([user, "unheard of", *["881250949"] * (width - 2)]) + "\n")
    told = "tiny has 1 of 149 values of item_id that the checkpoint does not know, such as 'unheard of'; take"
    with pytest.raises(UserError, match=told):
        load_data_and_model(folder, {"data_path": str(more), "load_col": {"inter": ["user_id", "item_id", "timestamp"]}})
