"""Attention written out, against PyTorch's function, in values and gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from recbole_r3vae.model import attention
from recbole_r3vae.model.attention import attend
from recbole_r3vae.model.dropout import Dropout


def parts(queries=7, keys=7, size=5, seed=0):
    """Query, key and value of 3 histories and 2 heads."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(3, 2, n, size, generator=generator, requires_grad=True) for n in (queries, keys, keys)]


def masks(queries, keys):
    """None, additive and bool ones; some queries see little, and each sees a key."""
    generator = torch.Generator().manual_seed(1)
    seen = torch.rand(3, 1, queries, keys, generator=generator) < 0.4
    seen[..., 0] = True
    added = torch.randn(1, 2, queries, keys, generator=generator).masked_fill(~seen[:1], -torch.inf)
    return {"none": None, "bool": seen, "added": added}


@pytest.mark.parametrize("short", [0, 256], ids=["kernel", "written out"])
@pytest.mark.parametrize("mask", ["none", "bool", "added"])
@pytest.mark.parametrize("queries, keys", [(7, 7), (2, 9), (1, 1)])
@pytest.mark.parametrize("scale", [None, 1.0, 0.3])
def test_both_ways_are_the_function(monkeypatch, short, mask, queries, keys, scale):
    monkeypatch.setattr(attention, "SHORT", short)
    given, ours, theirs = masks(queries, keys)[mask], parts(queries, keys), parts(queries, keys)
    found = attend(*ours, given, scale=scale)
    expected = F.scaled_dot_product_attention(*theirs, attn_mask=given, scale=scale)
    assert torch.allclose(found, expected, atol=1e-6)
    weight = torch.randn(found.shape, generator=torch.Generator().manual_seed(2))
    for part, other in zip(torch.autograd.grad((found * weight).sum(), ours), torch.autograd.grad((expected * weight).sum(), theirs)):
        assert torch.allclose(part, other, atol=1e-5)


@pytest.mark.parametrize("short", [0, 256], ids=["kernel", "written out"])
def test_causal_queries_see_no_later_key(monkeypatch, short):
    monkeypatch.setattr(attention, "SHORT", short)
    query, key, value = parts()
    found = attend(query, key, value, causal=True)
    for last in range(7):
        alone = attend(query[:, :, last : last + 1], key[:, :, : last + 1], value[:, :, : last + 1])
        assert torch.allclose(found[:, :, last : last + 1], alone, atol=1e-6)


def test_a_mask_and_causal_exclude_each_other():
    with pytest.raises(ValueError, match="exclude each other"):
        attend(*parts(), masks(7, 7)["bool"], causal=True)


@pytest.mark.parametrize("keys", [9, 300], ids=["short", "long"])
def test_weights_are_dropped_in_training_alone(keys):
    query, key, _ = parts(4, keys)
    value = torch.eye(keys).expand(3, 2, keys, keys)  # so that what comes out are the weights
    dropout = Dropout(0.5)
    whole = attend(query, key, value, dropout=dropout.eval())
    assert torch.allclose(whole.sum(-1), torch.ones(3, 2, 4), atol=1e-5)
    torch.manual_seed(0)
    dropped = attend(query, key, value, dropout=dropout.train())
    kept = dropped != 0
    assert 0.35 < kept.float().mean() < 0.65
    assert torch.allclose(dropped[kept], 2 * whole[kept], atol=1e-6)


def test_ranking_takes_the_kernel(monkeypatch):
    calls = []
    monkeypatch.setattr(attention.F, "scaled_dot_product_attention", lambda query, *_, **__: calls.append(1) or query)
    attend(*parts())
    assert not calls
    with torch.no_grad():
        attend(*(part.detach() for part in parts()))
    attend(*parts(keys=attention.SHORT + 1))
    assert len(calls) == 2


@pytest.mark.parametrize("short", [0, 256], ids=["kernel", "written out"])
def test_a_mask_may_be_of_another_precision(monkeypatch, short):
    monkeypatch.setattr(attention, "SHORT", short)
    query, key, value = (part.detach().bfloat16().requires_grad_() for part in parts())
    mask = masks(7, 7)["added"]
    found = attend(query, key, value, mask)
    assert found.dtype == torch.bfloat16 and torch.allclose(found.float(), attend(*parts(), mask), atol=0.05)
