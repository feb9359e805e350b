"""Semantic IDs of other projects: read as they write them, written as they read them, and no softmax over codes that no item has."""

from __future__ import annotations

import json
import random

import pytest
import torch

from recbole_r3vae.cli import main
from recbole_r3vae.errors import UserError
from recbole_r3vae.sid import foreign
from recbole_r3vae.sid.convert import convert
from recbole_r3vae.sid.table import SemanticIDs

INDEX = {"0": ["<a_3>", "<b_0>", "<c_7>"], "1": ["<a_0>", "<b_1>", "<c_7>"], "10": ["<a_3>", "<b_1>", "<c_2>"]}


@pytest.fixture
def index(tmp_path):
    path = tmp_path / "Games.index.json"
    path.write_text(json.dumps(INDEX))
    return path


def codes_of(sids) -> dict[str, list[int]]:
    return dict(zip(sids.item_ids[1:], sids.codes[1:].tolist()))


def test_an_index_is_a_table(index):
    sids = SemanticIDs.load(index)
    assert codes_of(sids) == {"0": [3, 0, 7], "1": [0, 1, 7], "10": [3, 1, 2]} and sids.codebook_sizes == (4, 2, 8)
    assert codes_of(SemanticIDs.load(index, ["[PAD]", "10", "0"])) == {"10": [3, 1, 2], "0": [3, 0, 7]}


@pytest.mark.parametrize("value", ["<a_3><b_0><c_7>", "<a_3> <b_0> <c_7>", [3, 0, 7]])
def test_other_spellings_of_an_item(tmp_path, value):
    (tmp_path / "x.index.json").write_text(json.dumps({"i": value}))
    assert codes_of(SemanticIDs.load(tmp_path / "x.index.json")) == {"i": [3, 0, 7]}


def test_tokens_in_the_cells_of_a_table(tmp_path):
    (tmp_path / "x.sid").write_text("item_id:token\tsid_1:token\tsid_2:token\ni\t<a_12>\t<b_0>\nj\t3\t1\n")
    assert codes_of(SemanticIDs.load(tmp_path / "x.sid")) == {"i": [12, 0], "j": [3, 1]}
    for line in ("i\t<b_12>\t<a_0>", "i\t<a_12>\t3", "i\t<a_12>", "i\t<a_x>\t<b_0>", "\t<a_1>\t<b_0>"):
        (tmp_path / "x.sid").write_text(f"item_id:token\tsid_1:token\tsid_2:token\n{line}\n")
        with pytest.raises(UserError, match="line 2: expected an item id and 2 codes"):
            SemanticIDs.load(tmp_path / "x.sid")


@pytest.mark.parametrize("text, expected", [
    ('{"0": ["<a_1>"], "0": ["<a_2>"]}', "'0' stands in it twice"), ("[1", "cannot read"), ("{}", "names no items"),
    ('["<a_0>", "<b_0>"]', "holds tokens and no items; give it as --added_tokens"), ('{"<a_0>": 32000}', "give it as --added_tokens"),
    ('{"0": ["<a_1>", "<b_2>"], "1": ["<a_1>"]}', "item '1' has 1 codes, those before it 2"),
    ('{"0": ["<b_1>", "<a_2>"]}', "is no semantic ID"),
    ('{"0": [1, -2]}', "is no semantic ID"), ('{"0": [1, true]}', "is no semantic ID"), ('{"0": []}', "is no semantic ID"),
    ('{"0": {}}', "is no semantic ID"),
    ('{"a\\tb": [1]}', "contains a tab"), ("[" * 5000, "cannot read"),
])  # fmt: skip
def test_an_index_that_is_none_is_one_line(tmp_path, text, expected):
    path = tmp_path / "x.index.json"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        SemanticIDs.load(path)
    assert expected in str(caught.value) and "x.index.json" in str(caught.value) and ";" in str(caught.value)


def test_there_and_back(tmp_path, index):
    """Item ids to an index's numbers and back, over all kinds of file, on random tables."""
    rng = random.Random(0)
    for round_ in range(20):
        n, sizes = rng.randint(1, 40), [rng.randint(1, 9) for _ in range(rng.randint(1, 5))]
        ids = [f"item, {i} ü" for i in range(n)]
        codes = torch.tensor([[rng.randrange(size) for size in sizes] for _ in ids])
        sids = SemanticIDs(torch.cat([torch.full((1, len(sizes)), -1), codes]), sizes, ["[PAD]", *ids])
        sids.save(tmp_path / "a.sid")
        (tmp_path / "a.item2id").write_text("".join(f"{item}\t{number}\n" for number, item in enumerate(rng.sample(ids, n))))
        convert(tmp_path / "a.sid", tmp_path / "a.index.json", tmp_path / "a.item2id")
        assert set(json.loads((tmp_path / "a.index.json").read_text())) == {str(number) for number in range(n)}
        convert(tmp_path / "a.sid", tmp_path / "added_tokens.json")
        back = tmp_path / f"{round_}.sid"
        convert(tmp_path / "a.index.json", back, tmp_path / "a.item2id", tmp_path / "added_tokens.json")
        found = SemanticIDs.load(back)
        assert found.content_hash == sids.content_hash
        convert(tmp_path / "a.sid", tmp_path / "b.index.json")
        assert codes_of(SemanticIDs.load(tmp_path / "b.index.json")) == codes_of(sids)


