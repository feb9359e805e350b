"""R3GR: a causal encoder over items that writes the next item's semantic ID with a small decoder.

The generator idea is TIGER's (Rajput et al., "Recommender Systems with Generative Retrieval", NeurIPS 2023, arXiv 2305.05065): recommend
by generating the semantic ID of the next item. TIGER feeds every code of the history to an encoder-decoder. R3GR reads one vector an
item, as SASRec does (Kang and McAuley, "Self-Attentive Sequential Recommendation", ICDM 2018), and spends its decoding on the L codes of
the next item alone. All positions of a history are trained at once, so an epoch costs a fraction of TIGER's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_r3vae.data.sequences import TARGET_LIST_FIELD
from recbole_r3vae.errors import UserError, nearest, shown
from recbole_r3vae.model.blocks import ENCODERS, TransformerBlock, causal_blocks
from recbole_r3vae.model.contract import UNIQUE, Needs
from recbole_r3vae.model.generator.levels import LevelCache, attend_levels
from recbole_r3vae.model.packing import Packing, pack
from recbole_r3vae.model.parameters import SHARE, Choice, Flag, Number, Whole
from recbole_r3vae.model.ranker import SIDGenerator

if TYPE_CHECKING:
    from recbole.config import Config
    from recbole.data.interaction import Interaction

    from recbole_r3vae.model.contract import Sources

CODES, TEXT, ID = "codes", "text", "id"
"""What an item of a history may be; other names are modalities of item content, as text is."""


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


class ItemInputs:
    """Parameter of :mod:`~recbole_r3vae.model.parameters`: ``codes``, ``id`` and modalities of item content, each once."""

    def takes(self, value: Any) -> bool:
        named = isinstance(value, (list, tuple)) and all(isinstance(entry, str) and entry for entry in value)
        return named and len(set(value)) == len(value) > 0

    def expected(self) -> str:
        return f"a list of some of {CODES}, {TEXT}, {ID} and other modalities of item content, such as [{CODES}, {TEXT}]"


class R3GR(SIDGenerator):
    """Generator of semantic IDs over item-level histories.

    An item is the sum of what ``item_inputs`` names: its codes (the concatenation of their embeddings through a linear layer), its content
    (the vectors of the named modalities through a linear layer), an embedding of its id. With the last the model is no longer pure content
    and is called *hybrid*. ``n_layers`` causal blocks turn the history into one vector at each position. From it, ``n_decoder_layers``
    blocks with attention over the levels predict the next item's codes c_1 … c_L one after the other: position 0 of the decoder is the
    history, position l the embedding of c_l. The loss is the negative log-likelihood of the item, the sum over levels of the cross-entropy.

    Args:
        config: ``item_inputs``, ``encoder``, ``hidden_size``, ``n_layers``, ``n_decoder_layers``, ``n_heads``, ``inner_size``,
            ``dropout``, ``sid_dropout``, ``id_dropout``, ``tied_heads``, ``label_smoothing``, ``num_beams``; see
            ``properties/model/R3GR.yaml``. :meth:`check` took it.
        dataset: training dataset with ``sources``: semantic IDs and, where it reads content, the modalities that ``item_inputs`` names.
    """

    hyperparameters = {
        "item_inputs": ItemInputs(),
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
    }

    def __init__(self, config: Config, dataset: Any):
        super().__init__(config, dataset)
        size, n_heads, inner_size, dropout = (config[key] for key in ("hidden_size", "n_heads", "inner_size", "dropout"))
        self.item_inputs, self.label_smoothing = config["item_inputs"], config["label_smoothing"]
        self.sid_dropout, self.id_dropout = config["sid_dropout"], config["id_dropout"]
        self.first_token = [1 + sum(self.codebook_sizes[:level]) for level in range(self.n_levels)]  # of each level's code 0
        self.code_embedding = nn.Embedding(self.n_tokens, size, padding_idx=0)
        if CODES in self.item_inputs:
            self.code_projection = nn.Linear(self.n_levels * size, size)
        if modalities(self.item_inputs):
            self.register_buffer("item_vectors", copied(self.sources.content.embeddings), persistent=False)  # [n_items, D]
            self.text_projection = nn.Linear(self.item_vectors.shape[1], size)  # of whichever modalities these are
        if ID in self.item_inputs:
            self.id_embedding = nn.Embedding(self.n_items, size, padding_idx=0)
        self.position_embedding = nn.Embedding(self.max_seq_length, size)
        self.level_embedding = nn.Embedding(self.n_levels, size)
        self.dropout = nn.Dropout(dropout)
        self.encoder = causal_blocks(config["encoder"], config["n_layers"], size, n_heads, inner_size, self.max_seq_length, dropout)
        self.decoder = nn.ModuleList(LevelBlock(size, n_heads, inner_size, dropout) for _ in range(config["n_decoder_layers"]))
        self.encoder_norm, self.decoder_norm = nn.LayerNorm(size), nn.LayerNorm(size)
        self.head_bias = nn.ParameterList(torch.zeros(n_codes) for n_codes in self.codebook_sizes)
        self.tied_heads = config["tied_heads"]
        if not self.tied_heads:
            self.head_embedding = nn.Embedding(self.n_tokens, size)
        self.apply(self._initialise)

    @staticmethod
    def _initialise(module: nn.Module) -> None:
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
        if isinstance(module, nn.Embedding) and module.padding_idx is not None:
            nn.init.zeros_(module.weight[module.padding_idx])

    # -- the history ---------------------------------------------------------------------------------------------------

    def embed(self, items: Tensor) -> Tensor:
        """Vectors of items ``[M]``, ``[M, d]``."""
        inputs = []
        if CODES in self.item_inputs:
            tokens = self.tokens[items]  # [M, L]
            if self.training and self.sid_dropout:
                tokens = tokens * (torch.rand(tokens.shape, device=tokens.device) >= self.sid_dropout)
            inputs.append(self.code_projection(self.code_embedding(tokens).flatten(1)))
        if modalities(self.item_inputs):
            inputs.append(self.text_projection(self.item_vectors[items]))
        if ID in self.item_inputs:
            if self.training and self.id_dropout:
                items = items * (torch.rand(items.shape, device=items.device) >= self.id_dropout)
            inputs.append(self.id_embedding(items))
        return sum(inputs)

    def encode(self, items: Tensor) -> tuple[Tensor, Packing]:
        """Vectors of every position of every history; padding costs nothing.

        Args:
            items: ``[B, T]`` item ids, padded with 0 on the right.

        Returns:
            ``[M, d]`` for the M real positions, and where each of them lies.
        """
        packing = pack(items > 0)
        x = self.dropout(self.embed(packing.take(items)) + self.position_embedding(packing.position()))  # [M, d]
        for block in self.encoder:
            x = block(x, packing)
        return self.encoder_norm(x), packing

    # -- the next item, in training ------------------------------------------------------------------------------------

    def calculate_loss(self, interaction: Interaction) -> Tensor:
        """Mean negative log-likelihood of the target items of all positions.

        Args:
            interaction: windows of a :class:`~recbole_r3vae.data.sequences.WindowDataset`.
        """
        length = int(interaction[self.ITEM_SEQ_LEN].max())
        user, packing = self.encode(interaction[self.ITEM_SEQ][:, :length])  # [M, d]
        target = packing.take(interaction[TARGET_LIST_FIELD][:, :length])  # [M]
        has_target = target > 0
        user, target = user[has_target], target[has_target]  # [N, d], [N]
        codes = self.codes[target]  # [N, L]

        given = self.code_embedding(self.tokens[target][:, :-1])  # [N, L-1, d]: position l is given c_1 … c_l
        x = torch.cat([user[:, None], given], dim=1) + self.level_embedding.weight  # [N, L, d]
        for block in self.decoder:
            x = block(x)
        x = self.decoder_norm(x)
        return sum(
            F.cross_entropy(self._logits(x[:, level], level), codes[:, level], label_smoothing=self.label_smoothing)
            for level in range(self.n_levels)
        )

    def _logits(self, x: Tensor, level: int) -> Tensor:
        """Decoder output [..., d] to the logits of a level's codes [..., K]."""
        table = self.code_embedding if self.tied_heads else self.head_embedding
        return F.linear(x, table.weight[self.first_token[level] :][: self.codebook_sizes[level]], self.head_bias[level])

    # -- the next item, code by code ------------------------------------------------------------------------------------

    def read(self, interaction: Interaction) -> Tensor:
        """Histories as vectors ``[B, d]``."""
        encoded, packing = self.encode(interaction[self.ITEM_SEQ])
        return packing.last(encoded)

    def start(self, reading: Tensor) -> DecodingState:
        """Begin to decode; see :meth:`SIDGenerator.start`."""
        return DecodingState(user=reading, caches=[LevelCache() for _ in self.decoder])

    def step(self, state: DecodingState, tokens: Tensor | None, parents: Tensor | None) -> Tensor:
        """Log-probabilities of the next level's codes; see :meth:`SIDGenerator.step`."""
        level, state.level = state.level, state.level + 1
        if level == 0:
            x = state.user[:, None]  # [B, 1, d]
        else:
            x = self.code_embedding(tokens + self.first_token[level - 1])  # [B, W, d]
            for cache in state.caches:
                cache.reorder(parents)
        x = x + self.level_embedding.weight[level]
        for block, cache in zip(self.decoder, state.caches):
            x = block(x, cache)
        return self._logits(self.decoder_norm(x), level).float().log_softmax(-1)  # [B, W, K]

    # -- what it says of itself --------------------------------------------------------------------------------------------

    @classmethod
    def check(cls, config: Config) -> None:
        """Refuse settings that it cannot be made with.

        Raises:
            UserError: a key has a value outside its range, ``n_heads`` does not divide ``hidden_size``, or ``item_inputs`` names a modality
                where item content has but one, its text.
        """
        super().check(config)
        size, n_heads = config["hidden_size"], config["n_heads"]
        if size % n_heads:
            raise UserError(f"n_heads is {n_heads} and hidden_size {size}; give a number of heads that divides the size")
        if isinstance(config["content_encoder"], (str, type(None))):
            for name in modalities(config["item_inputs"]):
                if name != TEXT:
                    raise UserError(
                        f"item_inputs names {shown(name)}{nearest(name, (CODES, TEXT, ID))}; give some of {CODES}, {TEXT}, {ID}, or name that "
                        "modality in content_encoder"
                    )

    @classmethod
    def needs(cls, config: Config) -> Needs:
        """Unique semantic IDs, and content of the modalities that ``item_inputs`` names."""
        return Needs(semantic_ids=UNIQUE, content=modalities(config["item_inputs"]) or None)

    @classmethod
    def result_name(cls, config: Config) -> str:
        """``R3GR``, or ``R3GR-hybrid`` where it reads item ids."""
        return f"{cls.__name__}-hybrid" if ID in config["item_inputs"] else cls.__name__

    @classmethod
    def loss_name(cls, config: Config) -> str:
        """That of every generator of semantic IDs."""
        return "NLL of semantic ID"

    @torch.no_grad()
    def grow(self, sources: Sources) -> None:
        """Know more items, see :meth:`.Contract.grow`: theirs are the codes and content of ``sources``, and no id embedding."""
        n_old, n_items = len(self.codes), sources.semantic_ids.n_items
        if modalities(self.item_inputs):
            new = copied(sources.content.embeddings[n_old:]).to(self.item_vectors.device)
            self.item_vectors = torch.cat([self.item_vectors, new])  # what it was trained with stays as it was
        if ID in self.item_inputs:
            weight = F.pad(self.id_embedding.weight, (0, 0, 0, n_items - n_old))  # [n_items, d]
            self.id_embedding = nn.Embedding.from_pretrained(weight, freeze=False, padding_idx=0)
        super().grow(sources)


def modalities(item_inputs: list[str]) -> tuple[str, ...]:
    """Those of ``item_inputs`` that are modalities of item content."""
    return tuple(name for name in item_inputs if name not in (CODES, ID))


def copied(vectors: Any) -> Tensor:
    """Vectors as a float32 tensor of its own: where they come from may be a read-only file."""
    return torch.from_numpy(np.array(vectors, dtype=np.float32))
