"""What a model declared that it needs: semantic IDs and item content, made, read from a file, or taken out of a checkpoint."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from recbole_r3vae.config import Config, tokenizer_config
from recbole_r3vae.config.stages import content_config
from recbole_r3vae.data.content import ItemContent, modalities
from recbole_r3vae.data.content.modalities import reads_content_file
from recbole_r3vae.data.items import ItemVectors
from recbole_r3vae.errors import UserError, short_repr
from recbole_r3vae.model.contract import CLICK, SHARED, UNIQUE, Sources, collisions_of
from recbole_r3vae.quick_start.collaborative import item_content
from recbole_r3vae.quick_start.semantic_ids import RAW_CODES, TrainedTokenizer, train_tokenizer
from recbole_r3vae.sid.collisions import POLICIES, resolve_collisions
from recbole_r3vae.sid.features import check_buckets, shared_codes
from recbole_r3vae.sid.quality.report import format_quality
from recbole_r3vae.sid.table import SemanticIDs

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Provided:
    """What a run got for its model.

    Attributes:
        sources: for the model.
        sid_file: the file that the semantic IDs are in; ``None`` without.
        tokenizer: the tokenizer that made them; ``None`` without, and where they came from a file.
    """

    sources: Sources = Sources()
    sid_file: Path | None = None
    tokenizer: TrainedTokenizer | None = None

    @property
    def hashes(self) -> dict[str, str]:
        """Of ``semantic_ids`` and ``content``, as far as there are any, for the run's identity."""
        parts = {"semantic_ids": self.sources.semantic_ids, "content": self.sources.content}
        return {name: part.content_hash for name, part in parts.items() if part is not None}


def check_stages(config: Config) -> None:
    """Refuse settings of a run's first stage before anything is read.

    Raises:
        UserError: the tokenizer is unknown or has a key outside its range; it would see interactions that it must not; or a file or tokenizer
            that was asked for would not be read.
    """
    needs = config.contract.needs(config)
    if "tokenizer" in config.cmd_config_dict and needs.semantic_ids is not None and config["sid_file"]:
        raise UserError(f"--tokenizer beside sid_file {config['sid_file']}, which gives the semantic IDs: none is trained; leave one of them out")
    if needs.content is not None or needs.semantic_ids is not None and not config["sid_file"]:
        _check_vector_file(config)
    if config.contract.needs(config).semantic_ids is None or config["sid_file"]:
        return
    if not config["tokenizer"]:
        raise UserError(
            f"{config.model} needs semantic IDs, and nothing says whose; write `tokenizer: R3VAE` or another in {config.model}.yaml, and "
            "`sid_file: ~` beside it"
        )
    if config.contract.task == CLICK:
        check_buckets(config["sid_prefix_buckets"])
    stage = tokenizer_config(config)
    if config.contract.task == CLICK and (learned := next((one.learned for one in modalities(stage) if one.learned), None)):
        raise UserError(
            f"content_encoder: {learned} learns from interactions, and its split is another than that of the labels, so it would see some of "
            "the test; take tfidf-svd, a sentence encoder or a file of vectors"
        )
    if config.contract.task == CLICK and stage.contract.needs(stage).training_split:
        raise UserError(
            f"{config['tokenizer']} learns from interactions, and its split is another than that of the labels, so it would see some of "
            "the test; take a tokenizer of item content alone, such as R3VAE, RQVAE or RKMeans"
        )


def _check_vector_file(config: Config) -> None:
    key = next((key for key in ("content_file", "content_ids") if config.asked.get(key)), None)
    chosen_besides = "content_encoder" in config.asked and key not in config.cmd_config_dict
    if key is not None and not chosen_besides and not reads_content_file(config["content_encoder"]):
        raise UserError(
            f"{key} is {short_repr(config[key])}, and content_encoder is {short_repr(config['content_encoder'])}, which does not read it; "
            f"add --content_encoder=file, or leave {key} out"
        )


