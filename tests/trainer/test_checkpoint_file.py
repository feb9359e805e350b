"""A checkpoint never runs code, is never half a file, and gives back what was put into it."""

from __future__ import annotations

import os
import pickle
import random

import numpy as np
import pytest
import scipy.sparse
import torch

from recbole_r3vae.data.content import ItemContent
from recbole_r3vae.errors import UserError
from recbole_r3vae.model.contract import Sources
from recbole_r3vae.sid.table import SemanticIDs
from recbole_r3vae.trainer.checkpoint_file import (
    SCHEMA,
    from_plain,
    load_checkpoint,
    random_state,
    save_checkpoint,
    set_random_state,
    sources_of,
    sources_state,
    to_plain,
)


class Payload:
    def __reduce__(self):
        return os.system, ("touch executed",)


@pytest.mark.parametrize("content", ["pickle", "torch", "truncated", "changed", "empty", "other schema", "not a dict"])
def test_bad_checkpoints_are_refused_and_not_executed(tmp_path, content):
    path = tmp_path / "best.pth"
    if content == "pickle":
        path.write_bytes(pickle.dumps(Payload()))
    elif content == "torch":
        torch.save({"schema": 1, "model": Payload()}, path)
    elif content == "not a dict":
        torch.save([1], path)
    else:
        save_checkpoint(path, {"model": {"w": torch.zeros(1000)}})
        data = path.read_bytes()
        changed = data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :]  # among the weights
        path.write_bytes({"truncated": data[: len(data) // 2], "changed": changed, "empty": b""}.get(content, data))
        if content == "other schema":
            torch.save({"schema": 99}, path)
    with pytest.raises(UserError, match="best.pth"):
        load_checkpoint(path)
    assert not (tmp_path / "executed").exists()


def test_no_checkpoint_is_one_clear_error(tmp_path):
    with pytest.raises(UserError, match="there is no checkpoint"):
        load_checkpoint(tmp_path / "best.pth")


def test_random_state_round_trip(tmp_path):
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    np.random.randn(), random.gauss(0, 1)  # leave a cached normal in both generators
    save_checkpoint(tmp_path / "s.pth", random_state())
    draw = lambda: (random.gauss(0, 1), random.random(), np.random.randn(), np.random.rand(), torch.rand(1).item())  # noqa: E731
    expected = draw()
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    set_random_state(load_checkpoint(tmp_path / "s.pth"))
    assert draw() == expected


def test_arrays_and_sparse_matrices_survive_as_tensors(tmp_path):
    matrix = scipy.sparse.random(30, 20, 0.2, format="coo", random_state=0)
    learned = {"w": matrix, "pred": matrix.tocsr(), "array": np.arange(6.0).reshape(2, 3), "plain": [1, "a"]}
    save_checkpoint(tmp_path / "s.pth", {"other_parameter": to_plain(learned)})
    back = from_plain(load_checkpoint(tmp_path / "s.pth")["other_parameter"])
    assert back["w"].format == "coo" and back["pred"].format == "csr" and back["plain"] == [1, "a"]
    assert (back["w"] != matrix).nnz == 0 and (back["pred"] != matrix).nnz == 0
    assert np.array_equal(back["array"], learned["array"])


# -- sources -----------------------------------------------------------------------------------------------------------------------

N_ITEMS = 7
NAMES = ["[PAD]", *(f"item {row}" for row in range(1, N_ITEMS))]


def table(ordered: bool) -> SemanticIDs:
    codes = torch.randint(0, 4, (N_ITEMS, 3), generator=torch.Generator().manual_seed(0))
    codes[0] = -1
    return SemanticIDs(codes, (4, 4, 5), NAMES, {"tokenizer": {"name": "RQVAE", "quality": {"levels": [1, None]}}}, ordered)


def content(parts: dict[str, slice]) -> ItemContent:
    vectors = np.random.default_rng(0).normal(size=(N_ITEMS, 6)).astype(np.float32)
    vectors.setflags(write=False)  # as those of a memory map
    return ItemContent(vectors, NAMES, {"kind": "tfidf-svd", "dim": 6}, "c0ffee", parts=parts)


def there_and_back(sources: Sources, path) -> Sources:
    save_checkpoint(path, {"sources": sources_state(sources)})
    return sources_of(load_checkpoint(path)["sources"])


@pytest.mark.parametrize("ordered", [True, False])
def test_semantic_ids_survive_with_their_order_or_without_one(tmp_path, ordered):
    given = table(ordered)
    found = there_and_back(Sources(given), tmp_path / "best.pth")
    assert found.content is None
    sids = found.semantic_ids
    assert torch.equal(sids.codes, given.codes) and sids.codes.dtype == torch.int64
    assert (sids.codebook_sizes, list(sids.item_ids), sids.meta, sids.ordered) == ((4, 4, 5), NAMES, given.meta, ordered)
    assert sids.content_hash == given.content_hash


@pytest.mark.parametrize(
    "parts", [{}, {"text": slice(0, 6)}, {"title": slice(0, 1), "image": slice(1, 4), "price": slice(4, 6)}], ids=["none", "one", "three"]
)
def test_item_content_survives_with_its_modalities(tmp_path, parts):
    given = content(parts)
    found = there_and_back(Sources(table(True), given), tmp_path / "best.pth").content
    assert found.embeddings.dtype == np.float32 and np.array_equal(found.embeddings, given.embeddings)
    assert (found.item_ids, found.encoder, found.content_hash) == (NAMES, given.encoder, given.content_hash)
    assert list(found.parts.items()) == list(given.parts.items())
    assert all(np.array_equal(found.part(name), given.part(name)) for name in given.parts)


def test_half_precision_vectors_stay_halves(tmp_path):
    vectors = np.random.default_rng(0).normal(size=(N_ITEMS, 6)).astype(np.float16)
    found = there_and_back(Sources(None, ItemContent(vectors, NAMES, {}, "c0ffee")), tmp_path / "best.pth").content
    assert found.embeddings.dtype == np.float16 and np.array_equal(found.embeddings, vectors)


def test_no_sources_are_none(tmp_path):
    assert there_and_back(Sources(), tmp_path / "best.pth") == Sources() == sources_of(None)


@pytest.mark.parametrize("schema", [2, 1, None])
def test_earlier_schemas_are_refused_in_one_line(tmp_path, schema):
    torch.save({**({"schema": schema} if schema else {}), "config": {}, "model": {"w": torch.zeros(3)}}, tmp_path / "best.pth")
    with pytest.raises(UserError) as error:
        load_checkpoint(tmp_path / "best.pth")
    message = str(error.value)
    assert "\n" not in message and f"has schema {schema!r}, this version reads {SCHEMA}" in message
    assert "best.pth" in message and "; train again, or use it with the version that wrote it" in message
