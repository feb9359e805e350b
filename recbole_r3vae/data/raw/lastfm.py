"""Last.fm HetRec 2011 (hetrec2011-lastfm-2k): tab-separated files with a header, in UTF-8 or Latin-1.

I. Cantador, P. Brusilovsky, T. Kuflik. Second Workshop on Information Heterogeneity and Fusion in Recommender
Systems (HetRec). RecSys 2011. Files: https://grouplens.org/datasets/hetrec-2011/
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator
from datetime import datetime, timezone

from recbole_r3vae.data.raw.files import RawFile, clean_text, name_sequence
from recbole_r3vae.data.raw.format import Files, Interactions, RawFormat, Role, Rows, cells_of, check_id

N_TAGS = 10
"""Tags kept for an artist."""

_TAGGING_DAY = "userID, artistID, tagID, day, month and year between tabs (user_taggedartists.dat)"
_TAGGING_TIME = "userID, artistID, tagID and timestamp between tabs (user_taggedartists-timestamps.dat)"
_TAG = "tagID and tagValue between tabs (tags.dat)"
_ARTIST = "id, name, url and pictureURL between tabs (artists.dat)"


def _interactions(files: Files, show_progress: bool) -> Interactions:
    """A user's first tagging of an artist is the interaction, as in S3-Rec's LastFM."""
    first: dict[tuple[str, str], float] = {}
    for file in files["taggings"]:
        for user, artist, _, time in _taggings(file, show_progress):
            first[user, artist] = min(time, first.get((user, artist), math.inf))
    found = Interactions()
    for (user, artist), time in first.items():
        found.add(user, artist, time)
    return found


def _taggings(file: RawFile, show_progress: bool) -> Iterator[tuple[str, str, str, float]]:
    """User, artist, tag and time (Unix seconds) of each line of either tagging file."""
    width, expected = 0, ""
    for number, line in file.lines(show_progress, latin1=True):
        user, *rest = cells = line.split("\t")
        if not width:  # the first line tells which of the two files it is
            width, expected = (4, _TAGGING_TIME) if len(cells) == 4 else (6, _TAGGING_DAY)
            if user == "userID":
                continue
        try:
            if len(cells) != width:
                raise ValueError(f"{len(cells)} cells")
            artist, tag, *when = rest
            check_id(user)
            check_id(artist)
            if width == 4:
                time = float(when[0]) / 1000  # published in milliseconds
                if not math.isfinite(time):
                    raise ValueError(f"bad time {when[0]!r}")
            else:
                day, month, year = map(int, when)
                time = datetime(year, month, day, tzinfo=timezone.utc).timestamp()  # that day, midnight UTC
        except ValueError as error:
            raise file.error(number, line, expected) from error
        yield user, artist, tag, time


def _items(files: Files, wanted: Collection[str], show_progress: bool) -> Rows:
    """Artist names, and each artist's most used tags.

    Tags are counted over the *whole* data, test-time events included: a mild leak. Tags used equally often
    stand in the order of their first use.
    """
    names = {}
    for file in files["artists"]:
        for _, _, (artist, name, *_) in cells_of(file, "\t", 4, _ARTIST, show_progress):
            if artist in wanted:
                names.setdefault(artist, clean_text(name))
    values = {}
    for file in files["tags"]:
        for _, _, (tag, value) in cells_of(file, "\t", 2, _TAG, show_progress):
            values.setdefault(tag, value)
    used: dict[str, Counter[str]] = defaultdict(Counter)
    for file in files["taggings"]:
        for _, artist, tag, _ in _taggings(file, show_progress):
            if artist in wanted and tag in values:
                used[artist][tag] += 1
    rows: Rows = {}
    for artist in wanted:
        tags = [values[tag] for tag, _ in used[artist].most_common(N_TAGS)]
        if artist in names or tags:
            rows[artist] = (names.get(artist, ""), name_sequence(tags))
    return rows


LASTFM = RawFormat(
    roles={
        "taggings": Role(
            "HetRec user_taggedartists.dat (or user_taggedartists-timestamps.dat)",
            ("user_taggedartists.dat", "user_taggedartists-timestamps.dat"),
        ),
        "artists": Role("HetRec artists.dat", ("artists.dat",)),
        "tags": Role("HetRec tags.dat", ("tags.dat",)),
    },
    has_rating=False,
    item_fields=("title:token_seq", "tags:token_seq"),
    read_interactions=_interactions,
    read_items=_items,
)
