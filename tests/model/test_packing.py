"""Histories without padding: nothing is lost, moved or mixed."""

from __future__ import annotations

import itertools

import pytest
import torch

from recbole_r3vae.model.blocks import ENCODERS, causal_blocks
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


# -- padding that saves blocks ---------------------------------------------------------------------------------------------


def cost(blocks: list[tuple[int, int]], spare: int) -> int:
    """Positions, and ``spare`` for each block."""
    return sum(n * t + spare for n, t in blocks)


@pytest.mark.parametrize("spare", [1, 3, 8, 1000])
def test_no_other_blocks_are_cheaper(real, spare):
    lengths, counts = (found.tolist() for found in real.sum(1).sort().values.unique_consecutive(return_counts=True))
    every = []  # way to cut the lengths into neighbours
    for cut in itertools.product([False, True], repeat=len(lengths) - 1):
        ends = [place + 1 for place, here in enumerate(cut) if here] + [len(lengths)]
        every.append([(sum(counts[a:b]), lengths[b - 1]) for a, b in zip([0, *ends], ends)])
    blocks = pack(real, spare).blocks
    assert blocks in every
    assert cost(blocks, spare) == min(cost(each, spare) for each in every)


def test_histories_that_share_a_block_are_followed_by_padding(real):
    x = torch.randn(6, 9, 4) * real.unsqueeze(-1)
    packing = pack(real, spare=4)
    packed = packing.take(x)
    assert len(packed) == sum(n * t for n, t in packing.blocks) == packing.lengths().sum() >= real.sum()
    assert torch.equal(packing.pad(packed), x)
    assert torch.equal(packing.last(packed), x[torch.arange(6), real.sum(1) - 1])
    for row, history in zip(packing.order, (row for block in packing.split(packed) for row in block)):
        assert torch.equal(history, x[row, : len(history)])
    assert pack(real, spare=10**6).blocks == [(6, int(real.sum(1).max()))]


def test_a_gap_at_the_front_stays_out_of_the_history():
    real = torch.tensor([[False, True, True, False], [True, True, True, True], [False, True, False, False]])
    packing = pack(real, spare=100)
    assert packing.blocks == [(3, 4)] and packing.order.tolist() == [2, 0, 1]
    assert packing.place.tolist() == [9, 8, 10, 11, 1, 2, 0, 3, 4, 5, 6, 7]  # what is real, then what is not
    assert packing.ends.tolist() == [0, 5, 11]


@pytest.mark.parametrize("encoder", ENCODERS)
def test_causal_blocks_do_not_look_at_that_padding(real, encoder):
    blocks = causal_blocks(encoder, 2, 8, 2, 16, 9, dropout=0.0)
    x = torch.randn(6, 9, 8)

    def read(packing):
        packed = packing.take(x)
        for block in blocks:
            packed = block(packed, packing)
        return packing.pad(packed)[real]

    assert torch.allclose(read(pack(real)), read(pack(real, spare=8)), atol=1e-6)
