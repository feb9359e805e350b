"""Codebooks that learn otherwise than by a loss of their own: moving averages, and SimVQ's common map."""

from __future__ import annotations

import pytest
import torch

from recbole_r3vae.model.tokenizer.quantize.assign import NearestNeighbour
from recbole_r3vae.model.tokenizer.quantize.codebook import Codebook
from recbole_r3vae.model.tokenizer.quantize.ema import EMACodebook
from recbole_r3vae.model.tokenizer.quantize.simvq import SimVQCodebook


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def vectors(n, d=4, seed=1):
    return torch.randn(n, d, generator=generator(seed))


def test_codewords_are_the_running_means_of_their_formula():
    codebook = EMACodebook(3, 4, generator(), decay=0.9, restart_below=0.0)
    count, total = [1.0] * 3, codebook.weight.clone()
    for step in range(5):
        x, codes = vectors(8, seed=step), torch.randint(3, (8,), generator=generator(step))
        codebook.update(x, codes)
        for k in range(3):
            mine = x[codes == k]
            count[k] = 0.9 * count[k] + 0.1 * len(mine)
            total[k] = 0.9 * total[k] + 0.1 * mine.sum(0)
            torch.testing.assert_close(codebook.weight[k], total[k] / count[k])


def test_codewords_converge_to_the_means_of_their_items():
    codebook, x, codes = EMACodebook(2, 4, generator(), restart_below=0.0), vectors(40), torch.arange(40) % 2
    for _ in range(1500):
        codebook.update(x, codes)
    means = torch.stack([x[::2].mean(0), x[1::2].mean(0)])
    torch.testing.assert_close(codebook.weight, means, atol=1e-4, rtol=0)


@pytest.mark.parametrize("restart_below, alive", [(0.0, 1), (0.05, 8)])
def test_restart_revives_dead_codewords(restart_below, alive):
    """All codewords but one start far from all items; only restarts bring them back."""
    torch.manual_seed(0)
    codebook = EMACodebook(8, 4, generator(), restart_below=restart_below)
    with torch.no_grad():
        codebook.weight[1:] += 100.0
        codebook.total.copy_(codebook.weight)
    level, x = NearestNeighbour(codebook), vectors(256)
    for _ in range(400):
        codebook.update(x, level(x)[0])
    assert len(level(x)[0].unique()) == alive
    assert torch.isfinite(codebook.weight).all()


def test_a_restarted_codeword_sits_on_an_item_of_the_batch():
    codebook = EMACodebook(4, 4, generator(), decay=0.5, restart_below=0.5)
    x = vectors(64)
    for _ in range(2):  # 0.25 against an average near 12: dead
        codebook.update(x, torch.arange(64) % 3)
    assert (codebook.weight[3] - x).norm(dim=-1).min() < 1e-5
    assert codebook.count[3].item() == pytest.approx(codebook.count[:3].mean().item(), rel=0.4)


def test_more_dead_codewords_than_items_in_the_batch():
    codebook = EMACodebook(32, 4, generator(), decay=0.1, restart_below=0.5)
    for step in range(5):
        codebook.update(vectors(3, seed=step), torch.zeros(3, dtype=torch.int64))
    assert torch.isfinite(codebook.weight).all()


def test_without_restarts_an_unused_codeword_stays_where_it_was():
    codebook = EMACodebook(2, 4, generator(), decay=0.5, restart_below=0.0)
    before = codebook.weight[1].clone()
    for _ in range(2000):  # its count falls below the smallest number
        codebook.update(vectors(4), torch.zeros(4, dtype=torch.int64))
    torch.testing.assert_close(codebook.weight[1], before)


def test_ema_state_is_in_the_state_dict_and_has_no_gradient():
    codebook = EMACodebook(3, 4, generator())
    codebook.update(vectors(9), torch.arange(9) % 3)
    copy = EMACodebook(3, 4, generator(5))
    copy.load_state_dict(codebook.state_dict())
    for each in (codebook, copy):
        each.update(vectors(9, seed=2), torch.arange(9) % 3)
    assert torch.equal(copy.weight, codebook.weight) and torch.equal(copy.count, codebook.count)
    assert not any(parameter.requires_grad for parameter in codebook.parameters())


def test_ema_starts_from_kmeans_as_any_codebook():
    plain, codebook, x = Codebook(5, 4, generator()), EMACodebook(5, 4, generator()), vectors(60)
    for each in (plain, codebook):
        each.initialise(x, 10, seed=3)
    assert torch.equal(codebook.weight, plain.weight)
    codebook.update(x[:1], torch.tensor([0]))
    torch.testing.assert_close(codebook.weight[1:], plain.weight[1:])


def test_simvq_moves_every_codeword_through_one_map():
    codebook = SimVQCodebook(6, 4, generator())
    assert [name for name, _ in codebook.named_parameters()] == ["projection"]
    torch.testing.assert_close(codebook.weight, codebook.basis)
    torch.testing.assert_close(codebook(torch.tensor([2, 2, 5])), codebook.weight[[2, 2, 5]])
    basis, before = codebook.basis.clone(), codebook.weight.detach().clone()
    optimizer = torch.optim.SGD(codebook.parameters(), lr=0.1)
    (codebook(torch.tensor([0])) - 1).square().sum().backward()  # one codeword's loss
    optimizer.step()
    assert torch.equal(codebook.basis, basis)
    assert ((codebook.weight - before).norm(dim=-1) > 1e-3).all()


def test_simvq_starts_from_kmeans_as_any_codebook():
    plain, codebook, x = Codebook(5, 4, generator()), SimVQCodebook(5, 4, generator()), vectors(60)
    with torch.no_grad():
        codebook.projection.mul_(3)
    for each in (plain, codebook):
        each.initialise(x, 10, seed=3)
    torch.testing.assert_close(codebook.weight, plain.weight)
