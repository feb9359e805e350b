from __future__ import annotations

import numpy as np
import pytest
import torch

from recbole_r3vae.errors import UserError
from recbole_r3vae.model.tokenizer import base
from recbole_r3vae.model.tokenizer.quantize.codebook import kmeans
from recbole_r3vae.model.tokenizer.quantize.regularizers import preference_discrimination, semantic_cohesion
from recbole_r3vae.model.tokenizer.quantize.rotation import balanced_rotation

MODES = ["top1", "softmax", "ste"]


def rows(items):
    return torch.from_numpy(items.embeddings[1:])


def usage(model, items):
    codes = model.tokenize(rows(items))
    return [len(codes[:, level].unique()) / size for level, size in enumerate(model.codebook_sizes)]


# -- reference vector ----------------------------------------------------------------------------------------


def test_projection_splits_an_embedding_along_the_reference(catalogue, build):
    items = catalogue()
    model, x = build(items), rows(items)
    along, rest = model.project(x)
    r = model.reference.detach()
    torch.testing.assert_close(along + rest, x)
    torch.testing.assert_close(rest @ r, torch.zeros(len(x)), atol=1e-5, rtol=0)
    alpha = (x @ r) / (r @ r)
    torch.testing.assert_close(along, alpha.unsqueeze(1) * r)


def test_reference_starts_at_the_mean_and_leaves_no_common_direction(catalogue, build):
    items = catalogue()
    model, x = build(items), rows(items)
    model.initialise(items)
    torch.testing.assert_close(model.reference.detach(), x.mean(0))

    def mean_cosine(v):
        u = torch.nn.functional.normalize(v)
        return ((u.sum(0).square().sum() - len(u)) / (len(u) ** 2 - len(u))).item()

    assert mean_cosine(x) > 0.5
    assert abs(mean_cosine(model.project(x)[1])) < 0.02


def test_without_reference_the_embedding_itself_is_quantised(catalogue, build):
    items = catalogue()
    model, x = build(items, reference_vector=False), rows(items)
    out = model.quantize(x)
    assert model.reference is None and out.reference is None
    assert torch.equal(out.residuals[0], x)
    torch.testing.assert_close(out.reconstruction, out.quantized)


def test_a_zero_reference_gives_no_nan(catalogue, build):
    items = catalogue()
    model = build(items)
    torch.nn.init.zeros_(model.reference)
    sum(model.calculate_loss({"item_emb": rows(items)})).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


# -- initialisation ------------------------------------------------------------------------------------------


def test_initialise_runs_kmeans_on_the_projected_embeddings(catalogue, build):
    items = catalogue()
    model = build(items)
    model.initialise(items)
    _, e0 = model.project(rows(items))
    expected = kmeans(e0.detach().numpy(), 16, 25, seed=2020)
    np.testing.assert_allclose(model.quantizer.levels[0].codebook.weight.detach(), expected, atol=1e-5)


def test_initialise_reads_a_sample_of_large_catalogues_only(catalogue, build, monkeypatch):
    items = catalogue(1100)
    asked = []
    sample = items.sample
    monkeypatch.setattr(items, "sample", lambda n, seed: asked.append((n, seed)) or sample(n, seed))
    build(items, codebook_sizes=[2, 4]).initialise(items)
    assert asked == [(1024, 2020)]


def test_without_kmeans_codebooks_keep_their_seeded_random_start(catalogue, build):
    items = catalogue()
    model = build(items, kmeans_init=False)
    before = [level.codebook.weight.clone() for level in model.quantizer.levels]
    model.initialise(items)
    assert all(torch.equal(a, level.codebook.weight) for a, level in zip(before, model.quantizer.levels))
    torch.testing.assert_close(model.reference.detach(), rows(items).mean(0))


