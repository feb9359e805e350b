"""The benchmark of a GPU keeps to its budget and its order, goes on where it stopped, and runs whole on a CPU."""

from __future__ import annotations

import importlib
import json
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def cuda(monkeypatch):
    """The script, as a module; ``sys.path`` is as it was afterwards."""
    monkeypatch.setattr(sys, "path", [*sys.path, str(FOLDER)])  # last: tokenizers.py there is not the library
    return importlib.import_module("cuda")


class Clock:
    """Time that passes only in cells."""

    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(cuda, monkeypatch):
    clock = Clock()
    monkeypatch.setattr(cuda.time, "monotonic", clock.monotonic)
    return clock


def cells_of(cuda, clock, log, **fails):
    """Cells ``a``, ``b``, ``c`` of 10, 20 and 10 seconds, each of which takes as long."""

    def cell(name, seconds):
        def measure(left):
            log.append((name, left))
            clock.now += seconds
            if name in fails:
                raise fails[name]
            return {"speed": len(name) / 3}

        return cuda.Cell(name, seconds, measure)

    return [cell("a", 10), cell("b", 20), cell("c", 10)]


def states(report) -> dict[str, str]:
    return {name: cell["state"] for name, cell in report.cells.items()}


def test_cells_in_order_within_the_budget(cuda, clock, tmp_path, capsys):
    log, report = [], cuda.Report(tmp_path, "cpu")
    assert not cuda.run_cells(cells_of(cuda, clock, log), report, 25)
    assert log == [("a", 25), ("c", 15)]  # b would take longer than is left, c does not
    assert "b: 15 s are left, it takes up to 20" in capsys.readouterr().out
    again = cuda.Report(tmp_path, "cpu")
    assert states(again) == {"a": "done", "c": "done"}
    assert cuda.run_cells(cells_of(cuda, clock, log), again, 25) and log[2:] == [("b", 25)]
    stored = json.loads(report.json.read_text())
    assert stored["card"] == cuda.card_of("cpu") and stored["versions"]["torch"] == torch.__version__
    assert stored["cells"]["b"] == {"state": "done", "seconds": 20, "commit": stored["cells"]["b"]["commit"], "speed": 1 / 3}
    lines = report.markdown.read_text().splitlines()
    assert lines[0] == f"# {cuda.card_of('cpu')}" and lines[-1] == "| b | done | 20 | speed 0.3333 |" and len(lines) == 9


def test_what_failed_is_said_and_tried_again_and_the_others_go_on(cuda, clock, tmp_path):
    log, report = [], cuda.Report(tmp_path, "cpu")
    assert not cuda.run_cells(cells_of(cuda, clock, log, a=RuntimeError("out\nof memory")), report, 100)
    assert states(report) == {"a": "failed", "b": "done", "c": "done"} and report.cells["a"]["error"] == "RuntimeError: out of memory"
    assert cuda.run_cells(cells_of(cuda, clock, log), cuda.Report(tmp_path, "cpu"), 100) and [name for name, _ in log] == ["a", "b", "c", "a"]


def test_a_cell_that_takes_too_long_is_cut_off(cuda, tmp_path):
    report = cuda.Report(tmp_path, "cpu")

    def stubborn(left):
        while True:
            try:
                time.sleep(0.01)
            except Exception:  # as code under measurement may
                pass

    begin = time.perf_counter()
    assert not cuda.run_cells([cuda.Cell("stubborn", 0, stubborn), cuda.Cell("late", 0.1, dict)], report, 0.3)
    assert time.perf_counter() - begin < 5 and states(report) == {"stubborn": "out of time"}


def test_an_interrupt_keeps_what_is_done(cuda, clock, tmp_path):
    log, report = [], cuda.Report(tmp_path, "cpu")
    with pytest.raises(KeyboardInterrupt):
        cuda.run_cells(cells_of(cuda, clock, log, b=KeyboardInterrupt()), report, 100)
    assert states(cuda.Report(tmp_path, "cpu")) == {"a": "done"}


