"""A malformed line is named; a well-formed file passes, whatever its text."""

from __future__ import annotations

import csv

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_r3vae.data.atomic_check import MISSING, check_atomic_file
from recbole_r3vae.errors import UserError

HEADER = "user_id:token\ttitle:token_seq\ttimestamp:float\n"


@pytest.mark.parametrize("text, expected", [
    ("", "line 1: column ''"),
    (HEADER, "no lines after its header"),
    ("user_id\titem_id\nu\ti\n", "line 1: column 'user_id'"),
    ("user_id:text\nu\n", "line 1: column 'user_id:text'"),
    ("user_id:token\tuser_id:token\nu\tu\n", "line 1: column 'user_id' comes twice"),
    (HEADER + "u\ta\t1\nu\tb\n", "line 3: expected 3 columns as in line 1, got 2"),
    (HEADER + "u\ta\tb\t1\n", "line 2: expected 3 columns as in line 1, got 4"),
    (HEADER + "u\ta\t1\n\nu\tb\t2\n", "line 3: expected 3 columns"),
    (HEADER + 'u\t"a\t1\nu\tb"\t2\n', "line 2: a cell begins with a quotation mark"),
    (HEADER + "u\ta\rb\t1\n", "line 2: a carriage return"),
    (HEADER + "u\ta\0b\t1\n", "line 2: a carriage return or a zero byte"),
    (HEADER + "u\ta\t\n", "line 2: timestamp is ''"),
    (HEADER + "u\ta\tnoon\n", "line 2: timestamp is 'noon'"),
    (HEADER + "u\ta\tinf\n", "line 2: timestamp is 'inf'"),
    ("\ufeff" + HEADER + "u\ta\t1\n", "line 1: the file begins with a byte order mark"),
    (HEADER + "u\ta\t1\n\tb\t2\n", "line 3: user_id is '', and RecBole would read that as missing"),
    (HEADER + 'u\ta\t1\n"NA"\tb\t2\n', "line 3: user_id is 'NA', and RecBole would read that as missing"),
    (HEADER + "[PAD]\ta\t1\n", "line 2: user_id is '[PAD]', and RecBole would read that as padding"),
    (HEADER + 'u\ta\t1\nv\ta\t2\n"u"\ta\t3\n', "line 4: 'u' stands in line 2 already"),
    (HEADER.replace("user_id:token", "user_id:float") + "1\ta\t1\n", "line 1: column user_id:float must be user_id:token"),
    (HEADER.replace("timestamp:float", "timestamp:token") + "u\ta\t1\n", "line 1: column timestamp:token must be timestamp:float"),
    ("user_id:token\tprice:float\nu\t\nv\tNA\nw\tcheap\n", "line 4: price is 'cheap'; write a finite number"),
    (HEADER + 'u\t"a\tb"\t1\nv\t"a\tb"\n', "line 3: expected 3 columns as in line 1, got 2"),
    ("user_id:token,title:token_seq\nu,a\n", "line 1: column 'user_id:token,title:token_seq' is not <name>:<type>; types are"),
])  # fmt: skip
def test_what_is_wrong_is_named_with_its_line(tmp_path, text, expected):
    path = tmp_path / "small.user"
    path.write_text(text, newline="", encoding="utf-8")
    with pytest.raises(UserError) as caught:
        check_atomic_file(path, numbers=["timestamp"], ids=["user_id", "item_id"], unique="user_id")
    assert str(caught.value).startswith(str(path)) and expected in str(caught.value)


def test_columns_that_are_not_read_may_hold_anything(tmp_path):
    path = tmp_path / "small.user"
    path.write_text("user_id:token\tprice:float\nu\tcheap\n")
    check_atomic_file(path, ids=["user_id"], unique="user_id", read=["user_id"])


