"""R3GR: what it is trained on is what it decodes, and padding and the future have no say."""

from __future__ import annotations

import pytest
import torch
from recbole.data.interaction import Interaction

from recbole_r3vae.config import Config
from recbole_r3vae.data.sequences import TARGET_LIST_FIELD
from recbole_r3vae.errors import UserError
from recbole_r3vae.model.contract import UNIQUE, Needs
from recbole_r3vae.model.generator.r3gr import R3GR
from recbole_r3vae.model.parameters import check_parameters
from recbole_r3vae.config.sources import load_yaml, properties


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
        before = model.embed(torch.tensor([1, 2]))
        tokens = model.tokens.clone()
        for name, change in {
            "codes": lambda: model.tokens[1].copy_(model.tokens[(tokens != tokens[1]).all(1).nonzero()[-1, 0]]),
            "text": lambda: hasattr(model, "item_vectors") and model.item_vectors[1].neg_(),
            "id": lambda: hasattr(model, "id_embedding") and model.id_embedding.weight.data[1].neg_(),
        }.items():
            with torch.no_grad():
                change()
            after = model.embed(torch.tensor([1, 2]))
            assert torch.equal(before[1], after[1])
            assert torch.equal(before[0], after[0]) == (name not in inputs)
            before = after


def test_hidden_codes_and_ids_are_those_of_training(build):
    _, model, *_ = build(item_inputs=["codes", "id"], sid_dropout=0.5, id_dropout=0.5)
    items = torch.ones(4000, dtype=torch.int64)
    assert torch.equal(model.embed(items), model.embed(items))
    hidden = {}
    for name in ("id", "code"):
        table = getattr(model, f"{name}_embedding")
        table.register_forward_pre_hook(lambda module, given, name=name: hidden.update({name: given[0] == 0}))
    model.train().embed(items)
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
        assert torch.allclose(tied._logits(x, level), x @ tied.code_embedding.weight[first : first + size].T, atol=1e-6)


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
    config["content_encoder"] = {"text": "tfidf-svd", "image": "file"}
    check_parameters(R3GR.hyperparameters, config)
    R3GR.check(config)
    assert R3GR.needs(config) == Needs(semantic_ids=UNIQUE, content=content)
    assert R3GR.result_name(config) == name and R3GR.loss_name(config) == "NLL of semantic ID"


def test_any_modality_is_read_through_one_layer(build):
    """The dataset holds the columns that were asked for, whatever they are called."""
    _, image, *_ = build(item_inputs=["codes", "image"])
    _, text, *_ = build(item_inputs=["codes", "text"])
    items = torch.tensor([1, 2, 3])
    assert torch.equal(image.embed(items), text.embed(items)) and image.item_vectors.shape[1] == 12


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


def test_a_checkpoint_of_another_catalogue_is_refused(build):
    _, model, *_ = build()
    with pytest.raises(UserError, match="codebooks"):
        model.load_other_parameter({**model.other_parameter(), "codebook_sizes": [9, 9, 9]})
