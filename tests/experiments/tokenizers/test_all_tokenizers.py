"""One command, one table: what it says is what the artefacts say, a failure is a row, and nothing is trained twice."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from recbole.trainer import Trainer

from recbole_r3vae.cli import main
from recbole_r3vae.errors import UserError
from recbole_r3vae.experiments.tokenizers import run as tokenizers
from recbole_r3vae.experiments.tokenizers.plots import COLOURS, _pairwise_cosines, _usage
from recbole_r3vae.experiments.tokenizers.run import settings_of_each, tokenizer_names
from recbole_r3vae.experiments.tokenizers.tables import markdown
from recbole_r3vae.provenance import peak_memory_mb
from recbole_r3vae.quick_start.semantic_ids import load_tokenizer
from recbole_r3vae.trainer.tokenizer import TokenizerTrainer

NAMES = ["R3VAE", "RKMeans", "OPQ", "RQVAE", "Random"]  # in the middle the one that fails
PLOTS = ["scores", "usage", "map", "reference_R3VAE", "training"]


def in_this_process(function, *arguments):
    """In place of a new process, which takes seconds to start."""
    try:
        return function(*arguments), None
    except UserError as error:
        return None, str(error)


@pytest.fixture(scope="module")
def words(tiny_data):
    columns = {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "movie_title", "class"]}
    settings = {
        "data_path": str(tiny_data), "device": "cpu", "show_progress": False, "load_col": columns, "content_dim": 32,
        "item_text_fields": ["movie_title", "class"], "codebook_sizes": [8, 8, 8], "hidden_sizes": [16], "epochs": 4, "eval_step": 2,
    }  # fmt: skip
    return [f"--{key}={json.dumps(value)}" for key, value in settings.items()]


def benchmark(words, names=NAMES, *more) -> int:
    return main(["benchmark", f"--tokenizers={','.join(names)}", "--dataset=tiny", "--OPQ.codebook_sizes=[512,512]", *words, *more])


@pytest.fixture(scope="module")
def finished(words, tmp_path_factory):
    """The folder in which a benchmark of five tokenizers ran, one of which fails."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        patched.setattr(tokenizers, "in_own_process", in_this_process)
        assert benchmark(words) == 1
    return folder


@pytest.fixture
def again(finished, monkeypatch):
    """Back in that folder, where nothing may be trained any more."""
    monkeypatch.chdir(finished)
    monkeypatch.setattr(tokenizers, "in_own_process", in_this_process)
    fit = TokenizerTrainer.fit

    def fit_what_failed(self, *args, **keywords):
        assert self.config["model"] == "OPQ", "trained again"
        return fit(self, *args, **keywords)

    monkeypatch.setattr(TokenizerTrainer, "fit", fit_what_failed)


def tables(folder) -> Path:
    return folder / "results" / "tokenizers" / "tiny"


