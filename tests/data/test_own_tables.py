"""``prepare csv``: tables of every usual form, what is guessed, repaired and refused, and a run on what was made."""

from __future__ import annotations

import csv
import gzip
import io
import json
import sys
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import recbole_r3vae  # noqa: F401  (shims for RecBole)
from recbole_r3vae.cli import main
from recbole_r3vae.config import Config
from recbole_r3vae.data import own_tables
from recbole_r3vae.data.atomic_check import MISSING, PADDING
from recbole_r3vae.data.own_tables import prepare_tables
from recbole_r3vae.data.raw.columns import list_of
from recbole_r3vae.data.raw.tables import read_table
from recbole_r3vae.data.raw.times import parse_times
from recbole_r3vae.errors import UserError
from recbole_r3vae.quick_start import run_recbole_r3vae
from recbole_r3vae.quick_start.lookup import create_dataset

SECONDS = 1_614_834_367  # 2021-03-04 05:06:07 UTC
EVENTS = [
    ("customer", "sku", "bought_at"), ("ann", "p1", "2021-03-04 05:06:07"), ("bob", "p2", "2021-03-04 05:06:09"),
    ("ann", "p2", "2021-03-04 05:06:08"), ("bob", "p3", "2021-03-05 00:00:00"),
]  # fmt: skip
ITEMS = [("sku", "colour", "name"), ("p1", "red", "a red hat"), ("p2", "blue", "a blue hat"), ("p3", "green", "a scarf")]


def table(path: Path, rows, separator: str = ",") -> Path:
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=separator).writerows(rows)
    return path


def make(tmp_path, events=EVENTS, items=ITEMS, **options):
    """``prepare_tables`` on rows, or on files that are there."""
    paths = [
        rows if isinstance(rows, Path) else table(tmp_path / name, rows) for name, rows in (("events.csv", events), ("items.csv", items))
    ]
    return prepare_tables(*paths, **{"name": "shop", "output": tmp_path / "made", "show_progress": False, **options})


def written(summary, ending: str) -> list[list[str]]:
    lines = (summary.folder / f"{summary.folder.name}.{ending}").read_text(encoding="utf-8").split("\n")
    assert lines.pop() == ""
    return [line.split("\t") for line in lines]


def events_at(*times, header=("user", "item", "time")):
    return [header, *((f"u{n % 2}", f"p{1 + n % 3}", time) for n, time in enumerate(times))]


# -- times ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text, seconds, form", [
    ("1614834367", SECONDS, "seconds since 1970"), ("1614834367.25", SECONDS + 0.25, "seconds since 1970"),
    ("1.614834367e9", SECONDS, "seconds since 1970"), ("1614834367000", SECONDS, "milliseconds since 1970"),
    ("1614834367125", SECONDS + 0.125, "milliseconds since 1970"), ("1614834367000500", SECONDS + 0.0005, "microseconds since 1970"),
    ("1614834367000000000", SECONDS, "nanoseconds since 1970"), ("2021-03-04T05:06:07Z", SECONDS, "ISO 8601"),
    ("2021-03-04T07:06:07+02:00", SECONDS, "ISO 8601"), ("2021-03-04 05:06:07 UTC", SECONDS, "ISO 8601"),
    ("2021-03-04 07:06:07 +0200", SECONDS, "ISO 8601"), ("2021-03-04T05:06:07.125Z", SECONDS + 0.125, "ISO 8601"),
    ("2021-03-04T05:06:07", SECONDS, "ISO 8601, read as UTC where no zone is given"), ("2021-03-04 05:06:07", SECONDS, "ISO 8601, read"),
    ("2021/03/04 05:06:07", SECONDS, "ISO 8601, read"), ("2021-03-04 05:06", SECONDS - 7, "ISO 8601, read"),
    ("2021-03-04", SECONDS - 18_367, "ISO 8601, read"), ("20210304", SECONDS - 18_367, "ISO 8601, read"),
    ("20210304050607", SECONDS, "ISO 8601, read"), ("1969-12-31T23:59:59Z", -1, "ISO 8601"),
])  # fmt: skip
def test_every_form_of_a_time(text, seconds, form):
    times = parse_times(pd.Series([text] * 3))
    assert times.form.startswith(form) and not times.bad.any()
    np.testing.assert_allclose(times.seconds, seconds, rtol=0, atol=1e-6)


