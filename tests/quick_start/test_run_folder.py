"""Two runs that can differ never share a folder, and nothing that is finished is lost to what has only begun."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from recbole.trainer import Trainer

from recbole_r3vae.config import Config, decisive, fingerprint, identity
from recbole_r3vae.config.identity import differences
from recbole_r3vae.errors import UserError
from recbole_r3vae.quick_start import load_data_and_model, run_recbole_r3vae
from recbole_r3vae.quick_start.run_folder import IDENTITY, PREVIOUS, find_checkpoint, open_run, read_identity
from recbole_r3vae.record import Record
from recbole_r3vae.trainer import resumable
from recbole_r3vae.trainer.checkpoint_file import load_checkpoint

NEEDED = ("data_path", "checkpoint_dir", "device", "show_progress", "load_col", "MAX_ITEM_LIST_LENGTH", "eval_step")


class Killed(BaseException):
    """Passes every ``except Exception``, as a signal would."""


@pytest.fixture
def settings(tiny_settings) -> dict:
    """Of a SASRec that takes a second."""
    return {**{key: tiny_settings[key] for key in NEEDED}, "loss_type": "CE", "hidden_size": 16, "inner_size": 16, "epochs": 2}


def run(settings, **more) -> tuple[dict, Path]:
    result = run_recbole_r3vae("SASRec", "tiny", config_dict={**settings, **more})
    return result, Path(result["run_dir"])


def killed_in(epoch: int, settings, **more) -> None:
    """A run that ends without a word in the middle of an epoch, which is numbered from 0."""
    train_epoch = Trainer._train_epoch

    def train_and_die(self, data, epoch_idx, *given, **named):
        if epoch_idx == epoch:
            raise Killed
        return train_epoch(self, data, epoch_idx, *given, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_train_epoch", train_and_die)
        with pytest.raises(Killed):
            run(settings, **more)


def hashes(folder: Path) -> dict[str, str]:
    """Of every file in a folder."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def folders(settings) -> set[str]:
    return {path.name for path in (Path(settings["checkpoint_dir"]) / "tiny").iterdir() if path.is_dir()}


# -- the name ------------------------------------------------------------------------------------------------------------------------


def place(settings, data="d0", sources=None, **more) -> str:
    return open_run(Config("SASRec", "tiny", config_dict={**settings, **more}), "SASRec", data, sources or {}).path.name


@pytest.mark.parametrize("more", [
    {"epochs": 3}, {"stopping_step": 3}, {"max_minutes": 5}, {"learning_rate": 0.5}, {"seed": 1}, {"topk": [10]}, {"valid_rule": "stay"},
    {"eval_batch_size": 7}, {"MAX_ITEM_LIST_LENGTH": 9}, {"data": "d1"}, {"sources": {"semantic_ids": "s"}}, {"sources": {"content": "s"}},
], ids=str)  # fmt: skip
def test_what_can_change_a_result_gives_another_folder(settings, more):
    assert place(settings, **more) != place(settings)


@pytest.mark.parametrize(
    "more", [{"show_progress": True}, {"state": "warning"}, {"resume": True}, {"checkpoint_dir": "elsewhere"}], ids=str
)
def test_places_and_loudness_do_not(settings, more):
    assert place(settings, **more) == place(settings)


def test_threads_and_beams_count_too(settings, tiny_settings, monkeypatch):
    one = place(settings)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    assert place(settings) != one
    beams = {open_run(Config("R3GR", "tiny", config_dict={**tiny_settings, "num_beams": n}), "R3GR[R3VAE]", "d", {}).path for n in (20, 30)}
    assert len(beams) == 2 and all(path.name.startswith("R3GR-R3VAE-") for path in beams)


def test_a_folder_says_what_its_run_is(settings):
    result, folder = run(settings)
    stored = json.loads((folder / IDENTITY).read_text())
    assert stored == read_identity(folder) and set(stored) == {"settings", "data", "arithmetic"}
    assert stored["settings"]["epochs"] == 2 and "checkpoint_dir" not in stored["settings"]
    assert stored["arithmetic"] == {"device": "cpu", "threads": torch.get_num_threads(), "processes": 1, "precision": "float32"}
    record, checkpoint = Record.read(folder / "result.json"), load_checkpoint(folder / "best.pth")
    assert folder.name == f"SASRec-{fingerprint(stored)}" == f"SASRec-{record.hash}"
    assert checkpoint["identity"] == stored and checkpoint["data"] == stored["data"] == record.data["loaded"]
    assert record.config == stored["settings"] and record.continues is result["continues"] is None


def test_a_folder_without_a_readable_identity_has_none(tmp_path):
    for text in (None, "", "{", "[]", '{"config": {}}'):
        if text is not None:
            (tmp_path / IDENTITY).write_text(text)
        assert read_identity(tmp_path) is None


# -- going on ------------------------------------------------------------------------------------------------------------------------


