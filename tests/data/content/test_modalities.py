"""The key content_encoder: every form it takes, every mistake that it can have."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest

from recbole_r3vae.data.content import modalities
from recbole_r3vae.data.content.encoders import SentenceTransformerEncoder, TfidfSvdEncoder
from recbole_r3vae.errors import UserError


@pytest.fixture
def files(tmp_path):
    """image.npy and sound.npy of two items, the second with its ids elsewhere."""
    np.save("image.npy", np.ones((2, 3), np.float32))
    np.save("sound.npy", np.ones((2, 4), np.float32))
    for name in ("image.ids", "elsewhere.txt"):
        (tmp_path / name).write_text("a\nb\n")


def asked(encoder, **keys):
    return modalities(defaultdict(lambda: None, {"content_encoder": encoder, "item_text_fields": ["title"], **keys}))


@pytest.mark.parametrize("encoder", [None, "", "tfidf-svd"])
def test_one_text_encoder(encoder):
    [found] = asked(encoder, content_dim=7)
    assert (found.name, found.encoder.dim, found.fields, found.vectors, found.optional) == ("text", 7, ("title",), None, False)
    assert asked(encoder)[0].encoder.dim == 256 and asked(encoder, item_text_fields="brand")[0].fields == ("brand",)


def test_one_file_is_called_text(files):
    [found] = asked("file", content_file="sound.npy", content_ids="elsewhere.txt")
    assert (found.name, found.encoder, found.vectors.path.name, found.vectors.ids) == ("text", None, "sound.npy", ["a", "b"])


def test_a_list_names_text_and_the_file(files):
    found = asked(["sentence-transformers/x/y", "file"], content_file="image.npy")
    assert [part.name for part in found] == ["text", "image"]
    assert isinstance(found[0].encoder, SentenceTransformerEncoder) and found[0].encoder.name == "x/y"
    assert found[1].vectors.dim == 3


def test_a_mapping_has_settings_of_its_own(files):
    encoders = {
        "sound": {"encoder": "file", "file": "sound.npy", "ids": "elsewhere.txt", "missing": "zero"},
        "words": {"encoder": "tfidf-svd", "fields": "brand", "dim": 5},
        "more": {"encoder": "tfidf-svd", "fields": ["title", "tags"]},
        "text": "tfidf-svd",
        "image": {"encoder": "file", "file": "image.npy"},  # content_ids are not of this file
        "default": {"encoder": "file", "missing": "error"},
    }
    found = asked(encoders, content_dim=9, content_file="sound.npy", content_ids="elsewhere.txt")
    assert [part.name for part in found] == list(encoders)
    assert [part.optional for part in found] == [True] + [False] * 5
    assert [(part.encoder.dim, part.fields) for part in found if part.encoder] == [(5, ("brand",)), (9, ("title", "tags")), (9, ("title",))]
    assert all(isinstance(part.encoder, TfidfSvdEncoder) for part in found[1:4])
    assert [part.vectors.ids_path.name for part in found if part.vectors] == ["elsewhere.txt", "image.ids", "elsewhere.txt"]


@pytest.mark.parametrize("encoder, message", [
    (5, "content_encoder is 5; give tfidf-svd, file"),
    ([], r"content_encoder is \[\]; give"),
    ({}, r"content_encoder is \{\}; give"),
    (["tfidf-svd", "bert"], "modality 'text': unknown content_encoder 'bert'; choose tfidf-svd, file, sentence"),
    ("sentence-transformers", "unknown content_encoder 'sentence-transformers'"),
    ("file/x", "unknown content_encoder 'file/x'"),
    ({"text": {"fields": ["title"]}}, "unknown content_encoder 'None'"),
    ({"text": ["tfidf-svd"]}, "unknown content_encoder .*tfidf-svd"),
    (["tfidf-svd", "sentence-transformers/x"], "two modalities called 'text'; name them in a mapping"),
    ({1: "tfidf-svd"}, "calls a modality 1; give it a name"),
    ({"": "tfidf-svd"}, "calls a modality ''; give it a name"),
    ({"text": {"encoder": "tfidf-svd", "dims": 3}}, "modality 'text': unknown setting 'dims' of encoder tfidf-svd.*did you mean 'dim'"),
    ({"text": {"encoder": "tfidf-svd", "missing": "zero"}}, "unknown setting 'missing' of encoder tfidf-svd; it has encoder, fields, template, dim"),
    ({"text": {"encoder": "sentence-transformers/x", "dim": 3}}, "unknown setting 'dim'"),
    ({"text": {"encoder": "tfidf-svd", "dim": 0}}, "modality 'text': content_dim is 0; it must be a positive whole number"),
    ({"text": {"encoder": "tfidf-svd", "template": "{title"}}, "modality 'text': item_text_template .* has no partner"),
    ({"text": {"encoder": "tfidf-svd", "template": {"title": None}}}, r"item_text_template is \{'title': None\} \(dict\); .* in quotes"),
    ({"text": {"encoder": "tfidf-svd", "template": "{title}", "fields": "brand"}}, "fields is 'brand' and template .*; give one of them"),
    ({"image": {"encoder": "file", "file": "image.npy", "template": "{title}"}}, "unknown setting 'template' of encoder file"),
    ({"text": {"encoder": "tfidf-svd", "fields": 3}}, "fields is 3; give a list"),
    ({"image": "file"}, "modality 'image': content_encoder: file needs content_file; give"),
    ({"image": {"encoder": "file", "file": "none.npy"}}, "modality 'image': .*none.npy does not exist; give"),
    ({"image": {"encoder": "file", "file": "sound.npy"}}, "modality 'image': .*sound.ids does not exist; give"),
    ({"image": {"encoder": "file", "file": ["image.npy"]}}, "file is .*; give the path of a file"),
    ({"image": {"encoder": "file", "file": "image.npy", "ids": 4}}, "ids is 4; give the path of a file"),
    ({"image": {"encoder": "file", "file": "image.npy", "missing": "mean"}}, "missing is 'mean'; choose error, or zero"),
])  # fmt: skip
def test_mistakes(files, encoder, message):
    with pytest.raises(UserError, match=message):
        asked(encoder)


def test_two_files_of_one_list(files):
    with pytest.raises(UserError, match="two modalities called 'image'"):
        asked(["file", "file"], content_file="image.npy")


def test_templates_of_modalities(files):
    encoders = {
        "text": "tfidf-svd",
        "own": {"encoder": "tfidf-svd", "template": "{title} by {brand}"},
        "joined": {"encoder": "sentence-transformers/x", "fields": ["brand", "title"]},  # the key's template is not of these fields
        "none": {"encoder": "tfidf-svd", "template": None},
        "image": {"encoder": "file", "file": "image.npy"},
    }
    found = asked(encoders, item_text_template="{title}!")
    assert [part.template and str(part.template) for part in found] == ["{title}!", "{title} by {brand}", None, None, None]
    assert found[2].fields == ("brand", "title") and found[3].fields == ("title",)
    assert str(asked("sentence-transformers/x", item_text_template="{title}!")[0].template) == "{title}!"
    with pytest.raises(UserError, match="item_text_template '}' names|has no partner"):
        asked("tfidf-svd", item_text_template="}")
