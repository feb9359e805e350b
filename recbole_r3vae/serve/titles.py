"""The titles of a dataset's items, read as its run read them."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recbole_r3vae.config import Config
from recbole_r3vae.config.sources import load_yaml
from recbole_r3vae.data.item_file import ReadingSettings, read_items
from recbole_r3vae.quick_start.run_folder import read_identity
from recbole_r3vae.quick_start.semantic_ids import DESCRIPTION

READING_KEYS = ("field_separator", "encoding", "ITEM_ID_FIELD", "item_text_fields", "data_path")
"""Keys that say where an ``.item`` file is and how it is read."""


def dataset_titles(
    dataset: str,
    data_path: str | os.PathLike | None = None,
    title_field: str | None = None,
    sid_file: str | os.PathLike | None = None,
    config_files: Sequence[str | os.PathLike] = (),
    arguments: Sequence[str] = (),
) -> dict[str, str]:
    """Item ids to titles, out of a dataset's ``.item`` file.

    Args:
        dataset: name of a folder of atomic files.
        data_path: the folder's parent; default: as RecBole finds it.
        title_field: default: the first of the dataset's ``item_text_fields`` that the file has.
        sid_file: semantic IDs; where their tokenizer lies beside them, the file is read as its run read it, where that was of this dataset.
        config_files: YAML files of keys such as ``field_separator``, which win over those of the run.
        arguments: command-line words that say so, and win over the files.

    Raises:
        UserError: there is no such file, or no such field in it.
    """
    settings = {**_settings_beside(sid_file, dataset), **({"data_path": str(data_path)} if data_path else {})}
    for path in config_files:
        settings.update({key: value for key, value in load_yaml(path).items() if key in READING_KEYS})
    config = Config("R3VAE", dataset, config_dict=settings, arguments=arguments)
    titles, fields = {}, [title_field] if title_field else config["item_text_fields"]
    for names, records in read_items(Path(config["data_path"]) / f"{dataset}.item", fields, ReadingSettings.of(config.declared)):
        titles.update((name, " ".join(str(next(iter(record.values()))).split())) for name, record in zip(names, records))
    return titles


def _settings_beside(sid_file: str | os.PathLike | None, dataset: str) -> dict[str, Any]:
    """:data:`READING_KEYS` of the tokenizer in whose folder semantic IDs lie, and of the run around it; none of another dataset's."""
    if sid_file is None:
        return {}
    folder = Path(sid_file).parent
    try:
        config = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))["config"]
    except (OSError, ValueError, KeyError, TypeError):  # semantic IDs that lie anywhere else
        return {}
    config = {**config, **(read_identity(folder.parent) or {"settings": {}})["settings"]}
    return {key: config[key] for key in READING_KEYS if config.get(key) is not None and config.get("dataset") == dataset}
