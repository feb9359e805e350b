"""The cells of the comparison: models x item features x seeds, each with the hash of everything that decides its result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from recbole_r3vae.config import Config, fingerprint
from recbole_r3vae.config.registry import get_model
from recbole_r3vae.config.stages import PREFIX, deal, decisive, tokenizer_config, without_unread_keys
from recbole_r3vae.data.file_hash import sha256_of
from recbole_r3vae.errors import UserError, did_you_mean
from recbole_r3vae.experiments.inputs import content_hashes
from recbole_r3vae.model.contract import CLICK
from recbole_r3vae.model.recbole_models import SID_FEATURES, contract_of
from recbole_r3vae.quick_start.lookup import dataset_folder
from recbole_r3vae.quick_start.provide import check_stages
from recbole_r3vae.quick_start.run import result_name

FEATURES = ("replace", "append")
FIXED = {"model", "dataset", "seed", "sid_features", "tokenizer", "sid_file", "run_dir", "resume", "init_from", "state", "show_progress"}


@dataclass(frozen=True)
class Cell:
    """One model, kind of item features and seed.

    Attributes:
        model: RecBole's name.
        features: ``none`` (the item id alone), ``replace`` or ``append``.
        tokenizer: ``None`` with ``none``.
        seed: of the model, the tokenizer and the sampled negatives.
        name: such as ``DeepFM-replace[R3VAE]``.
        settings: what the run is given.
        data: hashes of the files that it reads.
        hash: of everything that decides the result.
    """

    model: str
    features: str
    tokenizer: str | None
    seed: int
    name: str
    settings: dict[str, Any]
    data: dict[str, str]
    hash: str

    def __str__(self):
        return f"{self.name} seed {self.seed}"


def cells_of(
    dataset: str,
    models: Sequence[str],
    tokenizers: Sequence[str],
    seeds: Sequence[int],
    features: Sequence[str],
    given: dict[str, Any],
    where: dict[str, Any],
) -> list[Cell]:
    """The cells, checked as far as is possible without loading data: all of one seed before the next.

    Raises:
        UserError: see :func:`run_ctr`.
    """
    for name in models:
        if contract_of(get_model(name)).task != CLICK:
            raise UserError(f"{name} does not predict clicks; take context-aware models such as DeepFM and DCNV2, and DIN")
    for name in features:
        if name not in FEATURES:
            raise UserError(f"features has {name!r}{did_you_mean(str(name), FEATURES)}; choose among {', '.join(FEATURES)}")
    for seed in seeds:
        if type(seed) is not int:
            raise UserError(f"seeds has {seed!r}; give whole numbers, such as 2020,2021,2022")
    for key in given:
        if key.rpartition(".")[2] in FIXED:
            raise UserError(f"{key} is set by the comparison itself; leave it out (--models, --tokenizers, --seeds, --features choose)")
    kinds = [(SID_FEATURES[-1], None), *((kind, tokenizer) for tokenizer in tokenizers for kind in features)]
    known = {model: set().union(*(_keys(dataset, model, kind, tokenizer, where) for kind, tokenizer in kinds)) for model in models}
    dealt = deal(given, known)
    arms = [_arm(dataset, model, kind, tokenizer, dealt[model], where) for model in models for kind, tokenizer in kinds]
    return [
        Cell(**{**arm, "settings": {**arm["settings"], "seed": seed}}, seed=seed, hash=fingerprint({**deciding, "seed": seed}))
        for seed in seeds
        for arm, deciding in arms
    ]


def _keys(dataset: str, model: str, kind: str, tokenizer: str | None, where: dict[str, Any]) -> set[str]:
    return Config(model, dataset, config_dict={**_fixed(kind, tokenizer), **where}).known_keys()


def _fixed(kind: str, tokenizer: str | None) -> dict[str, Any]:
    return {"sid_features": kind, **({"tokenizer": tokenizer} if tokenizer else {})}


def _arm(
    dataset: str, model: str, kind: str, tokenizer: str | None, given: dict[str, Any], where: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the cells of one model and kind of features have in common, and all that decides their results but the seed."""
    keys = _keys(dataset, model, kind, tokenizer, where)
    settings = {**{key: value for key, value in given.items() if key in keys}, **_fixed(kind, tokenizer)}
    if tokenizer is None:  # what says how semantic IDs are made does not make this another cell
        settings = {key: value for key, value in settings.items() if not key.startswith((PREFIX, "sid_prefix"))}
    settings = without_unread_keys(settings, tokenizer)
    config = Config(model, dataset, config_dict={**settings, **where})
    check_stages(config)
    folder = dataset_folder(config)
    data = {path.name: sha256_of(path) for path in sorted(folder.glob(f"{dataset}.*")) if path.suffix in (".inter", ".item", ".user")}
    if tokenizer is not None:
        data |= content_hashes([config, tokenizer_config(config)])
    arm = {"model": model, "features": kind, "tokenizer": tokenizer, "name": result_name(config), "settings": settings, "data": data}
    return arm, {"config": decisive(config), "data": data}
