"""A trained run made small enough to pass on: half precision, nothing that training alone needs, no places of the machine it was trained on."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recbole_r3vae.config.identity import PLACES
from recbole_r3vae.config.stages import PREFIX
from recbole_r3vae.errors import UserError
from recbole_r3vae.quick_start.run_folder import BEST, RESULT, find_checkpoint
from recbole_r3vae.trainer.checkpoint_file import load_checkpoint, save_checkpoint

PRECISIONS = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


def pack_run(checkpoint: str | os.PathLike, output: str | os.PathLike, precision: str = "float16") -> Path:
    """Write what recommending needs of a run into a folder of its own: ``best.pth``, and the run's ``result.json``.

    The checkpoint is one like any other: ``recommend``, :class:`~recbole_r3vae.serve.recommender.Recommender` and
    :func:`~recbole_r3vae.quick_start.reload.load_data_and_model` take it. Weights and item vectors are rounded to ``precision``, and are
    read as float32 again; semantic IDs become the smallest integers that hold them. Of the settings those go that say where files lay;
    ids of users and items stay. The run's ``last.pth`` and its tokenizer are not copied: to train on, or to tokenize new items, takes the
    run itself.

    Args:
        checkpoint: a run's folder or its ``best.pth``.
        output: the folder; it is made, and must not be the run's.
        precision: of weights and item vectors: ``float16``, ``bfloat16`` or ``float32``.

    Returns:
        The checkpoint's path.

    Raises:
        UserError: there is no usable checkpoint, the precision is unknown, a number does not fit it, or ``output`` is the run's folder.
    """
    if precision not in PRECISIONS:
        raise UserError(f"precision is {precision!r}; choose {', '.join(PRECISIONS)}")
    source, folder = find_checkpoint(checkpoint), Path(output)
    if folder.resolve() == source.parent.resolve():
        raise UserError(f"{output} is the folder of the run, whose checkpoint would be lost; name another --output")
    state = load_checkpoint(source)
    config = {key: value for key, value in state["config"].items() if key.removeprefix(PREFIX) not in PLACES}
    sids, content = (state["sources"] or {}).get("semantic_ids"), (state["sources"] or {}).get("content")
    if sids is not None:
        sids["codes"] = _narrow(sids["codes"])
    if content is not None:
        content["embeddings"] = _rounded("the item vectors", content["embeddings"], precision)
    weights = {name: _rounded(name, value, precision) for name, value in state["model"].items()}
    save_checkpoint(folder / BEST, {**state, "config": config, "model": weights, "packed": precision})
    if (source.parent / RESULT).is_file():
        shutil.copyfile(source.parent / RESULT, folder / RESULT)
    return folder / BEST


def _rounded(name: str, value: Any, precision: str) -> Any:
    if not isinstance(value, Tensor) or not value.is_floating_point() or value.element_size() <= PRECISIONS[precision].itemsize:
        return value
    rounded = value.to(PRECISIONS[precision])
    if not torch.isfinite(rounded).all():
        raise UserError(f"{name} holds numbers up to {value.abs().max():.3g}, which {precision} does not; give --precision=bfloat16")
    return rounded


def _narrow(codes: Tensor) -> Tensor:
    """In the smallest signed integers that hold them, -1 of the padding row included."""
    kinds = (torch.int8, torch.int16, torch.int32, torch.int64)
    return codes.to(next(kind for kind in kinds if torch.iinfo(kind).max >= int(codes.max())))
