"""What a user sees: one line and exit status 2 for bad input, and nothing half-written."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from recbole_r3vae.cli import main
from recbole_r3vae.sid.table import SemanticIDs

SETTINGS_FOR_SECONDS = ["--epochs=1", "--tokenizer_epochs=1"]


@pytest.fixture
def words(tiny_settings):
    """Command-line words for a short run on the small slice."""
    return [f"--{key}={json.dumps(value)}" for key, value in tiny_settings.items() if key not in ("epochs", "tokenizer_epochs")]


def fails(capfd, arguments, *expected) -> None:
    before = artefacts()
    assert main([str(word) for word in arguments]) == 2
    error = capfd.readouterr().err.splitlines()
    lines = [line for line in error if line.startswith("recbole-r3vae: ")]
    assert len(lines) == 1 and "Traceback" not in "".join(error)
    for text in expected:
        assert text in lines[0]
    assert artefacts() == before


def artefacts() -> set[Path]:
    """Everything a reader could take for a result; logs, locks and reusable item vectors aside."""
    kept = {".sid", ".pth", ".safetensors", ".tmp"}
    return {path for path in Path(".").rglob("*") if path.suffix in kept and "cache" not in path.parts}


def write_sids(path, item_ids, sizes=(300, 5)):
    n = len(item_ids)
    codes = torch.stack([torch.arange(n) % sizes[0], torch.arange(n) % sizes[1]], 1)
    SemanticIDs(torch.cat([torch.full((1, 2), -1), codes]), sizes, ["[PAD]", *item_ids]).save(path)


def write_vectors(folder, ids, vectors):
    np.save(folder / "v.npy", vectors)
    (folder / "v.ids").write_text("\n".join(ids) + "\n", encoding="utf-8")
    return folder / "v.npy"


@pytest.fixture
def item_ids(tiny_data):
    return [line.split("\t")[0] for line in (tiny_data / "tiny" / "tiny.item").read_text(encoding="utf-8").splitlines()[1:]]


def test_a_run_from_the_command_line(words, caplog):
    caplog.set_level("INFO")
    assert main(["run", "--model=R3GR", "-d", "tiny", *words, *SETTINGS_FOR_SECONDS]) == 0
    shown = caplog.text
    for text in ("dataset tiny: 60 users, 148 items", "unique SIDs", "R3GR[R3VAE]", "recall@10", "checkpoint:", "next: recbole-r3vae"):
        assert text in shown


@pytest.mark.parametrize("arguments, expected", [
    (["--model=R3GRR", "--dataset=tiny"], ["no model 'R3GRR'", "'R3GR'"]),
    (["--model=R3GR", "--dataset=tinny"], ["dataset 'tinny'", "'tiny'"]),
    (["--model=R3GR", "--dataset=amazon-beauty"], ["recbole-r3vae prepare amazon-beauty", "--data_path"]),
    (["--model=R3GR", "--dataset=ml-100k", "--data_path=nowhere"], ["nowhere/ml-100k", "leave out data_path"]),  # nothing prepares it
    (["--model=R3GR", "--dataset=tiny", "--tokenizer=R3VEA"], ["no tokenizer 'R3VEA'", "R3VAE"]),
    (["--model=R3GR", "--dataset=tiny", "--epoch=3"], ["unknown key --epoch", "'epochs'"]),
    (["--model=R3GR", "--dataset=tiny", "--tokenizer_epoch=3"], ["unknown key --tokenizer_epoch", "'tokenizer_epochs'"]),
    (["--model=R3GR", "--dataset=tiny", "--epochs=3", "--epochs=4"], ["--epochs is given twice"]),
    (["--model=R3GR", "--dataset=tiny", "stray"], ["'stray' belongs to no option"]),
    (["--dataset=tiny"], ["no model is named"]),
    (["--model=R3GR"], ["no dataset is named"]),
    (["--model=R3GR", "--dataset=tiny", "--num_beams=10"], ["num_beams=10 is below the largest topk=20", "--num_beams=20"]),
    (["--model=R3GR", "--dataset=tiny", "--codebook_sizes=[8,400,8]"], ["codebook_sizes", "148 items"]),
    (["--model=R3GR", "--dataset=tiny", "--codebook_sizes=many"], ["codebook_sizes is 'many'"]),
    (["--model=R3GR", "--dataset=tiny", "--item_text_fields=[color]"], ["color", "movie_title", "item_text_fields"]),
    (["--model=R3GR", "--dataset=tiny", "--item_text_template={movie_titel} {class}"], ["'movie_titel'", "'movie_title'", "item_text_template"]),
    (["--model=R3GR", "--dataset=tiny", "--item_text_template={movie_title"], ["'{' at character 1 has no partner"]),
    (["--model=R3GR", "--dataset=tiny", "--content_encoder=bert"], ["content_encoder 'bert'", "tfidf-svd"]),
    (["--model=R3GR", "--dataset=tiny", "--collision_policy=hope"], ["hope", "suffix"]),
    (["--model=R3GR", "--dataset=tiny", "--device=gpu"], ["device 'gpu'", "cpu"]),
    (["--model=R3GR", "--dataset=tiny", "--valid_metric=NDCG@7"], ["valid_metric NDCG@7", "NDCG@10"]),
    (["--model=R3GR", "--dataset=tiny", "--sid_file=absent.sid"], ["absent.sid"]),
    (["--model=R3GR", "--dataset=tiny", "--lr_schedule=linear"], ["lr_schedule is 'linear'", "cosine"]),
    (["--model=R3GR", "--dataset=tiny", "--config_files", "absent.yaml"], ["absent.yaml", "check the path"]),
])  # fmt: skip
def test_bad_arguments(words, capfd, arguments, expected):
    given = {word.partition("=")[0] for word in arguments}
    rest = [word for word in words if word.partition("=")[0] not in given]
    fails(capfd, ["run", *arguments, *rest, *[w for w in SETTINGS_FOR_SECONDS if w.partition("=")[0] not in given]], *expected)


@pytest.mark.parametrize("text, expected", [
    ("epochs: [1", ["bad.yaml", "line"]),
    ("- 1\n- 2", ["bad.yaml", "key: value"]),
    ("epochs: !!python/object/apply:os.system ['touch executed']", ["bad.yaml", "python"]),
])  # fmt: skip
def test_bad_configuration_files(words, capfd, tmp_path, text, expected):
    (tmp_path / "bad.yaml").write_text(text)
    fails(capfd, ["run", "--model=R3GR", "--dataset=tiny", "--config_files", tmp_path / "bad.yaml", *words], *expected)
    assert not Path("executed").exists()


def test_an_unknown_key_in_a_file_is_a_warning_or_with_strict_config_an_error(words, capfd, tmp_path, caplog):
    (tmp_path / "typo.yaml").write_text("epoch: 3\n")
    run = ["run", "--model=R3GR", "--dataset=tiny", "--config_files", str(tmp_path / "typo.yaml"), *words, *SETTINGS_FOR_SECONDS]
    assert main(run) == 0
    assert "epoch; did you mean 'epochs'" in caplog.text
    fails(capfd, [*run, "--strict_config=True", "--seed=5"], "unknown keys", "'epochs'")


def test_command_line_values_are_never_evaluated(words, capfd):
    fails(capfd, ["run", "--model=R3GR", "--dataset=__import__('os').system('touch executed')", *words], "dataset")
    assert not Path("executed").exists()


def test_no_item_file(words, capfd, tiny_data, tmp_path):
    folder = tmp_path / "bare" / "tiny"
    folder.mkdir(parents=True)
    (folder / "tiny.inter").write_bytes((tiny_data / "tiny" / "tiny.inter").read_bytes())
    rest = [word for word in words if not word.startswith("--data_path")]
    run = ["run", "--model=R3GR", "--dataset=tiny", f"--data_path={folder.parent}", *rest, *SETTINGS_FOR_SECONDS]
    fails(capfd, run, "tiny.item")
    # Semantic IDs from elsewhere need no text, and the error says how to do without it.
    inter = (folder / "tiny.inter").read_text(encoding="utf-8").splitlines()
    item = inter[0].split("\t").index("item_id:token")
    write_sids(tmp_path / "mine.sid", sorted({line.split("\t")[item] for line in inter[1:]}))
    fails(capfd, [*run, f"--sid_file={tmp_path / 'mine.sid'}"], "tiny.item", "--item_inputs=[codes]")
    assert main([*run, f"--sid_file={tmp_path / 'mine.sid'}", "--item_inputs=[codes]"]) == 0


def test_sid_file_of_another_dataset(words, capfd, tmp_path):
    write_sids(tmp_path / "other.sid", [f"x{i}" for i in range(40)])
    fails(capfd, ["run", "--model=R3GR", "--dataset=tiny", f"--sid_file={tmp_path / 'other.sid'}", *words], "other.sid", "148")


@pytest.mark.parametrize("damage, expected", [
    ("nan", ["NaN", "item"]), ("rows", ["147", "148"]), ("missing", ["missing"]), ("flat", ["[items, dimensions]"]), ("pickled", ["v.npy"]),
])  # fmt: skip
def test_bad_embeddings(words, capfd, tmp_path, item_ids, damage, expected):
    vectors = np.random.default_rng(0).normal(size=(len(item_ids), 6)).astype("float32")
    ids = list(item_ids)
    if damage == "nan":
        vectors[5, 2] = np.nan
    elif damage == "rows":
        vectors = vectors[:-1]
    elif damage == "missing":
        ids[3] = "another"
    elif damage == "flat":
        vectors = vectors.reshape(-1)
    elif damage == "pickled":
        vectors = np.array([{"a": 1}] * len(ids), dtype=object)
    path = write_vectors(tmp_path, ids, vectors)
    given = ["--content_encoder=file", f"--content_file={path}"]
    command = ["run", "--model=R3GR", "--dataset=tiny", *given, *words]
    assert main(command) == 2
    line = [text for text in capfd.readouterr().err.splitlines() if text.startswith("recbole-r3vae: ")]
    assert len(line) == 1 and any(text.lower() in line[0].lower() for text in expected)


def test_truncated_checkpoint(words, capfd):
    run = ["run", "--model=R3GR", "--dataset=tiny", *words, *SETTINGS_FOR_SECONDS]
    assert main(run) == 0
    for name in ("last.pth", "best.pth"):
        path = next(Path("saved/tiny").glob(f"R3GR-*/{name}"))
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        fails(capfd, [*run, "--resume"], name, "damaged")
        path.write_bytes(whole)


def test_tokenize_and_quality_need_no_interactions(tmp_path, capfd):
    generator = np.random.default_rng(1)
    ids = [f"item {i} ü" for i in range(120)]
    path = write_vectors(tmp_path, ids, generator.normal(size=(120, 12)).astype("float16"))
    output = tmp_path / "items.sid"
    command = ["tokenize", "--embeddings", path, "--output", output, "--set", "codebook_sizes=[6,6]", "epochs=3", "device=cpu"]
    assert main([str(word) for word in command]) == 0
    sids = SemanticIDs.load(output)
    assert sids.unique and sids.codebook_sizes[:2] == (6, 6) and sids.item_ids[1:] == tuple(ids)
    capfd.readouterr()
    assert main(["quality", "--sid", str(output), "--embeddings", str(path), "--json", str(tmp_path / "q.json")]) == 0
    assert "unique SIDs 1.0000" in capfd.readouterr().out
    assert json.loads((tmp_path / "q.json").read_text())["unique_ratio"] == 1.0


def test_embed_writes_what_quality_reads(words, tmp_path, capfd):
    generators_own = ("--hidden_size", "--inner_size", "--n_heads", "--warmup_steps", "--valid_num_beams", "--num_beams")
    words = [word for word in words if not word.startswith(generators_own)]
    run = ["run", "--model=R3VAE", "--dataset=tiny", *words, "--epochs=1"]
    assert main(run) == 0
    sid = next(Path("saved/tiny").glob("R3VAE-*/raw.sid"))
    assert main(["embed", "--dataset=tiny", f"--output={tmp_path / 'v.npy'}", *words]) == 0
    assert main(["quality", "--sid", str(sid), "--embeddings", str(tmp_path / "v.npy"), "--json", str(tmp_path / "q.json")]) == 0
    stored = json.loads((sid.parent / "tokenizer.json").read_text())["quality"]
    scored = json.loads((tmp_path / "q.json").read_text())
    for ours, theirs in zip(scored["levels"], stored["levels"]):
        assert ours["spaces"]["raw"]["sc"] == pytest.approx(theirs["spaces"]["raw"]["sc"], abs=1e-6)
        assert ours["spaces"]["raw"]["pd"] == pytest.approx(theirs["spaces"]["raw"]["pd"], abs=1e-6)


def test_debug_shows_the_traceback(words, capfd):
    assert main(["run", "--model=Nothing", "--dataset=tiny", *words, "--debug"]) == 2
    assert "Traceback" in capfd.readouterr().err


def test_interrupt_exits_130(words, monkeypatch, capfd):
    module = importlib.import_module("recbole_r3vae.quick_start.run")  # the package has a function of this name
    monkeypatch.setattr(module, "create_dataset", lambda config: (_ for _ in ()).throw(KeyboardInterrupt))
    assert main(["run", "--model=R3GR", "--dataset=tiny", *words]) == 130
    assert "--resume" in capfd.readouterr().err


def test_an_interrupt_promises_no_more_than_it_keeps(monkeypatch, capfd, tmp_path):
    """`recommend` has nothing to go on from; a benchmark goes on by itself."""
    import recbole_r3vae.experiments.grid as grid
    import recbole_r3vae.serve.recommender as serve
    import recbole_r3vae.serve.sharded as sharded

    def interrupt(*given, **named):
        raise KeyboardInterrupt

    monkeypatch.setattr(serve, "Recommender", interrupt)
    monkeypatch.setattr(grid, "run_grid", interrupt)
    monkeypatch.setattr(sharded, "recommend_shards", interrupt)
    assert main(["recommend", "--checkpoint=x", "--users=all"]) == 130
    assert capfd.readouterr().err == "recbole-r3vae: interrupted; no file is left half-written; the same command starts anew\n"
    assert main(["recommend", "--checkpoint=x", "--users=all", "--engine", "local", "--output=x"]) == 130
    assert capfd.readouterr().err == "recbole-r3vae: interrupted; the same command goes on from the finished shards\n"
    assert main(["benchmark", "--config=x.yaml"]) == 130
    assert "the same command goes on from the last finished epoch" in capfd.readouterr().err


@pytest.mark.parametrize("arguments", [
    [], ["fly"], ["recommend"], ["quality", "--sid"], ["tokenize", "--output=x", "--items=a", "--embeddings=b"],
])  # fmt: skip
def test_a_command_that_is_none_is_one_line(capfd, arguments):
    assert main(arguments) == 2
    [line] = capfd.readouterr().err.splitlines()
    assert line.startswith("recbole-r3vae: ") and "--help" in line


def test_a_known_dataset_that_is_not_there_is_not_taken_for_a_slip(capfd):
    assert main(["run", "--model=R3GR", "--dataset=amazon-beauty"]) == 2
    assert "did you mean" not in capfd.readouterr().err
