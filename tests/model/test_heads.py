"""Heads that score every item, against loops over histories, items and digits."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from recbole_r3vae.errors import UserError
from recbole_r3vae.model.generator.decoding.rules import Excluded
from recbole_r3vae.model.heads import DenseHead, ParallelHead, Ranking, best_of, item_bias, joined, of_rows

B, N, SIZES, WIDTH = 4, 11, (3, 5), 6


class Model:
    """What the heads ask of a model, drawn at random; a reading is the numbers of its histories."""

    n_items = N

    def __init__(self, seed: int, prior: bool):
        drawn = torch.Generator().manual_seed(seed)
        self.codes = torch.stack([torch.randint(size, (N,), generator=drawn) for size in SIZES], 1)  # some items share a tuple
        self.codes[0] = -1
        self.digits = [torch.randn(B, size, generator=drawn).log_softmax(1) for size in SIZES]
        self.users, self.items = torch.randn(B, WIDTH, generator=drawn), torch.randn(N, WIDTH, generator=drawn)
        self.odds = torch.randn(B, N, generator=drawn)
        if prior:
            self.item_bias = lambda reading: self.odds[reading]

    def digit_log_probs(self, reading):
        return [level[reading] for level in self.digits]

    def user_vectors(self, reading):
        return self.users[reading]

    def item_vectors(self):
        return self.items

    def expected(self, head: type, row: int, item: int) -> float:
        """The score of one item."""
        own = self.odds[row, item].item() if hasattr(self, "item_bias") else 0.0
        if head is DenseHead:
            return own + sum(u * v for u, v in zip(self.users[row].tolist(), self.items[item].tolist()))
        return own + sum(level[row, code].item() for level, code in zip(self.digits, self.codes[item].tolist()))


CASES = pytest.mark.parametrize("kind", [ParallelHead, DenseHead])


@CASES
@pytest.mark.parametrize("prior", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_the_best_items_under_each_rule(kind, prior, seed):
    model, reading = Model(seed, prior), torch.tensor([2, 0, 3, 1])
    flags = torch.rand(B, N, generator=torch.Generator().manual_seed(seed)) < 0.6
    excluded = Excluded(torch.tensor([0, 0, 2, 3]), torch.tensor([1, 5, 7, 1]))
    rankings = kind(model).rank(reading, 3, [None, flags, excluded], strict=False)
    for ranking, allowed in zip(rankings, (torch.ones(B, N, dtype=torch.bool), flags, excluded.flags(B, N)), strict=True):
        for row, history in enumerate(reading.tolist()):
            possible = [item for item in range(1, N) if allowed[row, item]]
            best = sorted(possible, key=lambda item: (-model.expected(kind, history, item), item))[:3]
            scores = [model.expected(kind, history, item) for item in best]
            short = 3 - len(best)
            if kind is ParallelHead:  # float32 sums of two items that share their codes are equal, and then the number decides
                scores_of = {item: model.expected(kind, history, item) for item in possible}
                assert [scores_of[item] for item in ranking.items[row].tolist()[: len(best)]] == pytest.approx(scores, abs=1e-5)
            else:
                assert ranking.items[row].tolist() == best + [0] * short
            assert ranking.scores[row, : len(best)].tolist() == pytest.approx(scores, abs=1e-5)
            assert (ranking.scores[row, len(best) :] == -torch.inf).all()


@CASES
@pytest.mark.parametrize("prior", [False, True])
def test_items_that_share_all_codes_have_a_place_each(kind, prior):
    """Never one for the other, and none twice."""
    model = Model(0, prior)
    model.codes[1:] = model.codes[1].clone()
    model.items[1:] = model.items[1].clone()
    model.odds = model.odds[:, :1].expand(-1, N).clone()
    few, every = (kind(model).rank(torch.arange(B), k)[0] for k in (4, N - 1))
    assert all(sorted(row) == list(range(1, N)) for row in every.items.tolist())
    assert torch.allclose(every.scores, every.scores[:, :1].expand_as(every.scores), atol=1e-6)
    if kind is ParallelHead:  # equal to the last bit, which the columns of a matrix product need not be
        assert few.items.tolist() == [[1, 2, 3, 4]] * B


@CASES
@pytest.mark.parametrize("prior", [False, True])
def test_a_single_score_is_on_the_scale_of_the_ranking(kind, prior):
    model, reading, items = Model(1, prior), torch.arange(B), torch.tensor([4, 9, 1, 4])
    expected = [model.expected(kind, row, item) for row, item in enumerate(items.tolist())]
    assert kind(model).score(reading, items).tolist() == pytest.approx(expected, abs=1e-5)
    [ranking] = kind(model).rank(reading, N - 1)
    for row, item in enumerate(items.tolist()):
        [place] = (ranking.items[row] == item).nonzero().flatten().tolist()
        assert ranking.scores[row, place].item() == pytest.approx(expected[row], abs=1e-5)


@CASES
def test_too_few_items_are_refused_where_that_is_asked_for(kind):
    model, none = Model(2, False), torch.zeros(N, dtype=torch.bool)
    assert kind(model).most_items == N - 1
    with pytest.raises(UserError):
        kind(model).rank(torch.arange(B), 1, [none])
    [ranking] = kind(model).rank(torch.arange(B), 1, [none], strict=False)
    assert (ranking.items == 0).all() and (ranking.scores == -torch.inf).all()


def test_products_with_some_items_leave_the_prior_out():
    model, items = Model(3, True), torch.tensor([[1, 2], [3, 3], [10, 1], [5, 6]])
    found = DenseHead(model).products(torch.arange(B), items)
    for row, some in enumerate(items.tolist()):
        expected = [model.expected(DenseHead, row, item) - model.odds[row, item].item() for item in some]
        assert found[row].tolist() == pytest.approx(expected, abs=1e-5)


def test_a_prior_is_asked_for_by_name():
    assert item_bias(SimpleNamespace(), 0) is None and item_bias(SimpleNamespace(item_bias=lambda reading: reading + 1), 1) == 2


def test_rules_and_rankings_of_some_rows():
    flags, excluded = torch.rand(B, N) < 0.5, Excluded(torch.tensor([0, 1, 2, 3]), torch.tensor([5, 6, 7, 8]))
    assert of_rows(None, 1, 3) is None and torch.equal(of_rows(flags, 1, 3), flags[1:3]) and torch.equal(of_rows(flags[0], 1, 3), flags[0])
    assert torch.equal(of_rows(excluded, 1, 3).flags(2, N), excluded.flags(B, N)[1:3])
    parts = [Ranking(torch.tensor([[row]]), torch.tensor([[float(row)]]), torch.full((1, 1, 2), row)) for row in range(3)]
    assert joined(parts).items.tolist() == [[0], [1], [2]] and joined(parts).states[:, 0, 0].tolist() == [0, 1, 2]
    assert joined([Ranking(part.items, part.scores) for part in parts]).states is None


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("k", [1, 4, 12])
def test_the_best_of_candidates_each_once(seed, k):
    drawn = torch.Generator().manual_seed(seed)
    items = torch.randint(8, (3, 9), generator=drawn)
    of_item = torch.randint(-3, 3, (3, 8), generator=drawn).float()  # ties
    of_item[:, 5] = -torch.inf
    found = best_of(items, of_item.gather(1, items), k)
    for row in range(3):
        wanted = sorted({*items[row].tolist()} - {0, 5}, key=lambda item: (-float(of_item[row, item]), item))[:k]
        assert found.items[row].tolist() == [*wanted, *[0] * (k - len(wanted))]
        assert found.scores[row].tolist() == [*of_item[row, wanted].tolist(), *[-torch.inf] * (k - len(wanted))]


def test_products_are_float32_whatever_the_model_computes_in():
    head = DenseHead(Model(0, prior=False))
    reading, items = torch.arange(B), torch.randint(N, (B, 3))
    exact = head.products(reading, items)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(head.products(reading, items), exact) and head.score(reading, items[:, 0]).dtype == torch.float32
