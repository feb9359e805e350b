"""A table of what a random start does to codebooks: from runs on a tiny dataset, and from figures that are known."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

SCRIPT = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "stability.py"))


def test_a_row_is_the_mean_and_spread_over_seeds():
    assert SCRIPT["row"]("a", 2048, [(1.0, 0.25, 0.5), (0.5, 0.75, 0.5)], [2, 4]) == [
        "a", "3 x 2,048", "2", "0.750 ± 0.354", "0.500 ± 0.354", "0.500 ± 0.000", "3",
    ]  # fmt: skip
    assert SCRIPT["row"]("a", 4, [(1.0, 0.25, 0.5)], [2])[2:6] == ["1", "1.000", "0.250", "0.500"]


def test_figures_are_of_the_level_that_uses_the_fewest_codes():
    levels = [{"usage": usage} for usage in (1.0, 0.25, 0.5)]
    assert SCRIPT["figures"]({"levels": levels, "reconstruction": {"mse": 9.0, "relative": 0.3}, "unique_ratio": 0.8}) == (0.25, 0.3, 0.8)


def test_all_variants_train_start_at_random_and_are_not_trained_again(tiny_data, tiny_settings, monkeypatch):
    names, seen = SCRIPT["main"].__globals__, []
    run, fields = names["run_recbole_r3vae"], {key: tiny_settings[key] for key in ("load_col", "item_text_fields")}

    def watched(model, dataset, config_dict):
        seen.append(config_dict)
        return run(model, dataset, config_dict={**config_dict, **fields})

    monkeypatch.setitem(names, "run_recbole_r3vae", watched)
    words = ["stability.py", f"--data_path={tiny_data}", "--dataset=tiny", "--epochs=1", "--sizes", "4", "--seeds", "1", "2", "--output=s.md"]
    monkeypatch.setattr("sys.argv", words)
    SCRIPT["main"]()
    text = Path("s.md").read_text()
    assert f"`python {' '.join(words)}`" in text and text.count("| 3 x 4 | 2 |") == len(SCRIPT["VARIANTS"])
    assert [keys["kmeans_init"] for keys in seen] == [False] * 10 + [True] * 4 and {keys["seed"] for keys in seen} == {1, 2}
    before = {path: path.stat().st_mtime_ns for path in Path("saved").rglob("*.sid")}
    SCRIPT["main"]()
    assert {path: path.stat().st_mtime_ns for path in Path("saved").rglob("*.sid")} == before and len(before) == 14
    assert Path("s.md").read_text() == text  # seconds too: they are those of the first training
    monkeypatch.setattr("sys.argv", [*words, "--rows", "R3VAE, from k-means", "R3VAE"])
    SCRIPT["main"]()
    assert [line.split(" | ")[0] for line in Path("s.md").read_text().splitlines() if " 3 x 4 " in line] == ["| R3VAE, from k-means", "| R3VAE"]
