"""Checkpoints to serve from, each trained once for all tests of this folder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from recbole_r3vae.quick_start import run_recbole_r3vae
from recbole_r3vae.sid.table import SemanticIDs

TWO_TEXTS = {
    "text": {"encoder": "tfidf-svd", "fields": ["movie_title"], "dim": 16},
    "genre": {"encoder": "tfidf-svd", "fields": ["class"], "dim": 16},
}
FAST = {"tokenizer": "RKMeans", "tokenizer_epochs": 0, "epochs": 1}
TINY = {
    "R3GR": FAST,
    "TIGER": {**FAST, "n_layers": 1, "n_decoder_layers": 1, "head_size": 8, "n_user_buckets": 7, "train_batch_size": 512},
    "GLASS": {**FAST, "n_layers": 1, "n_decoder_layers": 1, "head_size": 8, "recent_items": 3},
    "SASRec": {"epochs": 1, "loss_type": "CE"},
    "BPR": {"epochs": 1},
    "HSTU": {"epochs": 1, "n_layers": 1, "n_heads": 1, "attention_dim": 8, "linear_dim": 8, "n_negatives": 16},
    "FM": {"epochs": 1},
    "LightGCN": {"epochs": 1},
    "BSARec": {"epochs": 1},
    "WindowSASRec": {"epochs": 1},
    "CoSeRec": {"epochs": 1},
    "CaDiRec": {"epochs": 1},
    "MMQGR": {"epochs": 1, "codebook_sizes": [8] * 6, "content_encoder": TWO_TEXTS},
}
"""By model; all others are generators of few settings."""


@pytest.fixture(scope="session")
def trained() -> dict[str, Path]:
    return {}


@pytest.fixture
def checkpoint(trained, tiny_settings):
    """A function from a model and more settings to the folder of its run on ``tiny``."""

    def folder(model="R3GR", **more) -> Path:
        key = json.dumps([model, more], sort_keys=True)
        if key not in trained:
            result = run_recbole_r3vae(model, "tiny", config_dict={**tiny_settings, **TINY.get(model, FAST), **more})
            trained[key] = Path(result["run_dir"])
        return trained[key]

    return folder


@pytest.fixture
def histories(tiny_data) -> dict[str, list[str]]:
    """Every user's items in time order, straight from the file."""
    inter = pd.read_csv(tiny_data / "tiny" / "tiny.inter", sep="\t", dtype={"user_id:token": str, "item_id:token": str})
    return inter.sort_values("timestamp:float", kind="stable").groupby("user_id:token")["item_id:token"].agg(list).to_dict()


@pytest.fixture
def history(histories) -> list[str]:
    return next(iter(histories.values()))


@pytest.fixture
def new_items(tmp_path):
    """A function that writes a ``.sid`` file of new items, and vectors beside it."""

    def write(recommender, name: str, codes: dict[str, list[int]], vectors=None, **meta) -> Path:
        sids, path = recommender.served.sids, tmp_path / f"{name}.sid"
        levels = len(next(iter(codes.values())))
        rows = torch.tensor([[-1] * levels, *codes.values()])
        SemanticIDs(rows, sids.codebook_sizes[:levels], ["[PAD]", *codes], meta, sids.ordered).save(path)
        vectors = vectors if vectors is not None else np.random.default_rng(0).normal(size=(len(codes), 32))
        np.save(path.with_suffix(".npy"), np.asarray(vectors, dtype=np.float32))
        path.with_suffix(".ids").write_text("".join(f"{item}\n" for item in codes))
        return path

    return write


@pytest.fixture
def free_codes():
    """A function that gives semantic IDs that no item has."""

    def some(sids: SemanticIDs, n: int = 1) -> list[list[int]]:
        taken, sizes = {tuple(row) for row in sids.codes.tolist()}, torch.tensor(sids.codebook_sizes)
        found = {}
        for seed in range(1000):
            code = tuple((torch.rand(len(sizes), generator=torch.Generator().manual_seed(seed)) * sizes).long().tolist())
            if code not in taken:
                found[code] = None
            if len(found) == n:
                return [list(code) for code in found]
        raise AssertionError("no free codes")

    return some
