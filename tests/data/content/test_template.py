"""Texts by a template, against a brute-force reading of the same pieces."""

from __future__ import annotations

import random

import pytest

from recbole_r3vae.data.content.template import Slot, TextTemplate
from recbole_r3vae.errors import UserError

FIELDS = ["title", "brand", "tags", "sub-title", "price in €"]


def filled(template: str, lists=(), **record) -> str:
    return TextTemplate.parse(template).resolved(lists).fill(record)


@pytest.mark.parametrize("record, text", [
    ({"title": "Red lipstick", "categories": "Beauty Hair_Care"}, "Red lipstick. Categories: Beauty, Hair Care"),
    ({"title": ["Red", "lipstick"], "categories": ["Beauty", "Hair Care"]}, "Red lipstick. Categories: Beauty, Hair Care"),
    ({"title": "Red", "categories": "'Beauty', \"Women's Hair\""}, "Red. Categories: Beauty, Women's Hair"),
    ({"title": "Red", "categories": ["'Hair", "Care',", "'Nails'"]}, "Red. Categories: Hair Care, Nails"),
    ({"title": "Red", "categories": ""}, "Red"),
    ({"title": "Red", "categories": ["", " ", "_"]}, "Red"),
    ({"title": "Red"}, "Red"),
    ({"title": "", "categories": "Beauty"}, "Categories: Beauty"),
    ({"categories": ["Beauty"]}, "Categories: Beauty"),
    ({"title": " ", "categories": []}, ""),
    ({}, ""),
])  # fmt: skip
def test_the_template_of_the_readme(record, text):
    assert filled("{title}. Categories: {categories}", ["categories"], **record) == text


@pytest.mark.parametrize("template, record, text", [
    ("{title} ({brand}). In {tags} aisle.", {"title": "Soap", "brand": "OPI", "tags": "a b"}, "Soap (OPI). In a b aisle."),
    ("{title} ({brand}). In {tags} aisle.", {"title": "Soap", "tags": "a"}, "Soap. In a aisle."),
    ("{title} ({brand}). In {tags} aisle.", {"title": "Soap", "brand": "OPI"}, "Soap (OPI)"),
    ("{title} ({brand}). In {tags} aisle.", {"brand": "OPI", "tags": "a"}, "(OPI). In a aisle."),
    ("{title} ({brand}). In {tags} aisle.", {"tags": "a"}, "In a aisle."),
    ("query: {title} - {brand}", {"title": "Soap"}, "query: Soap"),
    ("query: {title} - {brand}", {"brand": "OPI"}, "OPI"),
    ('"{title}" by {brand}', {"brand": "OPI", "title": "Soap"}, '"Soap" by OPI'),
    ("{tags: / }; {tags:}; {tags: }", {"tags": ["a_b", "c"]}, "a b / c; a bc; a b c"),
    ("{tags: | }", {"tags": "'a b', 'c'"}, "a b | c"),
    ("{{{title}}} {{}}", {"title": "Soap"}, "{Soap} {}"),
    ("{ title } costs {price}", {"title": "Soap", "price": 1e-7}, "Soap costs 0.0000001"),
    ("{title} costs {price}", {"title": "Soap", "price": float("nan")}, "Soap"),
    ("- {title} - {brand}", {"title": "Soap"}, "- Soap"),
    (" {title}: {brand} ", {"brand": "OPI"}, "OPI"),
    ("{title}\n{title}", {"title": "Soap"}, "Soap\nSoap"),
    ("{title.__class__}{title[0]}{title!r}", {"title": "Soap", "title[0]": "", "title.__class__": "a name"}, "a name"),
    ("{title}: {brand}", {"title": "{brand}", "brand": "{title}"}, "{brand}: {title}"),  # values are no templates
])  # fmt: skip
def test_rules(template, record, text):
    assert filled(template, **record) == text


def random_pieces(draw: random.Random) -> list[tuple[str, str, str | None, str]]:
    """What stands before each field, its name, its joiner and what stands behind it."""
    n = draw.randint(1, 5)
    pieces = []
    for number in range(n):
        lead = draw.choice(["", " ", ". ", " (", ", by: ", " {", " - ", " | [", "Brand: ", "/x "]) if number else draw.choice(["", "q: ", "<"])
        tail = draw.choice(["", "", ")", "]", '"', "}"]) if number < n - 1 else draw.choice(["", ".", ") end", "!", " aisle."])
        pieces.append((lead, draw.choice(FIELDS), draw.choice([None, None, ", ", "", " & "]), tail))
    return pieces


def written(pieces) -> str:
    def doubled(text):
        return "".join(c * 2 if c in "{}" else c for c in text)

    return "".join(doubled(a) + "{" + f + ("" if j is None else f":{j}") + "}" + doubled(b) for a, f, j, b in pieces)


def brute_force(pieces, record, lists) -> str:
    """The same with loops over characters, from the pieces rather than from the template."""
    text, left_out = "", False
    for lead, field, joiner, tail in pieces:
        names = [name for name in record.get(field, []) if name]
        if not names:
            left_out = True
            continue
        while left_out and text == "" and lead and lead[0] in " .,:|/-":
            lead = lead[1:]
        if joiner is None:
            joiner = ", " if field in lists else " "
        value = names[0]
        for name in names[1:]:
            value = value + joiner + name
        text = text + lead + value + tail
    return text.strip()


def test_random_templates_and_records():
    draw, lengths = random.Random(3), set()
    for _ in range(3000):
        pieces = random_pieces(draw)
        names = {field: [draw.choice(["red", "hair care", "x", "blue sky"]) for _ in range(draw.randint(0, 3))] for field in FIELDS}
        absent = draw.choice(FIELDS)
        names.pop(absent)
        lists = draw.sample(FIELDS, 2)
        template = TextTemplate.parse(written(pieces))
        expected = brute_force(pieces, names, lists)
        ready = template.resolved(lists)
        as_words = {field: " ".join(name.replace(" ", "_") for name in value) for field, value in names.items()}  # as a file has them
        assert ready.fill(names) == ready.fill(as_words) == expected, (written(pieces), names)
        assert str(template) == written(pieces) and TextTemplate.parse(str(ready)) == ready == ready.resolved([])
        assert set(template.fields) == {field for _, field, _, _ in pieces} and len(set(template.fields)) == len(template.fields)
        lengths.add(len(expected) == 0)
    assert lengths == {True, False}


def test_slots():
    assert TextTemplate.parse("a {x}) b {y:-} c").slots == (Slot("x", "a ", ")", None), Slot("y", " b ", " c", "-"))


@pytest.mark.parametrize("template, message", [
    ("{title", r"item_text_template '\{title': '\{' at character 1 has no partner"),
    ("{title}. }", r"'\}' at character 10 has no partner"),
    ("{title} {{brand}", r"'\}' at character 16 has no partner"),
    ("{a{b}}", r"'\{' at character 1 has no partner"),
    ("{title} {}", r"'\{\}' names no field"),
    ("{title} { : }", r"'\{ : \}' names no field"),
    ("title", "'title' names no field"),
    ("", "'' names no field"),
    ("{{title}}", "names no field"),
    ({"title": None}, r"is \{'title': None\} \(dict\); .*in quotes as a whole"),
    (3, r"is 3 \(int\)"),
])  # fmt: skip
def test_mistakes(template, message):
    with pytest.raises(UserError, match=message) as error:
        TextTemplate.parse(template)
    assert "\n" not in str(error.value) and "'{title}. Categories: {categories}'" in str(error.value)
