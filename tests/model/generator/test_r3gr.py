"""R3GR: what it is trained on is what it decodes, and padding and the future have no say."""

from __future__ import annotations

import pytest
import torch
from recbole.data.interaction import Interaction

from recbole_r3vae.config import Config
from recbole_r3vae.config.sources import load_yaml, properties
from recbole_r3vae.data.sequences import TARGET_LIST_FIELD
from recbole_r3vae.errors import UserError
from recbole_r3vae.model.contract import SHARED, UNIQUE, Needs
from recbole_r3vae.model.generator import r3gr as r3gr_module
from recbole_r3vae.model.generator.decoding.vectors import SummedCodes
from recbole_r3vae.model.generator.r3gr import R3GR
from recbole_r3vae.model.parameters import check_parameters


def first_rows(dataset, n=16) -> Interaction:
    return dataset.inter_feat[list(range(n))]


def as_windows(rows: Interaction) -> Interaction:
    """Evaluation rows as training windows whose only target is the item asked for."""
    target = torch.zeros_like(rows["item_id_list"])
    target[torch.arange(len(target)), rows["item_length"] - 1] = rows["item_id"]
    return Interaction({"item_id_list": rows["item_id_list"], "item_length": rows["item_length"], TARGET_LIST_FIELD: target})


SWITCHES = [{}, {"encoder": "hstu"}, {"tied_heads": True}, {"item_inputs": ["codes", "text", "id"]}, {"item_inputs": ["text"]}]


@pytest.mark.parametrize("sizes", [(4, 50), (6, 6, 6), (3, 3, 3, 3, 3)])
@pytest.mark.parametrize("switches", [*SWITCHES, {"n_decoder_layers": 2}], ids=str)
def test_loss_is_the_negative_log_probability_of_the_item(build, sizes, switches):
    _, model, _, _, test = build(sizes, **switches)
    rows = first_rows(test)
    assert torch.allclose(model.calculate_loss(as_windows(rows)), -model.predict(rows).mean(), atol=1e-5)


def test_loss_of_a_window_is_the_mean_over_its_targets(build):
    _, model, train, _, _ = build()
    window = first_rows(train, 1)
    history, targets = window["item_id_list"][0], window[TARGET_LIST_FIELD][0]
    scores = []
    for position in targets.nonzero().flatten().tolist():
        prefix = torch.where(torch.arange(len(history)) <= position, history, 0)
        rows = {"item_id_list": prefix[None], "item_length": torch.tensor([position + 1]), "item_id": targets[position, None]}
        scores.append(model.predict(Interaction(rows)))
    assert torch.allclose(model.calculate_loss(window), -torch.cat(scores).mean(), atol=1e-5)


def test_scores_are_a_distribution_over_code_tuples(build):
    """Over all tuples, existing or not, the probabilities sum to one; so a beam's score is never renormalised."""
    _, model, _, _, test = build((3, 4, 2))
    rows = first_rows(test, 1)
    total = 0.0
    for codes in torch.cartesian_prod(torch.arange(3), torch.arange(4), torch.arange(2)):
        model.codes[1] = codes
        total += float(model.predict(Interaction({**rows.interaction, "item_id": torch.tensor([1])})).exp())
    assert total == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_padding_and_batch_mates_do_not_matter(build, switches):
    _, model, _, _, test = build(**switches)
    rows = first_rows(test)
    rows["item_length"][::2] = 3
    rows["item_id_list"][::2, 3:] = 0
    together = model.predict(rows)
    alone = torch.cat([model.predict(rows[[i]]) for i in range(len(rows))])
    assert torch.allclose(together, alone, atol=1e-5)