def test_kmeans_alone_uses_all_codes_and_tells_more_items_apart_than_chance(catalogue, build):
    items, unique = catalogue(), {}
    for start in (True, False):
        model = build(items, codebook_sizes=[32, 32, 32], kmeans_init=start)
        model.initialise(items)
        unique[start] = len(model.tokenize(rows(items)).unique(dim=0)) / 600
        if start:
            assert usage(model, items) == [1.0, 1.0, 1.0]
    assert unique[True] > 0.65 > unique[False]


# -- codes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_tokenize_gives_the_codes_of_quantize_whatever_the_chunks(catalogue, build, monkeypatch, mode):
    items = catalogue()
    model, x = build(items, rating_mode=mode, codebook_sizes=[8, 4, 16]), rows(items)
    model.initialise(items)
    codes = model.tokenize(x)
    assert codes.shape == (600, 3) and codes.dtype == torch.int64
    assert torch.equal(codes, model.quantize(x).codes)
    assert (codes >= 0).all() and (codes < torch.tensor([8, 4, 16])).all()
    monkeypatch.setattr(base, "TOKENIZE_ROWS", 37)
    assert torch.equal(codes, model.tokenize(x))


@pytest.mark.parametrize("sim", ["cosine", "dot"])
@pytest.mark.parametrize("mode", MODES)
def test_an_items_own_code_is_its_nearest_at_every_level(catalogue, build, mode, sim):
    items = catalogue()
    model, x = build(items, rating_mode=mode, rating_sim=sim, codebook_sizes=[8, 4, 16]), rows(items)
    model.initialise(items)
    codes = model.tokenize(x)
    for level, size in enumerate(model.codebook_sizes):
        distances = model.level_distances(x, level)
        assert distances.shape == (600, size) and not distances.requires_grad
        assert torch.equal(distances.argmin(-1), codes[:, level])


@pytest.mark.parametrize("mode", MODES)
def test_same_seed_same_codes_whatever_ran_before(catalogue, build, train, mode):
    items = catalogue()
    results = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        np.random.seed(noise)
        model = build(items, rating_mode=mode, decoder="mlp")
        model.initialise(items)
        train(model, items, epochs=2)
        results.append((model.tokenize(rows(items)), model.state_dict()))
    assert torch.equal(results[0][0], results[1][0])
    assert all(torch.equal(value, results[1][1][key]) for key, value in results[0][1].items())
    other = build(items, rating_mode=mode, seed=1)
    other.initialise(items)
    assert not torch.equal(other.tokenize(rows(items)), results[0][0])


def test_a_checkpoint_needs_the_dimension_only(catalogue, build, train):
    items = catalogue()
    model = build(items)
    model.initialise(items)
    train(model, items, epochs=2)

    class Dimension:
        dim = items.dim

    copy = build(Dimension())
    copy.load_state_dict(model.state_dict())
    assert torch.equal(copy.tokenize(rows(items)), model.tokenize(rows(items)))


# -- training ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings, n_terms",
    [
        ({}, 3),
        ({"reference_vector": False}, 3),
        ({"scale_by_norm": False}, 3),
        ({"rating_sim": "dot"}, 3),
        ({"rating_mode": "softmax"}, 3),
        ({"rating_mode": "softmax", "rating_sim": "dot"}, 3),
        ({"rating_mode": "ste"}, 5),
        ({"sc_weight": 0}, 2),
        ({"pd_weight": 0}, 2),
        ({"pd_on": "codewords"}, 3),
        ({"metric_space": "projected"}, 3),
        ({"decoder": "mlp"}, 3),
        ({"kmeans_init": False}, 3),
    ],
    ids=str,
)
def test_every_switch_trains(catalogue, build, train, settings, n_terms):
    items = catalogue()
    model = build(items, **settings)
    model.initialise(items)
    assert len(model.calculate_loss({"item_emb": rows(items)})) == n_terms
    history = train(model, items, epochs=5)
    assert history[-1] < history[0] - 1e-4


