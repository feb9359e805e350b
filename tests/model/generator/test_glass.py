"""GLASS against loops over users, items, codes and tokens; what is later than a target changes nothing of it."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from recbole.data.dataloader import TrainDataLoader
from recbole.data.interaction import Interaction

from recbole_r3vae.config import Config
from recbole_r3vae.errors import UserError
from recbole_r3vae.model.contract import UNIQUE, Needs, Sources
from recbole_r3vae.model.generator.glass import GLASS, SearchingLayer
from recbole_r3vae.model.generator.t5 import DecoderLayer
from recbole_r3vae.quick_start import run_recbole_r3vae

SMALL = {"model": "GLASS", "head_size": 8, "n_layers": 1, "n_decoder_layers": 2, "n_user_buckets": 7, "recent_items": 3, "retrieve": 4, "n_tiers": 5}


@pytest.fixture
def build_glass(build):
    return lambda sizes=(3, 6, 6), **more: build(sizes, **{**SMALL, **more})


@pytest.fixture
def rng():
    return torch.Generator().manual_seed(5)


def rows_of(dataset, n=16) -> Interaction:
    """Evaluation rows of histories of 1 to 10 items: of some there is no long history."""
    rows = dataset.inter_feat[list(range(n))]
    for row in range(n):
        length = 1 + (3 * row) % 10
        rows["item_length"][row] = length
        rows["item_id_list"][row, length:] = 0
    return rows


def parts_of(rows, n_recent=3) -> list[tuple[list[int], list[int]]]:
    """The long and the recent history of each row."""
    histories = [items[:length].tolist() for items, length in zip(rows["item_id_list"], rows["item_length"])]
    return [(items[:-n_recent], items[-n_recent:]) for items in histories]


def moved(model):
    """Away from where parameters begin, so that nothing is zero or one by chance."""
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, mean=parameter.mean().item(), std=0.3 * parameter.std(unbiased=False).item() + 0.1)
    return model


# -- two parts of a history ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_recent", [1, 3, 9])
def test_a_history_is_cut_in_two(build_glass, n_recent):
    _, model, _, _, test = build_glass(recent_items=n_recent)
    rows = rows_of(test)
    before = {key: rows[key].clone() for key in rows.interaction}
    recent, long = model.recent(rows), model.long(rows["item_id_list"], rows["item_length"])
    for row, (old, last) in enumerate(parts_of(rows, n_recent)):
        assert recent["item_id_list"][row].tolist() == last + [0] * (n_recent - len(last)) and recent["item_length"][row] == len(last)
        assert long[row].tolist() == old + [0] * (long.shape[1] - len(old))
    assert long.shape[1] == max(len(old) for old, _ in parts_of(rows, n_recent))
    assert torch.equal(recent["user_id"], rows["user_id"]) and all(torch.equal(rows[key], value) for key, value in before.items())


# -- the summary ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_tiers", [1, 4, 20])
def test_histograms_by_loops(build_glass, n_tiers):
    _, model, train, _, test = build_glass((5, 6, 6), n_tiers=n_tiers)
    model.codes[model.codes[:, 0] == 4, 0] = 2  # a first code that no item has
    model.prototypes = model.centres()
    content, codes = model.content, model.codes[:, 0].tolist()
    rows = rows_of(test)
    found = model.histograms(model.long(rows["item_id_list"], rows["item_length"])).view(len(rows), 5, n_tiers)
    for code in range(5):
        of_code = [item for item in range(1, train.item_num) if codes[item] == code] or range(1, train.item_num)
        prototype = sum(content[item] for item in of_code) / len(of_code)
        assert torch.allclose(model.prototypes[code], prototype, atol=1e-6)
        for row, (old, _) in enumerate(parts_of(rows)):
            expected = [0.0] * n_tiers
            for item in old:
                cosine = F.cosine_similarity(content[item], prototype, dim=0).item()
                expected[min(n_tiers - 1, math.floor((cosine + 1) / (2 / n_tiers)))] += 1 / len(old)
            assert found[row, code].tolist() == pytest.approx(expected, abs=1e-6)


def test_both_ends_of_the_cosine_are_in_a_tier(build_glass):
    _, model, *_ = build_glass(n_tiers=4)
    model.content[1], model.content[2] = model.prototypes[0] / model.prototypes[0].norm(), -model.prototypes[0] / model.prototypes[0].norm()
    first, last = model.histograms(torch.tensor([[1], [2]])).view(2, 3, 4)[:, 0]
    assert first.tolist() == [0, 0, 0, 1] and last.tolist() == [1, 0, 0, 0]


@torch.no_grad()
def test_the_summary_stands_before_the_recent_items_of_those_with_a_long_history(build_glass):
    _, model, _, _, test = build_glass()
    rows, seen = rows_of(test), []
    model.encoder[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    _, packing = model.encode(rows)
    token = model.tier(model.histograms(model.long(rows["item_id_list"], rows["item_length"])))
    blocks = [one for block in packing.split(seen[0]) for one in block]  # [t, d] each, the shortest first
    for row, x in zip(packing.order.tolist(), blocks):
        old, last = parts_of(rows)[row]
        codes = [model.user_tokens[rows["user_id"][row]], *model.tokens[last].flatten()]
        expected = torch.stack([*([token[row]] if old else []), *model.embedding.weight[torch.stack(codes)]])
        assert torch.allclose(x, expected, atol=1e-6)


# -- the search ----------------------------------------------------------------------------------------------------------------------


def searched(model, old: list[int], first: int) -> list[int]:
    """Places of the long history that are found for a first code, by a loop."""
    codes = [int(model.codes[item, 0]) for item in old]
    wanted = {first}
    if model.n_neighbours and codes.count(first) < model.neighbours_below:
        cosine = F.cosine_similarity(model.prototypes[first], model.prototypes, dim=1).tolist()
        others = sorted((code for code in range(len(cosine)) if code != first), key=lambda code: -cosine[code])
        wanted |= set(others[: model.n_neighbours])
    return [place for place, code in enumerate(codes) if code in wanted][-model.retrieve :]


@pytest.mark.parametrize("more", [{"retrieve": 1}, {"retrieve": 3}, {"retrieve": 30}, {"neighbour_codes": 1, "neighbours_below": 2},
                                  {"neighbour_codes": 2, "neighbours_below": 3, "n_tiers": 0}, {"neighbour_codes": 99}], ids=str)  # fmt: skip
@pytest.mark.parametrize("sizes", [(3, 6, 6), (5, 40)])
def test_search_by_loops(build_glass, rng, sizes, more):
    _, model, _, _, test = build_glass(sizes, recent_items=1, **more)
    rows = rows_of(test)
    first = torch.randint(sizes[0], (len(rows), 6), generator=rng)
    found = model.search(model.long(rows["item_id_list"], rows["item_length"]), first)
    assert found.any() and not found.all()
    for row, (old, _) in enumerate(parts_of(rows, 1)):
        for query in range(6):
            assert found[row, query].nonzero().flatten().tolist() == searched(model, old, int(first[row, query]))


def of_list(layer: SearchingLayer, h, read, vectors):
    """Z of one query [d] by the formula, over the vectors [n, d] of the tokens found, each by itself."""
    if not len(vectors):
        return read
    n_heads = layer.attention.n_heads
    query = layer.found_query(h).view(n_heads, -1)
    key, value = layer.found_kv(vectors).view(len(vectors), 2, n_heads, -1).unbind(1)  # [n, H, A/H]
    weights = torch.einsum("ha,nha->hn", query, key).softmax(1)
    z = layer.found_out(torch.einsum("hn,nha->ha", weights, value).flatten())
    g = torch.sigmoid(layer.gate.weight @ torch.cat([read, z])) if layer.fixed_gate is None else layer.fixed_gate
    return (1 - g) * read + g * z


@torch.no_grad()
@pytest.mark.parametrize("gate", [None, 0.5, 0.0, 1])
def test_a_layer_reads_every_token_that_was_found(build_glass, rng, gate):
    """Counts and logarithms give what attention to a list of tokens gives; the gate is the formula's, and 0 where nothing was found."""
    _, model, _, _, test = build_glass(fixed_gate=gate)
    rows, layer = rows_of(test), moved(model).decoder[0]
    first = torch.randint(3, (len(rows), 4), generator=rng)
    h, read = torch.randn(2, len(rows), 4, 16, generator=rng)
    found = model.found(model.long(rows["item_id_list"], rows["item_length"]), first)
    mixed, n_empty = layer.beside(h, read, found), 0
    for row, (old, _) in enumerate(parts_of(rows)):
        for query in range(4):
            items = [old[place] for place in searched(model, old, int(first[row, query]))]
            vectors = model.found_in(model.embedding.weight[model.tokens[items].flatten()])
            assert torch.allclose(mixed[row, query], of_list(layer, h[row, query], read[row, query], vectors), atol=1e-5)
            n_empty += not items
    assert 0 < n_empty < 4 * len(rows) and mixed.isfinite().all()
    assert torch.equal(layer.beside(h, read), read)


