"""The tokenizers that are fitted in one go: k-means (residual, balanced, trees), OPQ, LSH, random codes."""

from __future__ import annotations

import faiss
import numpy as np
import pytest
import torch

from recbole_r3vae.errors import UserError
from recbole_r3vae.model.tokenizer import hierarchicalkmeans
from recbole_r3vae.model.tokenizer.base import FittedTokenizer, Quantized
from recbole_r3vae.sid.quality.usage import code_usage

FITTED = ["RKMeans", "BalancedRKMeans", "HierarchicalKMeans", "GAOQ", "OPQ", "LSH", "Random"]
ALL = pytest.mark.parametrize("name", FITTED)


def rows(items):
    return torch.from_numpy(items.embeddings[1:])


def fit(tokenizer, name, items, **settings):
    model = tokenizer(name, items, **settings).eval()
    model.initialise(items)
    return model


def squared_distances(x, centroids):
    return ((x[:, None] - centroids[None]) ** 2).sum(-1)


# -- all of them ---------------------------------------------------------------------------------------------


@ALL
def test_same_seed_same_codes_whatever_ran_before(catalogue, tokenizer, name):
    items = catalogue(300)
    results = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        np.random.seed(noise)
        results.append(fit(tokenizer, name, items).tokenize(rows(items)))
    assert torch.equal(*results)
    assert not torch.equal(fit(tokenizer, name, items, seed=1).tokenize(rows(items)), results[0])


@ALL
def test_a_checkpoint_needs_the_dimension_only(catalogue, tokenizer, name):
    items = catalogue(300)
    model = fit(tokenizer, name, items)

    class Dimension:
        dim = items.dim

    copy = tokenizer(name, Dimension())
    copy.load_state_dict({key: value.clone() for key, value in model.state_dict().items()})
    assert copy.codebook_sizes == model.codebook_sizes
    assert torch.equal(copy.tokenize(rows(items)), model.tokenize(rows(items)))
    decoded = [each.quantize(rows(items)).reconstruction for each in (copy, model)]
    torch.testing.assert_close(*decoded)


@ALL
def test_an_items_own_code_is_its_nearest_at_every_level(catalogue, tokenizer, name):
    items = catalogue(300)
    model = fit(tokenizer, name, items)
    codes = model.tokenize(rows(items))
    assert codes.dtype == torch.int64 and (codes >= 0).all()
    assert (codes < torch.tensor(model.codebook_sizes)).all()
    for level, size in enumerate(model.codebook_sizes):
        distances = model.level_distances(rows(items), level)
        assert distances.shape == (300, size)
        assert torch.equal(distances.argmin(-1), codes[:, level])


@ALL
def test_nothing_trains_and_epochs_are_refused(catalogue, tokenizer, name):
    items = catalogue(300)
    assert not any(parameter.requires_grad for parameter in tokenizer(name, items).parameters())
    with pytest.raises(UserError, match="^epochs is 7; give 0: .* fitted to the catalogue in one go has nothing to train in epochs$"):
        tokenizer(name, items, epochs=7)


@ALL
def test_quantized_has_the_shapes_that_scoring_needs(catalogue, tokenizer, name):
    items = catalogue(50)
    model = fit(tokenizer, name, items, codebook_sizes=[8, 8])
    out = model.quantize(rows(items))
    assert out.codes.shape == (50, 2) and out.reconstruction.shape == (50, 16)
    assert len(out.residuals) == 2 and out.residuals[0].shape == (50, 16) and out.reference is None


@pytest.mark.parametrize("name", ["RKMeans", "BalancedRKMeans", "OPQ", "LSH", "Random"])
def test_a_codebook_larger_than_the_catalogue_is_refused(catalogue, tokenizer, name):
    with pytest.raises(UserError, match="codebook_sizes .* only 40 items"):
        fit(tokenizer, name, catalogue(40), codebook_sizes=[64, 64])


