from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from recbole_r3vae.model.tokenizer.quantize.assign import NearestNeighbour
from recbole_r3vae.model.tokenizer.quantize.balanced import (
    BalancedNearestNeighbour,
    auction,
    separating_prices,
)
from recbole_r3vae.model.tokenizer.quantize.codebook import Codebook


def capacities(n, k):
    return np.array([n // k + (code < n % k) for code in range(k)])


def solve(cost, steps=(0.1, 0.01, 0.001, 1e-5)):
    return auction(cost, capacities(*cost.shape), np.zeros(cost.shape[1]), *steps)


@pytest.mark.parametrize("seed", range(5))
def test_the_auction_finds_the_cheapest_of_all_full_assignments(seed):
    cost = np.random.default_rng(seed).random((7, 3))
    codes, _ = solve(cost)
    assert np.bincount(codes, minlength=3).tolist() == [3, 2, 2]
    every = itertools.product(range(3), repeat=7)
    every = (a for a in every if np.bincount(a, minlength=3).tolist() == [3, 2, 2])
    assert codes.tolist() == list(min(every, key=lambda a: sum(cost[i, k] for i, k in enumerate(a))))


@pytest.mark.parametrize("n, k", [(60, 7), (64, 8), (9, 9), (30, 2)])
def test_at_separating_prices_every_item_prefers_its_code(n, k):
    cost = np.random.default_rng(n).random((n, k))
    codes, prices = solve(cost)
    assert (np.bincount(codes, minlength=k) == capacities(n, k)).all()
    total = cost + separating_prices(cost, codes, prices)
    assert (total.argmin(1) == codes).all()
    gap = np.sort(total, axis=1)
    assert (gap[:, 1] - gap[:, 0]).min() > 1e-5  # not by a hair


@pytest.mark.parametrize("scale", [1.0, 0.0])
def test_equal_items_do_not_keep_the_auction_busy(scale):
    cost = np.tile(scale * np.random.default_rng(0).random((1, 16)), (200, 1))
    codes, _ = solve(cost, (0.1, 0.01, 0.001))
    assert (np.bincount(codes, minlength=16) == capacities(200, 16)).all()


def test_the_assignment_does_not_depend_on_the_order_of_codes_or_items():
    random = np.random.default_rng(3)
    cost = random.random((60, 6))
    rows, columns = random.permutation(60), random.permutation(6)
    codes, _ = solve(cost)
    permuted, _ = solve(cost[rows][:, columns])
    assert (columns[permuted] == codes[rows]).all()


def test_balanced_kmeans_has_equal_buckets_where_kmeans_has_not():
    random = np.random.default_rng(0)
    # a dense heap, and a wide thin cloud for which plain k-means spends most of its centroids
    x = np.concatenate([0.1 * random.normal(size=(200, 4)), 3 * random.normal(size=(103, 4))])
    x = torch.from_numpy(x.astype(np.float32))
    level = BalancedNearestNeighbour(Codebook(16, 4, torch.Generator().manual_seed(0)), iterations=4)
    level.codebook.requires_grad_(False)
    level.initialise(x, iterations=10, seed=1)
    counts = level(x)[0].bincount(minlength=16)
    assert counts.min() >= 18 and counts.max() <= 19
    plain = Codebook(16, 4, torch.Generator().manual_seed(0)).requires_grad_(False)
    plain.initialise(x, iterations=10, seed=1)
    assert NearestNeighbour(plain)(x)[0].bincount(minlength=16).max() > 60
