"""Item content as a whole: choice of the encoders, the cache, the encoders that travel with a checkpoint, one loading a run."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os

import numpy as np
import pytest

from recbole_r3vae.data.content import ContentLoader, content_from_vectors, load_content, load_encoder, save_encoder
from recbole_r3vae.data.content import load as module
from recbole_r3vae.data.content.tfidf import TfidfSvdEncoder
from recbole_r3vae.data.content.vectors import UnitVectors
from recbole_r3vae.data.items import ItemVectors
from recbole_r3vae.errors import UserError

FIELDS = ["title", "categories", "brand"]


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def vectors(tmp_path):
    """Ten vectors in a file; the shop's items are five of them."""
    array = np.random.default_rng(0).normal(size=(10, 4)).astype(np.float32)
    np.save(tmp_path / "v.npy", array)
    ids = list("zyxedcbavw")
    (tmp_path / "v.ids").write_text("\n".join(ids) + "\n")
    unit = array / np.linalg.norm(array, axis=1, keepdims=True)
    return tmp_path / "v.npy", dict(zip(ids, unit))


def test_text_content(make_dataset, cache):
    dataset, config = make_dataset(item_text_fields=FIELDS, content_dim=3, content_cache_dir=str(cache))
    content = load_content(dataset, config)
    assert content.item_ids == ["[PAD]", *"eabcd"] == list(dataset.field2id_token["item_id"])
    assert content.embeddings.shape == (6, 3) and content.embeddings.dtype == np.float32
    assert not content.embeddings[0].any()
    assert np.allclose(np.linalg.norm(content.embeddings[1:], axis=1), 1, atol=1e-6)
    assert content.encoder["kind"] == "tfidf-svd" and content.encoder["fields"] == FIELDS
    assert isinstance(content.embeddings, np.memmap) and not content.embeddings.flags.writeable
    nail = content.item_ids.index("b"), content.item_ids.index("c")
    assert content.embeddings[nail[0]] @ content.embeddings[nail[1]] > 0.7


def test_second_time_comes_from_the_cache(make_dataset, cache, monkeypatch):
    dataset, config = make_dataset(item_text_fields=FIELDS, content_dim=3, content_cache_dir=str(cache))
    first = load_content(dataset, config)
    monkeypatch.setattr(TfidfSvdEncoder, "fit", lambda *_: pytest.fail("encoded again"))
    second = load_content(dataset, config)
    assert np.array_equal(first.embeddings, second.embeddings)
    assert (first.content_hash, first.encoder) == (second.content_hash, second.encoder)
    new = [{"title": "Blue lipstick"}]
    assert np.array_equal(first.item_encoder.encode(new), second.item_encoder.encode(new))


def test_memory_and_cache_agree(make_dataset, cache):
    dataset, config = make_dataset(item_text_fields=FIELDS, content_dim=3)
    in_memory = load_content(dataset, config)
    assert not isinstance(in_memory.embeddings, np.memmap) and not cache.exists()
    config["content_cache_dir"] = str(cache)
    cached = load_content(dataset, config)
    assert np.array_equal(in_memory.embeddings, cached.embeddings)
    assert in_memory.content_hash == cached.content_hash


@pytest.mark.parametrize("build", [False, True])
def test_hash_knows_items_text_and_encoder_only(make_dataset, shop_items, build):
    def content_hash(changes=(), **settings):
        text = shop_items
        for old, new in changes:
            text = text.replace(old, new)
        settings = {"item_text_fields": FIELDS, "content_dim": 3, "seed": 1, **settings}
        dataset, config = make_dataset(items=text, build=build, **settings)
        return load_content(dataset, config).content_hash

    same = content_hash()
    assert content_hash(seed=2) == same  # the seed of a run does not touch the vectors
    assert content_hash([("\t7.5\n", "\t9\n")]) == same  # price is not among the fields
    assert content_hash(item_text_fields=[*FIELDS, "absent"]) == same
    others = [
        content_hash([("Red", "Pink")]),
        content_hash(content_dim=2),
        content_hash(item_text_fields=["brand", "title", "categories"]),
    ]
    assert len({same, *others}) == 4


