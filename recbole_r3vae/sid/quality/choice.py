"""Choosing among tokenizers by the quality of their semantic IDs alone, before any generator is trained.

R3-VAE (arXiv 2604.11440) proposes SC and PD for that and leaves open how. Each of its three scores misleads when it decides alone:

* SC grows with the number of clusters whatever they mean, because smaller clusters are more alike inside, and at the last level it is a
  mean over the few clusters that still have two items.
* PD falls with the number of clusters until they are single items, and then says nothing of the codes.
* The unique ratio is highest for codes without meaning: random ones hardly collide.

So SC and PD are compared at equal *resolution*, the unique ratio only among tokenizers whose codes mean something, and where neither
decides, the shorter and smaller semantic IDs win.

Resolution is that of nested clusters: each level splits those of the level before. Codes without an order make none (a digit's clusters
split nothing but the catalogue), so reports by digit are refused rather than compared on a scale that does not hold them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from recbole_r3vae.errors import UserError

MEANING = 0.9
"""Share of the best cohesion and separation that a tokenizer has to reach."""
UNIQUENESS = 0.95
"""Share of the best unique ratio that a tokenizer has to reach; below it, codes that mean nothing do the telling apart."""

RULE = (
    f"Rule: (1) of all trials, those stay whose score, the area under SC - PD over resolution, reaches {MEANING:.0%} of the best; "
    f"(2) of these, those whose unique ratio reaches {UNIQUENESS:.0%} of the best; (3) of these, the fewest levels win, then the fewest "
    "codes; (4) then the highest score."
)


@dataclass(frozen=True)
class Verdict:
    """What the rule says of one tokenizer.

    Attributes:
        score: :func:`meaning` of its semantic IDs.
        rank: from 1, the choice.
        rejected: why it is not eligible, in words; ``None`` if it is.
    """

    score: float
    rank: int
    rejected: str | None


def meaning(report: dict[str, Any]) -> float:
    """Cohesion and separation of all levels as one number that tokenizers with different codebooks can be compared by.

    The resolution of level ``l`` is ``u_l = log(clusters) / log(items)``: 0 for one cluster, 1 where every item is its own. The score is
    the area under ``SC - PD`` (both of the item vectors), which is minus the paper's regulariser, from ``u = 0`` to the last
    level's, with straight lines between the levels. So a level counts by how much finer it makes the partition, a value that rests on
    a handful of clusters weighs next to nothing, a collapsed level earns nothing, and nor does the part from the last level to
    single items that a disambiguating code has to bridge. Before the first level all items are one cluster, whose SC is their
    mean cosine and whose PD is 0, its upper bound.

    Args:
        report: of :func:`~recbole_r3vae.sid.quality.report.quality_report` on unit vectors, with space ``raw`` and a reconstruction.

    Returns:
        Between 0 and 3 or so, higher is better. Random codes score about two thirds of what k-means does.

    Raises:
        UserError: a report by digit.
    """
    if report.get("by") == "digit":
        raise UserError(
            "semantic IDs whose codes have no order cannot be chosen by SC and PD over resolution, which their digits do not refine; "
            "compare such tokenizers by the validation metric of a generator trained on each"
        )
    n = report["items"]
    resolution, area = 0.0, 0.0
    # The mean of n unit vectors has the squared norm 1 - variance, which holds each item's cosine of 1 with itself.
    cohesion = 1 - report["reconstruction"]["variance"] * n / (n - 1)
    height = cohesion
    for level in report["levels"]:
        scores = level["spaces"]["raw"]
        if scores["sc"] is not None:  # else no two items share a cluster, and the level above is the last that tells of cohesion
            cohesion = scores["sc"]
        next_resolution = math.log(level["clusters"]) / math.log(n)
        next_height = cohesion - (scores["pd"] or 0.0)  # PD is undefined for one cluster
        area += (next_resolution - resolution) * (height + next_height) / 2
        resolution, height = next_resolution, next_height
    return area


def choose(reports: Sequence[dict[str, Any]]) -> list[Verdict]:
    """Rank tokenizers of one catalogue.

    1. *Meaning.* Of all, those stay whose :func:`meaning` reaches 90 % of the best. This puts out collapsed codes, random codes and
       coarse ones.
    2. *Uniqueness.* Of these, those stay whose unique ratio reaches 95 % of the best of these. A generator has to learn by heart which
       of several items with the same codes is meant.
    3. *Economy.* Fewest levels first (each is a step of decoding), then fewest codes in all (each has to be learned).
    4. *Meaning* again decides between tokenizers of equal size, where it is fairest; then the order given.

    Those that went out at step 2 follow by unique ratio, then those of step 1 by score.

    Args:
        reports: as for :func:`meaning`, one for each tokenizer, all of the same items; at least one.

    Returns:
        A verdict for each, in the order given.

    Raises:
        UserError: a report by digit.
    """
    scores = [meaning(report) for report in reports]
    unique = [report["unique_ratio"] for report in reports]
    lowest_score = max(scores) - (1 - MEANING) * abs(max(scores))
    meaningful = [i for i, score in enumerate(scores) if score >= lowest_score]
    lowest_unique = UNIQUENESS * max(unique[i] for i in meaningful)
    rejected: dict[int, str] = {}
    order = []
    for i, report in enumerate(reports):
        sizes = [level["codebook_size"] for level in report["levels"]]
        if i not in meaningful:
            rejected[i] = f"score below {lowest_score:.4f}"
            order.append((2, -scores[i], i))
        elif unique[i] < lowest_unique:
            rejected[i] = f"unique ratio below {lowest_unique:.4f}"
            order.append((1, -unique[i], i))
        else:
            order.append((0, len(sizes), sum(sizes), -scores[i], i))
    ranks = {place[-1]: rank for rank, place in enumerate(sorted(order), start=1)}
    return [Verdict(scores[i], ranks[i], rejected.get(i)) for i in range(len(reports))]
