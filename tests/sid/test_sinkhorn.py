from __future__ import annotations

import math

import pytest
import torch
from scipy.optimize import linear_sum_assignment

from recbole_r3vae.sid.sinkhorn import sinkhorn


def random_distances(n, k, seed=0):
    return torch.rand(n, k, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def oracle(distances, epsilon, iterations):
    """Scaling in logarithms, number by number."""
    low, high = distances.min().item(), distances.max().item()
    log = [[-(d - low) / (high - low) * 2 / epsilon for d in row] for row in distances.tolist()]
    n, k = len(log), len(log[0])
    total = lambda terms: max(terms) + math.log(sum(math.exp(t - max(terms)) for t in terms))  # noqa: E731
    for _ in range(iterations):
        log = [[v - total(row) - math.log(n) for v in row] for row in log]
        column = [total([row[j] for row in log]) for j in range(k)]
        log = [[row[j] - column[j] - math.log(k) for j in range(k)] for row in log]
    return torch.tensor(log).double().exp()


@pytest.mark.parametrize("n, k, epsilon", [(5, 3, 2.0), (5, 3, 0.3), (6, 6, 0.1)])
def test_the_plan_is_that_of_plain_scaling(n, k, epsilon):
    distances = 5 + 3 * random_distances(n, k)
    torch.testing.assert_close(sinkhorn(distances, epsilon, 2000), oracle(distances, epsilon, 1000))


def test_few_items_take_at_most_one_code_each_and_leave_far_codes_alone():
    distances = random_distances(3, 20)
    plan = sinkhorn(distances, 0.01, 1000)
    torch.testing.assert_close(plan.sum(1), torch.full((3,), 1 / 3).double())
    assert plan.sum(0).max() <= 1 / 3 + 1e-4
    _, expected = linear_sum_assignment(distances.numpy())
    assert plan.argmax(1).tolist() == expected.tolist()


def test_the_plan_balances_items_and_codes():
    plan = sinkhorn(random_distances(40, 8), 0.1)
    torch.testing.assert_close(plan.sum(1), torch.full((40,), 1 / 40).double())
    torch.testing.assert_close(plan.sum(0), torch.full((8,), 1 / 8).double(), atol=1e-4, rtol=0)


def test_largest_shares_are_spread_over_the_codes_where_nearest_codes_are_not():
    distances = random_distances(160, 8)
    distances[:, 0] -= 0.8  # one code is near to almost everything
    nearest = distances.argmin(1).bincount(minlength=8)
    balanced = sinkhorn(distances, 0.003).argmax(1).bincount(minlength=8)
    assert nearest.max() > 120
    assert balanced.min() >= 18 and balanced.max() <= 22


def test_a_small_epsilon_gives_the_assignment_of_least_cost():
    distances = random_distances(12, 12)
    _, expected = linear_sum_assignment(distances.numpy())
    assert sinkhorn(distances, 0.003, 3000).argmax(1).tolist() == expected.tolist()


@pytest.mark.parametrize("epsilon", [1e-5, 0.003, 1.0])
@pytest.mark.parametrize("case", ["equal", "one item", "one code", "infinite code", "infinite item", "huge"])
def test_the_plan_is_finite(case, epsilon):
    distances = random_distances(6, 5)
    if case == "equal":
        distances[:] = 3.0
    elif case == "one item":
        distances = distances[:1]
    elif case == "one code":
        distances = distances[:, :1]
    elif case == "infinite code":
        distances[:, 2] = math.inf
    elif case == "infinite item":
        distances[2] = math.inf
    else:
        distances[0, 0] = 1e30
    plan = sinkhorn(distances.float(), epsilon)
    assert torch.isfinite(plan).all() and plan.shape == distances.shape
    assert plan.sum().item() == pytest.approx(1.0, rel=1e-5)


def test_scale_and_offset_of_distances_do_not_matter():
    distances = random_distances(9, 4)
    torch.testing.assert_close(sinkhorn(7 * distances - 3, 0.1), sinkhorn(distances, 0.1))


def test_an_infinitely_far_code_is_the_last_choice():
    distances = random_distances(6, 12)
    distances[:, 2] = math.inf
    assert 2 not in sinkhorn(distances, 0.003).argmax(1)
