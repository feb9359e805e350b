"""Using what was trained: recommendations for users and histories out of a run's checkpoint, also of items that came later."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from numbers import Integral
from threading import Lock, local
from typing import Any

import pandas as pd

from recbole_r3vae.config import Config
from recbole_r3vae.errors import UserError, short_repr
from recbole_r3vae.io import beside
from recbole_r3vae.quick_start.lookup import create_dataset
from recbole_r3vae.serve.batches import Batches, Skipped, allowed_items, ids_of
from recbole_r3vae.serve.growth import check_grows, grown
from recbole_r3vae.serve.inspect import Explanation, explain_item
from recbole_r3vae.serve.models import ServedModel
from recbole_r3vae.serve.users import UserHistories, some_of
from recbole_r3vae.sid.table import SemanticIDs

BATCH_SIZE = 256


def _check_count(name: str, value: Any, least: int = 1) -> None:
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise UserError(f"{name} is {short_repr(value)}; give a whole number from {least}")


class Recommender:
    """A trained model that recommends, with external ids of users and items.

    A model of this package needs nothing but its checkpoint; only the histories of users by name are read from the dataset. RecBole's
    own models need the dataset in any case: sequential ones (``SASRec``) then take histories or users, general ones (``BPR``) users alone.

    Threads may share one. Model and catalogue are one object that never changes, :attr:`served`; :meth:`add_items` and
    :meth:`remove_items` make another one, which shares the weights, and put it in its place when it is complete. A call looks once, when it
    begins: it answers by the catalogue before or after, and waits for neither. Writers wait for each other.

    Args:
        checkpoint: a run's folder or its ``best.pth``.
        config_dict: keys to set differently, such as ``device``, ``num_beams`` or ``data_path``.

    Attributes:
        served: the model and its items as they are now.

    Raises:
        UserError: there is no usable checkpoint, its model cannot rank every item, or a key has an unusable value.
    """

    def __init__(self, checkpoint: str | os.PathLike, config_dict: dict[str, Any] | None = None):
        self.served = ServedModel(checkpoint, dict(config_dict or {}))
        self._writing, self._reading_users, self._users = Lock(), Lock(), None
        self._last = local()

    @property
    def config(self) -> Config:
        """The run's configuration."""
        return self.served.config

    @property
    def skipped(self) -> Skipped:
        """What the last recommendations of this thread were asked for and the model did not know."""
        return getattr(self._last, "skipped", None) or Skipped()

    @property
    def users(self) -> UserHistories:
        """The histories of the dataset's users, which is read when they are first asked for."""
        with self._reading_users:
            if self._users is None:
                self._users = UserHistories(create_dataset(self.config))
            return self._users

    def histories_of(self, users: Sequence[str], as_of: str = "now") -> Iterator[tuple]:
        """What :meth:`stream` takes for users of the dataset: each with his items, and with their times where the model reads times.

        Args:
            users: external user ids.
            as_of: see :meth:`recommend`.

        Raises:
            UserError: users are unknown, or have no such history.
        """
        users = ids_of("users", users)
        return self.users.timed(users, as_of) if self.served.reads_times else self.users.of(users, as_of)

    # -- the catalogue -----------------------------------------------------------------------------------------------------

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
                vectors are missing. Then nothing has changed.
        """
        check_grows(self.served)
        if not isinstance(sids, SemanticIDs):
            vectors = vectors or beside(sids, ".npy")
            sids = SemanticIDs.load(sids)
        with self._writing:
            before = self.served
            after = grown(before, sids, vectors, policy)
            if after is not before:
                _warm(after)
            self.served = after.with_back(sids.item_ids)
        return len(after.item_ids) - len(before.item_ids)

    def remove_items(self, item_ids: Iterable[str]) -> None:
        """Take items out of what can be recommended. In histories they are still read, and :meth:`add_items` brings them back.

        Raises:
            UserError: some are unknown; nothing is removed.
        """
        item_ids = ids_of("remove_items", item_ids)
        with self._writing:
            unknown = [item for item in item_ids if item not in self.served.row_of]
            if unknown:
                raise UserError(f"items to remove that the checkpoint does not know: {some_of(unknown)}; correct their ids")
            self.served = self.served.without(item_ids)

    def explain(self, item: str, n: int = 10) -> Explanation:
        """What an item's codes say of it: its semantic ID, how many items share each part of it, and the nearest ones.

        Args:
            item: external item id. Removed items keep their codes, and count.
            n: how many of the nearest.

        Raises:
            UserError: the model has no semantic IDs, the item is unknown, or n is no whole number from 0.
        """
        _check_count("n", n, least=0)
        sids = self.served.sids
        if sids is None:
            raise UserError(f"{self.config.model} has no semantic IDs to explain an item by; take the checkpoint of a generator, such as R3GR")
        return explain_item(sids, item, n)

    # -- recommendations ---------------------------------------------------------------------------------------------------

    def recommend(
        self,
        histories: Mapping[str, Sequence[str]] | Iterable[Sequence[str]] | None = None,
        k: int = 10,
        users: Sequence[str] | None = None,
        as_of: str = "now",
        exclude_seen: bool = False,
        allow: Iterable[str] | None = None,
        batch_size: int = BATCH_SIZE,
        exclude: Iterable[str] | None = None,
    ) -> pd.DataFrame:
        """The k best items for each history, or each user.

        Args:
            histories: external item ids of each history, oldest first; a mapping or pandas Series names them.
            k: number of items.
            users: instead of histories, users of the dataset.
            as_of: which history of such a user: ``now``, all interactions; ``test`` or ``valid``, what the evaluation predicts his test or
                validation item from.
            exclude_seen: whether to leave out the items of the history. (A test measures both.)
            allow: the only items that may be recommended; default: all.
            batch_size: histories at a time.
            exclude: items that may not be recommended in this call.

        Returns:
            A row for each recommended item: ``user`` (or ``row``, the number of the history from 0), ``rank`` from 1, ``item``, ``score``
            (a generator's is the log-probability of the item's semantic ID) and, from a generator, ``sid``. There are fewer than k for a
            history where the catalogue or what is allowed holds fewer or the beam finds fewer, and none where no item of it is known.

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
            pairs, label = enumerate(ids_of("histories", histories)), "row"
        frames = list(self.stream(pairs, k, label, users is not None, exclude_seen, allow, batch_size, exclude))
        return frames[0] if len(frames) == 1 else pd.concat(frames, ignore_index=True)

    def stream(
        self,
        pairs: Iterable[tuple],
        k: int = 10,
        label: str = "row",
        are_users: bool = False,
        exclude_seen: bool = False,
        allow: Iterable[str] | None = None,
        batch_size: int = BATCH_SIZE,
        exclude: Iterable[str] | None = None,
        warn: bool = True,
    ) -> Iterator[pd.DataFrame]:
        """As :meth:`recommend`, batch by batch: no history is read before its batch, and none is kept after it.

        What comes into the catalogue or goes after the call is not seen by it, however long it takes.

        Args:
            pairs: names of histories and their external item ids; for a model that reads times also the time of each item.
            k: number of items.
            label: what the column of names is called.
            are_users: whether they are users of the dataset by name, whom TIGER has tokens for and BPR embeddings.
            exclude_seen, allow, batch_size, exclude: as of :meth:`recommend`.
            warn: whether a warning tells, after the last batch, what was unknown; :attr:`skipped` does in any case.

        Returns:
            An iterator of tables, one for each batch with rows in it; an empty one if there is none.

        Raises:
            UserError: as :meth:`recommend`.
        """
        served = self.served
        _check_count("k (--topk)", k)
        _check_count("batch_size", batch_size)
        if not served.reads_histories and not are_users:
            raise UserError(f"{self.config.model} knows users, not histories; name users of the dataset")
        if served.reads_times and not are_users:
            raise UserError(
                f"{self.config.model} reads the time of every interaction, and histories of item ids have none; name users of the dataset "
                "(--users), or take the checkpoint of a model without times"
            )
        if k > served.most_items < len(served.item_ids) - 1:
            raise UserError(
                f"k is {k}, and {self.config.model} finds as many items as its beam is wide, num_beams={served.most_items}; lower k, or raise "
                "num_beams"
            )
        k = min(k, served.most_items)  # the catalogue
        batches = Batches(served, k, label, are_users, exclude_seen, batch_size, allowed_items(served, allow, exclude), warn)
        self._last.skipped = batches.skipped
        return batches.tables(pairs)


def _warm(served: ServedModel) -> None:
    """Rank once, so that what a model keeps of a catalogue, its tree or the vectors of all items, is made by who changes the catalogue and
    not by the first who asks."""
    one = ("", [served.item_ids[-1]], [0.0])  # somebody whom no training knew, with one item
    for _ in Batches(served, 1, "user", True, False, 1, None).tables([one]):
        pass
