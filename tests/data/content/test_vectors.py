"""Vector files: every format that is read, every way in which one can be wrong."""

from __future__ import annotations

import logging
import shlex

import numpy as np
import pytest
import safetensors.numpy
import torch

from recbole_r3vae.data.content import vectors as vectors_module
from recbole_r3vae.data.content.vectors import ENDINGS, UnitVectors, VectorFile
from recbole_r3vae.errors import UserError

IDS = [f"i{n}" for n in range(7)]


def make_array(dtype="float32", n=7, d=5) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(n, d)).astype(dtype)


def store(path, array, ids=IDS, key="embeddings"):
    others = {"a_first": np.zeros(3, np.float32), "zz_last": np.ones(2, np.int64)}
    if path.suffix == ".npy":
        np.save(path, array)
    elif path.suffix == ".npz":
        np.savez(path, **others, **{key: array})
    elif path.suffix == ".pt":
        torch.save({name: torch.from_numpy(value) for name, value in {**others, key: array}.items()}, path)
    else:
        safetensors.numpy.save_file({**others, key: array}, path)
    path.with_suffix(".ids").write_text("".join(f"{item}\n" for item in ids), encoding="utf-8")
    return path


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("dtype, out", [("float16",) * 2, ("float32",) * 2, ("float64", "float32")])
@pytest.mark.parametrize("block_bytes", [1, 100, 1 << 20])
def test_rows_in_the_order_asked_for(tmp_path, monkeypatch, ending, dtype, out, block_bytes):
    monkeypatch.setattr(vectors_module, "_BLOCK_BYTES", block_bytes)
    array = make_array(dtype)
    file = VectorFile(store(tmp_path / f"v{ending}", array))
    rows = file.rows_of(["i6", "i0", "i3"])
    assert rows.tolist() == [6, 0, 3]
    blocks = list(file.unit_blocks(rows))
    got = np.concatenate(blocks)
    wide = array.astype(np.float64)
    want = (wide / np.linalg.norm(wide, axis=1, keepdims=True))[[6, 0, 3]]
    assert got.dtype == out == file.dtype
    assert np.allclose(got, want, atol=1e-3 if out == "float16" else 1e-7)
    assert len(blocks) == {1: 3, 100: 2, 1 << 20: 1}[block_bytes]


def test_lengths_that_float32_cannot_square(tmp_path):
    array = np.array([[3e30, 4e30], [3e-30, 4e-30]], dtype=np.float32)
    file = VectorFile(store(tmp_path / "v.npy", array, ["a", "b"]))
    assert np.allclose(next(file.unit_blocks(np.arange(2))), [[0.6, 0.8]] * 2)


def test_ids_from_elsewhere_with_windows_line_ends_and_a_byte_order_mark(tmp_path):
    path = store(tmp_path / "v.npy", make_array(n=2))
    (tmp_path / "other.txt").write_bytes("\ufeffä 1\r\nb\r\n".encode())
    assert VectorFile(path, tmp_path / "other.txt").ids == ["ä 1", "b"]


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize(
    "array, message",
    [
        (make_array()[0], r"shape \[5\]"),
        (make_array()[:, :0], r"shape \[7, 0\]"),
        (make_array()[None], r"shape \[1, 7, 5\]"),
        (make_array().astype(np.int64), "holds (int64|I64); item vectors must be float16, float32 or float64"),
    ],
)
def test_wrong_shape_or_type(tmp_path, ending, array, message):
    with pytest.raises(UserError, match=message):
        VectorFile(store(tmp_path / f"v{ending}", array))


@pytest.mark.parametrize(
    "ids, message",
    [
        (IDS[:-1], "6 lines for the 7 rows"),
        (["item_id", *IDS], "8 lines for the 7 rows .*without a header"),
        ([*IDS[:-1], "i2"], "line 7: names item 'i2' twice"),
        ([*IDS[:3], "", *IDS[4:]], "line 4: has an empty item id"),
    ],
)
def test_wrong_ids(tmp_path, ids, message):
    with pytest.raises(UserError, match=message):
        VectorFile(store(tmp_path / "v.npy", make_array(), ids))


