"""Trained models as a recommender needs them: users and items by external id, and the best items for a batch of histories."""

from __future__ import annotations

import copy
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from threading import Lock
from typing import Any

import numpy as np
import torch
from recbole.data.interaction import Interaction
from torch import Tensor

from recbole_r3vae.config import Config
from recbole_r3vae.errors import UserError
from recbole_r3vae.model.contract import Sources
from recbole_r3vae.quick_start.reload import config_of, load_data_and_model
from recbole_r3vae.quick_start.run import make_network
from recbole_r3vae.quick_start.run_folder import find_checkpoint
from recbole_r3vae.sid.table import PAD, SemanticIDs
from recbole_r3vae.trainer.checkpoint_file import from_plain, load_checkpoint, sources_of


class ServedModel:
    """A model out of its checkpoint, and, where it was made of its users' and items' ids and sources alone, nothing else.

    It never changes: items that come or go make another one, which shares the weights. So any number of threads may rank with one.

    Args:
        checkpoint: a run's folder or its ``best.pth``.
        config_dict: keys to set differently.

    Attributes:
        config: the run's configuration.
        folder: the run's.
        model: the network, in evaluation mode.
        table: the semantic IDs of the checkpoint; ``None`` where the model has none.
        sids: semantic IDs of all items, those that were added included; ``None`` where the model has none.
        item_ids: external ids ``[n_items]``, the padding item first.
        row_of: external id to place in ``item_ids``.
        removed: items that are not recommended.
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
        self._ids, self.folder = state["ids"], path.parent
        if config.contract.self_contained:
            sources = sources_of(state["sources"])
            with torch.random.fork_rng(devices=[]):  # the weights drawn here are overwritten: no draw of the caller's is spent on them
                self.model = make_network(config, _Known(config, self._ids, sources), sources)
            self.model.load_state_dict(state["model"])
            self.model.load_other_parameter(from_plain(state["other_parameter"]))
            self.model.eval()
        else:
            quiet = {"state": "warning"}  # what RecBole says of a training is no recommendation
            self.config, self.model, *_ = load_data_and_model(path, {**quiet, **config_dict})
        self.table, self.removed, self._one_at_a_time = self.sids, frozenset(), Lock()
        self.item_ids, self.row_of = _places(self._ids[config["ITEM_ID_FIELD"]])

    @property
    def sids(self) -> SemanticIDs | None:
        """Semantic IDs of all items."""
        return self.model.sources.semantic_ids

    @cached_property
    def user_number(self) -> dict[str, int]:
        """External id of each user of the training to the model's number of it."""
        return {user: number for number, user in enumerate(self._ids[self.config["USER_ID_FIELD"]]) if number}

    @property
    def reads_histories(self) -> bool:
        """Whether it ranks for a history; otherwise it knows users of its training alone."""
        return self.config.contract.reads_histories

    @property
    def reads_times(self) -> bool:
        """Whether it ranks for a history and the time of each interaction in it."""
        return getattr(self.config.contract.dataset_class, "reads_times", False)

    @property
    def most_items(self) -> int:
        """How many items it can find for a history: the catalogue, or as many as its beam is wide."""
        return min(len(self.item_ids) - 1, getattr(self.model, "most_items", len(self.item_ids)))

    def number_of(self, user: str) -> int:
        """The model's number of a user; of one that came after training 0, RecBole's padding user, where the model reads histories.

        Raises:
            UserError: it reads none.
        """
        number = self.user_number.get(user, 0)
        if not number and not self.reads_histories:
            raise UserError(f"user {user!r} came after the training of {self.config.model}, which knows users by number; train it again")
        return number

    # -- another catalogue -------------------------------------------------------------------------------------------------

    def without(self, item_ids: Iterable[str]) -> ServedModel:
        """The same with items that are known, and read in histories, but never recommended."""
        return self._with(removed=self.removed | set(item_ids))

    def with_back(self, item_ids: Iterable[str]) -> ServedModel:
        """The same with removed items recommended again; others are passed over."""
        return self._with(removed=self.removed - set(item_ids))

    def grown(self, sources: Sources) -> ServedModel:
        """The same with more items: those of ``sources`` begin with the old ones. The old network stays as it is.

        Raises:
            UserError: the model cannot learn items.
        """
        model = twin_of(self.model)
        model.grow(sources)
        item_ids, row_of = _places(sources.semantic_ids.item_ids)
        return self._with(model=model, item_ids=item_ids, row_of=row_of)

    def _with(self, **changed: Any) -> ServedModel:
        other = copy.copy(self)
        vars(other).update(changed)
        return other

    # -- ranking -----------------------------------------------------------------------------------------------------------

    def rank(self, interaction: Interaction, k: int, allowed: Tensor | None) -> tuple[Tensor, Tensor]:
        """Items ``[B, k]``, 0 where there are not that many, and their scores ``[B, k]``, best first.

        Args:
            interaction: B histories.
            k: number of items, at most :attr:`most_items`.
            allowed: bool ``[n_items]`` or ``[B, n_items]``, the only items that may be returned; ``None`` allows all.
        """
        if self.config.contract.ranks_lists:
            mixed = bool(self.config["enable_amp"])  # as in evaluation
            with torch.autocast(torch.device(self.config["device"]).type, dtype=torch.bfloat16, enabled=mixed):
                return self.model.recommend(interaction, k, allowed=allowed, strict=False)
        scores = self._scores(interaction)  # [B, n_items]
        scores[:, 0] = -torch.inf
        if allowed is not None:
            scores = scores.masked_fill(~allowed, -torch.inf)
        scores, items = scores.topk(k)
        return items.masked_fill(scores == -torch.inf, 0), scores

    def _scores(self, interaction: Interaction) -> Tensor:
        """float32 ``[B, n_items]`` of a model of RecBole's. One thread at a time: some, such as LightGCN, keep in the network what they
        computed, in several steps, and go on from it."""
        try:
            with self._one_at_a_time:
                return self.model.full_sort_predict(interaction).view(len(interaction), -1).float()
        except (NotImplementedError, KeyError) as error:
            missing = f"it also reads {error}" if isinstance(error, KeyError) else "it scores single items only"
            raise UserError(
                f"{self.config.model} cannot rank all items for these histories: {missing}; give users by name, if it lacks them, or the "
                "checkpoint of a generator, SASRec, BPR …"
            ) from error


def twin_of(model: torch.nn.Module) -> torch.nn.Module:
    """The same network that may learn items without the first one noticing.

    Weights, buffers and what it was made of are shared: learning items puts new tensors in the place of old ones and writes into none.
    """
    shared = {id(value): torch.nn.Parameter(value.detach(), value.requires_grad) for value in model.parameters()}
    shared |= {id(value): value.detach() for value in model.buffers()}
    sources = model.sources
    shared |= {id(value): value for value in (sources, sources.semantic_ids, sources.content) if value is not None}
    return copy.deepcopy(model, shared)


def _places(item_ids: Sequence[str]) -> tuple[np.ndarray, dict[str, int]]:
    """Items by row, and rows by item without the padding item's."""
    return np.array(item_ids, dtype=object), {item: row for row, item in enumerate(item_ids) if row}


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

    def meetings(self) -> tuple[np.ndarray, np.ndarray]:
        """None: they are for training."""
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
