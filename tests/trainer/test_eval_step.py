"""A run is validated at least once, whatever ``eval_step`` says."""

from __future__ import annotations

from pathlib import Path

import pytest

from recbole_r3vae.quick_start import load_data_and_model, run_recbole_r3vae
from recbole_r3vae.quick_start.lookup import get_trainer


@pytest.mark.parametrize("model", ["Pop", "ItemKNN", "EASE", "BPR"])
def test_fewer_epochs_than_eval_step_are_validated_at_the_last(tiny_settings, model):
    """RecBole counts Pop and ItemKNN in one epoch; without a validation there would be no checkpoint."""
    result = run_recbole_r3vae(model, "tiny", config_dict={**tiny_settings, "epochs": 3, "eval_step": 5})
    assert [epoch for epoch, *_ in result["valid_history"]] == [result["epochs"]] and result["epochs"] in (1, 3)
    config, network, _, _, _, test_data = load_data_and_model(Path(result["run_dir"]))
    found = get_trainer(config)(config, network).evaluate(test_data, load_best_model=False)
    assert found == result["test_result"]
