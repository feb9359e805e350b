"""A new run that begins with the weights of an earlier one, on data that may have other users and more items."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recbole.data.dataset import Dataset
from torch import Tensor

from recbole_r3vae.config import Config, fingerprint, tokenizer_config, tokenizer_defaults
from recbole_r3vae.config.identity import differences_in_words
from recbole_r3vae.config.stages import CONTENT_KEYS
from recbole_r3vae.data.content import ItemContent, load_content, load_encoder, parts_of
from recbole_r3vae.data.content.cache import hash_json
from recbole_r3vae.errors import UserError
from recbole_r3vae.model.contract import SHARED, TOKENIZE, Sources
from recbole_r3vae.quick_start.lookup import dataset_folder
from recbole_r3vae.quick_start.provide import Provided
from recbole_r3vae.quick_start.run_folder import find_checkpoint
from recbole_r3vae.quick_start.semantic_ids import DESCRIPTION, ENCODER, TrainedTokenizer, load_tokenizer
from recbole_r3vae.data.item_file import ReadingSettings, read_items
from recbole_r3vae.sid.extension import TableExtension
from recbole_r3vae.sid.table import SemanticIDs
from recbole_r3vae.trainer.checkpoint_file import load_checkpoint, sources_of

logger = logging.getLogger(__name__)

SEMANTIC_IDS = "items.sid"
"""File in the new run's folder: the old semantic IDs and those of new items."""


def earlier_run(config: Config) -> EarlierRun | None:
    """The run that ``init_from`` names; ``None`` where it names none.

    Args:
        config: of the new run.

    Raises:
        UserError: there is no usable checkpoint, it is of another model, its semantic IDs are of other settings than the new run asks for,
            or there is nothing to take over.
    """
    if not config["init_from"]:
        return None
    if config.contract.task == TOKENIZE:
        raise UserError(f"init_from is for models, and {config.model} is a tokenizer; give --model of the run to begin from")
    path = find_checkpoint(config["init_from"])
    run = EarlierRun(path, load_checkpoint(path), config)
    run.check()
    return run


