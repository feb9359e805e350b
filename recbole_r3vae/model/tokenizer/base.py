"""What every semantic tokenizer offers: item embeddings in, code tuples out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from recbole.config import Config
from recbole.data.interaction import Interaction
from recbole.model.abstract_recommender import AbstractRecommender
from recbole.utils import InputType, ModelType
from torch import Tensor, nn

from recbole_r3vae.data.items import ItemVectors
from recbole_r3vae.errors import UserError
from recbole_r3vae.model.contract import TOKENIZE, Contract, Needs
from recbole_r3vae.model.parameters import Either, ListOf, Number, Parameter, Whole

TOKENIZE_ROWS = 4096
"""Items quantised at once by :meth:`SemanticTokenizer.tokenize`; bounds memory at ``[rows, K]``."""


@dataclass
class Quantized:
    """What a tokenizer makes of ``B`` embeddings.

    Attributes:
        codes: ``[B, L]``, int64.
        quantized: The sum of all levels ``[B, d']``, without the reference part.
        reference: The part of the embedding along the reference vector ``[B, d']``; ``None`` without one.
        residuals: What entered each level, ``L`` tensors ``[B, d']``; the first is the tokenizer's own space.
        reconstruction: The embedding as the decoder gives it back ``[B, d]``.
    """

    codes: Tensor
    quantized: Tensor
    reference: Tensor | None
    residuals: list[Tensor]
    reconstruction: Tensor


class SemanticTokenizer(Contract, AbstractRecommender):
    """A RecBole model over items: batches of item embeddings train it, code tuples come out.

    A subclass writes :meth:`quantize`, and :meth:`calculate_loss` if it trains. It may write :meth:`initialise` if it starts from the
    data, :meth:`level_distances` if some codes are nearer than others, and :meth:`~.Contract.after_step` if anything moves without a
    gradient: a loss draws and moves nothing that a checkpoint holds. Its constructor asks ``items`` for nothing but ``dim``, so that a
    checkpoint loads without the embeddings.

    Args:
        config: The run's configuration, which :meth:`check` took: ``codebook_sizes``, ``device``, ``seed`` and the subclass's own keys.
        items: Embeddings of the catalogue.

    Attributes:
        fitted: Whether :meth:`initialise` is all of its training and no epochs follow.
        ordered: Whether a code is to be read after those before it: a residual's, or a turn in a tree. False where no code says more
            than another, as of parallel codes; then a prefix is no cluster.
        tunable: Whether a generator can go on training it (MMQ's second stage): it has ``soft_codes(x, temperature)``, codes as one-hot
            rows with a gradient, and ``losses(x)``, of which ``reconstruction`` and ``auxiliary`` are kept.
        prefix_grouped_batches: Whether training batches are to hold items of equal first codes together.
        codebook_sizes: Codes of each level, ``(K_1, …, K_L)``.
        dim: Dimension ``d`` of item embeddings.
        last_regularizer_counts: For the log, how many pairs or clusters each regulariser of the last training batch rested on: name to
            ``[L]``, int64. Empty without regularisers.
    """

    type = ModelType.GENERAL
    input_type = InputType.POINTWISE
    task: ClassVar[str] = TOKENIZE
    ranks_items: ClassVar[bool] = False
    selected_by: ClassVar[Mapping[str, bool]] = {
        "reconstruction": False, "unique_ratio": True, "usage": True, "sc": True, "pd": False,
    }  # fmt: skip
    hyperparameters: ClassVar[Mapping[str, Parameter]] = {
        "codebook_sizes": ListOf(Whole(2)),
        "epochs": Whole(0),
        "train_batch_size": Whole(),
        "train_items": Either(None, Whole(2)),
        "learning_rate": Number(at_least=0),
        "weight_decay": Number(at_least=0),
        "eval_step": Whole(0),
        "stopping_step": Whole(0),
    }
    fitted: ClassVar[bool] = False
    ordered: ClassVar[bool] = True
    tunable: ClassVar[bool] = False
    prefix_grouped_batches: bool = False

    @classmethod
    def needs(cls, config: Config) -> Needs:
        """Content of every modality. A subclass that asks for interactions too finds collaborative embeddings in its training batches."""
        return Needs(content=())

    @classmethod
    def check(cls, config: Config) -> None:
        """Refuse ranges, and a sample too small for the codebooks.

        Raises:
            UserError: the message names the key.
        """
        super().check(config)
        if config["train_items"] is not None and config["train_items"] < max(config["codebook_sizes"]):
            raise UserError(
                f"train_items is {config['train_items']}, and codebook_sizes {list(config['codebook_sizes'])} takes at least as many items as "
                f"codes of a level; give {max(config['codebook_sizes'])} or more"
            )

    def __init__(self, config: Config, items: ItemVectors):
        super().__init__()
        self.device = config["device"]
        self.seed = config["seed"]
        self.dim = items.dim
        self.codebook_sizes = tuple(config["codebook_sizes"])
        self.last_regularizer_counts: dict[str, Tensor] = {}

    def initialise(self, items: ItemVectors) -> None:
        """Prepare for training with what only the data can tell: called once, before a new run's first epoch.

        Args:
            items: Embeddings of the catalogue.

        Raises:
            UserError: a codebook has more codes than the catalogue has items.
        """
        n = items.n_items - 1  # without the padding row
        if n < 2:
            raise UserError("the catalogue has a single item, which needs no semantic ID; take one with more")
        if max(self.codebook_sizes) > n:
            raise UserError(
                f"codebook_sizes is {list(self.codebook_sizes)}, but the catalogue has only {n} items; "
                f"give each level at most {n} codes"
            )

    def calculate_loss(self, interaction: Interaction) -> Tensor | tuple[Tensor, ...]:
        """Training loss of a batch; leaves every weight and buffer as it is.

        Args:
            interaction: Field ``item_emb`` ``[B, d]``, float32.

        Returns:
            A scalar, or a tuple of scalars whose sum is the loss and which RecBole's trainer logs one by one.
        """
        raise NotImplementedError

    def quantize(self, x: Tensor) -> Quantized:
        """Quantise embeddings, with gradient.

        Args:
            x: ``[B, d]``.
        """
        raise NotImplementedError

    def own_space(self, x: Tensor) -> Tensor:
        """What enters the first level: the space in which the quality of codes is measured beside that of the embeddings.

        Args:
            x: ``[B, d]``.

        Returns:
            ``[B, d']``, the first of :attr:`Quantized.residuals`. A subclass that has it for less than a quantisation says so.
        """
        return self.quantize(x).residuals[0]

    def level_distances(self, x: Tensor, level: int) -> Tensor:
        """How far items are from every code of one level, given their own codes of the levels before.

        Args:
            x: Embeddings ``[B, d]``.
            level: From 0.

        Returns:
            ``[B, K_level]``, smaller is nearer; the smallest belongs to the item's own code. Unless a subclass
            says more, its own is at 0 and all others are at 1.
        """
        own = self.quantize(x).codes[:, level]  # [B]
        return 1 - nn.functional.one_hot(own, self.codebook_sizes[level]).to(x.dtype)

    def catalogue_codes(self) -> Tensor | None:
        """The codes of the catalogue's items where they depend on more than an item's own vector.

        Returns:
            ``[n, L]``, int64, after :meth:`initialise`; ``None`` if they are those of :meth:`quantize`.
        """
        return None

    @torch.no_grad()
    def tokenize(self, x: Tensor) -> Tensor:
        """The code tuple of every item, in chunks and without gradient.

        Args:
            x: Embeddings ``[N, d]`` on any device.

        Returns:
            ``[N, L]``, int64, on the device of ``x``. Of equally good codes the lowest is taken.
        """
        chunks = [self.quantize(rows.to(self.device)).codes.to(x.device) for rows in x.split(TOKENIZE_ROWS)]
        return torch.cat(chunks)


class _NoEpochs:
    """``epochs`` of a tokenizer that is fitted in one go."""

    def takes(self, value: Any) -> bool:
        return type(value) is int and value == 0

    def expected(self) -> str:
        return "0: a tokenizer that is fitted to the catalogue in one go has nothing to train in epochs"


class FittedTokenizer(SemanticTokenizer):
    """A tokenizer without trainable parameters: :meth:`initialise` fits it, and no epochs follow.

    A subclass writes :meth:`quantize`, and :meth:`initialise` if it fits anything. It keeps that in buffers or
    frozen parameters, so that checkpoints hold it.

    Args:
        config: As for :class:`SemanticTokenizer`, with ``epochs: 0``.
        items: Embeddings of the catalogue.
    """

    hyperparameters = {"epochs": _NoEpochs()}
    fitted = True