@pytest.mark.parametrize("encoder", ["transformer", "hstu"])
def test_a_position_does_not_see_the_future(build, encoder):
    _, model, _, _, test = build(encoder=encoder)
    items = first_rows(test)["item_id_list"]
    changed = items.clone()
    changed[:, 6:] = changed[:, 6:].flip(0).clamp(min=1)
    real = lambda x: model.encode(x)[0].view(len(x), -1, 16)  # every row of the fixture is full  # noqa: E731
    assert torch.allclose(real(items)[:, :6], real(changed)[:, :6], atol=1e-6)
    assert not torch.allclose(real(items)[:, 6:], real(changed)[:, 6:], atol=1e-3)


@pytest.mark.parametrize("share", [True, False])
def test_a_wide_beam_is_exhaustive_search(build, share):
    sizes = (4, 5, 6) if share else (6, 6, 6)
    _, model, train, _, test = build(sizes, share=share, num_beams=1000)
    rows = first_rows(test, 8)
    items, scores = model.recommend(rows, 20)
    for row in range(len(rows)):
        one = rows[[row] * (train.item_num - 1)]
        one["item_id"] = torch.arange(1, train.item_num)
        exact = model.predict(one)
        assert torch.allclose(scores[row], exact.sort(descending=True).values[:20], atol=1e-5)
        assert torch.allclose(scores[row], exact[items[row] - 1], atol=1e-5)
        assert len(set(items[row].tolist())) == 20


def test_every_named_input_and_no_other_changes_an_item(build):
    for inputs in (["codes"], ["text"], ["id"], ["codes", "text", "id"]):
        _, model, *_ = build(item_inputs=inputs)
        before = model.items(torch.tensor([1, 2]))
        vectors, tokens = model.items, model.tokens.clone()
        for name, change in {
            "codes": lambda: vectors.tokens[1].copy_(tokens[(tokens != tokens[1]).all(1).nonzero()[-1, 0]]),
            "text": lambda: hasattr(vectors, "content") and vectors.content[1].neg_(),
            "id": lambda: hasattr(vectors, "id_embedding") and vectors.id_embedding.weight.data[1].neg_(),
        }.items():
            with torch.no_grad():
                change()
            after = model.items(torch.tensor([1, 2]))
            assert torch.equal(before[1], after[1])
            assert torch.equal(before[0], after[0]) == (name not in inputs)
            before = after


def test_hidden_codes_and_ids_are_those_of_training(build):
    _, model, *_ = build(item_inputs=["codes", "id"], sid_dropout=0.5, id_dropout=0.5)
    items = torch.ones(4000, dtype=torch.int64)
    assert torch.equal(model.items(items), model.items(items))
    hidden = {}
    for name in ("id", "code"):
        table = getattr(model.items, f"{name}_embedding")
        table.register_forward_pre_hook(lambda module, given, name=name: hidden.update({name: given[0] == 0}))
    model.train().items(items)
    assert 0.45 < hidden["id"].float().mean() < 0.55
    assert all(0.45 < share < 0.55 for share in hidden["code"].float().mean(0).tolist())
    assert not torch.equal(hidden["id"], hidden["code"][:, 0])


def test_tied_heads_are_the_code_embedding(build):
    _, free, *_ = build()
    _, tied, *_ = build(tied_heads=True)
    count = lambda model: sum(p.numel() for p in model.parameters())  # noqa: E731
    assert count(free) - count(tied) == free.n_tokens * 16
    x = torch.randn(5, 16)
    for level, (first, size) in enumerate(zip((1, 7, 13), (6, 6, 6))):
        assert torch.allclose(tied._logits(x, level), x @ tied.items.code_embedding.weight[first : first + size].T, atol=1e-6)


