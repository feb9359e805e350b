from __future__ import annotations

import pytest
import torch

from recbole_r3vae.model.tokenizer.quantize import gradient
from recbole_r3vae.model.tokenizer.quantize import residual as residual_module
from recbole_r3vae.model.tokenizer.quantize.assign import NearestNeighbour, SoftmaxRating, Top1Rating
from recbole_r3vae.model.tokenizer.quantize.codebook import Codebook, kmeans
from recbole_r3vae.model.tokenizer.quantize.residual import ParallelQuantizer, ResidualQuantizer

SIZES = (7, 5, 9)


def quantizer(rule, straight_through=False, d=6):
    generator = torch.Generator().manual_seed(0)
    levels = [rule(Codebook(size, d, generator)) for size in SIZES]
    return ResidualQuantizer(levels, gradient.straight_through if straight_through else None).double()


def vectors(n=30, d=6, seed=1):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(
    "rule, straight_through", [(Top1Rating, False), (SoftmaxRating, False), (NearestNeighbour, True)]
)
def test_every_level_quantises_what_the_levels_before_left(rule, straight_through):
    model, x = quantizer(rule, straight_through), vectors()
    out = model(x)
    assert out.codes.shape == (30, 3) and out.codes.dtype == torch.int64
    for i in range(len(x)):  # one item after the other
        rest, total = x[i : i + 1], torch.zeros(1, 6).double()
        for number, level in enumerate(model.levels):
            torch.testing.assert_close(out.residuals[number][i : i + 1], rest)
            code, q = level(rest)
            assert out.codes[i, number] == code
            torch.testing.assert_close(out.levels[number][i : i + 1], q)
            rest, total = rest - q, total + q
        torch.testing.assert_close(out.quantized[i : i + 1], total)


def test_nearest_neighbours_are_those_of_vector_quantize_pytorch():
    reason = "parity with vector-quantize-pytorch needs the [bench] extra"
    peer = pytest.importorskip("vector_quantize_pytorch", reason=reason)
    model, x = quantizer(NearestNeighbour, straight_through=True).float(), vectors(500).float()
    settings = {"commitment_weight": 1.0, "rotation_trick": False, "ema_update": False}
    theirs = peer.ResidualVQ(dim=6, num_quantizers=3, codebook_size=SIZES, **settings)
    for level, layer in zip(model.levels, theirs.layers):
        layer._codebook.embed.data.copy_(level.codebook.weight.detach()[None])
    own, other = x.clone().requires_grad_(), x[:, None].clone().requires_grad_()  # it quantises [B, n, d]
    out = model(own)
    quantized, codes, losses = theirs(other, freeze_codebook=True)
    assert torch.equal(out.codes, codes[:, 0]) and (out.codes.amax(0) == torch.tensor(SIZES) - 1).all()
    torch.testing.assert_close(out.quantized, quantized[:, 0])
    # Its losses are means over dimensions, ours sums. The gradient of the output is not compared: there every
    # level hands it on by itself, L times in all.
    torch.testing.assert_close(out.commitment_loss(), 6 * losses.sum())
    out.commitment_loss().backward()
    (6 * losses.sum()).backward()
    torch.testing.assert_close(own.grad, other.grad[:, 0])


def test_top1_never_lengthens_the_residual():
    out = quantizer(Top1Rating)(vectors())
    lengths = torch.stack([r.norm(dim=-1) for r in out.residuals])
    assert (lengths[1:] <= lengths[:-1]).all()


def test_differentiable_levels_pass_the_gradient_to_every_codebook():
    model, x = quantizer(Top1Rating), vectors()
    (x - model(x).quantized).square().sum().backward()
    for level in model.levels:
        assert level.codebook.weight.grad.abs().sum() > 0


def test_straight_through_gives_the_sum_of_levels_and_hands_its_gradient_to_the_input():
    model, x = quantizer(NearestNeighbour, True), vectors().requires_grad_()
    out = model(x)
    torch.testing.assert_close(out.quantized, sum(out.levels))
    weight = vectors(seed=5)
    (out.quantized * weight).sum().backward()
    torch.testing.assert_close(x.grad, weight)
    assert all(level.codebook.weight.grad is None for level in model.levels)


