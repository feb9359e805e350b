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
from recbole_r3vae.model.parameters import Parameter, check_parameters, declared_by

if TYPE_CHECKING:
    from recbole.config import Config
    from recbole.data.interaction import Interaction

    from recbole_r3vae.data.content import ItemContent
    from recbole_r3vae.model.tokenizer.base import SemanticTokenizer
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
        interactions: whether a tokenizer learns from the training split: its batches hold collaborative embeddings, as LETTER's.
        popularity: whether its batches hold how often items occur in the training split, as PRISM's.
        categories: whether they hold the categories of items, level by level.
        tokenizer: whether it trains the tokenizer on: it has the tokenizer as its attribute ``tokenizer``, and in ``sources`` the semantic IDs
            as they have become. What a run keeps of either is what they are after training.
        in_order: whether it writes codes one after the other, as models that ask for :data:`UNIQUE` ones do: codes without an order are then
            handed over as if the tokenizer's own were one.
    """

    semantic_ids: str | None = None
    content: tuple[str, ...] | None = None
    interactions: bool = False
    tokenizer: bool = False
    popularity: bool = False
    categories: bool = False
    in_order: bool = False

    @property
    def training_split(self) -> bool:
        """Whether a tokenizer sees interactions at all."""
        return self.interactions or self.popularity


def collisions_of(needs: Needs, config: Any) -> str | None:
    """What becomes of items of equal codes: ``share`` where the model takes codes as the tokenizer gave them; ``None`` without any."""
    return {UNIQUE: config["collision_policy"], SHARED: "share"}.get(needs.semantic_ids)


def where_words(config: Config) -> str:
    """The words of a command that name a run's data: its dataset, and where that lies unless that is where it is looked for."""
    path = config.external_config_dict.get("data_path")
    return f"--dataset={config.dataset}" if path in (None, "dataset") else f"--dataset={config.dataset} --data_path={path}"


@dataclass(frozen=True)
class Sources:
    """What was asked for, in the dataset's item order.

    Attributes:
        semantic_ids: ``None`` where none were.
        content: likewise; the modalities that were asked for and no others.
        tokenizer: the trained tokenizer, where it was asked for and a run begins; a checkpoint has its weights among the model's.
    """

    semantic_ids: SemanticIDs | None = None
    content: ItemContent | None = None
    tokenizer: SemanticTokenizer | None = None


class Contract:
    """What every model declares. Each entry has a default that fits most models.

    Attributes:
        task: :data:`TOKENIZE`, :data:`RANK` or :data:`CLICK`.
        hyperparameters: the keys of its YAML and what they may be, see :mod:`~recbole_r3vae.model.parameters`; those of the classes
            that it derives from count too. (``parameters`` is torch's word for a module's weights.)
        dataset_class: RecBole ``Dataset`` that makes its training rows; ``None`` for RecBole's own of the model's type.
        trainer_class: RecBole ``Trainer`` for it; ``None`` for that of its task.
        family: ``generative`` (it reads or writes semantic IDs), ``sequential`` or ``general``, for tables.
        reads_histories: whether it ranks for a history; otherwise it knows users of its training alone.
        ranks_items: whether it can rank a catalogue for users or histories and nothing else, which is what serving has.
        ranks_catalogues: whether a benchmark can rank a catalogue with it.
        ranks_lists: whether it hands over its best items alone instead of a score for every item.
        self_contained: whether its constructor reads nothing of its dataset but the numbers and ids of users and items, ``sources``, and
            counts and texts that it needs to train, so that a checkpoint alone suffices to recommend.
        whole_means_int: whether a whole number in its YAML says that the key takes whole numbers alone.
        layers: names of YAML files between ``overall.yaml`` and the model's own; ``windows`` comes with the class of its dataset.
        neutral: keys that came when it had results, and the values at which it is what it was before: no part of a run's identity at these.
        more_metrics: what its validation measures beside RecBole's metrics.
        selected_by: what its validation measures instead of them, and whether more of it is better.
    """

    task: ClassVar[str] = RANK
    hyperparameters: ClassVar[Mapping[str, Parameter]] = {}
    dataset_class: ClassVar[type | None] = None
    trainer_class: ClassVar[type | None] = None
    family: ClassVar[str] = "sequential"
    reads_histories: ClassVar[bool] = True
    ranks_items: ClassVar[bool] = True
    ranks_catalogues: ClassVar[bool] = True
    ranks_lists: ClassVar[bool] = False
    self_contained: ClassVar[bool] = True
    whole_means_int: ClassVar[bool] = True
    layers: ClassVar[tuple[str, ...]] = ()
    neutral: ClassVar[Mapping[str, Any]] = {}
    more_metrics: ClassVar[tuple[str, ...]] = ()
    selected_by: ClassVar[Mapping[str, bool] | None] = None

    @classmethod
    def complete(cls, defaults: dict[str, Any], given: Mapping[str, Any], recboles_columns: Any) -> None:
        """Change the defaults of all YAML files, in place, where other keys ask for it; ``given`` are the user's."""

    @classmethod
    def give(cls, dataset: Any, sources: Sources, config: Config) -> None:
        """Hand what was asked for to the dataset, before it is split: the model's constructor finds it there as ``sources``."""
        dataset.sources = sources

    @classmethod
    def id_fields(cls, dataset: Any) -> set[str]:
        """Fields of a RecBole dataset whose values the model looks up by number, so that a checkpoint has to know their ids."""
        return {dataset.uid_field, dataset.iid_field}

    @classmethod
    def counted(cls, train_data: Any, valid_data: Any, test_data: Any) -> dict[str, Any] | None:
        """What the parts of the split hold, where ranks of users do not say it; ``None`` otherwise."""
        return None

    @classmethod
    def next_step(cls, config: Config) -> str:
        """A command that a reader of a result of semantic IDs may want next."""
        return f"next: recbole-r3vae run --model=WindowSASRec {where_words(config)}   # an item-id model on the same split"

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
        check_parameters(declared_by(cls), config)

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
    """``begin_epoch`` and ``after_step`` of any model or dataset; RecBole's have none, and get what does nothing."""

    def nothing(_: Any) -> None:
        pass

    return getattr(model, "begin_epoch", nothing), getattr(model, "after_step", nothing)