def test_what_is_found_teaches_the_embeddings_nothing(build_glass):
    _, model, _, _, test = build_glass()
    rows = rows_of(test)
    long = model.long(rows["item_id_list"], rows["item_length"])
    found = model.found(long, torch.zeros(len(rows), 1, dtype=torch.int64))
    found.vectors.sum().backward()
    assert model.embedding.weight.grad is None and model.found_in.weight.grad.any()


def test_queries_begin_as_small_as_t5s(build_glass):
    """Attention logits are not divided by anything: the weights of queries are."""
    _, model, *_ = build_glass(hidden_size=64, head_size=16)
    layer = model.decoder[0]
    assert layer.found_query.weight.std().item() == pytest.approx(layer.cross_query.weight.std().item(), rel=0.1)
    assert layer.found_kv.weight.std().item() == pytest.approx(layer.cross_kv.weight.std().item(), rel=0.1)
    assert layer.found_query.weight.std() < 0.4 * layer.found_kv.weight.std()


# -- decoding ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "more", [{}, {"n_tiers": 0}, {"retrieve": 0}, {"fixed_gate": 0.5}, {"neighbour_codes": 1}, {"n_tiers": 0, "retrieve": 0}], ids=str
)
@pytest.mark.parametrize("sizes", [(3, 50), (3, 6, 6), (3, 3, 3, 3, 3)])
def test_loss_is_the_negative_log_probability_of_the_item(build_glass, sizes, more):
    """What `step` computes code by code is what teacher forcing computes at once."""
    _, model, _, _, test = build_glass(sizes, **more)
    rows = rows_of(test)
    assert torch.allclose(moved(model).calculate_loss(rows), -model.predict(rows).mean(), atol=1e-4)


