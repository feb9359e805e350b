"""The histories of a dataset's users, up to now or as far as the evaluation shows them to a model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from recbole.data.dataset import Dataset
from recbole.utils import ModelType

from recbole_r3vae.errors import UserError

AS_OF = ("now", "valid", "test")

PART_OF = {"valid": 1, "test": 2}
"""Which of the parts that were split before, or by time, counted from 0."""

HELD_OUT = {"valid_and_test": {"valid": 2, "test": 1}, "valid_only": {"valid": 1}, "test_only": {"test": 1}}
"""RecBole's leave-one-out splits: how many of a user's last interactions come after the history that a part is predicted from."""


class UserHistories:
    """What each user of a dataset interacted with, in time order.

    Where the dataset was split before, the parts follow one another, in each the times. Lines that bring their histories along know more
    than the lines before them: a history is then that of the user's last line with its target, and as of a part that of his first line
    in it. Where all users are split at the same points of time, what lies between and after these are parts too.

    Args:
        dataset: Loaded and not yet split; it is left as it is.

    Attributes:
        number: External user id to RecBole's number of the user.
    """

    def __init__(self, dataset: Dataset):
        self._name, self._evaluation = dataset.config["dataset"], dataset.config["eval_args"]
        self._is_sequential = dataset.config["MODEL_TYPE"] == ModelType.SEQUENTIAL
        frame, parts = dataset.inter_feat, None
        keys = [frame[dataset.time_field].to_numpy()] if dataset.time_field in frame else []  # still in full precision
        if getattr(dataset, "stage_of_rows", None):
            parts = dataset.stage_of_rows()
        if parts is not None:
            keys.append(parts)
        users = frame[dataset.uid_field].to_numpy()
        order = np.lexsort([*keys, users])  # stable: by user, then part, then time
        names = dataset.field2id_token[dataset.iid_field].astype(str)
        self._items = names[frame[dataset.iid_field].to_numpy()[order]]
        self._times = keys[0][order] if dataset.time_field in frame else None  # as the model is trained on them
        self._begin = np.searchsorted(users[order], np.arange(dataset.user_num + 1))
        self._users = dataset.field2id_token[dataset.uid_field].astype(str)
        self.number = {user: number for number, user in enumerate(self._users) if number}
        self._parts = None if parts is None else parts[order]
        self._told = None  # the history in each line
        if parts is not None and dataset.has_histories:
            told = frame[dataset.histories_field].tolist()
            self._told = [names[told[row]] for row in order]

    def users(self, as_of: str = "now") -> list[str]:
        """All users who have a history as of a time; see :meth:`of`."""
        return self._users[1:][self._has_history(as_of)[1:]].tolist()

    def of(self, users: Sequence[str], as_of: str = "now") -> Iterator[tuple[str, list[str]]]:
        """Users and the external ids of their items, oldest first; each history is made when it is asked for.

        Args:
            users: External user ids.
            as_of: ``now``: all interactions; ``test``, ``valid``: those that the evaluation predicts the test or validation item from, the
                first of them where a user has several.

        Raises:
            UserError: users that are not in the dataset, or have no such item (the message names some); or the dataset is not split
                by leaving one out.
        """
        return ((user, self._history(number, as_of).tolist()) for user, number in self._asked(users, as_of))

    def timed(self, users: Sequence[str], as_of: str = "now") -> Iterator[tuple[str, list[str], list[float]]]:
        """As :meth:`of`, with the time of each interaction, in the unit and from the beginning that the model's dataset counts in.

        Raises:
            UserError: as :meth:`of`; or the dataset has no times.
        """
        if self._times is None or self._told is not None:
            raise UserError(f"dataset {self._name} is loaded without a time for each interaction, which the model reads; load the times")
        asked = ((user, self._span(number, as_of)) for user, number in self._asked(users, as_of))
        return ((user, self._items[span].tolist(), self._times[span].tolist()) for user, span in asked)

    def _asked(self, users: Sequence[str], as_of: str) -> list[tuple[str, int]]:
        """Users and their numbers; refuses those who have no such history."""
        known = self._has_history(as_of)
        unknown = [user for user in users if user not in self.number]
        if unknown:
            names = ", ".join(repr(str(user)) for user in self._users[1:4])
            raise UserError(
                f"users unknown to dataset {self._name}: {some_of(unknown)}; it knows {names} …: correct their ids, or give their histories"
            )
        short = [user for user in users if not known[self.number[user]]]
        if short:
            why = f"with fewer than {self._least(as_of)} interactions" if self._parts is None else "without interactions before it"
            raise UserError(f"users {why} have no {as_of} item: {some_of(short)}; leave them out")
        return [(user, self.number[user]) for user in users]

    def _has_history(self, as_of: str) -> np.ndarray:
        """bool ``[n_users]``."""
        if self._parts is None or as_of == "now":
            return np.diff(self._begin) >= self._least(as_of)
        self._check_as_of(as_of)
        return np.array([self._first_line(number, as_of) is not None for number in range(len(self._begin) - 1)])

    def _history(self, number: int, as_of: str) -> np.ndarray:
        if self._told is None:
            return self._items[self._span(number, as_of)]
        end = self._begin[number + 1]
        return self._told[self._first_line(number, as_of)] if as_of != "now" else np.append(self._told[end - 1], self._items[end - 1])

    def _span(self, number: int, as_of: str) -> slice:
        """Where a user's history lies among the lines."""
        begin, end = self._begin[number], self._begin[number + 1]
        if self._parts is None:
            return slice(begin, end - self._held_out(as_of))
        return slice(begin, end if as_of == "now" else self._first_line(number, as_of))

    def _first_line(self, number: int, as_of: str) -> int | None:
        """Of a user in a part; ``None`` where he has none, or no history before it."""
        begin, end = self._begin[number], self._begin[number + 1]
        part = PART_OF[as_of]
        line = begin + int(np.searchsorted(self._parts[begin:end], part))
        if line == end or self._parts[line] != part:
            return None
        return line if (line > begin if self._told is None else len(self._told[line])) else None

    @staticmethod
    def _check_as_of(as_of: str) -> None:
        if as_of not in AS_OF:
            raise UserError(f"as_of is {as_of!r}; choose {', '.join(AS_OF)}")

    def _held_out(self, as_of: str) -> int:
        self._check_as_of(as_of)
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
        held_out = 0 if self._parts is not None else self._held_out(as_of)
        return 1 + held_out + (held_out > 0 and self._is_sequential)


def some_of(names: Sequence[str], n: int = 5) -> str:
    """The first names, and how many more there are; for messages."""
    more = f" and {len(names) - n} more" if len(names) > n else ""
    return ", ".join(map(repr, names[:n])) + more