def read_csv(path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_csv_json_and_artefacts_say_the_same(finished):
    report = json.loads((tables(finished) / "tokenizers.json").read_text())
    assert [row["name"] for row in report["tokenizers"]] == NAMES
    flat = {row["name"]: row for row in read_csv(tables(finished) / "tokenizers.csv")}
    levels = read_csv(tables(finished) / "levels.csv")
    for row in report["tokenizers"]:
        if row["error"]:
            continue
        [path] = (finished / "saved" / "tiny").glob(f"{row['name']}-{row['configuration']}/tokenizer.json")
        stored = json.loads(path.read_text())
        quality, history = stored["quality"], stored["history"]
        assert row["unique_ratio"] == quality["unique_ratio"] and row["seconds"] == stored["seconds"]
        assert row["peak_memory_mb"] == stored["peak_memory_mb"]["process"] > 50
        assert row["lowest_usage"] == min(level["usage_of_reachable"] for level in quality["levels"])
        assert row["reconstruction"] == quality["reconstruction"]["mse"]
        for space, name in (("raw", "raw"), ("residual", "own")):
            for metric in ("sc", "pd"):
                values = [level["spaces"][space][metric] for level in quality["levels"]]
                assert row[f"{metric}_{name}"] == pytest.approx(np.mean([v for v in values if v is not None]))
                assert [level[f"{metric}_{name}"] for level in row["levels"]] == values
        in_csv = flat[row["name"]]
        assert all(in_csv[key] == str(row[key]) for key in ("unique_ratio", "sc_raw", "pd_own", "gini", "seconds", "seed", "configuration"))
        assert in_csv["codebook_sizes"] == "8x8x8" and in_csv["error"] == ""
        ours = [level for level in levels if level["name"] == row["name"]]
        assert [float(level["sc_raw"]) for level in ours] == [level["sc_raw"] for level in row["levels"]]
        assert [entry["epoch"] for entry in history] == ([1, 2, 3, 4] if row["name"] in ("R3VAE", "RQVAE") else [])
        assert row["history"] == history and row["epochs"] == len(history)
        if history:
            assert ["valid" in entry for entry in history] == [False, True, False, True]
            best = min(entry["valid"]["reconstruction"] for entry in history if "valid" in entry)
            assert best == pytest.approx(row["reconstruction"])


def test_a_failure_is_a_row_and_exit_status_1(finished):
    report = json.loads((tables(finished) / "tokenizers.json").read_text())
    [failed] = [row for row in report["tokenizers"] if row["error"]]
    assert failed["name"] == "OPQ" and "512" in failed["error"] and "148 items" in failed["error"]
    [in_csv] = [row for row in read_csv(tables(finished) / "tokenizers.csv") if row["name"] == "OPQ"]
    assert in_csv["error"] == failed["error"] and in_csv["unique_ratio"] == ""


def test_the_page_marks_what_cannot_be_compared(finished):
    page = (tables(finished) / "tokenizers.md").read_text()
    lines = page.splitlines()
    main_table = {name: next(line for line in lines if line.startswith(f"| {name} |")) for name in NAMES}
    assert "**failed**: codebook_sizes is [512, 512]" in main_table["OPQ"]
    assert "†" in main_table["Random"] and "†" not in main_table["RKMeans"]
    assert "| = | = |" in main_table["RKMeans"] and "| = | = |" not in main_table["R3VAE"]
    widths = {line.count("|") for line in main_table.values()}
    assert len(widths) == 1  # a table, the failed row included
    for words in ("Comparable between tokenizers", "Not comparable", "The unique ratio alone is no ranking", "recbole-r3vae benchmark"):
        assert words in page
    assert "data_path" not in page  # a place on this machine
    for name in PLOTS:
        assert f"]({name}.png)" in page


def test_a_reason_cannot_break_the_table():
    report = {
        "dataset": "d", "items": 3, "dim": 2, "content": {"kind": "file", "file": "v.npy"}, "command": "c",
        "tokenizers": [{"name": "A", "error": "x | y"}],
    }  # fmt: skip
    assert r"| A | **failed**: x \| y |" in markdown(report)


def test_plots_show_something(finished):
    colours = {}
    for name in PLOTS:
        image = matplotlib.image.imread(tables(finished) / f"{name}.png")[..., :3]  # [height, width, 3]
        assert image.shape[1] == 1500 and image.shape[0] > 300
        ink = image[(image < 0.9).any(-1)]  # [m, 3]
        assert len(ink) > 0.005 * image.shape[0] * image.shape[1]
        colours[name] = sum((np.abs(ink - to_rgb(colour)) < 0.02).all(-1).sum() > 50 for colour in COLOURS)
    assert colours["usage"] >= 3 and colours["map"] == colours["reference_R3VAE"] == len(COLOURS) and colours["training"] >= 2


def test_usage_curves_add_up(finished):
    [folder] = (finished / "saved" / "tiny").glob("RQVAE-*/")
    tokenizer = load_tokenizer(folder)
    [axis] = _usage([tokenizer]).axes
    for line, level in zip(axis.lines, tokenizer.description["quality"]["levels"]):
        share, relative = line.get_data()
        assert share[-1] == level["usage"] and relative.sum() == pytest.approx(8) and (np.diff(relative) <= 0).all()


def test_pairwise_cosines():
    x = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
    expected = [torch.cosine_similarity(x[i], x[j], dim=0).item() for i in range(7) for j in range(i + 1, 7)]
    np.testing.assert_allclose(_pairwise_cosines(x), expected, atol=1e-6)


def data_files(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in tables(folder).iterdir() if path.suffix in (".csv", ".json")}


def test_a_second_time_nothing_is_trained_and_the_files_are_the_same(again, finished, words, capsys, monkeypatch):
    monkeypatch.setattr(tokenizers, "_draw", lambda *args: None)
    before = data_files(finished)
    assert benchmark(words) == 1
    shown = capsys.readouterr().out
    assert shown.count("reused") == 4 and "[3/5] OPQ: failed" in shown
    assert len(before) == 3 and data_files(finished) == before


def test_without_matplotlib_there_are_tables_and_a_hint(again, words, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "recbole_r3vae.experiments.tokenizers.plots")
    monkeypatch.delattr("recbole_r3vae.experiments.tokenizers.plots", raising=False)
    assert benchmark(words, ["RQVAE", "OPQ"], "--output=bare") == 1
    assert {path.name for path in Path("bare").iterdir()} == {"tokenizers.md", "tokenizers.csv", "tokenizers.json", "levels.csv"}
    assert "pip install" in capsys.readouterr().out and "## Plots" not in Path("bare/tokenizers.md").read_text()


def test_killed_in_the_middle_it_goes_on(finished, words, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(tokenizers, "in_own_process", in_this_process)
    monkeypatch.setattr(tokenizers, "_draw", lambda *args: None)
    train_epoch = Trainer._train_epoch

    def train_and_die(self, data, epoch_idx, *args, **keywords):
        loss = train_epoch(self, data, epoch_idx, *args, **keywords)
        if self.config["model"] == "RQVAE" and epoch_idx == 2:
            raise KeyboardInterrupt
        return loss

    names = ["RKMeans", "RQVAE", "Random"]
    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_train_epoch", train_and_die)
        assert benchmark(words, [*names, "OPQ"]) == 130
    assert "same command" in capfd.readouterr().err and not tables(tmp_path).exists()
    assert benchmark(words, [*names, "OPQ"]) == 1
    shown = capfd.readouterr().out
    assert "RKMeans: reused" in shown and "RQVAE: trained" in shown and "Random: trained" in shown

    def rows(folder):
        report = json.loads((tables(folder) / "tokenizers.json").read_text())
        differ = {"seconds", "peak_memory_mb", "config"}
        return {row["name"]: {key: value for key, value in row.items() if key not in differ} for row in report["tokenizers"]}

    whole, killed = rows(finished), rows(tmp_path)
    assert all(killed[name] == whole[name] for name in names)  # the histories included


@pytest.mark.parametrize("arguments, expected", [
    (["--tokenizers=R3VAE,RKMean", "--dataset=tiny"], ["no tokenizer 'RKMean'", "'RKMeans'"]),
    (["--tokenizers=R3VAE", "--dataset=tinny"], ["dataset 'tinny'", "'tiny'"]),
    (["--tokenizers=RKMeans", "--dataset=tiny", "--kmeans_iteration=3"], ["unknown key --kmeans_iteration", "'kmeans_iterations'"]),
    (["--tokenizers=RKMeans", "--dataset=tiny", "--RKMeans.codebook_size=3"], ["--RKMeans.codebook_size", "'RKMeans.codebook_sizes'"]),
    (["--tokenizers=RKMeans", "--dataset=tiny", "--RKMeans.content_dim=3"], ["unknown key --RKMeans.content_dim"]),
    (["--tokenizers=RKMeans", "--dataset=tiny", "--OPQ.n_digits=3"], ["--OPQ.n_digits", "not among RKMeans"]),
    (["--tokenizers=RKMeans", "--dataset=tiny", "--model=R3GR"], ["unknown key --model"]),
    (["--tokenizers=RKMeans", "--dataset=tiny", "--device=gpu"], ["device 'gpu'"]),
    (["--tokenizers=RKMeans", "--dataset=tiny", "--config_files", "absent.yaml"], ["absent.yaml"]),
])  # fmt: skip
def test_bad_arguments_train_nothing(tiny_data, capfd, monkeypatch, arguments, expected):
    monkeypatch.setattr(tokenizers, "in_own_process", lambda *args: pytest.fail("trained"))
    assert main(["benchmark", *arguments, f"--data_path={tiny_data}"]) == 2
    [line] = [line for line in capfd.readouterr().err.splitlines() if line.startswith("recbole-r3vae: ")]
    assert all(text in line for text in expected)
    assert not Path("results").exists()


def test_all_are_those_that_are_found():
    assert {"R3VAE", "RQVAE", "RKMeans", "Random"} <= set(tokenizer_names("all")) and "R3GR" not in tokenizer_names("all")
    assert tokenizer_names("OPQ, LSH,OPQ") == ["OPQ", "LSH"]
    with pytest.raises(UserError, match="no tokenizer ''"):
        tokenizer_names("")


def test_keys_go_where_they_belong():
    given = {"RQVAE.epochs": 5, "epochs": 9, "hidden_sizes": [16], "seed": 1, "RKMeans.codebook_sizes": [4, 4]}
    dealt = settings_of_each(["R3VAE", "RQVAE", "RKMeans"], "tiny", given)
    assert dealt == {
        "R3VAE": {"epochs": 9, "seed": 1},
        "RQVAE": {"epochs": 5, "hidden_sizes": [16], "seed": 1},
        "RKMeans": {"seed": 1, "codebook_sizes": [4, 4]},
    }


def test_keys_from_files_and_a_process_for_each(words, capfd, monkeypatch):
    """The real thing, once. Memory is that of the tokenizer's process, which does not begin with the peak of this one."""
    monkeypatch.setattr(tokenizers, "_draw", lambda *args: None)
    block = bytearray(900 * 2**20)
    block[::4096] = b"x" * len(block[::4096])  # touched, not only promised
    del block
    Path("settings.yaml").write_text("codebook_sizes: [4, 4]\n")
    rest = [word for word in words if not word.startswith(("--codebook_sizes", "--hidden_sizes"))]
    assert main(["benchmark", "--tokenizers=RKMeans", "--dataset=tiny", "--config_files", "settings.yaml", *rest]) == 0
    [row] = json.loads(Path("results/tokenizers/tiny/tokenizers.json").read_text())["tokenizers"]
    assert row["codebook_sizes"] == [4, 4] and row["error"] is None
    assert "RKMeans: trained" in capfd.readouterr().out
    assert 900 < peak_memory_mb() and 50 < row["peak_memory_mb"] < peak_memory_mb() - 200
