"""Fields of the ``.item`` file as numbers: the values of one field, place by place."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from recbole.utils import FeatureType

from recbole_r3vae.data.content.text import field_values
from recbole_r3vae.data.content.words import members

if TYPE_CHECKING:
    from recbole.data.dataset import Dataset

logger = logging.getLogger(__name__)


def values_at(dataset: Dataset, field: str, places: Sequence[int]) -> list[np.ndarray]:
    """What items have at some places of a field.

    A list of names, such as the path of an item's categories, has as many places as names; anything else has one.

    Args:
        dataset: A loaded RecBole dataset, before or after ``build()``.
        field: One of its item fields.
        places: From 0.

    Returns:
        For each place an array of str ``[n_items]`` in the dataset's item order, ``""`` where an item has nothing there.
    """
    rows = np.asarray(dataset.item_feat[dataset.iid_field]).astype(np.int64)
    is_list = dataset.field2type[field] == FeatureType.TOKEN_SEQ
    found = [np.full(dataset.item_num, "", dtype=object) for _ in places]
    for row, value in zip(rows, field_values(dataset, field)):
        names = members(value) if is_list else [name for name in [" ".join(str(value).split())] if name]
        for values, place in zip(found, places):
            if row and place < len(names):
                values[row] = names[place]
    return [values.astype(str) for values in found]


def numbered(values: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Values as numbers that depend on the values alone, not on the order of items.

    Args:
        values: Str ``[n]``; ``""`` is no value.

    Returns:
        int64 ``[n]`` from 1, 0 for no value; and the values in the order of their numbers, sorted.
    """
    names = sorted(set(values.tolist()) - {""})
    number = {name: at for at, name in enumerate(names, start=1)}
    return np.array([number.get(value, 0) for value in values.tolist()], dtype=np.int64), names


def fields_of_items(dataset: Dataset, fields: Sequence[str], n_places: int) -> dict[str, tuple[np.ndarray, list[str]]]:
    """Fields of items as numbers, a list of names as one field for each of its first places.

    Args:
        dataset: See :func:`values_at`.
        fields: Names; those that the items do not have are passed over.
        n_places: How many places of a list count.

    Returns:
        Name of each field (``brand``; ``categories_1``, ``categories_2`` … of a list) to what :func:`numbered` gives, in the order asked for.
        A place at which no item has anything is left out.
    """
    found = {}
    features = () if dataset.item_feat is None else dataset.item_feat
    for field in (field for field in fields if field in features):
        is_list = dataset.field2type[field] == FeatureType.TOKEN_SEQ
        columns = values_at(dataset, field, range(n_places if is_list else 1))
        for place, values in enumerate(columns, start=1):
            if values.any():
                found[f"{field}_{place}" if is_list else field] = numbered(values)
    return found


def category_levels(dataset: Dataset, field: str, first: int, n_levels: int) -> np.ndarray | None:
    """The categories of items, level by level, of a field that lists the names on an item's path from the root.

    Args:
        dataset: See :func:`values_at`.
        field: The field's name.
        first: Which name on the path is the first level's, from 1.
        n_levels: L.

    Returns:
        int64 ``[n_items, L]``, numbered from 1 at each level, 0 where an item has no category; ``None``, with a warning, where no item has
        any at the first level, so that there are no levels.
    """
    features = () if dataset.item_feat is None else dataset.item_feat
    levels = values_at(dataset, field, range(first - 1, first - 1 + n_levels)) if field in features else []
    if not levels or not levels[0].any():
        there = ", ".join(name for name in features if name != dataset.iid_field) or "no fields"
        logger.warning(
            f"category_field: no levels of categories in {field!r}; items of dataset {dataset.dataset_name!r} have {there}. Codes are learned "
            "without them"
        )
        return None
    return np.stack([numbered(values)[0] for values in levels], axis=1)
