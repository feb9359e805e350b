"""Item vectors that are learned from the training split and nothing else: collaborative embeddings for tokenizers, and item content.

The model is trained on a dataset that consists of the training interactions alone, in an order that their external ids decide. So no
validation or test interaction can reach it: not as a positive, not by what is sampled as a negative, not by early stopping (it trains for
a fixed number of epochs), not even by the numbers that ids get.
"""

from __future__ import annotations

import hashlib
import logging
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recbole.data.dataset import Dataset, SequentialDataset
from recbole.utils import init_seed
from torch import Tensor

from recbole_r3vae.config import Config, decisive, fingerprint, identity
from recbole_r3vae.data.content import ItemContent, Modality, load_content
from recbole_r3vae.data.content.cache import CacheEntry, hash_json
from recbole_r3vae.data.item_values import fields_of_items
from recbole_r3vae.errors import UserError
from recbole_r3vae.io import atomic_write
from recbole_r3vae.quick_start.lookup import create_dataset, data_preparation, get_trainer

logger = logging.getLogger(__name__)

NAME = "training-split"
"""The dataset that collaborative models are trained on, one that has no YAML of its own."""


@dataclass(frozen=True)
class _Model:
    """What differs between the models that can be asked for."""

    size_key: str  # RecBole's key for the length of an item's vector
    vectors: Callable[[Any], Tensor]  # of the trained model's items [n_items, d]
    run_keys: tuple[str, ...] = ()  # keys of the run's configuration that it takes over
    fields_key: str | None = None  # its key for the item fields that it reads beside interactions
    epochs: int | None = 30  # as a modality of item content, unless said; LETTER's. None: those of its YAML


MODELS = {
    "BPR": _Model("embedding_size", lambda model: model.item_embedding.weight),
    "SASRec": _Model("hidden_size", lambda model: model.item_embedding.weight, ("MAX_ITEM_LIST_LENGTH",)),
    "LightGCN": _Model("embedding_size", lambda model: model.forward()[1]),  # after propagation
    "FAMAE": _Model("hidden_size", lambda model: model.field_vectors(), ("MAX_ITEM_LIST_LENGTH",), "item_fields", None),
}
"""The models that give one vector for each item, by name."""


def training_interactions(dataset: Dataset) -> np.ndarray:
    """The interactions that a recommender may learn from: the training split of RecBole's general models.

    A sequential model splits alike, but takes a user's first interaction for the start of his history before it counts: of users with
    three interactions or fewer it trains on one more than this, never on less.

    Args:
        dataset: Loaded and not yet split; it is left as it is.

    Returns:
        External user and item id of each interaction ``[n, 2]``: users in the order of their ids, the interactions of each in time order.

    Raises:
        UserError: the split is not in time order, and so another one each time.
    """
    order = dataset.config["eval_args"]["order"]
    if order != "TO":
        raise UserError(
            f"eval_args.order is {order!r}; a tokenizer that learns from interactions needs a split in time order: set it to TO"
        )
    train = dataset.copy(dataset.inter_feat.copy()).build()[0]
    users, items = (
        np.asarray(train.field2id_token[field]).astype(str)[train.inter_feat[field].numpy()]
        for field in (train.uid_field, train.iid_field)
    )
    order = np.argsort(users, kind="stable")  # stable: a user's interactions stay in time order
    return np.stack([users[order], items[order]], axis=1)


def _unsequenced(config: Config, dataset: Dataset) -> Dataset:
    """A generator's dataset as one of plain interactions: the tokenizer's configuration loads the same data."""
    return create_dataset(config) if isinstance(dataset, SequentialDataset) else dataset


def popularity(config: Config, dataset: Dataset, item_ids: list[str]) -> np.ndarray:
    """How often items occur in the training split, each interaction once: ``log(1 + count)``, the least as 0 and the most as 1.

    Args:
        config: The tokenizer's configuration.
        dataset: The run's, loaded and not yet split.
        item_ids: External ids, ``[PAD]`` first.

    Returns:
        float32 ``[n_items]``; 0 for the padding item, and for all where items are equally popular.
    """
    counts = Counter(training_interactions(_unsequenced(config, dataset))[:, 1].tolist())
    logs = np.log1p([counts[item] for item in item_ids[1:]])
    span = max(logs.max() - logs.min(), np.finfo(np.float32).tiny)
    return np.concatenate([[0], (logs - logs.min()) / span]).astype(np.float32)


