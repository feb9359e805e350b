"""Datasets, loaders and trainers: this package's where it has its own, RecBole's otherwise.

Whichever it is, interactions are in time order and checkpoints are safe.
"""

from __future__ import annotations

import os
from pathlib import Path

from recbole.data import utils as recbole_data
from recbole.data.dataset import Dataset
from recbole.trainer import Trainer
from recbole.utils import get_trainer as recbole_get_trainer

from recbole_r3vae.config import Config
from recbole_r3vae.config.sources import properties
from recbole_r3vae.data.entrance import PARTS, check_files, check_split
from recbole_r3vae.data.ordered import time_ordered
from recbole_r3vae.data.prepare import DATASETS
from recbole_r3vae.data.split import add_seen, meetings, met_before_parts
from recbole_r3vae.errors import UserError, as_user_error, did_you_mean, one_line, short_repr
from recbole_r3vae.trainer.ranking import RankingTrainer
from recbole_r3vae.trainer.resumable import checkpointed


def dataset_folder(config: Config) -> Path:
    """The folder of the dataset's atomic files.

    Raises:
        UserError: there is no such folder; the message names the nearest datasets and how to make one.
    """
    folder, name = Path(config["data_path"]), config["dataset"]
    if not os.path.isfile(folder / f"{name}.inter") and config["benchmark_filename"] is None:
        known = {path.stem for path in (properties() / "dataset").glob("*.yaml")}
        here = {path.name for path in folder.parent.glob("*") if (path / f"{path.name}.inter").is_file()}
        hint = "" if name in known else did_you_mean(name, known | here)
        remedy = f"known datasets: {', '.join(sorted(known | here))}"
        if name in known:
            remedy = f"run `recbole-r3vae prepare {name}`" if name in DATASETS else "leave out data_path, since RecBole brings it along"
        raise UserError(
            f"there is no {one_line(folder / name, 300)}.inter for dataset {short_repr(name)}{hint}; {remedy}, or point --data_path at its "
            "parent folder"
        )
    return folder


def create_dataset(config: Config, ids: dict[str, list[str]] | None = None) -> Dataset:
    """Load the atomic files with the dataset class of the model.

    Args:
        config: configuration whose ``data_path`` is the dataset's own folder.
        ids: field to the ids that its numbers are to stand for, those of a checkpoint; default: numbered by the files.

    Returns:
        The filtered and remapped dataset, not yet split.

    Raises:
        UserError: as :func:`dataset_folder` and :func:`~recbole_r3vae.data.entrance.check_files`; or the dataset has ids that are not
            among ``ids``.
    """
    folder, name = dataset_folder(config), config["dataset"]
    check_files(config, folder)
    with as_user_error(f"dataset {name!r} in {folder} cannot be loaded", "correct its files, or `load_col`"):
        dataset = time_ordered(config.contract.dataset_class or Dataset, ids)(config)
    if dataset.inter_num == 0:
        raise UserError(
            f"dataset {name!r} has no interactions left after filtering; "
            "widen user_inter_num_interval and item_inter_num_interval"
        )
    return dataset


def data_preparation(config: Config, dataset: Dataset):
    """Split a dataset and make its loaders as RecBole does.

    Returns:
        Training, validation and test loader; see :func:`~recbole_r3vae.data.split.add_seen` for what the last two know in addition where
        the whole catalogue is ranked.

    Raises:
        UserError: RecBole would unpickle loaders that were saved earlier; pickles can run code and are never loaded here. Or there is
            nothing to learn from, or no way to split as ``eval_args`` says.
    """
    default = Path(config["checkpoint_dir"]) / f"{config['dataset']}-for-{config['model']}-dataloader.pth"
    pickled = Path(config["dataloaders_save_path"] or default)
    if pickled.exists() or config["save_dataloaders"] or config["save_dataset"]:
        raise UserError(
            f"RecBole's saved dataloaders and datasets ({pickled}) are pickles, which can run code; "
            "move the file away and leave save_dataset and save_dataloaders off"
        )
    check_split(config, dataset)
    known = dataset.uid_field in dataset.inter_feat and dataset.iid_field in dataset.inter_feat
    # Before the split, which rewrites the interactions.
    everything, before = (meetings(dataset), met_before_parts(dataset)) if known else (None, None)
    with as_user_error(f"dataset {config['dataset']!r} cannot be split into training, validation and test", "correct its files, or eval_args"):
        train_data, valid_data, test_data = recbole_data.data_preparation(config, dataset)
    if config["benchmark_filename"] is not None:
        for part, loader in zip(PARTS, (train_data, valid_data, test_data)):
            if len(loader._dataset) == 0:
                raise UserError(
                    f"dataset {config['dataset']!r}: no line of the {part} part has a history; give its users interactions in a part "
                    "before it"
                )
    if everything is not None:
        add_seen(everything, valid_data, test_data, before)
    return train_data, valid_data, test_data


def get_trainer(config: Config) -> type[Trainer]:
    """The trainer class of the configured model, with safe checkpoints and exact resumption where it is a RecBole ``Trainer``."""
    if config.contract.trainer_class is not None:
        return checkpointed(config.contract.trainer_class)
    if config.contract.ranks_lists:
        return RankingTrainer
    trainer_class = recbole_get_trainer(config["MODEL_TYPE"], config["model"])
    return checkpointed(trainer_class) if issubclass(trainer_class, Trainer) else trainer_class
