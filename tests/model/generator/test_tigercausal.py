"""TIGER-causal: all targets of a window at once are each prefix alone, and a plain causal stack computes the same."""

from __future__ import annotations

import pytest
import torch
from recbole.data.dataloader import TrainDataLoader
from recbole.data.interaction import Interaction

from recbole_r3vae.config import Config
from recbole_r3vae.data.sequences import TARGET_LIST_FIELD
from recbole_r3vae.errors import UserError
from recbole_r3vae.model.contract import UNIQUE, Needs
from recbole_r3vae.model.generator.tigercausal import TIGERCausal
from recbole_r3vae.quick_start import run_recbole_r3vae

SMALL = {"model": "TIGERCausal", "head_size": 8, "n_layers": 2, "n_user_buckets": 7, "n_position_buckets": 8, "max_position_distance": 20}


@pytest.fixture
def build_causal(build):
    def make(sizes=(6, 6, 6), **more):
        config, model, train, valid, test = build(sizes, **{**SMALL, **more})
        for parameter in model.parameters():  # norms and biases away from where they begin
            torch.nn.init.normal_(parameter, mean=parameter.mean().item(), std=0.3 * parameter.std().item() + 0.1)
        return config, model, train, valid, test

    return make


def windows_of(train, n=12) -> Interaction:
    """Windows of several lengths, some of them with positions that are input only."""
    lengths = train.inter_feat["item_length"]
    rows = [int((lengths == length).nonzero()[0]) for length in lengths.unique()]
    late = ((train.inter_feat[TARGET_LIST_FIELD][:, 0] == 0) & (train.inter_feat["item_id_list"][:, 0] > 0)).nonzero().flatten().tolist()
    assert late
    return train.inter_feat[(rows + late)[: max(n, len(rows) + 2)]]


def prefixes_of(windows: Interaction):
    """Each prefix that has a target, as a row of its own."""
    for user, history, targets in zip(windows["user_id"], windows["item_id_list"], windows[TARGET_LIST_FIELD]):
        for position in targets.nonzero().flatten().tolist():
            prefix = torch.where(torch.arange(len(history)) <= position, history, 0)
            fields = {"user_id": user[None], "item_id_list": prefix[None], "item_length": torch.tensor([position + 1])}
            yield Interaction({**fields, "item_id": targets[position][None]})


def plain_logits(model, tokens: list[int]) -> torch.Tensor:
    """The stack on one sequence, head by head, query by query: ``[S, V]``."""

    def norm(x, weight):
        return weight * x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()

    x, n_heads = model.embedding.weight[tokens], model.stack[0].attention.n_heads
    bias = model.bias.table.weight  # [buckets, H]
    for layer in model.stack:
        q, k, v = (layer.qkv.weight @ norm(x, layer.attention_norm.weight).T).T.chunk(3, -1)  # [S, A]
        out = torch.zeros_like(q)
        width = q.shape[1] // n_heads
        for head in range(n_heads):
            part = slice(head * width, (head + 1) * width)
            for now in range(len(tokens)):
                behind = torch.arange(now, -1, -1)
                logits = k[: now + 1, part] @ q[now, part] + bias[model.bias.bucket(behind), head]
                out[now, part] = logits.softmax(0) @ v[: now + 1, part]
        x = x + out @ layer.out.weight.T
        x = x + torch.relu(norm(x, layer.mlp_norm.weight) @ layer.inner.weight.T) @ layer.outer.weight.T
    return norm(x, model.norm.weight) * x.shape[-1] ** -0.5 @ model.embedding.weight.T


