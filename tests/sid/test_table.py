from __future__ import annotations

import copy
import dataclasses
import gzip
import hashlib
import json
import os
import struct

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recbole_r3vae.errors import UserError
from recbole_r3vae.sid.codes import checked_codes, prefix_groups
from recbole_r3vae.sid.table import PAD, SemanticIDs

SIZES = (3, 4, 5)


def table(n=6, sizes=SIZES, seed=0, meta=None, ids=None):
    """``n`` items with random codes."""
    generator = torch.Generator().manual_seed(seed)
    columns = [torch.randint(size, (n,), generator=generator) for size in sizes]
    codes = torch.cat([torch.full((1, len(sizes)), -1), torch.stack(columns, 1)])
    return SemanticIDs(codes, sizes, [PAD, *(ids or (f"item{i}" for i in range(n)))], meta)


def same(a, b):
    return (
        torch.equal(a.codes, b.codes)
        and (a.codebook_sizes, a.item_ids, a.meta) == (b.codebook_sizes, b.item_ids, b.meta)
        and a.content_hash == b.content_hash
    )


def write(path, *lines):
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


HEADER = "item_id:token\tsid_1:token\tsid_2:token"


# -- in memory


def test_counts_the_padding_row():
    ids = table(n=6)
    assert (ids.n_items, ids.n_levels, ids.n_tokens) == (7, 3, 1 + 3 + 4 + 5)
    assert ids.codes.dtype == torch.int64 and ids.codes[0].tolist() == [-1, -1, -1]


def test_is_immutable_and_owns_its_codes():
    codes, meta = torch.tensor([[-1], [2]]), {"tokenizer": {"k": [1]}}
    ids = SemanticIDs(codes, (3,), [PAD, "a"], meta)
    codes[1] = 0
    meta["tokenizer"]["k"].append(2)
    assert ids.codes.tolist() == [[-1], [2]] and ids.meta == {"tokenizer": {"k": [1]}}
    with pytest.raises(dataclasses.FrozenInstanceError):
        ids.codes = codes


@pytest.mark.parametrize("dtype", [torch.int8, torch.int32, np.int16])
def test_takes_any_integers_and_numpy_ids(dtype):
    rows = [[-1, -1], [2, 1]]
    codes = np.array(rows, dtype) if dtype is np.int16 else torch.tensor(rows, dtype=dtype)
    ids = SemanticIDs(codes, np.array([3, 2]), np.array([PAD, "a"]))
    assert ids.codes.tolist() == [[-1, -1], [2, 1]] and ids.codes.dtype == torch.int64
    assert ids.codebook_sizes == (3, 2) and type(ids.codebook_sizes[0]) is int
    assert ids.item_ids == (PAD, "a") and type(ids.item_ids[1]) is str


@pytest.mark.parametrize(
    "codes, sizes, item_ids, message",
    [
        ([[-1, -1], [0, 4]], (3, 4), [PAD, "a"], r"item 'a' has code 4 at level 2.*0\.\.3"),
        ([[-1, -1], [-1, 0]], (3, 4), [PAD, "a"], r"item 'a' has code -1 at level 1.*0\.\.2"),
        ([[0, 0], [0, 0]], (3, 4), [PAD, "a"], r"row 0 .* -1 .* got \[0, 0\]"),
        ([[-1, -1], [0, 0]], (3,), [PAD, "a"], r"shape \[n, 1\].*got \[1, 2\]"),
        ([-1, 0], (3,), [PAD, "a"], r"shape \[n, 1\].*got \[1\]"),
        ([[-1.0], [0.0]], (3,), [PAD, "a"], r"integers, got torch.float32"),
        ([[-1], [0]], (), [PAD, "a"], r"one positive size for each level, got \(\)"),
        ([[-1], [0]], (0,), [PAD, "a"], r"one positive size for each level, got \(0,\)"),
        ([[-1], [0]], (3,), ["a", "b"], r"begin with '\[PAD\]'.*\['a', 'b'\]"),
        ([[-1]], (3,), [PAD], r"at least one item"),
        ([[-1], [0], [1]], (3,), [PAD, "a"], r"3 rows for 2 item ids"),
        ([[-1], [0], [1]], (3,), [PAD, "a", "a"], r"item 'a' stands in rows 1 and 2"),
        ([[-1], [0]], (3,), [PAD, PAD], r"item '\[PAD\]' stands in rows 0 and 1"),
        ([[-1], [0]], (3,), [PAD, ""], r"item id '' in row 1 is empty"),
        ([[-1], [0]], (3,), [PAD, "a\tb"], r"'a\\tb' in row 1 .* tab"),
        ([[-1], [0]], (3,), [PAD, "a\nb"], r"'a\\nb' in row 1 .* line end"),
        ([[-1], [0]], (3,), [PAD, "a\r"], r"'a\\r' in row 1 .* line end"),
        ([[-1], [0]], (3,), [PAD, "a\ud800"], r"'\\ud800', which UTF-8 cannot hold"),
    ],
)
def test_refuses_malformed_tables(codes, sizes, item_ids, message):
    with pytest.raises(UserError, match=message):
        SemanticIDs(torch.tensor(codes), sizes, item_ids)


