"""Both rules for all kinds of models: what users met before is a candidate, or none; and whose target was ranked where."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from recbole.utils import init_seed

from recbole_r3vae.config import RULES, Config
from recbole_r3vae.data.split import held_out
from recbole_r3vae.errors import UserError
from recbole_r3vae.model.contract import Sources
from recbole_r3vae.quick_start import run_recbole_r3vae
from recbole_r3vae.quick_start.lookup import create_dataset, data_preparation, get_trainer
from recbole_r3vae.record import unpack, user_metric
from recbole_r3vae.sid.table import SemanticIDs

MODELS = {"BPR": {}, "SASRec": {"loss_type": "CE"}, "R3GR": {"item_inputs": ["codes"], "valid_num_beams": "exact", "num_beams": "exact"}}


def untrained(settings, model, rule):
    """A trainer around a model with random weights, its dataset and its loaders."""
    more = {"metrics": ["Recall", "NDCG", "MRR", "ItemCoverage"], "valid_rule": rule, "eval_batch_size": 5 * 149, **MODELS[model]}
    config = Config(model, "tiny", config_dict={**settings, **more})
    init_seed(0, True)
    dataset = create_dataset(config)
    codes = torch.cartesian_prod(*[torch.arange(8)] * 3)[torch.randperm(512)[: dataset.item_num]]
    codes[0] = -1
    dataset.sources = Sources(SemanticIDs(codes, (8, 8, 8), [str(item) for item in dataset.field2id_token["item_id"]]))
    train_data, valid_data, test_data = data_preparation(config, dataset)
    network = config.model_class(config, train_data.dataset)
    trainer = get_trainer(config)(config, network.eval())
    trainer.eval_collector.data_collect(train_data)
    return trainer, dataset, {"valid": valid_data, "test": test_data}


@pytest.fixture(scope="module")
def histories(tiny_data) -> dict[str, list[str]]:
    """From the file alone: each user's items in time order."""
    frame = pd.read_csv(tiny_data / "tiny" / "tiny.inter", sep="\t", dtype=str)
    frame["timestamp:float"] = frame["timestamp:float"].astype(float)
    frame = frame.sort_values("timestamp:float", kind="stable")
    return {user: list(rows["item_id:token"]) for user, rows in frame.groupby("user_id:token")}


def recommended(trainer, loader) -> dict[str, np.ndarray]:
    """Rule to the lists that the evaluator gets, ``[n_users, 20]``."""
    structs = []
    evaluate = trainer.evaluator.evaluate
    trainer.evaluator.evaluate = lambda struct: structs.append(struct) or evaluate(struct)
    trainer.evaluate(loader, load_best_model=False)
    trainer.evaluator.evaluate = evaluate
    return dict(zip(sorted(RULES, key=lambda rule: rule != trainer.config["valid_rule"]), [s["rec.items"].numpy() for s in structs]))


def scores(trainer, loader) -> np.ndarray:
    with torch.no_grad():
        return torch.cat([trainer.model.full_sort_predict(batch[0]).view(-1, loader._dataset.item_num) for batch in loader]).numpy()


@pytest.mark.parametrize("part, left", [("valid", 2), ("test", 1)])
@pytest.mark.parametrize("selecting", RULES)
@pytest.mark.parametrize("model", MODELS)
def test_lists_are_the_best_of_the_candidates_under_both_rules(tiny_settings, histories, model, selecting, part, left):
    trainer, dataset, loaders = untrained(tiny_settings, model, selecting)
    loader = loaders[part]
    users = dataset.field2id_token["user_id"][np.asarray(loader._dataset.inter_feat["user_id"])]
    expected = scores(trainer, loader)
    expected[:, 0] = -np.inf
    met = np.zeros_like(expected, dtype=bool)
    for row, user in enumerate(users):
        met[row, dataset.token2id("item_id", histories[user][:-left])] = True
    lists = recommended(trainer, loader)
    assert set(lists) == set(RULES)
    assert np.array_equal(lists["stay"], np.argsort(-expected, axis=1, kind="stable")[:, :20])
    expected[met] = -np.inf
    assert np.array_equal(lists["left_out"], np.argsort(-expected, axis=1, kind="stable")[:, :20])
    rows = np.arange(len(met))[:, None]
    assert met[rows, lists["stay"]].any() and not met[rows, lists["left_out"]].any()


