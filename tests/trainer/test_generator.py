"""Evaluation on ranked items against RecBole's own on dense scores; schedules; refused settings."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from recbole.evaluator import Evaluator

from recbole_r3vae.compat import collector_class
from recbole_r3vae.config import Config
from recbole_r3vae.errors import UserError
from recbole_r3vae.quick_start import run_recbole_r3vae
from recbole_r3vae.trainer.ranking import RankingTrainer, TopKCollector

METRICS = ["Recall", "NDCG", "MRR", "Hit", "MAP", "Precision", "ItemCoverage", "GiniIndex", "AveragePopularity"]


class Counted:
    """What ``Collector.data_collect`` asks of a loader's dataset."""

    def __init__(self, n_items):
        self.dataset, self.n_items = self, n_items
        self.item_counter = {i: i % 7 + 1 for i in range(1, n_items)}

    def num(self, field):
        return self.n_items


def test_ranked_items_give_recboles_metrics(tiny_settings):
    config = Config("R3GR", "tiny", config_dict={**tiny_settings, "metrics": METRICS})
    generator = torch.Generator().manual_seed(3)
    n_items, n_users = 90, 40
    dense, sparse = collector_class()(config), TopKCollector(config)  # RecBole's, without the fault of 1.2.1
    for collector in (dense, sparse):
        collector.data_collect(Counted(n_items))
    for _ in range(3):  # several batches, several relevant items for some users, ranks in and out of the top 20
        scores = torch.rand(n_users, n_items, generator=generator)
        scores[:, 0] = -np.inf
        positive_u = torch.arange(n_users).repeat_interleave(torch.randint(1, 4, (n_users,), generator=generator))
        positive_i = torch.cat([torch.randperm(n_items - 1, generator=generator)[: (positive_u == u).sum()] + 1 for u in range(n_users)])
        dense.eval_batch_collect(scores.clone(), None, positive_u, positive_i)
        sparse.eval_batch_collect(scores.topk(20).indices, None, positive_u, positive_i)
    evaluator = Evaluator(config)
    expected, got = evaluator.evaluate(dense.get_data_struct()), evaluator.evaluate(sparse.get_data_struct())
    assert expected == got and len(got) == len(METRICS) * 3


def test_a_user_with_fewer_candidates_than_places_counts_what_he_was_given(tiny_settings):
    """Where items that he has met are left out, there may be that few; the padding item is none."""
    config = Config("R3GR", "tiny", config_dict={**tiny_settings, "metrics": METRICS})
    collector = TopKCollector(config)
    collector.data_collect(Counted(90))
    items = torch.zeros(2, 20, dtype=torch.int64)
    items[0, :3], items[1, :2] = torch.tensor([4, 7, 9]), torch.tensor([7, 5])
    collector.eval_batch_collect(items, None, torch.tensor([0, 1]), torch.tensor([9, 80]))
    found = Evaluator(config).evaluate(collector.get_data_struct())
    assert (found["recall@10"], found["mrr@10"], found["hit@10"]) == (0.5, pytest.approx(1 / 6, abs=1e-4), 0.5)
    assert found["itemcoverage@20"] == pytest.approx(4 / 90, abs=1e-4)  # RecBole counts the padding item among the catalogue


@pytest.mark.parametrize("bad, message", [
    ({"num_beams": 19}, "num_beams=19 is below the largest topk=20"),
    ({"num_beams": "all"}, "num_beams is 'all'; give a whole number from 1 or exact"),
    ({"valid_num_beams": 5}, "valid_num_beams=5 is below"),
    ({"metrics": ["Recall", "GAUC"], "valid_metric": "Recall@10"}, "metric GAUC needs a score for every item"),
])  # fmt: skip
def test_settings_that_would_score_wrongly_are_refused(tiny_settings, bad, message):
    with pytest.raises(UserError, match=message):
        run_recbole_r3vae("R3GR", "tiny", config_dict={**tiny_settings, "tokenizer_epochs": 1, **bad})


def schedule(name, warmup, total=100, rate=0.5):
    trainer = RankingTrainer.__new__(RankingTrainer)
    trainer.config, trainer.learning_rate = {"warmup_steps": warmup, "lr_schedule": name}, rate
    return [trainer._learning_rate(step, total) for step in range(total)]


def test_schedules():
    assert schedule("constant", 0) == [0.5] * 100
    warm = schedule("constant", 10)
    assert warm[:10] == pytest.approx([0.05 * (i + 1) for i in range(10)]) and set(warm[10:]) == {0.5}
    cosine = schedule("cosine", 10)
    assert cosine[10] == pytest.approx(0.5) and cosine[55] == pytest.approx(0.25) and 0 < cosine[99] < 0.001
    root = schedule("inverse_sqrt", 10)
    assert root[9] == pytest.approx(0.5) and root[39] == pytest.approx(0.25)


def test_sampled_candidates_are_scored_exactly(tiny_settings):
    """uni100 goes through predict; a beam's -inf would put the target last."""
    evaluation = {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "uni20"}
    result = run_recbole_r3vae("R3GR", "tiny", config_dict={**tiny_settings, "eval_args": evaluation, "topk": [5, 10, 20]})
    assert 0 < result["test_result"]["recall@5"] < result["test_result"]["recall@20"] <= 1


def test_bfloat16_trains_and_ranks(tiny_settings):
    exact = run_recbole_r3vae("R3GR", "tiny", config_dict=tiny_settings)
    mixed = run_recbole_r3vae("R3GR", "tiny", config_dict={**tiny_settings, "enable_amp": True})
    assert mixed["run_dir"] != exact["run_dir"]
    assert 0 <= mixed["test_result"]["recall@20"] <= 1 and np.isfinite(mixed["best_valid_score"])
