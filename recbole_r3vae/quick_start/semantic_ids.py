"""The first stage of a run: a tokenizer for a catalogue, trained once and kept."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recbole.data.dataset import Dataset
from recbole.utils import init_seed
from safetensors import SafetensorError
from safetensors.torch import load, save

from recbole_r3vae.config import Config, fingerprint, identity, tokenizer_defaults
from recbole_r3vae.config.identity import without_neutral
from recbole_r3vae.config.registry import code_of, is_outside
from recbole_r3vae.data.content import ItemContent, parts_of, save_encoder
from recbole_r3vae.data.item_values import category_levels
from recbole_r3vae.data.items import ITEM_CATEGORIES, ITEM_POPULARITY, ItemDataLoader, ItemVectors
from recbole_r3vae.errors import UserError
from recbole_r3vae.io import atomic_write, locked, write_json
from recbole_r3vae.provenance import provenance
from recbole_r3vae.quick_start.collaborative import CollaborativeModel, popularity
from recbole_r3vae.sid.collisions import resolve_collisions
from recbole_r3vae.sid.table import SemanticIDs
from recbole_r3vae.trainer.tokenizer import TokenizerTrainer, score_tokenizer

WEIGHTS, DESCRIPTION, RAW_CODES, ENCODER = "model.safetensors", "tokenizer.json", "raw.sid", "encoder"
ENCODED = "codes.partial"
"""Finished blocks of codes, until the whole is there."""
SHOWN_FROM = 100_000
"""Items whose encoding takes long enough for a bar."""
SCHEMA = 1  # of tokenizer.json


@dataclass
class TrainedTokenizer:
    """A tokenizer's artefact: a folder that is complete as soon as its ``tokenizer.json`` exists.

    Attributes:
        folder: where it lies.
        model: the tokenizer, in evaluation mode.
        config: the configuration it was trained with.
        raw: its codes before collisions are resolved, in the catalogue's order.
        description: what ``tokenizer.json`` holds: name, configuration, quality, what training cost (``seconds``, ``peak_memory_mb``)
            and how it went (``history``, see :class:`~recbole_r3vae.trainer.tokenizer.TokenizerTrainer`), versions and machine.
        reused: whether it was found rather than trained.
    """

    folder: Path
    model: Any
    config: Config
    raw: SemanticIDs
    description: dict[str, Any]
    reused: bool

    def resolved(self, items: ItemVectors, policy: str) -> tuple[SemanticIDs, Path]:
        """The semantic IDs after a collision policy, and the ``.sid`` file they are kept in.

        They are for models that write codes one after the other: those of a tokenizer whose codes have no order are written in the order
        in which it gives them.

        Args:
            items: the catalogue that was tokenized.
            policy: ``suffix``, ``reassign``, ``sinkhorn`` or ``share``.
        """

        @torch.no_grad()
        def distances(rows: torch.Tensor) -> torch.Tensor:
            x = torch.from_numpy(items.gather(1 + rows))
            return self.model.level_distances(x.to(self.model.device), self.raw.n_levels - 1).cpu()

        codes, sizes, report = resolve_collisions(
            self.raw.codes[1:], self.raw.codebook_sizes, policy, last_level_distances=distances
        )
        codes = torch.cat([torch.full((1, codes.shape[1]), -1), codes])
        meta = {"tokenizer": self.description, "collision_policy": policy, "collisions": report}
        sids = SemanticIDs(codes, sizes, self.raw.item_ids, meta)
        path = self.folder / f"{policy}.sid"
        if not path.is_file():
            sids.save(path)
        return sids, path


def tokenizer_folder(
    config: Config, content: ItemContent, collaborative: CollaborativeModel | None = None, facts: Mapping[str, np.ndarray] | None = None
) -> Path:
    """Where the tokenizer of this configuration, content, seed and, where it uses them, training split and facts of items is kept."""
    keys = sorted({*tokenizer_defaults(config.declared["model"]), "seed"})
    settings = {"model": config.declared["model"], **{key: config.declared.get(key) for key in keys}}
    # Keys of any training that no tokenizer's YAML lists; unset, they are not named.
    more = {key: config.declared.get(key) for key in ("clip_grad_norm", "enable_amp", "max_minutes")}
    more["code"] = code_of(config.model_class)
    settings |= {key: value for key, value in more.items() if value is not None and value is not False}
    settings = without_neutral(settings)
    known = {name: hashlib.sha256(values.tobytes()).hexdigest() for name, values in (facts or {}).items()} or None
    name = fingerprint(identity(settings, content.content_hash, collaborative=collaborative and collaborative.description, facts=known))
    return Path(config["checkpoint_dir"]) / config.dataset / f"{config.model}-{name}"


def item_facts(config: Config, dataset: Dataset | None, item_ids: list[str]) -> dict[str, np.ndarray]:
    """What a tokenizer's training batches hold beside vectors, as its needs say.

    Args:
        config: The tokenizer's.
        dataset: The loaded dataset, not yet split; ``None`` where a tokenizer asks for nothing of it.
        item_ids: External ids of the catalogue, ``[PAD]`` first, in the dataset's order.

    Returns:
        Field to rows ``[n_items, …]``: ``item_popularity``, ``item_categories`` where items have any.
    """
    needs, facts = config.contract.needs(config), {}
    if needs.popularity:
        facts[ITEM_POPULARITY] = popularity(config, dataset, item_ids)
    if needs.categories:
        levels = category_levels(dataset, config["category_field"], config["first_category"], len(config["codebook_sizes"]))
        facts |= {} if levels is None else {ITEM_CATEGORIES: levels}
    return facts


def train_tokenizer(config: Config, content: ItemContent, show_progress: bool = True, dataset: Dataset | None = None) -> TrainedTokenizer:
    """Train a tokenizer on a catalogue, or take up the one that this configuration, content and seed gave before.

    Two processes that ask for the same tokenizer at once train it once. A killed training is taken up where it stopped.

    Args:
        config: configuration with the tokenizer as its model.
        content: the catalogue's embeddings.
        show_progress: whether to show a bar over the epochs.
        dataset: the loaded dataset, not yet split; read by tokenizers that use interactions, of which they see the training split.

    Returns:
        The tokenizer and its codes.

    Raises:
        UserError: the tokenizer uses interactions, and there is no dataset.
    """
    collaborative, needs = None, config.contract.needs(config)
    if needs.training_split:
        if dataset is None:
            raise UserError(
                f"{config.model} learns from interactions too, and item vectors alone have none; train it on a dataset, with "
                f"`recbole-r3vae run --model={config.declared['model']} --dataset=<name>`, or choose another tokenizer, such as RQVAE"
            )
    if needs.interactions:
        collaborative = CollaborativeModel(config, dataset)
    items = ItemVectors(content, facts=item_facts(config, dataset, content.item_ids))
    folder = tokenizer_folder(config, content, collaborative, items.facts)
    with locked(f"{folder}.lock", "checkpoint_dir"):
        reused = (folder / DESCRIPTION).is_file()
        if not reused:
            _train(config, items, folder, show_progress, collaborative)
        for leftover in ("best.pth", "last.pth", ENCODED):  # here, because a process may be killed between its tokenizer.json and this
            (folder / leftover).unlink(missing_ok=True)
    return load_tokenizer(folder, items, config, reused)


def _train(
    config: Config, items: ItemVectors, folder: Path, show_progress: bool, collaborative: CollaborativeModel | None
) -> None:
    started = time.monotonic()
    if collaborative is not None:
        items = ItemVectors(items.content, collaborative.vectors(items.item_ids), items.facts)
    config["run_dir"], config["single_spec"] = folder, True
    init_seed(config["seed"], config["reproducibility"])
    model = config.model_class(config, items).to(config["device"])
    trainer = (config.contract.trainer_class or TokenizerTrainer)(config, model)
    trainer.resume()
    taught = items if config["train_items"] is None else items.drawn(config["train_items"], config["seed"])
    trainer.fit(ItemDataLoader(taught, config, shuffle=True), taught, verbose=False, show_progress=show_progress)
    seconds = trainer.seconds() + (collaborative.seconds if collaborative else 0.0)
    trainer.load_best()
    del taught
    codes, report = score_tokenizer(model, items, config["seed"], folder / ENCODED, show_progress and items.n_items > SHOWN_FROM)
    codes = torch.cat([torch.full((1, codes.shape[1]), -1), codes])
    weights = _weights_of(model)
    description = {
        "schema": SCHEMA,
        "name": config.model,
        "config": json.loads(json.dumps(config.declared, default=str)),
        "content_hash": items.content.content_hash,
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        "content": items.content.encoder,
        "collaborative": collaborative.description if collaborative else None,
        "dim": items.dim,
        "quality": report,
        "seconds": round(seconds, 3),
        "seconds_with_scoring": round(time.monotonic() - started, 3),
        "peak_memory_mb": trainer.peak_memory_mb(),
        "epochs": trainer.finished_epochs,
        "stopped_at_budget": trainer.stopped_at_budget,
        "history": trainer.history,
        **{key: value for key, value in provenance(config).items() if key != "config"},
        "commit": trainer.commit,
    }
    raw = SemanticIDs(codes, model.codebook_sizes, items.item_ids, {"tokenizer": description["name"]}, model.ordered)
    if items.content.item_encoder is not None:
        save_encoder(folder / ENCODER, items.content)
    _write(folder, raw, weights, description)


def _weights_of(model: Any) -> bytes:
    return save({key: value.contiguous() for key, value in model.state_dict().items()})


def _write(folder: Path, raw: SemanticIDs, weights: bytes, description: dict[str, Any]) -> None:
    raw.save(folder / RAW_CODES)
    with atomic_write(folder / WEIGHTS, "wb") as file:
        file.write(weights)
    write_json(folder / DESCRIPTION, description)  # last: its presence says that all the rest is whole


def load_tokenizer(
    folder: Path, items: ItemVectors | None = None, config: Config | None = None, reused: bool = True, named: str | None = None
) -> TrainedTokenizer:
    """Read a tokenizer's artefact.

    Args:
        folder: a tokenizer's folder, or the ``tokenizer`` folder beside a generator's checkpoint.
        items: its catalogue, where at hand; otherwise its dimension is read from the description.
        config: its configuration, where at hand.
        reused: what :attr:`TrainedTokenizer.reused` is to say.
        named: the class of a tokenizer from outside the package, ``package.module:Class``, whose code a folder never imports by itself.

    Raises:
        UserError: there is none, a part of it is missing or not as it was written, or another schema wrote it; or it is from outside the
            package, and neither ``config`` nor ``named`` names it.
    """
    folder = Path(folder)
    try:
        description = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        if description["schema"] != SCHEMA:
            raise ValueError(f"{DESCRIPTION} has schema {description['schema']!r}, this version reads {SCHEMA}")
        stored = (folder / WEIGHTS).read_bytes()
        # Tokenizers that were trained before the hash was kept have none.
        if description.get("weights_sha256") not in (None, hashlib.sha256(stored).hexdigest()):
            raise ValueError(f"{WEIGHTS} is not as it was written")
        weights = load(stored)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise UserError(f"there is no complete tokenizer in {folder} ({error}); delete the folder and train again") from error
    if config is None:
        name = description["config"]["model"]
        if is_outside(name) and name != named:
            raise UserError(f"the tokenizer in {folder} is {name}, code from outside this package; give --tokenizer={name} to run it")
        config = Config(config_dict={**description["config"], "device": "cpu"}, rebuilds=True)
    shape = items or _Shape(description["dim"], parts_of(description["content"], description["dim"]))
    model = config.model_class(config, shape).to(config["device"])
    model.load_state_dict(weights)
    raw = SemanticIDs.load(folder / RAW_CODES)
    if items is not None:
        raw = raw.align(items.item_ids)
    return TrainedTokenizer(folder, model.eval(), config, raw, description, reused)


@dataclass
class _Shape:
    """What a tokenizer's constructor reads of its items."""

    dim: int
    parts: dict[str, slice]