def test_a_resumed_run_stays_in_its_folder(settings, monkeypatch):
    killed_in(1, settings)
    [name] = folders(settings)
    _, folder = run(settings, resume=True)
    assert folder.name == name and folders(settings) == {name}
    before = hashes(folder)
    monkeypatch.setattr(Trainer, "_train_epoch", lambda *given, **named: pytest.fail("trained again"))
    _, again = run(settings, resume=True)
    assert again == folder and hashes(again)["best.pth"] == before["best.pth"] and not (folder / PREVIOUS).exists()


def test_a_longer_run_goes_on_from_a_shorter_one_and_says_so(settings, caplog, monkeypatch):
    caplog.set_level("INFO")
    first, short = run(settings)
    before, epochs = hashes(short), []
    train_epoch = Trainer._train_epoch

    def noted(self, data, epoch, *given, **named):
        epochs.append(epoch)
        return train_epoch(self, data, epoch, *given, **named)

    monkeypatch.setattr(Trainer, "_train_epoch", noted)
    result, long = run(settings, epochs=4, resume=True)
    told = f"{short.name} after 2 epochs"
    assert epochs == [2, 3] and long != short
    assert result["continues"] == Record.read(long / "result.json").continues == read_identity(long)["continues"] == told
    assert f"goes on from {short}, 2 epochs; that run stays as it is" in caplog.text
    assert hashes(short) == before
    assert long.name == f"SASRec-{fingerprint(read_identity(long))}"
    assert [epoch for epoch, *_ in result["valid_history"]] == [1, 2, 3, 4] and result["valid_history"][:2] == first["valid_history"]

    again, same = run(settings, epochs=4, resume=True)  # asked for once more it is found, not begun again
    assert same == long and epochs == [2, 3] and again["continues"] == told and again["test"] == result["test"]
    assert folders(settings) == {short.name, long.name}
    fresh, anew = run(settings, epochs=4)  # without `resume` it begins anew, in the folder of that
    assert anew not in (short, long) and epochs[2:] == [0, 1, 2, 3] and fresh["continues"] is None and hashes(short) == before


def test_a_longer_run_that_was_killed_goes_on_in_its_own_folder(settings):
    _, short = run(settings)
    before = hashes(short)
    killed_in(3, settings, epochs=5, resume=True)
    [long] = folders(settings) - {short.name}
    result, folder = run(settings, epochs=5, resume=True)
    assert folder.name == long and folders(settings) == {short.name, long}
    assert result["continues"] == f"{short.name} after 2 epochs" and result["epochs"] == 5 and hashes(short) == before


def test_a_copy_that_was_killed_is_made_anew(settings, monkeypatch):
    _, short = run(settings)
    copy = shutil.copy2

    def copy_and_die(source, target):
        copy(source, target)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copy2", copy_and_die)
        with pytest.raises(Killed):
            run(settings, epochs=3, resume=True)
    result, long = run(settings, epochs=3, resume=True)
    assert result["continues"] == f"{short.name} after 2 epochs" and result["epochs"] == 3
    assert not [path for path in long.iterdir() if path.name.startswith(".")]


def test_the_longest_of_the_shorter_runs_is_gone_on_with(settings):
    runs = {epochs: run(settings, epochs=epochs)[1] for epochs in (1, 3, 5)}
    result, _ = run(settings, epochs=4, resume=True)
    assert result["continues"] == f"{runs[3].name} after 3 epochs"


def test_the_tokenizers_epochs_are_no_difference_where_they_are_the_models():
    """A setting of the tokenizer stage is named only where it differs from the model's."""

    def of(epochs):
        return identity(decisive(Config("R3GR", "ml-100k", config_dict={"tokenizer_epochs": 4, "epochs": epochs})), "data")

    assert differences(of(2), of(4)) == {"epochs": (2, 4)} and differences(of(4), of(2)) == {"epochs": (4, 2)}
    other = identity(decisive(Config("R3GR", "ml-100k", config_dict={"tokenizer_epochs": 5, "epochs": 4})), "data")
    assert differences(of(4), other) == {"tokenizer_epochs": (4, 5)}


# -- what is not gone on with ----------------------------------------------------------------------------------------------------------


def test_another_run_is_not_gone_on_with_and_the_nearest_is_named(settings, caplog):
    caplog.set_level("INFO")
    _, one = run(settings)
    result, other = run(settings, learning_rate=0.01, epochs=3, resume=True)
    assert other != one and result["continues"] is None
    assert f"the nearest run, {one}, has epochs 2 instead of 3, learning_rate 0.001 instead of 0.01: it is not gone on with" in caplog.text


def test_the_same_run_that_has_trained_longer_is_named(settings, caplog):
    caplog.set_level("INFO")
    _, one = run(settings)
    result, other = run(settings, epochs=1, resume=True)
    assert other != one and result["continues"] is None
    assert f"the nearest run, {one}, has trained longer than this one may (2 epochs, " in caplog.text


def test_changed_data_is_another_run(settings, tmp_path, caplog):
    caplog.set_level("INFO")
    _, one = run(settings)
    before = hashes(one)
    changed = tmp_path / "changed"
    shutil.copytree(Path(settings["data_path"]) / "tiny", changed / "tiny")
    lines = (changed / "tiny" / "tiny.inter").read_text().splitlines()
    (changed / "tiny" / "tiny.inter").write_text("\n".join(lines[:-1]) + "\n")
    result, other = run(settings, data_path=str(changed), resume=True)
    assert other != one and result["continues"] is None and result["epochs"] == 2 and hashes(one) == before
    assert f"the nearest run, {one}, has other data: it is not gone on with; to begin from its weights" in caplog.text


