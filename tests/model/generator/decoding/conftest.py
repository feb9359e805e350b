"""What ranking a catalogue is checked against."""

from __future__ import annotations

import pytest
import torch

from recbole_r3vae.model.generator.decoding.rules import Excluded


def flags(rule, n_users, n_items):
    """bool [B, n_items] of any rule; the padding item is never allowed."""
    allowed = torch.ones(n_users, n_items, dtype=torch.bool)
    if isinstance(rule, Excluded):
        for user, item in zip(rule.users.tolist(), rule.items.tolist()):
            allowed[user, item] = False
    elif rule is not None:
        allowed &= rule
    allowed[:, 0] = False
    return allowed


def sort_everything(scores, rule, k):
    """Items [B, k] and scores [B, k] of a whole matrix [B, n_items]: by score, then by item number; 0 and -inf where there are no more."""
    allowed = flags(rule, *scores.shape)
    items, values = torch.zeros(len(scores), k, dtype=torch.int64), torch.full((len(scores), k), -torch.inf)
    for row, (line, may) in enumerate(zip(scores.tolist(), allowed.tolist())):
        possible = [item for item in range(len(line)) if may[item] and line[item] > -torch.inf]
        best = sorted(possible, key=lambda item: (-line[item], item))[:k]
        items[row, : len(best)] = torch.tensor(best, dtype=torch.int64)
        values[row, : len(best)] = torch.tensor([line[item] for item in best])
    return items, values


@pytest.fixture(scope="session")
def oracle():
    return sort_everything


@pytest.fixture(scope="session")
def every_rule():
    """All kinds of rules for B users and n_items, from a seed."""

    def make(n_users, n_items, seed):
        generator = torch.Generator().manual_seed(seed)
        shared = torch.rand(n_items, generator=generator) < 0.5
        own = torch.rand(n_users, n_items, generator=generator) < 0.5
        pairs = Excluded(*(torch.randint(low, high, (3 * n_users,), generator=generator) for low, high in ((0, n_users), (1, n_items))))
        return [None, shared, own, pairs, Excluded(torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64))]

    return make
