"""Inner products over the catalogue against the whole matrix, sorted."""

from __future__ import annotations

import pytest
import torch

from recbole_r3vae.errors import UserError
from recbole_r3vae.model.generator.decoding import vectors as vectors_module
from recbole_r3vae.model.generator.decoding.vectors import SummedCodes, rank_by_vectors, rankings_by_vectors


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


# -- vectors that are sums of codes


@pytest.fixture
def summed():
    """Items of three codes, some alike, two users, and the items' vectors written out."""
    generator = torch.Generator().manual_seed(5)
    tokens = 1 + torch.stack([torch.randint(4, (60,), generator=generator) + 4 * level for level in range(3)], 1)
    tokens[0] = 0
    table = torch.randn(13, 7, generator=generator, dtype=torch.float64)
    table[0] = 0
    written = torch.zeros(60, 7, dtype=torch.float64)
    for item in range(1, 60):
        vector = sum(table[token] for token in tokens[item].tolist())
        written[item] = vector / vector.square().sum().sqrt()
    return tokens, table, written, torch.randn(4, 7, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("rows", [1, 7, 65536])
def test_vectors_of_codes_are_their_sums_of_length_one(summed, monkeypatch, rows):
    monkeypatch.setattr(vectors_module, "_ROWS", rows)
    tokens, table, written, _ = summed
    vectors = SummedCodes(tokens, table)
    assert len(vectors) == 60 and vectors.scale[0] == 0  # no code, no direction
    for items in (torch.arange(60), torch.tensor([[3, 3], [0, 59]]), torch.tensor([8])):
        torch.testing.assert_close(vectors[items], written[items])
    assert vectors.float().table.dtype == vectors.float()[torch.tensor([1])].dtype == torch.float32


@pytest.mark.parametrize("chunk", [None, 16, 33])
def test_look_ups_rank_as_products_do(summed, oracle, every_rule, chunk):
    tokens, table, written, users = summed
    rules = every_rule(4, 60, 1)
    scores = users @ written.T
    for rule, (found, values) in zip(rules, rankings_by_vectors(users, SummedCodes(tokens, table), 12, rules, chunk=chunk)):
        _, expected = oracle(scores.float(), rule, 12)
        torch.testing.assert_close(values, expected)
        torch.testing.assert_close(values, scores.float().gather(1, found))  # items of equal codes may change places
        assert all(len(set(row)) == 12 for row in found.tolist())


def test_mixed_precision_around_look_ups_changes_nothing(summed):
    tokens, table, _, users = summed
    vectors, users = SummedCodes(tokens, table).float(), users.float()
    found, values = rank_by_vectors(users, vectors, 20)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = rank_by_vectors(users, vectors, 20)
    assert torch.equal(mixed[0], found) and torch.equal(mixed[1], values)
