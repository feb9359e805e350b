"""From an item to its semantic ID and back, and a catalogue that can be read."""

from __future__ import annotations

import dataclasses
import json
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
import torch

from recbole_r3vae.cli import main
from recbole_r3vae.errors import UserError
from recbole_r3vae.serve import catalogue_tree, dataset_titles, explain_item, inspect_item, items_below, write_html
from recbole_r3vae.sid.table import SemanticIDs

CODES = {"a": (1, 0, 2), "b": (1, 0, 2), "c": (1, 0, 0), "d": (1, 3, 3), "e": (0, 0, 2), "f": (1, 0, 2)}
TITLES = {"a": "A", "b": "B & <b>bold</b>", "c": '<script>alert("c")</script>', "d": "D", "f": "F"}
HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture
def sids() -> SemanticIDs:
    return SemanticIDs(torch.tensor([[-1] * 3, *CODES.values()]), (2, 4, 4), ["[PAD]", *CODES])


@pytest.fixture
def random_sids() -> SemanticIDs:
    codes = torch.randint(4, (200, 3), generator=torch.Generator().manual_seed(0))
    codes[0] = -1
    return SemanticIDs(codes, (4, 4, 4), ["[PAD]", *map(str, range(1, 200))])


def test_an_item_and_its_siblings(sids):
    table = inspect_item(sids, "b", TITLES)
    assert list(table["item"]) == ["b", "a", "f", "c", "d"] and list(table["level"]) == [3, 3, 3, 2, 1]
    assert list(table["prefix"]) == ["1-0-2"] * 3 + ["1-0", "1"] and table["sid"][3] == "1-0-0" and table["title"][0] == TITLES["b"]
    assert list(inspect_item(sids, "e")["title"]) == ["e"]  # no title: its id
    with pytest.raises(UserError, match="did you mean"):
        inspect_item(sids, "A")


@pytest.mark.parametrize("ordered", [True, False])
def test_an_explanation_against_brute_force(random_sids, ordered):
    sids = SemanticIDs(random_sids.codes, random_sids.codebook_sizes, random_sids.item_ids, {}, ordered)
    codes = dict(zip(sids.item_ids[1:], sids.codes[1:].tolist()))

    def agree(a: str, b: str) -> list[bool]:
        places = [x == y for x, y in zip(codes[a], codes[b])]
        return [all(places[: place + 1]) for place in range(3)] if ordered else places

    for item in ("1", "17", "199"):
        told = explain_item(sids, item, 7)
        others = {other: agree(item, other) for other in codes if other != item}
        assert told.sharing == tuple(sum(places[level] for places in others.values()) for level in range(3))
        best = sorted(others, key=lambda other: (-sum(others[other]), int(other)))[:7]
        assert [(near.item, near.shared) for near in told.nearest] == [(other, sum(others[other])) for other in best]
        assert [near.sid for near in told.nearest] == ["-".join(map(str, codes[other])) for other in best]
        assert told.codes == tuple(codes[item]) and told.ordered == ordered and told.sid == "-".join(map(str, codes[item]))


def test_an_item_alone_has_no_neighbour_and_an_explanation_is_json(sids):
    table = SemanticIDs(torch.tensor([[-1, -1], [0, 0], [1, 1]]), (2, 2), ["[PAD]", "a", "b"])
    assert json.loads(json.dumps(dataclasses.asdict(explain_item(table, "a")))) == {
        "item": "a", "codes": [0, 0], "sid": "0-0", "ordered": True, "sharing": [0, 0], "nearest": [],
    }  # fmt: skip
    assert [near.item for near in explain_item(sids, "b").nearest] == ["a", "f", "c", "d"]  # not e, of another first code
    with pytest.raises(UserError, match="did you mean"):
        explain_item(sids, "A")


def test_from_codes_back_to_items(random_sids, tmp_path):
    random_sids.save(tmp_path / "x.sid")
    codes = random_sids.codes.tolist()
    for length in (1, 2, 3):
        prefix = codes[17][:length]
        table = items_below(tmp_path / "x.sid", prefix)
        assert set(table["item"]) == {random_sids.item_ids[row] for row in range(1, 200) if codes[row][:length] == prefix}
        assert list(table["sid"]) == sorted(table["sid"]) and set(table["sid"].str[: 2 * length - 1]) == {"-".join(map(str, prefix))}