def test_items_without_text_are_counted(make_dataset, caplog):
    dataset, config = make_dataset(item_text_fields=FIELDS, content_dim=3)
    with caplog.at_level(logging.WARNING):
        content = load_content(dataset, config)
    assert "1 of 5 items have no text" in caplog.text
    assert np.isclose(np.linalg.norm(content.embeddings[content.item_ids.index("d")]), 1)


@pytest.mark.parametrize("name", [".npy", ".safetensors", ".vocab.json", ".json"])
@pytest.mark.parametrize("damage", ["truncated", "one byte", "missing"])
def test_damaged_cache_is_made_anew(make_dataset, cache, caplog, name, damage):
    dataset, config = make_dataset(item_text_fields="title", content_dim=3, content_cache_dir=str(cache))
    first = load_content(dataset, config)
    expected = np.array(first.embeddings)
    path = cache / f"{first.content_hash}{name}"
    data = path.read_bytes()
    path.unlink()
    if damage == "truncated":
        path.write_bytes(data[:-5])
    elif damage == "one byte":
        path.write_bytes(data[:-5] + bytes([data[-5] ^ 0x55]) + data[-4:])
    with caplog.at_level(logging.WARNING):
        again = load_content(dataset, config)
    assert np.array_equal(again.embeddings, expected)
    assert path.read_bytes() == data
    if (name, damage) != (".json", "missing"):  # without that file there is no entry yet
        assert "is damaged or outdated; it is made anew" in caplog.text


def test_nothing_is_left_behind_by_a_failure(make_dataset, cache, vectors):
    path, _ = vectors
    array = np.load(path)
    array[5] = np.nan
    np.save(path, array)
    settings = {"content_encoder": "file", "content_file": str(path), "content_cache_dir": str(cache)}
    dataset, config = make_dataset(**settings)
    with pytest.raises(UserError, match="item 'c'"):
        load_content(dataset, config)
    assert [file.suffix for file in cache.iterdir()] in ([], [".lock"])


def test_full_cache_folder_is_read_without_writing(make_dataset, cache):
    dataset, config = make_dataset(item_text_fields=FIELDS, content_dim=3, content_cache_dir=str(cache))
    first = load_content(dataset, config)
    for lock in cache.glob("*.lock"):
        lock.unlink()
    before = sorted(os.listdir(cache))
    assert np.array_equal(load_content(dataset, config).embeddings, first.embeddings)
    assert sorted(os.listdir(cache)) == before


def test_cache_that_cannot_be_a_folder(make_dataset, tmp_path):
    (tmp_path / "taken").write_text("")
    dataset, config = make_dataset(item_text_fields=FIELDS, content_cache_dir=str(tmp_path / "taken"))
    with pytest.raises(UserError, match="content_cache_dir: cannot write to .*taken"):
        load_content(dataset, config)


def _load_counting(dataset, config, counter, out):
    fit = TfidfSvdEncoder.fit

    def counting(self, texts):
        with counter.get_lock():
            counter.value += 1
        return fit(self, texts)

    TfidfSvdEncoder.fit = counting
    out.put(load_content(dataset, config).content_hash)


def test_processes_share_the_work(make_dataset, cache):
    dataset, config = make_dataset(item_text_fields=FIELDS, content_dim=3, content_cache_dir=str(cache))
    context = multiprocessing.get_context("fork")
    counter, out = context.Value("i", 0), context.Queue()
    workers = [context.Process(target=_load_counting, args=(dataset, config, counter, out)) for _ in range(4)]
    for worker in workers:
        worker.start()
    hashes = {out.get(timeout=60) for _ in workers}
    for worker in workers:
        worker.join()
    assert counter.value == 1 and len(hashes) == 1


@pytest.mark.parametrize("cached", [False, True])
def test_file_content_follows_the_dataset(make_dataset, cache, vectors, cached):
    path, unit = vectors
    cache_dir = str(cache) if cached else None
    settings = {"content_encoder": "file", "content_file": str(path), "content_cache_dir": cache_dir}
    dataset, config = make_dataset(items=None, **settings)
    content = load_content(dataset, config)
    assert content.item_ids == ["[PAD]", *"eabcd"]
    assert np.allclose(content.embeddings, [np.zeros(4), *(unit[item] for item in "eabcd")], atol=1e-7)
    assert isinstance(content.embeddings, np.memmap) == cached
    assert content.item_encoder is None and content.encoder == {"kind": "file", "file": "v.npy"}
    again = load_content(dataset, config)
    assert again.content_hash == content.content_hash and np.array_equal(again.embeddings, content.embeddings)


