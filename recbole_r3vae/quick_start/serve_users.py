"""The histories of a dataset's users, up to now or as far as the evaluation shows them to a model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from recbole.data.dataset import Dataset
from recbole.utils import ModelType

from recbole_r3vae.errors import UserError

AS_OF = ("now", "valid", "test")

HELD_OUT = {"valid_and_test": {"valid": 2, "test": 1}, "valid_only": {"valid": 1}, "test_only": {"test": 1}}
"""RecBole's leave-one-out splits: how many of a user's last interactions come after the history that a part is predicted from."""


class UserHistories:
    """What each user of a dataset interacted with, in time order.

    Args:
        dataset: Loaded and not yet split; it is left as it is.

    Attributes:
        number: External user id to RecBole's number of the user.
    """

    def __init__(self, dataset: Dataset):
        frame, self._name = dataset.inter_feat, dataset.config["dataset"]
        if dataset.time_field in frame:  # still in full precision, as this package splits it
            frame = frame.sort_values(dataset.time_field, kind="stable")
        frame = frame.sort_values(dataset.uid_field, kind="stable")
        self._items = dataset.field2id_token[dataset.iid_field].astype(str)[frame[dataset.iid_field].to_numpy()]
        self._times = frame[dataset.time_field].to_numpy() if dataset.time_field in frame else None  # as the model is trained on them
        self._begin = np.searchsorted(frame[dataset.uid_field].to_numpy(), np.arange(dataset.user_num + 1))
        self._users = dataset.field2id_token[dataset.uid_field].astype(str)
        self.number = {user: number for number, user in enumerate(self._users) if number}
        self._evaluation, self._is_sequential = dataset.config["eval_args"], dataset.config["MODEL_TYPE"] == ModelType.SEQUENTIAL

    def users(self, as_of: str = "now") -> list[str]:
        """All users who have a history as of a time; see :meth:`of`."""
        return self._users[1:][np.diff(self._begin)[1:] >= self._least(as_of)].tolist()

    def of(self, users: Sequence[str], as_of: str = "now") -> Iterator[tuple[str, list[str]]]:
        """Users and the external ids of their items, oldest first; each history is made when it is asked for.

        Args:
            users: External user ids.
            as_of: ``now``: all interactions; ``test``, ``valid``: those that the evaluation predicts the test or validation item from.

        Raises:
            UserError: users that are not in the dataset, or have no such item (the message names some); or the dataset is not split
                by leaving one out.
        """
        return ((user, self._items[places].tolist()) for user, places in self._places(users, as_of))

    def timed(self, users: Sequence[str], as_of: str = "now") -> Iterator[tuple[str, list[str], list[float]]]:
        """As :meth:`of`, with the time of each interaction, in the unit and from the beginning that the model's dataset counts in.

        Raises:
            UserError: as :meth:`of`; or the dataset has no times.
        """
        if self._times is None:
            raise UserError(f"dataset {self._name} is loaded without times, which the model reads; add TIME_FIELD to load_col")
        return ((user, self._items[places].tolist(), self._times[places].tolist()) for user, places in self._places(users, as_of))

    def _places(self, users: Sequence[str], as_of: str) -> Iterator[tuple[str, slice]]:
        """Users, and where their histories lie."""
        held_out, least = self._held_out(as_of), self._least(as_of)
        unknown = [user for user in users if user not in self.number]
        if unknown:
            known = ", ".join(map(repr, self._users[1:4]))
            raise UserError(
                f"users unknown to dataset {self._name}: {some_of(unknown)}; it knows {known} …: correct their ids, or give their histories"
            )
        length = np.diff(self._begin)
        short = [user for user in users if length[self.number[user]] < least]
        if short:
            raise UserError(f"users with fewer than {least} interactions have no {as_of} item: {some_of(short)}; leave them out")
        places = (self.number[user] for user in users)
        return ((user, slice(self._begin[n], self._begin[n + 1] - held_out)) for user, n in zip(users, places))

    def _held_out(self, as_of: str) -> int:
        if as_of not in AS_OF:
            raise UserError(f"as_of is {as_of!r}; choose {', '.join(AS_OF)}")
        if as_of == "now":
            return 0
        split = (self._evaluation["split"] or {}).get("LS")
        if as_of not in HELD_OUT.get(split, {}) or self._evaluation["order"] != "TO":
            raise UserError(
                f"as_of={as_of} needs a split that leaves one {as_of} item out, in time order; this run has eval_args "
                f"{dict(self._evaluation)}; take as_of=now"
            )
        return HELD_OUT[split][as_of]

    def _least(self, as_of: str) -> int:
        """RecBole keeps one interaction for training, and sequential models take a user's first for the start of his history."""
        held_out = self._held_out(as_of)
        return 1 + held_out + (held_out > 0 and self._is_sequential)


def some_of(names: Sequence[str], n: int = 5) -> str:
    """The first names, and how many more there are; for messages."""
    more = f" and {len(names) - n} more" if len(names) > n else ""
    return ", ".join(map(repr, names[:n])) + more
