"""The item-id models on the real slice, and a catalogue whose histories follow a rule."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from recbole.utils import init_seed

from recbole_r3vae.config import Config

N_RULED = 40


@pytest.fixture
def build(tiny_settings):
    """A function from a model's name to the model in evaluation mode and its datasets."""

    def build_model(model, dataset="tiny", **more):
        config = Config(model, dataset, config_dict={**tiny_settings, **more})
        train, valid, test = config.model_class.dataset_class(config).build()
        init_seed(7, True)
        return config.model_class(config, train).eval(), train, valid, test

    return build_model


@pytest.fixture(scope="session")
def ruled_data(tmp_path_factory) -> Path:
    """A data path that holds ``ruled``: every item but a user's first follows from the one before, and none is more popular."""
    random = np.random.default_rng(0)
    follower, rows = random.permutation(N_RULED), []
    for user in range(100):
        item = random.integers(N_RULED)
        for time in range(8):
            rows.append((f"u{user}", f"i{item}", 1000.0 * time))
            item = follower[item]
    folder = tmp_path_factory.mktemp("ruled")
    (folder / "ruled").mkdir()
    frame = pd.DataFrame(rows, columns=["user_id:token", "item_id:token", "timestamp:float"])
    frame.to_csv(folder / "ruled" / "ruled.inter", sep="\t", index=False)
    return folder
