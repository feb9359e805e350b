"""On a real Ray of two workers on this machine: what one process gives, though workers are killed in the middle. Marked ``ray``."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from recbole_r3vae.errors import UserError
from recbole_r3vae.serve.sharded import Engine, read_manifest, recommend_shards, tokenize_shards
from recbole_r3vae.serve.sharded.engines import OBJECT_STORE, run_on_ray
from recbole_r3vae.serve.sharded.folder import ShardFolder
from recbole_r3vae.serve.sharded.jobs import Recommend
from recbole_r3vae.serve.sharded.shards import shards_of

ray = pytest.importorskip("ray", reason="needs Ray: pip install '.[ray]'")
pytestmark = pytest.mark.ray
RAY = Engine("ray", workers=2)


@pytest.fixture(scope="module")
def cluster():
    """A Ray of two CPUs, for all tests of this file."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(
        address="local", num_cpus=2, object_store_memory=OBJECT_STORE, include_dashboard=False, log_to_driver=False, logging_level="ERROR"
    )
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # its classes are nowhere on a worker's path
    yield
    ray.shutdown()


def parts(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder).glob("part-*.parquet")}


@dataclass(frozen=True)
class Mortal:
    """A job that says when it begins a shard, and over one of them dies: ``always``, or the first time ``before`` or ``after`` it is written."""

    job: Any
    notes: Path
    deadly: int
    when: str
    uses_gpu = False

    def open(self):
        work = self.job.open()

        def work_or_die(shard):
            (self.notes / f"{shard.number}.{os.getpid()}").touch()
            dies = shard.number == self.deadly and (self.when == "always" or len(list(self.notes.glob(f"{shard.number}.*"))) == 1)
            if dies and self.when != "after":
                os.kill(os.getpid(), signal.SIGKILL)
            report = work(shard)
            if dies:
                os.kill(os.getpid(), signal.SIGKILL)
            return report

        return work_or_die


@pytest.fixture
def mortal_job(checkpoint, history_shards, tmp_path):
    def make(name: str, deadly: int, when: str):
        shards, notes = shards_of(history_shards), tmp_path / f"{name} notes"
        notes.mkdir()
        folder = ShardFolder(tmp_path / name, "recommend", {}, shards)
        return Mortal(Recommend(folder, str(checkpoint()), {"device": "cpu"}, topk=5), notes, deadly, when), shards, folder

    return make


def test_two_workers_give_what_one_process_gives(cluster, checkpoint, new_items, history_shards, tmp_path):
    for engine, name in ((Engine(), "here"), (RAY, "there")):
        tokenize_shards(checkpoint(), new_items[1], tmp_path / f"sids {name}", engine)
        recommend_shards(checkpoint(), tmp_path / f"lists {name}", engine, history_shards, topk=5)
    for what in ("sids", "lists"):
        assert len(parts(tmp_path / f"{what} here")) == 5
        assert parts(tmp_path / f"{what} here") == parts(tmp_path / f"{what} there")  # to the byte
        assert read_manifest(tmp_path / f"{what} here") == read_manifest(tmp_path / f"{what} there")


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_killed_worker_loses_and_doubles_nothing(cluster, mortal_job, when):
    job, shards, folder = mortal_job("killed", 1, when)
    with folder.opened():
        reported = [shard.number for shard, _ in run_on_ray(job, shards, workers=2)]
        manifest = folder.finish()
    assert sorted(reported) == [shard.number for shard in shards]
    notes = [path.name.split(".") for path in job.notes.iterdir()]
    assert len(notes) == len(shards) + 1 and len({pid for _, pid in notes}) == 3  # one shard twice, by another one
    assert manifest["rows"] == 5 * sum(shard.rows for shard in shards)
    job, _, alone = mortal_job("alone", 1, when)
    with alone.opened():
        for shard in shards:
            job.job.open()(shard)
        alone.finish()
    assert parts(folder.path) == parts(alone.path)
    assert not [path for path in folder.path.iterdir() if path.suffix == ".tmp"]


def test_a_shard_that_kills_its_workers_is_named_and_the_rest_stays(cluster, mortal_job):
    job, shards, folder = mortal_job("deadly", 3, "always")
    with folder.opened(), pytest.raises(UserError, match=r"3 workers died over 1.parquet\[0:15\]"):
        list(run_on_ray(job, shards, workers=2))
    assert folder.rows_of(3) is None and folder.rows_of(0) == 5 * shards[0].rows


def test_what_the_user_did_wrong_comes_back_in_one_line(cluster, checkpoint, tmp_path, write_files):
    wrong = write_files(tmp_path / "wrong", {"item_id": ["a"], "color": ["red"]}, [1])
    with pytest.raises(UserError, match="has none of the text fields movie_title, class; it has item_id, color$"):
        tokenize_shards(checkpoint(), wrong, tmp_path / "out", RAY)


def test_it_starts_a_ray_of_its_own_and_stops_it(checkpoint, history_shards, tmp_path):
    if ray.is_initialized():
        ray.shutdown()
    made = recommend_shards(checkpoint(), tmp_path / "own", RAY, history_shards, topk=5)
    assert made["rows"] == 300 and not ray.is_initialized()
    with pytest.raises(UserError, match="Ray cannot be reached"):
        recommend_shards(checkpoint(), tmp_path / "no", Engine("ray", "127.0.0.1:1"), history_shards)
