"""The cold-start protocol: items that no training has seen, recommended by their content alone, and what that costs the others.

TIGER (Rajput et al., NeurIPS 2023, arXiv 2305.05065) gives unseen items a share epsilon of the places of a list; LIGER (Yang et al.,
arXiv 2411.18814) orders them by the cosine of text vectors. Here a share of the items is taken out of everything that is trained. What
each user's last item was is then asked of the models, apart for users whose last item is warm and for those for whom it is cold.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recbole_r3vae.config import Config
from recbole_r3vae.config.registry import get_model, settings_file
from recbole_r3vae.config.sources import given_settings, load_yaml, properties
from recbole_r3vae.config.stages import content_config, deal, refuse_unknown
from recbole_r3vae.data.cold import check_share
from recbole_r3vae.data.content.modalities import modalities
from recbole_r3vae.errors import UserError, did_you_mean
from recbole_r3vae.experiments.coldstart.lists import measure, random_expectation
from recbole_r3vae.experiments.coldstart.methods import lists_of_generator, ranked
from recbole_r3vae.experiments.coldstart.split import make_split
from recbole_r3vae.experiments.coldstart.tables import write_tables
from recbole_r3vae.io import write_json
from recbole_r3vae.model.heads import EXACT
from recbole_r3vae.model.ranker import LIST_METRICS
from recbole_r3vae.model.recbole_models import contract_of
from recbole_r3vae.provenance import provenance
from recbole_r3vae.quick_start.run import run_recbole_r3vae
from recbole_r3vae.serve.recommender import Recommender
from recbole_r3vae.serve.tokenize import tokenize_items

EPSILONS = (0.0, 0.1, 0.2, 0.5)
CANDIDATES = 20
KINDS = ("random", "recent")
SASREC = {"loss_type": "CE"}
PLACES = {"data_path", "checkpoint_dir", "content_cache_dir", "run_dir", "device"}  # no part of what was measured


def run_coldstart(
    dataset: str,
    model: str = "R3GR",
    cold_share: float = 0.05,
    cold_by: str = "random",
    epsilons: Sequence[float] = EPSILONS,
    candidates: int = CANDIDATES,
    sasrec: bool = False,
    output: str | os.PathLike = "results",
    config_file_list: Iterable[str] = (),
    arguments: Sequence[str] = (),
) -> dict[str, Any]:
    """Train on warm items, tokenize the cold ones from their texts, and measure recommendations of both.

    The atomic files without the cold items go into ``<checkpoint_dir>/coldstart/<dataset>-<hash>``, and text encoder, tokenizer and
    generator are those of an ordinary run on them. The cold items then join the prefix tree, by the run's collision policy. What was
    trained before is taken up; a training that was killed goes on.

    Users whose last item is warm, and those whose last item is cold, are asked for it after a history of warm items. Compared are:

    * the generator with all items in one list;
    * the generator with a share epsilon of the places for cold items (:func:`~.lists.mix`), filled by
      its own beam over the cold items alone; by the ``candidates`` best of that beam in the order of their texts' similarity to the
      history's (:func:`~.lists.similarities`; *re-ranked*: LIGER's idea, with the text vectors of the
      history in place of a predicted one); by all cold items in that order (*content ItemKNN*); or at *random*, for which the
      expectation is computed;
    * content ItemKNN by itself, over all items but those of the history;
    * SASRec, which has no embedding for a cold item.

    Written into ``output``: ``coldstart_<dataset>.json`` and ``.md``.

    Args:
        dataset: name of a folder of atomic files, with item texts; split by leaving one out, in time order.
        model: a generator.
        cold_share: of the items; with ``cold_by="recent"`` of the events.
        cold_by: ``random``, drawn with the run's seed; or ``recent``, items first seen in the last events, where times are real.
        epsilons: shares of places for cold items, each from 0 to 1.
        candidates: how many cold items of the beam are re-ranked; LIGER's default.
        sasrec: whether SASRec is trained too, with RecBole's settings and cross-entropy over all warm items.
        output: folder of the results.
        config_file_list: YAML files, later ones win.
        arguments: command-line words for the generator and its tokenizer, and for SASRec where it has the key and the key is none of the
            generator's own; ``--SASRec.learning_rate=5e-4`` for SASRec alone.

    Returns:
        What the JSON file holds.

    Raises:
        UserError: a setting is unknown, out of range or contradicts the protocol.
    """
    given = given_settings(config_file_list, arguments)
    mine, sasrecs = _deal_out(given, model, dataset)
    config = Config(model, dataset, config_dict=mine)
    _check(config, cold_share, cold_by, epsilons, candidates)

    split = make_split(config, cold_share, cold_by)
    warm_targets = np.array([question.target not in split.cold for question in split.questions])
    print(
        f"{dataset}: {len(split.cold)} cold and {len(split.warm)} warm items, {(~warm_targets).sum()} users with a cold target and "
        f"{warm_targets.sum()} with a warm one, {split.left_out} left out: {split.folder}", flush=True,
    )  # fmt: skip
    if not 0 < warm_targets.sum() < len(warm_targets):
        raise UserError("every user's last item is warm, or every one cold: nothing to compare; choose another cold_share or seed")

    config = Config(model, dataset, config_dict={**mine, **split.settings})
    result = run_recbole_r3vae(model, dataset, config_dict={**mine, **split.settings})
    recommender = Recommender(result["run_dir"])
    tokenized = tokenize_items(result["run_dir"], split.folder / "cold.item", split.folder / "cold.sid")
    recommender.add_items(split.folder / "cold.sid")
    methods = lists_of_generator(recommender, config, split, epsilons, candidates, result["name"])
    trainings = {result["name"]: result}
    if sasrec:
        trainings["SASRec"] = done = run_recbole_r3vae("SASRec", dataset, config_dict={**SASREC, **sasrecs, **split.settings})
        methods.append(("SASRec", None, ranked(Recommender(done["run_dir"]), split, max(config["topk"]))))

    targets = np.array([split.number[question.target] for question in split.questions])
    rows = []
    for method, epsilon, lists in methods:
        cold, warm = (measure(config, lists[users], targets[users]) for users in (~warm_targets, warm_targets))
        rows.append({"method": method, "epsilon": epsilon, "cold": cold, "warm": warm})
    for epsilon in filter(None, epsilons):
        of_warm = next(row["warm"] for row in rows if row["epsilon"] == epsilon)  # random items leave the same places to warm ones
        expected = random_expectation(epsilon, len(split.cold), config["metrics"], config["topk"])
        rows.append({"method": "random cold items", "epsilon": epsilon, "cold": expected, "warm": of_warm})

    origin = provenance(config)
    origin["config"] = {key: value for key, value in origin["config"].items() if key not in PLACES}
    words = [f"--{key}={value}" for key, value in given.items() if key not in PLACES]
    protocol = [f"--cold_share={cold_share:g}", f"--cold_by={cold_by}", f"--epsilon={','.join(f'{share:g}' for share in epsilons)}"]
    more = [f"--candidates={candidates}", *(["--sasrec"] if sasrec else [])]
    report = {
        "schema": 1,
        "dataset": dataset,
        "name": result["name"],
        "command": shlex.join(["recbole-r3vae", "coldstart", f"--model={model}", f"--dataset={dataset}", *protocol, *more, *words]),
        "split": {
            "cold_by": cold_by, "cold_share": cold_share, "seed": config["seed"], "hash": split.hash,
            "cold_items": len(split.cold), "warm_items": len(split.warm), "cold_users": int((~warm_targets).sum()),
            "warm_users": int(warm_targets.sum()), "left_out": split.left_out,
        },
        "tokenized": {"items": tokenized.sids.n_items - 1, "moved": tokenized.moved, "shared": tokenized.shared},
        "rows": rows,
        "trainings": {
            name: {key: run[key] for key in ("seconds", "epochs", "stopped_at_budget", "best_valid_result")}
            for name, run in trainings.items()
        },
        **origin,
    }  # fmt: skip
    path = Path(output) / f"coldstart_{dataset}.json"
    write_json(path, report)
    write_tables(path.with_suffix(".md"), report)
    print(f"{path}, {path.with_suffix('.md')}", flush=True)
    return report


def _deal_out(given: dict[str, Any], model: str, dataset: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Keys and values for the generator, and for SASRec."""
    if contract_of(get_model(model)).family != "generative":
        raise UserError(f"{model} does not recommend by semantic IDs, so new items are nothing to it; take a generator, such as R3GR")
    sasrecs = Config("SASRec", dataset).known_keys()
    generators = set(load_yaml(settings_file(get_model(model)))) - set(load_yaml(properties() / "overall.yaml"))
    plain = {key: value for key, value in given.items() if "." not in key}
    known = {model: Config(model, dataset, config_dict=plain).known_keys(), "SASRec": sasrecs}
    refuse_unknown(plain, known[model], f"model {model}")
    dealt = deal(given, {**known, "SASRec": sasrecs - generators}, {model: set(), "SASRec": sasrecs})
    return dealt[model], dealt["SASRec"]


