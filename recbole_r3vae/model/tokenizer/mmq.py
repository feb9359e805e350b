r"""MMQ: a mixture of quantisers. Experts of all modalities together and of each by itself give one code each.

Reference:
    "MMQ: Multimodal Mixture-of-Quantization Tokenization for Semantic ID Generation and User Behavioral Adaptation." WSDM 2026, arXiv
    2508.15281.

Its second stage, tuning the codes by what a recommender learns, is :class:`~recbole_r3vae.model.generator.mmqgr.MMQGR`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from recbole.config import Config
from recbole.data.interaction import Interaction
from torch import Tensor, nn

from recbole_r3vae.data.items import ITEM_EMB, ItemVectors
from recbole_r3vae.errors import UserError
from recbole_r3vae.model.parameters import Choice, Flag, ListOf, Number, Whole
from recbole_r3vae.model.tokenizer.base import Quantized, SemanticTokenizer
from recbole_r3vae.model.tokenizer.mlp import mlp
from recbole_r3vae.model.tokenizer.quantize.assign import NearestDirection, NearestNeighbour
from recbole_r3vae.model.tokenizer.quantize.codebook import SAMPLES_PER_CODEWORD, Codebook, unit
from recbole_r3vae.model.tokenizer.quantize.ema import EMACodebook
from recbole_r3vae.model.tokenizer.quantize.gradient import straight_through

ASSIGNMENTS = {"cosine": NearestDirection, "euclidean": NearestNeighbour}
"""How an expert's code is chosen. The second is the paper's ablation."""


@dataclass
class Mixture:
    """What the experts make of ``B`` items.

    Attributes:
        codes: ``[B, L]``, int64.
        entered: What each expert quantises, ``L`` tensors ``[B, d']``: :math:`z_i`.
        codewords: What it becomes, ``L`` tensors ``[B, d']`` with the gradient of the codewords.
        weights: ``[B, L]``: 1 of a shared expert, the gate's of a specific one.
        latent: The weighted sum of ``entered`` ``[B, d']``: :math:`z`.
        quantized: The weighted sum of the codewords, with the gradient of ``latent`` ``[B, d']``.
        reconstruction: What the decoder makes of it ``[B, d]``.
        auxiliary: What the decoders of the modalities make of their own experts' part of it, side by side ``[B, d]``.
    """

    codes: Tensor
    entered: list[Tensor]
    codewords: list[Tensor]
    weights: Tensor
    latent: Tensor
    quantized: Tensor
    reconstruction: Tensor
    auxiliary: Tensor


class MMQ(SemanticTokenizer):
    r"""The MMQ tokenizer, its first stage. With modalities m, each with the item's vector :math:`e_m`, and :math:`e` all of them joined,

    .. math::
        z_{s,i} = E_{s,i}(e), \quad z_{m,i} = E_{m,i}(e_m), \quad g_m = \mathrm{softmax}(\mathrm{MLP}_m(e_m) + b_m)

        z = \sum_i z_{s,i} + \sum_m \sum_i g_{m,i} z_{m,i}, \qquad c = \arg\max_j \cos(z_{\cdot,i}, e^{(i)}_j)

        L = \alpha \|e - \mathrm{dec}(z + \mathrm{sg}(z_q - z))\|^2 + \beta \sum_m \|e_m - \mathrm{dec}_m(\cdot)\|^2
            + \gamma \sum_G \|V_G V_G^T - I\|_F^2 + L_{code}

    :math:`z_q` is z with every :math:`z_i` replaced by its codeword; gates weigh the specific experts alone. The rows of :math:`V_G` are the
    weights of the experts of a group, flattened and of length 1; the shared experts are a group, and those of each modality. Squared errors are
    summed over dimensions and averaged over the batch.

    Codes come in the order of their experts: the shared ones, then those of each modality in the order of item content. They are unordered.

    Where the paper is silent:

    * experts are linear layers unless ``expert_hidden_sizes`` says more; with hidden layers, all their matrices make one row of V;
    * :math:`\mathrm{dec}_m` reads the sum :math:`\sum_i g_{m,i} z_{m,i}`, quantised as z is, so that the term is one of codes;
    * codewords get no gradient of the printed terms, so that :math:`L_{code}` is needed: for each expert
      :math:`\lambda \|\mathrm{sg}(z_i) - e_{c}\|^2 + \mu \|z_i - \mathrm{sg}(e_{c})\|^2` (``codebook_weight``, ``commitment_weight``); or
      codewords are running means, dead ones restarted, without the first of its terms (``codebook_learning``, :class:`.EMACodebook`);
    * codebooks may start from k-means instead of random codewords (``kmeans_init``).

    Args:
        config: Keys of ``properties/model/MMQ.yaml``.
        items: Embeddings of the catalogue, of two modalities or more.

    Attributes:
        columns: Columns of the item vector that each expert reads, ``L`` slices.
        groups: Numbers of the experts of each group, the shared ones first.
        experts: ``[B, width] -> [B, d']``, ``L`` of them.
        gates: ``[B, d_m] -> [B, experts of m]`` before the softmax, one a modality; the last layer's bias is :math:`b_m`.
        levels: Codebook and rule of each expert.
        decoder: ``[B, d'] -> [B, d]``.
        decoders: ``[B, d'] -> [B, d_m]``, one a modality.

    Raises:
        UserError: item content has one modality, or the codebooks do not deal out evenly.
    """

    hyperparameters = {
        "shared_experts": Whole(0),
        "expert_hidden_sizes": ListOf(Whole(), at_least=0),
        "latent_dim": Whole(),
        "gate_hidden_sizes": ListOf(Whole(), at_least=0),
        "decoder_hidden_sizes": ListOf(Whole(), at_least=0),
        "assign_by": Choice(*ASSIGNMENTS),
        "reconstruction_weight": Number(at_least=0),
        "auxiliary_weight": Number(at_least=0),
        "orthogonality_weight": Number(at_least=0),
        "codebook_learning": Choice("ema", "loss"),
        "codebook_weight": Number(at_least=0),
        "ema_decay": Number(above=0, below=1),
        "restart_below": Number(at_least=0, below=1),
        "commitment_weight": Number(at_least=0),
        "kmeans_init": Flag(),
        "kmeans_iterations": Whole(),
    }
    ordered = False
    tunable = True

    def __init__(self, config: Config, items: ItemVectors):
        super().__init__(config, items)
        self.kmeans_init, self.kmeans_iterations = config["kmeans_init"], config["kmeans_iterations"]
        self.codebook_learning = config["codebook_learning"]
        terms = ["reconstruction", "auxiliary", "orthogonality", "commitment", *(["codebook"] if self.codebook_learning == "loss" else [])]
        self.loss_weights = {term: config[f"{term}_weight"] for term in terms}
        self._assigned: list[tuple[Tensor, Tensor]] = []
        parts, n_shared, n_experts = dict(items.parts), config["shared_experts"], len(self.codebook_sizes)
        if len(parts) < 2:
            raise UserError(
                f"item content has one modality, {next(iter(parts))}, and MMQ tells what modalities share from what each has by itself; give "
                "another, such as --content_encoder=[tfidf-svd,file] --content_file=<vectors.npy>"
            )
        n_own, left = divmod(n_experts - n_shared, len(parts))
        if n_own < 1 or left:
            raise UserError(
                f"codebook_sizes has {n_experts} entries, one for each expert, and beside shared_experts {n_shared} they do not deal out evenly "
                f"to {len(parts)} modalities; give {n_shared} and a multiple of {len(parts)}"
            )
        everything, dim = slice(0, self.dim), config["latent_dim"]
        self.modalities = list(parts.values())
        self.columns = [everything] * n_shared + [columns for columns in self.modalities for _ in range(n_own)]
        bounds = [0, *range(n_shared, n_experts + 1, n_own)] if n_shared else list(range(0, n_experts + 1, n_own))
        self.groups = [range(begin, end) for begin, end in zip(bounds, bounds[1:])]
        self.n_shared = n_shared

        generator = torch.Generator().manual_seed(self.seed)  # of its own: equal seeds give equal weights whatever ran before
        hidden = config["expert_hidden_sizes"]
        self.experts = nn.ModuleList(mlp([_width(columns), *hidden, dim], generator) for columns in self.columns)
        self.gates = nn.ModuleList(mlp([_width(m), *config["gate_hidden_sizes"], n_own], generator) for m in self.modalities)
        ema = (config["ema_decay"], config["restart_below"]) if self.codebook_learning == "ema" else None
        codebooks = [Codebook(size, dim, generator) if ema is None else EMACodebook(size, dim, generator, *ema) for size in self.codebook_sizes]
        self.levels = nn.ModuleList(map(ASSIGNMENTS[config["assign_by"]], codebooks))
        back = [dim, *config["decoder_hidden_sizes"]]
        self.decoder = mlp([*back, self.dim], generator)
        self.decoders = nn.ModuleList(mlp([*back, _width(m)], generator) for m in self.modalities)

    @torch.no_grad()
    def initialise(self, items: ItemVectors) -> None:
        """Start every codebook from k-means of what its expert, untrained, makes of a sample; with ``kmeans_init``.

        Args:
            items: Embeddings of the catalogue.

        Raises:
            UserError: a codebook has more codes than the catalogue has items.
        """
        super().initialise(items)
        if not self.kmeans_init:
            return
        sample = torch.from_numpy(items.sample(SAMPLES_PER_CODEWORD * max(self.codebook_sizes), self.seed)).to(self.device)
        for number, (level, z) in enumerate(zip(self.levels, self.expert_vectors(sample))):
            level.initialise(z, self.kmeans_iterations, self.seed + number)

    def expert_vectors(self, x: Tensor) -> list[Tensor]:
        """What each expert makes of items ``[B, d]``, before it is quantised: ``L`` tensors ``[B, d']``."""
        return [expert(x[:, columns]) for expert, columns in zip(self.experts, self.columns)]

    def gate_weights(self, x: Tensor) -> Tensor:
        """How much each expert counts for items ``[B, d]``: ``[B, L]``, 1 of the shared ones, and of those of a modality 1 together."""
        own = [gate(x[:, columns]).softmax(-1) for gate, columns in zip(self.gates, self.modalities)]
        return torch.cat([x.new_ones(len(x), self.n_shared), *own], dim=1)

    def mixture(self, x: Tensor) -> Mixture:
        """Run items ``[B, d]`` through experts, codebooks and decoders, with gradient."""
        entered, weights = self.expert_vectors(x), self.gate_weights(x)
        codes, codewords = zip(*(level(z) for level, z in zip(self.levels, entered)))
        weighed = torch.stack(entered, dim=1) * weights[:, :, None]  # [B, L, d']
        replaced = torch.stack(codewords, dim=1) * weights[:, :, None]
        through = straight_through(weighed, replaced)  # each with the gradient of z_i and, by z_i, of the gate
        quantized = through.sum(1)  # [B, d']
        own = self.groups[1:] if self.n_shared else self.groups
        auxiliary = [decoder(through[:, list(group)].sum(1)) for decoder, group in zip(self.decoders, own)]
        return Mixture(
            torch.stack(codes, dim=1), entered, list(codewords), weights, weighed.sum(1), quantized,
            self.decoder(quantized), torch.cat(auxiliary, dim=1),
        )  # fmt: skip

    def quantize(self, x: Tensor) -> Quantized:
        out = self.mixture(x)
        residuals = [out.latent] * len(self.codebook_sizes)  # no code comes after another: each is one of the whole latent
        return Quantized(out.codes, out.quantized, None, residuals, out.reconstruction)

    def losses(self, x: Tensor) -> dict[str, Tensor]:
        """The terms of the loss of items ``[B, d]`` by name, unweighted scalars: ``reconstruction``, ``auxiliary``, ``orthogonality``,
        ``codebook`` and ``commitment``."""
        return self._losses(x, self.mixture(x))

    def _losses(self, x: Tensor, out: Mixture) -> dict[str, Tensor]:
        pairs = list(zip(out.entered, out.codewords))
        return {
            "reconstruction": _squared_error(x, out.reconstruction),
            "auxiliary": _squared_error(x, out.auxiliary),  # the sum over modalities, whose columns are side by side
            "orthogonality": self.orthogonality(),
            "codebook": sum(_squared_error(z.detach(), codeword) for z, codeword in pairs),
            "commitment": sum(_squared_error(z, codeword.detach()) for z, codeword in pairs),
        }

    def calculate_loss(self, interaction: Interaction) -> tuple[Tensor, ...]:
        """The weighted terms of :meth:`losses`, whose sum is the loss; without ``codebook`` where codewords are running means.

        While training, what a batch gives to running means is kept for :meth:`after_step`: it is part of no checkpoint.

        Args:
            interaction: Field ``item_emb`` ``[B, d]``.
        """
        out = self.mixture(interaction[ITEM_EMB])
        losses = self._losses(interaction[ITEM_EMB], out)
        if self.codebook_learning == "ema" and self.training:
            self._assigned = [(z.detach(), codes) for z, codes in zip(out.entered, out.codes.unbind(1))]
        return tuple(weight * losses[term] for term, weight in self.loss_weights.items())

    def after_step(self, batch: Interaction) -> None:
        """Move the codebooks that are running means by what the last loss assigned to their codewords."""
        for level, (z, codes) in zip(self.levels, self._assigned):
            level.codebook.update(z, codes)
        self._assigned = []

    def orthogonality(self) -> Tensor:
        r""":math:`\sum_G \|V_G V_G^T - I\|_F^2`, a scalar: 0 where the weights of no two experts of a group have anything in common."""
        total = 0.0
        for group in self.groups:
            matrices = [[p.flatten() for p in self.experts[i].parameters() if p.dim() == 2] for i in group]
            rows = unit(torch.stack([torch.cat(of_expert) for of_expert in matrices]))  # [experts of G, weights]
            total = total + (rows @ rows.T - torch.eye(len(rows), device=rows.device)).square().sum()
        return total

    def soft_codes(self, x: Tensor, temperature: float) -> list[Tensor]:
        r"""Codes as one-hot rows with the gradient of a softmax, by which a recommender can move them (stage 2).

        .. math:: p = \mathrm{softmax}_j(\cos(z_i, e^{(i)}_j) / \tau), \qquad
                  \mathrm{onehot}(\arg\max p) + p - \mathrm{sg}(p)

        Args:
            x: Items ``[B, d]``.
            temperature: :math:`\tau`.

        Returns:
            For each expert ``[B, K]``.
        """
        found = []
        for level, z in zip(self.levels, self.expert_vectors(x)):
            rating = level.rating(z)  # [B, K]
            soft = (rating / temperature).softmax(-1)
            hard = nn.functional.one_hot(rating.argmax(-1), rating.shape[1]).to(soft.dtype)
            found.append(hard + (soft - soft.detach()))  # exactly one-hot: what is added is 0
        return found

    @torch.no_grad()
    def level_distances(self, x: Tensor, level: int) -> Tensor:
        z = self.experts[level](x[:, self.columns[level]])  # [B, d']
        return -self.levels[level].rating(z)  # [B, K]


def _width(columns: slice) -> int:
    return columns.stop - columns.start


def _squared_error(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).square().sum(-1).mean()
