"""What RecBole's models would say of themselves, which cannot be changed: the same answers as :class:`~.contract.Contract`'s.

This is the only place that asks a model what class or type it is.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from recbole.utils import FeatureType, ModelType

from recbole_r3vae.data.clicks import ClickDataset, ClickHistoryDataset
from recbole_r3vae.errors import UserError, did_you_mean
from recbole_r3vae.model.contract import CLICK, RANK, SHARED, Contract, Needs, Sources, where_words
from recbole_r3vae.model.parameters import check_parameters, declared_by

if TYPE_CHECKING:
    from recbole.config import Config

LABELLED = ("labeled", {"valid": "labeled", "test": "labeled"})
"""Modes of evaluation on labelled interactions."""

SID_FEATURES = ("replace", "append", "none")
"""What semantic IDs may do to the item id of a model that predicts clicks."""

_DATASET_OF_TYPE = {ModelType.SEQUENTIAL: "SequentialDataset", ModelType.KNOWLEDGE: "KnowledgeBasedDataset"}


class RecBoleContract:
    """A model of RecBole's, or of a user's own that derives from RecBole's classes alone.

    Args:
        model_class: its class; where that has ``hyperparameters`` or ``dataset_class`` they count as a Contract's do.
    """

    task = RANK
    whole_means_int = False
    """RecBole's models write whole numbers for weights and rates too."""
    layers: tuple[str, ...] = ()
    neutral: Mapping[str, Any] = {}
    trainer_class = None
    more_metrics: tuple[str, ...] = ()
    selected_by = None
    ranks_lists = False
    self_contained = False

    def __init__(self, model_class: type):
        self.model_class = model_class

    @property
    def reads_histories(self) -> bool:
        """Whether it ranks for a history; otherwise it knows users of its training alone."""
        return self.model_class.type == ModelType.SEQUENTIAL

    @property
    def family(self) -> str:
        """``sequential`` or ``general``, for tables."""
        return "sequential" if self.reads_histories else "general"

    @property
    def ranks_items(self) -> bool:
        """Whether it can rank a catalogue for users or histories and nothing else."""
        return self.model_class.type in (ModelType.SEQUENTIAL, ModelType.GENERAL, ModelType.KNOWLEDGE)

    @property
    def ranks_catalogues(self) -> bool:
        """Whether it is one of RecBole's that are compared by rankings."""
        return self.model_class.type not in (ModelType.CONTEXT, ModelType.DECISIONTREE)

    @property
    def dataset_class(self) -> type:
        """RecBole's dataset of the model, or of its type."""
        own = getattr(self.model_class, "dataset_class", None)
        module = importlib.import_module("recbole.data.dataset")
        by_model = getattr(module, f"{self.model_class.__name__}Dataset", None)
        return own or by_model or getattr(module, _DATASET_OF_TYPE.get(self.model_class.type, "Dataset"))

    def complete(self, defaults: dict[str, Any], given: dict[str, Any], recboles_columns: Any) -> None:
        """Change defaults so that the model runs on the same data as ours without the user having to know why.

        Args:
            defaults: keys and values of all YAML files; changed in place.
            given: the user's.
            recboles_columns: ``load_col`` of RecBole's own YAML of the dataset, if it has one.
        """
        final = {**defaults, **given}
        if recboles_columns and self.model_class.type in (ModelType.CONTEXT, ModelType.DECISIONTREE, ModelType.KNOWLEDGE):
            defaults["load_col"] = recboles_columns  # with the labels and links that such models are trained on
        if self.model_class.type == ModelType.SEQUENTIAL and final.get("loss_type") == "CE":
            defaults["train_neg_sample_args"] = None  # full softmax takes no sampled negatives; RecBole refuses the pair
        if self.model_class.__name__ == "Pop":
            defaults["train_neg_sample_args"] = None  # it counts what a batch holds, sampled negatives too
        if self.model_class.type in (ModelType.SEQUENTIAL, ModelType.GENERAL) and not final.get("selected_features"):
            columns = defaults.get("load_col")
            if columns and columns.get("item"):
                # Models that read ids only: the item file still filters interactions alike, its texts are not loaded.
                defaults["load_col"] = {**columns, "item": [final["ITEM_ID_FIELD"]]}

    def needs(self, config: Config) -> Needs:
        """Nothing beside the dataset."""
        return Needs()

    def check(self, config: Config) -> None:
        """Check what the class says of its keys, if it does."""
        check_parameters(declared_by(self.model_class), config)

    def result_name(self, config: Config) -> str:
        """The model's name."""
        return self.model_class.__name__

    def loss_name(self, config: Config) -> str:
        """What it is trained with, for tables that compare models."""
        if self.model_class.type == ModelType.TRADITIONAL:
            return "none"  # counted, not trained
        return str(config["loss_type"] or config["MODEL_INPUT_TYPE"].name.lower())

    def give(self, dataset: Any, sources: Sources, config: Config) -> None:
        """Hand what was asked for to the dataset, before it is split."""

    def id_fields(self, dataset: Any) -> set[str]:
        """Users, items and every column of tokens, single or in lists, because only the model knows which of them it reads."""
        tokens = {field for field, kind in dataset.field2type.items() if kind in (FeatureType.TOKEN, FeatureType.TOKEN_SEQ)}
        return tokens | {dataset.uid_field, dataset.iid_field}

    def counted(self, train_data: Any, valid_data: Any, test_data: Any) -> dict[str, Any] | None:
        """What the parts of the split hold, where ranks of users do not say it."""
        return None


