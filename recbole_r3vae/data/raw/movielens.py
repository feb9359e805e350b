"""MovieLens-1M: Latin-1 files with cells separated by ``::``.

F. M. Harper, J. A. Konstan. The MovieLens Datasets: History and Context. TiiS 5(4), 2015.
Files: https://grouplens.org/datasets/movielens/1m/
"""

from __future__ import annotations

from collections.abc import Collection

from recbole_r3vae.data.raw.files import clean_text, name_sequence
from recbole_r3vae.data.raw.format import Files, Interactions, RawFormat, Role, Rows, cells_of

_RATING = "UserID::MovieID::Rating::Timestamp (ratings.dat)"
_MOVIE = "MovieID::Title::Genre|Genre|... (movies.dat)"
_USER = "UserID::Gender::Age::Occupation::Zip-code (users.dat)"


def _interactions(files: Files, show_progress: bool) -> Interactions:
    found = Interactions()
    for file in files["ratings"]:
        for number, line, (user, item, rating, time) in cells_of(file, "::", 4, _RATING, show_progress):
            try:
                found.add(user, item, float(time), float(rating))
            except ValueError as error:
                raise file.error(number, line, _RATING) from error
    return found


def _items(files: Files, wanted: Collection[str], show_progress: bool) -> Rows:
    rows: Rows = {}
    for file in files["movies"]:
        for _, _, (item, title, genres) in cells_of(file, "::", 3, _MOVIE, show_progress):
            if item in wanted:
                rows.setdefault(item, (clean_text(title), name_sequence(genres.split("|"))))
    return rows


def _users(files: Files, wanted: Collection[str], show_progress: bool) -> Rows:
    rows: Rows = {}
    for file in files["users"]:
        for _, _, (user, *cells) in cells_of(file, "::", 5, _USER, show_progress):
            if user in wanted:
                rows.setdefault(user, tuple(clean_text(cell) for cell in cells))
    return rows


MOVIELENS = RawFormat(
    roles={
        "ratings": Role("MovieLens ratings.dat", ("ratings.dat",)),
        "movies": Role("MovieLens movies.dat", ("movies.dat",)),
        "users": Role("MovieLens users.dat, for a .user file", ("users.dat",), required=False),
    },
    has_rating=True,
    item_fields=("title:token_seq", "categories:token_seq"),
    read_interactions=_interactions,
    read_items=_items,
    user_fields=("gender:token", "age:token", "occupation:token", "zip_code:token"),
    read_users=_users,
)
