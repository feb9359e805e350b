"""From the fields of a RecBole ``.item`` file to one text per item."""

from __future__ import annotations

import difflib
import logging
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from recbole.utils import FeatureType

from recbole_r3vae.data.content.template import TextTemplate
from recbole_r3vae.data.content.words import FieldValue, clean_text, lists_names
from recbole_r3vae.errors import UserError, did_you_mean, short_repr

if TYPE_CHECKING:
    from recbole.data.dataset import Dataset

logger = logging.getLogger(__name__)

NAMES_SHARE = 0.1
"""A sequence is a list of names where at least this share of the items that have it show so; a title has a stray ``_`` now and then."""


def record_text(record: Mapping[str, FieldValue], fields: Sequence[str], template: TextTemplate | None = None) -> str:
    """The text of one item: its fields in the given order, cleaned and joined by ``". "``, or a template filled with them.

    Args:
        record: Field name to value, see :func:`~recbole_r3vae.data.content.words.clean_text`.
        fields: The fields to use, in order; missing and empty ones are left out. Not read where there is a template.
        template: As :func:`text_template` gives it.

    Returns:
        The text, empty when the item has none of the fields.
    """
    if template is not None:
        return template.fill(record)
    parts = (clean_text(record[field]) for field in fields if field in record)
    return ". ".join(part for part in parts if part)


def text_fields(dataset: Dataset, fields: Sequence[str], template: TextTemplate | None = None) -> list[str]:
    """Those of ``fields`` that the items of a dataset really have, in the order asked for; or those of a template, which must all exist.

    Args:
        dataset: A loaded RecBole dataset.
        fields: Field names, as the key ``item_text_fields`` gives them. Not read where there is a template.
        template: As the key ``item_text_template`` gives it.

    Returns:
        The fields to use; at least one.

    Raises:
        UserError: no ``.item`` file, or it was not loaded, has none of the fields or lacks one of the template, or one is a vector.
    """
    key = "item_text_fields" if template is None else "item_text_template"
    fields = fields if template is None else template.fields
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
            f"{key}, or give item vectors with content_encoder: file"
        )
    available = [field for field in features if field != dataset.iid_field]
    present = [field for field in fields if field in features]
    if not present and template is None:
        hint = did_you_mean(fields[0], available) if fields else ""
        raise UserError(
            f"dataset '{name}' has none of the text fields {list(fields)}; its items have {available}{hint}; "
            "set item_text_fields"
        )
    missing = next((field for field in fields if field not in features), None)
    if template is None:
        for field in (field for field in fields if field not in present):
            if close := difflib.get_close_matches(field, available, n=1, cutoff=0.75):
                logger.warning(f"item_text_fields names {field!r}, which items of dataset '{name}' have not; did you mean {close[0]!r}?")
    if template is not None and missing is not None:
        hint = did_you_mean(missing, available, otherwise="correct it, or let load_col read it")
        raise UserError(f"item_text_template names the field {short_repr(missing)}; the items of dataset '{name}' have {available}{hint}")
    for field in present:
        if dataset.field2type[field] == FeatureType.FLOAT_SEQ:
            raise UserError(
                f"{key}: field '{field}' of dataset '{name}' is a list of numbers, not text; "
                "take it out, or give the vectors with content_encoder: file"
            )
    return present


def text_template(dataset: Dataset, template: TextTemplate) -> TextTemplate:
    """A template for the items of a dataset, with what stands between the members of each field said.

    Files write titles and lists of categories alike, as sequences. A sequence is taken for a list of names, joined by ``", "``, where the
    members show it in :data:`NAMES_SHARE` of its items: by ``_`` for a space inside a name, or by quotes. All others are joined by spaces.

    Args:
        dataset: A loaded RecBole dataset with all fields of the template, see :func:`text_fields`.
        template: As the key ``item_text_template`` gives it.
    """
    lists = set()
    for field in template.fields:
        if dataset.field2type[field] == FeatureType.TOKEN_SEQ:
            filled = [value for value in field_values(dataset, field) if value]
            if filled and sum(map(lists_names, filled)) >= NAMES_SHARE * len(filled):
                lists.add(field)
    return template.resolved(lists)


def item_texts(dataset: Dataset, fields: Sequence[str], template: TextTemplate | None = None) -> list[str]:
    """The text of every item of a RecBole dataset, in RecBole's internal order.

    Args:
        dataset: A loaded RecBole dataset, before or after ``build()``. ``token`` and ``token_seq`` fields are
            turned back into words, ``float`` fields into plain numbers (after RecBole's normalisation, where
            configured).
        fields: The fields to join, in order; those that the dataset lacks are skipped. Not read where there is a template.
        template: As :func:`text_template` gives it.

    Returns:
        ``n_items`` texts. Row 0, RecBole's padding item, and items without any text have ``""``.

    Raises:
        UserError: no usable text field, see :func:`text_fields`.
    """
    fields = text_fields(dataset, fields, template)
    columns = [field_values(dataset, field) for field in fields]
    texts = [""] * dataset.num(dataset.iid_field)
    rows = _plain(dataset.item_feat[dataset.iid_field]).astype(np.int64)
    for position, row in enumerate(rows):
        if row != 0:
            texts[row] = record_text({f: column[position] for f, column in zip(fields, columns)}, fields, template)
    return texts


def field_values(dataset: Dataset, field: str) -> list[FieldValue]:
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
