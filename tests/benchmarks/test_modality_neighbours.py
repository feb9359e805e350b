"""benchmarks/modality_neighbours.py: what its figures are."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

PATH = Path(__file__).parents[2] / "benchmarks" / "modality_neighbours.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("modalities_script", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_overlap_is_one_of_equal_columns_and_near_zero_of_independent_ones(script):
    random = np.random.default_rng(0)
    a, b = torch.from_numpy(random.integers(20, size=3000)), torch.from_numpy(random.integers(20, size=3000))
    assert script.overlap(a, (a * 7 + 3) % 20, random) == pytest.approx(1)
    assert abs(script.overlap(a, b, random)) < 0.01
    half = torch.where(torch.arange(3000) < 1500, a, b)
    assert 0.1 < script.overlap(a, half, random) < 0.9
    assert script.overlap(torch.zeros(50), torch.zeros(50), random) == 0


def test_nearest_leaves_an_item_itself_out_and_shares_are_means(script):
    x = torch.nn.functional.normalize(torch.randn(40, 3, generator=torch.Generator().manual_seed(0)), dim=1)
    asked = torch.tensor([5, 0, 39])
    found = script.nearest(x[asked] @ x.T, asked)
    for row, item in enumerate(asked.tolist()):
        others = [other for other in range(40) if other != item]
        assert set(found[row].tolist()) == set(sorted(others, key=lambda other: -float(x[item] @ x[other]))[:10])
    assert script.shared(found, found) == 1
    assert script.shared(torch.tensor([[1, 2], [3, 4]]), torch.tensor([[2, 9], [7, 8]])) == 0.25


def test_it_runs(script, tmp_path, monkeypatch, capsys):
    random = np.random.default_rng(0)
    words = ["modality_neighbours.py", "MMQ", "--groups", "2", "2", "2", "--set", "epochs=1", "--set", "codebook_sizes=[8,8,8,8,8,8]"]
    for name in ("image", "audio"):
        np.save(f"{name}.npy", random.normal(size=(60, 12)).astype(np.float16))
        words += ["--part", f"{name}={name}.npy"]
    monkeypatch.setattr(sys, "argv", words)
    script.main()
    said = capsys.readouterr().out
    assert "image: by codes 0." in said and "audio: by codes 0." in said and "of the first group with the others" in said
