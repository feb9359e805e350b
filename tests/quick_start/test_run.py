"""The main job end to end on the small real slice, and what a RecBole user expects around it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

from recbole_r3vae.config import Config
from recbole_r3vae.data.content import load_encoder
from recbole_r3vae.errors import UserError
from recbole_r3vae.quick_start import load_data_and_model, run_recbole_r3vae
from recbole_r3vae.quick_start.lookup import get_trainer
from recbole_r3vae.quick_start.semantic_ids import load_tokenizer
from recbole_r3vae.record import Record
from recbole_r3vae.sid.table import SemanticIDs
from recbole_r3vae.trainer.tokenizer import TokenizerTrainer


def run(settings, model="R3GR", **more):
    return run_recbole_r3vae(model, "tiny", config_dict={**settings, **more})


def test_end_to_end(tiny_settings):
    result = run(tiny_settings, epochs=10, learning_rate=0.01)
    assert result["name"] == "R3GR[R3VAE]"
    assert set(result["test_result"]) == {f"{m}@{k}" for m in ("recall", "ndcg") for k in (5, 10, 20)}
    assert result["best_valid_score"] == result["best_valid_result"]["ndcg@10"]
    epochs, seconds, scores = zip(*result["valid_history"])
    assert list(epochs) == list(range(1, 11)) and list(seconds) == sorted(seconds) and max(scores) == result["best_valid_score"]
    folder = Path(result["run_dir"])
    sids = SemanticIDs.load(result["sid_file"])
    assert sids.unique and sids.n_items == 149 and sids.codebook_sizes[:3] == (8, 8, 8)
    stored = Record.read(folder / "result.json")
    assert set(stored.test) == {"left_out", "stay"} and stored.test == result["test"]
    assert result["test_result"] == result["test"]["left_out"] and stored.valid == result["best_valid_result"]
    assert (stored.seed, stored.valid_rule, stored.loss, stored.continues) == (2020, "left_out", "NLL of semantic ID", None)
    assert {"recbole", "torch"} <= set(stored.versions) and len(stored.ranks("left_out")) == len(stored.ranks("stay")) == 60
    bundled = {path.name for path in (folder / "tokenizer").iterdir()}
    assert {"model.safetensors", "tokenizer.json", "raw.sid", "encoder"} <= bundled
    assert not any(path.suffix in (".pkl", ".pickle") for path in folder.rglob("*"))
    losses = torch.load(folder / "last.pth", weights_only=True)["train_loss"]
    assert losses[9] < 0.8 * losses[0]


def test_semantic_ids_are_trained_once_and_only_for_what_they_depend_on(tiny_settings, monkeypatch):
    first = run(tiny_settings)
    monkeypatch.setattr(TokenizerTrainer, "fit", lambda *a, **k: pytest.fail("the tokenizer was trained again"))
    assert run(tiny_settings)["sid_file"] == first["sid_file"]
    # The generator's own settings and other collision policies leave the tokenizer alone.
    run(tiny_settings, learning_rate=0.01, epochs=1)
    shared = run(tiny_settings, collision_policy="share", epochs=1)
    assert Path(shared["sid_file"]).parent == Path(first["sid_file"]).parent
    for change in ({"tokenizer_learning_rate": 0.01}, {"codebook_sizes": [9, 8, 8]}, {"seed": 3}, {"item_text_fields": ["class"]}):
        with pytest.raises(pytest.fail.Exception, match="trained again"):
            run(tiny_settings, **change)


@pytest.mark.parametrize("policy", ["suffix", "reassign", "share"])
def test_collision_policies(tiny_settings, policy):
    result = run(tiny_settings, collision_policy=policy, epochs=1, item_text_fields=["class"], codebook_sizes=[8, 8, 16])
    sids = SemanticIDs.load(result["sid_file"])
    assert sids.unique == (policy != "share")
    assert sids.n_levels == (4 if policy == "suffix" else 3)
    assert 0 <= result["test_result"]["recall@20"] <= 1


def test_a_given_sid_file_is_used_as_it_is(tiny_settings, tmp_path, monkeypatch):
    first = run(tiny_settings, epochs=1)
    monkeypatch.setattr(TokenizerTrainer, "fit", lambda *a, **k: pytest.fail("a tokenizer was trained"))
    copy = tmp_path / "mine.sid"
    SemanticIDs.load(first["sid_file"]).save(copy)
    again = run(tiny_settings, sid_file=str(copy), epochs=1)
    assert again["name"] == "R3GR[mine]" and again["test_result"] == first["test_result"]


def test_text_and_id_inputs_are_named_and_travel_with_the_checkpoint(tiny_settings, monkeypatch):
    plain = run(tiny_settings, epochs=1, item_inputs=["codes"])
    text = run(tiny_settings, epochs=1, item_inputs=["codes", "text"])
    hybrid = run(tiny_settings, epochs=1, item_inputs=["codes", "text", "id"], id_dropout=0.2)
    assert (text["name"], hybrid["name"]) == ("R3GR[R3VAE]", "R3GR-hybrid[R3VAE]")
    assert len({plain["run_dir"], text["run_dir"], hybrid["run_dir"]}) == 3
    assert plain["sid_file"] == text["sid_file"] == hybrid["sid_file"]
    other_text = run(tiny_settings, epochs=1, item_inputs=["codes", "text"], sid_file=plain["sid_file"], item_text_fields=["class"])
    assert other_text["run_dir"] != run(tiny_settings, epochs=1, item_inputs=["codes", "text"], sid_file=plain["sid_file"])["run_dir"]
    assert other_text["content"]["kind"] == "tfidf-svd"  # the record says what the model reads, though no tokenizer was trained on it

    monkeypatch.setattr("recbole_r3vae.quick_start.provide.item_content", lambda *a: pytest.fail("the text was read again"))
    _, model, _, _, _, test_data = load_data_and_model(hybrid["run_dir"] + "/best.pth")
    assert model.items.content.shape == (149, 32) and model.items.content[1].norm() == pytest.approx(1, abs=1e-5)
    items, _ = model.recommend(next(iter(test_data))[0], 10)
    assert items.shape[1] == 10


def test_settings_of_the_generator_are_refused_before_a_tokenizer_is_trained(tiny_settings, monkeypatch):
    monkeypatch.setattr(TokenizerTrainer, "fit", lambda *a, **k: pytest.fail("a tokenizer was trained"))
    for change in ({"encoder": "lstm"}, {"item_inputs": ["title"]}):
        with pytest.raises(UserError, match=next(iter(change))):
            run(tiny_settings, **change)
    with pytest.raises(UserError, match="loss_temperature"):
        run(tiny_settings, model="TIGER", loss_temperature=0)


def test_a_tokenizer_as_the_model_is_scored_alone(tiny_settings):
    result = run({**tiny_settings, "epochs": 4}, model="R3VAE")
    assert result["name"] == "R3VAE"
    assert set(result["test_result"]) == {"reconstruction", "unique_ratio", "usage", "sc", "pd"}
    assert 0 < result["test_result"]["unique_ratio"] <= 1
    assert result["stopped_at_budget"] is False and run({**tiny_settings, "max_minutes": 0}, model="R3VAE")["stopped_at_budget"] is True


def test_tokenizer_keys_reach_the_tokenizer_alone(tiny_settings):
    result = run(tiny_settings, epochs=2, tokenizer_epochs=1, tokenizer_learning_rate=0.123)
    stored = json.loads((Path(result["run_dir"]) / "tokenizer" / "tokenizer.json").read_text())["config"]
    assert stored["epochs"] == 1 and stored["learning_rate"] == 0.123
    config = Record.read(Path(result["run_dir"]) / "result.json").config
    assert config["learning_rate"] == 0.002 and config["tokenizer_learning_rate"] == 0.123 and config["tokenizer_epochs"] == 1


def test_same_seed_same_everything(tiny_settings, tmp_path):
    a, b = (run(tiny_settings, checkpoint_dir=str(tmp_path / name), content_cache_dir=str(tmp_path / f"{name}-cache")) for name in "ab")
    assert a["test_result"] == b["test_result"]
    assert Path(a["sid_file"]).read_bytes() == Path(b["sid_file"]).read_bytes()
    weights = [torch.load(Path(r["run_dir"]) / "best.pth", weights_only=True)["model"] for r in (a, b)]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    for pattern in ("a/**/*.sid", "a/**/*.safetensors", "a-cache/*.npy", "a-cache/*.safetensors"):
        files = list(tmp_path.glob(pattern))
        assert files
        for file in files:
            first, *rest = file.relative_to(tmp_path).parts
            assert file.read_bytes() == tmp_path.joinpath("b" + first[1:], *rest).read_bytes()


def test_the_bundle_tokenizes_new_items(tiny_settings, tmp_path):
    """From the files beside the checkpoint alone: text to vector to codes, as the catalogue's own items were."""
    result = run(tiny_settings, epochs=1)
    folder = Path(result["run_dir"]) / "tokenizer"
    tokenizer, encoder = load_tokenizer(folder), load_encoder(folder / "encoder")
    items = pd.read_csv(Path(tiny_settings["data_path"]) / "tiny" / "tiny.item", sep="\t", dtype=str, keep_default_na=False)
    records = [
        {"movie_title": row["movie_title:token_seq"], "class": row["class:token_seq"]} for row in items.to_dict("records")
    ]
    codes = tokenizer.model.tokenize(torch.from_numpy(encoder.encode(records)))
    expected = tokenizer.raw.align(["[PAD]", *items["item_id:token"]]).codes[1:]
    assert torch.equal(codes, expected)


