"""A run that begins with the weights of another, on data that has grown."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from recbole_r3vae.errors import UserError
from recbole_r3vae.quick_start import load_data_and_model, run_recbole_r3vae
from recbole_r3vae.record import Record
from recbole_r3vae.sid.table import SemanticIDs
from recbole_r3vae.trainer.checkpoint_file import load_checkpoint, sources_of
from recbole_r3vae.trainer.tokenizer import TokenizerTrainer

USER, ITEM, TIME = "user_id:token", "item_id:token", "timestamp:float"
TOKENIZER = {"tokenizer": "RKMeans", "tokenizer_epochs": 0, "codebook_sizes": [8, 8]}
GENERATOR = {**TOKENIZER, "hidden_size": 16, "n_heads": 2}
MODELS = {
    "BPR": {},
    "SASRec": {"loss_type": "CE", "hidden_size": 16, "inner_size": 16},
    "BERT4Rec": {"hidden_size": 16, "inner_size": 16},
    "HSTU": {"hidden_size": 16, "n_heads": 2},
    "DeepFM": {**TOKENIZER, "ctr_features": ["class"], "sid_features": "append"},
    "R3GR": GENERATOR,
    "R3GR-hybrid": {**GENERATOR, "item_inputs": ["codes", "text", "id"]},
    "TIGER": {**TOKENIZER, "n_layers": 1, "n_decoder_layers": 1, "hidden_size": 16, "head_size": 8, "inner_size": 16},
}


def read(folder: Path, ending: str) -> pd.DataFrame:
    return pd.read_csv(folder / "tiny" / f"tiny.{ending}", sep="\t", dtype=str, keep_default_na=False)


@pytest.fixture(scope="module")
def grown(tiny_data, tmp_path_factory) -> Path:
    """Lines in another order, two users gone and one new, one item gone and three new ones, one of them the twin of an old one."""
    folder = tmp_path_factory.mktemp("grown")
    (folder / "tiny").mkdir()
    inter, item = read(tiny_data, "inter"), read(tiny_data, "item")
    gone_users, gone = inter[USER].unique()[:2], inter[ITEM].iloc[-1]
    inter = inter[~inter[USER].isin(gone_users) & (inter[ITEM] != gone)]
    new = [{**item.iloc[0], ITEM: "twin"}]
    new += [{**new[0], ITEM: name, "movie_title:token_seq": f"{name} voyage", "class:token_seq": "Drama"} for name in ("new-1", "new-2")]
    met = ["twin", "new-1", *item[ITEM][:4], "new-2"]
    lines = [{**inter.iloc[0], USER: "newcomer", ITEM: name, TIME: str(10**9 + at)} for at, name in enumerate(met)]
    pd.concat([pd.DataFrame(lines), inter[::-1]]).to_csv(folder / "tiny" / "tiny.inter", sep="\t", index=False)
    pd.concat([pd.DataFrame(new), item[item[ITEM] != gone][::-1]]).to_csv(folder / "tiny" / "tiny.item", sep="\t", index=False)
    return folder


@pytest.fixture(scope="module")
def runs(tiny_data, tmp_path_factory):
    """A function from a model and more settings to the result of a run."""
    folder, found = tmp_path_factory.mktemp("runs"), {}

    def run(model: str, **more) -> dict:
        key = json.dumps([model, more], sort_keys=True, default=str)
        if key not in found:
            settings = {
                "data_path": str(tiny_data), "checkpoint_dir": str(folder / "saved"), "content_cache_dir": str(folder / "cache"),
                "device": "cpu", "show_progress": False, "MAX_ITEM_LIST_LENGTH": 10, "epochs": 1, "content_dim": 16,
                "item_text_fields": ["movie_title", "class"],
                "load_col": {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "movie_title", "class"]},
            }  # fmt: skip
            found[key] = run_recbole_r3vae(model.partition("-")[0], "tiny", config_dict={**settings, **MODELS[model], **more})
        return found[key]

    return run


@pytest.fixture
def begun(runs, grown):
    """A run on the grown data that is not trained, so that its weights are those it begins with."""

    def run(model, **more):
        first = runs(model)
        return first, runs(model, data_path=str(grown), init_from=first["run_dir"], learning_rate=0.0, **more)

    return run


def tables(state) -> dict[str, list[str]]:
    """Parameters with a row for each user, item or word: by the names that the models give them."""
    fields = {"user_embedding": "user_id", "item_embedding": "item_id", "id_embedding": "item_id", "output_bias": "item_id"}
    fields["token_seq_embedding_table"] = "class"
    parts = ((name, fields.keys() & set(name.split("."))) for name in state["model"])
    return {name: fields[found.pop()] for name, found in parts if found}


@pytest.mark.parametrize("model", MODELS)
def test_rows_of_known_ids_are_taken_and_all_else_is_equal(begun, model):
    first, second = begun(model)
    old, new = (load_checkpoint(Path(result["run_dir"]) / "last.pth") for result in (first, second))
    of_ids = tables(old)
    assert of_ids or model in ("DeepFM", "R3GR", "TIGER")
    for name, value in new["model"].items():
        if name in of_ids:
            before, now = old["ids"][of_ids[name]], new["ids"][of_ids[name]]
            known = [entry for entry in now if entry in before]
            assert len(now) - len(known) == {"user_id": 1, "item_id": 3, "class": 0}[of_ids[name]]
            rows, old_rows = ([ids.index(entry) for entry in known] for ids in (now, before))
            assert torch.equal(value[rows], old["model"][name][old_rows]), name
            fresh = [row for row, entry in enumerate(now) if entry not in before]
            assert torch.isfinite(value[fresh]).all()
            assert torch.equal(value[len(now) :], old["model"][name][len(before) :]), name
        elif value.shape == old["model"][name].shape:
            assert torch.equal(value, old["model"][name]), name
        else:
            assert model == "DeepFM" and name.startswith(("token_embedding", "first_order_linear.token_embedding")), name
    assert set(new["ids"]["item_id"]) - set(old["ids"]["item_id"]) == {"twin", "new-1", "new-2"}


def test_tables_of_several_fields_are_taken_field_by_field(begun):
    """RecBole's context-aware models keep users, items and features in one table."""
    first, second = begun("DeepFM")
    (*_, old, old_data), (*_, new, new_data) = (load_data_and_model(result["run_dir"])[1:3] for result in (first, second))
    fields = old.token_field_names
    assert fields == new.token_field_names and {"user_id", "item_id"} < set(fields)
    for field in fields:
        at = fields.index(field)
        known = [entry for entry in new_data.field2id_token[field] if entry in set(old_data.field2id_token[field])]
        rows = [
            network.token_embedding_table.embedding.weight[network.token_embedding_table.offsets[at] + data.token2id(field, known)]
            for network, data in ((old, old_data), (new, new_data))
        ]
        assert len(known) > 3 and torch.equal(*rows), field


