"""What may be concluded from runs: tests against scipy and brute force, and how often noise passes for a lead."""

from __future__ import annotations

import warnings
from itertools import combinations

import numpy as np
import pytest
from scipy.stats import spearmanr, t

from recbole_r3vae.experiments.leaderboard.sentences import correlation
from recbole_r3vae.experiments.statistics import holm, leads, mean_std, seeds_test, slices, spearman, users_test
from recbole_r3vae.record import user_metric

N_USERS = 400


def ranks_with(recall: float, seed: int) -> np.ndarray:
    """Ranks of N_USERS users, about this share of which are among the ten best."""
    random = np.random.default_rng(seed)
    return np.where(random.random(N_USERS) < recall, random.integers(1, 11, N_USERS), random.integers(0, 2, N_USERS) * 15)


def test_mean_std():
    assert mean_std([1.0, 2.0, 4.0]) == {"mean": pytest.approx(7 / 3), "std": pytest.approx(np.std([1, 2, 4], ddof=1)), "values": [1, 2, 4]}


def test_noise_is_seldom_called_a_lead():
    supported = 0
    for trial in range(100):
        rows = [[user_metric(ranks_with(0.4, 10 * trial + 3 * row + seed), "ndcg@10") for seed in range(3)] for row in range(2)]
        by_seeds = seeds_test(*([users.mean() for users in row] for row in rows))
        by_users, *_ = users_test(*(np.mean(row, axis=0) for row in rows))
        supported += by_seeds < 0.05 and by_users < 0.05
    assert supported <= 5  # 5 % of the trials; both tests at once are stricter than either


def test_among_many_rows_noise_is_seldom_called_a_lead():
    """The best of seven equal rows is picked first and then compared; the correction must know."""
    supported = 0
    for trial in range(60):
        rows = [[user_metric(ranks_with(0.4, 100 * trial + 3 * row + seed), "ndcg@10") for seed in range(3)] for row in range(7)]
        seeds = {row: [users.mean() for users in of_row] for row, of_row in enumerate(rows)}
        found = leads(seeds, {row: np.mean(of_row, axis=0) for row, of_row in enumerate(rows)})
        assert len(found) == 21 and all(pair["lead"] >= 0 for pair in found.values())
        testable = [max(pair["p_seeds"], pair["p_users"]) for pair in found.values()]
        assert [pair["p_holm"] for pair in found.values()] == pytest.approx(holm(testable))
        supported += any(pair["supported"] for pair in found.values())
    assert supported <= 3


def test_constant_rows():
    varies, constant = [0.2, 0.21, 0.22], [0.1, 0.1, 0.1]  # Welch's t is then .11 over .01 / sqrt(3), with two degrees of freedom
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert seeds_test(varies, constant) == pytest.approx(2 * t.sf(0.11 / (0.01 / 3**0.5), df=2))
    assert seeds_test([0.2, 0.2, 0.2], [0.1, 0.1, 0.1]) == 0 and seeds_test([0.2] * 3, [0.2] * 3) == 1
    assert users_test(np.ones(5), np.ones(5)) == (1, 0, 0) and users_test(np.ones(5), np.zeros(5)) == (0, 1, 1)


def test_the_interval_of_a_lead_is_that_of_the_paired_test():
    first, second = np.random.default_rng(3).random((2, 50))
    chance, low, high = users_test(first, second)
    difference = first - second
    half = t.ppf(0.975, 49) * difference.std(ddof=1) / 50**0.5
    assert (low, high) == pytest.approx((difference.mean() - half, difference.mean() + half))
    assert chance == pytest.approx(2 * t.sf(abs(difference.mean()) / (difference.std(ddof=1) / 50**0.5), 49))


@pytest.mark.parametrize("n", [0, 1, 2, 6])
def test_holms_correction_is_the_closure_of_bonferronis(n):
    """A p corrected is the largest Bonferroni p of any subset of the family that it belongs to."""
    random = np.random.default_rng(n)
    for _ in range(20):
        chances = random.choice([0.0, 0.001, 0.01, 0.02, 0.3, 1.0, *random.random(4)], n)
        subsets = [part for size in range(1, n + 1) for part in combinations(range(n), size)]
        closed = [min(1, max(len(part) * chances[list(part)].min() for part in subsets if i in part)) for i in range(n)]
        assert holm(chances) == pytest.approx(closed)


@pytest.mark.parametrize("seed", range(20))
def test_slices_part_the_users_into_thirds_as_far_as_ties_allow(seed):
    random = np.random.default_rng(seed)
    n = int(random.integers(1, 200))
    popularity, history = random.integers(0, int(random.integers(1, 50)), n), random.integers(1, int(random.integers(2, 50)), n)
    found = slices(popularity, history)
    for group, values in (("popularity", popularity), ("history", history)):
        parts = [part for part in found if part.group == group]
        assert (sum(part.users.astype(int) for part in parts) == 1).all()
        assert all(part.users.any() for part in parts)
        if group == "popularity":
            assert [part.name for part in parts if (values[part.users] == 0).any()] == ["cold"] * int((values == 0).any())
        ends = [(values[part.users].min(), values[part.users].max()) for part in parts]
        assert all(before[1] < after[0] for before, after in zip(ends, ends[1:]))
    if len(np.unique(history)) == n:  # no ties
        sizes = [part.users.sum() for part in found if part.group == "history"]
        assert max(sizes) - min(sizes) <= 1


def test_spearman_with_ties_and_its_interval():
    random = np.random.default_rng(3)
    x = random.integers(0, 6, 40)
    y = x + random.normal(size=40)
    found = spearman(x, y)
    assert found["rho"] == pytest.approx(spearmanr(x, y).statistic) and found["n"] == 40
    again = [spearmanr(x[pick], y[pick]).statistic for pick in random.integers(40, size=(200, 40))]
    assert (found["low"], found["high"]) == pytest.approx(np.quantile(again, [0.025, 0.975]), abs=0.05)
    assert spearman(x, y) == found  # the same draws


def test_spearman_of_few_or_constant_points():
    assert spearman([1, 2, 3], [3, 2, 1]) == {"n": 3, "rho": pytest.approx(-1), "low": None, "high": None}
    assert "no interval from fewer than 5" in correlation(spearman([1, 2, 3], [3, 2, 1]))
    assert "not defined" in correlation(spearman([1, 1, 1, 1, 1, 1], [3, 2, 1, 5, 6, 7]))