def test_vectors_alone(vectors, cache, tmp_path):
    path, unit = vectors
    content = content_from_vectors(path)
    assert content.item_ids == ["[PAD]", *unit]
    assert np.allclose(content.embeddings, [np.zeros(4), *unit.values()], atol=1e-7)
    cached = content_from_vectors(path, path.with_suffix(".ids"), cache)
    assert isinstance(cached.embeddings, np.memmap) and np.array_equal(cached.embeddings, content.embeddings)
    assert cached.content_hash == content.content_hash
    moved = tmp_path / "moved.npy"
    path.rename(moved)
    path.with_suffix(".ids").rename(tmp_path / "moved.ids")
    renamed = content_from_vectors(moved, cache_dir=cache)
    assert renamed.content_hash == content.content_hash  # the vectors', not the name's


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_large_files_stay_where_they_are(vectors, monkeypatch, dtype):
    """Above a size nothing is held, and the content is the same: its hash names what is trained on it."""
    path, _ = vectors
    np.save(path, np.load(path).astype(dtype))
    held = content_from_vectors(path)
    monkeypatch.setattr(module, "HELD_BYTES", held.embeddings[1:].nbytes)
    assert isinstance(content_from_vectors(path).embeddings, np.ndarray)
    monkeypatch.setattr(module, "HELD_BYTES", held.embeddings[1:].nbytes - 1)
    left = content_from_vectors(path)
    assert isinstance(left.embeddings, UnitVectors) and np.array_equal(np.asarray(left.embeddings), held.embeddings)
    assert (left.content_hash, left.item_ids, left.encoder, left.parts) == (held.content_hash, held.item_ids, held.encoder, held.parts)
    assert left.part("text") is left.embeddings
    np.save(path, np.full((10, 4), np.nan, dtype))
    with pytest.raises(UserError, match="NaN"):
        content_from_vectors(path)


def test_other_vectors_under_the_same_name_are_seen(vectors, cache):
    path, _ = vectors
    first = content_from_vectors(path, cache_dir=cache)
    stat = path.stat()
    np.save(path, -np.load(path))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1000))
    second = content_from_vectors(path, cache_dir=cache)
    assert np.allclose(second.embeddings, -first.embeddings) and second.content_hash != first.content_hash


def test_float16_stays_float16(vectors, cache):
    path, unit = vectors
    np.save(path, np.load(path).astype(np.float16))
    content = content_from_vectors(path, cache_dir=cache)
    assert content.embeddings.dtype == np.float16
    assert np.allclose(content.embeddings[1:], list(unit.values()), atol=2e-3)


def test_encoder_travels(make_dataset, tmp_path):
    dataset, config = make_dataset(item_text_fields=FIELDS, content_dim=3)
    content = load_content(dataset, config)
    save_encoder(tmp_path / "saved", content)
    assert sorted(os.listdir(tmp_path / "saved")) == ["item_encoder.json", "item_encoder.safetensors"]
    assert json.loads((tmp_path / "saved" / "item_encoder.json").read_text())["fields"] == FIELDS
    item = {"title": "Nail polish, blue", "categories": ["Beauty", "Nail_Polish"], "brand": "OPI"}
    vector = load_encoder(tmp_path / "saved").encode([item])
    assert np.array_equal(vector, content.embeddings[[content.item_ids.index("c")]])


