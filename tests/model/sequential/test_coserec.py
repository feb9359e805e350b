"""CoSeRec: its augmentations and correlations against loops, and nothing that a model is asked for reaches them."""

from __future__ import annotations

import math
from collections import Counter
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
import torch
from recbole.data.interaction import Interaction

from recbole_r3vae.config import Config
from recbole_r3vae.data.sequences import TARGET_LIST_FIELD
from recbole_r3vae.errors import UserError
from recbole_r3vae.model.sequential import coserec
from recbole_r3vae.model.sequential.coserec import (
    AUGMENTATIONS,
    CROP,
    INSERT,
    MASK,
    REORDER,
    SUBSTITUTE,
    CoSeRec,
    crop,
    insert,
    item_cf,
    mask,
    most_correlated,
    nearest_by_product,
    reorder,
    substitute,
)
from recbole_r3vae.model.views import view_contrast

WIDTH = 9


@pytest.fixture
def histories():
    """Of every length, many of each; all items of a history differ."""
    generator = torch.Generator().manual_seed(0)
    length = torch.arange(1, WIDTH + 1).repeat(200)
    items = torch.rand(len(length), 50, generator=generator).argsort(1)[:, :WIDTH] + 1
    return items.masked_fill(torch.arange(WIDTH) >= length[:, None], 0)


def lines(items):
    """Histories as lists without padding, which stands on the right alone."""
    found = [[item for item in line if item] for line in items.tolist()]
    assert all(line[: len(kept)] == kept for line, kept in zip(items.tolist(), found))
    return found


def first_rows(dataset, n=24) -> Interaction:
    return dataset.inter_feat[list(range(n))]


# -- augmentations -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.2, 0.5, 1.0])
def test_a_crop_is_a_stretch_and_begins_anywhere(histories, share):
    begins = Counter()
    for old, new in zip(lines(histories), lines(crop(histories, share))):
        kept = max(1, int(share * len(old)))
        begin = old.index(new[0])
        assert new == old[begin : begin + kept] and len(new) == kept
        begins[len(old), begin] += 1
    for n in range(1, WIDTH + 1):
        assert {begin for length, begin in begins if length == n} == set(range(n - max(1, int(share * n)) + 1))


@pytest.mark.parametrize("share", [0.1, 0.7])
def test_a_mask_hides_a_share(histories, share):
    for old, new in zip(lines(histories), lines(mask(histories, share, 99))):
        assert len(new) == len(old) and new.count(99) == int(share * len(old)) and all(n in (o, 99) for o, n in zip(old, new))


@pytest.mark.parametrize("share", [0.2, 0.5, 1.0])
def test_a_reordering_moves_one_stretch(histories, share):
    torch.manual_seed(0)
    moved, begins = Counter(), Counter()
    for old, new in zip(lines(histories), lines(reorder(histories, share))):
        size = int(share * len(old))
        fits = [begin for begin in range(len(old) - size + 1) if old[:begin] + old[begin + size :] == new[:begin] + new[begin + size :]]
        assert fits and sorted(old) == sorted(new)
        moved[len(old)] += old != new
        if old != new and len(fits) == 1:
            begins[len(old), fits[0]] += 1
    for n in range(1, WIDTH + 1):
        size = int(share * n)
        stays = 1 / math.factorial(size)
        assert abs(moved[n] - 200 * (1 - stays)) <= 6 * (200 * stays * (1 - stays)) ** 0.5
        if size > 1:
            assert {begin for length, begin in begins if length == n} == set(range(n - size + 1))


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_a_substitution_puts_the_correlated_item_in_its_place(histories, share):
    for old, new in zip(lines(histories), lines(substitute(histories, share, histories + 100 * (histories > 0)))):
        changed = [place for place, (o, n) in enumerate(zip(old, new)) if o != n]
        assert len(changed) == max(1, int(share * len(old))) and all(new[place] == old[place] + 100 for place in changed)


@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_an_insertion_stands_before_its_item_and_the_last_items_remain(histories, share):
    cut = 0
    for old, new in zip(lines(histories), lines(insert(histories, share, histories + 100))):
        n_put = max(1, int(share * len(old)))
        possible = []
        for places in combinations(range(len(old)), n_put):
            possible.append([i for place, item in enumerate(old) for i in ([item + 100, item] if place in places else [item])][-WIDTH:])
        assert new in possible and len(new) == min(WIDTH, len(old) + n_put)
        cut += len(old) + n_put > WIDTH
    assert cut > 100


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_a_view_is_what_its_augmentation_makes_with_its_share(build, monkeypatch, name):
    model, train, *_ = build("CoSeRec", augmentations=[name], correlation="item_cf", **{f"{name}_share": 0.37})
    items, seen = first_rows(train)["item_id_list"], []
    monkeypatch.setitem(coserec.AUGMENT, name, lambda *given: seen.append(given) or given[0] + 1)
    assert torch.equal(model.view(items), items + 1)
    [(given, share, *put_in)] = seen
    assert torch.equal(given, items) and share == 0.37
    if name == MASK:
        assert put_in == [model.n_items]
    if name in (SUBSTITUTE, INSERT):
        assert torch.equal(put_in[0], model.cf_neighbour[items])


