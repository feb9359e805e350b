"""PRISM: every loss by its definition, where its gradient goes, and what comes in when."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from recbole_r3vae.data.items import ItemVectors
from recbole_r3vae.errors import UserError
from recbole_r3vae.model.tokenizer.prism import cosine_loss, gate_loss
from recbole_r3vae.model.tokenizer.quantize.anchor import Anchor, balance_loss, distances

SMALL = {"hidden_sizes": [32], "latent_dim": 8, "gate_hidden_size": 16, "anchor_hidden_size": 12, "dropout": 0.0}
ALL = {"warm_epochs": 0, "anchoring_epochs": 0, "classification_ramp": 1, "anchor_ramp": 1, "balance_ramp": 1, "anchor_after": 1.0}
PARTS = {"text": slice(0, 10), "collaborative": slice(10, 16), "image": slice(16, 20)}  # content on both sides of it


@pytest.fixture(scope="module")
def shop(catalogue) -> ItemVectors:
    """300 items with popularity, two levels of categories, and 40 items that nobody met."""
    items, draw = catalogue(300, d=20, parts=PARTS), np.random.default_rng(0)
    items.embeddings[1:41, PARTS["collaborative"]] = 0
    popularity = np.concatenate([np.zeros(41), draw.random(260)]).astype(np.float32)
    categories = np.zeros((301, 3), dtype=np.int64)
    categories[1:, 0], categories[1:, 1] = draw.integers(1, 4, size=300), draw.integers(0, 6, size=300)  # some lack the second, all the third
    return ItemVectors(items.content, None, {"item_popularity": popularity, "item_categories": categories})


def batch(items, n=None):
    rows = slice(1, None if n is None else 1 + n)
    return {"item_emb": torch.from_numpy(items.embeddings[rows]), **{key: torch.from_numpy(values[rows]) for key, values in items.facts.items()}}


def made(tokenizer, items, **settings):
    model = tokenizer("PRISM", items, **{**SMALL, **settings})
    model.initialise(items)
    return model.train()


def cosine(a, b) -> float:
    return float(a @ b) / (float(a.norm()) * float(b.norm()))


# -- each loss by its definition -------------------------------------------------------------------------------------------


def test_the_gate_loss_by_its_definition():
    torch.manual_seed(0)
    gates, popularity = torch.rand(7, 5), torch.rand(7)
    means = [sum(row) / 5 for row in gates.tolist()]
    fit = sum((m - p) ** 2 for m, p in zip(means, popularity.tolist())) / 7
    middle = sum(means) / 7
    variance = sum((m - middle) ** 2 for m in means) / 7
    for spread in (0.05, 0.6):  # below and above what there is
        expected = fit + 2.5 * max(0.0, spread**2 - variance)
        assert gate_loss(gates, popularity, spread, 2.5).item() == pytest.approx(expected, rel=1e-5)
    assert variance > 0.05**2 and variance < 0.6**2


def test_the_cosine_loss_leaves_out_rows_without_a_target():
    torch.manual_seed(0)
    x, target = torch.randn(5, 4), torch.randn(5, 4)
    target[3] = 0
    expected = sum(1 - cosine(x[i], target[i]) for i in (0, 1, 2, 4)) / 4
    assert cosine_loss(x, target).item() == pytest.approx(expected, rel=1e-5)
    assert cosine_loss(x, torch.zeros_like(target)).item() == 0


def test_the_balance_loss_by_its_definition():
    torch.manual_seed(0)
    codewords, entered = torch.randn(6, 4) + 1, torch.randn(9, 4)
    codes = torch.tensor([0, 3, 3, 5, 1, 0, 1, 3, 5])
    used = [0, 1, 3, 5]
    pairs = [max(0.0, cosine(codewords[i], codewords[j]) - 0.5) for i in used for j in used if i != j]
    shares = torch.zeros(6)
    for x in entered:
        weights = [math.exp(-float((x - c).norm()) / 0.3) for c in codewords]
        shares += torch.tensor(weights) / sum(weights) / 9
    expected = sum(pairs) / len(pairs) + 0.7 * sum((6 * share - 1) ** 2 for share in shares.tolist()) / 6
    assert max(pairs) > 0
    assert balance_loss(codewords, codes, entered, 0.7, 0.3).item() == pytest.approx(expected, rel=1e-4)
    assert torch.isfinite(balance_loss(codewords, torch.zeros(9, dtype=torch.int64), entered, 0.0, 0.3))  # one code: no pair


def test_an_anchors_losses_by_their_definition():
    generator = torch.Generator().manual_seed(0)
    anchor = Anchor(4, 6, 2, [5, 7, 3], generator)
    anchor.vectors.copy_(torch.randn(4, 5, generator=generator))
    anchor.smoothed.copy_(torch.softmax(torch.randn(4, 6, generator=generator), -1))
    anchor.smoothed[3] = torch.tensor([1.0, 0, 0, 0, 0, 0])  # a running mean that has forgotten codes
    codewords, scales = torch.randn(6, 3, generator=generator), []
    for temperature in (0.02, 0.5, 5.0):
        found = anchor.losses(codewords, temperature)
        projected = anchor.projection(anchor.vectors)
        for c in range(4):
            weights = [-float((projected[c] - k).detach().norm()) / temperature for k in codewords]
            top = max(weights)
            weights = [math.exp(w - top) for w in weights]
            share = [w / sum(weights) for w in weights]
            mixture = sum(s * k for s, k in zip(share, codewords))
            gaps = [abs(float(m - p)) for m, p in zip(mixture, projected[c])]
            apart = sum(g - 0.5 if g >= 1 else 0.5 * g * g for g in gaps) / 3
            drift = sum(s * (math.log(max(s, 1e-8)) - math.log(max(q, 1e-8))) for s, q in zip(share, anchor.smoothed[c].tolist()))
            entropy = -sum(s * math.log(max(s, 1e-8)) for s in share)
            scales.append(min(1.5, max(0.25, 0.35 * math.log(6) / max(entropy, 1e-8))))
            assert found[c].item() == pytest.approx(scales[-1] * (apart + 0.5 * drift), rel=2e-3, abs=1e-5)
    assert max(scales) == 1.5 and min(scales) < 0.5


def test_the_scale_of_an_anchor_has_no_gradient():
    """Doubling a codeword changes the loss; the entropy's part of that is held."""
    anchor = Anchor(1, 4, 1, [3, 2], torch.Generator().manual_seed(0))
    anchor.vectors.fill_(0.5)
    codewords = torch.randn(4, 2, generator=torch.Generator().manual_seed(1), requires_grad=True)
    anchor.losses(codewords, 1.0).sum().backward()
    projected, share = anchor.assignment(codewords.detach().requires_grad_(), 1.0)
    again = codewords.detach().clone().requires_grad_()
    projected, share = anchor.assignment(again, 1.0)
    entropy = -(share * share.log()).sum()
    scale = float((0.35 * math.log(4) / entropy).clamp(0.25, 1.5))
    assert 0.25 < scale < 1.5
    apart = torch.nn.functional.smooth_l1_loss(share @ again, projected)
    drift = (share * (share / anchor.smoothed).log()).sum()
    (scale * (apart + 0.5 * drift)).backward()
    torch.testing.assert_close(codewords.grad, again.grad)


