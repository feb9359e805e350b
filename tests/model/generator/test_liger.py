"""LIGER: what it adds to TIGER's input and loss, and the re-ranking, against plain loops."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from recbole.data.dataloader import TrainDataLoader
from recbole.data.interaction import Interaction

from recbole_r3vae.config import Config
from recbole_r3vae.data.content import ItemContent
from recbole_r3vae.data.sequences import PrefixDataset
from recbole_r3vae.errors import UserError
from recbole_r3vae.model.contract import UNIQUE, Needs, Sources
from recbole_r3vae.model.generator.decoding.rules import Excluded
from recbole_r3vae.model.generator.liger import LIGER, TextProjection
from recbole_r3vae.quick_start import load_data_and_model, run_recbole_r3vae
from recbole_r3vae.serve.recommender import Recommender
from recbole_r3vae.sid.table import SemanticIDs

SMALL = {
    "model": "LIGER", "head_size": 8, "n_layers": 1, "n_decoder_layers": 1, "text_inner_sizes": [12, 8], "n_user_buckets": 7,
}  # fmt: skip
COLD = torch.tensor([3, 50, 77, 141])


@pytest.fixture
def build_liger(build):
    def build_model(sizes=(6, 6, 6), cold=True, share=False, **more):
        config, model, train, valid, test = build(sizes, share=share, **{**SMALL, **more})
        if cold:
            model.seen[:] = True
            model.seen[COLD] = model.seen[0] = False
        return config, model, train, valid, test

    return build_model


def rows_of(dataset, n=12) -> Interaction:
    """Evaluation rows; every second history is cut to a length of its own."""
    rows = dataset.inter_feat[list(range(n))]
    for row in range(0, n, 2):
        rows["item_length"][row] = 1 + row % 7
        rows["item_id_list"][row, 1 + row % 7 :] = 0
    return rows


def cosines(model, rows) -> torch.Tensor:
    """``cos(h, text) / temperature`` of every item, one history at a time: [B, n_items], row 0 of no item."""
    text = [model.projection((model.content[item] - model.text_centre) / model.text_scale) for item in range(1, model.n_items)]
    found = []
    for row in range(len(rows)):
        encoded, _ = model.encode(rows[[row]])  # [S, d], the last position is the last code
        found.append([0.0, *(float(F.cosine_similarity(encoded[-1], vector, dim=0)) / model.cosine_temperature for vector in text)])
    return torch.tensor(found)


# -- ranking -------------------------------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("rule", ["none", "flags", "a row each", "excluded"])
@pytest.mark.parametrize("retrieve, k", [(20, 10), (3, 10), (7, 4)])
def test_re_ranking_against_plain_loops(build_liger, rule, retrieve, k):
    """The beam's first items and all cold ones, each once, in the order of their cosines; nothing that a rule forbids."""
    _, model, _, _, test = build_liger()
    model.retrieve = retrieve
    rows, n = rows_of(test), model.n_items
    flags = torch.rand(len(rows), n, generator=torch.Generator().manual_seed(1)) < 0.7
    flags[:, COLD[0]], flags[0, COLD[0]], flags[1, COLD] = True, False, False
    allowed = {"none": None, "flags": flags[0], "a row each": flags, "excluded": Excluded(*(~flags).nonzero(as_tuple=True))}[rule]
    flags = {"none": torch.ones_like(flags), "flags": flags[0].expand_as(flags)}.get(rule, flags)
    scores = cosines(model, rows)
    [beam] = model.heads["generate"].rank(model.read(rows), max(k, retrieve), [allowed], strict=False)
    items, found = model.recommend(rows, k, allowed, strict=False)
    for row in range(len(rows)):
        candidates = {item for item in beam.items[row].tolist() if item} | {item for item in COLD.tolist() if flags[row, item]}
        assert all(flags[row, item] for item in candidates)
        wanted = sorted(candidates, key=lambda item: -float(scores[row, item]))[:k]
        assert items[row].tolist() == wanted
        assert torch.allclose(found[row], scores[row, wanted], atol=1e-4)


