"""Histories without padding: nothing is lost, moved or mixed."""

from __future__ import annotations

import pytest
import torch

from recbole_r3vae.model.packing import pack


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


def test_packed_positions_are_those_of_the_batch(real):
    x = torch.randn(6, 9, 4)
    packing = pack(real)
    packed = packing.take(x)
    assert len(packed) == real.sum()
    row = torch.cat([torch.full((int(n),), history) for history, n in zip(packing.order, real.sum(1)[packing.order])])  # [M]
    assert torch.equal(packed, x[row, packing.position()])
    assert torch.equal(packing.lengths(), real.sum(1).sort().values) and packing.longest == packing.lengths()[-1]


def test_rows_go_back_to_the_order_of_the_batch(real):
    rows = torch.randn(6, 2, 3)
    packing = pack(real)
    assert torch.equal(packing.unsort(rows[packing.order]), rows)
