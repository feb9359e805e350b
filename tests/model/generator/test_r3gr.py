"""R3GR: what it is trained on is what it decodes, and padding and the future have no say."""

from __future__ import annotations

import pytest
import torch
from recbole.data.interaction import Interaction

from recbole_r3vae.data.sequences import TARGET_LIST_FIELD
from recbole_r3vae.errors import UserError


def first_rows(dataset, n=16) -> Interaction:
    return dataset.inter_feat[list(range(n))]


def as_windows(rows: Interaction) -> Interaction:
    """Evaluation rows as training windows whose only target is the item asked for."""
    target = torch.zeros_like(rows["item_id_list"])
    target[torch.arange(len(target)), rows["item_length"] - 1] = rows["item_id"]
    return Interaction({"item_id_list": rows["item_id_list"], "item_length": rows["item_length"], TARGET_LIST_FIELD: target})


@pytest.mark.parametrize("sizes", [(4, 50), (6, 6, 6), (3, 3, 3, 3, 3)])
@pytest.mark.parametrize("n_decoder_layers", [1, 2])
def test_loss_is_the_negative_log_probability_of_the_item(build, sizes, n_decoder_layers):
    _, model, _, _, test = build(sizes, n_decoder_layers=n_decoder_layers)
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


def test_padding_and_batch_mates_do_not_matter(build):
    _, model, _, _, test = build()
    rows = first_rows(test)
    rows["item_length"][::2] = 3
    rows["item_id_list"][::2, 3:] = 0
    together = model.predict(rows)
    alone = torch.cat([model.predict(rows[[i]]) for i in range(len(rows))])
    assert torch.allclose(together, alone, atol=1e-5)


def test_a_position_does_not_see_the_future(build):
    _, model, _, _, test = build()
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


def test_full_sort_predict_scatters_the_beam(build):
    _, model, train, _, test = build()
    rows = first_rows(test, 4)
    full = model.full_sort_predict(rows)
    items, scores = model.recommend(rows, 30)
    assert full.shape == (4, train.item_num)
    assert torch.equal(full.gather(1, items), scores)
    assert torch.isfinite(full).sum(1).tolist() == [30] * 4


def test_allowed_items_only(build):
    _, model, train, _, test = build()
    allowed = torch.zeros(train.item_num, dtype=torch.bool)
    allowed[10:40] = True
    items, _ = model.recommend(first_rows(test, 4), 10, allowed=allowed)
    assert allowed[items].all()


def test_a_checkpoint_of_another_catalogue_is_refused(build):
    _, model, *_ = build()
    with pytest.raises(UserError, match="codebooks"):
        model.load_other_parameter({**model.other_parameter(), "codebook_sizes": [9, 9, 9]})