@pytest.mark.parametrize(
    "keys, message",
    [
        ({"item_inputs": ["codes", "texts"]}, "item_inputs.*texts.*did you mean 'text'.*codes, text, id"),
        ({"item_inputs": []}, "item_inputs"),
        ({"item_inputs": ["codes", "codes"]}, "item_inputs"),
        ({"item_inputs": "codes"}, "item_inputs"),
        ({"encoder": "hstuu"}, "did you mean.*hstu"),
        ({"sid_dropout": 1.0}, "sid_dropout is 1.0"),
        ({"id_dropout": -0.1}, "id_dropout is -0.1"),
        ({"tied_heads": 1}, "tied_heads is 1"),
        ({"label_smoothing": 1.5}, "label_smoothing is 1.5"),
        ({"n_heads": 3}, "n_heads is 3 and hidden_size 16"),
    ],
    ids=str,
)
def test_settings_out_of_range_are_named(tiny_settings, keys, message):
    with pytest.raises(UserError, match=message):
        config = Config("R3GR", "tiny", config_dict={**tiny_settings, **keys})
        check_parameters(R3GR.hyperparameters, config)
        R3GR.check(config)


@pytest.mark.parametrize(
    "inputs, content, name",
    [
        (["codes"], None, "R3GR"),
        (["codes", "text"], ("text",), "R3GR"),
        (["codes", "text", "id"], ("text",), "R3GR-hybrid"),
        (["image", "text", "id"], ("image", "text"), "R3GR-hybrid"),
    ],
)
def test_what_it_says_of_itself(inputs, content, name):
    config = {**load_yaml(properties() / "model" / "R3GR.yaml"), "item_inputs": inputs}
    config |= {"content_encoder": {"text": "tfidf-svd", "image": "file"}, "topk": [10], "metrics": ["NDCG"]}
    check_parameters(R3GR.hyperparameters, config)
    R3GR.check(config)
    assert R3GR.needs(config) == Needs(semantic_ids=UNIQUE, content=content)
    assert R3GR.result_name(config) == name and R3GR.loss_name(config) == "NLL of semantic ID"


def test_any_modality_is_read_through_one_layer(build):
    """The dataset holds the columns that were asked for, whatever they are called."""
    _, image, *_ = build(item_inputs=["codes", "image"], content_encoder={"text": "tfidf-svd", "image": {"encoder": "file", "file": "i.npy"}})
    _, text, *_ = build(item_inputs=["codes", "text"])
    items = torch.tensor([1, 2, 3])
    assert torch.equal(image.items(items), text.items(items)) and image.items.content.shape[1] == 12


def test_full_sort_predict_scatters_the_beam(build):
    _, model, train, _, test = build()
    rows = first_rows(test, 4)
    full = model.full_sort_predict(rows)
    items, scores = model.recommend(rows, 30)
    assert full.shape == (4, train.item_num)
    assert torch.equal(full.gather(1, items), scores)
    assert torch.isfinite(full).sum(1).tolist() == [30] * 4


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("cells", [1, 2000, 2**25])
def test_exact_scoring_is_the_log_probability_of_every_item(build, monkeypatch, share, cells):
    monkeypatch.setattr("recbole_r3vae.model.heads.EXACT_CELLS", cells)
    _, model, train, _, test = build((4, 5, 6) if share else (6, 6, 6), share=share, num_beams="exact")
    rows = first_rows(test, 5)
    full = model.full_sort_predict(rows)
    for row in range(5):
        one = rows[[row] * (train.item_num - 1)]
        one["item_id"] = torch.arange(1, train.item_num)
        assert torch.allclose(full[row, 1:], model.predict(one), atol=1e-5)
    allowed = torch.zeros(5, train.item_num, dtype=torch.bool)
    for row in range(5):
        allowed[row, 10 + row : 30 + row] = True
    items, _ = model.recommend(rows, 20, allowed=allowed)
    assert [sorted(user) for user in items.tolist()] == [list(range(10 + row, 30 + row)) for row in range(5)]


def test_allowed_items_only(build):
    _, model, train, _, test = build()
    allowed = torch.zeros(train.item_num, dtype=torch.bool)
    allowed[10:40] = True
    items, _ = model.recommend(first_rows(test, 4), 10, allowed=allowed)
    assert allowed[items].all()


# -- the dense head, both heads and the prior --------------------------------------------------------------------------------------