def provide(config: Config, dataset, show_progress: bool = True) -> Provided:
    """Fetch what the model of a run needs.

    Args:
        config: the run's configuration.
        dataset: the loaded RecBole dataset, not yet split.
        show_progress: whether to show progress bars.

    Returns:
        Semantic IDs and content in the dataset's item order.

    Raises:
        UserError: a file is of another dataset, there is no usable item content, or a tokenizer cannot be trained.
    """
    needs = config.contract.needs(config)
    asked = config.asked.get("collision_policy")
    if asked is not None and asked != collisions_of(needs, config):
        logger.warning(f"collision_policy={asked} changes nothing: {config.model} takes codes as they are, so that items may share them, or none")
    unread = sorted(key for key in config.asked if key.startswith("tokenizer_"))
    if unread and config["sid_file"]:
        logger.warning(f"{', '.join(unread)} changes nothing: the semantic IDs are those of {config['sid_file']}, and no tokenizer is trained")
    if needs.semantic_ids is None and needs.content is None:
        return Provided()
    stage = content_config(config)
    content, tokenizer, sids, path = None, None, None, None
    if needs.semantic_ids is not None and config["sid_file"]:  # before item texts are encoded: it may be refused
        sids, path = _from_file(config, dataset, needs.semantic_ids)
    if needs.content is not None or not config["sid_file"]:
        content = _content(dataset, stage, optional_for_model=needs.content is not None and bool(config["sid_file"]))
    read = content.take(needs.content) if needs.content is not None else None  # before a tokenizer is trained: it may be refused
    if needs.semantic_ids is not None and sids is None:
        tokenizer = train_tokenizer(stage, content, show_progress, dataset)
        sids, path = _from_tokenizer(tokenizer, content, config, needs.semantic_ids)
    if sids is not None and not sids.ordered and (needs.in_order or needs.semantic_ids == UNIQUE):
        sids = replace(sids, ordered=True)
    return Provided(Sources(sids, read, tokenizer.model if needs.tokenizer else None), path, tokenizer)


def _content(dataset, stage: Config, optional_for_model: bool) -> ItemContent:
    try:
        return item_content(dataset, stage)
    except UserError as error:
        if not optional_for_model:
            raise
        raise UserError(f"{error}; or take content out of what the model reads, as with --item_inputs=[codes]") from error


def _item_ids(dataset) -> list[str]:
    return [str(token) for token in dataset.field2id_token[dataset.iid_field]]


def _from_file(config: Config, dataset, kind: str) -> tuple[SemanticIDs, Path]:
    path, item_ids = Path(config["sid_file"]), _item_ids(dataset)
    if not path.exists():
        raise UserError(f"sid_file: {path} does not exist; check the path, or make it with `recbole-r3vae tokenize`")
    try:
        sids = SemanticIDs.load(path, item_ids)
        sids = shared_codes(sids) if kind == SHARED and config.contract.task == CLICK else sids
    except UserError as error:
        raise UserError(f"sid_file does not fit dataset {config.dataset}; {error}") from error
    if kind == UNIQUE and not sids.unique and config["collision_policy"] not in ("suffix", "share"):
        raise UserError(
            f"sid_file: items of {path} share semantic IDs, and collision_policy {config['collision_policy']} needs the distances of the "
            "tokenizer, which a file does not hold; take --collision_policy=suffix (one more code) or share, or train the tokenizer"
        )
    if kind == UNIQUE and not sids.unique and config["collision_policy"] == "suffix":
        codes, sizes, _ = resolve_collisions(sids.codes[1:], sids.codebook_sizes, "suffix")
        sids = SemanticIDs(torch.cat([torch.full((1, codes.shape[1]), -1), codes]), sizes, item_ids, sids.meta)
    logger.info(f"semantic IDs: {path} ({sids.n_items - 1} items, codebooks {list(sids.codebook_sizes)})")
    return sids, path


def _from_tokenizer(tokenizer: TrainedTokenizer, content: ItemContent, config: Config, kind: str) -> tuple[SemanticIDs, Path]:
    how = "reused" if tokenizer.reused else f"trained in {tokenizer.description['seconds']:.0f} s"
    sids, path = tokenizer.raw, tokenizer.folder / RAW_CODES
    if kind == UNIQUE:
        sids, path = tokenizer.resolved(ItemVectors(content), config["collision_policy"] or POLICIES[0])
    what = "semantic IDs as features" if config.contract.task == CLICK else "semantic IDs"
    logger.info(f"{what}: {tokenizer.description['name']} {how}, {path}\n{format_quality(tokenizer.description['quality'])}")
    return sids, path
