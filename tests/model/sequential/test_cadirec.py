"""CaDiRec: noise, denoiser, sampler of steps and views against loops; and the contrast teaches the denoiser nothing."""

from __future__ import annotations

import math
from collections import deque

import pytest
import torch
import torch.nn.functional as F
from recbole.data.interaction import Interaction

from recbole_r3vae.config import Config
from recbole_r3vae.errors import UserError
from recbole_r3vae.model.packing import SPARE, pack
from recbole_r3vae.model.sequential.cadirec import REMEMBERED, UNIFORM, CaDiRec, Denoiser, Diffusion, RelativeBlock
from recbole_r3vae.model.views import view_contrast


def first_rows(dataset, n=24) -> Interaction:
    return dataset.inter_feat[list(range(n))]


def uneven(train, n=24):
    """Histories of all lengths from 1 to 10."""
    items = train.inter_feat["item_id_list"][train.inter_feat["item_length"] == 10][:n]
    return items.masked_fill(torch.arange(10) > (torch.arange(n) % 10)[:, None], 0)


# -- noise -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_steps", [2, 50, 1000])
def test_the_signal_falls_on_the_square_root_schedule(n_steps):
    expected, product = [], 1.0
    for step in range(n_steps):
        before, after = (1 - math.sqrt(place / n_steps + 0.0001) for place in (step, step + 1))
        product *= 1 - min(1 - after / before, 0.999)
        expected.append(product)
    signal = Diffusion(n_steps).signal
    assert torch.allclose(signal, torch.tensor(expected), rtol=1e-4)
    assert (signal.diff() < 0).all() and 0 < signal[-1] < 0.01


def test_noise_has_the_mean_and_deviation_of_its_step():
    torch.manual_seed(0)
    diffusion, x = Diffusion(50), torch.full((40_000, 1), 3.0)
    for step in (0, 10, 49):
        noised, signal = diffusion.noise(x, torch.full((len(x),), step)), float(diffusion.signal[step])
        assert noised.mean().item() == pytest.approx(3 * math.sqrt(signal), abs=0.03)
        assert noised.std().item() == pytest.approx(math.sqrt(1 - signal), rel=0.03)
    begun = diffusion.begin(x)
    assert begun.mean().item() == pytest.approx(3, abs=0.01)
    assert begun.std().item() == pytest.approx((1 - float(diffusion.signal[0])) ** 0.5, rel=0.03)


def test_the_sampler_remembers_the_last_losses_of_each_step():
    torch.manual_seed(0)
    diffusion, memory = Diffusion(4), [deque(maxlen=REMEMBERED) for _ in range(4)]
    for n in (3, 50, 1, 40, 7, 30):  # some steps more often in one batch than are remembered
        assert torch.allclose(diffusion.probability(), torch.full((4,), 0.25)) or min(map(len, memory)) == REMEMBERED
        step, loss = torch.randint(4, (n,)), torch.rand(n)
        diffusion.learn(step, loss)
        for one, value in zip(step.tolist(), loss.tolist()):
            memory[one].append(value)
    assert diffusion.n_losses.sum() == 131
    for step in range(4):
        assert sorted(diffusion.losses[step].tolist()) == pytest.approx(sorted(memory[step]))
    size = [math.sqrt(sum(value**2 for value in one) / REMEMBERED) for one in memory]
    probability = [(1 - UNIFORM) * one / sum(size) + UNIFORM / 4 for one in size]
    assert diffusion.probability().tolist() == pytest.approx(probability)
    drawn, weight = diffusion.draw(100_000)
    for step in range(4):
        assert (drawn == step).float().mean().item() == pytest.approx(probability[step], abs=0.01)
        assert weight[drawn == step].unique().tolist() == pytest.approx([1 / (4 * probability[step])])


def test_until_each_step_has_been_tried_they_are_drawn_alike():
    diffusion = Diffusion(3)
    diffusion.learn(torch.tensor([0, 1] * REMEMBERED), torch.linspace(1, 9, 2 * REMEMBERED))
    assert torch.equal(diffusion.probability(), torch.full((3,), 1 / 3)) and torch.allclose(diffusion.draw(5)[1], torch.ones(5))


# -- the denoiser ------------------------------------------------------------------------------------------------------------------