def _check(config: Config, cold_share: float, cold_by: str, epsilons: Sequence[float], candidates: int) -> None:
    """Refuse what the protocol cannot do before anything is trained."""
    check_share(cold_share)
    if cold_by not in KINDS:
        raise UserError(f"cold_by is {cold_by!r}{did_you_mean(str(cold_by), KINDS)}; choose {' or '.join(KINDS)}")
    for epsilon in epsilons:
        if not isinstance(epsilon, (int, float)) or not 0 <= epsilon <= 1:
            raise UserError(f"epsilon has {epsilon!r}; give shares of places from 0 to 1, such as 0,0.1,0.2")
    beams, widest = config["num_beams"] or EXACT, max(config["topk"])  # a model without beams scores every item
    if type(candidates) is not int or candidates < widest or (beams != EXACT and candidates > beams):
        raise UserError(f"candidates is {candidates!r}; give a whole number from the largest topk={widest} to num_beams={beams}")
    for key in ("sid_file", "content_file"):
        if config[key]:
            raise UserError(f"{key} was made with all items in sight; a cold-start split needs a text encoder and a tokenizer of its own")
    for modality in modalities(content_config(config)):
        if modality.encoder is None:
            made = "a file of vectors" if modality.learned is None else f"{modality.learned}, which learns them from interactions"
            raise UserError(
                f"content_encoder has {modality.name} from {made}; a cold-start split gives cold items the vectors of their texts: take text encoders"
            )
    refused = [metric for metric in config["metrics"] if metric.lower() not in LIST_METRICS]
    if refused:
        raise UserError(f"metric {refused[0]} is not one of users' targets; choose among {', '.join(sorted(LIST_METRICS))}")