def test_a_cell_may_say_that_it_is_not_done(cuda, clock, tmp_path):
    report = cuda.Report(tmp_path, "cpu")
    assert not cuda.run_cells([cuda.Cell("grid", 0, lambda left: {"state": "out of time", "cells": 3})], report, 9)
    assert report.cells["grid"]["cells"] == 3 and states(report) == {"grid": "out of time"}


def test_cards_have_files_of_their_own(cuda, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100 80GB HBM3")
    assert cuda.Report(tmp_path, "cuda:0").json.name == "nvidia-h100-80gb-hbm3.json"
    assert cuda.Report(tmp_path, "cpu").json.name.startswith("cpu-")


def test_a_command_is_interrupted_at_the_end_and_its_failure_told(cuda, tmp_path):
    waits = "import signal, time\nsignal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job inherits that it is ignored"
    waits += "\ntry: time.sleep(60)\nexcept KeyboardInterrupt: open('interrupted', 'w')"
    with pytest.raises(cuda.OutOfTime):
        cuda.stopped_at_the_end([sys.executable, "-S", "-c", waits], 4, tmp_path)
    assert (tmp_path / "interrupted").is_file()
    done = cuda.stopped_at_the_end([sys.executable, "-c", "import recbole_r3vae, sys; print('out'); sys.exit(3)"], 60, tmp_path)
    assert (done.returncode, done.stdout) == (3, "out\n")


def test_the_order_and_the_whole_take_eight_minutes(cuda, tmp_path):
    options = cuda.argparse.Namespace(output=tmp_path, smoke=False)
    cells = cuda.all_cells(options, {})
    epochs = [f"epoch {model} {precision}" for model in ("R3GR", "TIGER", "SASRec") for precision in ("float32", "bfloat16")]
    assert [cell.name for cell in cells] == ["tests", *epochs, "decoding", "million encoded", "million decoded", "grid"]
    assert sum(cell.seconds for cell in cells[:-1]) < 8 * 60


def test_without_a_gpu_it_says_so(cuda, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert cuda.main(["--output", str(tmp_path / "out")]) == 2 and not (tmp_path / "out").exists()
    assert "no CUDA device" in capsys.readouterr().err


def test_everything_shrunken_on_a_cpu(cuda, tmp_path, tiny_data, tiny_settings, monkeypatch, capsys):
    settings = {key: value for key, value in tiny_settings.items() if key not in ("data_path", "device", "epochs", "tokenizer_epochs")}
    small = {"epochs": 1, "eval_step": 1, "loss_type": "CE", "hidden_size": 16, "MAX_ITEM_LIST_LENGTH": 10, "load_col": settings["load_col"]}
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump({"datasets": ["tiny"], "seeds": [2020], "settings": small, "models": {"SASRec": {}}}))
    monkeypatch.setattr(cuda, "gpu_tests", lambda seconds, folder: {"result": "none"})  # all tests of this repository would be collected
    words = ["--device=cpu", "--smoke", "--output=out", f"--data_path={tiny_data}", "--dataset=tiny", "--grid", str(tmp_path / "grid.yaml")]
    assert cuda.main(words, **settings) == 0, capsys.readouterr().out
    report = cuda.Report(Path("out"), "cpu")
    assert set(states(report).values()) == {"done"} and len(report.cells) == 11
    for name, cell in report.cells.items():
        if name.startswith("epoch"):
            assert cell["seconds an epoch"] > 0 and 0 < cell["share of the roofline"] < 2 and cell["Tflop an epoch"] > 0
    assert report.cells["decoding"]["ratio"] > 0 and report.cells["decoding"]["same at"] > 0.5
    assert report.cells["million encoded"]["items a second"] > 0 and report.cells["million decoded"]["tree GB"] > 0
    assert report.cells["grid"]["cells"] == 1 and report.cells["grid"]["failed"] == 0
    assert cuda.main(words, **settings) == 0 and "all is done" in capsys.readouterr().out
