"""Two processes with gloo: one model on both, resumed to the same bits on each, and measured as one process measures it."""

from __future__ import annotations

import os
import random
import socket
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from recbole.trainer import Trainer

from recbole_r3vae.errors import UserError
from recbole_r3vae.quick_start import load_data_and_model, run_recbole_r3vae
from recbole_r3vae.quick_start.lookup import get_trainer
from recbole_r3vae.quick_start.run_folder import find_checkpoint
from recbole_r3vae.record import Record
from recbole_r3vae.trainer import resumable
from recbole_r3vae.trainer.checkpoint_file import load_checkpoint, random_state, save_checkpoint

N = 2
METRICS = ["Recall", "MRR", "NDCG", "Hit", "Precision", "MAP", "ItemCoverage", "GiniIndex", "AveragePopularity", "ShannonEntropy"]
MODELS = {
    "R3GR": {"tokenizer": "RKMeans", "tokenizer_epochs": 0, "dropout": 0.3}, "BPR": {},
}  # fmt: skip
"""One that drops out units, and one that draws negative items, each process its own."""


class Killed(BaseException):
    """Passes every ``except Exception``, as a signal would."""


def train_kill_and_resume(rank: int, place: dict, jobs: list[tuple[str, dict, dict]]) -> None:
    """What each process does: for every model a run that is left alone, and one that is killed in its second epoch and resumed."""
    os.environ.update(place, LOCAL_RANK=str(rank), RANK=str(rank))
    torch.set_num_threads(1)
    train_epoch = Trainer._train_epoch

    def train_and_die(self, data, epoch_idx, *args, **kwargs):
        loss = train_epoch(self, data, epoch_idx, *args, **kwargs)
        if epoch_idx == 1:
            torch.rand(3 + rank), np.random.rand(3 + rank), random.random()
            raise Killed
        return loss

    for model, whole, killed in jobs:
        run_recbole_r3vae(model, "tiny", config_dict=whole)
        Trainer._train_epoch = train_and_die
        try:
            run_recbole_r3vae(model, "tiny", config_dict=killed)
            raise AssertionError("it was to be killed")
        except Killed:
            pass
        finally:
            Trainer._train_epoch = train_epoch
        torch.rand(rank + 1), np.random.rand(rank + 1)
        run_recbole_r3vae(model, "tiny", config_dict={**killed, "resume": True})
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def runs(tiny_data, tmp_path_factory) -> dict[str, tuple[Path, Path]]:
    """Model to the folders of the run that was left alone and of the one that was resumed."""
    home = tmp_path_factory.mktemp("runs")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        place = {"WORLD_SIZE": str(N), "MASTER_ADDR": "localhost", "MASTER_PORT": str(free.getsockname()[1])}
    settings = {
        "data_path": str(tiny_data), "content_cache_dir": str(home / "cache"), "device": "cpu", "show_progress": False,
        "load_col": {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "movie_title", "class"]}, "epochs": 3, "eval_step": 1,
        "train_batch_size": 256, "eval_batch_size": 7, "learning_rate": 0.01, "metrics": METRICS, "valid_metric": "NDCG@10", "topk": [5, 10],
        "MAX_ITEM_LIST_LENGTH": 10,
    }  # fmt: skip
    of_r3gr = {
        "item_text_fields": ["movie_title", "class"], "content_dim": 32, "codebook_sizes": [8, 8, 8], "hidden_size": 16, "inner_size": 32,
        "n_heads": 2, "warmup_steps": 5, "valid_num_beams": 20, "num_beams": 30,
    }  # fmt: skip
    jobs = []
    for model, more in MODELS.items():
        of_model = {**settings, **(of_r3gr if model == "R3GR" else {}), **more}
        jobs.append((model, *({**of_model, "checkpoint_dir": str(home / name)} for name in ("whole", "killed"))))
    before = os.getcwd()
    os.chdir(home)  # of the processes too, which write log/ there
    try:
        torch.multiprocessing.spawn(train_kill_and_resume, args=(place, jobs), nprocs=N)
    finally:
        os.chdir(before)
    return {model: tuple(next((home / name / "tiny").glob(f"{model}-*/last.pth")).parent for name in ("whole", "killed")) for model in MODELS}


