"""Every kind of model gets what it declares that it needs, and nothing is made that nobody asked for."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from recbole_r3vae.config import Config
from recbole_r3vae.data.content import load_content
from recbole_r3vae.data.content.encoders import TfidfSvdEncoder
from recbole_r3vae.errors import UserError
from recbole_r3vae.model.contract import RANK, SHARED, UNIQUE, Needs, Sources
from recbole_r3vae.model.tokenizer.rkmeans import RKMeans
from recbole_r3vae.quick_start import load_data_and_model, run_recbole_r3vae
from recbole_r3vae.quick_start import provide as module
from recbole_r3vae.quick_start.lookup import create_dataset
from recbole_r3vae.quick_start.provide import Provided, check_stages, provide
from recbole_r3vae.sid.table import SemanticIDs

TWO = {
    "text": {"encoder": "tfidf-svd", "fields": ["movie_title"], "dim": 8}, "genre": {"encoder": "tfidf-svd", "fields": ["class"], "dim": 6},
}  # fmt: skip
CLICKS = {
    "load_col": {"inter": ["user_id", "item_id", "rating", "timestamp"], "item": ["item_id", "movie_title", "class"]},
    "threshold": {"rating": 4}, "ctr_features": [], "embedding_size": 4, "mlp_hidden_size": [8], "sid_prefix_buckets": 16,
}  # fmt: skip


@pytest.fixture
def settings(tiny_settings) -> dict:
    return {**tiny_settings, "tokenizer": "RKMeans", "tokenizer_epochs": 0}


def load(settings, model="R3GR", needs: Needs | None = None, **more):
    """A configuration and its dataset; ``needs`` are those of a model that is not there."""
    config = Config(model, "tiny", config_dict={**settings, **more})
    dataset = create_dataset(config)
    if needs is not None:
        config.contract = SimpleNamespace(needs=lambda _: needs, task=RANK)
    return config, dataset


def provided(settings, model="R3GR", needs: Needs | None = None, **more) -> Provided:
    return provide(*load(settings, model, needs, **more), show_progress=False)


def forbid(monkeypatch, *names: str) -> None:
    for name in names:
        monkeypatch.setattr(module, name, lambda *given, name=name, **named: pytest.fail(f"{name} was called"))


def write_table(path: Path, settings, n_distinct: int = 50, **meta) -> SemanticIDs:
    """Semantic IDs of two codes of the dataset's items, in another order than the dataset's; several items share one."""
    config = Config("BPR", "tiny", config_dict={key: settings[key] for key in ("data_path", "load_col", "device")})
    names = sorted(map(str, create_dataset(config).field2id_token["item_id"][1:]), reverse=True)
    number = torch.arange(len(names)) % n_distinct
    codes = torch.stack([number % 8, number // 8], 1)
    sids = SemanticIDs(torch.cat([torch.full((1, 2), -1), codes]), (8, 32), ["[PAD]", *names], meta)
    sids.save(path)
    return sids


# -- what each kind of model gets ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model, more", [("SASRec", {"loss_type": "CE"}), ("BPR", {}), ("Pop", {}), ("DeepFM", CLICKS)])
def test_models_of_ids_get_nothing_and_nothing_is_read(settings, monkeypatch, model, more):
    forbid(monkeypatch, "item_content", "train_tokenizer")
    found = provided(settings, model, **more)
    assert found == Provided() and found.hashes == {} and found.sources == Sources()


def test_a_generator_gets_unique_semantic_ids_in_the_datasets_order(settings):
    config, dataset = load(settings, item_inputs=["codes"])
    found = provide(config, dataset, show_progress=False)
    sids = found.sources.semantic_ids
    assert list(sids.item_ids) == list(map(str, dataset.field2id_token["item_id"])) and sids.unique
    assert found.sources.content is None and found.hashes == {"semantic_ids": sids.content_hash}
    assert found.sid_file == found.tokenizer.folder / "suffix.sid" and SemanticIDs.load(found.sid_file).align(sids.item_ids).unique
    assert found.tokenizer.description["name"] == "RKMeans" and sids.n_levels == found.tokenizer.raw.n_levels + 1


def test_a_generator_that_reads_text_gets_its_vectors_too(settings):
    config, dataset = load(settings, item_inputs=["codes", "text"])
    found = provide(config, dataset, show_progress=False)
    content = found.sources.content
    assert content.embeddings.shape == (149, 32) and list(content.item_ids) == list(found.sources.semantic_ids.item_ids)
    assert found.hashes == {"semantic_ids": found.sources.semantic_ids.content_hash, "content": content.content_hash}
    assert found.tokenizer.description["content_hash"] == content.content_hash  # the tokenizer learned from the same


@pytest.mark.parametrize("policy", ["suffix", "share"])
def test_shared_semantic_ids_are_the_tokenizers_own_whatever_the_policy(settings, policy):
    common = {"collision_policy": policy, "codebook_sizes": [4, 4]}
    shared, unique = (provided(settings, needs=Needs(semantic_ids=kind), **common) for kind in (SHARED, UNIQUE))
    assert shared.tokenizer.folder == unique.tokenizer.folder and shared.sid_file.name == "raw.sid"
    assert shared.sources.semantic_ids.content_hash == shared.tokenizer.raw.content_hash and not shared.sources.semantic_ids.unique
    assert unique.sid_file.name == f"{policy}.sid" and unique.sources.semantic_ids.unique == (policy == "suffix")
    assert unique.sources.semantic_ids.n_levels == (3 if policy == "suffix" else 2)


@pytest.mark.parametrize("needs, ordered", [(Needs(SHARED), False), (Needs(SHARED, in_order=True), True), (Needs(UNIQUE), True)])
def test_codes_without_an_order_have_the_tokenizers_for_models_that_write_them(settings, tmp_path, needs, ordered):
    more = {"tokenizer": "Random", "tokenizer_codebook_sizes": [100, 100]}
    found = provided(settings, needs=needs, collision_policy="share", **more).sources.semantic_ids
    loose = replace(write_table(tmp_path / "loose.sid", settings), ordered=False)
    loose.save(tmp_path / "loose.sid")
    from_file = provided(settings, needs=needs, collision_policy="share", sid_file=str(tmp_path / "loose.sid")).sources.semantic_ids
    assert found.ordered is from_file.ordered is ordered
    assert torch.equal(from_file.codes, loose.align(from_file.item_ids).codes)


@pytest.mark.parametrize("kind, policy, warned", [(SHARED, "reassign", True), (SHARED, "share", False), (UNIQUE, "suffix", False)])
def test_a_policy_that_changes_nothing_is_told(settings, caplog, kind, policy, warned):
    config, dataset = load(settings, needs=Needs(kind), collision_policy=policy)
    provide(config, dataset, show_progress=False)
    assert (f"collision_policy={policy} changes nothing" in caplog.text) == warned


def test_keys_of_a_tokenizer_beside_a_file_of_semantic_ids_are_told(settings, tmp_path, caplog):
    write_table(tmp_path / "mine.sid", settings)
    given = {key: value for key, value in settings.items() if not key.startswith("tokenizer_")}
    for asked, told in (({}, False), ({"tokenizer_epochs": 0}, True)):
        config, dataset = load(given, item_inputs=["codes"], sid_file=str(tmp_path / "mine.sid"), **asked)
        provide(config, dataset, show_progress=False)
        assert ("tokenizer_epochs changes nothing" in caplog.text) == told


def test_a_click_model_gets_shared_semantic_ids_and_no_content(settings):
    found = provided({**settings, **CLICKS}, "DeepFM", sid_features="replace")
    assert found.sources.semantic_ids.n_levels == 3 and found.sid_file.name == "raw.sid" and found.sources.content is None


def test_content_alone_trains_no_tokenizer(settings, monkeypatch):
    forbid(monkeypatch, "train_tokenizer")
    found = provided(settings, needs=Needs(content=()))
    assert found.sources.semantic_ids is found.sid_file is found.tokenizer is None and found.sources.content.embeddings.shape == (149, 32)
    assert set(found.hashes) == {"content"}


# -- modalities ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("names, parts", [
    ((), {"text": slice(0, 8), "genre": slice(8, 14)}), (("text",), {"text": slice(0, 8)}), (("genre",), {"genre": slice(0, 6)}),
    (("genre", "text"), {"text": slice(0, 8), "genre": slice(8, 14)}),
])  # fmt: skip
def test_a_model_gets_the_modalities_that_it_names(settings, names, parts):
    config, dataset = load(settings, needs=Needs(content=names), content_encoder=TWO)
    found = provide(config, dataset, show_progress=False).sources.content
    assert found.parts == parts
    every = load_content(dataset, config)
    for name, columns in parts.items():
        assert np.array_equal(found.embeddings[:, columns], every.part(name))


def test_the_tokenizer_learns_from_every_modality_and_the_generator_reads_text_alone(settings):
    found = provided(settings, item_inputs=["codes", "text"], content_encoder=TWO)
    assert found.tokenizer.description["dim"] == 14 and found.sources.content.parts == {"text": slice(0, 8)}
    only_text = provided(settings, item_inputs=["codes", "text"], content_encoder={"text": TWO["text"]})
    assert found.sources.content.content_hash == only_text.sources.content.content_hash  # as if no other had been configured
    assert found.tokenizer.folder != only_text.tokenizer.folder


def test_a_modality_that_is_not_there_is_refused_before_a_tokenizer_is_trained(settings, monkeypatch):
    forbid(monkeypatch, "train_tokenizer")
    with pytest.raises(UserError, match="item content has no modality 'text', it has genre; add it to content_encoder"):
        provided(settings, item_inputs=["codes", "text"], content_encoder={"genre": TWO["genre"]})


# -- semantic IDs from a file ------------------------------------------------------------------------------------------------------------


def test_a_files_semantic_ids_need_no_content(settings, tmp_path, monkeypatch):
    forbid(monkeypatch, "item_content", "train_tokenizer")
    given = write_table(tmp_path / "mine.sid", settings)
    config, dataset = load(settings, item_inputs=["codes"], sid_file=str(tmp_path / "mine.sid"), collision_policy="share")
    found = provide(config, dataset, show_progress=False)
    sids = found.sources.semantic_ids
    assert list(sids.item_ids) == list(map(str, dataset.field2id_token["item_id"])) and found.tokenizer is found.sources.content is None
    assert sids.content_hash == given.align(sids.item_ids).content_hash and found.sid_file == tmp_path / "mine.sid"


@pytest.mark.parametrize("policy, n_levels", [("suffix", 3), ("share", 2)])
def test_what_a_file_leaves_colliding_is_resolved_where_the_policy_says_so(settings, tmp_path, policy, n_levels):
    write_table(tmp_path / "mine.sid", settings, n_distinct=50)
    sids = provided(settings, item_inputs=["codes"], sid_file=str(tmp_path / "mine.sid"), collision_policy=policy).sources.semantic_ids
    assert sids.n_levels == n_levels and sids.unique == (policy == "suffix")


@pytest.mark.parametrize("policy", ["reassign", "sinkhorn"])
def test_a_file_with_collisions_is_refused_where_the_policy_needs_distances(settings, tmp_path, policy):
    write_table(tmp_path / "mine.sid", settings, n_distinct=50)
    with pytest.raises(UserError, match=f"mine.sid share semantic IDs, and collision_policy {policy} needs .*; take --collision_policy=suffix"):
        provided(settings, sid_file=str(tmp_path / "mine.sid"), collision_policy=policy)
    given = write_table(tmp_path / "all.sid", settings, n_distinct=10**6)
    assert given.unique and provided(settings, sid_file=str(tmp_path / "all.sid"), collision_policy=policy).sources.semantic_ids.unique


def test_a_files_semantic_ids_as_features_lack_the_level_that_only_counts(settings, tmp_path):
    for meta, n_levels in (({"collision_policy": "suffix"}, 1), ({"collision_policy": "share"}, 2), ({}, 2)):
        write_table(tmp_path / "mine.sid", settings, **meta)
        found = provided({**settings, **CLICKS}, "DeepFM", sid_features="append", sid_file=str(tmp_path / "mine.sid"))
        assert found.sources.semantic_ids.n_levels == n_levels


def test_a_file_of_another_catalogue_is_refused(settings, tmp_path):
    SemanticIDs(torch.tensor([[-1], [0]]), (2,), ["[PAD]", "unheard of"]).save(tmp_path / "other.sid")
    with pytest.raises(UserError, match="sid_file does not fit dataset tiny; .*; "):
        provided(settings, sid_file=str(tmp_path / "other.sid"))


@pytest.mark.parametrize("name, message", [("absent.sid", "absent.sid does not exist; check"), ("other.sid", "sid_file does not fit")])
def test_a_file_is_refused_before_any_text_is_encoded(settings, tmp_path, monkeypatch, name, message):
    SemanticIDs(torch.tensor([[-1], [0]]), (2,), ["[PAD]", "unheard of"]).save(tmp_path / "other.sid")
    monkeypatch.setattr("recbole_r3vae.quick_start.provide.item_content", lambda *given: pytest.fail("text was encoded"))
    with pytest.raises(UserError, match=message):
        provided(settings, item_inputs=["codes", "text"], sid_file=str(tmp_path / name))


def test_text_that_is_not_there_can_be_left_out_where_semantic_ids_are_given(settings, tmp_path):
    write_table(tmp_path / "mine.sid", settings)
    given = {**settings, "item_text_fields": ["absent"], "sid_file": str(tmp_path / "mine.sid")}
    with pytest.raises(UserError, match=r"or take content out of what the model reads, as with --item_inputs=\[codes\]"):
        provided(given, item_inputs=["codes", "text"])
    assert provided(given, item_inputs=["codes"]).sources.content is None
    with pytest.raises(UserError) as error:
        provided({**settings, "item_text_fields": ["absent"]}, item_inputs=["codes"])
    assert "item_inputs" not in str(error.value)  # a tokenizer needs it in any case


# -- once, and early -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model, more", [("R3GR", {"item_inputs": ["codes", "text"]}), ("TIGER", {"n_layers": 1, "n_decoder_layers": 1})])
def test_the_text_encoder_is_fitted_once_a_run_without_a_cache(settings, monkeypatch, model, more):
    fitted, fit = [], TfidfSvdEncoder.fit
    monkeypatch.setattr(TfidfSvdEncoder, "fit", lambda self, *given: fitted.append(1) or fit(self, *given))
    given = {**settings, "content_cache_dir": None, "epochs": 1, **more}
    result = run_recbole_r3vae(model, "tiny", config_dict=given)
    assert len(fitted) == 1
    load_data_and_model(Path(result["run_dir"]) / "best.pth")
    assert len(fitted) == 1  # a checkpoint holds what its model reads


@pytest.mark.parametrize("model, more, message", [
    ("R3GR", {"tokenizer": "RKMeen"}, "there is no tokenizer 'RKMeen'.*did you mean"),
    ("R3GR", {"tokenizer_epochs": 3}, "tokenizer RKMeans: epochs is 3; give 0"),
    ("TIGER", {"tokenizer": "RQVAE", "codebook_sizes": [1, 8]}, "tokenizer RQVAE: codebook_sizes is"),
    ("DeepFM", {**CLICKS, "sid_features": "replace", "tokenizer": "LETTER", "tokenizer_epochs": 1}, "LETTER learns from interactions"),
    ("DeepFM", {**CLICKS, "sid_features": "replace", "tokenizer": "PRISM", "tokenizer_epochs": 1}, "LightGCN learns from interactions.*see some of"),
    ("DeepFM", {**CLICKS, "sid_features": "replace", "content_encoder": "FAMAE"}, "FAMAE learns from interactions.*see some of the test"),
    ("DeepFM", {**CLICKS, "sid_features": "replace", "sid_prefix_buckets": -1}, "sid_prefix_buckets is -1"),
])  # fmt: skip
def test_the_tokenizers_settings_are_refused_before_any_data_is_read(settings, model, more, message, monkeypatch):
    monkeypatch.setattr("recbole_r3vae.quick_start.run.create_dataset", lambda config: pytest.fail("data was read"))
    with pytest.raises(UserError, match=message):
        run_recbole_r3vae(model, "tiny", config_dict={**settings, **more})


def test_clicks_take_no_tokenizer_whose_needs_are_interactions(settings, monkeypatch):
    """What it says of itself is what counts, whoever wrote it."""
    config = Config("DeepFM", "tiny", config_dict={**settings, **CLICKS, "sid_features": "replace"})
    check_stages(config)
    for needs in (Needs(content=(), interactions=True), Needs(content=(), popularity=True)):
        monkeypatch.setattr(RKMeans, "needs", classmethod(lambda cls, config, needs=needs: needs))
        with pytest.raises(UserError, match="RKMeans learns from interactions.*see some of the test; take a tokenizer of item content alone"):
            check_stages(config)


@pytest.mark.parametrize("words, message", [
    (["--content_file=v.npy"], "content_file is 'v.npy', and content_encoder is 'tfidf-svd', which does not read it; add --content_encoder=file"),
    (["--content_ids=v.ids", "--content_encoder={text: {encoder: file, file: v.npy}}"], "content_ids is 'v.ids', and content_encoder is"),
    (["--sid_file=v.sid", "--tokenizer=RKMeans"], "--tokenizer beside sid_file v.sid, which gives the semantic IDs"),
])  # fmt: skip
def test_what_would_not_be_read_is_refused(settings, words, message):
    del settings["tokenizer_epochs"], settings["tokenizer"]
    with pytest.raises(UserError, match=re.escape(message)):
        check_stages(Config("R3GR", "tiny", config_dict={**settings, "content_encoder": "tfidf-svd"}, arguments=words))


@pytest.mark.parametrize("words", [
    ["--content_file=v.npy", "--content_encoder=file"], ["--content_file=v.npy", "--content_encoder=[tfidf-svd, file]"],
    ["--content_file=v.npy", "--content_encoder={text: tfidf-svd, image: {encoder: file}}"],
    ["--content_file=v.npy", "--sid_file=v.sid", "--item_inputs=[codes]"],
])  # fmt: skip
def test_a_vector_file_that_is_read_or_in_nobodys_way_passes(settings, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("v.npy", np.ones((1, 2), "f"))
    (tmp_path / "v.ids").write_text("1\n")
    check_stages(Config("R3GR", "tiny", config_dict=settings, arguments=words))


def test_an_encoder_on_the_command_line_overrules_the_vectors_of_a_file(settings, tmp_path):
    (tmp_path / "mine.yaml").write_text("content_file: v.npy\n")
    with pytest.raises(UserError, match="content_file is 'v.npy'"):
        check_stages(Config("R3GR", "tiny", [tmp_path / "mine.yaml"], settings))
    check_stages(Config("R3GR", "tiny", [tmp_path / "mine.yaml"], settings, arguments=["--content_encoder=tfidf-svd"]))


@pytest.mark.parametrize("key", ["content_file", "content_ids"])
def test_a_vector_file_from_python_that_would_not_be_read_is_refused(settings, key):
    with pytest.raises(UserError, match=f"{key} is 'v', and content_encoder is 'tfidf-svd', which does not read it"):
        check_stages(Config("R3GR", "tiny", config_dict={**settings, key: "v"}))


def test_a_stage_that_a_run_does_not_have_is_not_checked(settings):
    wrong = {**settings, "tokenizer_epochs": 3}
    check_stages(Config("R3GR", "tiny", config_dict={**wrong, "sid_file": "some.sid"}))
    check_stages(Config("SASRec", "tiny", config_dict={**wrong, "loss_type": "CE"}))
    check_stages(Config("DeepFM", "tiny", config_dict={**wrong, **CLICKS, "sid_features": "none"}))


def test_hashes_are_those_of_what_there_is():
    sids, content = SimpleNamespace(content_hash="a"), SimpleNamespace(content_hash="b")
    assert Provided().hashes == {} and Provided(Sources(sids)).hashes == {"semantic_ids": "a"}
    assert Provided(Sources(sids, content)).hashes == {"semantic_ids": "a", "content": "b"}
