"""Items by the semantic ID that they share, against loops over items."""

from __future__ import annotations

import pytest
import torch

from recbole_r3vae.errors import UserError
from recbole_r3vae.model.generator.decoding.buckets import Buckets
from recbole_r3vae.model.generator.decoding.rules import Excluded
from recbole_r3vae.sid.table import SemanticIDs

N = 40


@pytest.fixture(params=range(4))
def table(request) -> SemanticIDs:
    drawn = torch.Generator().manual_seed(request.param)
    codes = torch.stack([torch.randint(size, (N - 1,), generator=drawn) for size in (2, 3, 4)], 1)
    return SemanticIDs(torch.cat([torch.full((1, 3), -1), codes]), (2, 3, 4), ["[PAD]", *map(str, range(1, N))])


def members(table) -> dict[tuple, list[int]]:
    found: dict[tuple, list[int]] = {}
    for item, code in enumerate(table.codes.tolist()[1:], start=1):
        found.setdefault(tuple(code), []).append(item)
    return dict(sorted(found.items()))


def test_buckets_are_the_distinct_ids_in_order(table):
    buckets, expected = Buckets(table, "cpu"), list(members(table).values())
    assert len(buckets) == len(expected) == buckets.tree.n_items - 1
    every = torch.arange(len(buckets) + 1)
    assert [[item for item in row if item] for row in buckets.items(every).tolist()] == [[], *expected]
    assert buckets.size.tolist() == [0, *map(len, expected)]
    assert buckets.first_items(every)[1:].tolist() == [items[0] for items in expected]
    assert buckets.of_item[0] == 0 and all(buckets.of_item[item] == row for row, items in enumerate(expected, start=1) for item in items)
    assert buckets.items(torch.zeros(2, 3, dtype=torch.int64)).tolist() == [[[0]] * 3] * 2


def test_a_bucket_is_open_where_one_item_is(table):
    buckets, expected = Buckets(table, "cpu"), list(members(table).values())
    flags = torch.rand(3, N, generator=torch.Generator().manual_seed(5)) < 0.3
    each = torch.tensor([[False, *(any(bool(row[item]) for item in items) for items in expected)] for row in flags])
    assert torch.equal(buckets.allowed(flags, 3), each)
    assert torch.equal(buckets.allowed(flags[1], 3), each[1])
    assert torch.equal(buckets.allowed(Excluded(*(~flags).nonzero(as_tuple=True)), 3), each)
    assert buckets.allowed(None, 3) is None
    with pytest.raises(UserError, match="allowed must be bool"):
        buckets.allowed(flags, 2)


@pytest.mark.parametrize("n", [1, 2, 50])
def test_nearest_against_loops(table, n):
    buckets, expected = Buckets(table, "cpu"), [[], *members(table).values()]
    drawn = torch.Generator().manual_seed(2)
    found = torch.randint(len(buckets) + 1, (3, 5), generator=drawn)
    vectors, catalogue = torch.randn(3, 5, 6, generator=drawn), torch.randn(N, 6, generator=drawn)
    flags = torch.rand(3, N, generator=drawn) < 0.7
    items, products = buckets.nearest(found, vectors, catalogue, n, flags)
    for user in range(3):
        for place, bucket in enumerate(found[user].tolist()):
            score = {item: float(vectors[user, place] @ catalogue[item]) for item in expected[bucket] if flags[user, item]}
            wanted = sorted(score, key=score.get, reverse=True)[:n]
            got = items[user, place].tolist()
            assert got[: len(wanted)] == wanted and not any(got[len(wanted) :])
            assert products[user, place, : len(wanted)].tolist() == pytest.approx([score[item] for item in wanted], abs=1e-5)
            assert (products[user, place, len(wanted) :] == -torch.inf).all()
