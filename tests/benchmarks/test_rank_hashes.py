"""The script that guards results across changes of the code: equal code gives equal hashes, and a difference is told."""

from __future__ import annotations

import json
from pathlib import Path


def test_smoke(monkeypatch, capsys, tmp_path):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    import rank_hashes

    made = {"ranks": "a", "metrics": "b", "test": {"ndcg@10": 0.1}}
    monkeypatch.setattr(rank_hashes, "CASES", {"one": lambda: made, "two": lambda: {**made, "ranks": None}})
    before = tmp_path / "before.json"
    assert rank_hashes.main(["--output", str(before)]) == 0 and list(json.loads(before.read_text())) == ["one", "two"]
    assert rank_hashes.main(["--against", str(before)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "same=2 of 2"
    monkeypatch.setitem(rank_hashes.CASES, "two", lambda: {**made, "metrics": "c"})
    assert rank_hashes.main(["--against", str(before), "--only", "two"]) == 1
    assert "DIFFERENT" in capsys.readouterr().out
