"""Labels and negatives that are the same for every model and kind of item feature, and histories against a loop over the file."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_r3vae.config import Config
from recbole_r3vae.data.clicks import LabelledRows, sample_negatives
from recbole_r3vae.errors import UserError
from recbole_r3vae.quick_start.lookup import create_dataset, data_preparation
from recbole_r3vae.sid.table import SemanticIDs

COLUMNS = {"inter": ["user_id", "item_id", "rating", "timestamp"], "item": ["item_id", "movie_title", "class"]}
RATED = {"load_col": COLUMNS, "threshold": {"rating": 4}}


def loaded(settings, model="DeepFM", **more):
    config = Config(model, "tiny", config_dict={**settings, "ctr_features": ["class"], **more})
    dataset = create_dataset(config)
    if config["sid_features"] != "none":
        codes = torch.arange(dataset.item_num)[:, None].repeat(1, 2) % torch.tensor([8, 3])
        codes[0] = -1
        ids = [str(item) for item in dataset.field2id_token["item_id"]]
        dataset.add_semantic_ids(SemanticIDs(codes, (8, 3), ids), 16, config["sid_features"] == "replace")
    return dataset, [loader._dataset for loader in data_preparation(config, dataset)]


def rows(part) -> list[tuple]:
    """User, item and label of each row, by their names in the file."""
    users, items = (part.field2id_token[field][part.inter_feat[field]] for field in ("user_id", "item_id"))
    return list(zip(users.tolist(), items.tolist(), part.inter_feat["label"].tolist()))


@pytest.fixture(scope="module")
def met(tiny_data) -> pd.DataFrame:
    frame = pd.read_csv(tiny_data / "tiny" / "tiny.inter", sep="\t", dtype={"user_id:token": str, "item_id:token": str})
    return frame.sort_values("timestamp:float", kind="stable")


# -- sampled negatives -----------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 6), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_negatives_were_never_met_and_come_once(n_users, n, seed):
    generator = np.random.default_rng(seed)
    pairs = np.unique(generator.integers(1, [n_users + 1, 8], (20, 2)), axis=0)  # at most 7 of 29 items a user
    users, items = generator.permutation(pairs).T
    drawn = sample_negatives(users, items, 30, n, seed)
    assert drawn.shape == (len(users), n) and drawn.min() >= 1 and drawn.max() < 30
    for user in np.unique(users):
        own = drawn[users == user].ravel()
        assert len(set(own)) == len(own) and not set(own) & set(items[users == user])
    assert np.array_equal(drawn, sample_negatives(users, items, 30, n, seed))


def test_negatives_are_uniform():
    users = np.ones(3, dtype=np.int64)
    counts = np.zeros(10)
    for seed in range(3000):
        counts[sample_negatives(users, np.array([2, 5, 7]), 10, 1, seed)] += 1
    assert counts[[0, 2, 5, 7]].sum() == 0
    assert abs(counts[[1, 3, 4, 6, 8, 9]] - 1500).max() < 4 * np.sqrt(1500)


def test_the_last_items_left_are_found_and_more_are_refused():
    users, items = np.array([1, 1]), np.array([1, 2])
    assert sorted(sample_negatives(users, items, 5, 1, 0).ravel()) == [3, 4]
    with pytest.raises(UserError, match="asks for 4 different items that a user has not met, and there are 2"):
        sample_negatives(users, items, 5, 2, 0)
    with pytest.raises(UserError, match="ctr_negatives is 0"):
        sample_negatives(users, items, 5, 0, 0)


# -- labelled rows of a dataset --------------------------------------------------------------------------------------------------


def test_every_model_and_every_kind_of_feature_has_the_same_rows(tiny_settings, met):
    kinds = [("DeepFM", "none"), ("DeepFM", "replace"), ("DCNV2", "append"), ("DIN", "none"), ("DIN", "replace")]
    found = [loaded(tiny_settings, model, sid_features=kind, ctr_negatives=2)[1] for model, kind in kinds]
    parts = [rows(part) for part in found[0]]
    for other in found[1:]:
        assert [rows(part) for part in other] == parts
    everything = [row for part in parts for row in part]
    seen = set(zip(met["user_id:token"], met["item_id:token"]))
    positives = [(user, item) for user, item, label in everything if label == 1]
    negatives = [(user, item) for user, item, label in everything if label == 0]
    assert sorted(positives) == sorted(seen) and len(negatives) == len(set(negatives)) == 2 * len(positives) and not seen & set(negatives)
    assert [rows(part) for part in loaded(tiny_settings, ctr_negatives=2, seed=1)[1]] != parts


def test_ratings_are_labels_and_the_split_is_each_users_in_time_order(tiny_settings, met):
    dataset, parts = loaded(tiny_settings, **RATED)
    found = [dict() for _ in parts]
    for part, mine in zip(parts, found):
        for user, item, label in rows(part):
            mine.setdefault(user, []).append((item, label))
    for user, frame in met.groupby("user_id:token"):
        pairs = list(zip(frame["item_id:token"], (frame["rating:float"] >= 4).astype(float)))
        held = max(1, int(0.1 * len(pairs)))
        expected = [pairs[: -2 * held], pairs[-2 * held : -held], pairs[-held:]]
        assert [mine[user] for mine in found] == expected
    assert "rating" not in dataset.inter_feat and "movie_title" not in dataset.item_feat and "class" in dataset.item_feat
    assert parts[0].label_source == "rating of 4 or more"


def test_labels_must_be_of_both_kinds(tiny_settings):
    with pytest.raises(UserError, match=r"labels of the training part of tiny are \[1.0\], they must be 0 and 1"):
        loaded(tiny_settings, **{**RATED, "threshold": {"rating": 0}})


def test_cold_items_are_those_of_few_training_interactions(tiny_settings):
    _, (train, _, test) = loaded(tiny_settings, cold_item_interactions=4, ctr_negatives=2)
    trained = pd.Series([item for _, item, label in rows(train) if label == 1]).value_counts()
    cold = [trained.get(item, 0) <= 4 for _, item, _ in rows(test)]
    assert test.labelled_rows().cold.tolist() == cold and 0 < sum(cold) < len(cold)


def test_counts_of_rows():
    labelled = LabelledRows(np.array([1, 1, 2, 2, 3]), np.array([1, 0, 1, 1, 0], bool), np.array([1, 0, 1, 1, 1], bool))
    assert labelled.describe() == {
        "rows": 5, "positives": 3, "users_with_both": 1, "cold_rows": 4, "cold_positives": 3, "cold_users_with_both": 0,
    }  # fmt: skip


@pytest.mark.parametrize("more", [RATED, {"ctr_negatives": 2}], ids=["ratings", "sampled"])
def test_histories_are_what_users_met_before(tiny_settings, met, more):
    _, parts = loaded(tiny_settings, "DIN", MAX_ITEM_LIST_LENGTH=7, **more)
    of_user = {user: list(frame["item_id:token"]) for user, frame in met.groupby("user_id:token")}
    lengths = set()
    for part in parts:
        batch = part[torch.arange(len(part))]
        names = part.field2id_token["item_id"]
        positive = None
        for (user, item, label), history, length in zip(rows(part), batch["item_id_list"].numpy(), batch["item_length"].tolist()):
            positive = item if label == 1 or "threshold" in more else positive  # a negative has the history of the row before it
            before = of_user[user][: of_user[user].index(positive)][-7:]
            assert names[history[:length]].tolist() == before and (history[length:] == 0).all()
            lengths.add(length)
    assert lengths == set(range(8))
