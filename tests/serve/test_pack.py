"""A packed run recommends as the run does, anywhere, and says nothing of where it was trained."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from recbole_r3vae.cli import main
from recbole_r3vae.errors import UserError
from recbole_r3vae.quick_start.reload import load_data_and_model
from recbole_r3vae.serve import Recommender
from recbole_r3vae.serve.pack import pack_run
from recbole_r3vae.trainer.checkpoint_file import load_checkpoint, save_checkpoint

DENSE = {"rank_by": "dense", "item_inputs": ["codes", "text"]}


@pytest.mark.parametrize("model, more", [("R3GR", {}), ("R3GR", DENSE), ("TIGER", {}), ("WindowSASRec", {}), ("SASRec", {}), ("BPR", {})])
def test_a_packed_run_recommends_alike(checkpoint, tmp_path, tiny_data, model, more):
    run = checkpoint(model, **more)
    path = pack_run(run, tmp_path / "packed")
    assert path.stat().st_size < 0.75 * (run / "best.pth").stat().st_size
    before, after = Recommender(run), Recommender(tmp_path / "packed", {"data_path": str(tiny_data)})
    users = before.users.users("test")[:20]
    one, other = (
        recommender.recommend(users=users, k=5, as_of="test").pivot(index="user", columns="rank", values="item") for recommender in (before, after)
    )
    assert (one == other).to_numpy().mean() > 0.9  # ties and neighbours may change places
    assert (tmp_path / "packed" / "result.json").read_bytes() == (run / "result.json").read_bytes()


def test_weights_are_those_of_the_run_but_for_rounding(checkpoint, tmp_path, tiny_data):
    run = checkpoint("R3GR", **DENSE)
    whole = load_checkpoint(run / "best.pth")
    for precision, kind, tolerance in (("float16", torch.float16, 1e-3), ("bfloat16", torch.bfloat16, 8e-3), ("float32", torch.float32, 0)):
        state = load_checkpoint(pack_run(run, tmp_path / precision, precision))
        assert state["packed"] == precision and state["identity"] == whole["identity"] and state["ids"] == whole["ids"]
        for name, value in whole["model"].items():
            mine = state["model"][name]
            assert mine.dtype == (kind if value.is_floating_point() else value.dtype)
            assert torch.allclose(mine.to(value.dtype), value, rtol=tolerance, atol=1e-7)
        assert state["sources"]["semantic_ids"]["codes"].dtype == torch.int8
        assert (state["sources"]["semantic_ids"]["codes"].long() == whole["sources"]["semantic_ids"]["codes"]).all()
        assert state["sources"]["content"]["embeddings"].element_size() <= kind.itemsize
    _, model, *_ = load_data_and_model(tmp_path / "float16", {"data_path": str(tiny_data)})
    assert all(value.dtype == torch.float32 for value in model.parameters())
    assert model.sources.semantic_ids.codes.dtype == torch.int64


def test_a_packed_checkpoint_needs_no_dataset_and_names_no_place(checkpoint, tmp_path, tiny_settings, monkeypatch, capsys):
    run = checkpoint("R3GR", **DENSE)
    assert main(["pack", f"--checkpoint={run}", f"--output={tmp_path / 'packed'}"]) == 0
    assert "best.pth: " in capsys.readouterr().out
    with zipfile.ZipFile(tmp_path / "packed" / "best.pth") as archive:
        told = b"".join(archive.read(name) for name in archive.namelist() if name.endswith("data.pkl"))
    for place in (tiny_settings["data_path"], str(run.parent), "content_file", "checkpoint_dir"):
        assert place.encode() not in told
    monkeypatch.chdir(tmp_path)
    items = Recommender(run).served.item_ids[1:3]
    assert main(["recommend", "--checkpoint", "packed", "--history", ",".join(items), "--topk", "3"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4


def test_codes_are_as_small_as_they_can_be(checkpoint, tmp_path):
    run = checkpoint("R3GR")
    for largest, kind in ((127, torch.int8), (128, torch.int16), (40_000, torch.int32)):
        state = load_checkpoint(run / "best.pth")
        state["sources"]["semantic_ids"]["codes"][1, 0] = largest
        save_checkpoint(tmp_path / "run" / "best.pth", state)
        assert load_checkpoint(pack_run(tmp_path / "run", tmp_path / "packed"))["sources"]["semantic_ids"]["codes"].dtype == kind


def test_what_cannot_be_packed_is_refused(checkpoint, tmp_path):
    run = Path(checkpoint("R3GR"))
    before = (run / "best.pth").read_bytes()
    with pytest.raises(UserError, match="is the folder of the run, whose checkpoint would be lost"):
        pack_run(run, run)
    assert (run / "best.pth").read_bytes() == before
    with pytest.raises(UserError, match="precision is 'int4'; choose float16, bfloat16, float32"):
        pack_run(run, tmp_path / "packed", "int4")
    state = load_checkpoint(run / "best.pth")
    name = next(name for name, value in state["model"].items() if value.is_floating_point())
    state["model"][name].view(-1)[0] = float(np.float32(1e30))
    save_checkpoint(tmp_path / "large" / "best.pth", state)
    with pytest.raises(UserError, match=f"{name} holds numbers up to 1e[+]30, which float16 does not; give --precision=bfloat16"):
        pack_run(tmp_path / "large", tmp_path / "packed")
    assert not (tmp_path / "packed").exists()
    pack_run(tmp_path / "large", tmp_path / "packed", "bfloat16")


def test_new_items_are_for_the_run_that_was_packed(checkpoint, tmp_path, tiny_data, capfd):
    pack_run(checkpoint("R3GR"), tmp_path / "packed")
    words = [f"--checkpoint={tmp_path / 'packed'}", f"--items={tiny_data / 'tiny' / 'tiny.item'}", "--output=new.sid"]
    assert main(["tokenize", *words]) == 2
    assert "packed was packed without its tokenizer; give the run that it was packed from" in capfd.readouterr().err
