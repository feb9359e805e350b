"""Usage of codebooks and of the space of semantic IDs against counting in Python."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch

from recbole_r3vae.errors import UserError
from recbole_r3vae.sid.quality.usage import code_usage

CASES = [(40, (3, 4)), (60, (2, 3, 4, 5)), (80, (5, 30, 20, 3)), (30, (1, 1)), (50, (7,)), (1, (4, 4)), (2, (2, 2, 2))]


@pytest.mark.parametrize("n, sizes", CASES)
@pytest.mark.parametrize("seed", range(2))
def test_code_usage_against_loops(random_case, n, sizes, seed):
    codes, _ = random_case(n, 1, sizes, seed)
    report = code_usage(codes, sizes)
    for level, size in enumerate(sizes):
        counts = Counter(codes[:, level].tolist())
        values = [counts[code] for code in range(size)]
        entropy = -sum(count / n * math.log(count / n) for count in counts.values())
        gini = sum(abs(a - b) for a in values for b in values) / (2 * size * n)
        row = report["levels"][level]
        assert (row["codebook_size"], row["used"], row["reachable"]) == (size, len(counts), min(size, n))
        assert row["usage"] == len(counts) / size and row["usage_of_reachable"] == len(counts) / min(size, n)
        assert row["perplexity"] == pytest.approx(math.exp(entropy), rel=1e-12)
        assert row["gini"] == pytest.approx(gini, abs=1e-12)
    sids = Counter(map(tuple, codes.tolist()))
    assert report["items"] == n and report["distinct_sids"] == len(sids)
    assert report["unique_ratio"] == len(sids) / n and report["items_per_used_sid"] == n / len(sids)
    assert report["collision_rate"] == sum(count for count in sids.values() if count > 1) / n
    assert report["largest_sid"] == max(sids.values())


def test_code_usage_by_hand():
    """Level 1 uses 2 of 4 codes, three times and once; items 0 and 1 share their SID."""
    report = code_usage(torch.tensor([[0, 1], [0, 1], [0, 0], [3, 1]]), (4, 2))
    first = report["levels"][0]
    assert (first["used"], first["usage"], first["usage_of_reachable"]) == (2, 0.5, 0.5)
    assert first["perplexity"] == pytest.approx(4 / 27**0.25)  # exp(-(3/4 log 3/4 + 1/4 log 1/4))
    assert first["gini"] == pytest.approx((2 + 3 * 2 + 1 * 2) / (4 * 4))  # |differences| over pairs / (K n)
    assert (report["unique_ratio"], report["collision_rate"], report["largest_sid"]) == (0.75, 0.5, 2)


@pytest.mark.parametrize("size", [1, 2, 9])
def test_code_usage_at_its_extremes(size):
    even = code_usage(torch.arange(size).repeat(3)[:, None], (size,))["levels"][0]
    assert even["perplexity"] == pytest.approx(size) and even["gini"] == pytest.approx(0, abs=1e-12)
    one = code_usage(torch.zeros(7, 1, dtype=torch.int64), (size,))["levels"][0]
    assert one["perplexity"] == 1 and one["gini"] == pytest.approx(1 - 1 / size) and one["used"] == 1
    few = code_usage(torch.tensor([[0]]), (size,))["levels"][0]
    assert (few["reachable"], few["usage_of_reachable"], few["usage"]) == (1, 1, 1 / size)


def test_code_usage_refuses_a_code_outside_its_codebook_and_an_empty_catalogue():
    with pytest.raises(UserError, match="row 0 has code 4 at level 1"):
        code_usage(torch.tensor([[4]]), (4,))
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        code_usage(torch.zeros(0, 1, dtype=torch.int64), (4,))