@pytest.mark.parametrize("model", ["R3GR", "TIGER", "R3GR-hybrid", "DeepFM"])
def test_old_semantic_ids_stay_and_new_items_stand_beside_them(begun, runs, monkeypatch, model):
    runs(model)
    monkeypatch.setattr(TokenizerTrainer, "fit", lambda *a, **k: pytest.fail("a tokenizer was trained"))
    first, second = begun(model)
    old, new = (sources_of(load_checkpoint(Path(result["run_dir"]) / "best.pth")["sources"]) for result in (first, second))
    codes = {name: row.tolist() for name, row in zip(old.semantic_ids.item_ids, old.semantic_ids.codes)}
    found = {name: row.tolist() for name, row in zip(new.semantic_ids.item_ids, new.semantic_ids.codes)}
    assert all(found[name] == codes[name] for name in found if name in codes)
    assert new.semantic_ids.codebook_sizes == old.semantic_ids.codebook_sizes
    twin = next(name for name in read_items_of(runs, model))
    assert found["twin"][:2] == codes[twin][:2]
    if model != "DeepFM":
        assert found["twin"] != codes[twin] and SemanticIDs.load(second["sid_file"]).item_ids == new.semantic_ids.item_ids
    if model == "R3GR-hybrid":
        rows = {name: row for name, row in zip(new.content.item_ids, np.asarray(new.content.embeddings))}
        before = dict(zip(old.content.item_ids, np.asarray(old.content.embeddings)))
        assert all(np.array_equal(rows[name], before[name]) for name in rows if name in before)
        assert rows["twin"] == pytest.approx(before[twin], abs=1e-5)


