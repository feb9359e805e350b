"""R3GR: a causal encoder over items that recommends by writing the next item's semantic ID, by item vectors made of codes, or by both.

The generator idea is TIGER's (Rajput et al., "Recommender Systems with Generative Retrieval", NeurIPS 2023, arXiv 2305.05065): recommend
by generating the semantic ID of the next item. TIGER feeds every code of the history to an encoder-decoder. R3GR reads one vector an
item, as SASRec does (Kang and McAuley, "Self-Attentive Sequential Recommendation", ICDM 2018), and spends its decoding on the L codes of
the next item alone. All positions of a history are trained at once, so an epoch costs a fraction of TIGER's.

A dense head beside the decoder is LIGER's idea (Yang et al., arXiv 2411.18814). Here the vector of an item is the one that histories are
read by, the sum of its codes' embeddings and its projected content: no parameter belongs to a single item. Its loss is a softmax over the
catalogue, which long codes (32 of product quantisation, as RPG's, arXiv 2506.05781) need and a decoder could not write.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_r3vae.data.sequences import TARGET_LIST_FIELD
from recbole_r3vae.errors import UserError, did_you_mean, short_repr
from recbole_r3vae.model.blocks import ENCODERS, TransformerBlock, causal_blocks, initialise
from recbole_r3vae.model.contract import Needs, Sources
from recbole_r3vae.model.dropout import Dropout
from recbole_r3vae.model.generator.decoding.rules import Allowed, check_found
from recbole_r3vae.model.generator.decoding.vectors import SummedCodes
from recbole_r3vae.model.generator.levels import LevelCache, attend_levels
from recbole_r3vae.model.heads import DenseHead, Ranking, best_of
from recbole_r3vae.model.item_vectors import CODES, ID, MERGES, TEXT, ItemInputs, ItemVectors, KeepsVectors, modalities
from recbole_r3vae.model.losses import catalogue_cross_entropy, log_frequency, sampled_cross_entropy
from recbole_r3vae.model.packing import SPARE, Packing, pack
from recbole_r3vae.model.parameters import SHARE, Choice, Either, Flag, Number, Whole, check_heads
from recbole_r3vae.model.ranker import SIDGenerator
from recbole_r3vae.model.repeat_prior import KEYS, Reading, prior_loss, prior_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from recbole.config import Config
    from recbole.data.interaction import Interaction

RANK_BY = ("generate", "dense", "both")
HELD_NUMBERS = 2**28
"""Numbers of item vectors that are held, 1 GiB in float32. More of them are summed from those of their codes whenever they are asked for."""
NEGATIVE_POWER = 0.5
"""Items of a sampled loss are drawn by their frequency in training to this power, as WindowSASRec's default has it."""


class LevelBlock(TransformerBlock):
    """Transformer block over the levels of one semantic ID, in which each level attends to itself and those before it."""

    def forward(self, x: Tensor, cache: LevelCache | None = None) -> Tensor:
        """All levels at once, ``[N, L, d]``; with a cache the next level of W beams, ``[B, W, d]``. The same shape comes out."""
        return super().forward(x, cache)

    def attend(self, qkv: Tensor, cache: LevelCache | None) -> Tensor:
        """Queries, keys and values [N, L, 3, H, d/H], or with a cache [B, W, 3, H, d/H], to [N, L, d] or [B, W, d]."""
        query, kv = qkv[:, :, 0] * qkv.shape[-1] ** -0.5, qkv[:, :, 1:]
        if cache is not None:
            cache.append(kv)
            return cache.attend(query)
        levels = kv.unbind(1)  # L of [N, 2, H, d/H]
        return torch.stack([attend_levels(query[:, level], levels[: level + 1]) for level in range(len(levels))], dim=1)


@dataclass
class DecodingState:
    """Histories as vectors, and what each block of the decoder has computed for each beam."""

    user: Tensor  # [B, d]
    caches: list[LevelCache]
    level: int = 0


