"""ParallelDigits: all codes of the next item at once, and an item's score is the sum of its codes' log-probabilities.

The idea of RPG (Hou et al., "Generating Long Semantic IDs in Parallel for Recommendation", KDD 2025, arXiv 2506.05781): where codes have
no order, as OPQ's, nothing has to be written one after the other. A causal Transformer reads the history, one linear layer a digit
predicts that digit, and the digits count as independent given the history. RPG decodes along a graph of similar items; here every item is
scored, which is exact. Semantic IDs stay as the tokenizer gave them: there is no tree, so that no two items have to be told apart.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_r3vae.data.sequences import TARGET_LIST_FIELD
from recbole_r3vae.errors import UserError
from recbole_r3vae.model.contract import SHARED, Needs
from recbole_r3vae.model.heads import ParallelHead
from recbole_r3vae.model.parameters import SHARE, Whole
from recbole_r3vae.model.ranker import Ranker


class ParallelDigits(Ranker):
    """A causal Transformer over items, each the mean of its codes' embeddings, with one linear head a digit.

    Args:
        config: keys of ``ParallelDigits.yaml``.
        dataset: training dataset with semantic IDs.
    """

    family = "generative"
    hyperparameters = {"hidden_size": Whole(), "n_layers": Whole(), "n_heads": Whole(), "inner_size": Whole(), "dropout": SHARE}

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        size, dropout = config["hidden_size"], config["dropout"]
        self.code_embedding = nn.Embedding(self.n_tokens, size)
        self.position_embedding = nn.Embedding(self.max_seq_length, size)
        self.dropout = nn.Dropout(dropout)
        layer = nn.TransformerEncoderLayer(
            size, config["n_heads"], config["inner_size"], dropout, activation="gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, config["n_layers"], nn.LayerNorm(size), enable_nested_tensor=False)
        self.digit_heads = nn.ModuleList(nn.Linear(size, n_codes) for n_codes in self.codebook_sizes)
        for table in (self.code_embedding, self.position_embedding):  # as in GPT-2, which RPG builds on
            nn.init.normal_(table.weight, std=0.02)
        self.heads["digits"] = ParallelHead(self)

    @classmethod
    def needs(cls, config) -> Needs:
        return Needs(semantic_ids=SHARED)

    @classmethod
    def check(cls, config) -> None:
        super().check(config)
        size, n_heads = config["hidden_size"], config["n_heads"]
        if size % n_heads:
            raise UserError(f"hidden_size is {size} and n_heads {n_heads}; give a divisor of the first as the second")

    @classmethod
    def loss_name(cls, config) -> str:
        return "NLL of parallel codes"

    def encode(self, items: Tensor) -> Tensor:
        """Vectors of every position ``[B, T, d]`` of histories ``[B, T]``, padded with 0 on the right, where no position looks."""
        length = items.shape[1]
        x = self.code_embedding(self.tokens[items]).mean(2)  # [B, T, m, d] -> [B, T, d]
        x = self.dropout(x + self.position_embedding.weight[:length])
        future = torch.ones(length, length, dtype=torch.bool, device=items.device).triu(1)  # [T, T]
        return self.encoder(x, mask=future)

    def calculate_loss(self, interaction) -> Tensor:
        """Sum over the digits of the cross-entropy, over the targets of all positions of a batch of windows."""
        target = interaction[TARGET_LIST_FIELD]  # [B, T], 0 where a position has none
        x = self.encode(interaction[self.ITEM_SEQ])[target > 0]  # [N, d]
        codes = self.codes[target[target > 0]]  # [N, m]
        return sum(F.cross_entropy(head(x), code) for head, code in zip(self.digit_heads, codes.unbind(1)))

    def read(self, interaction) -> Tensor:
        """Histories as vectors ``[B, d]``."""
        return self.gather_indexes(self.encode(interaction[self.ITEM_SEQ]), interaction[self.ITEM_SEQ_LEN] - 1)

    def digit_log_probs(self, reading: Tensor) -> list[Tensor]:
        """What :class:`ParallelHead` asks for: m of ``[B, K]``."""
        return [head(reading).float().log_softmax(-1) for head in self.digit_heads]
