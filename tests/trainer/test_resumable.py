"""Killed anywhere and resumed, a run ends with the same bits."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from recbole.trainer import Trainer

from recbole_r3vae.quick_start import load_data_and_model, run_recbole_r3vae
from recbole_r3vae.record import Record
from recbole_r3vae.trainer import resumable
from recbole_r3vae.trainer.checkpoint_file import load_checkpoint


class Killed(BaseException):
    """Passes every ``except Exception``, as a signal would."""


def run(settings, model="R3GR", **more):
    return run_recbole_r3vae(model, "tiny", config_dict={**settings, **more})


def path_of_run(path, model) -> bool:
    """Whether a checkpoint is the model's own rather than its tokenizer's."""
    return os.path.basename(os.path.dirname(path)).startswith(model)


def state_of(result, name="best.pth"):
    return load_checkpoint(f"{result['run_dir']}/{name}")


COSTS = {"seconds", "seconds_with_scoring", "peak_memory_mb", "config", "commit", "commits"}
"""What differs between equal runs: times, memory, in the configuration the `resume` key, and the commit where one is made meanwhile."""


def assert_same(a, b, aside=COSTS):
    assert type(a) is type(b)
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a.keys() - aside:
            assert_same(a[key], b[key], aside)
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for x, y in zip(a, b):
            assert_same(x, y, aside)
    else:
        assert a == b


VARIED = {"crop_probability": 0.5, "shuffle_ties": "timestamp"}


@pytest.mark.parametrize("model", ["R3GR", "SASRec", "BPR"])
@pytest.mark.parametrize("moment", ["in epoch 1", "in epoch 3", "before the first checkpoint", "while saving best", "while saving last"])
def test_killed_and_resumed_is_bit_identical(tiny_settings, tmp_path, monkeypatch, model, moment):
    settings = {**tiny_settings, "epochs": 5, "stopping_step": 2, "learning_rate": 0.01, **(VARIED if model == "R3GR" else {})}
    whole = run(settings, model, checkpoint_dir=str(tmp_path / "whole"))
    expected, expected_last = state_of(whole), state_of(whole, "last.pth")

    killed = {**settings, "checkpoint_dir": str(tmp_path / "killed")}
    saved = []
    train_epoch, save = Trainer._train_epoch, resumable.save_checkpoint
    epoch = {"in epoch 1": 1, "in epoch 3": 3, "before the first checkpoint": 0}.get(moment)
    deadly = {"while saving best": "best.pth", "while saving last": "last.pth"}.get(moment)

    def train_and_die(self, data, epoch_idx, *args, **kwargs):
        loss = train_epoch(self, data, epoch_idx, *args, **kwargs)
        if type(self).__name__ != "TokenizerTrainer" and epoch_idx == epoch:
            torch.rand(3), np.random.rand(3), random.random()
            raise Killed
        return loss

    def save_or_die(path, state):
        if path_of_run(path, model) and os.path.basename(path) == deadly:
            saved.append(path)
            if len(saved) == (2 if deadly == "last.pth" else 1):
                raise Killed
        save(path, state)

    monkeypatch.setattr(Trainer, "_train_epoch", train_and_die)
    monkeypatch.setattr(resumable, "save_checkpoint", save_or_die)
    with pytest.raises(Killed):
        run(killed, model)
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    resumed = run(killed, model, resume=True)
    assert_same(state_of(resumed), expected)
    assert_same(state_of(resumed, "last.pth"), expected_last)
    assert resumed["test_result"] == whole["test_result"]
    assert resumed["best_valid_result"] == whole["best_valid_result"]
    assert not list((tmp_path / "killed").rglob("*.tmp"))


def test_resuming_a_finished_run_trains_nothing(tiny_settings, monkeypatch):
    tiny_settings = {**tiny_settings, "metrics": ["Recall", "NDCG", "ItemCoverage", "GiniIndex"]}  # of which two read the training data
    first = run(tiny_settings)
    monkeypatch.setattr(Trainer, "_train_epoch", lambda *a, **k: pytest.fail("trained again"))
    again = run(tiny_settings, resume=True)
    assert again["test_result"] == first["test_result"] and again["best_valid_score"] == first["best_valid_score"]


def test_seconds_are_those_of_training_alone(tiny_settings, monkeypatch):
    evaluate = Trainer.evaluate

    def slowly(self, eval_data, *args, **kwargs):
        time.sleep(0.5)  # in each of three validations, and in the test
        return evaluate(self, eval_data, *args, **kwargs)

    monkeypatch.setattr(Trainer, "evaluate", slowly)
    settings = {**tiny_settings, "epochs": 3, "eval_step": 1}
    result = run(settings, "SASRec", loss_type="CE")
    kept = state_of(result, "last.pth")["seconds"]
    assert Record.read(Path(result["run_dir"], "result.json")).seconds["evaluation"] > 0.5
    assert result["seconds"] == pytest.approx(kept, abs=0.1) and kept > 1.5
    again = run(settings, "SASRec", loss_type="CE", resume=True)
    assert again["seconds"] == pytest.approx(kept, abs=0.1)


def test_a_result_names_every_commit_that_made_it(tiny_settings, monkeypatch):
    """A model that one commit trained and another tested, or trained further, is not the second's alone."""

    def made():
        return Record.read(Path(run(settings, "SASRec", loss_type="CE", resume=True)["run_dir"], "result.json")).commit

    settings = {**tiny_settings, "epochs": 1, "run_dir": f"{tiny_settings['checkpoint_dir']}/sasrec"}
    for expected, commit in (("aaa", "aaa"), ("aaa", "aaa"), ("aaa, bbb", "bbb"), ("aaa", None)):
        monkeypatch.setattr("recbole_r3vae.trainer.resumable.commit", lambda commit=commit: commit)
        assert made() == expected
    monkeypatch.setattr("recbole_r3vae.trainer.resumable.commit", lambda: "ccc")
    settings["epochs"] = 2
    assert made() == made() == "aaa, ccc"


