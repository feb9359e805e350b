"""The search: what is tried, what is chosen, and that a run with the file it writes has the very IDs of the chosen trial."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from recbole_r3vae.cli import main
from recbole_r3vae.config import tokenizer_defaults
from recbole_r3vae.config.registry import MODEL_ROOMS, own_models
from recbole_r3vae.config.sources import load_yaml, properties
from recbole_r3vae.errors import UserError
from recbole_r3vae.experiments.tune import run as tune
from recbole_r3vae.experiments.tune.run import run_tune
from recbole_r3vae.experiments.tune.space import grid, load_space, sample
from recbole_r3vae.sid.table import SemanticIDs
from recbole_r3vae.trainer.checkpoint_file import load_checkpoint, sources_of

SPACE = """
codebook_sizes: [[8, 8], [8, 8, 8]]
rating: [{rating_mode: top1}, {rating_mode: softmax, rating_temperature: 0.05}]
"""


@pytest.fixture
def words(tiny_settings):
    """Of a run, but for what is searched and for keys that tokenizer and generator have both."""
    return [f"--{key}={json.dumps(value)}" for key, value in tiny_settings.items() if key not in ("codebook_sizes", "epochs", "eval_step")]


@pytest.fixture
def space(tmp_path):
    path = tmp_path / "space.yaml"
    path.write_text(SPACE)
    return path


@pytest.fixture
def command(words, space):
    return ["tune", "--dataset=tiny", f"--space={space}", "--output=here/tuned.yaml", *words]


def fails(capfd, arguments, *expected) -> None:
    assert main([str(word) for word in arguments]) == 2
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("recbole-r3vae: ")]
    assert len(lines) == 1
    for text in expected:
        assert text in lines[0]
    assert not Path("here").exists()


def test_from_search_to_run(command, words, capfd):
    assert main(command) == 0
    shown = capfd.readouterr().out
    assert "4 of the 4 settings" in shown and "[4/4]" in shown and "left" in shown and "next: recbole-r3vae run" in shown
    report = json.loads(Path("here/tuned.json").read_text())
    rows = report["trials"]
    assert [row["rank"] for row in rows] == [1, 2, 3, 4] and not any(row["reused"] for row in rows)
    chosen = rows[0]
    page = Path("here/tuned.md").read_text()
    assert page.count("| chosen |") == 1 and all(row["configuration"] in page for row in rows)
    assert [line.split(" | ")[0] for line in page.splitlines() if line.startswith("| ")][1:] == ["| 1", "| 2", "| 3", "| 4"]
    written = load_yaml("here/tuned.yaml")
    assert written == {**{f"tokenizer_{key}": value for key, value in chosen["settings"].items()}, "tokenizer_seed": 2020}

    trained = sorted(Path("saved/tiny").glob("R3VAE-*/"))
    assert len(trained) == 4
    run = ["run", "--model=R3GR", "--tokenizer=R3VAE", "--dataset=tiny", *words, "--epochs=1", "--seed=7"]  # of the generator only
    assert main([*run, "--config_files", "here/tuned.yaml"]) == 0
    assert sorted(Path("saved/tiny").glob("R3VAE-*/")) == trained  # the trial's own tokenizer was taken up
    [folder] = Path("saved/tiny").glob("R3GR-*/")
    used = Path("saved/tiny") / f"R3VAE-{chosen['configuration']}"
    for name in ("tokenizer.json", "raw.sid", "model.safetensors"):
        assert (folder / "tokenizer" / name).read_bytes() == (used / name).read_bytes()
    raw = SemanticIDs.load(used / "raw.sid")
    learned = sources_of(load_checkpoint(folder / "best.pth")["sources"]).semantic_ids.align(raw.item_ids)
    assert torch.equal(learned.codes[:, : raw.n_levels], raw.codes)

    capfd.readouterr()
    assert main(command) == 0
    assert capfd.readouterr().out.count(": reused") == 4
    again = json.loads(Path("here/tuned.json").read_text())["trials"]
    assert [{**row, "reused": False} for row in again] == rows
    assert load_yaml("here/tuned.yaml") == written


def test_a_search_that_was_killed_goes_on(command, monkeypatch, capfd):
    train, calls = tune.train_tokenizer, []

    def killed_at_third(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return train(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(tune, "train_tokenizer", killed_at_third)
        assert main(command) == 130
    assert not Path("here").exists()
    capfd.readouterr()
    assert main(command) == 0
    assert capfd.readouterr().out.count(": reused") == 2


def test_a_failed_trial_is_a_row_and_exit_status_1(command, tmp_path, capfd):
    (tmp_path / "space.yaml").write_text("codebook_sizes: [[8, 400], [8, 8]]\n")
    assert main(command) == 1
    assert "[1/2] codebook_sizes=[8,400]: failed: codebook_sizes is [8, 400]" in capfd.readouterr().out
    rows = json.loads(Path("here/tuned.json").read_text())["trials"]
    assert rows[0]["settings"] == {"codebook_sizes": [8, 8]} and "148 items" in rows[1]["error"]
    assert load_yaml("here/tuned.yaml")["tokenizer_codebook_sizes"] == [8, 8]
    assert "failed: codebook_sizes is [8, 400]" in Path("here/tuned.md").read_text()


def test_an_unforeseen_failure_is_a_row_too(command, monkeypatch, capfd):
    train, calls = tune.train_tokenizer, []

    def broken_at_first(*arguments):
        calls.append(arguments)
        if len(calls) == 1:
            raise ZeroDivisionError("by | nothing")
        return train(*arguments)

    monkeypatch.setattr(tune, "train_tokenizer", broken_at_first)
    assert main([*command, "--trials=2"]) == 1
    assert "Traceback" in capfd.readouterr().err
    assert r"failed: ZeroDivisionError: by \| nothing" in Path("here/tuned.md").read_text()


def test_an_undefined_score_is_null_and_a_dash(command, monkeypatch):
    """As SC is where no two items share a code."""
    measured = tune.summary
    monkeypatch.setattr(tune, "summary", lambda quality: {**measured(quality), "sc": float("nan")})
    assert main([*command, "--trials=1"]) == 0
    [row] = json.loads(Path("here/tuned.json").read_text(), parse_constant=pytest.fail)["trials"]
    assert row["summary"]["sc"] is None and row["summary"]["pd"] < 0
    assert f"| {row['score']:.4f} | – | {row['summary']['pd']:.4f} |" in Path("here/tuned.md").read_text()


def test_no_trial_succeeds(command, tmp_path, capfd):
    (tmp_path / "space.yaml").write_text("codebook_sizes: [[8, 400], [300, 8]]\n")
    fails(capfd, command, "none of the 2 trials succeeded", "148 items")


@pytest.mark.parametrize("text, expected", [
    ("rating_mod: [top1]", ["unknown key rating_mod", "'rating_mode'"]),
    ("lambda: [{sc_weight: 0.1, pd_wait: 0.1}]", ["unknown key pd_wait", "'pd_weight'"]),
    ("rating_mode: top1", ["rating_mode", "'top1'", "list"]),
    ("rating_mode: []", ["rating_mode", "list"]),
    ("rating_mode: [ste]\nrating: [{rating_mode: top1}]", ["rating_mode is in two lists", "rating_mode and rating"]),
    ("", ["is empty"]),
    ("- 1", ["key: value"]),
    ("epochs: [1", ["line"]),
])  # fmt: skip
def test_bad_spaces(command, tmp_path, capfd, text, expected):
    (tmp_path / "space.yaml").write_text(text)
    fails(capfd, command, "space.yaml", *expected)


@pytest.mark.parametrize("words_more, expected", [
    (["--trials=0"], ["--trials is 0"]),
    (["--trials=few"], ["--trials is 'few'"]),
    (["--epochs=3"], ["--epochs would be R3GR's", "--tokenizer_epochs=3"]),
    (["--rating_mod=ste"], ["unknown key --rating_mod", "'rating_mode'"]),
    (["--tokenizer=R3VEA"], ["R3VEA", "'R3VAE'"]),
    (["--model=SASRec"], ["SASRec", "R3GR"]),
    (["--space=absent.yaml"], ["absent.yaml"]),
    (["--output=here/tuned.txt"], ["tuned.txt", "tuned.yaml"]),
    (["--dataset=tinny"], ["'tinny'", "'tiny'"]),
])  # fmt: skip
def test_bad_arguments(command, capfd, words_more, expected):
    fails(capfd, [*command, *words_more], *expected)


def test_a_tokenizer_without_a_space(words, capfd):
    words = [word for word in words if not word.startswith("--tokenizer_epochs")]  # of which LSH has none
    fails(capfd, ["tune", "--tokenizer=LSH", "--dataset=tiny", *words], "no search space for LSH", "R3VAE", "--space")


def test_any_tokenizer_with_a_space_and_what_the_user_fixes(command, tmp_path, capfd):
    (tmp_path / "space.yaml").write_text("codebook_sizes: [[8, 8], [4, 4, 4]]\nkmeans_iterations: [1, 5]\n")
    command = [word for word in command if not word.startswith("--tokenizer_epochs")]
    assert main([*command, "--tokenizer=RKMeans", "--tokenizer_codebook_sizes=[4,4]"]) == 0
    rows = json.loads(Path("here/tuned.json").read_text())["trials"]
    assert [sorted(row["settings"]) for row in rows] == [["kmeans_iterations"]] * 2
    assert all([level["codebook_size"] for level in row["quality"]["levels"]] == [4, 4] for row in rows)


def test_keys_of_the_generator_in_a_file_do_not_leave_the_search(command, tmp_path):
    """``epochs`` there is the generator's, whose YAML has it; ``codebook_sizes`` is the tokenizer's."""
    (tmp_path / "space.yaml").write_text("codebook_sizes: [[8, 8], [4, 4, 4]]\nkmeans_iterations: [1, 5]\nepochs: [0]\n")
    (tmp_path / "mine.yaml").write_text("epochs: 33\ncodebook_sizes: [4, 4]\n")
    command = [word for word in command if not word.startswith("--tokenizer_epochs")]
    assert main([*command, "--tokenizer=RKMeans", "--config_files", str(tmp_path / "mine.yaml")]) == 0
    rows = json.loads(Path("here/tuned.json").read_text())["trials"]
    assert [sorted(row["settings"]) for row in rows] == [["epochs", "kmeans_iterations"]] * 2


def test_grid_and_sample(tmp_path):
    (tmp_path / "space.yaml").write_text(SPACE)
    space = load_space("R3VAE", tmp_path / "space.yaml")
    whole = grid(space)
    assert whole[0] == {"codebook_sizes": [8, 8], "rating_mode": "top1"} and len(whole) == 4
    assert grid(space, {"codebook_sizes"}) == [{"rating_mode": "top1"}, {"rating_mode": "softmax", "rating_temperature": 0.05}]
    assert grid(space, {"codebook_sizes", "rating_mode"}) == [{}, {"rating_temperature": 0.05}]
    draws = {json.dumps(sample(whole, 2, seed)) for seed in range(20)}
    assert len(draws) > 1 and sample(whole, 2, 3) == sample(whole, 2, 3)
    assert sample(whole, 99, 0) == whole
    for draw in map(json.loads, draws):
        assert draw == [settings for settings in whole if settings in draw] and len(draw) == 2


@pytest.mark.parametrize("path", sorted((properties() / "tune").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_spaces_that_are_provided_hold_the_defaults(path):
    """So the defaults are among what is compared, and the counts in the files' first lines are right."""
    assert path.stem in own_models(MODEL_ROOMS[0])
    defaults, settings = tokenizer_defaults(path.stem), grid(load_space(path.stem))
    assert any(all(defaults[key] == value for key, value in trial.items()) for trial in settings)
    assert f"every combination of one entry of each list, {len(settings)} in all" in path.read_text()


def test_from_python_the_rows_come_back_best_first(words, space):
    rows = run_tune("R3VAE", "tiny", space, trials=2, output="here/t.yaml", arguments=words)
    assert [row["rank"] for row in rows] == [1, 2]
    with pytest.raises(UserError, match="no search space"):
        load_space("Random")


def test_a_space_in_recboles_format(tmp_path):
    path = tmp_path / "x.hyper"
    path.write_text("tokenizer_codebook_sizes choice ['[8,8]',[4,4,4]]\ntokenizer_sc_weight choice [0.1,0.2]\n")
    assert load_space("R3VAE", path) == {
        "codebook_sizes": [{"codebook_sizes": [8, 8]}, {"codebook_sizes": [4, 4, 4]}], "sc_weight": [{"sc_weight": 0.1}, {"sc_weight": 0.2}],
    }  # fmt: skip
    for text, expected in (
        ("learning_rate choice [0.1]", "learning_rate of search space .* is no key of a tokenizer"),
        ("tokenizer_sc_weight uniform 0,1", "tokenizer_sc_weight of search space .* is a uniform"),
        ("tokenizer_num_beams choice [1,2]", "unknown key num_beams in search space .*: R3VAE has none of that name"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=expected):
            load_space("R3VAE", path)