@pytest.mark.parametrize("meta", [{"a": float("nan")}, {"a": object()}, [1, 2], "text"])
def test_refuses_meta_that_is_no_json_dict(meta):
    with pytest.raises(UserError, match="meta must be a dict"):
        table(meta=meta)


def test_checked_codes_names_rows_when_there_are_no_ids():
    with pytest.raises(UserError, match=r"row 1 has code 7 at level 1"):
        checked_codes(torch.tensor([[0], [7]]), (7,))


def test_unique_looks_at_full_tuples():
    def unique(rows):
        codes = torch.tensor([[-1, -1], *rows])
        return SemanticIDs(codes, (3, 3), [PAD, *map(str, range(len(rows)))]).unique

    assert unique([[0, 1], [1, 0], [0, 0], [1, 1]])
    assert not unique([[0, 1], [1, 0], [0, 1]])
    assert unique([[2, 2]])


@pytest.mark.parametrize("seed", range(5))
def test_prefix_groups_are_lexicographic_ranks(seed):
    codes = table(n=50, seed=seed, sizes=(4, 2, 3, 1)).codes[1:]
    groups = prefix_groups(codes)
    assert len(groups) == 4
    for length, group in enumerate(groups, start=1):
        prefixes = [tuple(row[:length]) for row in codes.tolist()]
        ranks = {prefix: rank for rank, prefix in enumerate(sorted(set(prefixes)))}
        assert group.tolist() == [ranks[prefix] for prefix in prefixes]


def test_tokens_share_one_vocabulary_without_overlap():
    ids = SemanticIDs(torch.tensor([[-1, -1, -1], [0, 0, 0], [2, 3, 4]]), SIZES, [PAD, "a", "b"])
    assert ids.tokens().tolist() == [[0, 0, 0], [1, 4, 8], [3, 7, 12]]
    assert ids.tokens().max() == ids.n_tokens - 1
    ids.tokens()[1] = 99
    assert ids.tokens()[1].tolist() == [1, 4, 8]


def test_content_hash_sees_ids_codes_sizes_and_order_but_not_meta():
    ids = table(meta={"seed": 1})
    assert len(ids.content_hash) == 64 and ids.content_hash == table(meta={"seed": 2}).content_hash
    other_code = ids.codes.clone()
    other_code[3, 1] = (other_code[3, 1] + 1) % SIZES[1]
    swapped = [0, 2, 1, *range(3, 7)]
    others = [
        SemanticIDs(other_code, SIZES, ids.item_ids),
        SemanticIDs(ids.codes, (3, 4, 6), ids.item_ids),
        SemanticIDs(ids.codes, SIZES, [*ids.item_ids[:-1], "other"]),
        ids.align([ids.item_ids[i] for i in swapped]),
    ]
    assert len({ids.content_hash, *(other.content_hash for other in others)}) == 5


def test_content_hash_is_stable():
    """The value is part of the file format: a change would orphan all stored tables."""
    ids = SemanticIDs(torch.tensor([[-1, -1], [0, 3], [2, 1]]), (3, 4), [PAD, "a", "ü"])
    codes = struct.pack("<6q", -1, -1, 0, 3, 2, 1)
    assert ids.content_hash == hashlib.sha256(b"[3, [3, 4]]" + "[PAD]\na\nü".encode() + codes).hexdigest()


def test_repr_is_short():
    assert repr(table()).startswith("SemanticIDs(6 items, codebook sizes (3, 4, 5), unique, hash ")


def unordered(ids):
    return dataclasses.replace(ids, ordered=False)


def test_codes_without_an_order_are_another_table():
    ids = table(meta={"seed": 3})
    assert ids.ordered and not unordered(ids).ordered and "unordered" in repr(unordered(ids))
    assert unordered(ids).content_hash != ids.content_hash
    assert not unordered(ids).align([PAD, "item3", "item1"]).ordered and ids.align([PAD, "item3"]).ordered


