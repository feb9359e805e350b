"""Which column of a shop's tables is what, by its name and by what it holds."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from recbole_r3vae.data.raw.tables import Table
from recbole_r3vae.data.raw.times import parse_times
from recbole_r3vae.errors import UserError, did_you_mean, short_repr

ROLES = ("user", "item", "time", "rating", "id", "text")
"""What a column can be: the first four in the events, ``id`` (of the item) and ``text`` in the catalogue."""

_ITEMS = (
    {"itemid", "iid"}, {"item"}, {"productid", "sku", "articleid", "asin", "parentasin", "goodsid", "isbn"}, {"product", "article"},
    {"movieid", "filmid", "bookid", "trackid", "songid", "artistid", "videoid", "newsid"},
    {"movie", "film", "book", "track", "song", "artist", "video", "news"},
)  # fmt: skip
_NAMES: dict[str, tuple[set[str], ...]] = {
    "user": (
        {"userid", "uid"}, {"user"}, {"customerid", "clientid", "reviewerid", "memberid", "accountid", "buyerid", "shopperid"},
        {"customer", "client", "reviewer", "member", "account", "buyer", "shopper"}, {"visitorid"}, {"visitor"}, {"sessionid"}, {"session"},
    ),
    "item": _ITEMS,
    "id": (*_ITEMS, {"id"}),
    "time": (
        {"timestamp"}, {"time", "datetime", "eventtime", "ts", "unixtime", "unixreviewtime", "date", "when"},
        {"createdat", "orderedat", "boughtat", "purchasedat", "orderdate", "orderts", "purchasedate", "reviewtime", "tdat"},
    ),
    "rating": ({"rating"}, {"stars", "score", "overall"}),
}  # fmt: skip
"""A role to the names that its column may have, without case and punctuation; those of an earlier set are surer."""

_NO_TEXT = {
    "links": r"""[\["'\s]*(?:https?|ftp)://\S+""", "lists of numbers": r"\[[-+.,\s\deE]+\]", "mappings": r"(?s:[\[\s]*\{.*)",
    "yes or no": r"(?i:true|false|yes|no)",
}  # fmt: skip
"""What is no text to what its cells look like."""

_LOOKED_AT = 1000  # cells by which a column is judged
_FIRST_TEXTS = ("title", "name")
_RECENT = 6e8  # seconds, in 1989
_EXAMPLE = "--columns user=customer item=sku time=bought_at"
_DECIMAL = r"[-+]?(?:\d+[.,]?\d*|[.,]\d+)(?:[eE][-+]?\d+)?"  # with a comma too, as beside semicolons


@dataclass(frozen=True)
class Columns:
    """Which column is what.

    Args:
        user, item, time: Of the events.
        rating: Of the events, if they have one.
        id: The item in the catalogue.
        text: Of the catalogue, in the order in which texts are joined.
        left_out: Other columns of the catalogue to the reason why they are no text.
    """

    user: str
    item: str
    time: str
    rating: str | None
    id: str
    text: tuple[str, ...]
    left_out: dict[str, str]


def find_columns(events: Table, items: Table, given: Mapping[str, Sequence[str]]) -> Columns:
    """Say which column is what: what is given is taken, the rest guessed.

    A name decides before what a column holds. Without one, the item is the column whose values both tables share, the time the column of
    times, and the user the one column that is left.

    Args:
        events: Who met what and when.
        items: The catalogue.
        given: Role (one of :data:`ROLES`) to names of columns, one but for ``text``. An ``item`` that the catalogue has is its ``id`` too.

    Raises:
        UserError: a role or column does not exist; or a column is not found, or several could be it: the message names them.
    """
    given = _checked(events, items, given)
    item_id = _one(given, "id") or _named("id", items)
    item = _one(given, "item") or _named("item", events)
    if item_id is None:
        sold = set(events.cells[item] if item else events.cells.head(_LOOKED_AT).to_numpy().ravel())
        item_id = _holding("id", items, lambda cells: cells.is_unique and cells.isin(sold).any())
    if item is None:
        known = set(items.cells[item_id])
        item = _holding("item", events, lambda cells: cells.head(_LOOKED_AT).isin(known).mean() > 0.5)
    time = _one(given, "time") or _named("time", events, [item], _is_time) or _late_or_refused(events, item)
    rating = _one(given, "rating") or _named("rating", events, [item, time], _is_number)
    taken = [item, time, rating]
    user = _one(given, "user") or _named("user", events, taken) or _holding("user", events, lambda cells: True, taken)
    if len({user, item, time, rating}) < 4:
        raise UserError(f"{events.path}: one column is two of user, item, time and rating; name another with --columns user=…")
    return Columns(user, item, time, rating, item_id, *_texts(items, item_id, given.get("text")))


def _checked(events: Table, items: Table, given: Mapping[str, Sequence[str]]) -> dict[str, Sequence[str]]:
    """What was given, when all of it exists; with the catalogue's ``id`` where ``item`` names it."""
    given = dict(given)
    for role, names in given.items():
        if role not in ROLES:
            raise UserError(f"--columns: {short_repr(role)} is none of {', '.join(ROLES)}; write {_EXAMPLE}")
        if not names or len(names) > 1 and role != "text":
            raise UserError(f"--columns: {role} takes one column, not {short_repr(', '.join(names))}; write {_EXAMPLE}")
    item = _one(given, "item")
    if item in items.cells and "id" not in given:
        given["id"] = [item]
        if item not in events.cells:
            del given["item"]
    for role, names in given.items():
        table = items if role in ("id", "text") else events
        absent = next((name for name in names if name not in table.cells), None)
        if absent is not None:
            hint = did_you_mean(absent, table.cells)
            raise UserError(f"--columns: {table.path} has no column {short_repr(absent)}{hint}; it has {', '.join(table.cells)}")
    return given


def _one(given: Mapping[str, Sequence[str]], role: str) -> str | None:
    return given[role][0] if role in given else None


def _named(role: str, table: Table, taken: Collection[str] = (), holds: Callable[[pd.Series], bool] = lambda cells: True) -> str | None:
    """The free column of the surest name that holds the right thing."""
    for names in _NAMES[role]:
        found = [column for column in table.cells if column not in taken and re.sub(r"[\W_]", "", column).lower() in names]
        found = [column for column in found if holds(table.cells[column])]
        if found:
            return _only(role, table, found)
    return None


def _holding(role: str, table: Table, holds: Callable[[pd.Series], bool], taken: Collection[str] = ()) -> str:
    """The one free column that holds the right thing, whatever its name."""
    free = [column for column in table.cells if column not in taken]
    return _only(role, table, [column for column in free if holds(table.cells[column])], free)


def _only(role: str, table: Table, found: list[str], free: Sequence[str] = ()) -> str:
    if len(found) == 1:
        return found[0]
    what = {"id": "item's id"}.get(role, role)
    if found:
        raise UserError(f"{table.path}: {' or '.join(found)} could be the {what}; name it with --columns {role}={found[0]}")
    there = ", ".join(free) or "all its columns are taken"
    raise UserError(f"{table.path}: no column looks like the {what} ({there}); name it with --columns {role}=<column>")


# -- what a column holds -------------------------------------------------------------------------------------------------


def _sample(cells: pd.Series) -> pd.Series:
    return cells[cells.str.strip() != ""].head(_LOOKED_AT).str.strip()


def _is_number(cells: pd.Series) -> bool:
    there = _sample(cells)
    return len(there) > 0 and bool(there.str.fullmatch(_DECIMAL).mean() > 0.9)


def _is_time(cells: pd.Series) -> bool:
    there = _sample(cells)
    return len(there) > 0 and parse_times(there).bad.mean() < 0.5


def _is_late(cells: pd.Series) -> bool:
    """Whether it holds times of this age: small numbers, which could be anything, are none."""
    there = _sample(cells)
    times = parse_times(there)
    return len(there) > 0 and times.bad.mean() < 0.5 and bool((times.seconds[~times.bad] > _RECENT).mean() > 0.5)


def _late_or_refused(events: Table, item: str) -> str:
    """The one column of times of this age; where there is none, a column that is called a time is refused by what it holds."""
    if not any(_is_late(events.cells[column]) for column in events.cells if column != item):
        named = _named("time", events, [item], lambda cells: len(_sample(cells)) > 0)
        if named is not None:
            raise UserError(
                f"{events.path}: {named} is called a time and holds {short_repr(_sample(events.cells[named]).iloc[0])}, which could be read in "
                "several ways or in none; write 2021-03-04, with or without 05:06:07, or seconds since 1970, or name another with --columns time=<column>"
            )
    return _holding("time", events, _is_late, [item])


def _texts(items: Table, item_id: str, given: Sequence[str] | None) -> tuple[tuple[str, ...], dict[str, str]]:
    """The columns of text, titles first, and why others are none."""
    if given:
        return tuple(given), {}
    others = [column for column in items.cells if column != item_id]
    reasons = {column: _no_text(items.cells[column]) for column in others}
    texts = sorted((column for column in others if not reasons[column]), key=lambda column: column.lower() not in _FIRST_TEXTS)
    return tuple(texts), {column: reason for column, reason in reasons.items() if reason}


def _no_text(cells: pd.Series) -> str:
    """Why a column is no text; empty where it is."""
    there = _sample(cells[cells != "[]"])
    if there.empty:
        return "empty"
    kinds = (reason for reason, pattern in _NO_TEXT.items() if there.str.fullmatch(pattern).mean() > 0.5)
    return "numbers" if _is_number(there) else next(kinds, "times" if _is_time(there) else "")


def list_of(text: str) -> list[Any] | None:
    """The entries of a cell that is a list as JSON or Python writes one, nested ones in a row; ``None`` where it is none."""
    if not (text.startswith("[") and text.endswith("]")):
        return None
    for read in (json.loads, ast.literal_eval):
        try:
            entries = read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        return list(_flat(entries))
    return None


def _flat(entries: Iterable[Any]) -> Iterator[Any]:
    for entry in entries:
        if isinstance(entry, (list, tuple)):
            yield from _flat(entry)
        elif entry is not None:
            yield entry
