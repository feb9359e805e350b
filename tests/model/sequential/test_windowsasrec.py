"""WindowSASRec: all positions at once are each prefix alone, the losses by brute force, and the future has no say."""

from __future__ import annotations

import math

import pytest
import torch
from recbole.data.interaction import Interaction

from recbole_r3vae.config import Config
from recbole_r3vae.data.sequences import TARGET_LIST_FIELD
from recbole_r3vae.errors import UserError
from recbole_r3vae.model.blocks import ENCODERS
from recbole_r3vae.model.sequential import windowsasrec
from recbole_r3vae.model.sequential.windowsasrec import WindowSASRec


def first_rows(dataset, n=16) -> Interaction:
    return dataset.inter_feat[list(range(n))]


def position_scores(model, windows: Interaction):
    """The scores of all items after each prefix of each window that has a target, and that target."""
    for history, targets in zip(windows["item_id_list"], windows[TARGET_LIST_FIELD]):
        for position in targets.nonzero().flatten().tolist():
            prefix = torch.where(torch.arange(len(history)) <= position, history, 0)
            rows = Interaction({"item_id_list": prefix[None], "item_length": torch.tensor([position + 1])})
            yield model.full_sort_predict(rows)[0].tolist(), int(targets[position])


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("temperature", [None, 0.2])
def test_the_loss_is_that_of_each_prefix_alone_over_all_items(build, encoder, temperature):
    model, train, *_ = build("WindowSASRec", encoder=encoder, temperature=temperature)
    lengths = train.inter_feat["item_length"]
    windows = train.inter_feat[[int((lengths == length).nonzero()[0]) for length in lengths.unique()]]
    losses = [math.log(sum(map(math.exp, scores[1:]))) - scores[target] for scores, target in position_scores(model, windows)]
    assert len(losses) > 10 and len(windows) > 1
    assert model.calculate_loss(windows).item() == pytest.approx(sum(losses) / len(losses), abs=1e-5)


@pytest.mark.parametrize("temperature", [None, 0.2])
def test_the_sampled_loss_is_over_the_target_and_the_draws(build, monkeypatch, temperature):
    """Each draw stands for as many items as it is rare, and a draw that is a position's target is left out there."""
    model, train, *_ = build("WindowSASRec", loss_type="SampledCE", temperature=temperature)
    windows = first_rows(train, 2)
    known = int(windows[TARGET_LIST_FIELD][0].max())
    draws = [known, 3, 9, 3, 50]
    monkeypatch.setattr(model, "sample_negatives", lambda: torch.tensor(draws) - 1)
    counts = train.counter("item_id")
    weight = [0.0] + [(1 + counts[item]) ** 0.5 for item in range(1, model.n_items)]
    losses = []
    for scores, target in position_scores(model, windows):
        others = sum(math.exp(scores[item]) * sum(weight) / weight[item] / len(draws) for item in draws if item != target)
        losses.append(math.log(math.exp(scores[target]) + others) - scores[target])
    assert model.calculate_loss(windows).item() == pytest.approx(sum(losses) / len(losses), abs=1e-5)


def test_the_binary_loss_has_a_negative_a_position_that_its_window_does_not_hold(build, monkeypatch):
    model, train, *_ = build("WindowSASRec", loss_type="BCE")
    windows = train.inter_feat[(train.inter_feat["item_length"] == 10).nonzero()[[20, 40, 60, 80], 0]]
    held = [{*items.tolist(), *targets.tolist()} - {0} for items, targets in zip(windows["item_id_list"], windows[TARGET_LIST_FIELD])]
    assert all(targets[-1] not in items.tolist() for items, targets in zip(windows["item_id_list"], windows[TARGET_LIST_FIELD]))
    alone = [[item for item in items if item - 1 not in items | {0}] for items in held]  # so that being off by one shows
    draws = []  # in the order of packed positions, which is that of the rows here: all windows are full

    def randint(high, shape, device):
        assert high == model.n_items - 1
        some = 41 * torch.arange(shape[0]) % high
        for row in range(4):
            some[row::5] = alone[row][0] - 1
        some[4::5] = windows[TARGET_LIST_FIELD][2, -1] - 1  # of which no history says anything
        draws.append(some)
        return some

    monkeypatch.setattr(windowsasrec.torch, "randint", randint)
    loss = model.calculate_loss(windows)
    total, n_left_out, scored = 0.0, 0, list(position_scores(model, windows))
    row_of = [row for row, targets in enumerate(windows[TARGET_LIST_FIELD]) for _ in targets.nonzero()]
    for (scores, target), row, draw in zip(scored, row_of, draws[0].tolist(), strict=True):
        total += math.log(1 + math.exp(-scores[target]))
        if draw + 1 in held[row]:
            n_left_out += 1
        else:
            total += math.log(1 + math.exp(scores[draw + 1]))
    assert loss.item() == pytest.approx(total / len(scored), rel=1e-5) and 3 < n_left_out < len(scored) - 3


