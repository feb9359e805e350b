"""The benchmark of R3GR's switches trains every variant once and writes its table."""

from __future__ import annotations

import json
from pathlib import Path


def test_smoke(monkeypatch, tmp_path, tiny_data, tiny_settings):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    import r3gr_switches

    monkeypatch.chdir(tmp_path)
    (tmp_path / "results").mkdir()
    some = {name: r3gr_switches.VARIANTS[name] for name in ("default", "item_inputs: codes", "tied_heads")}
    monkeypatch.setattr(r3gr_switches, "VARIANTS", some)
    words = ["--data_path", str(tiny_data), "--dataset", "tiny", "--epochs", "1"]
    settings = {key: value for key, value in tiny_settings.items() if key not in ("data_path", "epochs", "eval_step", "checkpoint_dir")}
    r3gr_switches.main(words, **settings)
    rows = json.loads((tmp_path / "results" / "r3gr_switches_tiny.json").read_text())["variants"]
    assert list(rows) == list(some) and all(0 <= row["ndcg@10"] <= 1 for row in rows.values())
    assert rows["tied_heads"]["parameters"] < rows["default"]["parameters"]
    table = (tmp_path / "results" / "r3gr_switches_tiny.md").read_text()
    assert [line.split(" | ")[0] for line in table.splitlines() if line.startswith("| ")][1:] == [f"| {name}" for name in some]
    monkeypatch.setattr(r3gr_switches, "measure", lambda *given: 1 / 0)
    r3gr_switches.main(words, **settings)  # what is there is not measured again
