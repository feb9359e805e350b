"""Which items may be returned, and which of equal scores come first."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_r3vae.errors import UserError
from recbole_r3vae.model.generator.decoding.rules import Excluded, check_allowed, check_found, first_best, is_allowed

VALUES = st.sampled_from([-torch.inf, -3.0, -1e-40, -0.5, -0.0, 0.0, 1e-40, 0.5, 2.0, torch.inf])


@settings(max_examples=200, deadline=None)
@given(st.lists(VALUES, min_size=1, max_size=40), st.data())
def test_the_first_of_equal_scores_are_taken(values, data):
    width = data.draw(st.integers(1, len(values)))
    expected = sorted(sorted(range(len(values)), key=lambda place: (-values[place], place))[:width])
    scores = torch.tensor([values, values])
    assert first_best(scores, width).tolist() == [expected] * 2
    assert first_best(scores.T.contiguous().T, width).tolist() == [expected] * 2  # any strides


def test_excluded_as_flags():
    excluded = Excluded(torch.tensor([0, 1, 1, 1]), torch.tensor([2, 0, 3, 3]))
    assert (~excluded.flags(2, 4)).nonzero().tolist() == [[0, 2], [1, 0], [1, 3]]


@pytest.mark.parametrize("allowed", [torch.ones(5), torch.ones(4, dtype=torch.bool), torch.ones(3, 5, dtype=torch.bool)])
def test_flags_of_another_batch_or_catalogue_are_refused(allowed):
    with pytest.raises(UserError, match=r"bool \[5\] or \[2, 5\].*; give one row a user"):
        check_allowed(allowed, 2, 5)


def test_pairs_without_a_partner_are_refused():
    with pytest.raises(UserError, match=r"\[2\] and \[1\]; give one user for each item"):
        check_allowed(Excluded(torch.tensor([0, 1]), torch.tensor([3])), 2, 5)


def test_what_was_found_is_checked_rule_by_rule():
    whole, short, fine = torch.tensor([[4, 5]]), torch.tensor([[4, 0]]), torch.tensor(False)
    check_found([whole, whole], fine, strict=True)
    check_found([whole, short], fine, strict=False)
    with pytest.raises(UserError, match="user 0 of the batch has only 1 possible items for k=2; lower k"):
        check_found([whole, short], fine, strict=True)
    with pytest.raises(UserError, match="NaN.*; go back to an earlier checkpoint"):
        check_found([whole], ~fine, strict=False)


@pytest.mark.parametrize("shape", [(3, 7), (3, 2, 5)])
def test_candidates_that_a_rule_lets_through(shape):
    drawn = torch.Generator().manual_seed(0)
    items, flags = torch.randint(9, shape, generator=drawn), torch.rand(3, 9, generator=drawn) < 0.6
    rules = {"all": None, "one": flags[1], "each": flags, "pairs": Excluded(*(~flags).nonzero(as_tuple=True))}
    for name, rule in rules.items():
        found = is_allowed(rule, items, 9)
        for place in torch.cartesian_prod(*map(torch.arange, shape)).tolist():
            user, item = place[0], int(items[tuple(place)])
            assert bool(found[tuple(place)]) == (item > 0 and (name == "all" or bool(flags[1 if name == "one" else user, item])))
    with pytest.raises(UserError, match="allowed must be bool"):
        is_allowed(flags, items[:2], 9)