@torch.no_grad()
def test_cold_items_are_candidates_though_no_beam_finds_them(build_liger):
    _, model, _, _, test = build_liger(num_beams=20)
    rows = rows_of(test)[[0]]
    [beam] = model.heads["generate"].rank(model.read(rows), 20)
    cold = next(item for item in range(1, model.n_items) if not (beam.items == item).any())
    model.seen[:] = True
    assert not (model.recommend(rows, 21, strict=False)[0] == cold).any()
    model.seen[cold] = False
    items, _ = model.recommend(rows, 21)
    assert set(items[0].tolist()) == {*beam.items[0].tolist(), cold}
    assert not (model.recommend(rows, 20, model.seen)[0] == cold).any()


@torch.no_grad()
def test_predict_is_the_score_of_recommend(build_liger):
    for more in ({}, {"rank_by": "dense"}, {"rank_by": "generate", "num_beams": "exact", "valid_num_beams": "exact"}):
        _, model, _, _, test = build_liger(**more)
        rows = rows_of(test)
        items, scores = model.recommend(rows, 20)
        for place in range(20):
            rows["item_id"] = items[:, place]
            assert torch.allclose(model.predict(rows), scores[:, place], atol=1e-4)


@torch.no_grad()
def test_full_sort_reaches_every_candidate(build_liger):
    _, model, _, _, test = build_liger(num_beams=30)
    assert model.most_items == 30 + len(COLD)
    rows = rows_of(test)
    scores = model.full_sort_predict(rows)
    assert (scores > -torch.inf).sum(1).ge(30).all() and (scores[:, COLD] > -torch.inf).all()
    with pytest.raises(UserError, match="possible items for k=40"):
        model.recommend(rows, 40)


@torch.no_grad()
def test_dense_ranks_the_whole_catalogue(build_liger):
    _, model, _, _, test = build_liger(rank_by="dense")
    assert not hasattr(model, "decoder") and list(model.heads) == ["dense"]
    rows = rows_of(test)
    items, _ = model.recommend(rows, 10)
    assert torch.equal(items, 1 + cosines(model, rows)[:, 1:].topk(10).indices)


# -- the loss --------------------------------------------------------------------------------------------------------------------------


def test_the_loss_is_tigers_and_a_softmax_of_cosines_without_cold_items(build_liger):
    _, model, _, _, test = build_liger(temperature=0.1, dense_weight=0.5)
    rows = rows_of(test)
    rows["item_id"] = torch.arange(5, 5 + len(rows))
    assert not torch.isin(rows["item_id"], COLD).any()
    with torch.no_grad():
        scores = cosines(model, rows)
        loss, codes = model.calculate_loss(rows), -model.heads["generate"].score(model.read(rows), rows["item_id"]).mean()
    warm = [item for item in range(1, model.n_items) if item not in COLD.tolist()]
    dense = -sum(float(scores[row, item] - scores[row, warm].logsumexp(0)) for row, item in enumerate(rows["item_id"].tolist())) / len(rows)
    assert loss.item() == pytest.approx(codes.item() + 0.5 * dense, abs=1e-4)


def test_a_cold_items_text_has_no_part_in_the_loss(build_liger):
    _, model, _, _, test = build_liger()
    rows = rows_of(test)
    rows["item_id"] = torch.arange(5, 5 + len(rows))
    rows["item_id_list"][torch.isin(rows["item_id_list"], COLD)] = 1
    loss = model.calculate_loss(rows)
    model.content[COLD] = torch.randn(len(COLD), model.content.shape[1])
    assert torch.equal(model.calculate_loss(rows), loss)
    model.content[80] = torch.randn(model.content.shape[1])
    assert not torch.allclose(model.calculate_loss(rows), loss, atol=1e-5)


def test_what_is_seen_is_what_training_reads_or_aims_at(build_liger):
    _, model, train, valid, test = build_liger(cold=False)
    met = set()
    for row in range(len(train.inter_feat)):
        line = train.inter_feat[[row]]
        start, end = int(line["user_start"]), int(line["target_position"])
        met |= set(train.item_sequence[start : end + 1].tolist())
    assert set(model.seen.nonzero().squeeze(1).tolist()) == met
    targets = {int(item) for part in (valid, test) for item in part.inter_feat["item_id"]}
    assert set(model.cold_items().tolist()) == set(range(1, model.n_items)) - met <= targets
    assert train.counter("item_id_list").keys() <= met


