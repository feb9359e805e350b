"""Histories of users by name, of whole files and of parts that were split before."""

from __future__ import annotations

from pathlib import Path

import pytest

from recbole_r3vae.config import Config
from recbole_r3vae.errors import UserError
from recbole_r3vae.quick_start.lookup import create_dataset
from recbole_r3vae.serve.users import UserHistories

PARTS = {
    "train": "u b 2 a|u c 3 a,b|v x 5 y|w a 1 b",
    "valid": "u d 4 a,b,c",
    "test": "v z 9 y,x|u f 8 a,b,c,d,e|u e 7 a,b,c,d",
}


def written(folder: Path, whole: bool = False) -> Path:
    (folder / "plays").mkdir(parents=True)
    header = "user_id:token\titem_id:token\ttimestamp:float\titem_id_list:token_seq\n"
    texts = {name: "".join(line.replace(" ", "\t").replace(",", " ") + "\n" for line in lines.split("|")) for name, lines in PARTS.items()}
    for name, text in {"": "".join(texts.values())}.items() if whole else texts.items():
        (folder / "plays" / f"plays{name and '.'}{name}.inter").write_text(header + text)
    return folder


def histories(folder, model="SASRec", columns=("user_id", "item_id", "timestamp"), **more) -> UserHistories:
    settings = {"data_path": str(folder), "load_col": {"inter": list(columns)}, "device": "cpu", **more}
    return UserHistories(create_dataset(Config(model, "plays", config_dict=settings)))


@pytest.fixture
def parts():
    return {"benchmark_filename": list(PARTS)}


@pytest.mark.parametrize("model", ["SASRec", "BPR", "R3GR"])
def test_plain_parts(tmp_path, parts, model):
    """The parts one after the other, in each the times; as of a part, what came before it."""
    of = histories(written(tmp_path), model, **parts)
    assert dict(of.of(of.users())) == {"u": ["b", "c", "d", "e", "f"], "v": ["x", "z"], "w": ["a"]}
    assert dict(of.of(of.users("test"), "test")) == {"u": ["b", "c", "d"], "v": ["x"]}
    assert dict(of.of(of.users("valid"), "valid")) == {"u": ["b", "c"]}


@pytest.mark.parametrize("model", ["SASRec", "BPR", "R3GR"])
def test_parts_that_bring_histories_keep_their_heads(tmp_path, parts, model):
    of = histories(written(tmp_path), model, ("user_id", "item_id", "timestamp", "item_id_list"), **parts)
    assert dict(of.of(of.users())) == {"u": list("abcdef"), "v": ["y", "x", "z"], "w": ["b", "a"]}
    assert dict(of.of(of.users("test"), "test")) == {"u": list("abcd"), "v": ["y", "x"]}
    assert dict(of.of(of.users("valid"), "valid")) == {"u": ["a", "b", "c"]}


def test_what_parts_do_not_have_is_refused(tmp_path, parts):
    of = histories(written(tmp_path), **parts)
    with pytest.raises(UserError, match="users without interactions before it have no valid item: 'v', 'w'; leave"):
        of.of(["u", "v", "w"], "valid")
    with pytest.raises(UserError, match="as_of is 'later'; choose now, valid, test"):
        of.users("later")
    with pytest.raises(UserError, match="users unknown to dataset plays: 'q'"):
        of.of(["q"], "test")


def test_a_whole_file_is_in_time_order(tmp_path):
    of = histories(written(tmp_path, whole=True))
    assert dict(of.of(["u"])) == {"u": ["b", "c", "d", "e", "f"]}
    assert dict(of.of(["u"], "test")) == {"u": ["b", "c", "d", "e"]}
    assert of.users("valid") == ["u"]