def test_a_file_says_that_its_codes_have_no_order(tmp_path):
    ids = table(n=9, meta={"a": 1})
    for path, expected in ((tmp_path / "x.sid", ids), (tmp_path / "y.sid", unordered(ids))):
        expected.save(path)
        loaded = SemanticIDs.load(path)
        assert loaded.ordered is expected.ordered and same(loaded, expected)
        assert not SemanticIDs.load(path, [PAD, "item2"]).ordered or expected.ordered
    assert "ordered" not in json.loads((tmp_path / "x.sid.json").read_text())
    assert json.loads((tmp_path / "y.sid.json").read_text())["ordered"] is False
    assert (tmp_path / "x.sid").read_bytes() == (tmp_path / "y.sid").read_bytes()


def test_a_compressed_table_is_the_same_table(tmp_path):
    plain, packed = tmp_path / "a.sid", tmp_path / "a.sid.gz"
    table = SemanticIDs(torch.tensor([[-1, -1], [3, 0], [1, 2]]), (4, 4), (PAD, "ä", "b"), {"tokenizer": "X"})
    table.save(plain)
    table.save(packed)
    assert gzip.decompress(packed.read_bytes()) == plain.read_bytes()
    assert (tmp_path / "a.sid.gz.json").read_bytes() == (tmp_path / "a.sid.json").read_bytes()
    loaded = SemanticIDs.load(packed)
    assert loaded.content_hash == table.content_hash and loaded.meta == table.meta
    before = packed.read_bytes()
    table.save(packed)
    assert packed.read_bytes() == before  # no time and no name in it
    for damaged in (before[:-9], before[:40], plain.read_bytes(), b""):
        packed.write_bytes(damaged)
        with pytest.raises(UserError, match="a.sid.gz"):
            SemanticIDs.load(packed)


def test_a_sidecar_whose_order_was_changed_is_refused(tmp_path):
    unordered(table()).save(tmp_path / "x.sid")
    side = tmp_path / "x.sid.json"
    for value, message in (("true", "is not the table that"), ('"no"', "'ordered' must be true or false, got 'no'; ")):
        side.write_text(side.read_text().replace('"ordered": false', f'"ordered": {value}'))
        with pytest.raises(UserError, match=message):
            SemanticIDs.load(tmp_path / "x.sid")
        side.write_text(side.read_text().replace(f'"ordered": {value}', '"ordered": false'))


# -- files


def test_file_is_a_plain_atomic_file_with_a_sidecar(tmp_path):
    codes = torch.tensor([[-1, -1], [0, 3], [2, 1]])
    ids = SemanticIDs(codes, (3, 4), [PAD, "a", "b c"], {"tokenizer": "R3VAE"})
    path = tmp_path / "new" / "x.sid"
    ids.save(path)
    assert path.read_bytes() == f"{HEADER}\na\t0\t3\nb c\t2\t1\n".encode()
    assert json.loads((tmp_path / "new" / "x.sid.json").read_text()) == {
        "schema": 1,
        "codebook_sizes": [3, 4],
        "content_hash": ids.content_hash,
        "n_items": 3,
        "meta": {"tokenizer": "R3VAE"},
    }
    assert sorted(p.name for p in path.parent.iterdir()) == ["x.sid", "x.sid.json"]


ODD_IDS = ["B00-ü", "日本語 の 本", " leading and trailing ", '"quoted', "#1", "nan", "0012", "🎧"]
ODD_IDS += ["a\x85b\u2028c\x0bd", "\ufeffbom"]  # line ends to str.splitlines, a byte order mark


def test_round_trip_is_exact_for_odd_ids(tmp_path):
    ids = table(n=len(ODD_IDS), ids=ODD_IDS, meta={"list": [1, 2.5, None], "ü": {"deep": True}})
    ids.save(tmp_path / "x.sid")
    assert same(SemanticIDs.load(tmp_path / "x.sid"), ids)
    assert same(SemanticIDs.load(str(tmp_path / "x.sid")), ids)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    ids=st.lists(
        st.text(st.characters(exclude_characters="\t\n\r", exclude_categories=["Cs"]), min_size=1),
        min_size=1,
        unique=True,
    ).filter(lambda ids: PAD not in ids),
    sizes=st.lists(st.integers(1, 10**9), min_size=1, max_size=5),
    seed=st.integers(0, 100),
)
def test_round_trip_is_exact(tmp_path, ids, sizes, seed):
    original = table(n=len(ids), ids=ids, sizes=tuple(sizes), seed=seed)
    original.save(tmp_path / "x.sid")
    assert same(SemanticIDs.load(tmp_path / "x.sid"), original)


