from __future__ import annotations

import math

import pytest
import torch

from recbole_r3vae.errors import UserError
from recbole_r3vae.model.tokenizer.cost import contrastive_loss

SMALL = {"hidden_sizes": [32], "latent_dim": 8, "codebook_sizes": [8, 8]}


def rows(items):
    return torch.from_numpy(items.embeddings[1:])


def test_the_contrastive_loss_by_its_definition():
    """Anchors are originals, candidates reconstructions; neither their lengths nor the other direction count."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(6, 4, generator=generator), torch.randn(6, 4, generator=generator)
    cosine = torch.nn.functional.cosine_similarity
    expected = 0.0
    for i in range(6):
        scores = [math.exp(float(cosine(x[i], y[j], dim=0)) / 0.3) for j in range(6)]
        expected -= math.log(scores[i] / sum(scores)) / 6
    assert contrastive_loss(x, y, 0.3).item() == pytest.approx(expected, rel=1e-5)
    assert contrastive_loss(3 * x, y * torch.rand(6, 1), 0.3).item() == pytest.approx(expected, rel=1e-5)
    assert contrastive_loss(y, x, 0.3).item() != pytest.approx(expected, rel=1e-3)


def test_items_of_equal_vectors_only_add_a_constant():
    generator = torch.Generator().manual_seed(0)
    x, start = torch.randn(5, 4, generator=generator), torch.randn(5, 4, generator=generator)
    for copies in (1, 3):
        y = start.clone().requires_grad_()
        contrastive_loss(x.repeat(copies, 1), y.repeat(copies, 1), 0.3).backward()
        if copies == 1:
            once = y.grad
    torch.testing.assert_close(y.grad, once)


@pytest.mark.parametrize("learning", ["ema", "loss"])
def test_the_loss_is_what_its_docstring_says(catalogue, tokenizer, learning):
    items = catalogue(80)
    weights = {"contrastive_weight": 0.7, "contrastive_temperature": 0.2, "codebook_learning": learning, **SMALL}
    model, plain = tokenizer("CoST", items, **weights).eval(), tokenizer("RQVAE", items, codebook_learning=learning, **SMALL).eval()
    both = tokenizer("CoST", items, reconstruction_weight=0.5, **weights).eval()
    for each in (model, plain, both):
        each.initialise(items)
    x = rows(items)
    contrast = 0.7 * contrastive_loss(x, plain.quantize(x).reconstruction, 0.2)
    squared, *quantization = plain.calculate_loss({"item_emb": x})
    torch.testing.assert_close(model.calculate_loss({"item_emb": x}), (contrast, *quantization))
    torch.testing.assert_close(both.calculate_loss({"item_emb": x}), (contrast, 0.5 * squared, *quantization))


def test_only_a_squared_error_gives_reconstructions_a_length(catalogue, tokenizer):
    items = catalogue(80)
    model, plain = tokenizer("CoST", items, **SMALL).eval(), tokenizer("RQVAE", items, **SMALL).eval()
    both = tokenizer("CoST", items, reconstruction_weight=1.0, **SMALL).eval()
    for each in (model, plain, both):
        each.initialise(items)
    raw = plain.quantize(rows(items)).reconstruction
    torch.testing.assert_close(model.quantize(rows(items)).reconstruction, raw / raw.norm(dim=-1, keepdim=True))
    torch.testing.assert_close(both.quantize(rows(items)).reconstruction, raw)


def test_reconstructions_find_their_items_more_often_than_after_a_squared_error(catalogue, tokenizer, train):
    """The paper's nearest-neighbour identity, with the same codebooks, start and epochs."""
    items, found = catalogue(600, 32), {}
    for name in ("RQVAE", "CoST"):
        torch.manual_seed(0)
        model = tokenizer(name, items, hidden_sizes=[64], latent_dim=16)
        model.initialise(items)
        train(model, items, epochs=25, learning_rate=2e-3)
        with torch.no_grad():
            reconstruction = model.eval().quantize(rows(items)).reconstruction
        nearest = (torch.nn.functional.normalize(reconstruction) @ rows(items).T).argmax(-1)
        found[name] = (nearest == torch.arange(600)).double().mean().item()
    assert found["CoST"] > 1.3 * found["RQVAE"], found


def test_a_temperature_of_zero_is_refused(catalogue, tokenizer):
    with pytest.raises(UserError, match="contrastive_temperature is 0; give a number above 0"):
        tokenizer("CoST", catalogue(), contrastive_temperature=0)
