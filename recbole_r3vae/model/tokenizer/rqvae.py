r"""RQ-VAE: an autoencoder whose latent vector is quantised residual by residual; the tokenizer of TIGER.

References:
    Shashank Rajput et al. "Recommender Systems with Generative Retrieval." NeurIPS 2023, arXiv 2305.05065.
    Doyup Lee et al. "Autoregressive Image Generation using Residual Quantization." CVPR 2022.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from recbole.config import Config
from recbole.data.interaction import Interaction
from torch import Tensor, nn

from recbole_r3vae.data.items import ITEM_EMB, ItemVectors
from recbole_r3vae.errors import UserError
from recbole_r3vae.model.parameters import Choice, Flag, ListOf, Number, Whole
from recbole_r3vae.model.tokenizer.base import Quantized, SemanticTokenizer
from recbole_r3vae.model.tokenizer.mlp import mlp
from recbole_r3vae.model.tokenizer.quantize.assign import Level, NearestNeighbour, SinkhornNearestNeighbour
from recbole_r3vae.model.tokenizer.quantize.codebook import SAMPLES_PER_CODEWORD, Codebook
from recbole_r3vae.model.tokenizer.quantize.ema import EMACodebook
from recbole_r3vae.model.tokenizer.quantize.gradient import ESTIMATORS
from recbole_r3vae.model.tokenizer.quantize.residual import Estimator, LevelCodes, ResidualQuantizer
from recbole_r3vae.model.tokenizer.quantize.simvq import SimVQCodebook


class RQVAE(SemanticTokenizer):
    r"""The RQ-VAE tokenizer.

    .. math::
        z = \mathrm{enc}(x), \quad r_1 = z, \quad c_l = \arg\min_k \|r_l - e^{(l)}_k\|, \quad
        r_{l+1} = r_l - e^{(l)}_{c_l}, \quad \hat x = \mathrm{dec}(\textstyle\sum_l e^{(l)}_{c_l})

        L = \|x - \hat x\|^2 + \sum_l \|\mathrm{sg}(r_l) - e^{(l)}_{c_l}\|^2
            + \beta \|r_l - \mathrm{sg}(e^{(l)}_{c_l})\|^2

    Squared errors are summed over dimensions and averaged over the batch. The decoder's gradient reaches the
    encoder by one of :data:`.ESTIMATORS`. Codebooks learn from the loss, as moving averages
    (:class:`.EMACodebook`), or together (:class:`.SimVQCodebook`).

    A subclass adds its terms to :meth:`losses`, stacks levels differently in :meth:`stack`, or encodes by other networks.

    Args:
        config: Keys of ``properties/model/RQVAE.yaml``.
        items: Embeddings of the catalogue.

    Attributes:
        encoder: ``[B, d] -> [B, latent_dim]``.
        quantizer: The levels.
        decoder: ``[B, latent_dim] -> [B, d]``.
    """

    hyperparameters = {
        "hidden_sizes": ListOf(Whole(), at_least=0),
        "latent_dim": Whole(),
        "codebook_learning": Choice("ema", "loss", "simvq"),
        "codebook_weight": Number(at_least=0),
        "commitment_weight": Number(at_least=0),
        "ema_decay": Number(above=0, below=1),
        "restart_below": Number(at_least=0, below=1),
        "gradient_estimator": Choice(*ESTIMATORS),
        "kmeans_init": Flag(),
        "kmeans_iterations": Whole(),
        "sinkhorn_levels": ListOf(Whole(-1), at_least=0),
        "sinkhorn_epsilon": Number(above=0),
        "sinkhorn_iterations": Whole(),
    }

    @classmethod
    def check(cls, config: Config) -> None:
        """Refuse ranges, and levels that there are not.

        Raises:
            UserError: the message names the key.
        """
        super().check(config)
        n_levels = len(config["codebook_sizes"])
        if not set(config["sinkhorn_levels"]) <= {-1, *range(1, n_levels + 1)}:
            raise UserError(
                f"sinkhorn_levels is {config['sinkhorn_levels']!r}; give numbers from 1 to {n_levels}, the levels of codebook_sizes, "
                "-1 for the last, or [] for none"
            )

    def __init__(self, config: Config, items: ItemVectors):
        super().__init__(config, items)
        self.codebook_learning = config["codebook_learning"]
        self.kmeans_init = config["kmeans_init"]
        self.kmeans_iterations = config["kmeans_iterations"]
        self.codebook_weight = config["codebook_weight"]
        self.commitment_weight = config["commitment_weight"]
        self.ema_decay = config["ema_decay"]
        self.restart_below = config["restart_below"]
        self.sinkhorn_levels = config["sinkhorn_levels"]
        self.sinkhorn_epsilon = config["sinkhorn_epsilon"]
        self.sinkhorn_iterations = config["sinkhorn_iterations"]
        self._assigned: list[tuple[Tensor, Tensor]] = []

        # A generator of its own: equal seeds give equal weights whatever ran before.
        generator = torch.Generator().manual_seed(self.seed)
        sizes = [self.dim, *config["hidden_sizes"], config["latent_dim"]]
        estimator = ESTIMATORS[config["gradient_estimator"]]
        self.encoder = self.make_encoder(config, items, sizes, generator)
        self.quantizer = self.stack(sizes[-1], estimator, generator)
        self.decoder = self.make_decoder(config, items, sizes[::-1], generator)

    def make_encoder(self, config: Config, items: ItemVectors, sizes: Sequence[int], generator: torch.Generator) -> nn.Module:
        """What maps item vectors ``[B, sizes[0]]`` to latent ones ``[B, sizes[-1]]``."""
        return mlp(sizes, generator)

    def make_decoder(self, config: Config, items: ItemVectors, sizes: Sequence[int], generator: torch.Generator) -> nn.Module:
        """What maps latent vectors ``[B, sizes[0]]`` to item vectors ``[B, sizes[-1]]``."""
        return mlp(sizes, generator)

    def stack(self, dim: int, estimator: Estimator, generator: torch.Generator) -> nn.Module:
        """The levels between encoder and decoder.

        Args:
            dim: Of the latent vectors.
            estimator: Of the gradient through the codes.
            generator: Source of the random codewords.
        """
        levels = [self.level(number, dim, generator) for number in range(len(self.codebook_sizes))]
        return ResidualQuantizer(levels, estimator)

    def level(self, number: int, dim: int, generator: torch.Generator) -> Level:
        """Codebook and assignment rule of one level.

        Args:
            number: From 0.
            dim: Of its codewords.
            generator: Source of the random codewords.
        """
        size = self.codebook_sizes[number]
        if self.codebook_learning == "ema":
            codebook = EMACodebook(size, dim, generator, self.ema_decay, self.restart_below)
        elif self.codebook_learning == "simvq":
            codebook = SimVQCodebook(size, dim, generator)
        else:
            codebook = Codebook(size, dim, generator)
        if {number + 1, number - len(self.codebook_sizes)} & set(self.sinkhorn_levels):
            return SinkhornNearestNeighbour(codebook, self.sinkhorn_epsilon, self.sinkhorn_iterations)
        return NearestNeighbour(codebook)

    @torch.no_grad()
    def initialise(self, items: ItemVectors) -> None:
        """Start the codebooks from k-means of what the untrained encoder makes of the items.

        Args:
            items: Embeddings of the catalogue, of which a seeded sample is read.

        Raises:
            UserError: a codebook has more codes than the catalogue has items.
        """
        super().initialise(items)
        if not self.kmeans_init:
            return
        self.eval()  # balanced assignment is for training batches
        sample = items.sample(SAMPLES_PER_CODEWORD * max(self.codebook_sizes), self.seed)
        latent = [self.encoder(rows.to(self.device)) for rows in torch.from_numpy(sample).split(8192)]
        self.quantizer.initialise(torch.cat(latent), self.kmeans_iterations, self.seed)

    def quantize(self, x: Tensor) -> Quantized:
        return self._quantize(x)[0]

    def _quantize(self, x: Tensor) -> tuple[Quantized, LevelCodes]:
        levels = self.quantizer(self.encoder(x))
        reconstruction = self.decoder(levels.quantized)
        return Quantized(levels.codes, levels.quantized, None, levels.residuals, reconstruction), levels

    def calculate_loss(self, interaction: Interaction) -> tuple[Tensor, ...]:
        """The terms of :meth:`losses`.

        While training, what a batch gives to codebooks that are moving averages is kept for :meth:`after_step`: it is part of no
        checkpoint.

        Args:
            interaction: Field ``item_emb`` ``[B, d]``.

        Returns:
            The weighted terms; the loss is their sum.
        """
        out, levels = self._quantize(interaction[ITEM_EMB])
        if self.codebook_learning == "ema" and self.training:
            self._assigned = [(entered.detach(), codes) for entered, codes in zip(levels.residuals, levels.codes.unbind(1))]
        return tuple(self.losses(interaction, out, levels))

    def after_step(self, batch: Interaction) -> None:
        """Move the codebooks that are moving averages by what the last loss assigned to their codewords.

        Args:
            batch: That of the loss; its vectors as they were encoded there count, not what the encoder has since become.
        """
        for level, (entered, codes) in zip(self.quantizer.levels, self._assigned):
            level.codebook.update(entered, codes)
        self._assigned = []

    def losses(self, interaction: Interaction, out: Quantized, levels: LevelCodes) -> list[Tensor]:
        """Reconstruction, commitment and, unless codebooks are moving averages, codebook term.

        Args:
            interaction: The batch.
            out: What became of its embeddings.
            levels: What each level made of them.

        Returns:
            Weighted scalars.
        """
        losses = [(interaction[ITEM_EMB] - out.reconstruction).square().sum(-1).mean()]
        losses.append(self.commitment_weight * levels.commitment_loss())
        if self.codebook_learning != "ema":
            losses.append(self.codebook_weight * levels.codebook_loss())
        return losses

    @torch.no_grad()
    def level_distances(self, x: Tensor, level: int) -> Tensor:
        entered = self._quantize(x)[1].residuals[level]  # [B, d_l]
        return -self.quantizer.levels[level].rating(entered)  # [B, K]