class ClickContract(RecBoleContract):
    """A model that predicts labels from fields of features: any context-aware one, or DIN; semantic IDs may be such features."""

    task = CLICK
    family = "clicks"
    layers = ("ctr",)
    more_metrics = ("UAUC",)
    ranks_items = False

    @property
    def dataset_class(self) -> type:
        """Labelled rows, for DIN with histories."""
        return ClickHistoryDataset if self.model_class.type == ModelType.SEQUENTIAL else ClickDataset

    def complete(self, defaults: dict[str, Any], given: dict[str, Any], recboles_columns: Any) -> None:
        """Read the columns that labels, features and item texts are in."""
        final = {**defaults, **given}
        columns, features = defaults.get("load_col"), final["ctr_features"]
        if columns:
            defaults["load_col"] = {
                "inter": [*columns["inter"], final["LABEL_FIELD"], *(final["threshold"] or {})],
                "user": [final["USER_ID_FIELD"], *features],
                "item": [final["ITEM_ID_FIELD"], *columns.get("item", ()), *features],
            }

    def needs(self, config: Config) -> Needs:
        """Semantic IDs that items may share, where they are features."""
        return Needs() if config["sid_features"] == "none" else Needs(semantic_ids=SHARED)

    def check(self, config: Config) -> None:
        """Refuse semantic IDs that are named and not read."""
        super().check(config)
        value, model = config["sid_features"], self.model_class.__name__
        if value not in SID_FEATURES:
            raise UserError(f"sid_features is {value!r}{did_you_mean(str(value), SID_FEATURES)}; choose {', '.join(SID_FEATURES)}")
        unread = next((key for key in ("tokenizer", "sid_file") if config.cmd_config_dict.get(key)), None)
        if value == "none" and unread:  # on the command line; a file may serve several models
            raise UserError(f"{unread} is given, and {model} reads no semantic IDs; add --sid_features=replace or append, or leave it out")

    def result_name(self, config: Config) -> str:
        """``DeepFM``, or ``DeepFM-replace`` by what semantic IDs do to the item id."""
        kind = config["sid_features"]
        return self.model_class.__name__ if kind == "none" else f"{self.model_class.__name__}-{kind}"

    def loss_name(self, config: Config) -> str:
        """Binary cross-entropy of labels."""
        return "log loss"

    def give(self, dataset: Any, sources: Sources, config: Config) -> None:
        """Put the semantic IDs among the item's columns."""
        if sources.semantic_ids is not None:
            dataset.add_semantic_ids(sources.semantic_ids, config["sid_prefix_buckets"], replace=config["sid_features"] == "replace")

    def id_fields(self, dataset: Any) -> set[str]:
        """Users, items, the features that models of clicks see and semantic IDs; not the words of a title that a tokenizer alone reads."""
        return {dataset.uid_field, dataset.iid_field, *dataset.config["ctr_features"], *dataset.semantic_id_fields}

    def counted(self, train_data: Any, valid_data: Any, test_data: Any) -> dict[str, Any]:
        """What the labels are, and counts of rows."""
        parts = {name: loader._dataset for name, loader in zip(("train", "valid", "test"), (train_data, valid_data, test_data))}
        return {"labels": parts["train"].label_source, **{name: part.labelled_rows().describe() for name, part in parts.items()}}

    def next_step(self, config: Config) -> str:
        """The same rows with the item id."""
        return f"next: recbole-r3vae run --model={config.declared['model']} {where_words(config)}   # the item id, on the same rows"


def contract_of(model_class: type, evaluation_mode: Any = None) -> Any:
    """What a model says of itself.

    Args:
        model_class: any model, of this package, of a user's own or of RecBole.
        evaluation_mode: ``mode`` of the user's ``eval_args``; ``None`` where he gives none. RecBole's context-aware models and DIN
            predict clicks on labelled interactions, which is the default, and rank items in any other mode.

    Returns:
        The class itself where it is a :class:`~.contract.Contract`; else an object that answers for it.
    """
    if issubclass(model_class, Contract):
        return model_class
    predicts_labels = model_class.type == ModelType.CONTEXT or model_class.__name__ == "DIN"
    labelled = evaluation_mode is None or evaluation_mode in LABELLED
    return ClickContract(model_class) if predicts_labels and labelled else RecBoleContract(model_class)