def test_codes_have_no_neighbours_unless_the_tokenizer_says_so(catalogue):
    class Signs(FittedTokenizer):
        def quantize(self, x):
            return Quantized((x[:, :3] > 0).long(), x, None, [x] * 3, x)

    items = catalogue(20)
    model = Signs({"epochs": 0, "codebook_sizes": [2, 4, 3], "device": torch.device("cpu"), "seed": 0}, items)
    codes = model.tokenize(rows(items) - 0.3)
    assert len(codes.unique(dim=0)) > 1
    for level, size in enumerate((2, 4, 3)):
        expected = [[float(code != own) for code in range(size)] for own in codes[:, level]]
        assert model.level_distances(rows(items) - 0.3, level).tolist() == expected


# -- residual k-means ----------------------------------------------------------------------------------------


def test_rkmeans_is_a_plain_faiss_loop(catalogue, tokenizer):
    items = catalogue(500)
    model = fit(tokenizer, "RKMeans", items, codebook_sizes=[8, 16, 4], kmeans_iterations=12)
    rest, codes = items.embeddings[1:].copy(), model.tokenize(rows(items)).numpy()
    for level, size in enumerate((8, 16, 4)):
        clustering = faiss.Kmeans(16, size, niter=12, seed=2020 + level, min_points_per_centroid=1)
        clustering.train(rest)
        found = model.quantizer.levels[level].codebook.weight.numpy()
        np.testing.assert_allclose(found, clustering.centroids, atol=1e-5)
        _, nearest = clustering.index.search(rest, 1)
        assert (nearest[:, 0] == codes[:, level]).all()
        rest = rest - clustering.centroids[nearest[:, 0]]
    reconstruction = model.quantize(rows(items)).reconstruction.numpy()
    np.testing.assert_allclose(items.embeddings[1:] - reconstruction, rest, atol=1e-5)


@pytest.mark.parametrize("seed", [0, 1])
def test_rkmeans_is_within_noise_of_faiss_residual_quantizer(catalogue, tokenizer, seed):
    """Another implementation with other random starts: a beam of one is residual k-means."""
    items = catalogue(3000, seed=seed)
    peer = faiss.ResidualQuantizer(16, 3, 4)
    peer.train_type, peer.max_beam_size = faiss.ResidualQuantizer.Train_default, 1
    peer.cp.niter, peer.cp.seed = 25, 1
    peer.train(items.embeddings[1:])
    packed = peer.compute_codes(items.embeddings[1:]).astype(np.int64)  # 12 bits, lowest first
    packed = packed[:, 0] + (packed[:, 1] << 8)
    codes = torch.from_numpy(np.stack([packed >> shift & 15 for shift in (0, 4, 8)], axis=1))
    decoded = torch.from_numpy(peer.decode(peer.compute_codes(items.embeddings[1:])))
    theirs = (rows(items) - decoded).square().sum(-1).mean().item()
    their_collisions = code_usage(codes, (16, 16, 16))["collision_rate"]
    collisions, distortions = [], []
    for own in (2020, 2021, 2022):
        model = fit(tokenizer, "RKMeans", items, seed=own)
        collisions.append(code_usage(model.tokenize(rows(items)), (16, 16, 16))["collision_rate"])
        error = rows(items) - model.quantize(rows(items)).reconstruction
        distortions.append(error.square().sum(-1).mean().item())
    assert np.mean(distortions) == pytest.approx(theirs, rel=0.05)
    assert np.mean(collisions) == pytest.approx(their_collisions, abs=0.05)


def test_balanced_levels_have_no_inequality_where_plain_ones_have(catalogue, tokenizer):
    items, gini = catalogue(700), {}
    for name in ("RKMeans", "BalancedRKMeans"):
        model = fit(tokenizer, name, items)
        codes = model.tokenize(rows(items))
        gini[name] = [level["gini"] for level in code_usage(codes, model.codebook_sizes)["levels"]]
        if name == "BalancedRKMeans":
            assert all(codes[:, level].bincount().max() <= 44 for level in range(3))  # ceil(700 / 16)
    assert max(gini["BalancedRKMeans"]) < 0.012 < 0.1 < min(gini["RKMeans"]), gini


