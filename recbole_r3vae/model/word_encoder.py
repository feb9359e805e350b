"""A trainable encoder of item texts: their words, told apart by a hash, through a small Transformer."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_r3vae.data.content.text import item_texts, text_fields
from recbole_r3vae.model.blocks import TransformerBlock
from recbole_r3vae.model.dropout import Dropout

NONE, START, FIRST_WORD = 0, 1, 2
"""Tokens: padding, the one whose output stands for the item, and the first of the words'."""

_WORD = re.compile(r"\w+")


def word_tokens(dataset: Any, fields: Sequence[str], n_words: int, n_buckets: int) -> tuple[Tensor, Tensor]:
    """The words of every item as tokens, field after field.

    Args:
        dataset: a RecBole dataset with item texts.
        fields: their fields, those that there are; each other one is passed over.
        n_words: the first so many of an item's words.
        n_buckets: words share so many tokens by a hash.

    Returns:
        int64 ``[n_items, 1 + n_words]`` tokens, the first :data:`START`, :data:`NONE` where there is no word; and of the same shape the
        place of each word's field in ``fields``.

    Raises:
        UserError: the dataset has no text.
    """
    present = text_fields(dataset, fields)
    texts = [item_texts(dataset, [field]) for field in present]
    tokens = torch.full((len(texts[0]), 1 + n_words), NONE)
    of_field = torch.zeros_like(tokens)
    tokens[:, 0] = START
    for item, of_item in enumerate(zip(*texts)):
        words = [(word, fields.index(field)) for field, text in zip(present, of_item) for word in _WORD.findall(text.lower())][:n_words]
        for place, (word, field) in enumerate(words, start=1):
            tokens[item, place] = FIRST_WORD + zlib.crc32(word.encode()) % n_buckets
            of_field[item, place] = field
    return tokens, of_field


class WordBlock(TransformerBlock):
    """Transformer block in which every word of an item attends to all of them."""

    def attend(self, qkv: Tensor, real: Tensor) -> Tensor:
        """Queries, keys and values [N, W, 3, H, d/H] of words, of which ``real`` [N, W] are some, to [N, W, d]."""
        heads = (part.transpose(1, 2) for part in qkv.unbind(2))  # each [N, H, W, d/H]
        return F.scaled_dot_product_attention(*heads, attn_mask=real[:, None, None]).transpose(1, 2).flatten(2)


class WordEncoder(nn.Module):
    """Vectors of items from their words: embeddings of word, place and field, Transformer blocks, and the output of the first token.

    Args:
        size: width d.
        n_layers: number of blocks.
        n_heads: attention heads, a divisor of d.
        inner_size: width of the feed-forward layers.
        dropout: probability on embeddings and residual branches.
        n_words: words an item, at most.
        n_buckets: tokens of words.
        n_fields: fields that words come from.
    """

    def __init__(self, size: int, n_layers: int, n_heads: int, inner_size: int, dropout: float, n_words: int, n_buckets: int, n_fields: int):
        super().__init__()
        self.word = nn.Embedding(FIRST_WORD + n_buckets, size, padding_idx=NONE)
        self.place, self.field = nn.Embedding(1 + n_words, size), nn.Embedding(n_fields, size)
        self.dropout = Dropout(dropout)
        self.blocks = nn.ModuleList(WordBlock(size, n_heads, inner_size, dropout) for _ in range(n_layers))
        self.norm = nn.LayerNorm(size)

    def forward(self, tokens: Tensor, fields: Tensor) -> Tensor:
        """Tokens and fields ``[N, W]``, as of :func:`word_tokens`, to ``[N, d]``."""
        real = tokens != NONE
        width = int(real.sum(1).max())  # words stand side by side
        tokens, fields, real = tokens[:, :width], fields[:, :width], real[:, :width]
        x = self.dropout(self.word(tokens) + self.place.weight[:width] + self.field(fields))  # [N, W, d]
        for block in self.blocks:
            x = block(x, real)
        return self.norm(x[:, 0])