@pytest.mark.parametrize("model, more", [("SASRec", {"loss_type": "CE"}), ("BPR", {}), ("Pop", {}), ("GRU4Rec", {}), ("LightGCN", {}), ("ItemKNN", {})])
def test_recboles_models_run_on_the_same_data(tiny_settings, model, more):
    result = run({**tiny_settings, "epochs": 1}, model, **more)
    assert result["name"] == model and set(result["test_result"]) == {f"{m}@{k}" for m in ("recall", "ndcg") for k in (5, 10, 20)}


def test_a_model_of_recbole_without_half_precision_says_so(tiny_settings):
    with pytest.raises(UserError, match=r"LightGCN cannot be trained with enable_amp on cpu: .*BFloat16; take --enable_amp=False"):
        run(tiny_settings, model="LightGCN", enable_amp=True)
    assert run(tiny_settings, model="BPR", enable_amp=True)["epochs"] >= 1


def test_recboles_context_models_keep_their_labels():
    """RecBole's own settings for ml-100k load ratings for click models; ours for texts must not take them away."""
    config = Config("FM", "ml-100k")
    assert "rating" in config["load_col"]["inter"]


def test_case_study_works_on_a_loaded_model(tiny_settings):
    from recbole.utils.case_study import full_sort_topk

    result = run(tiny_settings, epochs=1)
    _, model, dataset, _, _, test_data = load_data_and_model(Path(result["run_dir"]) / "best.pth")
    users = dataset.token2id("user_id", dataset.field2id_token["user_id"][1:4])
    scores, items = full_sort_topk(users, model, test_data, k=10, device="cpu")
    assert items.shape == (3, 10) and torch.isfinite(scores).all() and (items > 0).all()