@pytest.mark.parametrize("power", [0.0, 1.0])
def test_draws_follow_the_training_targets(build, power):
    model, train, *_ = build("WindowSASRec", n_negatives=200_000, negative_power=power)
    targets = train.inter_feat[TARGET_LIST_FIELD]
    weight = (1 + torch.bincount(targets[targets > 0], minlength=model.n_items)[1:].double()) ** power
    expected = 200_000 * weight / weight.sum()
    counts = torch.bincount(model.sample_negatives(), minlength=model.n_items - 1)
    assert len(counts) == model.n_items - 1
    assert ((counts - expected).abs() < 6 * expected**0.5).all()


@pytest.mark.parametrize("encoder", ENCODERS)
def test_no_later_item_reaches_a_position(build, encoder):
    """The gradient of a position's vector with respect to the inputs is nil at all later positions, and not at the earlier ones."""
    model, _, _, test = build("WindowSASRec", encoder=encoder)
    rows, inputs = first_rows(test, 2), []  # every row of the fixture is full
    model.item_embedding.register_forward_hook(lambda module, given, found: inputs.append(found.detach().requires_grad_()) or inputs[-1])
    x, packing = model.encode(rows)
    (slope,) = torch.autograd.grad(packing.pad(x)[0, 5].sum() * 1e3 + packing.pad(x)[0, 5].square().sum(), inputs[0])
    slope = packing.pad(slope)
    assert (slope[0, :6].abs().sum(-1) > 0).all()
    assert not slope[0, 6:].any() and not slope[1].any()


@pytest.mark.parametrize("encoder", ENCODERS)
def test_padding_and_batch_mates_do_not_matter(build, encoder):
    model, _, _, test = build("WindowSASRec", encoder=encoder)
    rows = first_rows(test)
    rows["item_length"][::2] = 3
    rows["item_id_list"][::2, 3:] = 0
    together = model.full_sort_predict(rows)
    assert torch.allclose(together, torch.cat([model.full_sort_predict(rows[[row]]) for row in range(len(rows))]), atol=1e-5)
    assert torch.allclose(model.predict(rows), together.gather(1, rows["item_id"][:, None])[:, 0], atol=1e-5)


def test_a_temperature_makes_cosines(build):
    model, _, _, test = build("WindowSASRec", temperature=0.5)
    scores = model.full_sort_predict(first_rows(test))[:, 1:]
    assert scores.abs().max() <= 2 + 1e-5 and scores.abs().max() > 0.1


@pytest.mark.parametrize("loss_type", ["CE", "SampledCE", "BCE"])
def test_every_weight_is_trained_and_bfloat16_is_near(build, loss_type):
    model, train, *_ = build("WindowSASRec", loss_type=loss_type)
    windows = first_rows(train, 32)
    torch.manual_seed(0)
    loss = model.calculate_loss(windows)
    loss.backward()
    assert all(weight.grad.isfinite().all() and weight.grad.any() for weight in model.parameters())
    assert not model.item_embedding.weight.grad[0].any()
    torch.manual_seed(0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.allclose(model.calculate_loss(windows), loss, rtol=0.02)


@pytest.mark.parametrize(
    "keys, message",
    [
        ({"loss_type": "BPR"}, "loss_type is 'BPR'; give CE, SampledCE or BCE"),
        ({"loss_type": "BCE", "repeat_prior": True}, "repeat_prior is learnt from a loss over all items, and loss_type is BCE"),
        ({"encoder": "lstm"}, "encoder is 'lstm'.*; give transformer or hstu"),
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"n_heads": 3}, "n_heads is 3 and hidden_size 16"),
        ({"negative_power": -0.5}, "negative_power is -0.5"),
    ],
    ids=str,
)
def test_settings_out_of_range_are_named(tiny_settings, keys, message):
    with pytest.raises(UserError, match=message):
        WindowSASRec.check(Config("WindowSASRec", "tiny", config_dict={**tiny_settings, **keys}))
