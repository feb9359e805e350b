"""The benchmark of recommending runs and prints its claim."""

from __future__ import annotations

import re
from pathlib import Path


def test_smoke(monkeypatch, capsys):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    import recommend

    # in this process: that a process of its own is measured alone is tested with the processes
    monkeypatch.setattr(recommend, "in_own_process", lambda function, *arguments: (function(*arguments), None))
    small = {"hidden_size": 16, "inner_size": 32, "n_heads": 2, "n_layers": 1, "content_dim": 8}
    recommend.main(["--histories", "20", "300", "--items", "100"], **small)
    shown = capsys.readouterr().out
    assert re.search(r"^20 histories: peak memory \d+ MiB, \d+ s, 200 recommendations", shown, re.MULTILINE)
    assert re.search(r"^300 histories: peak memory \d+ MiB, \d+ s, 3,000 recommendations", shown, re.MULTILINE)
    assert re.search(r"; ratio=\d+\.\d\d limit=1\.1$", shown.splitlines()[-1])
