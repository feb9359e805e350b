"""Fields of items as numbers, place by place."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from recbole_r3vae.data.item_values import category_levels, fields_of_items, numbered, values_at


def of(dataset, values) -> dict:
    return dict(zip(dataset.field2id_token["item_id"].tolist(), np.asarray(values).tolist()))


@pytest.mark.parametrize("build", [False, True])
def test_values_at_places(make_dataset, build):
    """Quoted names and ``_`` are spellings of one; a single word has one place."""
    dataset, _ = make_dataset(build=build)
    first, second, third = values_at(dataset, "categories", [0, 1, 2])
    assert of(dataset, first) == {"[PAD]": "", "a": "Beauty", "b": "Beauty", "c": "Beauty", "d": "", "e": "Beauty"}
    assert of(dataset, second) == {"[PAD]": "", "a": "Hair Care", "b": "Nail Polish", "c": "Nail Polish", "d": "", "e": "Women's Hair"}
    assert not third.any()
    [price] = values_at(dataset, "price", [0])
    assert not price[0] and all(price[1:])  # RecBole gives the padding item the mean
    [brand] = values_at(dataset, "brand", [0])
    assert of(dataset, brand) == {"[PAD]": "", "a": "Maybe_Line", "b": "", "c": "OPI", "d": "", "e": "OPI"}


def test_numbers_depend_on_the_values_alone():
    numbers, names = numbered(np.array(["", "b", "a", "", "c", "b"]))
    assert names == ["a", "b", "c"] and numbers.tolist() == [0, 2, 1, 0, 3, 2] and numbers.dtype == np.int64
    assert numbered(np.array(["", ""]))[1] == []


def test_fields_that_there_are(make_dataset, tmp_path):
    dataset, _ = make_dataset()
    found = fields_of_items(dataset, ["brand", "nothing", "categories"], 3)
    assert list(found) == ["brand", "categories_1", "categories_2"]  # no item has a third
    numbers, names = found["categories_2"]
    assert names == ["Hair Care", "Nail Polish", "Women's Hair"] and of(dataset, numbers)["b"] == of(dataset, numbers)["c"] == 2
    assert list(fields_of_items(dataset, ["categories"], 1)) == ["categories_1"]
    (tmp_path / "shop" / "shop.item").unlink()
    assert fields_of_items(make_dataset(items=None)[0], ["brand"], 1) == {}


def test_levels_of_categories(make_dataset, caplog):
    dataset, _ = make_dataset()
    with caplog.at_level(logging.WARNING):
        levels = category_levels(dataset, "categories", 2, 3)
        assert levels.shape == (6, 3) and levels.dtype == np.int64 and not levels[:, 1:].any()
        assert of(dataset, levels[:, 0]) == {"[PAD]": 0, "a": 1, "b": 2, "c": 2, "d": 0, "e": 3}
        assert of(dataset, category_levels(dataset, "categories", 1, 2)[:, 0])["e"] == 1
    assert not caplog.records


@pytest.mark.parametrize("field, first, shop", [("tags", 2, True), ("categories", 3, True), ("brand", 2, True), ("categories", 2, False)])
def test_levels_that_cannot_be_derived_are_said_once(make_dataset, caplog, field, first, shop):
    dataset, _ = make_dataset() if shop else make_dataset(items=None)
    with caplog.at_level(logging.WARNING):
        assert category_levels(dataset, field, first, 2) is None
    [record] = caplog.records
    assert f"no levels of categories in {field!r}" in record.message and "without them" in record.message