@torch.no_grad()
def test_steps_of_many_beams_are_teacher_forcing(build_glass, rng):
    """Beams that branch, swap and die: each has what its own first code finds."""
    _, model, _, _, test = build_glass((6, 5, 4, 3), recent_items=1)
    rows = rows_of(test, 3)
    moved(model)
    state, tokens, parents = model.start(model.read(rows)), None, None
    prefixes, first = torch.zeros(3, 1, 0, dtype=torch.int64), 1
    for level, (size, width) in enumerate(zip(model.codebook_sizes, (4, 9, 5, 1))):
        log_probs = model.step(state, tokens, parents)  # [3, W, K]
        for user in range(3):
            for beam, prefix in enumerate(prefixes[user]):
                model.codes[0, :level], model.tokens[0, :level] = prefix, prefix + 1 + torch.tensor([0, 6, 11, 15])[:level]
                one = rows[[user]]
                one["item_id"] = torch.tensor([0])  # stands for an item of this prefix, and is none of the history
                logits, _ = model(one)
                model.codes[0], model.tokens[0] = -1, 0
                assert torch.allclose(log_probs[user, beam], logits[0, level].log_softmax(-1)[first : first + size], atol=1e-4)
        first += size
        parents = torch.randint(prefixes.shape[1], (3, width), generator=rng)
        tokens = torch.randint(size, (3, width), generator=rng)
        prefixes = torch.cat([prefixes.gather(1, parents[..., None].expand(-1, -1, level)), tokens[..., None]], -1)