@pytest.mark.parametrize("values, bad", [
    (["2021-03-04", "2021-02-30", "soon", "1614834367"], [False, True, True, True]), (["1614834367", "12", "x"], [False, False, True]),
    (["1614834367", "1614834368", "1614834367000"], [False, False, True]),
    (["1614834367000", "1614834368000", "0", "1614834367"], [0, 0, 0, 1]),
    (["05.03.2021 10:00", "03/04/2021"], [True, True]), (["9" * 30, "1614834367", "1614834368"], [True, False, False]), ([], []),
])  # fmt: skip
def test_what_is_no_time_of_the_column_is_bad(values, bad):
    assert parse_times(pd.Series(values, dtype=object)).bad.tolist() == bad


@given(st.lists(st.datetimes(datetime(1950, 1, 1), datetime(2150, 1, 1)), min_size=1, max_size=20), st.sampled_from(["T", " "]))
def test_written_times_are_those_of_the_clock(moments, between):
    times = parse_times(pd.Series([moment.isoformat(between) for moment in moments]))
    expected = np.array([moment.replace(tzinfo=timezone.utc).timestamp() for moment in moments])
    np.testing.assert_allclose(times.seconds, expected, rtol=0, atol=1e-6)
    assert np.argsort(times.order, kind="stable").tolist() == sorted(range(len(moments)), key=moments.__getitem__)


def test_times_closer_than_a_float_can_tell_stay_in_order(tmp_path):
    """Whole nanoseconds decide the order then; those of one time keep that of the file."""
    base = SECONDS * 10**9
    summary = make(tmp_path, events_at(*(base + n for n in (3, 1, 2, 0, 0))))
    assert [row[:2] for row in written(summary, "inter")[1:]] == [["u1", "p1"], ["u0", "p2"], ["u1", "p2"], ["u0", "p3"], ["u0", "p1"]]


def test_seconds_beyond_float32_reach_recbole(tmp_path, monkeypatch):
    """Neighbouring seconds, which are one float32 or two, are told apart: histories are in time order."""
    monkeypatch.setattr(sys, "argv", ["test"])
    summary = make(tmp_path, events_at(*(SECONDS + n for n in (4, 3, 2, 1, 0, 5))))
    assert [row[2] for row in written(summary, "inter")[1:]] == [str(SECONDS + n) for n in (4, 3, 2, 1, 0, 5)]
    assert len({np.float32(SECONDS + n) for n in range(6)}) < 3
    config = Config("SASRec", "shop", [str(summary.settings)], arguments=["--device=cpu"])
    dataset = create_dataset(config)
    dataset.build()
    last = {
        user: [*dataset.id2token("item_id", history[:length]), *dataset.id2token("item_id", [item])]
        for user, history, length, item in zip(
            dataset.id2token("user_id", dataset.inter_feat["user_id"]), dataset.inter_feat["item_id_list"].numpy(),
            dataset.inter_feat["item_length"], dataset.inter_feat["item_id"],
        )
    }  # fmt: skip
    assert last == {"u0": ["p2", "p3", "p1"], "u1": ["p1", "p2", "p3"]}


# -- forms of files ------------------------------------------------------------------------------------------------------


def test_a_comma_in_a_name_is_no_separator(tmp_path):
    (tmp_path / "i.csv").write_text("sku;name, short;\np1;a hat, red;\np2;scarf;\n")
    assert written(make(tmp_path, items=tmp_path / "i.csv"), "item")[:2] == [
        ["item_id:token", "name_short:token_seq"],
        ["p1", "a hat, red"],
    ]


@pytest.mark.parametrize("separator, words", [(",", "commas"), (";", "semicolons"), ("\t", "tabs")])
@pytest.mark.parametrize("compressed", [False, True])
def test_the_separator_is_found(separator, words, compressed, tmp_path):
    items = [("sku", "name"), ("p1", "a, b; c"), ("p2", 'say "hat"'), ("p3", "two\nlines; and, more")]
    path = table(tmp_path / "items.txt", items, separator)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())  # as spreadsheets save it
    if compressed:
        path.write_bytes(gzip.compress(path.read_bytes()))
    summary = make(tmp_path, items=path)
    assert summary.columns[1] == f"{path}: 3 rows, {words} between cells"
    assert written(summary, "item") == [
        ["item_id:token", "name:token_seq"],
        ["p1", "a, b; c"],
        ["p2", 'say "hat"'],
        ["p3", "two lines; and, more"],
    ]


