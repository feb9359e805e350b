"""COBRA: one window against positions one by one, its losses and BeamFusion against plain loops."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from recbole.data.dataloader import TrainDataLoader
from recbole.data.interaction import Interaction

from recbole_r3vae.config import Config
from recbole_r3vae.data.content import ItemContent
from recbole_r3vae.errors import UserError
from recbole_r3vae.model.contract import SHARED, Needs, Sources
from recbole_r3vae.model.generator.cobra import COBRA
from recbole_r3vae.model.generator.decoding.rules import Excluded
from recbole_r3vae.quick_start import load_data_and_model, run_recbole_r3vae
from recbole_r3vae.serve.recommender import Recommender
from recbole_r3vae.sid.table import SemanticIDs

KINDS = ["both", "generate", "dense"]


@pytest.fixture
def build_cobra(build):
    def build_model(sizes=(3, 4, 5), **more):
        config, model, train, valid, test = build(sizes, model="COBRA", **{"n_layers": 2, **more})
        for parameter in model.parameters():  # away from the small values that all states begin with
            torch.nn.init.normal_(parameter, mean=parameter.mean().item(), std=0.3)
        return config, model.eval(), train, valid, test

    return build_model


def rows_of(dataset, n=10) -> Interaction:
    """Evaluation rows; every second history is cut to a length of its own."""
    rows = dataset.inter_feat[list(range(n))]
    for row in range(0, n, 2):
        rows["item_length"][row] = 1 + row % 7
        rows["item_id_list"][row, 1 + row % 7 :] = 0
    return rows


def states(model, items: list[int], last: int | None = None) -> list[torch.Tensor]:
    """The states of one history, position by position, by attention that is written out; ``last`` is an item whose ID alone follows."""
    kinds = [kind for kind in ("sid", "dense") if kind in model.kinds]
    cells = [(item, kind) for item in items for kind in kinds] + ([] if last is None else [(last, "sid")])
    x = []
    for place, (item, kind) in enumerate(cells):
        item = torch.tensor([item])
        vector = (model.ids if kind == "sid" else model.dense)(item)[0]
        x.append(vector + model.position_embedding.weight[place] + model.kind_embedding.weight[kinds.index(kind)])
    x = torch.stack(x)
    for block in model.blocks:
        query, key, value = block.qkv(block.attention_norm(x)).unflatten(-1, (3, block.n_heads, -1)).unbind(1)  # [S, H, d/H]
        attended = []
        for place in range(len(x)):
            weights = torch.einsum("hd,shd->hs", query[place], key[: place + 1]).div(query.shape[-1] ** 0.5).softmax(-1)
            attended.append(torch.einsum("hs,shd->hd", weights, value[: place + 1]).flatten())
        x = x + block.out(torch.stack(attended))
        x = x + block.mlp(block.mlp_norm(x))
    return list(model.norm(x))


def log_prob(model, state: torch.Tensor, item: int) -> torch.Tensor:
    """Of an item's semantic ID, code by code."""
    total, first = 0, 1
    for level, head in enumerate(model.code_heads):
        code = int(model.codes[item, level])
        total = total + head(state).log_softmax(-1)[code]
        state = state + model.head_embedding.weight[first + code]
        first += model.codebook_sizes[level]
    return total


def history_of(rows, row) -> list[int]:
    return rows["item_id_list"][row, : int(rows["item_length"][row])].tolist()


def exact_scores(model, rows) -> torch.Tensor:
    """Every item's score, one after the other: [B, n_items], row 0 of no item."""
    found = torch.zeros(len(rows), model.n_items)
    for row in range(len(rows)):
        history = history_of(rows, row)
        state = states(model, history)[-1]
        predicted = {}
        for item in range(1, model.n_items):
            score = torch.zeros(())
            sid = tuple(model.codes[item].tolist()) if "sid" in model.kinds else ()
            if len(model.kinds) == 2 and sid not in predicted:
                predicted[sid] = states(model, history, item)[-1], log_prob(model, state, item)
            if "dense" in model.kinds:
                vector = model.dense(torch.tensor([item]))[0]
                ahead = predicted[sid][0] if len(model.kinds) == 2 else state
                score = score + 16 * F.cosine_similarity(model.dense_out(ahead), vector, dim=0)
            if len(model.kinds) == 2:
                score = score + 0.9 * predicted[sid][1]
            elif "sid" in model.kinds:
                score = log_prob(model, state, item)
            found[row, item] = score
    return found