def test_short_histories_are_not_cropped_or_reordered(build, monkeypatch, histories):
    model, *_ = build("CoSeRec", short_length=6)
    length, seen = (histories > 0).sum(1), {}
    for name in AUGMENTATIONS:
        said = lambda these, share, *_, name=name: seen.update({name: (these > 0).sum(1)}) or these  # noqa: E731
        monkeypatch.setitem(coserec.AUGMENT, name, said)
    assert torch.equal(model.view(histories), histories) and set(seen) == set(AUGMENTATIONS)
    short, long = int((length <= 6).sum()), int((length > 6).sum())
    assert min(short, long) >= 600
    for name, found in seen.items():
        n_short, n_long = int((found <= 6).sum()), int((found > 6).sum())
        assert abs(n_long - long / 5) < 5 * (long / 5) ** 0.5
        if name in (CROP, REORDER):
            assert n_short == 0 and found.min() == 7
        else:
            assert abs(n_short - short / 3) < 5 * (short / 3) ** 0.5


def test_without_one_for_short_histories_all_know_the_same(build):
    model, train, *_ = build("CoSeRec", short_length=100, augmentations=["crop"])
    assert all(len(line) == 2 for line in lines(model.view(train.inter_feat["item_id_list"][:5])))  # a fifth of 10 items


# -- correlations ------------------------------------------------------------------------------------------------------------------


def counted(users, items, n_items):
    """ItemCF-IUF by loops."""
    met = {}
    for user, item in zip(users.tolist(), items.tolist()):
        met.setdefault(user, set()).add(item)
    n_users = Counter(item for one in met.values() for item in one)
    scores = np.zeros((n_items, n_items))
    for one in met.values():
        for i in one:
            for j in one - {i}:
                scores[i, j] += 1 / math.log(1 + len(one))
    for i in range(n_items):
        for j in range(n_items):
            scores[i, j] /= math.sqrt(n_users[i] * n_users[j]) or 1
    return scores


def test_item_cf_by_hand():
    """Users are any numbers; item 7 was met by a user who met nothing else, item 8 by nobody."""
    draw = np.random.default_rng(0)
    pairs = np.unique(np.stack([draw.integers(10, 30, 60), draw.integers(1, 7, 60)], 1), axis=0)
    users, items = np.r_[pairs[:, 0], 99], np.r_[pairs[:, 1], 7]
    expected = counted(users, items, 9)
    scores = item_cf(users, items, 9)
    assert np.allclose(scores.toarray(), expected) and expected.max() > 0
    best, neighbour = most_correlated(scores)
    assert neighbour.tolist() == [0, *expected[1:7].argmax(1), 7, 8]
    assert best == pytest.approx(expected.max(1) / expected.max())


def test_where_all_items_are_met_together_the_smallest_score_is_nought():
    users, items = np.array([1, 1, 1, 2, 2]), np.array([1, 2, 3, 1, 2])
    expected = counted(users, items, 4)[1:, 1:]
    apart = expected[~np.eye(3, dtype=bool)]
    best, neighbour = most_correlated(item_cf(users, items, 4))
    assert best[1:] == pytest.approx((expected.max(1) - apart.min()) / (apart.max() - apart.min()), abs=1e-6)
    assert neighbour.tolist() == [0, 2, 1, 1] and best[3] == 0


def test_nobody_met_anything():
    best, neighbour = most_correlated(item_cf(np.zeros(0, np.int64), np.zeros(0, np.int64), 5))
    assert not best.any() and neighbour.tolist() == list(range(5))


def test_the_nearest_by_product_in_chunks(monkeypatch):
    monkeypatch.setattr(coserec, "ROWS", 7)
    vectors = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    vectors[0] = 100.0  # the padding item's row says nothing
    best, neighbour = nearest_by_product(vectors)
    products = {(i, j): float(vectors[i] @ vectors[j]) for i in range(1, 30) for j in range(1, 30) if i != j}
    low, high = min(products.values()), max(products.values())
    assert best[0] == 0 and neighbour[0] == 0
    for i in range(1, 30):
        j = max((j for j in range(1, 30) if j != i), key=lambda j: products[i, j])
        assert neighbour[i] == j and float(best[i]) == pytest.approx((products[i, j] - low) / (high - low), abs=1e-5)