def test_prefixes_that_lead_nowhere(sids):
    for code, message in (
        ([1, 2], "some begin with 1$"), ([1, 0, 3], "some begin with 1-0$"), ([7], "none has its first code"),
        ([], "1 to 3 codes"), ([-1], "no item"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=message):
            items_below(sids, code)


def test_the_tree_counts_every_cluster(random_sids):
    tree = catalogue_tree(random_sids)
    codes = pd.Series(["-".join(map(str, row)) for row in random_sids.codes[1:].tolist()])
    for level in (1, 2, 3):
        counts = codes.str[: 2 * level - 1].value_counts()
        part = tree[tree["level"] == level].set_index("prefix")["items"]
        # a cluster of one item needs no clusters inside it
        shown = counts[[level == 1 or codes.str.startswith(f"{prefix[:-1]}").sum() > 1 for prefix in counts.index]]
        assert part.to_dict() == shown.to_dict()
    first = tree[tree["level"] == 1]["items"]
    assert first.is_monotonic_decreasing and first.sum() == 199
    assert set(catalogue_tree(random_sids, depth=1)["level"]) == {1}


def test_typical_titles_are_of_the_items_nearest_to_the_mean(random_sids):
    vectors = np.random.default_rng(0).normal(size=(200, 5)).astype("float32")
    tree = catalogue_tree(random_sids, None, vectors, depth=1, n_typical=2)
    for prefix, typical in zip(tree["prefix"], tree["typical"]):
        rows = np.flatnonzero(random_sids.codes[:, 0].numpy() == int(prefix))
        distance = np.linalg.norm(vectors[rows] - vectors[rows].mean(0), axis=1)
        assert typical == " | ".join(random_sids.item_ids[row] for row in rows[distance.argsort()[:2]])
    first = catalogue_tree(random_sids, {"1": "One"}, depth=1)
    assert any(typical.startswith("One | ") for typical in first["typical"])


class Page(HTMLParser):
    """Which tags a page has, whether they are balanced, and its text."""

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.open, self.text, self.attributes = [], [], "", []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_the_page_holds_every_title_and_nothing_that_runs(sids, tmp_path):
    names = ["[PAD]", *list(CODES)[:-1], HOSTILE]
    hostile = SemanticIDs(sids.codes, sids.codebook_sizes, names)
    write_html(tmp_path / "tree.html", hostile, TITLES)
    page = Page((tmp_path / "tree.html").read_text(encoding="utf-8"))
    assert page.open == [] and not {"script", "img", "b", "link"} & set(page.tags)
    assert not {"src", "href", "onerror"} & set(page.attributes)
    for name in names[1:]:
        assert TITLES.get(name, name) in page.text and f"item {name}" in page.text
    assert page.tags.count("details") == 2 and "1-0-2" in page.text  # 1 and 1-0; what is below 1-0-2 is listed item by item


def test_titles_of_a_dataset(tiny_data):
    titles = dataset_titles("tiny", tiny_data, "movie_title")
    assert len(titles) == 148 and titles["50"] == "Star Wars"
    with pytest.raises(UserError, match="tiny.item lacks any of the fields title"):
        dataset_titles("tiny", tiny_data)


def test_the_command(sids, tmp_path, capsys):
    sids.save(tmp_path / "x.sid")
    given = ["inspect", "--sid", str(tmp_path / "x.sid")]
    assert main([*given, "--item", "b", "--limit", "1"]) == 0
    shown = capsys.readouterr().out
    for text in ("item b", "semantic ID: 1-0-2", "1-0-2: 2 more items", "and 1 more", "1: 1 items beside those above"):
        assert text in shown
    for code in ("1,0", "1-0"):
        assert main([*given, "--code", code]) == 0
        assert "4 items below 1-0" in capsys.readouterr().out
    np.save(tmp_path / "v.npy", np.random.default_rng(0).normal(size=(6, 3)).astype("float32"))
    (tmp_path / "v.ids").write_text("\n".join(CODES) + "\n")
    assert main([*given, "--depth", "2", "--embeddings", str(tmp_path / "v.npy")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [["1", "5"], ["1-0", "4"], ["1-3", "1"], ["0", "1"]]
    assert main([*given, "--html", str(tmp_path / "tree.html")]) == 0 and (tmp_path / "tree.html").is_file()
    capsys.readouterr()
    for words, message in ((["--item", "zz"], "'zz'"), (["--code", "1,x"], "whole numbers"), (["--item", "b", "--limit=-1"], "--limit is -1"), (["--dataset", "absent"], "absent.item")):
        assert main([*given, *words]) == 2
        assert message in capsys.readouterr().err
