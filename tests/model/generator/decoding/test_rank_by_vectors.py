"""Inner products over the catalogue against the whole matrix, sorted."""

from __future__ import annotations

import pytest
import torch

from recbole_r3vae.errors import UserError
from recbole_r3vae.model.generator.decoding.vectors import rank_by_vectors, rankings_by_vectors


def random_vectors(n_users, n_items, seed, dtype=torch.float32):
    """Small whole numbers: products are exact in any order, and many are equal."""
    generator = torch.Generator().manual_seed(seed)
    users, items = (torch.randint(-3, 4, (n, 5), generator=generator).to(dtype) for n in (n_users, n_items))
    items[0] = 100 * users[0]  # the padding item must not come in, whatever its vector
    return users, items


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("chunk", [None, 16, 33])
def test_equals_sorting_the_matrix(oracle, every_rule, dtype, chunk):
    users, items = random_vectors(6, 150, 0, dtype)
    rules = every_rule(6, 150, 1)
    for rule, (found, values) in zip(rules, rankings_by_vectors(users, items, 12, rules, chunk=chunk)):
        expected_items, expected_values = oracle((users.float() @ items.float().T), rule, 12)
        assert torch.equal(found, expected_items) and torch.equal(values, expected_values)
        alone = rank_by_vectors(users, items, 12, rule, chunk=chunk)
        assert torch.equal(alone[0], found) and torch.equal(alone[1], values)


@pytest.mark.parametrize("dim", [1, 2])
def test_a_bias_counts(oracle, dim):
    users, items = random_vectors(3, 80, 2)
    bias = torch.arange(240.0).view(3, 80) % 7 if dim == 2 else torch.arange(80.0) % 7
    found, values = rank_by_vectors(users, items, 10, bias=bias)
    expected_items, expected_values = oracle(users @ items.T + bias, None, 10)
    assert torch.equal(found, expected_items) and torch.equal(values, expected_values)


def test_mixed_precision_around_it_changes_nothing():
    users, items = (torch.randn(n, 16, generator=torch.Generator().manual_seed(n)) for n in (4, 500))
    found, values = rank_by_vectors(users, items, 20)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = rank_by_vectors(users, items, 20)
    assert torch.equal(mixed[0], found) and torch.equal(mixed[1], values)


def test_nothing_is_written_to():
    users, items = random_vectors(3, 40, 3)
    kept = users.clone(), items.clone()
    rank_by_vectors(users, items, 5, bias=torch.ones(40))
    assert torch.equal(users, kept[0]) and torch.equal(items, kept[1])


def test_vectors_that_diverged_are_refused():
    users, items = random_vectors(3, 40, 3)
    users[1, 2] = torch.nan
    with pytest.raises(UserError, match="NaN"):
        rank_by_vectors(users, items, 5)
