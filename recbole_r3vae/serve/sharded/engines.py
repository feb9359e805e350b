"""Who does the work on shards: this process, or actors of a Ray cluster."""

from __future__ import annotations

import os
import socket
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from recbole_r3vae.errors import UserError
from recbole_r3vae.serve.sharded.shards import Shard

DEATHS = 3
"""Workers that may die over one shard before it is taken for the cause."""

CONNECTION_SECONDS = 10

OBJECT_STORE = 128 << 20
"""Bytes of shared memory of a Ray that is started here: shards are read and written as files, and only numbers travel."""


class Job(Protocol):
    """What is done to each shard. It travels to the workers as a pickle, so it holds plain data.

    Attributes:
        uses_gpu: whether a worker takes a GPU where the cluster has some.
    """

    uses_gpu: bool

    def open(self) -> Callable[[Shard], dict[str, Any]]:
        """Load what the work takes, once a worker.

        Returns:
            A function that does a shard, puts its rows into their place and returns a report, plain data.
        """


Reports = Iterator[tuple[Shard, dict[str, Any]]]


@dataclass(frozen=True)
class Engine:
    """How ``--engine`` asks for it.

    Attributes:
        name: ``local`` or ``ray``.
        address: of a Ray cluster: ``auto``, ``host:port`` or ``ray://host:port``; ``None`` starts one on this machine, and stops it.
        workers: how many actors; ``None``: one a GPU where the job uses GPUs and there are some, else one a CPU.
    """

    name: str = "local"
    address: str | None = None
    workers: int | None = None

    def check(self) -> None:
        """Refuse what cannot be, before anything is loaded.

        Raises:
            UserError: Ray is not installed, or an option belongs to Ray and the engine is another.
        """
        if self.workers is not None and self.workers < 1:
            raise UserError(f"--workers is {self.workers}; give a whole number from 1")
        if self.name == "ray":
            _ray()
        elif self.address is not None or self.workers is not None:
            raise UserError("--address and --workers are about Ray; give --engine=ray with them")

    def run(self, job: Job, shards: Sequence[Shard]) -> Reports:
        """Do a job on shards, each of which is done when its report comes; in no particular order.

        Raises:
            UserError: as the job; or workers keep dying over a shard.
        """
        return run_on_ray(job, shards, self.address, self.workers) if self.name == "ray" else run_here(job, shards)


def run_here(job: Job, shards: Sequence[Shard]) -> Reports:
    """One after the other, in this process."""
    work = job.open() if shards else None
    for shard in shards:
        yield shard, work(shard)


def run_on_ray(job: Job, shards: Sequence[Shard], address: str | None = None, workers: int | None = None) -> Reports:
    """By actors, each of which loads the model once and is given the next shard when it has done one.

    Whatever kills an actor, its shard goes back into the queue and another actor takes its place. A Ray that runs already is used and left
    running.

    Raises:
        UserError: Ray is not installed or cannot be reached, or :data:`DEATHS` workers died over one shard.
    """
    ray = _ray()
    if not shards:
        return
    started = not ray.is_initialized()
    if started:
        _start(ray, address, workers)
    try:
        yield from _queue(ray, job, shards, workers)
    finally:
        if started:
            ray.shutdown()


def _ray():
    try:
        import ray
    except ImportError as error:
        raise UserError("--engine=ray needs Ray, which is not installed; run pip install 'recbole-r3vae[ray]'") from error
    return ray


def _start(ray: Any, address: str | None, workers: int | None) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
    how: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
    if address is None:
        how |= {"address": "local", "num_cpus": workers, "object_store_memory": OBJECT_STORE}
    else:
        how = {"address": address, "log_to_driver": False, "logging_level": "ERROR"}
    try:
        host, _, port = (address or "").rpartition(":")
        if host and port.isdigit() and "//" not in host:
            socket.create_connection((host, int(port)), timeout=CONNECTION_SECONDS).close()  # Ray itself asks for minutes
        ray.init(**how)
    except Exception as error:  # Ray has no class of its own for a machine too busy to start it in half a minute
        ray.shutdown()  # what it started before it gave up
        reason = " ".join(str(error).split())
        what = f"--address {address or 'local'}: Ray cannot be reached or started ({reason[:300]})"
        raise UserError(f"{what}; check the address, or ray status") from error


class _Worker:
    """An actor. What the job loads is loaded with its first shard, so that an error in it comes back as any other."""

    def __init__(self, job: Job):
        self._job, self._work = job, None

    def run(self, shard: Shard) -> tuple[dict[str, Any], str | None]:
        """The job's report and the worker's process, or what the user did wrong."""
        try:
            if self._work is None:
                self._work = self._job.open()
            return {**self._work(shard), "pid": os.getpid()}, None
        except UserError as error:  # as text: a cluster's Python may pickle errors in other ways
            return {}, str(error)


def _queue(ray: Any, job: Job, shards: Sequence[Shard], workers: int | None) -> Reports:
    there = ray.cluster_resources()
    gpus = int(there.get("GPU", 0)) if job.uses_gpu else 0
    actor_class = ray.remote(num_cpus=1, num_gpus=1 if gpus else 0, max_restarts=0)(_Worker)
    waiting, deaths, at_work = deque(shards), Counter(), {}
    stored = ray.put(job)

    def give(actor: Any) -> None:
        shard = waiting.popleft()
        at_work[actor.run.remote(shard)] = (actor, shard)

    for _ in range(min(len(shards), workers or gpus or max(1, int(there.get("CPU", 1))))):
        give(actor_class.remote(stored))
    while at_work:
        [done], _ = ray.wait(list(at_work), num_returns=1)
        actor, shard = at_work.pop(done)
        try:
            report, refusal = ray.get(done)
        except ray.exceptions.RayActorError as error:  # the process is gone, or its machine
            deaths[shard.number] += 1
            if deaths[shard.number] == DEATHS:
                raise UserError(
                    f"{DEATHS} workers died over {shard.source} ({' '.join(str(error).split())[:300]}); it may need more memory than a worker "
                    "has: lower --workers or --shard_rows; finished shards stay, and the same command goes on from them"
                ) from error
            waiting.appendleft(shard)
            give(actor_class.remote(stored))
            continue
        if refusal is not None:
            raise UserError(refusal)
        if waiting:
            give(actor)
        yield shard, report
