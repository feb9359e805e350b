from __future__ import annotations

import math

import pytest
import torch

from recbole_r3vae.model.tokenizer.quantize.assign import NearestNeighbour, SoftmaxRating, Top1Rating
from recbole_r3vae.model.tokenizer.quantize.codebook import Codebook

LEVELS = {
    "nearest": NearestNeighbour,
    "top1": Top1Rating,
    "top1-dot": lambda codebook: Top1Rating(codebook, "dot"),
    "top1-unscaled": lambda codebook: Top1Rating(codebook, scale_by_norm=False),
    "softmax": SoftmaxRating,
    "softmax-dot": lambda codebook: SoftmaxRating(codebook, "dot", 0.5),
}


def make(name, k=11, d=6, seed=0):
    return LEVELS[name](Codebook(k, d, torch.Generator().manual_seed(seed))).double()


def vectors(n=40, d=6, seed=1):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cosine(a, b):
    return sum(p * q for p, q in zip(a, b)) / math.sqrt(sum(p * p for p in a) * sum(q * q for q in b))


def dot(a, b):
    return sum(p * q for p, q in zip(a, b))


def oracle(name, x, codewords):
    """The code and the quantised vector of one residual, number by number, from the formulas."""
    if name == "nearest":
        distances = [sum((p - q) ** 2 for p, q in zip(x, c)) for c in codewords]
        code = distances.index(min(distances))
        return code, codewords[code]
    ratings = [(dot if name.endswith("dot") else cosine)(x, c) for c in codewords]
    code = ratings.index(max(ratings))
    if name.startswith("softmax"):
        powers = [math.exp(rating / (0.5 if name.endswith("dot") else 0.1)) for rating in ratings]
        weights = [power / sum(powers) for power in powers]
        return code, [sum(w * c[i] for w, c in zip(weights, codewords)) for i in range(len(x))]
    length = math.sqrt(dot(codewords[code], codewords[code]))
    scale = ratings[code] * (math.sqrt(dot(x, x)) if name == "top1" else 1.0)
    return code, [scale * value / length for value in codewords[code]]


@pytest.mark.parametrize("name", LEVELS)
def test_code_and_vector_follow_the_formula(name):
    level, x = make(name), vectors()
    codes, q = level(x)
    assert codes.dtype == torch.int64
    for i, row in enumerate(x.tolist()):
        code, expected = oracle(name, row, level.codebook.weight.tolist())
        assert codes[i] == code
        assert q[i].tolist() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", LEVELS)
def test_the_code_has_the_largest_rating(name):
    level, x = make(name), vectors()
    rating = level.rating(x)
    assert rating.shape == (40, 11)
    assert torch.equal(level(x)[0], rating.argmax(-1))


@pytest.mark.parametrize("name", ["nearest", "top1"])
def test_ratings_compare_residuals_too(name):
    level, x = make(name), vectors()
    rows, codewords = x.tolist(), level.codebook.weight.tolist()
    rate = cosine if name == "top1" else lambda a, c: -math.dist(a, c) ** 2
    expected = torch.tensor([[rate(a, c) for c in codewords] for a in rows]).double()
    torch.testing.assert_close(level.rating(x), expected, atol=1e-6, rtol=1e-6)


def test_top1_is_the_orthogonal_projection_on_the_codeword():
    level, x = make("top1"), vectors()
    codes, q = level(x)
    rest = x - q
    torch.testing.assert_close((rest * level.codebook.weight[codes]).sum(-1), torch.zeros(40).double())
    cos = level.rating(x).max(-1).values
    torch.testing.assert_close(rest.square().sum(-1), x.square().sum(-1) * (1 - cos**2))


def test_top1_ignores_the_length_of_codewords():
    level, x = make("top1"), vectors()
    before = level(x)
    with torch.no_grad():
        level.codebook.weight.mul_(torch.arange(1.0, 12.0).unsqueeze(1))
    torch.testing.assert_close(level(x), before)


def test_a_cold_softmax_is_the_best_codeword_and_a_hot_one_the_mean():
    x = vectors()
    codebook = make("softmax").codebook
    codes, q = SoftmaxRating(codebook, temperature=1e-4)(x)
    torch.testing.assert_close(q, codebook.weight[codes])
    q = SoftmaxRating(codebook, temperature=1e9)(x)[1]
    torch.testing.assert_close(q, codebook.weight.mean(0).expand_as(q))


@pytest.mark.parametrize("name", LEVELS)
def test_of_equal_ratings_the_lowest_code_wins(name):
    level = make(name)
    axes = torch.eye(6).double()  # along an axis, ratings of equal codewords are equal to the last bit
    with torch.no_grad():
        level.codebook.weight.copy_(axes[torch.tensor([4, 1, 4, 1, 4, 5, 5, 3, 3, 0, 2])])
    assert level(axes)[0].tolist() == [9, 1, 10, 7, 0, 5]
    # a zero residual is as near to all of these codewords
    assert level(torch.zeros(3, 6).double())[0].tolist() == [0, 0, 0]


@pytest.mark.parametrize("name", ["top1", "top1-dot", "top1-unscaled", "softmax", "softmax-dot"])
def test_the_gradient_is_that_of_the_formula(name):
    level, x = make(name, k=5, d=3), vectors(4, 3).requires_grad_()

    def quantize(x, weight):
        return torch.func.functional_call(level, {"codebook.weight": weight}, (x,))[1]

    assert torch.autograd.gradcheck(quantize, (x, level.codebook.weight.detach().clone().requires_grad_()))


@pytest.mark.parametrize("name", LEVELS)
def test_zero_residuals_and_zero_codewords_give_no_nan(name):
    level = make(name)
    with torch.no_grad():
        level.codebook.weight[3] = 0.0
    x = vectors()
    x[::2] = 0.0
    x.requires_grad_()
    codes, q = level(x)
    ((x - q).square().sum() + q.sum()).backward()
    assert torch.isfinite(q).all() and torch.isfinite(x.grad).all()
    assert torch.isfinite(level.codebook.weight.grad).all()
    assert codes[::2].unique().numel() == 1  # equal residuals, equal codes