def test_distances_of_equal_vectors_have_a_gradient_that_is_a_number():
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    found = distances(x, x.detach().clone())
    torch.testing.assert_close(found, torch.cdist(x, x), atol=2e-3, rtol=1e-4)
    found.sum().backward()
    assert x.grad.isfinite().all()


def test_the_loss_is_what_its_docstring_says(shop, tokenizer):
    weights = {"content_weight": 0.7, "collaborative_weight": 0.6, "commitment_weight": 0.5, "codebook_weight": 0.4, "gate_weight": 0.3}
    more = {"classification_weight": 0.21, "anchor_weight": 0.11, "balance_weight": 0.13, "gate_spread": 0.5}
    model = made(tokenizer, shop, **weights, **more, **ALL)
    given = batch(shop, 50)
    x, terms = given["item_emb"], model.calculate_loss(given)
    h = x[:, 10:16]
    g = torch.sigmoid(model.encoder.gate(h))
    gated = torch.cat([x[:, :10], g * h, x[:, 16:]], 1)
    z = model.encoder.layers(model.encoder.norm(gated))
    levels = model.quantizer(z)
    rebuilt, words = model.decoder(levels.quantized), [level.codebook.weight for level in model.quantizer.levels]
    content = torch.cat([x[:, :10], x[:, 16:]], 1), torch.cat([rebuilt[:, :10], rebuilt[:, 16:]], 1)
    expected = [
        0.7 * torch.stack([1 - torch.cosine_similarity(a, b, dim=0) for a, b in zip(*content)]).mean(),
        0.6 * torch.stack([1 - torch.cosine_similarity(a, b, dim=0) for a, b in zip((g * h)[40:], rebuilt[40:, 10:16])]).mean(),
        0.5 * sum((r - q).square().sum(-1).mean() for r, q in zip(levels.residuals, levels.levels)),
        0.4 * sum((r - q).square().sum(-1).mean() for r, q in zip(levels.residuals, levels.levels)),
        0.3 * gate_loss(g, given["item_popularity"], 0.5, 2.0),
    ]
    assert not h[:40].any() and h[40:].any(-1).all()
    for level, anchor in ((1, model.anchors["1"]), (2, model.anchors["2"])):
        category = given["item_categories"][:, level - 1]
        known = category > 0
        chosen = torch.cat([words[k][levels.codes[:, k]] for k in range(level)], 1)
        expected.append(0.21 * torch.nn.functional.cross_entropy(anchor.head(chosen[known]), category[known] - 1))
        losses = anchor.losses(words[level - 1], 0.15)
        expected.append(0.11 * torch.stack([losses[c - 1] for c in category.tolist() if c]).mean())
    for k in range(3):
        expected.append(0.13 * balance_loss(words[k], levels.codes[:, k], levels.residuals[k], 0.1, 0.15))
    assert len(terms) == len(expected) and list(model.anchors) == ["1", "2"]
    torch.testing.assert_close(torch.stack(terms), torch.stack(expected))


