"""Every tokenizer takes the normal path: one call, codes, checkpoint, quality report; a generator on top."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch
from recbole.trainer import Trainer

from recbole_r3vae.config import Config
from recbole_r3vae.data.content import load_content
from recbole_r3vae.data.items import ItemVectors
from recbole_r3vae.errors import UserError
from recbole_r3vae.quick_start import load_data_and_model, run_recbole_r3vae, semantic_ids
from recbole_r3vae.quick_start.collaborative import item_content
from recbole_r3vae.quick_start.lookup import create_dataset
from recbole_r3vae.quick_start.semantic_ids import load_tokenizer, train_tokenizer
from recbole_r3vae.sid.prefix_tree import prefix_tree_of
from recbole_r3vae.sid.table import SemanticIDs

TRAINED = {
    "R3VAE": {},
    "RQVAE": {"hidden_sizes": [32]},
    "VQVAE": {"hidden_sizes": [32]},
    "CoST": {"hidden_sizes": [32]},
    "LETTER": {"hidden_sizes": [32], "latent_dim": 8, "collaborative_epochs": 2},
}
FITTED = ["RKMeans", "BalancedRKMeans", "HierarchicalKMeans", "OPQ", "LSH", "Random"]
SETTINGS = {name: {"epochs": 2, **more} for name, more in TRAINED.items()}
SETTINGS |= {name: {"epochs": 0} for name in [*FITTED, "GAOQ"]}  # GAOQ has no collisions to resolve


@pytest.fixture
def dataset(tiny_settings):
    return create_dataset(Config("RKMeans", "tiny", config_dict={**tiny_settings, "epochs": 0}))


@pytest.fixture
def content(dataset):
    return load_content(dataset, dataset.config)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_tokenizer_gives_codes_checkpoint_and_report(tiny_settings, dataset, content, name):
    config = Config(name, "tiny", config_dict={**tiny_settings, **SETTINGS[name]})
    trained = train_tokenizer(config, content, False, dataset)
    assert trained.raw.n_items == 149 and not trained.reused
    quality = trained.description["quality"]
    assert len(quality["levels"]) == 3 and 0 < quality["unique_ratio"] <= 1
    assert [level["codebook_size"] for level in quality["levels"]] == list(trained.raw.codebook_sizes)
    assert sorted(path.name for path in trained.folder.iterdir() if path.is_file()) == [
        "model.safetensors", "raw.sid", "raw.sid.json", "tokenizer.json",
    ]  # fmt: skip
    again = load_tokenizer(trained.folder)  # from the folder alone
    [(_, x)] = ItemVectors(content).batches(1000)
    own = again.model.catalogue_codes()  # of GAOQ, which gives equal vectors different codes
    assert torch.equal(again.model.tokenize(x) if own is None else own, again.raw.codes[1:])
    assert again.raw.codebook_sizes == again.model.codebook_sizes == trained.raw.codebook_sizes
    assert train_tokenizer(config, content, False, dataset).reused


PRISM = {
    "content_encoder": {"text": "tfidf-svd", "collaborative": {"encoder": "LightGCN", "embedding_size": 8, "epochs": 2}},
    "hidden_sizes": [32], "latent_dim": 8, "warm_epochs": 1, "anchoring_epochs": 2, "category_field": "class", "first_category": 1,
}  # fmt: skip


def test_prism_gives_codes_and_every_item_its_own_after_reassignment(tiny_settings, caplog):
    """With categories and, where there are none, without and with a warning; other categories are another tokenizer."""
    folders = []
    for field in ("class", "nothing"):
        given = {**tiny_settings, **PRISM, "epochs": 5, "category_field": field, "codebook_sizes": [8, 8, 16]}
        config = Config("PRISM", "tiny", config_dict=given)
        dataset = create_dataset(config)
        content = item_content(dataset, config)
        caplog.clear()
        trained = train_tokenizer(config, content, False, dataset)
        assert [r.message for r in caplog.records if "category_field" in r.message and r.levelname == "WARNING"] == (
            [] if field == "class" else ["category_field: no levels of categories in 'nothing'; items of dataset 'tiny' have movie_title, class. "
                                         "Codes are learned without them"]
        )  # fmt: skip
        assert len(trained.model.anchors) == (3 if field == "class" else 0)
        again = load_tokenizer(trained.folder)  # from the folder alone
        [(_, x)] = ItemVectors(content).batches(1000)
        assert torch.equal(again.model.tokenize(x), again.raw.codes[1:]) and train_tokenizer(config, content, False, dataset).reused
        sids, _ = trained.resolved(ItemVectors(content), "reassign")
        assert not trained.raw.unique and sids.unique and sids.meta["collisions"]["moved_items"] > 0
        folders.append(trained.folder)
    assert folders[0] != folders[1]


def test_a_killed_prism_goes_on_to_the_same_bits(tiny_settings, monkeypatch):
    """The curriculum too: it stands where the epoch stands."""

    def make(folder):
        return Config("PRISM", "tiny", config_dict={**tiny_settings, **PRISM, "epochs": 6, "train_batch_size": 32, "checkpoint_dir": folder})

    dataset = create_dataset(make("whole"))
    content, train_epoch = item_content(dataset, make("whole")), Trainer._train_epoch

    def train_and_die(self, data, epoch_idx, *args, **kwargs):
        loss = train_epoch(self, data, epoch_idx, *args, **kwargs)
        if epoch_idx == 3:
            raise KeyboardInterrupt
        return loss

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_train_epoch", train_and_die)
        with pytest.raises(KeyboardInterrupt):
            train_tokenizer(make("killed"), content, False, dataset)
    killed, whole = (train_tokenizer(make(folder), content, False, dataset).model for folder in ("killed", "whole"))
    assert all(torch.equal(killed.state_dict()[key], value) for key, value in whole.state_dict().items())


def test_generators_on_learned_content(tiny_settings):
    """GAOQ on FAMAE's vectors and PRISM, each with a generator that reads codes alone; the runs differ by content and are unlike each other's."""
    famae = {"encoder": "FAMAE", "hidden_size": 8, "inner_size": 16, "epochs": 1, "item_fields": ["class"]}
    shared = {**tiny_settings, "epochs": 1, "item_inputs": ["codes"]}
    stages = {
        "GAOQ": {"tokenizer_epochs": 0, "content_encoder": {"text": famae}},
        "PRISM": {"tokenizer_epochs": 2, "collision_policy": "reassign", **{f"tokenizer_{key}": value for key, value in PRISM.items()}},
    }
    for name, more in stages.items():
        result = run_recbole_r3vae("R3GR", "tiny", config_dict={**shared, "tokenizer": name, **more})
        assert result["name"] == f"R3GR[{name}]" and 0 <= result["test_result"]["recall@20"] <= 1
        assert SemanticIDs.load(result["sid_file"]).unique
        stored = json.loads((Path(result["run_dir"]) / "tokenizer" / "tokenizer.json").read_text())
        assert stored["name"] == name and "interactions" in json.dumps(stored["content"])
        _, network, *_ = load_data_and_model(Path(result["run_dir"]) / "best.pth")  # learns nothing anew
        assert network.sources.semantic_ids.unique


@pytest.mark.parametrize("name", FITTED)
@pytest.mark.parametrize("policy", ["suffix", "sinkhorn", "share"])
def test_collision_policies_work_with_every_tokenizer(tiny_settings, content, name, policy):
    config = Config(name, "tiny", config_dict={**tiny_settings, "epochs": 0})
    trained = train_tokenizer(config, content, show_progress=False)
    sids, path = trained.resolved(ItemVectors(content), policy)
    report = sids.meta["collisions"]
    assert sids.unique == (report["remaining_items"] == 0) and path.is_file()
    if policy == "sinkhorn":
        assert 0 < report["moved_items"] and report["remaining_items"] < report["colliding_items"]
        assert torch.equal(sids.codes[:, :-1], trained.raw.codes[:, :-1])


def test_a_parallel_layout_says_everywhere_that_its_codes_have_no_order(tiny_settings, content):
    config = Config("R3VAE", "tiny", config_dict={**tiny_settings, "epochs": 2, "layout": "parallel"})
    trained = train_tokenizer(config, content, show_progress=False)
    again = load_tokenizer(trained.folder)
    assert not any(one.raw.ordered or one.model.ordered for one in (trained, again))
    assert trained.description["quality"]["by"] == "digit"
    [(_, x)] = ItemVectors(content).batches(1000)
    assert torch.equal(again.model.tokenize(x), again.raw.codes[1:])
    with pytest.raises(ValueError, match="no prefix tree"):
        prefix_tree_of(again.raw)
    sids, _ = trained.resolved(ItemVectors(content), "sinkhorn")
    assert 0 < sids.meta["collisions"]["moved_items"] and torch.equal(sids.codes[:, :-1], trained.raw.codes[:, :-1])


@pytest.mark.parametrize("name", ["RKMeans", "HierarchicalKMeans", "GAOQ", "OPQ", "Random"])
def test_a_killed_fit_is_taken_up_where_it_stopped(tiny_settings, content, monkeypatch, name):
    """Killed while the catalogue was scored; the checkpoint of a fit without epochs holds all of it."""
    config = Config(name, "tiny", config_dict={**tiny_settings, "epochs": 0})

    def die(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(semantic_ids, "score_tokenizer", die)
        with pytest.raises(KeyboardInterrupt):
            train_tokenizer(config, content, show_progress=False)
    config = Config(name, "tiny", config_dict={**tiny_settings, "epochs": 0})
    with monkeypatch.context() as patched:
        patched.setattr(config.model_class, "initialise", lambda *args: pytest.fail("fitted again"))
        resumed = train_tokenizer(config, content, show_progress=False)
    config = Config(name, "tiny", config_dict={**tiny_settings, "epochs": 0, "checkpoint_dir": "whole"})
    whole = train_tokenizer(config, content, show_progress=False)
    assert torch.equal(resumed.raw.codes, whole.raw.codes)


@pytest.mark.parametrize(
    "name, often",
    [("RQVAE", {"restart_below": 0.5, "ema_decay": 0.5}), ("LETTER", {"cluster_every": 7}), ("R3VAE", {"layout": "parallel"})],
    ids=["RQVAE", "LETTER", "R3VAE parallel"],
)
def test_what_a_tokenizer_keeps_between_batches_survives_a_kill(tiny_settings, dataset, content, monkeypatch, name, often):
    """Counts, sums and clusters, and the random state that restarts and positives draw from, go on where they were, to the same bits."""

    def make(folder):
        more = {**SETTINGS[name], "epochs": 6, "train_batch_size": 16, "checkpoint_dir": folder, **often}
        return Config(name, "tiny", config_dict={**tiny_settings, **more})

    train_epoch = Trainer._train_epoch

    def train_and_die(self, data, epoch_idx, *args, **kwargs):
        loss = train_epoch(self, data, epoch_idx, *args, **kwargs)
        if epoch_idx == 3:
            torch.rand(3)
            raise KeyboardInterrupt
        return loss

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_train_epoch", train_and_die)
        with pytest.raises(KeyboardInterrupt):
            train_tokenizer(make("killed"), content, False, dataset)
    killed, whole = (train_tokenizer(make(folder), content, False, dataset).model for folder in ("killed", "whole"))
    assert all(torch.equal(killed.state_dict()[key], value) for key, value in whole.state_dict().items())


@pytest.mark.parametrize("name", ["RKMeans", "HierarchicalKMeans", "GAOQ"])
def test_a_generator_on_fitted_semantic_ids(tiny_settings, name):
    settings = {**tiny_settings, "tokenizer": name, "tokenizer_epochs": 0, "epochs": 1}
    result = run_recbole_r3vae("R3GR", "tiny", config_dict=settings)
    assert result["name"] == f"R3GR[{name}]" and 0 <= result["test_result"]["recall@20"] <= 1
    assert SemanticIDs.load(result["sid_file"]).unique
    stored = json.loads((Path(result["run_dir"]) / "tokenizer" / "tokenizer.json").read_text())
    assert stored["name"] == name and stored["config"]["epochs"] == 0


def test_a_fitted_tokenizer_as_the_model(tiny_settings):
    settings = {key: value for key, value in tiny_settings.items() if key != "epochs"}
    result = run_recbole_r3vae("RKMeans", "tiny", config_dict=settings)
    assert result["name"] == "RKMeans" and result["test_result"]["usage"] == 1.0


def test_epochs_for_a_tokenizer_without_any_are_refused(tiny_settings):
    with pytest.raises(UserError, match="tokenizer RKMeans: epochs is 4; give 0: .* nothing to train in epochs"):
        run_recbole_r3vae("R3GR", "tiny", config_dict={**tiny_settings, "tokenizer": "RKMeans"})


def test_fitting_counts_as_training_time(tiny_settings, content, monkeypatch):
    config = Config("Random", "tiny", config_dict={**tiny_settings, "epochs": 0})
    initialise = config.model_class.initialise
    monkeypatch.setattr(config.model_class, "initialise", lambda *args: time.sleep(0.3) or initialise(*args))
    trained = train_tokenizer(config, content, show_progress=False)
    assert trained.description["seconds"] >= 0.3