@pytest.mark.parametrize("shorter", [{"epochs": 1}, {"max_minutes": 0}, {"stopping_step": 3}], ids=str)
def test_a_run_that_has_trained_longer_is_not_gone_on_with(settings, tmp_path, shorter):
    """A result of more training must not pass for one of less."""
    _, long = run(settings)
    result, folder = run(settings, resume=True, **shorter)
    assert folder != long and result["continues"] is None
    assert result["epochs"] == {"epochs": 1, "max_minutes": 0, "stopping_step": 2}[next(iter(shorter))]
    own = str(tmp_path / "mine")
    run(settings, run_dir=own)
    told = f"run_dir .* holds another run, with {next(iter(shorter))} .* instead of .*; choose another run_dir"
    with pytest.raises(UserError, match=told):
        run(settings, run_dir=own, resume=True, **shorter)


# -- a rerun -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("epoch", [0, 1], ids=["before a checkpoint of its own is the best", "after that"])
def test_a_rerun_that_is_killed_leaves_the_finished_run_usable(settings, epoch):
    _, folder = run(settings)
    finished = hashes(folder)
    for _ in range(2):  # killed twice, it is still there
        killed_in(epoch, settings)
        assert {name: hashes(folder / PREVIOUS)[name] for name in ("best.pth", "last.pth", "result.json")} == {
            name: finished[name] for name in ("best.pth", "last.pth", "result.json")
        }
        assert find_checkpoint(folder) == folder / PREVIOUS / "best.pth" and not (folder / "result.json").exists()
        assert (folder / "best.pth").exists() == (epoch == 1)
        model = load_data_and_model(folder)[1]
        expected = load_checkpoint(folder / PREVIOUS / "best.pth")["model"]
        assert all(torch.equal(value, expected[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("resume", [False, True])
def test_a_rerun_that_ends_takes_the_place_of_the_finished_run(settings, resume):
    first, folder = run(settings)
    killed_in(1, settings)
    result, again = run(settings, resume=resume)
    assert again == folder and not (folder / PREVIOUS).exists() and find_checkpoint(folder) == folder / "best.pth"
    assert Record.read(folder / "result.json").test == result["test"] == first["test"]


def test_resuming_without_a_last_checkpoint_does_not_lose_the_best(settings):
    _, folder = run(settings)
    finished = hashes(folder)
    (folder / "last.pth").unlink()
    killed_in(0, settings, resume=True)
    assert find_checkpoint(folder) == folder / PREVIOUS / "best.pth" and hashes(folder / PREVIOUS)["best.pth"] == finished["best.pth"]
    _, again = run(settings, resume=True)
    assert again == folder and not (folder / PREVIOUS).exists()


def test_a_run_that_is_not_saved_touches_nothing(settings):
    _, folder = run(settings)
    before = hashes(folder)
    run_recbole_r3vae("SASRec", "tiny", config_dict=settings, saved=False)
    assert hashes(folder) == before


def test_no_checkpoint_is_one_line(tmp_path):
    for path in (tmp_path, tmp_path / "best.pth", tmp_path / "nowhere"):
        with pytest.raises(UserError, match="there is no checkpoint .*; give the folder of a run"):
            find_checkpoint(path)


# -- a folder of the user's choice -----------------------------------------------------------------------------------------------------


def test_a_run_dir_with_another_run_is_refused(settings, tmp_path, monkeypatch):
    own = str(tmp_path / "mine")
    _, folder = run(settings, run_dir=own)
    assert folder == Path(own) and (folder / "best.pth").is_file()
    before = hashes(folder)
    monkeypatch.setattr(resumable.Checkpointed, "fit", lambda *given, **named: pytest.fail("trained"))
    for more, told in (
        ({"learning_rate": 0.01}, "learning_rate 0.001 instead of 0.01"),
        ({"epochs": 3}, "epochs 2 instead of 3"),
        ({"epochs": 3, "learning_rate": 0.01, "resume": True}, "epochs 2 instead of 3, learning_rate 0.001 instead of 0.01"),
    ):
        with pytest.raises(UserError) as error:
            run(settings, run_dir=own, **more)
        way_out = "choose another run_dir, or leave it out: every run then gets a folder of its own"
        assert str(error.value) == f"run_dir {own} holds another run, with {told}; {way_out}"
    assert hashes(folder) == before


def test_a_run_dir_is_gone_on_with_when_given_more_epochs(settings, tmp_path):
    own = str(tmp_path / "mine")
    run(settings, run_dir=own)
    for _ in range(2):
        result, folder = run(settings, run_dir=own, epochs=3, resume=True)
        assert folder == Path(own) and result["epochs"] == 3 and result["continues"] == f"{own} after 2 epochs"
        assert read_identity(folder)["settings"]["epochs"] == 3
