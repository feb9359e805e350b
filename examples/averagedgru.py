"""AveragedGRU: an item-id model that ranks by the moving average of its weights and drops more the longer it trains.

The reader is GRU4Rec's (Hidasi et al., "Session-based Recommendations with Recurrent Neural Networks", ICLR 2016, arXiv 1511.06939), with
a softmax over all items at all positions. Two things change between batches and epochs, each in a hook of its own:

* ``after_step``: the weights that rank are an exponential moving average of those that learn (Polyak and Juditsky 1992; the teacher of
  Tarvainen and Valpola, "Mean teachers are better role models", NeurIPS 2017, arXiv 1703.01780);
* ``begin_epoch``: dropout grows from 0 to its final rate, ``dropout * (1 - exp(-dropout_growth * epoch))`` (Morerio et al., "Curriculum
  Dropout", ICCV 2017, arXiv 1703.06229).
"""

from __future__ import annotations

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_r3vae.data.sequences import TARGET_LIST_FIELD
from recbole_r3vae.model.heads import DenseHead
from recbole_r3vae.model.parameters import SHARE, Number, Whole
from recbole_r3vae.model.ranker import Ranker


class Reader(nn.Module):
    """Histories as vectors, and the items' vectors.

    Args:
        n_items: the padding item included.
        size: width d.
    """

    def __init__(self, n_items: int, size: int):
        super().__init__()
        self.item_embedding = nn.Embedding(n_items, size, padding_idx=0)
        self.gru = nn.GRU(size, size, batch_first=True)
        self.dropout = nn.Dropout(0.0)

    def forward(self, items: Tensor) -> Tensor:
        """Histories ``[B, T]``, padded with 0 on the right, to ``[B, T, d]``."""
        return self.dropout(self.gru(self.dropout(self.item_embedding(items)))[0])


class AveragedGRU(Ranker):
    """A GRU over item ids whose averaged weights rank.

    Args:
        config: keys of ``AveragedGRU.yaml``.
        dataset: training dataset.

    Attributes:
        reader: what learns.
        average: what ranks.
        n_steps: steps of the optimizer so far, int64 ``[]``; in the checkpoint, as ``average`` is, so that a resumed run goes on exactly.
    """

    hyperparameters = {
        "hidden_size": Whole(), "dropout": SHARE, "dropout_growth": Number(above=0), "average_decay": Number(at_least=0, below=1),
    }  # fmt: skip

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.dropout, self.dropout_growth = config["dropout"], config["dropout_growth"]
        self.average_decay = config["average_decay"]
        self.reader = Reader(self.n_items, config["hidden_size"])
        self.average = copy.deepcopy(self.reader).requires_grad_(False)
        self.register_buffer("n_steps", torch.zeros((), dtype=torch.int64))
        self.heads["items"] = DenseHead(self)

    @classmethod
    def loss_name(cls, config) -> str:
        return "CE"

    def begin_epoch(self, epoch: int) -> None:
        self.reader.dropout.p = self.dropout * (1 - math.exp(-self.dropout_growth * epoch))

    @torch.no_grad()
    def after_step(self, batch) -> None:
        self.n_steps += 1
        n = int(self.n_steps)
        decay = min(self.average_decay, (1 + n) / (10 + n))  # the first weights, which are random, are soon forgotten
        for mean, value in zip(self.average.parameters(), self.reader.parameters()):
            mean.lerp_(value, 1 - decay)

    def calculate_loss(self, interaction) -> Tensor:
        """Mean cross-entropy over all items, of the targets of all positions of a batch of windows."""
        target = interaction[TARGET_LIST_FIELD]  # [B, T], 0 where a position has none
        x = self.reader(interaction[self.ITEM_SEQ])[target > 0]  # [N, d]
        return F.cross_entropy(x @ self.reader.item_embedding.weight[1:].T, target[target > 0] - 1)

    def read(self, interaction) -> Tensor:
        """Histories as vectors ``[B, d]``."""
        return self.gather_indexes(self.average(interaction[self.ITEM_SEQ]), interaction[self.ITEM_SEQ_LEN] - 1)

    def user_vectors(self, reading: Tensor) -> Tensor:
        """What :class:`DenseHead` asks for: ``[B, d]``."""
        return reading

    def item_vectors(self) -> Tensor:
        """Likewise: ``[n_items, d]``."""
        return self.average.item_embedding.weight
