"""The benchmark of both rules runs and prints its claim."""

from __future__ import annotations

import re
from pathlib import Path



def test_smoke(monkeypatch, capsys, tiny_data, tiny_settings):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    import both_rules

    settings = {key: value for key, value in tiny_settings.items() if key not in ("data_path", "epochs", "tokenizer_epochs")}
    words = ["--data_path", str(tiny_data), "--dataset", "tiny", "--repeats", "1", "--models", "R3GR", "WindowSASRec"]
    both_rules.main(words, **settings)
    *models, last = capsys.readouterr().out.splitlines()[-3:]
    ratios = [float(re.fullmatch(r"\w+: one rule \d+\.\d\d s, both \d+\.\d\d s, (\d+\.\d\d) times", line)[1]) for line in models]
    assert re.fullmatch(r"both rules in one test; ratio=(\d+\.\d+) target=1.3", last)[1] == f"{max(ratios):.2f}"
    assert min(ratios) > 0
