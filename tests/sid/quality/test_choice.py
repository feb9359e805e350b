"""The rule that chooses a tokenizer: on reports of codes whose worth is known, and its properties on random reports."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_r3vae.errors import UserError
from recbole_r3vae.sid.quality.choice import choose, meaning
from recbole_r3vae.sid.quality.report import quality_report

N, D = 512, 24


@pytest.fixture(scope="module")
def catalogue():
    """Unit vectors [512, 24] of a tree with 8 branches of 8 twigs of 8 items, and the tree's codes [512, 3]."""
    generator = torch.Generator().manual_seed(0)
    branch, twig, leaf = (torch.randn(8**level, D, generator=generator) for level in (1, 2, 3))
    item = torch.arange(N)
    x = torch.nn.functional.normalize(branch[item // 64] + 0.6 * twig[item // 8] + 0.3 * leaf[item], dim=1)
    return x, torch.stack([item // 64, item // 8 % 8, item % 8], 1)


def report(x, codes, sizes):
    return quality_report(codes, sizes, {"raw": x}, x.square().sum(1))


def shuffled(codes, seed=1):
    return codes[torch.randperm(len(codes), generator=torch.Generator().manual_seed(seed))]


def ranks(reports):
    return [verdict.rank for verdict in choose(reports)]


def made(levels, unique, variance=0.95, items=1000):
    """A report of levels (codebook size, clusters, sc, pd)."""
    return {
        "items": items,
        "unique_ratio": unique,
        "reconstruction": {"variance": variance},
        "levels": [
            {"codebook_size": size, "clusters": clusters, "spaces": {"raw": {"sc": sc, "pd": pd}}} for size, clusters, sc, pd in levels
        ],
    }


def test_meaning_is_the_area_under_sc_minus_pd():
    x = made([(10, 10, 0.5, -1.0), (10, 100, 0.8, -1.5)], 0.1)  # resolutions 0, 1/3, 2/3; nothing after it
    mean_cosine = 1 - 0.95 * 1000 / 999
    assert meaning(x) == pytest.approx(((mean_cosine + 1.5) / 2 + (1.5 + 2.3) / 2) / 3)


def test_before_the_first_level_cohesion_is_the_mean_cosine(catalogue):
    x, _ = catalogue
    pairs = x @ x.T
    mean_cosine = (pairs.sum() - pairs.diagonal().sum()) / (N * (N - 1))
    one = report(x, torch.zeros(N, 1, dtype=torch.int64), [4])
    assert one["levels"][0]["spaces"]["raw"]["sc"] == pytest.approx(mean_cosine.item(), abs=1e-6)
    assert 1 - one["reconstruction"]["variance"] * N / (N - 1) == pytest.approx(mean_cosine.item(), abs=1e-6)
    assert meaning(one) == 0.0  # one cluster: no resolution


def test_a_level_that_separates_nothing_changes_nothing(catalogue):
    x, codes = catalogue
    dead = torch.cat([codes, torch.zeros(N, 1, dtype=torch.int64)], 1)
    assert meaning(report(x, dead, [8] * 4)) == pytest.approx(meaning(report(x, codes, [8] * 3)))


def test_without_clusters_of_two_cohesion_is_that_of_the_level_above():
    whole = made([(10, 10, 0.5, -1.0), (100, 1000, None, -1.9)], 1.0)
    assert meaning(whole) == meaning(made([(10, 10, 0.5, -1.0), (100, 1000, 0.5, -1.9)], 1.0))


def test_the_tree_is_chosen_and_random_and_collapsed_codes_are_rejected(catalogue):
    x, codes = catalogue
    partly = codes.clone()
    partly[:, 1:] = codes[:, 1:] // 4  # two codes a level
    random = torch.stack([torch.randperm(N, generator=torch.Generator().manual_seed(2)) % k for k in (8, 7, 9)], 1)
    reports = [
        report(x, random, [8, 8, 9]),
        report(x, shuffled(codes), [8] * 3),
        report(x, torch.zeros_like(codes), [8] * 3),
        report(x, partly, [8] * 3),
        report(x, codes, [8] * 3),
    ]
    assert [r["unique_ratio"] for r in reports][:2] == [pytest.approx(504 / 512), 1.0]  # as unique as the tree's
    verdicts = choose(reports)
    assert verdicts[4].rank == 1 and verdicts[4].rejected is None
    assert all(verdict.rejected.startswith("score below") for verdict in verdicts[:4])
    assert verdicts[1].score < 0.75 * verdicts[4].score
    assert verdicts[2].score == 0.0 and verdicts[2].rank == 5


def test_a_coarser_step_to_the_same_clusters_scores_less(catalogue):
    """64 clusters in one step and in two: SC and PD of the last level are equal, what leads there is not."""
    x, codes = catalogue
    flat = torch.stack([codes[:, 0] * 8 + codes[:, 1], codes[:, 2]], 1)
    assert meaning(report(x, flat, [64, 8])) < meaning(report(x, codes, [8, 8, 8]))


GOOD = [(64, 64, 0.4, -1.8), (64, 600, 0.6, -1.85), (64, 900, 0.8, -1.9)]


def test_unique_ratio_decides_among_meaningful_codes_only():
    reports = [made(GOOD, 0.90), made(GOOD, 0.96), made([(64, 64, 0.06, -0.8), (64, 999, 0.05, -1.9)], 1.0)]
    verdicts = choose(reports)
    assert [v.rank for v in verdicts] == [2, 1, 3]
    assert verdicts[0].rejected == "unique ratio below 0.9120"
    assert verdicts[2].rejected.startswith("score below")


def test_fewer_levels_then_fewer_codes_then_score():
    larger = [(128, *level[1:]) for level in GOOD]
    longer = [*GOOD, (64, 900, 0.8, -1.9)]
    better = [(64, clusters, sc + 0.01, pd) for _, clusters, sc, pd in GOOD]
    reports = [made(longer, 0.9), made(larger, 0.9), made(GOOD, 0.9), made(better, 0.9)]
    assert ranks(reports) == [4, 3, 2, 1]


def test_scores_below_zero_do_no_harm():
    worse, bad = ([(10, 10, sc, 0.0), (10, 100, sc, 0.0)] for sc in (-0.2, -0.1))
    verdicts = choose([made(worse, 0.1, variance=1.0), made(bad, 0.1, variance=1.0)])
    assert [v.rank for v in verdicts] == [2, 1] and verdicts[1].score < 0


@st.composite
def random_reports(draw):
    levels, clusters = [], 1
    for _ in range(draw(st.integers(1, 4))):
        clusters = draw(st.integers(clusters, 1000))
        sc = draw(st.none() | st.floats(-0.1, 1))
        pd = draw(st.floats(-4, 0)) if clusters > 1 else None
        levels.append((draw(st.integers(2, 512)), clusters, sc, pd))
    return made(levels, clusters / 1000, draw(st.floats(0.1, 1)))


@settings(max_examples=40, deadline=None)
@given(st.lists(random_reports(), min_size=1, max_size=6), st.randoms())
def test_ranks_are_a_permutation_that_the_order_of_trials_does_not_change(reports, rng):
    verdicts = choose(reports)
    assert sorted(v.rank for v in verdicts) == list(range(1, len(reports) + 1))
    assert next(v for v in verdicts if v.rank == 1).rejected is None
    eligible = [v.rank for v in verdicts if v.rejected is None]
    assert sorted(eligible) == list(range(1, len(eligible) + 1))
    order = list(range(len(reports)))
    rng.shuffle(order)
    again = choose([reports[i] for i in order])
    by_place = {i: again[place] for place, i in enumerate(order)}
    best = next(i for i in range(len(reports)) if verdicts[i].rank == 1)
    new_best = next(i for i in range(len(reports)) if by_place[i].rank == 1)
    assert best == new_best or _key(reports[best]) == _key(reports[new_best])
    assert [by_place[i].rejected for i in range(len(reports))] == [v.rejected for v in verdicts]


def _key(x):
    sizes = [level["codebook_size"] for level in x["levels"]]
    return len(sizes), sum(sizes), meaning(x)


@settings(max_examples=40, deadline=None)
@given(random_reports(), st.floats(0.01, 0.5))
def test_more_cohesion_and_separation_at_equal_size_is_chosen(base, step):
    better = copy.deepcopy(base)
    for level in better["levels"]:
        scores = level["spaces"]["raw"]
        scores["sc"] = None if scores["sc"] is None else scores["sc"] + step
        scores["pd"] = None if scores["pd"] is None else scores["pd"] - step
    if math.isclose(meaning(better), meaning(base)):  # one cluster throughout
        assert ranks([base, better]) == [1, 2]
    elif meaning(base) > 0:
        assert ranks([base, better]) == [2, 1]


def test_a_report_by_digit_is_refused(catalogue):
    x, codes = catalogue
    by_digit = quality_report(codes, (8, 8, 8), {"raw": x}, x.square().sum(1), ordered=False)
    for judge in (meaning, lambda one: choose([report(x, codes, (8, 8, 8)), one])):
        with pytest.raises(UserError, match="no order cannot be chosen.*; compare such tokenizers by the validation metric"):
            judge(by_digit)
