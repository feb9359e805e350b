"""The default text encoder against a plain-Python account of what it computes."""

from __future__ import annotations

import logging
import math
from collections import Counter

import numpy as np
import pytest

from recbole_r3vae.data.content.tfidf import TfidfSvdEncoder, fold
from recbole_r3vae.errors import UserError

WORDS = "red blue green nail hair polish dye care cream soap size 5 oil kit".split()


def make_texts(n: int = 60, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, size=rng.integers(2, 7))) for _ in range(n)]


def brute_force(texts: list[str], dim: int) -> np.ndarray:
    """TF-IDF (words and bigrams in two texts or more) and an exact SVD, up to the signs of the dimensions."""
    terms = []
    for text in texts:
        words = text.split()
        terms.append(Counter(words + [f"{a} {b}" for a, b in zip(words, words[1:])]))
    df = Counter(term for counts in terms for term in counts)
    vocabulary = sorted(term for term in df if df[term] >= 2)
    weights = np.zeros((len(texts), len(vocabulary)))
    for row, counts in enumerate(terms):
        for column, term in enumerate(vocabulary):
            if counts[term]:
                idf = math.log((1 + len(texts)) / (1 + df[term])) + 1
                weights[row, column] = (1 + math.log(counts[term])) * idf
    weights /= np.linalg.norm(weights, axis=1, keepdims=True)
    _, _, components = np.linalg.svd(weights, full_matrices=False)
    vectors = weights @ components[:dim].T
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize("dim, tolerance", [(8, 0.02), (60, 1e-5)])  # randomised SVD: exact at full rank
def test_equals_brute_force(dim, tolerance):
    texts = make_texts()
    got = TfidfSvdEncoder(dim).fit(texts).transform(texts)
    want = brute_force(texts, dim)
    assert got.shape == (60, dim) and got.dtype == np.float32
    assert np.allclose(got @ got.T, want @ want.T, atol=tolerance)  # cosines, which signs do not touch


def test_unit_rows_that_depend_on_their_own_text_only():
    texts = make_texts()
    encoder = TfidfSvdEncoder(dim=8).fit(texts)
    vectors = encoder.transform(texts)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert np.array_equal(vectors[[5]], encoder.transform([texts[5]]))


def test_deterministic_and_sign_stable():
    texts = make_texts()
    first, second = (TfidfSvdEncoder(dim=8).fit(texts).state_dict()[0] for _ in range(2))
    for name in first:
        assert np.array_equal(first[name], second[name])
    projection = first["projection"]
    assert (projection[np.abs(projection).argmax(axis=0), np.arange(8)] > 0).all()


def test_state_round_trip_is_exact():
    texts = make_texts()
    encoder = TfidfSvdEncoder(dim=8).fit(texts)
    tensors, meta = encoder.state_dict()
    again = TfidfSvdEncoder.from_state(tensors, meta)
    new = [*texts, "red nail polish", "never seen", ""]
    assert np.array_equal(encoder.transform(new), again.transform(new))
    assert again.settings() == encoder.settings()


def test_state_that_does_not_fit_is_refused():
    tensors, meta = TfidfSvdEncoder(dim=4).fit(make_texts()).state_dict()
    with pytest.raises(ValueError, match="words do not fit"):
        TfidfSvdEncoder.from_state(tensors, {**meta, "vocabulary": meta["vocabulary"][:-1]})


def test_no_known_word_gets_the_mean_direction():
    texts = make_texts()
    encoder = TfidfSvdEncoder(dim=8).fit([*texts, ""])
    empty, unknown, *known = encoder.transform(["", "quite unheard-of", *texts])
    assert np.array_equal(empty, unknown)
    assert np.isclose(np.linalg.norm(empty), 1, atol=1e-6)
    known = np.stack(known)
    assert (known @ empty).mean() > np.abs(known @ known.T).mean()  # nearer to all than they to each other


@pytest.mark.parametrize("texts", [["red"], ["red", "blue"], ["red nail", "red nail", "red hair"]])
def test_tiny_catalogues_shrink_with_a_warning(texts, caplog):
    with caplog.at_level(logging.WARNING):
        vectors = TfidfSvdEncoder(dim=16).fit(texts).transform(texts)
    assert vectors.shape == (len(texts), len(set(texts)))
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert f"vectors of length {len(set(texts))}, not content_dim=16" in caplog.text


def test_full_dimension_is_silent(caplog):
    TfidfSvdEncoder(dim=8).fit(make_texts())
    assert not caplog.records


@pytest.mark.parametrize("texts", [[], ["", ""], ["...", "--- !"]])
def test_no_words_at_all(texts):
    with pytest.raises(UserError, match="no item has any word.*item_text_fields"):
        TfidfSvdEncoder().fit(texts)


@pytest.mark.parametrize("dim", [0, -1, 2.5, "256", True])
def test_bad_dim(dim):
    with pytest.raises(UserError, match="content_dim is"):
        TfidfSvdEncoder(dim)


def test_max_features_keeps_the_most_frequent():
    texts = ["red soap"] * 3 + ["blue soap"] * 2
    assert TfidfSvdEncoder(dim=2, max_features=1).fit(texts).state_dict()[1]["vocabulary"] == ["soap"]


@pytest.mark.parametrize(
    "text, folded",
    [
        ("L'Oréal", "l'oreal"),
        ("ＳＩＺＥ ５", "size 5"),
        ("Straße", "strasse"),
        ("№ ガム", "no ガム"),
        ("हिन्दी", "हिन्दी"),
    ],
)
def test_fold(text, folded):
    assert fold(text) == folded


def test_words_of_many_scripts():
    encoder = TfidfSvdEncoder(dim=3, min_df=1, ngram_max=1).fit(["Crème 2.5 oz", "口红 set", "Губная"])
    vocabulary = encoder.state_dict()[1]["vocabulary"]
    assert sorted(vocabulary) == sorted(["creme", "2", "5", "oz", "口", "红", "set", "губная"])
