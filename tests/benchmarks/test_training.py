"""The benchmark of training runs and prints its claim."""

from __future__ import annotations

import re
from pathlib import Path

import pytest


def test_smoke(monkeypatch, capsys, tiny_data, tiny_settings):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    import training

    settings = {key: value for key, value in tiny_settings.items() if key not in ("data_path", "epochs", "tokenizer_epochs")}
    training.main(["--data_path", str(tiny_data), "--dataset", "tiny", "--rounds", "1", "--steps", "2"], **settings)
    *models, last = capsys.readouterr().out.splitlines()[-3:]
    ratio = re.fullmatch(r"an epoch over tiny; ratio=(\d+\.\d+) target=20", last)
    assert [line.split(":")[0] for line in models] == ["R3GR", "TIGER"]
    r3gr, tiger = (float(line.rpartition(": ")[2].removesuffix(" s")) for line in models)
    assert float(ratio[1]) == pytest.approx(tiger / r3gr, rel=0.1)