def test_a_batch_without_a_category_has_as_many_terms_as_others(shop, tokenizer):
    model, given = made(tokenizer, shop, **ALL), batch(shop)
    every = model.calculate_loss(given)
    given["item_categories"] = given["item_categories"].clone()
    given["item_categories"][:, 1] = 0
    terms = model.calculate_loss(given)
    assert len(terms) == len(every) and [i for i, term in enumerate(terms) if not term] == [7, 8]  # after five of all items and two of level 1
    torch.testing.assert_close(torch.stack([*terms[:7], *terms[9:]]), torch.stack([*every[:7], *every[9:]]))


# -- where gradients go, and when ------------------------------------------------------------------------------------------


def teaches(model, term) -> set[str]:
    """The parts of a model that a loss has a gradient for."""
    model.zero_grad()
    term.backward(retain_graph=True)
    return {name.rpartition(".")[0].replace(".codebook", "") for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}


def test_every_loss_teaches_what_it_should(shop, tokenizer):
    model = made(tokenizer, shop, **ALL)
    content, collaborative, commitment, codebook, gate, classify, anchor, classify_2, _, *balance = model.calculate_loss(batch(shop))
    levels = {f"quantizer.levels.{k}" for k in range(3)}
    encoder = {"encoder.gate.0", "encoder.gate.2", "encoder.layers.0", "encoder.norm"}
    assert encoder <= teaches(model, content) and "decoder.content.0" in teaches(model, content)
    assert "decoder.collaborative.0" in teaches(model, collaborative) and not levels & teaches(model, collaborative)
    assert not levels & teaches(model, commitment) and encoder <= teaches(model, commitment)
    assert teaches(model, codebook) == levels
    assert teaches(model, gate) == {"encoder.gate.0", "encoder.gate.2"}
    assert encoder <= teaches(model, classify) and "anchors.1.head.0" in teaches(model, classify) and not levels & teaches(model, classify)
    assert "anchors.2.head.0" in teaches(model, classify_2) and "anchors.1.head.0" not in teaches(model, classify_2)
    assert teaches(model, anchor) == {"anchors.1.projection.0", "anchors.1.projection.2", "quantizer.levels.0"}
    assert {"quantizer.levels.1"} == levels & teaches(model, balance[1]) and encoder <= teaches(model, balance[1])


