"""Where a run is kept: one folder for everything that can change its result, and what becomes of what lies there."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recbole_r3vae.config import Config, arithmetic, decisive, fingerprint, identity
from recbole_r3vae.config.identity import EXTENT, differences, differences_in_words
from recbole_r3vae.errors import UserError
from recbole_r3vae.io import write_json
from recbole_r3vae.record import Record
from recbole_r3vae.trainer.checkpoint_file import load_checkpoint

logger = logging.getLogger(__name__)

IDENTITY, RESULT, BEST, LAST, PREVIOUS = "run.json", "result.json", "best.pth", "last.pth", "previous"


@dataclass(frozen=True)
class RunFolder:
    """A run's place.

    Attributes:
        path: the folder.
        identity: what the run is, see :func:`~recbole_r3vae.config.identity.identity`.
        continues: the run that it goes on from, in words; ``None`` where it begins by itself.
    """

    path: Path
    identity: dict[str, Any]
    continues: str | None = None

    def make(self) -> None:
        """Write down what the run is. A finished run that is trained anew is moved to ``previous`` until the new one has ended."""
        write_json(self.path / IDENTITY, self.identity)

    def set_aside(self) -> None:
        """Keep a finished run until :meth:`done`; what a run that never ended left is overwritten."""
        if not (self.path / RESULT).is_file() or not (self.path / BEST).is_file():
            return
        previous = self.path / PREVIOUS
        shutil.rmtree(previous, ignore_errors=True)
        previous.mkdir()
        for name in (LAST, BEST, RESULT):
            if (self.path / name).is_file():
                (self.path / name).rename(previous / name)
        logger.info(f"a finished run of the same settings lies here; it stays in {previous} until this one has ended")

    def done(self, record: Record) -> None:
        """Write the result, after which an earlier run of the same settings is no longer needed."""
        record.write(self.path / RESULT)
        shutil.rmtree(self.path / PREVIOUS, ignore_errors=True)


def folder_name(name: str) -> str:
    """A result's name as a folder's: ``R3GR-R3VAE`` for ``R3GR[R3VAE]``."""
    return name.replace("[", "-").rstrip("]")


def open_run(config: Config, name: str, data: str, hashes: dict[str, str], begins_with: str | None = None) -> RunFolder:
    """Find a run's folder.

    With ``resume`` and nothing there, a shorter run that differs in how long it trains alone is gone on with: its checkpoints are copied,
    and the new run's identity and record name it.

    Args:
        config: the run's configuration.
        name: what its result is called.
        data: fingerprint of its data.
        hashes: of its semantic IDs and item content.
        begins_with: hash of the run whose weights it begins with; ``None`` where the seed draws them.

    Raises:
        UserError: ``run_dir`` holds another run.
    """
    what = identity(decisive(config), data, sources=hashes or None, arithmetic=arithmetic(config), init_from=begins_with)
    parent = Path(config["checkpoint_dir"]) / config.dataset
    if config["run_dir"]:
        return _in_own_place(Path(config["run_dir"]), what, config)
    path = parent / f"{folder_name(name)}-{fingerprint(what)}"
    if not config["resume"] or (path / LAST).is_file():
        return RunFolder(path, what)
    return _continued(parent, name, what, config) or RunFolder(path, what)


def _in_own_place(path: Path, what: dict[str, Any], config: Config) -> RunFolder:
    stored = read_identity(path)
    if stored is None:
        return RunFolder(path, what)
    differing = differences(_itself(stored), what)
    if not differing:
        return RunFolder(path, stored, stored.get("continues"))
    if config["resume"] and set(differing) <= EXTENT and (path / LAST).is_file():
        state = load_checkpoint(path / LAST)
        if _is_shorter(state, stored, config):
            how = f"{path} after {state['epoch']} epochs"
            return RunFolder(path, {**what, "continues": how}, how)
    other = differences_in_words({key: (b, a) for key, (a, b) in differing.items()})
    raise UserError(
        f"run_dir {path} holds another run, with {other}; choose another run_dir, or leave it out: every run then gets a folder of its own"
    )


def _continued(parent: Path, name: str, what: dict[str, Any], config: Config) -> RunFolder | None:
    """The run that goes on where a shorter one ended; ``None`` where there is none, after a word on what comes nearest."""
    nearest: tuple[int, Path, dict] | None = None
    longer: tuple[Path, dict, dict] | None = None  # the same run, but trained past where this one may end
    found: list[tuple[bool, int, Path, dict[str, Any]]] = []
    for path, stored in _siblings(parent, name):
        differing = differences(_itself(stored), what)
        if set(differing) <= EXTENT:
            state = load_checkpoint(path / LAST)
            if not differing or _is_shorter(state, stored, config):
                found.append((not differing, state["epoch"], path, stored))
            else:
                longer = path, state, stored
        elif nearest is None or len(differing) < nearest[0]:
            nearest = len(differing), path, differing
    if not found:
        if longer is not None:
            path, state, stored = longer
            so_far = f"{state['epoch']} epochs, {state['seconds']:.0f} s, stopping_step {stored['settings']['stopping_step']}"
            logger.info(f"the nearest run, {path}, has trained longer than this one may ({so_far}): raise epochs, max_minutes or stopping_step")
        elif nearest is not None:
            differing = {key: (b, a) for key, (a, b) in nearest[2].items()}
            way = "; to begin from its weights, give --init_from" if "data" in differing else ""
            logger.info(f"the nearest run, {nearest[1]}, has {differences_in_words(differing)}: it is not gone on with{way}")
        return None
    same, epoch, source, stored = max(found, key=lambda entry: entry[:2])
    if same:  # the run that is asked for went on from a shorter one before
        return RunFolder(source, stored, stored.get("continues"))
    continues = f"{source.name} after {epoch} epochs"
    grown = {**what, "continues": continues}
    path = parent / f"{folder_name(name)}-{fingerprint(grown)}"
    if not (path / LAST).is_file():
        path.mkdir(parents=True, exist_ok=True)
        for file in (BEST, LAST):  # the last is copied last: with it the copy is complete
            if (source / file).is_file():
                copy = path / f".{file}.{config['local_rank']}"  # every process of a run copies, and none waits for another
                shutil.copy2(source / file, copy)
                copy.rename(path / file)
    logger.info(f"goes on from {source}, {epoch} epochs; that run stays as it is")
    return RunFolder(path, grown, continues)


def _is_shorter(state: dict[str, Any], stored: dict[str, Any], config: Config) -> bool:
    """Whether a run has trained no longer than this one may, so that this one would have come past where it stands.

    Args:
        state: its ``last.pth``.
        stored: what it is.
        config: of the run that would go on.
    """
    minutes = config["max_minutes"]
    in_time = minutes is None or state["seconds"] <= 60 * minutes
    return state["epoch"] <= config["epochs"] and in_time and stored["settings"]["stopping_step"] <= config["stopping_step"]


def _itself(stored: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in stored.items() if key != "continues"}


def _siblings(parent: Path, name: str) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Runs of the same name that could be gone on with."""
    for path in sorted(parent.glob(f"{folder_name(name)}-*")):
        stored = read_identity(path)
        if stored is not None and (path / LAST).is_file():
            yield path, stored


def read_identity(path: Path) -> dict[str, Any] | None:
    """What the run in a folder is; ``None`` where there is none that this version wrote."""
    try:
        stored = json.loads((path / IDENTITY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return stored if isinstance(stored, dict) and "settings" in stored else None


def find_checkpoint(path: Any) -> Path:
    """The ``best.pth`` of a run's folder, or the file itself; of a folder whose run is being trained anew that of the finished one.

    Raises:
        UserError: there is none.
    """
    file = Path(path) / BEST if Path(path).is_dir() else Path(path)
    trained_anew = not (file.parent / RESULT).is_file() and (file.parent / PREVIOUS / BEST).is_file()
    if trained_anew and (Path(path).is_dir() or not file.is_file()):
        return file.parent / PREVIOUS / BEST
    if not file.is_file():
        raise UserError(f"there is no checkpoint {file}; give the folder of a run, such as saved/ml-100k/R3GR-…, or the best.pth in it")
    return file
