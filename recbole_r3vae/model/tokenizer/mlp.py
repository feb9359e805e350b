"""The multilayer perceptrons on either side of a quantizer."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn

from recbole_r3vae.model.dropout import Dropout


def mlp(sizes: Sequence[int], generator: torch.Generator) -> nn.Sequential:
    """Linear layers with ReLU between them, Xavier weights and zero biases.

    Args:
        sizes: Dimensions from input to output.
        generator: Source of the weights.

    Returns:
        The module ``[B, sizes[0]] -> [B, sizes[-1]]``.
    """
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(sizes):
        linear = nn.Linear(n_in, n_out)
        nn.init.xavier_uniform_(linear.weight, generator=generator)
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def normed_mlp(sizes: Sequence[int], dropout: float, generator: torch.Generator) -> nn.Sequential:
    """A perceptron with layer norm, ReLU and dropout after every layer but the last: ``[B, sizes[0]] -> [B, sizes[-1]]``."""
    layers: list[nn.Module] = []
    for pair in pairwise(sizes):
        layers += [*mlp(pair, generator), nn.LayerNorm(pair[1]), nn.ReLU(), Dropout(dropout)]
    return nn.Sequential(*layers[:-3])
