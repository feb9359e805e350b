"""Losses over items: exact in chunks, and a sample that stands for the catalogue."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_r3vae.model import losses
from recbole_r3vae.model.losses import binary_cross_entropy, catalogue_cross_entropy, sampled_cross_entropy


def drawn(seed, n_rows, n_items, size=5, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    x, items = (torch.randn(n, size, generator=generator, dtype=dtype, requires_grad=True) for n in (n_rows, n_items))
    return x, items, torch.randint(n_items, (n_rows,), generator=generator), generator


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 1000),
    n_rows=st.integers(1, 9),
    n_items=st.integers(1, 12),
    chunk=st.integers(1, 12),
    temperature=st.sampled_from([None, 0.1, 3.0]),
    n_cells=st.integers(0, 20),
)
def test_value_and_gradients_are_those_of_the_whole_array(seed, n_rows, n_items, chunk, temperature, n_cells):
    """Also with terms of single cells, some of them named twice and in no order."""
    x, items, target, generator = drawn(seed, n_rows, n_items, dtype=torch.float64)
    rows, columns = (torch.randint(n, (n_cells,), generator=generator) for n in (n_rows, n_items))
    values = torch.randn(n_cells, generator=generator, dtype=torch.float64, requires_grad=True)
    logits = x @ items.T / (temperature or 1)
    expected = F.cross_entropy(logits.index_put((rows, columns), values, accumulate=True), target)
    loss = catalogue_cross_entropy(x, items, target, temperature, chunk, (rows, columns, values))
    assert torch.allclose(loss, expected)
    for mine, theirs in zip(*(torch.autograd.grad(3 * value, (x, items, values)) for value in (loss, expected))):
        assert torch.allclose(mine, theirs, atol=1e-10)


def test_without_terms_of_cells_and_in_float32():
    x, items, target, _ = drawn(0, 50, 30)
    loss, expected = catalogue_cross_entropy(x, items, target, 0.5, 7), F.cross_entropy(x @ items.T / 0.5, target)
    assert loss.dtype == torch.float32 and torch.allclose(loss, expected)
    for mine, theirs in zip(*(torch.autograd.grad(value, (x, items)) for value in (loss, expected))):
        assert torch.allclose(mine, theirs, atol=1e-6)


def test_it_gives_gradients_where_they_are_wanted():
    x, items, target, _ = drawn(0, 6, 4)
    catalogue_cross_entropy(x.detach(), items, target).backward()
    assert x.grad is None and items.grad.abs().sum() > 0
    with torch.no_grad():
        assert torch.allclose(catalogue_cross_entropy(x, items, target), F.cross_entropy(x @ items.T, target))


def test_a_slice_of_a_table_gets_the_gradient_of_the_slice():
    table, x, target = torch.randn(9, 5, requires_grad=True), torch.randn(4, 5), torch.tensor([0, 7, 3, 3])
    grads = [torch.autograd.grad(loss(x, table[1:]), table)[0] for loss in (
        lambda a, b: catalogue_cross_entropy(a, b, target), lambda a, b: F.cross_entropy(a @ b.T, target)
    )]  # fmt: skip
    assert torch.allclose(*grads, atol=1e-6) and not grads[0][0].any()


def test_no_more_cells_exist_at_a_time_than_are_allowed(monkeypatch):
    """Memory is bounded whatever the number of positions: every array of logits that an operation makes is counted."""
    monkeypatch.setattr(losses, "CELLS", 200)
    x, items, target, _ = drawn(0, 100, 40)
    largest = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            found = function(*args, **(kwargs or {}))
            if isinstance(found, torch.Tensor):
                largest.append(found.numel())
            return found

    with Watch():
        catalogue_cross_entropy(x, items, target).backward()
    assert max(largest) == 100 * 5  # x itself; a whole array of logits would be 4,000


def test_large_logits_stay_finite():
    x, items, target, _ = drawn(0, 8, 6)
    loss = catalogue_cross_entropy(1e4 * x, items, target, chunk=3)
    assert torch.allclose(loss, F.cross_entropy(1e4 * x @ items.T, target))
    assert all(grad.isfinite().all() for grad in torch.autograd.grad(loss, (x, items)))


def test_bfloat16_products_stay_near_float32():
    x, items, target, _ = drawn(0, 64, 40, size=32)
    loss = catalogue_cross_entropy(x, items, target, chunk=10)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = catalogue_cross_entropy(x, items, target, chunk=10)
    assert mixed.dtype == torch.float32 and mixed != loss
    assert torch.allclose(mixed, loss, rtol=0.02)
    for mine, theirs in zip(*(torch.autograd.grad(value, (x, items)) for value in (mixed, loss))):
        assert mine.dtype == torch.float32 and torch.allclose(mine, theirs, atol=0.02 * float(theirs.abs().max()))


@pytest.mark.parametrize("temperature", [None, 0.2])
def test_sampled_loss_by_hand(temperature):
    x, items, target, _ = drawn(1, 6, 9)
    negatives, probability = torch.tensor([2, 5, 2, int(target[0])]), torch.rand(9).softmax(0)
    loss = sampled_cross_entropy(x, items, target, negatives, probability[negatives].log(), temperature)
    total = 0.0
    for row in range(6):
        score = [float(x[row] @ item) / (temperature or 1) for item in items]
        others = sum(math.exp(score[j]) / (4 * float(probability[j])) for j in negatives.tolist() if j != target[row])
        own = math.exp(score[target[row]])
        total -= math.log(own / (own + others))
    assert float(loss) == pytest.approx(total / 6, rel=1e-5)


def test_many_draws_are_the_catalogue():
    """Whatever they are drawn by: without the correction popular items would count too often."""
    x, items, target, generator = drawn(2, 10, 7)
    probability = torch.tensor([20.0, 1, 5, 3, 1, 8, 2])
    probability /= probability.sum()
    negatives = torch.multinomial(probability, 200_000, replacement=True, generator=generator)
    loss = sampled_cross_entropy(x, items, target, negatives, probability[negatives].log())
    exact = catalogue_cross_entropy(x, items, target)
    uncorrected = sampled_cross_entropy(x, items, target, negatives, torch.full((200_000,), -math.log(7)))
    assert float(loss) == pytest.approx(float(exact), abs=0.01) and abs(float(uncorrected) - float(exact)) > 0.1
    for mine, theirs in zip(*(torch.autograd.grad(value, (x, items)) for value in (loss, exact))):
        assert torch.allclose(mine, theirs, atol=0.01)


def test_a_position_whose_draws_are_all_its_target_has_nothing_to_learn():
    x, items, _, _ = drawn(0, 2, 5)
    loss = sampled_cross_entropy(x, items, torch.tensor([3, 3]), torch.tensor([3, 3]), torch.zeros(2))
    assert loss == 0 and not any(grad.any() for grad in torch.autograd.grad(loss, (x, items)))


@pytest.mark.parametrize("temperature", [None, 0.2])
def test_binary_loss_by_hand(temperature):
    x, items, target, generator = drawn(2, 6, 9)
    negative, counted = torch.randint(9, (6,), generator=generator), torch.tensor([True, False, True, True, False, True])
    total = 0.0
    for row in range(6):
        wanted, other = (float(x[row] @ items[rows[row]]) / (temperature or 1) for rows in (target, negative))
        total += math.log(1 + math.exp(-wanted)) + counted[row].item() * math.log(1 + math.exp(other))
    assert float(binary_cross_entropy(x, items, target, negative, counted, temperature)) == pytest.approx(total / 6, rel=1e-5)
