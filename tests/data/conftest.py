"""Tiny RecBole datasets, written by each test as it needs them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from recbole.config import Config
from recbole.data.dataset import Dataset

HEADER = "item_id:token\ttitle:token_seq\tcategories:token_seq\tbrand:token\tprice:float"
ITEMS = """
a	Red lipstick by L'Oréal	'Beauty', 'Hair Care'	Maybe_Line	19.99
b	Nail polish, red	Beauty Nail_Polish		5
c	Nail polish, blue	Beauty Nail_Polish	OPI	7.5
d				1250000
e	Blue hair dye	'Beauty', "Women's Hair"	OPI	12
"""


@pytest.fixture
def shop_items() -> str:
    """The rows of the .item file that ``make_dataset`` writes by default."""
    return ITEMS


@pytest.fixture
def make_dataset(tmp_path, monkeypatch):
    """``make_dataset(items=text or None, **config) -> (dataset, config)``; all of a to e are in the .inter."""
    monkeypatch.setattr(sys, "argv", ["test"])

    def make(items: str | None = ITEMS, header: str = HEADER, build: bool = False, **settings):
        folder = tmp_path / "shop"
        folder.mkdir(exist_ok=True)
        rows = [f"u{u}\t{i}\t{t}" for u, ids in enumerate(("eabcd", "dcbae")) for t, i in enumerate(ids)]
        write(folder / "shop.inter", "user_id:token\titem_id:token\ttimestamp:float", rows)
        if items is not None:
            write(folder / "shop.item", header, items.strip("\n").split("\n"))
        values = {
            "data_path": str(tmp_path),
            "load_col": {"inter": ["user_id", "item_id", "timestamp"], "item": "*"},
            "gpu_id": "",
            "show_progress": False,
            **settings,
        }
        config = Config(model="BPR", dataset="shop", config_dict=values)
        dataset = Dataset(config)
        if build:
            dataset.build()
        return dataset, config

    return make


def write(path: Path, header: str, rows: list[str]) -> None:
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
