"""Words of items as tokens, and the encoder that reads them."""

from __future__ import annotations

import pytest
import torch

from recbole_r3vae.config import Config
from recbole_r3vae.data.sequences import WindowDataset
from recbole_r3vae.errors import UserError
from recbole_r3vae.model.word_encoder import FIRST_WORD, NONE, START, WordEncoder, word_tokens

FIELDS = ["absent", "movie_title", "class"]


@pytest.fixture
def dataset(tiny_settings):
    return WindowDataset(Config("COBRA", "tiny", config_dict=tiny_settings))


def test_words_are_tokens_field_after_field(dataset):
    tokens, fields = word_tokens(dataset, FIELDS, n_words=30, n_buckets=10_000)
    assert tokens.shape == fields.shape == (dataset.item_num, 31) and (tokens[:, 0] == START).all()
    assert (tokens[0, 1:] == NONE).all()
    item = dataset.token2id("item_id", "50")  # Star Wars, 1977: Action Adventure Romance Sci-Fi War
    words = int((tokens[item] != NONE).sum()) - 1
    assert fields[item, 1 : words + 1].tolist() == sorted(fields[item, 1 : words + 1].tolist())
    assert set(fields[item, 1 : words + 1].tolist()) == {1, 2}
    other = dataset.token2id("item_id", "181")  # Return of the Jedi: the same classes, other words before them
    shared = set(tokens[item][fields[item] == 2].tolist()) & set(tokens[other][fields[other] == 2].tolist())
    assert len(shared) >= 5 and min(shared) >= FIRST_WORD
    short, _ = word_tokens(dataset, FIELDS, n_words=2, n_buckets=10_000)
    assert torch.equal(short, tokens[:, :3])
    few, _ = word_tokens(dataset, FIELDS, n_words=30, n_buckets=3)
    assert few.max() == FIRST_WORD + 2
    with pytest.raises(UserError, match="none of the text fields"):
        word_tokens(dataset, ["absent"], 5, 5)


@torch.no_grad()
def test_an_item_is_read_by_its_own_words_alone():
    torch.manual_seed(0)
    encoder = WordEncoder(8, n_layers=2, n_heads=2, inner_size=16, dropout=0.0, n_words=5, n_buckets=20, n_fields=2)
    tokens = torch.tensor([[1, 7, 9, 3, 0, 0], [1, 7, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0]])
    fields = torch.tensor([[0, 0, 0, 1, 0, 0], [0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]])
    together = encoder(tokens, fields)
    for row in range(3):
        assert torch.allclose(together[row], encoder(tokens[[row]], fields[[row]])[0], atol=1e-5)
    assert not torch.allclose(together[0], encoder(tokens[[0]], fields[[1]])[0], atol=1e-3)  # fields count
    assert not torch.allclose(together[0], encoder(tokens[[0]][:, [0, 2, 1, 3, 4, 5]], fields[[0]])[0], atol=1e-4)  # and places
