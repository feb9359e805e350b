"""A checkpoint knows users, items and features by their ids: other orders of lines and fewer users change nothing, new ids are refused."""

from __future__ import annotations

import logging
from pathlib import Path

import pandas as pd
import pytest
import torch
from recbole.data.interaction import Interaction

from recbole_r3vae.config import Config
from recbole_r3vae.data.fingerprint import data_fingerprint, known_ids
from recbole_r3vae.errors import UserError
from recbole_r3vae.quick_start import load_data_and_model, run_recbole_r3vae
from recbole_r3vae.quick_start.lookup import create_dataset, get_trainer
from recbole_r3vae.serve.recommender import Recommender
from recbole_r3vae.trainer.checkpoint_file import load_checkpoint

USER, ITEM, TIME = "user_id:token", "item_id:token", "timestamp:float"
MODELS = {
    "SASRec": {"loss_type": "CE", "hidden_size": 16, "inner_size": 16},
    "BPR": {},
    "HSTU": {"hidden_size": 16, "n_heads": 2},
    "DeepFM": {"ctr_features": ["class", "release_year"]},
    "R3GR": {"tokenizer": "RKMeans", "tokenizer_epochs": 0, "codebook_sizes": [8, 8], "hidden_size": 16, "n_heads": 2},
}
COLUMNS = {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "movie_title", "class"]}


def read(folder: Path, ending: str) -> pd.DataFrame:
    return pd.read_csv(folder / "tiny" / f"tiny.{ending}", sep="\t", dtype=str, keep_default_na=False)


def written(folder: Path, inter: pd.DataFrame, item: pd.DataFrame) -> str:
    (folder / "tiny").mkdir(parents=True)
    inter.to_csv(folder / "tiny" / "tiny.inter", sep="\t", index=False)
    item.to_csv(folder / "tiny" / "tiny.item", sep="\t", index=False)
    return str(folder)


@pytest.fixture(scope="module")
def data(tiny_data, tmp_path_factory) -> Path:
    """``tiny`` without equal times, whose order would be that of the lines."""
    inter = read(tiny_data, "inter")
    inter[TIME] = (1e9 + 3600 * inter[TIME].astype(float).groupby(inter[USER]).rank(method="first")).astype(int).astype(str)
    return Path(written(tmp_path_factory.mktemp("known"), inter, read(tiny_data, "item")))


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """A function from a model to the folder of its run, trained once."""
    folder, runs = tmp_path_factory.mktemp("runs"), {}

    def of(model: str) -> tuple[Path, dict]:
        if model not in runs:
            settings = {
                "data_path": str(data), "checkpoint_dir": str(folder / "saved"), "content_cache_dir": str(folder / "cache"),
                "device": "cpu", "show_progress": False, "MAX_ITEM_LIST_LENGTH": 10, "epochs": 1, "item_text_fields": ["movie_title"], "content_dim": 16,
                "load_col": {**COLUMNS, "item": [*COLUMNS["item"], "release_year"]} if model == "DeepFM" else COLUMNS, **MODELS[model],
            }  # fmt: skip
            runs[model] = Path(run_recbole_r3vae(model, "tiny", config_dict=settings)["run_dir"]), settings
        return runs[model]

    return of


def reordered(data, folder) -> str:
    """Other lines first, in both files."""
    return written(folder, read(data, "inter").sample(frac=1, random_state=3), read(data, "item")[::-1])


def without_users(data, folder) -> str:
    inter = read(data, "inter")
    return written(folder, inter[~inter[USER].isin(inter[USER].unique()[:7])], read(data, "item")[::-1])


def scores(model, dataset, users, items) -> torch.Tensor:
    """Of pairs by name, from the model alone."""
    pairs = {"user_id": dataset.token2id("user_id", users), "item_id": dataset.token2id("item_id", items)}
    batch = Interaction({field: torch.as_tensor(numbers) for field, numbers in pairs.items()})
    with torch.no_grad():
        return model.predict(dataset.join(batch))


@pytest.mark.parametrize("change", [reordered, without_users])
@pytest.mark.parametrize("model", MODELS)
def test_users_and_items_keep_their_numbers(run, data, tmp_path, caplog, model, change):
    folder, _ = run(model)
    names = load_checkpoint(folder / "best.pth")["ids"]
    _, network, dataset, _, _, test_data = load_data_and_model(folder)
    assert "is not as it was" not in caplog.text
    config, moved, other, _, _, other_test = load_data_and_model(folder, {"data_path": change(data, tmp_path / "new")})
    assert "is not as it was" in caplog.text
    for field, ids in names.items():
        if field in other.field2id_token:
            assert list(other.field2id_token[field]) == ids == list(dataset.field2id_token[field])
    if model in ("DeepFM", "BPR"):
        users, items = list(other.field2id_token["user_id"][-9:]), list(other.field2id_token["item_id"][1:10])
        assert torch.equal(scores(network, dataset, users, items), scores(moved, other, users, items))
    if model != "DeepFM" and change is reordered:
        trainer_class, tested = get_trainer(config), ((network, test_data), (moved, other_test))
        first, second = (trainer_class(config, one).evaluate(part, load_best_model=False) for one, part in tested)
        assert first == second