def test_no_encoder_to_save_or_load(vectors, tmp_path):
    with pytest.raises(UserError, match="came from a file"):
        save_encoder(tmp_path, content_from_vectors(vectors[0]))
    with pytest.raises(UserError, match="cannot read the item encoder"):
        load_encoder(tmp_path)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"content_encoder": "tfidf_svd"}, "unknown .* 'tfidf_svd'; choose .*did you mean 'tfidf-svd'"),
        ({"content_encoder": "file"}, "needs content_file"),
        ({"content_encoder": "file", "content_file": "none.npy"}, "none.npy does not exist"),
        ({"item_text_fields": ["nothing"]}, "none of the text fields"),
        ({"content_dim": 0, "item_text_fields": ["title"]}, "content_dim is 0"),
        ({"content_encoder": "sentence-transformers/", "item_text_fields": ["title"]}, "names no model"),
    ],
)
def test_bad_configuration(make_dataset, settings, message):
    dataset, config = make_dataset(**settings)
    with pytest.raises(UserError, match=message):
        load_content(dataset, config)


def test_dataset_lacks_vectors(make_dataset, tmp_path):
    np.save(tmp_path / "v.npy", np.ones((2, 3), np.float32))
    (tmp_path / "v.ids").write_text("a\nz\n")
    dataset, config = make_dataset(content_encoder="file", content_file=str(tmp_path / "v.npy"))
    with pytest.raises(UserError, match="lacks 4 of the dataset's 5 items, e.g. e, b, c"):
        load_content(dataset, config)


# -- several modalities -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def several(tmp_path, vectors):
    """A mapping of a text encoder and two files, the second of which lacks two of the five items."""
    array = np.random.default_rng(1).normal(size=(3, 2)).astype(np.float16)
    np.save(tmp_path / "sound.npy", array)
    (tmp_path / "sound.ids").write_text("a\nb\ne\n")
    return {
        "text": {"encoder": "tfidf-svd", "fields": FIELDS, "dim": 3},
        "image": {"encoder": "file", "file": str(vectors[0])},
        "sound": {"encoder": "file", "file": str(tmp_path / "sound.npy"), "missing": "zero"},
    }


def test_hashes_of_one_modality_are_those_of_earlier_versions(make_dataset, tmp_path):
    text = load_content(*make_dataset(item_text_fields=FIELDS, content_dim=3))
    assert text.content_hash == "dfe7a0f9a026f4daf00b578b0536d72ca95fcf2feb5af08da62c38cc20d4e90a"
    np.save("v.npy", np.arange(20, dtype=np.float32).reshape(5, 4) + 1)
    (tmp_path / "v.ids").write_text("a\nb\nc\nd\ne\n")
    file = load_content(*make_dataset(content_encoder="file", content_file="v.npy"))
    assert file.content_hash == "05f80dc4f30293f7891580542c281c5e4141c09babeb7ac6bd03955b328f8538"
    assert content_from_vectors("v.npy").content_hash == "970e30f87f4bf1e30411c75555a6a9f7a7808c670375684f1a2d663ff2ec25ec"
    assert text.parts == {"text": slice(0, 3)} and file.parts == {"text": slice(0, 4)}
    named = load_content(*make_dataset(content_encoder={"image": {"encoder": "file", "file": "v.npy"}}))
    assert named.content_hash == file.content_hash and named.parts == {"image": slice(0, 4)}
    both = {"content_encoder": ["tfidf-svd", "file"], "content_file": "v.npy"}
    listed = load_content(*make_dataset(item_text_fields=FIELDS, content_dim=3, **both))
    assert listed.parts == {"text": slice(0, 3), "v": slice(3, 7)}
    assert [listed.take([name]).content_hash for name in ("text", "v")] == [text.content_hash, file.content_hash]