def test_a_wide_beam_is_exhaustive_search(build_glass):
    _, model, train, _, test = build_glass((4, 6, 8), share=False, num_beams=1000)
    rows = rows_of(test, 8)
    items, scores = moved(model).recommend(rows, 20)
    for row in range(len(rows)):
        one = rows[[row] * (train.item_num - 1)]
        one["item_id"] = torch.arange(1, train.item_num)
        exact = model.predict(one)
        assert torch.allclose(scores[row], exact.sort(descending=True).values[:20], atol=1e-4)
        assert torch.allclose(scores[row], exact[items[row] - 1], atol=1e-4)


def test_batch_mates_do_not_matter(build_glass):
    _, model, _, _, test = build_glass(neighbour_codes=1)
    rows = rows_of(test)
    alone = torch.cat([moved(model).predict(rows[[0]]), *(model.predict(rows[[row]]) for row in range(1, len(rows)))])
    assert torch.allclose(model.predict(rows), alone, atol=1e-4)


# -- against its host ----------------------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("more", [{"n_tiers": 0, "retrieve": 0}, {"n_tiers": 0, "fixed_gate": 0}, {}], ids=str)
def test_without_its_parts_it_is_tiger_over_recent_items(build_glass, build, more):
    """Also with them, for users without a long history."""
    _, model, _, _, test = build_glass(**more)
    sizes = {key: value for key, value in SMALL.items() if key not in ("recent_items", "retrieve", "n_tiers")}
    _, tiger, *_ = build((3, 6, 6), **{**sizes, "model": "TIGER"})
    tiger.load_state_dict({key: value for key, value in moved(model).state_dict().items() if key in tiger.state_dict()})
    rows = rows_of(test)
    recent, has_long = model.recent(rows), torch.tensor([bool(old) for old, _ in parts_of(rows)])
    assert has_long.any() and not has_long.all()
    same = torch.isclose(model.predict(rows), tiger.predict(recent), atol=1e-5)
    assert same[~has_long].all() and same[has_long].all() == bool(more)


def test_each_part_reads_the_long_history_and_nothing_else_does(build_glass):
    for more, reads in (({}, True), ({"retrieve": 0}, True), ({"n_tiers": 0}, True), ({"retrieve": 0, "n_tiers": 0}, False)):
        _, model, _, _, test = build_glass(**more)
        rows, scores = rows_of(test), []
        for shift in (0, 1):
            other = rows[torch.arange(len(rows))]
            old = torch.arange(10) < (rows["item_length"] - 3)[:, None]
            other["item_id_list"] = torch.where(old, 1 + (rows["item_id_list"] + 36 * shift) % 148, rows["item_id_list"])
            scores.append(moved(model).predict(other) if not shift else model.predict(other))
        changed = ~torch.isclose(*scores, atol=1e-5)
        assert bool(changed.any()) == reads and not changed[rows["item_length"] <= 3].any()


# -- nothing later than the target ----------------------------------------------------------------------------------------------------


