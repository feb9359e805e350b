"""Shards to work on: the catalogue's own items under new names, as texts and as vectors; histories of all users."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest


@pytest.fixture
def write_files():
    """A function that writes Parquet files into a folder which it makes."""
    return _write_files


def _write_files(folder, columns: dict, sizes: list[int], rows_a_group: int = 10**6):
    """Parquet files of so many rows each, in a folder that is made."""
    import pyarrow.parquet

    table, start = pyarrow.table(columns), 0
    folder.mkdir()
    for number, size in enumerate(sizes):
        pyarrow.parquet.write_table(table.slice(start, size), folder / f"{number}.parquet", row_group_size=rows_a_group)
        start += size
    assert start == table.num_rows
    return folder


@pytest.fixture
def new_items(tiny_data, tmp_path):
    """An ``.item`` file of 60 new items, twins of old ones, ten of which come under their old names; and the same as three Parquet files."""
    items = pd.read_csv(tiny_data / "tiny" / "tiny.item", sep="\t", dtype=str, keep_default_na=False)[:60]
    items["item_id:token"] = [name if row < 10 else f"new {name}" for row, name in enumerate(items["item_id:token"])]
    items.to_csv(tmp_path / "new.item", sep="\t", index=False)
    plain = {column.partition(":")[0]: items[column].tolist() for column in items}
    return tmp_path / "new.item", _write_files(tmp_path / "items", plain, [25, 5, 30], rows_a_group=20)


@pytest.fixture
def history_shards(histories, tmp_path):
    """All users' histories as two Parquet files of several row groups."""
    columns = {"user": list(histories), "history": list(histories.values())}
    return _write_files(tmp_path / "histories", columns, [40, len(histories) - 40], rows_a_group=15)


@pytest.fixture
def vectors(tmp_path):
    """A function that writes random vectors as ``.npy`` with ``.ids``; the folder of it."""

    def write(n: int, dim: int, seed: int = 0, names=None):
        (tmp_path / "vectors").mkdir()
        np.save(tmp_path / "vectors" / "v.npy", np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32))
        (tmp_path / "vectors" / "v.ids").write_text("".join(f"{name}\n" for name in names or (f"v{row}" for row in range(n))))
        return tmp_path / "vectors"

    return write
