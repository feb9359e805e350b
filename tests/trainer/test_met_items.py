"""One rule for all kinds of models: what users met before is a candidate for all, or for none; and whose target was ranked where."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from recbole.utils import init_seed

from recbole_r3vae.config import Config
from recbole_r3vae.data.split import held_out
from recbole_r3vae.errors import UserError
from recbole_r3vae.quick_start.lookup import create_dataset, data_preparation, get_trainer
from recbole_r3vae.record import unpack, user_metric
from recbole_r3vae.sid.table import SemanticIDs

MODELS = {"BPR": {}, "SASRec": {"loss_type": "CE"}, "R3GR": {"item_inputs": ["codes"], "valid_num_beams": "exact", "num_beams": "exact"}}
MASKED_BY_RECBOLE = {"BPR"}


def untrained(settings, model, mask):
    """A trainer around a model with random weights, its dataset and its loaders."""
    more = {"metrics": ["Recall", "NDCG", "MRR", "ItemCoverage"], "mask_history": mask, "eval_batch_size": 5 * 149, **MODELS[model]}
    config = Config(model, "tiny", config_dict={**settings, **more})
    init_seed(0, True)
    dataset = create_dataset(config)
    codes = torch.cartesian_prod(*[torch.arange(8)] * 3)[torch.randperm(512)[: dataset.item_num]]
    codes[0] = -1
    dataset.semantic_ids = SemanticIDs(codes, (8, 8, 8), [str(item) for item in dataset.field2id_token["item_id"]])
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


def recommended(trainer, loader) -> np.ndarray:
    """The lists that the evaluator gets, ``[n_users, 20]``."""
    structs = []
    evaluate = trainer.evaluator.evaluate
    trainer.evaluator.evaluate = lambda struct: structs.append(struct) or evaluate(struct)
    trainer.evaluate(loader, load_best_model=False)
    trainer.evaluator.evaluate = evaluate
    return structs[0]["rec.items"].numpy()


def scores(trainer, loader) -> np.ndarray:
    with torch.no_grad():
        return torch.cat([trainer.model.full_sort_predict(batch[0]).view(-1, loader._dataset.item_num) for batch in loader]).numpy()


@pytest.mark.parametrize("part, left", [("valid", 2), ("test", 1)])
@pytest.mark.parametrize("mask", [True, False, None])
@pytest.mark.parametrize("model", MODELS)
def test_lists_are_the_best_of_the_candidates(tiny_settings, histories, model, mask, part, left):
    trainer, dataset, loaders = untrained(tiny_settings, model, mask)
    loader = loaders[part]
    users = dataset.field2id_token["user_id"][np.asarray(loader._dataset.inter_feat["user_id"])]
    expected = scores(trainer, loader)
    expected[:, 0] = -np.inf
    met = np.zeros_like(expected, dtype=bool)
    for row, user in enumerate(users):
        met[row, dataset.token2id("item_id", histories[user][:-left])] = True
    masked = model in MASKED_BY_RECBOLE if mask is None else mask
    if masked:
        expected[met] = -np.inf
    lists = recommended(trainer, loader)
    assert np.array_equal(lists, np.argsort(-expected, axis=1, kind="stable")[:, :20])
    assert met[np.arange(len(met))[:, None], lists].any() != masked  # the lists of the other rule would be others


def test_the_narrow_beam_keeps_to_the_rule(tiny_settings, histories):
    trainer, dataset, loaders = untrained(tiny_settings, "R3GR", True)
    trainer.model.num_beams = 20
    lists = recommended(trainer, loaders["test"])
    users = dataset.field2id_token["user_id"][np.asarray(loaders["test"]._dataset.inter_feat["user_id"])]
    for user, items in zip(users, lists):
        found = set(dataset.field2id_token["item_id"][items])
        assert len(found) == 20 and not found & set(histories[user][:-1])


@pytest.mark.parametrize("model", MODELS)
def test_ranks_belong_to_their_users(tiny_settings, histories, model):
    trainer, dataset, loaders = untrained(tiny_settings, model, False)
    lists = recommended(trainer, loaders["test"])
    result = trainer.evaluate(loaders["test"], load_best_model=False)
    users = dataset.field2id_token["user_id"][np.asarray(loaders["test"]._dataset.inter_feat["user_id"])]
    expected = {}
    for user, items in zip(users, dataset.field2id_token["item_id"][lists]):
        target = histories[user][-1]
        expected[user] = list(items).index(target) + 1 if target in items else 0
    stored = held_out(loaders["valid"], loaders["test"]).ranks(trainer.evaluator.target_ranks(), 20)
    ranks = unpack(stored["ranks"], "uint8")
    assert list(ranks) == [expected[user] for user in sorted(expected)] and stored["k"] == 20 and ranks.any()
    for metric, value in result.items():
        if not metric.startswith("item"):
            assert round(float(user_metric(ranks, metric).mean()), 6) == value


def test_loaders_that_do_not_know_histories_are_refused(tiny_settings):
    trainer, _, loaders = untrained(tiny_settings, "SASRec", True)
    del loaders["test"].seen
    with pytest.raises(UserError, match="mask_history is True"):
        trainer.evaluate(loaders["test"], load_best_model=False)


@pytest.mark.parametrize("value", ["yes", 1])
def test_other_rules_are_refused(tiny_settings, value):
    with pytest.raises(UserError, match=f"mask_history is {value!r}"):
        Config("SASRec", "tiny", config_dict={**tiny_settings, "mask_history": value})
