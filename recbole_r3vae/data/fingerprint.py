"""What a dataset is, as it was loaded: a hash of it, and the ids of its users, items and features."""

from __future__ import annotations

import hashlib

import numpy as np
from recbole.data.dataset import Dataset
from recbole.utils import FeatureType


def data_fingerprint(dataset: Dataset) -> str:
    """A hash of all that was loaded: interactions, features of users and items, and the ids that their numbers stand for.

    Args:
        dataset: loaded and filtered, not yet split.

    Returns:
        Sixteen hexadecimal digits. The same lines in another order, one interaction more or another filter give another.
    """
    digest = hashlib.sha256()
    for name in ("inter", "user", "item"):
        features = getattr(dataset, f"{name}_feat", None)
        for field in sorted([] if features is None else features.columns):
            digest.update(f"\n{name}.{field}\n".encode())
            values = np.asarray(features[field])
            if values.dtype == object:  # sequences
                digest.update("\n".join(" ".join(map(str, np.atleast_1d(value))) for value in values).encode())
            else:
                digest.update(np.ascontiguousarray(values).tobytes())
    for field, ids in sorted(known_ids(dataset).items()):
        digest.update(f"\n{field}\n".encode() + "\n".join(ids).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:16]


def known_ids(dataset: Dataset) -> dict[str, list[str]]:
    """The ids of every field that a model may have a table for, in the order of RecBole's numbers, the padding id first.

    Returns:
        Field to ids: users, items, and columns of tokens; not texts, whose words no ranking model looks up by number.
    """
    kinds = (FeatureType.TOKEN,)
    found: dict[str, list[str]] = {}
    for field, ids in dataset.field2id_token.items():
        if field in (dataset.uid_field, dataset.iid_field) or dataset.field2type.get(field) in kinds:
            found[str(field)] = np.asarray(ids).astype(str).tolist()  # plain text: checkpoints hold nothing else
    return found
