"""What ``prepare`` asks of a raw format: the files it needs, the fields it gives, and how to read them.

The interactions are read first and filtered; the item text is then kept only for the items that are left, so
that the full metadata dumps (gigabytes) never have to fit into memory.
"""

from __future__ import annotations

import math
import re
from array import array
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from recbole_r3vae.data.raw.files import RawFile

Files = Mapping[str, Sequence[RawFile]]  # role ("reviews", "meta", …) -> the files that play it
Rows = dict[str, tuple[str, ...]]  # item or user id -> its cells, without the id

# Ids that survive a tab-separated file and pandas' quoting.
_ID = re.compile(r'[^\s"\x00-\x1f\x7f][^\s\x00-\x1f\x7f]*')


class Interactions:
    """Who met what and when, as columns that grow; ids are numbered in order of first appearance."""

    def __init__(self) -> None:
        self.users: dict[str, int] = {}
        self.items: dict[str, int] = {}
        self.user = array("q")
        self.item = array("q")
        self.timestamp = array("d")
        self.rating = array("d")

    def __len__(self) -> int:
        return len(self.user)

    def add(self, user: str, item: str, timestamp: float, rating: float = 0.0) -> None:
        """Append one interaction.

        Args:
            user: User id.
            item: Item id.
            timestamp: Unix seconds.
            rating: The rating, in formats that have one.

        Raises:
            ValueError: an id that a tab-separated file cannot hold, or a number that is not finite.
        """
        check_id(user)
        check_id(item)
        if not (math.isfinite(timestamp) and math.isfinite(rating)):
            raise ValueError(f"time {timestamp!r} or rating {rating!r} is not finite")
        self.user.append(self.users.setdefault(user, len(self.users)))
        self.item.append(self.items.setdefault(item, len(self.items)))
        self.timestamp.append(timestamp)
        self.rating.append(rating)


def check_id(name: object) -> None:
    """Raise ``ValueError`` for an id that is no text, is empty, or holds white space or an opening quote."""
    if not isinstance(name, str) or not _ID.fullmatch(name):
        raise ValueError(f"bad id {name!r}")


@dataclass(frozen=True)
class Role:
    """One raw file (or several of a kind) that a format reads.

    Args:
        help: What the file is, for the command line's help and for errors.
        members: Its names inside the published zip archive, preferred one first; empty without an archive.
        required: Whether the format cannot be read without it.
    """

    help: str
    members: tuple[str, ...] = ()
    required: bool = True


@dataclass(frozen=True)
class RawFormat:
    """How to read one family of data sets.

    Args:
        roles: The files by role, which is the command-line option and the key in ``prepare(sources=...)``.
        has_rating: Whether interactions carry a rating.
        item_fields: Header of ``.item`` behind ``item_id:token``.
        read_interactions: ``(files, show_progress) -> Interactions``.
        read_items: ``(files, wanted item ids, show_progress) -> Rows``, a cell for each of ``item_fields``.
        user_fields: Header of ``.user`` behind ``user_id:token``; empty when the format describes no users.
        read_users: As ``read_items``, for users; called when the role ``users`` is given.
    """

    roles: dict[str, Role]
    has_rating: bool
    item_fields: tuple[str, ...]
    read_interactions: Callable[[Files, bool], Interactions]
    read_items: Callable[[Files, Collection[str], bool], Rows]
    user_fields: tuple[str, ...] = ()
    read_users: Callable[[Files, Collection[str], bool], Rows] | None = None

    @property
    def has_archive(self) -> bool:
        """Whether the files are published together as a zip archive, which the source ``zip`` can name."""
        return any(role.members for role in self.roles.values())


def cells_of(
    file: RawFile, separator: str, n: int, expected: str, show_progress: bool
) -> Iterator[tuple[int, str, list[str]]]:
    """Number, text and cells of each line; a line that has not ``n`` cells is a ``UserError``."""
    for number, line in file.lines(show_progress, latin1=True):
        cells = line.split(separator)
        if len(cells) != n:
            raise file.error(number, line, expected)
        yield number, line, cells
