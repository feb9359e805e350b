"""HSTU: its attention and losses term by term, and the future has no say."""

from __future__ import annotations

import math

import pytest
import torch
from recbole.data.interaction import Interaction

from recbole_r3vae.config import Config
from recbole_r3vae.data.sequences import TARGET_LIST_FIELD
from recbole_r3vae.errors import UserError
from recbole_r3vae.model.sequential import hstu
from recbole_r3vae.model.sequential.hstu import HSTU, TimeBias


def first_rows(dataset, n=16) -> Interaction:
    return dataset.inter_feat[list(range(n))]


def vectors(model, rows) -> torch.Tensor:
    """One vector for each position, in the layout of the batch: [B, T, d]."""
    x, packing = model.encode(rows)
    return packing.pad(x)


def test_each_block_is_biased_by_distance_and_time(build):
    model, _, _, test = build("HSTU")
    torch.nn.init.normal_(model.time_bias.table.weight)
    seen = []
    for block in model.blocks:
        block.register_forward_pre_hook(lambda module, given: seen.append(given[1:]))
    rows = first_rows(test, 2)
    model.encode(rows)
    buckets = model.time_bias.bucket(rows["timestamp_list"])
    assert len(seen) == 4 and buckets.unique().numel() > 5
    for layer, (packing, bias) in enumerate(seen):
        (bias,) = bias  # both histories are full
        for place, row in enumerate(packing.order.tolist()):
            assert torch.equal(bias[place], model.time_bias.table.weight[buckets[row], layer])
        assert model.blocks[layer].distance_bias.shape == (1, 10) and model.blocks[layer].distance_bias.unique().numel() == 10


def test_times_of_each_length_have_their_own_biases():
    torch.manual_seed(0)
    bias = TimeBias(20, 3)
    times = [1e5 * torch.rand(4, 2), 1e5 * torch.rand(2, 5)]
    layers = list(bias(times))
    assert len(layers) == 3
    for layer, found in enumerate(layers):
        for block, of_block in zip(times, found):
            assert torch.equal(of_block, bias.table.weight[bias.bucket(block), layer])


def test_time_buckets_by_hand():
    times = torch.tensor([[0.0, 0.5, 2.0, 90.0, 90.0, 1e9]])
    buckets = TimeBias(20, 1).bucket(times)[0]
    for i in range(6):
        for j in range(6):
            apart = max(1.0, abs(float(times[0, i] - times[0, j])))
            assert buckets[i, j] == min(int(math.log(apart) / 0.301), 19)
    assert buckets.max() == 19 and buckets.min() == 0


def test_the_future_has_no_say_and_the_past_has(build):
    model, _, _, test = build("HSTU")
    rows = first_rows(test)  # every row of the fixture is full
    before = vectors(model, rows)
    for field in ("item_id_list", "timestamp_list"):
        changed = Interaction({key: value.clone() for key, value in rows.interaction.items()})
        changed[field][:, 6:] = changed[field][:, 6:].flip(0) + (field == "timestamp_list") * 1e6 * torch.arange(1, 5)
        after = vectors(model, changed)
        assert torch.allclose(before[:, :6], after[:, :6], atol=1e-6)
        assert not torch.allclose(before[:, 6:], after[:, 6:], atol=1e-4)


def test_padding_and_batch_mates_do_not_matter(build):
    model, _, _, test = build("HSTU")
    rows = first_rows(test)
    rows["item_length"][::2] = 3
    rows["item_id_list"][::2, 3:] = 0
    rows["timestamp_list"][::2, 3:] = 0
    together = model.full_sort_predict(rows)
    assert torch.allclose(together, torch.cat([model.full_sort_predict(rows[[i]]) for i in range(len(rows))]), atol=1e-5)
    assert torch.allclose(model.predict(rows), together.gather(1, rows["item_id"][:, None])[:, 0], atol=1e-5)


def position_scores(model, window: Interaction):
    """The scores of all items after each prefix of a window that has a target, and that target."""
    history, times, targets = (window[field][0] for field in ("item_id_list", "timestamp_list", TARGET_LIST_FIELD))
    for position in targets.nonzero().flatten().tolist():
        past = torch.arange(len(history)) <= position
        rows = {"item_id_list": torch.where(past, history, 0)[None], "timestamp_list": torch.where(past, times, 0)[None]}
        scores = model.full_sort_predict(Interaction({**rows, "item_length": torch.tensor([position + 1])}))
        yield scores[0].tolist(), int(targets[position])


def test_infonce_is_the_cross_entropy_among_the_target_and_the_draws(build, monkeypatch):
    model, train, *_ = build("HSTU", n_negatives=6)
    window = first_rows(train, 1)
    first_target = int(next(target for target in window[TARGET_LIST_FIELD][0].tolist() if target))
    draws = [first_target, 3, 9, 3, 50, 120]  # one draw twice, one the target of one position
    monkeypatch.setattr(model, "sample_negatives", lambda n_rows: torch.tensor([draws] * n_rows))
    losses = []
    for scores, target in position_scores(model, window):
        candidates = [target] + [draw for draw in draws if draw != target]
        losses.append(math.log(sum(math.exp(scores[item]) for item in candidates)) - scores[target])
    assert len(losses) > 3
    assert model.calculate_loss(window).item() == pytest.approx(sum(losses) / len(losses), abs=1e-5)


