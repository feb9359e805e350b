"""The signs of R3-VAE's ablation, from run files whose differences are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recbole_r3vae.config.sources import properties
from recbole_r3vae.data.split import pack
from recbole_r3vae.errors import UserError
from recbole_r3vae.experiments.grid import load_grid, units_of
from recbole_r3vae.record import Record

ROOT = Path(__file__).parents[2]


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import r3vae_signs

    return r3vae_signs


def group(script, name, hits, sc, rules=("left_out", "stay")) -> list[Record]:
    """Two seeds: the first ``hits`` of 100 users have their target at the first place, one fewer where met items stay."""
    tokenizer = "R3VAE" if name in script.CHANGES else name
    config = {"tokenizer": tokenizer, **({**script.DEFAULT, **script.CHANGES[name]} if name in script.CHANGES else {})}
    found = {"left_out": hits, "stay": hits - 1}
    test = {rule: dict.fromkeys(("recall@10", "ndcg@10"), found[rule] / 100) if rule in rules else None for rule in found}
    packed = {rule: pack((np.arange(100) < found[rule]).astype(np.uint8)) if rule in rules else None for rule in found}
    quality = {"sc_raw": sc, "pd_raw": -1.5, "unique_ratio": 0.8}
    fixed = {"dataset": "lastfm", "name": "R3GR[R3VAE]", "model": "R3GR", "hash": "", "config": config, "data": {}}
    measured = {"valid": {"ndcg@10": hits / 100}, "test": test, "users": {"split": "s", "k": 20, **packed}, "quality": quality}
    return [Record(seed=seed, **fixed, **measured) for seed in (1, 2)]


def groups(script) -> dict[str, list[Record]]:
    hits = dict(zip(script.CHANGES, (50, 30, 50, 51, 49, 50, 50)))
    return {name: group(script, name, hits[name], 0.5 if name == "default" else 0.6) for name in script.CHANGES}


def test_differences_carry_their_sign_their_doubt_and_the_papers(script):
    runs = groups(script)
    entry = script.difference("no reference vector", "recall@10", "left_out", runs["no reference vector"], runs["default"])
    assert entry["found"] == pytest.approx(-0.2) and entry["p"] < 1e-4 and entry["paper"] == pytest.approx(-0.0074)
    assert script.difference("no SC", "ndcg@10", "left_out", runs["no SC"], runs["default"])["p"] > 0.05  # one user of a hundred
    entry = script.difference("lambda .1", "sc_raw", "left_out", runs["lambda .1"], runs["default"])
    assert entry == {"found": pytest.approx(0.1), "paper": None, "p": None}
    text = "\n".join(script.report(list(runs.values())[::-1], list(runs), ["a", "b c"]))  # in whatever order
    assert "| no reference vector | -0.2000, p < .01 (-0.0074) | -0.2000, p < .01 (-0.0036) | +0.1000 (-0.0300) | +0.0000 (+0.0800) |" in text
    assert "| default | 1, 2 | 0.5000 ± 0.0000 |" in text and "0 of 14 units" in text
    assert "Rule of the test figures: met items left out." in text


def test_other_tokenizers_stand_beside_the_variants_without_a_sign_of_the_papers(script):
    runs = {name: groups(script)[name] for name in ("default", "no PD")} | {"RKMeans": group(script, "RKMeans", 20, 0.4)}
    text = "\n".join(script.report(list(runs.values()), list(runs), ["a", "b c"]))
    assert "`a`, then `b c`" in text and "and other tokenizers" in text and "0 of 6 units" in text
    assert "| RKMeans | 1, 2 | 0.2000 ± 0.0000 |" in text and "| RKMeans | -0.3000, p < .01 | -0.3000, p < .01 | -0.1000 | +0.0000 |" in text
    assert "lambda" not in text


def test_a_row_of_fewer_seeds_is_compared_under_those(script):
    runs = {name: groups(script)[name] for name in ("no PD", "default")}
    half = group(script, "default", 70, 0.5)[1:]  # the default's second seed is better
    text = "\n".join(script.report([runs["no PD"][:1], [runs["default"][0], *half]], list(runs), []))
    assert "| no PD | 1 | 0.4900 |" in text and "| no PD | -0.0100, p 0.32 (-0.0069) |" in text
    assert text.index("| default | 1, 2 | 0.6000") < text.index("| no PD | 1 |")


def test_figures_are_of_the_rule_that_all_runs_have(script):
    runs = groups(script)
    runs["no PD"] = group(script, "no PD", 49, 0.6, rules=("stay",))
    text = "\n".join(script.report(list(runs.values()), list(script.CHANGES), []))
    assert "Rule of the test figures: met items stay." in text and "| default | 1, 2 | 0.5000 ± 0.0000 | 0.4900 ± 0.0000 |" in text
    runs["no SC"] = group(script, "no SC", 51, 0.6, rules=("left_out",))
    with pytest.raises(UserError, match="run the grid again"):
        script.report(list(runs.values()), list(script.CHANGES), [])


def test_an_unfinished_grid_is_refused(script):
    runs = groups(script)
    with pytest.raises(UserError, match=r"no reference vector has seeds \[2\], which the default has not"):
        script.report([*({**runs, "default": runs["default"][:1]}).values()], list(runs), [])
    del runs["no PD"]
    with pytest.raises(UserError, match="0 rows are of no PD"):
        script.report(list(runs.values()), list(script.CHANGES), [])


def units(name, tmp_path):
    grid = load_grid(properties() / "benchmark" / name)
    (dataset,) = grid["datasets"]
    (tmp_path / dataset).mkdir()
    (tmp_path / dataset / f"{dataset}.inter").touch()
    return grid, [unit for unit in units_of(grid, {"data_path": str(tmp_path), "device": "cpu"}) if unit.seed == 2020]


def test_the_grids_have_these_variants(script, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "vectors").mkdir()
    np.save(tmp_path / "vectors" / "amazon-beauty-mpnet.npy", np.ones((1, 2), "f"))
    (tmp_path / "vectors" / "amazon-beauty-mpnet.ids").write_text("1\n")
    grid, found = units("lastfm_r3vae.yaml", tmp_path)
    assert script.rows_of(grid) == list(script.CHANGES)
    assert [{key: unit.config[key] for key in script.DEFAULT} for unit in found] == [{**script.DEFAULT, **keys} for keys in script.CHANGES.values()]
    grid, found = units("amazon-beauty-parts.yaml", tmp_path)
    names = script.rows_of(grid)
    assert set(names) - set(script.CHANGES) == {"RKMeans", "OPQ", "LETTER", "RQVAE", "CoST"}
    for name, unit in zip(names, found, strict=True):
        wanted = {**script.DEFAULT, **script.CHANGES[name], "tokenizer": "R3VAE"} if name in script.CHANGES else {"tokenizer": name}
        assert {key: unit.config[key] for key in wanted} == wanted


@pytest.mark.parametrize(
    ("tokenizers", "words"),
    [
        ({"RKMeans": {}}, "no R3VAE"),
        ({"R3VAE": {}, "no RC": {"tokenizer": "R3VAE"}}, "'no RC', which is no variant.* no PD"),
        ({"R3VAE": {}, "mine": {"tokenizer": "RKMeans"}}, "'mine', which is no variant"),
    ],
)
def test_a_grid_without_the_default_or_with_an_unknown_variant_is_refused(script, tokenizers, words):
    with pytest.raises(UserError, match=words):
        script.rows_of({"where": "grid g", "models": {"R3GR": {"where": "model R3GR", "tokenizers": tokenizers}}})


def test_a_grid_of_several_generators_is_refused(script):
    with pytest.raises(UserError, match="2 models"):
        script.rows_of({"where": "grid g", "models": {"R3GR": {}, "TIGER": {}}})