def test_json_lines_hold_numbers_lists_and_gaps(tmp_path):
    (tmp_path / "e.jsonl").write_text("\n".join(
        json.dumps({"user_id": n % 2, "item_id": 1 + n % 3, "ts": SECONDS + n / 2, "rating": 4.0 if n else None}) for n in range(4)
    ) + "\n\n")  # fmt: skip
    lines = [{"item_id": 1, "title": "Hat", "tags": ["red wool", ["warm"]]}, {"item_id": 2.0, "tags": []}, {"item_id": 3, "title": "Été"}]
    (tmp_path / "i.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    summary = make(tmp_path, tmp_path / "e.jsonl", tmp_path / "i.jsonl")
    assert written(summary, "inter")[:3] == [
        ["user_id:token", "item_id:token", "rating:float", "timestamp:float"], ["0", "1", "nan", str(SECONDS)],
        ["1", "2", "4", f"{SECONDS}.5"]
    ]  # fmt: skip
    assert written(summary, "item")[1:] == [["1", "Hat", "red_wool warm"], ["2", "", ""], ["3", "Été", ""]]
    assert summary.repairs == {"events kept without a rating": 1}


def test_parquet_without_its_reader_is_one_line(tmp_path, monkeypatch):
    def read_parquet(path):
        raise ImportError("pyarrow is not there")

    (tmp_path / "e.parquet").write_bytes(b"PAR1")
    monkeypatch.setattr(pd, "read_parquet", read_parquet)
    with pytest.raises(UserError, match="e.parquet is Parquet.*pip install pyarrow"):
        make(tmp_path, tmp_path / "e.parquet")


def test_parquet_gives_what_csv_gives(tmp_path, monkeypatch):
    """Times are times, numbers with gaps floats, lists arrays: the frame that pandas' reader returns is read as text."""
    frames = {
        "e.parquet": pd.DataFrame({
            "user_id": [1.0, 2.0, None], "item_id": [1, 2, 1], "time": pd.to_datetime([SECONDS, SECONDS + 1, SECONDS], unit="s", utc=True)
        }),
        "i.parquet": pd.DataFrame({"item_id": [1, 2], "title": ["a", None], "tags": [np.array(["x y", "z"], dtype=object), None]}),
    }  # fmt: skip
    for name in frames:
        (tmp_path / name).write_bytes(b"PAR1")
    monkeypatch.setattr(pd, "read_parquet", lambda path: frames[path.name])
    summary = make(tmp_path, tmp_path / "e.parquet", tmp_path / "i.parquet")
    assert written(summary, "inter")[1:] == [["1", "1", str(SECONDS)], ["2", "2", str(SECONDS + 1)]]
    assert written(summary, "item")[1:] == [["1", "a", "x_y z"], ["2", "", ""]]


def test_parquet_from_its_reader(tmp_path):
    pytest.importorskip("pyarrow")
    for name, rows in (("e", EVENTS), ("i", ITEMS)):
        pd.DataFrame(rows[1:], columns=rows[0]).to_parquet(tmp_path / f"{name}.parquet")
    made = make(tmp_path, tmp_path / "e.parquet", tmp_path / "i.parquet"), make(tmp_path, name="csv-shop")
    for ending in ("inter", "item"):
        assert written(made[0], ending) == written(made[1], ending)


@pytest.mark.parametrize("content, expected", [
    (b"PK\x03\x04rest", "zip archive or a workbook; unpack it"), (b"", "names no two columns"), (b"one\nword\n", "names no two columns"),
    (b"a,b,c\n", "holds no rows"), (b"customer,sku,when\na,b,1\nc,d,2,3\n", "line 3.*--skip_bad_lines"),
    (b"customer,sku,when\na,b,1,4\n", "the second has 4 cells; name every column"),
    (b"customer,sku,when\nM\xfcller,b,1\n", "line 2: .* is not UTF-8 text; save the file as UTF-8, as `iconv"),
    (b'customer,sku,when\n"a,b,1\n', "cannot be read as a table"),
])  # fmt: skip
def test_a_file_that_is_no_table_is_one_line(content, expected, tmp_path):
    (tmp_path / "e.csv").write_bytes(content)
    with pytest.raises(UserError, match=expected) as refusal:
        make(tmp_path, tmp_path / "e.csv")
    assert "e.csv" in str(refusal.value)
    with pytest.raises(UserError, match="nowhere.csv does not exist"):
        make(tmp_path, tmp_path / "nowhere.csv")


def test_a_json_line_that_is_none_is_refused_or_passed_over(tmp_path):
    good = json.dumps({"user": "a", "item": "p1", "time": SECONDS})
    (tmp_path / "e.jsonl").write_text(f"{good}\n\n[1]\n{{broken\n")
    with pytest.raises(UserError, match="e.jsonl, line 3: expected one JSON object a line"):
        make(tmp_path, tmp_path / "e.jsonl")
    summary = make(tmp_path, tmp_path / "e.jsonl", skip_bad_lines=True)
    assert summary.n_interactions == 1 and summary.repairs["lines of e.jsonl passed over, which are no rows"] == 2


def test_a_line_with_more_cells_is_passed_over_and_counted(tmp_path):
    summary = make(
        tmp_path,
        [*EVENTS, ("ann", "p1", "2021-04-01", "more"), ("bob", "p1", "2021-04-02"), ("x", "y", "z", "0", "1")],
        skip_bad_lines=True,
    )
    assert summary.n_interactions == 5 and summary.repairs["lines of events.csv passed over, which are no rows"] == 2


def test_repairs_of_both_tables_are_added_up(tmp_path):
    """They share a column, so what was repaired in each has one name."""
    bad = '"p1'
    events = [*EVENTS, *(("ann", bad, f"2021-04-0{day}") for day in (1, 2, 3))]
    summary = make(tmp_path, events, [*ITEMS, (bad, "red", "a hat")], skip_bad_lines=True)
    assert sum(n for what, n in summary.repairs.items() if what.startswith("lines dropped whose sku is not an id")) == 4


# -- columns -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("header", [
    ("user_id", "item_id", "timestamp"), ("userId", "movieId", "timestamp"), ("reviewerID", "asin", "unixReviewTime"),
    ("visitorid", "itemid", "event_time"), ("Customer ID", "Article-ID", "t_dat"), ("session", "product", "Created At"),
    ("who", "what", "then"),
])  # fmt: skip
def test_columns_by_name_and_by_content(header, tmp_path):
    events = [(*header[::-1],), *((time, item, user) for user, item, time in EVENTS[1:])]
    summary = make(tmp_path, events)
    user, item, time = header
    assert summary.columns[2] == f"user_id <- {user} (2 values)" and summary.columns[3] == f"item_id <- {item} (3 values)"
    assert summary.columns[4].startswith(f"timestamp <- {time} (ISO 8601, read as UTC where no zone is given; 2021-03-04 to 2021-03-05")
    assert written(summary, "inter")[1] == ["ann", "p1", str(SECONDS)]


