from __future__ import annotations

import faiss
import numpy as np
import pytest
import torch

from recbole_r3vae.model.tokenizer.quantize.codebook import Codebook, kmeans, unit


def test_unit_has_length_one_and_the_direction_of_its_argument():
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    u = unit(x)
    torch.testing.assert_close(u.norm(dim=-1), torch.ones(5))
    torch.testing.assert_close(u * x.norm(dim=-1, keepdim=True), x)


def test_unit_of_a_zero_vector_is_zero_with_zero_gradient():
    x = torch.tensor([[0.0, 0.0], [3.0, 4.0]], requires_grad=True)
    u = unit(x)
    u.sum().backward()
    assert u[0].tolist() == [0.0, 0.0]
    assert x.grad[0].tolist() == [0.0, 0.0]
    assert torch.isfinite(x.grad).all() and x.grad[1].abs().sum() > 0


@pytest.mark.parametrize("n", [400, 4000])  # faiss by itself would look at 256 points for each centroid, 1792
def test_kmeans_ends_at_a_fixed_point_of_lloyd_over_all_points(n):
    x = np.random.default_rng(0).normal(size=(n, 4)).astype(np.float32)
    centroids = kmeans(x, 7, iterations=400, seed=3)
    nearest = ((x[:, None] - centroids[None]) ** 2).sum(-1).argmin(1)
    means = np.stack([x[nearest == k].mean(0) for k in range(7)])
    np.testing.assert_allclose(centroids, means, atol=1e-4)


def test_kmeans_depends_on_the_seed_only():
    x = np.random.default_rng(0).normal(size=(500, 8)).astype(np.float32)
    first = kmeans(x, 16, 10, seed=1)
    np.random.seed(5)
    torch.manual_seed(5)
    np.testing.assert_array_equal(first, kmeans(x, 16, 10, seed=1))
    assert not np.array_equal(first, kmeans(x, 16, 10, seed=2))


def test_kmeans_is_the_same_on_one_thread_and_on_two():
    x = np.random.default_rng(0).normal(size=(3000, 32)).astype(np.float32)
    threads = faiss.omp_get_max_threads()
    try:
        results = []
        for n in (1, 2):
            faiss.omp_set_num_threads(n)
            results.append(kmeans(x, 64, 10, seed=1))
    finally:
        faiss.omp_set_num_threads(threads)
    np.testing.assert_array_equal(*results)


def test_kmeans_of_as_many_points_as_centroids_is_those_points():
    x = np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32)
    centroids = kmeans(x, 9, 5, seed=0)
    np.testing.assert_array_equal(np.sort(centroids, axis=0), np.sort(x, axis=0))


@pytest.mark.parametrize("distinct", [1, 3])
def test_kmeans_of_too_few_distinct_points_stays_finite(distinct):
    x = np.tile(np.eye(distinct, 4, dtype=np.float32), (20, 1))
    centroids = kmeans(x, 8, 10, seed=0)
    assert centroids.shape == (8, 4) and np.isfinite(centroids).all()


def test_codebook_starts_from_its_generator_with_unit_expected_square():
    weights = [Codebook(200, 64, torch.Generator().manual_seed(seed)).weight for seed in (1, 1, 2)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    assert weights[0].square().sum(-1).mean().item() == pytest.approx(1.0, abs=0.05)


def test_codebook_becomes_the_centroids_and_remains_a_parameter():
    x = np.random.default_rng(0).normal(size=(300, 6)).astype(np.float32)
    codebook = Codebook(8, 6, torch.Generator().manual_seed(0))
    parameter = codebook.weight
    codebook.initialise(torch.from_numpy(x), iterations=25, seed=4)
    np.testing.assert_array_equal(codebook.weight.detach().numpy(), kmeans(x, 8, 25, seed=4))
    assert codebook.weight is parameter and parameter.requires_grad
    codes = torch.tensor([3, 0, 3])
    assert torch.equal(codebook(codes), codebook.weight[[3, 0, 3]])