@pytest.mark.parametrize("cached", [False, True])
def test_modalities_stand_side_by_side(make_dataset, cache, several, vectors, cached, caplog):
    dataset, config = make_dataset(content_encoder=several, content_cache_dir=str(cache) if cached else None)
    with caplog.at_level(logging.INFO):
        content = load_content(dataset, config)
    assert content.parts == {"text": slice(0, 3), "image": slice(3, 7), "sound": slice(7, 9)} == ItemVectors(content).parts
    assert "2 of 5 items have no vector in" in caplog.text
    assert "5 items x 9 (tfidf-svd + file + file: text 3, image 4, sound 2)" in caplog.text
    assert content.embeddings.dtype == np.float32 and isinstance(content.embeddings, np.memmap) == cached
    text = load_content(*make_dataset(item_text_fields=FIELDS, content_dim=3)).embeddings
    image = np.array([np.zeros(4), *(vectors[1][item] for item in "eabcd")])
    raw = np.load("sound.npy").astype(np.float64)
    unit = dict(zip("abe", raw / np.linalg.norm(raw, axis=1, keepdims=True)))
    sound = np.array([unit.get(item, np.zeros(2)) for item in content.item_ids])
    assert np.allclose(content.embeddings, np.hstack([text, image, sound]), atol=1e-3)
    assert np.array_equal(content.part("text"), text) and np.allclose(content.part("image"), image, atol=1e-7)
    norms = np.stack([np.linalg.norm(content.part(name).astype(np.float64), axis=1) for name in content.parts], axis=1)  # [n_items, parts]
    lacking = np.array([[item in lacks for lacks in ("", "", "cd")] for item in content.item_ids[1:]])
    assert not norms[0].any() and np.allclose(norms[1:], ~lacking, atol=1e-3)
    again = load_content(dataset, config)
    assert again.content_hash == content.content_hash and np.array_equal(again.embeddings, content.embeddings)
    assert again.encoder == content.encoder and again.parts == content.parts


def test_memory_and_cache_agree_on_several(make_dataset, cache, several, monkeypatch):
    in_memory = load_content(*make_dataset(content_encoder=several))
    dataset, config = make_dataset(content_encoder=several, content_cache_dir=str(cache))
    cached = load_content(dataset, config)
    assert in_memory.content_hash == cached.content_hash and np.array_equal(in_memory.embeddings, cached.embeddings)
    monkeypatch.setattr(TfidfSvdEncoder, "fit", lambda *_: pytest.fail("encoded again"))
    load_content(dataset, config)
    fewer = {name: several[name] for name in ("image", "text")}
    assert list(load_content(*make_dataset(content_encoder=fewer, content_cache_dir=str(cache))).parts) == ["image", "text"]


def test_a_modality_that_lacks_items(make_dataset, several):
    several["sound"]["missing"] = "error"
    with pytest.raises(UserError, match="sound.ids lacks 2 of the dataset's 5 items, e.g. c, d"):
        load_content(*make_dataset(content_encoder=several))


@pytest.mark.parametrize("names", [["sound"], ["sound", "again"]])
def test_an_item_without_any_vector(make_dataset, several, names):
    encoders = {name: several["sound"] for name in names}
    with pytest.raises(UserError, match=rf"item 'c' has no vector in any modality of content_encoder \({', '.join(names)}\); add"):
        load_content(*make_dataset(content_encoder=encoders))


def test_ids_of_another_catalogue_are_not_missing_items(make_dataset, several, tmp_path):
    (tmp_path / "sound.ids").write_text("x\ny\nz\n")
    with pytest.raises(UserError, match="sound.ids lacks 5 of the dataset's 5 items"):
        load_content(*make_dataset(content_encoder=several))


def test_mistakes_are_found_before_the_texts_are_read(make_dataset, several, monkeypatch):
    monkeypatch.setattr(module, "item_texts", lambda *_: pytest.fail("read"))
    several["sound"]["file"] = "none.npy"
    with pytest.raises(UserError, match="modality 'sound': content_file: none.npy does not exist"):
        load_content(*make_dataset(content_encoder=several))


def test_encoders_of_several_modalities_travel(make_dataset, tmp_path):
    encoders = {
        "names": {"encoder": "tfidf-svd", "fields": ["title"], "dim": 2},
        "kinds": {"encoder": "tfidf-svd", "fields": ["categories", "brand"], "dim": 3},
    }
    content = load_content(*make_dataset(content_encoder=encoders))
    save_encoder(tmp_path / "saved", content)
    loaded = load_encoder(tmp_path / "saved")
    item = {"title": "Nail polish, blue", "categories": ["Beauty", "Nail_Polish"], "brand": "OPI"}
    assert loaded.fields == ("title", "categories", "brand")
    assert np.array_equal(loaded.encode([item]), content.embeddings[[content.item_ids.index("c")]])


