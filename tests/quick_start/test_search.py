"""A search tries what its space says, and a key that nobody has ends it before anything is trained."""

from __future__ import annotations

import itertools

import pytest

from recbole_r3vae.errors import UserError
from recbole_r3vae.quick_start import HyperTuning, objective_function

pytest.importorskip("hyperopt", reason="a search needs the [tune] extra")

SIZES = [[8, 8], [4, 4, 4]]


def told(seen):
    """An objective that trains nothing: the best has the largest learning rate."""

    def objective(config_dict=None, config_file_list=None):
        seen.append(config_dict)
        scores = {"best_valid_result": {"ndcg@10": config_dict["learning_rate"]}, "test_result": {"ndcg@10": 0.0}}
        return {"model": "R3GR", "best_valid_score": config_dict["learning_rate"], "valid_score_bigger": True, **scores}

    return objective


def test_exhaustive_tries_every_combination_once_in_order():
    seen, rates = [], [0.3, 0.2, 0.1]
    ranges = {"choice": {"learning_rate": rates, "tokenizer_codebook_sizes": SIZES, "n_layers": [1, 2, 3]}}
    search = HyperTuning(told(seen), params_dict=ranges, early_stop=2)
    search.run()
    keys = ("learning_rate", "tokenizer_codebook_sizes", "n_layers")
    found = [tuple(map(str, (trial[key] for key in keys))) for trial in seen]
    assert sorted(found) == sorted(tuple(map(str, combination)) for combination in itertools.product(rates, SIZES, [1, 2, 3]))
    assert search.best_params["learning_rate"] == 0.3 and all(type(trial["tokenizer_codebook_sizes"]) is list for trial in seen)
    again = []
    HyperTuning(told(again), params_dict=ranges).run()
    assert again == seen


def test_a_real_search_over_a_file_of_lists(tiny_settings, tmp_path):
    (tmp_path / "x.hyper").write_text("tokenizer_codebook_sizes choice ['[8,8]','[4,4,4]']\nlearning_rate choice [0.01]\n")
    del tiny_settings["codebook_sizes"]
    fixed = {**tiny_settings, "model": "R3GR", "dataset": "tiny", "tokenizer": "RKMeans", "tokenizer_epochs": 0, "epochs": 1}
    search = HyperTuning(params_file=tmp_path / "x.hyper", config_dict=fixed)
    search.run()
    assert len(search.score_list) == 2 and search.best_params["tokenizer_codebook_sizes"] in SIZES
    search.export_result(tmp_path / "search.txt")
    assert (tmp_path / "search.txt").read_text().count("Test result") == 2


@pytest.mark.parametrize("algo", ["random", "bayes"])
def test_whole_numbers_of_a_range_are_whole_settings(algo):
    seen = []
    ranges = {"quniform": {"hidden_size": [32, 64, 32]}, "uniform": {"learning_rate": [0.1, 0.2]}}
    HyperTuning(told(seen), params_dict=ranges, algo=algo, max_evals=3).run()
    from recbole_r3vae.config import Config

    assert len(seen) == 3 and all(0.1 <= trial["learning_rate"] <= 0.2 for trial in seen)
    sizes = [Config("R3GR", "ml-100k", config_dict={**trial, "n_heads": 1})["hidden_size"] for trial in seen]
    assert all(type(size) is int and size in (32, 64) for size in sizes)


@pytest.mark.parametrize("key, hint", [
    ("learning_rat", "did you mean 'learning_rate'"), ("tokenizer_hidden_size", "tokenizer R3VAE has no key hidden_size"),
    ("tokenizer_sc_wieght", "did you mean 'tokenizer_sc_weight'"),
])  # fmt: skip
def test_a_key_that_nobody_has_ends_the_search_before_it_begins(key, hint):
    with pytest.raises(UserError, match=hint):
        HyperTuning(params_dict={"choice": {key: [0.1, 0.2]}}, config_dict={"model": "R3GR", "dataset": "ml-100k"})
    with pytest.raises(UserError, match=hint):
        objective_function({"model": "R3GR", "dataset": "ml-100k", key: 0.1})


@pytest.mark.parametrize("given, expected", [
    ({"algo": "exhaustiv", "params_dict": {"choice": {"a": [1]}}}, "did you mean 'exhaustive'"),
    ({}, "one of space, params_file and params_dict"),
    ({"params_dict": {"choice": {"a": [1]}}, "params_file": "x"}, "one of space"),
    ({"params_file": "absent.hyper"}, "cannot read search space"),
])  # fmt: skip
def test_a_search_that_is_none(given, expected):
    with pytest.raises(UserError, match=expected):
        HyperTuning(**given)


def test_a_range_without_end_cannot_be_exhausted():
    search = HyperTuning(told([]), params_dict={"uniform": {"learning_rate": [0, 1]}})
    with pytest.raises(UserError, match="learning_rate has a range without end"):
        search.run()