def test_ids_not_text(tmp_path):
    path = store(tmp_path / "v.npy", make_array())
    path.with_suffix(".ids").write_bytes(b"\xff\xfe" * 7)
    with pytest.raises(UserError, match="is not UTF-8"):
        VectorFile(path)


def test_items_that_are_not_there(tmp_path):
    file = VectorFile(store(tmp_path / "v.npy", make_array()))
    with pytest.raises(UserError, match=r"lacks 4 of the dataset's 6 items, e\.g\. w, x, y;"):
        file.rows_of(["i0", "w", "x", "y", "z", "i1"])


@pytest.mark.parametrize(
    "value, message",
    [
        (np.nan, r"item 'i4' \(row 4\) has a NaN or an infinity"),
        (np.inf, r"item 'i4' \(row 4\) has a NaN or an infinity"),
        (0, r"item 'i4' \(row 4\) is zero"),
    ],
)
def test_vectors_without_a_direction_name_the_first_item(tmp_path, value, message):
    array = make_array()
    array[4:6] = value
    file = VectorFile(store(tmp_path / "v.npy", array))
    with pytest.raises(UserError, match=message):
        list(file.unit_blocks(np.arange(7)))
    assert len(next(file.unit_blocks(np.arange(4)))) == 4  # rows nobody asked for do no harm


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("keep", [0, 4, 30, -3])
def test_truncated(tmp_path, ending, keep):
    path = store(tmp_path / f"v{ending}", make_array())
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match="is damaged or not what its name says") as error:
        VectorFile(path)
    assert "\n" not in str(error.value)


def test_python_objects_are_never_unpickled(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("unpickled",))

    path = tmp_path / "v.npy"
    store(path, np.array([[Bomb()]], dtype=object), ["a"])
    with pytest.raises(UserError, match="damaged or not what its name says"):
        VectorFile(path)


def test_other_names(tmp_path):
    with pytest.raises(UserError, match=r"content_file: .*v\.npy does not exist"):
        VectorFile(tmp_path / "v.npy")
    np.save(tmp_path / "v.npy", make_array())
    with pytest.raises(UserError, match=r"content_ids: .*v\.ids does not exist"):
        VectorFile(tmp_path / "v.npy")
    with pytest.raises(UserError, match=r"has no tensor 'embeddings'; it has \['a_first', 'x', 'zz_last'\]"):
        VectorFile(store(tmp_path / "w.safetensors", make_array(), key="x"))
    (tmp_path / "v.csv").write_text("1,2")
    (tmp_path / "v.ids").write_text("a")
    with pytest.raises(UserError, match=r"ends in '\.csv'"):
        VectorFile(tmp_path / "v.csv")


@pytest.mark.parametrize("ending", [".npz", ".pt"])
def test_one_array_needs_no_name(tmp_path, ending):
    array, path = make_array(), tmp_path / f"v{ending}"
    np.savez_compressed(path, anything=array) if ending == ".npz" else torch.save(torch.from_numpy(array).requires_grad_(), path)
    path.with_suffix(".ids").write_text("\n".join(IDS) + "\n")
    [block] = VectorFile(path).unit_blocks(np.arange(7))
    assert np.allclose(block, array / np.linalg.norm(array, axis=1, keepdims=True), atol=1e-6)
    with pytest.raises(UserError, match=r"holds \['a_first', 'embedding', 'zz_last'\]; write one array, or call one of them 'embeddings'"):
        VectorFile(store(path, array, key="embedding"))


