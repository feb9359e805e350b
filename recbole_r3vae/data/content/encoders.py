"""Text encoders and what is saved of them: one unit vector per item text."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from recbole_r3vae.data.content.template import TextTemplate
from recbole_r3vae.data.content.text import record_text
from recbole_r3vae.data.content.tfidf import TfidfSvdEncoder
from recbole_r3vae.data.content.words import FieldValue
from recbole_r3vae.data.file_hash import sha256_of
from recbole_r3vae.errors import UserError
from recbole_r3vae.io import atomic_write


class SentenceTransformerEncoder:
    """A pretrained sentence encoder (Reimers & Gurevych, 2019), used as it is; needs the extra ``[text]``.

    Args:
        name: A model of the sentence-transformers organisation (``sentence-t5-base``), another one by its
            owner (``BAAI/bge-small-en-v1.5``) or a local folder; the prefix ``sentence-transformers/`` may
            stand before it.
        device: Where to encode (``cpu``, ``cuda:0``); chosen by sentence-transformers when not given.

    Raises:
        UserError: the name is empty.
    """

    kind = "sentence-transformers"

    def __init__(self, name: str, device: str | None = None) -> None:
        self.name = name.removeprefix(f"{self.kind}/")
        if not self.name:
            raise UserError(f"content_encoder '{name}' names no model; write {self.kind}/<name>")
        self.device = device
        self._model = None
        self._files: str | None = None  # what a local folder held when the items' vectors were made

    def settings(self) -> dict[str, Any]:
        """What determines the vectors, as plain JSON; of a local folder what its files hold too, since it may be trained again."""
        plain = {"kind": self.kind, "version": 1, "name": self.name}
        return {**plain, "files": _hash_of_files(Path(self.name))} if Path(self.name).is_dir() else plain

    def fit(self, texts: Sequence[str]) -> SentenceTransformerEncoder:
        """Nothing to learn; the model is loaded, so that a missing one is refused before a progress bar stands on the screen.

        Raises:
            UserError: the package is not installed, or the model cannot be loaded.
        """
        self._load()
        return self

    def transform(self, texts: Sequence[str]) -> np.ndarray:
        """Encode texts; an empty text gets the model's own vector of the empty text.

        Args:
            texts: Any texts.

        Returns:
            float32 ``[len(texts), d]``, unit rows.

        Raises:
            UserError: the package is not installed, or the model cannot be loaded, or is another one than it was.
        """
        model = self._load()
        return model.encode(
            list(texts), convert_to_numpy=True, normalize_embeddings=True, show_progress_bar=False
        ).astype(np.float32)

    def state_dict(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """No tensors: the model is named, not copied."""
        return {}, self.settings()

    @classmethod
    def from_state(
        cls, tensors: Mapping[str, np.ndarray], meta: Mapping[str, Any]
    ) -> SentenceTransformerEncoder:
        """The encoder of the same name; its model is loaded when it is first used."""
        encoder = cls(meta["name"])
        encoder._files = meta.get("files")
        return encoder

    def _load(self):
        if self._model is None:
            if self._files is not None and self.settings().get("files") != self._files:
                raise UserError(
                    f"the sentence encoder in {self.name} is not as it was when the old items' vectors were made; put that one back, or "
                    "encode all items again"
                )
            try:
                from sentence_transformers import SentenceTransformer
            except ImportError as error:
                raise UserError(
                    f"content_encoder '{self.kind}/{self.name}' needs the package sentence-transformers, "
                    "which is not installed; run: pip install 'recbole-r3vae[text]'"
                ) from error
            # On the hub a bare name belongs to the organisation of the same name.
            is_path = "/" in self.name or Path(self.name).is_dir()
            name = self.name if is_path else f"{self.kind}/{self.name}"
            try:
                self._model = SentenceTransformer(name, device=self.device)
            except (OSError, ValueError) as error:
                raise UserError(
                    f"cannot load the sentence encoder '{name}': {' '.join(str(error).split())}; "
                    "check its name and the connection, or give a local folder"
                ) from error
        return self._model


def _hash_of_files(folder: Path) -> str:
    """Of all files of a folder, by name and content."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    lines = "\n".join(f"{sha256_of(path)} {path.relative_to(folder).as_posix()}" for path in files)
    return hashlib.sha256(lines.encode()).hexdigest()


TextEncoder = TfidfSvdEncoder | SentenceTransformerEncoder
_BY_KIND: dict[str, type[TextEncoder]] = {
    encoder.kind: encoder for encoder in (TfidfSvdEncoder, SentenceTransformerEncoder)
}


