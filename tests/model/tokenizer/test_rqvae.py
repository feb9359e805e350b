from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from recbole_r3vae.errors import UserError
from recbole_r3vae.model.tokenizer.quantize.codebook import kmeans

SMALL = {"hidden_sizes": [32], "latent_dim": 8}
VARIANTS = {
    "ema": {},
    "loss": {"codebook_learning": "loss"},
    "simvq": {"codebook_learning": "simvq"},
    "rotation": {"gradient_estimator": "rotation"},
    "sinkhorn": {"sinkhorn_levels": [2, 3]},
    "random start": {"kmeans_init": False},
}
EVERY = pytest.mark.parametrize(
    "model, settings", [("RQVAE", s) for s in VARIANTS.values()] + [("VQVAE", {})], ids=[*VARIANTS, "VQVAE"]
)


def rows(items):
    return torch.from_numpy(items.embeddings[1:])


def usage(model, items):
    codes = model.eval().tokenize(rows(items))
    return [len(codes[:, level].unique()) / size for level, size in enumerate(model.codebook_sizes)]


def test_quantize_follows_tigers_formulas(catalogue, tokenizer):
    """One item after the other, level after level, by the definition."""
    items = catalogue(60)
    model = tokenizer("RQVAE", items, codebook_sizes=[4, 8, 16], **SMALL).eval()
    model.initialise(items)
    x = rows(items)
    out = model.quantize(x)
    assert out.reference is None and out.codes.dtype == torch.int64
    for i in range(len(x)):
        r = model.encoder(x[i : i + 1])[0]
        latent = torch.zeros(8)
        for l, level in enumerate(model.quantizer.levels):
            torch.testing.assert_close(out.residuals[l][i], r, atol=1e-5, rtol=1e-4)
            codeword = level.codebook.weight[(level.codebook.weight - r).square().sum(-1).argmin()]
            torch.testing.assert_close(level.codebook.weight[out.codes[i, l]], codeword)
            r, latent = r - codeword, latent + codeword
        torch.testing.assert_close(out.reconstruction[i], model.decoder(latent), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("learning", ["loss", "simvq", "ema"])
def test_the_loss_is_what_its_docstring_says(catalogue, tokenizer, learning):
    items = catalogue(80)
    weights = {"codebook_weight": 2.0, "commitment_weight": 0.5}
    model = tokenizer("RQVAE", items, codebook_learning=learning, **weights, **SMALL).eval()
    model.initialise(items)
    x = rows(items)
    out, terms = model.quantize(x), model.calculate_loss({"item_emb": x})
    levels = sum(
        (r - level.codebook.weight[out.codes[:, i]]).square().sum().item() / 80
        for i, (r, level) in enumerate(zip(out.residuals, model.quantizer.levels))
    )
    expected = [(x - out.reconstruction).square().sum().item() / 80, 0.5 * levels, 2.0 * levels]
    expected = expected[: 2 if learning == "ema" else 3]
    assert [term.item() for term in terms] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("estimator", ["straight_through", "rotation"])
def test_reconstruction_teaches_the_encoder_through_the_codes(catalogue, tokenizer, estimator):
    items = catalogue(80)
    model = tokenizer("RQVAE", items, gradient_estimator=estimator, codebook_learning="loss", **SMALL)
    model.initialise(items)
    model.calculate_loss({"item_emb": rows(items)})[0].backward()
    assert model.encoder[0].weight.grad.abs().sum() > 0
    assert all(level.codebook.weight.grad is None for level in model.quantizer.levels)


def test_codebooks_start_from_kmeans_of_the_latents(catalogue, tokenizer):
    items = catalogue()
    model = tokenizer("RQVAE", items, **SMALL)
    model.initialise(items)
    with torch.no_grad():
        latent = model.encoder(rows(items)).numpy()
    expected = kmeans(latent, 16, 25, seed=2020)
    np.testing.assert_allclose(model.quantizer.levels[0].codebook.weight.numpy(), expected, atol=1e-5)
    assert usage(model, items) == [1.0, 1.0, 1.0]


@EVERY
def test_every_variant_trains_and_keeps_its_promises(catalogue, tokenizer, train, model, settings):
    items = catalogue()
    results = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        np.random.seed(noise)
        network = tokenizer(model, items, **settings, **SMALL)
        network.initialise(items)
        torch.manual_seed(0)  # as RecBole's init_seed before training: restarts draw from torch's generator
        network.train()
        history = train(network, items, epochs=4, learning_rate=2e-3)
        assert history[-1] < history[0]
        results.append((network.eval().tokenize(rows(items)), network.state_dict()))
    assert torch.equal(results[0][0], results[1][0])
    assert all(torch.equal(value, results[1][1][key]) for key, value in results[0][1].items())

    class Dimension:
        dim = items.dim

    loaded = tokenizer(model, Dimension(), **settings, **SMALL).eval()
    loaded.load_state_dict(results[0][1])
    codes = loaded.tokenize(rows(items))
    assert torch.equal(codes, results[0][0])
    for level, size in enumerate(loaded.codebook_sizes):
        distances = loaded.level_distances(rows(items), level)
        assert distances.shape == (600, size) and not distances.requires_grad
        assert torch.equal(distances.argmin(-1), codes[:, level])


def test_without_kmeans_init_rqvae_collapses_and_r3vae_does_not(catalogue, tokenizer, train):
    """The paper's comparison: codebooks learn from random numbers, at the same steps."""
    items, used = catalogue(1000, 32), {}
    for name, settings in (("R3VAE", {}), ("RQVAE", {"codebook_learning": "loss", **SMALL})):
        model = tokenizer(name, items, kmeans_init=False, codebook_sizes=[48, 48, 48], **settings)
        model.initialise(items)
        train(model, items, epochs=12, learning_rate=1e-3)
        used[name] = usage(model, items)
    assert max(used["RQVAE"]) < 0.2 and min(used["R3VAE"]) > 0.45, used


def test_moving_averages_with_restarts_undo_the_collapse(catalogue, tokenizer, train):
    items, used = catalogue(1000, 32), {}
    for restart_below in (0.0, 0.2):
        torch.manual_seed(0)
        settings = {"ema_decay": 0.9, "restart_below": restart_below, "codebook_sizes": [48, 48, 48], **SMALL}
        model = tokenizer("RQVAE", items, kmeans_init=False, **settings)
        model.initialise(items)
        train(model, items, epochs=12, learning_rate=1e-3)
        used[restart_below] = usage(model, items)
    assert max(used[0.0]) < 0.3 and min(used[0.2]) > 0.8, used


@pytest.mark.parametrize("model", ["RQVAE", "VQVAE"])
def test_moving_averages_follow_what_the_loss_saw_not_what_the_step_made_of_it(catalogue, tokenizer, model):
    items = catalogue(200)
    network = tokenizer(model, items, restart_below=0.0, **SMALL)
    network.initialise(items)
    network.train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.5)
    for _ in range(3):
        levels = network.quantizer(network.encoder(rows(items)))
        expected = [copy.deepcopy(level.codebook) for level in network.quantizer.levels]
        for codebook, entered, codes in zip(expected, levels.residuals, levels.codes.unbind(1)):
            codebook.update(entered, codes)
        optimizer.zero_grad()
        sum(network.calculate_loss({"item_emb": rows(items)})).backward()
        optimizer.step()
        network.after_step({"item_emb": rows(items)})
        for codebook, level in zip(expected, network.quantizer.levels):
            assert all(torch.equal(value, level.codebook.state_dict()[key]) for key, value in codebook.state_dict().items())


