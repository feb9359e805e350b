"""The benchmark of residual k-means runs, finds both sides equally good and ends with the ratio."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import numpy as np

# not imported: transformers needs the name `tokenizers` for a library
MAIN = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "tokenizers.py"))["main"]


def test_smoke(capsys):
    MAIN(["--smoke"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "500 x 16, 16 x 16 x 16, 25 iterations"
    assert [line.split(":")[0] for line in lines[1:4]] == ["faiss alone", "ours", "faiss.ResidualQuantizer"]
    assert re.fullmatch(r"ratio=\d+\.\d\d target=0\.5", lines[-1])


def test_vectors_from_a_file(tmp_path, capsys):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(80, 5)).astype(np.float16))
    MAIN(["--embeddings", str(tmp_path / "x.npy"), "--codes", "4", "--repeats", "1"])
    assert capsys.readouterr().out.startswith("80 x 5, 4 x 4 x 4,")
