"""FAMAE: which fields are masked, what each field's loss is, what reaches the target's position, and what a tokenizer is given."""

from __future__ import annotations

import itertools
import math
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from recbole.data.interaction import Interaction

from recbole_r3vae.config import Config
from recbole_r3vae.errors import UserError
from recbole_r3vae.model.sequential.famae import FAMAE, draw_masks
from recbole_r3vae.quick_start import load_data_and_model, run_recbole_r3vae
from recbole_r3vae.quick_start.lookup import create_dataset, data_preparation

SMALL = {"item_fields": ["class"], "n_negatives": 20, "dropout": 0.0}


@pytest.fixture
def model(build) -> FAMAE:
    return build("FAMAE", **SMALL)[0]


@pytest.fixture
def rows(build) -> Interaction:
    """Twelve users, their histories from one item to all ten places."""
    rows = build("FAMAE", **SMALL)[3].inter_feat[list(range(12))]
    length = torch.arange(12) % 10 + 1
    rows["item_length"] = length
    rows["item_id_list"] = rows["item_id_list"].masked_fill(torch.arange(10) >= length[:, None], 0)
    return rows


def test_items_have_their_id_and_the_first_values_of_their_fields(model, build):
    dataset = build("FAMAE", **SMALL)[1]
    assert model.field_names == ["item_id", "class_1", "class_2", "class_3"]
    words, classes = dataset.field2id_token["class"], np.asarray(dataset.item_feat["class"])
    for row, item in enumerate(np.asarray(dataset.item_feat["item_id"])):
        names = [words[c] for c in classes[row] if c]
        assert model.values[item, 0] == item
        for place in range(3):
            known = sorted({words[row[place]] for row in classes[1:] if len(row) > place and row[place]})
            assert model.values[item, 1 + place] == (known.index(names[place]) + 1 if place < len(names) else 0)
    assert [table.num_embeddings - 1 for table in model.tables] == model.values.max(0).values.tolist()
    assert not any(table.weight[0].any() for table in model.tables)


@pytest.mark.parametrize("n_fields", [1, 2, 4])
def test_as_many_fields_are_masked_as_were_drawn_all_subsets_alike(n_fields):
    torch.manual_seed(0)
    n = 24_000
    masks = draw_masks(n, n_fields, torch.device("cpu"))
    sizes = Counter(masks.sum(1).tolist())
    assert sorted(sizes) == list(range(1, 1 + n_fields))
    assert all(abs(count / n - 1 / n_fields) < 0.02 for count in sizes.values())
    subsets = Counter(map(tuple, masks.tolist()))
    for k in range(1, 1 + n_fields):
        for chosen in itertools.combinations(range(n_fields), k):
            share = subsets[tuple(at in chosen for at in range(n_fields))] / sizes[k]
            assert share == pytest.approx(1 / math.comb(n_fields, k), abs=0.03)


def test_the_last_position_alone_is_masked(model, rows):
    """What is shown of the target is the sum of its shown fields and the mask tokens of the others; the history is whole."""
    seen = []
    model.blocks[0].register_forward_pre_hook(lambda block, given: seen.append(given[0]))
    target = model.values[rows["item_id"]]
    masked = torch.rand(target.shape, generator=torch.Generator().manual_seed(0)) < 0.5
    model.forward(rows, target, masked)
    length, place = rows["item_length"], model.position_embedding.weight
    for row in range(len(rows)):
        for step in range(int(length[row])):  # the history ends one place before the last
            item = rows["item_id_list"][row, step]
            whole = sum(table.weight[model.values[item, k]] for k, table in enumerate(model.tables))
            at = 10 - int(length[row]) + step
            torch.testing.assert_close(seen[0][row, at], whole + place[at])
        parts = [model.mask_tokens.weight[k] if masked[row, k] else model.tables[k].weight[target[row, k]] for k in range(4)]
        torch.testing.assert_close(seen[0][row, 10], sum(parts) + place[10])
    assert masked.any() and not masked.all()


def test_nothing_of_a_masked_field_and_all_else_reaches_the_target(model, rows):
    """The gradient of the target's position: to shown fields, to the whole history, to no masked value and to no padding."""
    target = model.values[rows["item_id"]]
    masked = torch.zeros_like(target, dtype=torch.bool)
    masked[:, 0] = True
    shown = target.clone()
    h = model.forward(rows, target, masked)
    shown[:, 0] = 1 + shown[:, 0] % 100
    torch.testing.assert_close(h, model.forward(rows, shown, masked))  # another id that is masked
    shown = target.clone()
    shown[:, 1] = 1 + shown[:, 1] % 5
    assert (model.forward(rows, shown, masked) - h).abs().amax(1).min() > 1e-6
    for place in range(10):  # both ways round: bidirectional, and padding is nobody's
        other = Interaction({key: rows[key].clone() for key in ("item_id_list", "item_length")})
        other["item_id_list"][:, place] = torch.where(rows["item_length"] > place, 1 + rows["item_id_list"][:, place] % 100, 0)
        moved = (model.forward(other, target, masked) - h).abs().amax(1) > 1e-7
        assert torch.equal(moved, rows["item_length"] > place)


def test_padding_changes_nothing(model, rows):
    """Whatever stands at places before a history, nobody looks at it."""
    target = model.values[rows["item_id"]]
    masked = torch.ones_like(target, dtype=torch.bool)
    h, before = model.forward(rows, target, masked), model.position_embedding.weight.detach().clone()
    for row, length in enumerate(rows["item_length"].tolist()):
        with torch.no_grad():
            model.position_embedding.weight.copy_(before)
            model.position_embedding.weight[: 10 - length] += torch.randn(10 - length, 16, generator=torch.Generator().manual_seed(0))
        found = model.forward(rows, target, masked)
        torch.testing.assert_close(found[row], h[row])
        assert length > 8 or not torch.allclose(found[9], h[9], atol=1e-3)  # a whole history is looked at