def test_the_curriculum_step_by_step(shop, tokenizer):
    steps = {"warm_epochs": 2, "anchoring_epochs": 5, "classification_ramp": 2, "anchor_ramp": 4, "balance_ramp": 3, "anchor_after": 0.1}
    model = made(tokenizer, shop, **steps)
    found = [model.curriculum(epoch) for epoch in range(11)]
    classification, anchor, balance = zip(*found)
    assert classification == (0, 0, 0.5, 1, 1, 1, 1, 1, 1, 1, 1)
    assert anchor == pytest.approx((0, 0, 0.25, 0.5, 0.75, 1, 1, 0.1, 0.1, 0.1, 0.1))
    assert balance == pytest.approx((0, 0, 0, 0, 0, 0, 0, 1 / 3, 2 / 3, 1, 1))
    n_terms = []
    for epoch in (0, 2, 7):
        model.begin_epoch(epoch)
        n_terms.append(len(model.calculate_loss(batch(shop, 60))))
    assert n_terms == [5, 5 + 4, 5 + 4 + 3]
    model.begin_epoch(3)
    half = torch.stack(model.calculate_loss(batch(shop, 60)))
    model.begin_epoch(5)
    whole = torch.stack(model.calculate_loss(batch(shop, 60)))
    torch.testing.assert_close(half[[6, 8]] * 2, whole[[6, 8]])  # anchors
    torch.testing.assert_close(half[[5, 7]], whole[[5, 7]])  # classification


def test_assignments_are_held_to_their_running_means(shop, tokenizer):
    """They begin uniform, follow step by step as soon as anchors count, and not before."""
    model = made(tokenizer, shop, warm_epochs=1, anchor_decay=0.9)
    anchor = model.anchors["1"]
    model.after_step(batch(shop))
    assert torch.equal(anchor.smoothed, torch.full((3, 16), 1 / 16))
    model.begin_epoch(1)
    model.after_step(batch(shop))
    now = anchor.assignment(model.quantizer.levels[0].codebook.weight, 0.15)[1]
    torch.testing.assert_close(anchor.smoothed, 0.9 / 16 + 0.1 * now.detach())


def test_a_category_is_the_mean_content_of_its_items(shop, tokenizer):
    model = made(tokenizer, shop)
    content = np.delete(shop.embeddings, np.r_[10:16], axis=1)
    for level, n in (("1", 3), ("2", 5)):
        number = shop.facts["item_categories"][:, int(level) - 1]
        for category in range(1, n + 1):
            mean = content[1:][number[1:] == category].mean(0)
            np.testing.assert_allclose(model.anchors[level].vectors[category - 1], mean / np.linalg.norm(mean), atol=1e-5)


# -- what comes of it ------------------------------------------------------------------------------------------------------


def test_gates_follow_popularity_where_they_are_taught_to(catalogue, tokenizer, train):
    """Popularity shows in a direction of the collaborative vectors; untaught, gates know nothing of it."""
    items, draw = catalogue(400, d=20, parts=PARTS), np.random.default_rng(0)
    popularity = draw.random(401).astype(np.float32)
    items.embeddings[:, 10:16] = draw.normal(size=(401, 6))
    items.embeddings[:, 10] = 3 * popularity - 1.5
    items = ItemVectors(items.content, None, {"item_popularity": popularity})
    rank = {}
    for weight in (0.0, 0.8):
        model = made(tokenizer, items, gate_weight=weight)
        before = model.encoder.gates(torch.from_numpy(items.embeddings[1:])).mean(1).detach()
        train(model, items, epochs=40, learning_rate=4e-3)
        means = model.encoder.gates(torch.from_numpy(items.embeddings[1:])).mean(1).detach()
        rank[weight] = spearmanr(means, popularity[1:])[0] - spearmanr(before, popularity[1:])[0] * (weight == 0)
    assert rank[0.8] > 0.9 and abs(rank[0.0]) < 0.3, rank


