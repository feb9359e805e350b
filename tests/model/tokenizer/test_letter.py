from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from recbole_r3vae.data.items import ItemVectors
from recbole_r3vae.errors import UserError
from recbole_r3vae.model.tokenizer.letter import collaborative_loss, diversity_loss
from recbole_r3vae.model.tokenizer.quantize.codebook import kmeans

SMALL = {"hidden_sizes": [32], "latent_dim": 8}
LEARNED = {"codebook_learning": "loss", "sinkhorn_levels": [-1], "sinkhorn_iterations": 20}


def rows(items):
    return torch.from_numpy(items.embeddings[1:])


def batch(items):
    return {"item_emb": rows(items), "item_cf": torch.from_numpy(items.collaborative[1:])}


@pytest.fixture(scope="module")
def social(catalogue):
    """Items whose vectors form twelve topics, with one collaborative embedding for every two of them."""
    items = catalogue(600)
    centroids = kmeans(items.embeddings[1:], 12, 25, seed=0)
    topic = torch.cdist(rows(items), torch.from_numpy(centroids)).argmin(-1).numpy()
    random = np.random.default_rng(1)
    group = random.permutation(12)[topic] // 2
    vectors = random.normal(size=(6, 8))
    embeddings = np.zeros((601, 8), dtype=np.float32)
    embeddings[1:] = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True))[group]
    return ItemVectors(items.content, embeddings)


def test_the_collaborative_loss_by_its_definition():
    generator = torch.Generator().manual_seed(0)
    q, h = torch.randn(7, 4, generator=generator), torch.randn(7, 4, generator=generator)
    h[2] = h[5] = 0  # two items that nobody interacted with
    known = [0, 1, 3, 4, 6]
    expected = 0.0
    for i in known:
        denominator = sum(math.exp(float(q[i] @ h[j])) for j in known)  # over embeddings, not over latents
        expected -= math.log(math.exp(float(q[i] @ h[i])) / denominator) / len(known)
    assert collaborative_loss(q, h).item() == pytest.approx(expected, rel=1e-5)
    assert collaborative_loss(q, torch.zeros_like(h)).item() == 0.0
    # Of that order: what all embeddings have in common tells no item from another.
    common = torch.where(h.any(-1, keepdim=True), h + torch.tensor([1.0, -2.0, 0.5, 3.0]), 0)
    torch.testing.assert_close(collaborative_loss(q, common), collaborative_loss(q, h))


def test_the_diversity_loss_by_its_definition():
    """With clusters of two there is no choice: the other one is the positive."""
    generator = torch.Generator().manual_seed(0)
    codewords, codes = torch.randn(6, 4, generator=generator), torch.tensor([0, 3, 3, 5, 1])
    clusters = torch.tensor([1, 0, 2, 1, 2, 0])
    partner = {0: 3, 3: 0, 1: 5, 5: 1, 2: 4, 4: 2}
    expected = 0.0
    for c in codes.tolist():
        similarity = [math.exp(float(codewords[c] @ codewords[k])) for k in range(6)]
        others = sum(similarity[k] for k in range(6) if k != c)
        expected -= math.log(similarity[partner[c]] / others) / len(codes)
    assert diversity_loss(codewords, codes, clusters).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_positives_come_from_the_codewords_cluster_alike_often(seed):
    """Codewords far apart: the loss of an item tells which positive was drawn."""
    torch.manual_seed(seed)
    clusters = torch.randperm(9) % 3 if seed else torch.tensor([0, 0, 1, 1, 1, 2, 2, 2, 2])
    codewords = torch.eye(9).mul(10)
    codewords = torch.cat([codewords, torch.zeros(9, 1)], 1)
    codewords[4] = torch.arange(10.0)  # <e_4, e_k> = 10 k names k
    counts = torch.zeros(9)
    for _ in range(400):
        loss = diversity_loss(codewords, torch.tensor([4]), clusters).item()
        logits = torch.tensor([10.0 * k for k in range(9) if k != 4])
        counts[round((logits.logsumexp(0).item() - loss) / 10)] += 1
    candidates = [k for k in range(9) if k != 4 and clusters[k] == clusters[4]]
    assert counts.nonzero().flatten().tolist() == candidates
    assert counts[candidates].min() > 0.6 * 400 / len(candidates)


