"""The prior on repeats in every generator that has one, against loops: where it stands in the score, and what it is learnt from."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from recbole.data.interaction import Interaction

from recbole_r3vae.config import Config, decisive
from recbole_r3vae.data.sequences import TARGET_LIST_FIELD
from recbole_r3vae.model.repeat_prior import OFF, prior_loss, some_histories

EXACT = {"repeat_prior": True, "dropout": 0.0, "num_beams": "exact", "valid_num_beams": "exact"}
T5 = {"head_size": 8, "n_layers": 1, "n_user_buckets": 7}
LIGER = {**T5, "n_decoder_layers": 1, "text_inner_sizes": [], "retrieve": 200, "model": "LIGER", "input_dropout": 0.0, "text_dropout": 0.0}
ALONE = {  # models without a loss over the catalogue
    "R3GR": {"model": "R3GR"},
    "TIGER": {**T5, "model": "TIGER", "n_decoder_layers": 1},
    "TIGERCausal": {**T5, "model": "TIGERCausal"},
    "LIGER-generate": {**LIGER, "rank_by": "generate"},
    "GLASS": {**T5, "model": "GLASS", "n_decoder_layers": 1, "recent_items": 2},
    "COBRA": {"model": "COBRA", "bucket_items": 200},
    "COBRA-generate": {"model": "COBRA", "rank_by": "generate"},
    "COBRA-dense": {"model": "COBRA", "rank_by": "dense"},
    "ACERec": {"model": "ACERec", "n_latents": 2},
}
WITH_A_CATALOGUE = {"LIGER": LIGER, "LIGER-dense": {**LIGER, "rank_by": "dense"}}


@pytest.fixture
def make(build):
    """A model with weights away from where they begin and some log-odds, and its datasets."""

    def make_model(name, odds=None, **more):
        sizes = (3, 4, 5) if name.startswith("COBRA") else (6, 6, 6)  # few IDs for 150 items: many share one
        settings = {**{key: value for key, value in EXACT.items() if name != "ACERec" or "beams" not in key}, **{**ALONE, **WITH_A_CATALOGUE}[name]}
        _, model, train, _, test = build(sizes, **{**settings, **more})
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
            if hasattr(model, "code_embedding"):
                model.code_embedding.weight[0] = 0
            n = len(model.prior.scaled)
            model.prior.scaled.copy_((torch.linspace(-2, 1.5, n) if odds is None else torch.full((n,), odds)) / 50)
        return model.eval(), train, test

    return make_model


def rows_of(dataset, n=8) -> Interaction:
    """Rows with repeats, of which every second is cut to a length of its own."""
    rows = dataset.inter_feat[list(range(n))]
    for row in range(n):
        if row % 2 == 0:
            rows["item_length"][row] = 1 + row % 7
            rows["item_id_list"][row, 1 + row % 7 :] = 0
        rows["item_id_list"][row, 0] = rows["item_id_list"][row, int(rows["item_length"][row]) - 1]
    return rows


def odds_of(model, rows) -> torch.Tensor:
    """By loops: the log-odds of every item, 0 where it was not met: ``[B, n_items]``."""
    found = torch.zeros(len(rows), model.n_items)
    for row in range(len(rows)):
        length = int(rows["item_length"][row])
        for place, item in enumerate(rows["item_id_list"][row, :length].tolist()):  # the last time wins
            steps = length - place
            found[row, item] = model.prior.log_odds[next(n for n in range(20) if steps <= 2**n)]
    return found


def without_prior(model, do):
    prior, model.prior = model.prior, None
    try:
        return do()
    finally:
        model.prior = prior


@torch.no_grad()
@pytest.mark.parametrize("name", [*ALONE, *WITH_A_CATALOGUE])
def test_it_is_added_to_the_score_of_every_item(make, name):
    model, _, test = make(name)
    rows = rows_of(test)
    before, after = without_prior(model, lambda: model.full_sort_predict(rows)), model.full_sort_predict(rows)
    assert before[:, 1:].isfinite().all()
    assert torch.allclose((after - before)[:, 1:], odds_of(model, rows)[:, 1:], atol=1e-4)
    for item in (int(rows["item_id_list"][1, 0]), 5):
        rows["item_id"][:] = item
        assert torch.allclose(model.predict(rows), after[:, item], atol=1e-4)


def probabilities(model, name, row) -> torch.Tensor:
    """What a model without the prior says of every item after one history: ``[n_items - 1]``."""
    items = torch.arange(1, model.n_items)
    reading = model.read(row)
    if name in ("COBRA-dense", "ACERec"):
        return without_prior(model, lambda: model.full_sort_predict(row))[0, 1:].softmax(0)
    ids = model.heads["generate"].log_probs(reading, items[None])[0].exp()
    same = (model.codes[1:, None] == model.codes[None, 1:]).all(2)  # [n, n], which share an ID
    if name != "COBRA":
        return ids / same.sum(1)
    cosine = (model.predicted(reading, items[None])[0] * model.item_vectors()[1:]).sum(1)
    weight = (model.psi * cosine).exp()
    return ids * weight / (same * weight).sum(1)


@pytest.mark.parametrize("name", ALONE)
def test_a_model_without_a_loss_over_the_catalogue_learns_it_from_the_likelihood(make, name):
    model, train, _ = make(name)
    if TARGET_LIST_FIELD in train.inter_feat:
        batch = train[list(range(3))]
        batch[TARGET_LIST_FIELD][:, 2] = batch["item_id_list"][:, 1]
    else:
        batch = train[list(range(1, 60, 6))]
        batch["item_id"][::2] = batch["item_id_list"][::2, 0]
    expected = []
    histories, targets = some_histories(model, batch)
    for row, target in enumerate(targets.tolist()):
        p, odds = probabilities(model, name, histories[[row]]).detach(), odds_of(model, histories[[row]])[0, 1:]
        expected.append((1 + (p * odds.expm1()).sum()).log() - odds[target - 1])
    expected = torch.stack(expected).mean() + model.prior.regularization()
    with_it, without = model.calculate_loss(batch), without_prior(model, lambda: model.calculate_loss(batch))
    assert torch.allclose(prior_loss(model, batch), expected, rtol=1e-4, atol=1e-6) and expected.abs() > 1e-2
    assert torch.allclose(with_it - without, expected, atol=1e-4)


@pytest.mark.parametrize("name", ALONE)
def test_nothing_else_learns_from_it_and_dropout_draws_nothing(make, name):
    model, train, _ = make(name, dropout=0.5)
    batch = train[list(range(4))]
    loss = prior_loss(model, batch)
    model.train()
    state = torch.get_rng_state()
    again = prior_loss(model, batch)
    assert torch.equal(torch.get_rng_state(), state) and torch.equal(loss, again) and all(module.training for module in model.modules())
    again.backward()
    assert [key for key, value in model.named_parameters() if value.grad is not None] == ["prior.scaled"]
    assert model.prior.scaled.grad.abs().sum() > 0


def test_histories_of_windows_end_before_each_target(make):
    model, train, _ = make("TIGERCausal")
    batch = train[list(range(2))]
    before = batch["item_id_list"].clone()
    rows, targets = some_histories(model, batch)
    wanted = [
        (user, [*history[: place + 1], *[0] * (len(history) - place - 1)], place + 1, target)
        for user, history, line in zip(batch["user_id"].tolist(), before.tolist(), batch[TARGET_LIST_FIELD].tolist())
        for place, target in enumerate(line) if target
    ]  # fmt: skip
    assert list(zip(*(rows[field].tolist() for field in ("user_id", "item_id_list", "item_length")), targets.tolist())) == wanted
    assert torch.equal(batch["item_id_list"], before)
    many = train[list(range(60))]
    assert 64 <= len(some_histories(model, many)[1]) < 128 and (many[TARGET_LIST_FIELD] > 0).sum() > 128


@pytest.mark.parametrize("name", WITH_A_CATALOGUE)
def test_ligers_loss_over_items_has_it_in_their_logits(make, name):
    model, train, _ = make(name)
    batch = train[list(range(0, 60, 6))]
    model.seen[[item for item in range(0, model.n_items, 5) if item not in batch["item_id_list"] and item not in batch["item_id"]]] = False
    seen = model.seen.nonzero().squeeze(1)
    assert len(seen) < model.n_items - 5
    encoded, packing = model.encode(batch)
    cosine = F.normalize(packing.last(encoded), dim=1) @ F.normalize(model.all_vectors(), dim=1).T / model.cosine_temperature
    logits = (cosine + odds_of(model, batch))[:, seen]
    place = {item: n for n, item in enumerate(seen.tolist())}
    target = torch.tensor([place[item] for item in batch["item_id"].tolist()])
    expected = F.cross_entropy(logits, target) + model.prior.regularization()
    if name == "LIGER":
        expected = model.dense_weight * F.cross_entropy(logits, target) + model.prior.regularization()
        expected = expected + model.code_loss(encoded, packing, batch["item_id"])
    loss = model.calculate_loss(batch)
    assert torch.allclose(loss, expected, atol=1e-4)
    (grad,) = torch.autograd.grad(loss, model.prior.scaled)
    (wanted,) = torch.autograd.grad(expected, model.prior.scaled)
    assert torch.allclose(grad, wanted, atol=1e-3) and grad.abs().sum() > 0


@torch.no_grad()
@pytest.mark.parametrize("name", ["R3GR", "TIGER", "TIGERCausal", "LIGER-generate", "LIGER", "COBRA", "COBRA-generate"])
def test_what_it_pushes_out_of_a_beam_is_replaced(make, name):
    """A beam no wider than what is asked for: all of it would be met items' places otherwise."""
    model, _, test = make(name, odds=-60.0, num_beams=20, valid_num_beams=20, **({"retrieve": 20} if name == "LIGER" else {}))
    rows, k = rows_of(test, 40), 20
    if name.startswith("COBRA"):
        model.num_beams = k = 5  # IDs, of which there are 60; …
        model.heads["generate"].n = 1  # … of each the nearest item, so that a met one would leave its bucket without any
    met = [set(history) - {0} for history in rows["item_id_list"].tolist()]
    found, _ = model.recommend(rows, k)
    plain, _ = without_prior(model, lambda: model.recommend(rows, k))
    assert not any(set(items) & own for items, own in zip(found.tolist(), met))
    assert sum(bool(set(items) & own) for items, own in zip(plain.tolist(), met)) > 5
    if name in ("R3GR", "TIGER", "TIGERCausal"):  # one head, which finds what a search that is wider by a history's length finds
        model.num_beams = 30
        wider, _ = without_prior(model, lambda: model.recommend(rows, 30))
        expected = [[item for item in items if item not in own][:k] for items, own in zip(wider.tolist(), met)]
        assert found.tolist() == expected


def test_no_run_of_before_has_another_hash():
    for model in ("TIGER", "TIGERCausal", "LIGER", "COBRA", "ACERec"):
        off, on = decisive(Config(model, "ml-100k")), decisive(Config(model, "ml-100k", config_dict={"repeat_prior": True}))
        assert off.keys().isdisjoint(OFF) and {key for key in on if key not in off} == {"repeat_prior"}
    assert decisive(Config("R3GR", "ml-100k")).keys() >= OFF.keys()  # it had results with them
