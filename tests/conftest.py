"""A small real catalogue: the busiest users and items of the ml-100k that ships inside RecBole's wheel."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import pandas as pd
import pytest
import torch

import recbole_r3vae  # noqa: F401  (gives RecBole the names it needs before anything imports it)

N_USERS, N_ITEMS, LONGEST = 60, 150, 40


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    """RecBole writes log/ and log_tensorboard/ where it runs."""
    monkeypatch.chdir(tmp_path)


def write_atomic(frame: pd.DataFrame, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    frame.to_csv(path, sep="\t", index=False)


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory) -> Path:
    """A data path that holds the dataset ``tiny``: 60 users, 150 items, at most 40 interactions a user, with titles."""
    source = Path(str(resources.files("recbole"))) / "dataset_example" / "ml-100k"
    inter = pd.read_csv(source / "ml-100k.inter", sep="\t", dtype={"user_id:token": str, "item_id:token": str})
    items = pd.read_csv(source / "ml-100k.item", sep="\t", dtype=str, keep_default_na=False)
    inter = inter[inter["item_id:token"].isin(inter["item_id:token"].value_counts().index[:N_ITEMS])]
    inter = inter[inter["user_id:token"].isin(inter["user_id:token"].value_counts().index[:N_USERS])]
    inter = inter.sort_values(["user_id:token", "timestamp:float"], kind="stable").groupby("user_id:token").head(LONGEST)
    folder = tmp_path_factory.mktemp("data")
    write_atomic(inter, folder / "tiny" / "tiny.inter")
    write_atomic(items[items["item_id:token"].isin(inter["item_id:token"])], folder / "tiny" / "tiny.item")
    return folder


@pytest.fixture
def tiny_settings(tiny_data, tmp_path) -> dict:
    """Configuration of a run on ``tiny`` that takes a few seconds."""
    return {
        "data_path": str(tiny_data),
        "checkpoint_dir": str(tmp_path / "saved"),
        "content_cache_dir": str(tmp_path / "cache"),
        "device": "cpu",
        "show_progress": False,
        "load_col": {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "movie_title", "class"]},
        "item_text_fields": ["movie_title", "class"],
        "content_dim": 32,
        "MAX_ITEM_LIST_LENGTH": 10,
        "codebook_sizes": [8, 8, 8],
        "tokenizer_epochs": 4,
        "hidden_size": 16,
        "inner_size": 32,
        "n_heads": 2,
        "epochs": 3,
        "eval_step": 1,
        "warmup_steps": 5,
        "valid_num_beams": 20,
        "num_beams": 30,
    }
