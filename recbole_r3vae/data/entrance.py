"""What a run is about to read: its files, their columns and the split, checked before anything is read or trained."""

from __future__ import annotations

import logging
from itertools import permutations
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from recbole.data.dataset import Dataset, SequentialDataset
from recbole.utils import ModelType

from recbole_r3vae.data import time_split
from recbole_r3vae.data.atomic_check import check_atomic_file, read_fields
from recbole_r3vae.data.clicks import ClickDataset
from recbole_r3vae.errors import UserError, did_you_mean, short_repr

if TYPE_CHECKING:
    from recbole_r3vae.config import Config

logger = logging.getLogger(__name__)

PARTS = ("training", "validation", "test")
LEAVE_ONE_OUT = ("valid_and_test", "valid_only", "test_only")


def check_files(config: Config, folder: Path) -> None:
    """Refuse files, columns and ways to split that RecBole would stumble over later, or read as something else.

    Args:
        config: of a run.
        folder: the dataset's.

    Raises:
        UserError: it names the file, the columns that there are and the key to set.
    """
    _check_split_settings(config)
    crop = config["crop_probability"]
    if isinstance(crop, (int, float)) and not 0 <= crop <= 1:  # anything else is no key of this model, which was told
        raise UserError(f"crop_probability is {crop}; give a number from 0 up to 1")
    files = _Files(config, folder)
    files.check_columns()
    files.check_lines()


def _check_split_settings(config: Config) -> None:
    evaluation = config["eval_args"]
    split, order, group = evaluation["split"], evaluation["order"], evaluation["group_by"]
    if order not in ("TO", "RO"):
        raise UserError(f"order in eval_args is {short_repr(order)}; write TO, in time order, or RO, at random")
    if order != "TO" and _is_sequential(config):
        raise UserError(f"order in eval_args is {order}, and {config.model} reads histories: histories are in time order; write order: TO")
    ties = evaluation.get("ties")
    if ties is not None and (type(ties) is not int or not 0 <= ties < 10**16):
        raise UserError(f"ties in eval_args is {short_repr(ties)}; give the seed that draws their order, a whole number, or leave it out")
    if ties is not None and order != "TO":
        raise UserError(f"ties in eval_args draws the order of interactions of one time, and order is {order}; write order: TO")
    if config["benchmark_filename"] is not None:
        return
    if not isinstance(split, dict) or len(split) != 1 or next(iter(split)) not in ("LS", "RS", time_split.NAME):
        raise UserError(
            f"split in eval_args is {short_repr(split)}; write {{LS: valid_and_test}} or ratios such as {{RS: [8, 1, 1]}}, or two points of "
            f"time {{{time_split.NAME}: [0.8, 0.9]}}"
        )
    if time_split.points_of(evaluation) is not None:
        if order != "TO":
            raise UserError(f"order in eval_args is {order}, and {time_split.NAME} splits by time; write order: TO")
        if issubclass(config.contract.dataset_class or Dataset, ClickDataset):
            raise UserError(f"{time_split.NAME} asks for one item a user, and {config.model} predicts labels here; write {{RS: [8, 1, 1]}}")
        return
    if "LS" in split and split["LS"] not in LEAVE_ONE_OUT:
        raise UserError(f"split in eval_args is {short_repr(split)}; of LS choose {', '.join(LEAVE_ONE_OUT)}")
    ratios = split.get("RS", [1, 1, 1])
    are_ratios = isinstance(ratios, (list, tuple)) and len(ratios) == 3 and all(isinstance(ratio, Real) and ratio >= 0 for ratio in ratios)
    if not are_ratios or not ratios[0]:
        raise UserError(f"split in eval_args is {short_repr(split)}; write three ratios, of training, validation and test: {{RS: [8, 1, 1]}}")
    if str(group).lower() not in ("user", "none") or ("LS" in split and group != "user"):
        raise UserError(f"group_by in eval_args is {short_repr(group)}; write user" + ("" if "LS" in split else ", or none"))


def _is_sequential(config: Config) -> bool:
    return config["MODEL_TYPE"] == ModelType.SEQUENTIAL


