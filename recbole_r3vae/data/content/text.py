"""From the fields of a RecBole ``.item`` file to one text per item."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from recbole.utils import FeatureType

from recbole_r3vae.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from recbole.data.dataset import Dataset

FieldValue = str | Sequence[str] | float

# RecBole's own Amazon files write a set of names as Python prints it: 'Hair Care', "Women's", 'Beauty'
_QUOTED_NAMES = re.compile(r"""(['"]).+['"]""", re.DOTALL)
_BETWEEN_NAMES = re.compile(r"""(?<=['"]),\s*(?=['"])""")


def clean_text(value: FieldValue) -> str:
    """One field of one item as plain words.

    The words of a sequence are joined by spaces. ``_``, which stands for a space inside one category or tag,
    becomes one, and comma-quoted lists of names lose their quotes and commas: ``Hair_Care Nails`` and
    ``'Hair Care', 'Nails'`` are two spellings of the same categories and give the same text.

    Args:
        value: A string, a sequence of words, or a number (written plainly: ``19.99``, not ``1.999e+01``).

    Returns:
        The text, without white space around it or runs of it inside; empty for an empty field.
    """
    if isinstance(value, (float, int, np.number)):
        return "" if np.isnan(value) else np.format_float_positional(np.float32(value), trim="-")
    text = value if isinstance(value, str) else " ".join(value)
    text = text.strip()
    if _QUOTED_NAMES.fullmatch(text):
        text = " ".join(name.strip("'\"") for name in _BETWEEN_NAMES.split(text))
    return " ".join(text.replace("_", " ").split())


def record_text(record: Mapping[str, FieldValue], fields: Sequence[str]) -> str:
    """The text of one item: its fields in the given order, cleaned and joined by ``". "``.

    Args:
        record: Field name to value, see :func:`clean_text`.
        fields: The fields to use, in order; missing and empty ones are left out.

    Returns:
        The text, empty when the item has none of the fields.
    """
    parts = (clean_text(record[field]) for field in fields if field in record)
    return ". ".join(part for part in parts if part)


def text_fields(dataset: Dataset, fields: Sequence[str]) -> list[str]:
    """Those of ``fields`` that the items of a dataset really have, in the order asked for.

    Args:
        dataset: A loaded RecBole dataset.
        fields: Field names, as the key ``item_text_fields`` gives them.

    Returns:
        The fields to use; at least one.

    Raises:
        UserError: no ``.item`` file, or it was not loaded, has none of the fields, or one is a vector.
    """
    name, features = dataset.dataset_name, dataset.item_feat
    if features is None:
        path = os.path.join(dataset.dataset_path, f"{name}.item")
        if os.path.isfile(path):
            raise UserError(
                f"dataset '{name}': {path} was not loaded, so items have no text; "
                f"let load_col have an entry item: [{', '.join([dataset.iid_field, *fields])}]"
            )
        raise UserError(
            f"dataset '{name}' has no item text: {path} does not exist; add that file with the fields of "
            "item_text_fields, or give item vectors with content_encoder: file"
        )
    present = [field for field in fields if field in features]
    if not present:
        available = [field for field in features if field != dataset.iid_field]
        hint = did_you_mean(fields[0], available) if fields else ""
        raise UserError(
            f"dataset '{name}' has none of the text fields {list(fields)}; its items have {available}{hint}; "
            "set item_text_fields"
        )
    for field in present:
        if dataset.field2type[field] == FeatureType.FLOAT_SEQ:
            raise UserError(
                f"item_text_fields: field '{field}' of dataset '{name}' is a list of numbers, not text; "
                "take it out, or give the vectors with content_encoder: file"
            )
    return present


def item_texts(dataset: Dataset, fields: Sequence[str]) -> list[str]:
    """The text of every item of a RecBole dataset, in RecBole's internal order.

    Args:
        dataset: A loaded RecBole dataset, before or after ``build()``. ``token`` and ``token_seq`` fields are
            turned back into words, ``float`` fields into plain numbers (after RecBole's normalisation, where
            configured).
        fields: The fields to join, in order; those that the dataset lacks are skipped.

    Returns:
        ``n_items`` texts. Row 0, RecBole's padding item, and items without any text have ``""``.

    Raises:
        UserError: no usable text field, see :func:`text_fields`.
    """
    fields = text_fields(dataset, fields)
    columns = [_column(dataset, field) for field in fields]
    texts = [""] * dataset.num(dataset.iid_field)
    rows = _plain(dataset.item_feat[dataset.iid_field]).astype(np.int64)
    for position, row in enumerate(rows):
        if row != 0:
            texts[row] = record_text({f: column[position] for f, column in zip(fields, columns)}, fields)
    return texts


def _column(dataset: Dataset, field: str) -> list[FieldValue]:
    """One field of all rows of ``item_feat`` as words or numbers; RecBole's padding id 0 means 'no value'."""
    values = _plain(dataset.item_feat[field])
    kind = dataset.field2type[field]
    if kind == FeatureType.FLOAT:
        return list(values)
    words = dataset.field2id_token[field]
    if kind == FeatureType.TOKEN:
        return ["" if i == 0 else str(words[i]) for i in values.astype(np.int64)]
    return [[str(words[i]) for i in row if i != 0] for row in values]  # token_seq; padded since build()


def _plain(column) -> np.ndarray:
    """A column of a DataFrame or of an Interaction as numpy."""
    return column.numpy() if isinstance(column, torch.Tensor) else column.to_numpy()
