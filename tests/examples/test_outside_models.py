"""The models of ``examples/`` from a folder of their own: one file and one YAML are enough to train, resume, reload, serve and compare."""

from __future__ import annotations

import importlib
import json
import math
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from recbole_r3vae.cli import main
from recbole_r3vae.config import Config
from recbole_r3vae.config.registry import code_of, get_model
from recbole_r3vae.config.stages import deal
from recbole_r3vae.data.content import load_content
from recbole_r3vae.data.items import ItemVectors
from recbole_r3vae.errors import UserError
from recbole_r3vae.quick_start import load_data_and_model, run_recbole_r3vae
from recbole_r3vae.quick_start.lookup import create_dataset, get_trainer
from recbole_r3vae.quick_start.semantic_ids import load_tokenizer
from recbole_r3vae.serve.recommender import Recommender
from recbole_r3vae.serve.tokenize import tokenize_items
from recbole_r3vae.record import Record
from recbole_r3vae.trainer.checkpoint_file import load_checkpoint

EXAMPLES = Path(__file__).parents[2] / "examples"
DIGITS, RERANK = "examples.paralleldigits:ParallelDigits", "examples.rerank:Rerank"
AVERAGED, CLICKS, MODALITIES = "examples.averagedgru:AveragedGRU", "examples.clickmodel:FinalMLP", "examples.twomodalities:TwoModalities"

TWO_TEXTS = {
    "title": {"encoder": "tfidf-svd", "fields": ["movie_title"], "dim": 16},
    "genre": {"encoder": "tfidf-svd", "fields": ["class"]},
}
BATCHES = {"train_batch_size": 16, "tokenizer_epochs": 0}
OF = {
    DIGITS: {**BATCHES, "tokenizer": "OPQ"},
    RERANK: {**BATCHES, "tokenizer": MODALITIES, "content_encoder": TWO_TEXTS, "dense_weight": 2.0},
    AVERAGED: {"train_batch_size": 16},
    CLICKS: {"train_batch_size": 512, "tokenizer_epochs": 0, "tokenizer": "RKMeans", "sid_features": "replace"},
}
"""Settings beside those of every run on ``tiny``, with several batches an epoch."""

ITEM_MODELS = [DIGITS, RERANK, AVERAGED]


