"""ACERec: every piece against loops, its future out of sight, and RPG once all four parts are off."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from recbole.data.interaction import Interaction

from recbole_r3vae.config import Config
from recbole_r3vae.config.sources import load_yaml, properties
from recbole_r3vae.data.sequences import TARGET_LIST_FIELD
from recbole_r3vae.errors import UserError
from recbole_r3vae.model.contract import SHARED, Needs, Sources
from recbole_r3vae.model.generator.acerec import ACERec, ItemBlock, TokenMerger, _popularity, block_causal_mask
from recbole_r3vae.model.packing import pack
from recbole_r3vae.model.parameters import check_parameters
from recbole_r3vae.quick_start import load_data_and_model, run_recbole_r3vae
from recbole_r3vae.serve.recommender import Recommender
from recbole_r3vae.sid.table import SemanticIDs

SIZES = (5, 4, 6, 3, 7)
OFF = {"merger": False, "intent_token": False, "contrast_weight": 0.0, "reconstruction_weight": 0.0}
SWITCHES = [
    {},
    OFF,
    {**OFF, "merger": True},
    {**OFF, "intent_token": True},
    {**OFF, "contrast_weight": 0.1},
    {**OFF, "reconstruction_weight": 0.1},
    {"n_latents": 3, "n_layers": 1},
]


@pytest.fixture
def build_acerec(build):
    """As ``build``; weights lie far from where they begin, so that every piece has a say."""

    def build_model(sizes=SIZES, **more):
        config, model, *datasets = build(sizes, model="ACERec", **{"dropout": 0.0, "n_latents": 2, **more})
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
            model.code_embedding.weight[0] = 0
        return config, model, *datasets

    return build_model


def first_rows(dataset, n=8) -> Interaction:
    """Rows of different lengths."""
    rows = dataset.inter_feat[list(range(n))]
    for row in range(0, n, 2):
        length = 1 + row % 7
        rows["item_length"][row] = length
        rows["item_id_list"][row, length:] = 0
        if TARGET_LIST_FIELD in rows:
            rows[TARGET_LIST_FIELD][row, length:] = 0
    return rows


def prefixes(windows) -> tuple[Interaction, torch.Tensor]:
    """A row for each position with a target: its history, and the target."""
    histories, lengths, targets = [], [], []
    for history, wanted in zip(windows["item_id_list"], windows[TARGET_LIST_FIELD].tolist()):
        for place, target in enumerate(wanted):
            if target:
                histories.append(torch.where(torch.arange(len(history)) <= place, history, 0))
                lengths.append(place + 1)
                targets.append(target)
    return Interaction({"item_id_list": torch.stack(histories), "item_length": torch.tensor(lengths)}), torch.tensor(targets)


# -- its pieces against loops ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_latents, intent", [(1, 0), (1, 1), (4, 0), (4, 1)])
def test_the_mask_is_that_of_a_loop(n_latents, intent):
    width, n_items = n_latents + intent, 3
    mask = block_causal_mask(n_items, width, n_latents)
    for query in range(n_items * width):
        for key in range(n_items * width):
            same, earlier = query // width == key // width, key // width < query // width
            key_is_intent, itself = key % width == n_latents, query == key
            assert mask[query, key] == (earlier or (same and (not key_is_intent or itself)))


@pytest.mark.parametrize("last", [False, True])
def test_a_block_attends_as_a_loop_over_queries_does(last):
    torch.manual_seed(0)
    block, width, n_latents = ItemBlock(8, 2, 16, 0.0).eval(), 3, 2
    items = torch.tensor([[4, 5, 6, 0], [7, 0, 0, 0], [8, 9, 1, 0], [2, 3, 4, 5]])
    packing = pack(items > 0)
    x = torch.randn(len(packing.place), width, 8)
    mask = block_causal_mask(4, width, n_latents)
    tokens = slice(-1, None) if last else slice(None)
    out = block(x, (packing, mask), tokens)
    row = packing.place // 4
    for history in range(4):
        own = (row == history).nonzero().flatten()
        flat = x[own].flatten(0, 1)  # [t * width, d]
        query, key, value = block.qkv(block.attention_norm(flat)).unflatten(1, (3, 2, 4)).unbind(1)
        expected = []
        for place in range(len(flat)):
            seen = [other for other in range(len(flat)) if mask[place, other]]
            heads = []
            for head in range(2):
                weights = (query[place, head] @ key[seen, head].T / math.sqrt(4)).softmax(-1)
                heads.append(weights @ value[seen, head])
            y = flat[place] + block.out(torch.cat(heads))
            expected.append(y + block.mlp(block.mlp_norm(y)))
        expected = torch.stack(expected).unflatten(0, (-1, width))[:, tokens]
        assert torch.allclose(out[own], expected, atol=1e-5)


def test_the_merger_is_one_cross_attention_from_queries_of_the_summary_to_the_digits():
    torch.manual_seed(0)
    sizes, offsets = (3, 5, 2), (1, 4, 9)
    merger, table, summary = TokenMerger(sizes, 8, 4, 2), torch.randn(11, 8), torch.randn(2, 8)
    tokens = torch.tensor([[1, 8, 9], [3, 4, 10]])
    out = merger(tokens, table, summary)
    for item in range(2):
        digits = [table[token] + merger.digit_embedding.weight[digit] for digit, token in enumerate(tokens[item])]
        assert all(offset <= token for offset, token in zip(offsets, tokens[item]))
        key, value = merger.kv(merger.norm(torch.stack(digits))).chunk(2, dim=1)  # [m, d] each
        query = merger.queries(summary[item]).view(4, 8)
        for latent in range(4):
            heads = []
            for head in (slice(0, 4), slice(4, 8)):
                heads.append((query[latent, head] @ key[:, head].T / math.sqrt(4)).softmax(0) @ value[:, head])
            assert torch.allclose(out[item, latent], merger.out(torch.cat(heads)), atol=1e-5)


@torch.no_grad()
def test_an_item_is_read_as_its_latents_and_its_summary(build_acerec):
    _, model, *_ = build_acerec()
    items = torch.tensor([3, 9])
    x, summary = model.item_tokens(items)
    mean = model.item_norm(torch.stack([model.code_embedding.weight[model.tokens[item]].mean(0) for item in items]))
    assert torch.allclose(summary, mean + model.summary(mean), atol=1e-5) and torch.equal(x[:, 2], summary) and x.shape == (2, 3, 16)
    assert torch.equal(x[:, :2], model.merger(model.tokens[items], model.code_embedding.weight, summary))
    for switches, width in (({"intent_token": False}, 2), ({"merger": False}, 2), (OFF, 1)):
        _, model, *_ = build_acerec(**switches)
        x, summary = model.item_tokens(items)
        assert x.shape == (2, width, 16) and (summary is None) == (switches is OFF)
        if model.merger is None:
            means = torch.stack([model.code_embedding.weight[model.tokens[item]].mean(0) for item in items])
            assert torch.allclose(x[:, 0], model.item_norm(means), atol=1e-5)


def test_the_loss_is_the_sum_of_its_terms_by_loops(build_acerec):
    """Over every position with a target, and each term by itself."""
    _, model, train, *_ = build_acerec(contrast_weight=0.3, reconstruction_weight=0.2, popularity_weight=0.5)
    windows = first_rows(train, 4)
    rows, targets = prefixes(windows)
    user = model.read(rows).user
    weight = model.code_embedding.weight

    digits = torch.zeros(())
    for history, target in zip(user, targets):
        for digit, (size, code) in enumerate(zip(SIZES, model.codes[target].tolist())):
            head = slice(16 * digit, 16 * digit + 16)
            h = F.normalize(model.projections.weight[head] @ history + model.projections.bias[head], dim=0)
            first = 1 + sum(SIZES[:digit])
            logits = torch.stack([h @ F.normalize(weight[first + c], dim=0) for c in range(size)]) / 0.03
            digits = digits - logits.log_softmax(0)[code] / len(SIZES)
    digits = digits / len(targets)

    count = {}
    for wanted in train.inter_feat[TARGET_LIST_FIELD].flatten().tolist():
        count[wanted] = count.get(wanted, 0) + 1
    del count[0]
    most = math.log(max(count.values()))
    candidates = sorted(set(targets.tolist()))
    means = {item: model.item_norm(weight[model.tokens[item]].mean(0)) for item in candidates}
    summaries = {item: F.normalize(mean + model.summary(mean), dim=0) for item, mean in means.items()}
    contrast = torch.zeros(())
    for history, target in zip(user, targets.tolist()):
        logits = [F.normalize(history, dim=0) @ summaries[item] / 0.07 - 0.5 * math.log(count[item]) / most for item in candidates]
        contrast = contrast - torch.stack(logits).log_softmax(0)[candidates.index(target)] / len(targets)

    known = sorted({*windows["item_id_list"].flatten().tolist(), *candidates} - {0})
    cosines = []
    for item in known:
        latents = model.item_tokens(torch.tensor([item]))[0][0, :2]  # [k, d]
        told = model.upsampling(latents.T).T  # [m, d]
        cosines += [F.cosine_similarity(told[digit], weight[token], dim=0) for digit, token in enumerate(model.tokens[item])]
    reconstruction = 1 - torch.stack(cosines).mean()

    expected = digits + 0.3 * contrast + 0.2 * reconstruction
    assert torch.allclose(model.calculate_loss(windows), expected, atol=1e-4)
    assert min(float(digits), float(contrast), float(reconstruction)) > 0.1


def test_what_digits_are_reconstructed_to_gets_no_gradient_from_it(build_acerec):
    _, model, *_ = build_acerec()
    items = torch.arange(1, 6)
    latents = torch.randn(5, 2, 16, requires_grad=True)
    model.reconstruction_loss(latents, items).backward()
    assert model.code_embedding.weight.grad is None and latents.grad.abs().sum() > 0


def test_frequencies_are_those_of_training_targets(build_acerec, tiny_data):
    _, model, train, *_ = build_acerec(popularity_weight=1.0)
    inter = pd.read_csv(tiny_data / "tiny" / "tiny.inter", sep="\t", dtype={"user_id:token": str, "item_id:token": str})
    inter = inter.sort_values("timestamp:float", kind="stable")
    targets = inter.groupby("user_id:token")["item_id:token"].agg(lambda items: list(items)[1:-2])  # the last two are held out
    count = pd.Series([item for items in targets for item in items]).value_counts()
    top = math.log(count.max())
    names = train.field2id_token["item_id"]
    expected = [0.0, *(math.log(max(1, count.get(name, 0))) / top for name in names[1:])]
    assert torch.allclose(model.popularity, torch.tensor(expected), atol=1e-6)
    everything = inter["item_id:token"].value_counts()
    assert any(everything[name] != count.get(name, 0) for name in names[1:])
    assert model.popularity.max() == 1 and "popularity" not in model.state_dict()


@pytest.mark.parametrize("count", [0, 1])
def test_without_frequencies_nothing_is_lowered(count):
    """A model that is served counts nothing."""

    class Dataset:
        def counter(self, field):
            return Counter({item: count for item in range(5)})

    assert torch.equal(_popularity(Dataset(), "item_id", 5), torch.zeros(5))


# -- all parts off: RPG --------------------------------------------------------------------------------------------------------------


class PlainRPG(torch.nn.Module):
    """RPG's essentials, written anew: the mean of the digits' embeddings, a causal Transformer, a head a digit, cosines over .03."""

    def __init__(self, model):
        super().__init__()
        self.model = model
        layers = []
        for block in model.blocks:
            layer = torch.nn.TransformerEncoderLayer(16, 2, 32, 0.0, activation="gelu", batch_first=True, norm_first=True)
            ours = {"self_attn.in_proj": block.qkv, "self_attn.out_proj": block.out, "linear1": block.mlp[0], "linear2": block.mlp[2],
                    "norm1": block.attention_norm, "norm2": block.mlp_norm}  # fmt: skip
            weights = {}
            for name, part in ours.items():
                joint = "_" if name.endswith("in_proj") else "."
                weights |= {f"{name}{joint}weight": part.weight, f"{name}{joint}bias": part.bias}
            layer.load_state_dict(weights)
            layers.append(layer)
        self.layers = torch.nn.ModuleList(layers)

    def forward(self, history):
        """Log-probabilities of the digits after each position of one history ``[t]``: m of ``[t, K]``."""
        model, t = self.model, len(history)
        x = torch.stack([model.item_norm(model.code_embedding.weight[model.tokens[item]].mean(0)) for item in history])
        x = (x + model.position_embedding.weight[:t])[None]
        for layer in self.layers:
            x = layer(x, src_mask=torch.nn.Transformer.generate_square_subsequent_mask(t))
        x = F.linear(model.norm(x[0]), model.projections.weight, model.projections.bias).view(t, len(SIZES), 16)
        tables = model.code_embedding.weight[1:].split(list(SIZES))
        return [
            (F.cosine_similarity(x[:, digit, None], table[None], dim=2) / 0.03).log_softmax(1) for digit, table in enumerate(tables)
        ]


def test_with_all_parts_off_it_is_rpg(build_acerec):
    _, model, train, _, test = build_acerec(**OFF)
    peer = PlainRPG(model).train()  # torch's fast path of evaluation knows no such mask
    windows, losses = first_rows(train, 5), []
    for history, wanted in zip(windows["item_id_list"], windows[TARGET_LIST_FIELD]):
        log_probs = peer(history[history > 0])
        for place, target in enumerate(wanted[: len(log_probs[0])].tolist()):
            if target:
                losses.append(-sum(digit[place, code] for digit, code in zip(log_probs, model.codes[target])) / len(SIZES))
    assert torch.allclose(model.calculate_loss(windows), torch.stack(losses).mean(), atol=1e-4)
    rows = first_rows(test, 3)
    scores = torch.stack([
        torch.stack([sum(digit[-1, code] for digit, code in zip(log_probs, model.codes[item])) for item in range(1, model.n_items)])
        for log_probs in (peer(history[history > 0]) for history in rows["item_id_list"])
    ])  # fmt: skip
    assert torch.allclose(model.full_sort_predict(rows)[:, 1:], scores, atol=1e-3)
    names = {name.partition(".")[0] for name, _ in model.named_parameters()}
    assert names == {"code_embedding", "item_norm", "position_embedding", "blocks", "norm", "projections"}


# -- ranking -------------------------------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_a_score_is_the_sum_of_the_digits_log_probabilities(build_acerec, switches):
    _, model, _, _, test = build_acerec(**switches)
    rows = first_rows(test, 6)
    log_probs = model.digit_log_probs(model.read(rows))
    assert all(torch.allclose(digit.exp().sum(1), torch.ones(6)) for digit in log_probs)
    scores = torch.full((6, model.n_items), -torch.inf)
    for row in range(6):
        for item in range(1, model.n_items):
            scores[row, item] = sum(log_probs[digit][row, code] for digit, code in enumerate(model.codes[item].tolist()))
    items, found = model.recommend(rows, 20)
    assert torch.allclose(found, scores.topk(20).values, atol=1e-3)
    assert torch.allclose(scores.gather(1, items), found, atol=1e-3)
    assert torch.allclose(model.predict(rows), scores.gather(1, rows["item_id"][:, None])[:, 0], atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_padding_and_batch_mates_do_not_matter(build_acerec, switches):
    _, model, _, _, test = build_acerec(**switches)
    rows = first_rows(test)
    together = model.predict(rows)
    alone = torch.cat([model.predict(rows[[i]]) for i in range(len(rows))])
    assert torch.allclose(together, alone, atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_a_position_does_not_see_the_future(build_acerec, switches):
    _, model, _, _, test = build_acerec(**switches)
    items = test.inter_feat["item_id_list"][:6]  # every row of the fixture is full

    def encoded(items):
        packing = pack(items > 0)
        return packing.pad(model.encode(model.item_tokens(packing.take(items))[0], packing))

    changed = items.clone()
    changed[:, 6] = items[:, 6] % (model.n_items - 1) + 1
    assert (items > 0).all()
    before, after = encoded(items), encoded(changed)
    assert torch.allclose(before[:, :6], after[:, :6], atol=1e-6)
    assert ((before[:, 6:] - after[:, 6:]).abs().amax(2) > 1e-4).all()


@torch.no_grad()
def test_latents_do_not_see_the_intent_token_of_their_item_but_later_items_do(build_acerec):
    _, model, *_ = build_acerec(n_layers=3)
    packing = pack(torch.ones(1, 3, dtype=torch.bool))
    x = torch.randn(3, 3, 16)
    changed = x.clone()
    changed[1, 2] = torch.randn(16)
    layout = packing, block_causal_mask(3, 3, 2)
    through = lambda x: model.blocks[1](model.blocks[0](x, layout), layout)  # noqa: E731
    moved = (through(x) - through(changed)).abs().amax(2) > 1e-5
    assert moved.tolist() == [[False, False, False], [False, False, True], [True, True, True]]


# -- training ------------------------------------------------------------------------------------------------------------------------


def test_gradient_reaches_each_part(build_acerec):
    _, model, train, *_ = build_acerec()
    model.train().calculate_loss(first_rows(train)).backward()
    unreached = [name for name, parameter in model.named_parameters() if parameter.grad is None or not parameter.grad.abs().sum() > 0]
    assert not unreached


@pytest.mark.parametrize("key, moves", [
    ("contrast_weight", "summary"), ("reconstruction_weight", "upsampling"), ("intent_token", "summary"), ("merger", "merger"),
])  # fmt: skip
def test_each_part_is_one_key(build_acerec, key, moves):
    on = {**OFF, key: True if key in ("merger", "intent_token") else 0.1}
    _, model, train, *_ = build_acerec(**on)
    assert getattr(model, moves) is not None and ACERec.result_name(on) not in ("RPG", "ACERec")
    model.calculate_loss(first_rows(train)).backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in getattr(model, moves).parameters())


@pytest.mark.parametrize("switches", [{}, OFF, {**OFF, "merger": True}], ids=["ACERec", "RPG", "RPG-ATM"])
def test_it_learns_within_a_few_steps(build, switches):
    """Items have a say from the start: where the mean of their digits is not normalised, it recommends a tenth of these."""
    _, model, train, *_ = build((8,) * 6, model="ACERec", dropout=0.0, n_latents=2, hidden_size=32, **switches)
    windows = first_rows(train, 12)
    rows, targets = prefixes(windows)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(40):
        optimizer.zero_grad()
        model.train().calculate_loss(windows).backward()
        optimizer.step()
    assert (model.eval().recommend(rows, 1)[0][:, 0] == targets).float().mean() > 0.9


RUN = {"tokenizer_epochs": 0, "tokenizer_codebook_sizes": [8] * 6, "n_latents": 2, "train_batch_size": 16, "learning_rate": 0.01}


@pytest.mark.parametrize("switches", [{}, OFF], ids=["ACERec", "RPG"])
def test_resumed_is_bit_identical_and_loads(tiny_settings, tmp_path, switches):
    def run(epochs, folder, **more):
        keys = {**tiny_settings, "state": "error", **RUN, **switches, "lr_schedule": "constant", "epochs": epochs, **more}
        return run_recbole_r3vae("ACERec", "tiny", config_dict={**keys, "checkpoint_dir": str(tmp_path / folder)})

    whole = run(2, "whole")
    run(1, "parts")
    resumed = run(2, "parts", resume=True)
    assert resumed["test"] == whole["test"] and set(whole["test"]) == {"left_out", "stay"}
    last = [torch.load(Path(result["run_dir"]) / "last.pth", weights_only=True)["model"] for result in (whole, resumed)]
    assert all(torch.equal(last[0][key], last[1][key]) for key in last[0])
    _, network, _, _, _, test_data = load_data_and_model(Path(whole["run_dir"]) / "best.pth")
    interaction, _, _, positive = next(iter(test_data))
    hits = (network.recommend(interaction, 10)[0] == positive[:, None]).any(1).float().mean().item()
    assert hits == pytest.approx(whole["test"]["stay"]["recall@10"], abs=1e-6)
    served = Recommender(Path(whole["run_dir"]))  # from the checkpoint alone
    assert len(served.recommend([served.served.item_ids[1:4]], k=5)) == 5


@torch.no_grad()
def test_new_items_are_known_by_their_codes(build_acerec):
    _, model, _, _, test = build_acerec()
    rows, old = first_rows(test, 4), model.sources.semantic_ids
    before = model.full_sort_predict(rows)
    codes = torch.cat([old.codes, old.codes[[5]], torch.tensor([[0, 1, 2, 0, 3]])])
    sids = SemanticIDs(codes, SIZES, [*old.item_ids, "new 1", "new 2"])
    model.grow(Sources(sids))
    after = model.full_sort_predict(rows)
    n = before.shape[1]
    assert torch.allclose(after[:, :n], before, atol=1e-5) and torch.allclose(after[:, n], before[:, 5], atol=1e-5)
    log_probs = model.digit_log_probs(model.read(rows))
    assert torch.allclose(after[:, n + 1], sum(digit[:, code] for digit, code in zip(log_probs, (0, 1, 2, 0, 3))), atol=1e-4)
    rows["item_id_list"][:, 0] = n  # and in a history
    twin = first_rows(test, 4)
    twin["item_id_list"][:, 0] = 5
    assert torch.allclose(model.full_sort_predict(rows), model.full_sort_predict(twin), atol=1e-5)
    assert len(model.popularity) == n + 2 and not model.popularity[n:].any()


# -- what it says of itself ------------------------------------------------------------------------------------------------------------


def test_the_name_says_what_ran():
    base = load_yaml(properties() / "model" / "ACERec.yaml")
    assert ACERec.result_name(base) == "ACERec" and ACERec.loss_name(base) == "NLL of digits + InfoNCE of summaries + reconstruction"
    assert ACERec.result_name({**base, **OFF}) == "RPG" and ACERec.loss_name({**base, **OFF}) == "NLL of digits"
    assert ACERec.result_name({**base, "contrast_weight": 0, "reconstruction_weight": 0}) == "RPG-ATM-intent"
    assert ACERec.result_name({**base, "intent_token": False}) == "RPG-ATM-ISA-recon"
    assert ACERec.needs(base) == Needs(semantic_ids=SHARED) and base["tokenizer_codebook_sizes"] == [256] * 32


def test_every_key_of_its_own_has_a_range_that_its_default_is_in():
    defaults = load_yaml(properties() / "model" / "ACERec.yaml")
    check_parameters(ACERec.hyperparameters, defaults)
    assert set(ACERec.hyperparameters) < set(defaults)


@pytest.mark.parametrize("keys, message", [
    ({"merger": 1}, "merger is 1"),
    ({"contrast_weight": -0.1}, "contrast_weight is -0.1"),
    ({"n_latents": 0}, "n_latents is 0"),
    ({"temperature": 0.0}, "temperature is 0.0"),
    ({"dropout": 1.0}, "dropout is 1.0"),
    ({"n_heads": 3}, "n_heads is 3 and hidden_size 16"),
], ids=str)  # fmt: skip
def test_settings_out_of_range_are_named(tiny_settings, keys, message):
    with pytest.raises(UserError, match=message):
        config = Config("ACERec", "tiny", config_dict={**tiny_settings, **keys})
        check_parameters(ACERec.hyperparameters, config)
