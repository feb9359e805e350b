r"""R3-VAE: reference-vector-guided rating residual quantisation.

Reference:
    Qiang Wan et al. "R3-VAE: Reference Vector-Guided Rating Residual Quantization VAE for Generative
    Recommendation." arXiv 2604.11440, 2026.

An embedding is split into its part along one learned reference vector and a remainder. The remainder is
quantised level by level with a differentiable rating of the codewords, and two cluster-quality terms,
semantic cohesion (SC) and preference discrimination (PD), regularise the codes. Where the paper leaves a
choice open, ``properties/model/R3VAE.yaml`` says what was chosen.
"""

from __future__ import annotations

import torch
from recbole.config import Config
from recbole.data.interaction import Interaction
from torch import Tensor, nn

from recbole_r3vae.data.items import ITEM_EMB, ItemVectors
from recbole_r3vae.model.parameters import Choice, Flag, Number, Whole
from recbole_r3vae.model.tokenizer.base import Quantized, SemanticTokenizer
from recbole_r3vae.model.tokenizer.mlp import mlp
from recbole_r3vae.model.tokenizer.quantize.assign import Level, NearestNeighbour, SoftmaxRating, Top1Rating
from recbole_r3vae.model.tokenizer.quantize.codebook import SAMPLES_PER_CODEWORD, Codebook, unit
from recbole_r3vae.model.tokenizer.quantize.gradient import straight_through
from recbole_r3vae.model.tokenizer.quantize.regularizers import (
    codeword_discrimination,
    preference_discrimination,
    semantic_cohesion,
)
from recbole_r3vae.model.tokenizer.quantize.residual import LevelCodes, ResidualQuantizer


