"""On which device a run computes, and as which of several processes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch

from recbole_r3vae.errors import UserError


def set_device(final: dict[str, Any], given: Mapping[str, Any]) -> None:
    """Put the device, and what RecBole derives from it, into the settings; join the group of processes that torchrun started.

    Args:
        final: All settings; changed in place.
        given: What the user set: ``device``, or RecBole's ``use_gpu`` and ``gpu_id``.

    Raises:
        UserError: there is no such device, or this machine has none of its kind.
    """
    name = str(given.get("device") or _recboles_device(given) or final.get("device") or "auto")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"device {name!r} is unknown; choose auto, cpu, cuda or cuda:<number>") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device {name!r} was asked for, but this machine offers no CUDA device; choose --device=cpu")
    final.update(single_spec=True, local_rank=0, world_size=1, use_gpu=device.type == "cuda")
    world_size = int(os.environ.get("WORLD_SIZE", 1))
    if world_size > 1:  # started by torchrun
        local_rank = int(os.environ["LOCAL_RANK"])
        if device.type == "cuda":
            device = torch.device("cuda", local_rank)
            torch.cuda.set_device(device)
        if not torch.distributed.is_initialized():
            torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
        final.update(single_spec=False, local_rank=torch.distributed.get_rank(), world_size=world_size)
        if final["local_rank"] != 0:
            final.update(state="error", show_progress=False)
    final["device"] = device


def _recboles_device(given: Mapping[str, Any]) -> str | None:
    """The device that a user of RecBole asks for by ``use_gpu`` and ``gpu_id``, where he names one."""
    if given.get("use_gpu") is False or given.get("gpu_id") == "":
        return "cpu"
    gpu = given.get("gpu_id")
    return f"cuda:{gpu}" if isinstance(gpu, int) or (isinstance(gpu, str) and gpu.isdigit()) else None
