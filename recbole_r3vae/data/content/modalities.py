"""The key ``content_encoder``: which modalities item content has, and how each is made. Checked before any dataset is read."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recbole_r3vae.data.content.encoders import SentenceTransformerEncoder, TextEncoder, TfidfSvdEncoder
from recbole_r3vae.data.content.item_content import TEXT
from recbole_r3vae.data.content.template import TextTemplate
from recbole_r3vae.data.content.vectors import VectorFile
from recbole_r3vae.errors import UserError, did_you_mean, short_repr

if TYPE_CHECKING:
    from recbole.config import Config

CONTENT_KEYS = (
    "content_encoder", "content_dim", "content_file", "content_ids", "item_text_fields", "item_text_template", "content_cache_dir",
)  # fmt: skip
"""Every key that item content depends on, and where it is kept."""

FILE = "file"
LEARNED = ("FAMAE", "LightGCN", "BPR", "SASRec")
"""Models that learn item vectors from the training split; see :mod:`recbole_r3vae.quick_start.collaborative`."""

_KINDS = (TfidfSvdEncoder.kind, FILE, f"{SentenceTransformerEncoder.kind}/<name>", *LEARNED)
_SETTINGS = {
    TfidfSvdEncoder.kind: ("encoder", "fields", "template", "dim"),
    SentenceTransformerEncoder.kind: ("encoder", "fields", "template"),
    FILE: ("encoder", "file", "ids", "missing"),
}
"""What may be said of a modality, by its kind of encoder."""


@dataclass(frozen=True)
class Modality:
    """One modality of the items, and how its vectors are made: by a text encoder, from a file, or by a model of the training split.

    Attributes:
        name: What its columns are called.
        encoder: Encodes texts, not fitted yet; ``None`` for other vectors.
        fields: Fields of the ``.item`` file that are joined to an item's text; those that the dataset lacks are skipped.
        template: What fields are filled into instead, all of which the dataset must have; ``None`` where they are joined.
        vectors: The file, opened and checked; ``None`` for other vectors.
        optional: Whether items that the file lacks get zeros instead of an error.
        learned: One of :data:`LEARNED`; ``None`` for other vectors.
        settings: Keys of that model and their values, where they are not those of its YAML.
    """

    name: str
    encoder: TextEncoder | None = None
    fields: tuple[str, ...] = ()
    template: TextTemplate | None = None
    vectors: VectorFile | None = None
    optional: bool = False
    learned: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


def modalities(config: Config) -> list[Modality]:
    """What ``content_encoder`` asks for, with every mistake in it found.

    It takes three forms:

    * ``tfidf-svd``, ``sentence-transformers/<name>``, ``file`` or one of :data:`LEARNED`: one modality, called ``text``;
    * a list of those, ``[tfidf-svd, file]``: vectors of texts are called ``text``, those of a file by the file's name without its ending;
    * a mapping of names to those or to their own settings: ``{text: tfidf-svd, image: {encoder: file, file: image.npy, missing: zero}}``.
      Settings are ``fields`` or ``template``, and ``dim``, of a text encoder, ``file``, ``ids`` and ``missing`` (``error``, the default, or
      ``zero``: items that the file lacks get zeros) of a file, and all keys of its YAML of a model that learns vectors. What is not said
      of text and files is taken from ``item_text_fields``, ``content_dim``, ``content_file`` and, for that file, ``content_ids``; from
      ``item_text_template`` where neither fields nor a template are said.

    Args:
        config: A RecBole ``Config``, or anything that gives ``None`` for a key it does not have.

    Returns:
        The modalities in the order of their columns; at least one.

    Raises:
        UserError: an unknown encoder or setting, a value that a setting cannot have, two modalities of one name, or a vector file that is
            missing or damaged.
    """
    given = TfidfSvdEncoder.kind if config["content_encoder"] in (None, "") else config["content_encoder"]
    if isinstance(given, (str, os.PathLike)):
        return [_modality(TEXT, {"encoder": str(given)}, config)]
    if isinstance(given, Mapping):
        named = [(name, settings if isinstance(settings, Mapping) else {"encoder": settings}) for name, settings in given.items()]
    else:
        named = [(_default_name(entry, config), {"encoder": entry}) for entry in given] if isinstance(given, (list, tuple)) else []
    if not named:
        raise UserError(f"content_encoder is {short_repr(given)}; give {', '.join(_KINDS)}, a list of them, or a mapping of names to them")
    found: dict[str, Modality] = {}
    for name, settings in named:
        if not isinstance(name, str) or not name:
            raise UserError(f"content_encoder calls a modality {short_repr(name)}; give it a name, such as image")
        try:
            modality = _modality(name, settings, config)
        except UserError as error:
            raise UserError(f"content_encoder, modality {name!r}: {error}") from error
        if name in found:
            raise UserError(f"content_encoder has two modalities called {name!r}; name them in a mapping, {{text: tfidf-svd, image: file}}")
        found[name] = modality
    return list(found.values())


def reads_content_file(given: Any) -> bool:
    """Whether a value of ``content_encoder`` takes vectors from the file that ``content_file`` names."""
    if isinstance(given, Mapping):
        return any(entry == FILE or isinstance(entry, Mapping) and entry.get("encoder") == FILE and "file" not in entry for entry in given.values())
    return given == FILE or isinstance(given, (list, tuple)) and FILE in given


def _default_name(encoder: Any, config: Config) -> str:
    """The name of a list's entry."""
    return Path(config["content_file"]).stem if encoder == FILE and config["content_file"] else TEXT


