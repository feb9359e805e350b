"""Commands after a run read data as the run did: separator, encoding and the names of fields."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from recbole_r3vae.cli import main
from recbole_r3vae.quick_start import run_recbole_r3vae
from recbole_r3vae.serve import dataset_titles
from recbole_r3vae.sid.table import SemanticIDs

READING = {"field_separator": ";", "ITEM_ID_FIELD": "film", "encoding": "latin-1"}


@pytest.fixture
def films(tiny_data, tmp_path) -> Path:
    """``tiny`` as a spreadsheet writes it: semicolons, some of them within quoted titles, latin-1, another name of the id."""
    (tmp_path / "films" / "tiny").mkdir(parents=True)
    for ending in ("inter", "item"):
        frame = pd.read_csv(tiny_data / "tiny" / f"tiny.{ending}", sep="\t", dtype=str, keep_default_na=False)
        frame = frame.rename(columns={"item_id:token": "film:token"})
        if ending == "item":
            frame["movie_title:token_seq"] = "Café; " + frame["movie_title:token_seq"]
        frame.to_csv(tmp_path / "films" / "tiny" / f"tiny.{ending}", sep=";", index=False, encoding="latin-1")
    return tmp_path / "films"


@pytest.fixture
def folder(films, tiny_settings) -> Path:
    columns = {"inter": ["user_id", "film", "timestamp"], "item": ["film", "movie_title", "class"]}
    stages = {"tokenizer": "RKMeans", "tokenizer_epochs": 0, "epochs": 1}
    settings = {**tiny_settings, **READING, **stages, "load_col": columns, "data_path": str(films)}
    return Path(run_recbole_r3vae("R3GR", "tiny", config_dict=settings)["run_dir"])


def test_inspect_and_tokenize_follow_the_run(films, folder, tmp_path, capsys):
    sid = folder / "tokenizer" / "suffix.sid"
    item = SemanticIDs.load(sid).item_ids[1]
    assert main(["inspect", "--sid", str(sid), "--dataset", "tiny", "--data_path", str(films), "--item", item]) == 0
    assert f"item {item}: Café; " in capsys.readouterr().out
    new, output = tmp_path / "new.item", tmp_path / "new.sid"
    lines = (films / "tiny" / "tiny.item").read_text(encoding="latin-1").splitlines()
    new.write_text("\n".join([lines[0], *(f"new-{line}" for line in lines[1:6])]) + "\n", encoding="latin-1")
    assert main(["tokenize", "--checkpoint", str(folder), "--items", str(new), "--output", str(output)]) == 0
    old, made = SemanticIDs.load(sid), SemanticIDs.load(output)
    for name, codes in zip(made.item_ids[1:], made.codes[1:]):
        assert codes[:3].tolist() == old.codes[old.item_ids.index(name.removeprefix("new-"))][:3].tolist()


def test_files_say_how_to_read_beside_any_semantic_ids(films, folder, tmp_path, capsys):
    copy = tmp_path / "elsewhere.sid"
    SemanticIDs.load(folder / "tokenizer" / "suffix.sid").save(copy)
    words = ["inspect", "--sid", str(copy), "--dataset", "tiny", "--data_path", str(films)]
    assert main(words) == 2
    assert "set `encoding`" in capsys.readouterr().err
    settings = tmp_path / "reading.yaml"
    settings.write_text('field_separator: ";"\nITEM_ID_FIELD: film\nencoding: latin-1\nitem_text_fields: [movie_title]\nepochs: 3\n')
    assert main([*words, "--config_files", str(settings)]) == 0
    assert "Café; " in capsys.readouterr().out
    assert len(dataset_titles("tiny", films, None, None, [settings])) == 148


def test_semantic_ids_of_another_dataset_say_nothing_of_this_one(folder, tiny_data, tmp_path):
    other = tmp_path / "other" / "small"
    other.mkdir(parents=True)
    (other / "small.item").write_text("item_id:token\ttitle:token_seq\na\tone\n")
    assert dataset_titles("small", other.parent, None, folder / "tokenizer" / "suffix.sid") == {"a": "one"}
