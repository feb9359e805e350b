"""Sums of digits' log-probabilities over the catalogue against adding them up item by item."""

from __future__ import annotations

import pytest
import torch

from recbole_r3vae.errors import UserError
from recbole_r3vae.model.generator.decoding.digits import rank_by_digits, rankings_by_digits, scores_of_digits
from recbole_r3vae.model.generator.decoding.rules import Excluded

N_USERS = 5


def random_heads(sizes, n_items, seed, dtype=torch.float32):
    """Distributions over m codebooks, quarters so that sums are exact in any order, and codes of which many coincide."""
    generator = torch.Generator().manual_seed(seed)
    log_probs = [(-torch.randint(0, 40, (N_USERS, size), generator=generator) / 4).to(dtype) for size in sizes]
    codes = torch.stack([torch.randint(size, (n_items,), generator=generator) for size in sizes], 1)
    codes[0] = -1
    return log_probs, codes


def added_up(log_probs, codes):
    """float32 [B, n_items]; the padding item scores nothing."""
    scores = torch.full((N_USERS, len(codes)), 99.0)
    for user in range(N_USERS):
        for item, row in enumerate(codes.tolist()[1:], start=1):
            scores[user, item] = sum(float(digit[user, code]) for digit, code in zip(log_probs, row))
    return scores


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("sizes", [(7,), (3, 3), (4, 2, 5, 3), (2,) * 12])
@pytest.mark.parametrize("chunk", [None, 17])
def test_equals_adding_up_item_by_item(oracle, every_rule, sizes, dtype, chunk):
    log_probs, codes = random_heads(sizes, 120, len(sizes), dtype)
    scores, rules = added_up(log_probs, codes), every_rule(N_USERS, 120, 3)
    heads = [log_probs]
    if len(set(sizes)) == 1:
        heads.append(torch.stack(log_probs, 1))  # [B, m, K]
    for head in heads:
        for rule, (items, values) in zip(rules, rankings_by_digits(head, codes, 9, rules, chunk=chunk)):
            expected_items, expected_values = oracle(scores, rule, 9)
            assert torch.equal(items, expected_items) and torch.equal(values, expected_values)
            alone = rank_by_digits(head, codes, 9, rule, chunk=chunk)
            assert torch.equal(alone[0], items) and torch.equal(alone[1], values)


def test_a_bias_reorders_items_of_equal_codes(oracle):
    log_probs, codes = random_heads((2, 2), 50, 0)
    bias = torch.arange(50) / 64
    items, values = rank_by_digits(log_probs, codes, 8, bias=bias)
    expected_items, expected_values = oracle(added_up(log_probs, codes) + bias, None, 8)
    assert torch.equal(items, expected_items) and torch.equal(values, expected_values)


def test_given_items_score_what_ranking_says():
    generator = torch.Generator().manual_seed(0)
    log_probs = torch.randn(N_USERS, 6, 16, generator=generator).log_softmax(2)
    codes = torch.randint(16, (40, 6), generator=generator)
    items, values = rank_by_digits(log_probs, codes, 10)
    for place in range(10):
        assert torch.allclose(scores_of_digits(log_probs, codes[items[:, place]]), values[:, place], atol=1e-5, rtol=0)
    by_hand = sum(log_probs[2, digit, code] for digit, code in enumerate(codes[7].tolist()))
    assert float(scores_of_digits(log_probs, codes[torch.full((N_USERS,), 7)])[2]) == pytest.approx(float(by_hand), abs=1e-5)


def test_codes_of_any_integers_and_probability_zero():
    log_probs, codes = random_heads((3, 3), 30, 1)
    log_probs[0][:, 1] = -torch.inf
    items, _ = rank_by_digits(log_probs, codes.int(), 29, strict=False)
    impossible = set((codes[:, 0] == 1).nonzero().flatten().tolist())
    assert impossible and all(not impossible & set(row) for row in items.tolist())
    with pytest.raises(UserError, match=f"only {29 - len(impossible)} possible items for k=29"):
        rank_by_digits(log_probs, codes, 29)


def test_nan_is_an_error():
    log_probs, codes = random_heads((3, 3), 30, 1)
    log_probs[1][3] = torch.nan
    with pytest.raises(UserError, match="NaN"):
        rank_by_digits(log_probs, codes, 2, Excluded(torch.tensor([0]), torch.tensor([1])))


def test_another_number_of_digits_is_refused():
    log_probs, codes = random_heads((3, 3), 30, 1)
    for score in (lambda: rank_by_digits(log_probs, codes[:, :1], 2), lambda: scores_of_digits(torch.stack(log_probs, 1), codes[:5, :1])):
        with pytest.raises(ValueError, match="2 distributions for codes of 1 digits"):
            score()


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_gives_what_the_cpu_gives(every_rule):
    log_probs, codes = random_heads((8,) * 6, 2000, 0)
    rules = every_rule(N_USERS, 2000, 1)
    here = rankings_by_digits(log_probs, codes, 20, rules)
    there = rankings_by_digits([digit.cuda() for digit in log_probs], codes.cuda(), 20, rules, chunk=300)
    for (items, values), (expected_items, expected_values) in zip(there, here):
        assert torch.equal(items.cpu(), expected_items) and torch.equal(values.cpu(), expected_values)
