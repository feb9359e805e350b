"""The signs of R3-VAE's ablation, from run files whose differences are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recbole_r3vae.benchmark.grid_file import load_grid
from recbole_r3vae.benchmark.run_files import Run
from recbole_r3vae.benchmark.units import units_of
from recbole_r3vae.errors import UserError
from recbole_r3vae.config.sources import properties

ROOT = Path(__file__).parents[2]


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import r3vae_signs

    return r3vae_signs


def group(script, name, hits, sc) -> list[Run]:
    """Two seeds: the first ``hits`` of 100 users have their target at the first place."""
    config = {**script.DEFAULT, **script.CHANGES[name]}
    ranks = (np.arange(100) < hits).astype(np.uint8)
    quality = {"sc_raw": sc, "pd_raw": -1.5, "unique_ratio": 0.8}
    measured = {"valid": {"ndcg@10": hits / 100}, "test": {"recall@10": hits / 100, "ndcg@10": hits / 100}, "quality": quality}
    return [Run({"seed": seed, "config": config, "stopped_at_budget": False, **measured}, ranks) for seed in (1, 2)]


def groups(script) -> dict[str, list[Run]]:
    hits = dict(zip(script.CHANGES, (50, 30, 50, 51, 49, 50, 50)))
    return {name: group(script, name, hits[name], 0.5 if name == "default" else 0.6) for name in script.CHANGES}


def test_differences_carry_their_sign_their_doubt_and_the_papers(script):
    runs = groups(script)
    entry = script.difference("no reference vector", "recall@10", runs["no reference vector"], runs["default"])
    assert entry["found"] == pytest.approx(-0.2) and entry["p"] < 1e-4 and entry["paper"] == pytest.approx(-0.0074)
    assert script.difference("no SC", "ndcg@10", runs["no SC"], runs["default"])["p"] > 0.05  # one user of a hundred
    entry = script.difference("lambda .1", "sc_raw", runs["lambda .1"], runs["default"])
    assert entry == {"found": pytest.approx(0.1), "paper": None, "p": None}
    text = "\n".join(script.report(list(runs.values())[::-1]))  # in whatever order
    assert "| no reference vector | -0.2000, p 0.00 (-0.0074) | -0.2000, p 0.00 (-0.0036) | +0.1000 (-0.0300) | +0.0000 (+0.0800) |" in text
    assert "| default | 0.5000 ± 0.0000 |" in text and "seeds 1, 2" in text and "0 of 14 units" in text


def test_an_unfinished_grid_is_refused(script):
    runs = groups(script)
    with pytest.raises(UserError, match="no PD has seeds"):
        script.report([*({**runs, "no PD": runs["no PD"][:1]}).values()])
    del runs["no PD"]
    with pytest.raises(UserError, match="0 rows are of no PD"):
        script.report(list(runs.values()))


def test_the_grid_has_these_variants(script, tmp_path):
    (tmp_path / "lastfm").mkdir()
    (tmp_path / "lastfm" / "lastfm.inter").touch()
    units = units_of(load_grid(properties() / "benchmark" / "lastfm_r3vae.yaml"), {"data_path": str(tmp_path), "device": "cpu"})
    found = [{key: unit.config[key] for key in script.DEFAULT} for unit in units if unit.seed == 2020]
    assert found == [{**script.DEFAULT, **keys} for keys in script.CHANGES.values()]