class _Files:
    """The atomic files of a dataset that a configuration reads."""

    def __init__(self, config: Config, folder: Path):
        self.config, self.user, self.item = config, config["USER_ID_FIELD"], config["ITEM_ID_FIELD"]
        self.time, self.columns = config["TIME_FIELD"], config["load_col"]
        empty = next((ending for ending, fields in (self.columns or {}).items() if fields is None), None)
        if empty is not None:
            raise UserError(f"load_col has nothing for {empty}; list fields of {config['dataset']}.{empty}, write \"*\" for all, or leave {empty} out")
        self.dataset_class = config.contract.dataset_class or Dataset
        self.interactions = interaction_files(config, folder)
        features = {ending: folder / f"{config['dataset']}.{ending}" for ending in ("item", "user")}
        self.features = {ending: path for ending, path in features.items() if path.is_file() and ending in (self.columns or [ending])}
        paths = (*self.interactions, *self.features.values())
        self.types = {path: read_fields(path, config["field_separator"], config["encoding"]) for path in paths}
        self.histories = f"{self.item}{config['LIST_SUFFIX']}"

    def _read(self, path: Path, field: str) -> bool:
        """Whether RecBole reads a column."""
        ending = path.suffix[1:]
        wanted = self.columns.get(ending, []) if self.columns else "*"
        return field in self.types[path] and (wanted == "*" or field in wanted) and field not in self._unwanted(path)

    def _unwanted(self, path: Path) -> list[str]:
        return (self.config["unload_col"] or {}).get(path.suffix[1:]) or []

    @property
    def _bring_histories(self) -> bool:
        return self.config["benchmark_filename"] is not None and self._read(self.interactions[0], self.histories)

    # -- columns ---------------------------------------------------------------------------------------------------------

    def check_columns(self) -> None:
        if self.config["MODEL_TYPE"] != ModelType.DECISIONTREE:
            for path in self.interactions:
                self._require(path, self.user, "USER_ID_FIELD")
                self._require(path, self.item, "ITEM_ID_FIELD")
                if self._needs_times:
                    self._require(path, self.time, "TIME_FIELD")
                if self._bring_histories and getattr(self.dataset_class, "reads_times", False):
                    self._require_times_of_histories(path)
                if self._ties is not None:
                    self._require(path, self._ties, "shuffle_ties")
        if self._ties is not None and self._bring_histories:
            raise UserError(
                f"shuffle_ties is {short_repr(self._ties)}, and the parts bring histories, in which it has no value for each item; leave it out, "
                f"or take {self.histories} out of load_col: histories are then made of the parts"
            )
        if self._bring_histories and self.config["eval_args"].get("ties") is not None:
            raise UserError(
                f"ties in eval_args is {self.config['eval_args']['ties']}, and the parts bring histories, whose order stands in {self.histories}; "
                f"leave it out, or take {self.histories} out of load_col: histories are then made of the parts"
            )
        for ending, key, field in (("item", "ITEM_ID_FIELD", self.item), ("user", "USER_ID_FIELD", self.user)):
            if ending in self.features:
                self._require(self.features[ending], field, key)
        first = self.interactions[0]
        for one, other in permutations(self.interactions, 2):
            for field, kind in self.types[one].items():
                if self._read(one, field) and self.types[other].get(field) != kind:
                    raise UserError(f"{other} has no column {field}:{kind}, and {one} has one; give all parts the same columns")
        if self._bring_histories and self.types[first][self.histories] != "token_seq":
            raise UserError(f"{first}, line 1: {self.histories} must be {self.histories}:token_seq; correct its type")
        self._say_what_is_not_there()

    @property
    def _ties(self) -> str | None:
        """The column that says which interactions may change places; ``None`` where none may."""
        return self.config["shuffle_ties"] if getattr(self.dataset_class, "draws_windows", False) else None

    @property
    def _needs_times(self) -> bool:
        if getattr(self.dataset_class, "reads_times", False):
            return True
        by_time = self.config["eval_args"]["order"] == "TO"
        if self.config["benchmark_filename"] is None:
            return by_time
        return by_time and not self._bring_histories and _is_sequential(self.config)

    def _require(self, path: Path, field: str, key: str) -> None:
        types = self.types[path]
        if field not in types:
            hint = did_you_mean(str(field), types, 1)
            there = f"it has {', '.join(types)}{hint}"
            raise UserError(f"{key} is {short_repr(field)}, and {path} has no such column: {there}; set {key} to one of them")
        if not self._read(path, field):
            keeper, way = "load_col", f"add it to {path.suffix[1:]} in load_col"
            if field in self._unwanted(path):
                keeper, way = "unload_col", "take it out of unload_col"
            raise UserError(f"{path} has a column {field!r}, which {key} names, and {keeper} keeps it from being read; {way}")

    def _require_times_of_histories(self, path: Path) -> None:
        field = f"{self.time}{self.config['LIST_SUFFIX']}"
        if not self._read(path, field) or self.types[path][field] != "float_seq":
            raise UserError(
                f"{self.config.model} reads the time of every item in a history, and of {path} no column {field}:float_seq is read; add it "
                f"to the file and to inter in load_col, or take {self.histories} out of load_col: histories are then made of the parts"
            )

    def _say_what_is_not_there(self) -> None:
        """One line for each list of columns that the user wrote himself and that names some which do not exist."""
        given = self.config.external_config_dict.get("load_col") or {}
        for ending, path in (("inter", self.interactions[0]), *self.features.items()):
            wanted = given.get(ending) if isinstance(given, dict) else None
            absent = [str(field) for field in wanted if field not in self.types[path]] if isinstance(wanted, (list, tuple)) else []
            if absent:
                logger.warning(f"load_col names {', '.join(absent)}, and {path} has no such column: it has {', '.join(self.types[path])}")

    # -- lines -----------------------------------------------------------------------------------------------------------

    def check_lines(self) -> None:
        numbers = [self.time] if self.config["eval_args"]["order"] == "TO" or getattr(self.dataset_class, "reads_times", False) else []
        numbers += [field for field in (self._ties,) if self.types[self.interactions[0]].get(field) == "float"]
        paths = [(path, numbers, None) for path in self.interactions]
        paths += [(path, [], self.item if ending == "item" else self.user) for ending, path in self.features.items()]
        for path, of_numbers, unique in paths:
            read = {field for field in self.types[path] if self._read(path, field)}
            of_numbers = [field for field in of_numbers if field in read]
            form = self.config["field_separator"], self.config["encoding"]
            check_atomic_file(path, *form, of_numbers, {self.user, self.item}, unique, read)