def test_new_items_are_read_by_the_modalities_that_the_model_was_trained_with(runs, grown):
    """The tokenizer sees title and genre side by side, the model the genre alone, whose columns come last."""
    encoders = {"title": {"encoder": "tfidf-svd", "fields": ["movie_title"], "dim": 8}}
    encoders["genre"] = {"encoder": "tfidf-svd", "fields": ["class"], "dim": 6}
    settings = {"content_encoder": encoders, "item_inputs": ["codes", "genre"]}
    first = runs("R3GR", **settings)
    second = runs("R3GR", **settings, data_path=str(grown), init_from=first["run_dir"], learning_rate=0.0)
    content = sources_of(load_checkpoint(Path(second["run_dir"]) / "best.pth")["sources"]).content
    row_of = {name: row for row, name in enumerate(content.item_ids)}
    drama = next(row[ITEM] for _, row in read(grown, "item").iterrows() if row["class:token_seq"] == "Drama" and row[ITEM][:4] != "new-")
    assert content.embeddings.shape[1] == 6 and list(content.parts) == ["genre"]
    for name in ("new-1", "new-2"):  # of the genre Drama, with titles of their own
        assert content.embeddings[row_of[name]] == pytest.approx(content.embeddings[row_of[drama]], abs=1e-5)


def read_items_of(runs, model) -> list[str]:
    """Items in the order of the first run's file."""
    settings = load_checkpoint(Path(runs(model)["run_dir"]) / "best.pth")["config"]
    return read(Path(settings["data_path"]), "item")[ITEM].tolist()


def test_the_record_and_the_identity_say_so(begun, runs, grown, caplog):
    caplog.set_level("INFO")
    first, second = begun("R3GR", eval_batch_size=64)
    record = Record.read(Path(second["run_dir"]) / "result.json")
    name = Path(first["run_dir"]).name
    assert record.continues == second["continues"] and record.continues.startswith(f"the weights of {name} (")
    assert f"begins with the weights of {name}" in caplog.text and "of user_id and" in caplog.text
    assert "3 new items stand beside them" in caplog.text
    plain = runs("R3GR", data_path=str(grown), learning_rate=0.0, eval_batch_size=64)
    assert plain["run_dir"] != second["run_dir"] and plain["continues"] is None
    identity = json.loads((Path(second["run_dir"]) / "run.json").read_text())
    assert identity["init_from"] in record.continues


def test_it_trains_on_and_is_gone_on_with(runs, grown):
    first = runs("R3GR", epochs=2)
    begun = {"data_path": str(grown), "init_from": first["run_dir"]}
    whole = runs("R3GR", **begun, epochs=2)
    short = runs("R3GR", **begun, epochs=1)
    resumed = runs("R3GR", **begun, epochs=2, resume=True, stopping_step=11)
    assert short["epochs"] == 1 and whole["epochs"] == resumed["epochs"] == 2
    assert resumed["continues"] and resumed["test_result"] == whole["test_result"]
    again = load_data_and_model(whole["run_dir"])[1]
    assert torch.isfinite(next(again.parameters())).all()