def later_changed(folder: Path, to: Path, kept: int) -> str:
    """The dataset in which every user's interactions from number ``kept`` on, counted from 0, or his last -``kept``, are with other items."""
    frame = pd.read_csv(folder / "tiny" / "tiny.inter", sep="\t", dtype=str)
    frame["timestamp:float"] = frame.groupby("user_id:token")["timestamp:float"].rank(method="first")  # no ties
    frame = frame.sort_values(["user_id:token", "timestamp:float"], ignore_index=True)
    users = frame.groupby("user_id:token")
    later = users.cumcount() >= kept if kept > 0 else users.cumcount(ascending=False) < -kept
    items = frame["item_id:token"].to_numpy().copy()
    items[later] = items[later][::-1]  # the catalogue, and how often an item occurs, stay as they are
    frame["item_id:token"] = items
    (to / "tiny").mkdir(parents=True)
    frame.to_csv(to / "tiny" / "tiny.inter", sep="\t", index=False)
    (to / "tiny" / "tiny.item").write_bytes((folder / "tiny" / "tiny.item").read_bytes())
    return str(to)


def ordered(dataset, rows: Interaction) -> Interaction:
    """Rows by the name of their user, then by the length of their history."""
    users = [str(dataset.field2id_token["user_id"][user]) for user in rows["user_id"]]
    return rows[sorted(range(len(users)), key=lambda row: (users[row], int(rows["item_length"][row])))]


@torch.no_grad()
@pytest.mark.parametrize("part, kept", [("training", 12), ("validation", -1)])
def test_later_items_change_nothing(build_glass, tiny_data, tmp_path, part, kept):
    """Histories, histograms, what is found, and scores of a target are those of a file with another future after it."""
    said, later = [], []
    for future, first in (("known", 1000), ("other", kept)):
        path = later_changed(tiny_data, tmp_path / future, first)
        _, model, train, valid, test = build_glass(data_path=path, MAX_ITEM_LIST_LENGTH=40, n_user_buckets=0)
        tokens = train.field2id_token["item_id"]
        order = {token: place for place, token in enumerate(sorted(tokens[1:]), 1)}  # ids follow the order of the file
        by_token = torch.tensor([0, *(order[token] for token in tokens[1:])])
        drawn = torch.Generator().manual_seed(3)
        codes = torch.cat([torch.full((1, 3), -1), torch.randint(3, (len(tokens) - 1, 3), generator=drawn)])[by_token]
        model.codes.copy_(codes)
        model.tokens.copy_((codes + torch.tensor([1, 4, 10])).where(codes >= 0, 0))
        model.content.copy_(torch.randn(len(tokens), 12, generator=drawn)[by_token])
        model.prototypes.copy_(model.centres())
        last, rows = ordered(train, test.inter_feat), train.join(train[torch.arange(len(train))]) if part == "training" else valid.inter_feat
        later.append(by_token[last["item_id"]])
        rows = ordered(train, rows)
        rows = rows[rows["item_length"] < kept] if part == "training" else rows
        long = model.long(rows["item_id_list"], rows["item_length"])
        found = model.found(long, model.codes[rows["item_id"], :1])
        assert not found.nothing.all()
        said.append([by_token[rows["item_id_list"]], model.histograms(long), found.log_counts, model.predict(rows)])
    assert len(said[0][0]) == 60 * (kept - 1 if part == "training" else 1)
    for one, other in zip(*said):
        assert torch.equal(one, other)
    assert (later[0] != later[1]).sum() > 50  # of 60 test targets


# -- training and the rest -----------------------------------------------------------------------------------------------------------


def test_it_learns_and_all_of_it(build_glass):
    config, model, train, _, _ = build_glass(train_batch_size=32)
    batch = next(iter(TrainDataLoader(config, train, None, shuffle=True)))
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        loss = model.calculate_loss(batch)
        loss.backward()
        optimizer.step()
    assert all(parameter.grad.isfinite().all() and parameter.grad.any() for parameter in model.parameters())
    assert model.eval().calculate_loss(batch) < 0.7 * (torch.tensor(3.0).log() + 2 * torch.tensor(6.0).log())