def test_attention_is_by_content_and_distance_both_ways():
    torch.manual_seed(0)
    block = RelativeBlock(8, 2, 16, 0.0, max_length=6)
    items = torch.tensor([[1, 1, 1, 1, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0]])
    packing = pack(items > 0, SPARE)  # one block: two histories are padded
    real = packing.take(items) > 0
    assert len(packing.blocks) == 1 and not real.all()
    qkv = torch.randn(len(real), 3, 2, 4)
    found = packing.pad(block.attend(qkv, (packing, real)))
    parts = packing.pad(qkv.flatten(1)).unflatten(-1, (3, 2, 4))  # [3, 5, 3, 2, 4]
    keys, queries = block.distance.weight.unflatten(-1, (2, 2, 4)).unbind(1)  # [11, 2, 4]
    for row, length in enumerate((items > 0).sum(1).tolist()):
        for head in range(2):
            q, k, v = (parts[row, :length, part, head] for part in range(3))
            for i in range(length):
                logits = torch.stack([
                    (q[i] @ k[j] + q[i] @ keys[i - j + 5, head] + k[j] @ queries[j - i + 5, head]) / math.sqrt(3 * 4) for j in range(length)
                ])  # fmt: skip
                assert torch.allclose(found[row, i].view(2, 4)[head], logits.softmax(0) @ v, atol=1e-5)