@pytest.mark.parametrize("field, other", [("item_id_list", "item_id"), ("item_id", "item_id_list")])
def test_an_item_is_seen_as_input_or_as_target(build_liger, monkeypatch, field, other):
    counts = {field: {5: 1, 9: 2}, other: {}}
    monkeypatch.setattr(PrefixDataset, "counter", lambda self, field: counts[field])
    _, model, *_ = build_liger(cold=False)
    assert model.seen.nonzero().squeeze(1).tolist() == [5, 9]


@pytest.mark.parametrize("detach", [True, False])
def test_detached_text_learns_from_targets_alone(build_liger, detach):
    _, model, _, _, test = build_liger(detach_text=detach)
    rows = rows_of(test)
    encoded, packing = model.encode(rows, model.all_vectors())
    encoded.sum().backward()
    assert (model.projection.out.weight.grad is None) == detach
    model.zero_grad()
    model.calculate_loss(rows).backward()
    assert model.projection.out.weight.grad.any()


def test_it_learns(build_liger):
    config, model, train, _, _ = build_liger(train_batch_size=32, input_dropout=0.1, cold=False)
    batch = next(iter(TrainDataLoader(config, train, None, shuffle=True)))
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=0.01)
    first = model.calculate_loss(batch).item()
    for _ in range(60):
        optimizer.zero_grad()
        loss = model.calculate_loss(batch)
        loss.backward()
        optimizer.step()
    assert all(parameter.grad.isfinite().all() and parameter.grad.any() for parameter in model.parameters())
    assert model.eval().calculate_loss(batch) < 0.6 * first


