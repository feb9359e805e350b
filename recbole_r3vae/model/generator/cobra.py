"""COBRA: every item is a semantic ID and a dense vector; the model writes the ID, then a vector given the ID, and both find the item.

Yang et al., "Sparse Meets Dense: Unified Generative Recommendations with Cascaded Sparse-Dense Representations", NeurIPS 2025,
arXiv 2503.02453. There is no code of the authors. The formulas follow summaries of the paper; what these leave open is chosen here, and
said in the class and in the YAML.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_r3vae.data.sequences import TARGET_LIST_FIELD
from recbole_r3vae.errors import UserError
from recbole_r3vae.model.beam_fusion import BeamFusion
from recbole_r3vae.model.blocks import ContinuedBlock, Past, initialise
from recbole_r3vae.model.contract import SHARED, Needs, Sources
from recbole_r3vae.model.dropout import Dropout
from recbole_r3vae.model.heads import DenseHead
from recbole_r3vae.model.item_vectors import CODES, MERGES, TEXT, ItemVectors, KeepsVectors
from recbole_r3vae.model.losses import catalogue_cross_entropy
from recbole_r3vae.model.packing import Packing, pack
from recbole_r3vae.model.parameters import SHARE, Choice, Flag, Number, Whole, check_heads
from recbole_r3vae.model.ranker import SIDGenerator
from recbole_r3vae.model.repeat_prior import KEYS, OFF, prior_loss, prior_of
from recbole_r3vae.model.word_encoder import WordEncoder, word_tokens

if TYPE_CHECKING:
    from recbole.config import Config
    from recbole.data.interaction import Interaction

SID, DENSE = "sid", "dense"
KINDS = {"both": (SID, DENSE), "generate": (SID,), "dense": (DENSE,)}
ITEMS = 1024  # whose words are read at a time


@dataclass
class Reading:
    """Histories: their items, their last states, and, for an ID that comes next, what each block knows of them."""

    state: Tensor  # [B, d]
    items: Tensor  # [B, T]
    lengths: Tensor  # [B]
    past: list[Past] | None


@dataclass
class Writing:
    """The semantic IDs that are being written: the history's state and the sum of the embeddings of each beam's codes."""

    context: Tensor  # [B, W, d]
    level: int = 0


class COBRA(KeepsVectors, SIDGenerator):
    """Causal decoder over two positions an item, its semantic ID and its dense vector.

    The state at the vector of an item predicts the codes of the next ID: level by level, each by a small perceptron from that state plus
    the embeddings of the codes before (how levels are decoded is not known). The state at an ID, the true one in training, predicts the
    vector of its item. The loss is the sum of the codes' cross-entropies and the cross-entropy of ``cos(predicted, vector) /
    temperature`` over the items that are targets in the batch, each once. All positions of a window are trained at once.

    An ID is the sum of its codes' embeddings, or these side by side through a linear layer. A dense vector is the item's content vector
    through a layer that is trained with the rest, or the output of an encoder of its own over the item's words. Items may share an ID, and
    the items of one ID are its *bucket*.

    * ``rank_by: both``. See :class:`~recbole_r3vae.model.beam_fusion.BeamFusion`.
    * ``rank_by: generate``. There are no dense positions, and items of one ID are equal: the paper's "without dense".
    * ``rank_by: dense``. There are no IDs, and the catalogue is ranked by ``psi cos``: the paper's "without ID".

    With ``repeat_prior``, which is not of the paper, items of the history have learnt log-odds more or less in the score. They are learnt on
    an item's probability: its ID's, times the softmax of ``psi cos`` among the items of that.

    Args:
        config: keys of ``properties/model/COBRA.yaml``. :meth:`check` took it.
        dataset: training dataset with ``sources``: semantic IDs, and item content or item texts.
    """

    hyperparameters = {
        "rank_by": Choice(*KINDS),
        "fusion": Flag(),
        "bucket_items": Whole(),
        "tau": Number(above=0),
        "psi": Number(above=0),
        "item_encoder": Choice("content", "words"),
        "content_inner_size": Whole(0),
        "n_words": Whole(),
        "n_word_buckets": Whole(),
        "n_word_layers": Whole(),
        "code_merge": Choice(*MERGES),
        "dense_head": Flag(),
        "hidden_size": Whole(),
        "n_layers": Whole(),
        "n_heads": Whole(),
        "inner_size": Whole(),
        "dropout": SHARE,
        "temperature": Number(above=0),
        "dense_weight": Number(above=0),
        **KEYS,
    }
    neutral = OFF

    def __init__(self, config: Config, dataset: Any):
        super().__init__(config, dataset)
        size, n_heads, inner_size, dropout = (config[key] for key in ("hidden_size", "n_heads", "inner_size", "dropout"))
        self.kinds, self.psi = KINDS[config["rank_by"]], config["psi"]
        self.temperature, self.dense_weight = config["temperature"], config["dense_weight"]
        sids, content, self.words = self.sources.semantic_ids, self.sources.content, config["item_encoder"] == "words"
        if SID in self.kinds:
            self.ids = ItemVectors([CODES], config["code_merge"], size, self.n_items, Sources(sids))
            self.head_embedding = nn.Embedding(self.n_tokens, size)
            self.code_heads = nn.ModuleList(
                nn.Sequential(nn.LayerNorm(size), nn.Linear(size, inner_size), nn.GELU(), nn.Linear(inner_size, n_codes))
                for n_codes in self.codebook_sizes
            )
        if DENSE in self.kinds and self.words:
            fields, n_words, n_buckets = config["item_text_fields"], config["n_words"], config["n_word_buckets"]
            self.dense = WordEncoder(size, config["n_word_layers"], n_heads, inner_size, dropout, n_words, n_buckets, len(fields))
            empty = torch.zeros(2, self.n_items, 1 + n_words, dtype=torch.int64)  # of a model that is about to be loaded, words and all
            told = hasattr(dataset, "item_feat")
            tokens = torch.stack(word_tokens(dataset, fields, n_words, n_buckets)) if told else empty
            self.register_buffer("word_tokens", tokens.transpose(0, 1).contiguous())  # [n_items, 2, W]
        elif DENSE in self.kinds:
            self.dense = ItemVectors([TEXT], "sum", size, self.n_items, Sources(content=content), config["content_inner_size"])
        if DENSE in self.kinds:
            self.dense_out = nn.Linear(size, size) if config["dense_head"] else nn.Identity()
        self.position_embedding = nn.Embedding(len(self.kinds) * self.max_seq_length + 1, size)
        self.kind_embedding = nn.Embedding(len(self.kinds), size)
        self.dropout = Dropout(dropout)
        self.blocks = nn.ModuleList(ContinuedBlock(size, n_heads, inner_size, dropout) for _ in range(config["n_layers"]))
        self.norm = nn.LayerNorm(size)
        if len(self.kinds) == 2:
            self.heads["generate"] = BeamFusion(self, config)
        elif DENSE in self.kinds:
            self.heads["dense"] = DenseHead(self)
        self.prior = prior_of(config, self.max_seq_length)
        self.apply(initialise)

    # -- items and histories ---------------------------------------------------------------------------------------------

    def vectors_of(self, items: Tensor) -> Tensor:
        """What positions of items ``[N]`` hold: ``[N, 2, d]``, ID and dense vector, or one of them."""
        kinds = [self.ids(items)] if SID in self.kinds else []
        if DENSE in self.kinds:
            kinds.append(self.dense(*self.word_tokens[items].unbind(1)) if self.words else self.dense(items))
        return torch.stack(kinds, 1)

    def all_vectors(self) -> Tensor:
        """Of the whole catalogue ``[n_items, 2, d]``."""
        return torch.cat([self.vectors_of(some) for some in torch.arange(self.n_items, device=self.norm.weight.device).split(ITEMS)])

    def encode(self, vectors: Tensor, rows: Tensor, length: Tensor, past: list[Past] | None = None) -> tuple[Tensor, Packing]:
        """States of every position of every history.

        Args:
            vectors: ``[N, 2, d]`` (or ``[N, 1, d]``), of items.
            rows: ``[B, T]``, which of them the items of each history are.
            length: ``[B]``, positions of each.
            past: a list to which each block's :class:`Past` is added.

        Returns:
            ``[M, d]`` for the M positions, and where each of them lies.
        """
        n_kinds = len(self.kinds)
        packing = pack(torch.arange(rows.shape[1] * n_kinds, device=rows.device) < length[:, None])
        position, row = packing.position(), packing.take(rows.repeat_interleave(n_kinds, 1))
        kind = position % n_kinds
        x = self.dropout(vectors[row, kind] + self.position_embedding(position) + self.kind_embedding(kind))  # [M, d]
        for block in self.blocks:
            if past is not None:
                past.append(block.past(x, packing))
            x = block(x, packing)
        return self.norm(x), packing

    def read(self, interaction: Interaction) -> Reading:
        """Histories as what may follow them attends to."""
        lengths, past = interaction[self.ITEM_SEQ_LEN], [] if len(self.kinds) == 2 else None
        items = interaction[self.ITEM_SEQ][:, : int(lengths.max())]
        x, packing = self.encode(self.kept_vectors(), items, lengths * len(self.kinds), past)
        return Reading(packing.last(x), items, lengths, past)

    # -- training --------------------------------------------------------------------------------------------------------

    def calculate_loss(self, interaction: Interaction) -> Tensor:
        """Mean losses over the targets of all positions, added up.

        Args:
            interaction: windows of a :class:`~recbole_r3vae.data.sequences.WindowDataset`.
        """
        length = interaction[self.ITEM_SEQ_LEN]
        items, target = (interaction[field][:, : int(length.max())] for field in (self.ITEM_SEQ, TARGET_LIST_FIELD))  # [B, T]
        n_positions, wanted = length, target
        if len(self.kinds) == 2:  # the ID of the last target stands at the end, to tell its vector by
            last = length[:, None]
            items = F.pad(items, (0, 1)).scatter(1, last, target.gather(1, last - 1))  # [B, T + 1]
            n_positions = 2 * length + 1
            wanted = F.pad(target.repeat_interleave(2, 1), (1, 1))  # [B, 2 T + 2]: after a vector, and after the ID that follows it
        known, rows = torch.cat([items.flatten(), target.flatten()]).unique(return_inverse=True)  # [N]
        vectors = self.vectors_of(known)  # [N, 2, d]
        x, packing = self.encode(vectors, rows[: items.numel()].view_as(items), n_positions)  # [M, d]
        wanted, kind = packing.take(wanted), packing.position() % len(self.kinds)  # [M]
        losses = []
        if SID in self.kinds:
            here = (wanted > 0) & (kind == len(self.kinds) - 1)  # at what stands last of an item
            losses.append(self.code_loss(x[here], wanted[here]))
        if DENSE in self.kinds:
            here = (wanted > 0) & (kind == 0)  # at an ID, or, where there are none, at the item before
            dense = self.dense_loss(x[here], wanted[here], known, vectors[:, -1])
            losses.append(dense * (self.dense_weight if losses else 1))
        return sum(losses) + prior_loss(self, interaction)

    def code_loss(self, state: Tensor, items: Tensor) -> Tensor:
        """Mean negative log-likelihood of the semantic IDs of ``items`` [N] after ``state`` [N, d]."""
        loss = 0
        for level, head in enumerate(self.code_heads):
            loss = loss + F.cross_entropy(head(state).float(), self.codes[items, level])
            state = state + self.head_embedding(self.tokens[items, level])
        return loss

    def dense_loss(self, state: Tensor, target: Tensor, known: Tensor, vectors: Tensor) -> Tensor:
        """Mean cross-entropy of ``target`` [N] among all targets of the batch; ``known``, ascending items, have ``vectors`` [K, d]."""
        items, place = target.unique(return_inverse=True)
        among = F.normalize(vectors[torch.searchsorted(known, items)], dim=-1)
        return catalogue_cross_entropy(F.normalize(self.dense_out(state), dim=-1), among, place, self.temperature)

    # -- the next item -----------------------------------------------------------------------------------------------------

    def start(self, reading: Reading) -> Writing:
        """Begin to decode; see :meth:`SIDGenerator.start`."""
        return Writing(reading.state[:, None])

    def step(self, state: Writing, tokens: Tensor | None, parents: Tensor | None) -> Tensor:
        """Log-probabilities of the next level's codes; see :meth:`SIDGenerator.step`."""
        level, state.level = state.level, state.level + 1
        if level:
            before = state.context.take_along_dim(parents[..., None], 1)  # [B, W, d]
            state.context = before + self.head_embedding(tokens + 1 + sum(self.codebook_sizes[: level - 1]))
        return self.code_heads[level](state.context).float().log_softmax(-1)  # [B, W, K]

    def predicted(self, reading: Reading, items: Tensor) -> Tensor:
        """The dense vectors that the semantic IDs of ``items`` [B, C] lead to, each alone after its history: ``[B, C, d]``, of length 1."""
        x = self.kept_vectors()[items, 0] + self.position_embedding(2 * reading.lengths)[:, None] + self.kind_embedding.weight[0]
        for block, past in zip(self.blocks, reading.past):
            x = block(x, past)
        return F.normalize(self.dense_out(self.norm(x)).float(), dim=-1)

    def user_vectors(self, reading: Reading) -> Tensor:
        """Where there are no IDs: the predicted vector ``[B, d]``, of length psi."""
        return F.normalize(self.dense_out(reading.state), dim=-1) * self.psi

    def item_vectors(self) -> Tensor:
        """Dense vectors of the catalogue ``[n_items, d]``, of length 1."""
        return F.normalize(self.kept_vectors()[:, -1].float(), dim=-1)

    # -- what it says of itself --------------------------------------------------------------------------------------------

    def grow(self, sources: Sources) -> None:
        """Know more items, see :meth:`.Contract.grow`.

        Raises:
            UserError: it reads words, and the new items have none.
        """
        if DENSE in self.kinds and self.words:
            raise UserError("item_encoder is words, and new items come without them; train COBRA with --item_encoder=content")
        if SID in self.kinds:
            self.ids.grow(Sources(sources.semantic_ids))
        if DENSE in self.kinds:
            self.dense.grow(Sources(content=sources.content))
        super().grow(sources)
        self.forget()

    @classmethod
    def writes_codes(cls, config: Config) -> bool:
        """Unless it has dense vectors alone."""
        return config["rank_by"] != "dense"

    @classmethod
    def check(cls, config: Config) -> None:
        """Refuse settings that it cannot be made with.

        Raises:
            UserError: a key has a value outside its range, or ``n_heads`` does not divide ``hidden_size``.
        """
        super().check(config)
        check_heads(config)

    @classmethod
    def needs(cls, config: Config) -> Needs:
        """Semantic IDs as the tokenizer gave them, unless vectors alone rank; item content unless it reads words or has no dense vectors."""
        reads = config["rank_by"] != "generate" and config["item_encoder"] == "content"
        return Needs(SHARED if config["rank_by"] != "dense" else None, content=() if reads else None, in_order=True)

    @classmethod
    def result_name(cls, config: Config) -> str:
        """``COBRA``; ``-generate`` or ``-dense`` where that alone ranks, ``-unfused`` without BeamFusion."""
        more = "unfused" if not config["fusion"] else ""
        return "-".join(filter(None, [cls.__name__, more if config["rank_by"] == "both" else config["rank_by"]]))

    @classmethod
    def loss_name(cls, config: Config) -> str:
        """Of its positions."""
        names = {SID: "NLL of semantic ID", DENSE: "in-batch CE of vectors"}
        return " + ".join(names[kind] for kind in KINDS[config["rank_by"]])
