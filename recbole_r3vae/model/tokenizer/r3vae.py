r"""R3-VAE: reference-vector-guided rating residual quantisation.

Reference:
    Qiang Wan et al. "R3-VAE: Reference Vector-Guided Rating Residual Quantization VAE for Generative
    Recommendation." arXiv 2604.11440, 2026.

An embedding is split into its part along one learned reference vector and a remainder. The remainder is
quantised level by level with a differentiable rating of the codewords, and two cluster-quality terms,
semantic cohesion (SC) and preference discrimination (PD), regularise the codes. Where the paper leaves a
choice open, ``properties/model/R3VAE.yaml`` says what was chosen.

The paper has three levels. What long codes take is ours: a parallel layout beside the residual one, and SC and PD of
those prefixes alone that items can share.
"""

from __future__ import annotations

import torch
from recbole.config import Config
from recbole.data.interaction import Interaction
from torch import Tensor, nn

from recbole_r3vae.data.items import ITEM_EMB, ItemVectors
from recbole_r3vae.errors import UserError
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
from recbole_r3vae.model.tokenizer.quantize.residual import LevelCodes, ParallelQuantizer, ResidualQuantizer
from recbole_r3vae.model.tokenizer.quantize.rotation import balanced_rotation, part_sizes


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
    their gradient reaches the codewords in each of the three ways. Levels after ``metric_levels`` are left out: items
    that share so long a prefix are hardly in one batch, so that each would be a cluster of its own, at every level anew.

    With ``layout: parallel`` the embedding is rotated and cut into L parts, each with a reference vector and a
    codebook of its own:

    .. math::
        [y_1; \dots; y_L] = R x, \quad \alpha_l = \frac{y_l \cdot r_l}{\|r_l\|^2}, \quad e_l = y_l - \alpha_l r_l, \quad
        \hat{x} = \mathrm{dec}(R^T [\alpha_1 r_1 + q_1; \dots; \alpha_L r_L + q_L])

    where :math:`q_l` is what the codewords of part l make of :math:`e_l`, and SC and PD are those of the clusters of each
    digit. R is found before training (:func:`.balanced_rotation`) and stays: it is orthogonal to the last bit it had.

    Args:
        config: Keys of ``properties/model/R3VAE.yaml``.
        items: Embeddings of the catalogue.

    Attributes:
        ordered: False with ``layout: parallel``, where no code says more than another.
        reference: The reference vector ``r`` ``[d]``, or ``None`` with ``reference_vector: False``. In a parallel layout the reference
            vectors of all parts, one after the other: ``r_l`` is part l of it.
        rotation: R ``[d, d]`` of a parallel layout; ``None`` in a residual one and with ``rotation: none``.
        prefix_grouped_batches: Whether the trainer is to put items of equal first codes into the same
            batches.
        last_regularizer_counts: ``sc_clusters`` (of two or more items), ``sc_pairs`` and ``pd_clusters``.
    """

    hyperparameters = {
        "layout": Choice("residual", "parallel"),
        "rotation": Choice("balanced", "none"),
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
        "metric_levels": Whole(),
        "prefix_grouped_batches": Flag(),
        "codebook_weight": Number(at_least=0),
        "commitment_weight": Number(at_least=0),
        "decoder": Choice("identity", "mlp"),
    }

    @classmethod
    def check(cls, config: Config) -> None:
        """Refuse ranges, and batches grouped by a prefix that is none.

        Raises:
            UserError: the message names the key.
        """
        super().check(config)
        if config["layout"] == "parallel" and config["prefix_grouped_batches"]:
            raise UserError("prefix_grouped_batches is True, but codes of layout parallel have no prefixes; set it to False")

    def __init__(self, config: Config, items: ItemVectors):
        super().__init__(config, items)
        self.ordered = config["layout"] == "residual"
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
        self.metric_levels = config["metric_levels"]
        self.codebook_weight = config["codebook_weight"]
        self.commitment_weight = config["commitment_weight"]
        self.prefix_grouped_batches = config["prefix_grouped_batches"]

        # A generator of its own: equal seeds give equal weights whatever ran before.
        generator = torch.Generator().manual_seed(self.seed)
        self.reference = None
        if config["reference_vector"]:
            self.reference = nn.Parameter(torch.randn(self.dim, generator=generator))
        self.part_sizes = [self.dim] if self.ordered else self.parts(config)
        self.register_buffer("rotation", None if self.ordered or config["rotation"] == "none" else torch.eye(self.dim))
        self.quantizer = self.stack(generator)
        self.decoder = nn.Identity()
        if config["decoder"] == "mlp":
            self.decoder = mlp([self.dim, 4 * self.dim, self.dim], generator)

    def parts(self, config: Config) -> list[int]:
        """Dimensions of the parts of a parallel layout.

        Raises:
            UserError: parts too short for their codebooks.
        """
        sizes = part_sizes(self.dim, len(self.codebook_sizes))
        least = 3 if self.reference is not None else 2  # of one dimension only the sign is left to a rating
        if sizes[-1] < least:
            raise UserError(
                f"codebook_sizes has {len(sizes)} digits, and layout parallel cuts embeddings of {self.dim} dimensions into parts of "
                f"{sizes[-1]}; with reference_vector {config['reference_vector']} a part needs {least}: give at most {self.dim // least} digits"
            )
        return sizes

    def stack(self, generator: torch.Generator) -> nn.Module:
        """The levels that quantise the remainder ``[B, d]``: modules that return :class:`.LevelCodes`.

        Args:
            generator: Source of the random codewords.
        """
        dims = [self.dim] * len(self.codebook_sizes) if self.ordered else self.part_sizes
        levels = [self.level(Codebook(size, dim, generator)) for size, dim in zip(self.codebook_sizes, dims)]
        quantizer = ResidualQuantizer if self.ordered else ParallelQuantizer
        return quantizer(levels, straight_through if self.rating_mode == "ste" else None)

    def level(self, codebook: Codebook) -> Level:
        """The rating of one codebook by ``rating_mode``."""
        if self.rating_mode == "top1":
            return Top1Rating(codebook, self.similarity, self.scale_by_norm)
        if self.rating_mode == "softmax":
            return SoftmaxRating(codebook, self.similarity, self.temperature)
        return NearestNeighbour(codebook)

    @torch.no_grad()
    def initialise(self, items: ItemVectors) -> None:
        """Set the reference vector to the mean embedding and the codebooks, level by level, to k-means; before it, the rotation.

        Args:
            items: Embeddings of the catalogue, of which a seeded sample is read.

        Raises:
            UserError: a codebook has more codes than the catalogue has items.
        """
        super().initialise(items)
        sample = items.sample(SAMPLES_PER_CODEWORD * max(self.codebook_sizes), self.seed)
        x = torch.from_numpy(sample).to(self.device)  # [n, d]
        if self.rotation is not None:
            self.rotation.copy_(balanced_rotation(x, self.part_sizes))
        if self.reference is not None:
            self.reference.copy_(self.rotated(x).mean(0))
        if self.kmeans_init:
            _, e0 = self.project(x)
            self.quantizer.initialise(e0, self.kmeans_iterations, self.seed)

    def rotated(self, x: Tensor) -> Tensor:
        """``R x`` of ``[B, d]``; x itself where nothing is rotated."""
        return x if self.rotation is None else x @ self.rotation.T

    def project(self, x: Tensor) -> tuple[Tensor | None, Tensor]:
        """Rotate embeddings and split them into what lies along the reference vector, or along that of each part, and the remainder.

        Args:
            x: ``[B, d]``.

        Returns:
            ``alpha * r`` (``None`` without a reference vector) and ``e(0) = x - alpha * r``, each ``[B, d]``, both after the rotation.
        """
        x = self.rotated(x)
        if self.reference is None:
            return None, x
        along = []
        for part, reference in zip(x.split(self.part_sizes, dim=-1), self.reference.split(self.part_sizes)):
            direction = unit(reference)  # [d_l]; (x . r) / ||r||^2 * r = (x . r^) r^, safe at r = 0
            along.append((part @ direction).unsqueeze(-1) * direction)  # [B, 1] * [d_l]
        along = torch.cat(along, dim=-1)  # [B, d]
        return along, x - along

    def own_space(self, x: Tensor) -> Tensor:
        return self.project(x)[1]

    def quantize(self, x: Tensor) -> Quantized:
        return self._quantize(x)[0]

    def _quantize(self, x: Tensor) -> tuple[Quantized, LevelCodes]:
        along, e0 = self.project(x)
        levels = self.quantizer(e0)
        latent = levels.quantized if along is None else along + levels.quantized  # [B, d]
        reconstruction = self.decoder(latent if self.rotation is None else latent @ self.rotation)
        # Every digit of a parallel layout has the whole remainder before it.
        residuals = levels.residuals if self.ordered else [e0] * len(self.codebook_sizes)
        return Quantized(levels.codes, levels.quantized, along, residuals, reconstruction), levels

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
        codes, counts = out.codes[:, : self.metric_levels] if self.ordered else out.codes, {}
        if self.sc_weight:
            cohesion, rests_on = semantic_cohesion(vectors, codes, self.ordered)
            losses.append(-self.sc_weight * cohesion)
            counts.update(sc_clusters=rests_on["clusters"], sc_pairs=rests_on["pairs"])
        if self.pd_weight:
            if self.pd_on == "centres":
                discrimination, rests_on = preference_discrimination(vectors, codes, self.pd_temperature, self.ordered)
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
