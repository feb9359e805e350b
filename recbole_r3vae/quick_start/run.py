"""The main job: semantic IDs, generator, evaluation. The only place that knows all the rooms."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from recbole.utils import ModelType, init_logger, init_seed

from recbole_r3vae.config import Config, identity, tokenizer_config
from recbole_r3vae.data.content import load_content
from recbole_r3vae.data.split import held_out
from recbole_r3vae.errors import UserError, refused
from recbole_r3vae.model.generator.base import SIDGenerator
from recbole_r3vae.models import MODEL_ROOMS, own_models
from recbole_r3vae.provenance import peak_memory_mb, provenance
from recbole_r3vae.quick_start.lookup import create_dataset, data_preparation, dataset_folder, get_trainer
from recbole_r3vae.quick_start.semantic_ids import bundle_tokenizer, obtain_semantic_ids, train_tokenizer
from recbole_r3vae.quick_start.sid_features import FEATURES, obtain_feature_codes
from recbole_r3vae.sid.quality.report import format_quality
from recbole_r3vae.sid.table import SemanticIDs
from recbole_r3vae.trainer.checkpoint import Checkpointed, from_plain, load_checkpoint, write_json
from recbole_r3vae.trainer.generator import check_settings
from recbole_r3vae.trainer.tokenizer import summary


def run_recbole_r3vae(
    model: str | None = None,
    dataset: str | None = None,
    config_file_list: Iterable[str] | None = None,
    config_dict: dict[str, Any] | None = None,
    saved: bool = True,
    arguments: Iterable[str] = (),
) -> dict[str, Any]:
    """Train and evaluate a model of this package or of RecBole; the counterpart of RecBole's ``run_recbole``.

    Args:
        model: ``R3GR`` (a generator: its tokenizer is trained first, or reused), ``R3VAE`` (a tokenizer alone), ``SASRec`` (RecBole's),
            ``DeepFM`` (RecBole's, of clicks; with ``sid_features`` its tokenizer is trained first) …
        dataset: name of a folder of atomic files.
        config_file_list: YAML files.
        config_dict: values from Python.
        saved: whether to write checkpoints.
        arguments: command-line words such as ``--epochs=5``.

    Returns:
        ``best_valid_score``, ``valid_score_bigger``, ``best_valid_result`` and ``test_result`` as RecBole returns them, and ``name``
        (``R3GR[R3VAE]``), ``run_dir``, ``sid_file``, ``seconds`` and ``stopped_at_budget``; under leave-one-out also ``users``, at which
        rank each user's test item was, and ``split``, whose test it was (see :class:`~recbole_r3vae.data.split.HeldOut`); for a model that
        predicts clicks ``labelled``, what the labels are and counts of each part of the split (see
        :meth:`~recbole_r3vae.data.clicks.LabelledRows.describe`). For a tokenizer, ``test_result`` holds the quality of its semantic IDs.

    Raises:
        UserError: the input is unusable; the message says how to mend it.
    """
    config = Config(model, dataset, config_file_list, config_dict, arguments)
    init_seed(config["seed"], config["reproducibility"])
    is_generator = issubclass(config.model_class, SIDGenerator)
    if is_generator:
        check_settings(config)
        config.model_class.check(config)
    dataset_folder(config)  # before the dataset's name becomes part of a log file's
    start_logging(config)
    logger = logging.getLogger()
    data = create_dataset(config)
    logger.info(
        f"dataset {config.dataset}: {data.user_num - 1:,} users, {data.item_num - 1:,} items, {data.inter_num:,} interactions, "
        f"{data.avg_actions_of_users:.1f} a user, sparsity {data.sparsity:.4%}"
    )
    if config.model in own_models(MODEL_ROOMS[0]):
        return _run_tokenizer(config, data)

    sid_file, tokenizer, name, hashes = None, None, config.model, {}
    if is_generator:
        sids, sid_file, tokenizer = obtain_semantic_ids(config, data, show_progress=config["show_progress"])
        inputs = config["item_inputs"] or ()
        name = result_name(config)
        hashes = {"semantic_ids": sids.content_hash}
        data.semantic_ids = sids
        if "text" in inputs:
            try:
                content = load_content(data, tokenizer_config(config))
            except UserError as error:
                raise UserError(f"{error}; or leave text out of what the model reads, with --item_inputs=[codes]") from error
            data.item_vectors, hashes["item_vectors"] = content.embeddings, content.content_hash
    has_features = config.predicts_clicks and config["sid_features"] != "none"
    if has_features:
        sids, sid_file, tokenizer = obtain_feature_codes(config, data, show_progress=config["show_progress"])
        data.add_semantic_ids(sids, config["sid_prefix_buckets"], replace=config["sid_features"] == "replace")
        name, hashes = result_name(config), {"semantic_ids": sids.content_hash}
    train_data, valid_data, test_data = data_preparation(config, data)

    folder = name.replace("[", "-").rstrip("]")
    default = Path(config["checkpoint_dir"]) / config.dataset / f"{folder}-{identity(config, **hashes)}"
    config["run_dir"] = run_dir = Path(config["run_dir"] or default)
    init_seed(config["seed"] + config["local_rank"], config["reproducibility"])
    with refused(f"{config.model} cannot be made with these settings", "correct the key that this is about"):
        network = config.model_class(config, train_data.dataset).to(config["device"])
    if tokenizer and saved and config["local_rank"] == 0:
        bundle_tokenizer(tokenizer, run_dir)
    if has_features and saved and config["local_rank"] == 0:
        sids.save(run_dir / FEATURES)
    trained = {key: value for key, value in network.named_parameters() if value.requires_grad}
    trained.pop("fake_loss", None)  # where there is nothing to train, RecBole's models hold one number of this name
    n_parameters = sum(value.numel() for value in trained.values())
    logger.info(f"{name}: {n_parameters:,} parameters on {config['device']}, loss {loss_name(config)}, seed {config['seed']}, {run_dir}")

    with refused(f"{config.model} cannot be trained with these settings", "correct the key that this is about"):
        trainer = get_trainer(config)(config, network)
    if config["resume"] and isinstance(trainer, Checkpointed) and not trainer.resume():
        logger.info(f"nothing to resume in {run_dir}; starting anew")
    best_valid_score, best_valid_result = trainer.fit(
        train_data, valid_data, saved=saved, show_progress=config["show_progress"]
    )
    started, after_training = time.monotonic(), peak_memory_mb()
    test_result = trainer.evaluate(test_data, load_best_model=saved, show_progress=config["show_progress"])
    seconds_testing, device = time.monotonic() - started, config["device"]
    users, ranks = held_out(valid_data, test_data), trainer.evaluator.target_ranks() if isinstance(trainer, Checkpointed) else None
    result = {
        "name": name,
        "best_valid_score": best_valid_score,
        "valid_score_bigger": config["valid_metric_bigger"],
        "best_valid_result": best_valid_result,
        "test_result": test_result,
        "run_dir": str(run_dir),
        "sid_file": str(sid_file) if sid_file else None,
        "content": tokenizer.description["content"] if tokenizer else None,
        "seconds": round(trainer.seconds(), 3) if isinstance(trainer, Checkpointed) else None,
        "epochs": getattr(trainer, "finished_epochs", None),
        "valid_history": getattr(trainer, "valid_history", None),
        "stopped_at_budget": getattr(trainer, "stopped_at_budget", False),
        "seconds_testing": round(seconds_testing, 3),
        "peak_memory_mb": {
            "training": after_training,
            "process": peak_memory_mb(),
            "gpu": peak_memory_mb(device) if device.type == "cuda" else None,
        },
        "split": users.describe() if users else None,
        "users": users.ranks(ranks, max(config["topk"])) if users and ranks is not None else None,
        "labelled": _count_labels(train_data, valid_data, test_data) if config.predicts_clicks else None,
    }
    if saved and config["local_rank"] == 0:
        made = provenance(config) | ({"commit": trainer.commit} if isinstance(trainer, Checkpointed) else {})
        write_json(run_dir / "result.json", {**result, **made, "loss": loss_name(config), "n_parameters": n_parameters})
    logger.info(_closing_words(config, result, tokenizer, saved))
    return result


def _count_labels(*loaders) -> dict[str, Any]:
    parts = {name: loader._dataset for name, loader in zip(("train", "valid", "test"), loaders)}
    return {"labels": parts["train"].label_source, **{name: part.labelled_rows().describe() for name, part in parts.items()}}


def _run_tokenizer(config: Config, dataset) -> dict[str, Any]:
    tokenizer = train_tokenizer(config, load_content(dataset, config), config["show_progress"], dataset)
    quality = summary(tokenizer.description["quality"])
    sid_file = tokenizer.folder / "raw.sid"
    how = "reused" if tokenizer.reused else f"trained in {tokenizer.description['seconds']:.0f} s"
    logging.getLogger().info(
        f"{config.model} {how}\n{format_quality(tokenizer.description['quality'])}\n"
        f"semantic IDs (collisions left as they are): {sid_file}\n"
        f"next: recbole-r3vae run --model=R3GR --tokenizer={config.model} --dataset={config.dataset}"
    )
    return {
        "name": config.model,
        "best_valid_score": quality[config["valid_metric"]],
        "valid_score_bigger": config["valid_metric_bigger"],
        "best_valid_result": quality,
        "test_result": quality,
        "run_dir": str(tokenizer.folder),
        "sid_file": str(sid_file),
        "seconds": tokenizer.description["seconds"],
        "reused": tokenizer.reused,
        "stopped_at_budget": False,
    }


def load_data_and_model(checkpoint: str | Path, config_dict: dict[str, Any] | None = None):
    """Rebuild everything around a checkpoint; the counterpart of RecBole's function of this name.

    Args:
        checkpoint: a run's ``best.pth``.
        config_dict: keys to set differently, such as ``data_path`` or ``device``.

    Returns:
        ``config, model, dataset, train_data, valid_data, test_data``.

    Raises:
        UserError: the checkpoint is damaged, or the dataset is not the one it was trained on.
    """
    state = load_checkpoint(checkpoint)
    config = Config(config_dict={**state["config"], "resume": False, **(config_dict or {})})
    init_seed(config["seed"], config["reproducibility"])
    start_logging(config)
    dataset = create_dataset(config)
    if issubclass(config.model_class, SIDGenerator):
        known = state["other_parameter"]
        sids = SemanticIDs(state["model"]["codes"].cpu(), tuple(known["codebook_sizes"]), known["item_ids"])
        dataset.semantic_ids = sids.align([str(token) for token in dataset.field2id_token[dataset.iid_field]])
        dataset.item_vectors = state["model"].get("item_vectors")
    if config.predicts_clicks and config["sid_features"] != "none":
        sids = SemanticIDs.load(Path(checkpoint).parent / FEATURES)
        sids = sids.align([str(token) for token in dataset.field2id_token[dataset.iid_field]])
        dataset.add_semantic_ids(sids, config["sid_prefix_buckets"], replace=config["sid_features"] == "replace")
    train_data, valid_data, test_data = data_preparation(config, dataset)
    init_seed(config["seed"], config["reproducibility"])
    model = config.model_class(config, train_data.dataset).to(config["device"])
    model.load_state_dict(state["model"])
    model.load_other_parameter(from_plain(state["other_parameter"]))
    return config, model.eval(), dataset, train_data, valid_data, test_data


def start_logging(config: Config) -> None:
    """RecBole's logger. Its folders are made first, because RecBole's own check for them fails when two processes start at once."""
    make_folders(config.model, config["checkpoint_dir"])
    init_logger(config)


def make_folders(model: str, checkpoint_dir: str | os.PathLike) -> None:
    """The folders that every run writes into.

    Raises:
        UserError: one cannot be made, such as ``log`` where a file has that name.
    """
    for folder in (Path("log") / model, Path("log_tensorboard"), Path(checkpoint_dir)):
        make_folder(folder)


def make_folder(folder: Path) -> None:
    """A folder to write into, with those above it.

    Raises:
        UserError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make {folder.absolute()}: {error.strerror}; run in a folder you may write to") from error


def result_name(config: Config) -> str:
    """What a run's result is called: ``SASRec``, ``R3GR[R3VAE]``, ``R3GR-hybrid[R3VAE]`` where it reads item ids beside content, or
    ``DeepFM-replace[R3VAE]`` by what semantic IDs as features do to the item id."""
    if config.predicts_clicks and config["sid_features"] != "none":
        family = f"{config.model}-{config['sid_features']}"
    elif issubclass(config.model_class, SIDGenerator):
        family = f"{config.model}-hybrid" if "id" in (config["item_inputs"] or ()) else config.model
    else:
        return config.model
    return f"{family}[{Path(config['sid_file']).stem if config['sid_file'] else config['tokenizer']}]"


def loss_name(config: Config) -> str:
    """What the model is trained with, for tables that compare models."""
    if issubclass(config.model_class, SIDGenerator):
        return "NLL of semantic ID"
    if config["MODEL_TYPE"] == ModelType.TRADITIONAL:
        return "none"  # counted, not trained
    if config.predicts_clicks:
        return "log loss"
    loss = str(config["loss_type"] or config["MODEL_INPUT_TYPE"].name.lower())
    return f"{loss}, {config['n_negatives']} negatives" if loss == "InfoNCE" else loss


def metric_table(valid: dict[str, float] | None, test: dict[str, float] | None) -> str:
    """Validation and test metrics side by side."""
    names = list(test or valid or {})
    lines = [f"{'':>16}  {'validation':>10}  {'test':>10}"]
    for name in names:
        cells = (f"{values[name]:10.4f}" if values and name in values else f"{'':>10}" for values in (valid, test))
        lines.append(f"{name:>16}  {'  '.join(cells)}")
    return "\n".join(lines)


def _closing_words(config: Config, result: dict[str, Any], tokenizer, saved: bool) -> str:
    marked = f" (stopped at max_minutes={config['max_minutes']:g})" if result["stopped_at_budget"] else ""
    lines = [f"{result['name']} on {config.dataset}{marked}", metric_table(result["best_valid_result"], result["test_result"])]
    if saved:
        lines.append(f"checkpoint: {Path(result['run_dir']) / 'best.pth'}")
    if result["sid_file"]:
        lines.append(f"semantic IDs: {result['sid_file']}")
        if config.predicts_clicks:
            lines.append(f"next: recbole-r3vae run --model={config.model} --dataset={config.dataset}   # the item id, on the same rows")
        else:
            lines.append(f"next: recbole-r3vae run --model=SASRec --dataset={config.dataset}   # an item-id model on the same split")
    return "\n".join(lines)
