"""One matrix and its named parts, against slicing and concatenation by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_r3vae.data.content import ItemContent, ItemEncoder, join_content, parts_of
from recbole_r3vae.data.content import item_content as module
from recbole_r3vae.data.content.tfidf import TfidfSvdEncoder
from recbole_r3vae.errors import UserError

IDS = ["[PAD]", *"abcdef"]
NAMES = ("text", "image", "audio", "video")


def single(name: str, width: int, dtype="float32", item_encoder=None) -> ItemContent:
    vectors = np.random.default_rng(width).normal(size=(len(IDS), width))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors[0] = 0
    return ItemContent(vectors.astype(dtype), IDS, {"kind": "file", "file": f"{name}.npy"}, f"hash of {name} {width}", item_encoder)


def mapped(content: ItemContent, path) -> ItemContent:
    np.save(path, content.embeddings)
    embeddings = np.load(path, mmap_mode="r")
    return ItemContent(embeddings, content.item_ids, content.encoder, content.content_hash, content.item_encoder, content.parts)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.sampled_from(["float16", "float32"]), st.data())
@settings(max_examples=60, deadline=None)
def test_taking_parts_is_slicing(widths, dtype, data):
    singles = {name: single(name, width, dtype) for name, width in zip(NAMES, widths)}
    whole = join_content(singles)
    assert np.array_equal(whole.embeddings, np.hstack([content.embeddings for content in singles.values()]))
    assert whole.embeddings.dtype == dtype and list(whole.parts) == list(singles)
    assert parts_of(whole.encoder, sum(widths)) == whole.parts
    names = data.draw(st.lists(st.sampled_from(list(singles)), unique=True))
    taken = whole.take(names)
    kept = [name for name in singles if name in names] or list(singles)
    assert np.array_equal(taken.embeddings, np.hstack([singles[name].embeddings for name in kept]))
    alone = join_content({name: singles[name] for name in kept})
    assert (taken.content_hash, taken.encoder, taken.parts) == (alone.content_hash, alone.encoder, alone.parts)
    assert (taken is whole) == (kept == list(singles))
    for name in kept:
        assert np.array_equal(taken.part(name), singles[name].embeddings) and np.shares_memory(taken.part(name), taken.embeddings)
        assert np.array_equal(whole.take([name]).embeddings, singles[name].embeddings)


def test_one_part_has_the_hash_of_its_own_and_several_have_one_of_names_widths_and_hashes():
    text, image = single("text", 3), single("image", 2)
    assert join_content({"text": text}).content_hash == text.content_hash == join_content({"other": text}).content_hash
    assert join_content({"text": text}).encoder == text.encoder
    hashes = {
        join_content(parts).content_hash
        for parts in (
            {"text": text, "image": image}, {"image": image, "text": text}, {"text": text, "picture": image},
            {"text": text, "image": single("image", 4)}, {"text": text}, {"image": image},
        )
    }  # fmt: skip
    assert len(hashes) == 6


def test_a_memory_map_stays_one(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_BLOCK_BYTES", 60)  # several blocks
    whole = mapped(join_content({name: single(name, width) for name, width in zip(NAMES, (3, 2, 4, 1))}), tmp_path / "v.npy")
    monkeypatch.setattr(np, "asarray", lambda *_, **__: pytest.fail("read whole"))
    adjacent, apart = whole.take(["image", "audio"]), whole.take(["text", "audio", "video"])
    assert np.shares_memory(adjacent.embeddings, whole.embeddings) and np.shares_memory(whole.part("video"), whole.embeddings)
    for content in (adjacent, apart, apart.take(["text", "video"])):
        assert isinstance(content.embeddings, np.memmap) and not content.embeddings.flags.writeable
        assert (content.embeddings == np.hstack([whole.part(name) for name in content.parts])).all()
    assert [file.name for file in tmp_path.iterdir()] == ["v.npy"]


def test_blocks_are_the_rows_side_by_side(monkeypatch):
    arrays = [np.arange(20.0).reshape(10, 2), np.arange(30.0).reshape(10, 3)]
    for size in (1, 45, 1 << 20):
        monkeypatch.setattr(module, "_BLOCK_BYTES", size)
        blocks = list(module.row_blocks(arrays, start=1))
        assert np.array_equal(np.concatenate(blocks), np.hstack(arrays)[1:])
        assert len(blocks) == {1: 9, 45: 5, 1 << 20: 1}[size]


def test_encoders_are_taken_along():
    encoder = ItemEncoder(TfidfSvdEncoder(dim=2).fit(["red lips", "blue lips", "red nails"]), ("title",))
    whole = join_content({"text": single("text", 2, item_encoder=encoder), "image": single("image", 3)})
    assert whole.item_encoder.parts == {"text": encoder, "image": None} and whole.item_encoder.widths == {"text": 2, "image": 3}
    assert whole.take(["text"]).item_encoder is encoder and whole.take(["image"]).item_encoder is None


def test_parts_named_by_hand():
    content = ItemContent(np.zeros((2, 5), np.float32), ["[PAD]", "a"], {"kind": "test"}, "h", parts={"x": slice(0, 2), "y": slice(2, 5)})
    x, y = content.take(["x"]), content.take(["y"])
    assert x.embeddings.shape == (2, 2) and y.embeddings.shape == (2, 3)
    assert len({x.content_hash, y.content_hash, "h"}) == 3 and parts_of(x.encoder, 2) == {"x": slice(0, 2)}
    assert content.take(()) is content is content.take(["y", "x"])


@pytest.mark.parametrize("parts", [
    {"x": slice(0, 4)}, {"x": slice(1, 5)}, {"x": slice(0, 3), "y": slice(2, 5)}, {"x": slice(0, 5), "y": slice(5, 5)},
])  # fmt: skip
def test_parts_cover_the_columns(parts):
    with pytest.raises(ValueError, match="do not cover 5 columns"):
        ItemContent(np.zeros((2, 5), np.float32), ["[PAD]", "a"], {}, "", parts=parts)


def test_what_is_not_there(tmp_path):
    content = join_content({"text": single("text", 3), "image": single("image", 2)})
    for ask in (content.part, lambda name: content.take([name])):
        with pytest.raises(UserError, match="no modality 'imag', it has text, image; did you mean 'image'"):
            ask("imag")
        with pytest.raises(UserError, match="no modality 'zzz', it has text, image; add it to content_encoder"):
            ask("zzz")
    other = ItemContent(np.zeros((2, 2), np.float32), ["[PAD]", "a"], {"kind": "test"}, "")
    with pytest.raises(ValueError, match="of different items"):
        join_content({"text": single("text", 3), "image": other})