@pytest.mark.parametrize("estimator", gradient.ESTIMATORS)
@pytest.mark.parametrize("stack", [ResidualQuantizer, ParallelQuantizer])
def test_joined_levels_are_the_quantized_vector_with_the_gradient_of_the_codewords_too(stack, estimator):
    generator = torch.Generator().manual_seed(0)
    levels = [NearestNeighbour(Codebook(size, 6 if stack is ResidualQuantizer else 2, generator)) for size in SIZES]
    model, x, weight = stack(levels, gradient.ESTIMATORS[estimator]).double(), vectors(), vectors(seed=5)
    reached = {}
    for name in ("quantized", "joined"):
        own = x.clone().requires_grad_()
        out = model(own)
        (getattr(out, name) * weight).sum().backward()
        reached[name] = own.grad
    assert torch.equal(out.joined, out.quantized)
    torch.testing.assert_close(reached["joined"], reached["quantized"])  # the input loses nothing
    parts = [weight] * 3 if stack is ResidualQuantizer else weight.split(2, dim=-1)
    for level, part, codes in zip(levels, parts, out.codes.unbind(1)):
        expected = torch.zeros_like(level.codebook.weight).index_add_(0, codes, part)
        torch.testing.assert_close(level.codebook.weight.grad, expected)


def test_without_an_estimator_joined_is_quantized():
    out = quantizer(SoftmaxRating)(vectors())
    assert out.joined is out.quantized


def test_codebook_loss_moves_each_level_by_its_own_residuals_only():
    model, x = quantizer(NearestNeighbour, True), vectors().requires_grad_()
    out = model(x)
    loss = out.codebook_loss()
    loss.backward()
    assert x.grad is None
    expected_loss = 0.0
    for number, level in enumerate(model.levels):
        expected = torch.zeros_like(level.codebook.weight)
        for code, r in zip(out.codes[:, number], out.residuals[number]):
            expected[code] += 2 * (level.codebook.weight[code] - r) / len(x)
            expected_loss += (level.codebook.weight[code] - r).square().sum().item() / len(x)
        torch.testing.assert_close(level.codebook.weight.grad, expected.detach())
    assert loss.item() == pytest.approx(expected_loss)


def test_commitment_loss_reaches_the_input_from_every_level():
    model, x = quantizer(NearestNeighbour, True), vectors().requires_grad_()
    out = model(x)
    loss = out.commitment_loss()
    loss.backward()
    expected = sum(2 * (r - q) / len(x) for r, q in zip(out.residuals, out.levels))
    torch.testing.assert_close(x.grad, expected.detach())
    assert all(level.codebook.weight.grad is None for level in model.levels)
    assert loss.item() == pytest.approx(out.codebook_loss().item())


@pytest.mark.parametrize("rule", [Top1Rating, NearestNeighbour])
def test_initialise_is_kmeans_of_the_running_residual(rule, monkeypatch):
    monkeypatch.setattr(residual_module, "CHUNK_CELLS", 7 * 9)  # several chunks
    model, x = quantizer(rule).float(), vectors(200).float()
    rest = x.clone()
    model.initialise(x, iterations=10, seed=3)
    for number, level in enumerate(model.levels):
        expected = torch.from_numpy(kmeans(rest.numpy(), SIZES[number], 10, seed=3 + number))
        torch.testing.assert_close(level.codebook.weight.detach(), expected, atol=1e-5, rtol=1e-4)
        rest = rest - level(rest)[1].detach()
    torch.testing.assert_close(x, rest)  # documented: the sample is overwritten


def test_parallel_levels_quantise_their_part_each():
    generator = torch.Generator().manual_seed(0)
    levels = [NearestNeighbour(Codebook(size, d, generator)) for size, d in zip(SIZES, (1, 3, 2))]
    model, x = ParallelQuantizer(levels, gradient.straight_through).double(), vectors().requires_grad_()
    out = model(x)
    parts = [x[:, :1], x[:, 1:4], x[:, 4:]]
    for number, (level, part) in enumerate(zip(levels, parts)):
        code, q = level(part)
        assert torch.equal(out.codes[:, number], code)
        torch.testing.assert_close(out.levels[number], q)
    torch.testing.assert_close(out.quantized, torch.cat(out.levels, dim=1))
    error = (x - out.quantized).square().sum(-1).mean().item()
    assert out.codebook_loss().item() == pytest.approx(error)
    out.quantized.sum().backward()
    torch.testing.assert_close(x.grad, torch.ones_like(x))


def test_parallel_levels_start_from_kmeans_of_their_part():
    generator = torch.Generator().manual_seed(0)
    model = ParallelQuantizer([NearestNeighbour(Codebook(5, 3, generator)) for _ in range(2)])
    x = vectors(200).float()
    model.initialise(x, iterations=10, seed=3)
    for number, level in enumerate(model.levels):
        expected = torch.from_numpy(kmeans(x[:, 3 * number : 3 * number + 3].numpy(), 5, 10, seed=3 + number))
        torch.testing.assert_close(level.codebook.weight.detach(), expected)
