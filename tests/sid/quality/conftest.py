"""A random catalogue to measure."""

from __future__ import annotations

import pytest
import torch


def make(n, d, sizes, seed):
    """Random codes and vectors of all norms, a few of them zero."""
    generator = torch.Generator().manual_seed(seed)
    codes = torch.stack([torch.randint(size, (n,), generator=generator) for size in sizes], 1)
    x = torch.randn(n, d, generator=generator, dtype=torch.float64)
    x = x * 10 ** torch.empty(n, 1, dtype=torch.float64).uniform_(-3, 3, generator=generator) + 0.5
    x[torch.rand(n, generator=generator) < 0.1] = 0
    return codes, x


@pytest.fixture(scope="session")
def random_case():
    """Of n items: codes ``[n, L]`` and vectors ``[n, d]``."""
    return make
