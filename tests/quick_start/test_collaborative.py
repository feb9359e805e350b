"""Collaborative embeddings rest on the training split and on nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from recbole_r3vae.cli import main
from recbole_r3vae.config import Config
from recbole_r3vae.data import content
from recbole_r3vae.data.content import load_content
from recbole_r3vae.data.item_values import values_at
from recbole_r3vae.data.items import ItemDataLoader, ItemVectors
from recbole_r3vae.errors import UserError
from recbole_r3vae.quick_start import run_recbole_r3vae
from recbole_r3vae.quick_start.collaborative import MODELS, CollaborativeModel, item_content, popularity, training_interactions
from recbole_r3vae.quick_start.lookup import create_dataset
from recbole_r3vae.quick_start.semantic_ids import item_facts, train_tokenizer

FAST = {"epochs": 2, "hidden_sizes": [32], "latent_dim": 8, "collaborative_epochs": 3}
USER, ITEM, TIME = "user_id:token", "item_id:token", "timestamp:float"


@pytest.fixture
def settings(tiny_settings):
    return {**tiny_settings, **FAST}


def load(settings, model="LETTER", **more):
    config = Config(model, "tiny", config_dict={**settings, **more})
    return config, create_dataset(config)


def interactions(settings) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows of the dataset's file that are to be trained on, and the last two of each user."""
    frame = pd.read_csv(Path(settings["data_path"]) / "tiny" / "tiny.inter", sep="\t", dtype={USER: str, ITEM: str})
    frame = frame.sort_values(TIME, kind="stable")
    held_out = frame.groupby(USER).tail(2)
    return frame.drop(held_out.index), held_out


def catalogue(dataset):
    return [str(item) for item in dataset.field2id_token["item_id"]]


def write(folder, settings, *parts) -> dict:
    """Settings for the dataset whose interactions are these, with its own cache and checkpoints."""
    (folder / "tiny").mkdir(parents=True)
    pd.concat(parts).to_csv(folder / "tiny" / "tiny.inter", sep="\t", index=False)
    titles = Path(settings["data_path"]) / "tiny" / "tiny.item"
    (folder / "tiny" / "tiny.item").write_bytes(titles.read_bytes())
    places = {"data_path": folder, "content_cache_dir": folder / "cache", "checkpoint_dir": folder / "saved"}
    return {**settings, **{key: str(path) for key, path in places.items()}}


def test_the_training_split_is_all_but_the_last_two_interactions_of_a_user(settings):
    config, dataset = load(settings)
    rows = training_interactions(dataset)
    expected = interactions(settings)[0].sort_values(USER, kind="stable")
    assert np.array_equal(rows, expected[[USER, ITEM]].to_numpy(dtype=str))
    assert np.array_equal(training_interactions(dataset), rows)  # the dataset was left as it is
    dataset.build()
    windows = load(settings, "R3GR", tokenizer="LETTER", epochs=1)[1]  # a sequential model's dataset
    assert CollaborativeModel(config, windows).description == CollaborativeModel(config, load(settings)[1]).description


