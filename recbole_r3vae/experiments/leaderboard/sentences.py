"""What a leaderboard says in sentences: how its tables are read, what is to be known of its rows, and who leads."""

from __future__ import annotations

from typing import Any

from recbole_r3vae.experiments.leaderboard.figures import (
    NONE, RANKED_BY, Row, budget, decimal, drawn_ties, label, numbers_in_short, signed, split_points, title_of,
)  # fmt: skip
from recbole_r3vae.experiments.leaderboard.records import RULE_NAMES
from recbole_r3vae.experiments.leaderboard.rows import COUNTED
from recbole_r3vae.experiments.statistics import LEAST_POINTS, LEAST_SEEDS, LEVEL
from recbole_r3vae.record import RULES, Rule

READING = (
    "Test figures of one checkpoint, mean ± sample standard deviation over seeds. Each list was ranked twice. Met items left out: what a "
    "user has met before is no candidate. Met items stay: it is one. Bold: best of its column, and ahead of every other row of "
    f"{LEAST_SEEDS} seeds by both tests, of seeds (Welch's t-test) and of users (paired t-test, each user's metric averaged over seeds). "
    f"The larger p, two-sided, is below {LEVEL} when corrected by Holm's method for all pairs of such rows, because these figures "
    "themselves chose the best. Rows of fewer seeds are not tested. Stopped: the budget of minutes ended the training of so many seeds "
    "before they would have ended themselves."
)
ALL_METRICS = (
    "Coverage (share of items recommended to anyone; higher is broader) and Gini (of how often; lower is more even) describe the catalogue "
    "and are never bold."
)
CONFIGURATIONS = (
    "of several configurations the one with the most seeds, then one whose epochs were selected with met items left out, then the best "
    "validation NDCG@10"
)
GRID = (
    f"Within a column nothing but the tokenizer differs, unless a note says so; {CONFIGURATIONS}. †: behind the best of its column by more "
    "than the noise of seeds and of users, by the two tests above, corrected for all pairs of tokenizers in the column. Figures "
    f"without it cannot be told from the best, and none can where one side has fewer than {LEAST_SEEDS} seeds. Columns of the other rule "
    "on met items are not tested."
)
SLICES = (
    "Cold targets do not occur in training. The other targets, and all histories, are cut at the 1/3 and 2/3 quantiles of the test users' "
    "values; equal values stay together. Mean over seeds."
)
RELATIONS = (
    f"One point a tokenizer, before collisions are resolved: {CONFIGURATIONS}. "
    "Spearman's rho with the 95 % percentile bootstrap interval over tokenizers."
)
COSTS = (
    "Means over seeds. Seconds and memory compare on one machine under one load only; memory is of the whole process. One test ranks "
    "by both rules."
)
LEADS = (
    f"p, Holm: the larger of both, corrected for all pairs of rows of {LEAST_SEEDS} seeds, each metric by itself. In brackets the 95 % "
    "interval of the lead over users, for these seeds and this pair alone: it may leave out 0 where the corrected tests do not "
    "support the lead."
)
BEST = "The best row and every other, by the same tests: who cannot be told from it on these users."
BESIDE = (
    "An entry stands beside our column of its own rule on met items, and the first of several for a row is shown. Entries whose rule is "
    "unknown stand in the table of published values alone."
)


ANSWER = (
    "In brackets the 95 % interval of the lead over users. By seeds and users: both tests, p below .05 after Holm's correction; by "
    "users alone: that test as it is. Seconds of training include the tokenizer's."
)


def ranking_line(report: dict[str, Any]) -> str:
    """By which figures the rows are ordered."""
    return f"Order, bold figures, tests and slices are by the figures with {RULE_NAMES[report['rule']]}."


def rule_notes(rows: list[Row], rule: Rule) -> list[str]:
    """What to know where a row was not tested under both rules, and where the rules ask different questions."""
    notes = []
    if rows and rule != RULES[0]:
        notes.append("No row was tested with met items left out. Order and tests are by the figures with met items among the candidates.")
    lacking = [label(row) for row in rows if row["rule"] != rule]
    if lacking:
        was, they, stand, them = ("was", "It", "stands", "it") if len(lacking) == 1 else ("were", "They", "stand", "them")
        notes.append(
            f"{', '.join(lacking)} {was} not tested with {RULE_NAMES[rule]}. {they} {stand} where the figures with {RULE_NAMES[RULES[1]]} "
            f"put {them}, and no test compares {them} with the others."
        )
    repeated = max((row["repeated_targets"] or 0 for row in rows), default=0)
    if repeated:
        met = f"{repeated:,} test targets are items that their users had met before."
        notes.append(f"{met} With met items left out they stay, and their users' other met items do not: easier to find.")
    return notes


def apart_line(part: dict[str, Any]) -> str:
    """Why some rows stand in a table of their own."""
    return (
        f"These rows were trained in {part['precision']}, those above in {part['usual']}. Precision changes results. So the two share no table, "
        "and no test compares them."
    )


