from __future__ import annotations

import math
from itertools import combinations

import pytest
import torch

from recbole_r3vae.model.tokenizer.quantize.codebook import unit
from recbole_r3vae.model.tokenizer.quantize.regularizers import (
    codeword_discrimination,
    preference_discrimination,
    semantic_cohesion,
)
from recbole_r3vae.sid.codes import prefix_groups
from recbole_r3vae.sid.quality import clusters as metrics


def sample(n=40, d=5, sizes=(3, 3, 4), seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=generator, dtype=torch.float64) + 0.3
    return x, torch.stack([torch.randint(k, (n,), generator=generator) for k in sizes], 1)


def cosine(a, b):
    return torch.nn.functional.cosine_similarity(a, b, dim=0).item()


def clusters(codes, level):
    groups = {}
    for row, code in enumerate(codes.tolist()):
        groups.setdefault(tuple(code[:level]), []).append(row)
    return list(groups.values())


def brute_cohesion(x, codes):
    values, counts = [], []
    for level in range(1, codes.shape[1] + 1):
        groups = [g for g in clusters(codes, level) if len(g) > 1]
        counts.append((len(groups), sum(math.comb(len(g), 2) for g in groups)))
        means = []
        for group in groups:
            pairs = [cosine(x[i], x[j]) for i, j in combinations(group, 2)]
            means.append(sum(pairs) / len(pairs))
        if means:
            values.append(sum(means) / len(means))
    return sum(values) / len(values), counts


def brute_discrimination(levels_of_centres, t):
    values = []
    for centres in levels_of_centres:
        terms = [math.exp(-t * (1 - cosine(a, b))) for a, b in combinations(centres, 2)]
        if terms:
            values.append(math.log(sum(terms) / len(terms)))
    return sum(values) / len(values)


@pytest.mark.parametrize("seed", range(4))
def test_cohesion_is_the_mean_pair_cosine(seed):
    x, codes = sample(seed=seed)
    value, counts = semantic_cohesion(x, codes)
    expected, expected_counts = brute_cohesion(x, codes)
    assert value.item() == pytest.approx(expected, abs=1e-12)
    assert list(zip(counts["clusters"].tolist(), counts["pairs"].tolist())) == expected_counts


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("t", [2.0, 0.7])
def test_discrimination_is_the_log_mean_over_pairs_of_centres(seed, t):
    x, codes = sample(seed=seed)
    value, counts = preference_discrimination(x, codes, t)
    groups = [clusters(codes, level) for level in (1, 2, 3)]
    expected = brute_discrimination([[unit(x)[g].mean(0) for g in level] for level in groups], t)
    assert value.item() == pytest.approx(expected, abs=1e-12)
    assert counts["clusters"].tolist() == [len(level) for level in groups]


def test_by_digit_each_code_is_a_cluster_whatever_the_others():
    x, codes = sample()
    value, counts = semantic_cohesion(x, codes, ordered=False)
    digits = [brute_cohesion(x, column[:, None]) for column in codes.unbind(1)]
    assert value.item() == pytest.approx(sum(digit[0] for digit in digits) / 3, abs=1e-12)
    assert list(zip(counts["clusters"].tolist(), counts["pairs"].tolist())) == [digit[1][0] for digit in digits]
    value, counts = preference_discrimination(x, codes, 0.7, ordered=False)
    groups = [clusters(column[:, None], 1) for column in codes.unbind(1)]
    assert value.item() == pytest.approx(brute_discrimination([[unit(x)[g].mean(0) for g in digit] for digit in groups], 0.7), abs=1e-12)
    assert counts["clusters"].tolist() == [3, 3, 4]


@pytest.mark.parametrize("zeros", [0, 12])
@pytest.mark.parametrize("seed", range(4))
def test_both_are_the_numbers_that_judge_a_catalogue(seed, zeros):
    """With the whole catalogue as one batch, level by level, for vectors of very different lengths and for zero vectors."""
    x, codes = sample(200, 6, (3, 4, 5), seed)
    x *= torch.linspace(0.01, 100, 200, dtype=torch.float64)[torch.randperm(200, generator=torch.Generator().manual_seed(seed)), None]
    x[:zeros] = 0
    x[codes[:, 0] == 0] *= float(zeros == 0)  # a cluster whose centre has no direction
    cohesion, discrimination = metrics.semantic_cohesion(codes, x), metrics.preference_discrimination(codes, x, t=0.7)
    for level, group in enumerate(prefix_groups(codes)):
        assert semantic_cohesion(x, group[:, None])[0].item() == pytest.approx(cohesion[level]["sc"], abs=1e-12)
        # the metric's centres are float32
        assert preference_discrimination(x, group[:, None], 0.7)[0].item() == pytest.approx(discrimination[level]["pd"], abs=1e-6)
    mean = sum(level["pd"] for level in discrimination) / 3
    assert preference_discrimination(x, codes, 0.7)[0].item() == pytest.approx(mean, abs=1e-6)


def test_codeword_discrimination_compares_codewords():
    codebooks = [sample(n, seed=n)[0] for n in (4, 6)]
    value, counts = codeword_discrimination(codebooks, 2.0)
    assert value.item() == pytest.approx(brute_discrimination(codebooks, 2.0), abs=1e-12)
    assert counts["clusters"].tolist() == [4, 6]


def test_levels_without_pairs_do_not_count():
    x, _ = sample(4)
    codes = torch.tensor([[0, 0], [0, 1], [1, 0], [2, 0]])
    value, counts = semantic_cohesion(x, codes)
    assert value.item() == pytest.approx(cosine(x[0], x[1]))  # not halved by the level of four single items
    assert counts["clusters"].tolist() == [1, 0] and counts["pairs"].tolist() == [1, 0]


def test_nothing_to_compare_gives_zero():
    x, _ = sample(3)
    assert semantic_cohesion(x, torch.tensor([[0], [1], [2]]))[0].item() == 0.0
    assert preference_discrimination(x, torch.zeros(3, 2, dtype=torch.int64))[0].item() == 0.0


def test_gradients_are_those_of_the_formulas():
    x, codes = sample(9, 3)
    x.requires_grad_()
    assert torch.autograd.gradcheck(lambda v: semantic_cohesion(v, codes)[0], x)
    assert torch.autograd.gradcheck(lambda v: preference_discrimination(v, codes)[0], x)
    assert torch.autograd.gradcheck(lambda v: codeword_discrimination([v])[0], x)


def test_zero_vectors_are_unlike_everything_and_give_no_nan():
    x, codes = sample()
    x[:25] = 0.0
    x.requires_grad_()
    cohesion = semantic_cohesion(x, codes)[0]
    loss = cohesion + preference_discrimination(x, codes)[0]
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(x.grad).all()
    assert cohesion.item() == pytest.approx(brute_cohesion(x.detach(), codes)[0], abs=1e-12)


def test_descent_raises_cohesion_and_lowers_discrimination():
    for function, sign in ((semantic_cohesion, -1), (preference_discrimination, 1)):
        x, codes = sample()
        x.requires_grad_()
        before = function(x, codes)[0]
        (sign * before).backward()
        after = function(x.detach() - 0.1 * x.grad, codes)[0]
        assert sign * (after - before) < -1e-3
