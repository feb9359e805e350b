"""What a model says of itself, so that no other floor has to ask what class it is.

A model of this package, or of a user's own, derives from :class:`Contract` (through :class:`~recbole_r3vae.model.ranker.Ranker`,
:class:`~recbole_r3vae.model.tokenizer.base.SemanticTokenizer` …). RecBole's classes cannot be changed:
:func:`recbole_r3vae.model.recbole_models.contract_of` answers for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from recbole_r3vae.errors import UserError
from recbole_r3vae.model.parameters import Parameter, check_parameters

if TYPE_CHECKING:
    from recbole.config import Config
    from recbole.data.interaction import Interaction

    from recbole_r3vae.data.content import ItemContent
    from recbole_r3vae.sid.table import SemanticIDs

TOKENIZE, RANK, CLICK = "tokenize", "rank", "click"
"""What a model is for: it makes semantic IDs, ranks items, or predicts labels of interactions."""

UNIQUE, SHARED = "unique", "shared"
"""Semantic IDs after the run's ``collision_policy``; or as the tokenizer gave them, so that items may share one."""


@dataclass(frozen=True)
class Needs:
    """What a model asks for beside interactions.

    Attributes:
        semantic_ids: :data:`UNIQUE`, :data:`SHARED`, or ``None`` for none.
        content: names of the modalities of item content that it reads; ``()`` for all there are; ``None`` for no content.
        interactions: whether it learns from the training split though it is a tokenizer, such as LETTER.
    """

    semantic_ids: str | None = None
    content: tuple[str, ...] | None = None
    interactions: bool = False


@dataclass(frozen=True)
class Sources:
    """What was asked for, in the dataset's item order.

    Attributes:
        semantic_ids: ``None`` where none were.
        content: likewise; the modalities that were asked for and no others.
    """

    semantic_ids: SemanticIDs | None = None
    content: ItemContent | None = None


class Contract:
    """What every model declares. Each entry has a default that fits most models.

    Attributes:
        task: :data:`TOKENIZE`, :data:`RANK` or :data:`CLICK`.
        hyperparameters: the keys of its YAML and what they may be, see :mod:`~recbole_r3vae.model.parameters`; those of the classes
            that it derives from count too. (``parameters`` is torch's word for a module's weights.)
        dataset_class: RecBole ``Dataset`` that makes its training rows; ``None`` for RecBole's own of the model's type.
        trainer_class: RecBole ``Trainer`` for it; ``None`` for that of its task.
    """

    task: ClassVar[str] = RANK
    hyperparameters: ClassVar[Mapping[str, Parameter]] = {}
    dataset_class: ClassVar[type | None] = None
    trainer_class: ClassVar[type | None] = None

    @classmethod
    def needs(cls, config: Config) -> Needs:
        """What it asks for under this configuration."""
        return Needs()

    @classmethod
    def check(cls, config: Config) -> None:
        """Refuse settings that it cannot be made or measured with. Called once, before any data is read.

        A subclass extends it for what no single key can tell, and calls it first.

        Raises:
            UserError: a key has a value outside its range.
        """
        tables = (vars(ancestor).get("hyperparameters", {}) for ancestor in reversed(cls.__mro__))
        table = {key: parameter for own in tables for key, parameter in own.items()}
        check_parameters(table, config)

    @classmethod
    def result_name(cls, config: Config) -> str:
        """What its results are called, without the name of a tokenizer: ``R3GR``, or ``R3GR-hybrid`` where it reads item ids."""
        return cls.__name__

    @classmethod
    def loss_name(cls, config: Config) -> str:
        """What it is trained with, for tables that compare models."""
        return str(config["loss_type"] or cls.__name__)

    # -- optional hooks of training, for trainers of this package ----------------------------------------------------------

    def begin_epoch(self, epoch: int) -> None:
        """Called before the first batch of an epoch, which is numbered from 0; the same after a resumption."""

    def after_step(self, batch: Interaction) -> None:
        """Called after the optimizer's step on a batch: what moves without a gradient moves here. Evaluating a loss changes nothing."""

    # -- after training ----------------------------------------------------------------------------------------------------

    def grow(self, sources: Sources) -> None:
        """Know more items than in training: those of ``sources`` begin with the old ones, in their order, and new ones follow.

        Raises:
            UserError: it cannot; the message says why.
        """
        raise UserError(f"{type(self).__name__} knows the items of its training and no others; add items to a generator, such as R3GR")


def training_hooks(model: Any) -> tuple[Any, Any]:
    """``begin_epoch`` and ``after_step`` of any model; RecBole's have none, and get what does nothing."""

    def nothing(_: Any) -> None:
        pass

    return getattr(model, "begin_epoch", nothing), getattr(model, "after_step", nothing)