def test_a_surer_name_and_what_a_column_holds_decide(tmp_path):
    header = ("user_id", "session_id", "product_id", "date", "reviewTime", "stars", "overall")
    rows = [(user, "s", item, "yesterday", time, "good", 4) for user, item, time in EVENTS[1:]]
    summary = make(tmp_path, [header, *rows])
    assert [line.partition(" (")[0] for line in summary.columns[2:6]] == [
        "user_id <- user_id", "item_id <- product_id", "timestamp <- reviewTime", "rating <- overall"
    ]  # fmt: skip


def test_texts_are_told_from_numbers_links_times_and_nothing(tmp_path):
    header = ("sku", "brand:of", "price", "image", "since", "none", "Title", "rating", "brand of", "vector", "rank", "sold", "pictures")
    end = ("b", "[0.5, -1e3]", '{"hats": 3}', "True", '["https://x/1.jpg"]')
    rows = [(f"p{n}", "Acme", f"{n},5", f"https://x/{n}.jpg", "2020-01-01", "", f"hat {n}", "fine", *end) for n in (1, 2, 3)]
    summary = make(tmp_path, items=[header, *rows])
    fields = ["title", "brand_of", "rating_text", "brand_of_text"]
    assert written(summary, "item")[0] == ["item_id:token", *(f"{field}:token_seq" for field in fields)]
    assert summary.columns[-1] == (
        "no text, left out: price: numbers, image: links, since: times, none: empty, vector: lists of numbers, rank: mappings, "
        "sold: yes or no, pictures: links"
    )
    assert yaml.safe_load(summary.settings.read_text())["item_text_fields"] == fields