def test_the_loss_is_what_its_docstring_says(catalogue, build):
    items = catalogue()
    weights = {"sc_weight": 0.3, "pd_weight": 0.7, "codebook_weight": 2.0, "commitment_weight": 0.5}
    model, x = build(items, rating_mode="ste", **weights), rows(items)[:50]
    model.initialise(items)
    out, terms = model.quantize(x), model.calculate_loss({"item_emb": x})
    rest = x - out.reconstruction
    assert terms[0].item() == pytest.approx(sum(float(v @ v) for v in rest.detach()) / 50, rel=1e-5)
    levels = sum(
        (r - level.codebook.weight[out.codes[:, i]]).square().sum().item() / 50
        for i, (r, level) in enumerate(zip(out.residuals, model.quantizer.levels))
    )
    assert [terms[1].item(), terms[2].item()] == pytest.approx([2.0 * levels, 0.5 * levels], rel=1e-5)
    cohesion = base_cohesion(out.quantized.detach(), out.codes)
    assert terms[3].item() == pytest.approx(-0.3 * cohesion, rel=1e-4)


def base_cohesion(vectors, codes):
    """SC pair by pair."""
    cosines = torch.nn.functional.cosine_similarity(vectors[:, None], vectors[None], dim=-1)
    levels = []
    for level in range(1, codes.shape[1] + 1):
        means = []
        for prefix in codes[:, :level].unique(dim=0):
            members = (codes[:, :level] == prefix).all(1).nonzero().flatten()
            pairs = [cosines[i, j].item() for i in members for j in members if i < j]
            if pairs:
                means.append(sum(pairs) / len(pairs))
        if means:
            levels.append(sum(means) / len(means))
    return sum(levels) / len(levels)


