"""Who does the work: each shard once, whoever dies; with a Ray of a few lines in the place of the real one, which test_ray.py starts."""

from __future__ import annotations

import os
import sys
from collections import Counter
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace

import pytest

from recbole_r3vae.errors import UserError
from recbole_r3vae.serve.sharded import engines
from recbole_r3vae.serve.sharded.engines import DEATHS, Engine, run_here, run_on_ray
from recbole_r3vae.serve.sharded.shards import Shard

SHARDS = [Shard(number, "in.npy", number, number + 1, number) for number in range(7)]


@dataclass
class Count:
    """A job that notes what it is given."""

    uses_gpu: bool = False
    refuses: int | None = None
    opened: list = field(default_factory=list)

    def open(self):
        self.opened.append(1)

        def work(shard):
            if shard.number == self.refuses:
                raise UserError("shard of ill will")
            return {"rows": shard.number}

        return work


class ActorDied(Exception):
    pass


class FakeRay(ModuleType):
    """Actors that do their work when they are asked for it, last come, first served; some die over some shards."""

    def __init__(self, dies=None, resources=None, is_on=False):
        super().__init__("ray")
        self.exceptions = SimpleNamespace(RayActorError=ActorDied)
        self.dies, self.resources, self.is_on = Counter(dies or {}), {"CPU": 2.0} if resources is None else resources, is_on
        self.inits, self.stops, self.actors, self.options, self.dead = [], 0, 0, None, set()

    def is_initialized(self):
        return self.is_on

    def init(self, **how):
        self.inits.append(how)
        if how["address"] == "auto" and self.inits[1:]:
            raise ConnectionError("no\nanswer")

    def shutdown(self):
        self.stops += 1

    def cluster_resources(self):
        return self.resources

    def put(self, value):
        return value

    def remote(self, **options):
        self.options = options

        def with_class(cls):
            def make(job):
                self.actors += 1
                actor, number = cls(job), self.actors
                return SimpleNamespace(run=SimpleNamespace(remote=lambda shard: (number, shard.number, lambda: actor.run(shard))))

            return SimpleNamespace(remote=make)

        return with_class

    def wait(self, tasks, num_returns):
        return [tasks[-1]], tasks[:-1]

    def get(self, task):
        actor, shard, work = task
        assert actor not in self.dead  # nobody asks the dead
        if self.dies[shard]:
            self.dies[shard] -= 1
            self.dead.add(actor)
            raise ActorDied("killed")
        return work()


@pytest.fixture
def ray(monkeypatch):
    def install(**how):
        fake = FakeRay(**how)
        monkeypatch.setitem(sys.modules, "ray", fake)
        return fake

    return install


def numbers(reports):
    found = [(shard.number, report["rows"]) for shard, report in reports]
    assert all(number == rows for number, rows in found)
    return sorted(number for number, _ in found)


def test_here_the_model_is_loaded_once():
    job = Count()
    assert numbers(run_here(job, SHARDS)) == list(range(7)) and len(job.opened) == 1
    assert numbers(run_here(job, [])) == [] and len(job.opened) == 1


@pytest.mark.parametrize("dies", [{}, {0: 1}, {3: 2, 6: 1}, {number: DEATHS - 1 for number in range(7)}])
def test_every_shard_is_done_once_whoever_dies(ray, dies):
    fake, job = ray(dies=dies), Count()
    assert numbers(run_on_ray(job, SHARDS)) == list(range(7))
    assert fake.actors == 2 + sum(dies.values()) and fake.stops == 1 and not +fake.dies
    assert fake.options == {"num_cpus": 1, "num_gpus": 0, "max_restarts": 0}
    [how] = fake.inits
    assert how["address"] == "local" and not how["include_dashboard"] and os.environ["RAY_USAGE_STATS_ENABLED"] == "0"


def test_a_shard_that_kills_everybody_is_named(ray):
    fake = ray(dies={4: DEATHS})
    with pytest.raises(UserError, match=rf"{DEATHS} workers died over in.npy\[4:5\]"):
        list(run_on_ray(Count(), SHARDS))
    assert fake.stops == 1


def test_what_the_user_did_wrong_is_said_as_it_is(ray):
    fake = ray()
    with pytest.raises(UserError, match="^shard of ill will$"):
        list(run_on_ray(Count(refuses=2), SHARDS))
    assert fake.stops == 1


@pytest.mark.parametrize("resources, uses_gpu, workers, actors, gpus", [
    ({"CPU": 3.0}, True, None, 3, 0), ({"CPU": 8.0, "GPU": 2.0}, True, None, 2, 1), ({"CPU": 4.0, "GPU": 2.0}, False, None, 4, 0),
    ({"CPU": 4.0}, False, 2, 2, 0), ({"CPU": 64.0}, False, None, 7, 0), ({}, False, None, 1, 0),
])  # fmt: skip
def test_an_actor_a_gpu_or_a_cpu_and_no_more_than_shards(ray, resources, uses_gpu, workers, actors, gpus):
    fake = ray(resources=resources)
    list(run_on_ray(Count(uses_gpu), SHARDS, workers=workers))
    assert (fake.actors, fake.options["num_gpus"]) == (actors, gpus)


def test_a_ray_that_runs_is_used_and_left_running(ray):
    fake = ray(is_on=True)
    assert numbers(run_on_ray(Count(), SHARDS)) == list(range(7)) and (fake.inits, fake.stops) == ([], 0)


def test_nothing_to_do_starts_nothing(ray):
    fake = ray()
    assert list(run_on_ray(Count(), [])) == [] and fake.inits == []


def test_a_reader_that_stops_early_stops_ray(ray):
    fake = ray()
    reports = run_on_ray(Count(), SHARDS)
    next(reports)
    reports.close()
    assert fake.stops == 1


def test_an_engine_is_checked(ray, monkeypatch):
    fake = ray()
    Engine("ray", "auto", 2).check()
    assert numbers(Engine("ray", "auto", 2).run(Count(), SHARDS)) == list(range(7))
    assert "num_cpus" not in fake.inits[0] and "object_store_memory" not in fake.inits[0]  # these are the cluster's own
    with pytest.raises(UserError, match="auto: Ray cannot be reached.*no answer"):
        list(Engine("ray", "auto").run(Count(), SHARDS))
    assert fake.stops == 2
    with pytest.raises(UserError, match="127.0.0.1:1: Ray cannot be reached.*refused"):  # where Ray would ask for minutes
        list(Engine("ray", "127.0.0.1:1").run(Count(), SHARDS))
    assert numbers(Engine().run(Count(), SHARDS)) == list(range(7)) and len(fake.inits) == 2
    for engine, message in ((Engine("ray", workers=0), "--workers is 0"), (Engine(address="auto"), "--engine=ray"), (Engine(workers=2), "Ray")):
        with pytest.raises(UserError, match=message):
            engine.check()
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install 'recbole-r3vae\[ray\]'"):
        engines.Engine("ray").check()
