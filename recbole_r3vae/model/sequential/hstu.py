"""HSTU: causal attention without softmax over item ids, positions and times.

Zhai et al., "Actions Speak Louder than Words: Trillion-Parameter Sequential Transducers for Generative Recommendations", ICML 2024,
arXiv 2402.17152. Settings are those of an independent five-seed reproduction (RecBoard), which found it above every semantic-ID model.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_r3vae.data.sequences import TARGET_LIST_FIELD, TimedWindowDataset
from recbole_r3vae.errors import UserError
from recbole_r3vae.model.blocks import HSTUBlock
from recbole_r3vae.model.dropout import Dropout
from recbole_r3vae.model.heads import DenseHead
from recbole_r3vae.model.losses import catalogue_cross_entropy
from recbole_r3vae.model.packing import SPARE, Packing, pack
from recbole_r3vae.model.parameters import SHARE, Choice, Number, Whole
from recbole_r3vae.model.ranker import Ranker
from recbole_r3vae.model.repeat_prior import KEYS, Reading, prior_of

if TYPE_CHECKING:
    from recbole.config import Config
    from recbole.data.interaction import Interaction

INFO_NCE, CE = "InfoNCE", "CE"
ROWS = 32  # histories whose negatives are scored together: their vectors, 4 MB, stay in a CPU's cache, the 32 MB of a batch do not
BUCKET_GROWTH = 0.301  # each bucket of time distances is e^0.301 = 1.35 times as wide as the one before, as in the authors' code


class TimeBias(nn.Module):
    """A learnt term of each layer's attention logits for the time between query and key, the same for all heads.

    Args:
        n_buckets: learnt terms a layer.
        n_layers: layers it serves.
    """

    def __init__(self, n_buckets: int, n_layers: int):
        super().__init__()
        self.table = nn.Embedding(n_buckets, n_layers)

    def forward(self, times: list[Tensor]) -> Iterator[tuple[Tensor, ...]]:
        """Times ``[n, t]`` of histories of each length to, for one layer after the other, ``[n, t, t]`` of each length."""
        buckets = [self.bucket(block) for block in times]  # of [n, t, t]
        # Where few rows are read often, the gradient of nn.Embedding's look-up takes five times as long on a CPU.
        terms = self.table.weight.index_select(0, torch.cat([block.flatten() for block in buckets]))  # [pairs, n_layers]
        parts = terms.split([block.numel() for block in buckets])
        return zip(*(part.view(*block.shape, -1).unbind(-1) for part, block in zip(parts, buckets)))

    def bucket(self, times: Tensor) -> Tensor:
        """Which bucket the time between every two positions falls into.

        Args:
            times: ``[n, t]``, in the unit of the data, usually seconds.

        Returns:
            ``[n, t, t]``: the floor of the logarithm over 0.301, at most the last bucket; up to one unit is bucket 0.
        """
        apart = (times[:, :, None] - times[:, None]).abs().clamp(min=1)  # [n, t, t]
        return (apart.log() / BUCKET_GROWTH).long().clamp(max=self.table.num_embeddings - 1)


class HSTU(Ranker):
    """Item-id recommender that trains on all positions of a history at once.

    A score is the cosine between the history and the item, over a temperature. The loss at each position is InfoNCE, the cross-entropy of
    the target among itself and ``n_negatives`` items drawn uniformly with replacement, or the cross-entropy over all items. Each history
    has draws of its own, which its positions share (draws for each position would take as many times the memory); a draw that is a
    position's target is left out there.

    In each block the attention logit of two positions has a learnt bias for their distance and one for the time between them. The time
    of a position is that of its own interaction. The authors' code takes the next one's, which is the target's in training.

    A batch is computed without padding, as R3GR's is.

    Args:
        config: ``hidden_size``, ``n_layers``, ``n_heads``, ``attention_dim``, ``linear_dim``, ``n_time_buckets``,
            ``embedding_dropout_prob``, ``hidden_dropout_prob``, ``loss_type``, ``n_negatives``, ``temperature``; see
            ``properties/model/HSTU.yaml``. :meth:`check` took it.
        dataset: training dataset.
    """

    dataset_class = TimedWindowDataset
    hyperparameters = {
        "hidden_size": Whole(),
        "n_layers": Whole(),
        "n_heads": Whole(),
        "attention_dim": Whole(),
        "linear_dim": Whole(),
        "n_time_buckets": Whole(),
        "embedding_dropout_prob": SHARE,
        "hidden_dropout_prob": SHARE,
        "loss_type": Choice(INFO_NCE, CE),
        "n_negatives": Whole(),
        "temperature": Number(above=0),
        **KEYS,
    }

    def __init__(self, config: Config, dataset: Any):
        super().__init__(config, dataset)
        size, n_layers = config["hidden_size"], config["n_layers"]
        self.loss_type, self.n_negatives, self.temperature = (config[key] for key in ("loss_type", "n_negatives", "temperature"))
        self.TIME_SEQ = config["TIME_FIELD"] + config["LIST_SUFFIX"]
        self.item_embedding = nn.Embedding(self.n_items, size, padding_idx=0)
        self.position_embedding = nn.Embedding(self.max_seq_length, size)
        self.dropout = Dropout(config["embedding_dropout_prob"])
        self.time_bias = TimeBias(config["n_time_buckets"], n_layers)
        self.blocks = nn.ModuleList(
            HSTUBlock(
                size,
                config["n_heads"],
                self.max_seq_length,
                key_size=config["attention_dim"],
                value_size=config["linear_dim"],
                gate_dropout=config["hidden_dropout_prob"],
                shared_bias=True,
                linear_bias=False,
            )
            for _ in range(n_layers)
        )
        self.heads["dense"] = DenseHead(self)
        self.prior = prior_of(config, self.max_seq_length)
        self._initialise(size)

    @torch.no_grad()
    def _initialise(self, size: int) -> None:
        for module in self.modules():
            if isinstance(module, nn.Embedding):
                nn.init.trunc_normal_(module.weight, std=0.02, a=-0.04, b=0.04)
            elif isinstance(module, HSTUBlock):
                nn.init.trunc_normal_(module.distance_bias, std=0.02, a=-0.04, b=0.04)
        nn.init.trunc_normal_(self.position_embedding.weight, std=size**-0.5, a=-2 * size**-0.5, b=2 * size**-0.5)
        nn.init.zeros_(self.item_embedding.weight[0])

    def encode(self, interaction: Interaction) -> tuple[Tensor, Packing]:
        """Histories as vectors of unit length, one for each position; padding costs nothing.

        Args:
            interaction: B rows with ``item_id_list``, padded with 0 on the right, and ``<time field>_list``.

        Returns:
            ``[M, d]`` for M positions, and where each of them lies; in training a few of them are of padding.
        """
        items = interaction[self.ITEM_SEQ]  # [B, T]
        packing = pack(items > 0, SPARE if self.training else 0)
        biases = self.time_bias(packing.split(packing.take(interaction[self.TIME_SEQ])))
        x = self.item_embedding(packing.take(items))  # [M, d]
        x = self.dropout(x * x.shape[-1] ** 0.5 + self.position_embedding(packing.position()))
        for block, bias in zip(self.blocks, biases):
            x = block(x, packing, bias)
        return F.normalize(x, dim=-1), packing

    def calculate_loss(self, interaction: Interaction) -> Tensor:
        """Mean loss over the targets of all positions.

        Args:
            interaction: windows of a :class:`~recbole_r3vae.data.sequences.TimedWindowDataset`.
        """
        x, packing = self.encode(interaction)  # [M, d]
        target = packing.take(interaction[TARGET_LIST_FIELD])  # [M]
        has_target, items = target > 0, F.normalize(self.item_embedding.weight, dim=-1)  # [M], [n_items, d]
        if self.loss_type == CE:
            extra = None if self.prior is None else self.prior.extra(interaction[self.ITEM_SEQ], packing.place[has_target])
            loss = catalogue_cross_entropy(x[has_target], items[1:], target[has_target] - 1, self.temperature, extra=extra)
            return loss if self.prior is None else loss + self.prior.regularization()
        x = x / self.temperature
        others = self._log_sum_of_negatives(x, target, items, packing)
        logit = (x * F.embedding(target, items)).sum(-1)  # [M]
        return F.softplus(others - logit)[has_target].mean()

    def _log_sum_of_negatives(self, x: Tensor, target: Tensor, items: Tensor, packing: Packing) -> Tensor:
        """Logarithm of the sum of the exponentials of the drawn items' logits, ``[M]``; draws that are the target are left out."""
        length, found = packing.lengths()[:, None], []  # [B, 1]
        histories, targets = packing.pad(x)[packing.order], packing.pad(target[:, None])[packing.order, :, 0]  # [B, T, d], [B, T]
        for rows in zip(length.split(ROWS), histories.split(ROWS), targets.split(ROWS), self.sample_negatives(len(length)).split(ROWS)):
            real = torch.arange(int(rows[0][-1]), device=x.device) < rows[0]  # [n, t], t = the longest of these; they are in this order
            history, wanted, negatives = rows[1][:, : real.shape[1]], rows[2][:, : real.shape[1]], rows[3]  # [n, t, d], [n, t], [n, K]
            logits = (F.embedding(negatives, items) @ history.transpose(1, 2)).float()  # [n, K, t]; bfloat16 would round the sum's logarithm
            lowest = torch.finfo(logits.dtype).min  # -inf would make gradients nan where every draw is the target
            found.append(logits.masked_fill(negatives[:, :, None] == wanted[:, None], lowest).logsumexp(1)[real])
        return torch.cat(found)

    def sample_negatives(self, n_rows: int) -> Tensor:
        """Items drawn uniformly with replacement, ``[n_rows, n_negatives]``."""
        return torch.randint(1, self.n_items, (n_rows, self.n_negatives), device=self.item_embedding.weight.device)

    # -- ranking -----------------------------------------------------------------------------------------------------------

    def read(self, interaction: Interaction) -> Reading:
        """Histories at their last positions."""
        x, packing = self.encode(interaction)
        return Reading(packing.last(x), interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN])

    def user_vectors(self, reading: Reading) -> Tensor:
        """``[B, d]``, over the temperature."""
        return reading.user / self.temperature

    def item_vectors(self) -> Tensor:
        """``[n_items, d]``, of length 1."""
        return F.normalize(self.item_embedding.weight, dim=-1)

    @classmethod
    def check(cls, config: Config) -> None:
        """Refuse settings that it cannot be made with.

        Raises:
            UserError: a key has a value outside its range, or the prior is to be learnt from a sample of the catalogue.
        """
        super().check(config)
        if config["repeat_prior"] and config["loss_type"] != CE:
            raise UserError(
                f"repeat_prior is learnt from a loss over all items, and loss_type is {config['loss_type']}; take loss_type: {CE}"
            )

    @classmethod
    def loss_name(cls, config: Config) -> str:
        """The loss, and how many negatives it has."""
        return f"{INFO_NCE}, {config['n_negatives']} negatives" if config["loss_type"] == INFO_NCE else CE