def test_repeated_embeddings_can_be_balanced(catalogue, tokenizer):
    items = catalogue(100)
    items.embeddings[1:60] = items.embeddings[1]
    model = fit(tokenizer, "BalancedRKMeans", items, codebook_sizes=[8, 8])
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())
    assert len(model.tokenize(rows(items)[:59]).unique(dim=0)) == 1  # equal embeddings, equal codes


# -- hierarchical k-means ------------------------------------------------------------------------------------


def test_an_items_codes_are_its_turns_in_a_tree_of_nearest_children(catalogue, tokenizer):
    """Item by item from the root, with the children of each node looked up one by one."""
    items = catalogue(400)
    model = fit(tokenizer, "HierarchicalKMeans", items, codebook_sizes=[4, 6, 5], slots_per_item=None)
    assert model.codebook_sizes == (4, 6, 5)
    codes, x = model.tokenize(rows(items)).tolist(), rows(items).numpy()
    for item in range(400):
        node = 0
        for level, code in zip(model.levels, codes[item]):
            start, end = level.first_child[node : node + 2].tolist()
            distances = squared_distances(x[item : item + 1], level.centroids[start:end].numpy())[0]
            assert distances[code] <= distances.min() + 1e-5
            node = start + code
        centroid = model.quantize(rows(items)[item : item + 1]).reconstruction[0]
        torch.testing.assert_close(centroid, model.levels[-1].centroids[node])


def test_each_node_splits_by_kmeans_of_its_own_items(catalogue, tokenizer):
    items = catalogue(400)
    settings = {"codebook_sizes": [3, 4], "slots_per_item": None, "kmeans_iterations": 100}
    model = fit(tokenizer, "HierarchicalKMeans", items, **settings)
    codes, x = model.tokenize(rows(items)), rows(items)
    for a in range(3):
        members = codes[:, 0] == a
        torch.testing.assert_close(model.levels[0].centroids[a], x[members].mean(0), atol=1e-4, rtol=0)
        for b in range(4):
            centroid = model.levels[1].centroids[model.levels[1].first_child[a] + b]
            torch.testing.assert_close(centroid, x[members & (codes[:, 1] == b)].mean(0), atol=1e-4, rtol=0)


def test_a_node_with_few_items_gives_each_its_own_child(catalogue, tokenizer):
    items = catalogue(60)
    model = fit(tokenizer, "HierarchicalKMeans", items, codebook_sizes=[8, 60], slots_per_item=None)
    assert len(model.tokenize(rows(items)).unique(dim=0)) == 60
    torch.testing.assert_close(model.quantize(rows(items)).reconstruction, rows(items))
    assert torch.isinf(model.level_distances(rows(items), 1)).any()  # codes without a child


def test_branching_comes_from_the_catalogue(catalogue, tokenizer):
    items = catalogue(600)
    free = fit(tokenizer, "HierarchicalKMeans", items)
    assert free.codebook_sizes == (14, 14, 14)  # 14^3 >= 4 * 600 > 13^3
    capped = fit(tokenizer, "HierarchicalKMeans", items, codebook_sizes=[4, 256, 256])
    assert capped.codebook_sizes == (4, 25, 25)  # 4 * 25^2 >= 2400 > 4 * 24^2
    assert fit(tokenizer, "HierarchicalKMeans", items, codebook_sizes=[5, 5]).codebook_sizes == (5, 5)
    for model in (free, capped):
        levels = code_usage(model.tokenize(rows(items)), model.codebook_sizes)["levels"]
        assert min(level["usage_of_reachable"] for level in levels) > 0.9


