"""All item-id models through the main command: found, named, trained, resumed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from recbole_r3vae.config import Config
from recbole_r3vae.config.registry import MODEL_ROOMS, get_model, own_models
from recbole_r3vae.config.sources import load_yaml, properties
from recbole_r3vae.errors import UserError
from recbole_r3vae.model.contract import Needs
from recbole_r3vae.model.parameters import declared_by
from recbole_r3vae.model.ranker import Ranker
from recbole_r3vae.quick_start import load_data_and_model, run_recbole_r3vae

MODELS = ["BSARec", "CaDiRec", "CoSeRec", "FAMAE", "HSTU", "Recency", "WindowSASRec"]


def test_the_room_holds_them_and_their_settings():
    assert sorted(own_models(MODEL_ROOMS[2])) == MODELS
    assert all((properties() / "model" / f"{name}.yaml").is_file() for name in MODELS)
    with pytest.raises(UserError, match="did you mean.*HSTU"):
        Config("HSTUU", "tiny")


@pytest.mark.parametrize(
    "model, keys, name",
    [
        ("BSARec", {}, "CE"),
        ("FAMAE", {}, "NLL of masked fields"),
        ("Recency", {}, "none"),
        ("HSTU", {}, "InfoNCE, 512 negatives"),
        ("HSTU", {"n_negatives": 8}, "InfoNCE, 8 negatives"),
        ("HSTU", {"loss_type": "CE"}, "CE"),
        ("WindowSASRec", {}, "CE"),
        ("WindowSASRec", {"loss_type": "SampledCE"}, "sampled CE, 512 negatives"),
        ("WindowSASRec", {"loss_type": "BCE"}, "BCE, 1 negative"),
        ("CoSeRec", {}, "CE + contrast"),
        ("CoSeRec", {"contrast_weight": 0.0}, "CE"),
        ("CaDiRec", {}, "CE + denoising + contrast"),
        ("CaDiRec", {"loss_type": "BCE", "contrast_weight": 0.0}, "BCE, 1 negative + denoising"),
    ],
)
def test_the_loss_is_named(tiny_settings, model, keys, name):
    config = Config(model, "tiny", config_dict={**tiny_settings, **keys})
    config.model_class.check(config)
    assert config.model_class.loss_name(config) == name and config.model_class.result_name(config) == model
    assert config.model_class.needs(config) == Needs()


@pytest.mark.parametrize("model", MODELS)
def test_every_key_of_its_own_has_a_range_that_its_default_is_in(model):
    defaults = load_yaml(properties() / "model" / f"{model}.yaml")
    known = {key: parameter for key, parameter in declared_by(get_model(model)).items() if key not in Ranker.hyperparameters}
    general = {"epochs", "train_batch_size", "learner", "learning_rate", "weight_decay", "enable_amp", "train_neg_sample_args"}
    general |= {"eval_step", "warmup_steps", "lr_schedule"}
    assert set(defaults) - set(known) == (general | {"valid_metric", "stopping_step"}) & set(defaults)
    assert set(known) <= set(defaults) and all(parameter.takes(defaults[key]) for key, parameter in known.items())


@pytest.mark.parametrize(
    "model, dropout",
    [("BSARec", "hidden_dropout_prob"), ("FAMAE", "dropout"), ("HSTU", "embedding_dropout_prob"), ("WindowSASRec", "dropout"), ("CoSeRec", "dropout"),
     ("CaDiRec", "dropout")],
)
def test_a_rule_is_learnt_that_popularity_cannot_know(tiny_settings, ruled_data, model, dropout):
    settings = {**tiny_settings, "data_path": str(ruled_data), "load_col": {"inter": ["user_id", "item_id", "timestamp"]}}
    popular = run_recbole_r3vae("Pop", "ruled", config_dict={**settings, "epochs": 1})["test_result"]["recall@5"]
    training = {"epochs": 12, "eval_step": 4, "learning_rate": 0.01, "train_batch_size": 64, "n_negatives": 64, dropout: 0.1}
    learnt = run_recbole_r3vae(model, "ruled", config_dict={**settings, **training})["test_result"]["recall@5"]
    assert popular < 0.3 and learnt > 0.9


@pytest.mark.parametrize("model", MODELS)
def test_resumed_is_bit_identical_and_loads(tiny_settings, tmp_path, model):
    def run(epochs, folder, **more):
        keys = {**tiny_settings, "epochs": epochs, "checkpoint_dir": str(tmp_path / folder), **more}
        return run_recbole_r3vae(model, "tiny", config_dict=keys)

    whole = run(2, "whole")
    run(1, "parts")
    resumed = run(2, "parts", resume=True)
    assert resumed["test_result"] == whole["test_result"] and resumed["best_valid_result"] == whole["best_valid_result"]
    last = [torch.load(Path(result["run_dir"]) / "last.pth", weights_only=True)["model"] for result in (whole, resumed)]
    assert all(torch.equal(last[0][key], last[1][key]) for key in last[0])

    stored = json.loads((Path(whole["run_dir"]) / "result.json").read_text())
    assert stored["name"] == model
    _, network, _, _, _, test_data = load_data_and_model(Path(whole["run_dir"]) / "best.pth")
    interaction, _, _, positive = next(iter(test_data))
    scores = network.full_sort_predict(interaction)
    scores[:, 0] = -torch.inf
    hits = (scores.topk(10).indices == positive[:, None]).any(1).float().mean().item()
    assert hits == pytest.approx(whole["test"]["stay"]["recall@10"], abs=1e-6)