@pytest.fixture(autouse=True)
def outside(tmp_path, monkeypatch):
    """Run where ``examples`` has been copied to, and nowhere else."""
    shutil.copytree(EXAMPLES, tmp_path / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    _forget()
    yield tmp_path / "examples"
    _forget()


def _forget() -> None:
    """The modules of another test's folder."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "examples"]:
        del sys.modules[name]
    importlib.invalidate_caches()


@pytest.fixture
def train(tiny_settings):
    """A function from a model and more settings to its result."""

    def run(model, **more):
        return run_recbole_r3vae(model, "tiny", config_dict={**tiny_settings, "state": "error", **OF.get(model, {}), **more})

    return run


def named(model) -> dict[str, str]:
    """What has to be said so that a checkpoint's code is run."""
    tokenizer = OF[model].get("tokenizer")
    return {"model": model, **({"tokenizer": tokenizer} if ":" in str(tokenizer) else {})}


def weights(run_dir, file="best.pth") -> dict[str, torch.Tensor]:
    return load_checkpoint(Path(run_dir) / file)["model"]


class Killed(BaseException):
    """As a signal: nothing catches it."""


def kill_at(monkeypatch, model_class, call: int) -> None:
    """Make the ``call``-th loss its process's last."""
    calculate_loss, calls = model_class.calculate_loss, []

    def until_killed(self, batch):
        calls.append(batch)
        if len(calls) == call:
            raise Killed
        return calculate_loss(self, batch)

    monkeypatch.setattr(model_class, "calculate_loss", until_killed)


# -- train, resume, reload -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", list(OF))
def test_a_killed_run_ends_with_the_same_bits(train, tmp_path, monkeypatch, model):
    whole = train(model)
    model_class = get_model(model)
    with monkeypatch.context() as patched:
        kill_at(patched, model_class, 7)  # in the second epoch
        with pytest.raises(Killed):
            train(model, checkpoint_dir="again")
    resumed = train(model, checkpoint_dir="again", resume=True)
    assert load_checkpoint(Path(whole["run_dir"]) / "last.pth")["epoch"] == 3
    assert Path(resumed["run_dir"]).name == Path(whole["run_dir"]).name and ":" not in Path(whole["run_dir"]).name
    assert resumed["test_result"] == whole["test_result"] and resumed["test"] == whole["test"]
    for file in ("best.pth", "last.pth"):
        one, other = weights(whole["run_dir"], file), weights(resumed["run_dir"], file)
        assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("model", list(OF))
def test_it_learns(train, model):
    run_dir = train(model, epochs=12, stopping_step=100)["run_dir"]
    losses = load_checkpoint(Path(run_dir) / "last.pth")["train_loss"]
    assert losses[11] < 0.95 * losses[0]


@pytest.mark.parametrize("model", list(OF))
def test_a_checkpoint_is_opened_by_whoever_names_its_code(train, model):
    result = train(model)
    best = Path(result["run_dir"]) / "best.pth"
    for lacking in named(model):
        _forget()
        given = {key: value for key, value in named(model).items() if key != lacking}
        with pytest.raises(UserError, match=rf"has {lacking} examples\.\w+:\w+, code from outside this package; give --{lacking}=examples"):
            load_data_and_model(best, given)
        assert not any(name.startswith("examples") for name in sys.modules)
    config, network, _, _, _, test_data = load_data_and_model(best, named(model))
    trainer = get_trainer(config)(config, network)
    again = trainer.evaluate(test_data, load_best_model=False)
    assert dict(again) == pytest.approx(dict(result["test_result"]), abs=1e-6)


# -- serve -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ITEM_MODELS)
def test_what_is_recommended_is_what_scores_best(train, model):
    result = train(model, **({"num_beams": "exact"} if model == RERANK else {}))
    recommender = Recommender(result["run_dir"], named(model))
    found = recommender.recommend(users=recommender.users.users("test")[:2], k=20, as_of="test")
    *_, network, dataset, _, _, test_data = load_data_and_model(result["run_dir"], named(model))
    batch = next(iter(test_data))[0]
    for user, part in found.groupby("user"):
        row = int((batch["user_id"] == dataset.token2id("user_id", user)).nonzero())
        everything = batch[[row] * (dataset.item_num - 1)]
        everything.update(type(everything)({"item_id": torch.arange(1, dataset.item_num)}))
        scores = network.predict(everything)  # [n_items - 1], each by itself
        best = scores.sort(descending=True, stable=True)
        assert np.allclose(part["score"], best.values[:20], atol=1e-4)
        own = scores[[int(dataset.token2id("item_id", item)) - 1 for item in part["item"]]]
        assert np.allclose(part["score"], own, atol=1e-4)


@pytest.mark.parametrize("model", ITEM_MODELS)
def test_the_command_recommends(train, model, capsys):
    run_dir = train(model)["run_dir"]
    users = Recommender(run_dir, named(model)).users.users("now")[:2]
    words = ["recommend", "--checkpoint", run_dir, "--users", ",".join(users), "--topk", "3"]
    assert main([*words, *(f"--{key}={name}" for key, name in named(model).items())]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1 + 2 * 3
    assert main(words) == 2
    captured = capsys.readouterr()
    assert f"give --model={model} to run it" in captured.err and len(captured.err.splitlines()) == 1 and not captured.out


def test_a_beam_is_re_ranked_by_its_states(train):
    run_dir = train(RERANK)["run_dir"]
    *_, network, _, _, _, test_data = load_data_and_model(run_dir, named(RERANK))
    reading, head = network.read(next(iter(test_data))[0]), network.heads["generate"]
    with torch.no_grad():
        [beams], [ranking] = head.rank(reading, head.most_items), network.rank(reading, 10)
        assert not torch.equal(ranking.items, beams.items[:, :10])
        for row, (items, scores) in enumerate(zip(ranking.items, ranking.scores)):
            assert set(items.tolist()) <= set(beams.items[row].tolist())  # nothing but what the beam found
            one = reading[row].expand(len(items), -1)
            assert torch.allclose(scores, network.score(one, items), atol=1e-4)
        network.dense_weight = 0.0
        [unchanged] = network.rank(reading, 10)
        assert torch.equal(unchanged.items, beams.items[:, :10])


@pytest.mark.parametrize("model", [DIGITS, RERANK])
def test_new_items_are_recommended(train, tiny_data, tmp_path, model):
    run_dir, history = train(model)["run_dir"], ["50", "181", "172"]
    items = pd.read_csv(tiny_data / "tiny" / "tiny.item", sep="\t", dtype=str, keep_default_na=False)
    twins = items[:10].assign(**{"item_id:token": "new " + items["item_id:token"][:10]})
    twins.to_csv("new.item", sep="\t", index=False)
    tokenizer = named(model).get("tokenizer")
    if tokenizer is not None:
        with pytest.raises(UserError, match=f"code from outside this package; give --tokenizer={tokenizer}"):
            tokenize_items(run_dir, "new.item", "new.sid")
    words = [] if tokenizer is None else [f"--tokenizer={tokenizer}"]
    assert main(["tokenize", "--checkpoint", run_dir, "--items", "new.item", "--output", "new.sid", *words]) == 0

    wide = {"num_beams": "exact"} if model == RERANK else {}
    recommender = Recommender(run_dir, {**named(model), **wide})
    before = recommender.recommend([history], k=148).set_index("item")["score"]
    assert recommender.add_items("new.sid") == 10
    after = recommender.recommend([history], k=158).set_index("item")["score"]
    assert np.allclose(after[before.index], before, atol=1e-4) and set(twins["item_id:token"]) <= set(after.index)
    if model == DIGITS:  # items may share their codes: twins are twins
        assert np.allclose(after[twins["item_id:token"]], after[items["item_id:token"][:10]], atol=1e-5)


def test_an_item_id_model_takes_no_new_items(train, tmp_path):
    recommender = Recommender(train(AVERAGED)["run_dir"], named(AVERAGED))
    sids = train(DIGITS)["sid_file"]
    with pytest.raises(UserError, match="AveragedGRU knows the items of its training and no others; add items to a generator"):
        recommender.add_items(sids)
    with pytest.raises(UserError, match="knows the items of its training"):
        recommender.served.model.grow(recommender.served.model.sources)


# -- what each of them is about ----------------------------------------------------------------------------------------------------


def test_semantic_ids_are_shared_and_without_an_order(train):
    run_dir = train(DIGITS)["run_dir"]
    sids = Recommender(run_dir, named(DIGITS)).served.sids
    assert sids.codebook_sizes == (8, 8, 8) and not sids.unique and not sids.ordered
    assert train(DIGITS, tokenizer="RKMeans")["name"] == "ParallelDigits[RKMeans]"


def test_the_average_of_the_weights_ranks(train):
    run_dir = train(AVERAGED)["run_dir"]
    *_, network, _, _, _, test_data = load_data_and_model(run_dir, named(AVERAGED))
    steps = 4 * 3
    batch = next(iter(test_data))[0]
    before = network.recommend(batch, 10)
    with torch.no_grad():
        network.reader.item_embedding.weight.zero_()
    assert torch.equal(network.recommend(batch, 10)[1], before[1])
    assert load_checkpoint(Path(run_dir) / "last.pth")["model"]["n_steps"] >= steps

    class Linear(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(()))

    network.reader, network.average = Linear(), Linear()
    network.n_steps.zero_()
    expected = 0.0
    for step, value in enumerate((3.0, -1.0, 4.0), start=1):
        with torch.no_grad():
            network.reader.weight.fill_(value)
        network.after_step(None)
        decay = min(0.99, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
    assert network.average.weight.item() == pytest.approx(expected, rel=1e-5)


def test_dropout_grows_by_the_epoch(train, monkeypatch):
    seen, begin_epoch = [], get_model(AVERAGED).begin_epoch

    def observed(self, epoch):
        begin_epoch(self, epoch)
        seen.append(self.reader.dropout.p)

    monkeypatch.setattr(get_model(AVERAGED), "begin_epoch", observed)
    train(AVERAGED, dropout=0.4, dropout_growth=1.0)
    assert seen == pytest.approx([0.4 * (1 - math.exp(-epoch)) for epoch in range(3)])


def test_a_code_of_all_modalities_and_then_of_one(train, tiny_settings):
    result = train(MODALITIES, content_encoder=TWO_TEXTS, epochs=0)
    assert result["name"] == "TwoModalities" and 0 < result["test_result"]["unique_ratio"] <= 1
    config = Config(MODALITIES, "tiny", config_dict={**tiny_settings, "content_encoder": TWO_TEXTS, "epochs": 0})
    content = load_content(create_dataset(config), config)
    trained = load_tokenizer(Path(result["run_dir"]), ItemVectors(content), config)
    x = torch.from_numpy(np.array(content.embeddings[1:], dtype=np.float32))
    out, residual = trained.model.quantize(x), x.double().numpy().copy()
    for level, part in enumerate((slice(0, x.shape[1]), content.parts["title"], content.parts["genre"])):
        words = trained.model.levels[level].codebook.weight.double().numpy()
        for row in range(len(x)):  # one item after the other, one codeword after the other
            apart = [((residual[row, part] - word) ** 2).sum() for word in words]
            chosen = int(out.codes[row, level])
            assert apart[chosen] == pytest.approx(min(apart), abs=1e-6)
            residual[row, part] -= words[chosen]
        distances = trained.model.level_distances(x, level)
        assert torch.equal(distances.argmin(1), out.codes[:, level])
    assert np.allclose(out.reconstruction, x.numpy() - residual, atol=1e-5)


@pytest.mark.parametrize("change, message", [
    ({"content_encoder": "tfidf-svd"}, "item content has one modality, text; give another"),
    ({"content_encoder": TWO_TEXTS, "codebook_sizes": [8, 8]}, "give a level for all 2 modalities together and one for each"),
    ({"content_encoder": TWO_TEXTS, "kmeans_iterations": 0}, "kmeans_iterations is 0; give a whole number from 1"),
])  # fmt: skip
def test_a_tokenizers_settings_are_checked(train, change, message):
    with pytest.raises(UserError, match=message):
        train(MODALITIES, epochs=0, **change)


def test_a_click_model_of_the_users_own(train):
    plain, replaced = train(CLICKS, sid_features="none"), train(CLICKS)
    assert (plain["name"], replaced["name"]) == ("FinalMLP", "FinalMLP-replace[RKMeans]")
    assert {"auc", "logloss", "uauc"} <= set(replaced["test_result"]) and plain["labelled"]["labels"] == replaced["labelled"]["labels"]
    tables = weights(replaced["run_dir"])["token_embedding_table.embedding.weight"]
    assert len(tables) != len(weights(plain["run_dir"])["token_embedding_table.embedding.weight"])
    with pytest.raises(UserError, match="dropout_prob is 2; give a number from 0 below 1"):
        train(CLICKS, dropout_prob=2)
    with pytest.raises(UserError, match="FinalMLP needs more than users and histories"):
        Recommender(replaced["run_dir"], named(CLICKS))


# -- compare -----------------------------------------------------------------------------------------------------------------------


def test_they_stand_on_a_leaderboard(tiny_settings, tiny_data, capsys):
    keys = ("load_col", "item_text_fields", "content_dim", "MAX_ITEM_LIST_LENGTH", "hidden_size")
    settings = {**{key: tiny_settings[key] for key in keys}, "epochs": 1, "eval_step": 1, "codebook_sizes": [8, 8, 8]}
    models = {
        DIGITS: {"settings": {"inner_size": 16}},
        "re-ranked": {"model": RERANK, "tokenizers": [MODALITIES], "settings": {"content_encoder": TWO_TEXTS}},
        AVERAGED: None,
    }
    grid = {"datasets": ["tiny"], "seeds": [2020], "settings": settings, "models": models}
    Path("grid.yaml").write_text(yaml.safe_dump(grid))
    words = ["benchmark", "--config=grid.yaml", f"--data_path={tiny_data}", "--device=cpu"]
    assert main(words) == 0
    names = {"ParallelDigits[OPQ]", "Rerank[TwoModalities]", "AveragedGRU"}
    runs = [path for path in Path("results/runs/tiny").glob("*.json") if not path.name.startswith("split-")]
    records = {record.name: record for record in map(Record.read, runs)}
    assert set(records) == names and all(record.error is None for record in records.values())
    assert records["Rerank[TwoModalities]"].family == "generative" and records["AveragedGRU"].family == "sequential"
    assert records["AveragedGRU"].config["code"] == code_of(get_model(AVERAGED))
    page = Path("results/leaderboard_tiny.md").read_text()
    assert all(name in page for name in names)
    capsys.readouterr()
    assert main(words) == 0 and "3 units, 3 finished before" in capsys.readouterr().out


def test_tokenizers_are_compared_without_a_generator(tiny_settings, tiny_data, monkeypatch):
    monkeypatch.setattr("recbole_r3vae.experiments.tokenizers.run.in_own_process", lambda function, *given: (function(*given), None))
    keys = ("load_col", "item_text_fields", "checkpoint_dir", "codebook_sizes")
    words = [f"--{key}={json.dumps(tiny_settings[key])}" for key in keys] + [f"--content_encoder={json.dumps(TWO_TEXTS)}"]
    words += ["--dataset=tiny", f"--data_path={tiny_data}", "--device=cpu", f"--{MODALITIES}.kmeans_iterations=3"]
    assert main(["benchmark", f"--tokenizers={MODALITIES}", *words]) == 0
    [row] = json.loads(next(Path("results/tokenizers/tiny").glob("*.json")).read_text())["tokenizers"]
    assert row["name"] == "TwoModalities" and row["config"]["kmeans_iterations"] == 3


def test_keys_are_dealt_to_models_with_dots_in_their_names():
    given = {"epochs": 3, f"{CLICKS}.epochs": 1, "DeepFM.epochs": 2}
    assert deal(given, {CLICKS: {"epochs"}, "DeepFM": {"epochs"}}) == {CLICKS: {"epochs": 1}, "DeepFM": {"epochs": 2}}


@pytest.mark.parametrize("name", ["paralleldigits.py", "ParallelDigits.yaml", "leaderboard.yaml"])
def test_the_guide_shows_the_files_as_they_are(name):
    guide = EXAMPLES.parent / "docs" / "guides" / "outside_model.md"
    assert f"`examples/{name}`:\n\n```" in guide.read_text() and (EXAMPLES / name).read_text() in guide.read_text()


def test_every_example_is_a_file_and_a_yaml_and_opens_with_its_paper():
    for file in (path for path in EXAMPLES.glob("*.py") if path.stem != "__init__"):
        module = importlib.import_module(f"examples.{file.stem}")
        assert "arXiv" in module.__doc__ and len(file.read_text().splitlines()) < 150
        [model] = [name for name, value in vars(module).items() if f"{module.__name__}:{name}" in (*OF, MODALITIES)]
        assert (EXAMPLES / f"{model}.yaml").is_file() and model in (EXAMPLES.parent / "docs/guides/outside_model.md").read_text()


# -- identity ----------------------------------------------------------------------------------------------------------------------


def change(file: Path) -> None:
    file.write_text(file.read_text() + "\n# another line\n")
    _forget()


@pytest.mark.parametrize("file", ["rerank.py", "twomodalities.py"])
def test_other_code_is_another_run(train, outside, file, caplog):
    first = train(RERANK, epochs=1)
    assert train(RERANK, epochs=1)["run_dir"] == first["run_dir"]
    change(outside / file)
    second = train(RERANK, epochs=1)
    assert second["run_dir"] != first["run_dir"]
    assert (Path(second["sid_file"]).parent == Path(first["sid_file"]).parent) == (file == "rerank.py")
    change(outside / "averagedgru.py")  # a file that is none of it
    assert train(RERANK, epochs=1)["run_dir"] == second["run_dir"]


def test_a_checkpoint_of_other_code_is_opened_with_a_warning(train, outside, caplog):
    run_dir = train(AVERAGED, epochs=1)["run_dir"]
    load_data_and_model(run_dir, named(AVERAGED))
    assert "is not the code that trained" not in caplog.text
    change(outside / "averagedgru.py")
    load_data_and_model(run_dir, named(AVERAGED))
    assert f"{AVERAGED} is not the code that trained" in caplog.text


def test_the_code_of_a_base_class_counts(outside):
    (outside / "base.py").write_text("from examples.averagedgru import AveragedGRU\n\n\nclass Base(AveragedGRU):\n    pass\n")
    (outside / "derived.py").write_text("from examples.base import Base\n\n\nclass Derived(Base):\n    pass\n")
    codes = []
    for file in (None, "base.py", "averagedgru.py", "derived.py", "rerank.py"):
        if file is not None:
            change(outside / file)
        codes.append(code_of(get_model("examples.derived:Derived")))
    assert len(set(codes[:4])) == 4 and codes[4] == codes[3]
    assert code_of(get_model("R3GR")) is None and code_of(get_model("SASRec")) is None


# -- what cannot be found ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model, message", [
    ("examples.rerank:Rerunk", "module examples.rerank has no class 'Rerunk'; did you mean 'Rerank'?"),
    ("examples.reranker:Rerank", "there is no module 'examples.reranker' for model"),
    ("nowhere.at_all:Rerank", "there is no module 'nowhere.at_all' for model"),
    ("examples.rerank:Decoding", "examples.rerank:Decoding is no model; derive the class from"),
    ("json:JSONDecoder", "json:JSONDecoder is no model; derive the class from"),
    (":Rerank", "names no module"),
])  # fmt: skip
def test_a_class_that_is_not_there(train, model, message, capsys):
    assert main(["run", f"--model={model}", "--dataset=tiny"]) == 2
    captured = capsys.readouterr().err
    assert message in captured and len(captured.splitlines()) == 1
    assert not Path("log").exists() and not Path("saved").exists()


def test_a_tokenizer_that_is_none(train):
    with pytest.raises(UserError, match="there is no tokenizer 'examples.rerank:Rerank'"):
        train(DIGITS, tokenizer=RERANK)


def test_a_model_without_its_yaml(train, outside):
    (outside / "ParallelDigits.yaml").unlink()
    with pytest.raises(UserError, match=r"model examples\.paralleldigits:ParallelDigits has no .*ParallelDigits\.yaml; write its keys"):
        train(DIGITS)


def test_a_model_whose_yaml_names_no_tokenizer(train, outside):
    file = outside / "ParallelDigits.yaml"
    file.write_text("\n".join(line for line in file.read_text().splitlines() if not line.startswith(("tokenizer:", "sid_file:"))))
    with pytest.raises(UserError, match="ParallelDigits needs semantic IDs, and nothing says whose; write `tokenizer: R3VAE`"):
        run_recbole_r3vae(DIGITS, "tiny")


def test_a_key_that_a_model_does_not_have(train, capsys):
    assert main(["run", f"--model={DIGITS}", "--dataset=tiny", "--num_beams=20"]) == 2
    assert "unknown key --num_beams for model ParallelDigits" in capsys.readouterr().err
    run_dir = train(DIGITS, epochs=1)["run_dir"]
    assert main(["recommend", "--checkpoint", run_dir, "--users=1", f"--model={DIGITS}", "--num_beams=20"]) == 2
    assert "ParallelDigits scores every item and has no beams" in capsys.readouterr().err
