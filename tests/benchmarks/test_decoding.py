"""The benchmark of decoding runs, finds the same items as Hugging Face and prints a line for each claim."""

from __future__ import annotations

import re
from pathlib import Path

import pytest


def test_smoke(monkeypatch, capsys):
    pytest.importorskip("transformers")
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    import decoding

    decoding.main(["--smoke"])
    lines = capsys.readouterr().out.splitlines()
    claims = [line for line in lines if re.search(r"; ratio=\d+\.\d+ target=[\d.]+$", line)]
    assert len(claims) == 3 + 1 + 4 + 3  # generation, a small tree, four levels of a large one, its index
    assert "top 20 compared" in lines[0]
