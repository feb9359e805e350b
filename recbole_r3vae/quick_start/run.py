"""The main job: semantic IDs, model, evaluation, read as a straight line."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from recbole.utils import init_logger, init_seed

from recbole_r3vae.config import RULES, Config, fingerprint
from recbole_r3vae.config.identity import precision
from recbole_r3vae.data.entrance import check_split
from recbole_r3vae.data.fingerprint import data_fingerprint, known_ids
from recbole_r3vae.data.split import held_out, met_before, told_cold, told_repeats
from recbole_r3vae.errors import UserError, as_user_error
from recbole_r3vae.model.contract import TOKENIZE, Sources, collisions_of, where_words
from recbole_r3vae.provenance import peak_memory_mb, provenance
from recbole_r3vae.quick_start.collaborative import item_content
from recbole_r3vae.quick_start.init_from import SEMANTIC_IDS, EarlierRun, earlier_run
from recbole_r3vae.quick_start.lookup import create_dataset, data_preparation, dataset_folder, get_trainer
from recbole_r3vae.quick_start.provide import check_stages, provide
from recbole_r3vae.quick_start.run_folder import RunFolder, open_run
from recbole_r3vae.quick_start.semantic_ids import RAW_CODES, bundle_tokenizer, train_tokenizer, tuned_tokenizer
from recbole_r3vae.quick_start.summary import closing_words, result_name
from recbole_r3vae.record import Record
from recbole_r3vae.sid.quality.report import format_quality
from recbole_r3vae.trainer.resumable import Checkpointed
from recbole_r3vae.trainer.tokenizer import summary


def run_recbole_r3vae(
    model: str | None = None,
    dataset: str | None = None,
    config_file_list: Iterable[str] | None = None,
    config_dict: dict[str, Any] | None = None,
    saved: bool = True,
    queue: Any = None,
    arguments: Iterable[str] = (),
) -> dict[str, Any]:
    """Train and evaluate a model of this package, of RecBole or of a user's own; the counterpart of RecBole's ``run_recbole``.

    Args:
        model: ``R3GR`` (a generator: its tokenizer is trained first, or reused), ``R3VAE`` (a tokenizer alone), ``SASRec`` (RecBole's),
            ``DeepFM`` (RecBole's, of clicks; with ``sid_features`` its tokenizer is trained first), ``package.module:Class`` …
        dataset: name of a folder of atomic files.
        config_file_list: YAML files.
        config_dict: values from Python.
        saved: whether to write checkpoints; a tokenizer is always written.
        queue: gets the result too, where the function runs in a process of its own.
        arguments: command-line words such as ``--epochs=5``.

    Returns:
        ``best_valid_score``, ``valid_score_bigger``, ``best_valid_result`` and ``test_result`` as RecBole returns them (the last two under
        ``valid_rule``), and ``test``: the metrics of each rule on items that users have met, ``left_out`` and ``stay``; ``name``
        (``R3GR[R3VAE]``), ``run_dir``, ``continues``, ``sid_file``, ``seconds`` and ``stopped_at_budget``; under leave-one-out also
        ``users``, at which rank each user's test item was under each rule, and ``split``, whose test it was (see
        :class:`~recbole_r3vae.data.split.HeldOut`); for a model that predicts clicks ``labelled``, what the labels are and counts of each
        part of the split (see :meth:`~recbole_r3vae.data.clicks.LabelledRows.describe`). For a tokenizer, ``test_result`` holds the quality
        of its semantic IDs.

    Raises:
        UserError: the input is unusable; the message says how to mend it.
    """
    config = Config(model, dataset, config_file_list, config_dict, arguments)
    check_stages(config)
    earlier = earlier_run(config)
    init_seed(config["seed"], config["reproducibility"])
    dataset_folder(config)  # before the dataset's name becomes part of a log file's
    start_logging(config)
    data = create_dataset(config)
    logging.getLogger().info(
        f"dataset {config.dataset}: {data.user_num - 1:,} users, {data.item_num - 1:,} items, {data.inter_num:,} interactions, "
        f"{data.avg_actions_of_users:.1f} a user, sparsity {data.sparsity:.4%}"
    )
    if config.contract.task == TOKENIZE:
        result = _run_tokenizer(config, data)
    else:
        check_split(config, data)
        result = _run_model(config, data, saved, earlier)
    if queue is not None and config["local_rank"] == 0:
        queue.put(result)
    return result


def _run_model(config: Config, data, saved: bool, earlier: EarlierRun | None) -> dict[str, Any]:
    provided = provide(config, data, show_progress=config["show_progress"]) if earlier is None else earlier.provide(data)
    config.contract.give(data, provided.sources, config)
    name, known = result_name(config), {"data": data_fingerprint(data), "ids": known_ids(data)}
    folder = open_run(config, name, known["data"], provided.hashes, earlier and earlier.hash)
    config["run_dir"] = folder.path
    train_data, valid_data, test_data = data_preparation(config, data)
    repeats = told_repeats(config.dataset, valid_data, test_data)
    if repeats is not None:
        logging.getLogger().warning(repeats)
    users = held_out(valid_data, test_data)
    if users is not None and data.time_points is not None:
        logging.getLogger().info(told_cold(config.dataset, users))
    network = make_network(config, train_data.dataset, provided.sources)
    writes, tunes = saved and config["local_rank"] == 0, config.contract.needs(config).tokenizer
    if writes:
        folder.make()
        if provided.tokenizer is not None and not tunes:
            bundle_tokenizer(provided.tokenizer, folder.path)
        if provided.sid_file is None and provided.sources.semantic_ids is not None:  # taken over from an earlier run, and grown
            provided = replace(provided, sid_file=folder.path / SEMANTIC_IDS)
            provided.sources.semantic_ids.save(provided.sid_file)
    if earlier is not None:
        earlier.warm(network, train_data.dataset, known["ids"])
    n_parameters = _count_parameters(network)
    loss = config.contract.loss_name(config)
    logging.getLogger().info(
        f"{name}: {n_parameters:,} parameters on {config['device']}, loss {loss}, {precision(config)}, seed {config['seed']}, {folder.path}"
    )
    with as_user_error(f"{config.model} cannot be trained with these settings", "correct the key that this is about"):
        trainer = get_trainer(config)(config, network)
    trainer.known = {**known, "identity": folder.identity}
    _take_up(trainer, config, folder, writes)
    with _told_precision(config, network):
        best_valid_score, best_valid_result = trainer.fit(train_data, valid_data, saved=saved, show_progress=config["show_progress"])
    started, after_training = time.monotonic(), peak_memory_mb()
    test_result = trainer.evaluate(test_data, load_best_model=saved, show_progress=config["show_progress"])
    seconds_testing = time.monotonic() - started
    if tunes and provided.tokenizer is not None:  # what goes with the checkpoint is the tokenizer as it has become, and its codes
        tokenizer = tuned_tokenizer(provided.tokenizer, network, folder.path if writes else None)
        provided = replace(provided, tokenizer=tokenizer, sid_file=tokenizer.folder / RAW_CODES if writes else None)
        logging.getLogger().info(f"semantic IDs as {name} has tuned them\n{format_quality(tokenizer.description['quality'])}")
    record = Record.of_run(
        config, provenance(config), trainer, provided.tokenizer and provided.tokenizer.description, users, getattr(trainer, "ranks", None),
        name=name, model=config.declared["model"], family=config.contract.family, loss=loss, n_parameters=n_parameters,
        collision_policy=collisions_of(config.contract.needs(config), config),
        config=folder.identity["settings"], data={"loaded": known["data"], **provided.hashes}, hash=fingerprint(folder.identity),
        precision=precision(config), content=provided.sources.content and provided.sources.content.encoder,
        continues=folder.continues or (earlier and earlier.words), valid=best_valid_result, test=_by_rule(trainer),
        repeated_targets=int(met_before(test_data).sum()) if hasattr(test_data, "seen") else None,
        labelled=_labelled(config, (train_data, valid_data, test_data), test_result),
        seconds_testing=seconds_testing, peak_memory_mb={"training": after_training, **_peaks(config["device"])},
    )  # fmt: skip
    if writes:
        folder.done(record)
    result = {
        "best_valid_score": best_valid_score,
        "valid_score_bigger": config["valid_metric_bigger"],
        "best_valid_result": best_valid_result,
        "test_result": test_result,
        "run_dir": str(folder.path),
        "sid_file": str(provided.sid_file) if provided.sid_file else None,
        "seconds": record.seconds["training"],
        **{key: getattr(record, key) for key in IN_RESULT},
    }
    logging.getLogger().info(closing_words(config, result, saved))
    return result


IN_RESULT = (
    "name", "test", "users", "split", "labelled", "valid_rule", "valid_history", "epochs", "stopped_at_budget", "continues", "content",
    "repeated_targets", "by_repeat", "beam_levels", "peak_memory_mb", "loss", "n_parameters",
)  # fmt: skip
"""Attributes of :class:`~recbole_r3vae.record.Record` that a run returns too."""


def _by_rule(trainer) -> dict[str, Any]:
    found = getattr(trainer, "results", {})
    return {rule: found.get(rule) for rule in RULES}


def _labelled(config: Config, loaders, test_result) -> dict[str, Any] | None:
    """What the metrics are of, where they are not of rankings of the whole catalogue."""
    mode = config["eval_args"]["mode"]["test"]
    counted = config.contract.counted(*loaders)
    if counted is None and mode == "full":
        return None
    return {**(counted or {"candidates": mode}), "metrics": dict(test_result or {})}


def make_network(config: Config, dataset, sources: Sources):
    """The model on its device, with weights drawn by the run's seed.

    Raises:
        UserError: RecBole refuses a setting of a model of its own.
    """
    init_seed(config["seed"] + config["local_rank"], config["reproducibility"])
    with as_user_error(f"{config.model} cannot be made with these settings", "correct the key that this is about"):
        network = config.model_class(config, dataset).to(config["device"])
    network.sources = sources
    return network


@contextmanager
def _told_precision(config: Config, network) -> Iterator[None]:
    """Some of RecBole's models hold products that know no half precision (sparse ones, on a CPU), which only their first step tells."""
    try:
        yield
    except RuntimeError as error:
        halves = config["enable_amp"] and ("BFloat16" in str(error) or "Half" in str(error))
        if not halves or type(network).__module__.partition(".")[0] != "recbole":  # in a model of this package it is our mistake
            raise
        raise UserError(f"{config.model} cannot be trained with enable_amp on {config['device']}: {error}; take --enable_amp=False") from error


def _take_up(trainer, config: Config, folder: RunFolder, writes: bool) -> None:
    """Go on from ``last.pth`` where ``resume`` asks for it; else make room for a new beginning."""
    if not isinstance(trainer, Checkpointed):
        return
    if config["resume"]:
        if trainer.resume():
            return
        logging.getLogger().info(f"nothing to resume in {folder.path}; starting anew")
    if writes:
        folder.set_aside()


def _count_parameters(network) -> int:
    trained = {key: value for key, value in network.named_parameters() if value.requires_grad}
    trained.pop("fake_loss", None)  # where there is nothing to train, RecBole's models hold one number of this name
    return sum(value.numel() for value in trained.values())


def _peaks(device) -> dict[str, float | None]:
    return {"process": peak_memory_mb(), "gpu": peak_memory_mb(device) if device.type == "cuda" else None}


def _run_tokenizer(config: Config, dataset) -> dict[str, Any]:
    tokenizer = train_tokenizer(config, item_content(dataset, config), config["show_progress"], dataset)
    quality = summary(tokenizer.description["quality"])
    sid_file = tokenizer.folder / "raw.sid"
    how = "reused" if tokenizer.reused else f"trained in {tokenizer.description['seconds']:.0f} s"
    logging.getLogger().info(
        f"{config.model} {how}\n{format_quality(tokenizer.description['quality'])}\n"
        f"semantic IDs (collisions left as they are): {sid_file}\n"
        f"next: recbole-r3vae run --model=R3GR --tokenizer={config.declared['model']} {where_words(config)}"
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
        "stopped_at_budget": tokenizer.description["stopped_at_budget"],
    }


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
