from __future__ import annotations

import math

import pytest
import torch

from recbole_r3vae.model.tokenizer.quantize.rotation import balanced_rotation, part_sizes


def sample(n=400, d=12, seed=0):
    """Vectors whose variances fall fast, along hidden axes, around a mean that is not 0."""
    generator = torch.Generator().manual_seed(seed)
    axes = torch.linalg.qr(torch.randn(d, d, generator=generator))[0]
    return (torch.randn(n, d, generator=generator) * 0.7 ** torch.arange(d)) @ axes.T + 2.0


@pytest.mark.parametrize("dim, n, expected", [(12, 3, [4, 4, 4]), (11, 3, [4, 4, 3]), (5, 5, [1] * 5), (7, 1, [7])])
def test_parts_are_as_equal_as_can_be(dim, n, expected):
    assert part_sizes(dim, n) == expected


@pytest.mark.parametrize("sizes", [[4, 4, 4], [5, 4, 3], [12], [1] * 12], ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_the_rotation_is_orthogonal_and_parts_are_uncorrelated(sizes, seed):
    x = sample(seed=seed)
    rotation = balanced_rotation(x, sizes)
    assert rotation.dtype == x.dtype
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(12), atol=1e-5, rtol=0)
    covariance = torch.cov((x @ rotation.T).T)
    off = covariance - covariance.diag().diag()
    assert off.abs().max() < 1e-4 * covariance.max()


def test_axes_are_dealt_as_the_paper_says():
    """Against a deal by hand over products, not logarithms."""
    x, sizes = sample(), [5, 4, 3]
    variances = torch.linalg.eigvalsh(torch.cov(x.double().T, correction=0)).flip(0).tolist()
    floor, parts, products = variances[0] * 1e-12, [[], [], []], [1.0, 1.0, 1.0]
    for variance in variances:
        number = min((p for p in range(3) if len(parts[p]) < sizes[p]), key=lambda p: products[p])
        parts[number].append(variance)
        products[number] *= variance / floor
    found = (x @ balanced_rotation(x, sizes).T).double().var(0, correction=0)
    torch.testing.assert_close(found, torch.tensor(sum(parts, []), dtype=torch.float64), atol=1e-5, rtol=1e-3)


def test_parts_have_equally_much_to_say():
    x = sample(2000)

    def products(rotation):
        return [(x @ rotation.T).var(0)[start : start + 4].log().sum().item() for start in (0, 4, 8)]

    balanced = products(balanced_rotation(x, [4, 4, 4]))
    by_rank = products(torch.linalg.eigh(torch.cov(x.T))[1].flip(1).T)  # the plain principal axes, the longest first
    assert max(balanced) - min(balanced) < 1.0 < 5.0 < max(by_rank) - min(by_rank)


@pytest.mark.parametrize("rows", [1, 3, 8])
def test_a_sample_that_spans_few_dimensions_still_gives_a_rotation(rows):
    rotation = balanced_rotation(sample()[:rows], [6, 6])
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(12), atol=1e-5, rtol=0)
    equal = balanced_rotation(torch.ones(5, 12), [6, 6])
    torch.testing.assert_close(equal @ equal.T, torch.eye(12), atol=1e-5, rtol=0)
    assert math.isfinite(equal.sum())


def test_signs_do_not_hang_on_the_solver():
    rotation = balanced_rotation(sample(), [6, 6])
    assert (rotation.gather(1, rotation.abs().argmax(1, keepdim=True)) > 0).all()
    torch.testing.assert_close(rotation, balanced_rotation(sample(), [6, 6]))