@torch.no_grad()
def test_training_computes_what_evaluation_does_and_bfloat16_stays_near(build_glass):
    _, model, _, _, test = build_glass(dropout=1e-9)
    rows = rows_of(test)
    loss, score = model.eval().calculate_loss(rows), model.predict(rows)
    assert torch.allclose(model.train().calculate_loss(rows), loss, atol=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.allclose(model.calculate_loss(rows), loss, rtol=0.03)
        assert torch.allclose(model.eval().predict(rows), score, rtol=0.1)


def test_new_items_are_known(build_glass):
    _, model, _, _, test = build_glass()
    rows = rows_of(test)
    before, prototypes = model.predict(rows), model.prototypes.clone()
    sids, content = model.sources.semantic_ids, model.sources.content
    grown_sids = type(sids)(torch.cat([sids.codes, sids.codes[5:6]]), sids.codebook_sizes, [*sids.item_ids, "new"])
    vectors = torch.cat([torch.from_numpy(content.embeddings), torch.ones(1, 12)]).numpy()
    model.grow(Sources(grown_sids, type(content)(vectors, grown_sids.item_ids, content.encoder, content.content_hash)))
    assert torch.equal(model.predict(rows), before) and torch.equal(model.prototypes, prototypes)
    rows["item_id_list"][9, 0] = len(sids.item_ids)  # the new one in a long history
    assert rows["item_length"][9] > 3 and model.predict(rows)[9] != before[9]


@pytest.mark.parametrize(
    "keys, message",
    [
        ({"recent_items": 10}, "recent_items is 10 and MAX_ITEM_LIST_LENGTH 10, so there is no long history"),
        ({"fixed_gate": 1.5}, "fixed_gate is 1.5; give ~ or a number from 0 up to 1"),
        ({"n_tiers": -1}, "n_tiers is -1"),
        ({"retrieve": 0, "neighbour_codes": 2}, "neighbour_codes is 2 and retrieve 0"),
    ],
    ids=str,
)
def test_settings_out_of_range_are_named(tiny_settings, keys, message):
    with pytest.raises(UserError, match=message):
        GLASS.check(Config("GLASS", "tiny", config_dict={**tiny_settings, "recent_items": 3, **keys}))


@pytest.mark.parametrize("keys, name, content", [({}, "GLASS", ()), ({"retrieve": 0}, "GLASS-tiers", ()), ({"n_tiers": 0}, "GLASS-search", None),
                                                 ({"n_tiers": 0, "neighbour_codes": 1}, "GLASS-search", ()),
                                                 ({"n_tiers": 0, "retrieve": 0}, "GLASS-recent", None)])  # fmt: skip
def test_what_it_says_of_itself(tiny_settings, build_glass, keys, name, content):
    config = Config("GLASS", "tiny", config_dict={**tiny_settings, "recent_items": 3, **keys})
    GLASS.check(config)
    assert GLASS.needs(config) == Needs(semantic_ids=UNIQUE, content=content) and GLASS.result_name(config) == name
    _, model, *_ = build_glass(**keys)
    kinds = {type(layer) for layer in model.decoder}
    assert kinds == ({SearchingLayer} if config["retrieve"] else {DecoderLayer}) and hasattr(model, "prototypes") == (content is not None)


def test_a_run_trains_and_scores(tiny_settings):
    stages = {"tokenizer": "Random", "tokenizer_epochs": 0, "tokenizer_codebook_sizes": [4, 8, 8], "epochs": 1, "train_batch_size": 512}
    result = run_recbole_r3vae("GLASS", "tiny", config_dict={**tiny_settings, **{k: v for k, v in SMALL.items() if k != "model"}, **stages})
    assert result["name"] == "GLASS[Random]" and 0 <= result["test_result"]["recall@20"] <= 1
    assert [len(levels) for levels in result["beam_levels"].values()] == [4, 4]