def interaction_files(config: Config, folder: Path) -> list[Path]:
    """The dataset's ``.inter`` file, or those of the parts of its split.

    Args:
        config: of a run; ``benchmark_filename`` names the parts.
        folder: the dataset's.

    Raises:
        UserError: there are not three parts, or one has no file.
    """
    name, parts = config["dataset"], config["benchmark_filename"]
    if parts is None:
        return [folder / f"{name}.inter"]
    if not isinstance(parts, (list, tuple)) or len(parts) != 3:
        raise UserError(
            f"benchmark_filename is {short_repr(parts)}; name three parts, those to train on, to select the epoch by and to test, such as "
            f"[train, valid, test] for {name}.train.inter, {name}.valid.inter and {name}.test.inter"
        )
    paths = [folder / f"{name}.{part}.inter" for part in parts]
    absent = next((path for path in paths if not path.is_file()), None)
    if absent is not None:
        here = ", ".join(sorted(path.name for path in folder.glob(f"{name}.*.inter"))) or "none"
        raise UserError(f"benchmark_filename is {short_repr(list(parts))}, and there is no {absent}; parts that are there: {here}")
    _say_what_parts_ignore(config)
    return paths


def _say_what_parts_ignore(config: Config) -> None:
    keys = ("user_inter_num_interval", "item_inter_num_interval", "val_interval", "rm_dup_inter")
    given, defaults = config.external_config_dict, config.internal_config_dict
    without_effect = [key for key in keys if given.get(key) not in (None, defaults.get(key))]
    if without_effect:
        logger.warning(f"benchmark_filename is given: its parts are taken as they are, and {', '.join(without_effect)} does nothing")


def check_split(config: Config, dataset: Dataset) -> None:
    """Refuse a dataset that leaves nothing to learn or nothing to test, before anything is trained for it.

    Args:
        config: of a run; its split is one that :func:`check_files` let pass.
        dataset: loaded, not yet split.

    Raises:
        UserError: it says what is lacking.
    """
    name = config["dataset"]
    longer = "take a dataset with longer histories"
    if isinstance(dataset, SequentialDataset) and not dataset.has_histories and dataset.inter_num == dataset.user_num - 1:
        raise UserError(f"dataset {name!r}: no user has more than one interaction, so there is no next item to learn; {longer}")
    if config["benchmark_filename"] is not None or dataset.uid_field not in dataset.inter_feat:
        return
    if time_split.points_of(config["eval_args"]) is not None:
        _check_time_split(name, dataset)
        return
    rows = np.bincount(np.asarray(dataset.inter_feat[dataset.uid_field]))  # [n_users], some 0
    rows = np.maximum(rows - isinstance(dataset, SequentialDataset), 0)  # whose rows have a history: a first interaction is no target
    if not _tested(config["eval_args"], dataset, rows):
        raise UserError(
            f"dataset {name!r}: no user has interactions enough for one to test beside those to learn from, so nothing would be measured; "
            f"{longer}, or another split in eval_args"
        )


def _check_time_split(name: str, dataset: Dataset) -> None:
    by_time = np.argsort(dataset.inter_feat[dataset.time_field].to_numpy(), kind="stable")
    users, stage = dataset.inter_feat[dataset.uid_field].to_numpy()[by_time], dataset.stage_of_rows()[by_time]
    counts = np.bincount(time_split.parts(users, stage) + 1, minlength=4)[1:]
    if not counts.all():
        part = PARTS[int((counts == 0).argmax())]
        raise UserError(
            f"dataset {name!r}: its {part} part is empty, as no user has an interaction there and one before it; choose other points of time "
            f"than {short_repr(dict(dataset.config['eval_args']['split']))}"
        )


def _tested(evaluation: dict, dataset: Dataset, rows: np.ndarray) -> bool:
    """Whether a split puts something into its test part, where it is to have one.

    Args:
        evaluation: ``eval_args``.
        dataset: whose split it is.
        rows: ``[n_users]``, how many rows of each are to be split.
    """
    split = evaluation["split"]
    if "LS" in split:
        return "test" not in split["LS"] or bool((rows > 1).any())
    ratios = [ratio / sum(split["RS"]) for ratio in split["RS"]]
    groups = np.unique(rows) if evaluation["group_by"] == "user" else [rows.sum()]
    return not ratios[2] or any(dataset._calcu_split_ids(int(size), ratios)[-1] < size for size in groups)
