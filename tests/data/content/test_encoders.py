"""Saving, loading and using fitted encoders; the optional sentence encoder."""

from __future__ import annotations

import json
import sys
import types

import numpy as np
import pytest

from recbole_r3vae.data.content.encoders import (
    ItemEncoder,
    ModalityEncoders,
    SentenceTransformerEncoder,
    TfidfSvdEncoder,
    load_item_encoder,
    save_item_encoder,
)
from recbole_r3vae.data.content.template import TextTemplate
from recbole_r3vae.errors import UserError

TEXTS = ["Red lipstick. Beauty", "Blue soap. Beauty", "Red hair dye. Hair Care", "Blue hair dye. Hair Care"]


@pytest.fixture
def item_encoder() -> ItemEncoder:
    return ItemEncoder(TfidfSvdEncoder(dim=3).fit(TEXTS), ("title", "categories"))


@pytest.fixture
def sentence_transformers(monkeypatch):
    """A stand-in for the optional package that records what it is asked."""
    calls = []

    class SentenceTransformer:
        def __init__(self, name, device=None):
            if name.endswith("no-such-model"):
                raise OSError("no-such-model is not a local folder\nand is not a model on the hub")
            calls.append((name, device))

        def encode(self, texts, convert_to_numpy, normalize_embeddings, show_progress_bar):
            assert convert_to_numpy and normalize_embeddings and not show_progress_bar
            vectors = np.array([[len(text), 1.0] for text in texts])
            return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    module = types.ModuleType("sentence_transformers")
    module.SentenceTransformer = SentenceTransformer
    monkeypatch.setitem(sys.modules, "sentence_transformers", module)
    return calls


def test_new_items_are_encoded_like_old_ones(item_encoder):
    items = [
        {"title": "Red lipstick", "categories": "Beauty"},
        {"categories": ["Hair_Care"], "title": ["Blue", "hair", "dye"]},
    ]
    assert np.array_equal(item_encoder.encode(items), item_encoder.encoder.transform([TEXTS[0], TEXTS[3]]))


def test_item_without_any_of_the_fields(item_encoder):
    with pytest.raises(UserError, match=r"item 1 has none .*\['title', 'categories'\]; it has \['titel'\]"):
        item_encoder.encode([{"title": "Red"}, {"titel": "Red"}])


def test_save_and_load(item_encoder, tmp_path):
    paths = tmp_path / "new" / "x.safetensors", tmp_path / "new" / "x.json"
    save_item_encoder(item_encoder, *paths)
    again = load_item_encoder(*paths)
    assert again.fields == ("title", "categories")
    items = [{"title": text} for text in TEXTS]
    assert np.array_equal(again.encode(items), item_encoder.encode(items))


def test_a_template_travels_with_its_encoder(item_encoder, tmp_path):
    template = TextTemplate.parse("{title: } ({brand: }). Categories: {categories:, }")
    fitted = TfidfSvdEncoder(dim=3).fit([text.replace(". ", ". Categories: ") for text in TEXTS])
    encoder = ItemEncoder(fitted, template.fields, template)
    paths = tmp_path / "x.safetensors", tmp_path / "x.json"
    save_item_encoder(encoder, *paths)
    again = load_item_encoder(*paths)
    assert again.template == template and again.fields == ("title", "brand", "categories")
    new = [{"title": "Red dye", "categories": "Beauty Hair_Care"}, {"brand": "Blue", "title": ""}]
    assert not np.allclose(fitted.transform(["Red dye. Beauty Hair Care"]), fitted.transform(["Red dye. Categories: Beauty, Hair Care"]))
    want = fitted.transform(["Red dye. Categories: Beauty, Hair Care", "(Blue)"])
    assert np.array_equal(encoder.encode(new), want) and np.array_equal(again.encode(new), want)
    with pytest.raises(UserError, match=r"item 0 has none of the text fields \['title', 'brand', 'categories'\]"):
        again.encode([{"tags": "x"}])
    save_item_encoder(item_encoder, *paths)  # without one, nothing is written of it
    assert "template" not in json.loads(paths[1].read_text()) and load_item_encoder(*paths).template is None


