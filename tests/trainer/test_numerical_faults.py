"""A loss or weights that are no numbers end the training, and what was saved before stays."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from recbole_r3vae.cli import main
from recbole_r3vae.errors import UserError
from recbole_r3vae.model.generator.r3gr import R3GR
from recbole_r3vae.model.tokenizer.r3vae import R3VAE
from recbole_r3vae.quick_start import run_recbole_r3vae
from recbole_r3vae.trainer.checkpoint_file import load_checkpoint

BAD = {"nan": float("nan"), "inf": float("inf")}


def fail_at(monkeypatch, model, call: int, value: float) -> None:
    calculate_loss, calls = model.calculate_loss, []

    def failing(self, batch):
        calls.append(batch)
        loss = calculate_loss(self, batch)
        return loss if len(calls) != call else torch.full_like(loss if torch.is_tensor(loss) else sum(loss), value)

    monkeypatch.setattr(model, "calculate_loss", failing)


@pytest.mark.parametrize("value", BAD)
def test_a_generators_loss(tiny_settings, monkeypatch, value):
    settings = {**tiny_settings, "tokenizer": "RKMeans", "tokenizer_epochs": 0, "train_batch_size": 64}
    fail_at(monkeypatch, R3GR, 5, BAD[value])
    with pytest.raises(UserError) as caught:
        run_recbole_r3vae("R3GR", "tiny", config_dict=settings)
    message = str(caught.value)
    assert f"the loss is {value} at step 5 (epoch 1, batch 5)" in message
    lines = (Path(tiny_settings["data_path"]) / "tiny" / "tiny.item").read_text(encoding="utf-8").splitlines()
    known = {line.split("\t")[0] for line in lines[1:]}
    named = re.findall(r"'(\w+)'", message.split("whose items are ")[1].split(";")[0])
    assert len(named) == 20 and set(named) <= known
    [kept] = [path for path in re.findall(r"\S+last\.pth", message)]
    assert all(torch.isfinite(weight).all() for weight in load_checkpoint(kept)["model"].values() if weight.is_floating_point())


def test_a_tokenizers_loss(tiny_settings, monkeypatch, capfd):
    fail_at(monkeypatch, R3VAE, 2, BAD["nan"])
    words = [f"--{key}={tiny_settings[key]}" for key in ("data_path", "checkpoint_dir", "content_cache_dir", "device", "content_dim")]
    words += ["--load_col={inter: [user_id, item_id, timestamp], item: [item_id, movie_title]}", "--item_text_fields=[movie_title]"]
    assert main(["run", "--model=R3VAE", "--dataset=tiny", "--codebook_sizes=[8,8]", "--epochs=3", "--show_progress=False", *words]) == 2
    [line] = [line for line in capfd.readouterr().err.splitlines() if line.startswith("recbole-r3vae: ")]
    found = r"the loss is nan at step 2 \(epoch 2, batch 1\), whose items are ('\d+', ){19}'\d+' and 128 more; kept .*last.pth"
    assert re.search(found, line)


def test_weights_that_the_last_batch_ruined_are_not_saved(tiny_settings, monkeypatch):
    """Its own loss was finite, so only the weights show it."""
    settings = {**tiny_settings, "tokenizer": "RKMeans", "tokenizer_epochs": 0, "checkpoint_dir": "saved"}
    settings |= {"train_batch_size": 4096, "eval_step": 2}  # one batch an epoch, and no validation after the first
    step = torch.optim.AdamW.step

    def ruin(self, *given, **named):
        step(self, *given, **named)
        self.param_groups[0]["params"][0].data.fill_(float("inf"))

    monkeypatch.setattr(torch.optim.AdamW, "step", ruin)
    with pytest.raises(UserError, match="no longer finite after epoch 1; kept from before: .*last.pth"):
        run_recbole_r3vae("R3GR", "tiny", config_dict=settings)
    state = load_checkpoint(next(Path("saved/tiny").glob("R3GR-*/last.pth")))
    assert state["epoch"] == 0 and all(torch.isfinite(w).all() for w in state["model"].values() if w.is_floating_point())
