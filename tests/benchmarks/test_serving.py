"""The benchmark of a recommender in a program runs and prints its claim."""

from __future__ import annotations

from pathlib import Path


def test_smoke(monkeypatch, capsys):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    import serving

    # in this process: that a process of its own is measured alone is tested with the processes
    monkeypatch.setattr(serving, "in_own_process", lambda function, *arguments: (function(*arguments), None))
    small = {"hidden_size": 16, "inner_size": 32, "n_heads": 2, "n_layers": 1, "content_dim": 8, "num_beams": 20}
    serving.main(["--items", "300", "--calls", "3"], **small)
    head, _, *rows, claim = [line for line in capsys.readouterr().out.splitlines() if "|" in line or "ratio" in line]
    names = [cell.strip() for cell in head.strip("|").split("|")]
    assert [row.split("|")[2].strip() for row in rows] == ["generate", "dense"] and len(names) == 13
    for row in rows:
        cells = [float(cell.replace(",", "")) for cell in row.strip("|").split("|") if cell.strip() not in ("generate", "dense")]
        assert len(cells) == 12 and all(cell > 0 for cell in (*cells[2:8], cells[10]))
        assert cells[2] <= cells[3] <= cells[4] <= cells[5] and cells[6] <= cells[7]
    assert claim.startswith("a call for 256 users against the network's own work; ratio=") and claim.endswith(" limit=1.5")