def test_the_loss_is_what_its_docstring_says(social, tokenizer):
    items = social
    settings = {"collaborative_weight": 0.5, "diversity_weight": 0.25, "diversity_clusters": 8}
    model = tokenizer("LETTER", items, **settings, **LEARNED, **SMALL).train()
    model.initialise(items)
    model.train()
    torch.manual_seed(3)
    terms = model.calculate_loss(batch(items))
    plain = tokenizer("RQVAE", items, **LEARNED, **SMALL)
    plain.load_state_dict({key: value for key, value in model.state_dict().items() if key not in ("clusters", "batches")})
    plain.train()
    out = plain.quantize(rows(items))
    torch.testing.assert_close(torch.stack(terms[:3]), torch.stack(plain.calculate_loss(batch(items))))
    expected = 0.5 * collaborative_loss(out.quantized, batch(items)["item_cf"])
    torch.testing.assert_close(terms[3], expected)
    torch.manual_seed(3)
    levels = zip(model.quantizer.levels, out.codes.unbind(1), model.clusters.split(16))
    expected = 0.25 * sum(diversity_loss(level.codebook.weight, codes, own) for level, codes, own in levels)
    torch.testing.assert_close(terms[4], expected)
    assert model.clusters.reshape(3, 16).sort().values.tolist() == [[k // 2 for k in range(16)]] * 3
    for weights, n_terms in (({"collaborative_weight": 0}, 4), ({"diversity_weight": 0.0}, 4)):
        model = tokenizer("LETTER", items, **{**settings, **weights}, **LEARNED, **SMALL)
        assert len(model.calculate_loss(batch(items))) == n_terms


def test_the_terms_teach_what_they_should(social, tokenizer):
    """The collaborative term the encoder, the diversity term all codewords, as well those that no item has."""
    items = social
    model = tokenizer("LETTER", items, collaborative_weight=1.0, diversity_weight=1.0, **LEARNED, **SMALL)
    model.initialise(items)
    *_, collaborative, diversity = model.train().calculate_loss(batch(items))
    collaborative.backward(retain_graph=True)
    codebooks = [level.codebook.weight for level in model.quantizer.levels]
    assert model.encoder[0].weight.grad.any() and all(codewords.grad is None for codewords in codebooks)
    model.zero_grad()
    diversity.backward()
    assert all(codewords.grad.any(-1).all() for codewords in codebooks)
    assert model.encoder[0].weight.grad is None


def test_codewords_are_clustered_at_first_and_again_every_so_many_steps(social, tokenizer):
    """The first loss finds them clustered, and so does every third after it; no loss clusters them itself."""
    items = social
    model = tokenizer("LETTER", items, cluster_every=3, codebook_sizes=[16, 4, 3], **LEARNED, **SMALL)
    clustered, before = [], model.clusters.clone()
    model.initialise(items)
    for _ in range(7):
        clustered.append(not torch.equal(model.clusters, before))
        before = model.clusters.clone()
        model.train().calculate_loss(batch(items))
        assert torch.equal(model.clusters, before)
        with torch.no_grad():  # the optimizer's step
            for level in model.quantizer.levels:
                level.codebook.weight.copy_(torch.randn_like(level.codebook.weight))
        model.after_step(batch(items))
    assert clustered == [True, False, False, True, False, False, True]
    assert model.batches == 7
    counts = [own.bincount().tolist() for own in model.clusters.split(model.codebook_sizes)]
    assert counts == [[2] * 8, [2, 2], [3]]  # ten clusters were asked for; a codeword is never alone


def test_a_seed_gives_one_result_and_codes_need_no_embeddings(social, tokenizer, train):
    items = social
    results = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        np.random.seed(noise)
        model = tokenizer("LETTER", items, **LEARNED, **SMALL)
        model.initialise(items)
        torch.manual_seed(0)  # as RecBole's init_seed before training: positives are drawn from torch's generator
        history = train(model, items, epochs=3)
        assert history[-1] < history[0]
        results.append(model.eval().tokenize(rows(items)))
    assert torch.equal(*results)

    class Dimension:
        dim = items.dim

    copy = tokenizer("LETTER", Dimension(), **LEARNED, **SMALL).eval()
    copy.load_state_dict(model.state_dict())
    assert torch.equal(copy.tokenize(rows(items)), results[0])


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"codebook_learning": "ema", "diversity_weight": 0.1}, ["codebook_learning", "diversity", "loss or simvq"]),
        ({"diversity_clusters": 1}, ["diversity_clusters", "1", "from 2"]),
        ({"cluster_every": 0.5}, ["cluster_every", "0.5", "from 1"]),
    ],
    ids=str,
)
def test_bad_settings_are_named(social, tokenizer, settings, words):
    with pytest.raises(UserError) as error:
        tokenizer("LETTER", social, **settings)
    assert all(word in str(error.value) for word in words), error.value
    tokenizer("LETTER", social, codebook_learning="ema", diversity_weight=0)