def test_what_counts_as_missing_is_what_the_reader_takes_for_it(tmp_path):
    """pandas, read as RecBole reads."""
    cells = [*sorted(MISSING), "none", "NONE", "Na", "n.a.", "-", "0", "inf", "nil"]
    path = tmp_path / "x.item"
    path.write_text("".join(f"{cell}\tx\n" for cell in ["a:token", *cells]))
    read = pd.read_csv(path, delimiter="\t", usecols=["a:token"], dtype=str, engine="python")["a:token"]
    assert [cell for cell, missing in zip(cells, read.isnull()) if missing] == sorted(MISSING)


def test_other_encodings_and_absent_files(tmp_path):
    path = tmp_path / "small.item"
    path.write_bytes("item_id:token\nä\n".encode("latin-1"))
    with pytest.raises(UserError, match="small.item is not utf-8 text"):
        check_atomic_file(path)
    check_atomic_file(path, encoding="latin-1")
    with pytest.raises(UserError, match="no such encoding|unknown encoding"):
        check_atomic_file(path, encoding="klingon")
    with pytest.raises(UserError, match="cannot read .*absent.item"):
        check_atomic_file(tmp_path / "absent.item")


CELL = st.text(st.sampled_from('ab" ,ж漢\u2028\x0b\x1c'), max_size=4)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(rows=st.lists(st.lists(CELL, min_size=2, max_size=2), min_size=1, max_size=4))
def test_what_passes_is_read_line_by_line(tmp_path_factory, rows):
    """By the reader beneath RecBole's: as many rows as lines."""
    path = tmp_path_factory.mktemp("rows") / "x.item"
    path.write_text("".join("\t".join(row) + "\n" for row in [["a:token", "b:token"], *rows]), newline="", encoding="utf-8")
    try:
        check_atomic_file(path)
    except UserError:
        assert any(cell.startswith('"') for row in rows for cell in row)
        return
    with open(path, encoding="utf-8", newline="") as file:
        assert [len(row) for row in csv.reader(file, delimiter="\t")] == [2] * (len(rows) + 1)


CELLS = st.text(st.sampled_from('ab", ж'), max_size=5)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(rows=st.lists(st.lists(CELLS, min_size=2, max_size=2), min_size=1, max_size=4), quoted=st.booleans())
def test_cells_are_counted_as_the_reader_counts_them(tmp_path_factory, rows, quoted):
    """Written as spreadsheets write them every file passes; of any other, what passes is read with two cells a line."""
    path = tmp_path_factory.mktemp("rows") / "x.item"
    rows = [[f"i{number}", *row] for number, row in enumerate(rows)]
    with open(path, "w", encoding="utf-8", newline="") as file:
        file.write("item_id:token,a:token,b:token\n")
        if quoted:
            csv.writer(file, lineterminator="\n").writerows(rows)
        else:
            file.writelines(",".join(row) + "\n" for row in rows)
    try:
        check_atomic_file(path, separator=",", ids=["item_id"], unique="item_id")
    except UserError:
        assert not quoted
        return
    found = pd.read_csv(path, delimiter=",", dtype=str, engine="python", keep_default_na=False)
    assert found["item_id:token"].tolist() == [row[0] for row in rows]
    if quoted:
        assert found.to_numpy().tolist() == rows


def test_a_separator_of_several_characters_is_what_the_reader_takes_it_for(tmp_path):
    path = tmp_path / "x.inter"
    path.write_text("user_id:token::item_id:token\n1::2\n3::4\n")
    check_atomic_file(path, separator="::", ids=["user_id", "item_id"])
    read = pd.read_csv(path, delimiter="::", dtype=str, engine="python")
    assert read.to_numpy().tolist() == [["1", "2"], ["3", "4"]]
    path.write_text("user_id:token::item_id:token\n1::2\n3::4::5\n")
    with pytest.raises(UserError, match="line 3: expected 2 columns as in line 1, got 3"):
        check_atomic_file(path, separator="::")
    with pytest.raises(UserError, match="field_separator is empty"):
        check_atomic_file(path, separator="")