def test_hypertuning_works(tiny_settings, tmp_path):
    pytest.importorskip("hyperopt", reason="RecBole's HyperTuning needs the [tune] extra")
    from recbole.trainer import HyperTuning

    def objective(config_dict=None, config_file_list=None):
        result = run(tiny_settings, **(config_dict or {}), show_progress=False)
        return {"model": result["name"], **{key: result[key] for key in ("best_valid_score", "valid_score_bigger", "best_valid_result", "test_result")}}

    space = tmp_path / "r3gr.hyper"
    space.write_text("learning_rate choice [0.001,0.01]\ntokenizer_learning_rate choice [0.0005]\n")
    tuning = HyperTuning(objective, algo="random", params_file=str(space), max_evals=2)
    tuning.run()
    assert tuning.best_params["learning_rate"] in (0.001, 0.01)


def torchrun(arguments, folder, n=2):
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={n}", "--standalone", "-m", "recbole_r3vae.cli", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-6000:]


def test_two_processes_train_one_model_and_measure_it_exactly(tiny_settings, tmp_path):
    """torchrun with gloo: the metrics of two processes are those of one process on the same checkpoint."""
    settings = {**tiny_settings, "epochs": 2, "eval_batch_size": 7}
    arguments = [f"--{key}={json.dumps(value)}" for key, value in settings.items()]
    torchrun(["run", "--model=R3GR", "--dataset=tiny", *arguments], tmp_path)
    [file] = (tmp_path / "saved" / "tiny").glob("R3GR-*/result.json")
    stored = Record.read(file)
    config, model, _, _, _, test_data = load_data_and_model(file.parent / "best.pth")
    alone = get_trainer(config)(config, model)
    alone.evaluate(test_data, load_best_model=False)
    assert set(alone.results) == {"left_out", "stay"} and alone.results == stored.test
    for rule, ranks in alone.ranks.items():
        assert sorted(ranks) == sorted(stored.ranks(rule))


def test_pop_counts_training_interactions_and_nothing_else(tiny_settings):
    """RecBole would add a sampled negative to each of them, and count an item once a batch, however often it is in it."""
    settings = {**tiny_settings, "eval_batch_size": 100_000}
    counts = []
    for seed in (1, 2):
        result = run_recbole_r3vae("Pop", "tiny", config_dict={**settings, "seed": seed})
        _, model, _, train_data, *_ = load_data_and_model(Path(result["run_dir"]) / "best.pth")
        counts.append(model.item_cnt.flatten())
    items = train_data.dataset.inter_feat["item_id"]
    assert torch.equal(counts[0], torch.bincount(items, minlength=train_data.dataset.item_num)) and torch.equal(*counts)