class R3VAE(SemanticTokenizer):
    r"""The R3-VAE tokenizer.

    .. math::
        \alpha = \frac{x \cdot r}{\|r\|^2}, \quad e^{(0)} = x - \alpha r, \quad
        e^{(l)} = e^{(l-1)} - q^{(l)}, \quad \hat{x} = \mathrm{dec}(\alpha r + \sum_l q^{(l)})

        L = \|x - \hat{x}\|^2 - \lambda_{SC}\, SC + \lambda_{PD}\, PD

    :math:`q^{(l)}` comes from the codewords of level l in one of three ways (``rating_mode``):
    :class:`.Top1Rating`, :class:`.SoftmaxRating`, or, as in the paper's ablation,
    :class:`.NearestNeighbour` with a straight-through gradient and, for the codewords, the codebook and commitment
    terms of :class:`.LevelCodes`. The squared error is summed over dimensions and averaged over the batch. SC and
    PD are those of :math:`\sum_l q^{(l)}` (or of :math:`e^{(0)}`, ``metric_space``) within the batch; of the sum,
    their gradient reaches the codewords in each of the three ways.

    Args:
        config: Keys of ``properties/model/R3VAE.yaml``.
        items: Embeddings of the catalogue.

    Attributes:
        reference: The reference vector ``r`` ``[d]``, or ``None`` with ``reference_vector: False``.
        prefix_grouped_batches: Whether the trainer is to put items of equal first codes into the same
            batches.
        last_regularizer_counts: ``sc_clusters`` (of two or more items), ``sc_pairs`` and ``pd_clusters``.
    """

    hyperparameters = {
        "reference_vector": Flag(),
        "rating_mode": Choice("top1", "softmax", "ste"),
        "rating_sim": Choice("cosine", "dot"),
        "scale_by_norm": Flag(),
        "rating_temperature": Number(above=0),
        "kmeans_init": Flag(),
        "kmeans_iterations": Whole(),
        "sc_weight": Number(at_least=0),
        "pd_weight": Number(at_least=0),
        "pd_temperature": Number(above=0),
        "pd_on": Choice("centres", "codewords"),
        "metric_space": Choice("quantized", "projected"),
        "prefix_grouped_batches": Flag(),
        "codebook_weight": Number(at_least=0),
        "commitment_weight": Number(at_least=0),
        "decoder": Choice("identity", "mlp"),
    }

    def __init__(self, config: Config, items: ItemVectors):
        super().__init__(config, items)
        self.rating_mode = config["rating_mode"]
        self.similarity = config["rating_sim"]
        self.scale_by_norm = config["scale_by_norm"]
        self.temperature = config["rating_temperature"]
        self.kmeans_init = config["kmeans_init"]
        self.kmeans_iterations = config["kmeans_iterations"]
        self.sc_weight = config["sc_weight"]
        self.pd_weight = config["pd_weight"]
        self.pd_temperature = config["pd_temperature"]
        self.pd_on = config["pd_on"]
        self.metric_space = config["metric_space"]
        self.codebook_weight = config["codebook_weight"]
        self.commitment_weight = config["commitment_weight"]
        self.prefix_grouped_batches = config["prefix_grouped_batches"]

        # A generator of its own: equal seeds give equal weights whatever ran before.
        generator = torch.Generator().manual_seed(self.seed)
        self.reference = None
        if config["reference_vector"]:
            self.reference = nn.Parameter(torch.randn(self.dim, generator=generator))
        self.quantizer = self.stack(generator)
        self.decoder = nn.Identity()
        if config["decoder"] == "mlp":
            self.decoder = mlp([self.dim, 4 * self.dim, self.dim], generator)

    def stack(self, generator: torch.Generator) -> nn.Module:
        """The levels that quantise the remainder ``[B, d]``: modules that return :class:`.LevelCodes`.

        Args:
            generator: Source of the random codewords.
        """
        levels = [self.level(Codebook(size, self.dim, generator)) for size in self.codebook_sizes]
        return ResidualQuantizer(levels, straight_through if self.rating_mode == "ste" else None)

    def level(self, codebook: Codebook) -> Level:
        """The rating of one codebook by ``rating_mode``."""
        if self.rating_mode == "top1":
            return Top1Rating(codebook, self.similarity, self.scale_by_norm)
        if self.rating_mode == "softmax":
            return SoftmaxRating(codebook, self.similarity, self.temperature)
        return NearestNeighbour(codebook)

    @torch.no_grad()
    def initialise(self, items: ItemVectors) -> None:
        """Set the reference vector to the mean embedding and the codebooks, level by level, to k-means.

        Args:
            items: Embeddings of the catalogue, of which a seeded sample is read.

        Raises:
            UserError: a codebook has more codes than the catalogue has items.
        """
        super().initialise(items)
        sample = items.sample(SAMPLES_PER_CODEWORD * max(self.codebook_sizes), self.seed)
        x = torch.from_numpy(sample).to(self.device)  # [n, d]
        if self.reference is not None:
            self.reference.copy_(x.mean(0))
        if self.kmeans_init:
            _, e0 = self.project(x)
            self.quantizer.initialise(e0, self.kmeans_iterations, self.seed)

    def project(self, x: Tensor) -> tuple[Tensor | None, Tensor]:
        """Split embeddings into their part along the reference vector and the remainder.

        Args:
            x: ``[B, d]``.

        Returns:
            ``alpha * r`` (``None`` without a reference vector) and ``e(0) = x - alpha * r``, each ``[B, d]``.
        """
        if self.reference is None:
            return None, x
        direction = unit(self.reference)  # [d]; (x . r) / ||r||^2 * r = (x . r^) r^, safe at r = 0
        along = (x @ direction).unsqueeze(-1) * direction  # [B, 1] * [d]
        return along, x - along

    def quantize(self, x: Tensor) -> Quantized:
        return self._quantize(x)[0]

    def _quantize(self, x: Tensor) -> tuple[Quantized, LevelCodes]:
        along, e0 = self.project(x)
        levels = self.quantizer(e0)
        latent = levels.quantized if along is None else along + levels.quantized  # [B, d]
        reconstruction = self.decoder(latent)
        return Quantized(levels.codes, levels.quantized, along, levels.residuals, reconstruction), levels

    def calculate_loss(self, interaction: Interaction) -> tuple[Tensor, ...]:
        """Reconstruction; codebook and commitment with ``ste``; SC and PD unless their weight is 0.

        Args:
            interaction: Field ``item_emb`` ``[B, d]``.

        Returns:
            The weighted terms; the loss is their sum.
        """
        x = interaction[ITEM_EMB]
        out, levels = self._quantize(x)
        losses = [(x - out.reconstruction).square().sum(-1).mean()]
        if self.rating_mode == "ste":
            losses.append(self.codebook_weight * levels.codebook_loss())
            losses.append(self.commitment_weight * levels.commitment_loss())

        # Not out.quantized: a straight-through gradient passes the codewords by, and they are what the regularisers are to move.
        vectors = levels.joined if self.metric_space == "quantized" else out.residuals[0]  # [B, d]
        counts = {}
        if self.sc_weight:
            cohesion, rests_on = semantic_cohesion(vectors, out.codes)
            losses.append(-self.sc_weight * cohesion)
            counts.update(sc_clusters=rests_on["clusters"], sc_pairs=rests_on["pairs"])
        if self.pd_weight:
            if self.pd_on == "centres":
                discrimination, rests_on = preference_discrimination(vectors, out.codes, self.pd_temperature)
            else:
                codebooks = [level.codebook.weight for level in self.quantizer.levels]
                discrimination, rests_on = codeword_discrimination(codebooks, self.pd_temperature)
            losses.append(self.pd_weight * discrimination)
            counts.update(pd_clusters=rests_on["clusters"])
        self.last_regularizer_counts = counts
        return tuple(losses)

    @torch.no_grad()
    def level_distances(self, x: Tensor, level: int) -> Tensor:
        entered = self._quantize(x)[1].residuals[level]  # [B, d]
        return -self.quantizer.levels[level].rating(entered)  # [B, K]
