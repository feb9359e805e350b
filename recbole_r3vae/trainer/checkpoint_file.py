"""Checkpoints as files: tensors and plain data, whole or absent, that cannot run code."""

from __future__ import annotations

import os
import random
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
import torch

from recbole_r3vae.data.content import ItemContent
from recbole_r3vae.errors import UserError
from recbole_r3vae.io import atomic_write
from recbole_r3vae.model.contract import Sources
from recbole_r3vae.sid.table import SemanticIDs

SCHEMA = 3


def save_checkpoint(path: str | os.PathLike, state: dict[str, Any]) -> None:
    """Write tensors and plain data; the file is whole or absent."""
    with atomic_write(path, "wb") as file:
        torch.save({"schema": SCHEMA, **state}, file)


def load_checkpoint(path: str | os.PathLike, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read a checkpoint with ``weights_only=True``: nothing in it is executed.

    Args:
        path: A ``best.pth`` or ``last.pth`` of this package.
        device: Where its tensors go.

    Returns:
        What :func:`save_checkpoint` was given.

    Raises:
        UserError: the file is absent, truncated, changed, holds more than tensors and plain data, or is of another schema.
    """
    if not Path(path).is_file():
        raise UserError(f"there is no checkpoint {path}; check the path, or train first")
    try:
        with zipfile.ZipFile(path) as archive:  # torch writes checksums and never reads them
            if archive.testzip() is not None:
                raise zipfile.BadZipFile("a checksum does not fit")
        state = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # torch raises RuntimeError, UnpicklingError, EOFError or OSError, depending on the damage
        raise UserError(
            f"checkpoint {path} is damaged, or was not written by this package ({type(error).__name__}); delete it and train again"
        ) from error
    if not isinstance(state, dict) or state.get("schema") != SCHEMA:
        found = state.get("schema") if isinstance(state, dict) else type(state).__name__
        raise UserError(
            f"checkpoint {path} has schema {found!r}, this version reads {SCHEMA}: earlier ones do not know their users, items and data; "
            "train again, or use it with the version that wrote it"
        )
    return state


def to_plain(value: Any) -> Any:
    """Arrays and sparse matrices, in which RecBole's non-gradient models keep what they learned, as tensors and plain data.

    Modules are left out: DIN lists one among its other parameters, whose weights are among the model's own.
    """
    if isinstance(value, dict):
        return {key: to_plain(entry) for key, entry in value.items() if not isinstance(entry, torch.nn.Module)}
    if scipy.sparse.issparse(value):
        matrix = value.tocsr()
        parts = [torch.from_numpy(np.array(part)) for part in (matrix.data, matrix.indices, matrix.indptr)]
        return {"sparse_format": value.format, "csr": parts, "shape": list(matrix.shape)}
    if isinstance(value, np.ndarray):
        return {"array": torch.from_numpy(np.array(value))}
    return value


def from_plain(value: Any) -> Any:
    """What :func:`to_plain` was given."""
    if isinstance(value, dict) and "sparse_format" in value:
        parts = tuple(part.cpu().numpy() for part in value["csr"])
        return scipy.sparse.csr_matrix(parts, shape=value["shape"]).asformat(value["sparse_format"])
    if isinstance(value, dict) and set(value) == {"array"}:
        return value["array"].cpu().numpy()
    return {key: from_plain(entry) for key, entry in value.items()} if isinstance(value, dict) else value


def random_state() -> dict[str, Any]:
    """The state of torch's, numpy's and Python's generators as tensors and plain data."""
    name, keys, position, has_gauss, cached = np.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [name, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, cached],
        "python": random.getstate(),
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Put back what :func:`random_state` returned."""
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all([rng.cpu() for rng in state["cuda"]])
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.cpu().numpy().astype(np.uint32), position, has_gauss, cached))
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))


def sources_state(sources: Sources) -> dict[str, Any]:
    """Sources as tensors and plain data."""
    sids, content = sources.semantic_ids, sources.content
    return {
        "semantic_ids": None if sids is None else {
            "codes": sids.codes, "codebook_sizes": list(sids.codebook_sizes), "item_ids": list(sids.item_ids), "meta": sids.meta,
            "ordered": sids.ordered,
        },
        "content": None if content is None else {
            "embeddings": torch.from_numpy(np.array(content.embeddings)),  # a copy: the original may be a read-only file
            "item_ids": list(content.item_ids), "encoder": content.encoder, "content_hash": content.content_hash,
            "parts": {name: [part.start, part.stop] for name, part in content.parts.items()},
        },
    }  # fmt: skip


def sources_of(state: dict[str, Any] | None) -> Sources:
    """What :func:`sources_state` was given."""
    sids, content = (state or {}).get("semantic_ids"), (state or {}).get("content")
    if sids is not None:
        sids = SemanticIDs(sids["codes"].cpu().long(), tuple(sids["codebook_sizes"]), sids["item_ids"], sids["meta"], sids["ordered"])
    if content is not None:
        parts = {name: slice(*bounds) for name, bounds in content["parts"].items()}
        content = ItemContent(
            content["embeddings"].cpu().numpy(), content["item_ids"], content["encoder"], content["content_hash"], parts=parts
        )
    return Sources(sids, content)