# -- ranking -------------------------------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("rank_by", KINDS)
def test_scores_against_plain_loops(build_cobra, rank_by):
    """`predict` of any item, and what is recommended, which `predict` scores alike."""
    _, model, _, _, test = build_cobra(rank_by=rank_by, num_beams="exact", valid_num_beams="exact")
    rows = rows_of(test, 4)
    expected = exact_scores(model, rows)
    for item in (1, 60, 148):
        rows["item_id"] = torch.full((4,), item)
        assert torch.allclose(model.predict(rows), expected[:, item], atol=1e-3)
    items, scores = model.recommend(rows, 20)
    assert torch.allclose(scores, expected[:, 1:].topk(20).values, atol=1e-3)
    assert torch.allclose(scores, expected.gather(1, items), atol=1e-3)
    for place in range(20):
        rows["item_id"] = items[:, place]
        assert torch.allclose(model.predict(rows), scores[:, place], atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("rule", ["none", "flags", "a row each", "excluded"])
@pytest.mark.parametrize("m, n", [(5, 2), (7, 20), (1, 3)])
def test_beam_fusion_against_plain_loops(build_cobra, rule, m, n):
    """M IDs with an item that is allowed, of each the N nearest that are, by the product of both softmaxes."""
    _, model, _, _, test = build_cobra(sizes=(3, 3, 3), bucket_items=n)
    model.num_beams = m
    rows, scores = rows_of(test, 4), None
    flags = torch.rand(4, model.n_items, generator=torch.Generator().manual_seed(1)) < 0.5
    allowed = {"none": None, "flags": flags[0], "a row each": flags, "excluded": Excluded(*(~flags).nonzero(as_tuple=True))}[rule]
    flags = {"none": torch.ones_like(flags), "flags": flags[0].expand_as(flags)}.get(rule, flags)
    sids = [tuple(code) for code in model.codes.tolist()]
    scores = exact_scores(model, rows)
    [found] = model.recommend_under(rows, 10, [allowed], strict=False)
    for row in range(4):
        state = states(model, history_of(rows, row))[-1]
        open_items = [item for item in range(1, model.n_items) if flags[row, item]]
        phi = {sids[item]: float(log_prob(model, state, item)) for item in open_items}
        beams = _beam(model, state, sorted(phi), m)
        candidates = {}
        for sid in beams:
            cosine = {item: (float(scores[row, item]) - 0.9 * phi[sid]) / 16 for item in open_items if sids[item] == sid}
            for item in sorted(cosine, key=cosine.get, reverse=True)[:n]:
                candidates[item] = (phi[sid], cosine[item])
        items = list(candidates)
        both = torch.tensor([candidates[item] for item in items])  # [C, 2]
        product = (0.9 * both[:, 0]).softmax(0) * (16 * both[:, 1]).softmax(0)
        wanted = [items[place] for place in product.argsort(descending=True)[:10].tolist()]
        assert [item for item in found.items[row].tolist() if item] == wanted
        assert torch.allclose(found.scores[row, : len(wanted)], scores[row, wanted], atol=1e-3)


def _beam(model, state, sids, m) -> list[tuple]:
    """Beam search over existing IDs, level by level."""
    beams = [((), 0.0, state)]
    first = 1
    for level, head in enumerate(model.code_heads):
        more = []
        for prefix, score, context in beams:
            log_probs = head(context).log_softmax(-1)
            for code in sorted({sid[level] for sid in sids if sid[:level] == prefix}):
                more.append(((*prefix, code), score + float(log_probs[code]), context + model.head_embedding.weight[first + code]))
        beams, first = sorted(more, key=lambda beam: -beam[1])[:m], first + model.codebook_sizes[level]
    return [sid for sid, *_ in beams]


@torch.no_grad()
def test_without_fusion_the_first_id_alone_is_searched(build_cobra):
    _, fused, _, _, test = build_cobra(sizes=(2, 3))
    _, model, *_ = build_cobra(sizes=(2, 3), fusion=False)
    model.load_state_dict(fused.state_dict())
    rows = rows_of(test, 6)
    sids, scores = [tuple(code) for code in model.codes.tolist()], exact_scores(fused, rows)
    items, found = model.recommend(rows, 40)
    for row in range(6):
        state = states(model, history_of(rows, row))[-1]
        best = max(set(sids[1:]), key=lambda sid: float(log_prob(model, state, sids.index(sid))))
        bucket = [item for item in range(1, model.n_items) if sids[item] == best]
        wanted = sorted(bucket, key=lambda item: -float(scores[row, item]))[:20]  # bucket_items
        assert [item for item in items[row].tolist() if item] == wanted and (found[row, len(wanted) :] == -torch.inf).all()
    with pytest.raises(UserError, match="possible items"):
        fused.recommend(rows, 20, allowed=torch.arange(fused.n_items) < 4)


@torch.no_grad()
def test_many_candidates_are_ranked_some_users_at_a_time(build_cobra, monkeypatch):
    _, model, _, _, test = build_cobra(sizes=(2, 2))
    rows = rows_of(test)
    met = Excluded(torch.tensor([0, 0, 9, 5]), torch.tensor([4, 7, 1, 90]))
    items, scores = model.recommend(rows, 10, met)
    monkeypatch.setattr("recbole_r3vae.model.beam_fusion.CANDIDATES", 1000)
    monkeypatch.setattr("recbole_r3vae.model.generator.decoding.buckets.CELLS", 37)
    assert 1 <= model.heads["generate"].rows_at_once < len(rows)
    again, same = model.recommend(rows, 10, met)
    assert torch.equal(again, items) and torch.allclose(same, scores, atol=1e-4)


# -- training --------------------------------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("rank_by", KINDS)
def test_the_loss_of_a_window_is_that_of_its_positions(build_cobra, rank_by):
    _, model, train, *_ = build_cobra(rank_by=rank_by, temperature=0.2, dense_weight=0.5)
    windows = train.inter_feat[list(range(0, 30, 3))]
    assert (windows["target_item_list"][:, 0] == 0).any()  # one that begins with items that are read only
    targets = sorted(set(windows["target_item_list"].flatten().tolist()) - {0})
    vectors = {item: model.dense(torch.tensor([item]))[0] for item in targets} if "dense" in model.kinds else {}
    codes, dense = [], []
    for row in range(len(windows)):
        history = history_of(windows, row)
        for place, target in enumerate(windows["target_item_list"][row, : len(history)].tolist()):
            if not target:
                continue
            state = states(model, history[: place + 1])[-1]  # nothing of what follows
            if "sid" in model.kinds:
                codes.append(-log_prob(model, state, target))
                state = states(model, history[: place + 1], target)[-1] if "dense" in model.kinds else state
            if "dense" in model.kinds:
                state = model.dense_out(state)
                cosines = torch.stack([F.cosine_similarity(state, vectors[item], dim=0) for item in targets]) / 0.2
                dense.append(-cosines.log_softmax(0)[targets.index(target)])
    expected = sum(torch.stack(part).mean() * weight for part, weight in ((codes, 1), (dense, 0.5 if codes else 1)) if part)
    assert torch.allclose(model.calculate_loss(windows), expected, atol=1e-3)


@pytest.mark.parametrize("rank_by", KINDS)
def test_no_state_knows_what_follows(build_cobra, rank_by):
    _, model, *_ = build_cobra(rank_by=rank_by)
    items, length = torch.tensor([[5, 9, 31, 70]]), 4 * len(model.kinds)
    vectors = model.all_vectors().detach().requires_grad_()
    for place in range(length):
        x, _ = model.encode(vectors, items, torch.tensor([length]))
        [grad] = torch.autograd.grad(x[place].sum(), vectors)
        reached = grad[items[0]].abs().sum(-1).flatten() > 0  # position by position
        assert reached[: place + 1].all() and not reached[place + 1 :].any()


@pytest.mark.parametrize("item_encoder", ["content", "words"])
def test_both_sides_of_the_cosine_learn(build_cobra, item_encoder):
    _, model, train, *_ = build_cobra(item_encoder=item_encoder, dense_head=True)
    model.calculate_loss(train.inter_feat[:8]).backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())
    known = torch.arange(1, 9)
    vectors = model.vectors_of(known)[:, -1]
    vectors.retain_grad()
    model.dense_loss(torch.randn(4, 16), torch.tensor([2, 2, 5, 8]), known, vectors).backward()
    assert (vectors.grad.abs().sum(-1) > 0).tolist() == [item in (2, 5, 8) for item in known.tolist()]


