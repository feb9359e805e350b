"""What a leaderboard says of one dataset, as plain data: every model once a configuration, over its seeds, with what may be concluded."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from recbole_r3vae.experiments import statistics
from recbole_r3vae.experiments.leaderboard.figures import RANKED_BY, TABLE_METRICS, ranked_test
from recbole_r3vae.experiments.leaderboard.published import published_of
from recbole_r3vae.experiments.leaderboard.records import read_runs
from recbole_r3vae.experiments.leaderboard.rows import ACCURACY, CONDITIONS, COUNTED, grouped, row_of, variants
from recbole_r3vae.experiments.leaderboard.sentences import rule_notes
from recbole_r3vae.record import RULES, SCHEMA, Record, Rule, unpack, user_metric

RELATED = ("sc_raw", "pd_raw", "collision_rate")  # what of the SIDs' quality is set against Recall@10


def leaderboard(folder: Path) -> dict[str, Any]:
    """What ``leaderboard_<dataset>.json`` holds.

    Args:
        folder: ``results/runs/<dataset>``.

    Returns:
        Plain data: ``rule``, by which rows are ordered and tested: ``left_out``, and ``stay`` only where no row has the other; ``rows``,
        best test NDCG@10 first, each with its test figures under both rules; ``answers``, who leads by NDCG@10 under each rule, see
        :func:`_answer`; ``leads``, of each accuracy metric, and ``best``, of the best row over every other by NDCG@10; ``cold``, the share of
        test targets without a training interaction; ``grid`` of tokenizers and generators; ``slices``; ``relations`` of SID quality to
        Recall@10; ``published``; ``apart``, rows trained in other precisions than most; ``failed`` units; ``notes`` on what could not be used.
        Tests and slices need one question to one set of users: they are of the split that most rows share, and of the rows that have the rule.
    """
    records, failed, splits = read_runs(folder)
    notes: list[str] = []
    usual, groups, others = _by_precision(grouped(records, notes))
    rows = _rows(groups)
    apart = [{"precision": precision, "usual": usual, "rows": _rows(of_it)} for precision, of_it in others.items()]
    split = _most_common(row["split"] for row in rows)
    of_split = [index for index, row in enumerate(rows) if row["split"] in (split, None)]
    rule = next((rule for rule in RULES if any(rows[index]["rule"] == rule for index in of_split)), RULES[0])
    usable = [index for index in of_split if rows[index]["rule"] == rule]
    users = [_user_metrics(group, rule) if index in usable and row["split"] else {} for index, (group, row) in enumerate(zip(groups, rows))]
    if len(of_split) < len(rows):
        notes.append(f"Not all rows share a split. Tests and slices are of split {split} only, and rows of others do not compare with it.")
    notes += rule_notes(rows, rule)
    leads, of_best = _leads(rows, users, usable)
    answers = {rule: found for rule in RULES if (found := _answer(rows, groups, of_split, rule))}
    default_command = f"recbole-r3vae benchmark --config=properties/benchmark/{folder.name}.yaml"
    report = {
        "schema": SCHEMA,
        "dataset": folder.name,
        "rule": rule,
        "commands": sorted({record.command or default_command for record in records}) or [default_command],
        "users": splits.get(split, {}).get("users"),
        "cold": _cold(splits.get(split, {})),
        "answers": answers,
        "leads": leads,
        "best": of_best,
        "grid": _grid(rows, users, usable, notes),
        "slices": _sliced(rows, users, splits.get(split, {}), notes) if rows else [],
        "relations": _relations(rows, usable),
        "published": published_of(folder.name, [row for part in (rows, *(part["rows"] for part in apart)) for row in part]),
        "apart": apart,
        "failed": failed,
        "notes": notes,
    }
    for part in (rows, *(part["rows"] for part in apart)):
        part.sort(key=lambda row: (-row["test"][row["rule"]].get(RANKED_BY, {"mean": -1.0})["mean"], row["name"], row["variant"]))
    return {**report, "rows": rows}


def _by_precision(groups: list[list[Record]]) -> tuple[str | None, list[list[Record]], dict[str, list[list[Record]]]]:
    """The precision that most trained groups have, ``float32`` where two are equal; its groups; and those of each other one.

    Models that count, such as Pop, train in none: they stand with the first.
    """
    found: dict[str, list[list[Record]]] = {}
    for group in groups:
        if group[0].loss != COUNTED:
            found.setdefault(group[0].precision, []).append(group)
    usual = max(found, key=lambda precision: (len(found[precision]), precision), default=None)
    found.pop(usual, None)
    return usual, [group for group in groups if group[0].precision == usual or group[0].loss == COUNTED], dict(sorted(found.items()))


def _rows(groups: list[list[Record]]) -> list[dict[str, Any]]:
    rows = [row_of(group) for group in groups]
    for row, variant in zip(rows, variants(rows)):
        row["variant"] = variant
    return rows


# -- what may be concluded ---------------------------------------------------------------------------------------------------


def _most_common(values: Iterable[Any]) -> Any:
    counts = Counter(value for value in values if value is not None)
    return counts.most_common(1)[0][0] if counts else None


def _user_metrics(records: list[Record], rule: Rule) -> dict[str, np.ndarray]:
    """Metric under a rule to [n_users], averaged over the seeds."""
    if any(record.users is None or record.users[rule] is None for record in records):
        return {}
    deepest = min(record.users["k"] for record in records)
    return {
        metric: np.mean([user_metric(record.ranks(rule), metric) for record in records], axis=0)
        for metric in ACCURACY
        if int(metric.partition("@")[2]) <= deepest
    }


def _pairs(
    metric: str, rows: list[dict[str, Any]], users: list[dict[str, np.ndarray]], members: list[int]
) -> dict[tuple[int, int], dict[str, Any]]:
    """All pairs of some rows of one rule, the better first; see :func:`recbole_r3vae.experiments.statistics.leads`."""
    seeds = {index: found["values"] for index in members if (found := ranked_test(rows[index]).get(metric))}
    return statistics.leads(seeds, {index: users[index][metric] for index in seeds if metric in users[index]})


def _named(metric: str, pair: tuple[int, int], found: dict[str, Any], rows: list[dict[str, Any]]) -> dict[str, Any]:
    named = {
        key: {"name": rows[index]["name"], "variant": rows[index]["variant"], "seeds": len(rows[index]["seeds"])}
        for key, index in zip(("best", "next"), pair)
    }
    return {"metric": metric, **named, **found}


def _leads(
    rows: list[dict[str, Any]], users: list[dict[str, np.ndarray]], usable: list[int]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The best row of each metric over the next one, and the best by NDCG@10 over every other; marks what is ahead of all as bold."""
    leads, of_best = [], []
    for metric in ACCURACY:
        pairs = _pairs(metric, rows, users, usable)
        if not pairs:
            continue
        best = next(iter(pairs))[0]
        of_metric = [_named(metric, pair, found, rows) for pair, found in pairs.items() if pair[0] == best]
        tested = [lead["supported"] for lead in of_metric if lead["p_seeds"] is not None]
        if tested and all(tested):
            rows[best]["bold"].append(metric)
        leads.append({**of_metric[0], "tested": len(tested)})
        of_best = of_metric if metric == RANKED_BY else of_best
    return leads, of_best