def test_columns_that_are_given_win(tmp_path):
    events = [("user_id", "who", "item_id", "sku", "time", "then"), *(("x", u, "y", i, "1", t) for u, i, t in EVENTS[1:])]
    given_columns = {"user": "who", "item": "sku", "time": "then", "text": ["colour"]}
    summary = make(tmp_path, events, columns=given_columns)
    assert written(summary, "inter")[1:] == written(make(tmp_path, name="other"), "inter")[1:]
    assert written(summary, "item")[1] == ["p1", "red"]
    only_there = make(tmp_path, events, columns={**given_columns, "id": "sku"}, name="third")
    assert written(only_there, "inter") == written(summary, "inter")


@pytest.mark.parametrize("header, columns, expected", [
    (("user_id", "userid", "sku", "time"), {}, "user_id or userid could be the user; name it with --columns user=user_id"),
    (("a", "b", "sku", "time"), {}, "a or b could be the user"), (("user", "sku", "sku_id", "a"), {}, "no column looks like the time"),
    (("user", "a", "b", "time"), {"user": "usr"}, "no column 'usr'; did you mean 'user'"),
    (("user", "a", "sku", "time"), {"usr": "a"}, "none of user, item"),
    (("user", "a", "sku", "time"), {"user": "sku"}, "one column is two of"),
    (("user", "a", "sku", "time"), {"user": ["a", "user"]}, "user takes one column"),
    (("user", "sku", "date"), {}, "date is called a time and holds '03/04/2021', .*; write 2021-03-04"),
    (("user", "sku", "date"), {"time": "date"}, "line 2: date is '03/04/2021'; expected a time in ISO 8601; no line has one: mend the column"),
    (("user", "a", "b", "time"), {}, "no column looks like the item"), (("user", "item_id", "a", "time"), {}, "none of the 1 items"),
])  # fmt: skip
def test_a_column_that_is_not_clear_is_one_line_that_names_candidates(header, columns, expected, tmp_path):
    time = "2021-03-04" if "time" in header else "x"
    values = {"time": time, "sku": "p1", "date": "03/04/2021"}
    row = [values.get(name, "v") for name in header]
    with pytest.raises(UserError, match=expected):
        make(tmp_path, [header, row, row], columns=columns)


def test_a_catalogue_without_text_is_refused(tmp_path):
    with pytest.raises(UserError, match="has no column of text .price: numbers.; name some with --columns text="):
        make(tmp_path, items=[("sku", "price"), ("p1", "3"), ("p2", "4")])


# -- repairs -------------------------------------------------------------------------------------------------------------


def test_every_repair_is_counted(tmp_path):
    events = [
        *EVENTS,
        EVENTS[1],
        ("", "p1", "2021-03-04"),
        ("ann", "NA", "2021-03-04"),
        ("ann", "p1", " "),
        ("cid", "p9", "2021-03-06"),
        ("cid", "p1 ", "2021-03-07"),
    ]
    items = [*ITEMS, ("p1", "again", "again"), ("", "no id", "x"), ("p4", "grey\tor\nblack", '"quoted" &amp; long')]
    summary = make(tmp_path, events, items)
    assert summary.repairs == {
        "events dropped without customer": 1, "events dropped without sku": 1, "events dropped without bought_at": 1,
        "events dropped that another repeats exactly": 1, "items dropped without sku": 1,
        "rows of the catalogue dropped whose item came before": 1,
        "texts of colour in which tabs or line ends became spaces": 1,
        "items of events kept without a row in the catalogue, their texts blank": 1,
        "items of the catalogue kept without an event": 1,
    }  # fmt: skip
    assert summary.n_interactions == 6 and [row[0] for row in written(summary, "item")[1:]] == ["p1", "p2", "p3", "p4", "p9"]
    assert written(summary, "item")[4:] == [["p4", 'quoted" & long', "grey or black"], ["p9", "", ""]]
    for what, n in summary.repairs.items():
        assert f"{what}: {n}" in str(summary).splitlines()