def test_texts_make_no_vectors_of_a_file(make_dataset, several, tmp_path):
    content = load_content(*make_dataset(content_encoder=several))
    save_encoder(tmp_path / "saved", content)
    with pytest.raises(UserError, match="modality image, sound came from a file.*; give .*side by side: text 3, image 4, sound 2 columns"):
        load_encoder(tmp_path / "saved").encode([{"title": "Red"}])
    files = load_content(*make_dataset(content_encoder={name: several[name] for name in ("image", "sound")}))
    with pytest.raises(UserError, match="came from a file"):
        save_encoder(tmp_path, files)


# -- once a run ---------------------------------------------------------------------------------------------------------------------


def test_a_loader_hashes_and_encodes_once(make_dataset, several, monkeypatch):
    counts = {"fit": 0, "texts": 0, "hashes": 0}

    def counted(name, function):
        def call(*args):
            counts[name] += 1
            return function(*args)

        return call

    monkeypatch.setattr(TfidfSvdEncoder, "fit", counted("fit", TfidfSvdEncoder.fit))
    monkeypatch.setattr(module, "item_texts", counted("texts", module.item_texts))
    monkeypatch.setattr(module, "hash_json", counted("hashes", module.hash_json))
    dataset, config = make_dataset(item_text_fields=FIELDS, content_dim=3)  # no cache folder
    loader = ContentLoader(dataset)
    first = loader.load(config)
    dataset.build()
    _, stage = make_dataset(item_text_fields=FIELDS, content_dim=3, seed=5, learning_rate=0.5)  # of another stage of the run
    assert loader.load(stage) is first and counts == {"fit": 1, "texts": 1, "hashes": 1}

    _, stage = make_dataset(content_encoder=several)
    whole = loader.load(stage)
    assert loader.load(stage, ["image"]).parts == {"image": slice(0, 4)} and loader.load(stage, ()) is whole
    assert counts["fit"] == 2 and ContentLoader(dataset).load(config) is not first and counts["fit"] == 3


# -- by a template ------------------------------------------------------------------------------------------------------------------

TEMPLATE = "{title}. Categories: {categories}"
BEFORE = "dfe7a0f9a026f4daf00b578b0536d72ca95fcf2feb5af08da62c38cc20d4e90a"
"""Hash of the shop's content before there were templates."""


def test_a_template_decides_texts_hash_and_description(make_dataset, cache):
    keys = {"content_dim": 3, "content_cache_dir": str(cache), "item_text_fields": FIELDS}
    joined = load_content(*make_dataset(**keys))
    assert load_content(*make_dataset(**keys, item_text_template=None)).content_hash == joined.content_hash
    dataset, config = make_dataset(**keys, item_text_template=TEMPLATE)
    content = load_content(dataset, config)
    assert content.encoder["template"] == "{title: }. Categories: {categories:, }" and content.encoder["fields"] == ["title", "categories"]
    texts = ["Blue hair dye. Categories: Beauty, Women's Hair", "Red lipstick by L'Oréal. Categories: Beauty, Hair Care"]
    texts += ["Nail polish, red. Categories: Beauty, Nail Polish", "Nail polish, blue. Categories: Beauty, Nail Polish", ""]
    assert np.array_equal(content.embeddings[1:], TfidfSvdEncoder(3).fit(texts).transform(texts))  # of e, a, b, c, d
    again = load_content(*make_dataset(**keys, item_text_template=TEMPLATE))
    assert again.item_encoder.template == content.item_encoder.template is not None and again.content_hash == content.content_hash
    new = [{"title": "Blue lipstick", "categories": "Beauty Women's_Hair"}, {"title": "Blue lipstick", "categories": ["Beauty", "Women's Hair"]}]
    want = content.item_encoder.encoder.transform(["Blue lipstick. Categories: Beauty, Women's Hair"])
    assert np.array_equal(again.item_encoder.encode(new), np.concatenate([want, want]))
    others = {load_content(*make_dataset(**keys, item_text_template=text)).content_hash for text in ("{title}. In: {categories}", "{title}")}
    assert len({joined.content_hash, content.content_hash, *others}) == 4


