"""Columns made from semantic IDs: a hash that anyone can compute again, bounded vocabularies, and no level that only counts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_r3vae.errors import UserError
from recbole_r3vae.sid.features import feature_columns, prefix_hash, shared_codes
from recbole_r3vae.sid.table import SemanticIDs

TUPLES = st.lists(st.integers(0, 2**20), min_size=1, max_size=5)


def table(codes, sizes, meta=None) -> SemanticIDs:
    codes = torch.cat([torch.full((1, len(sizes)), -1), torch.as_tensor(codes)])
    return SemanticIDs(codes, sizes, ["[PAD]", *(f"i{n}" for n in range(len(codes) - 1))], meta)


def as_documented(codes) -> int:
    """The hash in Python's own integers."""
    h, below = 0, 2**64
    for code in codes:
        z = ((h ^ code) + 0x9E3779B97F4A7C15) % below
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % below
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % below
        h = z ^ (z >> 31)
    return h


@settings(deadline=None, max_examples=50)
@given(TUPLES)
def test_the_hash_is_the_documented_one(codes):
    assert int(prefix_hash(np.array([codes]))[0]) == as_documented(codes)


def test_the_hash_never_changes():
    assert prefix_hash(np.array([[0]])).tolist() == [0xE220A8397B1DCDAF]  # the first number of SplitMix64 from 0, as published
    assert prefix_hash(np.array([[0, 0], [1, 2]])).tolist() == [0xA706DD2F4D197E6F, 0xBCD9DBB49673066B]


def test_the_hash_spreads_prefixes_evenly():
    pairs = np.stack(np.meshgrid(np.arange(256), np.arange(256)), -1).reshape(-1, 2)
    counts = np.bincount((prefix_hash(pairs) % np.uint64(1024)).astype(int), minlength=1024)
    assert ((counts - 64) ** 2 / 64).sum() / 1023 < 1.2  # chi-square a degree of freedom, 1 for random buckets


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 4), st.integers(1, 30), st.integers(0, 40), st.integers(0, 2**32 - 1))
def test_columns_are_bounded_and_equal_where_prefixes_are(n_levels, n, buckets, seed):
    sizes = (3,) * n_levels
    codes = np.random.default_rng(seed).integers(0, 3, (n, n_levels))
    columns = feature_columns(table(codes, sizes), buckets)
    prefixes = [f"sid_prefix_{length}" for length in range(2, n_levels + 1)] if buckets else []
    assert list(columns) == [*(f"sid_{level}" for level in range(1, n_levels + 1)), *prefixes]
    for field, (values, size) in columns.items():
        assert values.dtype == torch.int64 and values[0] == 0 and len(values) == n + 1
        assert size == (buckets + 1 if "prefix" in field else 4) and 1 <= values[1:].min() and values.max() < size
    for level in range(n_levels):
        assert torch.equal(columns[f"sid_{level + 1}"][0][1:], torch.from_numpy(codes[:, level]) + 1)
    for length in range(2, n_levels + 1) if buckets else ():
        expected = [1 + as_documented(row[:length].tolist()) % buckets for row in codes]
        assert columns[f"sid_prefix_{length}"][0][1:].tolist() == expected


@pytest.mark.parametrize("buckets", [-1, 2.5, True, None])
def test_buckets_are_a_whole_number(buckets):
    with pytest.raises(UserError, match="sid_prefix_buckets is"):
        feature_columns(table([[0, 1]], (2, 2)), buckets)


def test_the_level_of_the_suffix_policy_is_no_feature():
    codes = [[0, 1, 0], [0, 1, 1], [1, 1, 0]]
    cut = shared_codes(table(codes, (2, 2, 2), {"collision_policy": "suffix"}))
    assert cut.codes[1:].tolist() == [[0, 1], [0, 1], [1, 1]] and cut.codebook_sizes == (2, 2)
    for meta in ({"collision_policy": "reassign"}, None):
        whole = table(codes, (2, 2, 2), meta)
        assert shared_codes(whole) is whole


def test_codes_without_an_order_have_a_column_a_digit_and_none_a_prefix():
    ordered = table([[0, 1, 2], [2, 0, 1]], (3, 2, 3))
    parallel = SemanticIDs(ordered.codes, ordered.codebook_sizes, ordered.item_ids, ordered=False)
    columns = feature_columns(parallel, 50)
    assert list(columns) == ["sid_1", "sid_2", "sid_3"] and len(feature_columns(ordered, 50)) == 5
    assert all(torch.equal(columns[name][0], feature_columns(ordered, 50)[name][0]) for name in columns)
    assert not shared_codes(parallel).ordered
