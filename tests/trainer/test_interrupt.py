"""Ctrl-C, as the signal that it is, on a training in a process of its own."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
import torch

from recbole_r3vae.cli import main
from recbole_r3vae.model.generator.r3gr import R3GR
from recbole_r3vae.trainer.checkpoint_file import load_checkpoint

FAST = {"tokenizer": "RKMeans", "tokenizer_epochs": 0, "train_batch_size": 64}


def interrupted_at(call: int, words: list[str]) -> int:
    """The exit status of a command whose process gets SIGINT while it computes its ``call``-th loss."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    status = 1
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # pytest may run in the background, where shells ignore it
        calculate_loss, calls = R3GR.calculate_loss, []

        def with_signal(self, batch):
            calls.append(batch)
            if len(calls) == call:
                os.kill(os.getpid(), signal.SIGINT)
            return calculate_loss(self, batch)

        R3GR.calculate_loss = with_signal
        status = main(words)
    finally:
        os._exit(status)


def files(folder: str) -> dict[str, bytes | dict]:
    """What a run left: weights tensor by tensor, everything else byte by byte; logs, costs and locks aside."""
    found = {}
    for path in Path(folder).rglob("*"):
        if path.suffix == ".pth":
            state = load_checkpoint(path)
            found[path.name] = {key: state[key] for key in ("model", "optimizer", "epoch") if key in state}
        elif path.is_file() and path.suffix in (".sid", ".safetensors", ".tmp"):
            found[str(path.relative_to(folder))] = path.read_bytes()
    return found


def same(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return all(map(same, a, b)) if isinstance(a, (list, tuple)) else a == b


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs POSIX processes")
@pytest.mark.parametrize("call", [2, 8], ids=["in the first epoch", "in a later epoch"])
def test_sigint_ends_with_130_and_resume_with_the_same_bytes(tiny_settings, capfd, call):
    settings = {**tiny_settings, **FAST, "epochs": 3, "checkpoint_dir": "saved"}
    words = ["run", "--model=R3GR", "--dataset=tiny", *(f"--{key}={json.dumps(value)}" for key, value in settings.items())]
    assert main(words) == 0
    whole = files("saved")
    Path("saved").rename("whole")
    assert interrupted_at(call, words) == 130
    [line] = [line for line in capfd.readouterr().err.splitlines() if line.startswith("recbole-r3vae: ")]
    assert "interrupted; the same command with --resume goes on from the last finished epoch" in line
    left = files("saved")
    assert ("last.pth" in left) == (call > 1) and not any(name.endswith(".tmp") for name in left)
    assert main([*words, "--resume"]) == 0
    assert same(files("saved"), whole)