@pytest.mark.parametrize("values", [
    [f"<{level}_{code}>" for level, size in (("a", 4), ("b", 2), ("c", 9)) for code in range(size)],
    {"<|im_end|>": 5, "<a_3>": 10, "<b_1>": 12, "<c_8>": 11},
    {"added_tokens": [{"id": 1, "content": text} for text in ("<s>", "<c_8>", "<a_3>", "<b_1>")], "model": {}},
])  # fmt: skip
def test_a_vocabulary_says_how_large_the_codebooks_are(tmp_path, index, values):
    path = tmp_path / "vocabulary.json"
    path.write_text(json.dumps(values))
    assert foreign.read_added_tokens(path) == (4, 2, 9)
    convert(index, tmp_path / "x.sid", added_tokens=path)
    assert SemanticIDs.load(tmp_path / "x.sid").codebook_sizes == (4, 2, 9)
    convert(tmp_path / "x.sid", tmp_path / "all.json")
    tokens = json.loads((tmp_path / "all.json").read_text())
    assert len(tokens) == len(set(tokens)) == 15 and tokens[0] == "<a_0>" and tokens[-1] == "<c_8>"


@pytest.mark.parametrize("values", [["<a_0>", "<c_0>"], ["<s>"], 3, {"a": 1}])
def test_a_vocabulary_of_something_else(tmp_path, values):
    (tmp_path / "x.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match="give the added tokens of semantic IDs"):
        foreign.read_added_tokens(tmp_path / "x.json")


@pytest.mark.parametrize("words, expected", [
    (["--output=x.sid", "--item2id=short"], "does not name 2 of 3 items, such as '1'; it names '0'"),
    (["--output=x.sid", "--item2id=broken"], "line 1: expected an item id and its number"),
    (["--output=x.sid", "--item2id=double"], "gives one number to several items"),
    (["--output=x.sid", "--item2id=absent"], "cannot read absent"),
    (["--output=y.index.json", "--item2id=short"], "goes from or to an index.json, and here are two"),
    (["--output=x.sid", "--added_tokens=small.json"], "is for codebooks of [2, 2, 2] codes"),
    (["--output=Games.index.json"], "is read and would be written"),
])  # fmt: skip
def test_a_conversion_that_is_none_is_one_line(tmp_path, index, capfd, words, expected):
    (tmp_path / "short").write_text("B00A\t0\n")
    (tmp_path / "broken").write_text("B00A 0\n")
    (tmp_path / "double").write_text("B00A\t0\nB00B\t0\n")
    (tmp_path / "small.json").write_text(json.dumps(["<a_1>", "<b_1>", "<c_1>"]))
    assert main(["convert", f"--input={index}", *words]) == 2
    [line] = capfd.readouterr().err.splitlines()
    assert expected in line and not list(tmp_path.glob("x.sid*"))


def test_the_command_says_what_it_wrote(index, capsys):
    assert main(["convert", f"--input={index}", "--output=x.sid"]) == 0
    assert capsys.readouterr().out == "3 items, codebooks [4, 2, 8]: x.sid\n"
    assert main(["convert", "--input=x.sid", "--output=tokens.json"]) == 0
    assert capsys.readouterr().out == "14 tokens of 3 levels: tokens.json\n"


def test_a_table_is_never_saved_under_the_name_of_an_index(index):
    with pytest.raises(UserError, match="write .*Games.index.sid, then convert it"):
        SemanticIDs.load(index).save(index)


def test_sparse_codes_are_numbered_anew_and_it_is_said(tmp_path, caplog):
    """Whatever tool wrote them, no codebook is much wider than what is used of it; equal codes stay equal."""
    rng = random.Random(1)
    used = sorted(rng.sample(range(700_000), 6)) + [700_000]
    rows = [(f"i{n}", rng.choice(used) if n else used[-1], n % 5) for n in range(50)]
    (tmp_path / "x.sid").write_text("item_id:token\tsid_1:token\tsid_2:token\n" + "".join(f"{i}\t{a}\t{b}\n" for i, a, b in rows))
    sids = SemanticIDs.load(tmp_path / "x.sid")
    kept = sorted({a for _, a, _ in rows})
    assert sids.codebook_sizes == (len(kept), 5) and sids.meta == {"renumbered": {"1": kept}}
    assert [(kept[a], b) for a, b in sids.codes[1:].tolist()] == [(a, b) for _, a, b in rows]
    assert f"level 1 reach 700,000 and {len(kept)} of them are used; numbered anew" in caplog.text
    sids.save(tmp_path / "y.sid")
    assert SemanticIDs.load(tmp_path / "y.sid").content_hash == sids.content_hash


def test_a_codebook_of_ordinary_width_keeps_its_codes(caplog):
    for codes in (torch.tensor([[4095], [0]]), torch.arange(9000)[:, None], torch.arange(0, 70_000, 8)[:, None]):
        same, old = foreign.dense(codes)
        assert torch.equal(same, codes) and not old