@pytest.mark.parametrize("model", ["SASRec", "BPR", "R3GR"])
def test_recommendations_are_of_the_same_items(run, data, tmp_path, model):
    folder, _ = run(model)
    users = load_checkpoint(folder / "best.pth")["ids"]["user_id"][-3:]
    there = Recommender(folder).recommend(users=users, k=5)
    here = Recommender(folder, {"data_path": reordered(data, tmp_path / "new")}).recommend(users=users, k=5)
    pd.testing.assert_frame_equal(there, here)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("more", ["user", "item"])
def test_new_ids_are_refused_by_name(run, data, tmp_path, model, more):
    inter, item = read(data, "inter"), read(data, "item")
    line = {**inter.iloc[0], USER if more == "user" else ITEM: "brand-new"}
    item = pd.concat([item, pd.DataFrame([{**item.iloc[0], ITEM: "brand-new"}])]) if more == "item" else item
    folder = written(tmp_path / "new", pd.concat([inter, pd.DataFrame([line])]), item)
    with pytest.raises(UserError, match=rf"tiny has 1 of \d+ values of {more}_id that the checkpoint does not know, such as 'brand-new'"):
        load_data_and_model(run(model)[0], {"data_path": folder})


def test_new_values_of_a_feature_are_refused_where_it_is_read(run, data, tmp_path):
    """DeepFM looks genres up by number, also those in lists; R3GR does not read them."""
    item = read(data, "item")
    item.loc[0, "class:token_seq"] = "Action Bollywood"
    folder = written(tmp_path / "new", read(data, "inter"), item)
    with pytest.raises(UserError, match="values of class that the checkpoint does not know, such as 'Bollywood'"):
        load_data_and_model(run("DeepFM")[0], {"data_path": folder})
    load_data_and_model(run("R3GR")[0], {"data_path": folder})


@pytest.mark.parametrize("model", ["SASRec", "R3GR"])
def test_a_generator_recommends_beside_new_items_and_id_models_refuse_them(run, data, tmp_path, model):
    inter, item = read(data, "inter"), read(data, "item")
    new = {**inter.iloc[-1], ITEM: "brand-new", TIME: "2000000000"}
    items = pd.concat([item, pd.DataFrame([{**item.iloc[0], ITEM: "brand-new"}])])
    folder = written(tmp_path / "new", pd.concat([inter, pd.DataFrame([new])]), items)
    user = [inter.iloc[-1][USER]]
    if model == "SASRec":
        with pytest.raises(UserError, match="'brand-new'"):
            Recommender(run(model)[0], {"data_path": folder}).recommend(users=user, k=3)
    else:
        assert len(Recommender(run(model)[0], {"data_path": folder}).recommend(users=user, k=3)) == 3


@pytest.mark.parametrize("model", MODELS)
def test_other_data_is_another_run(run, data, tmp_path, caplog, model):
    """``resume`` neither mixes two splits nor goes on in other numbers; it says what differs."""
    folder, settings = run(model)
    before = (folder / "last.pth").read_bytes()
    caplog.set_level(logging.INFO)
    again = run_recbole_r3vae(model, "tiny", config_dict={**settings, "resume": True})
    assert again["run_dir"] == str(folder) and again["continues"] is None
    grown = read(data, "inter")
    grown = pd.concat([grown, pd.DataFrame([{**grown.iloc[0], ITEM: grown.iloc[-1][ITEM], TIME: "2000000000"}])])
    for name, path in (("reordered", reordered(data, tmp_path / "a")), ("grown", written(tmp_path / "b", grown, read(data, "item")))):
        caplog.clear()
        other = run_recbole_r3vae(model, "tiny", config_dict={**settings, "data_path": path, "resume": True, "epochs": 2})
        assert other["run_dir"] != str(folder) and other["continues"] is None, name
        assert "it is not gone on with; to begin from its weights, give --init_from" in caplog.text, name
        assert other["epochs"] == 2
    assert (folder / "last.pth").read_bytes() == before


def test_what_is_known_is_what_is_read(run, data):
    def ids(model, **more):
        return known_ids(create_dataset(Config(model, "tiny", config_dict={**run(model)[1], **more})))

    assert set(ids("R3GR")) == set(ids("HSTU")) == {"user_id", "item_id"}
    assert set(ids("DeepFM")) == {"user_id", "item_id", "class", "release_year"}
    assert ids("SASRec")["item_id"][0] == "[PAD]" and len(ids("SASRec")["item_id"]) == len(read(data, "item")) + 1


def test_a_word_that_is_spelt_otherwise_is_other_data(run, data, tmp_path):
    item = read(data, "item")
    item["class:token_seq"] = item["class:token_seq"].str.replace("Drama", "Theatre")
    path = written(tmp_path / "new", read(data, "inter"), item)
    settings = run("DeepFM")[1]
    configs = (Config("DeepFM", "tiny", config_dict={**settings, "data_path": folder}) for folder in (str(data), path))
    assert len({data_fingerprint(create_dataset(config)) for config in configs}) == 2
