"""Trained models as a recommender needs them: items by external id, and the best of them for a batch of histories."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recbole.data.interaction import Interaction
from recbole.utils import ModelType
from torch import Tensor

from recbole_r3vae.config import Config
from recbole_r3vae.data.content.vectors import VectorFile
from recbole_r3vae.errors import UserError
from recbole_r3vae.model.generator.base import EXACT
from recbole_r3vae.quick_start.run import load_data_and_model
from recbole_r3vae.sid.extension import TableExtension
from recbole_r3vae.sid.table import PAD, SemanticIDs

logger = logging.getLogger(__name__)


class ServedGenerator:
    """A generator of semantic IDs out of its checkpoint alone, whose catalogue can grow.

    Args:
        config: the run's configuration.
        state: what its checkpoint holds.

    Attributes:
        config: as given.
        model: the network, in evaluation mode.
        sids: semantic IDs of all items, those that were added included.
        item_ids: external ids ``[n_items]``, the padding item first.
        row_of: external id to place in ``item_ids``.

    Raises:
        UserError: ``num_beams`` is unusable.
    """

    def __init__(self, config: Config, state: dict[str, Any]):
        beams = config["num_beams"]
        if beams != EXACT and (type(beams) is not int or beams < 1):
            raise UserError(f"num_beams is {beams!r}; give a whole number, at least the number of items asked for, or {EXACT}")
        known, self._weights = state["other_parameter"], state["model"]
        self.config, self._user_names = config, [PAD]
        self._vectors = self._weights.get("item_vectors")  # [n_items, D], where the model reads text
        self._table = SemanticIDs(self._weights["codes"], known["codebook_sizes"], known["item_ids"])
        self._set_catalogue(self._table)

    def _set_catalogue(self, sids: SemanticIDs) -> None:
        """Make the network for these items. Added ones have no id embedding: zero, as ``id_dropout`` hides an item's in training."""
        self.sids, self.item_ids = sids, np.array(sids.item_ids, dtype=object)
        self.row_of = {item: row for row, item in enumerate(sids.item_ids) if row}
        with torch.random.fork_rng(devices=[]):  # the weights drawn here are overwritten: no draw of the caller's is spent on them
            model = self.config.model_class(self.config, _Catalogue(self.config, sids, self._vectors, self._user_names))
        weights = {**self._weights, "codes": sids.codes}
        if self._vectors is not None:
            weights["item_vectors"] = self._vectors
        if "id_embedding.weight" in weights:
            old = weights["id_embedding.weight"]
            weights["id_embedding.weight"] = torch.cat([old, old.new_zeros(sids.n_items - len(old), old.shape[1])])
        model.load_state_dict(weights)
        self.model = model.to(self.config["device"]).eval()

    def know_users(self, names: Sequence[str]) -> None:
        """Let the model know users by RecBole's number of each name; TIGER has tokens for them."""
        self._user_names = list(names)
        self._set_catalogue(self.sids)

    def add_items(self, sids: SemanticIDs, vectors: str | os.PathLike | None, policy: str | None) -> int:
        """See :meth:`~recbole_r3vae.quick_start.serve.Recommender.add_items`."""
        made_for = sids.meta.get("extends", self._table.content_hash)
        if made_for != self._table.content_hash:
            raise UserError(
                f"these semantic IDs were made to stand beside the table {made_for[:12]}, the checkpoint's is "
                f"{self._table.content_hash[:12]}; tokenize the items again, with this checkpoint"
            )
        self._refuse_changes(sids)
        new = [row for row in range(1, sids.n_items) if sids.item_ids[row] not in self.row_of]
        if not new:
            return 0
        names, codes = [sids.item_ids[row] for row in new], sids.codes[new]
        extension = TableExtension(self.sids, policy or sids.meta.get("collision_policy") or self.config["collision_policy"])
        if sids.n_levels == self.sids.n_levels:
            extension.occupy(names, codes)
        else:
            codes = extension.place(names, codes)
        grown = SemanticIDs(torch.cat([self.sids.codes, codes]), self.sids.codebook_sizes, [*self.sids.item_ids, *names])
        if self._vectors is not None:
            self._vectors = torch.cat([self._vectors, self._read_vectors(names, vectors)])
        if "id" in (self.config["item_inputs"] or ()):
            logger.warning("item_inputs has id: the model has no id embedding of new items, and reads them in histories without")
        self._set_catalogue(grown)
        return len(new)

    def _refuse_changes(self, sids: SemanticIDs) -> None:
        for item, codes in zip(sids.item_ids[1:], sids.codes[1:].tolist()):
            row = self.row_of.get(item)
            if row is not None and self.sids.codes[row, : len(codes)].tolist() != codes:
                raise UserError(
                    f"item {item!r} has the semantic ID {tuple(self.sids.codes[row].tolist())} and would get {tuple(codes)}; what was "
                    "trained stays: take the item out of the file"
                )

    def _read_vectors(self, names: list[str], path: str | os.PathLike | None) -> Tensor:
        """Unit vectors ``[n, D]`` of new items."""
        if path is None or not Path(path).is_file():
            raise UserError(
                f"{self.config.model} reads the text vector of every item in a history, and there are none of the new items"
                f"{f' at {path}' if path else ''}; give them as .npy with .ids beside it (`recbole-r3vae tokenize --checkpoint` does)"
            )
        file = VectorFile(path)
        vectors = torch.from_numpy(np.concatenate(list(file.unit_blocks(file.rows_of(names))))).float()
        if vectors.shape[1] != self._vectors.shape[1]:
            raise UserError(
                f"{path} holds vectors of length {vectors.shape[1]}, the model reads {self._vectors.shape[1]}; encode the new items with "
                "the run's own encoder, as `recbole-r3vae tokenize --checkpoint` does"
            )
        return vectors

    def rank(self, interaction: Interaction, k: int, allowed: Tensor | None) -> tuple[Tensor, Tensor]:
        """Items ``[B, k]``, 0 where there are not that many, and their scores ``[B, k]``, best first.

        Args:
            interaction: B histories.
            k: number of items.
            allowed: bool ``[n_items]`` or ``[B, n_items]``, the only items that may be returned; ``None`` allows all.
        """
        mixed = bool(self.config["enable_amp"])  # as in evaluation
        with torch.autocast(torch.device(self.config["device"]).type, dtype=torch.bfloat16, enabled=mixed):
            return self.model.recommend(interaction, k, allowed=allowed, strict=False)


