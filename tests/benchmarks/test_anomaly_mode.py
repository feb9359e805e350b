"""The benchmark of anomaly detection runs, prints its claim and leaves the mode as it was."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch


def test_smoke(monkeypatch, capsys, tiny_data, tiny_settings):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    import anomaly_mode

    modes, begin = [], torch.autograd.set_detect_anomaly
    monkeypatch.setattr(torch.autograd, "set_detect_anomaly", lambda mode, *rest: modes.append(mode) or begin(mode, *rest))
    settings = {key: value for key, value in tiny_settings.items() if key not in ("data_path", "epochs")}
    anomaly_mode.main(["--data_path", str(tiny_data), "--dataset", "tiny", "--models", "SASRec", "BPR", "--steps", "2"], **settings)
    lines = capsys.readouterr().out.splitlines()[-2:]
    for name, line in zip(("SASRec", "BPR"), lines, strict=True):
        on, off, ratio = re.fullmatch(rf"{name}: ([\d.]+) ms a step with anomaly detection, ([\d.]+) without; ratio=([\d.]+)", line).groups()
        assert float(ratio) == pytest.approx(float(on) / float(off), rel=0.1)
    assert modes.count(True) >= 6 and modes.count(False) >= 6 and not torch.is_anomaly_enabled()