@pytest.mark.parametrize("row, expected", [
    (("ann", "p1", "soon"), "line 7: bought_at is 'soon'; expected a time in ISO 8601"),
    (("ann", "p1", "1614834367"), "line 7: bought_at is '1614834367'; expected a time"),
    (("a\nb", "p1", "2021-03-04"), r"line 7: customer is 'a\\nb'; expected an id"),
    (("ann", '"p1', "2021-03-04"), "line 7: sku is '\"p1'; expected an id"),
])  # fmt: skip
def test_a_line_that_cannot_be_read_names_file_line_and_value(row, expected, tmp_path):
    path = tmp_path / "events.csv"
    lines = io.StringIO()
    csv.writer(lines).writerows(
        [(*EVENTS[0], "note"), *((*event, "") for event in EVENTS[1:3]), (*EVENTS[3], "two\nlines"), (*row, ""), (*EVENTS[4], "")]
    )
    path.write_text("\n" + lines.getvalue())  # a blank line before, and a cell of two lines
    with pytest.raises(UserError, match=f"events.csv, {expected}.*; mend it, or drop 1 such lines by --skip_bad_lines"):
        make(tmp_path, path)
    summary = make(tmp_path, path, skip_bad_lines=True)
    assert summary.n_interactions == 4 and sum(summary.repairs.values()) == 1


def test_ratings_are_numbers_or_blank(tmp_path):
    rows = [(*event, rating) for event, rating in zip(EVENTS, ("rating", "4,5", "", "3.5", "5"))]
    summary = make(tmp_path, table(tmp_path / "e.csv", rows, ";"))
    assert [row[2] for row in written(summary, "inter")[1:]] == ["4.5", "nan", "3.5", "5"]
    many = [("customer", "sku", "bought_at", "rating"), *(("ann", "p1", f"2021-03-{day:02}", "3") for day in range(1, 30))]
    for n, rating in enumerate(("good", "1e999")):
        with pytest.raises(UserError, match=f"line 31: rating is '{rating}'; expected a finite number"):
            make(tmp_path, [*many, ("ann", "p1", "2021-04-01", rating)], name=f"many-{n}")


def test_a_core_is_a_wish(tmp_path):
    assert make(tmp_path, kcore=0).n_interactions == 4
    summary = make(tmp_path, [*EVENTS, ("bob", "p1", "2021-04-01"), ("cid", "p1", "2021-04-01")], kcore=2, name="core")
    assert summary.n_interactions == 4 and summary.n_users == 2 and summary.repairs["events dropped outside of the 2-core"] == 2
    assert [row[0] for row in written(summary, "item")[1:]] == ["p1", "p2"] and summary.repairs["items left out of the 2-core"] == 1
    with pytest.raises(UserError, match="kcore is -1; expected 0"):
        make(tmp_path, kcore=-1, name="none")
    with pytest.raises(UserError, match="no event of .* is left .*lower --kcore"):
        make(tmp_path, kcore=5, name="none")


@pytest.mark.parametrize("text, entries", [
    ('["a b", "c"]', ["a b", "c"]), ("['a', [\"b\"]]", ["a", "b"]), ("[]", []), ("[1, null]", [1]), ("[broken", None),
    ("[a, b]", None), ("a", None),
    ("[" * 5000 + "]" * 5000, None), ("[__import__('os')]", None),
])  # fmt: skip
def test_a_list_as_text(text, entries):
    assert list_of(text) == entries


# -- vectors -------------------------------------------------------------------------------------------------------------