@pytest.mark.parametrize("rank_by, item_encoder", [("both", "content"), ("both", "words"), ("generate", "content"), ("dense", "words")])
def test_it_learns(build, rank_by, item_encoder):
    config, model, train, *_ = build((6, 6), model="COBRA", rank_by=rank_by, item_encoder=item_encoder, train_batch_size=24, dropout=0.1)
    batch = next(iter(TrainDataLoader(config, train, None, shuffle=True)))
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=0.01)
    first = model.calculate_loss(batch).item()
    for _ in range(40):
        optimizer.zero_grad()
        loss = model.calculate_loss(batch)
        loss.backward()
        optimizer.step()
    assert model.eval().calculate_loss(batch) < 0.9 * first


@torch.no_grad()
def test_padding_and_batch_mates_do_not_matter(build_cobra):
    _, model, _, _, test = build_cobra()
    rows = rows_of(test)
    alone = torch.cat([model.predict(rows[[row]]) for row in range(len(rows))])
    assert torch.allclose(model.predict(rows), alone, atol=1e-3)
    assert torch.equal(model.recommend(rows, 10)[0], torch.cat([model.recommend(rows[[row]], 10)[0] for row in range(len(rows))]))


@torch.no_grad()
def test_bfloat16_stays_near_float32(build_cobra):
    _, model, train, _, test = build_cobra()
    rows, trained = rows_of(test), train.inter_feat[:8]
    loss, score = model.calculate_loss(trained), model.predict(rows)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model.forget()
        assert torch.allclose(model.calculate_loss(trained), loss, rtol=0.03)
        assert torch.allclose(model.predict(rows), score, rtol=0.1, atol=0.5)
        items, scores = model.recommend(rows, 20)
        rows["item_id"] = items[:, 0]
        assert torch.allclose(model.predict(rows), scores[:, 0], atol=0.05)