def test_validation_and_test_interactions_change_nothing(settings, tmp_path):
    """Neither the embeddings nor the semantic IDs, to the bit; a single training interaction changes both."""
    train, held_out = interactions(settings)
    items = train[ITEM].unique()
    random = np.random.default_rng(0)
    versions = {}
    for name in ("as it was", "altered"):
        rows = held_out.assign(**{ITEM: random.choice(items, len(held_out))})
        versions[name] = (train, rows.assign(**{TIME: rows[TIME] + (name == "altered") * 86400}))
    one = train.copy()
    one.iloc[len(one) // 2, one.columns.get_loc(ITEM)] = items[-1]
    versions["trained on"] = (one, versions["as it was"][1])
    outcome = {}
    for name, parts in versions.items():
        config, dataset = load(write(tmp_path / name, settings, *parts))
        content = load_content(dataset, config)
        trained = train_tokenizer(config, content, False, dataset)
        vectors = CollaborativeModel(config, dataset).vectors(catalogue(dataset))
        outcome[name] = trained.folder.name, trained.description["collaborative"], vectors, trained.raw.codes
    before, after, other = outcome.values()
    assert before[:2] == after[:2]
    assert np.array_equal(before[2], after[2]) and torch.equal(before[3], after[3])
    assert before[0] != other[0] and before[1]["interactions"] != other[1]["interactions"]
    assert not np.array_equal(before[2], other[2]) and not torch.equal(before[3], other[3])


LEARNED = {
    "FAMAE": {"hidden_size": 8, "inner_size": 16, "n_heads": 2, "item_fields": ["class"], "epochs": 2},
    "LightGCN": {"embedding_size": 8, "epochs": 2},
    "BPR": {"embedding_size": 8, "epochs": 1},
    "SASRec": {"hidden_size": 8, "inner_size": 16, "n_heads": 2, "epochs": 1},
}
PRISM = {
    "content_encoder": {"text": "tfidf-svd", "collaborative": {"encoder": "LightGCN", **LEARNED["LightGCN"]}},
    "hidden_sizes": [32], "latent_dim": 8, "epochs": 2, "warm_epochs": 0, "category_field": "class", "first_category": 1,
}  # fmt: skip


def test_the_encoders_that_learn_are_the_models_that_can():
    """Named in two rooms, because data knows nothing of models."""
    assert set(content.LEARNED) == set(MODELS) == set(LEARNED)


def both_splits(settings, tmp_path) -> dict[str, dict]:
    """Datasets that differ in held-out interactions, and one that differs in a single one that is trained on."""
    train, held_out = interactions(settings)
    items, random = train[ITEM].unique(), np.random.default_rng(0)
    altered = held_out.assign(**{ITEM: random.choice(items, len(held_out)), TIME: held_out[TIME] + 86400})
    one = train.copy()
    one.iloc[len(one) // 2, one.columns.get_loc(ITEM)] = items[-1]
    versions = {"as it was": (train, held_out), "altered": (train, altered), "trained on": (one, held_out)}
    return {name: write(tmp_path / name, settings, *parts) for name, parts in versions.items()}


@pytest.mark.parametrize("name", LEARNED)
def test_validation_and_test_interactions_change_no_learned_content(settings, tmp_path, name):
    outcome = []
    for folder in both_splits(settings, tmp_path).values():
        more = {"epochs": 0, "content_encoder": {"text": {"encoder": name, **LEARNED[name]}}}
        config, dataset = load(folder, "GAOQ", **more)
        content = item_content(dataset, config)
        trained = train_tokenizer(config, content, False, dataset)
        row = {item: number for number, item in enumerate(content.item_ids)}
        by_id = [row[item] for item in sorted(row)]
        outcome.append((content.encoder, np.asarray(content.embeddings)[by_id], trained.raw.codes[by_id]))
    before, after, other = outcome
    assert before[0] == after[0] and np.array_equal(before[1], after[1]) and torch.equal(before[2], after[2])
    assert before[0]["interactions"] != other[0]["interactions"] and before[0]["key"] != other[0]["key"]
    assert not np.array_equal(before[1], other[1])
    # Rows are as long as the model makes them, the mean square is 1, and padding is zero.
    assert not before[1][sorted(row).index("[PAD]")].any()
    known = before[1][before[1].any(1)]
    assert np.square(known).sum(1).mean() == pytest.approx(1, rel=0.05) and np.square(known).sum(1).std() > 1e-4


def test_validation_and_test_interactions_change_nothing_of_prism(settings, tmp_path):
    """Neither vectors, popularity nor codes, to the bit."""
    outcome = []
    for folder in both_splits({**settings, **PRISM}, tmp_path).values():
        config, dataset = load(folder, "PRISM")
        content = item_content(dataset, config)
        trained = train_tokenizer(config, content, False, dataset)
        facts = item_facts(config, dataset, content.item_ids)
        row = {item: number for number, item in enumerate(content.item_ids)}
        by_id = [row[item] for item in sorted(row)]
        outcome.append((trained.raw.codes[by_id], facts["item_popularity"][by_id], facts["item_categories"][by_id]))
    before, after, other = outcome
    assert torch.equal(before[0], after[0]) and all(np.array_equal(*pair) for pair in zip(before[1:], after[1:]))
    assert not torch.equal(before[0], other[0]) and not np.array_equal(before[1], other[1]) and np.array_equal(before[2], other[2])


def test_popularity_counts_each_training_interaction_once(settings):
    config, dataset = load({**settings, **PRISM}, "PRISM")
    names = catalogue(dataset)
    counts = interactions(settings)[0][ITEM].value_counts()
    logs = np.log1p([counts.get(item, 0) for item in names[1:]])
    expected = (logs - logs.min()) / (logs.max() - logs.min())
    found = popularity(config, dataset, names)
    assert found[0] == 0 and found.dtype == np.float32
    np.testing.assert_allclose(found[1:], expected, atol=1e-6)
    windows = load(settings, "R3GR", tokenizer="RKMeans", epochs=1)[1]  # a sequential model's dataset
    assert np.array_equal(popularity(config, windows, catalogue(windows)), found)


def test_famae_learns_once_and_an_item_that_nobody_met_has_its_fields(settings, tmp_path, monkeypatch):
    """Its id is nobody's: zeros; what it shares with others is theirs. Another value of a training item's field is another key."""
    train, held_out = interactions(settings)
    lost = train[ITEM].value_counts().index[-1]
    rows = train[train[ITEM] != lost]
    held_out = held_out.assign(**{ITEM: np.where(np.arange(len(held_out)) == 0, lost, held_out[ITEM])})
    folder = write(tmp_path / "lost", settings, rows, held_out)
    own = {"text": {"encoder": "FAMAE", **LEARNED["FAMAE"]}}
    config, dataset = load(folder, "GAOQ", epochs=0, content_encoder=own)
    learn, learned = CollaborativeModel._learn, []
    monkeypatch.setattr(CollaborativeModel, "_learn", lambda self: learned.append(self.description["key"]) or learn(self))
    content = item_content(dataset, config)
    again = item_content(dataset, config)
    assert len(learned) == 1 and np.array_equal(content.embeddings, again.embeddings) and content.content_hash == again.content_hash
    assert content.embeddings.shape[1] == 8 * 4
    names, x = content.item_ids, np.asarray(content.embeddings)
    classes = [np.asarray(values) for values in values_at(dataset, "class", range(3))]
    at = names.index(lost)
    assert not x[at, :8].any() and x[at, 8:16].any()
    trained = set(rows[ITEM])
    for place, values in enumerate(classes, start=1):
        own = slice(8 * place, 8 * place + 8)
        for row in range(1, len(names)):
            if names[row] in trained and values[row] == values[at] and values[at]:
                assert np.array_equal(x[row, own], x[at, own])
    items = tmp_path / "lost" / "tiny" / "tiny.item"
    table = items.read_text().split("\n")
    words = {line.split("\t")[0]: line for line in table}
    changed = names[1] if names[1] in trained else names[2]
    items.write_text("\n".join(table).replace(words[changed], words[changed].rpartition("\t")[0] + "\tOpera"))
    item_content(create_dataset(config), config)
    assert len(learned) == 2 and learned[0] != learned[1]


def test_unknown_keys_and_places_of_learned_content_are_refused(settings, tmp_path):
    config, dataset = load(settings, "GAOQ", epochs=0, content_encoder={"text": {"encoder": "FAMAE", "hidden_siez": 8}})
    with pytest.raises(UserError, match="hidden_siez.*FAMAE.*hidden_size"):
        item_content(dataset, config)
    config, dataset = load(settings, "GAOQ", epochs=0, content_encoder="BPR")
    with pytest.raises(UserError, match="content_encoder: BPR learns item vectors from the training split"):
        load_content(dataset, config)


def test_the_numbers_that_ids_get_change_nothing(settings, tmp_path):
    """RecBole numbers items in the order of the file; an item keeps its embedding."""
    by_time, learned = pd.concat(interactions(settings)), []
    for name, rows in (("time", by_time), ("users", by_time.sort_values(USER, ascending=False, kind="stable"))):
        config, dataset = load(write(tmp_path / name, settings, rows))
        model = CollaborativeModel(config, dataset)
        learned.append((catalogue(dataset), model.description, model.vectors(catalogue(dataset))))
    (ids, description, vectors), (others, the_same, permuted) = learned
    assert ids != others and sorted(ids) == sorted(others) and description == the_same
    rows = [others.index(item) for item in ids]
    assert np.array_equal(vectors, permuted[rows])


@pytest.mark.parametrize("name", ["BPR", "SASRec", "LightGCN"])
def test_every_model_gives_a_vector_for_each_item_trained_on(settings, name):
    settings = {**settings, "collaborative_model": name, "collaborative_epochs": 1}
    config, dataset = load(settings)
    model = CollaborativeModel(config, dataset)
    vectors = model.vectors(catalogue(dataset))
    known = np.isin(catalogue(dataset), model.interactions[:, 1])
    assert vectors.shape == (dataset.item_num, 8) and vectors.dtype == np.float32
    assert not known[0] and np.array_equal(vectors.any(1), known)  # padding and cold items have none
    assert np.square(vectors[known]).sum(1).mean() == pytest.approx(1, rel=1e-5)
    again = CollaborativeModel(load(settings, content_cache_dir=None)[0], dataset)
    assert again.description == model.description and np.array_equal(again.vectors(catalogue(dataset)), vectors)


def test_items_bought_together_get_like_vectors(settings, tmp_path):
    """Two groups of users with items of their own."""
    random = np.random.default_rng(0)
    items = interactions(settings)[0][ITEM].unique()[:40]
    rows = [
        (str(user), item, time)
        for user in range(40)
        for time, item in enumerate(random.permutation(items[:20] if user % 2 else items[20:])[:12])
    ]
    folder = write(tmp_path / "groups", settings, pd.DataFrame(rows, columns=[USER, ITEM, TIME]))
    config, dataset = load(folder, collaborative_epochs=150)
    model = CollaborativeModel(config, dataset)
    vectors = model.vectors(["[PAD]", *items])[1:]
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosine = unit @ unit.T
    assert cosine[:20, :20].mean() > cosine[:20, 20:].mean() + 0.3


def test_embeddings_are_learned_once(settings, monkeypatch):
    config, dataset = load(settings)
    model = CollaborativeModel(config, dataset)
    vectors = model.vectors(catalogue(dataset))
    [stored] = Path(settings["content_cache_dir"]).glob("*.npy")
    assert stored.stem == model.description["key"]
    learn, learned = CollaborativeModel._learn, []
    monkeypatch.setattr(CollaborativeModel, "_learn", lambda self: learned.append(self.description["key"]) or learn(self))
    assert np.array_equal(CollaborativeModel(config, dataset).vectors(catalogue(dataset)), vectors) and not learned
    cached = CollaborativeModel(config, dataset)
    assert cached.seconds == 0 and cached.vectors(catalogue(dataset)) is not None and cached.seconds == model.seconds > 0
    stored.write_bytes(stored.read_bytes()[:-4])
    assert np.array_equal(CollaborativeModel(config, dataset).vectors(catalogue(dataset)), vectors) and len(learned) == 1
    for more in ({"seed": 1}, {"collaborative_epochs": 2}, {"latent_dim": 4}, {"collaborative_model": "LightGCN"}):
        assert CollaborativeModel(load(settings, **more)[0], dataset).description["key"] not in learned


def test_seconds_of_a_tokenizer_include_what_it_learns_from(settings, monkeypatch):
    config, dataset = load(settings)
    learn = CollaborativeModel._learn

    def slowly(self):
        vectors = learn(self)
        self.seconds += 1000
        return vectors

    monkeypatch.setattr(CollaborativeModel, "_learn", slowly)
    assert train_tokenizer(config, load_content(dataset, config), False, dataset).description["seconds"] > 1000


def test_batches_hold_the_embeddings_of_their_items(settings):
    config, dataset = load(settings, train_batch_size=64)
    content = load_content(dataset, config)
    vectors = CollaborativeModel(config, dataset).vectors(content.item_ids)
    for batch in ItemDataLoader(ItemVectors(content, vectors), config):
        assert np.array_equal(batch["item_cf"].numpy(), vectors[batch["item_id"].numpy()])
    assert all("item_cf" not in batch for batch in ItemDataLoader(ItemVectors(content), config))


def test_what_letters_terms_do_to_codes(tmp_path):
    """On ml-100k, as the paper has it: the collaborative term brings the codes of items that follow each other together and leaves fewer
    of the first level's in use, the diversity term brings codes back."""
    shared = {
        "device": "cpu",
        "content_cache_dir": str(tmp_path),
        "content_dim": 64,
        "collaborative_epochs": 4,
        "codebook_sizes": [128, 128],
        "sinkhorn_levels": [],
        "train_batch_size": 128,
    }
    config = Config("LETTER", "ml-100k", config_dict=shared)
    dataset = create_dataset(config)
    collaborative, content = CollaborativeModel(config, dataset), load_content(dataset, config)
    items = ItemVectors(content, collaborative.vectors(content.item_ids))
    row = {item: number for number, item in enumerate(content.item_ids)}
    users, rows = collaborative.interactions[:, 0], np.array([row[item] for item in collaborative.interactions[:, 1]])
    same = users[1:] == users[:-1]
    overlap, used = {}, {}
    for weights in ((0.0, 0.0), (5.0, 0.0), (5.0, 0.1)):
        more = dict(zip(("collaborative_weight", "diversity_weight"), weights))
        config = Config("LETTER", "ml-100k", config_dict={**shared, **more})
        torch.manual_seed(0)
        model = config.model_class(config, items)
        model.initialise(items)
        model.train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        loader = ItemDataLoader(items, config)
        for _ in range(12):
            for batch in loader:
                optimizer.zero_grad()
                sum(model.calculate_loss(batch)).backward()
                optimizer.step()
        codes = model.eval().tokenize(torch.from_numpy(items.gather(np.arange(items.n_items)))).numpy()
        overlap[weights] = (codes[rows[:-1][same]] == codes[rows[1:][same]]).mean()
        used[weights] = len(np.unique(codes[1:, 0]))
    assert min(overlap[5.0, 0.0], overlap[5.0, 0.1]) > 2 * overlap[0.0, 0.0], overlap
    assert used[5.0, 0.0] < 0.5 * used[0.0, 0.0] and used[5.0, 0.1] > 1.4 * used[5.0, 0.0], used


def test_a_generator_on_letters_semantic_ids(settings, tiny_settings):
    own = {f"tokenizer_{key}": value for key, value in FAST.items()}
    result = run_recbole_r3vae("R3GR", "tiny", config_dict={**tiny_settings, **own, "tokenizer": "LETTER", "epochs": 1})
    assert result["name"] == "R3GR[LETTER]" and 0 <= result["test_result"]["recall@20"] <= 1
    stored = json.loads((Path(result["run_dir"]) / "tokenizer" / "tokenizer.json").read_text())
    alone = run_recbole_r3vae("LETTER", "tiny", config_dict=settings)
    assert alone["name"] == "LETTER" and 0 < alone["test_result"]["unique_ratio"] <= 1
    assert json.loads((Path(alone["run_dir"]) / "tokenizer.json").read_text())["collaborative"] == stored["collaborative"]


@pytest.mark.parametrize(
    "more, words",
    [
        ({"collaborative_model": "LightGBM"}, ["collaborative_model", "did you mean 'LightGCN'", "BPR, SASRec"]),
        ({"collaborative_epochs": 0}, ["collaborative_epochs is 0", "give a whole number from 1"]),
        ({"eval_args": {"split": {"LS": "valid_and_test"}, "order": "RO", "group_by": "user", "mode": "full"}}, ["eval_args.order", "TO"]),
    ],
    ids=["model", "epochs", "order"],
)
def test_bad_settings_are_named(settings, more, words):
    with pytest.raises(UserError) as error:
        CollaborativeModel(*load(settings, **more))
    assert all(word in str(error.value) for word in words), error.value


def test_item_vectors_alone_are_not_enough(tmp_path, capsys):
    np.save(tmp_path / "v.npy", np.random.default_rng(0).normal(size=(20, 8)).astype(np.float32))
    (tmp_path / "v.ids").write_text("\n".join(map(str, range(20))))
    assert main(["tokenize", "--tokenizer=LETTER", f"--embeddings={tmp_path / 'v.npy'}", f"--output={tmp_path / 'v.sid'}"]) == 2
    message = capsys.readouterr().err
    assert "LETTER learns from interactions too" in message and "recbole-r3vae run --model=LETTER" in message and "RQVAE" in message
