"""Item vectors and the loader that RecBole's Trainer runs through."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from recbole.config import Config
from recbole.evaluator import Collector
from recbole.model.abstract_recommender import AbstractRecommender
from recbole.trainer import Trainer
from recbole.utils import InputType, ModelType

from recbole_r3vae.data.content import ItemContent
from recbole_r3vae.data.items import ItemDataLoader, ItemVectors
from recbole_r3vae.errors import UserError


def make_items(n: int = 20, d: int = 4, dtype="float32", path=None) -> ItemVectors:
    embeddings = np.random.default_rng(3).normal(size=(n + 1, d)).astype(dtype)
    embeddings[0] = 0
    if path is not None:
        np.save(path, embeddings)
        embeddings = np.load(path, mmap_mode="r")
    item_ids = ["[PAD]", *map(str, range(n))]
    return ItemVectors(ItemContent(embeddings, item_ids, {"kind": "file", "file": "v"}, "hash"))


def settings(batch_size: int = 6, seed: int = 7) -> dict:
    return {"train_batch_size": batch_size, "seed": seed, "ITEM_ID_FIELD": "item_id"}


def epoch(loader: ItemDataLoader) -> list[list[int]]:
    return [batch["item_id"].tolist() for batch in loader]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("mapped", [False, True])
def test_item_vectors(tmp_path, dtype, mapped):
    items = make_items(dtype=dtype, path=tmp_path / "v.npy" if mapped else None)
    assert (items.n_items, items.dim) == (21, 4) and items.item_ids[:2] == ["[PAD]", "0"]
    got = items.gather(torch.tensor([5, 0, 5]))
    assert got.dtype == np.float32 and type(got) is np.ndarray and got.flags.writeable
    assert np.array_equal(got, np.asarray(items.embeddings, dtype=np.float32)[[5, 0, 5]])


def test_gather_is_a_copy():
    items = make_items()
    items.gather(np.array([3]))[:] = 0
    assert items.embeddings[3].any()


def test_sample():
    items = make_items()
    sample = items.sample(8, seed=1)
    rows = [int(np.flatnonzero((items.embeddings == row).all(axis=1))[0]) for row in sample]
    assert sample.shape == (8, 4) and sample.dtype == np.float32
    assert rows == sorted(set(rows)) and 0 not in rows
    assert np.array_equal(sample, items.sample(8, seed=1))
    assert not np.array_equal(sample, items.sample(8, seed=2))
    assert np.array_equal(items.sample(100, seed=1), items.embeddings[1:])


def test_drawn_items_are_a_catalogue_of_their_own(tmp_path):
    items = make_items(path=tmp_path / "v.npy", dtype="float16")
    items = ItemVectors(items.content, np.arange(21 * 2, dtype=np.float32).reshape(21, 2))
    drawn = items.drawn(8, seed=1)
    rows = [items.item_ids.index(name) for name in drawn.item_ids]
    assert rows == sorted(set(rows)) and rows[0] == 0 and drawn.n_items == 9
    assert np.array_equal(drawn.embeddings, items.embeddings[rows]) and drawn.embeddings.dtype == np.float16
    assert type(drawn.embeddings) is np.ndarray and np.array_equal(drawn.collaborative, items.collaborative[rows])
    assert drawn.content.content_hash != items.content.content_hash and drawn.parts == items.parts
    assert drawn.item_ids == items.drawn(8, seed=1).item_ids != items.drawn(8, seed=2).item_ids
    assert items.drawn(20, seed=1) is items
    seen = {name for seed in range(200) for name in items.drawn(1, seed).item_ids[1:]}
    assert seen == set(items.item_ids[1:])


def test_every_item_can_be_sampled():
    items = make_items(n=3, d=1)
    seen = {float(items.sample(1, seed)[0, 0]) for seed in range(40)}
    assert seen == set(items.embeddings[1:, 0].tolist())


@pytest.mark.parametrize("batch_size", [1, 7, 20, 100])
def test_batches_are_all_items_in_order(batch_size):
    items = make_items()
    rows, vectors = zip(*items.batches(batch_size))
    assert torch.cat(rows).tolist() == list(range(1, 21))
    assert np.array_equal(torch.cat(vectors).numpy(), items.embeddings[1:])
    assert max(map(len, rows)) == min(batch_size, 20) and vectors[0].dtype == torch.float32


@pytest.mark.parametrize("n", [1, 2, 5, 6, 7, 12, 13, 20])
@pytest.mark.parametrize("batch_size", [1, 2, 6, 64])
@pytest.mark.parametrize("shuffle", [True, False])
def test_an_epoch_is_every_item_once(n, batch_size, shuffle):
    items = make_items(n)
    loader = ItemDataLoader(items, settings(batch_size), shuffle=shuffle)
    batches = list(loader)
    rows = [row for batch in batches for row in batch["item_id"].tolist()]
    assert sorted(rows) == list(range(1, n + 1)) and (shuffle or rows == sorted(rows))
    assert len(loader) == len(batches)
    sizes = [len(batch) for batch in batches]
    assert max(sizes) <= batch_size + (batch_size > 1) and (min(sizes) > 1 or batch_size == 1 or n == 1)
    for batch in batches:
        assert batch["item_id"].dtype == torch.int64 and batch["item_emb"].dtype == torch.float32
        assert np.array_equal(batch["item_emb"].numpy(), items.embeddings[batch["item_id"].numpy()])


def test_epochs_differ_and_runs_agree():
    first, second = (ItemDataLoader(make_items(), settings()) for _ in range(2))
    epochs = [epoch(first) for _ in range(3)]
    assert epochs == [epoch(second) for _ in range(3)]
    assert epochs[0] != epochs[1] != epochs[2]
    assert epochs[0] != epoch(ItemDataLoader(make_items(), settings(seed=8)))


def test_global_randomness_does_not_matter():
    torch.manual_seed(0)
    first = epoch(ItemDataLoader(make_items(), settings()))
    torch.manual_seed(1)
    state = torch.get_rng_state()
    assert epoch(ItemDataLoader(make_items(), settings())) == first
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("grouped", [False, True])
def test_the_generators_state_is_all_that_resuming_needs(grouped):
    loader, resumed = (ItemDataLoader(make_items(), settings()) for _ in range(2))
    if grouped:
        for each in (loader, resumed):
            each.set_groups(torch.arange(21) % 4)
    epoch(loader)
    state = loader.generator.get_state()
    expected = [epoch(loader), epoch(loader)]
    resumed.generator.set_state(state)
    assert [epoch(resumed), epoch(resumed)] == expected


@pytest.mark.parametrize("seed", range(5))
def test_groups_stay_together(seed):
    groups = torch.from_numpy(np.random.default_rng(seed).integers(0, 6, 41) * 10 - 7)  # any numbers will do
    loader = ItemDataLoader(make_items(40), settings(batch_size=8, seed=seed))
    loader.set_groups(groups)
    first, second = [sum(epoch(loader), []) for _ in range(2)]
    for rows in (first, second):
        assert sorted(rows) == list(range(1, 41))
        line = groups[rows].tolist()
        changes = sum(a != b for a, b in zip(line, line[1:]))
        assert changes == len(set(line)) - 1  # each group is one run
    assert groups[first].tolist() != groups[second].tolist()  # the groups' order changes
    biggest = groups[1:].mode().values.item()
    within = [[row for row in rows if groups[row] == biggest] for rows in (first, second)]
    assert within[0] != within[1] and sorted(within[0]) == sorted(within[1])  # and so does the order within
    loader.set_groups(None)
    line = groups[sum(epoch(loader), [])].tolist()
    assert sum(a != b for a, b in zip(line, line[1:])) > len(set(line)) - 1


def test_groups_without_shuffling():
    loader = ItemDataLoader(make_items(6), settings(), shuffle=False)
    loader.set_groups(torch.tensor([9, 1, 0, 1, 0, 1, 0]))
    assert epoch(loader) == [[2, 4, 6, 1, 3, 5]]


def test_groups_of_another_catalogue():
    with pytest.raises(ValueError, match=r"groups have shape \[20\], expected \[21\]"):
        ItemDataLoader(make_items(), settings()).set_groups(torch.zeros(20))


@pytest.mark.parametrize("batch_size", [0, -1, 2.5, None, True])
def test_bad_batch_size(batch_size):
    with pytest.raises(UserError, match="train_batch_size is"):
        ItemDataLoader(make_items(), settings(batch_size))


class Mean(AbstractRecommender):
    """The least model that the Trainer can train on items: the mean vector."""

    input_type = InputType.POINTWISE
    type = ModelType.GENERAL

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.mean = torch.nn.Parameter(torch.zeros(dim))

    def calculate_loss(self, interaction):
        return ((interaction["item_emb"] - self.mean) ** 2).sum(dim=1).mean()


@pytest.fixture
def trainer_config(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["test"])
    monkeypatch.chdir(tmp_path)  # RecBole writes log_tensorboard/ and saved/ where it runs
    return Config(
        model="BPR",
        dataset="ml-100k",
        config_dict={
            "train_neg_sample_args": None,
            "train_batch_size": 6,
            "epochs": 40,
            "learning_rate": 0.05,
            "gpu_id": "",
            "metrics": ["Recall", "AveragePopularity", "ItemCoverage"],
            "valid_metric": "Recall@10",
            "show_progress": False,
        },
    )


def test_recboles_trainer_trains_on_it(trainer_config):
    items = make_items()
    items.embeddings[1:] += 3
    model = Mean(items.dim)
    trainer = Trainer(trainer_config, model)
    trainer.fit(ItemDataLoader(items, trainer_config), saved=False, verbose=False)
    assert np.allclose(model.mean.detach().numpy(), items.embeddings[1:].mean(axis=0), atol=0.3)
    assert trainer.train_loss_dict[39] < trainer.train_loss_dict[0]


def test_what_the_collector_asks_for(trainer_config):
    collector = Collector(trainer_config)
    collector.data_collect(ItemDataLoader(make_items(), trainer_config))
    assert collector.data_struct["data.num_items"] == 21
    assert collector.data_struct["data.count_items"] == {}