DENSE = {"rank_by": "dense", "code_merge": "sum", "repeat_prior": True}


def with_odds(model):
    """Some log-odds, so that the prior does something."""
    with torch.no_grad():
        model.prior.scaled.copy_(torch.linspace(-0.04, 0.03, len(model.prior.scaled)))
    return model


def dense_scores(model, rows):
    """Every item's score by loops."""
    user = model.read(rows).user
    items = torch.arange(model.n_items)
    vectors = torch.stack([model.items(items[i : i + 1])[0] for i in items])
    scores = torch.nn.functional.normalize(user, dim=1) @ torch.nn.functional.normalize(vectors, dim=1).T / model.temperature
    for row, (history, length) in enumerate(zip(rows["item_id_list"].tolist(), rows["item_length"].tolist())):
        last = {item: place for place, item in enumerate(history[:length])}
        for item, place in last.items():
            scores[row, item] += model.prior.log_odds[model.prior.range_of(torch.tensor(length - place))]
    scores[:, 0] = -torch.inf
    return scores


@torch.no_grad()
@pytest.mark.parametrize("merge", ["sum", "concat"])
def test_the_dense_head_ranks_by_cosines_and_the_prior(build, merge):
    _, model, _, _, test = build(sizes=(6,) * 8, **{**DENSE, "code_merge": merge})
    rows, model = first_rows(test, 6), with_odds(model)
    assert set(model.heads) == {"dense"} and not hasattr(model, "decoder")
    scores = dense_scores(model, rows)
    items, found = model.recommend(rows, 20)
    assert torch.equal(items, scores.argsort(dim=1, descending=True, stable=True)[:, :20])
    assert torch.allclose(found, scores.sort(1, descending=True).values[:, :20], atol=1e-4)
    assert torch.allclose(model.predict(rows), scores.gather(1, rows["item_id"][:, None])[:, 0], atol=1e-4)


def test_the_dense_loss_is_the_cross_entropy_of_these_scores_at_every_position(build):
    _, model, train, *_ = build(sizes=(6,) * 8, dropout=0.0, **DENSE)
    model = with_odds(model)
    window = train.inter_feat[:3]
    losses = []
    for row in range(len(window)):
        history, targets = window["item_id_list"][row], window["target_item_list"][row]
        for place, target in enumerate(targets.tolist()):
            if target:
                prefix = Interaction({"item_id_list": history[None].clone(), "item_length": torch.tensor([place + 1])})
                prefix["item_id_list"][0, place + 1 :] = 0
                losses.append(-dense_scores(model, prefix)[0, 1:].log_softmax(0)[target - 1])
    expected = torch.stack(losses).mean() + model.prior.regularization()
    assert torch.allclose(model.calculate_loss(window), expected, atol=1e-4)


def test_the_gradient_of_the_sum_of_codes_is_that_of_pytorchs_bag(build):
    _, model, *_ = build(sizes=(6,) * 8, item_inputs=["codes"], **DENSE)
    table, weight = model.items.code_embedding.weight, torch.randn(model.n_items, 16)
    (model.items.catalogue()[1:] * weight[1:]).sum().backward()
    ours, table.grad = table.grad.clone(), None
    (model.items(torch.arange(1, model.n_items)) * weight[1:]).sum().backward()
    assert torch.allclose(ours, table.grad, atol=1e-5) and ours.abs().sum() > 0