def test_counts_tell_what_the_regularizers_rested_on(catalogue, build):
    items = catalogue()
    model, x = build(items), rows(items)[:64]
    model.initialise(items)
    model.calculate_loss({"item_emb": x})
    codes = model.tokenize(x)
    for level in range(3):
        sizes = codes[:, : level + 1].unique(dim=0, return_counts=True)[1]
        counts = {name: values[level].item() for name, values in model.last_regularizer_counts.items()}
        assert counts == {
            "sc_clusters": (sizes > 1).sum().item(),
            "sc_pairs": (sizes * (sizes - 1) // 2).sum().item(),
            "pd_clusters": len(sizes),
        }


@pytest.mark.parametrize("space, reached", [("quantized", True), ("projected", False)])
def test_metric_space_decides_whether_codebooks_feel_the_regularizers(catalogue, build, space, reached):
    items = catalogue()
    model = build(items, metric_space=space)
    model.initialise(items)
    sum(model.calculate_loss({"item_emb": rows(items)})[1:]).backward()
    assert model.reference.grad.abs().sum() > 0
    assert all((level.codebook.weight.grad is not None) == reached for level in model.quantizer.levels)


@pytest.mark.parametrize("regulariser", ["sc_weight", "pd_weight"])
@pytest.mark.parametrize("mode", MODES)
def test_each_regulariser_teaches_every_codebook_what_finite_differences_say(catalogue, build, mode, regulariser):
    """Moved a little, codewords keep their items: the term is differentiable in them, under ste as well."""
    items = catalogue(120)
    weights = {"sc_weight": 0.0, "pd_weight": 0.0, regulariser: 1.0}
    model, x = build(items, rating_mode=mode, codebook_sizes=[6, 5, 4], **weights), rows(items).double()
    model.initialise(items)
    model.double()

    def term():
        return model.calculate_loss({"item_emb": x})[-1]

    term().backward()
    generator = torch.Generator().manual_seed(0)
    for level in model.quantizer.levels:
        codewords, slope = level.codebook.weight, level.codebook.weight.grad
        assert (slope.norm(dim=-1) > 1e-6).all()  # all codes have items here
        direction = torch.randn(codewords.shape, generator=generator, dtype=torch.float64)
        ends = []
        for step in (1e-6, -2e-6):
            with torch.no_grad():
                codewords += step * direction
                ends.append(term())
        with torch.no_grad():
            codewords += 1e-6 * direction
        assert (slope * direction).sum().item() == pytest.approx((ends[0] - ends[1]).item() / 2e-6, rel=1e-4, abs=1e-8)


@pytest.mark.parametrize("regulariser", [1, 2])
def test_under_ste_the_reference_keeps_the_straight_through_gradient_of_the_regularisers(catalogue, build, regulariser):
    items = catalogue(120)
    model, x = build(items, rating_mode="ste", codebook_weight=0.0, commitment_weight=0.0, sc_weight=1.0, pd_weight=1.0), rows(items)
    model.initialise(items)
    model.calculate_loss({"item_emb": x})[2 + regulariser].backward()
    found, model.reference.grad = model.reference.grad, None
    out = model.quantize(x)  # nothing of it reaches a codeword
    if regulariser == 1:
        (-semantic_cohesion(out.quantized, out.codes)[0]).backward()
    else:
        preference_discrimination(out.quantized, out.codes)[0].backward()
    assert found.abs().sum() > 0
    torch.testing.assert_close(found, model.reference.grad)


@pytest.mark.parametrize("mode", MODES)
def test_zero_and_repeated_embeddings_train_without_nan(catalogue, build, train, mode):
    items = catalogue(100)
    items.embeddings[1:30] = 0.0
    items.embeddings[30:80] = items.embeddings[30]
    model = build(items, rating_mode=mode, decoder="mlp")
    model.initialise(items)
    assert np.isfinite(train(model, items, epochs=3)).all()
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
    assert len(model.tokenize(rows(items)[:29]).unique(dim=0)) == 1


def test_without_kmeans_rating_keeps_codes_alive_that_straight_through_loses(catalogue, build, train):
    items, used = catalogue(1000, 32), {}
    for mode in MODES:
        model = build(items, rating_mode=mode, kmeans_init=False, codebook_sizes=[48, 48, 48])
        model.initialise(items)
        train(model, items, epochs=12, learning_rate=1e-3)
        used[mode] = min(usage(model, items))
    # Softmax moves every codeword; top1 moves winners only and, in tight clusters, loses some.
    assert used["softmax"] > 0.75 and used["top1"] > 0.45 and used["ste"] < 0.3, used


# -- parallel layout -----------------------------------------------------------------------------------------


def parallel(build, items, **settings):
    """A parallel R3VAE with parts of 4, 4, 4, 3 and 3 dimensions and codebooks of as many sizes."""
    return build(items, **{"layout": "parallel", "codebook_sizes": [8, 7, 6, 5, 4], **settings})


def digit_by_digit(model, x):
    """The parallel layout item by item and digit by digit: codes, and what the codes and reference vectors give back ``[B, d]``."""
    rotation = torch.eye(x.shape[1]) if model.rotation is None else model.rotation
    codes, back = [], []
    for item in x:
        y, first, chosen, parts = rotation @ item, 0, [], []
        for level in model.quantizer.levels:
            codewords = level.codebook.weight.detach()
            part = y[first : first + codewords.shape[1]]
            along = torch.zeros_like(part)
            if model.reference is not None:
                r = model.reference.detach()[first : first + len(part)]
                along = (part @ r) / (r @ r) * r
            e = part - along
            cosines = [float(e @ c / (e.norm() * c.norm())) for c in codewords]
            if model.rating_mode == "ste":
                code = min(range(len(codewords)), key=lambda k: float((e - codewords[k]).norm()))
                q = codewords[code]
            elif model.rating_mode == "top1":
                code = max(range(len(codewords)), key=cosines.__getitem__)
                q = cosines[code] * e.norm() * codewords[code] / codewords[code].norm()
            else:
                code = max(range(len(codewords)), key=cosines.__getitem__)
                q = (torch.tensor(cosines) / model.temperature).softmax(0) @ codewords
            chosen.append(code)
            parts.append(along + q)
            first += len(part)
        codes.append(chosen)
        back.append(rotation.T @ torch.cat(parts))
    return torch.tensor(codes), torch.stack(back)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("settings", [{}, {"reference_vector": False}, {"rotation": "none"}], ids=str)
def test_a_parallel_layout_is_its_digits_one_by_one(catalogue, build, train, mode, settings):
    items = catalogue(120, 18)
    model = parallel(build, items, rating_mode=mode, **settings)
    model.initialise(items)
    train(model, items, epochs=2)
    assert model.ordered is False and [level.codebook.weight.shape[1] for level in model.quantizer.levels] == [4, 4, 4, 3, 3]
    out = model.quantize(rows(items))
    codes, back = digit_by_digit(model, rows(items))
    assert torch.equal(out.codes, codes)
    torch.testing.assert_close(out.reconstruction.detach(), back, atol=1e-5, rtol=1e-4)
    for level in range(5):
        assert torch.equal(model.level_distances(rows(items), level).argmin(-1), codes[:, level])


def test_parallel_residuals_are_the_whole_remainder(catalogue, build):
    """The space in which a report measures clusters of digits: one for all of them."""
    items = catalogue(120, 18)
    model = parallel(build, items)
    model.initialise(items)
    out, x = model.quantize(rows(items)), rows(items)
    assert len(out.residuals) == 5
    for residual in out.residuals:
        torch.testing.assert_close(residual @ model.rotation, x - out.reference @ model.rotation, atol=1e-5, rtol=1e-4)


def test_the_rotation_is_that_of_the_items_and_training_leaves_it_orthogonal(catalogue, build, train):
    items = catalogue(300, 18)
    model = parallel(build, items)
    model.initialise(items)
    start = model.rotation.clone()
    torch.testing.assert_close(start, balanced_rotation(rows(items), [4, 4, 4, 3, 3]))
    train(model, items, epochs=4, learning_rate=1e-2)
    assert torch.equal(model.rotation, start)
    torch.testing.assert_close(model.rotation @ model.rotation.T, torch.eye(18), atol=1e-5, rtol=0)


def test_each_part_has_a_reference_vector_of_its_own_which_starts_at_its_mean(catalogue, build):
    items = catalogue(300, 18)
    model, x = parallel(build, items), rows(items)
    model.initialise(items)
    torch.testing.assert_close(model.reference.detach(), (x @ model.rotation.T).mean(0), atol=1e-5, rtol=1e-4)
    _, rest = model.project(x)
    for part, r in zip(rest.split([4, 4, 4, 3, 3], dim=1), model.reference.split([4, 4, 4, 3, 3])):
        torch.testing.assert_close((part @ r).detach(), torch.zeros(300), atol=1e-5, rtol=0)


@pytest.mark.parametrize("mode", MODES)
def test_parallel_gradient_reaches_every_reference_vector_and_codebook(catalogue, build, mode):
    items = catalogue(300, 18)
    model = parallel(build, items, rating_mode=mode)
    model.initialise(items)
    sum(model.calculate_loss({"item_emb": rows(items)})).backward()
    assert all(part.abs().max() > 1e-7 for part in model.reference.grad.split([4, 4, 4, 3, 3]))
    assert all((level.codebook.weight.grad.norm(dim=-1) > 1e-7).all() for level in model.quantizer.levels)


@pytest.mark.parametrize("mode", MODES)
def test_one_part_without_a_rotation_is_one_level(catalogue, build, train, mode):
    items, made = catalogue(), []
    for layout in ("residual", "parallel"):
        model = build(items, layout=layout, rotation="none", codebook_sizes=[16], rating_mode=mode)
        model.initialise(items)
        made.append((train(model, items, epochs=3), model.state_dict(), model.tokenize(rows(items)), model.quantize(rows(items))))
    (history, weights, codes, out), (other_history, other_weights, other_codes, other_out) = made
    assert history == other_history and torch.equal(codes, other_codes)
    assert weights.keys() == other_weights.keys() and all(torch.equal(weights[key], other_weights[key]) for key in weights)
    assert torch.equal(out.reconstruction, other_out.reconstruction)


def test_parallel_regularisers_are_of_the_clusters_of_each_digit(catalogue, build):
    items = catalogue(120, 18)
    model, x = parallel(build, items, sc_weight=0.3, pd_weight=0.7), rows(items)
    model.initialise(items)
    terms, out = model.calculate_loss({"item_emb": x}), model.quantize(x)
    cohesion = sum(base_cohesion(out.quantized.detach(), out.codes[:, [digit]]) for digit in range(5)) / 5
    separation = sum(preference_discrimination(out.quantized, out.codes[:, [digit]])[0].item() for digit in range(5)) / 5
    assert [terms[1].item(), terms[2].item()] == pytest.approx([-0.3 * cohesion, 0.7 * separation], rel=1e-4)
    assert model.last_regularizer_counts["pd_clusters"].tolist() == [len(column.unique()) for column in out.codes.unbind(1)]


def test_a_parallel_checkpoint_holds_the_rotation(catalogue, build, train):
    items = catalogue(120, 18)
    model = parallel(build, items)
    model.initialise(items)
    train(model, items, epochs=1)
    copy = parallel(build, items)
    copy.load_state_dict(model.state_dict())
    assert torch.equal(copy.tokenize(rows(items)), model.tokenize(rows(items)))
    assert "rotation" not in build(items).state_dict()  # a residual checkpoint is what it was


# -- long codes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["residual", "parallel"])
def test_sixteen_codes_keep_their_codebooks_in_use(catalogue, build, train, layout):
    items = catalogue(1000, 64)
    model = build(items, layout=layout, codebook_sizes=[16] * 16)
    model.initialise(items)
    train(model, items, epochs=10)
    assert min(usage(model, items)) == 1.0
    for column in model.tokenize(rows(items)).unbind(1):
        shares = torch.bincount(column, minlength=16) / 1000
        assert (-(shares * shares.clamp_min(1e-12).log()).sum()).exp() > 0.6 * 16  # perplexity: no level falls to a few codes


def test_longer_residual_codes_reconstruct_better(catalogue, build, train):
    items, errors = catalogue(1000, 64), []
    for n_levels in (4, 8, 16):
        model = build(items, codebook_sizes=[16] * n_levels)
        model.initialise(items)
        train(model, items, epochs=5)
        errors.append((rows(items) - model.quantize(rows(items)).reconstruction).square().sum(-1).mean().item())
    assert errors[1] < 0.9 * errors[0] and errors[2] < 0.9 * errors[1]


def test_metrics_rest_on_the_first_levels_alone(catalogue, build):
    items = catalogue()
    model, x = build(items, codebook_sizes=[8] * 6, sc_weight=0.3, pd_weight=0.7, metric_levels=2), rows(items)[:100]
    model.initialise(items)
    terms, out = model.calculate_loss({"item_emb": x}), model.quantize(x)
    assert terms[1].item() == pytest.approx(-0.3 * semantic_cohesion(out.quantized, out.codes[:, :2])[0].item(), rel=1e-5)
    assert terms[2].item() == pytest.approx(0.7 * preference_discrimination(out.quantized, out.codes[:, :2])[0].item(), rel=1e-5)
    assert all(len(counts) == 2 for counts in model.last_regularizer_counts.values())


@pytest.mark.parametrize("n_levels", [1, 3, 4])
def test_short_codes_are_what_they_were(catalogue, build, train, n_levels):
    """Bit for bit those of all levels' metrics; and of five levels, the fifth is left out."""
    items, made = catalogue(), []
    for more in ({}, {"metric_levels": 100}):
        model = build(items, codebook_sizes=[8] * n_levels, **more)
        model.initialise(items)
        made.append((train(model, items, epochs=3), model.tokenize(rows(items))))
    assert made[0][0] == made[1][0] and torch.equal(made[0][1], made[1][1])
    model = build(items, codebook_sizes=[8] * 5)
    model.calculate_loss({"item_emb": rows(items)})
    assert len(model.last_regularizer_counts["sc_pairs"]) == 4


# -- settings ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"rating_mode": "top2"}, ["rating_mode", "'top2'", "did you mean 'top1'", "softmax"]),
        ({"rating_sim": "l2"}, ["rating_sim", "'l2'", "cosine or dot"]),
        ({"metric_space": "raw"}, ["metric_space", "quantized or projected"]),
        ({"pd_on": "centers"}, ["pd_on", "did you mean 'centres'"]),
        ({"decoder": "linear"}, ["decoder", "identity or mlp"]),
        ({"layout": "product"}, ["layout", "residual or parallel"]),
        ({"rotation": "opq"}, ["rotation", "balanced or none"]),
        ({"metric_levels": 0}, ["metric_levels", "0"]),
        ({"layout": "parallel", "prefix_grouped_batches": True}, ["prefix_grouped_batches", "parallel", "set it to False"]),
        ({"layout": "parallel", "codebook_sizes": [8] * 6}, ["6 digits", "16 dimensions", "parts of 2", "at most 5"]),
        ({"layout": "parallel", "codebook_sizes": [8] * 9, "reference_vector": False}, ["9 digits", "parts of 1", "at most 8"]),
        ({"rating_temperature": 0}, ["rating_temperature", "0", "above 0"]),
        ({"codebook_sizes": 256}, ["codebook_sizes", "256", "a list"]),
        ({"codebook_sizes": []}, ["codebook_sizes", "[]"]),
        ({"codebook_sizes": [256, 1]}, ["codebook_sizes", "[256, 1]", "from 2"]),
        ({"codebook_sizes": [256, 8.5]}, ["codebook_sizes", "8.5"]),
    ],
    ids=str,
)
def test_bad_settings_are_named(catalogue, build, settings, words):
    with pytest.raises(UserError) as error:
        build(catalogue(), **settings)
    assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize("kmeans_init", [True, False])
