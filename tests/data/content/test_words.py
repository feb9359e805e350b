"""The words of a field, and the names that it lists."""

from __future__ import annotations

import random
import re

import numpy as np
import pytest

from recbole_r3vae.data.content.words import clean_text, lists_names, members


@pytest.mark.parametrize(
    "value, found",
    [
        ("'Beauty', 'Hair Care'", ["Beauty", "Hair Care"]),
        (["'Hair", "Care',", "\"Women's\",", "'Nails'"], ["Hair Care", "Women's", "Nails"]),
        (["Hair_Care", "Nails"], ["Hair Care", "Nails"]),
        ("Hair_Care  Nails", ["Hair Care", "Nails"]),
        (["Hair  Care", " ", "_", "Nails"], ["Hair Care", "Nails"]),
        ("Children's toys, 'boxed' set", ["Children's", "toys,", "'boxed'", "set"]),
        ("  two   spaces\tand tab ", ["two", "spaces", "and", "tab"]),
        ("'", ["'"]),
        ("'a', '', 'b'", ["a", "b"]),
        ("", []),
        ([], []),
        (19.99, ["19.99"]),
        (3, ["3"]),
        (np.float32(1e-7), ["0.0000001"]),
        (float("nan"), []),
    ],
)
def test_members(value, found):
    assert members(value) == found and clean_text(value) == " ".join(found)


def joined_first(value) -> str:
    """What clean text is, said the other way round: the words joined, then cleaned as one."""
    text = (value if isinstance(value, str) else " ".join(value)).strip()
    if re.fullmatch(r"""(['"]).+['"]""", text, re.DOTALL):
        text = " ".join(name.strip("'\"") for name in re.split(r"""(?<=['"]),\s*(?=['"])""", text))
    return " ".join(text.replace("_", " ").split())


def test_clean_text_is_that_of_the_joined_words():
    draw = random.Random(5)
    pieces = ["red", "Hair_Care", "'", '"', ",", " ", "_", "'a b'", "', '", "\t", "L'Oréal", '", "', "\u00a0"]
    quoted = 0
    for _ in range(5000):
        words = ["".join(draw.choices(pieces, k=draw.randint(0, 4))) for _ in range(draw.randint(0, 5))]
        for value in (words, " ".join(words), f"'{words}'"):
            quoted += value[:1] in ("'", '"')
            assert clean_text(value) == joined_first(value), value
    assert quoted > 1000


@pytest.mark.parametrize("value, names", [
    ("Beauty Hair_Care", True), (["Beauty", "Hair_Care"], True), ("'Beauty', 'Nails'", True), (["'Hair", "Care'"], True), ("'Beauty'", True),
    ("Red lipstick", False), ("Children's toys, 'boxed' set", False), ("", False), ([], False), (3.0, False), (float("nan"), False),
])  # fmt: skip
def test_names_are_told_from_words(value, names):
    assert lists_names(value) is names