@dataclass(frozen=True)
class ItemEncoder:
    """A fitted text encoder together with the item fields it reads: what is needed to encode new items.

    Attributes:
        encoder: The fitted encoder.
        fields: The fields of an item, in the order in which they are joined to its text.
        template: What they are filled into instead, with all joiners said; ``None`` where there is none.
    """

    encoder: TextEncoder
    fields: tuple[str, ...]
    template: TextTemplate | None = None

    def encode(self, items: Sequence[Mapping[str, FieldValue]]) -> np.ndarray:
        """Encode items that were not there when the encoder was fitted.

        Args:
            items: Field name to value each, e.g. ``{"title": "Red lipstick", "tags": ["beauty", "lips"]}``.

        Returns:
            float32 ``[len(items), d]``, unit rows.

        Raises:
            UserError: an item has none of the fields.
        """
        for position, item in enumerate(items):
            if not any(field in item for field in self.fields):
                raise UserError(
                    f"item {position} has none of the text fields {list(self.fields)}; it has {list(item)}"
                )
        return self.encoder.transform([record_text(item, self.fields, self.template) for item in items])

    def state_dict(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Tensors, and everything else as plain JSON."""
        tensors, meta = self.encoder.state_dict()
        form = {} if self.template is None else {"template": str(self.template)}
        return tensors, {**meta, "fields": list(self.fields), **form}

    @classmethod
    def from_state(cls, tensors: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> ItemEncoder:
        """The encoder whose :meth:`state_dict` it was.

        Raises:
            KeyError, TypeError, ValueError: something is missing, or tensors and the rest do not belong together.
        """
        template = TextTemplate.parse(meta["template"]) if "template" in meta else None
        return cls(_BY_KIND[meta["kind"]].from_state(tensors, meta), tuple(meta["fields"]), template)


@dataclass(frozen=True)
class ModalityEncoders:
    """What is needed to encode new items of several modalities, where texts are all that is needed.

    Attributes:
        parts: Name of each modality to its encoder, in the order of the columns; ``None`` where the vectors came from a file or from
            interactions.
        widths: Name of each modality to the number of its columns.
    """

    parts: dict[str, ItemEncoder | None]
    widths: dict[str, int]

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields of an item that any of the encoders reads."""
        return tuple(dict.fromkeys(field for part in self.parts.values() if part for field in part.fields))

    def encode(self, items: Sequence[Mapping[str, FieldValue]]) -> np.ndarray:
        """Encode items that were not there when the encoders were fitted.

        Args:
            items: As of :meth:`ItemEncoder.encode`.

        Returns:
            float32 ``[len(items), d]``, the modalities side by side, each of unit norm.

        Raises:
            UserError: the vectors of a modality came from a file or from interactions, or an item has none of the fields of another.
        """
        files = [name for name, part in self.parts.items() if part is None]
        if files:
            columns = ", ".join(f"{name} {width}" for name, width in self.widths.items())
            raise UserError(
                f"the item vectors of modality {', '.join(files)} came from a file or from interactions, and texts do not make new ones; "
                f"give new items as vectors (--items new.npy), all modalities side by side: {columns} columns"
            )
        return np.concatenate([part.encode(items) for part in self.parts.values()], axis=1)

    def state_dict(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Tensors, named ``<modality>/<tensor>``, and everything else as plain JSON."""
        tensors, described = {}, []
        for name, part in self.parts.items():
            own, meta = part.state_dict() if part else ({}, None)
            tensors |= {f"{name}/{key}": value for key, value in own.items()}
            described.append({"name": name, "width": self.widths[name], "encoder": meta})
        return tensors, {"parts": described}

    @classmethod
    def from_state(cls, tensors: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> ModalityEncoders:
        """The encoders whose :meth:`state_dict` it was.

        Raises:
            KeyError, TypeError, ValueError: something is missing, or tensors and the rest do not belong together.
        """
        parts = {}
        for part in meta["parts"]:
            prefix = f"{part['name']}/"
            own = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
            parts[part["name"]] = ItemEncoder.from_state(own, part["encoder"]) if part["encoder"] else None
        return cls(parts, {part["name"]: int(part["width"]) for part in meta["parts"]})


def save_item_encoder(item_encoder: ItemEncoder | ModalityEncoders, tensors_path: Path, json_path: Path) -> None:
    """Write tensors (safetensors) and everything else (JSON); each file appears whole or not at all."""
    tensors, meta = item_encoder.state_dict()
    with atomic_write(tensors_path, "wb") as file:
        file.write(safetensors.numpy.save(tensors))
    with atomic_write(json_path) as file:
        json.dump(meta, file, ensure_ascii=False)


def load_item_encoder(tensors_path: Path, json_path: Path) -> ItemEncoder | ModalityEncoders:
    """Read what :func:`save_item_encoder` wrote. Nothing is unpickled.

    Raises:
        UserError: a file is missing or truncated, or the two do not belong together.
    """
    try:
        tensors = safetensors.numpy.load_file(tensors_path)
        meta = json.loads(json_path.read_text(encoding="utf-8"))
        return (ModalityEncoders if "parts" in meta else ItemEncoder).from_state(tensors, meta)
    except (OSError, KeyError, TypeError, ValueError, safetensors.SafetensorError) as error:
        raise UserError(
            f"cannot read the item encoder {tensors_path} with {json_path.name}: "
            f"{' '.join(str(error).split()) or type(error).__name__}; a file is missing or damaged"
        ) from error
