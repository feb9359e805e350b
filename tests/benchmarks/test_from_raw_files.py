"""From raw files to a leaderboard, each step offline on files of a few lines."""

from __future__ import annotations

import gzip
import json
import runpy
from pathlib import Path

import numpy as np
import pytest
import yaml

from recbole_r3vae.config.sources import properties
from recbole_r3vae.experiments.grid import run as module

SCRIPT = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "from_raw_files.py"))
GRID = {
    "datasets": ["amazon-beauty"], "seeds": [1, 2],
    "settings": {"MAX_ITEM_LIST_LENGTH": 5, "epochs": 1, "eval_step": 1},
    "models": {
        "codes": {
            "model": "R3GR",
            "settings": {
                "rank_by": "dense", "hidden_size": 8, "inner_size": 8, "n_heads": 1, "n_layers": 1, "content_encoder": "file",
                "content_file": "vectors/amazon-beauty-mpnet.npy", "tokenizer_codebook_sizes": [4, 4],
            },
            "tokenizers": {"RKMeans": {"seeds": [1, 2, 3]}},
        },
        "Pop": None,
        "ItemKNN": None,
    },
}  # fmt: skip


@pytest.fixture
def raw(tmp_path) -> dict[str, str]:
    """Reviews and metadata as the public files have them: JSON lines, and Python literals."""
    random = np.random.default_rng(0)
    lines = [
        {"reviewerID": f"U{user}", "asin": f"B{item:02}", "overall": 5.0, "unixReviewTime": 86400 * int(random.integers(1, 400))}
        for user in range(30)
        for item in random.choice(20, 9, replace=False)
    ]
    items = [{"asin": f"B{item:02}", "title": f"Soap number {item}", "categories": [["Beauty", f"Kind {item % 4}"]]} for item in range(20)]
    texts = {"reviews": "\n".join(map(json.dumps, lines)), "meta": "\n".join(map(repr, items))}
    for role, text in texts.items():
        (tmp_path / f"{role}.json.gz").write_bytes(gzip.compress(text.encode()))
    return {role: (tmp_path / f"{role}.json.gz").as_uri() for role in texts}  # URLs, as in earnest


def test_every_step_offline(raw, tmp_path, monkeypatch, capsys):
    def here(function, calls, workers=1, threads=None):
        yield from ((place, function(*arguments), None) for place, arguments in enumerate(calls))

    monkeypatch.setattr(module, "in_own_processes", here)
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(GRID, sort_keys=False))
    words = [f"--reviews={raw['reviews']}", f"--meta={raw['meta']}", "--encoder=tfidf-svd", "--grid=grid.yaml", "--rows", "codes", "Pop"]
    assert SCRIPT["main"]([*words, "--seeds", "1"]) == 0
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("$ ")]
    assert [line.split()[2] for line in told] == ["prepare", "embed", "benchmark"]
    assert "--item_text_template={title}. Categories: {categories}" in told[1].replace("'", "")
    assert np.load("vectors/amazon-beauty-mpnet.npy").shape[0] == 20 and len(Path("vectors/amazon-beauty-mpnet.ids").read_text().split()) == 20
    report = json.loads(Path("results/from_raw_files/leaderboard_amazon-beauty.json").read_text())
    assert {(row["name"], tuple(row["seeds"])) for row in report["rows"]} == {("R3GR-dense[RKMeans]", (1,)), ("Pop", (1,))}
    assert report["failed"] == [] and report["users"] == 30
    assert SCRIPT["main"]([*words, "--seeds", "1"]) == 0  # what is there is taken up
    again = capsys.readouterr().out
    assert [line.split()[2] for line in again.splitlines() if line.startswith("$ ")] == ["benchmark"] and "2 finished before" in again


def test_without_files_the_public_ones_are_named():
    options = type("Options", (), {"dataset": "amazon-toys", "grid": None, "rows": [], "seeds": None, "output": "out"})()
    options.reviews = options.meta = None
    options.encoder = SCRIPT["ENCODER"]
    prepare, embed, benchmark = SCRIPT["commands"](options)
    assert prepare[3].startswith("http") and prepare[3].endswith("/reviews_Toys_and_Games_5.json.gz") and "meta_Toys" in prepare[5]
    assert "--content_encoder=sentence-transformers/all-mpnet-base-v2" in embed
    assert benchmark[1] == f"--config={properties() / 'benchmark' / 'amazon-toys-dense.yaml'}"


def test_the_rows_of_the_readme_are_rows_of_the_grid(tmp_path):
    path = properties() / "benchmark" / "amazon-beauty-dense.yaml"
    made = yaml.safe_load(SCRIPT["grid_of_rows"](path, ["codes and text", "WindowSASRec"], [7], tmp_path / "rows.yaml").read_text())
    assert list(made["models"]) == ["codes and text", "WindowSASRec"] and made["seeds"] == [7]
    assert all("seeds" not in (own or {}) for own in made["models"]["codes and text"]["tokenizers"].values())
    with pytest.raises(SystemExit, match="has no row 'codes and txt'; choose among 'codes and text'"):
        SCRIPT["grid_of_rows"](path, ["codes and txt"], None, tmp_path / "rows.yaml")