def test_the_sum_over_negatives_keeps_its_precision_under_bfloat16(build):
    model, train, *_ = build("HSTU", n_negatives=50)
    windows = first_rows(train, 11)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        x, packing = model.eval().encode(windows)
        target = packing.take(windows[TARGET_LIST_FIELD])
        found = model._log_sum_of_negatives(x, target, torch.nn.functional.normalize(model.item_embedding.weight, dim=-1), packing)
    assert found.dtype == torch.float32 and (found.bfloat16() != found).any()


def test_negatives_are_scored_in_groups_of_histories(build, monkeypatch):
    """Groups of 4 and a rest of 3, of histories of several lengths, each with its own draws, against one of all."""
    model, train, *_ = build("HSTU", n_negatives=50)
    windows, losses, gradients = first_rows(train, 11), [], []
    for row in range(0, 11, 2):
        windows["item_length"][row] = length = 1 + row % 7
        for field in ("item_id_list", TARGET_LIST_FIELD):
            windows[field][row, length:] = 0
    draws = model.sample_negatives(11)
    monkeypatch.setattr(model, "sample_negatives", lambda n_rows: draws[:n_rows])
    model.eval()
    for n_rows in (4, 11):
        monkeypatch.setattr(hstu, "ROWS", n_rows)
        loss = model.calculate_loss(windows)
        losses.append(loss.item())
        gradients.append(torch.autograd.grad(loss, model.item_embedding.weight)[0])
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert torch.allclose(*gradients, rtol=1e-4, atol=1e-7)


def test_a_position_whose_draws_are_all_its_target_has_nothing_to_learn(build, monkeypatch):
    model, train, *_ = build("HSTU", n_negatives=2)
    window = first_rows(train, 1)
    (targets,) = window[TARGET_LIST_FIELD]
    last = int(targets[targets > 0][-1])
    window[TARGET_LIST_FIELD] = torch.where(targets == last, last, 0)[None]
    monkeypatch.setattr(model, "sample_negatives", lambda n_rows: torch.full((n_rows, 2), last))
    with torch.autograd.detect_anomaly(check_nan=True):  # a nan within is an error, even where it does not come out
        loss = model.calculate_loss(window)
        loss.backward()
    assert loss.item() == 0
    assert all(not weight.grad.any() for weight in model.parameters() if weight.grad is not None)


def test_cross_entropy_is_over_all_items(build):
    model, train, *_ = build("HSTU", loss_type="CE")
    window = first_rows(train, 1)
    losses = [math.log(sum(map(math.exp, scores[1:]))) - scores[target] for scores, target in position_scores(model, window)]
    assert model.calculate_loss(window).item() == pytest.approx(sum(losses) / len(losses), abs=1e-5)


def test_draws_are_items_and_uniform(build):
    model, train, *_ = build("HSTU", n_negatives=512)
    draws = model.sample_negatives(300)
    counts = torch.bincount(draws.flatten(), minlength=model.n_items)
    expected = 300 * 512 / (model.n_items - 1)  # about 1,000, so 6 standard deviations are 190
    assert draws.shape == (300, 512) and counts[0] == 0 and len(counts) == model.n_items
    assert (counts[1:] - expected).abs().max() < 6 * expected**0.5
    assert not torch.equal(draws[0], draws[1])


@pytest.mark.parametrize("loss_type", ["InfoNCE", "CE"])
def test_the_loss_of_a_batch_is_the_mean_over_its_positions(build, monkeypatch, loss_type):
    """Also: what is packed and sorted inside comes out beside its own target."""
    model, train, *_ = build("HSTU", loss_type=loss_type, n_negatives=20)
    windows = first_rows(train, 12)
    monkeypatch.setattr(model, "sample_negatives", lambda n_rows: torch.arange(20, 40).expand(n_rows, -1))
    alone = [model.calculate_loss(windows[[row]]) * (windows[TARGET_LIST_FIELD][row] > 0).sum() for row in range(12)]
    expected = sum(alone) / (windows[TARGET_LIST_FIELD] > 0).sum()
    assert windows["item_length"].unique().numel() > 1
    assert torch.allclose(model.calculate_loss(windows), expected, atol=1e-5)


@pytest.mark.parametrize(
    "keys, message",
    [
        ({"loss_type": "InfoNCEE"}, "did you mean.*InfoNCE"),
        ({"n_negatives": 0}, "n_negatives is 0; give a whole number from 1"),
        ({"temperature": 0.0}, "temperature is 0.0; give a number above 0"),
        ({"hidden_dropout_prob": 1.0}, "hidden_dropout_prob is 1.0"),
        ({"n_heads": 0}, "n_heads is 0"),
    ],
    ids=str,
)
def test_settings_out_of_range_are_named(tiny_settings, keys, message):
    with pytest.raises(UserError, match=message):
        HSTU.check(Config("HSTU", "tiny", config_dict={**tiny_settings, **keys}))
