"""What a run is: every setting that can change its result, and nothing else."""

from __future__ import annotations

import pytest

from recbole_r3vae.config import Config, arithmetic, decisive, fingerprint, identity
from recbole_r3vae.config.identity import EXTENT, NEUTRAL, PLACES, differences, differences_in_words


def name(model: str = "R3GR", **settings) -> str:
    return fingerprint(identity(decisive(Config(model, "ml-100k", config_dict=settings)), "data"))


@pytest.mark.parametrize("settings", [
    {"show_progress": False}, {"checkpoint_dir": "x"}, {"run_dir": "x"}, {"resume": True}, {"state": "warning"}, {"data_path": "x"},
    {"content_cache_dir": "elsewhere"}, {"device": "cpu"},
])  # fmt: skip
def test_places_and_loudness_are_no_part_of_it(settings):
    assert name(**settings) == name()


@pytest.mark.parametrize("settings", [
    {"dropout": 0.45}, {"seed": 1}, {"epochs": 3}, {"stopping_step": 9}, {"max_minutes": 5}, {"num_beams": 60}, {"valid_num_beams": 30},
    {"eval_batch_size": 7}, {"enable_amp": True}, {"MAX_ITEM_LIST_LENGTH": 7}, {"valid_rule": "stay"}, {"topk": [5, 10]},
    {"tokenizer_epochs": 2}, {"codebook_sizes": [8, 8]}, {"tokenizer": "RKMeans"}, {"content_dim": 16}, {"collision_policy": "reassign"},
    {"user_inter_num_interval": "[5,inf)"}, {"rm_dup_inter": "first"}, {"item_text_template": "{title}"},
    {"tokenizer_item_text_template": "{title}"}, {"crop_probability": 0.5}, {"shuffle_ties": "timestamp"},
])  # fmt: skip
def test_whatever_can_change_a_result_is(settings):
    assert name(**settings) != name()


def test_keys_that_came_later_move_no_hash_while_they_are_off():
    settings = decisive(Config("R3GR", "ml-100k", config_dict={"crop_probability": 0, "shuffle_ties": None}))
    keys = {key.removeprefix("tokenizer_") for key in settings}
    assert keys.isdisjoint(NEUTRAL)
    assert name(crop_probability=0) == name() == name(shuffle_ties=None) == name(train_items=None)
    for key in ("train_items", "tokenizer_train_items", "n_negatives"):
        more = {"n_negatives": 900, "rank_by": "dense"} if key == "n_negatives" else {key: 900}
        assert decisive(Config("R3GR", "ml-100k", config_dict=more))[key] == 900
    assert name(train_items=900) != name() != name(crop_probability=0.5)


def test_keys_of_stages_that_a_model_does_not_have_are_none_of_it():
    assert name("SASRec", content_dim=16, item_text_template="{title}") == name("SASRec")
    assert name(item_inputs=["codes"], sid_file="x.sid", content_dim=16, tokenizer_epochs=3) == name(item_inputs=["codes"], sid_file="y.sid")


def test_data_sources_and_machine_count():
    config = Config("R3GR", "ml-100k", config_dict={"device": "cpu"})
    known = {
        fingerprint(identity(decisive(config), data, sources=sources, arithmetic=machine))
        for data in ("a", "b") for sources in (None, {"semantic_ids": "x"}) for machine in (arithmetic(config), {"threads": -1})
    }  # fmt: skip
    assert len(known) == 8
    assert arithmetic(config).keys() == {"device", "threads", "processes", "precision"}


def test_differences_are_told_by_key():
    config = Config("R3GR", "ml-100k")
    one = identity(decisive(config), "a", arithmetic={"threads": 1})
    other = identity({**decisive(config), "epochs": 99}, "b", arithmetic={"threads": 2})
    found = differences(one, other)
    assert found == {"data": ("a", "b"), "epochs": (config["epochs"], 99), "threads": (1, 2)}
    assert differences_in_words(found) == f"threads 2 instead of 1, other data, epochs 99 instead of {config['epochs']}"
    assert differences(one, one) == {} and EXTENT.isdisjoint(PLACES)