def test_vectors_are_those_of_the_catalogue_s_rows_or_of_their_ids(tmp_path):
    rows = np.diag([1.0, 2.0, 4.0]).astype("float32")
    np.save(tmp_path / "v.npy", rows)
    first = make(tmp_path, vectors=tmp_path / "v.npy", name="rows")
    (tmp_path / "v.ids").write_text("p3\np1\nother\n")
    second = make(tmp_path, vectors=tmp_path / "v.npy", name="ids")
    for summary, ids, expected in ((first, ["p1", "p2", "p3"], np.eye(3)), (second, ["p1", "p3"], np.eye(3)[[1, 0]])):
        made = summary.folder / f"{summary.folder.name}.npy"
        np.testing.assert_array_equal(np.load(made), expected)
        assert made.with_suffix(".ids").read_text().split() == ids == [row[0] for row in written(summary, "item")[1:]]
        told = yaml.safe_load(summary.settings.read_text())
        assert told["content_encoder"] == "file" and told["content_file"] == str(made)
    assert second.repairs == {"items left out that have no vector": 1, "events dropped whose item has no vector": 2}


def test_vectors_without_ids_fit_the_catalogue_or_are_refused(tmp_path):
    np.save(tmp_path / "v.npy", np.eye(4, dtype="float32"))
    with pytest.raises(UserError, match=r"^items.csv has 3 lines for the 4 rows of .*v.npy; write the item id of each vector into .*v.ids"):
        make(tmp_path, vectors=tmp_path / "v.npy")
    no_text = make(tmp_path, items=[("sku", "price"), *((f"p{n}", n) for n in (1, 2, 3, 4))], vectors=tmp_path / "v.npy")
    assert "item_text_fields" not in yaml.safe_load(no_text.settings.read_text())
    assert written(no_text, "item") == [["item_id:token"], ["p1"], ["p2"], ["p3"], ["p4"]]


# -- folders -------------------------------------------------------------------------------------------------------------


def test_an_existing_folder_is_refused_and_overwritten_on_demand(tmp_path):
    folder = make(tmp_path).folder
    (folder / "mine.sid").write_text("mine")
    with pytest.raises(UserError, match="shop exists; --overwrite"):
        make(tmp_path)
    make(tmp_path, EVENTS[:3], overwrite=True)
    assert len((folder / "shop.inter").read_text().splitlines()) == 3 and (folder / "mine.sid").read_text() == "mine"
    assert sorted(path.name for path in folder.iterdir()) == ["mine.sid", "shop.inter", "shop.item", "shop.yaml"]
    assert [path.name for path in folder.parent.iterdir()] == ["shop"]


@pytest.mark.parametrize("function", ["write_rows", "_write_settings", "publish"])
def test_a_failing_write_leaves_nothing_or_what_was_there(function, tmp_path, monkeypatch):
    old = make(tmp_path, name="old")
    before = {path.name: path.read_bytes() for path in old.folder.iterdir()}

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(own_tables, function, full)
    for options in ({}, {"name": "old", "overwrite": True}):
        with pytest.raises(UserError, match="cannot write .*No space left"):
            make(tmp_path, EVENTS[:3], **options)
    assert [path.name for path in old.folder.parent.iterdir()] == ["old"]
    assert {path.name: path.read_bytes() for path in old.folder.iterdir()} == before


@pytest.mark.parametrize(
    "name, expected",
    [("a/b", "take letters"), ("..", "take letters"), ("", "take letters"), ("ml-1m", "public data set"), ("ml-100k", "public data set")],
)
def test_a_name_that_is_none(name, expected, tmp_path):
    with pytest.raises(UserError, match=expected):
        make(tmp_path, name=name)


# -- random tables -------------------------------------------------------------------------------------------------------

IDS = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=6).filter(
    lambda name: not name.startswith('"') and name not in MISSING and name != PADDING
)
TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z"), exclude_characters='"&'), max_size=8)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), separator=st.sampled_from([",", ";", "\t"]), as_json=st.booleans())
def test_random_tables_come_back(tmp_path, data, separator, as_json):
    items = data.draw(st.lists(IDS, min_size=2, max_size=8, unique=True))
    events = data.draw(st.lists(st.tuples(IDS, st.sampled_from(items), st.integers(10**9, 2 * 10**9)), min_size=1, max_size=20))
    texts = [data.draw(TEXTS) for _ in items]
    rows = {"e": [("user_id", "item_id", "timestamp"), *events], "i": [("item_id", "title"), *zip(items, texts)]}
    paths = []
    for name, (header, *lines) in rows.items():
        paths.append(tmp_path / f"{name}.{'jsonl' if as_json else 'csv'}")
        if as_json:
            paths[-1].write_text("\n".join(json.dumps(dict(zip(header, line))) for line in lines), encoding="utf-8")
        else:
            table(paths[-1], [header, *lines], separator)
    columns = {"text": "title"}  # a column of digits is text too
    summary = prepare_tables(*paths, name="random", output=tmp_path / "made", columns=columns, overwrite=True, show_progress=False)
    assert [(user, item, int(time)) for user, item, time in written(summary, "inter")[1:]] == list(dict.fromkeys(events))
    assert [tuple(row) for row in written(summary, "item")[1:]] == list(zip(items, texts))


