"""TIGER: an encoder-decoder over the codes of the history that writes the next item's semantic ID.

Rajput et al., "Recommender Systems with Generative Retrieval", NeurIPS 2023, arXiv 2305.05065. The network is T5 in its original
form, with tied embeddings; its layers are in :mod:`~recbole_r3vae.model.generator.t5`. The loss temperature is the ranking-guided loss of
LETTER (Wang et al., CIKM 2024, arXiv 2405.07314).
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_r3vae.data.sequences import PrefixDataset
from recbole_r3vae.model.dropout import Dropout
from recbole_r3vae.model.generator.levels import LevelCache
from recbole_r3vae.model.generator.t5 import DecoderLayer, EncoderLayer, History, RelativePositionBias, RMSNorm, check_distances, initialise_t5
from recbole_r3vae.model.packing import Packing, pack
from recbole_r3vae.model.parameters import SHARE, Number, Whole
from recbole_r3vae.model.ranker import SIDGenerator
from recbole_r3vae.model.repeat_prior import KEYS, OFF, prior_loss, prior_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from recbole.config import Config
    from recbole.data.interaction import Interaction

HEAD_ROWS = 512  # beams whose logits over the whole vocabulary exist at a time; all of them at once would leave every cache


def user_tokens(names: Sequence[str], n_buckets: int, first: int) -> Tensor:
    """A token for each user, by a hash of his id.

    Args:
        names: ``[n_users]`` external ids, RecBole's padding user first.
        n_buckets: how many tokens there are; 0 for none.
        first: the first of them.

    Returns:
        int64 ``[n_users]``; 0, which is none, for the padding user and where there are no tokens.
    """
    tokens = [first + zlib.crc32(str(name).encode()) % n_buckets if n_buckets else 0 for name in names]
    return torch.tensor([0, *tokens[1:]])


@dataclass
class Reading:
    """Histories, read: vectors of their positions, where these lie, and the items."""

    encoded: Tensor  # [M, d]
    packing: Packing
    items: Tensor  # [B, T]
    lengths: Tensor  # [B]


@dataclass
class DecodingState:
    """What each layer of the decoder reads: the histories, and what it has computed for each beam."""

    histories: list[History]
    caches: list[LevelCache]
    level: int = 0
    more: tuple = ()  # what layers of a subclass read beside


class TIGER(SIDGenerator):
    """Generator of semantic IDs over code-level histories.

    The encoder reads a user token (users share ``n_user_buckets`` tokens by a hash of their id; an unknown user has none) and the L codes
    of each item of the history. The decoder writes the L codes of the next item. The loss is the negative log-likelihood of the item, the
    sum over levels of the cross-entropy. Each code's probability is normalised over the whole vocabulary (start token, all levels' codes,
    user tokens), as published: the probabilities of a level's codes sum to less than one. As in T5, output and input embeddings are one
    table and the logits are scaled by ``d ** -0.5``.

    A batch is computed without padding, bucketed by length inside the model: linear layers see the real positions alone and attention
    runs once for each length that occurs, at most ``MAX_ITEM_LIST_LENGTH`` times.

    With ``repeat_prior``, items of the history have learnt log-odds more or less, see
    :class:`~recbole_r3vae.model.repeat_prior.RepeatPrior`; not of the paper.

    Args:
        config: ``hidden_size``, ``n_layers``, ``n_decoder_layers``, ``n_heads``, ``head_size``, ``inner_size``, ``dropout``,
            ``n_position_buckets``, ``max_position_distance``, ``n_user_buckets``, ``loss_temperature``, ``repeat_prior``,
            ``repeat_penalty``, ``num_beams``; see ``properties/model/TIGER.yaml``. :meth:`check` took it.
        dataset: training dataset with ``sources``: semantic IDs.
    """

    dataset_class = PrefixDataset
    hyperparameters = {
        "hidden_size": Whole(),
        "n_layers": Whole(),
        "n_decoder_layers": Whole(),
        "n_heads": Whole(),
        "head_size": Whole(),
        "inner_size": Whole(),
        "dropout": SHARE,
        "n_position_buckets": Whole(4),  # two directions, each with distances of their own and growing ones
        "max_position_distance": Whole(2),
        "n_user_buckets": Whole(0),
        "loss_temperature": Number(above=0),
        **KEYS,
    }
    neutral = OFF

    def __init__(self, config: Config, dataset: Any):
        super().__init__(config, dataset)
        size, n_heads, head_size, dropout = (config[key] for key in ("hidden_size", "n_heads", "head_size", "dropout"))
        self.n_heads, self.temperature = n_heads, config["loss_temperature"]
        self.first_token = [1 + sum(self.codebook_sizes[:level]) for level in range(self.n_levels)]  # of each level's code 0
        users = user_tokens(dataset.field2id_token[self.USER_ID], config["n_user_buckets"], self.n_tokens)
        self.register_buffer("user_tokens", users, persistent=False)  # [n_users]
        self.embedding = nn.Embedding(self.n_tokens + config["n_user_buckets"], size)  # token 0 starts the decoder
        self.dropout = Dropout(dropout)
        layer = (size, n_heads, head_size, config["inner_size"], dropout)
        self.encoder = nn.ModuleList(EncoderLayer(*layer) for _ in range(config["n_layers"]))
        self.decoder = nn.ModuleList(self.decoder_layer(config, *layer) for _ in range(config["n_decoder_layers"]))
        bias = (n_heads, config["n_position_buckets"], config["max_position_distance"])
        self.encoder_bias, self.decoder_bias = RelativePositionBias(*bias, causal=False), RelativePositionBias(*bias, causal=True)
        self.encoder_norm, self.decoder_norm = RMSNorm(size), RMSNorm(size)
        self.prior = prior_of(config, self.max_seq_length)
        initialise_t5(self, size, head_size)

    def decoder_layer(self, config: Config, *sizes: Any) -> DecoderLayer:
        """One layer of the decoder, of ``sizes``; a subclass may have its own."""
        return DecoderLayer(*sizes)

    # -- the history ---------------------------------------------------------------------------------------------------

    def encode(self, interaction: Interaction) -> tuple[Tensor, Packing]:
        """Vectors of every position of every history.

        Args:
            interaction: B rows with ``item_id_list``, ``item_length`` and, for user tokens, ``user_id``.

        Returns:
            ``[M, d]`` for the M real positions, and where each of them lies.
        """
        _, tokens, packing = self.lay_out(interaction)
        return self.encoded(self.dropout(self.embedding(packing.take(tokens))), packing), packing

    def lay_out(self, interaction: Interaction) -> tuple[Tensor, Tensor, Packing]:
        """Histories of items ``[B, T]`` as tokens ``[B, S]``, 0 where there is nothing, and where these lie without their padding."""
        items = interaction[self.ITEM_SEQ][:, : int(interaction[self.ITEM_SEQ_LEN].max())]
        tokens = self.tokens[items].flatten(1)
        if self.USER_ID in interaction:
            tokens = torch.cat([self.user_tokens[interaction[self.USER_ID]][:, None], tokens], dim=1)
        return items, tokens, pack(tokens > 0)

    def encoded(self, x: Tensor, packing: Packing) -> Tensor:
        """What the encoder makes of its inputs ``[M, d]``: the same shape."""
        bias = self.encoder_bias(packing.longest)
        for layer in self.encoder:
            x = layer(x, packing, bias)
        return self.dropout(self.encoder_norm(x))

    # -- the next item, in training ------------------------------------------------------------------------------------

    def forward(self, interaction: Interaction) -> tuple[Tensor, Tensor]:
        """Teacher-forced logits.

        Args:
            interaction: B rows with histories and targets ``item_id``.

        Returns:
            ``[B, L, V]`` logits of the next token over the whole vocabulary, and ``[B, L]`` the target's tokens.
        """
        encoded, packing = self.encode(interaction)
        x, target = self._teacher_forced(encoded, packing, interaction[self.ITEM_ID], *self.evidence(interaction, packing))
        return self._logits(packing.unsort(x)), packing.unsort(target)

    def evidence(self, interaction: Interaction, packing: Packing) -> tuple:
        """What the decoder's layers are given beside encoded histories, rows in the order of the packing: nothing, but in a subclass."""
        return ()

    def _teacher_forced(self, encoded: Tensor, packing: Packing, items: Tensor, *evidence: Any) -> tuple[Tensor, Tensor]:
        """The decoder's output ``[B, L, d]`` and the tokens ``[B, L]`` of the targets ``items`` [B], rows in the order of the packing."""
        target = self.tokens[items[packing.order]]  # [B, L]
        x = self.dropout(self.embedding(F.pad(target[:, :-1], (1, 0))))  # [B, L, d]: position l is given c_1 … c_l
        bias, history = self.decoder_bias(self.n_levels), packing.split(encoded)  # [1, H, L, L], of [n, t, d]
        for layer in self.decoder:
            x = layer(x, bias, history, *evidence)
        return x, target

    def _logits(self, x: Tensor) -> Tensor:
        """Decoder output [..., d] to float32 logits over the vocabulary [..., V]."""
        x = self.dropout(self.decoder_norm(x)) * x.shape[-1] ** -0.5
        return F.linear(x, self.embedding.weight).float()

    def calculate_loss(self, interaction: Interaction) -> Tensor:
        """Mean negative log-likelihood of the target items; with a temperature below 1, wrong codes of high probability weigh more.

        Args:
            interaction: rows of a :class:`~recbole_r3vae.data.sequences.PrefixDataset`.
        """
        encoded, packing = self.encode(interaction)
        loss = self.code_loss(encoded, packing, interaction[self.ITEM_ID], *self.evidence(interaction, packing))
        return loss + prior_loss(self, interaction)

    def code_loss(self, encoded: Tensor, packing: Packing, items: Tensor, *evidence: Any) -> Tensor:
        """The same of encoded histories and their targets ``items`` [B]."""
        x, target = self._teacher_forced(encoded, packing, items, *evidence)
        logits = self._logits(x).flatten(0, 1) / self.temperature  # [B * L, V]
        return F.cross_entropy(logits, target.flatten(), reduction="sum") / len(target)

    # -- the next item, code by code ------------------------------------------------------------------------------------

    def read(self, interaction: Interaction) -> Reading:
        """Histories as vectors of their positions, see :meth:`encode`."""
        return Reading(*self.encode(interaction), interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN])

    def start(self, reading: Reading) -> DecodingState:
        """Project the histories to keys and values, once a user; see :meth:`SIDGenerator.start`."""
        encoded, packing = reading.encoded, reading.packing
        real = packing.pad(encoded.new_ones(len(encoded), 1))[:, None, None, :, 0] > 0  # [B, 1, 1, T]
        mask = None if real.all() else encoded.new_zeros(real.shape).masked_fill(~real, -torch.inf)
        projected = (layer.attention.heads(packing.pad(layer.cross_kv(encoded)), 2) for layer in self.decoder)  # [B, T, 2, H, A/H] each
        histories = [History(*kv.unbind(2), mask) for kv in projected]
        return DecodingState(histories, caches=[LevelCache() for _ in self.decoder])

    def step(self, state: DecodingState, tokens: Tensor | None, parents: Tensor | None) -> Tensor:
        """Log-probabilities of the next level's codes; see :meth:`SIDGenerator.step`."""
        level, state.level = state.level, state.level + 1
        if level == 0:
            x = self.embedding.weight[0].expand(len(state.histories[0].key), 1, -1)  # [B, 1, d]
        else:
            x = self.embedding(tokens + self.first_token[level - 1])  # [B, W, d]
            for cache in state.caches:
                cache.reorder(parents)
        bias = self.decoder_bias(level + 1)[0, :, level]  # [H, levels so far]
        for layer, cache, history in zip(self.decoder, state.caches, state.histories):
            x = layer.step(x, bias, cache, history, *state.more)
        codes = slice(self.first_token[level], self.first_token[level] + self.codebook_sizes[level])
        log_probs = [self._logits(rows).log_softmax(-1)[:, codes] for rows in x.flatten(0, 1).split(HEAD_ROWS)]
        return torch.cat(log_probs).view(*x.shape[:2], -1)  # [B, W, K]

    # -- what it says of itself --------------------------------------------------------------------------------------------

    @classmethod
    def check(cls, config: Config) -> None:
        """Refuse settings that it cannot be made with.

        Raises:
            UserError: a key has a value outside its range, or no distances are left for the buckets that grow.
        """
        super().check(config)
        check_distances(config)
