"""MMQ: experts, gates, codes and every term of the loss by their definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recbole_r3vae.data.content import ItemContent
from recbole_r3vae.data.items import ItemVectors
from recbole_r3vae.errors import UserError
from recbole_r3vae.model.tokenizer.quantize.assign import NearestDirection
from recbole_r3vae.model.tokenizer.quantize.codebook import Codebook

SMALL = {
    "codebook_sizes": [12, 10, 8, 9, 11, 7], "shared_experts": 2, "latent_dim": 6, "gate_hidden_sizes": [5], "decoder_hidden_sizes": [9], "epochs": 1,
    "codebook_learning": "loss", "kmeans_init": False, "ema_decay": 0.99,
}  # fmt: skip


def two_modalities(n=300, widths=(8, 5), seed=0) -> ItemVectors:
    """Items of unit vectors in each modality, which share some of what they are in."""
    random = np.random.default_rng(seed)
    shared = random.normal(size=(6, max(widths)))[random.integers(6, size=n)]
    parts = []
    for width in widths:
        x = 1.5 * shared[:, :width] + random.normal(size=(5, width))[random.integers(5, size=n)] + 0.2 * random.normal(size=(n, width))
        parts.append(x / np.linalg.norm(x, axis=1, keepdims=True))
    embeddings = np.concatenate([np.zeros((1, sum(widths))), np.concatenate(parts, 1)]).astype(np.float32)
    bounds = np.cumsum([0, *widths]).tolist()
    columns = {f"m{number}": slice(*pair) for number, pair in enumerate(zip(bounds, bounds[1:]))}
    return ItemVectors(ItemContent(embeddings, ["[PAD]", *(f"i{k}" for k in range(n))], {"kind": "test"}, "", parts=columns))


@pytest.fixture(scope="module")
def items():
    return two_modalities()


@pytest.fixture
def mmq(tokenizer, items):
    def make(**settings):
        return tokenizer("MMQ", items, **{**SMALL, **settings})

    return make


def rows(items, n=40):
    return torch.from_numpy(items.embeddings[1 : n + 1])


def by_hand(model, x: torch.Tensor, widths=(8, 5), n_shared=2):
    """Everything of one item [d], by the formulas, in loops; experts and gates are called, nothing else of the model is."""
    parts = [x[: widths[0]], x[widths[0] :]]
    reads = [x] * n_shared + [parts[0]] * 2 + [parts[1]] * 2
    z = [expert(read[None])[0] for expert, read in zip(model.experts, reads)]
    gates = []
    for gate, part in zip(model.gates, parts):
        scores = gate(part[None])[0].exp()
        gates.append(scores / scores.sum())
    weights = [1.0] * n_shared + [gates[0][0], gates[0][1], gates[1][0], gates[1][1]]
    codes = []
    for vector, level in zip(z, model.levels):
        cosines = [(vector @ c / (vector.norm() * c.norm())).item() for c in level.codebook.weight]
        codes.append(max(range(len(cosines)), key=cosines.__getitem__))
    codewords = [level.codebook.weight[code] for level, code in zip(model.levels, codes)]
    return z, weights, codes, codewords


def test_codes_gates_and_sums_by_their_definitions(mmq, items):
    model, x = mmq(), rows(items)
    out = model.mixture(x)
    for row in range(12):
        z, weights, codes, codewords = by_hand(model, x[row])
        assert out.codes[row].tolist() == codes
        torch.testing.assert_close(out.weights[row], torch.stack([torch.as_tensor(w) for w in weights]))
        quantized = sum(w * c for w, c in zip(weights, codewords))
        torch.testing.assert_close(out.latent[row], sum(w * v for w, v in zip(weights, z)))
        torch.testing.assert_close(out.quantized[row], quantized)
        torch.testing.assert_close(out.reconstruction[row], model.decoder(quantized[None])[0])
        own = [sum(weights[i] * codewords[i] for i in pair) for pair in ((2, 3), (4, 5))]
        torch.testing.assert_close(out.auxiliary[row], torch.cat([d(q[None])[0] for d, q in zip(model.decoders, own)]))


def test_gates_weigh_the_specific_experts_of_their_modality_alone(mmq, items):
    model, x = mmq(), rows(items)
    with torch.no_grad():
        before = model.gate_weights(x)
        model.gates[1][-1].bias += torch.tensor([3.0, 0.0])
        after = model.gate_weights(x)
    assert torch.equal(before[:, :4], after[:, :4])
    assert (after[:, 4] > before[:, 4]).all() and torch.allclose(after[:, 4:].sum(1), torch.ones(len(x)))
    assert torch.equal(after[:, :2], torch.ones(len(x), 2))


def test_the_terms_of_the_loss_by_their_definitions(mmq, items):
    model, x = mmq(), rows(items, 7)
    losses, out = model.losses(x), model.mixture(x)
    expected = dict.fromkeys(("reconstruction", "auxiliary", "codebook", "commitment"), 0.0)
    for row in range(7):
        z, weights, _, codewords = by_hand(model, x[row])
        quantized = sum(w * c for w, c in zip(weights, codewords))
        expected["reconstruction"] += (x[row] - model.decoder(quantized[None])[0]).square().sum().item() / 7
        for columns, pair, decoder in zip((slice(0, 8), slice(8, 13)), ((2, 3), (4, 5)), model.decoders):
            own = sum(weights[i] * codewords[i] for i in pair)
            expected["auxiliary"] += (x[row, columns] - decoder(own[None])[0]).square().sum().item() / 7
        squared = sum((v - c).square().sum().item() for v, c in zip(z, codewords)) / 7
        expected["codebook"] += squared
        expected["commitment"] += squared
    for term, value in expected.items():
        assert losses[term].item() == pytest.approx(value, rel=1e-4), term
    weights = {"reconstruction": 12.0, "auxiliary": 10.0, "orthogonality": 0.005, "commitment": 0.25, "codebook": 1.0}
    weighted = [weight * losses[term].item() for term, weight in weights.items()]
    assert [loss.item() for loss in model.calculate_loss({"item_emb": x})] == pytest.approx(weighted)
    assert out.codes.shape == (7, 6)


@pytest.mark.parametrize("hidden", [[], [4]])
def test_the_orthogonality_term_by_its_definition(mmq, hidden):
    model = mmq(expert_hidden_sizes=hidden)

    def terms() -> list[float]:
        found = []
        for group in ((0, 1), (2, 3), (4, 5)):
            flat = [torch.cat([layer.weight.detach().flatten() for layer in model.experts[i] if hasattr(layer, "weight")]) for i in group]
            products = [float(torch.cosine_similarity(a, b, dim=0)) - float(a is b) for a in flat for b in flat]
            found.append(sum(product**2 for product in products))
        return found

    assert model.orthogonality().item() == pytest.approx(sum(terms()), rel=1e-4)
    with torch.no_grad():
        for own, other in zip(model.experts[2].parameters(), model.experts[3].parameters()):
            other.copy_(2 * own)
    assert terms()[1] == pytest.approx(2.0, abs=1e-5)  # two experts that are one: the most there can be
    assert model.orthogonality().item() == pytest.approx(sum(terms()), rel=1e-4)


def test_gradients_reach_every_expert_gate_and_chosen_codeword(mmq, items):
    model, x = mmq(), rows(items)
    sum(model.calculate_loss({"item_emb": x})).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
    codes = model.mixture(x).codes
    for level, chosen in zip(model.levels, codes.unbind(1)):
        moved = level.codebook.weight.grad.abs().sum(1) > 0
        assert moved.nonzero().flatten().tolist() == chosen.unique().tolist()


def test_printed_terms_alone_leave_codewords_without_a_gradient(mmq, items):
    """Which is why there is a codebook term."""
    model, x = mmq(codebook_weight=0.0), rows(items)
    sum(model.calculate_loss({"item_emb": x})).backward()
    assert all(level.codebook.weight.grad.abs().sum() == 0 for level in model.levels)


def test_the_auxiliary_term_is_of_the_specific_experts_alone(mmq, items):
    model, x = mmq(), rows(items)
    model.losses(x)["auxiliary"].backward()
    assert all(p.grad is None or not p.grad.any() for expert in model.experts[:2] for p in expert.parameters())
    assert all(p.grad.abs().sum() > 0 for expert in model.experts[2:] for p in expert.parameters())


@pytest.mark.parametrize("temperature", [0.05, 1.0])
def test_soft_codes_are_the_codes_forward_and_the_softmax_backward(mmq, items, temperature):
    model, x = mmq(), rows(items)
    soft, codes = model.soft_codes(x, temperature), model.tokenize(x)
    generator = torch.Generator().manual_seed(1)
    for level, (index, size) in enumerate(zip(soft, SMALL["codebook_sizes"])):
        assert torch.equal(index, torch.nn.functional.one_hot(codes[:, level], size).float())
        table = torch.randn(size, generator=generator)
        parameters = [*model.experts[level].parameters(), model.levels[level].codebook.weight]
        grads = torch.autograd.grad((index @ table).sum(), parameters)
        z = model.experts[level](x[:, model.columns[level]])
        cosines = torch.cosine_similarity(z[:, None], model.levels[level].codebook.weight[None], dim=-1)
        expected = torch.autograd.grad(((cosines / temperature).softmax(-1) @ table).sum(), parameters)
        for grad, other in zip(grads, expected):
            torch.testing.assert_close(grad, other, rtol=1e-3, atol=1e-5)
            assert grad.abs().sum() > 0


def test_nearest_direction_ignores_lengths():
    generator = torch.Generator().manual_seed(0)
    level = NearestDirection(Codebook(9, 4, generator))
    x = torch.randn(30, 4, generator=generator)
    with torch.no_grad():
        level.codebook.weight.mul_(torch.linspace(0.1, 5, 9)[:, None])
    codes, q = level(x)
    assert codes.tolist() == [int(torch.cosine_similarity(row[None], level.codebook.weight).argmax()) for row in x]
    assert torch.equal(q, level.codebook.weight[codes]) and torch.equal(codes, level(7 * x)[0])


def test_euclidean_codes_are_the_nearest_codewords(mmq, items):
    model, x = mmq(assign_by="euclidean"), rows(items)
    out = model.mixture(x)
    for level, (z, codes) in enumerate(zip(out.entered, out.codes.unbind(1))):
        assert codes.tolist() == torch.cdist(z, model.levels[level].codebook.weight).argmin(1).tolist()


def test_distances_of_a_level_are_smallest_at_its_own_code(mmq, items):
    model, x = mmq(), rows(items)
    codes = model.tokenize(x)
    for level in range(6):
        assert torch.equal(model.level_distances(x, level).argmin(1), codes[:, level])


def test_experts_are_dealt_to_modalities_in_their_order(tokenizer):
    three = two_modalities(widths=(4, 3, 6))
    model = tokenizer("MMQ", three, **{**SMALL, "codebook_sizes": [8] * 7, "shared_experts": 1})
    assert [(c.start, c.stop) for c in model.columns] == [(0, 13), (0, 4), (0, 4), (4, 7), (4, 7), (7, 13), (7, 13)]
    assert [list(group) for group in model.groups] == [[0], [1, 2], [3, 4], [5, 6]]
    none = tokenizer("MMQ", three, **{**SMALL, "codebook_sizes": [8] * 3, "shared_experts": 0})
    assert [list(group) for group in none.groups] == [[0], [1], [2]]
    sum(none.calculate_loss({"item_emb": rows(three)})).backward()
    assert none.gate_weights(rows(three)).tolist() == [[1.0, 1.0, 1.0]] * 40


def test_what_it_refuses(tokenizer, items):
    with pytest.raises(UserError, match="item content has one modality, m0"):
        tokenizer("MMQ", two_modalities(widths=(8,)), **SMALL)
    for sizes, shared in (([8] * 5, 2), ([8] * 2, 2), ([8] * 3, 0)):
        with pytest.raises(UserError, match=f"codebook_sizes has {len(sizes)} entries.*shared_experts {shared}.*a multiple of 2"):
            tokenizer("MMQ", items, **{**SMALL, "codebook_sizes": sizes, "shared_experts": shared})
    with pytest.raises(UserError, match="assign_by is 'l2'; give cosine or euclidean"):
        tokenizer("MMQ", items, **{**SMALL, "assign_by": "l2"})
    model = tokenizer("MMQ", items, **{**SMALL, "codebook_sizes": [400] * 6})
    with pytest.raises(UserError, match="only 300 items"):
        model.initialise(items)


def test_kmeans_starts_codebooks_from_what_the_experts_make(mmq, items):
    model = mmq(kmeans_init=True)
    before = [level.codebook.weight.clone() for level in model.levels]
    x = rows(items, 300)
    error = model.losses(x)["codebook"].item()
    model.initialise(items)
    assert all(not torch.equal(level.codebook.weight, old) for level, old in zip(model.levels, before))
    assert model.losses(x)["codebook"].item() < 0.5 * error
    drawn = mmq()
    drawn.initialise(items)
    assert all(torch.equal(level.codebook.weight, old) for level, old in zip(drawn.levels, before))


def test_training_lowers_the_loss_and_equal_seeds_give_equal_codes(mmq, items, train):
    history, codes = [], []
    for _ in range(2):
        torch.manual_seed(0)
        model = mmq()
        history.append(train(model, items, epochs=15, learning_rate=5e-3))
        codes.append(model.tokenize(rows(items, 300)))
    assert history[0][-1] < 0.5 * history[0][0] and history[0] == history[1]
    assert torch.equal(*codes) and not model.ordered


def test_running_means_move_after_a_training_step_alone(mmq, items):
    model, x = mmq(codebook_learning="ema", restart_below=0.0), rows(items)
    before = [level.codebook.weight.clone() for level in model.levels]
    out = model.mixture(x)
    model.eval()
    model.calculate_loss({"item_emb": x})
    model.after_step({})
    assert all(torch.equal(level.codebook.weight, old) for level, old in zip(model.levels, before))
    model.train()
    assert len(model.calculate_loss({"item_emb": x})) == 4  # no codebook term
    assert all(torch.equal(level.codebook.weight, old) for level, old in zip(model.levels, before))
    model.after_step({})
    for number, (level, old) in enumerate(zip(model.levels, before)):
        codes = out.codes[:, number]
        for k in range(len(old)):
            own = out.entered[number][codes == k]
            count, total = 0.99 + 0.01 * len(own), 0.99 * old[k] + 0.01 * own.sum(0)
            torch.testing.assert_close(level.codebook.weight[k], total / count)


@pytest.mark.parametrize(("term", "moves"), [("codebook", "levels"), ("commitment", "experts")])
def test_each_pull_moves_one_side_alone(mmq, items, term, moves):
    model = mmq()
    model.losses(rows(items))[term].backward()
    for name, parameter in model.named_parameters():
        moved = parameter.grad is not None and bool(parameter.grad.any())
        assert moved == name.startswith(moves), name