def _answer(rows: list[dict[str, Any]], groups: list[list[Record]], of_split: list[int], rule: Rule) -> dict[str, Any] | None:
    """Who leads by NDCG@10 under a rule, over whom, and at what cost.

    Returns:
        ``best``, ``next`` and ``beside``, the best row that does not (or, where the best is none, that does) read semantic IDs, each with
        ``name``, ``variant``, ``seeds``, ``test``, ``seconds`` of training (the tokenizer's included) and ``n_parameters``; the latter two
        also with what :func:`recbole_r3vae.experiments.statistics.leads` says of the best one's lead. ``others``, how many more rows there
        are; ``by_both`` and ``by_users``, how many of them are behind by the tests of seeds and of users, and by that of users alone
        (p below .05, uncorrected) where seeds are too few. ``None`` where no row has the rule.
    """
    seeds = {index: found["values"] for index in of_split if (found := rows[index]["test"][rule].get(RANKED_BY))}
    if not seeds:
        return None
    users = {index: metrics[RANKED_BY] for index in seeds if RANKED_BY in (metrics := _user_metrics(groups[index], rule))}
    pairs, ranked = statistics.leads(seeds, users), sorted(seeds, key=lambda index: -np.mean(seeds[index]))
    best, *others = ranked

    def told(index: int | None) -> dict[str, Any] | None:
        if index is None:
            return None
        row = rows[index]
        named = {key: row[key] for key in ("name", "variant", "n_parameters")} | {"seeds": len(row["seeds"])}
        training, tokenizer = row["seconds"]["training"], row["seconds"]["tokenizer"]
        cost = {"seconds": None if training is None else training + (tokenizer or 0)}
        return {**named, "test": row["test"][rule][RANKED_BY], **cost, **pairs.get((best, index), {})}

    reads_sids = rows[best]["tokenizer"] is not None
    beside = next((index for index in others if (rows[index]["tokenizer"] is not None) != reads_sids), None)
    behind = [pairs[best, index] for index in others]
    return {
        "best": told(best),
        "next": told(others[0] if others else None),
        "beside": told(beside),
        "reads_sids": reads_sids,
        "others": len(others),
        "by_both": sum(pair["supported"] for pair in behind),
        "by_users": sum(pair["p_seeds"] is None and pair["p_users"] is not None and pair["p_users"] < statistics.LEVEL for pair in behind),
    }


