"""The form of a record: one dataclass, made of a run, written to a file, and read from one with everything checked."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from recbole_r3vae.config import RULES
from recbole_r3vae.data.split import HeldOut
from recbole_r3vae.io import atomic_write
from recbole_r3vae.record.parts import WAY_OUT, ByRule, Metrics, Precision, Rule, Seconds, UserRanks
from recbole_r3vae.record.plain import annotated_kinds, load, plain, wrong_places
from recbole_r3vae.record.ranks import DEEPEST, GAINS, ROUNDING, by_repeat, unpack, user_metric

SCHEMA = 2
"""Version of the form. Files of version 1 become files of this one by ``benchmarks/migrate_results.py``."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """One run: what it was, what it measured, what it cost, and what it was made with.

    Attributes:
        dataset: its name.
        name: what the result is called, such as ``R3GR[R3VAE]``.
        label: what a grid's file calls it, where that is not its model's or its tokenizer's name.
        model: name of the model.
        tokenizer: name of the tokenizer; ``None`` for models that read no semantic IDs.
        family: ``generative``, ``sequential`` (models of item ids), ``general`` or ``clicks``.
        seed: of everything, the tokenizer included.
        hash: 12 hexadecimal digits: of the run's identity, or of the unit of a grid.
        config: every key that decides the result; those of the tokenizer stage as ``tokenizer_X`` where they differ from ``X``.
        data: name of each file or table that was read, to its fingerprint.
        max_minutes: budget of the training in minutes; ``None`` is no limit.
        tuning_trials: settings that were tried on this dataset before these were chosen, as a grid's file states.
        valid_rule: the rule under which validation selected the epoch; ``None`` for click models, which rank no catalogue.
        precision: of the training.
        collision_policy: of the semantic IDs; ``None`` without them.
        content: what item vectors were made of and how; ``None`` where none were read.
        text_encoder: what made them of the text.
        loss: what the model was trained with, in words.
        n_parameters: trained numbers of the model.
        valid: metrics on the validation users, under ``valid_rule``.
        test: metrics on the test users under each rule.
        users: at which rank each test user's target was, under each rule; ``None`` where a user has several targets.
        repeated_targets: test targets that their users had met before; ``left_out`` keeps these and hides all other met items, as RecBole
            does. ``None`` where not counted.
        by_repeat: where there are such targets, the metrics of ``repeated`` and of ``new`` ones apart, under each rule.
        beam_levels: rule to what became of the targets' prefixes in the beam at each level, see :func:`~.ranks.beam_levels`; ``None``
            where no beam looked for single targets.
        labelled: of a click model what its labels are, counts of each part of the split, and as ``metrics`` its test metrics.
        quality: figures of the semantic IDs before collisions are resolved, see :func:`quality_of`.
        seconds: what took how long.
        peak_memory_mb: the most memory held, in MiB: by the ``tokenizer``'s training, up to the end of ``training``, by the whole
            ``process``, and on the ``gpu``.
        epochs: that were finished.
        valid_history: ``[epoch, seconds of training so far, score]`` of each validation.
        stopped_at_budget: whether ``max_minutes`` ended the training of the model, or that of its tokenizer.
        continues: the run that this one went on from, in words; ``None`` where it began anew.
        versions: package to its version.
        commit: of the code that trained and tested; several are separated by commas.
        hardware: ``machine``, ``threads``, ``device``, and ``workers`` where several units ran at a time.
        command: that made the record.
        error: why the run failed; ``None`` where it did not.
        split: whose test it was, see :meth:`recbole_r3vae.data.split.HeldOut.describe`. A grid keeps it once for all its units.
        schema: version of this form.
    """

    dataset: str
    name: str
    model: str
    seed: int
    hash: str
    config: dict[str, Any]
    data: dict[str, str]
    label: str | None = None
    tokenizer: str | None = None
    family: str | None = None
    max_minutes: float | None = None
    tuning_trials: int | None = None
    valid_rule: Rule | None = None
    precision: Precision = "float32"
    collision_policy: str | None = None
    content: dict[str, Any] | None = None
    text_encoder: str | None = None
    loss: str | None = None
    n_parameters: int | None = None
    valid: Metrics | None = None
    test: ByRule = field(default_factory=lambda: ByRule(left_out=None, stay=None))
    users: UserRanks | None = None
    repeated_targets: int | None = None
    by_repeat: dict[str, ByRule] | None = None
    beam_levels: dict[str, list[Metrics]] | None = None
    labelled: dict[str, Any] | None = None
    quality: Metrics | None = None
    seconds: Seconds | None = None
    peak_memory_mb: dict[str, float | None] | None = None
    epochs: int | None = None
    valid_history: list[list[float | None]] | None = None
    stopped_at_budget: bool = False
    continues: str | None = None
    versions: dict[str, str] | None = None
    commit: str | None = None
    hardware: dict[str, str | int | None] | None = None
    command: str | None = None
    error: str | None = None
    split: dict[str, Any] | None = None
    schema: int = SCHEMA

    @classmethod
    def of_run(
        cls,
        config: Mapping[str, Any],
        made: Mapping[str, Any],
        trainer: Any,
        tokenizer: Mapping[str, Any] | None = None,
        held_out: HeldOut | None = None,
        ranks: Mapping[Rule, np.ndarray | None] | None = None,
        /,
        *,
        seconds_testing: float,
        peak_memory_mb: dict[str, float | None],
        content: dict[str, Any] | None = None,
        **what: Any,
    ) -> Record:
        """The record of a run that ended well.

        Args:
            config: the run's, asked for ``dataset``, ``model``, ``seed``, ``max_minutes``, ``valid_rule``, ``metrics`` and
                ``topk``.
            made: of :func:`recbole_r3vae.provenance.provenance`.
            trainer: the one that ``fit`` the model; asked for what a resumable trainer knows, which one of RecBole's own may not.
            tokenizer: ``tokenizer.json`` of its tokenizer, if it has one.
            held_out: whose test it was, under leave-one-out.
            ranks: rule to the ranks of the test targets, ``[n_users]`` in the loader's order; ``None`` for a rule not measured.
            seconds_testing: of the test under both rules.
            peak_memory_mb: ``training``, ``process`` and ``gpu``, in MiB.
            content: what the item vectors that the model reads were made of; those of its tokenizer, if it has one, count instead.
            what: other attributes, at least ``name``, ``hash``, ``data`` and ``test``.
        """
        tokenizer, k = tokenizer or {}, max(config["topk"] or [0])
        content = tokenizer.get("content") or content
        users, apart = None, None
        if held_out is not None and ranks is not None and k <= DEEPEST:
            packed = {rule: None if ranks.get(rule) is None else held_out.packed(ranks[rule]) for rule in RULES}
            users = {"split": held_out.split, "k": k, **packed}
            apart = by_repeat(held_out.met_before, {rule: row[held_out.order] for rule, row in ranks.items() if row is not None}, config)
        history = [[entry["epoch"], entry["seconds"], entry["score"]] for entry in getattr(trainer, "valid_history", None) or []]
        n_users = len(held_out.order) if held_out is not None else None
        found = {
            **{key: config[key] for key in ("dataset", "model", "seed", "max_minutes", "valid_rule")},
            "tokenizer": tokenizer.get("name"),
            "content": content,
            "text_encoder": content["kind"] if content else None,
            "users": users,
            "by_repeat": apart,
            "beam_levels": getattr(trainer, "beam_levels", None) or None,
            "quality": quality_of(tokenizer["quality"]) if tokenizer else None,
            "seconds": {
                "tokenizer": tokenizer.get("seconds"),
                "training": round(trainer.seconds(), 3) if hasattr(trainer, "seconds") else None,
                "evaluation": round(seconds_testing, 3),
                "per_user_ms": round(1000 * seconds_testing / n_users, 4) if n_users else None,
            },
            "peak_memory_mb": {"tokenizer": (tokenizer.get("peak_memory_mb") or {}).get("process"), **peak_memory_mb},
            "epochs": getattr(trainer, "finished_epochs", None),
            "valid_history": history or None,
            "stopped_at_budget": bool(getattr(trainer, "stopped_at_budget", False) or tokenizer.get("stopped_at_budget")),
            "split": held_out.describe() if held_out is not None else None,
            **made,
            "commit": getattr(trainer, "commit", None) or made.get("commit"),
            **what,
        }
        return cls(**plain(found))

    @classmethod
    def of(cls, values: Any) -> Record:
        """The record in plain data, as of :meth:`to_json`, checked.

        Raises:
            ValueError: it is of another version, or misses something, or a value is of the wrong kind, or its figures contradict each
                other; the message says which.
        """
        if not isinstance(values, dict) or "schema" not in values:
            raise ValueError(f"no record of a run; {WAY_OUT}")
        if values["schema"] != SCHEMA:
            way_out = "migrate it by benchmarks/migrate_results.py of the repository" if values["schema"] == 1 else WAY_OUT
            raise ValueError(f"record of schema {values['schema']!r}, this version reads {SCHEMA}; {way_out}")
        unknown = sorted(values.keys() - annotated_kinds(cls).keys())
        if unknown:
            raise ValueError(f"record with {', '.join(unknown)}, which schema {SCHEMA} has not; {WAY_OUT}")
        needed = [entry.name for entry in dataclasses.fields(cls) if entry.default is entry.default_factory is dataclasses.MISSING]
        missing = [key for key in needed if values.get(key) is None]
        kinds = annotated_kinds(cls)
        wrong = [place for key in kinds if key in values and key not in missing for place in wrong_places(values[key], kinds[key], key)]
        if missing or wrong:
            faults = [f"without {', '.join(missing)}"] if missing else []
            faults += [f"in which {', '.join(wrong)} is absent or of another kind"] if wrong else []
            raise ValueError(f"record {' and '.join(faults)}; {WAY_OUT}")
        record = cls(**values)
        record._check_ranks()
        return record

    @classmethod
    def read(cls, path: str | os.PathLike) -> Record:
        """The record in a file.

        Raises:
            ValueError: there is no such file, or it holds none that may be used (see :meth:`of`).
        """
        return cls.of(load(path))

    def to_json(self) -> str:
        """As text; JSON has no NaN and no infinity: ``null`` in their place."""
        return json.dumps(plain(dataclasses.asdict(self)), indent=2, ensure_ascii=False) + "\n"

    def write(self, path: str | os.PathLike) -> None:
        """Write it, whole or not at all."""
        with atomic_write(path) as file:
            file.write(self.to_json())

    def ranks(self, rule: Rule) -> np.ndarray | None:
        """``uint8 [n_users]``, the rank of each user's target under a rule, 0 where it was not found; ``None`` where there are none."""
        packed = self.users[rule] if self.users is not None else None
        return None if packed is None else unpack(packed, "uint8")

    def _check_ranks(self) -> None:
        """Of two statements of the same figures neither may be wrong.

        Raises:
            ValueError: the ranks do not give the recorded metrics, or there is one without the other.
        """
        if self.users is None or self.error is not None:
            return
        ranks = {rule: self.ranks(rule) for rule in RULES}
        for rule, found in ranks.items():
            if (found is None) != (self.test[rule] is None):
                raise ValueError(f"record with only one of test.{rule} and users.{rule}; {WAY_OUT}")
        if len({len(found) for found in ranks.values() if found is not None}) > 1:
            raise ValueError(f"record with ranks of {' and '.join(str(len(found)) for found in ranks.values())} users; {WAY_OUT}")
        places = self.config.get("metric_decimal_place")
        tolerance = max(ROUNDING, 0.5001 * 10.0**-places) if type(places) is int else ROUNDING
        for rule, found in ranks.items():
            for metric, recorded in (self.test[rule] or {}).items():
                name, _, k = metric.partition("@")
                if recorded is None or name not in GAINS or int(k) > self.users["k"]:
                    continue
                of_ranks = user_metric(found, metric).mean()
                if abs(of_ranks - recorded) > tolerance:
                    raise ValueError(f"its ranks give {metric} {of_ranks:.4f} ({rule}), it records {recorded:.4f}; {WAY_OUT}")


def quality_of(report: Mapping[str, Any]) -> Metrics:
    """What a record says of semantic IDs, from the report of :mod:`recbole_r3vae.sid.quality.report` before collisions are resolved.

    Returns:
        ``unique_ratio`` and ``collision_rate``; ``sc_raw`` and ``pd_raw``, means over the levels where they are defined, in the space of
        the item vectors; ``lowest_usage`` of any level; ``reconstruction``, the mean squared error.
    """
    levels = report["levels"]
    raw = {name: [level["spaces"]["raw"][name] for level in levels if level["spaces"]["raw"][name] is not None] for name in ("sc", "pd")}
    return {
        "unique_ratio": report["unique_ratio"],
        "collision_rate": report["collision_rate"],
        **{f"{name}_raw": sum(values) / len(values) if values else None for name, values in raw.items()},
        "lowest_usage": min(level["usage"] for level in levels),
        "reconstruction": report["reconstruction"]["mse"],
    }
