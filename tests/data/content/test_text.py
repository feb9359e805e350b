"""Texts of items, from RecBole datasets before and after build()."""

from __future__ import annotations

import pytest

from recbole_r3vae.data.content.text import clean_text, item_texts, record_text
from recbole_r3vae.errors import UserError

EXPECTED = {
    "a": "Red lipstick by L'Oréal. Beauty Hair Care. Maybe Line. 19.99",
    "b": "Nail polish, red. Beauty Nail Polish. 5",
    "c": "Nail polish, blue. Beauty Nail Polish. OPI. 7.5",
    "d": "1250000",
    "e": "Blue hair dye. Beauty Women's Hair. OPI. 12",
}


@pytest.mark.parametrize("build", [False, True])
def test_every_kind_of_field(make_dataset, build):
    dataset, _ = make_dataset(build=build)
    texts = item_texts(dataset, ["title", "categories", "subtitle", "brand", "price"])
    ids = dataset.field2id_token["item_id"]
    assert texts[0] == "" and len(texts) == dataset.item_num == 6
    assert dict(zip(ids[1:], texts[1:])) == EXPECTED


def test_fields_come_in_the_order_asked_for(make_dataset):
    dataset, _ = make_dataset()
    texts = dict(zip(dataset.field2id_token["item_id"], item_texts(dataset, ["brand", "title"])))
    assert texts["c"] == "OPI. Nail polish, blue"
    assert texts["d"] == ""


def test_item_without_a_row_has_no_text(make_dataset):
    dataset, _ = make_dataset(items="a\tRed lipstick\tBeauty\tOPI\t1", filter_inter_by_user_or_item=False)
    texts = dict(zip(dataset.field2id_token["item_id"], item_texts(dataset, ["title", "brand"])))
    assert texts == {"[PAD]": "", "a": "Red lipstick. OPI", "b": "", "c": "", "d": "", "e": ""}


@pytest.mark.parametrize(
    "value, text",
    [
        ("'Beauty', 'Hair Care'", "Beauty Hair Care"),
        (["'Hair", "Care',", "\"Women's\",", "'Nails'"], "Hair Care Women's Nails"),
        (["Hair_Care", "Nails"], "Hair Care Nails"),
        ("Children's toys, 'boxed' set", "Children's toys, 'boxed' set"),
        ("  two   spaces\tand tab ", "two spaces and tab"),
        ("'", "'"),
        ([], ""),
        (19.99, "19.99"),
        (3, "3"),
        (1e-7, "0.0000001"),
        (float("nan"), ""),
    ],
)
def test_clean_text(value, text):
    assert clean_text(value) == text


def test_record_text_is_the_dataset_text():
    categories = "'Beauty', 'Hair Care'"
    record = {"price": 19.99, "brand": "Maybe_Line", "title": ["Red", "lipstick"], "categories": categories}
    assert record_text(record, ["title", "categories", "brand", "price", "absent"]) == (
        "Red lipstick. Beauty Hair Care. Maybe Line. 19.99"
    )


def test_unknown_fields_name_dataset_fields_and_key(make_dataset):
    dataset, _ = make_dataset()
    with pytest.raises(UserError) as error:
        item_texts(dataset, ["titel", "text"])
    for part in ("'shop'", "['titel', 'text']", "['title', 'categories', 'brand', 'price']", "'title'?"):
        assert part in str(error.value)
    with pytest.raises(UserError, match="item_text_fields"):
        item_texts(dataset, [])


def test_no_item_file(make_dataset):
    dataset, _ = make_dataset(items=None)
    with pytest.raises(UserError, match=r"'shop' has no item text: .*shop\.item does.*content_encoder: file"):
        item_texts(dataset, ["title"])


def test_item_file_not_loaded(make_dataset):
    dataset, _ = make_dataset(load_col={"inter": ["user_id", "item_id", "timestamp"]})
    with pytest.raises(UserError, match=r"shop\.item was not loaded.*load_col .*item: \[item_id, title\]"):
        item_texts(dataset, ["title"])


def test_vectors_are_no_text(make_dataset):
    dataset, _ = make_dataset(items="a\t0.1 0.2\nb\t0.3 0.4", header="item_id:token\temb:float_seq")
    with pytest.raises(UserError, match="'emb' of dataset 'shop' is a list of numbers"):
        item_texts(dataset, ["emb"])
