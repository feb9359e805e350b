"""Semantic IDs for a model that predicts clicks: those that items share, trained once and kept."""

from __future__ import annotations

import logging
from pathlib import Path

from recbole_r3vae.config import Config, tokenizer_config, tokenizer_defaults
from recbole_r3vae.data.content import load_content
from recbole_r3vae.errors import UserError
from recbole_r3vae.models import own_models
from recbole_r3vae.quick_start.semantic_ids import RAW_CODES, TrainedTokenizer, train_tokenizer
from recbole_r3vae.sid.features import check_buckets, shared_codes
from recbole_r3vae.sid.quality.report import format_quality
from recbole_r3vae.sid.table import SemanticIDs

FEATURES = "features.sid"
"""In a run's folder: the codes that its features were made from."""


def check_tokenizer(name: str) -> None:
    """Refuse a tokenizer that is not there, or learns from interactions.

    Raises:
        UserError: it is one of these.
    """
    tokenizer_defaults(name)
    if own_models()[name].uses_interactions:
        raise UserError(
            f"{name} learns from interactions, and its split is another than that of the labels, so it would see some of the test; take a "
            "tokenizer of item content alone, such as R3VAE, RQVAE or RKMeans"
        )


def obtain_feature_codes(config: Config, dataset, show_progress: bool = True) -> tuple[SemanticIDs, Path, TrainedTokenizer | None]:
    """Codes for :meth:`~recbole_r3vae.data.clicks.ClickDataset.add_semantic_ids`: from ``sid_file``, or from the tokenizer as it gave them,
    before any collision policy; see :func:`~recbole_r3vae.sid.features.shared_codes`.

    Args:
        config: of the model that predicts clicks.
        dataset: the loaded RecBole dataset, not yet split. Its item texts are read, its interactions are not.
        show_progress: whether to show progress bars.

    Returns:
        The codes in the dataset's item order, the file they came from, and the tokenizer (``None`` with ``sid_file``).

    Raises:
        UserError: the file is of another dataset, the tokenizer learns from interactions, there is no usable item content, or
            ``sid_prefix_buckets`` is no number of buckets.
    """
    logger = logging.getLogger()
    check_buckets(config["sid_prefix_buckets"])
    if config["sid_file"]:
        path = Path(config["sid_file"])
        try:
            sids = shared_codes(SemanticIDs.load(path).align([str(item) for item in dataset.field2id_token[dataset.iid_field]]))
        except UserError as error:
            raise UserError(f"sid_file {path} does not fit dataset {config.dataset}: {error}") from error
        logger.info(f"features from {path} ({sids.n_items - 1} items, codebooks {list(sids.codebook_sizes)})")
        return sids, path, None
    check_tokenizer(config["tokenizer"])
    stage = tokenizer_config(config)
    tokenizer = train_tokenizer(stage, load_content(dataset, stage), show_progress)
    path = tokenizer.folder / RAW_CODES
    how = "reused" if tokenizer.reused else f"trained in {tokenizer.description['seconds']:.0f} s"
    logger.info(f"semantic IDs as features: {stage.model} {how}, {path}\n{format_quality(tokenizer.description['quality'])}")
    return tokenizer.raw, path, tokenizer
