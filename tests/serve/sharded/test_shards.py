"""Every row is in one shard, and read from it as it is read from one file."""

from __future__ import annotations

import os

import numpy as np
import pytest

from recbole_r3vae.data.content.vectors import VectorFile
from recbole_r3vae.errors import UserError
from recbole_r3vae.io import write_json
from recbole_r3vae.serve.sharded import shards
from recbole_r3vae.serve.sharded.shards import read_records, read_vectors, shards_of, stamp_of

pyarrow = pytest.importorskip("pyarrow", reason="work in shards reads and writes Parquet: pip install '.[ray]'")


@pytest.mark.parametrize("n, size", [(1, 1), (7, 3), (9, 3), (5, 100)])
def test_rows_of_npy_are_in_one_shard_each(vectors, n, size):
    cut = shards_of(vectors(n, 4), size)
    assert [row for shard in cut for row in range(shard.start, shard.stop)] == list(range(n))
    assert [shard.number for shard in cut] == list(range(len(cut))) and max(shard.rows for shard in cut) <= size
    assert [shard.before for shard in cut] == [shard.start for shard in cut]


def test_row_groups_of_parquet_are_shards(tmp_path, write_files):
    folder = write_files(tmp_path / "p", {"item_id": list(range(23)), "title": [f"t{row}" for row in range(23)]}, [11, 0, 12], 5)
    (folder / "_SUCCESS").touch()  # of Spark
    cut = shards_of(folder)
    assert [shard.rows for shard in cut] == [5, 5, 1, 5, 5, 2] and [shard.before for shard in cut] == [0, 5, 10, 11, 16, 21]
    assert [shard.source for shard in cut][2:4] == ["0.parquet[10:11]", "2.parquet[0:5]"]
    read = [(ids, records) for shard in cut for ids, records in read_records(shard, "item_id", ["title", "absent"])]
    assert [name for ids, _ in read for name in ids] == [str(row) for row in range(23)]  # numbers are ids too
    assert [record for _, records in read for record in records] == [{"title": f"t{row}"} for row in range(23)]
    assert [len(ids) for ids, _ in read] == [5, 5, 1, 5, 5, 2]
    assert shards_of(folder / "2.parquet")[1].before == 5


@pytest.mark.parametrize("kind", ["fixed", "list", "double"])
def test_vectors_of_parquet_are_those_of_npy(vectors, tmp_path, monkeypatch, write_files, kind):
    monkeypatch.setattr(shards, "ROWS", 4)  # several blocks a shard
    file = VectorFile(vectors(23, 6) / "v.npy")
    raw = np.load(file.path)
    column = {
        "fixed": lambda: pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(raw.reshape(-1)), 6),
        "list": lambda: pyarrow.array(raw.tolist(), pyarrow.list_(pyarrow.float32())),
        "double": lambda: pyarrow.array(raw.astype(np.float64).tolist()),
    }[kind]()
    folder = write_files(tmp_path / "p", {"vector": column, "item_id": file.ids}, [11, 12], 7)
    parts = {"a": slice(0, 2), "b": slice(2, 6)}
    expected = np.concatenate(list(file.unit_blocks(np.arange(23), parts)))
    for source, size in ((folder, 1), (file.path, 9)):
        blocks = [block for shard in shards_of(source, size) for block in read_vectors(shard, 6, parts)]
        assert [name for ids, _ in blocks for name in ids] == file.ids and max(len(ids) for ids, _ in blocks) == 4
        assert np.array_equal(np.concatenate([x for _, x in blocks]), expected)


@pytest.mark.parametrize("rows, message", [
    ([[1.0, 2.0], [0.0, 0.0]], "the vector of item 'b' is zero"), ([[1.0, 2.0], [1.0, float("nan")]], "'b' has a NaN"),
    ([[1.0, 2.0], [1.0]], "length 1, 2, the model takes 2"), ([[1.0, 2.0], None], "length 2, none"), ([[1.0], [2.0]], "length 1,"),
])  # fmt: skip
def test_vectors_that_are_none(tmp_path, write_files, rows, message):
    [shard] = shards_of(write_files(tmp_path / "p", {"item_id": ["a", "b"], "vector": pyarrow.array(rows)}, [2]))
    with pytest.raises(UserError, match=message):
        list(read_vectors(shard, 2))


def test_what_is_no_input(tmp_path, vectors, write_files):
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UserError, match="a folder of files of one of these kinds"):
        shards_of(empty)
    with pytest.raises(UserError, match="there is no"):
        shards_of(tmp_path / "absent.parquet")
    with pytest.raises(UserError, match=r"\.csv"):
        shards_of(tmp_path / "histories.csv")
    (empty / "a.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(UserError, match="no Parquet file or a damaged one"):
        shards_of(empty)
    both = vectors(3, 2)
    [shard] = shards_of(both)
    with pytest.raises(UserError, match="length 2, the model takes 3"):
        list(read_vectors(shard, 3))
    write_files(tmp_path / "p", {"item_id": []}, [0]).joinpath("0.parquet").rename(both / "0.parquet")
    with pytest.raises(UserError, match="of one of these kinds"):
        shards_of(both)
    with pytest.raises(UserError, match="holds no rows"):
        shards_of(both / "0.parquet")
    with pytest.raises(UserError, match="no id"):
        [shard] = shards_of(write_files(tmp_path / "q", {"item_id": ["a", None], "t": ["", None]}, [2]))
        list(read_records(shard, "item_id", ["t"]))
    with pytest.raises(UserError, match="none of the text fields title; it has item_id, t"):
        list(read_records(shard, "item_id", ["title"]))
    with pytest.raises(UserError, match="no column 'id'; it has item_id, t; rename it"):
        list(read_records(shard, "id", ["t"]))
    write_json(tmp_path / "q" / "manifest.json", {"schema": 1, "complete": False})
    with pytest.raises(UserError, match="is incomplete"):
        shards_of(tmp_path / "q")


def test_a_changed_file_has_another_stamp(vectors):
    folder = vectors(5, 2)
    before = stamp_of(shards_of(folder, 2))
    assert stamp_of(shards_of(folder, 2)) == before != stamp_of(shards_of(folder, 3))
    os.utime(folder / "v.npy", ns=(1, 1))
    assert stamp_of(shards_of(folder, 2)) != before