def test_templates_that_differ_for_new_items_alone_are_two(make_dataset, cache):
    keys = {"content_dim": 2, "content_cache_dir": str(cache), "items": "\n".join(f"{item}\tred {item}\t\t\t1" for item in "abcde")}
    one, two = (load_content(*make_dataset(**keys, item_text_template=text)) for text in ("{title}. By {brand}", "{title}. Of {brand}"))
    assert np.array_equal(one.embeddings, two.embeddings) and one.content_hash != two.content_hash
    assert [str(content.item_encoder.template) for content in (one, two)] == ["{title: }. By {brand: }", "{title: }. Of {brand: }"]


def test_without_a_template_hashes_are_those_of_before_there_were_any(make_dataset):
    """Vectors that lie in a cache stay those of the same texts, fields and encoder."""
    dataset, config = make_dataset(item_text_fields=FIELDS, content_dim=3)
    content = load_content(dataset, config)
    assert content.content_hash == BEFORE
    assert "template" not in content.encoder and "template" not in content.item_encoder.state_dict()[1]


def test_a_loader_tells_templates_apart(make_dataset):
    dataset, config = make_dataset(item_text_fields=FIELDS, content_dim=2)
    _, other = make_dataset(item_text_fields=FIELDS, content_dim=2, item_text_template=TEMPLATE)
    loader = ContentLoader(dataset)
    assert loader.load(config).content_hash != loader.load(other).content_hash


def test_modalities_with_templates_of_their_own(make_dataset, tmp_path):
    encoders = {name: {"encoder": "tfidf-svd", "template": text, "dim": 2} for name, text in (("a", TEMPLATE), ("b", "{brand} {title}"))}
    content = load_content(*make_dataset(content_encoder={**encoders, "c": {"encoder": "tfidf-svd", "fields": "title", "dim": 2}}))
    save_encoder(tmp_path, content)
    encoder = load_encoder(tmp_path)
    assert encoder.fields == ("title", "categories", "brand")
    record = {"title": "Nail polish, blue", "categories": "Beauty Nail_Polish", "brand": "OPI"}
    row = content.embeddings[content.item_ids.index("c")]
    assert np.allclose(encoder.encode([record])[0], row, atol=1e-6) and row.shape == (6,)
    assert content.encoder["parts"]["b"]["template"] == "{brand: } {title: }" and "template" not in content.encoder["parts"]["c"]


@pytest.fixture
def tiny_transformer(tmp_path):
    """A sentence encoder of random weights, whose words are averaged: its folder, its tokenizer and its model."""
    pytest.importorskip("sentence_transformers")
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path / "tiny-model"
    folder.mkdir()
    words = "[PAD] [UNK] [CLS] [SEP] [MASK] . , : red blue nail polish lipstick hair dye beauty care categories women ' s".split()
    (folder / "vocab.txt").write_text("\n".join(words))
    tokenizer = BertTokenizerFast(str(folder / "vocab.txt"))
    torch.manual_seed(0)
    model = BertModel(BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, max_position_embeddings=32,
    )).eval()  # fmt: skip
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    return folder, tokenizer, model


def test_a_transformer_reads_the_templates_texts(make_dataset, tiny_transformer, tmp_path):
    import torch

    folder, tokenizer, model = tiny_transformer
    dataset, config = make_dataset(
        content_encoder=f"sentence-transformers/{folder}", item_text_template=TEMPLATE, content_cache_dir=str(tmp_path / "cache"), device="cpu"
    )
    content = load_content(dataset, config)
    for item, text in (("c", "Nail polish, blue. Categories: Beauty, Nail Polish"), ("e", "Blue hair dye. Categories: Beauty, Women's Hair")):
        with torch.no_grad():
            states = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]  # [words, 16]
        mean = states.mean(0).numpy()
        assert np.allclose(content.embeddings[content.item_ids.index(item)], mean / np.linalg.norm(mean), atol=1e-5)
    save_encoder(tmp_path / "encoder", content)
    record = {"title": "Nail polish, blue", "categories": "Beauty Nail_Polish", "brand": "OPI"}
    again = load_encoder(tmp_path / "encoder").encode([record, {**record, "categories": ""}])
    row = content.embeddings[content.item_ids.index("c")]
    assert np.allclose(again[0], row, atol=1e-5) and not np.allclose(again[1], row, atol=1e-2)
