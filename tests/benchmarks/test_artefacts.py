"""Tables to take away are made, compressed and told of; runs are packed beside them."""

from __future__ import annotations

import dataclasses
import json
import runpy
import shlex
from pathlib import Path

import numpy as np
import pytest

from recbole_r3vae.cli import main as command_line
from recbole_r3vae.quick_start import run_recbole_r3vae
from recbole_r3vae.record import Record
from recbole_r3vae.sid.table import SemanticIDs

ROOT = Path(__file__).parents[2]
SCRIPT = runpy.run_path(str(ROOT / "benchmarks" / "artefacts.py"))


@pytest.fixture
def shop(tmp_path) -> str:
    """A small ``amazon-toys`` with vectors; its data path."""
    random, folder = np.random.default_rng(0), tmp_path / "data" / "amazon-toys"
    folder.mkdir(parents=True)
    pairs = [(user, item) for user in range(24) for item in random.choice(300, 9, replace=False)]
    lines = "".join(f"u{user}\ti{item}\t{time}\n" for time, (user, item) in enumerate(pairs))
    (folder / "amazon-toys.inter").write_text("user_id:token\titem_id:token\ttimestamp:float\n" + lines)
    items = sorted({item for _, item in pairs})
    (folder / "amazon-toys.item").write_text("item_id:token\ttitle:token_seq\n" + "".join(f"i{item}\tToy {item}\n" for item in items))
    Path("vectors").mkdir()
    np.save("vectors/amazon-toys-mpnet.npy", random.normal(size=(len(items), 32)).astype(np.float16))
    Path("vectors/amazon-toys-mpnet.ids").write_text("".join(f"i{item}\n" for item in items))
    return str(tmp_path / "data")


def test_a_table_its_sidecar_and_the_readme(shop, capsys, monkeypatch):
    small = {"RKMeans-3": ("RKMeans", {"codebook_sizes": [4, 4], "user_inter_num_interval": None, "item_inter_num_interval": None})}
    monkeypatch.setitem(SCRIPT["settings_of"].__globals__, "TOKENIZERS", small)
    SCRIPT["main"]([f"--data_path={shop}", "--only", "amazon-toys/RKMeans-3"])
    path = Path("artefacts/sid/amazon-toys/RKMeans-3.sid.gz")
    sids, side = SemanticIDs.load(path), json.loads(Path(f"{path}.json").read_text())
    assert sids.codebook_sizes == (4, 4) and sids.n_items > 100
    made = side["meta"]["made"]
    assert made["command"].startswith("recbole-r3vae run --model=RKMeans --dataset=amazon-toys --content_encoder=file")
    assert "--codebook_sizes=[4,4]" in shlex.split(made["command"]) and made["quality"]["unique_ratio"] < 1
    text = Path("artefacts/README.md").read_text()
    assert f"| `sid/amazon-toys/RKMeans-3.sid.gz` | {sids.n_items - 1} | 2 | 4 |" in text and made["command"] in text
    more = ["user_inter_num_interval", "item_inter_num_interval"]
    settings = {"data_path": shop, "sid_file": str(path), "content_encoder": "tfidf-svd", "content_dim": 8, **dict.fromkeys(more)}
    small_model = {"hidden_size": 8, "inner_size": 8, "n_heads": 1, "n_layers": 1, "rank_by": "dense", "item_inputs": ["codes"]}
    result = run_recbole_r3vae("R3GR", "amazon-toys", config_dict={**settings, **small_model, "epochs": 1, "device": "cpu"})
    SCRIPT["main"](["--pack", result["run_dir"]])
    assert "row “" not in Path("artefacts/README.md").read_text()  # its own record knows no grid
    record = dataclasses.replace(Record.read(Path(result["run_dir"]) / "result.json"), command="recbole-r3vae benchmark --config=x", label="alone")
    record.write("of_a_grid.json")
    SCRIPT["main"](["--pack", result["run_dir"], "--record", "of_a_grid.json"])
    text = Path("artefacts/README.md").read_text()
    assert "* `R3GR-amazon-toys`: `recbole-r3vae benchmark --config=x`, row “alone”" in text
    assert "recbole-r3vae recommend --checkpoint artefacts/R3GR-amazon-toys --history" in text and "RKMeans-3.sid.gz" in text
    capsys.readouterr()
    assert command_line(["recommend", "--checkpoint", "artefacts/R3GR-amazon-toys", "--history", sids.item_ids[1], "--topk", "2"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_what_is_unknown_is_named(capsys):
    with pytest.raises(SystemExit):
        SCRIPT["main"](["--only", "amazon-toys/RKMean"])
    assert "there is no table amazon-toys/RKMean; choose amazon-beauty/R3VAE-3" in capsys.readouterr().err