# -- the input -------------------------------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("users", [True, False])
def test_an_input_is_code_text_and_both_places(build_liger, users):
    _, model, _, _, test = build_liger()
    rows = rows_of(test, 3)
    if not users:
        rows = Interaction({key: rows[key] for key in ("item_id", "item_id_list", "item_length")})
    seen = []
    model.encoder[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    _, packing = model.encode(rows)
    inputs, text = dict(zip(packing.place.tolist(), seen[0])), model.all_vectors()
    width, n = packing.padded_shape[1], 0
    for row in range(3):
        if users:
            token = model.embedding.weight[model.user_tokens[rows["user_id"][row]]]
            assert torch.allclose(inputs[row * width], model.input_norm(token), atol=1e-5)
            n += 1
        for i in range(int(rows["item_length"][row])):
            item = rows["item_id_list"][row, i]
            for j in range(3):
                x = model.embedding.weight[model.tokens[item, j]] + text[item] + model.item_place.weight[i] + model.code_place.weight[j]
                assert torch.allclose(inputs[row * width + users + 3 * i + j], model.input_norm(x), atol=1e-5)
                n += 1
    assert n == len(seen[0])


@torch.no_grad()
def test_padding_and_batch_mates_do_not_matter(build_liger):
    _, model, _, _, test = build_liger()
    rows = rows_of(test)
    alone = torch.cat([model.predict(rows[[row]]) for row in range(len(rows))])
    assert torch.allclose(model.predict(rows), alone, atol=1e-4)


def test_texts_are_standardized_over_seen_items(build_liger, monkeypatch):
    counted = PrefixDataset.counter
    monkeypatch.setattr(
        PrefixDataset, "counter", lambda self, field: {item: n for item, n in counted(self, field).items() if item not in COLD.tolist()}
    )
    _, model, *_ = build_liger(cold=False)
    assert set(COLD.tolist()) <= set(model.cold_items().tolist())
    texts = (model.content - model.text_centre) / model.text_scale
    assert torch.allclose(texts[model.seen].mean(0), torch.zeros(12), atol=1e-5)
    assert torch.allclose(texts[model.seen].std(0, unbiased=False), torch.ones(12), atol=1e-5)
    _, plain, *_ = build_liger(standardize_text=False)
    assert not plain.text_centre.any() and (plain.text_scale == 1).all()


def test_projection():
    x = torch.randn(5, 6)
    linear = TextProjection([6, 4], 0.0)
    assert torch.equal(linear(x), linear.out(x)) and len(list(linear.parameters())) == 2
    deep = TextProjection([6, 6, 3, 4], 0.0)
    hidden = x + F.layer_norm(deep.layers[0][0](x), (6,)).relu()
    hidden = deep.skips[1](hidden) + F.layer_norm(deep.layers[1][0](hidden), (3,)).relu()
    assert torch.allclose(deep(x), deep.out(hidden), atol=1e-6)


@torch.no_grad()
def test_bfloat16_stays_near_float32(build_liger):
    _, model, _, _, test = build_liger()
    rows, trained = rows_of(test), test.inter_feat[:12]
    loss, score = model.calculate_loss(trained), model.predict(rows)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model.forget()
        assert torch.allclose(model.calculate_loss(trained), loss, rtol=0.03)
        assert torch.allclose(model.predict(rows), score, rtol=0.1, atol=0.5)
        items, scores = model.recommend(rows, 20)
        rows["item_id"] = items[:, 0]
        assert torch.allclose(model.predict(rows), scores[:, 0], atol=1e-3)


# -- items that come later, checkpoints ----------------------------------------------------------------------------------------------


@torch.no_grad()
def test_new_items_are_cold(build_liger):
    _, model, _, _, test = build_liger()
    rows = rows_of(test)
    before, sids, content = cosines(model, rows), model.sources.semantic_ids, model.sources.content
    model.recommend(rows, 5)  # vectors are kept, and must be forgotten
    names = [*sids.item_ids, "new 1", "new 2"]
    codes = torch.tensor([[5, 5, 5], [5, 5, 4]])
    vectors = F.normalize(torch.randn(2, 12), dim=1)
    more = ItemContent(torch.cat([torch.as_tensor(content.embeddings), vectors]).numpy(), names, {"kind": "random"}, "more")
    model.grow(Sources(SemanticIDs(torch.cat([sids.codes, codes]), sids.codebook_sizes, names), more))
    assert model.cold_items().tolist() == [*COLD.tolist(), model.n_items - 2, model.n_items - 1]
    after = cosines(model, rows)
    assert torch.allclose(after[:, :-2], before, atol=1e-4)
    rows["item_id"][:] = model.n_items - 1
    assert torch.allclose(model.predict(rows), after[:, -1], atol=1e-4)


def test_a_checkpoint_knows_what_was_seen(tiny_settings):
    stages = {"tokenizer": "Random", "tokenizer_epochs": 0, "epochs": 1, "train_batch_size": 512}
    result = run_recbole_r3vae("LIGER", "tiny", config_dict={**tiny_settings, **SMALL, **stages})
    assert result["name"] == "LIGER[Random]" and 0 <= result["test_result"]["recall@20"] <= 1
    *_, network, _, _, _, test_data = load_data_and_model(result["run_dir"])
    served = Recommender(result["run_dir"]).served.model
    assert network.seen.any() and torch.equal(served.seen, network.seen)
    batch = next(iter(test_data))[0]
    assert torch.equal(served.recommend(batch, 20)[0], network.recommend(batch, 20)[0])


# -- what it says of itself ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "keys, message",
    [
        ({"retrieve": 19}, "retrieve is 19 and the largest topk 20"),
        ({"retrieve": 25}, "retrieve is 25 and valid_num_beams 20"),
        ({"rank_by": "generate", "detach_text": True}, "nothing trains the projection"),
        ({"rank_by": "codes"}, "rank_by is 'codes'"),
        ({"text_inner_sizes": [0]}, "text_inner_sizes"),
    ],
    ids=str,
)
def test_settings_out_of_range_are_named(tiny_settings, keys, message):
    with pytest.raises(UserError, match=message):
        LIGER.check(Config("LIGER", "tiny", config_dict={**tiny_settings, **keys}))


@pytest.mark.parametrize(
    "rank_by, name, loss",
    [
        ("both", "LIGER", "NLL of semantic ID + CE of text"),
        ("dense", "LIGER-dense", "CE of text"),
        ("generate", "LIGER-generate", "NLL of semantic ID"),
    ],
)
def test_what_it_says_of_itself(tiny_settings, rank_by, name, loss):
    config = Config("LIGER", "tiny", config_dict={**tiny_settings, "rank_by": rank_by})
    LIGER.check(config)
    assert LIGER.needs(config) == Needs(UNIQUE, content=()) and LIGER.result_name(config) == name and LIGER.loss_name(config) == loss
