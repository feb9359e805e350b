"""The prior on repeats against loops."""

from __future__ import annotations

import pytest
import torch

from recbole_r3vae.model.repeat_prior import RepeatPrior


def expected_range(steps: int) -> int:
    """1, 2, 3–4, 5–8 …"""
    return next(n for n in range(20) if steps <= 2**n)


@pytest.fixture
def histories():
    generator = torch.Generator().manual_seed(0)
    items = torch.randint(1, 6, (40, 9), generator=generator)  # few items: most are met again
    lengths = torch.randint(1, 10, (40,), generator=generator)
    items[torch.arange(9) >= lengths[:, None]] = 0
    return items, lengths


def test_cells_of_training_positions(histories):
    items, lengths = histories
    prior = RepeatPrior(9)
    found = sorted(zip(*(part.tolist() for part in prior.training_cells(items))))
    wanted = []
    for row, (line, length) in enumerate(zip(items.tolist(), lengths.tolist())):
        for now in range(length):
            last = {item: then for then, item in enumerate(line[: now + 1]) if item}
            wanted += [(row * 9 + now, item, expected_range(now - then + 1)) for item, then in last.items()]
    assert found == sorted(wanted)


def test_bias_of_the_catalogue(histories):
    items, lengths = histories
    prior = RepeatPrior(9)
    with torch.no_grad():
        prior.scaled.copy_(torch.arange(1.0, 6.0) / 50)
    bias = prior.bias(items, lengths, 7)
    wanted = torch.zeros(40, 7)
    for row, (line, length) in enumerate(zip(items.tolist(), lengths.tolist())):
        for then, item in enumerate(line[:length]):
            wanted[row, item] = 1 + expected_range(length - then)
    assert torch.allclose(bias, wanted)


def test_it_learns_and_is_bounded(histories):
    items, lengths = histories
    prior = RepeatPrior(9, penalty=0.5)
    prior.bias(items, lengths, 7).sum().backward()
    counts = torch.bincount(prior.cells(items, lengths)[2], minlength=5).float()
    assert torch.allclose(prior.scaled.grad, 50 * counts)
    with torch.no_grad():
        prior.scaled.fill_(0.02)
    assert prior.regularization().item() == pytest.approx(0.5 * 5 * 1.0)