@pytest.mark.parametrize(
    "damage", ["missing", "truncated tensors", "truncated json", "other vocabulary", "unknown kind", "half a template"]
)
def test_damaged_files_are_one_clear_error(item_encoder, tmp_path, damage):
    tensors, meta = tmp_path / "x.safetensors", tmp_path / "x.json"
    save_item_encoder(item_encoder, tensors, meta)
    if damage == "missing":
        tensors.unlink()
    elif damage == "truncated tensors":
        tensors.write_bytes(tensors.read_bytes()[:-10])
    elif damage == "truncated json":
        meta.write_bytes(meta.read_bytes()[:-10])
    else:
        changes = {"other vocabulary": {"vocabulary": ["red"]}, "unknown kind": {"kind": "other"}, "half a template": {"template": "{ti"}}
        change = changes[damage]
        meta.write_text(json.dumps({**json.loads(meta.read_text()), **change}))
    with pytest.raises(UserError, match=r"cannot read .*x\.safetensors with x\.json: .+") as error:
        load_item_encoder(tensors, meta)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "name, model",
    [
        ("sentence-transformers/sentence-t5-base", "sentence-transformers/sentence-t5-base"),
        ("sentence-t5-base", "sentence-transformers/sentence-t5-base"),
        ("sentence-transformers/BAAI/bge-small-en-v1.5", "BAAI/bge-small-en-v1.5"),
        ("sentence-transformers//models/mine", "/models/mine"),
    ],
)
def test_sentence_encoder(sentence_transformers, tmp_path, name, model):
    encoder = SentenceTransformerEncoder(name, device="cpu")
    assert not sentence_transformers  # nothing is loaded before it is needed
    vectors = encoder.fit(["a"]).transform(["a", "bb"])
    assert sentence_transformers == [(model, "cpu")]
    assert vectors.dtype == np.float32 and np.allclose(vectors[1], np.array([2, 1]) / 5**0.5)
    paths = tmp_path / "x.safetensors", tmp_path / "x.json"
    save_item_encoder(ItemEncoder(encoder, ("title",)), *paths)
    assert np.array_equal(load_item_encoder(*paths).encode([{"title": "bb"}]), vectors[1:])


def test_a_sentence_encoder_in_a_folder_is_known_by_what_its_files_hold(sentence_transformers, tmp_path):
    """One that was trained again is another one, and makes no vectors beside those of the old."""
    weights = tmp_path / "mine" / "0_Transformer" / "model.bin"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"first")
    encoder = SentenceTransformerEncoder(f"sentence-transformers/{tmp_path / 'mine'}")
    before, paths = encoder.settings(), (tmp_path / "x.safetensors", tmp_path / "x.json")
    save_item_encoder(ItemEncoder(encoder, ("title",)), *paths)
    assert load_item_encoder(*paths).encode([{"title": "bb"}]).shape == (1, 2)
    weights.write_bytes(b"second")
    assert encoder.settings() != before and "files" not in SentenceTransformerEncoder("sentence-t5-base").settings()
    with pytest.raises(UserError, match="mine is not as it was when the old items' vectors were made; put that one back"):
        load_item_encoder(*paths).encode([{"title": "bb"}])
    weights.write_bytes(b"first")
    assert load_item_encoder(*paths).encode([{"title": "bb"}]).shape == (1, 2)


def test_sentence_encoder_that_cannot_be_loaded(sentence_transformers):
    with pytest.raises(UserError, match="cannot load .*'sentence-transformers/no-such-model'") as error:
        SentenceTransformerEncoder("no-such-model").transform(["a"])
    assert "\n" not in str(error.value)


def test_sentence_encoder_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(UserError, match=r"pip install 'recbole-r3vae\[text\]'"):
        SentenceTransformerEncoder("sentence-t5-base").fit(["a"])


def test_sentence_encoder_without_a_name():
    with pytest.raises(UserError, match="names no model"):
        SentenceTransformerEncoder("sentence-transformers/")


@pytest.fixture
def modality_encoders(item_encoder) -> ModalityEncoders:
    """Two text encoders that read a field in common."""
    other = ItemEncoder(TfidfSvdEncoder(dim=2).fit(TEXTS[::-1]), ("title", "brand"))
    widths = {"first": item_encoder.encode([{"title": "x"}]).shape[1], "second": other.encode([{"title": "x"}]).shape[1]}
    return ModalityEncoders({"first": item_encoder, "second": other}, widths)


def test_modalities_are_encoded_side_by_side(modality_encoders, tmp_path):
    items = [{"title": "red nails", "categories": "lips"}, {"title": "blue", "brand": "red"}]
    want = np.hstack([part.encode(items) for part in modality_encoders.parts.values()])
    paths = tmp_path / "e.safetensors", tmp_path / "e.json"
    save_item_encoder(modality_encoders, *paths)
    again = load_item_encoder(*paths)
    for encoders in (modality_encoders, again):
        assert encoders.fields == ("title", "categories", "brand") and encoders.widths == modality_encoders.widths
        assert np.array_equal(encoders.encode(items), want) and sum(encoders.widths.values()) == want.shape[1]
        with pytest.raises(UserError, match=r"item 0 has none of the text fields \['title', 'brand'\]"):
            encoders.encode([{"categories": "lips"}])


def test_a_modality_from_a_file_has_no_encoder(item_encoder, tmp_path):
    encoders = ModalityEncoders({"text": item_encoder, "image": None}, {"text": 3, "image": 128})
    paths = tmp_path / "e.safetensors", tmp_path / "e.json"
    save_item_encoder(encoders, *paths)
    for found in (encoders, load_item_encoder(*paths)):
        assert found.fields == ("title", "categories") and found.parts["image"] is None
        with pytest.raises(UserError, match="modality image came from a file.*--items new.npy.*: text 3, image 128 columns"):
            found.encode([{"title": "red"}])
