"""LIGER: a TIGER whose encoder also predicts the next item's text vector, by which the beam's items and all cold ones are re-ranked.

Yang et al., "Unifying Generative and Dense Retrieval for Sequential Recommendation", arXiv 2411.18814. The method follows summaries of the
paper and of the authors' code. Here the beam walks the tree of existing semantic IDs, where theirs may write codes that no item has.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_r3vae.errors import UserError
from recbole_r3vae.model.contract import UNIQUE, Needs, Sources
from recbole_r3vae.model.dropout import Dropout
from recbole_r3vae.model.generator.decoding.rules import Allowed, check_found, is_allowed
from recbole_r3vae.model.generator.tiger import TIGER, Reading
from recbole_r3vae.model.heads import EXACT, DenseHead, Ranking, best_of
from recbole_r3vae.model.item_vectors import KeepsVectors, copied
from recbole_r3vae.model.losses import catalogue_cross_entropy
from recbole_r3vae.model.packing import Packing
from recbole_r3vae.model.parameters import SHARE, Choice, Flag, ListOf, Number, Whole
from recbole_r3vae.model.repeat_prior import prior_loss

if TYPE_CHECKING:
    from collections.abc import Sequence

    from recbole.config import Config
    from recbole.data.interaction import Interaction

RANK_BY = ("both", "dense", "generate")


class TextProjection(nn.Module):
    """From an item's text vector to the width of the model: hidden layers with a residual branch each, then a linear layer.

    A hidden layer is ``skip(x) + relu(norm(linear(x)))``, its skip a linear map where the width changes. Which of this is the authors' is
    not known, but for the widths, the norm and the ReLU.

    Args:
        sizes: widths from text to model; two of them are a linear layer alone.
        dropout: probability on the input.
    """

    def __init__(self, sizes: Sequence[int], dropout: float):
        super().__init__()
        *hidden, (last, size) = pairwise(sizes)
        self.dropout = Dropout(dropout)
        self.skips = nn.ModuleList(nn.Identity() if n == m else nn.Linear(n, m, bias=False) for n, m in hidden)
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(n, m), nn.LayerNorm(m), nn.ReLU()) for n, m in hidden)
        self.out = nn.Linear(last, size)

    def forward(self, x: Tensor) -> Tensor:
        """``[..., D]`` to ``[..., d]``."""
        x = self.dropout(x)
        for skip, layer in zip(self.skips, self.layers):
            x = skip(x) + layer(x)
        return self.out(x)


class LIGER(KeepsVectors, TIGER):
    """TIGER with a dense head on its encoder, and candidates that a beam alone would not reach.

    A code c_j of the i-th item of the history goes into the encoder as ``LayerNorm(emb(c_j) + text + place of the item + place of the
    code)``, where ``text`` is the item's projected text vector. The encoder's output h at the history's last code predicts the text vector
    of the next item. The loss is that of the codes, as TIGER's, and ``dense_weight`` times the cross-entropy of ``cos(h, text) /
    temperature`` over all items that occur in training: *cold* ones, which do not, are no negatives.

    * ``rank_by: both``. The beam's first ``retrieve`` items, and all cold ones that may be recommended, are ranked by
      ``cos(h, text) / temperature``. Where more items are asked for than ``retrieve``, so many of the beam's are taken.
    * ``rank_by: dense``. The decoder is left out and the whole catalogue ranked by the cosine: the paper's Dense (SID).
    * ``rank_by: generate``. The dense head is left out: TIGER with text at its input, the paper's TIGER (T).

    Items that join after training are cold. All modalities of item content count as text. A prior on repeats (``repeat_prior``, not of the
    paper) is learnt from the loss over items, or, without a dense head, as TIGER's; of two heads it moves what either ranks.

    Args:
        config: keys of ``properties/model/LIGER.yaml``. :meth:`check` took it.
        dataset: training dataset with ``sources``: semantic IDs and item content.
    """

    hyperparameters = {
        "rank_by": Choice(*RANK_BY),
        "retrieve": Whole(),
        "text_inner_sizes": ListOf(Whole(), at_least=0),
        "text_dropout": SHARE,
        "input_dropout": SHARE,
        "standardize_text": Flag(),
        "detach_text": Flag(),
        "temperature": Number(above=0),
        "dense_weight": Number(above=0),
    }

    def __init__(self, config: Config, dataset: Any):
        super().__init__(config, dataset)
        size, self.rank_by, self.retrieve = config["hidden_size"], config["rank_by"], config["retrieve"]
        self.cosine_temperature, self.dense_weight, self.detach_text = (config[k] for k in ("temperature", "dense_weight", "detach_text"))
        counts = [dataset.counter(field) for field in (self.ITEM_SEQ, self.ITEM_ID)]
        met = torch.tensor([any(item in count for count in counts) for item in range(self.n_items)])  # none of a checkpoint's: it knows them
        self.register_buffer("seen", met, persistent=False)  # [n_items], in training
        self.other_parameter_name = ["seen"]  # kept beside the weights, which a later run takes over though it sees other items
        self.register_buffer("content", copied(self.sources.content.embeddings), persistent=False)  # [n_items, D]
        known = self.content[met[: len(self.content)]] if met.any() else self.content[1:]
        scale = known.std(0, unbiased=False)  # [D], 0 in a column that tells nothing
        centre, scale = (known.mean(0), scale.where(scale > 0, 1)) if config["standardize_text"] else (scale * 0, scale * 0 + 1)
        self.register_buffer("text_centre", centre)
        self.register_buffer("text_scale", scale)
        self.projection = TextProjection([self.content.shape[1], *config["text_inner_sizes"], size], config["text_dropout"])
        self.item_place, self.code_place = nn.Embedding(self.max_seq_length, size), nn.Embedding(self.n_levels, size)
        self.input_norm, self.input_dropout = nn.LayerNorm(size), Dropout(config["input_dropout"])
        if self.rank_by == "dense":
            del self.decoder, self.decoder_bias, self.decoder_norm
        if self.rank_by != "generate":
            self.heads["dense"] = DenseHead(self)

    # -- the history ---------------------------------------------------------------------------------------------------

    def all_vectors(self) -> Tensor:
        """Projected texts of all items ``[n_items, d]``; row 0 is 0."""
        return F.pad(self.projection((self.content[1:] - self.text_centre) / self.text_scale), (0, 0, 1, 0))

    def encode(self, interaction: Interaction, text: Tensor | None = None) -> tuple[Tensor, Packing]:
        """As :meth:`TIGER.encode`; ``text`` are the projected texts of all items ``[n_items, d]``, where they are at hand."""
        text = self.kept_vectors() if text is None else text
        items, tokens, packing = self.lay_out(interaction)
        place = packing.position() - (tokens.shape[1] - items.shape[1] * self.n_levels)  # [M], -1 of a user token
        of_item, place = (place >= 0)[:, None], place.clamp(min=0)
        row = packing.place // packing.padded_shape[1]  # [M], of the batch
        item_place, code_place = place // self.n_levels, place % self.n_levels
        known = text[items[row, item_place]]  # [M, d]
        more = (known.detach() if self.detach_text else known) + self.item_place(item_place) + self.code_place(code_place)
        x = self.embedding(packing.take(tokens)) + more * of_item
        return self.encoded(self.input_dropout(self.input_norm(x)), packing), packing

    # -- training --------------------------------------------------------------------------------------------------------

    def calculate_loss(self, interaction: Interaction) -> Tensor:
        """Mean loss over the targets of a batch.

        Args:
            interaction: rows of a :class:`~recbole_r3vae.data.sequences.PrefixDataset`.
        """
        text, target = self.all_vectors(), interaction[self.ITEM_ID]
        encoded, packing = self.encode(interaction, text)
        losses = []
        if "generate" in self.heads:
            losses.append(self.code_loss(encoded, packing, target))
        if "dense" in self.heads:
            dense = self.dense_loss(packing.last(encoded), text, target, self._met(interaction))
            losses.append(dense * (self.dense_weight if losses else 1))
            if self.prior is not None:
                losses.append(self.prior.regularization())
        else:
            losses.append(prior_loss(self, interaction))
        return sum(losses)

    def dense_loss(self, history: Tensor, text: Tensor, target: Tensor, met: tuple[Tensor, Tensor, Tensor] | None = None) -> Tensor:
        """Mean cross-entropy of items ``target`` [B] among those seen in training, by vectors of histories [B, d] and items [n_items, d].

        ``met``: row, item and what is added to its logit, ``[C]`` each.
        """
        seen, place = self.seen.nonzero().squeeze(1), self.seen.cumsum(0) - 1  # [S]; [n_items], where each stands in S
        extra = None if met is None else (met[0], place[met[1]], met[2])
        history, among = F.normalize(history, dim=-1), F.normalize(text[seen], dim=-1)
        return catalogue_cross_entropy(history, among, place[target], self.cosine_temperature, extra=extra)

    def _met(self, interaction: Interaction) -> tuple[Tensor, Tensor, Tensor] | None:
        """Items of the histories with their log-odds: row, item, value; ``None`` without a prior."""
        if self.prior is None:
            return None
        row, item, steps = self.prior.cells(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN])
        return row, item, self.prior.log_odds[steps]

    # -- ranking ----------------------------------------------------------------------------------------------------------

    def user_vectors(self, reading: Reading) -> Tensor:
        """``[B, d]``, of length 1 over the temperature."""
        return F.normalize(reading.packing.last(reading.encoded), dim=-1) / self.cosine_temperature

    def item_vectors(self) -> Tensor:
        """``[n_items, d]``, of length 1."""
        return F.normalize(self.kept_vectors(), dim=-1)

    def cold_items(self) -> Tensor:
        """Items that no training has seen, ``[C]``."""
        return 1 + (~self.seen[1:]).nonzero().squeeze(1)

    @property
    def most_items(self) -> int:
        """What :meth:`rank` can find: by both heads, the beam's and the cold items."""
        if len(self.heads) == 1:
            return super().most_items
        return min(self.n_items - 1, self.heads["generate"].most_items + len(self.cold_items()))

    def rank(self, reading: Any, k: int, rules: Sequence[Allowed] = (None,), strict: bool = True) -> list[Ranking]:
        """By its head; where it has two, the beam's first items and the cold ones, by the cosine."""
        if len(self.heads) == 1:
            return super().rank(reading, k, rules, strict)
        generate, dense = self.heads["generate"], self.heads["dense"]
        n, cold, rankings = min(max(k, self.retrieve), generate.most_items), self.cold_items(), []
        bias = self.item_bias(reading)
        for rule, found in zip(rules, generate.rank(reading, n, rules, strict=False)):
            more = cold.expand(len(found.items), -1)  # [B, C]
            more = more.where(is_allowed(rule, more, self.n_items), 0)
            candidates = torch.cat([found.items, more], 1)  # [B, n + C]
            scores = dense.products(reading, candidates)
            rankings.append(best_of(candidates, scores if bias is None else scores + bias.gather(1, candidates), k))
        is_nan = torch.stack([ranking.scores.isnan().any() for ranking in rankings]).any()
        check_found([ranking.items for ranking in rankings], is_nan, strict)
        return rankings

    def score(self, reading: Any, items: Tensor) -> Tensor:
        """Exact scores of one item for each history: its cosine over the temperature, unless there is no dense head."""
        return self.heads["dense" if "dense" in self.heads else "generate"].score(reading, items)

    def grow(self, sources: Sources) -> None:
        """Know more items, see :meth:`.Contract.grow`: cold ones."""
        new = copied(sources.content.embeddings[len(self.content) :]).to(self.content.device)
        self.content, self.seen = torch.cat([self.content, new]), F.pad(self.seen, (0, len(new)))  # what it was trained with stays
        super().grow(sources)
        self.forget()

    def load_other_parameter(self, values: dict[str, Any] | None) -> None:
        """Which items were seen, onto the model's device."""
        super().load_other_parameter(values)
        self.seen = self.seen.to(self.content.device)

    # -- what it says of itself --------------------------------------------------------------------------------------------

    @classmethod
    def writes_codes(cls, config: Config) -> bool:
        """Unless its dense head alone ranks."""
        return config["rank_by"] != "dense"

    @classmethod
    def check(cls, config: Config) -> None:
        """Refuse settings that it cannot be made with.

        Raises:
            UserError: a key has a value outside its range; ``retrieve`` is below the largest of ``topk`` or above a beam; or
                ``detach_text`` leaves nothing that trains the projection of the texts.
        """
        super().check(config)
        retrieve, widest = config["retrieve"], max(config["topk"])
        if config["rank_by"] == "both":
            beams = {key: config[key] for key in ("valid_num_beams", "num_beams") if config[key] != EXACT and config[key] < retrieve}
            for key, value in beams.items():
                raise UserError(f"retrieve is {retrieve} and {key} {value}; give a beam at least as wide as what is taken from it")
            if retrieve < widest:
                raise UserError(f"retrieve is {retrieve} and the largest topk {widest}; give --retrieve={widest} or more")
        if config["rank_by"] == "generate" and config["detach_text"]:
            raise UserError("rank_by is generate and detach_text True, so nothing trains the projection of texts; give --detach_text=False")

    @classmethod
    def needs(cls, config: Config) -> Needs:
        """Unique semantic IDs, which the paper's Dense (SID) reads too, and item content."""
        return Needs(UNIQUE, content=())

    @classmethod
    def result_name(cls, config: Config) -> str:
        """``LIGER``; ``-dense`` or ``-generate`` where that alone ranks."""
        return cls.__name__ + ("" if config["rank_by"] == "both" else f"-{config['rank_by']}")

    @classmethod
    def loss_name(cls, config: Config) -> str:
        """Of its heads."""
        return {"both": "NLL of semantic ID + CE of text", "dense": "CE of text", "generate": "NLL of semantic ID"}[config["rank_by"]]