def bundle_tokenizer(tokenizer: TrainedTokenizer, run_dir: Path) -> None:
    """Copy a tokenizer beside a generator's checkpoint, so that the two travel together."""
    target = run_dir / "tokenizer"
    if (target / DESCRIPTION).is_file():
        return
    temporary = run_dir / ".tokenizer"
    shutil.rmtree(temporary, ignore_errors=True)  # of a process that was killed while it copied
    shutil.rmtree(target, ignore_errors=True)
    try:
        shutil.copytree(tokenizer.folder, temporary, ignore=shutil.ignore_patterns("*.tmp"))  # which other runs may be writing
        temporary.rename(target)
    except (OSError, shutil.Error) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise UserError(f"cannot write {target}: {error}; check free space and permissions, or choose another checkpoint_dir") from error


def tuned_tokenizer(tokenizer: TrainedTokenizer, network: Any, run_dir: Path | None) -> TrainedTokenizer:
    """A tokenizer as the training of a generator has left it: weights, codes and their quality; all else is said of it as before.

    Args:
        tokenizer: as it was when the run began. Its folder stays as it is.
        network: the generator, with the tuned one as ``tokenizer``, and with all content and the codes as they have become in ``sources``.
        run_dir: the run's folder, in whose ``tokenizer`` it is written; ``None`` to write nothing.
    """
    raw, items = network.sources.semantic_ids, ItemVectors(network.sources.content)
    _, report = score_tokenizer(network.tokenizer, items, tokenizer.config["seed"])
    weights = _weights_of(network.tokenizer)
    tuned = {"quality": report, "weights_sha256": hashlib.sha256(weights).hexdigest(), "tuned_by": type(network).__name__}
    description, folder = {**tokenizer.description, **tuned}, tokenizer.folder
    if run_dir is not None:
        folder = run_dir / "tokenizer"
        (folder / DESCRIPTION).unlink(missing_ok=True)  # what an earlier run of this folder left is no longer whole
        folder.mkdir(exist_ok=True)
        if (tokenizer.folder / ENCODER).is_dir():
            shutil.copytree(tokenizer.folder / ENCODER, folder / ENCODER, dirs_exist_ok=True)
        _write(folder, raw, weights, description)
    return TrainedTokenizer(folder, network.tokenizer, tokenizer.config, raw, description, tokenizer.reused)