def why_nothing_is_bold(report: dict[str, Any]) -> str | None:
    """One line, where no lead is supported."""
    leads = report["leads"]
    if not leads:
        return "Nothing is bold: there are no two rows to compare."
    if any(row["bold"] for row in report["rows"]):
        return None
    if not any(lead["tested"] for lead in leads):
        return f"Nothing is bold: to test a best figure, its row and another need {LEAST_SEEDS} seeds each."
    return "Nothing is bold: no best figure is ahead of all others by both seeds and users."


def verdict(lead: dict[str, Any]) -> str:
    """Whether a lead is supported, and what is missing if not."""
    if lead["supported"]:
        return "supported"
    against = []
    if lead["p_seeds"] is None:
        against.append(f"too few seeds ({lead['best']['seeds']} and {lead['next']['seeds']}, {LEAST_SEEDS} each are needed)")
    elif lead["p_seeds"] >= LEVEL:
        against.append("within the noise of seeds")
    if lead["p_users"] is None:
        against.append("no ranks of users")
    elif lead["p_users"] >= LEVEL:
        against.append("within the noise of users")
    if not against:
        against.append("within the noise of so many pairs of rows")
    untested = lead["p_seeds"] is None or lead["p_users"] is None
    return ("not tested: " if untested else "not supported: ") + " and ".join(against)


def correlation(relation: dict[str, Any]) -> str:
    """``rho = −0.32 [−0.90, 0.55], n = 7``."""
    if relation["rho"] is None:
        return f"rho not defined: no variation over {relation['n']} tokenizers"
    if relation["low"] is None:
        return f"rho = {signed(relation['rho'])} (no interval from fewer than {LEAST_POINTS}), n = {relation['n']}"
    rho, low, high = (signed(relation[key]) for key in ("rho", "low", "high"))
    return f"rho = {rho} [{low}, {high}], n = {relation['n']}"


def warning_of_few_points(relation: dict[str, Any]) -> str:
    """A warning where a correlation rests on warning_of_few_points points."""
    most = max(part["n"] for part in relation["spearman"].values())
    return f"Only {most} tokenizers: the intervals are rough, and no relation is shown by these points alone." if most < 20 else ""


def slice_sizes(report: dict[str, Any]) -> str:
    """How many users each slice has."""
    groups = {"popularity": "Targets by training interactions", "history": "Users by length of history"}
    found = []
    for group, words in groups.items():
        parts = [f"{part['name']} {part['says']}: {part['users']:,}" for part in report["slices"] if part["group"] == group]
        found.append(f"{words}: {', '.join(parts)} users.")
    return " ".join(found)


def facts(report: dict[str, Any]) -> list[tuple[str, str]]:
    """What was the same for all rows, and the range of what was not: name and words."""
    rows = report["rows"]
    if not rows:
        return []
    seeds = sorted({seed for row in rows for seed in row["seeds"]})
    counts = sorted({len(row["seeds"]) for row in rows})
    a_row = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    stopped = sum(row["stopped_at_budget"] for row in rows)
    units = sum(len(row["seeds"]) for row in rows)
    return [
        ("Split", _same([split_words(row) for row in rows])),
        ("Test users", decimal(report["users"], 0)),
        ("Cold test targets", _cold(report)),
        ("Seeds", f"{numbers_in_short(seeds)}; {a_row} a row"),
        ("Budget", f"{_same([budget(row) for row in rows])} a unit; {stopped} of {units} units stopped at it"),
        ("Epochs selected with", _same([RULE_NAMES.get(row["valid_rule"], "a rule that is not recorded") for row in rows])),
        (
            "Test targets met before",
            _same(["not counted" if row["repeated_targets"] is None else f"{row['repeated_targets']:,}" for row in rows]),
        ),
        ("Precision", _same([row["precision"] for row in rows if row["loss"] != COUNTED] or ["nothing trained"])),
        ("Tuning", f"{_same([str(row['tuning_trials']) for row in rows])} trials a row"),
        ("Hardware", _same(["; ".join(row["hardware"]) or "not recorded" for row in rows])),
        ("Commit", _same([", ".join(row["commits"]) or "not recorded" for row in rows])),
        ("Versions", _same(["; ".join(row["versions"]) or "not recorded" for row in rows])),
    ]


def _cold(report: dict[str, Any]) -> str:
    share = report.get("cold")  # reports of earlier versions do not tell
    return NONE if share is None else f"{share:.1%}, items without a training interaction"


def split_words(row: Row) -> str:
    """How training and test of a row are told apart."""
    points, ties = split_points(row), drawn_ties(row)
    drawn = "" if ties is None else f"; a user's interactions of one time in an order drawn by seed {ties}"
    if points is None:
        return f"each user's last item is the test, the one before it validation{drawn}"
    first, second = (f"{point:g}" for point in points)
    return f"by time, the same for all users: the test is a user's first item after {second} of the interactions, validation after {first}{drawn}"


def _same(values: list[str]) -> str:
    """The value of all rows, or the different ones with the number of their rows."""
    different = sorted(set(values), key=lambda value: (-values.count(value), value))
    if len(different) == 1:
        return values[0]
    return "; ".join(f"{value} ({count} row{'s' * (count > 1)})" for value in different for count in [values.count(value)])