def test_hybrid_is_the_better_of_both_and_begins_when_it_is_told(build):
    model, *_ = build("CoSeRec", hybrid_after=3)
    torch.nn.init.normal_(model.item_embedding.weight)
    model.begin_epoch(2)
    assert torch.equal(model.neighbour, model.cf_neighbour)
    model.begin_epoch(3)
    best, neighbour = nearest_by_product(model.item_embedding.weight.detach())
    by_product = 0
    for item in range(1, model.n_items):
        is_product = best[item] > model.cf_best[item]
        assert model.neighbour[item] == (neighbour[item] if is_product else model.cf_neighbour[item])
        by_product += int(is_product)
    assert 10 < by_product < model.n_items - 10
    fixed, *_ = build("CoSeRec", hybrid_after=0, correlation="item_cf")
    fixed.begin_epoch(9)
    assert torch.equal(fixed.neighbour, fixed.cf_neighbour)


def test_random_items_are_any(build):
    model, *_ = build("CoSeRec", correlation="random")
    drawn = model.correlated(torch.ones(200, 100, dtype=torch.int64))
    assert drawn.min() == 1 and drawn.max() == model.n_items - 1 and drawn.unique().numel() == model.n_items - 1


@pytest.mark.parametrize("longest", [4, 10, 50])
def test_correlations_are_of_all_training_interactions_and_no_others(build, tiny_data, longest):
    """Whatever the windows: counted from the file, each user's two last interactions left out."""
    model, train, *_ = build("CoSeRec", MAX_ITEM_LIST_LENGTH=longest)
    frame = pd.read_csv(tiny_data / "tiny" / "tiny.inter", sep="\t", dtype={"user_id:token": str, "item_id:token": str})
    frame = frame.sort_values("timestamp:float", kind="stable")
    frame = frame[frame.groupby("user_id:token").cumcount(ascending=False) >= 2]
    users, items = (np.array([train.token2id(field, token) for token in frame[f"{field}:token"]]) for field in ("user_id", "item_id"))
    best, neighbour = most_correlated(item_cf(users, items, model.n_items))
    assert np.allclose(model.cf_best, best) and model.cf_neighbour.tolist() == neighbour.tolist()
    assert set(zip(*(part.tolist() for part in train.meetings()))) == set(zip(users.tolist(), items.tolist()))


def test_what_is_asked_changes_no_correlation(build, tiny_data, tmp_path):
    """Other items in validation and test: the same neighbours. Another item in training: others."""
    path = tiny_data / "tiny" / "tiny.inter"
    frame = pd.read_csv(path, sep="\t", dtype=str).astype({"timestamp:float": float}).sort_values("timestamp:float", kind="stable")
    left = frame.groupby("user_id:token").cumcount(ascending=False)
    neighbours = {}
    for name, changed in (("as it is", left < 0), ("asked", left < 2), ("learnt", left == 2)):
        other, folder = frame.copy(), tmp_path / name / "tiny"
        other.loc[changed, "item_id:token"] = frame.loc[changed, "item_id:token"].sample(frac=1, random_state=0).to_numpy()
        folder.mkdir(parents=True)
        other.to_csv(folder / "tiny.inter", sep="\t", index=False)
        (folder / "tiny.item").write_bytes((tiny_data / "tiny" / "tiny.item").read_bytes())
        model, train, *_ = build("CoSeRec", data_path=str(tmp_path / name))
        ids = train.field2id_token["item_id"]
        neighbours[name] = {
            ids[item]: (ids[int(model.cf_neighbour[item])], float(model.cf_best[item])) for item in range(1, model.n_items)
        }
    best = {name: {item: score for item, (_, score) in found.items()} for name, found in neighbours.items()}
    assert best["asked"] == pytest.approx(best["as it is"]) and best["learnt"] != pytest.approx(best["as it is"])


# -- the loss ----------------------------------------------------------------------------------------------------------------------


def test_a_masked_item_is_one_learnt_vector(build):
    model, *_ = build("CoSeRec")
    items = torch.tensor([3, model.n_items, 0, 5])
    expected = torch.stack([model.item_embedding.weight[3], model.mask_embedding.weight[0], torch.zeros(16), model.item_embedding.weight[5]])
    assert torch.equal(model.item_inputs(items), expected)