def test_a_tree_over_repeated_items_and_samples_stays_whole(catalogue, tokenizer, monkeypatch):
    monkeypatch.setattr(hierarchicalkmeans, "SAMPLES_PER_CODEWORD", 3)  # nodes split by a few of their items
    monkeypatch.setattr(hierarchicalkmeans, "ASSIGN_ROWS", 37)
    items = catalogue(300)
    items.embeddings[1:150] = items.embeddings[1]
    model = fit(tokenizer, "HierarchicalKMeans", items, codebook_sizes=[6, 6, 6], slots_per_item=None)
    for parents, level in zip(model.levels, model.levels[1:]):
        assert len(level.first_child) == len(parents.centroids) + 1
        assert (level.first_child.diff() >= 1).all()  # also where no item of the sample went
    assert len(model.tokenize(rows(items)[:149]).unique(dim=0)) == 1
    new = torch.randn(50, 16, generator=torch.Generator().manual_seed(0))
    assert torch.isfinite(model.quantize(new).reconstruction).all()


def test_slots_per_item_must_be_positive(catalogue, tokenizer):
    with pytest.raises(UserError, match="slots_per_item is 0; give ~ or a number above 0"):
        tokenizer("HierarchicalKMeans", catalogue(), slots_per_item=0)


# -- OPQ -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_digits", [3, 4, 16])
def test_opq_decodes_as_faiss(catalogue, tokenizer, n_digits):
    items = catalogue(500)
    model = fit(tokenizer, "OPQ", items, opq_iterations=5, codebook_sizes=[16] * n_digits)
    d_out = 16 // n_digits * n_digits
    assert model.codebook_sizes == (16,) * n_digits and model.rotation.shape == (d_out, 16)
    torch.testing.assert_close(model.rotation @ model.rotation.T, torch.eye(d_out), atol=1e-5, rtol=0)

    rotate = faiss.OPQMatrix(16, n_digits, d_out)
    faiss.copy_array_to_vector(model.rotation.numpy().ravel(), rotate.A)
    rotate.is_trained = rotate.is_orthonormal = True
    pq = faiss.ProductQuantizer(d_out, n_digits, 4)
    centroids = torch.stack([level.codebook.weight for level in model.quantizer.levels]).numpy()
    faiss.copy_array_to_vector(centroids.ravel(), pq.centroids)
    rotated = rotate.apply(items.embeddings[1:])
    packed = pq.compute_codes(rotated)  # two codes of 4 bits a byte
    codes = np.stack([packed[:, digit // 2] >> 4 * (digit % 2) & 15 for digit in range(n_digits)], axis=1)
    out = model.quantize(rows(items))
    assert (out.codes.numpy() == codes).all()
    decoded = rotate.reverse_transform(pq.decode(packed))
    np.testing.assert_allclose(out.reconstruction.numpy(), decoded, atol=1e-5)


def test_opq_iterates_its_codebooks_as_often_as_it_is_told(catalogue, tokenizer):
    items = catalogue(500)
    once, often = (fit(tokenizer, "OPQ", items, codebook_sizes=[16] * 4, opq_iterations=5, kmeans_iterations=n) for n in (1, 40))
    assert torch.equal(once.rotation, often.rotation)
    errors = [(rows(items) - model.quantize(rows(items)).reconstruction).square().sum(-1).mean() for model in (once, often)]
    assert errors[1] < errors[0]


def test_learning_the_rotation_lowers_the_error_of_product_quantisation(catalogue, tokenizer):
    items = catalogue(500)
    model = fit(tokenizer, "OPQ", items, codebook_sizes=[16] * 4)
    error = (rows(items) - model.quantize(rows(items)).reconstruction).square().sum(-1).mean()
    pq = faiss.ProductQuantizer(16, 4, 4)
    pq.cp.min_points_per_centroid = 1
    pq.train(items.embeddings[1:])
    plain = pq.decode(pq.compute_codes(items.embeddings[1:]))
    assert error < ((items.embeddings[1:] - plain) ** 2).sum(-1).mean()


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"codebook_sizes": [16, 8]}, ["[16, 8]", "the same power of two"]),
        ({"codebook_sizes": [20, 20]}, ["[20, 20]", "the same power of two"]),
        ({"codebook_sizes": [16] * 17}, ["codebook_sizes has 17 digits", "16 dimensions", "at most 16"]),
    ],
    ids=str,
)
def test_opq_names_bad_settings(catalogue, tokenizer, settings, words):
    with pytest.raises(UserError) as error:
        tokenizer("OPQ", catalogue(), **settings)
    assert all(word in str(error.value) for word in words), error.value


