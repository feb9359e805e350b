"""Ranking a catalogue chunk by chunk against sorting the whole matrix of scores."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_r3vae.errors import UserError
from recbole_r3vae.model.generator.decoding import catalogue
from recbole_r3vae.model.generator.decoding.catalogue import rank_catalogue
from recbole_r3vae.model.generator.decoding.rules import Excluded


def ranked(scores, k, rules=(None,), **options):
    """Of a matrix [B, n_items], handed out in ranges."""
    return rank_catalogue(lambda begin, end: scores[:, begin:end].T.clone(), *scores.shape, k, rules, **options)


def random_scores(n_users, n_items, seed, few_values):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(n_users, n_items, generator=generator)
    if few_values:  # most places are settled by the order of items
        scores = scores.round()
        scores[scores > 1] = -torch.inf
    scores[:, 0] = 100  # the padding item must not come in
    return scores


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 5), st.integers(2, 200), st.integers(1, 40), st.integers(1, 250), st.booleans(), st.integers(0, 2**31)
)
def test_equals_sorting_everything(oracle, every_rule, n_users, n_items, k, chunk, few_values, seed):
    scores = random_scores(n_users, n_items, seed, few_values)
    rules = every_rule(n_users, n_items, seed)
    rankings = ranked(scores, k, rules, strict=False, chunk=chunk)
    for rule, (items, values) in zip(rules, rankings, strict=True):
        expected_items, expected_values = oracle(scores, rule, k)
        assert torch.equal(items, expected_items) and torch.equal(values, expected_values)
        assert (items.dtype, values.dtype) == (torch.int64, torch.float32)


@pytest.mark.parametrize("dim", [1, 2])
def test_a_bias_is_added_before_ranking(oracle, every_rule, dim):
    scores = random_scores(4, 90, 0, few_values=False)
    bias = torch.randn(*scores.shape[2 - dim :], generator=torch.Generator().manual_seed(1))
    rules = every_rule(4, 90, 2)
    for rule, (items, values) in zip(rules, ranked(scores, 7, rules, bias=bias, chunk=32)):
        expected_items, expected_values = oracle(scores + bias, rule, 7)
        assert torch.equal(items, expected_items) and torch.equal(values, expected_values)


def test_each_item_is_scored_once_whatever_the_rules(every_rule):
    asked = []

    def score(begin, end):
        asked.append((begin, end))
        return torch.zeros(end - begin, 2)

    rank_catalogue(score, 2, 50, 3, every_rule(2, 50, 0), chunk=20)
    assert asked == [(1, 21), (21, 41), (41, 50)]


def test_no_more_scores_are_held_than_documented(monkeypatch):
    monkeypatch.setitem(catalogue.CHUNK_CELLS, "cpu", 4 * 32)
    sizes = []

    def score(begin, end):
        sizes.append((end - begin) * 4)
        return torch.zeros(end - begin, 4)

    rank_catalogue(score, 4, 500, 3)
    assert max(sizes) == 4 * 32 and sum(sizes) == 4 * 499


def test_too_few_items_are_an_error_or_filled_up():
    scores = random_scores(2, 30, 0, few_values=False)
    allowed = torch.zeros(2, 30, dtype=torch.bool)
    allowed[0, :9], allowed[1, [0, 4, 17]] = True, True
    with pytest.raises(UserError, match="user 1 of the batch has only 2 possible items for k=5"):
        ranked(scores, 5, [allowed])
    [(items, values)] = ranked(scores, 5, [allowed], strict=False)
    assert (items[0] > 0).all() and items[1, 2:].tolist() == [0] * 3 and (values[1, 2:] == -torch.inf).all()
    with pytest.raises(UserError, match="only 29 possible items for k=30"):
        ranked(scores, 30)


@pytest.mark.parametrize("sign", [1, -1])
def test_nan_is_an_error_whatever_its_sign(sign):
    scores = random_scores(3, 70, 0, few_values=False)
    scores[1, 42] = torch.tensor(torch.nan).copysign(torch.tensor(float(sign)))
    with pytest.raises(UserError, match="NaN.*learning_rate"):
        ranked(scores, 2, chunk=20)


def test_a_rule_that_does_not_fit_and_k_below_one_are_refused():
    scores = random_scores(3, 20, 0, few_values=False)
    with pytest.raises(UserError, match=r"got torch.bool \[2, 20\]"):
        ranked(scores, 2, [torch.ones(2, 20, dtype=torch.bool)])
    with pytest.raises(UserError, match="k must be at least 1, got 0; ask"):
        ranked(scores, 0)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_gives_what_the_cpu_gives(every_rule):
    scores, rules = random_scores(4, 3000, 0, few_values=True), every_rule(4, 3000, 1)
    there = scores.cuda()
    found = rank_catalogue(lambda begin, end: there[:, begin:end].T.clone(), 4, 3000, 20, rules, chunk=700, device="cuda")
    for (items, values), (expected_items, expected_values) in zip(found, ranked(scores, 20, rules)):
        assert torch.equal(items.cpu(), expected_items) and torch.equal(values.cpu(), expected_values)


def test_heads_add_up():
    """Two heads blended item by item, and what is excluded stays out."""
    one, other = random_scores(3, 60, 0, few_values=False), random_scores(3, 60, 1, few_values=False)
    met = Excluded(torch.tensor([0, 1]), torch.tensor([5, 6]))
    [blend] = rank_catalogue(lambda begin, end: one[:, begin:end].T + 0.5 * other[:, begin:end].T, 3, 60, 5, [met])
    [whole] = ranked(one + 0.5 * other, 5, [met])
    assert torch.equal(blend[0], whole[0]) and torch.equal(blend[1], whole[1])
