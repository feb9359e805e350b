"""A tokenizer's folder: trained once however many ask, whole or refused, and nothing of a killed training stays."""

from __future__ import annotations

import json
import multiprocessing

import pytest
import torch

from recbole_r3vae.config import Config
from recbole_r3vae.data.content import load_content
from recbole_r3vae.data.items import ItemVectors
from recbole_r3vae.errors import UserError
from recbole_r3vae.quick_start import semantic_ids
from recbole_r3vae.quick_start.lookup import create_dataset
from recbole_r3vae.quick_start.semantic_ids import DESCRIPTION, WEIGHTS, load_tokenizer, train_tokenizer


@pytest.fixture
def config(tiny_settings):
    return Config("LSH", "tiny", config_dict={**tiny_settings, "epochs": 0})


@pytest.fixture
def content(config):
    return load_content(create_dataset(config), config)


def _train_counting(config, content, counter, out):
    train = semantic_ids._train

    def counting(*given):
        with counter.get_lock():
            counter.value += 1
        train(*given)

    semantic_ids._train = counting
    trained = train_tokenizer(config, content, show_progress=False)
    out.put((trained.reused, trained.raw.content_hash))


def test_processes_that_want_one_tokenizer_train_it_once_and_all_get_it(config, content):
    context = multiprocessing.get_context("fork")
    counter, out = context.Value("i", 0), context.Queue()
    workers = [context.Process(target=_train_counting, args=(config, content, counter, out)) for _ in range(3)]
    for worker in workers:
        worker.start()
    answers = sorted(out.get(timeout=300) for _ in workers)
    for worker in workers:
        worker.join()
    assert counter.value == 1
    assert [reused for reused, _ in answers] == [False, True, True] and len({content_hash for _, content_hash in answers}) == 1


def test_what_bounds_a_training_names_the_tokenizer(tiny_settings):
    """A tokenizer that its minutes cut short is never taken for one that had more, nor the other way round."""

    def trained(**more):
        config = Config("R3VAE", "tiny", config_dict={**tiny_settings, "codebook_sizes": [8, 8], "epochs": 3, **more})
        return train_tokenizer(config, load_content(create_dataset(config), config), show_progress=False)

    given = [{"max_minutes": 0}, {}, {"max_minutes": 5}, {"clip_grad_norm": {"max_norm": 0.1}}]
    found = [trained(**more) for more in given]
    assert len({tokenizer.folder for tokenizer in found}) == 4 and not any(tokenizer.reused for tokenizer in found)
    assert [tokenizer.description["stopped_at_budget"] for tokenizer in found] == [True, False, False, False]
    assert all(trained(**more).reused for more in given)


def test_changed_weights_and_other_schemas_are_refused(config, content):
    folder = train_tokenizer(config, content, show_progress=False).folder
    weights = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    with pytest.raises(UserError, match="model.safetensors is not as it was written.*delete the folder and train again"):
        load_tokenizer(folder)
    (folder / WEIGHTS).write_bytes(weights)
    description = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    (folder / DESCRIPTION).write_text(json.dumps({**description, "schema": 99}), encoding="utf-8")
    with pytest.raises(UserError, match="tokenizer.json has schema 99, this version reads 1"):
        load_tokenizer(folder)


def test_checkpoints_of_a_training_that_was_killed_at_its_very_end_go(config, content):
    folder = train_tokenizer(config, content, show_progress=False).folder
    (folder / "last.pth").touch()
    assert train_tokenizer(config, content, show_progress=False).reused and not (folder / "last.pth").exists()


def test_a_tokenizer_that_learns_from_a_sample_encodes_all(tiny_settings):
    def trained(**more):
        config = Config("RKMeans", "tiny", config_dict={**tiny_settings, "codebook_sizes": [8, 8], "epochs": 0, **more})
        content = load_content(create_dataset(config), config)
        return content, train_tokenizer(config, content, show_progress=False)

    (content, whole), (_, sampled) = trained(), trained(train_items=40)
    items = ItemVectors(content)
    assert sampled.folder != whole.folder and sampled.raw.n_items == whole.raw.n_items == items.n_items
    model = sampled.config.model_class(sampled.config, items)
    model.initialise(items.drawn(40, sampled.config["seed"]))
    weights, others = sampled.model.state_dict(), whole.model.state_dict()
    for key, value in model.state_dict().items():
        assert torch.equal(value, weights[key]) and not torch.equal(value, others[key])
    assert trained(train_items=40)[1].reused
    with pytest.raises(UserError, match=r"train_items is 7, and codebook_sizes \[8, 8\] takes .*; give 8 or more"):
        trained(train_items=7)


def test_a_key_that_came_later_leaves_folders_where_they_were(config, content, monkeypatch):
    defaults = semantic_ids.tokenizer_defaults
    now = semantic_ids.tokenizer_folder(config, content)
    monkeypatch.setattr(semantic_ids, "tokenizer_defaults", lambda name: {k: v for k, v in defaults(name).items() if k != "train_items"})
    assert "train_items" in defaults("LSH") and semantic_ids.tokenizer_folder(config, content) == now
