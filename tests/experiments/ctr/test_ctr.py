"""The comparison of item ids with semantic IDs: what is finished stays, what is new is added, and the tables are those of the cells."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from recbole_r3vae.cli import main
from recbole_r3vae.errors import UserError
from recbole_r3vae.experiments.ctr import run as ctr
from recbole_r3vae.experiments.ctr.cells import cells_of
from recbole_r3vae.experiments.ctr.run import run_ctr
from recbole_r3vae.experiments.ctr.tables import write_tables

FILE = Path("results/ctr_tiny.json")


@pytest.fixture
def words(tiny_settings) -> list[str]:
    kept = ("data_path", "checkpoint_dir", "content_cache_dir", "device", "content_dim", "codebook_sizes")
    settings = {key: tiny_settings[key] for key in kept}
    settings |= {
        "load_col": {"inter": ["user_id", "item_id", "rating", "timestamp"], "item": ["item_id", "movie_title", "class"]},
        "item_text_fields": ["movie_title", "class"], "ctr_features": ["class"], "threshold": {"rating": 4}, "epochs": 1,
        "embedding_size": 4, "mlp_hidden_size": [8], "sid_prefix_buckets": 16, "tokenizer_epochs": 2,
    }  # fmt: skip
    return [f"--{key}={json.dumps(value)}" for key, value in settings.items()]


def cells() -> list[dict]:
    return json.loads(FILE.read_text(encoding="utf-8"))["cells"]


def test_finished_cells_are_not_run_again_and_others_are_added(words, monkeypatch, capsys):
    run, ran = ctr.run_cell, []

    def counted(cell, dataset, where):
        if cell.tokenizer and "stopped" not in ran:
            ran.append("stopped")
            raise KeyboardInterrupt
        ran.append(str(cell))
        return run(cell, dataset, where)

    monkeypatch.setattr(ctr, "run_cell", counted)
    command = ["ctr", "--dataset=tiny", "--models=DeepFM", "--tokenizers=RKMeans", "--features=replace", *words]
    assert main([*command, "--seeds=1"]) == 130
    assert ran == ["DeepFM seed 1", "stopped"] and len(cells()) == 1
    assert main([*command, "--seeds=1,2"]) == 0
    assert ran[2:] == ["DeepFM-replace[RKMeans] seed 1", "DeepFM seed 2", "DeepFM-replace[RKMeans] seed 2"]
    assert "4 cells, 1 finished before" in capsys.readouterr().out
    page = FILE.with_suffix(".md").read_text(encoding="utf-8")
    assert len([line for line in page.splitlines() if line.startswith("| DeepFM | id | 2 |")]) == 2  # all rows, and cold ones
    assert main([*command, "--seeds=1,2"]) == 0 and len(ran) == 5
    assert FILE.with_suffix(".md").read_text(encoding="utf-8") == page
    assert len({json.dumps(cell["labelled"]) for cell in cells()}) == 1  # ratings: the same rows under every seed
    assert [cell["seconds"]["tokenizer"] is None for cell in cells()] == [True, False, True, False]

    assert main([*command, "--seeds=1", "--learning_rate=0.01"]) == 0  # other settings: cells of their own, a table of their own
    assert len(ran) == 7 and len(cells()) == 6
    assert "| DeepFM | id | 1 |" in FILE.with_suffix(".md").read_text(encoding="utf-8")


def test_other_vectors_under_the_same_name_are_other_cells(words, tiny_data, monkeypatch, capsys):
    """The item id alone reads none, so its cell stays; the table has the cells of the vectors that are there."""
    ids = [line.split("\t")[0] for line in (tiny_data / "tiny" / "tiny.item").read_text(encoding="utf-8").splitlines()[1:]]
    Path("v.ids").write_text("\n".join(ids) + "\n")
    command = ["ctr", "--dataset=tiny", "--models=DeepFM", "--tokenizers=RKMeans", "--features=replace", "--seeds=1", *words]
    command += ["--content_encoder=file", "--content_file=v.npy"]
    for seed, (n_cells, finished) in enumerate([(2, 0), (3, 1), (3, 2)]):
        np.save("v.npy", np.random.default_rng(min(seed, 1)).normal(size=(len(ids), 6)).astype("float32"))
        assert main(command) == 0
        assert f"2 cells, {finished} finished before" in capsys.readouterr().out and len(cells()) == n_cells
    page = FILE.with_suffix(".md").read_text(encoding="utf-8")
    assert len([line for line in page.splitlines() if line.startswith("| DeepFM | replace RKMeans | 1 |")]) == 2


def test_a_cell_that_fails_does_not_stop_the_others_and_is_tried_again(words, monkeypatch, capsys):
    run = ctr.run_cell

    def failing(cell, dataset, where):
        if cell.tokenizer:
            raise UserError("the disk\nis full")
        return run(cell, dataset, where)

    monkeypatch.setattr(ctr, "run_cell", failing)
    command = ["ctr", "--dataset=tiny", "--models=DeepFM", "--tokenizers=RKMeans", "--seeds=1", "--features=replace", *words]
    assert main(command) == 1
    assert "failed: DeepFM-replace[RKMeans] seed 1: the disk is full" in capsys.readouterr().out and len(cells()) == 1
    monkeypatch.setattr(ctr, "run_cell", run)
    assert main(command) == 0 and len(cells()) == 2


def test_keys_go_where_they_belong(words):
    given = {"epochs": 3, "DIN.epochs": 2, "tokenizer_epochs": 5, "data_path": None}
    settings = {word[2:].partition("=")[0]: json.loads(word.partition("=")[2]) for word in words}
    where = {key: settings[key] for key in ("data_path", "checkpoint_dir", "content_cache_dir")}
    del given["data_path"]
    found = cells_of("tiny", ["DeepFM", "DIN"], ["RKMeans", "R3VAE"], [1], ["append"], given, where)
    assert [(cell.model, cell.tokenizer, cell.settings["epochs"], cell.settings.get("tokenizer_epochs")) for cell in found] == [
        ("DeepFM", None, 3, None), ("DeepFM", "RKMeans", 3, None), ("DeepFM", "R3VAE", 3, 5),
        ("DIN", None, 2, None), ("DIN", "RKMeans", 2, None), ("DIN", "R3VAE", 2, 5),
    ]  # fmt: skip
    other = cells_of("tiny", ["DeepFM", "DIN"], ["RKMeans", "R3VAE"], [1], ["append"], {**given, "tokenizer_epochs": 6}, where)
    assert [a.hash == b.hash for a, b in zip(found, other)] == [True, True, False] * 2


@pytest.mark.parametrize(
    "choice, expected",
    [
        ({"models": ["SASRec"]}, "SASRec does not predict clicks"),
        ({"tokenizers": ["LETTER"]}, "LETTER learns from interactions"),
        ({"tokenizers": ["RKMean"]}, "did you mean 'RKMeans'"),
        ({"features": ["none"]}, "features has 'none'"),
        ({"seeds": ["x"]}, "seeds has 'x'"),
        ({"arguments": ["--seed=3"]}, "seed is set by the comparison itself"),
        ({"arguments": ["--learning_rat=3"]}, "unknown key --learning_rat for DeepFM; did you mean 'learning_rate'"),
    ],
)  # fmt: skip
def test_what_cannot_be_compared_is_refused_before_anything_runs(words, choice, expected):
    choice = {"models": ["DeepFM"], "tokenizers": ["RKMeans"], "seeds": [1], **choice}
    with pytest.raises(UserError, match=expected):
        run_ctr("tiny", **{**choice, "arguments": [*words, *choice.get("arguments", [])]})
    assert not FILE.exists()


def test_a_damaged_result_file_is_left_alone(words):
    FILE.parent.mkdir()
    FILE.write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match="move it away, or choose another --output"):
        run_ctr("tiny", ["DeepFM"], ["RKMeans"], [1], arguments=words)
    assert FILE.read_text(encoding="utf-8") == "{"


def test_the_table_has_means_deviations_and_differences_under_the_same_seed(tmp_path):
    counts = {f"{cold}{name}": 10 for cold in ("", "cold_") for name in ("rows", "positives", "users_with_both")}
    config = {"eval_args": {"split": {"RS": [8, 1, 1]}}, "ctr_features": ["class"], "cold_item_interactions": 5}

    def cell(kind, tokenizer, seed, uauc, cold=None):
        test = {"auc": 0.7, "logloss": 0.5, "uauc": uauc, **({"cold_uauc": cold} if cold else {})}
        return {
            "model": "FM", "features": kind, "tokenizer": tokenizer, "seed": seed, "name": "FM", "test": test, "n_parameters": 1234,
            "labelled": {"labels": "x", "test": counts}, "config": config, "commit": "abc", "command": f"ctr {kind}", "seconds": {"training": 1.0},
            "stopped_at_budget": False, "epochs": 3,
        }  # fmt: skip

    found = [cell("replace", "R3VAE", 1, 0.64), cell("none", None, 1, 0.60), cell("none", None, 2, 0.62), cell("replace", "R3VAE", 2, 0.61)]
    write_tables(tmp_path / "t.md", "tiny", found)
    lines = (tmp_path / "t.md").read_text(encoding="utf-8").splitlines()
    assert "Made by `ctr replace`, `ctr none`; commit abc. Training took 1 to 1 s a cell." in lines
    assert "| FM | id | 2 | 0.7000 ± 0.0000 | 0.6100 ± 0.0141 | 0.5000 ± 0.0000 | – | 1,234 | 3/3 |" in lines
    assert "| FM | replace R3VAE | 2 | 0.7000 ± 0.0000 | 0.6250 ± 0.0212 | 0.5000 ± 0.0000 | +0.0150 (1 of 2) | 1,234 | 3/3 |" in lines
    assert "| FM | replace R3VAE | 2 | – | – | – | – | 1,234 | 3/3 |" in lines  # nobody has both labels among cold items
