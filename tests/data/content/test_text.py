"""Texts of items, from RecBole datasets before and after build()."""

from __future__ import annotations

import pytest

from recbole_r3vae.data.content.template import TextTemplate
from recbole_r3vae.data.content.text import item_texts, record_text, text_fields, text_template
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


def test_a_field_that_is_misspelt_beside_right_ones_is_told(make_dataset, caplog):
    dataset, _ = make_dataset()
    assert text_fields(dataset, ["titel", "title", "description"]) == ["title"]
    assert "item_text_fields names 'titel', which items of dataset" in caplog.text and "did you mean 'title'?" in caplog.text
    assert "description" not in caplog.text  # absent, and like none that is there: a list for several datasets


def test_item_without_a_row_has_no_text(make_dataset):
    dataset, _ = make_dataset(items="a\tRed lipstick\tBeauty\tOPI\t1", filter_inter_by_user_or_item=False)
    texts = dict(zip(dataset.field2id_token["item_id"], item_texts(dataset, ["title", "brand"])))
    assert texts == {"[PAD]": "", "a": "Red lipstick. OPI", "b": "", "c": "", "d": "", "e": ""}


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


# -- by a template ----------------------------------------------------------------------------------------------------------------

TEMPLATE = TextTemplate.parse("{title}. Categories: {categories}. Brand: {brand}, {price}")


@pytest.mark.parametrize("build", [False, True])
def test_texts_by_a_template(make_dataset, build):
    dataset, _ = make_dataset(build=build)
    template = text_template(dataset, TEMPLATE)
    assert str(template) == "{title: }. Categories: {categories:, }. Brand: {brand: }, {price: }"
    texts = item_texts(dataset, [], template)
    assert dict(zip(dataset.field2id_token["item_id"], texts)) == {
        "[PAD]": "",
        "a": "Red lipstick by L'Oréal. Categories: Beauty, Hair Care. Brand: Maybe Line, 19.99",
        "b": "Nail polish, red. Categories: Beauty, Nail Polish, 5",
        "c": "Nail polish, blue. Categories: Beauty, Nail Polish. Brand: OPI, 7.5",
        "d": "1250000",
        "e": "Blue hair dye. Categories: Beauty, Women's Hair. Brand: OPI, 12",
    }
    record = {"title": "Nail polish, blue", "categories": "Beauty Nail_Polish", "brand": "OPI", "price": 7.5}
    assert record_text(record, [], template) == texts[list(dataset.field2id_token["item_id"]).index("c")]


@pytest.mark.parametrize("marked, n, joined", [(1, 10, "x 0, y"), (1, 11, "x 0 y"), (0, 10, "x0 y"), (10, 10, "x 0, y")])
def test_one_name_in_ten_makes_a_list(make_dataset, marked, n, joined):
    rows = [f"{item}\tx{'_' if at < marked else ''}{at} y" for at, item in enumerate("abcdefghijk"[:n])]
    rows += [f"{item}\t" for item in "lmnopqrstuvwxyz"]  # those without any do not count
    dataset, _ = make_dataset(items="\n".join(rows), header="item_id:token\tnames:token_seq", filter_inter_by_user_or_item=False)
    texts = item_texts(dataset, [], text_template(dataset, TextTemplate.parse("{names}")))
    assert texts[list(dataset.field2id_token["item_id"]).index("a")] == joined


def test_a_field_that_nobody_has_is_no_list(make_dataset):
    dataset, _ = make_dataset(items="a\t\nb\t", header="item_id:token\tnames:token_seq", filter_inter_by_user_or_item=False)
    assert str(text_template(dataset, TextTemplate.parse("{names}"))) == "{names: }"


def test_a_field_that_is_no_sequence_is_no_list(make_dataset):
    dataset, _ = make_dataset(items="a\tOPI_Paris 'Nails'", header="item_id:token\tbrand:token", filter_inter_by_user_or_item=False)
    assert str(text_template(dataset, TextTemplate.parse("{brand}"))) == "{brand: }"
    assert str(text_template(dataset, TextTemplate.parse("{brand:/}"))) == "{brand:/}"


def test_every_field_of_a_template_must_exist(make_dataset):
    dataset, _ = make_dataset()
    assert text_fields(dataset, ["absent"], TEMPLATE) == ["title", "categories", "brand", "price"]
    with pytest.raises(UserError, match=r"item_text_template names the field 'categorie'; .*'shop' have \['title'.*'categories'\?") as error:
        text_fields(dataset, ["title"], TextTemplate.parse("{title}. {categorie}"))
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="'title.__class__'; .*did you mean 'title'"):
        text_fields(dataset, ["title"], TextTemplate.parse("{title.__class__}"))
    with pytest.raises(UserError, match="'zzz'; .*; correct it, or let load_col read it"):
        text_fields(dataset, ["title"], TextTemplate.parse("{zzz}"))
    dataset, _ = make_dataset(items="a\t0.1 0.2\nb\t0.3 0.4", header="item_id:token\temb:float_seq")
    with pytest.raises(UserError, match="item_text_template: field 'emb' .* is a list of numbers"):
        text_fields(dataset, ["title"], TextTemplate.parse("{emb}"))
    dataset, _ = make_dataset(load_col={"inter": ["user_id", "item_id", "timestamp"]})
    with pytest.raises(UserError, match=r"load_col .*item: \[item_id, title, categories, brand, price\]"):
        text_fields(dataset, [], TEMPLATE)
