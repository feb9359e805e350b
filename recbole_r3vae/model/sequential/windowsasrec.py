"""WindowSASRec: SASRec trained on every position of a history at once, by cross-entropy over items.

Kang and McAuley, "Self-Attentive Sequential Recommendation", ICDM 2018, arXiv 1808.09781, train on all positions, by a binary loss;
RecBole's SASRec has a row for each target. The losses here are the softmax over the catalogue, which makes SASRec far stronger
(Klenitskiy and Vasilev, "Turning Dross Into Gold Loss", RecSys 2023, arXiv 2309.07602), and a sampled one, as in eSASRec (Tikhonovich et
al., RecSys 2025, arXiv 2508.06450), whose layers are not built here. The binary loss is there to compare with.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_r3vae.data.sequences import TARGET_LIST_FIELD
from recbole_r3vae.errors import UserError
from recbole_r3vae.model.blocks import ENCODERS, causal_blocks, initialise
from recbole_r3vae.model.dropout import Dropout
from recbole_r3vae.model.heads import DenseHead
from recbole_r3vae.model.losses import binary_cross_entropy, catalogue_cross_entropy, log_frequency, sampled_cross_entropy
from recbole_r3vae.model.packing import SPARE, Packing, pack
from recbole_r3vae.model.parameters import SHARE, Choice, Either, Number, Whole, check_heads
from recbole_r3vae.model.ranker import Ranker
from recbole_r3vae.model.repeat_prior import KEYS, Reading, prior_of

if TYPE_CHECKING:
    from recbole.config import Config
    from recbole.data.interaction import Interaction

CE, SAMPLED, BINARY = "CE", "SampledCE", "BCE"


class WindowSASRec(Ranker):
    """Item-id recommender: causal blocks over item embeddings, which are also what the output is compared with.

    A score is the dot product of the history's vector and the item's embedding or, with a ``temperature``, their cosine over it. The loss
    at each position is the cross-entropy of its target over all items, or over itself and ``n_negatives`` items that a batch shares. They
    are drawn by their frequency in training, smoothed by one and raised to ``negative_power``; the loss corrects for that, see
    :func:`~recbole_r3vae.model.losses.sampled_cross_entropy`. Or it is SASRec's own, binary, against one item a position that is drawn
    uniformly; a draw that stands in the window is left out.

    A batch is computed without padding, as R3GR's is, and the blocks are R3GR's: pre-norm Transformer blocks, or HSTU's without times.

    Args:
        config: ``encoder``, ``hidden_size``, ``n_layers``, ``n_heads``, ``inner_size``, ``dropout``, ``loss_type``, ``n_negatives``,
            ``negative_power``, ``temperature``; see ``properties/model/WindowSASRec.yaml``. :meth:`check` took it.
        dataset: training dataset.
    """

    hyperparameters = {
        "encoder": Choice(*ENCODERS),
        "hidden_size": Whole(),
        "n_layers": Whole(),
        "n_heads": Whole(),
        "inner_size": Whole(),
        "dropout": SHARE,
        "loss_type": Choice(CE, SAMPLED, BINARY),
        "n_negatives": Whole(),
        "negative_power": Number(at_least=0),
        "temperature": Either(None, Number(above=0)),
        **KEYS,
    }

    def __init__(self, config: Config, dataset: Any):
        super().__init__(config, dataset)
        size, n_heads, inner_size, dropout = (config[key] for key in ("hidden_size", "n_heads", "inner_size", "dropout"))
        self.loss_type, self.n_negatives, self.temperature = (config[key] for key in ("loss_type", "n_negatives", "temperature"))
        self.item_embedding = nn.Embedding(self.n_items, size, padding_idx=0)
        self.position_embedding = nn.Embedding(self.max_seq_length, size)
        self.dropout = Dropout(dropout)
        self.blocks = causal_blocks(config["encoder"], config["n_layers"], size, n_heads, inner_size, self.max_seq_length, dropout)
        self.norm = nn.LayerNorm(size)
        log_q = log_frequency(dataset.counter(self.ITEM_ID), self.n_items, config["negative_power"])
        self.register_buffer("log_q", log_q, persistent=False)  # [n_items - 1], of being drawn, items from 1 on
        self.heads["dense"] = DenseHead(self)
        self.prior = prior_of(config, self.max_seq_length)
        self.apply(initialise)

    def encode(self, interaction: Interaction) -> tuple[Tensor, Packing]:
        """Histories as vectors, one for each position; padding costs nothing.

        Args:
            interaction: B rows with ``item_id_list``, padded with 0 on the right.

        Returns:
            ``[M, d]`` for M positions, and where each of them lies; in training a few of them are of padding.
        """
        items = interaction[self.ITEM_SEQ]  # [B, T]
        packing = pack(items > 0, SPARE if self.training else 0)
        x = self.dropout(self.item_inputs(packing.take(items)) + self.position_embedding(packing.position()))  # [M, d]
        for block in self.blocks:
            x = block(x, packing)
        return self._compared(self.norm(x)), packing

    def item_inputs(self, items: Tensor) -> Tensor:
        """What the blocks read of items [M], [M, d]."""
        return self.item_embedding(items)

    def _compared(self, x: Tensor) -> Tensor:
        """Vectors of histories or items [..., d] as their products make scores, but for the temperature."""
        return x if self.temperature is None else F.normalize(x, dim=-1)

    def calculate_loss(self, interaction: Interaction) -> Tensor:
        """Mean loss over the targets of all positions.

        Args:
            interaction: windows of a :class:`~recbole_r3vae.data.sequences.WindowDataset`.
        """
        x, packing = self.encode(interaction)  # [M, d]
        target = packing.take(interaction[TARGET_LIST_FIELD])  # [M]
        has_target, items = target > 0, self._compared(self.item_embedding.weight[1:])  # [M], [n_items - 1, d]
        x, target = x[has_target], target[has_target] - 1  # [N, d], [N]
        if self.prior is not None:
            extra = self.prior.extra(interaction[self.ITEM_SEQ], packing.place[has_target])
            return catalogue_cross_entropy(x, items, target, self.temperature, extra=extra) + self.prior.regularization()
        if self.loss_type == CE:
            return catalogue_cross_entropy(x, items, target, self.temperature)
        if self.loss_type == BINARY:
            drawn = torch.randint(len(items), target.shape, device=target.device)  # [N]
            row = packing.place[has_target] // packing.padded_shape[1]
            window = torch.cat([interaction[self.ITEM_SEQ], interaction[TARGET_LIST_FIELD]], 1)[row]  # [N, 2T]
            is_new = (window != drawn[:, None] + 1).all(1)
            return binary_cross_entropy(x, items, target, drawn, is_new, self.temperature)
        negatives = self.sample_negatives()
        return sampled_cross_entropy(x, items, target, negatives, self.log_q[negatives], self.temperature)

    def sample_negatives(self) -> Tensor:
        """Rows of the items from 1 on, drawn by their smoothed frequency with replacement: ``[n_negatives]``."""
        return torch.multinomial(self.log_q.exp(), self.n_negatives, replacement=True)

    # -- ranking -----------------------------------------------------------------------------------------------------------

    def read(self, interaction: Interaction) -> Reading:
        """Histories at their last positions."""
        x, packing = self.encode(interaction)
        return Reading(packing.last(x), interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN])

    def user_vectors(self, reading: Reading) -> Tensor:
        """``[B, d]``, over the temperature."""
        return reading.user / (self.temperature or 1)

    def item_vectors(self) -> Tensor:
        """``[n_items, d]``."""
        return self._compared(self.item_embedding.weight)

    @classmethod
    def check(cls, config: Config) -> None:
        """Refuse settings that it cannot be made with.

        Raises:
            UserError: a key has a value outside its range, ``n_heads`` does not divide ``hidden_size``, or the prior is to be learnt from
                a sample of the catalogue.
        """
        super().check(config)
        if config["repeat_prior"] and config["loss_type"] != CE:
            raise UserError(
                f"repeat_prior is learnt from a loss over all items, and loss_type is {config['loss_type']}; take loss_type: {CE}"
            )
        check_heads(config)

    @classmethod
    def loss_name(cls, config: Config) -> str:
        """The loss, and how many negatives it has."""
        sampled = f"sampled CE, {config['n_negatives']} negatives"
        return {CE: CE, SAMPLED: sampled, BINARY: "BCE, 1 negative"}[config["loss_type"]]