def test_a_codebook_larger_than_the_catalogue_is_refused(catalogue, build, kmeans_init):
    items = catalogue(40)
    with pytest.raises(UserError, match=r"codebook_sizes is \[16, 41\].*only 40 items"):
        build(items, codebook_sizes=[16, 41], kmeans_init=kmeans_init).initialise(items)
    build(items, codebook_sizes=[16, 40], kmeans_init=kmeans_init).initialise(items)


@pytest.mark.parametrize("mode", ["top1", "softmax"])
def test_what_removing_a_regulariser_does(catalogue, build, train, mode):
    """The paper's ablation: without SC cohesion falls and separation stays; without PD separation is lost and cohesion does not fall."""
    items = catalogue()

    def scores(**weights):
        model = build(items, rating_mode=mode, codebook_sizes=[8, 8], **{"sc_weight": 0.1, "pd_weight": 0.1, **weights})
        model.initialise(items)
        train(model, items, epochs=60, learning_rate=5e-3)
        with torch.no_grad():
            out = model.eval().quantize(rows(items))
        return [score(out.quantized, out.codes)[0].item() for score in (semantic_cohesion, preference_discrimination)]

    sc, pd = scores()
    sc_without_sc, pd_without_sc = scores(sc_weight=0.0)
    sc_without_pd, pd_without_pd = scores(pd_weight=0.0)
    assert sc_without_sc < sc - 0.03 and abs(pd_without_sc - pd) < 0.05
    assert pd_without_pd > pd + 0.5 and sc_without_pd > sc - 0.03
