"""Trained models as a recommender needs them: users and items by external id, and the best items for a batch of histories."""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recbole.data.interaction import Interaction
from torch import Tensor

from recbole_r3vae.config import Config
from recbole_r3vae.data.content import parts_of
from recbole_r3vae.data.content.vectors import VectorFile
from recbole_r3vae.errors import UserError
from recbole_r3vae.model.contract import Sources
from recbole_r3vae.quick_start.run import config_of, load_data_and_model, make_network
from recbole_r3vae.quick_start.run_folder import find_checkpoint
from recbole_r3vae.quick_start.semantic_ids import DESCRIPTION
from recbole_r3vae.sid.extension import TableExtension
from recbole_r3vae.sid.table import PAD, SemanticIDs
from recbole_r3vae.trainer.checkpoint_file import from_plain, load_checkpoint, sources_of


class ServedModel:
    """A model out of its checkpoint, and, where it was made of its users' and items' ids and sources alone, nothing else.

    Args:
        checkpoint: a run's folder or its ``best.pth``.
        config_dict: keys to set differently.

    Attributes:
        config: the run's configuration.
        model: the network, in evaluation mode.
        sids: semantic IDs of all items, those that were added included; ``None`` where the model has none.
        item_ids: external ids ``[n_items]``, the padding item first.
        row_of: external id to place in ``item_ids``.
        user_number: external id of each user of the training to the model's number of it.

    Raises:
        UserError: there is no usable checkpoint, its model cannot rank every item, or a key has an unusable value.
    """

    def __init__(self, checkpoint: str | os.PathLike, config_dict: dict[str, Any]):
        path = find_checkpoint(checkpoint)
        state = load_checkpoint(path)
        if "num_beams" in config_dict:  # which may be narrower than the evaluation's cut-offs
            config_dict = {"topk": [1], "valid_metric": f"{state['config']['metrics'][0]}@1", **config_dict}
        self.config = config = config_of(state, path, {"resume": False, **config_dict})
        if not config.contract.ranks_items:
            raise UserError(f"{config.model} needs more than users and histories; give the checkpoint of a generator, SASRec, BPR …")
        if "num_beams" in config_dict and "num_beams" not in config.internal_config_dict:
            raise UserError(f"{config.model} scores every item and has no beams; leave num_beams away")
        self._ids, self._description = state["ids"], path.parent / "tokenizer" / DESCRIPTION
        if config.contract.self_contained:
            sources = sources_of(state["sources"])
            with torch.random.fork_rng(devices=[]):  # the weights drawn here are overwritten: no draw of the caller's is spent on them
                self.model = make_network(config, _Known(config, self._ids, sources), sources)
            self.model.load_state_dict(state["model"])
            self.model.load_other_parameter(from_plain(state["other_parameter"]))
            self.model.eval()
        else:
            self.config, self.model, *_ = load_data_and_model(path, config_dict)
        self._table = self.model.sources.semantic_ids
        self._set_items(self._ids[config["ITEM_ID_FIELD"]])

    def _set_items(self, item_ids: list[str]) -> None:
        self.item_ids = np.array(item_ids, dtype=object)
        self.row_of = {item: row for row, item in enumerate(item_ids) if row}

    @property
    def sids(self) -> SemanticIDs | None:
        """Semantic IDs of all items."""
        return self.model.sources.semantic_ids

    @cached_property
    def user_number(self) -> dict[str, int]:
        """External id of each user of the training to the model's number of it."""
        return {user: number for number, user in enumerate(self._ids[self.config["USER_ID_FIELD"]]) if number}

    # -- a catalogue that grows ------------------------------------------------------------------------------------------

    def add_items(self, sids: SemanticIDs, vectors: str | os.PathLike | None, policy: str | None) -> int:
        """See :meth:`~recbole_r3vae.quick_start.serve.Recommender.add_items`."""
        sources = self.model.sources
        if sources.semantic_ids is None:
            raise UserError(f"{self.config.model} knows the items of its training and no others; add items to a generator, such as R3GR")
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
        extension = TableExtension(self.sids, policy or sids.meta.get("collision_policy") or self.config["collision_policy"] or "share")
        if sids.n_levels == self.sids.n_levels:
            extension.occupy(names, codes)
        else:
            codes = extension.place(names, codes)
        grown = replace(self.sids, codes=torch.cat([self.sids.codes, codes]), item_ids=[*self.sids.item_ids, *names])
        content = sources.content
        if content is not None:
            more = np.concatenate([content.embeddings, self._read_vectors(names, vectors).astype(content.embeddings.dtype)])
            content = replace(content, embeddings=more, item_ids=list(grown.item_ids))
        self.model.grow(Sources(grown, content))
        self._set_items(list(grown.item_ids))
        return len(new)

    def _refuse_changes(self, sids: SemanticIDs) -> None:
        for item, codes in zip(sids.item_ids[1:], sids.codes[1:].tolist()):
            row = self.row_of.get(item)
            if row is not None and self.sids.codes[row, : len(codes)].tolist() != codes:
                raise UserError(
                    f"item {item!r} has the semantic ID {tuple(self.sids.codes[row].tolist())} and would get {tuple(codes)}; what was "
                    "trained stays: take the item out of the file"
                )

    def _read_vectors(self, names: list[str], path: str | os.PathLike | None) -> np.ndarray:
        """Unit vectors ``[n, D]`` of new items."""
        if path is None or not Path(path).is_file():
            raise UserError(
                f"{self.config.model} reads the content vector of every item in a history, and there are none of the new items"
                f"{f' at {path}' if path else ''}; give them as .npy with .ids beside it (`recbole-r3vae tokenize --checkpoint` does)"
            )
        file, content = VectorFile(path), self.model.sources.content
        wanted, parts = content.embeddings.shape[1], content.parts
        if file.dim != wanted:
            parts = self._parts_of_tokenizer(file.dim)
        if not content.parts.keys() <= parts.keys():
            raise UserError(
                f"{path} holds vectors of length {file.dim}, the model reads {wanted}; encode the new items with "
                "the run's own encoder, as `recbole-r3vae tokenize --checkpoint` does"
            )
        vectors = np.concatenate(list(file.unit_blocks(file.rows_of(names), parts)))
        return np.concatenate([vectors[:, parts[name]] for name in content.parts], axis=1)

    def _parts_of_tokenizer(self, dim: int) -> dict[str, slice]:
        """The modalities that the run's tokenizer reads, of which its model may read some; none where its vectors have another length."""
        if not self._description.is_file():
            return {}
        description = json.loads(self._description.read_text(encoding="utf-8"))
        return parts_of(description["content"], dim) if description["dim"] == dim else {}

    # -- ranking -----------------------------------------------------------------------------------------------------------

    def rank(self, interaction: Interaction, k: int, allowed: Tensor | None) -> tuple[Tensor, Tensor]:
        """Items ``[B, k]``, 0 where there are not that many, and their scores ``[B, k]``, best first.

        Args:
            interaction: B histories.
            k: number of items.
            allowed: bool ``[n_items]`` or ``[B, n_items]``, the only items that may be returned; ``None`` allows all.
        """
        if self.config.contract.ranks_lists:
            mixed = bool(self.config["enable_amp"])  # as in evaluation
            with torch.autocast(torch.device(self.config["device"]).type, dtype=torch.bfloat16, enabled=mixed):
                return self.model.recommend(interaction, k, allowed=allowed, strict=False)
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
class _Known:
    """What the constructor of a self-contained model reads of its dataset."""

    config: Config
    ids: dict[str, list[str]]
    sources: Sources

    @property
    def field2id_token(self) -> dict[str, list[str]]:
        return self.ids

    def num(self, field: str) -> int:
        return len(self.ids.get(field, [PAD]))

    def counter(self, field: str) -> Counter:
        """Of nothing: frequencies are for training."""
        return Counter()