class R3GR(KeepsVectors, SIDGenerator):
    """Ranker over item-level histories with one or two heads over one encoder.

    An item is the sum of what ``item_inputs`` names, see :class:`~recbole_r3vae.model.item_vectors.ItemVectors`. With ids among it the
    model is no longer pure content and is called *hybrid*. ``n_layers`` causal blocks turn the history into one vector at each position.

    * ``rank_by: generate``. From that vector, ``n_decoder_layers`` blocks with attention over the levels predict the next item's codes
      c_1 … c_L one after the other: position 0 of the decoder is the history, position l the embedding of c_l. The loss is the negative
      log-likelihood of the item, the sum over levels of the cross-entropy. Items are found by beam search.
    * ``rank_by: dense``. Scores are the cosines of that vector and the vectors of all items, over ``temperature``; the loss is the
      cross-entropy over the catalogue, or with ``n_negatives`` over a sample of it, whose vectors are then the only ones that are made:
      :func:`~recbole_r3vae.model.losses.sampled_cross_entropy`. The codes need no order.
    * ``rank_by: both``. Both losses, the second weighted by ``dense_weight``. What either head proposes is ranked by
      ``(1 - blend) * log P(semantic ID) + blend * cosine / temperature``.

    With ``repeat_prior``, items of the history have learnt log-odds more or less, see
    :class:`~recbole_r3vae.model.repeat_prior.RepeatPrior`.

    Args:
        config: keys of ``properties/model/R3GR.yaml``. :meth:`check` took it.
        dataset: training dataset with ``sources``: semantic IDs and, where it reads content, the modalities that ``item_inputs`` names.
    """

    hyperparameters = {
        "rank_by": Choice(*RANK_BY),
        "item_inputs": ItemInputs(),
        "code_merge": Choice(*MERGES),
        "content_inner_size": Whole(0),
        "encoder": Choice(*ENCODERS),
        "hidden_size": Whole(),
        "n_layers": Whole(),
        "n_decoder_layers": Whole(),
        "n_heads": Whole(),
        "inner_size": Whole(),
        "dropout": SHARE,
        "sid_dropout": SHARE,
        "id_dropout": SHARE,
        "tied_heads": Flag(),
        "label_smoothing": Number(at_least=0, at_most=1),
        "temperature": Number(above=0),
        "dense_weight": Number(above=0),
        "n_negatives": Either(None, Whole()),
        "blend": Number(at_least=0, at_most=1),
        **KEYS,
    }

    def __init__(self, config: Config, dataset: Any):
        super().__init__(config, dataset)
        size, n_heads, inner_size, dropout = (config[key] for key in ("hidden_size", "n_heads", "inner_size", "dropout"))
        self.rank_by, self.temperature = config["rank_by"], config["temperature"]
        self.dense_weight, self.blend, self.label_smoothing = config["dense_weight"], config["blend"], config["label_smoothing"]
        hidden = config["sid_dropout"], config["id_dropout"]
        how = config["item_inputs"], config["code_merge"], size
        read = self.read_of(self.sources, config["item_inputs"])
        self.items = ItemVectors(*how, self.n_items, read, config["content_inner_size"], *hidden)
        self.position_embedding = nn.Embedding(self.max_seq_length, size)
        if self.writes_codes(config):
            self.first_token = [1 + sum(self.codebook_sizes[:level]) for level in range(self.n_levels)]  # of each level's code 0
            self.level_embedding = nn.Embedding(self.n_levels, size)
        self.dropout = Dropout(dropout)
        self.encoder = causal_blocks(config["encoder"], config["n_layers"], size, n_heads, inner_size, self.max_seq_length, dropout)
        if self.writes_codes(config):
            self.decoder = nn.ModuleList(LevelBlock(size, n_heads, inner_size, dropout) for _ in range(config["n_decoder_layers"]))
        self.encoder_norm = nn.LayerNorm(size)
        if self.writes_codes(config):
            self.decoder_norm = nn.LayerNorm(size)
            self.head_bias = nn.ParameterList(torch.zeros(n_codes) for n_codes in self.codebook_sizes)
            self.tied_heads = config["tied_heads"]
            if not self.tied_heads:
                self.head_embedding = nn.Embedding(self.n_tokens, size)
        self.n_negatives = config["n_negatives"]
        if self.rank_by != "generate":
            self.heads["dense"] = DenseHead(self)
            if self.n_negatives is not None:
                log_q = log_frequency(dataset.counter(self.ITEM_ID), self.n_items, NEGATIVE_POWER)
                self.register_buffer("log_q", log_q, persistent=False)  # [n_items - 1], of being drawn, items from 1 on
        self.prior = prior_of(config, self.max_seq_length)
        self.apply(initialise)

    @staticmethod
    def read_of(sources: Sources, item_inputs: list[str]) -> Sources:
        """What item vectors are made of: all that was asked for."""
        return sources

    # -- the history ---------------------------------------------------------------------------------------------------

    def encode(self, items: Tensor, catalogue: Tensor | None = None) -> tuple[Tensor, Packing]:
        """Vectors of every position of every history; padding costs nothing.

        Args:
            items: ``[B, T]`` item ids, padded with 0 on the right.
            catalogue: vectors of all items ``[n_items, d]``, where they are at hand.

        Returns:
            ``[M, d]`` for M positions, and where each of them lies; in training a few of them are of padding.
        """
        packing = pack(items > 0, SPARE if self.training else 0)
        ids = packing.take(items)  # [M]
        x = self.items(ids) if catalogue is None else catalogue[ids]
        x = self.dropout(x + self.position_embedding(packing.position()))  # [M, d]
        for block in self.encoder:
            x = block(x, packing)
        return self.encoder_norm(x), packing

    def read(self, interaction: Interaction) -> Reading:
        """Histories as vectors."""
        items = interaction[self.ITEM_SEQ]
        encoded, packing = self.encode(items)
        return Reading(packing.last(encoded), items, interaction[self.ITEM_SEQ_LEN])

    # -- training ----------------------------------------------------------------------------------------------------------

    def calculate_loss(self, interaction: Interaction) -> Tensor:
        """Mean loss over the targets of all positions.

        Args:
            interaction: windows of a :class:`~recbole_r3vae.data.sequences.WindowDataset`.
        """
        length = int(interaction[self.ITEM_SEQ_LEN].max())
        items = interaction[self.ITEM_SEQ][:, :length]
        hides = self.items.code_dropout or self.items.id_dropout
        catalogue = self.catalogue() if "dense" in self.heads and self.n_negatives is None else None  # [n_items, d]
        user, packing = self.encode(items, None if hides else catalogue)  # [M, d]
        target = packing.take(interaction[TARGET_LIST_FIELD][:, :length])  # [M]
        has_target = target > 0
        user, target = user[has_target], target[has_target]  # [N, d], [N]
        place = packing.place[has_target]  # [N], in B * T
        losses = []
        if "generate" in self.heads:
            losses.append(self.code_loss(user, target))
        if "dense" in self.heads:
            of_items = self.sampled_loss(user, target) if catalogue is None else self.dense_loss(user, target, catalogue, items, place)
            losses.append(of_items * (self.dense_weight if losses else 1))
            if self.prior is not None:
                losses.append(self.prior.regularization())
        else:
            losses.append(prior_loss(self, interaction))
        return sum(losses)

    def catalogue(self) -> Tensor:
        """Vectors of all items, as training compares histories with them ``[n_items, d]``."""
        return self.items.catalogue()

    def code_loss(self, user: Tensor, target: Tensor) -> Tensor:
        """Mean negative log-likelihood of the semantic IDs of ``target`` [N] after histories ``user`` [N, d]."""
        codes = self.codes[target]  # [N, L]
        given = self.items.code_embedding(self.tokens[target][:, :-1])  # [N, L-1, d]: position l is given c_1 … c_l
        x = torch.cat([user[:, None], given], dim=1) + self.level_embedding.weight  # [N, L, d]
        for block in self.decoder:
            x = block(x)
        x = self.decoder_norm(x)
        return sum(
            F.cross_entropy(self._logits(x[:, level], level), codes[:, level], label_smoothing=self.label_smoothing)
            for level in range(self.n_levels)
        )

    def dense_loss(self, user: Tensor, target: Tensor, catalogue: Tensor, items: Tensor, place: Tensor) -> Tensor:
        """Mean cross-entropy of ``target`` [N] over the catalogue [n_items, d], with the prior on items met at each ``place`` [N]."""
        extra = None if self.prior is None else self.prior.extra(items, place)
        return catalogue_cross_entropy(
            F.normalize(user, dim=-1), F.normalize(catalogue[1:], dim=-1), target - 1, self.temperature, extra=extra
        )

    def sampled_loss(self, user: Tensor, target: Tensor) -> Tensor:
        """Mean cross-entropy of ``target`` [N] over itself and items drawn for the batch, corrected for how they are drawn."""
        drawn = self.draw()  # [n_negatives]
        known, place = torch.cat([target, 1 + drawn]).unique(return_inverse=True)  # [U], [N + n_negatives]
        vectors = F.normalize(self.items(known, hide=False), dim=-1)  # [U, d]
        target, negatives = place[: len(target)], place[len(target) :]
        return sampled_cross_entropy(F.normalize(user, dim=-1), vectors, target, negatives, self.log_q[drawn], self.temperature)

    def draw(self) -> Tensor:
        """Items less one, by their smoothed frequency, with replacement: ``[n_negatives]``."""
        return torch.multinomial(self.log_q.exp(), self.n_negatives, replacement=True)

    # -- the next item, code by code ------------------------------------------------------------------------------------

    def start(self, reading: Reading) -> DecodingState:
        """Begin to decode; see :meth:`SIDGenerator.start`."""
        return DecodingState(user=reading.user, caches=[LevelCache() for _ in self.decoder])

    def step(self, state: DecodingState, tokens: Tensor | None, parents: Tensor | None) -> Tensor:
        """Log-probabilities of the next level's codes; see :meth:`SIDGenerator.step`."""
        level, state.level = state.level, state.level + 1
        if level == 0:
            x = state.user[:, None]  # [B, 1, d]
        else:
            x = self.items.code_embedding(tokens + self.first_token[level - 1])  # [B, W, d]
            for cache in state.caches:
                cache.reorder(parents)
        x = x + self.level_embedding.weight[level]
        for block, cache in zip(self.decoder, state.caches):
            x = block(x, cache)
        return self._logits(self.decoder_norm(x), level).float().log_softmax(-1)  # [B, W, K]

    def _logits(self, x: Tensor, level: int) -> Tensor:
        """Decoder output [..., d] to the logits of a level's codes [..., K]."""
        table = self.items.code_embedding if self.tied_heads else self.head_embedding
        return F.linear(x, table.weight[self.first_token[level] :][: self.codebook_sizes[level]], self.head_bias[level])

    # -- the next item, by vectors ---------------------------------------------------------------------------------------

    def user_vectors(self, reading: Reading) -> Tensor:
        """``[B, d]``, of length 1 over the temperature."""
        return F.normalize(reading.user, dim=-1) / self.temperature

    def item_vectors(self) -> Tensor | SummedCodes:
        """``[n_items, d]``, of length 1; of more than :data:`HELD_NUMBERS` numbers those of the codes alone, where items are these."""
        return self.kept_vectors()

    def all_vectors(self) -> Tensor | SummedCodes:
        """The same, computed anew."""
        width = self.position_embedding.embedding_dim
        table = self.items.code_table() if self.n_items * width > HELD_NUMBERS else None
        return F.normalize(self.items.catalogue(), dim=-1) if table is None else SummedCodes(self.items.tokens, table)

    # -- both --------------------------------------------------------------------------------------------------------------

    def rank(self, reading: Reading, k: int, rules: Sequence[Allowed] = (None,), strict: bool = True) -> list[Ranking]:
        """By its head; where it has two, what either proposes, ranked by the blend of both."""
        if len(self.heads) == 1:
            return super().rank(reading, k, rules, strict)
        n = max(k, self.most_items)  # the decoder refuses a k above its beams
        proposed = [head.rank(reading, n, rules, strict=False) for head in self.heads.values()]
        candidates = [torch.cat([a.items, b.items], 1) for a, b in zip(*proposed)]  # [B, 2n]
        rankings = [best_of(items, self._blend(reading, items), k) for items in candidates]
        check_found([ranking.items for ranking in rankings], torch.stack([r.scores.isnan().any() for r in rankings]).any(), strict)
        return rankings

    def _blend(self, reading: Reading, items: Tensor) -> Tensor:
        """Scores of several items a history, ``[B, C]``."""
        log_probs, products = self.heads["generate"].log_probs(reading, items), self.heads["dense"].products(reading, items)
        scores = (1 - self.blend) * log_probs + self.blend * products
        bias = self.item_bias(reading)
        return scores if bias is None else scores + bias.gather(1, items)

    def score(self, reading: Reading, items: Tensor) -> Tensor:
        """Exact scores of one item for each history."""
        return super().score(reading, items) if len(self.heads) == 1 else self._blend(reading, items[:, None]).squeeze(1)

    # -- what it says of itself --------------------------------------------------------------------------------------------

    @classmethod
    def writes_codes(cls, config: Config) -> bool:
        """Unless its dense head alone ranks."""
        return config["rank_by"] != "dense"

    @classmethod
    def check(cls, config: Config) -> None:
        """Refuse settings that it cannot be made with.

        Raises:
            UserError: a key has a value outside its range, ``n_heads`` does not divide ``hidden_size``, ``item_inputs`` names a modality
                where item content has but one, its text, or there is a sampled loss without a dense head or beside a prior on repeats.
        """
        super().check(config)
        check_heads(config)
        if config["n_negatives"] is not None and (config["rank_by"] == "generate" or config["repeat_prior"]):
            beside = "rank_by generate, which has no loss over items" if config["rank_by"] == "generate" else "repeat_prior, which needs all items"
            raise UserError(f"n_negatives is {config['n_negatives']} beside {beside}; leave one of them out")
        if isinstance(config["content_encoder"], (str, type(None))):
            for name in modalities(config["item_inputs"]):
                if name != TEXT:
                    raise UserError(
                        f"item_inputs names {short_repr(name)}{did_you_mean(name, (CODES, TEXT, ID))}; give some of {CODES}, {TEXT}, {ID}, or name "
                        "that modality in content_encoder"
                    )

    @classmethod
    def needs(cls, config: Config) -> Needs:
        """Semantic IDs, unique ones where it writes them, unless it neither does nor reads them; and the modalities that it reads."""
        inputs = config["item_inputs"]
        sids = super().needs(config).semantic_ids if CODES in inputs or cls.writes_codes(config) else None
        return Needs(sids, content=modalities(inputs) or None)

    @classmethod
    def result_name(cls, config: Config) -> str:
        """``R3GR``; ``-dense`` or ``-both`` by what ranks, unless it writes codes alone; ``-hybrid`` where it reads item ids."""
        ranks = {"generate": "", "dense": "-dense", "both": "-both"}[config["rank_by"]]
        return f"{cls.__name__}{ranks}{'-hybrid' if ID in config['item_inputs'] else ''}"

    @classmethod
    def loss_name(cls, config: Config) -> str:
        """Of its heads."""
        dense = "CE over items" if config["n_negatives"] is None else "sampled CE over items"
        names = {"generate": ["NLL of semantic ID"], "dense": [dense], "both": ["NLL of semantic ID", dense]}
        return " + ".join(names[config["rank_by"]])

    def grow(self, sources: Sources) -> None:
        """Know more items, see :meth:`.Contract.grow`; they have no id embedding."""
        self.items.grow(self.read_of(sources, self.items.item_inputs))
        self.forget()
        super().grow(sources)
