"""The line that a grid prints when a unit ends: what it gave, and how long the rest will take."""

from __future__ import annotations

from collections.abc import Sequence

from recbole_r3vae.experiments.grid.units import Unit
from recbole_r3vae.experiments.leaderboard.records import RULE_NAMES, rules_of
from recbole_r3vae.record import Record


def progress_line(unit: Unit, record: Record, records: list[Record | None], units: list[Unit], done: int, workers: int) -> str:
    """What is printed when a unit has ended: how many are done, the unit, its figure or why it failed, and the time that is left."""
    if record.error is None:
        metric = record.config["valid_metric"].lower()
        rule = rules_of(record)[0]
        outcome = f"test {metric} {record.test[rule][metric]:.4f} ({RULE_NAMES[rule]}), {_duration(_seconds(record))}"
        outcome += ", stopped at its budget" if record.stopped_at_budget else ""
    else:
        outcome = f"failed: {record.error}"
    failed = sum(record is not None and record.error is not None for record in records)
    left = time_left(units, records) / workers
    rest = f"; about {_duration(left)} left" if left else ""
    return f"[{done}/{len(units)}{f', {failed} failed' if failed else ''}] {unit}: {outcome}{rest}"


def time_left(units: Sequence[Unit], records: Sequence[Record | None]) -> float:
    """Seconds that the units without a record will take, one after the other.

    A unit is expected to take as long as the finished ones of its name on its dataset did on average; where there are none, as all
    finished ones did; 0 where nothing is known.
    """
    known: dict[tuple, list[float]] = {}
    for unit, record in zip(units, records):
        if record is not None and record.error is None:
            for key in ((unit.dataset, unit.name), ()):
                known.setdefault(key, []).append(_seconds(record))
    left = 0.0
    for unit, record in zip(units, records):
        found = known.get((unit.dataset, unit.name)) or known.get(())
        if record is None and found:
            left += sum(found) / len(found)
    return left


def _seconds(record: Record) -> float:
    return sum(record.seconds[stage] or 0 for stage in ("tokenizer", "training", "evaluation"))


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
