"""UAUC against a loop over pairs, and metrics of cold items against RecBole's metrics over these rows alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from recbole.evaluator.collector import DataStruct
from sklearn.metrics import log_loss, roc_auc_score

from recbole_r3vae.config import Config
from recbole_r3vae.data.clicks import LabelledRows
from recbole_r3vae.errors import UserError
from recbole_r3vae.trainer.evaluation import ExactEvaluator, user_auc


def by_pairs(users, labels, scores):
    found = []
    for user in set(users):
        mine = [(label, score) for other, label, score in zip(users, labels, scores) if other == user]
        pairs = [(a > b) + (a == b) / 2 for one, a in mine if one for zero, b in mine if not zero]
        if pairs:
            found.append(sum(pairs) / len(pairs))
    return sum(found) / len(found) if found else None


ROWS = st.lists(st.tuples(st.integers(1, 5), st.booleans(), st.sampled_from([0.1, 0.2, 0.3, 0.5, 0.9])), max_size=40)


@settings(deadline=None, max_examples=200)
@given(ROWS)
def test_user_auc_is_the_mean_over_users_of_the_share_of_pairs(found):
    users, labels, scores = (list(column) for column in zip(*found)) if found else ([], [], [])
    result = user_auc(np.array(users, dtype=np.int64), np.array(labels, dtype=bool), np.array(scores, dtype=np.float32))
    expected = by_pairs(users, labels, scores)
    assert result is None if expected is None else result == pytest.approx(expected, abs=1e-12)


def test_every_user_weighs_the_same():
    users, labels = np.array([1] * 100 + [2] * 2), np.array([0, 1] * 51, bool)
    scores = np.where(users == 1, labels, ~labels).astype(float)  # user 1 all right, user 2 all wrong
    assert user_auc(users, labels, scores) == 0.5


def measured(labelled, scores, **more):
    config = Config("DeepFM", "ml-100k", config_dict=more)
    evaluator = ExactEvaluator(config)
    evaluator.labelled = labelled
    struct = DataStruct()
    struct.set("rec.score", torch.from_numpy(scores))
    struct.set("data.label", torch.from_numpy(labelled.labels.astype(np.float32)))
    return evaluator.evaluate(struct)


def test_cold_rows_are_measured_apart():
    generator = np.random.default_rng(0)
    users, labels, cold = generator.integers(0, 20, 300), generator.random(300) < 0.4, generator.random(300) < 0.3
    scores = generator.random(300, dtype=np.float32)
    result = measured(LabelledRows(users, labels, cold), scores)
    assert list(result) == ["auc", "logloss", "uauc", "cold_auc", "cold_logloss", "cold_uauc"]
    for prefix, kept in (("", np.ones(300, bool)), ("cold_", cold)):
        assert result[f"{prefix}auc"] == pytest.approx(roc_auc_score(labels[kept], scores[kept]), abs=1e-6)
        assert result[f"{prefix}logloss"] == pytest.approx(log_loss(labels[kept], scores[kept].astype(float)), abs=1e-5)
        assert result[f"{prefix}uauc"] == pytest.approx(by_pairs(users[kept], labels[kept], scores[kept]), abs=1e-6)


def test_what_is_not_defined_is_left_out():
    users, labels = np.array([1, 1, 2, 2]), np.array([1, 0, 1, 0], bool)
    scores = np.array([0.9, 0.1, 0.8, 0.2], np.float32)
    assert "cold_auc" not in measured(LabelledRows(users, labels, labels), scores)  # only positive rows are cold
    apart = measured(LabelledRows(users, labels, np.array([1, 0, 0, 1], bool)), scores)  # both labels, of different users
    assert apart["cold_auc"] == 1.0 and "cold_uauc" not in apart


def test_uauc_selects_the_best_epoch_and_is_no_metric_of_rankings():
    assert Config("DeepFM", "ml-100k", config_dict={"valid_metric": "UAUC"})["valid_metric_bigger"]
    with pytest.raises(UserError, match="valid_metric UAUC is not among"):
        Config("SASRec", "ml-100k", config_dict={"valid_metric": "UAUC", "loss_type": "CE"})
