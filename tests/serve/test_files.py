"""What streams in and out around a trained model: lazy, whole or absent, and one line for what is wrong."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import sys
from pathlib import Path

import pandas as pd
import pytest

from recbole_r3vae.cli import main
from recbole_r3vae.errors import UserError
from recbole_r3vae.serve.files import read_histories, read_ids, split_ids, write_frames
from recbole_r3vae.serve.recommender import Recommender

FRAME = pd.DataFrame({"user": ["ü", 'a,"b'], "rank": [1, 2], "item": ["1", "x y"], "score": [-0.1, -12.345679], "sid": ["1-2", "0-0"]})


def read(path: Path) -> pd.DataFrame:
    text = {"user": str, "item": str, "sid": str}
    return pd.read_csv(path, dtype=text) if path.suffix == ".csv" else pd.read_json(path, lines=True, dtype=text)


def test_ids_are_separated_by_commas_or_by_spaces():
    assert split_ids("1 2  3") == split_ids("1,2, 3") == ["1", "2", "3"]
    assert split_ids("an id, another id,") == ["an id", "another id"] and split_ids(" ") == []


@pytest.mark.parametrize("text, items", [
    ("[21, 22]", ["21", "22"]), ('["a, b", "c"]', ["a, b", "c"]), ("['a' 'b']", ["a", "b"]), ("[21 22\n 23]", ["21", "22", "23"]),
    ("[]", []),
    ("['it', \"it's\"]", ["it", "it's"]), ("[21.0, 007]", ["21.0", "007"]), ("['\\u00fc', '\\\\']", ["ü", "\\"]), (" [1]\n", ["1"]),
    ("[a; b]", ["a", "b"]),
    ("[1", ["[1"]), ("[[1], 2]", ["[[1]", "2]"]), ("['\\x']", ["['\\x']"]), ("[1,,2]", ["[1", "2]"]), ("21;22; 23", ["21", "22", "23"]),
    ("[nan, 1]", ["nan", "1"]), ("[" * 3000 + "]" * 3000, ["[" * 3000 + "]" * 3000]),
])  # fmt: skip
def test_lists_as_json_pandas_and_numpy_write_them(text, items):
    assert split_ids(text) == items


def test_any_list_that_json_or_pandas_writes_is_read():
    rng = random.Random(0)
    for _ in range(200):
        items = ["".join(rng.choice("ab1 ,;'\"\\[]ü") for _ in range(rng.randint(1, 5))) for _ in range(rng.randint(0, 4))]
        assert split_ids(json.dumps(items)) == split_ids(repr(items)) == split_ids(str(json.dumps(items, ensure_ascii=False))) == items


@pytest.mark.parametrize("text, items", [
    ("Smith, J;Doe, K", ["Smith, J", "Doe, K"]), ("Smith, J", ["Smith, J"]), ("two words,a;b", ["two words", "a;b"]), ("[x]", ["[x]"]),
    ("x y", ["x", "y"]), ("Smith, K", ["Smith", "K"]),
])  # fmt: skip
def test_ids_that_hold_a_separator_are_told_by_those_that_exist(text, items):
    assert split_ids(text, {"Smith, J", "Doe, K", "two words", "a;b", "[x]", "x", "y"}) == items


@pytest.mark.parametrize("lines", [
    ["user,history", 'ü,"[21, 22]"', 'v,"[""a"", ""b""]"'], ["user;history", "ü;21,22", 'v;"a;b"'],
    ["user\thistory\tage", "ü\t[21 22]\t3", "v\ta b\t4"],
])  # fmt: skip
def test_histories_of_a_spreadsheet_and_of_pandas(tmp_path, lines):
    (tmp_path / "h.csv").write_text("\n".join(lines), encoding="utf-8")
    assert list(read_histories(tmp_path / "h.csv")[1]) == [("ü", ["21", "22"]), ("v", ["a", "b"])]
    pd.DataFrame({"user": ["ü"], "history": [["21", "it's, that"]]}).to_csv(tmp_path / "p.csv", index=False)
    assert list(read_histories(tmp_path / "p.csv")[1]) == [("ü", ["21", "it's, that"])]


def test_histories_of_a_file(tmp_path):
    path = tmp_path / "histories.csv"
    path.write_text('\ufeffwhen,user,history\n1,ü,50 181\n\n2,u2,"x, y z"\n3,u3,\n', encoding="utf-8")
    label, pairs = read_histories(path)
    assert label == "user" and list(pairs) == [("ü", ["50", "181"]), ("u2", ["x", "y z"]), ("u3", [])]
    path.write_text("history\n50 181\n7\n")
    label, pairs = read_histories(path)
    assert label == "row" and list(pairs) == [(0, ["50", "181"]), (1, ["7"])]


def test_lines_are_read_when_they_are_asked_for(tmp_path):
    path = tmp_path / "histories.csv"
    path.write_text("history\n" + "50 181\n" * 20_000 + "a,b\n")
    _, pairs = read_histories(path)
    assert [next(pairs)[0] for _ in range(3)] == [0, 1, 2]
    with pytest.raises(UserError, match=r"line 20002: expected 1 columns, got 2"):
        list(pairs)


@pytest.mark.parametrize("text, message", [
    (b"user,items\nu,1\n", "no column 'history'"), (b"user,hist\n", "it reads 'user,hist'; write user,history or history"),
    (b"", "no column 'history'"), (b"history\n\xff\n", "not UTF-8"), (None, "cannot read"),
    (b"user,history\n\n", "holds no history after its header; write one a line"),
])  # fmt: skip
def test_bad_histories(tmp_path, text, message):
    path = tmp_path / "histories.csv"
    if text is not None:
        path.write_bytes(text)
    with pytest.raises(UserError, match=message):
        list(read_histories(path)[1])


def test_lists_of_ids(tmp_path):
    (tmp_path / "ids.txt").write_text("a\r\n\n b c \n", encoding="utf-8")
    assert read_ids(tmp_path / "ids.txt") == ["a", "b c"]
    (tmp_path / "ids.txt").write_text("\n")
    with pytest.raises(UserError, match="names no item"):
        read_ids(tmp_path / "ids.txt")


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_what_is_written_reads_back(tmp_path, ending):
    path = tmp_path / f"out.{ending}"
    assert write_frames(path, iter([FRAME, FRAME.head(0), FRAME.head(1)])) == 3
    pd.testing.assert_frame_equal(read(path), pd.concat([FRAME, FRAME.head(1)], ignore_index=True))


def test_nothing_recommended_is_an_empty_table(tmp_path):
    assert write_frames(tmp_path / "out.csv", iter([FRAME.head(0)])) == 0
    assert (tmp_path / "out.csv").read_text() == "user,rank,item,score,sid\n"


def test_parquet(tmp_path):
    pytest.importorskip("pyarrow")
    write_frames(tmp_path / "out.parquet", iter([FRAME.head(0), FRAME]))
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "out.parquet"), FRAME)


def test_parquet_without_pyarrow_and_unknown_endings(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    for name, message in (("out.parquet", "pip install pyarrow"), ("out.txt", ".csv, .jsonl, .parquet"), ("out", ".csv")):
        with pytest.raises(UserError, match=message):
            write_frames(tmp_path / name, iter([FRAME]))


def write_and_die(path: Path) -> None:
    def frames():
        yield pd.concat([FRAME] * 2000)  # more than a buffer holds
        os.kill(os.getpid(), signal.SIGKILL)

    write_frames(path, frames())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a forked process")
def test_killed_midway_no_half_file_is_left(tmp_path):
    path = tmp_path / "out.csv"
    for old in (None, "an older file\n"):
        if old:
            path.write_text(old)
        process = multiprocessing.get_context("fork").Process(target=write_and_die, args=(path,))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert path.read_text() == old if old else not path.exists()


def test_interrupted_nothing_at_all_is_left(tmp_path):
    def frames():
        yield FRAME
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_frames(tmp_path / "out.jsonl", frames())
    assert not list(tmp_path.iterdir())


# -- the command ------------------------------------------------------------------------------------------------------------------------


def command(*words) -> int:
    return main(["recommend", *map(str, words)])


def test_recommend_writes_what_the_recommender_returns(checkpoint, tmp_path, capsys):
    folder = checkpoint()
    recommender = Recommender(folder)
    users = recommender.users.users()[:3]
    (tmp_path / "allow.txt").write_text("\n".join(sorted(recommender.served.item_ids[1:])[::2]))
    allowed = read_ids(tmp_path / "allow.txt")
    expected = recommender.recommend(users=users, k=7, as_of="test", exclude_seen=True, allow=allowed)
    given = ["--checkpoint", folder, "--topk", 7, "--exclude-seen", "--allow", tmp_path / "allow.txt", "--batch_size", 2]
    for ending in ("csv", "jsonl"):
        output = tmp_path / f"out.{ending}"
        assert command(*given, "--users", ",".join(users), "--as-of", "test", "--output", output) == 0
        pd.testing.assert_frame_equal(read(output), expected)
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert len(rows) == 21 and set(rows[0]) == {"user", "rank", "item", "score", "sid"}

    lines = [f"{user},{' '.join(items)}\n" for user, items in recommender.users.of(users, "test")]
    (tmp_path / "histories.csv").write_text("user,history\n" + "".join(lines))
    assert command(*given, "--input", tmp_path / "histories.csv", "--output", tmp_path / "from_file.csv") == 0
    assert (tmp_path / "from_file.csv").read_text() == (tmp_path / "out.csv").read_text()
    capsys.readouterr()
    assert command("--checkpoint", folder, "--users", "all", "--topk", 2) == 0
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) == 52 and shown[0].split() == list(expected) and "--output" in shown[-1]
    assert command("--checkpoint", folder / "best.pth", "--history", "50", "--topk", 2, "--num_beams", "exact", "--device", "cpu") == 0
    assert len(capsys.readouterr().out.splitlines()) == 3


@pytest.mark.parametrize("words, message", [
    (["--users", "nobody,no one"], "'nobody', 'no one'"),
    (["--history", "x,y"], "knows none of the 2 items of these histories, such as 'x'"),
    (["--history", "50", "--as-of", "test"], "give --users"),
    (["--history", "50", "--topk", "99"], "num_beams"),
    (["--history", "50", "--output", "out.xls"], "ends in '.xls'"),
    (["--history", "50", "--output", "/dev/null/out.csv"], "cannot write"),
    (["--input", "absent.csv"], "cannot read absent.csv"),
    (["--history", "50", "--allow", "absent.txt"], "cannot read absent.txt"),
    (["--history", "50", "--add", "absent.sid"], "absent.sid"),
    (["--history", "50", "--device", "tpu"], "device 'tpu'"),
])  # fmt: skip
def test_bad_input_is_one_line(checkpoint, capfd, words, message):
    folder = checkpoint()
    capfd.readouterr()
    assert command("--checkpoint", folder, *words) == 2
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("recbole-r3vae: ")]
    assert len(lines) == 1 and message in lines[0]
    assert not list(Path(".").glob("out*"))
