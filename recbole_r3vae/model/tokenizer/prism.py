r"""PRISM: an RQ-VAE of content and purified collaborative vectors, whose levels are anchored to the levels of a category tree.

Reference:
    "PRISM: purified semantic quantizer and integrated semantic recommender", arXiv 2601.16556, 2026: the tokenizer, by the method of its official
    code (DengzhaoFang/PRISM-Rec, commit 2c5e414). The paper's recommender, a T5 with a mixture of experts, is not here: codes go to any generator.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from recbole.config import Config
from recbole.data.interaction import Interaction
from torch import Tensor, nn

from recbole_r3vae.data.items import ITEM_CATEGORIES, ITEM_EMB, ITEM_POPULARITY, ItemVectors
from recbole_r3vae.errors import UserError
from recbole_r3vae.model.contract import Needs
from recbole_r3vae.model.parameters import Name, Number, Whole
from recbole_r3vae.model.tokenizer.base import Quantized
from recbole_r3vae.model.tokenizer.mlp import mlp, normed_mlp
from recbole_r3vae.model.tokenizer.quantize.anchor import Anchor, balance_loss
from recbole_r3vae.model.tokenizer.quantize.codebook import unit
from recbole_r3vae.model.tokenizer.quantize.gradient import straight_through
from recbole_r3vae.model.tokenizer.quantize.residual import LevelCodes
from recbole_r3vae.model.tokenizer.rqvae import RQVAE

COLLABORATIVE = "collaborative"
"""The modality of item content that is purified."""


class PRISM(RQVAE):
    r"""The PRISM tokenizer.

    An item is its content vector t and a collaborative vector h, item content's modality ``collaborative``: what LightGCN learned from the
    training split, zero for an item that nobody met there. A gate purifies h before both are encoded, and the decoder has a head for each:

    .. math::
        g = \sigma(\mathrm{MLP}(h)), \quad h' = g \odot h, \quad z = \mathrm{enc}(\mathrm{LayerNorm}[t; h'])

        L = \lambda_c (1 - \cos(\hat t, t)) + \lambda_k (1 - \cos(\hat h, h')) + L_{codes} + L_{gate}
            + w_1 L_{class} + w_2 L_{anchor} + w_3 L_{balance}

    :func:`gate_loss` wants the mean of a gate to be the item's popularity, and gates to differ. At level l, the classification reads an
    item's l-th category off its codes up to l; an :class:`Anchor` holds every category near a mixture of the level's codewords;
    :func:`balance_loss` wants codewords apart and evenly used. The three come in by turns, see :meth:`curriculum`.

    ``L_codes`` are :class:`.RQVAE`'s commitment and codebook terms. The official code has moving averages, through which no anchor moves a
    codeword; here codewords learn from the loss unless ``codebook_learning`` says otherwise. Colliding items are moved to unused codes
    by the run's ``collision_policy: reassign``.

    Where items have no category levels it is trained without classification and anchors.

    Args:
        config: Keys of ``properties/model/PRISM.yaml``.
        items: Embeddings of the catalogue, with a part ``collaborative``; in training with facts ``item_popularity`` ``[n_items]`` and,
            where there are any, ``item_categories`` ``[n_items, L]``.

    Attributes:
        anchors: Number of a level, as a word from "1", to its :class:`Anchor`; levels without categories have none.
        epoch: Which epoch is under way, from 0.

    Raises:
        UserError: item content has no part ``collaborative``, or nothing else.
    """

    hyperparameters = {
        "dropout": Number(at_least=0, below=1),
        "gate_hidden_size": Whole(),
        "gate_weight": Number(at_least=0),
        "gate_spread": Number(at_least=0),
        "gate_spread_weight": Number(at_least=0),
        "content_weight": Number(at_least=0),
        "collaborative_weight": Number(at_least=0),
        "category_field": Name(),
        "first_category": Whole(),
        "classification_weight": Number(at_least=0),
        "anchor_weight": Number(at_least=0),
        "anchor_hidden_size": Whole(),
        "anchor_temperature": Number(above=0),
        "anchor_decay": Number(at_least=0, below=1),
        "balance_weight": Number(at_least=0),
        "usage_weight": Number(at_least=0),
        "warm_epochs": Whole(0),
        "anchoring_epochs": Whole(0),
        "classification_ramp": Whole(),
        "anchor_ramp": Whole(),
        "anchor_after": Number(at_least=0),
        "balance_ramp": Whole(),
    }

    @classmethod
    def needs(cls, config: Config) -> Needs:
        """Content of every modality; batches hold the popularity of items in the training split, and their categories."""
        return Needs(content=(), popularity=True, categories=True)

    @classmethod
    def check(cls, config: Config) -> None:
        """Refuse ranges, item content without collaborative vectors, and anchors to codewords that have no gradient.

        Raises:
            UserError: the message names the key.
        """
        super().check(config)
        given = config["content_encoder"]
        if not (isinstance(given, dict) and COLLABORATIVE in given and len(given) > 1):
            _refuse_content(given)
        if config["codebook_learning"] == "ema" and config["anchor_weight"]:
            raise UserError(
                "codebook_learning is 'ema', but codewords that are running means have no gradient, and no anchor moves them; choose loss or "
                "simvq, or set anchor_weight to 0"
            )

    def __init__(self, config: Config, items: ItemVectors):
        super().__init__(config, items)
        self.settings = {key: config[key] for key in PRISM.hyperparameters}
        self.latent_dim = config["latent_dim"]
        self.epoch = 0
        categories = getattr(items, "facts", {}).get(ITEM_CATEGORIES)
        self._make_anchors([] if categories is None else categories.max(0).tolist())

    def make_encoder(self, config: Config, items: ItemVectors, sizes: Sequence[int], generator: torch.Generator) -> nn.Module:
        columns = items.parts.get(COLLABORATIVE)
        if columns is None or len(items.parts) == 1:
            _refuse_content(", ".join(items.parts))
        return PurifyingEncoder(columns, sizes, config["gate_hidden_size"], config["dropout"], generator)

    def make_decoder(self, config: Config, items: ItemVectors, sizes: Sequence[int], generator: torch.Generator) -> nn.Module:
        return DualDecoder(items.parts[COLLABORATIVE], sizes, config["dropout"], generator)

    def _make_anchors(self, n_categories: Sequence[int]) -> None:
        generator = torch.Generator().manual_seed(self.seed + 1)
        width = self.dim - self.encoder.width
        hidden, anchors = self.settings["anchor_hidden_size"], {}
        for level, (n, size) in enumerate(zip(n_categories, self.codebook_sizes), start=1):
            if n > 0:
                anchors[str(level)] = Anchor(n, size, level, [width, hidden, self.latent_dim], generator)
        self.anchors = nn.ModuleDict(anchors).to(self.device)

    def _load_from_state_dict(self, state_dict, prefix, *args):
        # How many categories there were is known from the checkpoint only, unless training goes on: an optimizer then knows these anchors.
        if not self.anchors:
            found = [state_dict.get(f"{prefix}anchors.{level}.vectors", ()) for level in range(1, 1 + len(self.codebook_sizes))]
            self._make_anchors([len(vectors) for vectors in found])
        super()._load_from_state_dict(state_dict, prefix, *args)

    @torch.no_grad()
    def initialise(self, items: ItemVectors) -> None:
        """As :meth:`.RQVAE.initialise`; and a category's vector becomes the mean content of its items.

        Args:
            items: Embeddings of the catalogue.

        Raises:
            UserError: a codebook has more codes than the catalogue has items.
        """
        super().initialise(items)
        for level, anchor in self.anchors.items():
            number = torch.from_numpy(items.facts[ITEM_CATEGORIES][:, int(level) - 1])  # [n_items]
            sums = torch.zeros(1 + len(anchor.vectors), anchor.vectors.shape[1])
            for rows, x in items.batches(8192):
                sums.index_add_(0, number[rows], self.encoder.content(x))
            anchor.vectors.copy_(unit(sums[1:]))

    # -- training ----------------------------------------------------------------------------------------------------------

    def begin_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def curriculum(self, epoch: int) -> tuple[float, float, float]:
        """What the weights of classification, anchors and balance are multiplied by.

        Nothing for ``warm_epochs``; then classification and anchors rise in their ramps; after ``anchoring_epochs`` the balance does, and
        anchors are multiplied by ``anchor_after``.

        Args:
            epoch: From 0.
        """
        s = self.settings
        anchoring = epoch + 1 - s["warm_epochs"]  # epochs of it, this one included
        balancing = anchoring - s["anchoring_epochs"]
        classification, anchor = (_ramp(anchoring, s[key]) for key in ("classification_ramp", "anchor_ramp"))
        return classification, anchor * (s["anchor_after"] if balancing > 0 else 1.0), _ramp(balancing, s["balance_ramp"])

    def losses(self, interaction: Interaction, out: Quantized, levels: LevelCodes) -> list[Tensor]:
        """The terms of the class, without those whose weight is 0 in this epoch.

        Args:
            interaction: Fields ``item_emb`` ``[B, d]``, ``item_popularity`` ``[B]`` and, where there are categories, ``item_categories``
                ``[B, L]``.
            out: What became of the embeddings.
            levels: What each level made of them.

        Returns:
            Weighted scalars.
        """
        s, x = self.settings, interaction[ITEM_EMB]
        split, gates = self.encoder.content, self.encoder.gates(x)  # [B, c]
        purified = gates * self.encoder.collaborative(x)
        content = cosine_loss(split(out.reconstruction), split(x))
        collaborative = cosine_loss(self.encoder.collaborative(out.reconstruction), purified)
        losses = [s["content_weight"] * content, s["collaborative_weight"] * collaborative, self.commitment_weight * levels.commitment_loss()]
        if self.codebook_learning != "ema":
            losses.append(self.codebook_weight * levels.codebook_loss())
        if s["gate_weight"]:
            losses.append(s["gate_weight"] * gate_loss(gates, interaction[ITEM_POPULARITY], s["gate_spread"], s["gate_spread_weight"]))
        by_turns = zip(self.curriculum(self.epoch), ("classification_weight", "anchor_weight", "balance_weight"))
        classification, anchor, balance = (share * s[key] for share, key in by_turns)
        for level, module in self.anchors.items():
            category = interaction[ITEM_CATEGORIES][:, int(level) - 1]  # [B], 0 where an item has none
            known = category > 0
            if not known.any():  # as many terms as of other batches, for RecBole adds them up one by one
                losses += [content.new_zeros(())] * (bool(classification) + bool(anchor))
                continue
            if classification:
                codes = [straight_through(r, q) for r, q in zip(levels.residuals, levels.levels)][: int(level)]
                logits = module.head(torch.cat(codes, dim=1)[known])
                losses.append(classification * F.cross_entropy(logits, category[known] - 1))
            if anchor:
                of_category = module.losses(self._codewords(int(level)), s["anchor_temperature"])
                losses.append(anchor * of_category[category[known] - 1].mean())
        if balance:
            for level, (entered, codes) in enumerate(zip(levels.residuals, out.codes.unbind(1)), start=1):
                term = balance_loss(self._codewords(level), codes, entered, s["usage_weight"], s["anchor_temperature"])
                losses.append(balance * term)
        return losses

    def after_step(self, batch: Interaction) -> None:
        """As :meth:`.RQVAE.after_step`; and move what the assignments of anchors are held to."""
        super().after_step(batch)
        if self.curriculum(self.epoch)[1]:
            for level, module in self.anchors.items():
                module.follow(self._codewords(int(level)), self.settings["anchor_temperature"], self.settings["anchor_decay"])

    def _codewords(self, level: int) -> Tensor:
        return self.quantizer.levels[level - 1].codebook.weight


class PurifyingEncoder(nn.Module):
    """Gate, layer norm and perceptron: ``[B, d] -> [B, latent_dim]``.

    Args:
        columns: Those of the collaborative vectors; all others are content.
        sizes: Of the perceptron, from d to the latent vector.
        gate_hidden_size: Of the gate's perceptron.
        dropout: Within the perceptron.
        generator: Source of the weights.
    """

    def __init__(self, columns: slice, sizes: Sequence[int], gate_hidden_size: int, dropout: float, generator: torch.Generator):
        super().__init__()
        self.columns, self.width = columns, columns.stop - columns.start
        self.gate = mlp([self.width, gate_hidden_size, self.width], generator)
        self.norm = nn.LayerNorm(sizes[0])
        self.layers = normed_mlp(sizes, dropout, generator)

    def collaborative(self, x: Tensor) -> Tensor:
        """``[B, d] -> [B, c]``."""
        return x[:, self.columns]

    def content(self, x: Tensor) -> Tensor:
        """``[B, d] -> [B, d - c]``."""
        return torch.cat([x[:, : self.columns.start], x[:, self.columns.stop :]], dim=1)

    def gates(self, x: Tensor) -> Tensor:
        """How much of each collaborative dimension passes, from 0 to 1: ``[B, d] -> [B, c]``."""
        return torch.sigmoid(self.gate(self.collaborative(x)))

    def forward(self, x: Tensor) -> Tensor:
        purified = self.gates(x) * self.collaborative(x)  # [B, c]
        return self.layers(self.norm(torch.cat([x[:, : self.columns.start], purified, x[:, self.columns.stop :]], dim=1)))


class DualDecoder(nn.Module):
    """A shared perceptron and two heads, for content and for collaborative vectors: ``[B, latent_dim] -> [B, d]``, unit vectors side by side.

    Args:
        columns: Those of the collaborative vectors.
        sizes: From the latent vector to d.
        dropout: Within the shared perceptron.
        generator: Source of the weights.
    """

    def __init__(self, columns: slice, sizes: Sequence[int], dropout: float, generator: torch.Generator):
        super().__init__()
        *shared, dim = sizes
        self.columns, width = columns, columns.stop - columns.start
        self.shared = nn.Sequential(normed_mlp(shared, dropout, generator), nn.ReLU()) if len(shared) > 1 else nn.Identity()
        self.content = mlp([shared[-1], shared[-1], dim - width], generator)
        self.collaborative = mlp([shared[-1], shared[-1], width], generator)

    def forward(self, z: Tensor) -> Tensor:
        shared = self.shared(z)
        content, collaborative = unit(self.content(shared)), unit(self.collaborative(shared))
        start = self.columns.start
        return torch.cat([content[:, :start], collaborative, content[:, start:]], dim=1)


def gate_loss(gates: Tensor, popularity: Tensor, spread: float, spread_weight: float) -> Tensor:
    """How far gates are from popularity, and from differing among items.

    Args:
        gates: ``[B, c]``.
        popularity: ``[B]``, from 0 to 1.
        spread: Standard deviation of an item's mean gate over the batch below which there is a loss.
        spread_weight: Of that loss.

    Returns:
        A scalar.
    """
    mean = gates.mean(-1)  # [B]
    return F.mse_loss(mean, popularity) + spread_weight * F.relu(spread**2 - mean.var(unbiased=False))


def cosine_loss(x: Tensor, target: Tensor) -> Tensor:
    """Mean of ``1 - cos`` over rows ``[B, d]`` whose target is not zero; 0 without any."""
    known = target.any(-1)  # [B]
    return (1 - (unit(x) * unit(target)).sum(-1))[known].sum() / known.sum().clamp_min(1)


def _ramp(epochs: int, length: int) -> float:
    return min(1.0, max(0, epochs) / length)


def _refuse_content(given: object) -> None:
    raise UserError(
        f"PRISM reads item content of two or more modalities, one of them {COLLABORATIVE}, and content_encoder is {given!r}; give "
        "--content_encoder='{text: tfidf-svd, collaborative: LightGCN}'"
    )