def differing(a, b, where: str = "") -> list[str]:
    """Where two states are not the same bits; what they cost aside."""
    if type(a) is not type(b):
        return [where]
    if isinstance(a, dict):
        keys = (a.keys() | b.keys()) - {"seconds", "seconds_with_scoring", "peak_memory_mb", "config", "commits"}
        return [found for key in keys for found in (differing(a[key], b[key], f"{where}/{key}") if key in a and key in b else [f"{where}/{key}"])]
    if isinstance(a, (list, tuple)):
        return [found for n, (x, y) in enumerate(zip(a, b)) for found in differing(x, y, f"{where}/{n}")] + [where] * (len(a) != len(b))
    return [] if (torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b) else [where]


@pytest.mark.parametrize("model", MODELS)
def test_killed_and_resumed_is_bit_identical_at_every_rank(runs, model):
    whole, resumed = runs[model]
    for name in ("best.pth", "last.pth"):
        a, b = (load_checkpoint(folder / name) for folder in (whole, resumed))
        assert differing(a, b) == []
    assert a["epoch"] == 3 and len(a["random"]) == N  # of every rank, at the end of training
    torch_states = [state["torch"] for state in a["random"]]
    assert not torch.equal(*torch_states) or differing(a["random"][0]["numpy"], a["random"][1]["numpy"])
    assert Record.read(whole / "result.json").test == Record.read(resumed / "result.json").test


@pytest.mark.parametrize("model", MODELS)
def test_two_processes_measure_what_one_does_digit_for_digit(runs, model):
    stored = Record.read(runs[model][0] / "result.json")
    config, network, _, _, valid_data, test_data = load_data_and_model(find_checkpoint(runs[model][0]))
    alone = get_trainer(config)(config, network)
    alone.eval_collector.data_collect(load_data_and_model(find_checkpoint(runs[model][0]))[3])  # popularity is of the training part
    _, valid = alone._valid_epoch(valid_data)
    assert {key: float(value) for key, value in valid.items()} == {key: float(value) for key, value in stored.valid.items()}
    alone.evaluate(test_data, load_best_model=False)
    assert alone.results == stored.test and len(stored.test["stay"]) == 2 * len(METRICS)
    assert (alone.beam_levels or None) == stored.beam_levels and bool(alone.beam_levels) == (model == "R3GR")
    for rule, ranks in alone.ranks.items():
        assert sorted(ranks) == sorted(stored.ranks(rule))


@pytest.fixture
def trainer(runs, tmp_path):
    """Of one process, on a copy of the checkpoint that two wrote."""
    config, network, *_ = load_data_and_model(find_checkpoint(runs["BPR"][0]))
    trainer = get_trainer(config)(config, network)
    trainer.last_file = tmp_path / "last.pth"
    save_checkpoint(trainer.last_file, {key: value for key, value in load_checkpoint(runs["BPR"][0] / "last.pth").items() if key != "schema"})
    return trainer


def test_another_number_of_processes_is_refused(trainer):
    with pytest.raises(UserError, match="last.pth is of 2 processes, this is 1; start as many"):
        trainer.resume()


def test_a_state_of_one_process_is_not_given_to_several(trainer, monkeypatch, caplog):
    """As earlier versions wrote it: all would drop out the same units."""
    monkeypatch.setattr(resumable.torch.distributed, "get_world_size", lambda: 2)
    trainer.config = {"single_spec": False, "local_rank": 1}
    trainer.logger = SimpleNamespace(warning=lambda text: caplog.records.append(text))
    before = torch.get_rng_state()
    trainer._set_random_state(random_state() | {"torch": torch.zeros_like(before)})
    assert torch.equal(torch.get_rng_state(), before) and "not to the same bits" in caplog.records[-1]
