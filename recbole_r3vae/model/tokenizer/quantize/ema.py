"""A codebook that follows its items by moving averages instead of a loss, and gives up dead codewords."""

from __future__ import annotations

import torch
from torch import Tensor

from recbole_r3vae.model.tokenizer.quantize.codebook import EPS, Codebook


class EMACodebook(Codebook):
    r"""Codewords that are running means of what was assigned to them.

    With the number :math:`n_k` and the sum :math:`s_k` of a batch's vectors of code k,

    .. math:: N_k \gets \gamma N_k + (1 - \gamma) n_k, \quad m_k \gets \gamma m_k + (1 - \gamma) s_k, \quad
              c_k = m_k / N_k

    (van den Oord et al., NeurIPS 2017, appendix A.1). A codeword whose :math:`N_k` falls below a share of the
    average is dead and starts again at a random vector of the batch (as Jukebox, arXiv 2005.00341, section
    3.1, does).

    Args:
        size: Number of codewords ``K``.
        dim: Their dimension ``d``.
        generator: Source of the random initial codewords.
        decay: :math:`\gamma`, between 0 and 1.
        restart_below: Share of the average :math:`N` below which a codeword is dead; 0 revives none.

    Attributes:
        weight: The codewords ``[K, d]``; they have no gradient.
        count: :math:`N` ``[K]``.
        total: :math:`m` ``[K, d]``.
    """

    def __init__(
        self,
        size: int,
        dim: int,
        generator: torch.Generator,
        decay: float = 0.99,
        restart_below: float = 0.05,
    ):
        super().__init__(size, dim, generator)
        self.weight.requires_grad_(False)
        self.decay = decay
        self.restart_below = restart_below
        self.register_buffer("count", torch.ones(size))
        self.register_buffer("total", self.weight.detach().clone())

    @torch.no_grad()
    def initialise(self, x: Tensor, iterations: int, seed: int) -> None:
        super().initialise(x, iterations, seed)
        self.count.fill_(1.0)
        self.total.copy_(self.weight)

    @torch.no_grad()
    def update(self, x: Tensor, codes: Tensor) -> None:
        """Move the codewords after a training batch.

        Args:
            x: What this level quantised ``[B, d]``.
            codes: What it chose ``[B]``.
        """
        count = torch.bincount(codes, minlength=self.size).to(x.dtype)  # [K]
        total = torch.zeros_like(self.total).index_add_(0, codes, x)  # [K, d]
        self.count.lerp_(count, 1 - self.decay)
        self.total.lerp_(total, 1 - self.decay)
        dead = (self.count < self.restart_below * self.count.mean()).nonzero().flatten()[: len(x)]  # [dead]
        if len(dead):
            rows = torch.randperm(len(x), device=x.device)[: len(dead)]
            # A newborn counts as much as the average, or it would be dead again before items found it.
            self.count[dead] = self.count.mean()
            self.total[dead] = x[rows] * self.count[dead].unsqueeze(1)
        known = self.count > EPS  # without restarts, N of an unused codeword fades away; the codeword stays
        self.weight[known] = self.total[known] / self.count[known].unsqueeze(1)
