"""VQ-VAE with several codebooks side by side: a weak control.

Reference:
    Aaron van den Oord et al. "Neural Discrete Representation Learning." NeurIPS 2017, arXiv 1711.00937.

The original gives an item one code. How R3-VAE's comparison obtains several is not known; here the latent
vector is split into as many parts as there are levels, and each has its own codebook. The codes have no
order, and the first says nothing about where to look for the second.
"""

from __future__ import annotations

import torch
from recbole.config import Config
from torch import Tensor, nn

from recbole_r3vae.errors import UserError
from recbole_r3vae.model.tokenizer.base import Quantized
from recbole_r3vae.model.tokenizer.quantize.residual import Estimator, LevelCodes, ParallelQuantizer
from recbole_r3vae.model.tokenizer.rqvae import RQVAE


class VQVAE(RQVAE):
    r"""The autoencoder and losses of :class:`.RQVAE` around a latent vector that is quantised part by part.

    .. math:: z = [z_1; \dots; z_L] = \mathrm{enc}(x), \quad c_l = \arg\min_k \|z_l - e^{(l)}_k\|, \quad
              \hat x = \mathrm{dec}([e^{(1)}_{c_1}; \dots; e^{(L)}_{c_L}])

    No part comes before another: the codes are unordered, with one codebook as with several.

    Args:
        config: Keys of ``properties/model/VQVAE.yaml``.
        items: Embeddings of the catalogue.
    """

    ordered = False

    @classmethod
    def check(cls, config: Config) -> None:
        """Refuse ranges, and a latent vector too short to split.

        Raises:
            UserError: the message names the key.
        """
        super().check(config)
        dim, n_levels = config["latent_dim"], len(config["codebook_sizes"])
        if dim < n_levels:
            raise UserError(
                f"latent_dim is {dim}, too few to split into {n_levels} parts, one for each of codebook_sizes; give at least {n_levels}"
            )

    def stack(self, dim: int, estimator: Estimator, generator: torch.Generator) -> nn.Module:
        n_levels = len(self.codebook_sizes)
        part_sizes = [dim // n_levels + (number < dim % n_levels) for number in range(n_levels)]
        levels = [self.level(number, size, generator) for number, size in enumerate(part_sizes)]
        return ParallelQuantizer(levels, estimator)

    def _quantize(self, x: Tensor) -> tuple[Quantized, LevelCodes]:
        out, levels = super()._quantize(x)
        out.residuals = [torch.cat(levels.residuals, dim=-1)] * len(self.codebook_sizes)  # the latent [B, d']
        return out, levels
