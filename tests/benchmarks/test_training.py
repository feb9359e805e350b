"""The benchmark of training runs and prints its claim."""

from __future__ import annotations

import re
from pathlib import Path

import pytest


def test_smoke(monkeypatch, capsys, tiny_data, tiny_settings):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    import training

    settings = {key: value for key, value in tiny_settings.items() if key not in ("data_path", "epochs", "tokenizer_epochs")}
    training.main(["--data_path", str(tiny_data), "--dataset", "tiny", "--rounds", "1", "--steps", "2", "--profiled", "1"], **settings)
    lines = capsys.readouterr().out.splitlines()[-8:]
    models = [line for line in lines[:6] if not line.startswith(" ")]
    assert [line.split(":")[0] for line in models] == ["R3GR", "TIGER"]
    r3gr, tiger = (float(line.rpartition(": ")[2].removesuffix(" s")) for line in models)
    ratio = re.fullmatch(r"an epoch over tiny, TIGER / R3GR; ratio=(\d+\.\d+) target=20", lines[6])
    assert float(ratio[1]) == pytest.approx(tiger / r3gr, rel=0.1)
    share = re.fullmatch(r"matrix products in the steps of R3GR; ratio=(\d\.\d\d) target=0.6", lines[7])
    assert 0 < float(share[1]) < 1
    for line in lines[2], lines[5]:
        assert sum(int(part) for part in re.findall(r"(\d+)%", line)) == pytest.approx(100, abs=4)  # rounded
