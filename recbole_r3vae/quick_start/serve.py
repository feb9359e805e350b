"""Using what was trained: recommendations for users and histories out of a run's checkpoint, also of items that came later."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice
from typing import Any

import numpy as np
import pandas as pd
import torch
from recbole.data.interaction import Interaction
from torch import Tensor

from recbole_r3vae.errors import UserError
from recbole_r3vae.io import beside
from recbole_r3vae.quick_start.lookup import create_dataset
from recbole_r3vae.quick_start.serve_models import ServedModel
from recbole_r3vae.quick_start.serve_users import UserHistories, some_of
from recbole_r3vae.sid.table import SemanticIDs

logger = logging.getLogger(__name__)

BATCH_SIZE = 256
MASK_CELLS = 2**24
"""Flags of allowed items that exist at once where they differ between users; restricting a tree takes some 20 bytes for each."""


class Recommender:
    """A trained model that recommends, with external ids of users and items.

    A generator of semantic IDs needs nothing but its checkpoint; only the histories of users by name are read from the dataset. RecBole's
    own models need the dataset in any case: sequential ones (``SASRec``) then take histories or users, general ones (``BPR``) users alone.

    Args:
        checkpoint: a run's folder or its ``best.pth``.
        config_dict: keys to set differently, such as ``device``, ``num_beams`` or ``data_path``.

    Attributes:
        config: the run's configuration.
        served: the model and its items.
        skipped: what the last recommendations were asked for and the model did not know.

    Raises:
        UserError: there is no usable checkpoint, its model cannot rank every item, or a key has an unusable value.
    """

    def __init__(self, checkpoint: str | os.PathLike, config_dict: dict[str, Any] | None = None):
        self.served = ServedModel(checkpoint, dict(config_dict or {}))
        self.config, self.skipped = self.served.config, Skipped()
        self._reads_histories = self.config.contract.reads_histories
        self._reads_times = getattr(self.config.contract.dataset_class, "reads_times", False)
        self._removed: set[str] = set()

    @cached_property
    def users(self) -> UserHistories:
        """The histories of the dataset's users."""
        return UserHistories(create_dataset(self.config))

    def histories_of(self, users: Sequence[str], as_of: str = "now") -> Iterator[tuple]:
        """What :meth:`stream` takes for users of the dataset: each with his items, and with their times where the model reads times.

        Args:
            users: external user ids.
            as_of: see :meth:`recommend`.

        Raises:
            UserError: users are unknown, or have no such history.
        """
        return self.users.timed(users, as_of) if self._reads_times else self.users.of(users, as_of)

    def add_items(
        self, sids: SemanticIDs | str | os.PathLike, vectors: str | os.PathLike | None = None, policy: str | None = None
    ) -> int:
        """Put tokenized items into the prefix tree: they can be recommended at once, and read in histories. Old semantic IDs stay.

        Items that are there already, with the same codes, are passed over; removed ones come back. In a history a new item is read by its
        codes and, where the model reads text, its vector. Where it reads ids (``item_inputs: [.., id]``), new items have none.

        Args:
            sids: semantic IDs, or the ``.sid`` file that holds them, as ``recbole-r3vae tokenize --checkpoint`` writes it; over the run's
                codebooks. In a run with collision policy ``suffix`` they may lack the extra code.
            vectors: the items' vectors, ``.npy`` with ``.ids`` beside it, where the model reads text; default: beside the ``.sid`` file.
            policy: what happens where a semantic ID is taken, see :class:`~recbole_r3vae.sid.extension.TableExtension`; default: that
                which the ``.sid`` file was made with, else the run's.

        Returns:
            How many items are new.

        Raises:
            UserError: the model is no generator; the semantic IDs were made for another table, change an old one or take its place; or
                vectors are missing.
        """
        if not isinstance(sids, SemanticIDs):
            vectors = vectors or beside(sids, ".npy")
            sids = SemanticIDs.load(sids)
        n_new = self.served.add_items(sids, vectors, policy)
        self._removed.difference_update(sids.item_ids)
        return n_new

    def remove_items(self, item_ids: Iterable[str]) -> None:
        """Take items out of what can be recommended. In histories they are still read.

        Raises:
            UserError: some are unknown; nothing is removed.
        """
        item_ids = list(item_ids)
        unknown = [item for item in item_ids if item not in self.served.row_of]
        if unknown:
            raise UserError(f"items to remove that the checkpoint does not know: {some_of(unknown)}; correct their ids")
        self._removed.update(item_ids)

    def recommend(
        self,
        histories: Mapping[str, Sequence[str]] | Iterable[Sequence[str]] | None = None,
        k: int = 10,
        users: Sequence[str] | None = None,
        as_of: str = "now",
        exclude_seen: bool = False,
        allow: Iterable[str] | None = None,
        batch_size: int = BATCH_SIZE,
    ) -> pd.DataFrame:
        """The k best items for each history, or each user.

        Args:
            histories: external item ids of each history, oldest first; a mapping or pandas Series names them.
            k: number of items.
            users: instead of histories, users of the dataset.
            as_of: which history of such a user: ``now``, all interactions; ``test`` or ``valid``, what the evaluation predicts his test or
                validation item from.
            exclude_seen: whether to leave out the items of the history. (Evaluation does so as ``mask_history`` says; by RecBole's rule for
                general models only.)
            allow: the only items that may be recommended; default: all.
            batch_size: histories at a time.

        Returns:
            A row for each recommended item: ``user`` (or ``row``, the number of the history from 0), ``rank`` from 1, ``item``, ``score``
            (a generator's is the log-probability of the item's semantic ID) and, from a generator, ``sid``. There are fewer than k for a
            history where fewer are allowed or the beam finds fewer, and none where no item of it is known.

        Raises:
            UserError: not exactly one of histories and users is given, users are unknown, no allowed item or no item of any history is
                known, the model reads times and gets histories without, or the beam is narrower than k.
        """
        if (histories is None) == (users is None):
            raise UserError("recommend takes either histories or users; give one of them")
        if users is not None:
            pairs, label = self.histories_of(users, as_of), "user"
        elif hasattr(histories, "items"):
            pairs, label = histories.items(), "user"
        else:
            pairs, label = enumerate(histories), "row"
        frames = self.stream(pairs, k, label, users is not None, exclude_seen, allow, batch_size)
        return pd.concat(list(frames), ignore_index=True)

    def stream(
        self,
        pairs: Iterable[tuple],
        k: int = 10,
        label: str = "row",
        are_users: bool = False,
        exclude_seen: bool = False,
        allow: Iterable[str] | None = None,
        batch_size: int = BATCH_SIZE,
    ) -> Iterator[pd.DataFrame]:
        """As :meth:`recommend`, batch by batch: no history is read before its batch, and none is kept after it.

        Args:
            pairs: names of histories and their external item ids; for a model that reads times also the time of each item.
            k: number of items.
            label: what the column of names is called.
            are_users: whether they are users of the dataset by name, whom TIGER has tokens for and BPR embeddings.
            exclude_seen, allow, batch_size: as of :meth:`recommend`.

        Yields:
            A table for each batch with rows in it; an empty one if there is none. After the last, a warning tells what was unknown.

        Raises:
            UserError: as :meth:`recommend`.
        """
        if k < 1 or batch_size < 1:
            raise UserError(f"k and batch_size must be 1 or more, got {k} and {batch_size}; correct --topk or --batch_size")
        if not self._reads_histories and not are_users:
            raise UserError(f"{self.config.model} knows users, not histories; name users of the dataset")
        if self._reads_times and not are_users:
            raise UserError(
                f"{self.config.model} reads the time of every interaction, and histories of item ids have none; name users of the dataset "
                "(--users), or take the checkpoint of a model without times"
            )
        allowed, self.skipped, empty = self._allowed(allow), Skipped(), True
        if exclude_seen:
            batch_size = max(1, min(batch_size, MASK_CELLS // len(self.served.item_ids)))
        pairs = iter(pairs)
        while batch := list(islice(pairs, batch_size)):
            known = [(name, *self._known(*history)) for name, *history in batch]
            kept = [entry for entry in known if entry[1] or not self._reads_histories]
            if not kept:
                continue
            names, rows, times = zip(*kept)
            mask = self._without_seen(rows, allowed) if exclude_seen else allowed
            interaction = self._interaction(names, rows, are_users, times if self._reads_times else None)
            with torch.no_grad():
                items, scores = self.served.rank(interaction, k, None if mask is None else mask.to(self.config["device"]))
            frame, empty = self._frame(label, names, items, scores), False
            yield frame
        if empty and self.skipped.items:
            known = ", ".join(map(repr, self.served.item_ids[1:4]))
            raise UserError(
                f"the checkpoint knows none of the {self.skipped.items:,} items of these histories, such as {self.skipped.example!r}; "
                f"its items are called {known} …: write the ids as in the dataset"
            )
        if empty:
            yield self._frame(label, (), torch.zeros(0, k), torch.zeros(0, k))
        self.skipped.warn()

    def _known(self, items: Sequence[str], times: Sequence[float] = ()) -> tuple[list[int], list[float]]:
        """The model's numbers of the items that it knows, and the times of these."""
        row_of = self.served.row_of
        kept = [place for place, item in enumerate(items) if item in row_of]
        self.skipped.count(items, len(kept), next((item for item in items if item not in row_of), None))
        return [row_of[items[place]] for place in kept], [times[place] for place in kept] if times else []

    def _allowed(self, allow: Iterable[str] | None) -> Tensor | None:
        """bool ``[n_items]``; ``None`` if every item may be recommended."""
        row_of, flags = self.served.row_of, torch.ones(len(self.served.item_ids), dtype=torch.bool)
        if allow is not None:
            allow = list(allow)
            rows = [row_of[item] for item in allow if item in row_of]
            if not rows:
                raise UserError(f"the checkpoint knows none of the {len(allow)} allowed items, such as {some_of(allow)}; correct their ids")
            if len(rows) < len(allow):
                logger.warning(f"{len(allow) - len(rows)} of {len(allow)} allowed items are unknown to the checkpoint")
            flags[:] = False
            flags[rows] = True
        flags[[row_of[item] for item in self._removed]] = False
        return None if flags.all() else flags

    @staticmethod
    def _items_of(rows: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
        """Which history and which item, for all items of all histories."""
        history = torch.arange(len(rows)).repeat_interleave(torch.tensor([len(items) for items in rows]))
        return history, torch.tensor(list(chain.from_iterable(rows)), dtype=torch.int64)

    def _without_seen(self, rows: Sequence[list[int]], allowed: Tensor | None) -> Tensor:
        """bool ``[B, n_items]``."""
        n_items = len(self.served.item_ids)
        mask = torch.ones(len(rows), n_items, dtype=torch.bool) if allowed is None else allowed.repeat(len(rows), 1)
        mask[self._items_of(rows)] = False
        return mask

    def _interaction(
        self, names: Sequence[str], rows: Sequence[list[int]], are_users: bool, times: Sequence[list[float]] | None = None
    ) -> Interaction:
        columns, model = {}, self.served.model
        if self._reads_histories:
            width = self.config["MAX_ITEM_LIST_LENGTH"]
            recent = [items[-width:] for items in rows]
            lengths = torch.tensor([len(items) for items in recent])
            history = torch.zeros(len(recent), width, dtype=torch.int64)
            filled = torch.arange(width) < lengths[:, None]  # [B, width]
            history[filled] = self._items_of(recent)[1]  # row by row, from the left
            columns = {model.ITEM_SEQ: history, model.ITEM_SEQ_LEN: lengths}
            if times is not None:
                columns[self.config["TIME_FIELD"] + self.config["LIST_SUFFIX"]] = moments = torch.zeros(len(recent), width)
                moments[filled] = torch.tensor([time for own in times for time in own[-width:]])
        if are_users:
            columns[model.USER_ID] = torch.tensor([self._number_of(name) for name in names])
        return Interaction(columns).to(self.config["device"])

    def _number_of(self, user: str) -> int:
        """The model's number of a user; of one that came after training 0, RecBole's padding user, where the model reads histories."""
        number = self.served.user_number.get(user, 0)
        if not number and not self._reads_histories:
            raise UserError(f"user {user!r} came after the training of {self.config.model}, which knows users by number; train it again")
        return number

    def _frame(self, label: str, names: Sequence, items: Tensor, scores: Tensor) -> pd.DataFrame:
        items, scores = items.cpu().numpy(), scores.float().cpu().numpy()  # [B, k]
        history, rank = (items > 0).nonzero()
        chosen = items[history, rank].astype(np.int64)
        columns = {
            label: np.array(names, dtype=np.int64 if label == "row" else object)[history],
            "rank": rank + 1,
            "item": self.served.item_ids[chosen],
            # the shortest decimal that is this float32: -3.2145679, not -3.214567899703979
            "score": scores[history, rank].astype(str).astype(np.float64),
        }
        if self.served.sids is not None:
            codes = self.served.sids.codes[torch.from_numpy(chosen)].tolist()
            columns["sid"] = np.array(["-".join(map(str, row)) for row in codes], dtype=object)
        return pd.DataFrame(columns)


@dataclass
class Skipped:
    """What a model did not know of the histories that it was given.

    Attributes:
        items: unknown items.
        histories: histories that hold one.
        empty: histories without any known item.
        example: the first unknown item.
    """

    items: int = 0
    histories: int = 0
    empty: int = 0
    example: str | None = None

    def count(self, items: Sequence[str], n_known: int, unknown: str | None) -> None:
        """Take in one history, so many of whose items are known, and the first one that is not."""
        self.items += len(items) - n_known
        self.histories += n_known < len(items)
        self.empty += n_known == 0
        self.example = unknown if self.example is None else self.example

    def warn(self) -> None:
        """Say it in one line, where there is something to say."""
        if self.items or self.empty:
            logger.warning(
                f"items unknown to the checkpoint, passed over: {self.items}, in {self.histories} histories; histories without any known "
                f"item, which get no recommendations: {self.empty}"
            )
