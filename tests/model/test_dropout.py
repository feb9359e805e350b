"""Dropout on a CPU: what nn.Dropout promises, in a quarter of its time."""

from __future__ import annotations

import pytest
import torch

from recbole_r3vae.model.dropout import Dropout


@pytest.mark.parametrize("p", [0.1, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_elements_are_hidden_with_their_probability_and_the_others_scaled(p, dtype):
    torch.manual_seed(0)
    x = torch.ones(333, 301, dtype=dtype, requires_grad=True)  # an odd number of elements
    y = Dropout(p)(x)
    assert y.dtype == dtype and y.shape == x.shape
    hidden = (y == 0).float()
    deviation = (p * (1 - p) / x.numel()) ** 0.5
    assert abs(hidden.mean().item() - p) < 5 * deviation
    assert y[y > 0].unique().tolist() == [pytest.approx(1 / (1 - p), rel=0.005 if dtype == torch.bfloat16 else 1e-4)]
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())  # what is hidden has no gradient


def test_the_four_parts_of_a_number_are_alike_and_independent():
    torch.manual_seed(1)
    hidden = (Dropout(0.3)(torch.ones(4 * 50_000)) == 0).float().view(-1, 4)
    assert torch.allclose(hidden.mean(0), torch.tensor(0.3), atol=5 * (0.21 / 50_000) ** 0.5)
    assert (torch.corrcoef(hidden.T) - torch.eye(4)).abs().max() < 5 / 50_000**0.5


def test_the_expectation_is_exact():
    p = 0.1  # no multiple of 2^-16
    layer = Dropout(p)
    share, (scale,) = layer.hidden / 2**16, {value for value in layer(torch.ones(1000)).tolist() if value}
    assert share != p and scale * (1 - share) == pytest.approx(1, abs=1e-7)


def test_nothing_happens_without_probability_or_training():
    x = torch.randn(5, 7)
    assert torch.equal(Dropout(0.0)(x), x) and torch.equal(Dropout(0.5).eval()(x), x)
    assert torch.equal(Dropout(1.0)(x), torch.zeros(5, 7))
    assert Dropout(0.5)(torch.empty(0, 3)).shape == (0, 3)


def test_the_seed_decides():
    layer, x = Dropout(0.5), torch.ones(10, 10)
    found = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        found.append(layer(x))
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


def test_a_probability_outside_its_range_is_refused():
    with pytest.raises(ValueError, match="dropout probability"):
        Dropout(1.5)
