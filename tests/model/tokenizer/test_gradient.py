from __future__ import annotations

import math

import pytest
import torch

from recbole_r3vae.model.tokenizer.quantize.gradient import ESTIMATORS, rotation, straight_through


def vectors(n=40, d=6, seed=1):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cosine(a, b):
    return torch.nn.functional.cosine_similarity(a, b, dim=-1)


def rotation_matrix(a, b):
    """The rotation in the plane of ``a`` and ``b`` that takes one direction to the other.

    In the plane's basis u = a / |a| and v, orthogonal to u: cos and sin of the angle between them; the
    identity on everything orthogonal to the plane.
    """
    u = a / a.norm()
    rest = b - (b @ u) * u
    v = rest / rest.norm()
    angle = math.acos(float(a @ b / (a.norm() * b.norm())))
    plane = torch.stack([u, v], dim=1)  # [d, 2]
    turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]).double()
    return torch.eye(len(a)).double() - plane @ plane.T + plane @ turn @ plane.T


@pytest.mark.parametrize("estimator", ESTIMATORS.values(), ids=ESTIMATORS)
def test_the_value_is_the_quantised_vector(estimator):
    x, q = vectors(), vectors(seed=2)
    torch.testing.assert_close(estimator(x, q), q)


def test_straight_through_hands_the_gradient_on():
    x, q, g = vectors().requires_grad_(), vectors(seed=2), vectors(seed=3)
    (straight_through(x, q) * g).sum().backward()
    assert torch.equal(x.grad, g)


def test_rotation_gradient_is_that_of_the_explicit_matrix():
    """Sample by sample, against autograd through the constant matrix |q| / |x| R."""
    x, q, g = vectors().requires_grad_(), vectors(seed=2), vectors(seed=3)
    (rotation(x, q) * g).sum().backward()
    for i in range(len(x)):
        xi, qi = x[i].detach().requires_grad_(), q[i]
        matrix = qi.norm() / xi.detach().norm() * rotation_matrix(xi.detach(), qi)
        rotated = matrix @ xi
        torch.testing.assert_close(rotated, qi)
        (rotated @ g[i]).backward()
        torch.testing.assert_close(x.grad[i], xi.grad)


def test_rotation_keeps_the_gradients_angle_and_scales_its_norm_sample_by_sample():
    x, q, g = vectors().requires_grad_(), vectors(seed=2), vectors(seed=3)
    with torch.no_grad():
        x *= torch.logspace(-2, 2, len(x)).double().unsqueeze(1)  # a norm of the whole batch would be far off
    (rotation(x, q) * g).sum().backward()
    torch.testing.assert_close(cosine(x.grad, x), cosine(g, q))
    torch.testing.assert_close(x.grad.norm(dim=-1), g.norm(dim=-1) * q.norm(dim=-1) / x.norm(dim=-1))


def test_rotation_of_a_sample_does_not_depend_on_the_batch():
    def gradient(x):
        x = x.clone().requires_grad_()
        (rotation(x, vectors(seed=2)[: len(x)]) * vectors(seed=3)[: len(x)]).sum().backward()
        return x.grad

    torch.testing.assert_close(gradient(vectors())[:7], gradient(vectors()[:7]))


def test_rotation_is_that_of_vector_quantize_pytorch():
    reason = "parity with vector-quantize-pytorch needs the [bench] extra"
    peer = pytest.importorskip("vector_quantize_pytorch.vector_quantize_pytorch", reason=reason)
    x, q, g = vectors(), vectors(seed=2), vectors(seed=3)
    x *= torch.logspace(-2, 2, len(x)).double().unsqueeze(1)
    values, gradients = [], []
    for rotate in (rotation, peer.rotate_to):
        own = x.clone().requires_grad_()
        values.append(rotate(own, q))
        (values[-1] * g).sum().backward()
        gradients.append(own.grad)
    torch.testing.assert_close(*values)
    torch.testing.assert_close(*gradients)


def test_rotation_between_equal_directions_only_scales():
    x, g = vectors().requires_grad_(), vectors(seed=3)
    (rotation(x, 3 * x.detach()) * g).sum().backward()
    torch.testing.assert_close(x.grad, 3 * g)


def test_rotation_survives_opposite_and_zero_vectors():
    x, g = vectors(6), vectors(6, seed=3)
    q = -2 * x
    x[3] = 0.0
    q[4] = 0.0
    x.requires_grad_()
    out = rotation(x, q)
    (out * g).sum().backward()
    torch.testing.assert_close(out, q)
    assert torch.isfinite(x.grad).all()
    assert torch.equal(x.grad[3:5], g[3:5])  # straight through
    torch.testing.assert_close(x.grad[0].norm(), 2 * g[0].norm())


@pytest.mark.parametrize("estimator", ESTIMATORS.values(), ids=ESTIMATORS)
def test_codewords_get_no_gradient(estimator):
    q = vectors(seed=2).requires_grad_()
    estimator(vectors().requires_grad_(), q).sum().backward()
    assert q.grad is None
