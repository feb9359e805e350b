"""Text encoders: one unit vector per item text. The default needs only scikit-learn; sentence-transformers is
an extra."""

from __future__ import annotations

import json
import logging
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.utils.extmath import randomized_svd

from recbole_r3vae.data.item_text import FieldValue, record_text
from recbole_r3vae.errors import UserError
from recbole_r3vae.io import atomic_write

logger = logging.getLogger(__name__)

# A word is a run of letters and digits; one letter or digit ("size 5") is a word too. Chinese and Japanese put no spaces
# between words: there every character is a word, and the bigrams stand for the words.
_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
_WORD = f"[{_CJK}]|[^\\W{_CJK}]+"
_ACCENTS = re.compile("[\u0300-\u036f]")


def fold(text: str) -> str:
    """Lower case without accents: ``"L'Oréal"`` becomes ``"l'oreal"``; full-width letters and ligatures
    become plain ones.

    Only the general combining accents go. The marks that make another letter in Japanese or Indic scripts
    stay.
    """
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    return unicodedata.normalize("NFKC", _ACCENTS.sub("", decomposed))


class TfidfSvdEncoder:
    """TF-IDF over words and bigrams, truncated SVD, unit norm (latent semantic analysis, Deerwester et al.,
    1990).

    The term weights are ``(1 + ln tf) * (ln((1 + N) / (1 + df)) + 1)``, scaled to unit norm per text, and
    projected on the leading right singular vectors of the fitted texts. A text without any known word has no
    direction of its own; it gets the direction of the mean fitted text, the least surprising one, since a
    zero vector would break every cosine downstream. All such texts therefore share one vector.

    Same texts, settings, library versions and number of threads: same vectors. Each singular vector's largest
    entry is positive.

    Args:
        dim: Length of the vectors. With fewer texts or words than that, or repeated texts, it shrinks to the
            rank there is.
        max_features: The most frequent words and bigrams kept.
        ngram_max: 1 for words only, 2 for words and bigrams.
        min_df: A word or bigram in fewer texts is dropped, unless that leaves none.
        seed: Of the randomised SVD.
    """

    kind = "tfidf-svd"

    def __init__(
        self, dim: int = 256, max_features: int = 50_000, ngram_max: int = 2, min_df: int = 2, seed: int = 2020
    ) -> None:
        for key, value in (("content_dim", dim), ("content_max_features", max_features)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise UserError(f"{key} is {value!r}; it must be a positive whole number")
        self.dim, self.max_features, self.ngram_max, self.min_df, self.seed = dim, max_features, ngram_max, min_df, seed

    def settings(self) -> dict[str, Any]:
        """What was asked for, as plain JSON: together with the texts it determines the vectors."""
        return {
            "kind": self.kind,
            "version": 1,  # raised when the same settings would give other vectors
            "dim": self.dim,
            "max_features": self.max_features,
            "ngram_max": self.ngram_max,
            "min_df": self.min_df,
            "seed": self.seed,
        }

    def fit(self, texts: Sequence[str]) -> TfidfSvdEncoder:
        """Learn vocabulary, word weights and singular vectors.

        Args:
            texts: One text per item, without the padding item; empty ones are ignored.

        Returns:
            Itself.

        Raises:
            UserError: no text has any word.
        """
        vectorizer, weights = self._fit_words([text for text in texts if text])  # weights: [texts, words], sparse
        limit = min(self.dim, *weights.shape)
        _, values, rows = randomized_svd(weights, limit, n_iter=5, random_state=self.seed)
        rank = int((values > 1e-5 * values[0]).sum())  # the rest is the rounding of float32
        if rank < self.dim:
            logger.warning(
                f"item text: {weights.shape[0]} texts with {weights.shape[1]} words and bigrams give vectors of length "
                f"{rank}, not content_dim={self.dim}"
            )
        components = rows[:rank]  # [dim, words]
        components *= np.sign(components[np.arange(rank), np.abs(components).argmax(axis=1)])[:, None]
        projection = np.ascontiguousarray(components.T, dtype=np.float32)  # [words, dim]
        mean = np.asarray(weights.mean(axis=0)).ravel() @ projection  # [dim]
        tensors = {
            "idf": vectorizer.idf_.astype(np.float32),
            "projection": projection,
            "no_words": (mean / np.linalg.norm(mean)).astype(np.float32),
        }
        self._set_state(list(vectorizer.get_feature_names_out()), tensors)
        return self

    def transform(self, texts: Sequence[str]) -> np.ndarray:
        """Encode texts; each row depends on its own text only.

        Args:
            texts: Any texts, seen in :meth:`fit` or not.

        Returns:
            float32 ``[len(texts), dim]``, unit rows, with the dimension that :meth:`fit` arrived at.
        """
        weights: csr_matrix = self._vectorizer.transform(texts)  # [n, words]
        return _unit_rows(weights @ self._tensors["projection"], self._tensors["no_words"])  # [n, dim]

    def state_dict(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """The fitted encoder as plain data.

        Returns:
            Tensors (``idf`` [words], ``projection`` [words, dim], ``no_words`` [dim]; float32) and a
            JSON-able dictionary (settings and the vocabulary in column order).
        """
        return dict(self._tensors), {**self.settings(), "vocabulary": list(self._vocabulary)}

    @classmethod
    def from_state(cls, tensors: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> TfidfSvdEncoder:
        """Rebuild a fitted encoder from :meth:`state_dict`; it encodes exactly as the one that was saved.

        Raises:
            KeyError, ValueError: tensors and vocabulary do not fit together.
        """
        encoder = cls(*(meta[key] for key in ("dim", "max_features", "ngram_max", "min_df", "seed")))
        encoder._set_state(meta["vocabulary"], dict(tensors))
        return encoder

    def _fit_words(self, texts: list[str]) -> tuple[TfidfVectorizer, csr_matrix]:
        for min_df in dict.fromkeys((self.min_df, 1)):
            vectorizer = self._make_vectorizer(min_df=min_df, max_features=self.max_features)
            try:
                return vectorizer, vectorizer.fit_transform(texts)
            except ValueError:  # scikit-learn's only sign that no word, or none in min_df texts, is there
                continue
        raise UserError(
            "no item has any word in its text; name fields with words in item_text_fields, "
            "or give item vectors with content_encoder: file"
        )

    def _make_vectorizer(self, **words: Any) -> TfidfVectorizer:
        return TfidfVectorizer(
            preprocessor=fold, token_pattern=_WORD, ngram_range=(1, self.ngram_max), sublinear_tf=True, dtype=np.float32, **words
        )

    def _set_state(self, vocabulary: list[str], tensors: dict[str, np.ndarray]) -> None:
        projection, words = tensors["projection"], len(vocabulary)
        if tensors["idf"].shape != (words,) or projection.shape != (words, len(tensors["no_words"])):
            raise ValueError(f"{words} words do not fit a projection of shape {projection.shape}")
        self._vocabulary, self._tensors = vocabulary, tensors
        # Also after fit(): both ways to an encoder end in the same object, so they encode alike.
        self._vectorizer = self._make_vectorizer(vocabulary={word: i for i, word in enumerate(vocabulary)})
        self._vectorizer.idf_ = tensors["idf"]


class SentenceTransformerEncoder:
    """A pretrained sentence encoder (Reimers & Gurevych, EMNLP 2019), used as it is. Needs the extra
    ``[text]``.

    Args:
        name: A model of the sentence-transformers organisation (``sentence-t5-base``), any other hub model
            (``BAAI/bge-small-en-v1.5``) or a local folder, with or without the prefix
            ``sentence-transformers/``.
        device: Where to encode (``cpu``, ``cuda:0``); chosen by sentence-transformers when not given.
    """

    kind = "sentence-transformers"

    def __init__(self, name: str, device: str | None = None) -> None:
        self.name = name.removeprefix(f"{self.kind}/")
        if not self.name:
            raise UserError("content_encoder 'sentence-transformers/' names no model; write sentence-transformers/<name>")
        self.device = device
        self._model = None

    def settings(self) -> dict[str, Any]:
        """What determines the vectors, as plain JSON."""
        return {"kind": self.kind, "version": 1, "name": self.name}

    def fit(self, texts: Sequence[str]) -> SentenceTransformerEncoder:
        """Nothing to learn; the same call for every encoder."""
        return self

    def transform(self, texts: Sequence[str]) -> np.ndarray:
        """Encode texts; an empty text gets the model's own vector of the empty text.

        Returns:
            float32 ``[len(texts), d]``, unit rows.

        Raises:
            UserError: the package is not installed, or the model cannot be loaded.
        """
        vectors = self._load().encode(list(texts), convert_to_numpy=True, show_progress_bar=False)
        return _unit_rows(np.asarray(vectors, dtype=np.float32))

    def state_dict(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """No tensors: the model is named, not copied."""
        return {}, self.settings()

    @classmethod
    def from_state(cls, tensors: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> SentenceTransformerEncoder:
        """The encoder of the same name; the model is loaded when it is first used."""
        return cls(meta["name"])

    def _load(self):
        if self._model is None:
            try:
                from sentence_transformers import SentenceTransformer
            except ImportError as error:
                raise UserError(
                    f"content_encoder '{self.kind}/{self.name}' needs sentence-transformers, which is not installed; "
                    "run: pip install 'recbole-r3vae[text]'"
                ) from error
            # A bare name is looked up in the organisation of the same name on the hub; a path or owner/name as it is.
            name = self.name if "/" in self.name or Path(self.name).is_dir() else f"{self.kind}/{self.name}"
            try:
                self._model = SentenceTransformer(name, device=self.device)
            except (OSError, ValueError) as error:
                raise UserError(
                    f"cannot load the sentence encoder '{name}': {str(error).splitlines()[0]}; "
                    "check the name and the connection, or give a local folder"
                ) from error
        return self._model


TextEncoder = TfidfSvdEncoder | SentenceTransformerEncoder
_KINDS: dict[str, type[TextEncoder]] = {kind.kind: kind for kind in (TfidfSvdEncoder, SentenceTransformerEncoder)}


@dataclass(frozen=True)
class ItemEncoder:
    """A fitted text encoder together with the item fields it reads: what is needed to encode new items.

    Attributes:
        encoder: The fitted encoder.
        fields: The fields of an item, in the order in which they are joined to its text.
    """

    encoder: TextEncoder
    fields: tuple[str, ...]

    def encode(self, items: Sequence[Mapping[str, FieldValue]]) -> np.ndarray:
        """Encode items that were not there when the encoder was fitted.

        Args:
            items: Field name to value, e.g. ``{"title": "Red lipstick", "categories": ["Beauty",
                "Makeup"]}``.

        Returns:
            float32 ``[len(items), d]``, unit rows.

        Raises:
            UserError: an item has none of the fields.
        """
        for position, item in enumerate(items):
            if not any(field in item for field in self.fields):
                raise UserError(f"item {position} has none of the text fields {list(self.fields)}; it has {list(item)}")
        return self.encoder.transform([record_text(item, self.fields) for item in items])

    def save(self, tensors_path: Path, json_path: Path) -> None:
        """Write tensors (safetensors) and everything else (JSON); each file appears whole or not at all."""
        tensors, meta = self.encoder.state_dict()
        with atomic_write(tensors_path, "wb") as file:
            file.write(safetensors.numpy.save(tensors))
        with atomic_write(json_path) as file:
            json.dump({**meta, "fields": list(self.fields)}, file, ensure_ascii=False)

    @classmethod
    def load(cls, tensors_path: Path, json_path: Path) -> ItemEncoder:
        """Read what :meth:`save` wrote. Nothing is unpickled.

        Raises:
            UserError: a file is missing, truncated, or not of this kind.
        """
        try:
            tensors = safetensors.numpy.load_file(tensors_path)
            meta = json.loads(json_path.read_text(encoding="utf-8"))
            return cls(_KINDS[meta["kind"]].from_state(tensors, meta), tuple(meta["fields"]))
        except (OSError, KeyError, TypeError, ValueError, safetensors.SafetensorError) as error:
            raise UserError(
                f"cannot read the item encoder {tensors_path} with {json_path.name}: {error!r}; "
                "the files are missing or damaged, save them again"
            ) from error


def _unit_rows(vectors: np.ndarray, instead_of_zero: np.ndarray | None = None) -> np.ndarray:
    """Rows scaled to unit norm; a zero row becomes ``instead_of_zero``, or stays zero where none is given."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    zero = norms[:, 0] == 0
    vectors = vectors / np.where(norms == 0, 1, norms)
    if instead_of_zero is not None:
        vectors[zero] = instead_of_zero
    return vectors
