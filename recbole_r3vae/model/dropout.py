"""Dropout whose random numbers a CPU draws four at a time."""

from __future__ import annotations

import torch
from torch import Tensor, nn

LEVELS = 2**16
"""Values of the 16 random bits that decide on an element."""


class Dropout(nn.Dropout):
    """``nn.Dropout``, of which a CPU's part is written anew: there PyTorch draws one number an element, which was a quarter of TIGER-causal's step.

    An element is hidden where its 16 bits of a random 64-bit number lie below ``p``. So ``p`` is rounded to a multiple of 2^-16, and what
    is kept is scaled by the rounded one: the expectation is exact, but for the rounding of that factor in bfloat16. The numbers
    come from PyTorch's generator, as always.

    Args:
        p: probability, 0 to 1.
    """

    @property
    def hidden(self) -> int:
        """Of the :data:`LEVELS` values, those that hide an element."""
        return round(self.p * LEVELS)

    def forward(self, x: Tensor) -> Tensor:
        """``x`` of any shape; in training with elements hidden at random and the others scaled up, otherwise as it is."""
        if x.device.type != "cpu" or not 0 < (hidden := self.hidden) < LEVELS:
            return super().forward(x)
        if not self.training:
            return x
        numbers = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
        kept = numbers.view(torch.int16)[: x.numel()].view(x.shape) >= hidden - LEVELS // 2
        return x * kept.to(x.dtype).mul_(LEVELS / (LEVELS - hidden))
