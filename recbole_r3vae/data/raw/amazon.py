"""Amazon reviews 2014: JSON-lines reviews and Python-literal metadata.

J. McAuley, C. Targett, Q. Shi, A. van den Hengel. Image-based Recommendations on Styles and Substitutes.
SIGIR 2015.
R. He, J. McAuley. Ups and Downs: Modeling the Visual Evolution of Fashion Trends with One-Class Collaborative
Filtering. WWW 2016. Files: https://jmcauley.ucsd.edu/data/amazon/
"""

from __future__ import annotations

import ast
import json
import math
import re
import warnings
from collections.abc import Collection
from typing import Any

from recbole_r3vae.data.raw.files import clean_text, name_sequence
from recbole_r3vae.data.raw.format import Files, Interactions, RawFormat, Role, Rows

_REVIEW = "an Amazon 2014 review: a JSON object with reviewerID, asin, overall and unixReviewTime"
_META = (
    "Amazon 2014 metadata: a Python literal or JSON object with asin and, where known, title, brand, price, "
    "description and categories (a list of lists of names)"
)
# All that parsing a line can raise; the last two come from literals nested too deeply.
_NOT_A_RECORD = (ValueError, SyntaxError, TypeError, KeyError, MemoryError, RecursionError)
_FIRST_ASIN = re.compile(r"""\{\s*(['"])asin\1\s*:\s*(['"])(\w+)\2""")


def _interactions(files: Files, show_progress: bool) -> Interactions:
    found = Interactions()
    for file in files["reviews"]:
        for number, line in file.lines(show_progress):
            try:
                review = _record(line)
                rating, time = float(review["overall"]), float(review["unixReviewTime"])
                found.add(review["reviewerID"], review["asin"], time, rating)
            except _NOT_A_RECORD as error:
                raise file.error(number, line, _REVIEW) from error
    return found


def _items(files: Files, wanted: Collection[str], show_progress: bool) -> Rows:
    """Text of the wanted items; a line that begins with the asin of another (most do) is not even parsed."""
    rows: Rows = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compiler's remarks on odd escapes in a literal help nobody here
        for file in files["meta"]:
            for number, line in file.lines(show_progress):
                first = _FIRST_ASIN.match(line)
                if first and first[3] not in wanted:
                    continue
                try:
                    record = _record(line)
                    item = record["asin"]
                    if item in wanted and item not in rows:
                        rows[item] = _cells(record)
                except _NOT_A_RECORD as error:
                    raise file.error(number, line, _META) from error
    return rows


def _record(line: str) -> dict[str, Any]:
    """A JSON or Python-literal line as a dict; ``literal_eval`` builds constants and containers only."""
    try:
        record = json.loads(line)
    except ValueError:
        record = ast.literal_eval(line)
    if not isinstance(record, dict):
        raise ValueError("not a record")
    return record


def _cells(record: dict[str, Any]) -> tuple[str, ...]:
    paths = record.get("categories") or []
    if not isinstance(paths, list):
        raise TypeError("categories is not a list")
    names = [name for path in paths for name in (path if isinstance(path, list) else [path])]
    return (
        _text(record.get("title")),
        _text(record.get("brand")),
        name_sequence(names),  # union of the paths in the source's order: the main path comes first
        _price(record.get("price")),
        _text(record.get("description")),
    )


def _text(value: str | list[str] | None) -> str:
    return clean_text(" ".join(value) if isinstance(value, list) else value or "")


def _price(value: object) -> str:
    """A price as a number, or blank: prices are optional, and later dumps have ranges ("$5.99 - $12.00")."""
    try:
        price = float(str(value).replace("$", "").replace(",", ""))
    except ValueError:
        return ""
    return repr(price) if math.isfinite(price) and price >= 0 else ""


AMAZON = RawFormat(
    roles={
        "reviews": Role("Amazon 2014 reviews_<Category>_5.json.gz, or reviews_<Category>.json.gz for all"),
        "meta": Role("Amazon 2014 meta_<Category>.json.gz"),
    },
    has_rating=True,
    # A description is one token, not a sequence: RecBole joins every item field onto every batch, and a
    # sequence would be padded to the longest description (thousands of words).
    item_fields=(
        "title:token_seq",
        "brand:token",
        "categories:token_seq",
        "price:float",
        "description:token",
    ),
    read_interactions=_interactions,
    read_items=_items,
)
