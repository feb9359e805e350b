"""BSARec: its filter against the Fourier matrix, and no row shows its target."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from recbole.data.interaction import Interaction
from recbole.model.layers import MultiHeadAttention

from recbole_r3vae.config import Config
from recbole_r3vae.data.sequences import TARGET_LIST_FIELD
from recbole_r3vae.errors import UserError
from recbole_r3vae.model.sequential.bsarec import Attention, BSARec, FrequencyLayer
from recbole_r3vae.quick_start.lookup import create_dataset, data_preparation


def layer(c, length=10, size=4, beta=None) -> FrequencyLayer:
    torch.manual_seed(0)
    module = FrequencyLayer(size, length, c, dropout=0.0, layer_norm_eps=1e-12)
    if beta is not None:
        torch.nn.init.constant_(module.sqrt_beta, math.sqrt(beta))
    return module


def fourier_parts(length, n_low):
    """Projections onto the low and the high frequencies, each [T, T], from the explicit Fourier matrix."""
    place = torch.arange(length, dtype=torch.float64)
    fourier = torch.polar(torch.ones(length, length, dtype=torch.float64), -2 * math.pi * place[:, None] * place / length)
    is_low = torch.minimum(place, length - place) < n_low  # frequency k and T - k are one
    inverse = fourier.conj() / length
    low, high = (inverse @ torch.diag(keep.to(torch.complex128)) @ fourier for keep in (is_low, ~is_low))
    assert low.imag.abs().max() < 1e-12 and high.imag.abs().max() < 1e-12
    return low.real.float(), high.real.float()


@pytest.mark.parametrize("length, c", [*itertools.product([5, 8, 13], [1, 3, 4, 5]), (8, 8), (13, 13), (2, 2), (1, 1)])
def test_filter_is_low_pass_plus_beta_high_pass(length, c):
    module, x = layer(c, length), torch.randn(3, length, 4, generator=torch.Generator().manual_seed(1))
    low, high = fourier_parts(length, c // 2 + 1)
    beta = module.sqrt_beta**2
    assert beta.unique().numel() == 4
    expected = low @ x + beta * (high @ x)
    for n_last in {length, 1}:
        assert torch.allclose(module.filter(x, n_last), expected[:, -n_last:], atol=1e-5)


def test_beta_one_is_identity_and_beta_zero_is_low_pass_alone():
    x = torch.randn(3, 10, 4, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(layer(3, beta=1).filter(x, 10), x, atol=1e-6)
    mean = x.mean(1, keepdim=True).expand_as(x)
    assert torch.allclose(layer(1, beta=0).filter(x, 10), mean, atol=1e-6)  # the constant is the only low component
    once = layer(5, beta=0).filter(x, 10)
    assert torch.allclose(layer(5, beta=0).filter(once, 10), once, atol=1e-6) and not torch.allclose(once, x, atol=0.1)


def test_histories_are_aligned_to_the_right():
    items = torch.tensor([[5, 6, 0, 0], [1, 2, 3, 4], [9, 0, 0, 0]])
    aligned = BSARec.align_right(items, torch.tensor([2, 4, 1]))
    assert aligned.tolist() == [[0, 0, 5, 6], [1, 2, 3, 4], [0, 0, 0, 9]]


def test_the_filter_carries_later_items_back_so_a_row_has_one_target():
    """Why no window of many targets may train it: what comes after a position changes it."""
    x = torch.randn(1, 10, 4, generator=torch.Generator().manual_seed(1), requires_grad=True)
    layer(3).filter(x, 10)[0, 3].sum().backward()
    assert (x.grad[0, 4:].abs() > 1e-3).all()


def test_no_training_row_shows_its_target(tiny_settings):
    """In the data nobody meets an item twice, so a target that is in its row's history comes from the future."""
    config = Config("BSARec", "tiny", config_dict=tiny_settings)
    train_data, *_ = data_preparation(config, create_dataset(config))
    n_targets = 0
    for batch in train_data:
        assert TARGET_LIST_FIELD not in batch
        assert (batch["item_id_list"] != batch["item_id"][:, None]).all() and (batch["item_id"] > 0).all()
        n_targets += len(batch)
    assert n_targets == len(train_data.dataset) > 1000


def test_scores_read_nothing_but_the_history(build):
    model, train, _, test = build("BSARec")
    rows = test.inter_feat[list(range(16))]
    alone = Interaction({key: rows[key] for key in ("item_id_list", "item_length")})
    scores = model.full_sort_predict(alone)
    assert torch.equal(scores, model.full_sort_predict(rows))
    assert torch.allclose(model.predict(rows), scores.gather(1, rows["item_id"][:, None])[:, 0], atol=1e-6)
    expected = -scores[:, 1:].log_softmax(-1).gather(1, rows["item_id"][:, None] - 1).mean()
    assert torch.allclose(model.calculate_loss(rows), expected, atol=1e-5)


