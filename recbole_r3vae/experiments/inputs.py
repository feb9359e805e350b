"""What the files hold that a unit of an experiment reads: it decides the result, wherever the files lie."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from recbole_r3vae.config import Config
from recbole_r3vae.config.stages import content_config
from recbole_r3vae.data.content.encoders import SentenceTransformerEncoder
from recbole_r3vae.data.content.modalities import modalities
from recbole_r3vae.data.file_hash import sha256_of
from recbole_r3vae.io import beside


def content_hashes(configs: Sequence[Config]) -> dict[str, str]:
    """Hashes of the files that item content is made of.

    Args:
        configs: of the model and, where a tokenizer is trained, of that.

    Returns:
        ``content_file`` and ``content_ids``, with ``tokenizer_`` before those of the second stage; and ``<modality>.file``, ``<modality>.ids``
        and ``<modality>.encoder`` of files that ``content_encoder`` itself names, and of a sentence encoder in a local folder.

    Raises:
        UserError: a file cannot be read, or ``content_encoder`` is unusable.
    """
    found = {}
    for prefix, config in zip(("", "tokenizer_"), configs):
        files = {key: config[key] for key in ("content_file", "content_ids")}
        if files["content_file"] and not files["content_ids"]:
            files["content_ids"] = beside(files["content_file"], ".ids")
        found.update({f"{prefix}{key}": sha256_of(Path(file)) for key, file in files.items() if file})
    if len(configs) == 1 and configs[0].contract.needs(configs[0]).content is None:
        return found
    config = content_config(configs[0])
    for modality in modalities(config):
        vectors, encoder = modality.vectors, modality.encoder
        if vectors is not None and str(vectors.path) != str(config["content_file"]):
            found.update({f"{modality.name}.file": sha256_of(vectors.path), f"{modality.name}.ids": sha256_of(vectors.ids_path)})
        if isinstance(encoder, SentenceTransformerEncoder) and (files := encoder.settings().get("files")):
            found[f"{modality.name}.encoder"] = files
    return found