def test_saving_twice_writes_the_same_bytes(tmp_path):
    ids = table(meta={"a": 1})
    ids.save(tmp_path / "x.sid")
    SemanticIDs.load(tmp_path / "x.sid").save(tmp_path / "y.sid")
    assert (tmp_path / "x.sid").read_bytes() == (tmp_path / "y.sid").read_bytes()
    assert (tmp_path / "x.sid.json").read_bytes() == (tmp_path / "y.sid.json").read_bytes()


@pytest.mark.parametrize("failing", ["table", "sidecar"])
def test_an_interrupted_save_never_leaves_a_table_that_loads_wrongly(tmp_path, monkeypatch, failing):
    """Whichever rename is the last to succeed, load() gives the old table, the new one, or an error."""
    path = tmp_path / "x.sid"
    rename = os.replace

    def broken(source, target):
        if str(target).endswith(".json") == (failing == "sidecar"):
            raise OSError(5, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(os, "replace", broken)
    with pytest.raises(UserError, match="Input/output error"):
        table().save(path)
    assert not path.exists(), "a table without its sidecar would pass for a foreign file"
    monkeypatch.setattr(os, "replace", rename)
    old = table(seed=1)
    old.save(path)
    monkeypatch.setattr(os, "replace", broken)
    with pytest.raises(UserError, match="Input/output error"):
        table(seed=2).save(path)
    if failing == "sidecar":
        assert same(SemanticIDs.load(path), old)
    else:
        with pytest.raises(UserError, match="not the table that"):
            SemanticIDs.load(path)


def test_foreign_file_without_sidecar(tmp_path):
    path = tmp_path / "x.sid"
    path.write_bytes(b"\xef\xbb\xbf" + HEADER.encode() + b"\r\na\t0\t007\r\nb\t2\t1")  # BOM, CRLF, no end
    ids = SemanticIDs.load(path)
    assert ids.codes.tolist() == [[-1, -1], [0, 7], [2, 1]]
    assert ids.codebook_sizes == (3, 8) and ids.item_ids == (PAD, "a", "b") and ids.meta == {}


@pytest.mark.parametrize(
    "lines, message",
    [
        (["item\tsid_1:token", "a\t1"], r"x\.sid, line 1: expected .*item_id:token sid_1:token.*'item sid_1"),
        (["item_id:token\tsid_2:token", "a\t1"], r"line 1: expected"),
        (["item_id:token", "a"], r"line 1: expected"),
        ([""], r"line 1: expected"),
        ([HEADER], r"names no items"),
        ([HEADER, "a\t0\t1", "b\t0"], r"line 3: expected an item id and 2 codes.*'b\\t0'"),
        ([HEADER, "a\t0\t1\t2"], r"line 2: expected"),
        ([HEADER, "a\t0\t-1"], r"line 2: expected"),
        ([HEADER, "a\t0\t1.0"], r"line 2: expected"),
        ([HEADER, "a\t0\t"], r"line 2: expected"),
        ([HEADER, "a\t0\t²"], r"line 2: expected"),
        ([HEADER, "a\t0\t٣"], r"line 2: expected"),
        ([HEADER, "a\t0\t1_0"], r"line 2: expected"),
        ([HEADER, "a\t0\t1234567890"], r"line 2: expected"),
        ([HEADER, "\t0\t1"], r"line 2: expected"),
        ([HEADER, "a\t0\t1", "", "b\t0\t1"], r"line 3: expected"),
        ([HEADER, "a\t0\t1", "a\t0\t2"], r"x\.sid: item 'a' stands in rows 1 and 2"),
    ],
)
def test_malformed_lines_are_named(tmp_path, lines, message):
    with pytest.raises(UserError, match=message):
        SemanticIDs.load(write(tmp_path / "x.sid", *lines))


def test_unreadable_files_are_user_errors(tmp_path):
    with pytest.raises(UserError, match=r"no semantic IDs at .*missing\.sid"):
        SemanticIDs.load(tmp_path / "missing.sid")
    with pytest.raises(UserError, match=r"cannot read"):
        SemanticIDs.load(tmp_path)
    (tmp_path / "x.sid").write_bytes(HEADER.encode() + b"\n\xff\t0\t1\n")
    with pytest.raises(UserError, match=r"not UTF-8"):
        SemanticIDs.load(tmp_path / "x.sid")


@pytest.mark.parametrize("old, new", [("item2\t", "item9\t"), ("item0\t", "item1\t"), ("\nitem5", "\n")])
def test_a_changed_table_is_refused(tmp_path, old, new):
    path = tmp_path / "x.sid"
    table().save(path)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(UserError, match=r"x\.sid"):
        SemanticIDs.load(path)


def test_a_table_with_another_code_or_fewer_or_swapped_lines_is_refused(tmp_path):
    path = tmp_path / "x.sid"
    table().save(path)
    header, *lines = path.read_text().splitlines()
    item, first, *rest = lines[0].split("\t")
    changed = "\t".join([item, str((int(first) + 1) % SIZES[0]), *rest])
    for tampered in ([changed, *lines[1:]], lines[:-1], [lines[1], lines[0], *lines[2:]]):
        write(path, header, *tampered)
        with pytest.raises(UserError, match=r"is not the table that .*x\.sid\.json describes.*delete x\.sid"):
            SemanticIDs.load(path)
    (tmp_path / "x.sid.json").unlink()
    assert SemanticIDs.load(path).item_ids[1] == lines[1].split("\t")[0]


def test_a_code_beyond_the_recorded_codebook_is_named(tmp_path):
    path = tmp_path / "x.sid"
    table(n=1).save(path)
    write(path, *path.read_text().splitlines()[:1], "item0\t0\t0\t9")
    with pytest.raises(UserError, match=r"x\.sid: item 'item0' has code 9 at level 3"):
        SemanticIDs.load(path)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda s: s.update(schema=2), r"schema 2, expected 1"),
        (lambda s: s.pop("schema"), r"schema None, expected 1"),
        (lambda s: s.pop("content_hash"), r"'content_hash' must be a str, got None"),
        (lambda s: s.update(meta=[1]), r"'meta' must be a dict, got \[1\]"),
        (lambda s: s.update(codebook_sizes=[3, 4, "5"]), r"'codebook_sizes' must hold integers"),
        (lambda s: s.update(codebook_sizes=[3, 4]), r"shape \[n, 2\]"),
        (lambda s: s.update(codebook_sizes=[3, 4, 50]), r"is not the table that"),
    ],
)
def test_a_changed_sidecar_is_refused(tmp_path, change, message):
    path, sidecar_path = tmp_path / "x.sid", tmp_path / "x.sid.json"
    table().save(path)
    sidecar = json.loads(sidecar_path.read_text())
    change(sidecar)
    sidecar_path.write_text(json.dumps(sidecar))
    with pytest.raises(UserError, match=message):
        SemanticIDs.load(path)


