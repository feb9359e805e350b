"""Starting runs as RecBole's users do: in several processes, and as the function that a search calls."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import torch

from recbole_r3vae.config import Config
from recbole_r3vae.errors import UserError
from recbole_r3vae.quick_start.run import run_recbole_r3vae


def run(
    model: str | None = None,
    dataset: str | None = None,
    config_file_list: Iterable[str] | None = None,
    config_dict: dict[str, Any] | None = None,
    saved: bool = True,
    nproc: int = 1,
    world_size: int = -1,
    ip: str = "localhost",
    port: int | str = 5678,
    group_offset: int = 0,
    arguments: Iterable[str] = (),
) -> dict[str, Any] | None:
    """A run in one or several processes; the counterpart of RecBole's function of this name. ``torchrun`` does the same.

    Args:
        model, dataset, config_file_list, config_dict, saved, arguments: as of :func:`~recbole_r3vae.quick_start.run.run_recbole_r3vae`.
        nproc: processes on this machine.
        world_size: processes on all machines; -1 where this is the only one.
        ip: of the first machine.
        port: there.
        group_offset: how many processes the machines before this one have.

    Returns:
        What the run returns; of several processes, where the first is on this machine, what that one does, else ``None``.

    Raises:
        UserError: a number of processes is none; or as the run.
    """
    world_size = nproc if world_size == -1 else world_size
    for name, value, least in (("nproc", nproc, 1), ("world_size", world_size, nproc), ("group_offset", group_offset, 0)):
        if type(value) is not int or value < least:
            raise UserError(f"{name} is {value!r}; give a whole number from {least}")
    what = (model, dataset, list(config_file_list or ()), config_dict, saved)
    if world_size == 1:
        return run_recbole_r3vae(*what, arguments=arguments)
    context = torch.multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    place = {"WORLD_SIZE": str(world_size), "MASTER_ADDR": ip, "MASTER_PORT": str(port)}
    workers = torch.multiprocessing.spawn(_worker, args=(what, list(arguments), place, group_offset, queue), nprocs=nproc, join=False)
    return _result(workers, queue)


def _result(workers: Any, queue: Any) -> Any:
    """What one of the processes puts into the queue, once all have ended; ``None`` where none does.

    It is taken out while they run: a pipe holds 64 KiB, and whoever puts more waits for the reader.
    """
    found, ended = None, False
    while not ended:
        ended = workers.join(timeout=0.2)
        if not queue.empty():
            found = queue.get()
    return found


def _worker(number: int, what: tuple, arguments: list[str], place: dict[str, str], group_offset: int, queue: Any) -> None:
    os.environ.update(place, LOCAL_RANK=str(number), RANK=str(group_offset + number))
    run_recbole_r3vae(*what, queue=queue, arguments=arguments)
    torch.distributed.destroy_process_group()


def objective_function(
    config_dict: dict[str, Any] | None = None, config_file_list: Iterable[str] | None = None, saved: bool = True
) -> dict[str, Any]:
    """What RecBole's ``HyperTuning`` calls for one trial; the counterpart of RecBole's function of this name.

    Args:
        config_dict: ``model``, ``dataset`` and the settings of the trial.
        config_file_list: YAML files.
        saved: whether to write checkpoints.

    Returns:
        ``model``, ``best_valid_score``, ``valid_score_bigger``, ``best_valid_result`` and ``test_result``.

    Raises:
        UserError: the model has no use for a key of ``config_dict``, so that trials which differ in it would be the same; or as the run.
    """
    files, settings = list(config_file_list or ()), {"show_progress": False, **(config_dict or {})}
    Config(config_file_list=files, config_dict=settings).refuse_unknown_keys(settings, dashes="")
    found = run_recbole_r3vae(config_file_list=files, config_dict=settings, saved=saved)
    keys = ("best_valid_score", "valid_score_bigger", "best_valid_result", "test_result")
    return {"model": found["name"], **{key: found[key] for key in keys}}