def test_torch_files_are_mapped_and_bfloat16_is_read(tmp_path, monkeypatch):
    calls, load = [], torch.load
    monkeypatch.setattr(torch, "load", lambda *args, **given: calls.append(given) or load(*args, **given))
    path = store(tmp_path / "v.pt", make_array())
    assert not VectorFile(path)._array.flags.writeable
    torch.save(torch.from_numpy(make_array()).bfloat16(), path)
    file = VectorFile(path)
    assert file.dtype == np.float32 and np.allclose(file._array, make_array(), atol=0.02)
    assert calls == [{"map_location": "cpu", "weights_only": True, "mmap": True}] * 2


@pytest.mark.parametrize("stored, message", [
    ([1.0, 2.0], "holds a list; write one dense tensor"),
    (torch.eye(3).to_sparse(), "holds a torch.sparse_coo; write one dense tensor"),
    ({"a": [1.0]}, "holds a list; write one dense tensor"),
    ({}, r"holds \[\]; write one array"),
])  # fmt: skip
def test_torch_files_that_hold_no_vectors(tmp_path, stored, message):
    torch.save(stored, tmp_path / "v.pt")
    with pytest.raises(UserError, match=message):
        VectorFile(tmp_path / "v.pt")


@pytest.mark.parametrize("ending", [".npz", ".pt"])
@pytest.mark.parametrize("legacy", [False, True])
def test_archives_are_never_unpickled(tmp_path, ending, legacy):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("unpickled",))

    path = tmp_path / f"v{ending}"
    if ending == ".npz":
        np.savez(path, embeddings=np.array([[Bomb()]], dtype=object))
    else:
        torch.save(Bomb(), path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(UserError, match="damaged or not what its name says"):
        VectorFile(path)


@pytest.mark.parametrize("dtype, lines", [("float64", 1), ("float32", 0), ("float16", 0)])
def test_float64_is_said_once(tmp_path, caplog, dtype, lines):
    with caplog.at_level(logging.INFO):
        file = VectorFile(store(tmp_path / "v.npy", make_array(dtype)))
        list(file.unit_blocks(np.arange(7)))
    assert len([line for line in caplog.messages if "holds float64, which is read as float32" in line]) == lines == len(caplog.messages)


@pytest.mark.parametrize("ending", [".parquet", ".pq"])
def test_parquet_is_refused_with_the_command_that_converts_it(tmp_path, ending, monkeypatch):
    pandas = pytest.importorskip("pandas")
    path = tmp_path / f"v{ending}"
    path.write_bytes(b"PAR1")
    with pytest.raises(UserError, match="is Parquet, which is not read; convert it, .*: python -c ") as error:
        VectorFile(path)
    array, (program, flag, code) = make_array(), shlex.split(str(error.value).split("vector: ")[1])
    assert (program, flag) == ("python", "-c")
    frame = pandas.DataFrame({"item_id": IDS, "vector": list(array.astype(np.float64))})
    monkeypatch.setattr(pandas, "read_parquet", lambda given: frame if given == str(path) else pytest.fail(given))
    exec(code)
    file = VectorFile(tmp_path / "v.npy")
    assert file.ids == IDS and np.array_equal(file._array, array)


@pytest.mark.parametrize("block_bytes", [1, 1 << 20])
def test_missing_items_get_zeros_where_they_may(tmp_path, monkeypatch, block_bytes):
    monkeypatch.setattr(vectors_module, "_BLOCK_BYTES", block_bytes)
    file = VectorFile(store(tmp_path / "v.npy", make_array()))
    rows = file.rows_of(["x", "i2", "y", "i0"], optional=True)
    assert rows.tolist() == [-1, 2, -1, 0]
    got = np.concatenate(list(file.unit_blocks(rows)))
    assert not got[[0, 2]].any() and np.array_equal(got[[1, 3]], np.concatenate(list(file.unit_blocks(rows[[1, 3]]))))
    with pytest.raises(UserError, match="lacks 2 of the dataset's 2 items, e.g. x, y; add"):
        file.rows_of(["x", "y"], optional=True)


@pytest.mark.parametrize("dtype, atol", [("float16", 1e-3), ("float32", 1e-6)])
def test_modalities_side_by_side_are_scaled_each_by_itself(tmp_path, dtype, atol):
    array = make_array(dtype)
    array[2, :2], array[3, 2:] = 0, 0
    parts = {"x": slice(0, 2), "y": slice(2, 5)}
    file = VectorFile(store(tmp_path / "v.npy", array))
    got = np.concatenate(list(file.unit_blocks(np.arange(7), parts))).astype(np.float64)
    for columns in parts.values():
        part = array[:, columns].astype(np.float64)
        norms = np.linalg.norm(part, axis=1, keepdims=True)
        assert np.allclose(got[:, columns], np.divide(part, norms, where=norms > 0, out=np.zeros_like(part)), atol=atol)
    assert np.array_equal(next(file.unit_blocks(np.arange(7), {"all": slice(0, 5)})), next(file.unit_blocks(np.arange(7))))
    with pytest.raises(ValueError, match="do not cover 5 columns"):
        next(file.unit_blocks(np.arange(7), {"x": slice(0, 4)}))


# -- vectors left in their file


def test_half_rounds_once():
    """Through float32 a number just beside the middle of two halves would be rounded to the middle first, and then to even."""
    random = np.random.default_rng(0)
    near = random.normal(size=4000).astype(np.float16)
    middle = (near.astype(np.float64) + np.nextafter(near, np.float16(np.inf)).astype(np.float64)) / 2
    x = np.concatenate([middle, middle * (1 + 1e-12), middle * (1 - 1e-12), random.normal(size=4000) * 10.0 ** random.integers(-9, 4, 4000)])
    x = np.concatenate([x, -x, [0.0, -0.0]])[None]
    assert (vectors_module._half(x).view(np.uint16) == x.astype(np.float16).view(np.uint16)).all()
    assert (torch.from_numpy(x).half().numpy() != x.astype(np.float16)).any()  # so the way around is needed


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_rows_left_in_a_file_are_those_of_an_array(tmp_path, monkeypatch, dtype):
    monkeypatch.setattr(vectors_module, "_BLOCK_BYTES", 8 * 5 * 4)  # blocks of 4 rows
    file = VectorFile(store(tmp_path / "v.npy", make_array(dtype, 23), [f"i{n}" for n in range(23)]))
    held = np.concatenate([np.zeros((1, 5), file.dtype), *file.unit_blocks(np.arange(23))])
    left = UnitVectors(file)
    assert (left.shape, left.dtype, left.ndim, len(left)) == (held.shape, held.dtype, 2, 24)
    assert np.array_equal(np.asarray(left), held) and np.asarray(left).dtype == held.dtype
    for key in (slice(3, 17), slice(1, None), slice(None, None, 3), slice(20, 99), slice(5, 5)):
        assert isinstance(left[key], UnitVectors) and left[key].shape == held[key].shape
        assert np.array_equal(np.asarray(left[key]), held[key])
        assert np.array_equal(np.asarray(left[1:][key]), held[1:][key])
    for rows in ([0], [7, 7, 0, 23], [-1, 2], np.arange(3, 9), np.array([], np.int64)):
        assert np.array_equal(left[rows], held[rows])
    assert np.array_equal(left[2:][[0, 1]], held[[2, 3]])
    assert np.array(left[4:6], dtype=np.float64).dtype == np.float64


def test_rows_left_in_a_file_are_checked_whenever_they_are_read(tmp_path):
    array = np.ones((6, 3), np.float32)
    array[4, 1] = np.nan
    left = UnitVectors(VectorFile(store(tmp_path / "v.npy", array, IDS[:6])))
    assert np.isfinite(left[:5]).all()  # rows 0 to 3 of the file
    with pytest.raises(UserError, match="NaN"):
        left[[1, 5]]
    for wrong in ([7], [-8]):
        with pytest.raises(IndexError):
            left[wrong]
    for wrong in (3, [1.5], [[1]], [True]):
        with pytest.raises(TypeError):
            left[wrong]