@pytest.mark.parametrize("text", ["{", "[]", "null", "\udcff"])
def test_a_sidecar_that_is_no_json_object_is_refused(tmp_path, text):
    table().save(tmp_path / "x.sid")
    (tmp_path / "x.sid.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(UserError, match=r"x\.sid\.json"):
        SemanticIDs.load(tmp_path / "x.sid")


# -- align


def test_align_follows_the_given_order_and_drops_the_rest():
    ids = table(n=20, meta={"seed": 3})
    order = [5, 17, 1, 20, 8]
    aligned = ids.align(np.array([PAD, *(ids.item_ids[row] for row in order)]))
    assert aligned.item_ids == (PAD, *(ids.item_ids[row] for row in order))
    assert torch.equal(aligned.codes, ids.codes[[0, *order]])
    assert (aligned.codebook_sizes, aligned.meta) == (ids.codebook_sizes, ids.meta)
    assert same(ids.align(ids.item_ids), ids)


def test_align_names_missing_items():
    ids = table()
    with pytest.raises(UserError, match=r"4 of 6 items have no semantic ID, for example 'x', 'y', 'z'; to"):
        ids.align([PAD, "item1", "x", "y", "item0", "z", "w"])


@pytest.mark.parametrize("item_ids", [["item0", "item1"], [PAD], [], [PAD, "item0", "item0"], ["item0", PAD]])
def test_align_refuses_what_is_no_item_order(item_ids):
    with pytest.raises(UserError):
        table().align(item_ids)


def test_deepcopy_keeps_everything():
    ids = table(meta={"a": [1]})
    assert same(copy.deepcopy(ids), ids)
