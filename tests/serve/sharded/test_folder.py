"""A folder fills up in any order, goes on where it stopped, and never takes the part of other work for its own."""

from __future__ import annotations

import pytest

from recbole_r3vae.errors import UserError
from recbole_r3vae.serve.sharded.folder import ShardFolder, read_manifest, read_parts
from recbole_r3vae.serve.sharded.shards import Shard

pyarrow = pytest.importorskip("pyarrow", reason="work in shards reads and writes Parquet: pip install '.[ray]'")

SHARDS = [Shard(number, "in.npy", 2 * number, 2 * number + 2, 2 * number) for number in range(3)]


def tables(*rows):
    return iter([pyarrow.table({"a": pyarrow.array(part, pyarrow.int64())}) for part in rows])


@pytest.fixture
def folder(tmp_path) -> ShardFolder:
    return ShardFolder(tmp_path / "out", "embed", {"k": 1}, SHARDS)


def test_parts_in_any_order(folder):
    with folder.opened() as complete:
        assert not complete and not read_manifest(folder.path)["complete"]
        with pytest.raises(UserError, match="incomplete"):
            next(read_parts(folder.path))
        assert folder.write(2, tables([5])) == 1 and folder.write(0, tables([1, 2], [3])) == 3
        assert [folder.rows_of(number) for number in range(3)] == [3, None, 1]
        with pytest.raises(UserError, match="part-00001.parquet is gone"):
            folder.finish()
        assert folder.write(1, tables([])) == 0
        assert folder.write(2, tables([5])) == 1  # once more, into the same place
        folder.finish(moved=7)
    manifest = read_manifest(folder.path)
    assert manifest["complete"] and manifest["rows"] == 4 and manifest["moved"] == 7 and manifest["settings"] == {"k": 1}
    assert [(part["file"], part["rows"], part["source"]) for part in manifest["shards"]] == [
        ("part-00000.parquet", 3, "in.npy[0:2]"), ("part-00001.parquet", 0, "in.npy[2:4]"), ("part-00002.parquet", 1, "in.npy[4:6]"),
    ]  # fmt: skip
    assert [part["bytes"] for part in manifest["shards"]] == [folder.part(number).stat().st_size for number in range(3)]
    assert [row for part in read_parts(folder.path) for row in part["a"].to_pylist()] == [1, 2, 3, 5]
    assert {path.name for path in folder.path.iterdir()} == {*(folder.part(n).name for n in range(3)), "manifest.json", ".lock"}
    with ShardFolder(folder.path, "embed", {"k": 1}, SHARDS).opened() as complete:
        assert complete


def test_a_part_is_whole_or_absent(folder):
    def breaks():
        yield from tables([1])
        raise KeyboardInterrupt

    with folder.opened(), pytest.raises(KeyboardInterrupt):
        folder.write(0, breaks())
    assert folder.rows_of(0) is None and {path.name for path in folder.path.iterdir()} == {"manifest.json", ".lock"}
    folder.write(0, tables([1, 2]))
    whole = folder.part(0).read_bytes()
    folder.part(0).write_bytes(whole[:-9])
    assert folder.rows_of(0) is None
    folder.part(1).write_bytes(whole)
    assert folder.rows_of(1) is None  # of another shard


@pytest.mark.parametrize("other", [("embed", {"k": 2}, SHARDS), ("tokenize", {"k": 1}, SHARDS), ("embed", {"k": 1}, SHARDS[:2])])
def test_other_work_is_refused_and_its_parts_do_not_count(folder, other):
    with folder.opened():
        folder.write(0, tables([1]))
    stranger = ShardFolder(folder.path, *other)
    assert stranger.rows_of(0) is None and folder.rows_of(0) == 1
    with pytest.raises(UserError, match="shards of other work"), stranger.opened():
        pass
    assert folder.rows_of(0) == 1


def test_a_folder_of_files(folder):
    folder.path.mkdir()
    (folder.path / "thesis.tex").touch()
    with pytest.raises(UserError, match="holds files already"), folder.opened():
        pass
    assert [path.name for path in folder.path.iterdir()] == ["thesis.tex"]


def test_a_manifest_that_is_none(folder, tmp_path):
    with pytest.raises(UserError, match="is no manifest"):
        read_manifest(tmp_path)
    (tmp_path / "manifest.json").write_text('{"schema": 99}')
    with pytest.raises(UserError, match="schema 99, this version reads 1"):
        read_manifest(tmp_path)
    with folder.opened():
        for number in range(3):
            folder.write(number, tables([number]))
        folder.finish()
    folder.write(1, tables([1, 1]))
    with pytest.raises(UserError, match="has 2 rows, the manifest says 1"):
        list(read_parts(folder.path))
