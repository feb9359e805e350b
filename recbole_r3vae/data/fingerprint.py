"""What a dataset is, as it was loaded: a hash of it, and the ids of its users, items and features."""

from __future__ import annotations

import hashlib

import numpy as np
from recbole.data.dataset import Dataset


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
    for field, ids in sorted(dataset.field2id_token.items()):
        digest.update(f"\n{field}\n".encode() + "\n".join(map(str, ids)).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:16]


def known_ids(dataset: Dataset) -> dict[str, list[str]]:
    """The ids of every field that the dataset's model looks up by number, in the order of RecBole's numbers, the padding id first.

    Returns:
        Field to ids, of the fields that the model says it looks up by number: see :meth:`.Contract.id_fields`.
    """
    read = dataset.config.contract.id_fields(dataset)
    fields = (field for field in dataset.field2id_token if field in read)
    # Plain text, as checkpoints hold.
    return {str(field): np.asarray(dataset.field2id_token[field]).astype(str).tolist() for field in fields}