def test_a_finished_run_goes_on_when_given_more_epochs(tiny_settings, tmp_path):
    tiny_settings = {**tiny_settings, "lr_schedule": "constant"}  # cosine stretches over the epochs it is given
    long = run({**tiny_settings, "epochs": 4}, checkpoint_dir=str(tmp_path / "long"))
    short = run({**tiny_settings, "epochs": 2})
    extended = run({**tiny_settings, "epochs": 4}, resume=True)
    assert extended["run_dir"] != short["run_dir"] and extended["continues"] == f"{Path(short['run_dir']).name} after 2 epochs"
    for name in ("best.pth", "last.pth"):
        assert_same(state_of(extended, name), state_of(long, name), COSTS | {"identity"})
    assert extended["test"] == long["test"] and extended["users"] == long["users"]


def test_budget_stops_and_says_so(tiny_settings):
    result = run({**tiny_settings, "epochs": 50, "max_minutes": 0.0})
    assert result["stopped_at_budget"] and "recall@10" in result["test_result"]
    more = run({**tiny_settings, "epochs": 3, "max_minutes": 10}, resume=True)
    assert more["continues"] == f"{Path(result['run_dir']).name} after 0 epochs"
    assert not more["stopped_at_budget"]
    assert state_of(more, "last.pth")["epoch"] == 3


def test_a_run_started_anew_is_not_scored_by_an_earlier_runs_best(tiny_settings, monkeypatch):
    """Stopped before its first validation it has only its untrained weights, though the folder holds a trained model."""
    settings = {**tiny_settings, "max_minutes": 5}
    trained = run(settings)
    assert state_of(trained)["epoch"] >= 0
    monkeypatch.setattr(resumable.Checkpointed, "_budget_used_up", lambda self: True)
    anew = run(settings)
    assert anew["run_dir"] == trained["run_dir"] and anew["stopped_at_budget"]
    assert state_of(anew)["epoch"] == -1


def test_load_data_and_model_gives_back_what_was_tested(tiny_settings):
    result = run(tiny_settings)
    config, model, dataset, _, _, test_data = load_data_and_model(f"{result['run_dir']}/best.pth")
    assert config["model"] == "R3GR" and dataset.dataset_name == "tiny"
    interaction, _, _, positive_i = next(iter(test_data))
    unmet = torch.from_numpy(test_data.seen[interaction["user_id"].numpy()].toarray() == 0)  # [B, n_items]
    assert unmet[torch.arange(len(interaction)), positive_i].all()  # nobody's target is one that he had met
    for rule, allowed in (("stay", None), ("left_out", unmet)):
        items, _ = model.recommend(interaction, 10, allowed=allowed)
        hits = (items == positive_i[:, None]).any(1).float().mean().item()
        assert hits == pytest.approx(result["test"][rule]["recall@10"], abs=1e-6)
    assert result["test_result"] == result["test"]["left_out"]


def test_a_killed_tokenizer_is_taken_up_by_the_next_run(tiny_settings, tmp_path, monkeypatch):
    """Without being asked: it has no name of its own to resume by. The semantic IDs are those of an uninterrupted training."""
    whole = run(tiny_settings, epochs=1, checkpoint_dir=str(tmp_path / "whole"))
    train_epoch, epochs = Trainer._train_epoch, []

    def train_and_die(self, data, epoch_idx, *args, **kwargs):
        epochs.append(epoch_idx)
        loss = train_epoch(self, data, epoch_idx, *args, **kwargs)
        if len(epochs) == 3:
            raise Killed
        return loss

    monkeypatch.setattr(Trainer, "_train_epoch", train_and_die)
    killed = {**tiny_settings, "epochs": 1, "checkpoint_dir": str(tmp_path / "killed")}
    with pytest.raises(Killed):
        run(killed)
    again = run(killed)
    assert epochs == [0, 1, 2, 2, 3, 0]  # the tokenizer's third epoch once more, its fourth, then the generator's only one
    assert open(again["sid_file"], "rb").read() == open(whole["sid_file"], "rb").read()
    assert again["test_result"] == whole["test_result"]
