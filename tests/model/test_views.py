"""Places of histories and the contrast of views against loops."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch

from recbole_r3vae.model.views import part_of, some_places, view_contrast


@pytest.mark.parametrize("share", [0.1, 0.2, 0.5, 0.7, 1.0])
def test_a_share_is_rounded_down_but_for_the_least(share):
    length = torch.arange(1, 60)
    for least in (0, 1):
        assert part_of(length, share, least).tolist() == [max(least, int(share * n)) for n in range(1, 60)]


def test_places_are_real_as_many_as_asked_and_all_sets_alike():
    torch.manual_seed(0)
    real = torch.tensor([[True, True, True, True, False], [True, False, True, False, False]]).repeat_interleave(6000, 0)
    count = torch.tensor([2, 5]).repeat_interleave(6000)
    places = some_places(real, count)
    assert not (places & ~real).any() and torch.equal(places[6000:], real[6000:])  # of two places all, though five were asked for
    sets = Counter(map(tuple, places[:6000].tolist()))
    assert len(sets) == 6 and all(sum(one) == 2 for one in sets)
    assert all(abs(times - 1000) < 6 * 1000**0.5 for times in sets.values())
    assert not some_places(real, torch.zeros_like(count)).any()


@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_a_view_has_one_partner_and_all_views_of_others_against_it(temperature):
    n = 5
    first, second = torch.randn(2, n, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64).unbind(0)
    total = 0.0
    for row in range(n):
        for own, partner in ((first[row], second[row]), (second[row], first[row])):
            negatives = [float(own @ other) for k in range(n) if k != row for other in (first[k], second[k])]
            assert len(negatives) == 2 * (n - 1)
            logits = [float(own @ partner) / temperature, *(negative / temperature for negative in negatives)]
            total += math.log(sum(map(math.exp, logits))) - logits[0]
    assert float(view_contrast(first, second, temperature)) == pytest.approx(total / (2 * n), rel=1e-5)


def test_one_history_has_nothing_to_be_told_from():
    first, second = torch.randn(2, 1, 4, requires_grad=True).unbind(0)
    loss = view_contrast(first, second)
    (slope,) = torch.autograd.grad(loss, first)
    assert loss.item() == 0 and not slope.any()