def test_the_narrow_beam_keeps_to_the_rule_and_is_a_masked_search(tiny_settings, histories):
    trainer, dataset, loaders = untrained(tiny_settings, "R3GR", "left_out")
    trainer.model.num_beams = 20
    lists = recommended(trainer, loaders["test"])
    users = dataset.field2id_token["user_id"][np.asarray(loaders["test"]._dataset.inter_feat["user_id"])]
    for user, items in zip(users, lists["left_out"]):
        found = set(dataset.field2id_token["item_id"][items])
        assert len(found) == 20 and not found & set(histories[user][:-1])
    begin, alone = 0, {rule: [] for rule in RULES}
    for interaction, *_ in loaders["test"]:
        allowed = torch.ones(len(interaction), dataset.item_num, dtype=torch.bool)
        for row, user in enumerate(users[begin : begin + len(interaction)]):
            allowed[row, dataset.token2id("item_id", histories[user][:-1])] = False
        alone["stay"].append(trainer.model.recommend(interaction, 20)[0])
        alone["left_out"].append(trainer.model.recommend(interaction, 20, allowed)[0])
        begin += len(interaction)
    for rule in RULES:
        assert np.array_equal(lists[rule], torch.cat(alone[rule]).numpy())


@pytest.mark.parametrize("model", ["R3GR", "SASRec"])
def test_both_rules_of_one_run_are_those_of_two(tiny_settings, model):
    """The same weights: what a run measures under the rule that did not select is what another run selects by."""
    keys = {**tiny_settings, **MODELS[model], "epochs": 1, "tokenizer": "RKMeans", "num_beams": 20, "valid_num_beams": 20}
    keys.pop("tokenizer_epochs")
    found = {rule: run_recbole_r3vae(model, "tiny", config_dict={**keys, "valid_rule": rule}) for rule in RULES}
    assert found["left_out"]["test"] == found["stay"]["test"] and found["stay"]["users"] == found["left_out"]["users"]
    assert found["stay"]["test"]["stay"] != found["stay"]["test"]["left_out"]
    for rule in RULES:
        assert dict(found[rule]["test_result"]) == found[rule]["test"][rule]
    assert found["left_out"]["run_dir"] != found["stay"]["run_dir"]


@pytest.mark.parametrize("model", MODELS)
def test_ranks_belong_to_their_users(tiny_settings, histories, model):
    trainer, dataset, loaders = untrained(tiny_settings, model, "stay")
    lists = recommended(trainer, loaders["test"])["stay"]
    result = trainer.evaluate(loaders["test"], load_best_model=False)
    users = dataset.field2id_token["user_id"][np.asarray(loaders["test"]._dataset.inter_feat["user_id"])]
    expected = {}
    for user, items in zip(users, dataset.field2id_token["item_id"][lists]):
        target = histories[user][-1]
        expected[user] = list(items).index(target) + 1 if target in items else 0
    ranks = unpack(held_out(loaders["valid"], loaders["test"]).packed(trainer.ranks["stay"]), "uint8")
    assert list(ranks) == [expected[user] for user in sorted(expected)] and ranks.any()
    for metric, value in result.items():
        if not metric.startswith("item"):
            assert round(float(user_metric(ranks, metric).mean()), 6) == value


def test_loaders_that_do_not_know_histories_are_refused(tiny_settings):
    trainer, _, loaders = untrained(tiny_settings, "SASRec", "left_out")
    del loaders["test"].seen
    with pytest.raises(UserError, match="valid_rule is left_out, and these loaders do not know"):
        trainer.evaluate(loaders["test"], load_best_model=False)


@pytest.mark.parametrize("value", ["yes", "left out"])
def test_other_rules_are_refused(tiny_settings, value):
    with pytest.raises(UserError, match=f"valid_rule is {value!r}.*choose left_out or stay"):
        Config("SASRec", "tiny", config_dict={**tiny_settings, "valid_rule": value})
