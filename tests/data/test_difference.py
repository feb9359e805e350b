"""What an export changed, against sets and lists counted by hand."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from recbole_r3vae.cli import main
from recbole_r3vae.config import Config
from recbole_r3vae.data.difference import differences, table
from recbole_r3vae.errors import UserError


def write(path, rows, head="user_id:token\titem_id:token\ttimestamp:float", separator="\t") -> str:
    path.write_text("\n".join([head, *(separator.join(map(str, row)) for row in rows)]) + "\n")
    return str(path)


@pytest.fixture
def config() -> Config:
    return Config("Pop", "ml-100k")


OLD = [("u1", "a", 1), ("u1", "b", 2), ("u2", "a", 1), ("u3", "c", 5), ("u1", "a", 1)]


@pytest.mark.parametrize("new, counts, histories, same_order", [
    (OLD, [(3, 3, 0, 0), (3, 3, 0, 0), (5, 5, 0, 0)], (3, 0, 0), True),
    (OLD[::-1], [(3, 3, 0, 0), (3, 3, 0, 0), (5, 5, 0, 0)], (3, 0, 0), False),
    ([*OLD, ("u1", "d", 9), ("u4", "a", 3)], [(3, 4, 1, 0), (3, 4, 1, 0), (5, 7, 2, 0)], (2, 1, 0), True),
    ([OLD[0], *OLD[2:]], [(3, 3, 0, 0), (3, 2, 0, 1), (5, 4, 0, 1)], (2, 0, 1), True),
    ([row for row in OLD if row[0] != "u3"], [(3, 2, 0, 1), (3, 2, 0, 1), (5, 4, 0, 1)], (2, 0, 0), True),
    ([*OLD, ("u1", "d", 1.5)], [(3, 3, 0, 0), (3, 4, 1, 0), (5, 6, 1, 0)], (2, 0, 1), True),
])  # fmt: skip
def test_what_came_and_went(tmp_path, config, new, counts, histories, same_order):
    found = differences(write(tmp_path / "old.inter", OLD), write(tmp_path / "new.inter", new), config)
    assert list(found.counts.values()) == counts and tuple(found.histories.values()) == histories
    assert found.same_order == same_order and found.other_cells == 0 and found.columns == ([], [])


def test_random_exports_against_multisets(tmp_path, config):
    rng = random.Random(0)
    for _ in range(30):
        rows = [(f"u{rng.randrange(4)}", f"i{rng.randrange(4)}", rng.randrange(3)) for _ in range(rng.randint(2, 50))]
        at = rng.randint(1, len(rows) - 1)
        old, new = rows[:at], rows[at:]
        found = differences(write(tmp_path / "old.inter", old), write(tmp_path / "new.inter", new), config)
        a, b = Counter(old), Counter(new)
        assert found.counts["interactions"] == (len(old), len(new), (b - a).total(), (a - b).total())
        assert found.lines_of_both == (a & b).total()
        users, others = {row[0] for row in old}, {row[0] for row in new}
        assert found.counts["users"] == (len(users), len(others), len(others - users), len(users - others))
        assert sum(found.histories.values()) == len(users & others)


def test_other_columns_and_files_without_times(tmp_path, config):
    old = write(tmp_path / "old.inter", [("u", "a", 1, 5), ("u", "b", 2, 4)], "user_id:token\titem_id:token\ttimestamp:float\trating:float")
    new = write(tmp_path / "new.inter", [("u", "a", 3, "x"), ("u", "b", 4, "y")], "user_id:token\titem_id:token\trating:float\tplace:token")
    found = differences(old, new, config)
    assert found.lines_of_both == 2 and found.other_cells == 1 and found.columns == (["place"], ["timestamp"])
    assert "columns of the new file alone: place\ncolumns of the old file alone: timestamp" in table(found)


def test_the_command_reads_as_a_run_does(tmp_path, capsys):
    head = "uid:token,iid:token,when:float"
    files = [write(tmp_path / f"{name}.inter", rows, head, ",") for name, rows in (("old", OLD), ("new", [*OLD, ("u9", "z", 7)]))]
    words = ["--field_separator=,", "--USER_ID_FIELD=uid", "--ITEM_ID_FIELD=iid", "--TIME_FIELD=when"]
    assert main(["inspect", "--diff", *files, *words]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["old", "new", "added", "removed"]
    assert lines[1:4] == [["users", "3", "4", "1", "0"], ["items", "3", "4", "1", "0"], ["interactions", "5", "6", "1", "0"]]


def test_files_that_are_none_are_one_line(tmp_path, config, capfd):
    good = write(tmp_path / "good.inter", OLD)
    with pytest.raises(UserError, match="has no column 'item_id', only user_id; set USER_ID_FIELD"):
        differences(good, write(tmp_path / "bad.inter", [("u",)], "user_id:token"), config)
    for words in (["absent.inter"], [write(tmp_path / "na.inter", [("u", "NA", 1)])], [good, "--item=3"]):
        assert main(["inspect", "--diff", good, *words]) == 2
        [line] = capfd.readouterr().err.splitlines()
        assert line.startswith("recbole-r3vae: ")


def test_columns_of_any_name_are_compared(tmp_path, config):
    head = "user_id:token\titem_id:token\ttimestamp:float\tline:token\trepeat:token"
    old = write(tmp_path / "old.inter", [("u", "a", 1, "x", "p"), ("u", "b", 2, "x", "p")], head)
    new = write(tmp_path / "new.inter", [("u", "a", 1, "x", "p"), ("u", "b", 2, "x", "q")], head)
    found = differences(old, new, config)
    assert found.same_order and found.lines_of_both == 2 and found.other_cells == 1 and found.columns == ([], [])
