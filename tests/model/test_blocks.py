"""The shared blocks: HSTU's attention term by term, softmax attention against PyTorch's own, and the past alone has a say."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from recbole_r3vae.model.blocks import ENCODERS, ContinuedBlock, HSTUBlock, TransformerBlock, causal_blocks
from recbole_r3vae.model.packing import pack

LENGTHS = torch.tensor([5, 2, 5, 1, 3])


def packed(size=8):
    """Histories of several lengths ``[M, d]``, and where they lie."""
    packing = pack(torch.arange(5) < LENGTHS[:, None])
    return torch.randn(int(LENGTHS.sum()), size, generator=torch.Generator().manual_seed(0)), packing


@pytest.mark.parametrize("shared_bias", [True, False])
@pytest.mark.parametrize("further", [True, False])
def test_hstu_attention_by_hand(shared_bias, further):
    """Every term of the sum written out, with a bias that differs for every distance and, where there is a further one, every pair."""
    torch.manual_seed(0)
    n_heads, key_size, value_size = 2, 3, 4
    sizes = {"key_size": key_size, "value_size": value_size, "shared_bias": shared_bias, "linear_bias": not shared_bias}
    block = HSTUBlock(8, n_heads, max_length=7, **sizes)
    torch.nn.init.normal_(block.distance_bias)
    x, packing = packed()
    bias = [torch.randn(n, t, t) for n, t in packing.blocks] if further else None
    result = packing.split(block(x, packing, bias))

    for place, (histories, found) in enumerate(zip(packing.split(x), result)):
        for row, history in enumerate(histories):
            query, key, value, gate = F.silu(block.qkvu(block.attention_norm(history))).split([6, 6, 8, 8], dim=-1)
            for i in range(len(history)):
                sums = torch.zeros(n_heads, value_size)
                for head in range(n_heads):
                    keys, values = slice(head * key_size, (head + 1) * key_size), slice(head * value_size, (head + 1) * value_size)
                    for j in range(i + 1):
                        logit = query[i, keys] @ key[j, keys] + block.distance_bias[0 if shared_bias else head, i - j]
                        logit = logit + (bias[place][row, i, j] if further else 0)
                        sums[head] += F.silu(logit) * value[j, values]
                expected = history[i] + block.out(block.gate_norm(sums.flatten()) * gate[i])
                assert torch.allclose(found[row, i], expected, atol=1e-5)


def test_a_transformer_block_is_pytorchs():
    """Its weights in PyTorch's own layer, history by history."""
    torch.manual_seed(0)
    block = TransformerBlock(8, 2, 16, 0.0)
    peer = torch.nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, activation="gelu", batch_first=True, norm_first=True)
    pairs = {
        "self_attn.in_proj_": block.qkv, "self_attn.out_proj.": block.out, "linear1.": block.mlp[0], "linear2.": block.mlp[2],
        "norm1.": block.attention_norm, "norm2.": block.mlp_norm,
    }  # fmt: skip
    peer.load_state_dict({f"{name}{part}": value for name, module in pairs.items() for part, value in module.state_dict().items()})
    x, packing = packed()
    for histories, found in zip(packing.split(x), packing.split(block(x, packing))):
        mask = torch.nn.Transformer.generate_square_subsequent_mask(histories.shape[1])
        assert torch.allclose(found, peer(histories, src_mask=mask, is_causal=True), atol=1e-5)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_a_position_is_made_of_its_own_past(encoder):
    torch.manual_seed(0)
    (block,) = causal_blocks(encoder, 1, 8, 2, 16, 5, 0.0)
    x, packing = packed()
    x.requires_grad_()
    n, t = packing.blocks[-1]  # two histories of five
    found = packing.split(block(x, packing))[-1]
    (slope,) = torch.autograd.grad(found[0, 2].sum(), x)
    slope = packing.split(slope)
    assert (slope[-1][0, :3].abs().sum(-1) > 0).all() and not slope[-1][0, 3:].any()
    assert not slope[-1][1].any() and not any(block.any() for block in slope[:-1])


@pytest.mark.parametrize("encoder", ENCODERS)
def test_dropout_is_asked_for(encoder):
    torch.manual_seed(0)
    blocks = causal_blocks(encoder, 3, 8, 2, 16, 5, 0.5)
    x, packing = packed()
    assert len(blocks) == 3
    assert not torch.equal(blocks[0](x, packing), blocks[0](x, packing))
    assert torch.equal(blocks[0].eval()(x, packing), blocks[0](x, packing))


def test_a_next_position_is_the_last_of_a_longer_history():
    """Many next positions of a history do not see each other, and their block is the one that read the history."""
    torch.manual_seed(0)
    block = ContinuedBlock(8, 2, 16, dropout=0.0)
    x, packing = packed()
    padded, lengths = packing.pad(x), LENGTHS.tolist()
    more = torch.randn(5, 3, 8)
    found = block(more, block.past(x, packing))  # [B, 3, d]
    plain = TransformerBlock(8, 2, 16, dropout=0.0)
    plain.load_state_dict(block.state_dict())
    for row, length in enumerate(lengths):
        for place in range(3):
            history = torch.cat([padded[row, :length], more[row, place : place + 1]])
            alone = plain(history, pack(torch.ones(1, length + 1, dtype=torch.bool)))
            assert torch.allclose(found[row, place], alone[-1], atol=1e-5)
    assert torch.allclose(block(x, packing), plain(x, packing), atol=1e-6)