@dataclass(frozen=True)
class EarlierRun:
    """What a new run takes over.

    Attributes:
        path: the checkpoint.
        state: what it holds.
        config: of the new run.
    """

    path: Path
    state: dict[str, Any]
    config: Config

    @property
    def hash(self) -> str:
        """Of the earlier run's identity, for that of the new one."""
        return fingerprint({"identity": self.state["identity"], "epoch": self.state["epoch"]})

    @property
    def words(self) -> str:
        """What the new run's record says it continues."""
        return f"the weights of {self.path.parent.name} ({self.hash})"

    @cached_property
    def _sources(self) -> Sources:
        return sources_of(self.state["sources"])

    def check(self) -> None:
        """Refuse another model, and settings that would make other semantic IDs."""
        old, new = self.state["config"], self.config.declared
        if old["model"] != new["model"]:
            raise UserError(f"init_from {self.path} is of {old['model']}, this run of {new['model']}; give --model={old['model']}")
        if self.state["model"].keys() <= {"fake_loss"}:  # the one number that RecBole gives models without weights
            raise UserError(f"init_from {self.path}: {old['model']} is counted, not trained: it has no weights; leave init_from out")
        if self._sources.semantic_ids is None or self.config["sid_file"]:
            return
        differing = {key: pair for key, pair in self._tokenizer_settings().items() if pair[0] != pair[1]}
        if differing:
            raise UserError(
                f"init_from {self.path} brings its semantic IDs and their tokenizer along, and this run asks for "
                f"{differences_in_words(differing)}; leave these settings as they were, or train without init_from"
            )

    def _tokenizer_settings(self) -> dict[str, tuple[Any, Any]]:
        """Every setting that semantic IDs depend on, but for the seed: its value then and now."""
        old = Config(config_dict={**self.state["config"], "device": "cpu", "init_from": None}, rebuilds=True)
        pairs = {key: (old[key], self.config[key]) for key in ("tokenizer", "collision_policy")}
        if old["tokenizer"] != self.config["tokenizer"]:
            return pairs
        places = ("content_file", "content_ids", "content_cache_dir")
        then, now = tokenizer_config(old), tokenizer_config(self.config)
        keys = [*tokenizer_defaults(self.config["tokenizer"]), *(key for key in CONTENT_KEYS if key not in places)]
        return pairs | {f"tokenizer_{key}": (then[key], now[key]) for key in keys}

    # -- semantic IDs and content ------------------------------------------------------------------------------------------

    def provide(self, dataset: Dataset) -> Provided:
        """As :func:`~recbole_r3vae.quick_start.provide.provide`, with nothing trained: what old items had stays.

        Args:
            dataset: the new run's, loaded and not yet split.

        Returns:
            Semantic IDs and content in its item order; ``sid_file`` is given where the semantic IDs are written.

        Raises:
            UserError: new items have no vector, or a given ``sid_file`` has other semantic IDs of old items.
        """
        needs, sources = self.config.contract.needs(self.config), self._sources
        if needs.semantic_ids is None and needs.content is None:
            return Provided()
        names = [str(name) for name in dataset.field2id_token[dataset.iid_field]]
        tokenizer = self._tokenizer()
        known = (sources.semantic_ids or sources.content).item_ids
        old = set(known)
        new = [name for name in names if name not in old]
        given = Path(self.config["sid_file"]) if self.config["sid_file"] else None
        vectors = self._vectors(new, tokenizer, dataset) if new and (given is None or needs.content is not None) else None
        sids = None
        if needs.semantic_ids is not None:
            sids = self._given_table(names) if given else self._grown_table(new, vectors, tokenizer, needs.semantic_ids).align(names)
        content = None if needs.content is None else self._content(names, new, vectors, tokenizer)
        n_old = len(names) - 1 - len(new)
        logger.info(f"semantic IDs of {n_old:,} items are those of {self.path}; {len(new):,} new items stand beside them")
        return Provided(Sources(sids, content), given, tokenizer if given is None else None)

    def _tokenizer(self) -> TrainedTokenizer | None:
        folder = self.path.parent / "tokenizer"
        return load_tokenizer(folder) if (folder / DESCRIPTION).is_file() else None

    def _vectors(self, new: Sequence[str], tokenizer: TrainedTokenizer | None, dataset: Dataset) -> np.ndarray:
        """Unit vectors ``[n, d]`` of new items, from the encoder of the old ones or from the run's files of vectors."""
        if tokenizer is None:
            lacks, why, way = "tokenizer", "its semantic IDs came from a file", "give --sid_file with semantic IDs of all items"
            if self.config["sid_file"]:
                lacks, way = "encoder", "train without init_from, or begin from a run that reads codes alone (--item_inputs=[codes])"
            if self._sources.semantic_ids is None:
                lacks, why, way = "encoder", "encoders are kept with a tokenizer, and it has no semantic IDs", "train without init_from"
            raise UserError(f"{self.path.parent} has no {lacks} for the {len(new):,} new items, such as {new[0]!r}: {why}; {way}")
        if not (tokenizer.folder / ENCODER).is_dir():
            content = load_content(dataset, tokenizer_config(self.config))
            row_of = {name: row for row, name in enumerate(content.item_ids)}
            return np.asarray(content.embeddings[[row_of[name] for name in new]], dtype=np.float32)
        encoder, wanted, found = load_encoder(tokenizer.folder / ENCODER), set(new), {}
        path = dataset_folder(self.config) / f"{self.config.dataset}.item"
        for block, records in read_items(path, encoder.fields, ReadingSettings.of(self.config.declared)):
            rows = [row for row, name in enumerate(block) if name in wanted]
            if rows:
                found.update(zip([block[row] for row in rows], encoder.encode([records[row] for row in rows])))
        lacking = next((name for name in new if name not in found), None)
        if lacking is not None:
            raise UserError(f"{path} does not name the new item {lacking!r}, so it has no text to tokenize; complete the file")
        return np.stack([found[name] for name in new])

    def _grown_table(
        self, new: Sequence[str], vectors: np.ndarray | None, tokenizer: TrainedTokenizer | None, kind: str
    ) -> SemanticIDs:
        """The old semantic IDs, then those of new items."""
        table = self._sources.semantic_ids
        if not new:
            return table
        policy = "share" if kind == SHARED else self.config["collision_policy"] or "share"
        x = torch.from_numpy(vectors)

        @torch.no_grad()
        def distances(row: int) -> Tensor:
            return tokenizer.model.level_distances(x[row : row + 1].to(tokenizer.model.device), tokenizer.raw.n_levels - 1)[0].cpu()

        codes = TableExtension(table, policy).place(new, tokenizer.model.tokenize(x), distances)
        return replace(table, codes=torch.cat([table.codes, codes]), item_ids=[*table.item_ids, *new])

    def _given_table(self, names: list[str]) -> SemanticIDs:
        table, given = self._sources.semantic_ids, SemanticIDs.load(self.config["sid_file"], names)
        codes = dict(zip(table.item_ids, table.codes))
        changed = [name for name, row in zip(names, given.codes) if name in codes and not torch.equal(row, codes[name])]
        if given.codebook_sizes != table.codebook_sizes or changed:
            what = f"of item {changed[0]!r}, and of {len(changed) - 1:,} more" if changed else "with codebooks of other sizes"
            raise UserError(
                f"sid_file {self.config['sid_file']} has other semantic IDs than init_from {self.path}, {what}; leave those of old items "
                "as they are, or train without init_from"
            )
        return given

    def _content(
        self, names: list[str], new: Sequence[str], vectors: np.ndarray | None, tokenizer: TrainedTokenizer | None
    ) -> ItemContent:
        """The vectors that the model reads, of the modalities that it was trained with: old ones as they were."""
        old = self._sources.content
        row_of = {name: row for row, name in enumerate([*old.item_ids, *new])}
        embeddings = np.asarray(old.embeddings)
        if new:
            columns = parts_of(tokenizer.description["content"], vectors.shape[1])
            read = np.concatenate([vectors[:, columns[name]] for name in old.parts], axis=1)
            embeddings = np.concatenate([embeddings, read.astype(embeddings.dtype)])
        rows = embeddings[[row_of[name] for name in names]]
        return replace(old, embeddings=rows, item_ids=names, content_hash=hash_json([old.content_hash, names]))

    # -- weights -----------------------------------------------------------------------------------------------------------

    def warm(self, network: torch.nn.Module, dataset: Dataset, ids: Mapping[str, list[str]]) -> None:
        """Put the earlier run's weights into a network: rows of users, items and features by their ids, all else as it was.

        Which parameters have a row for each id of a field is seen by making the model once more with one more id of it. Rows of ids that
        are new keep the values that the run's seed drew.

        Args:
            network: of the new run.
            dataset: that it was made of.
            ids: :func:`~recbole_r3vae.data.fingerprint.known_ids` of the new data.

        Raises:
            UserError: a parameter is of another shape, or there is none of that name.
        """
        old, new = self.state["model"], network.state_dict()
        fields = self._fields_of_rows(dataset, new, ids)
        unlike = sorted(old.keys() ^ new.keys())
        if unlike:
            raise UserError(f"init_from {self.path}: only one of the two models has {unlike[0]}; give the settings of that run")
        with torch.no_grad():
            for name, value in new.items():
                value.copy_(self._warmed(name, old[name].to(value.device), value, fields.get(name, []), ids))
        counts = [
            f"{sum(entry in set(self.state['ids'][field][1:]) for entry in ids[field][1:]):,} of {len(ids[field]) - 1:,} values of {field}"
            for field in (dataset.uid_field, dataset.iid_field)
        ]
        logger.info(f"begins with {self.words}; {' and '.join(counts)} are known there, the rest begins anew")

    def _warmed(self, name: str, old: Tensor, new: Tensor, fields: list[str], ids: Mapping[str, list[str]]) -> Tensor:
        """The value of a parameter."""
        before = [self.state["ids"].get(field, []) for field in fields]
        more = len(old) - sum(map(len, before)) if fields else 0  # rows after those of the ids, such as a mask's
        fits = more >= 0 and len(new) == more + sum(len(ids[field]) for field in fields) and old.shape[1:] == new.shape[1:]
        if not (fits if fields else old.shape == new.shape):
            shapes = f"the shape {list(old.shape)} there and {list(new.shape)} here"
            raise UserError(f"init_from {self.path}: {name} has {shapes}; give the settings of that run")
        if not fields:
            return old
        warmed, begin, begin_old = new.clone(), 0, 0
        for field, known in zip(fields, before):
            place = {entry: row for row, entry in enumerate(known)}
            here = [row for row, entry in enumerate(ids[field]) if entry in place]
            warmed[[begin + row for row in here]] = old[[begin_old + place[ids[field][row]] for row in here]].to(warmed.dtype)
            begin, begin_old = begin + len(ids[field]), begin_old + len(known)
        if more:
            warmed[-more:] = old[-more:]
        return warmed

    def _fields_of_rows(self, dataset: Dataset, shapes: Mapping[str, Tensor], ids: Mapping[str, list[str]]) -> dict[str, list[str]]:
        """Parameter to the fields that it has rows for, in their order in it."""
        found: dict[str, list[str]] = {}
        order = [str(field) for field in dataset.fields()]
        for field in sorted(ids, key=lambda field: order.index(field) if field in order else -1):
            grown = copy.copy(dataset)
            more = np.append(np.asarray(dataset.field2id_token[field]).astype(object), "")
            same = [name for name, entries in dataset.field2id_token.items() if entries is dataset.field2id_token[field]]
            grown.field2id_token = {**dataset.field2id_token, **dict.fromkeys({field, *same}, more)}
            with torch.random.fork_rng(devices=[]):
                network = self.config.model_class(self.config, grown)
            for name, value in network.state_dict().items():
                if name in shapes and value.dim() and len(value) == len(shapes[name]) + 1:
                    found.setdefault(name, []).append(field)
        return found
