"""MIND, the Microsoft news data set: tab-separated files without a header.

F. Wu et al. MIND: A Large-scale Dataset for News Recommendation. ACL 2020. Files: https://msnews.github.io/

An interaction is a clicked impression, with the time of its impression (read as UTC; MIND names no zone).
News that was shown and not clicked is none. Nor is the ``history`` column: its clicks carry no time, so they
have no place among other users' events, and every line of a user repeats them. CoST (RecSys 2024), which
reports semantic IDs on MIND, keeps users with at least 15 clicks; its figures are not comparable with this
selection.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timezone

from recbole_r3vae.data.raw.files import clean_text, name_sequence
from recbole_r3vae.data.raw.format import Files, Interactions, RawFormat, Role, Rows, cells_of

_BEHAVIOR = (
    "impression id, user id, time (MM/DD/YYYY HH:MM:SS AM/PM), history and impressions (<news>-1 when "
    "clicked, else <news>-0) between tabs (behaviors.tsv)"
)
_NEWS = (
    "news id, category, subcategory, title, abstract, url, title entities and abstract entities between tabs "
    "(news.tsv)"
)


def _interactions(files: Files, show_progress: bool) -> Interactions:
    found = Interactions()
    for file in files["behaviors"]:
        for number, line, (_, user, when, _, shown) in cells_of(file, "\t", 5, _BEHAVIOR, show_progress):
            try:
                moment = datetime.strptime(when, "%m/%d/%Y %I:%M:%S %p").replace(tzinfo=timezone.utc)
                for impression in shown.split():
                    news, clicked = impression.rsplit("-", 1)
                    if clicked not in ("0", "1"):
                        raise ValueError(f"bad impression {impression!r}")
                    if clicked == "1":
                        found.add(user, news, moment.timestamp())
            except ValueError as error:
                raise file.error(number, line, _BEHAVIOR) from error
    return found


def _items(files: Files, wanted: Collection[str], show_progress: bool) -> Rows:
    rows: Rows = {}
    for file in files["news"]:
        for _, _, (news, *text) in cells_of(file, "\t", 8, _NEWS, show_progress):
            if news in wanted:
                category, subcategory, title, abstract, *_ = text
                cells = (clean_text(title), name_sequence((category, subcategory)), clean_text(abstract))
                rows.setdefault(news, cells)
    return rows


MIND = RawFormat(
    roles={
        "behaviors": Role("MIND behaviors.tsv, of train alone or of train and dev", ("behaviors.tsv",)),
        "news": Role("MIND news.tsv, of the same parts", ("news.tsv",)),
    },
    has_rating=False,
    item_fields=("title:token_seq", "categories:token_seq", "abstract:token"),  # a token: as in amazon.py
    read_interactions=_interactions,
    read_items=_items,
)