@pytest.mark.parametrize("model, more, expected", [
    ("R3GR", {"codebook_sizes": [9, 8]}, r"asks for tokenizer_codebook_sizes \[9, 8\] instead of \[8, 8\]; leave these settings"),
    ("R3GR", {"tokenizer": "Random"}, "asks for tokenizer 'Random' instead of 'RKMeans'"),
    ("R3GR", {"collision_policy": "share"}, "asks for collision_policy 'share' instead of"),
    ("R3GR", {"item_text_fields": ["class"]}, "asks for tokenizer_item_text_fields"),
    ("R3GR", {"item_text_template": "{class}"}, "asks for tokenizer_item_text_template '{class}' instead of None"),
    ("R3GR", {"hidden_size": 32}, r"has the shape \[.*\] there and \[.*\] here; give the settings of that run"),
    ("R3GR", {"n_layers": 5}, "only one of the two models has"),
    ("BPR", {"embedding_size": 32}, "user_embedding.weight has the shape"),
    ("BPR", {"init_from": "nowhere"}, "there is no checkpoint nowhere"),
])  # fmt: skip
def test_what_does_not_fit_is_refused(runs, grown, model, more, expected):
    first = runs(model)
    with pytest.raises(UserError, match=expected):
        runs(model, **{"data_path": str(grown), "init_from": first["run_dir"], **more})


def test_other_models_counted_ones_and_tokenizers_are_refused(runs, tiny_settings):
    bpr = runs("BPR")["run_dir"]
    with pytest.raises(UserError, match="is of BPR, this run of Pop; give --model=BPR"):
        run_recbole_r3vae("Pop", "tiny", config_dict={**tiny_settings, "init_from": bpr})
    pop = run_recbole_r3vae("ItemKNN", "tiny", config_dict={**tiny_settings, "epochs": 1})["run_dir"]
    with pytest.raises(UserError, match="ItemKNN is counted, not trained"):
        run_recbole_r3vae("ItemKNN", "tiny", config_dict={**tiny_settings, "init_from": pop})
    with pytest.raises(UserError, match="init_from is for models, and RKMeans is a tokenizer"):
        run_recbole_r3vae("RKMeans", "tiny", config_dict={**tiny_settings, "init_from": bpr, "epochs": 0, "valid_metric": "unique_ratio"})


def test_new_items_need_semantic_ids_where_the_old_ones_came_from_a_file(runs, grown, tmp_path):
    first = runs("R3GR")
    reads_text = runs("R3GR", sid_file=first["sid_file"])["run_dir"]
    from_file = runs("R3GR", sid_file=first["sid_file"], item_inputs=["codes"])
    begun = {"data_path": str(grown), "init_from": from_file["run_dir"], "item_inputs": ["codes"]}
    with pytest.raises(UserError, match="no tokenizer for the 3 new items, such as .*give --sid_file"):
        runs("R3GR", **begun)
    text = {"rank_by": "dense", "item_inputs": ["text"]}
    with pytest.raises(UserError, match="no encoder for the 3 new items, .* it has no semantic IDs; train without init_from"):
        runs("R3GR", **text, data_path=str(grown), init_from=runs("R3GR", **text)["run_dir"])
    table = SemanticIDs.load(runs("R3GR", data_path=str(grown), init_from=first["run_dir"], learning_rate=0.0)["sid_file"])
    table.save(tmp_path / "all.sid")
    assert runs("R3GR", **begun, sid_file=str(tmp_path / "all.sid"))["test_result"]
    with pytest.raises(UserError, match="no encoder for the 3 new items"):
        runs("R3GR", data_path=str(grown), init_from=reads_text, sid_file=str(tmp_path / "all.sid"))
    codes = table.codes.clone()
    codes[[4, 5]] = codes[[5, 4]]
    SemanticIDs(codes, table.codebook_sizes, table.item_ids).save(tmp_path / "other.sid")
    with pytest.raises(UserError, match="has other semantic IDs than init_from .*, of item '.*', and of 1 more; leave those of old items"):
        runs("R3GR", **begun, sid_file=str(tmp_path / "other.sid"))
