"""The history of a training: what each epoch gave, the same whether or not the training was killed in between."""

from __future__ import annotations

import math

import pytest
import torch
from recbole.trainer import Trainer

from recbole_r3vae.config import Config
from recbole_r3vae.data.content import load_content
from recbole_r3vae.model.tokenizer.base import SemanticTokenizer
from recbole_r3vae.quick_start.lookup import create_dataset
from recbole_r3vae.quick_start.semantic_ids import train_tokenizer
from recbole_r3vae.trainer.checkpoint_file import load_checkpoint
from recbole_r3vae.trainer.tokenizer import TokenizerTrainer, mean_defined


@pytest.fixture
def train(tiny_settings):
    def train(folder):
        settings = {**tiny_settings, "epochs": 7, "eval_step": 2, "train_batch_size": 32, "checkpoint_dir": folder}
        config = Config("R3VAE", "tiny", config_dict=settings)
        return train_tokenizer(config, load_content(create_dataset(config), config), show_progress=False)

    return train


def test_without_validation_the_last_epoch_is_kept(tiny_settings, tmp_path, monkeypatch):
    """Whatever the scores say, of which there are none: LETTER's and CoST's way."""
    seen = []
    train_epoch = TokenizerTrainer._train_epoch

    def watched(self, *args, **keywords):
        loss = train_epoch(self, *args, **keywords)
        seen.append({key: value.clone() for key, value in self.model.state_dict().items()})
        return loss

    monkeypatch.setattr(TokenizerTrainer, "_train_epoch", watched)
    monkeypatch.setattr(TokenizerTrainer, "_valid_epoch", None)
    config = Config("CoST", "tiny", config_dict={**tiny_settings, "epochs": 3, "eval_step": 0, "train_batch_size": 32, "checkpoint_dir": str(tmp_path)})
    tokenizer = train_tokenizer(config, load_content(create_dataset(config), config), show_progress=False)
    assert len(seen) == 3 and any((seen[1][key] != seen[2][key]).any() for key in seen[2])
    assert all(torch.equal(value, seen[2][key]) for key, value in tokenizer.model.state_dict().items())


def test_history_holds_every_epoch_and_every_validation(train, monkeypatch):
    losses, scores = [], []
    train_epoch, valid_epoch = Trainer._train_epoch, Trainer._valid_epoch

    def kept(function, results):
        def call(*args, **keywords):
            results.append(function(*args, **keywords))
            return results[-1]

        return call

    monkeypatch.setattr(Trainer, "_train_epoch", kept(train_epoch, losses))
    monkeypatch.setattr(Trainer, "_valid_epoch", kept(valid_epoch, scores))
    trained = train("saved")
    history = trained.description["history"]
    n_batches = 5  # of 148 items
    assert [entry["epoch"] for entry in history] == [1, 2, 3, 4, 5, 6, 7]
    assert [entry["loss"] for entry in history] == [sum(parts) / n_batches for parts in losses]
    assert [entry.get("valid") for entry in history if entry["epoch"] % 2] == [None] * 4
    assert [entry["valid"] for entry in history if "valid" in entry] == [result for _, result in scores]
    assert set(history[1]["valid"]) == set(SemanticTokenizer.selected_by)
    assert trained.description["epochs"] == 7 and not trained.description["stopped_at_budget"]
    assert trained.description["versions"]["recbole"] and trained.description["hardware"]["device"] == "cpu"


@pytest.mark.parametrize("moment", ["in an epoch", "after a validation"])
def test_history_survives_a_kill(train, monkeypatch, moment):
    train_epoch, save_last = Trainer._train_epoch, TokenizerTrainer._save_last

    def train_and_die(self, data, epoch_idx, *args, **keywords):
        loss = train_epoch(self, data, epoch_idx, *args, **keywords)
        if epoch_idx == 3:
            raise KeyboardInterrupt
        return loss

    def save_and_die(self, epoch, *args, **keywords):
        save_last(self, epoch, *args, **keywords)
        if epoch == 4:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        if moment == "in an epoch":
            patched.setattr(Trainer, "_train_epoch", train_and_die)
        else:
            patched.setattr(TokenizerTrainer, "_save_last", save_and_die)
        with pytest.raises(KeyboardInterrupt):
            train("killed")
    killed, whole = train("killed").description, train("whole").description
    assert killed["history"] == whole["history"] and killed["quality"] == whole["quality"]


def test_memory_before_a_kill_counts(train, monkeypatch, tmp_path):
    with monkeypatch.context() as patched:
        patched.setattr("recbole_r3vae.trainer.tokenizer.peak_memory_mb", lambda *args: 1e6)
        patched.setattr(Trainer, "_train_epoch", lambda *args, **keywords: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train("killed")
    [last] = (tmp_path / "killed").glob("tiny/*/last.pth")
    assert load_checkpoint(last)["peak_memory_mb"] == {"process": 1e6}
    assert train("killed").description["peak_memory_mb"] == {"process": 1e6}


def test_means_pass_over_what_is_not_defined():
    assert mean_defined([1.0, None, 3.0]) == 2.0
    assert math.isnan(mean_defined([None]))