# -- LSH and random codes ------------------------------------------------------------------------------------


def test_lsh_codes_are_the_sides_of_hyperplanes(catalogue, tokenizer):
    items = catalogue(50)
    model = fit(tokenizer, "LSH", items, codebook_sizes=[8, 2, 16])
    codes, first = model.tokenize(rows(items)), 0
    for level, h in enumerate((3, 1, 4)):
        for item, x in enumerate(rows(items)):
            bits = [float(x @ w) > 0 for w in model.hyperplanes[first : first + h]]
            assert codes[item, level] == sum(2**j for j, bit in enumerate(bits) if bit)
        first += h
    assert first == len(model.hyperplanes)


def test_lsh_distance_is_what_crossing_the_hyperplanes_costs(catalogue, tokenizer):
    items = catalogue(20)
    model = fit(tokenizer, "LSH", items, codebook_sizes=[4, 8])
    distances, codes = model.level_distances(rows(items), 1), model.tokenize(rows(items))
    products = rows(items) @ model.hyperplanes[2:].T
    for item in range(20):
        for code in range(8):
            crossed = [j for j in range(3) if (code ^ int(codes[item, 1])) >> j & 1]
            expected = sum(abs(float(products[item, j])) for j in crossed)
            assert float(distances[item, code]) == pytest.approx(expected, abs=1e-5)


def test_lsh_needs_powers_of_two(catalogue, tokenizer):
    with pytest.raises(UserError, match=r"\[16, 12\].*powers of two"):
        tokenizer("LSH", catalogue(), codebook_sizes=[16, 12])


def test_codes_agree_more_between_neighbours_for_lsh_and_not_for_random_codes(catalogue, tokenizer):
    items = catalogue(400)
    x = rows(items)
    cosines = x @ x.T
    near, far = (cosines - 2 * torch.eye(400)).argmax(1), cosines.argmin(1)
    agreement = {}
    for name in ("LSH", "Random", "RKMeans"):
        codes = fit(tokenizer, name, items, codebook_sizes=[8, 8, 8]).tokenize(x)
        agreement[name] = [(codes == codes[other]).float().mean().item() for other in (near, far)]
    assert agreement["LSH"][0] > agreement["LSH"][1] + 0.2
    assert agreement["RKMeans"][0] > agreement["RKMeans"][1] + 0.2
    assert all(abs(value - 1 / 8) < 0.03 for value in agreement["Random"])


def test_random_codes_are_uniform_and_independent_of_each_other(catalogue, tokenizer):
    items = catalogue(5000)
    codes = fit(tokenizer, "Random", items, codebook_sizes=[7, 8, 16]).tokenize(rows(items))
    pair = codes[:, 0] * 8 + codes[:, 1]
    for values, k in ((codes[:, 0], 7), (codes[:, 1], 8), (codes[:, 2], 16), (pair, 56)):
        counts = values.bincount(minlength=k).double()
        statistic = ((counts - 5000 / k) ** 2 / (5000 / k)).sum().item()
        assert statistic < k - 1 + 4 * (2 * (k - 1)) ** 0.5  # chi squared: mean k - 1, variance 2 (k - 1)


def test_random_codes_depend_on_the_vector_alone(catalogue, tokenizer):
    items = catalogue(100)
    model, x = fit(tokenizer, "Random", items), rows(items)
    order = torch.randperm(100, generator=torch.Generator().manual_seed(0))
    assert torch.equal(model.tokenize(x[order]), model.tokenize(x)[order])
    x[0, 0], other = 0.0, x.clone()
    other[0, 0] = -0.0
    assert torch.equal(model.tokenize(x), model.tokenize(other))
    torch.testing.assert_close(model.quantize(x).reconstruction[7], rows(catalogue(100)).mean(0))