class ServedRanker:
    """A model of RecBole's that scores every item, with the dataset that it cannot be rebuilt without.

    Args:
        checkpoint: a run's ``best.pth``.
        config: its configuration.
        config_dict: keys to set differently.

    Attributes:
        config, model, item_ids, row_of: as of :class:`ServedGenerator`.

    Raises:
        UserError: the model needs more than users and histories.
    """

    def __init__(self, checkpoint: Path, config: Config, config_dict: dict[str, Any]):
        if config["MODEL_TYPE"] not in (ModelType.SEQUENTIAL, ModelType.GENERAL, ModelType.KNOWLEDGE):
            raise UserError(f"{config.model} needs more than users and histories; give the checkpoint of a generator, SASRec, BPR …")
        if "num_beams" in config_dict:
            raise UserError(f"{config.model} scores every item and has no beams; leave num_beams away")
        self.config, self.model, dataset, *_ = load_data_and_model(checkpoint, config_dict)
        self.item_ids = dataset.field2id_token[dataset.iid_field].astype(str).astype(object)
        self.row_of = {item: row for row, item in enumerate(self.item_ids) if row}

    def rank(self, interaction: Interaction, k: int, allowed: Tensor | None) -> tuple[Tensor, Tensor]:
        """As :meth:`ServedGenerator.rank`; the scores are the model's own."""
        try:
            scores = self.model.full_sort_predict(interaction)
        except (NotImplementedError, KeyError) as error:
            missing = f"it also reads {error}" if isinstance(error, KeyError) else "it scores single items only"
            raise UserError(
                f"{self.config.model} cannot rank all items for these histories: {missing}; give users by name, if it lacks them, or the "
                "checkpoint of a generator, SASRec, BPR …"
            ) from error
        scores = scores.view(len(interaction), -1).float()  # [B, n_items]
        scores[:, 0] = -torch.inf
        if allowed is not None:
            scores = scores.masked_fill(~allowed, -torch.inf)
        scores, items = scores.topk(min(k, scores.shape[1]))
        return items.masked_fill(scores == -torch.inf, 0), scores


@dataclass
class _Catalogue:
    """What a generator's constructor reads of its dataset."""

    config: Config
    semantic_ids: SemanticIDs
    item_vectors: Tensor | None
    user_names: list[str]

    @property
    def field2id_token(self) -> dict[str, list[str]]:
        return {self.config["USER_ID_FIELD"]: self.user_names}

    def num(self, field: str) -> int:
        return self.semantic_ids.n_items if field == self.config["ITEM_ID_FIELD"] else len(self.user_names)


def find_checkpoint(path: str | os.PathLike) -> Path:
    """The ``best.pth`` of a run's folder, or the file itself.

    Raises:
        UserError: there is none.
    """
    file = Path(path) / "best.pth" if Path(path).is_dir() else Path(path)
    if not file.is_file():
        raise UserError(f"there is no checkpoint {file}; give the folder of a run, such as saved/ml-100k/R3GR-…, or the best.pth in it")
    return file