# -- tokenizers and generators -----------------------------------------------------------------------------------------------


def _grid(rows: list[dict[str, Any]], users: list[dict[str, np.ndarray]], usable: list[int], notes: list[str]) -> list[dict[str, Any]]:
    """A cell for each generator and tokenizer: its figures, and how far the best tokenizer of the same generator is ahead of it."""
    cells = []
    for generator, of_generator in _by_generator(rows, usable):
        chosen = _one_a_tokenizer(
            rows, [index for index in of_generator if all(metric in ranked_test(rows[index]) for metric in TABLE_METRICS)]
        )
        behind: dict[int, dict[str, Any]] = {index: {} for index in chosen}
        for metric in TABLE_METRICS:
            pairs = _pairs(metric, rows, users, chosen)
            best = next(iter(pairs), (None,))[0]
            for (one, other), found in pairs.items():
                if one == best:
                    behind[other][metric] = found
        for index in chosen:
            kept = {"generator": generator, **{key: rows[index][key] for key in ("tokenizer", "name", "variant", "seeds")}}
            test = {
                rule: {metric: found[metric] for metric in TABLE_METRICS if metric in found} for rule, found in rows[index]["test"].items()
            }
            cells.append({**kept, "rule": rows[index]["rule"], "test": test, "behind": behind[index]})
        more = _differing([rows[index] for index in chosen])
        if more:
            notes.append(f"The rows of {generator} differ in more than how a tokenizer learns: {'; '.join(more)}.")
    return cells


def _differing(rows: list[dict[str, Any]]) -> list[str]:
    """What else is not the same for all rows of a generator, with the rows that most others differ from.

    A tokenizer's own keys are what the rows are to differ in, but for the text that it reads and the number of codes that it writes: a
    longer semantic ID makes another generator.
    """
    found = []
    settings = [_beside_the_tokenizer(row) for row in rows]
    for key in sorted(set().union(*settings)):
        values = [json.dumps(one.get(key), sort_keys=True) for one in settings]
        usual = Counter(values).most_common(1)[0][0]
        others = {value: [row["name"] for row, own in zip(rows, values) if own == value] for value in sorted(set(values) - {usual})}
        found += [f"{key} is {value} in {', '.join(names)}, {usual} elsewhere" for value, names in others.items()]
    return found