@pytest.mark.parametrize("contrast_on", ["last", "all"])
@pytest.mark.parametrize("training", [False, True])
def test_the_contrast_is_of_views_read_alone(build, monkeypatch, contrast_on, training):
    """At the last position, or at all positions with the last ones side by side and nothing where there is no item."""
    model, train, *_ = build("CoSeRec", contrast_on=contrast_on, contrast_temperature=2.0, dropout=0.0)
    items = train.inter_feat["item_id_list"][:24]
    views = [items, torch.where(torch.arange(10) < (items > 0).sum(1, keepdim=True) - 1, items.flip(0).clamp(min=1), 0)]
    views[1][:, 0] = 7
    todo = list(views)
    monkeypatch.setattr(model, "view", lambda _: todo.pop(0))
    vectors = []
    for view in views:
        rows = []
        for history in view:
            length = int((history > 0).sum())
            alone = torch.stack([model.read(Interaction({  # each prefix by itself: the vector at its end
                "item_id_list": torch.where(torch.arange(10) <= place, history, 0)[None], "item_length": torch.tensor([place + 1]),
            })).user[0] for place in range(length)])  # fmt: skip
            rows.append(alone[-1] if contrast_on == "last" else torch.cat([torch.zeros(10 - length, 16), alone]).flatten())
        vectors.append(torch.stack(rows))
    expected = view_contrast(*vectors, 2.0)
    assert torch.allclose(model.train(training).contrast(items), expected, rtol=1e-4)


def test_the_loss_is_that_of_the_windows_and_the_contrast(build, monkeypatch):
    model, train, *_ = build("CoSeRec", contrast_weight=0.3)
    plain, *_ = build("WindowSASRec")
    plain.load_state_dict({key: value for key, value in model.state_dict().items() if key in plain.state_dict()})
    windows = first_rows(train)
    monkeypatch.setattr(model, "contrast", lambda items: torch.tensor(10.0) + (items - windows["item_id_list"]).abs().sum())
    assert torch.allclose(model.calculate_loss(windows), plain.calculate_loss(windows) + 3.0)
    without, *_ = build("CoSeRec", contrast_weight=0.0)
    monkeypatch.setattr(without, "contrast", lambda items: pytest.fail("it has no weight"))
    assert torch.equal(without.calculate_loss(windows), plain.calculate_loss(windows))


@pytest.mark.parametrize("keys", [{}, {"repeat_prior": True}, {"loss_type": "SampledCE"}, {"loss_type": "BCE"}, {"contrast_on": "all"}], ids=str)
def test_every_weight_is_trained_draws_are_seeded_and_bfloat16_is_near(build, keys):
    model, train, *_ = build("CoSeRec", **keys)
    windows, losses = first_rows(train, 32), []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        losses.append(model.calculate_loss(windows))
    assert losses[0] == losses[1] != losses[2]
    losses[0].backward()
    assert all(weight.grad.isfinite().all() and weight.grad.any() for weight in model.parameters())
    assert not model.item_embedding.weight.grad[0].any()
    torch.manual_seed(0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.allclose(model.calculate_loss(windows), losses[0], rtol=0.05)


def test_ranking_is_that_of_the_model_without_a_contrast(build):
    model, train, _, test = build("CoSeRec", repeat_prior=True)
    plain, *_ = build("WindowSASRec", repeat_prior=True)
    plain.load_state_dict({key: value for key, value in model.state_dict().items() if key in plain.state_dict()})
    rows = first_rows(test)
    assert torch.equal(model.full_sort_predict(rows), plain.full_sort_predict(rows)) and TARGET_LIST_FIELD not in rows


@pytest.mark.parametrize(
    "keys, message",
    [
        ({"augmentations": ["crops"]}, "augmentations is .*; give a list with 1 or more entries, each crop, mask, reorder"),
        ({"augmentations": []}, "augmentations is"),
        ({"mask_share": 0.0}, "mask_share is 0.0; give a number above 0 up to 1"),
        ({"contrast_on": "flat"}, "contrast_on is 'flat'.*; give last or all"),
        ({"correlation": "cf"}, "correlation is 'cf'.*; give hybrid, item_cf or random"),
        ({"contrast_weight": -1.0}, "contrast_weight is -1.0"),
        ({"n_heads": 3}, "n_heads is 3 and hidden_size 16"),
    ],
    ids=str,
)
def test_settings_out_of_range_are_named(tiny_settings, keys, message):
    with pytest.raises(UserError, match=message):
        CoSeRec.check(Config("CoSeRec", "tiny", config_dict={**tiny_settings, **keys}))