@torch.no_grad()
@pytest.mark.parametrize("sizes, n_user_buckets", [((6, 6, 6), 7), ((4, 5, 6, 7), 0)])
def test_the_score_is_that_of_a_plain_causal_stack(build_causal, sizes, n_user_buckets):
    _, model, _, _, test = build_causal(sizes, n_user_buckets=n_user_buckets)
    rows = test.inter_feat[list(range(4))]
    scores = model.predict(rows)
    for row in range(4):
        user = [int(model.user_tokens[rows["user_id"][row]])] if n_user_buckets else []
        history = model.tokens[rows["item_id_list"][row, : rows["item_length"][row]]].flatten().tolist()
        target = model.tokens[rows["item_id"][row]].tolist()
        log_probs = plain_logits(model, user + history + target[:-1]).log_softmax(-1)[-len(target) :]
        assert scores[row].item() == pytest.approx(sum(log_probs[level, token].item() for level, token in enumerate(target)), abs=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("sizes, n_user_buckets", [((6, 6, 6), 7), ((4, 5, 6, 7), 0)])
def test_the_loss_of_a_window_is_that_of_its_prefixes(build_causal, sizes, n_user_buckets):
    """So no position sees its target, and positions that are input only have none."""
    _, model, train, *_ = build_causal(sizes, n_user_buckets=n_user_buckets)
    windows = windows_of(train)
    scores = torch.cat([model.predict(row) for row in prefixes_of(windows)])
    assert len(scores) == int((windows[TARGET_LIST_FIELD] > 0).sum()) > 2 * len(windows)
    assert torch.allclose(model.calculate_loss(windows), -scores.mean(), atol=1e-4)


@torch.no_grad()
def test_steps_of_many_beams_are_their_own_prefixes(build_causal):
    _, model, _, _, test = build_causal((6, 5, 4, 3))
    rows = test.inter_feat[list(range(3))]
    rows["item_length"][0] = 2
    rows["item_id_list"][0, 2:] = 0
    generator = torch.Generator().manual_seed(1)
    state, tokens, parents = model.start(model.read(rows)), None, None
    prefixes = torch.zeros(3, 1, 0, dtype=torch.int64)
    for level, (size, width) in enumerate(zip(model.codebook_sizes, (4, 9, 5, 1))):
        log_probs = model.step(state, tokens, parents)  # [3, W, K]
        assert log_probs.shape == (3, prefixes.shape[1], size)
        for user in range(3):
            history = model.tokens[rows["item_id_list"][user, : rows["item_length"][user]]].flatten().tolist()
            begin = [int(model.user_tokens[rows["user_id"][user]]), *history]
            for beam, prefix in enumerate(prefixes[user]):
                written = (prefix + torch.tensor(model.first_token[:level], dtype=torch.int64)).tolist()
                expected = plain_logits(model, begin + written)[-1].log_softmax(-1)[model.first_token[level] :][:size]
                assert torch.allclose(log_probs[user, beam], expected, atol=1e-4)
        parents = torch.randint(prefixes.shape[1], (3, width), generator=generator)
        tokens = torch.randint(size, (3, width), generator=generator)
        prefixes = torch.cat([prefixes.gather(1, parents[..., None].expand(-1, -1, level)), tokens[..., None]], -1)


@torch.no_grad()
def test_unknown_users_have_no_token(build_causal):
    _, model, _, _, test = build_causal()
    rows = test.inter_feat[list(range(8))]
    unknown = Interaction({**rows.interaction, "user_id": torch.zeros(8, dtype=torch.int64)})
    absent = Interaction({key: rows[key] for key in ("item_id", "item_id_list", "item_length")})
    assert torch.allclose(model.predict(unknown), model.predict(absent), atol=1e-4)
    assert not torch.allclose(model.predict(unknown), model.predict(rows), atol=1e-3)


@torch.no_grad()
def test_a_wide_beam_is_exhaustive_search(build_causal):
    _, model, train, _, test = build_causal((4, 5, 6), num_beams=1000)
    rows = test.inter_feat[list(range(6))]
    items, scores = model.recommend(rows, 20)
    for row in range(len(rows)):
        one = rows[[row] * (train.item_num - 1)]
        one["item_id"] = torch.arange(1, train.item_num)
        exact = model.predict(one)
        assert torch.allclose(scores[row], exact.sort(descending=True).values[:20], atol=1e-4)
        assert torch.allclose(scores[row], exact[items[row] - 1], atol=1e-4)


@torch.no_grad()
def test_loss_temperature_divides_the_logits_of_the_loss_alone(build_causal):
    _, model, train, _, test = build_causal()
    windows, rows = windows_of(train)[:1], test.inter_feat[:4]
    score = model.predict(rows)
    user = int(model.user_tokens[windows["user_id"][0]])
    items, targets = windows["item_id_list"][0], windows[TARGET_LIST_FIELD][0]
    losses = []
    for position in targets.nonzero().flatten().tolist():
        begin = [user, *model.tokens[items[: position + 1]].flatten().tolist()]
        target = model.tokens[targets[position]].tolist()
        logits = plain_logits(model, begin + target[:-1])[-len(target) :] / 0.5
        losses.append(-logits.log_softmax(-1)[range(len(target)), target].sum())
    model.temperature = 0.5
    assert torch.allclose(model.calculate_loss(windows), torch.stack(losses).mean(), atol=1e-3)
    assert torch.equal(model.predict(rows), score)


def test_it_learns_with_every_weight(build):
    """With dropout on it learns a batch of its own loader by heart: the codes are random, so only the histories tell the targets."""
    config, model, train, *_ = build(**{**SMALL, "train_batch_size": 8})
    batch = next(iter(TrainDataLoader(config, train, None, shuffle=True)))
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=0.01)
    for _ in range(100):
        optimizer.zero_grad()
        loss = model.calculate_loss(batch)
        loss.backward()
        optimizer.step()
    assert all(parameter.grad.isfinite().all() and parameter.grad.any() for parameter in model.parameters())
    assert model.eval().calculate_loss(batch) < 0.85 * 3 * torch.tensor(6.0).log()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.allclose(model.calculate_loss(batch), model.eval().calculate_loss(batch), rtol=0.05)


@pytest.mark.parametrize(
    "keys, message",
    [
        ({"n_layers": 0}, "n_layers is 0"),
        ({"n_user_buckets": -1}, "n_user_buckets is -1"),
        ({"max_position_distance": 16}, "max_position_distance is 16 and n_position_buckets 32"),
    ],
    ids=str,
)
def test_settings_out_of_range_are_named(tiny_settings, keys, message):
    with pytest.raises(UserError, match=message):
        TIGERCausal.check(Config("TIGERCausal", "tiny", config_dict={**tiny_settings, **keys}))


def test_it_is_never_passed_off_as_tiger(tiny_settings):
    config = Config("TIGERCausal", "tiny", config_dict=tiny_settings)
    assert TIGERCausal.needs(config) == Needs(semantic_ids=UNIQUE) and TIGERCausal.loss_name(config) == "NLL of semantic ID"
    stages = {"tokenizer": "Random", "tokenizer_epochs": 0, "epochs": 1}
    result = run_recbole_r3vae("TIGERCausal", "tiny", config_dict={**tiny_settings, **SMALL, **stages})
    assert result["name"] == "TIGER-causal[Random]" and 0 <= result["test_result"]["recall@20"] <= 1