@torch.no_grad()
def test_both_heads_are_blended(build):
    _, model, _, _, test = build(share=False, rank_by="both", blend=0.3, repeat_prior=True, num_beams="exact", valid_num_beams="exact")
    rows, model = first_rows(test, 4), with_odds(model)
    reading, every = model.read(rows), torch.arange(model.n_items).expand(4, -1)
    log_probs = torch.stack([model.heads["generate"].log_probs(reading, every[:, i : i + 1])[:, 0] for i in range(model.n_items)], 1)
    expected = 0.7 * log_probs + 0.3 * (dense_scores(model, rows)) + 0.7 * model.item_bias(reading)
    expected[:, 0] = -torch.inf
    items, scores = model.recommend(rows, 10)
    assert torch.equal(items, expected.argsort(1, descending=True)[:, :10])
    assert torch.allclose(scores, expected.gather(1, items), atol=1e-4)
    assert torch.allclose(model.predict(rows), expected.gather(1, rows["item_id"][:, None])[:, 0], atol=1e-4)


@torch.no_grad()
def test_two_heads_refuse_and_pad_as_one_does(build):
    _, model, _, _, test = build(share=False, rank_by="both", num_beams=20, valid_num_beams=20)
    rows, few = first_rows(test, 2), torch.zeros(model.n_items, dtype=torch.bool)
    few[1:4] = True
    with pytest.raises(UserError, match="user 0 of the batch has only 3 possible items for k=5"):
        model.recommend(rows, 5, allowed=few)
    items, scores = model.recommend(rows, 5, allowed=few, strict=False)
    assert (items.sort(1).values == torch.tensor([0, 0, 1, 2, 3])).all() and (scores[:, 3:] == -torch.inf).all()
    for k in (21, 45):  # 45 is more than both heads propose together
        with pytest.raises(UserError, match=f"k must be between 1 and num_beams=20, got {k}"):
            model.recommend(rows, k)


@torch.no_grad()
def test_vectors_kept_for_ranking_are_forgotten_when_weights_are_loaded(build):
    _, model, _, _, test = build(sizes=(6,) * 8, **DENSE)
    rows = first_rows(test, 4)
    weights, before = {name: value.clone() for name, value in model.state_dict().items()}, model.predict(rows)
    model.load_state_dict({name: value + torch.randn_like(value) for name, value in weights.items()})
    other = model.predict(rows)
    model.load_state_dict(weights)
    assert torch.equal(model.predict(rows), before) and not torch.allclose(other, before, atol=0.1)
    assert "_vectors" not in model.state_dict()


@torch.no_grad()
def test_in_beams_the_prior_stands_at_the_leaves(build):
    _, model, _, _, test = build(share=False, repeat_prior=True, num_beams="exact", valid_num_beams="exact")
    rows = first_rows(test, 4)
    before = model.full_sort_predict(rows)
    after = with_odds(model).full_sort_predict(rows)
    assert torch.allclose((after - before)[:, 1:], model.item_bias(model.read(rows))[:, 1:], atol=1e-4)


def test_names_and_needs_follow_what_ranks():
    base = {**load_yaml(properties() / "model" / "R3GR.yaml"), "content_encoder": "tfidf-svd", "topk": [10], "metrics": ["NDCG"]}
    names = {}
    for rank_by in ("generate", "dense", "both"):
        config = {**base, "rank_by": rank_by, "num_beams": 10 if rank_by == "dense" else 50}
        R3GR.check(config)
        names[R3GR.result_name(config)] = R3GR.needs(config).semantic_ids, R3GR.loss_name(config)
    assert names == {
        "R3GR": (UNIQUE, "NLL of semantic ID"),
        "R3GR-dense": (SHARED, "CE over items"),
        "R3GR-both": (UNIQUE, "NLL of semantic ID + CE over items"),
    }
    with pytest.raises(UserError, match="num_beams=5 is below"):
        R3GR.check({**base, "num_beams": 5})