# -- command line and a run ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("with_vectors", [False, True])
def test_what_was_made_trains(with_vectors, tmp_path, capsys):
    """Items with spaces in their ids, one that the catalogue lacks, texts that are lists: the command that is told runs."""
    random = np.random.default_rng(0)
    kinds = ["hat", "tea"] * 20
    items = [("id", "title", "tags"), *((f"item {n}", f"{kind} number {n}", f"['{kind}', 'all kinds']") for n, kind in enumerate(kinds))]
    bought = [(f"u {user}", f"item {random.integers(0, 41)}", SECONDS + 60 * step + user) for user in range(30) for step in range(6)]
    table(tmp_path / "e.csv", [("customer", "product", "when"), *bought])
    table(tmp_path / "i.csv", items, ";")
    np.save("v.npy", random.normal(size=(40, 8)).astype("float32"))
    words = ["--events", "e.csv", "--items", "i.csv", "--name=shop", "--columns", "user=customer", "time=when"]
    assert main(["prepare", "csv", *words, *(["--vectors=v.npy"] if with_vectors else [])]) == 0
    *_, following = capsys.readouterr().out.splitlines()
    assert following == "next: recbole-r3vae run --model=R3GR --dataset=shop   # with the settings of dataset/shop/shop.yaml"
    assert "hat number 0\that all_kinds" in Path("dataset/shop/shop.item").read_text()
    assert yaml.safe_load(Path("dataset/shop/shop.yaml").read_text()) == {
        "data_path": "dataset", "load_col": {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "title", "tags"]},
        "item_text_fields": ["title", "tags"], "codebook_sizes": [4, 4, 4],
        **({"content_encoder": "file", "content_file": "dataset/shop/shop.npy"} if with_vectors else {}),
    }  # fmt: skip
    small = {"epochs": 1, "tokenizer_epochs": 1, "hidden_size": 16, "inner_size": 16, "n_heads": 1, "content_dim": 16}
    result = run_recbole_r3vae("R3GR", "shop", config_dict={**small, "device": "cpu", "show_progress": False})
    assert set(result["test"]) >= {"left_out", "stay"} and result["test"]["left_out"]["recall@20"] > 0


@pytest.mark.parametrize("words, expected", [
    (["csv"], "prepare csv lacks --events, --items, --name; write"), (["csv", "--events=e", "--name=x"], "lacks --items"),
    (["csv", "--events=e", "--items=i", "--name=x", "--columns", "user"], "'user' is no ROLE=COLUMN"),
    (["csv", "--events=e", "--items=i", "--name=x", "--columns", "user=a", "user=b"], "its role comes twice"),
    (["csv", "--reviews=x"], "--reviews is for public raw files, not for csv"),
    (["ml-1m", "--events=x"], "--events is for tables of your own"),
    (["cvs"], "and csv for tables of your own"),
])  # fmt: skip
def test_words_that_do_not_belong_are_one_line(words, expected, capfd):
    assert main(["prepare", *words]) == 2
    [line] = capfd.readouterr().err.splitlines()
    assert expected in line


def test_help_shows_it(capsys):
    with pytest.raises(SystemExit):
        main(["prepare", "--help"])
    told = capsys.readouterr().out
    assert all(word in told for word in ("prepare csv --events", "--columns", "--vectors", "--skip_bad_lines", "--overwrite", "--reviews"))


def test_reading_shows_how_far_it_is(tmp_path, capsys):
    read_table(table(tmp_path / "e.csv", EVENTS), show_progress=True)
    assert "e.csv: 100%" in capsys.readouterr().err
