"""Histories without padding: nothing is lost, moved or mixed."""

from __future__ import annotations

import pytest
import torch

from recbole_r3vae.model.generator.layers import attend_levels, pack, reorder


@pytest.fixture(params=range(5))
def real(request) -> torch.Tensor:
    """Rows of 1 to 9 real positions, filled from the left."""
    generator = torch.Generator().manual_seed(request.param)
    return torch.arange(9) < torch.randint(1, 10, (6, 1), generator=generator)


def test_padding_undoes_packing(real):
    x = torch.randn(6, 9, 4) * real.unsqueeze(-1)
    packing = pack(real)
    packed = x.flatten(0, 1)[packing.place]
    assert len(packed) == real.sum()
    assert torch.equal(packing.pad(packed), x)


def test_blocks_are_whole_histories_in_order(real):
    x = torch.arange(54).view(6, 9)
    packing = pack(real)
    histories = [row for block in packing.split(x.flatten()[packing.place]) for row in block]
    assert len(histories) == 6
    for history, row in zip(histories, packing.order.tolist()):
        assert torch.equal(history, x[row][real[row]])
    assert [len(history) for history in histories] == sorted(real.sum(1).tolist())


def test_last_is_the_last_real_position(real):
    x = torch.randn(6, 9, 4)
    packing = pack(real)
    last = packing.last(x.flatten(0, 1)[packing.place])
    assert torch.equal(last, x[torch.arange(6), real.sum(1) - 1])


@pytest.mark.parametrize("biased", [False, True])
def test_attention_to_levels_is_softmax_attention(biased):
    torch.manual_seed(0)
    query, kv = torch.randn(2, 5, 3, 4), [torch.randn(2, width, 2, 3, 4) for width in (1, 5, 5)]  # the first level serves all beams
    bias = torch.randn(3, 3) if biased else None
    attended = attend_levels(query, kv, bias)
    keys, values = torch.stack([level.expand(2, 5, 2, 3, 4) for level in kv], 4).unbind(2)  # [2, 5, H, l, A/H]
    logits = (query.unsqueeze(3) * keys).sum(-1) + (0 if bias is None else bias)
    expected = (logits.softmax(-1).unsqueeze(-1) * values).sum(3).flatten(2)
    assert torch.allclose(attended, expected, atol=1e-6)


def test_reorder_follows_the_parents():
    past, parents = torch.randn(3, 4, 2, 5), torch.tensor([[0, 0], [3, 1], [2, 3]])
    moved = reorder(past, parents)
    for row in range(3):
        for beam in range(2):
            assert torch.equal(moved[row, beam], past[row, parents[row, beam]])
    shared = torch.randn(3, 1, 2, 5)
    assert reorder(shared, parents) is shared
