"""Items of an atomic file, block by block."""

from __future__ import annotations

import pandas as pd
import pytest

from recbole_r3vae.data.item_file import read_items
from recbole_r3vae.errors import UserError


def test_items_are_read_as_recbole_reads_them(tmp_path, monkeypatch):
    monkeypatch.setattr("recbole_r3vae.data.item_file.ROWS", 2)
    path = tmp_path / "new.item"
    path.write_text('item_id:token\tyear:float\ttitle:token_seq\nn1\t1999\tA "B"\nn2\t\t\nn3\t7.5\tC\n', encoding="utf-8")
    blocks = list(read_items(path, ["title", "brand", "year"]))
    assert [names for names, _ in blocks] == [["n1", "n2"], ["n3"]]
    records = [record for _, part in blocks for record in part]
    assert records[0] == {"title": 'A "B"', "year": 1999.0} and records[1]["title"] == "" and pd.isna(records[1]["year"])
    for text, message in (("id:token\ttitle:token_seq\nn\tx\n", "'item_id'"), ("item_id:token\tx:token\nn\ty\n", "any of the fields title")):
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            list(read_items(path, ["title"]))
