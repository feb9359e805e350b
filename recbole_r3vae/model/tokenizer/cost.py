r"""CoST: an RQ-VAE that learns to tell items apart by their reconstructions instead of to copy their vectors.

Reference:
    Jieming Zhu et al. "CoST: Contrastive Quantization based Semantic Tokenization for Generative
    Recommendation." RecSys 2024, arXiv 2404.14774.
"""

from __future__ import annotations

import torch
from recbole.config import Config
from recbole.data.interaction import Interaction
from torch import Tensor, nn

from recbole_r3vae.data.items import ITEM_EMB, ItemVectors
from recbole_r3vae.model.parameters import Number
from recbole_r3vae.model.tokenizer.base import Quantized
from recbole_r3vae.model.tokenizer.quantize.codebook import unit
from recbole_r3vae.model.tokenizer.quantize.residual import LevelCodes
from recbole_r3vae.model.tokenizer.rqvae import RQVAE


class CoST(RQVAE):
    r"""The CoST tokenizer: autoencoder and levels of :class:`.RQVAE`, with a contrastive loss.

    .. math::
        L = \alpha L_{cl} + L_{rq}, \qquad
        L_{cl} = -\frac{1}{B} \sum_i \log
                 \frac{\exp(\cos(x_i, \hat x_i) / \tau)}{\sum_j \exp(\cos(x_i, \hat x_j) / \tau)}

    with the codebook and commitment terms of :class:`.RQVAE` as :math:`L_{rq}`: an item's vector must be
    nearer to its own reconstruction than to those of the batch's other items. No item is twice in a batch.
    Items of equal vectors have equal reconstructions, whose pull and push cancel: they add a constant.

    One summary of the paper says that all levels share one codebook; here each has its own.

    Args:
        config: Keys of ``properties/model/CoST.yaml``.
        items: Embeddings of the catalogue.
    """

    hyperparameters = {
        "contrastive_weight": Number(at_least=0),
        "contrastive_temperature": Number(above=0),
        "reconstruction_weight": Number(at_least=0),
    }

    def __init__(self, config: Config, items: ItemVectors):
        super().__init__(config, items)
        self.contrastive_weight = config["contrastive_weight"]
        self.temperature = config["contrastive_temperature"]
        self.reconstruction_weight = config["reconstruction_weight"]

    def quantize(self, x: Tensor) -> Quantized:
        """Quantise embeddings, with gradient; without a reconstruction term, reconstructions have length 1.

        Cosines leave a reconstruction's length open, and item vectors have length 1.

        Args:
            x: ``[B, d]``.
        """
        out = super().quantize(x)
        if not self.reconstruction_weight:
            out.reconstruction = unit(out.reconstruction)
        return out

    def losses(self, interaction: Interaction, out: Quantized, levels: LevelCodes) -> list[Tensor]:
        """Contrastive term, reconstruction unless its weight is 0, and the other terms of :class:`.RQVAE`.

        Args:
            interaction: Field ``item_emb`` ``[B, d]``.
            out: What became of the embeddings.
            levels: What each level made of them.

        Returns:
            Weighted scalars.
        """
        reconstruction, *quantization = super().losses(interaction, out, levels)
        contrast = contrastive_loss(interaction[ITEM_EMB], out.reconstruction, self.temperature)
        losses = [self.contrastive_weight * contrast]
        if self.reconstruction_weight:
            losses.append(self.reconstruction_weight * reconstruction)
        return [*losses, *quantization]


def contrastive_loss(x: Tensor, reconstruction: Tensor, temperature: float) -> Tensor:
    """InfoNCE with originals as anchors and the batch's reconstructions as candidates, not the reverse.

    Args:
        x: ``[B, d]``.
        reconstruction: Of each ``[B, d]``.
        temperature: What cosines are divided by.

    Returns:
        The scalar ``L_cl``.
    """
    logits = unit(x) @ unit(reconstruction).T / temperature  # [B, B]
    return nn.functional.cross_entropy(logits, torch.arange(len(x), device=x.device))