# -- items that come later, checkpoints ----------------------------------------------------------------------------------------------


@torch.no_grad()
def test_new_items_join_the_buckets(build_cobra):
    _, model, _, _, test = build_cobra(num_beams="exact", valid_num_beams="exact")
    rows, sids, content = rows_of(test, 3), model.sources.semantic_ids, model.sources.content
    before = model.recommend(rows, 148)
    names = [*sids.item_ids, "twin"]
    more = ItemContent(torch.cat([torch.as_tensor(content.embeddings), torch.as_tensor(content.embeddings)[7:8]]).numpy(), names, {}, "more")
    model.grow(Sources(SemanticIDs(torch.cat([sids.codes, sids.codes[7:8]]), sids.codebook_sizes, names), more))
    items, scores = model.recommend(rows, 149)
    full = torch.full((3, model.n_items), -torch.inf).scatter(1, items, scores)
    assert torch.allclose(full[:, -1], full[:, 7], atol=1e-4)
    assert torch.allclose(full[:, :-1].gather(1, before[0]), before[1], atol=1e-4)


def test_words_cannot_grow(build_cobra):
    _, model, *_ = build_cobra(item_encoder="words")
    with pytest.raises(UserError, match="item_encoder is words, and new items come without them"):
        model.grow(model.sources)


@pytest.mark.parametrize("item_encoder, rank_by", [("content", "both"), ("words", "both"), ("words", "dense")])
def test_a_run_trains_and_its_checkpoint_serves(tiny_settings, item_encoder, rank_by):
    more = {"tokenizer": "RKMeans", "epochs": 1, "item_encoder": item_encoder, "rank_by": rank_by, "tokenizer_epochs": 0, "codebook_sizes": [4, 4]}
    result = run_recbole_r3vae("COBRA", "tiny", config_dict={**tiny_settings, **more})
    assert 0 <= result["test_result"]["recall@20"] <= 1
    *_, network, _, _, _, test_data = load_data_and_model(result["run_dir"])
    served = Recommender(result["run_dir"]).served.model
    batch = next(iter(test_data))[0]
    assert torch.equal(served.recommend(batch, 20)[0], network.recommend(batch, 20)[0])


# -- what it says of itself ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "keys, message",
    [
        ({"n_heads": 3}, "n_heads is 3 and hidden_size 16"),
        ({"rank_by": "codes"}, "rank_by is 'codes'"),
        ({"num_beams": 10}, "num_beams=10 is below the largest topk=20"),
        ({"psi": 0}, "psi is 0"),
    ],
    ids=str,
)
def test_settings_out_of_range_are_named(tiny_settings, keys, message):
    with pytest.raises(UserError, match=message):
        COBRA.check(Config("COBRA", "tiny", config_dict={**tiny_settings, **keys}))


@pytest.mark.parametrize(
    "keys, content, name, loss",
    [
        ({}, (), "COBRA", "NLL of semantic ID + in-batch CE of vectors"),
        ({"fusion": False, "item_encoder": "words"}, None, "COBRA-unfused", "NLL of semantic ID + in-batch CE of vectors"),
        ({"rank_by": "dense"}, (), "COBRA-dense", "in-batch CE of vectors"),
        ({"rank_by": "dense", "item_encoder": "words"}, None, "COBRA-dense", "in-batch CE of vectors"),
        ({"rank_by": "generate"}, None, "COBRA-generate", "NLL of semantic ID"),
    ],
)
def test_what_it_says_of_itself(tiny_settings, keys, content, name, loss):
    config = Config("COBRA", "tiny", config_dict={**tiny_settings, **keys})
    COBRA.check(config)
    assert COBRA.needs(config) == Needs(None if name == "COBRA-dense" else SHARED, content=content, in_order=True)
    assert COBRA.result_name(config) == name and COBRA.loss_name(config) == loss