def test_balanced_assignment_is_for_training_batches(catalogue, tokenizer):
    items = catalogue()
    model, last, plain = (tokenizer("RQVAE", items, sinkhorn_levels=levels, **SMALL) for levels in ([3], [-1], []))
    for each in (model, last, plain):
        each.initialise(items)
    x = rows(items)
    assert torch.equal(model.train().quantize(x).codes, last.train().quantize(x).codes)
    assert torch.equal(model.eval().tokenize(x), plain.eval().tokenize(x))
    balanced = model.train().quantize(x).codes
    assert torch.equal(balanced[:, :2], plain.tokenize(x)[:, :2])
    counts = [codes[:, 2].bincount(minlength=16) for codes in (balanced, plain.tokenize(x))]
    assert counts[0].max() - counts[0].min() < 0.5 * (counts[1].max() - counts[1].min())


def test_vqvae_quantises_parts_of_the_latent_side_by_side(catalogue, tokenizer):
    items = catalogue(100)
    model = tokenizer("VQVAE", items, **SMALL).eval()  # 8 dimensions for 3 levels: 3, 3 and 2
    model.initialise(items)
    x = rows(items)
    out, latent = model.quantize(x), model.encoder(rows(items))
    start = 0
    for number, (level, size) in enumerate(zip(model.quantizer.levels, (3, 3, 2))):
        part = latent[:, start : start + size]
        nearest = torch.cdist(part, level.codebook.weight).argmin(-1)
        assert torch.equal(out.codes[:, number], nearest)
        torch.testing.assert_close(out.quantized[:, start : start + size], level.codebook.weight[nearest])
        torch.testing.assert_close(out.residuals[number], latent)
        start += size


@pytest.mark.parametrize(
    "model, settings, words",
    [
        ("RQVAE", {"codebook_learning": "moving"}, ["codebook_learning", "ema, loss or simvq"]),
        ("RQVAE", {"gradient_estimator": "rotate"}, ["gradient_estimator", "did you mean 'rotation'"]),
        ("RQVAE", {"hidden_sizes": [64, 0]}, ["hidden_sizes", "[64, 0]", "from 1"]),
        ("RQVAE", {"latent_dim": 4.5}, ["latent_dim", "4.5"]),
        ("RQVAE", {"ema_decay": 1.0}, ["ema_decay", "1.0", "above 0 below 1"]),
        ("RQVAE", {"sinkhorn_levels": [0, 3]}, ["sinkhorn_levels", "[0, 3]", "from 1 to 3"]),
        ("RQVAE", {"sinkhorn_epsilon": 0}, ["sinkhorn_epsilon", "above 0"]),
        ("VQVAE", {"latent_dim": 2}, ["latent_dim", "2", "at least 3"]),
    ],
    ids=str,
)
def test_bad_settings_are_named(catalogue, tokenizer, model, settings, words):
    with pytest.raises(UserError) as error:
        tokenizer(model, catalogue(), **settings)
    assert all(word in str(error.value) for word in words), error.value
