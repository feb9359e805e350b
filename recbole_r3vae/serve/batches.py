"""One call of a recommender: from histories to tables of the best items, a batch at a time, all by one state of the catalogue."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice

import numpy as np
import pandas as pd
import torch
from recbole.data.interaction import Interaction
from torch import Tensor

from recbole_r3vae.errors import UserError, short_repr
from recbole_r3vae.serve.models import ServedModel
from recbole_r3vae.serve.users import some_of

logger = logging.getLogger(__name__)

MASK_CELLS = 2**24
"""Flags of allowed items that exist at once where they differ between users; restricting a tree takes some 20 bytes for each."""


def ids_of(what: str, given: Iterable[str]) -> list[str]:
    """A list of ids.

    Raises:
        UserError: it is a text, whose letters would be taken for ids.
    """
    if isinstance(given, str):
        raise UserError(f"{what} takes a list of ids, got the text {short_repr(given)}; write [{short_repr(given)}]")
    return list(given)


def allowed_items(served: ServedModel, allow: Iterable[str] | None, exclude: Iterable[str] | None) -> Tensor | None:
    """bool ``[n_items]``: what may be recommended; ``None`` if every item may.

    Args:
        served: the model and its items.
        allow: the only items; default: all.
        exclude: all but these.

    Raises:
        UserError: no allowed item is known. Where some are not, or some excluded ones, a warning names them.
    """
    row_of, flags = served.row_of, torch.ones(len(served.item_ids), dtype=torch.bool)
    if allow is not None:
        allow = ids_of("allow", allow)
        rows = [row_of[item] for item in allow if item in row_of]
        if not rows:
            raise UserError(f"the checkpoint knows none of the {len(allow)} allowed items, such as {some_of(allow)}; correct their ids")
        _warn_of_unknown("allowed", allow, served)
        flags[:] = False
        flags[rows] = True
    if exclude is not None:
        exclude = ids_of("exclude", exclude)
        _warn_of_unknown("excluded", exclude, served)
        flags[[row_of[item] for item in exclude if item in row_of]] = False
    flags[[row_of[item] for item in served.removed]] = False
    return None if flags.all() else flags


def _warn_of_unknown(kind: str, items: Sequence[str], served: ServedModel) -> None:
    unknown = [item for item in items if item not in served.row_of]
    if unknown:
        logger.warning(f"{len(unknown)} of {len(items)} {kind} items are unknown to the checkpoint: {some_of(unknown)}")


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


@dataclass
class Batches:
    """What one call asks for.

    Attributes:
        served: the model and its items as they are when the call begins; whatever comes or goes later is of other calls.
        k, label, are_users, exclude_seen, batch_size: see :meth:`~recbole_r3vae.serve.recommender.Recommender.stream`.
        allowed: bool ``[n_items]``, the only items that may be recommended; ``None`` for all.
        warn: whether to say at the end what the model did not know.
        skipped: what the model did not know so far.
    """

    served: ServedModel
    k: int
    label: str
    are_users: bool
    exclude_seen: bool
    batch_size: int
    allowed: Tensor | None
    warn: bool = True
    skipped: Skipped = field(default_factory=Skipped)

    def tables(self, pairs: Iterable[tuple]) -> Iterator[pd.DataFrame]:
        """See :meth:`~recbole_r3vae.serve.recommender.Recommender.stream`."""
        served, empty, size = self.served, True, self.batch_size
        if self.exclude_seen:
            size = max(1, min(size, MASK_CELLS // len(served.item_ids)))
        pairs = iter(pairs)
        while batch := list(islice(pairs, size)):
            known = [(name, *self._known(*history)) for name, *history in batch]
            kept = [entry for entry in known if entry[1] or not served.reads_histories]
            if not kept:
                continue
            names, rows, times = zip(*kept)
            mask = self._without_seen(rows) if self.exclude_seen else self.allowed
            interaction = self._interaction(names, rows, times if served.reads_times else None)
            with torch.no_grad():
                items, scores = served.rank(interaction, self.k, None if mask is None else mask.to(served.config["device"]))
            frame, empty = self._frame(names, items, scores), False
            yield frame
        if empty and self.skipped.items:
            known = ", ".join(map(repr, served.item_ids[1:4]))
            raise UserError(
                f"the checkpoint knows none of the {self.skipped.items:,} items of these histories, such as {self.skipped.example!r}; "
                f"its items are called {known} …: write the ids as in the dataset"
            )
        if empty:
            yield self._frame((), torch.zeros(0, self.k), torch.zeros(0, self.k))
        if self.warn:
            self.skipped.warn()

    def _known(self, items: Sequence[str], times: Sequence[float] = ()) -> tuple[list[int], list[float]]:
        """The model's numbers of the items that it knows, and the times of these."""
        row_of = self.served.row_of
        if isinstance(items, str):
            ids_of("a history", items)  # refuses
        kept = [place for place, item in enumerate(items) if item in row_of]
        self.skipped.count(items, len(kept), next((item for item in items if item not in row_of), None))
        return [row_of[items[place]] for place in kept], [times[place] for place in kept] if times else []

    @staticmethod
    def _items_of(rows: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
        """Which history and which item, for all items of all histories."""
        history = torch.arange(len(rows)).repeat_interleave(torch.tensor([len(items) for items in rows]))
        return history, torch.tensor(list(chain.from_iterable(rows)), dtype=torch.int64)

    def _without_seen(self, rows: Sequence[list[int]]) -> Tensor:
        """bool ``[B, n_items]``."""
        n_items, allowed = len(self.served.item_ids), self.allowed
        mask = torch.ones(len(rows), n_items, dtype=torch.bool) if allowed is None else allowed.repeat(len(rows), 1)
        mask[self._items_of(rows)] = False
        return mask

    def _interaction(self, names: Sequence[str], rows: Sequence[list[int]], times: Sequence[list[float]] | None) -> Interaction:
        served, columns = self.served, {}
        config, model = served.config, served.model
        if served.reads_histories:
            width = config["MAX_ITEM_LIST_LENGTH"]
            recent = [items[-width:] for items in rows]
            lengths = torch.tensor([len(items) for items in recent])
            history = torch.zeros(len(recent), width, dtype=torch.int64)
            filled = torch.arange(width) < lengths[:, None]  # [B, width]
            history[filled] = self._items_of(recent)[1]  # row by row, from the left
            columns = {model.ITEM_SEQ: history, model.ITEM_SEQ_LEN: lengths}
            if times is not None:
                columns[config["TIME_FIELD"] + config["LIST_SUFFIX"]] = moments = torch.zeros(len(recent), width)
                moments[filled] = torch.tensor([time for own in times for time in own[-width:]])
        if self.are_users:
            columns[model.USER_ID] = torch.tensor([served.number_of(name) for name in names])
        return Interaction(columns).to(config["device"])

    def _frame(self, names: Sequence, items: Tensor, scores: Tensor) -> pd.DataFrame:
        served, label = self.served, self.label
        items, scores = items.cpu().numpy(), scores.float().cpu().numpy()  # [B, k]
        history, rank = (items > 0).nonzero()
        chosen = items[history, rank].astype(np.int64)
        columns = {
            label: np.array(names, dtype=np.int64 if label == "row" else object)[history],
            "rank": rank + 1,
            "item": served.item_ids[chosen],
            # the shortest decimal that is this float32: -3.2145679, not -3.214567899703979
            "score": scores[history, rank].astype(str).astype(np.float64),
        }
        if served.sids is not None:
            codes = served.sids.codes[torch.from_numpy(chosen)].tolist()
            columns["sid"] = np.array(["-".join(map(str, row)) for row in codes], dtype=object)
        return pd.DataFrame(columns)
