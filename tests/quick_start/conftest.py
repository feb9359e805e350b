"""Checkpoints to serve from, each trained once for all tests of this folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from recbole_r3vae.quick_start import run_recbole_r3vae

FAST = {"tokenizer": "RKMeans", "tokenizer_epochs": 0, "epochs": 1}
TINY = {
    "R3GR": FAST,
    "TIGER": {**FAST, "n_layers": 1, "n_decoder_layers": 1, "head_size": 8, "n_user_buckets": 7, "train_batch_size": 512},
    "SASRec": {"epochs": 1, "loss_type": "CE"},
    "BPR": {"epochs": 1},
    "HSTU": {"epochs": 1, "n_layers": 1, "n_heads": 1, "attention_dim": 8, "linear_dim": 8, "n_negatives": 16},
    "FM": {"epochs": 1},
}


@pytest.fixture(scope="session")
def trained() -> dict[str, Path]:
    return {}


@pytest.fixture
def checkpoint(trained, tiny_settings):
    """A function from a model and more settings to the folder of its run on ``tiny``."""

    def folder(model="R3GR", **more) -> Path:
        key = json.dumps([model, more], sort_keys=True)
        if key not in trained:
            result = run_recbole_r3vae(model, "tiny", config_dict={**tiny_settings, **TINY[model], **more})
            trained[key] = Path(result["run_dir"])
        return trained[key]

    return folder