def test_the_prior_is_on_what_each_row_has_met(build):
    model, train, _, test = build("BSARec", repeat_prior=True)
    plain, *_ = build("BSARec")
    rows = test.inter_feat[list(range(16))]
    with torch.no_grad():
        model.prior.scaled.copy_(torch.linspace(-0.02, 0.03, len(model.prior.scaled)))
    expected = plain.full_sort_predict(rows)
    for row, (history, length) in enumerate(zip(rows["item_id_list"].tolist(), rows["item_length"].tolist())):
        for item in set(history[:length]):
            steps = length - max(place for place in range(length) if history[place] == item)
            expected[row, item] += model.prior.log_odds[math.ceil(math.log2(steps))]
    assert torch.allclose(model.full_sort_predict(rows)[:, 1:], expected[:, 1:], atol=1e-6)
    loss = -expected[:, 1:].log_softmax(-1).gather(1, rows["item_id"][:, None] - 1).mean() + model.prior.regularization()
    assert torch.allclose(model.calculate_loss(rows), loss, atol=1e-5)
    model.calculate_loss(rows).backward()
    assert model.prior.scaled.grad.any()


def test_alpha_chooses_between_the_filter_and_attention(build):
    x, mask = torch.randn(2, 10, 16), torch.zeros(2, 1, 10, 10)
    parts = {}
    for alpha in (0.0, 0.3, 1.0):
        model, *_ = build("BSARec", alpha=alpha)  # the fixture seeds the weights alike
        block = model.blocks[0]
        block.feed_forward = torch.nn.Identity()
        parts[alpha] = block(x, mask, 10)
        if alpha in (0.0, 1.0):
            assert torch.equal(parts[alpha], block.frequency(x, 10) if alpha else block.attention(x, mask, 10))
    assert torch.allclose(parts[0.3], 0.3 * parts[1.0] + 0.7 * parts[0.0], atol=1e-6)


@pytest.mark.parametrize("n_heads", [1, 2])
def test_attention_is_recboles(n_heads):
    torch.manual_seed(0)
    ours, theirs = Attention(n_heads, 8, 0.5, 0.5, 1e-12).eval(), MultiHeadAttention(n_heads, 8, 0.5, 0.5, 1e-12).eval()
    renamed = {"out": "dense", "norm": "LayerNorm"}
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter)
    for name, module in ours.named_children():
        if "dropout" not in name:
            module.load_state_dict(getattr(theirs, renamed.get(name, name)).state_dict())
    x, mask = torch.randn(3, 6, 8), -10000.0 * torch.ones(6, 6).triu(1).expand(3, 1, 6, 6)
    mask = mask.masked_fill(torch.arange(6) < torch.tensor([0, 2, 6])[:, None, None, None], -10000.0)  # the last row is padding alone
    for n_last in (6, 1):
        assert torch.allclose(ours(x, mask, n_last), theirs(x, mask)[:, -n_last:], atol=1e-5)


def test_one_position_is_that_of_all(build):
    """The last block computes its last position alone; the activation in one kernel is RecBole's in five."""
    model, _, _, test = build("BSARec", hidden_act="gelu")
    rows = test.inter_feat[list(range(16))]
    items = model.align_right(rows["item_id_list"], rows["item_length"])
    x, mask = model.norm(model.item_embedding(items) + model.position_embedding.weight), model.get_attention_mask(items)
    for block in model.blocks:
        block.feed_forward.intermediate_act_fn = block.feed_forward.get_hidden_act("gelu")
        x = block(x, mask, x.shape[1])
    assert torch.allclose(model(rows), x[:, -1], atol=1e-5)


@pytest.mark.parametrize(
    "keys, message",
    [
        ({"alpha": 1.5}, "alpha is 1.5; give a number from 0 up to 1"),
        ({"c": 0}, "c is 0"),
        ({"c": 11}, "c is 11; .*MAX_ITEM_LIST_LENGTH=10"),
        ({"n_heads": 3}, "n_heads is 3 and hidden_size 16"),
        ({"n_heads": 0}, "n_heads is 0"),
        ({"n_layers": 0}, "n_layers is 0"),
        ({"hidden_act": "geluu"}, "did you mean 'gelu'"),
        ({"loss_type": "BPR"}, "loss_type is 'BPR'; give CE"),
    ],
    ids=str,
)
def test_settings_out_of_range_are_named(tiny_settings, keys, message):
    with pytest.raises(UserError, match=message):
        BSARec.check(Config("BSARec", "tiny", config_dict={**tiny_settings, **keys}))