def _beside_the_tokenizer(row: dict[str, Any]) -> dict[str, Any]:
    own = {key: value for key, value in row["config"].items() if not key.startswith("tokenizer")}
    conditions = {key: row[key] for key in ("content", "data", *CONDITIONS) if key != "tuning_trials"}
    return {**own, **conditions, "tokenizer_codebook_sizes": row["config"].get("tokenizer_codebook_sizes")}


def _by_generator(rows: list[dict[str, Any]], usable: list[int]) -> list[tuple[str, list[int]]]:
    """Name of each generator, such as ``R3GR`` or ``R3GR-hybrid``, and its rows."""
    found: dict[str, list[int]] = {}
    for index in usable:
        if rows[index]["tokenizer"]:
            found.setdefault(rows[index]["name"].partition("[")[0], []).append(index)
    return sorted(found.items())


def _one_a_tokenizer(rows: list[dict[str, Any]], usable: list[int]) -> list[int]:
    """Of several configurations of a tokenizer one, see :data:`~.sentences.CONFIGURATIONS`; by tokenizer."""
    chosen: dict[str, int] = {}
    for index in usable:
        tokenizer = rows[index]["tokenizer"]
        if tokenizer not in chosen or _preference(rows[index]) > _preference(rows[chosen[tokenizer]]):
            chosen[tokenizer] = index
    return [chosen[tokenizer] for tokenizer in sorted(chosen)]


def _preference(row: dict[str, Any]) -> tuple[int, bool, float]:
    return len(row["seeds"]), row["valid_rule"] == RULES[0], row["valid"].get(RANKED_BY, {"mean": -1.0})["mean"]


# -- users, and the quality of semantic IDs ----------------------------------------------------------------------------------


def _sliced(
    rows: list[dict[str, Any]], users: list[dict[str, np.ndarray]], split: dict[str, Any], notes: list[str]
) -> list[dict[str, Any]]:
    """Describe the slices and give each row its figures in them, under ``slices``."""
    try:
        if "users" not in split:
            raise ValueError(split.get("error", "there is no split file"))
        popularity, history = (unpack(split[key], "int32") for key in ("popularity", "history"))
        if not len(popularity) == len(history) == split["users"]:
            raise ValueError(f"popularity of {len(popularity)} and history of {len(history)} users, not of {split['users']}")
    except (KeyError, ValueError) as error:
        notes.append(f"No slices: {error}.")
        return []
    parts = statistics.slices(popularity, history)
    for row, of_users in zip(rows, users):
        row["slices"] = [
            {metric: float(of_users[metric][part.users].mean()) for metric in TABLE_METRICS if metric in of_users} for part in parts
        ]
    return [{"group": part.group, "name": part.name, "says": part.says, "users": int(part.users.sum())} for part in parts]


def _cold(split: dict[str, Any]) -> float | None:
    """The share of test targets without a training interaction; ``None`` where it is not known."""
    try:
        popularity = unpack(split["popularity"], "int32")
    except (KeyError, ValueError):
        return None
    return float((popularity == 0).mean()) if len(popularity) else None


def _relations(rows: list[dict[str, Any]], usable: list[int]) -> list[dict[str, Any]]:
    """SID quality and Recall@10 over the tokenizers of each generator that has three or more; a tokenizer is one point."""
    found = []
    for generator, of_generator in _by_generator(rows, usable):
        measured = [index for index in of_generator if rows[index]["quality"] and "recall@10" in ranked_test(rows[index])]
        chosen = [rows[index] for index in _one_a_tokenizer(rows, measured)]
        of_each = {}
        for key in RELATED:
            pairs = [(row["quality"][key], ranked_test(row)["recall@10"]["mean"]) for row in chosen if key in row["quality"]]
            if len(pairs) >= 3:
                of_each[key] = statistics.spearman(*zip(*pairs))
        if of_each:
            kept = ("name", "variant", "tokenizer", "family", "seeds", "quality")
            marks = [{**{key: row[key] for key in kept}, "recall@10": ranked_test(row)["recall@10"]} for row in chosen]
            found.append({"generator": generator, "spearman": of_each, "points": marks})
    return found
