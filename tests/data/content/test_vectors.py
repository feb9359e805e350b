"""Vector files: every format that is read, every way in which one can be wrong."""

from __future__ import annotations

import numpy as np
import pytest
import safetensors.numpy

from recbole_r3vae.data.content import vectors as vectors_module
from recbole_r3vae.data.content.vectors import VectorFile
from recbole_r3vae.errors import UserError

IDS = [f"i{n}" for n in range(7)]


def make_array(dtype="float32", n=7, d=5) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(n, d)).astype(dtype)


def store(path, array, ids=IDS, key="embeddings"):
    if path.suffix == ".npy":
        np.save(path, array)
    else:
        others = {"a_first": np.zeros(3, np.float32), "zz_last": np.ones(2, np.int64)}
        safetensors.numpy.save_file({**others, key: array}, path)
    path.with_suffix(".ids").write_text("".join(f"{item}\n" for item in ids), encoding="utf-8")
    return path


@pytest.mark.parametrize("ending", [".npy", ".safetensors"])
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


@pytest.mark.parametrize("ending", [".npy", ".safetensors"])
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


@pytest.mark.parametrize("ending", [".npy", ".safetensors"])
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
