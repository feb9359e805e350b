r"""LETTER: an RQ-VAE whose codes also follow who interacts with what, and are spread over the codebooks.

Reference:
    Wenjie Wang et al. "Learnable Item Tokenization for Generative Recommendation." CIKM 2024, arXiv
    2405.07314.
"""

from __future__ import annotations

import torch
from recbole.config import Config
from recbole.data.interaction import Interaction
from torch import Tensor, nn

from recbole_r3vae.data.items import ITEM_CF, ItemVectors
from recbole_r3vae.errors import UserError
from recbole_r3vae.model.contract import Needs
from recbole_r3vae.model.parameters import Choice, Number, Whole
from recbole_r3vae.model.tokenizer.base import Quantized
from recbole_r3vae.model.tokenizer.quantize.balanced import balanced_kmeans
from recbole_r3vae.model.tokenizer.quantize.residual import LevelCodes
from recbole_r3vae.model.tokenizer.rqvae import RQVAE

BALANCE_ITERATIONS = 20
"""At most so many rounds in which balanced k-means moves a level's cluster centres."""


class LETTER(RQVAE):
    r"""The LETTER tokenizer: the losses of :class:`.RQVAE`, collaborative alignment and code diversity.

    .. math::
        L = L_{Sem} + \alpha L_{CF} + \beta L_{Div}

        L_{CF} = -\frac{1}{B} \sum_i \log
                 \frac{\exp \langle q_i, h_i \rangle}{\sum_j \exp \langle q_i, h_j \rangle}

        L_{Div} = -\frac{1}{B} \sum_i \sum_l \log
                  \frac{\exp \langle e_{c_l}, e_+ \rangle}{\sum_{k \ne c_l} \exp \langle e_{c_l}, e_k \rangle}

    :math:`q_i` is an item's quantised latent vector and :math:`h_i` its collaborative embedding. The sum in
    the denominator runs over the embeddings of the batch, not over its latent vectors. Items without an
    embedding, those that nobody interacted with in the training split, take no part in it.

    The codewords of a level are grouped into clusters of equal size. :math:`e_+` is drawn from the cluster of
    the item's codeword :math:`e_{c_l}`, which is thus drawn to its own kind and pushed away from all others. Codewords are clustered by
    :meth:`initialise`, and again by :meth:`after_step` after every ``cluster_every`` steps.

    Args:
        config: Keys of ``properties/model/LETTER.yaml``.
        items: Embeddings of the catalogue.

    Attributes:
        clusters: Cluster of each codeword, level after level ``[K_1 + … + K_L]``.
        batches: Steps on training batches so far; they say when the codewords are clustered again.
    """

    hyperparameters = {
        "collaborative_weight": Number(at_least=0),
        "collaborative_model": Choice("BPR", "SASRec", "LightGCN"),
        "collaborative_epochs": Whole(),
        "diversity_weight": Number(at_least=0),
        "diversity_clusters": Whole(2),
        "cluster_every": Whole(),
    }

    @classmethod
    def needs(cls, config: Config) -> Needs:
        """Content of every modality, and the training split: batches hold collaborative embeddings, field ``item_cf``."""
        return Needs(content=(), interactions=True)

    @classmethod
    def check(cls, config: Config) -> None:
        """Refuse ranges, and codewords that are moving averages and yet to be diverse.

        Raises:
            UserError: the message names the key.
        """
        super().check(config)
        if config["codebook_learning"] == "ema" and config["diversity_weight"]:
            raise UserError(
                "codebook_learning is 'ema', but codewords that are running means have no gradient, and the diversity term no effect; "
                "choose loss or simvq, or set diversity_weight to 0"
            )

    def __init__(self, config: Config, items: ItemVectors):
        super().__init__(config, items)
        self.collaborative_weight = config["collaborative_weight"]
        self.diversity_weight = config["diversity_weight"]
        self.diversity_clusters = config["diversity_clusters"]
        self.cluster_every = config["cluster_every"]
        self.register_buffer("clusters", torch.zeros(sum(self.codebook_sizes), dtype=torch.int64))
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))

    def initialise(self, items: ItemVectors) -> None:
        """As :meth:`.RQVAE.initialise`; then cluster the codewords.

        Args:
            items: Embeddings of the catalogue, of which a seeded sample is read.

        Raises:
            UserError: a codebook has more codes than the catalogue has items.
        """
        super().initialise(items)
        if self.diversity_weight:
            self._cluster_codewords()

    def after_step(self, batch: Interaction) -> None:
        """As :meth:`.RQVAE.after_step`; and cluster the codewords again where it is time."""
        super().after_step(batch)
        if self.diversity_weight:
            self.batches += 1
            if self.batches % self.cluster_every == 0:
                self._cluster_codewords()

    def losses(self, interaction: Interaction, out: Quantized, levels: LevelCodes) -> list[Tensor]:
        """Those of :class:`.RQVAE`; collaborative and diversity term unless their weight is 0.

        Args:
            interaction: Fields ``item_emb`` ``[B, d]`` and ``item_cf`` ``[B, latent_dim]``.
            out: What became of the embeddings.
            levels: What each level made of them.

        Returns:
            Weighted scalars.
        """
        losses = super().losses(interaction, out, levels)
        if self.collaborative_weight:
            losses.append(self.collaborative_weight * collaborative_loss(out.quantized, interaction[ITEM_CF]))
        if self.diversity_weight:
            terms = [
                diversity_loss(level.codebook.weight, codes, clusters)
                for level, codes, clusters in zip(
                    self.quantizer.levels, out.codes.unbind(1), self.clusters.split(self.codebook_sizes)
                )
            ]
            losses.append(self.diversity_weight * sum(terms))
        return losses

    @torch.no_grad()
    def _cluster_codewords(self) -> None:
        for number, clusters in enumerate(self.clusters.split(self.codebook_sizes)):
            codewords = self.quantizer.levels[number].codebook.weight
            k = min(self.diversity_clusters, len(codewords) // 2)  # no codeword is alone in its cluster
            if k > 1:
                seed = self.seed + number
                _, members, _ = balanced_kmeans(codewords, k, self.kmeans_iterations, BALANCE_ITERATIONS, seed)
                clusters.copy_(torch.from_numpy(members))


def collaborative_loss(quantized: Tensor, embeddings: Tensor) -> Tensor:
    """How badly quantised vectors tell their own items' collaborative embeddings from the batch's others.

    Args:
        quantized: ``q`` ``[B, d]``.
        embeddings: ``h`` ``[B, d]``; a row of zeros is that of an item without one, and left out.

    Returns:
        The scalar ``L_CF``; 0 if no item has an embedding.
    """
    known = embeddings.any(-1)  # [B]
    logits = quantized[known] @ embeddings[known].T  # [b, b]
    own = torch.arange(len(logits), device=logits.device)
    return nn.functional.cross_entropy(logits, own, reduction="sum") / max(1, len(logits))


def diversity_loss(codewords: Tensor, codes: Tensor, clusters: Tensor) -> Tensor:
    """How badly the codewords in use tell one of their own cluster from all others.

    Args:
        codewords: Of one level ``[K, d]``.
        codes: Which of them the items of a batch have ``[B]``.
        clusters: Cluster of each codeword ``[K]``, two or more in each.

    Returns:
        The level's part of ``L_Div``, a scalar.
    """
    size = torch.bincount(clusters)  # [clusters]
    start = size.cumsum(0) - size
    row = clusters.argsort(stable=True)  # [K]: the codewords, cluster after cluster
    place = torch.empty_like(row)
    place[row] = torch.arange(len(row), device=row.device)
    own = clusters[codes]  # [B]
    # From a codeword's place 1 to size - 1 places on within its cluster, round the end: never to itself.
    step = 1 + (torch.rand(len(codes), device=codes.device) * (size[own] - 1)).long()
    positive = row[start[own] + (place[codes] - start[own] + step) % size[own]]  # [B]
    logits = codewords[codes] @ codewords.T  # [B, K]
    logits = logits.scatter(1, codes.unsqueeze(1), -torch.inf)
    return nn.functional.cross_entropy(logits, positive)