def test_each_history_is_denoised_by_itself_with_its_own_step():
    """Padding and batch mates have no say; items after a place, steps, and the order of items have."""
    torch.manual_seed(0)
    denoiser = Denoiser(2, 8, 2, 16, 6, 0.0).eval()
    torch.nn.init.normal_(denoiser.of_step[2].weight)
    items = torch.tensor([[1, 1, 1, 1, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0]])
    x, step = torch.randn(3, 5, 8), torch.tensor([3, 700, 20])

    def denoised(x, items, step):
        packing = pack(items > 0, SPARE)
        return packing.pad(denoiser(packing.take(x), step[packing.place // items.shape[1]], packing, packing.take(items) > 0))

    together = denoised(x, items, step)
    for row, length in enumerate((4, 2, 3)):
        alone = denoised(x[row : row + 1, :length], items[row : row + 1, :length], step[row : row + 1])
        assert torch.allclose(together[row, :length], alone[0], atol=1e-5)
    changed = x.clone()
    changed[0, 3] = torch.randn(8)
    assert not torch.allclose(denoised(changed, items, step)[0, 0], together[0, 0], atol=1e-3)
    assert not torch.allclose(denoised(x, items, step + 100)[0, 0], together[0, 0], atol=1e-3)
    swapped = x.clone()
    swapped[0, 1:3] = x[0, [2, 1]]
    assert not torch.allclose(denoised(swapped, items, step)[0, 0], together[0, 0], atol=1e-6)


def test_only_some_items_are_noised_and_their_likelihood_is_the_loss(build, monkeypatch):
    """The denoiser sees x_0 but at the noised places; the loss is theirs, history by history, each with its step's weight."""
    model, train, *_ = build("CaDiRec", replaced_share=0.4, diffusion_weight=0.7, mse_weight=0.3, dropout=0.0)
    items, seen = uneven(train), {}
    step, weight = torch.arange(24), torch.linspace(0.5, 2, 24)
    places = model.places(items)
    monkeypatch.setattr(model, "places", lambda given: places)
    monkeypatch.setattr(model.diffusion, "draw", lambda n: (step, weight))
    monkeypatch.setattr(model.diffusion, "begin", lambda x: seen.setdefault("x_0", x + 0.5))
    monkeypatch.setattr(model.diffusion, "noise", lambda x, steps: x + 100 + steps[:, None])
    kept = model.denoiser.forward

    def forward(x, steps, packing, real):
        seen.update(x=packing.pad(x), steps=packing.pad(steps[:, None])[..., 0], packing=packing, found=packing.pad(kept(x, steps, packing, real)))
        return packing.take(seen["found"])

    monkeypatch.setattr(model.denoiser, "forward", forward)
    loss = model.denoising_loss(items)
    start = F.layer_norm(model.item_embedding.weight, (16,))[items] + 0.5  # [B, T, d]
    total = 0.0
    for row in range(24):
        length, of_row = int((items[row] > 0).sum()), []
        assert int(places[row].sum()) == max(1, int(0.4 * length))
        for place in range(length):
            assert seen["steps"][row, place] == step[row]
            wanted = start[row, place] + (100 + step[row] if places[row, place] else 0)
            assert torch.allclose(seen["x"][row, place], wanted, atol=1e-4)
            if places[row, place]:
                found = seen["found"][row, place]
                nll = F.cross_entropy(model.item_embedding.weight[1:] @ found, items[row, place] - 1)
                of_row.append(0.7 * nll + 0.3 * (found - start[row, place]).square().mean())
        total += weight[row].item() * sum(of_row).item() / len(of_row)
    assert loss.item() == pytest.approx(total / 24, rel=1e-4)


def test_embeddings_may_be_noised_as_they_are(build):
    for unit in (True, False):
        model, *_ = build("CaDiRec", unit_variance=unit)
        start = model.start(torch.tensor([3, 8]))
        raw = model.item_embedding.weight[[3, 8]]
        assert torch.allclose(start, (raw - raw.mean(1, keepdim=True)) / (raw.var(1, correction=0, keepdim=True) + 1e-5).sqrt() if unit else raw)


def test_the_sampler_learns_after_a_step_of_training_and_not_before(build):
    model, train, *_ = build("CaDiRec")
    windows = first_rows(train)
    model.calculate_loss(windows)
    model.after_step(windows)
    assert not model.diffusion.n_losses.any()  # a loss that is looked at
    model.train()
    model.calculate_loss(windows)
    assert not model.diffusion.n_losses.any()
    step, losses = model.of_batch
    model.after_step(windows)
    assert model.diffusion.n_losses.sum() == 24 and torch.equal(torch.bincount(step, minlength=1000), model.diffusion.n_losses)
    assert model.diffusion.losses.sum().item() == pytest.approx(losses.sum().item(), rel=1e-4) and (losses > 0).all()
    model.after_step(windows)
    assert model.diffusion.n_losses.sum() == 24


# -- views -------------------------------------------------------------------------------------------------------------------------


def test_candidates_are_the_likeliest_items_of_one_step_from_pure_noise(build, monkeypatch):
    model, train, *_ = build("CaDiRec", n_candidates=4)
    items, seen = uneven(train), {}
    places, kept = model.places(items), model.denoiser.forward

    def forward(x, steps, packing, real):
        seen.update(x=packing.pad(x), steps=steps, is_training=model.denoiser.training)
        seen["found"] = packing.pad(kept(x, steps, packing, real))
        return packing.take(seen["found"])

    monkeypatch.setattr(model.denoiser, "forward", forward)
    found = model.train().candidates(items, places)
    assert (seen["steps"] == 999).all() and not seen["is_training"] and model.denoiser.training
    clean = F.layer_norm(model.item_embedding.weight, (16,))[items]
    context = (items > 0) & ~places
    assert torch.allclose(seen["x"][context], clean[context], atol=1e-6)
    noise = seen["x"][places]
    assert abs(noise.mean()) < 0.2 and 0.8 < noise.std() < 1.2 and not torch.allclose(noise, clean[places], atol=0.1)
    for row, (likely, vector) in enumerate(zip(found, seen["found"][places])):
        scores = (model.item_embedding.weight @ vector).tolist()
        assert likely.tolist() == sorted(range(1, model.n_items), key=lambda item: -scores[item])[:4], row


def test_two_views_have_two_candidates_each_where_the_history_had_an_item(build, monkeypatch):
    model, train, *_ = build("CaDiRec", replaced_share=0.5)
    items, likely = uneven(train), {}

    def candidates(given, places):
        row, place = places.nonzero(as_tuple=True)
        assert torch.equal(given, items)
        likely.update({(int(r), int(p)): {1000 + 10 * n + k for k in range(3)} for n, (r, p) in enumerate(zip(row, place))})
        return torch.tensor([sorted(likely[int(r), int(p)]) for r, p in zip(row, place)])

    monkeypatch.setattr(model, "candidates", candidates)
    first, second = model.views(items)
    for row in range(24):
        for place in range(10):
            pair = {int(first[row, place]), int(second[row, place])}
            if (row, place) in likely:
                assert len(pair) == 2 and pair < likely[row, place]
            else:
                assert pair == {int(items[row, place])}
    assert len(likely) == sum(max(1, int(0.5 * n)) for n in (items > 0).sum(1).tolist())


def test_random_views_are_of_any_items(build, monkeypatch):
    model, train, *_ = build("CaDiRec", replacement="random", replaced_share=1.0)
    monkeypatch.setattr(model, "candidates", lambda *_: pytest.fail("nobody asked"))
    items = uneven(train).repeat(40, 1)
    for view in model.views(items):
        drawn = view[items > 0]
        assert not view[items == 0].any() and drawn.unique().tolist() == list(range(1, model.n_items))


def test_the_contrast_is_of_last_vectors(build, monkeypatch):
    model, train, *_ = build("CaDiRec", contrast_temperature=2.0)
    items = uneven(train)
    views = torch.stack([items, torch.where(items > 0, items.flip(1).clamp(min=1), 0)])
    monkeypatch.setattr(model, "views", lambda _: views)
    vectors = [model.read(Interaction({"item_id_list": view, "item_length": (items > 0).sum(1)})).user for view in views]
    assert torch.allclose(model.contrast(items), view_contrast(*vectors, 2.0), rtol=1e-4)


def test_no_gradient_flows_from_the_contrast_into_the_denoiser(build):
    model, train, *_ = build("CaDiRec", replaced_share=1.0)
    items = uneven(train)
    model.train().contrast(items).backward()
    assert all(weight.grad is None for weight in model.denoiser.parameters())
    taught = {name for name, weight in model.named_parameters() if weight.grad is not None and weight.grad.any()}
    assert {name for name, _ in model.named_parameters()} - taught == {f"denoiser.{name}" for name, _ in model.denoiser.named_parameters()}
    # Of the table of items, rows that are read in the views learn, and no others: none of the scores of candidates.
    model.zero_grad()
    torch.manual_seed(0)
    views = model.views(items)
    torch.manual_seed(0)
    model.contrast(items).backward()
    touched = model.item_embedding.weight.grad.any(1).nonzero()[:, 0].tolist()
    assert set(touched) <= set(views.unique().tolist()) - {0}


# -- the loss ----------------------------------------------------------------------------------------------------------------------


def test_the_loss_is_the_sum_of_its_parts(build, monkeypatch):
    model, train, *_ = build("CaDiRec", contrast_weight=0.3)
    plain, *_ = build("WindowSASRec")
    plain.load_state_dict({key: value for key, value in model.state_dict().items() if key in plain.state_dict()})
    windows = first_rows(train)
    monkeypatch.setattr(model, "contrast", lambda items: torch.tensor(10.0) + (items - windows["item_id_list"]).abs().sum())
    monkeypatch.setattr(model, "denoising_loss", lambda items: torch.tensor(5.0) + (items - windows["item_id_list"]).abs().sum())
    assert torch.allclose(model.calculate_loss(windows), plain.calculate_loss(windows) + 3.0 + 5.0)
    without, *_ = build("CaDiRec", contrast_weight=0.0, diffusion_weight=0.0)
    assert not hasattr(without, "denoiser")
    assert torch.equal(without.calculate_loss(windows), plain.calculate_loss(windows))


@pytest.mark.parametrize("keys", [{}, {"repeat_prior": True}, {"loss_type": "BCE"}, {"mse_weight": 0.5, "diffusion_weight": 0.0}], ids=str)
def test_every_weight_is_trained_draws_are_seeded_and_bfloat16_is_near(build, keys):
    model, train, *_ = build("CaDiRec", **keys)
    windows, losses = first_rows(train, 32), []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        losses.append(model.calculate_loss(windows))
    assert losses[0] == losses[1] != losses[2]
    losses[0].backward()
    untaught = [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert untaught == [] and all(weight.grad.isfinite().all() for weight in model.parameters())
    assert not model.item_embedding.weight.grad[0].any()
    torch.manual_seed(0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.allclose(model.calculate_loss(windows), losses[0], rtol=0.05)


def test_the_denoiser_learns_what_follows_from_its_context(build, tiny_settings, ruled_data):
    """Where every item is given by its neighbours, the likeliest item at a replaced place is the one that stood there."""
    columns = {"inter": ["user_id", "item_id", "timestamp"]}
    model, train, *_ = build("CaDiRec", dataset="ruled", data_path=str(ruled_data), load_col=columns)
    optimizer = torch.optim.Adam(model.train().parameters(), 0.01)
    torch.manual_seed(0)
    for _ in range(150):
        optimizer.zero_grad()
        model.denoising_loss(train.inter_feat["item_id_list"]).backward()
        optimizer.step()
    items = train.inter_feat["item_id_list"]
    places = model.places(items)
    assert (model.candidates(items, places)[:, 0] == items[places]).float().mean() > 0.8  # of 40 items


@pytest.mark.parametrize(
    "keys, message",
    [
        ({"replacement": "noise"}, "replacement is 'noise'.*; give diffusion or random"),
        ({"replaced_share": 0.0}, "replaced_share is 0.0; give a number above 0 up to 1"),
        ({"n_candidates": 1}, "n_candidates is 1; give a whole number from 2"),
        ({"denoiser_heads": 3}, "denoiser_heads is 3 and hidden_size 16"),
        ({"n_heads": 3}, "n_heads is 3 and hidden_size 16"),
        ({"diffusion_weight": 0.0}, "nothing teaches the denoiser.*or replacement: random"),
    ],
    ids=str,
)
def test_settings_out_of_range_are_named(tiny_settings, keys, message):
    with pytest.raises(UserError, match=message):
        CaDiRec.check(Config("CaDiRec", "tiny", config_dict={**tiny_settings, **keys}))


def test_a_random_replacement_needs_no_denoiser(tiny_settings):
    CaDiRec.check(Config("CaDiRec", "tiny", config_dict={**tiny_settings, "diffusion_weight": 0.0, "replacement": "random"}))
