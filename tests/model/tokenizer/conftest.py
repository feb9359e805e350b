"""Small synthetic catalogues and tokenizers on them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recbole_r3vae.config.registry import get_model
from recbole_r3vae.config.sources import load_yaml, properties, recbole_properties
from recbole_r3vae.data.content import ItemContent
from recbole_r3vae.data.items import ItemVectors
from recbole_r3vae.model.tokenizer.base import SemanticTokenizer
from recbole_r3vae.model.tokenizer.r3vae import R3VAE


@pytest.fixture(scope="session")
def catalogue():
    """A function from numbers of items and dimensions to their vectors: unit rows in a hierarchy of clusters.

    All share a mean direction, as text embeddings do. The first half of the columns is called text, the rest image.
    """

    def make(n=600, d=16, seed=0, parts=None) -> ItemVectors:
        random = np.random.default_rng(seed)
        topics, subtopics = random.normal(size=(12, d)), random.normal(size=(12, 6, d))
        topic, subtopic = random.integers(12, size=n), random.integers(6, size=n)
        x = 1.5 + topics[topic] + 0.5 * subtopics[topic, subtopic] + 0.2 * random.normal(size=(n, d))
        x = x / np.linalg.norm(x, axis=1, keepdims=True)
        embeddings = np.concatenate([np.zeros((1, d)), x]).astype(np.float32)
        ids = ["[PAD]", *(f"item{i}" for i in range(n))]
        parts = parts or {"text": slice(0, d // 2), "image": slice(d // 2, d)}
        return ItemVectors(ItemContent(embeddings, ids, encoder={"kind": "test"}, content_hash="", parts=parts))

    return make


@pytest.fixture(scope="session")
def tokenizer():
    """A function from a tokenizer's name, items and settings, on top of its YAML's, to the tokenizer: checked and made as a run does."""

    def make(name: str, items: ItemVectors, **settings) -> SemanticTokenizer:
        of_every_model = load_yaml(recbole_properties() / "overall.yaml")
        defaults = {"codebook_sizes": [16, 16, 16], "shared_experts": 1, "device": torch.device("cpu"), "seed": 2020}
        own = load_yaml(properties() / "model" / f"{name}.yaml")
        model, config = get_model(name), {**of_every_model, **own, **defaults, **settings}
        model.check(config)
        return model(config, items)

    return make


@pytest.fixture(scope="session")
def build(tokenizer):
    """A function from items and settings, on top of the YAML's, to R3VAE."""

    def make(items: ItemVectors, **settings) -> R3VAE:
        return tokenizer("R3VAE", items, **settings)

    return make


@pytest.fixture(scope="session")
def train():
    """A function that trains a tokenizer as its trainer would, hooks included, and returns the loss of every epoch."""

    def fit(model, items: ItemVectors, epochs: int, batch_size=128, learning_rate=5e-4) -> list[float]:
        x = torch.from_numpy(items.embeddings[1:])
        optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate)
        generator = torch.Generator().manual_seed(0)
        history = []
        for epoch in range(epochs):
            model.begin_epoch(epoch)
            total = 0.0
            for rows in torch.randperm(len(x), generator=generator).split(batch_size):
                optimizer.zero_grad()
                batch = {"item_emb": x[rows]}
                if items.collaborative is not None:
                    batch["item_cf"] = torch.from_numpy(items.collaborative[1 + rows])
                batch |= {name: torch.from_numpy(values[1 + rows]) for name, values in items.facts.items()}
                loss = sum(model.calculate_loss(batch))
                loss.backward()
                optimizer.step()
                model.after_step(batch)
                total += loss.item() * len(rows)
            history.append(total / len(x))
        return history

    return fit