class CollaborativeModel:
    """A recommender whose item vectors a tokenizer learns from.

    Args:
        config: The tokenizer's configuration. Read are ``seed``, ``device``, ``content_cache_dir``, for SASRec and FAMAE
            ``MAX_ITEM_LIST_LENGTH`` and, unless a modality is given, ``collaborative_model`` (``BPR``, ``SASRec`` or ``LightGCN``),
            ``collaborative_epochs`` and ``latent_dim`` (the length of the vectors). All else is as the YAML of the model sets it.
        dataset: The run's, loaded and not yet split.
        modality: Of item content, with the name of the model and those of its keys that its YAML does not decide. Epochs that are not said
            are those that :data:`MODELS` has for it, or of its YAML.

    Attributes:
        interactions: See :func:`training_interactions`.
        item_ids: External ids of the items in them, sorted.
        fields: Of a model that reads item fields, name of each to external item id to its value; of items in the interactions or not.
        description: ``model``; ``interactions``, their hex sha256; ``key``, the fingerprint of both, of the fields of these items, of all
            settings and of the seed.
        seconds: What learning the vectors took, whenever that was; 0 until :meth:`vectors` is asked.

    Raises:
        UserError: a key has a value outside its range.
    """

    def __init__(self, config: Config, dataset: Dataset, modality: Modality | None = None):
        if modality is None:
            name = config["collaborative_model"]
            own = {MODELS[name].size_key: config["latent_dim"], "epochs": config["collaborative_epochs"]}
        else:
            name = modality.learned
            epochs = MODELS[name].epochs
            own = {**({} if epochs is None else {"epochs": epochs}), **modality.settings}
        dataset = _unsequenced(config, dataset)
        self.cache_dir = config["content_cache_dir"]
        self.interactions = training_interactions(dataset)
        self.item_ids = np.unique(self.interactions[:, 1])
        self._lines = "\n".join(f"{user}\t{item}" for user, item in self.interactions)
        self._settings = {
            "seed": config["seed"],
            "reproducibility": config["reproducibility"],
            **{key: config[key] for key in MODELS[name].run_keys},
            **own,
            "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
            "eval_args": {"split": {"RS": [1, 0, 0]}, "order": "TO", "group_by": "user", "mode": "full"},
            "device": str(config["device"]),
        }
        self._config = Config(name, NAME, config_dict=self._settings)
        if modality is not None:
            self._config.refuse_unknown_keys(modality.settings, f"{modality.name}.")
        self.fields: dict[str, dict[str, str]] = {}
        fields_key = MODELS[name].fields_key
        if fields_key is not None:
            found = fields_of_items(dataset, self._config[fields_key] or (), self._config["field_values"])
            ids = [str(item) for item in dataset.field2id_token[dataset.iid_field]]
            for field, (numbers, names) in found.items():
                self.fields[field] = {item: names[number - 1] for item, number in zip(ids, numbers.tolist()) if number}
            self._settings[fields_key] = list(self.fields)
            self._settings["load_col"]["item"] = ["item_id", *self.fields]
            self._config = Config(name, NAME, config_dict=self._settings)
        split_hash = hashlib.sha256(self._lines.encode()).hexdigest()
        read = [[values.get(item, "") for item in self.item_ids] for values in self.fields.values()]  # [fields][items]
        key = f"{name}-{fingerprint(identity(decisive(self._config), split_hash, fields=hash_json(read) if read else None))}"
        self.description = {"model": name, "interactions": split_hash, "key": key}
        self.seconds = 0.0

    def vectors(self, item_ids: list[str]) -> np.ndarray:
        """The vectors of a catalogue's items, learned once and then read from the cache.

        They are scaled by one number, such that their mean squared length is 1: what a tokenizer's weight for them means does not depend
        on the model and on how long it was trained. How long they are relative to each other, and with it how popular, stays.

        Args:
            item_ids: External ids, ``[PAD]`` first.

        Returns:
            float32 ``[n_items, d]``; zero for the padding item and for items without a training interaction, except for the parts of fields
            whose value another item has that was trained on.
        """
        learned = self._cached() if self.cache_dir else self._learn()
        known = {item: row for row, item in enumerate(self.item_ids)}
        vectors = np.zeros((len(item_ids), learned.shape[1]), dtype=np.float32)
        rows = [row for row, item in enumerate(item_ids) if item in known]
        vectors[rows] = learned[[known[item_ids[row]] for row in rows]]
        for columns, values in zip(self._columns(learned.shape[1]), self.fields.values()):
            holder = {values[item]: row for row, item in enumerate(self.item_ids) if item in values}
            for row in range(1, len(item_ids)):
                if item_ids[row] not in known and values.get(item_ids[row]) in holder:
                    vectors[row, columns] = learned[holder[values[item_ids[row]]], columns]
        return vectors

    def _columns(self, dim: int) -> list[slice]:
        """Where the vectors ``[d]`` of a model of fields have each field; the id comes first."""
        width = dim // (1 + len(self.fields))
        return [slice(width * k, width * (k + 1)) for k in range(1, 1 + len(self.fields))]

    def _cached(self) -> np.ndarray:
        entry = CacheEntry(self.cache_dir, self.description["key"])
        with entry.lock():
            cached = entry.read()
            if cached is None:
                entry.write_vectors(len(self.item_ids), iter([self._learn()]))
                entry.commit({**self.description, "seconds": self.seconds}, None)
                cached = entry.read()
        self.seconds = cached.meta.get("seconds", 0.0)  # entries of earlier versions do not tell
        return cached.vectors

    def _learn(self) -> np.ndarray:
        """Train the model; ``[len(item_ids), d]``."""
        started = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            self._write(Path(folder) / NAME)
            config = Config(self._config.model, NAME, config_dict={**self._settings, "data_path": folder, "checkpoint_dir": folder})
            config["single_spec"] = True
            init_seed(config["seed"], config["reproducibility"])
            dataset = create_dataset(config)
            train_data, _, _ = data_preparation(config, dataset)
            model = config.model_class(config, train_data.dataset).to(config["device"])
            get_trainer(config)(config, model).fit(train_data, saved=False, verbose=False)
        model.eval()
        with torch.no_grad():
            vectors = MODELS[config.model].vectors(model).cpu().numpy()
        vectors = vectors[dataset.token2id(dataset.iid_field, self.item_ids)]
        self.seconds = round(time.monotonic() - started, 3)
        how = f"{config['epochs']} epochs on {len(self.interactions):,} training interactions in {self.seconds:.0f} s"
        logger.info(f"collaborative embeddings: {config.model}, {how}")
        return vectors / np.sqrt(np.square(vectors).sum(1).mean())

    def _write(self, folder: Path) -> None:
        folder.mkdir()
        with atomic_write(folder / f"{NAME}.inter") as file:
            file.write("user_id:token\titem_id:token\ttimestamp:float\n")
            file.writelines(f"{line}\t{time}\n" for time, line in enumerate(self._lines.split("\n")))
        if self.fields:
            with atomic_write(folder / f"{NAME}.item") as file:
                file.write("\t".join(["item_id:token", *(f"{field}:token" for field in self.fields)]) + "\n")
                for item in self.item_ids:
                    file.write("\t".join([item, *(values.get(item, "") for values in self.fields.values())]) + "\n")


def item_content(dataset: Dataset, config: Config) -> ItemContent:
    """The content of a dataset's items, of modalities too that are learned from the training split.

    Args:
        dataset: Loaded and not yet split; it is left as it is.
        config: As of :func:`~recbole_r3vae.data.content.load_content` and :class:`CollaborativeModel`.

    Returns:
        The content, in the dataset's internal item order.

    Raises:
        UserError: as both.
    """

    def learn(modality: Modality) -> ItemContent:
        model = CollaborativeModel(config, dataset, modality)
        item_ids = [str(item) for item in dataset.field2id_token[dataset.iid_field]]
        described = {"kind": modality.learned, **model.description}
        return ItemContent(model.vectors(item_ids), item_ids, described, hash_json([described, item_ids]))

    return load_content(dataset, config, learn)
