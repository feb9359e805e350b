"""Encoding a catalogue: block by block, killed and gone on with, in little memory."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from recbole_r3vae.config import Config
from recbole_r3vae.data.content import content_from_vectors
from recbole_r3vae.data.items import ItemVectors
from recbole_r3vae.errors import UserError
from recbole_r3vae.trainer import encoding as module
from recbole_r3vae.trainer.encoding import OwnSpace, encode

RECORD = 2 * 4 + 8  # bytes of an item with two codes


@pytest.fixture
def items(tmp_path):
    x = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32)
    np.save(tmp_path / "v.npy", x)
    (tmp_path / "v.ids").write_text("".join(f"i{n}\n" for n in range(50)))
    return ItemVectors(content_from_vectors(tmp_path / "v.npy"))


@pytest.fixture
def model(items):
    config = Config("R3VAE", "v", config_dict={"codebook_sizes": [8, 4], "device": "cpu"})
    return config.model_class(config, items).eval()


@pytest.fixture
def quantised(model, monkeypatch):
    """Sizes of the batches that the model was given."""
    sizes, quantize = [], model.quantize
    monkeypatch.setattr(model, "quantize", lambda x: sizes.append(len(x)) or quantize(x))
    return sizes


@pytest.fixture
def blocks_of_16(monkeypatch):
    monkeypatch.setattr(module, "ROWS", 16)


def test_codes_and_errors_are_those_of_every_item(model, items, quantised, blocks_of_16):
    codes, errors = encode(model, items)
    assert quantised == [16, 16, 16, 2]
    with torch.no_grad():
        for row in range(50):
            x = torch.from_numpy(items.gather([1 + row]))
            out = model.quantize(x)
            assert codes[row].tolist() == out.codes[0].tolist()
            assert errors[row].item() == pytest.approx((x - out.reconstruction).double().square().sum().item(), rel=1e-5)


def test_large_codebooks_take_fewer_rows_at_once(model, items, quantised, monkeypatch):
    monkeypatch.setattr(module, "CELLS", 8 * 20 + 7)
    encode(model, items)
    assert quantised == [20, 20, 10]


def test_finished_blocks_are_not_computed_again(model, items, quantised, blocks_of_16, tmp_path):
    kept, whole = tmp_path / "codes.partial", encode(model, items)
    encode(model, items, kept)
    written = kept.read_bytes()
    head = len(written) - 50 * RECORD
    for records in (0, 5, 16, 31, 32, 49):  # killed in the middle of a block, or between two
        for more in (0, 3):  # and of a record
            kept.write_bytes(written[: head + records * RECORD + more])
            del quantised[:]
            codes, errors = encode(model, items, kept)
            assert sum(quantised) == 50 - records // 16 * 16
            assert torch.equal(codes, whole[0]) and torch.equal(errors, whole[1])
            assert kept.read_bytes() == written
    del quantised[:]
    encode(model, items, kept)
    assert quantised == []


@pytest.mark.parametrize("change", ["weights", "vectors", "no file of ours"])
def test_blocks_of_anything_else_are_computed_anew(model, items, quantised, blocks_of_16, tmp_path, change):
    kept = tmp_path / "codes.partial"
    encode(model, items, kept)
    if change == "weights":
        with torch.no_grad():
            model.reference[0] += 1
    elif change == "vectors":
        items = ItemVectors(type(items.content)(-items.embeddings, items.item_ids, {}, "other"))
    else:
        kept.write_text("x")
    del quantised[:]
    codes, _ = encode(model, items, kept)
    assert sum(quantised) == 50 and torch.equal(codes, encode(model, items)[0])
    del quantised[:]
    encode(model, items, kept)
    assert quantised == []


def test_a_place_that_cannot_be_written_to_is_named(model, items, tmp_path):
    with pytest.raises(UserError, match=r"cannot write .*none.*codes.partial"):
        encode(model, items, tmp_path / "none" / "codes.partial")


@pytest.mark.parametrize("name", ["R3VAE", "RKMeans", "RQVAE", "LSH"])
def test_a_tokenizers_own_space_is_what_enters_its_first_level(items, name):
    settings = {"codebook_sizes": [4, 4], "device": "cpu"} | ({"latent_dim": 3, "hidden_sizes": [5]} if name == "RQVAE" else {})
    config = Config(name, "v", config_dict=settings)
    model = config.model_class(config, items)
    model.initialise(items)
    space = OwnSpace(model.eval(), items)
    with torch.no_grad():
        expected = model.quantize(torch.from_numpy(items.gather(np.arange(1, 51)))).residuals[0].numpy()
    assert space.shape == expected.shape and len(space) == 50 and space.ndim == 2
    assert np.allclose(space[:], expected, atol=1e-6) and np.allclose(space[np.array([7, 3])], expected[[7, 3]], atol=1e-6)


# -- the command, in a process of its own

COMMAND = """
import json, sys, time
import numpy as np
from recbole_r3vae.data.content import load, vectors
from recbole_r3vae.trainer import encoding
settings = json.loads(sys.argv[1])
load.HELD_BYTES, encoding.ROWS = 0, settings["rows"]
gather = encoding.ItemVectors.gather
def slow(self, rows):
    time.sleep(settings["pause"])
    return gather(self, rows)
