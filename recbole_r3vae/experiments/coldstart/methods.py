"""The ranked lists of every method that the protocol compares, a row for each question."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from recbole_r3vae.config import Config, tokenizer_config
from recbole_r3vae.data.content import load_content
from recbole_r3vae.data.content.vectors import VectorFile
from recbole_r3vae.experiments.coldstart.lists import best, flags, mix, similarities
from recbole_r3vae.experiments.coldstart.split import Split
from recbole_r3vae.quick_start.lookup import create_dataset
from recbole_r3vae.serve.recommender import Recommender

USERS_AT_ONCE = 1024


def ranked(recommender: Recommender, split: Split, k: int, allow: Iterable[str] | None = None) -> np.ndarray:
    """A model's k best items for every question, among those allowed; met items as ``valid_rule`` says."""
    place = {question.user: row for row, question in enumerate(split.questions)}
    lists = np.zeros((len(place), k), dtype=np.int64)
    pairs = ((question.user, question.history) for question in split.questions)
    for frame in recommender.stream(pairs, k, "user", True, recommender.config["valid_rule"] == "left_out", allow):
        lists[frame["user"].map(place), frame["rank"] - 1] = frame["item"].map(split.number)
    return lists


def lists_of_generator(
    recommender: Recommender, config: Config, split: Split, epsilons: Sequence[float], candidates: int, name: str
) -> list[tuple[str, float | None, np.ndarray]]:
    """Method, epsilon and lists of all that is made from a generator and item texts."""
    k, longest = max(config["topk"]), config["MAX_ITEM_LIST_LENGTH"]
    together, warm = ranked(recommender, split, k), ranked(recommender, split, k, split.warm)
    cold = ranked(recommender, split, candidates, split.cold)
    vectors = _text_vectors(config, split)
    histories = [[split.number[item] for item in question.history[-longest:]] for question in split.questions]
    is_cold = np.isin(np.arange(len(vectors)), [split.number[item] for item in split.cold])
    reranked, neighbours, nearest_cold = [], [], []
    for begin in range(0, len(histories), USERS_AT_ONCE):
        some = histories[begin : begin + USERS_AT_ONCE]
        scores = similarities(vectors, some)
        found = cold[begin : begin + USERS_AT_ONCE]
        reranked.append(best(np.where(flags(found, scores.shape), scores, -np.inf), k))
        nearest_cold.append(best(np.where(is_cold, scores, -np.inf), k))
        neighbours.append(best(scores, k))
    fillings = {name: cold[:, :k], f"{name}, re-ranked": np.concatenate(reranked), "content ItemKNN": np.concatenate(nearest_cold)}
    methods = [(f"{name}, one list", None, together), ("content ItemKNN, one list", None, np.concatenate(neighbours))]
    for epsilon in epsilons:
        some = fillings if epsilon else {name: cold[:, :k]}  # without places it does not matter who fills them
        methods += [(method, epsilon, mix(warm, lists, epsilon)) for method, lists in some.items()]
    return methods


def _text_vectors(config: Config, split: Split) -> np.ndarray:
    """Unit vectors float32 ``[1 + n_items, d]`` by number of the item, from the encoder that was fitted on warm texts; row 0 is zero."""
    content = load_content(create_dataset(config), tokenizer_config(config))
    vectors = np.zeros((1 + len(split.number), content.embeddings.shape[1]), dtype=np.float32)
    vectors[[split.number[item] for item in content.item_ids[1:]]] = content.embeddings[1:]
    file, names = VectorFile(split.folder / "cold.npy"), sorted(split.cold)
    vectors[[split.number[item] for item in names]] = np.concatenate(list(file.unit_blocks(file.rows_of(names), content.parts)))
    return vectors
