"""Attention over levels: it is softmax attention, and a cache follows the beams."""

from __future__ import annotations

import pytest
import torch

from recbole_r3vae.model.generator.levels import LevelCache, attend_levels
from recbole_r3vae.model.generator.r3gr import LevelBlock


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


def test_a_cache_follows_the_parents():
    cache, kv, parents = LevelCache(), torch.randn(3, 4, 2, 5, 6), torch.tensor([[0, 0], [3, 1], [2, 3]])
    shared = torch.randn(3, 1, 2, 5, 6)
    for level in (shared, kv):
        cache.append(level)
    cache.reorder(parents)
    assert cache.levels[0] is shared
    for row in range(3):
        for beam in range(2):
            assert torch.equal(cache.levels[1][row, beam], kv[row, parents[row, beam]])


def test_level_by_level_is_all_at_once():
    torch.manual_seed(0)
    block, x, cache = LevelBlock(8, 2, 16, 0.0), torch.randn(5, 4, 8), LevelCache()
    assert torch.allclose(torch.cat([block(x[:, [level]], cache) for level in range(4)], 1), block(x), atol=1e-6)