encoding.ItemVectors.gather = slow
from recbole_r3vae.cli import main
from recbole_r3vae.provenance import peak_memory_mb
main(["tokenize", "--embeddings", "v.npy", "--output", "v.sid", "--set", "codebook_sizes=[8,4]", "epochs=2", "train_items=30"])
print(json.dumps(peak_memory_mb()))
"""


def start(folder, **settings) -> subprocess.Popen:
    words = [sys.executable, "-c", COMMAND, json.dumps({"rows": 16, "pause": 0, **settings})]
    return subprocess.Popen(words, cwd=folder, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def test_a_killed_command_leaves_nothing_half_written_and_goes_on(items, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
        for name in ("v.npy", "v.ids"):
            (folder / name).write_bytes((tmp_path / name).read_bytes())
    done = start(whole)
    assert done.communicate()[0] and done.returncode == 0
    process, deadline = start(killed, pause=0.3), time.monotonic() + 900
    while not (found := [path for path in killed.glob("saved/v/*/codes.partial") if path.stat().st_size >= 32 + 16 * RECORD]):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    size = found[0].stat().st_size
    assert size < 32 + 50 * RECORD and not list(killed.glob("v.sid*")) and not list(killed.glob("saved/v/*/*.sid"))
    again = start(killed)
    assert again.communicate()[0] and again.returncode == 0
    assert (killed / "v.sid").read_bytes() == (whole / "v.sid").read_bytes()
    quality = [json.loads(next(folder.glob("saved/v/*/tokenizer.json")).read_text())["quality"] for folder in (whole, killed)]
    assert quality[0] == quality[1]
    assert sorted(path.name for path in found[0].parent.iterdir()) == sorted(path.name for path in next(whole.glob("saved/v/R3VAE-*/")).iterdir())


def test_memory_does_not_grow_with_the_file(tmp_path):
    """Of 32 times as many vectors, 93 MiB more in the file, no part that grows with them is held but ids, codes and errors."""
    peaks = []
    for n in (2048, 65_536):
        random = np.random.default_rng(0)
        np.save(tmp_path / "v.npy", random.normal(size=(n, 768)).astype(np.float16))
        (tmp_path / "v.ids").write_text("".join(f"i{row}\n" for row in range(n)))
        process = start(tmp_path, rows=1024)
        text = process.communicate()[0]
        assert process.returncode == 0, text
        peaks.append(json.loads(text.splitlines()[-1]))
    assert peaks[1] - peaks[0] < 48
