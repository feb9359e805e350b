"""The default text encoder: TF-IDF and a truncated SVD, with nothing but scikit-learn."""

from __future__ import annotations

import logging
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.utils.extmath import randomized_svd

from recbole_r3vae.errors import UserError

logger = logging.getLogger(__name__)

# A word is a run of letters and digits; one letter or digit ("size 5") is a word too. Chinese and Japanese
# put no spaces between words: there every character is a word, and the bigrams stand for the words.
_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
_WORD = f"[{_CJK}]|[^\\W{_CJK}]+"
_ACCENTS = re.compile("[\u0300-\u036f]")


def fold(text: str) -> str:
    """Lower case without accents, full-width letters or ligatures: ``"L'Oréal"`` becomes ``"l'oreal"``.

    Only the general combining accents go; marks that make another letter in Japanese or Indic scripts stay.
    """
    plain = _ACCENTS.sub("", unicodedata.normalize("NFKD", text))
    return unicodedata.normalize("NFKC", plain.casefold())


class TfidfSvdEncoder:
    """TF-IDF over words and bigrams, truncated SVD, unit norm.

    This is latent semantic analysis (Deerwester et al., JASIS 1990). A term weighs
    ``(1 + ln tf) * (ln((1 + N) / (1 + df)) + 1)``; the weights of a text are scaled to unit norm and
    projected on the leading right singular vectors of the fitted texts.

    A text without any known word has no direction of its own. It gets that of the mean fitted text, the least
    surprising one, since a zero vector would break every cosine downstream; all such texts share that vector.

    The same texts and settings give the same vectors on the same machine with the same number of threads. The
    largest entry of each singular vector is positive, so signs do not depend on the library's version.

    Args:
        dim: Length of the vectors; it shrinks to the rank there is when texts or words are fewer, or repeat.
        max_features: The most frequent words and bigrams kept.
        ngram_max: 1 for words only, 2 for words and bigrams.
        min_df: A word or bigram in fewer texts is dropped, unless that leaves none.
        seed: Of the randomised SVD.

    Raises:
        UserError: ``dim`` is not a positive whole number.
    """

    kind = "tfidf-svd"

    def __init__(
        self,
        dim: int = 256,
        max_features: int = 50_000,
        ngram_max: int = 2,
        min_df: int = 2,
        seed: int = 2020,
    ) -> None:
        if isinstance(dim, bool) or not isinstance(dim, int) or dim < 1:
            raise UserError(f"content_dim is {dim!r}; it must be a positive whole number")
        self.dim, self.max_features = dim, max_features
        self.ngram_max, self.min_df, self.seed = ngram_max, min_df, seed

    def settings(self) -> dict[str, Any]:
        """What was asked for, as plain JSON: together with the texts it determines the vectors."""
        return {
            "kind": self.kind,
            "version": 1,  # to be raised when the same settings would give other vectors
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
        vectorizer, weights = self._fit_words([text for text in texts if text])  # [texts, words], sparse
        limit = min(self.dim, *weights.shape)
        _, values, components = randomized_svd(weights, limit, n_iter=5, random_state=self.seed)
        rank = int((values > 1e-5 * values[0]).sum())  # what lies below is float32's rounding
        if rank < self.dim:
            logger.warning(
                f"item text: {weights.shape[0]} texts with {weights.shape[1]} words and bigrams give vectors "
                f"of length {rank}, not content_dim={self.dim}"
            )
        components = components[:rank]  # [dim, words]
        components *= np.sign(components[np.arange(rank), np.abs(components).argmax(axis=1)])[:, None]
        projection = np.ascontiguousarray(components.T, dtype=np.float32)  # [words, dim]
        mean = np.asarray(weights.mean(axis=0)).ravel() @ projection  # [dim]
        tensors = {
            "idf": vectorizer.idf_.astype(np.float32),
            "projection": projection,
            "no_words": (mean / np.linalg.norm(mean)).astype(np.float32),
        }
        self._set_state(vectorizer.get_feature_names_out().tolist(), tensors)
        return self

    def transform(self, texts: Sequence[str]) -> np.ndarray:
        """Encode texts; each row depends on its own text only.

        Args:
            texts: Any texts, seen in :meth:`fit` or not.

        Returns:
            float32 ``[len(texts), dim]``, unit rows, with the dimension that :meth:`fit` arrived at.
        """
        vectors = self._vectorizer.transform(texts) @ self._tensors["projection"]  # [n, words] -> [n, dim]
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        return np.where(norms > 0, vectors / np.where(norms > 0, norms, 1), self._tensors["no_words"])

    def state_dict(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """The fitted encoder as plain data.

        Returns:
            Tensors (``idf`` [words], ``projection`` [words, dim], ``no_words`` [dim]; float32) and a
            JSON-able dictionary (settings and the vocabulary in column order).
        """
        return dict(self._tensors), {**self.settings(), "vocabulary": list(self._vocabulary)}

    @classmethod
    def from_state(cls, tensors: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> TfidfSvdEncoder:
        """Rebuild a fitted encoder; it encodes exactly as the one whose :meth:`state_dict` it was.

        Raises:
            KeyError, ValueError: something is missing, or tensors and vocabulary do not fit together.
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
            preprocessor=fold,
            token_pattern=_WORD,
            ngram_range=(1, self.ngram_max),
            sublinear_tf=True,
            dtype=np.float32,
            **words,
        )

    def _set_state(self, vocabulary: list[str], tensors: dict[str, np.ndarray]) -> None:
        words, shape = len(vocabulary), tensors["projection"].shape
        if tensors["idf"].shape != (words,) or shape != (words, len(tensors["no_words"])):
            raise ValueError(f"{words} words do not fit a projection of shape {shape}")
        self._vocabulary, self._tensors = vocabulary, tensors
        # Also after fit(): both ways to a fitted encoder end in the same object, so they encode alike.
        self._vectorizer = self._make_vectorizer(vocabulary={word: i for i, word in enumerate(vocabulary)})
        self._vectorizer.idf_ = tensors["idf"]