@pytest.mark.parametrize("merge", ["sum", "concat"])
@pytest.mark.parametrize("rank_by", ["dense", "both"])
def test_a_large_catalogue_is_ranked_by_look_ups_as_a_small_one_by_vectors(build, monkeypatch, merge, rank_by):
    _, model, _, _, test = build(rank_by=rank_by, item_inputs=["codes"], code_merge=merge)
    rows, k = first_rows(test), 5
    small = model.eval().rank(model.read(rows), k)[0]
    assert isinstance(model.item_vectors(), torch.Tensor)
    monkeypatch.setattr(r3gr_module, "HELD_NUMBERS", model.item_vectors().numel() - 1)
    model.forget()
    large = model.rank(model.read(rows), k)[0]
    assert isinstance(model.item_vectors(), SummedCodes) and model.item_vectors() is model.item_vectors()
    torch.testing.assert_close(large.scores, small.scores)
    torch.testing.assert_close(model.score(model.read(rows), large.items[:, 0]), large.scores[:, 0])
    every = model.heads["dense"].score_items(model.read(rows))(1, model.n_items)  # [n_items - 1, B]
    dense = model.heads["dense"].rank(model.read(rows), k)[0]
    torch.testing.assert_close(every.T.gather(1, dense.items - 1), dense.scores)


@pytest.mark.parametrize("more", [
    {}, {"rank_by": "both", "dense_weight": 0.3}, {"item_inputs": ["codes", "id"], "sid_dropout": 0.5, "id_dropout": 0.5},
], ids=str)  # fmt: skip
def test_the_sampled_loss_is_over_the_target_and_the_draws_alone(build, monkeypatch, more):
    _, model, train, _, _ = build(**{"rank_by": "dense", "n_negatives": 6, "dropout": 0.0, **more})
    rows, drawn = first_rows(train), torch.tensor([3, 3, 0, 8, 5, 20])
    monkeypatch.setattr(model, "draw", lambda: drawn)
    monkeypatch.setattr(model.items, "catalogue", lambda: pytest.fail("all items"))
    seen, encode = [], model.encode
    monkeypatch.setattr(model, "encode", lambda *given: seen.append(encode(*given)) or seen[-1])
    model.train()
    loss = model.calculate_loss(rows)
    monkeypatch.undo()
    model.eval()
    (user, packing), vectors = seen[0], torch.nn.functional.normalize(model.items.catalogue(), dim=-1)
    target, total, codes = packing.take(rows[TARGET_LIST_FIELD]), [], 0.0
    for x, item in zip(torch.nn.functional.normalize(user, dim=-1), target.tolist()):
        if item:
            own = x @ vectors[item] / model.temperature
            others = [x @ vectors[1 + d] / model.temperature - model.log_q[d] - torch.tensor(6.0).log() for d in drawn.tolist() if 1 + d != item]
            total.append(torch.stack([own, *others]).logsumexp(0) - own)
    if more.get("rank_by") == "both":
        codes = model.code_loss(user[target > 0], target[target > 0])
    torch.testing.assert_close(loss, torch.stack(total).mean() * more.get("dense_weight", 1) + codes, atol=1e-5, rtol=1e-5)


def test_negatives_follow_the_root_of_the_training_targets(build):
    _, model, train, _, _ = build(rank_by="dense", n_negatives=20_000)
    counts = train.counter("item_id")
    weights = torch.tensor([(1 + counts[item]) ** 0.5 for item in range(1, model.n_items)], dtype=torch.float64)
    torch.manual_seed(0)
    found = torch.bincount(model.draw(), minlength=model.n_items - 1) / 20_000
    torch.testing.assert_close(found.double(), weights / weights.sum(), atol=0.006, rtol=0)
    assert "log_q" not in build(rank_by="dense")[1].state_dict() and not hasattr(build(rank_by="dense")[1], "log_q")


def test_a_sampled_loss_goes_with_a_dense_head_without_a_prior():
    check = lambda **keys: R3GR.check(Config("R3GR", "ml-100k", config_dict={"n_negatives": 64, **keys}))  # noqa: E731
    check(rank_by="dense"), check(rank_by="both")
    with pytest.raises(UserError, match="n_negatives is 64 beside rank_by generate"):
        check()
    with pytest.raises(UserError, match="n_negatives is 64 beside repeat_prior"):
        check(rank_by="dense", repeat_prior=True)