@pytest.mark.parametrize("n_negatives", [0, 20, 100_000])
def test_the_loss_of_a_field_by_its_definition(build, n_negatives):
    model = build("FAMAE", **{**SMALL, "n_negatives": n_negatives})[0]
    generator = torch.Generator().manual_seed(0)
    h = torch.randn(9, 16, generator=generator)
    for k, table in enumerate(model.tables):
        n_values = table.num_embeddings - 1
        true = torch.randint(0, n_values + 1, (9,), generator=generator)
        true[0] = 0
        masked = torch.tensor([True, True, False, True, True, False, True, True, True])
        whole = n_negatives == 0 or n_values <= n_negatives
        torch.manual_seed(3)
        drawn = list(range(1, 1 + n_values)) if whole else (1 + torch.randint(n_values, (n_negatives,))).tolist()
        true[1] = drawn[0]  # a true value among the drawn ones
        torch.manual_seed(3)
        found = model.field_loss(h, k, true, masked)
        expected = 0.0
        for row in range(9):
            if not masked[row] or true[row] == 0:
                continue
            score = {v: 4 * float(torch.cosine_similarity(h[row], table.weight[v].detach(), dim=0)) for v in {*drawn, int(true[row])}}
            others = sum(math.exp(score[v]) for v in drawn if v != true[row])
            expected -= math.log(math.exp(score[int(true[row])]) / (math.exp(score[int(true[row])]) + others))
        assert found.item() == pytest.approx(expected, rel=1e-4)
    assert model.field_loss(h, 0, torch.zeros(9, dtype=torch.int64), masked).item() == 0


def test_the_loss_is_a_weighted_sum_over_masked_fields(build, rows):
    weights = {"item_id": 0.5, "class_2": 0.0}
    model = build("FAMAE", **SMALL, field_weights=weights)[0].train()
    torch.manual_seed(5)
    found = model.calculate_loss(rows)
    torch.manual_seed(5)
    target = model.values[rows["item_id"]]
    masked = draw_masks(*target.shape, torch.device("cpu"))
    h = model.forward(rows, target, masked)
    parts = [model.field_loss(h, k, target[:, k], masked[:, k]) for k in range(4)]
    torch.testing.assert_close(found, (0.5 * parts[0] + parts[1] + 0 * parts[2] + parts[3]) / 12)
    found.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert not any(table.weight.grad[0].any() for table in model.tables)


def test_the_vectors_of_a_tokenizer_are_the_fields_side_by_side(model):
    vectors = model.field_vectors()
    assert vectors.shape == (len(model.values), 4 * 16)
    for item in range(len(vectors)):
        torch.testing.assert_close(vectors[item], torch.cat([table.weight[v] for table, v in zip(model.tables, model.values[item])]))
    assert not vectors[0].any()


def test_it_ranks_by_the_id_with_all_fields_masked(model, rows):
    target = torch.zeros(12, 4, dtype=torch.int64)
    h = model.forward(rows, target, torch.ones(12, 4, dtype=torch.bool))
    expected = 4 * torch.nn.functional.cosine_similarity(h[:, None], model.tables[0].weight[None, 1:], dim=2)
    alone = Interaction({key: rows[key] for key in ("item_id_list", "item_length")})
    torch.testing.assert_close(model.full_sort_predict(alone)[:, 1:], expected)


def test_without_fields_the_id_is_the_only_one(tiny_settings):
    settings = {**tiny_settings, "load_col": {"inter": ["user_id", "item_id", "timestamp"]}}
    config = Config("FAMAE", "tiny", config_dict=settings)
    train_data, *_ = data_preparation(config, create_dataset(config))
    model = config.model_class(config, train_data.dataset)
    assert model.field_names == ["item_id"] and model.calculate_loss(next(iter(train_data))).isfinite()


def test_a_checkpoint_of_other_values_is_refused(tiny_settings, tmp_path):
    """Values are looked up by number: a file whose categories have other names does not pass for the one that was trained on."""
    data = tmp_path / "data"
    shutil.copytree(tiny_settings["data_path"], data)
    settings = {**tiny_settings, "data_path": str(data), "epochs": 1, "item_fields": ["class"]}
    path = Path(run_recbole_r3vae("FAMAE", "tiny", config_dict=settings)["run_dir"]) / "best.pth"
    before = load_data_and_model(path)[1]
    items = data / "tiny" / "tiny.item"
    items.write_text(items.read_text().replace("Comedy", "Zany"))
    with pytest.raises(UserError, match="Zany"):
        load_data_and_model(path)
    assert before.field_names[1] == "class_1"


def test_a_weight_of_no_field_is_refused(build):
    with pytest.raises(UserError, match="field_weights has 'class_9', and the fields are item_id, class_1"):
        build("FAMAE", **SMALL, field_weights={"class_9": 1.0})
    for bad in ({"item_fields": "class"}, {"field_weights": {"item_id": -1}}, {"n_negatives": -1}, {"field_values": 0}):
        with pytest.raises(UserError, match=f"^{next(iter(bad))} is "):
            build("FAMAE", **{**SMALL, **bad})
    with pytest.raises(UserError, match="n_heads is 3 and hidden_size 16"):
        build("FAMAE", **SMALL, n_heads=3)
