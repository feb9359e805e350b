"""The codes of a whole catalogue, in blocks that a killed process need not compute again."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from recbole_r3vae.data.items import ItemVectors
from recbole_r3vae.errors import UserError

ROWS = 8192
CELLS = 2**25
"""Items quantised at once: :data:`ROWS`, or fewer where codebooks are so large that they would have more ratings ``[rows, K]``."""


@torch.no_grad()
def encode(model: Any, items: ItemVectors, kept: str | os.PathLike | None = None, show_progress: bool = False) -> tuple[Tensor, Tensor]:
    """Quantise a catalogue.

    Args:
        model: A tokenizer, in evaluation mode.
        items: Its catalogue of n items and the padding one.
        kept: A file that every finished block is appended to. What is in it of the same model and the same vectors is not computed again;
            anything else in it is replaced. The caller removes it. Default: nothing is kept.
        show_progress: Whether to show a bar.

    Returns:
        Codes int64 ``[n, L]``, and the squared error of each item's reconstruction float64 ``[n]``; the same bits whether or not they were
        interrupted.

    Raises:
        UserError: the file cannot be written.
    """
    n, rows = items.n_items - 1, min(ROWS, max(1, CELLS // max(model.codebook_sizes)))
    codes, errors = torch.empty(n, len(model.codebook_sizes), dtype=torch.int64), torch.empty(n, dtype=torch.float64)
    record = np.dtype([("codes", "<i4", len(model.codebook_sizes)), ("error", "<f8")])
    with _blocks(kept, _key(model, items) if kept else b"") as file:
        done, head = 0, file.tell() if file is not None else 0
        while file is not None and len(block := np.fromfile(file, record, min(rows, n - done))) == min(rows, n - done) > 0:
            codes[done : done + len(block)] = torch.from_numpy(block["codes"].astype(np.int64))
            errors[done : done + len(block)] = torch.from_numpy(block["error"].copy())
            done += len(block)
        if file is not None:
            file.seek(head + done * record.itemsize)  # over what is left of a block that was being written
        bar = tqdm(total=n, initial=done, desc="Encode items", unit=" items", ncols=100, disable=not show_progress)
        with bar:
            for start in range(done, n, rows):
                x = torch.from_numpy(items.gather(torch.arange(1 + start, 1 + min(start + rows, n))))  # [b, d]
                quantized = model.quantize(x.to(model.device))
                here = slice(start, start + len(x))
                codes[here] = quantized.codes.cpu()
                errors[here] = (quantized.reconstruction.cpu().double() - x).square_().sum(1)
                if file is not None:
                    block = np.empty(len(x), record)
                    block["codes"], block["error"] = codes[here].numpy(), errors[here].numpy()
                    file.write(block.data)
                    file.flush()
                    os.fsync(file.fileno())
                bar.update(len(x))
    return codes, errors


@contextmanager
def _blocks(path: str | os.PathLike | None, key: bytes) -> Iterator[IO | None]:
    """The file of finished blocks, open at its first: an old one that begins with this key, or a new one."""
    if path is None:
        yield None
        return
    path = Path(path)
    try:
        with open(path, "r+b" if path.is_file() else "w+b") as file:
            if file.read(len(key)) != key:
                file.seek(0)
                file.truncate()
                file.write(key)
            yield file
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}; check free space and permissions") from error


def _key(model: Any, items: ItemVectors) -> bytes:
    """What codes depend on: weights and vectors."""
    digest = hashlib.sha256(items.content.content_hash.encode())
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().data)
    return digest.digest()


class OwnSpace:
    """A catalogue in the space that its tokenizer quantises: an array ``[n, d']`` whose rows are computed when they are read.

    Args:
        model: A tokenizer, in evaluation mode.
        items: Its catalogue of n items and the padding one.

    Attributes:
        shape: ``(n, d')``.
    """

    ndim = 2

    def __init__(self, model: Any, items: ItemVectors):
        self.model, self.vectors = model, items.embeddings[1:]
        self.shape = (len(self.vectors), self[:1].shape[1])

    def __len__(self) -> int:
        return self.shape[0] if hasattr(self, "shape") else len(self.vectors)

    @torch.no_grad()
    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        x = torch.from_numpy(np.array(self.vectors[rows], dtype=np.float32))  # [m, d]
        return self.model.own_space(x.to(self.model.device)).cpu().numpy()
