"""The benchmarks of large catalogues run on small ones, and what they measure is what they say."""

from __future__ import annotations

import re
import runpy
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

SCRIPT = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "scale.py"))
MAIN = SCRIPT["main"]


def test_vectors_are_unit_vectors_in_clusters_the_same_each_time(tmp_path):
    for name in ("a.npy", "b.npy"):
        SCRIPT["make_vectors"](tmp_path / name, 700, 48, block=256)
    x = np.load(tmp_path / "a.npy")
    assert x.shape == (700, 48) and x.dtype == np.float16
    assert np.allclose(np.linalg.norm(x.astype(np.float32), axis=1), 1, atol=2e-3)
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()
    assert (tmp_path / "a.ids").read_text().splitlines() == [f"i{row}" for row in range(700)]
    cosines = (x.astype(np.float32) @ x.astype(np.float32).T)[np.triu_indices(700, 1)]
    assert (cosines > 0.6).mean() > 0.0005 and abs(cosines.mean()) < 0.02  # some are near, most are not


def test_a_command_is_measured_and_killed_when_its_file_has_so_many_items(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("codes.partial").write_bytes(bytes(30))  # of an earlier process
    grow = "import time\nfor _ in range(40):\n    open('codes.partial', 'ab').write(bytes(20)); sum(range(10**5)); time.sleep(.25)"
    started = time.monotonic()
    run = SCRIPT["measured"]([sys.executable, "-c", grow], Path("codes.partial"), 10, kill_at=9)
    assert run["status"] == signal.SIGKILL and Path("codes.partial").stat().st_size < 30 + 40 * 20
    assert 0 < run["items"] <= 40 and run["seconds"] <= time.monotonic() - started and run["cpu_seconds"] >= run["encoding_cpu_seconds"] >= 0
    hold = "import sys, time; x = b'1' * (80 << 20); time.sleep(0.8); sys.exit(3)"
    found = SCRIPT["measured"]([sys.executable, "-c", hold], Path("none"), 10)
    assert 80 / 1024 < found["own_gib"] <= found["peak_gib"]


def test_rate(capsys, monkeypatch):
    monkeypatch.setitem(SCRIPT["rate"].__globals__, "product_rate", lambda *_, **__: 1e9)
    MAIN(["rate", "--items", "300", "--dim", "8", "--codes", "16", "--repeats", "1"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("300 x 8, 3 x 16: encoded at ") and re.fullmatch(r"ratio=\d+\.\d\d target=0\.6", lines[-1])


def test_random_codes_are_unique_and_skewed():
    codes, sizes = SCRIPT["random_codes"](5000, [16, 16, 16])
    assert codes.shape == (5001, 4) and (codes[0] == -1).all() and len(codes[1:].unique(dim=0)) == 5000
    assert sizes[:3] == (16, 16, 16) and int(codes[:, 3].max()) + 1 == sizes[3]
    counts = torch.bincount(codes[1:, 0], minlength=16)
    assert counts[0] > 2 * counts[15] > 0


@pytest.mark.parametrize("kind", ["tree", "dense"])
def test_ranking(capsys, kind):
    MAIN([kind, "--items", "400", "--codes", "8", "--repeats", "1"])
    lines = capsys.readouterr().out.splitlines()
    if kind == "tree":
        assert "tree built in" in lines[0] and [" users at once: " in line for line in lines] == [False, False, True, True]
    else:
        assert [line.split(":")[0] for line in lines[:2]] == ["400 items by look-ups", "400 items by vectors"]
        assert re.fullmatch(r"ratio=\d+\.\d\d target=1", lines[-1])