def _modality(name: str, settings: Mapping[str, Any], config: Config) -> Modality:
    encoder = str(settings.get("encoder"))
    if encoder in LEARNED:
        return Modality(name, learned=encoder, settings={key: value for key, value in settings.items() if key != "encoder"})
    kind, slash, _ = encoder.partition("/")
    if kind not in _SETTINGS or bool(slash) != (kind == SentenceTransformerEncoder.kind):
        raise UserError(f"unknown content_encoder {short_repr(encoder)}; choose {', '.join(_KINDS)}{did_you_mean(encoder, _KINDS)}")
    for key in settings:
        if key not in _SETTINGS[kind]:
            hint = did_you_mean(key, _SETTINGS[kind])
            raise UserError(f"unknown setting {short_repr(key)} of encoder {encoder}; it has {', '.join(_SETTINGS[kind])}{hint}")
    if kind == FILE:
        return Modality(name, vectors=_vector_file(settings, config), optional=_may_be_missing(settings))
    fields = settings.get("fields", config["item_text_fields"]) or ()
    fields = (fields,) if isinstance(fields, str) else fields
    if not isinstance(fields, (list, tuple)) or not all(isinstance(field, str) for field in fields):
        raise UserError(f"fields is {short_repr(fields)}; give a list of fields of the .item file")
    # A template that was given for the fields of the dataset is not one for fields of a modality's own.
    template = settings.get("template", None if "fields" in settings else config["item_text_template"])
    if template is not None and "fields" in settings:
        given = f"fields is {short_repr(settings['fields'])} and template {short_repr(template)}"
        raise UserError(f"{given}; give one of them: a template names its fields")
    template = None if template is None else TextTemplate.parse(template)
    if kind == SentenceTransformerEncoder.kind:
        text_encoder = SentenceTransformerEncoder(encoder, device=str(config["device"]) if config["device"] else None)
    else:
        dim = settings.get("dim", config["content_dim"])
        text_encoder = TfidfSvdEncoder() if dim is None else TfidfSvdEncoder(dim)
    return Modality(name, text_encoder, tuple(fields), template)


def _vector_file(settings: Mapping[str, Any], config: Config) -> VectorFile:
    path = settings.get("file", config["content_file"])
    # Ids that were given for one file are not those of another.
    ids = settings.get("ids", None if "file" in settings else config["content_ids"])
    if not path:
        raise UserError("content_encoder: file needs content_file; give content_file: <vectors.npy or .safetensors>")
    for key, value in (("file", path), ("ids", ids)):
        if not isinstance(value, (str, os.PathLike, type(None))):
            raise UserError(f"{key} is {short_repr(value)}; give the path of a file")
    return VectorFile(path, ids)


def _may_be_missing(settings: Mapping[str, Any]) -> bool:
    missing = settings.get("missing", "error")
    if missing not in ("error", "zero"):
        raise UserError(f"missing is {short_repr(missing)}; choose error, or zero for items that the file lacks")
    return missing == "zero"