def test_codes_tell_categories_where_they_are_anchored(shop, tokenizer, train):
    """Categories that content does not show: first codes tell the first level's after training with them, not without."""
    purity = {}
    for weight in (0.0, 1.0):
        items = ItemVectors(shop.content, None, shop.facts)
        items.embeddings[1:, 0] = shop.facts["item_categories"][1:, 0] / 10  # one weak column
        model = made(tokenizer, items, classification_weight=weight, anchor_weight=0.0, balance_weight=0.0, **ALL)
        train(model, items, epochs=30, learning_rate=2e-3)
        codes = model.eval().tokenize(torch.from_numpy(items.embeddings[1:]))[:, 0].numpy()
        number = shop.facts["item_categories"][1:, 0]
        found = sum(np.bincount(number[codes == code]).max() for code in np.unique(codes))
        purity[weight] = found / len(codes)
    assert purity[1.0] > purity[0.0] + 0.15, purity


def test_without_categories_there_are_no_anchors(shop, tokenizer, train):
    items = ItemVectors(shop.content, None, {"item_popularity": shop.facts["item_popularity"]})
    model = made(tokenizer, items, **ALL)
    assert len(model.anchors) == 0 and len(model.calculate_loss(batch(items))) == 5 + 3
    history = train(model, items, epochs=3)
    assert history[-1] < history[0]


def test_a_checkpoint_needs_neither_embeddings_nor_categories(shop, tokenizer, train):
    model = made(tokenizer, shop, **ALL)
    train(model, shop, epochs=2)

    class Shape:
        dim, parts = shop.dim, PARTS

    copy = tokenizer("PRISM", Shape(), **SMALL, **ALL).eval()
    copy.load_state_dict(model.state_dict())
    x = torch.from_numpy(shop.embeddings[1:])
    assert torch.equal(copy.tokenize(x), model.eval().tokenize(x))
    assert list(copy.anchors) == ["1", "2"] and torch.equal(copy.anchors["2"].smoothed, model.anchors["2"].smoothed)


def test_reconstructions_are_unit_vectors_side_by_side(shop, tokenizer):
    rebuilt = made(tokenizer, shop).quantize(torch.from_numpy(shop.embeddings[1:])).reconstruction
    content = torch.cat([rebuilt[:, :10], rebuilt[:, 16:]], 1)
    torch.testing.assert_close(content.norm(dim=1), torch.ones(300))
    torch.testing.assert_close(rebuilt[:, 10:16].norm(dim=1), torch.ones(300))


@pytest.mark.parametrize("given", ["tfidf-svd", {"text": "tfidf-svd"}, {"collaborative": "LightGCN"}], ids=str)
def test_item_content_without_both_parts_is_refused(shop, tokenizer, given):
    with pytest.raises(UserError, match="PRISM reads .* collaborative, and content_encoder is .*; give --content_encoder="):
        tokenizer("PRISM", shop, content_encoder=given)


def test_vectors_without_both_parts_are_refused(catalogue, tokenizer):
    for parts in (None, {"text": slice(0, 8), "image": slice(8, 16)}):
        with pytest.raises(UserError, match="PRISM reads .* collaborative"):
            tokenizer("PRISM", catalogue(parts=parts))


def test_anchors_to_codewords_without_a_gradient_are_refused(shop, tokenizer):
    with pytest.raises(UserError, match="codebook_learning is 'ema'.*set anchor_weight to 0"):
        tokenizer("PRISM", shop, codebook_learning="ema")
