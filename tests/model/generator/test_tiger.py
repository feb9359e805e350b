"""TIGER against Hugging Face's T5, and what it decodes against what it is trained on."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from recbole.data.dataloader import TrainDataLoader
from recbole.data.interaction import Interaction

from recbole_r3vae.config import Config
from recbole_r3vae.config.sources import load_yaml, properties
from recbole_r3vae.errors import UserError
from recbole_r3vae.model.contract import UNIQUE, Needs
from recbole_r3vae.model.generator.t5 import RelativePositionBias
from recbole_r3vae.model.generator.tiger import TIGER
from recbole_r3vae.model.parameters import check_parameters
from recbole_r3vae.quick_start import run_recbole_r3vae

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
SMALL = {"model": "TIGER", "head_size": 8, "n_layers": 2, "n_decoder_layers": 2, "n_user_buckets": 7}


@pytest.fixture
def build_tiger(build):
    return lambda sizes=(6, 6, 6), **more: build(sizes, **{**SMALL, **more})


def rows_of(dataset, n=16) -> Interaction:
    """Evaluation rows, which have the fields of TIGER's training rows; every second history is cut to a length of its own."""
    rows = dataset.inter_feat[list(range(n))]
    for row in range(0, n, 2):
        length = 1 + row % 7
        rows["item_length"][row] = length
        rows["item_id_list"][row, length:] = 0
    return rows


def padded_history(model, rows, users=True):
    """Input of a model that wants a rectangle: user token and item tokens, 0 on the right."""
    tokens = model.tokens[rows["item_id_list"]].flatten(1)
    return torch.cat([model.user_tokens[rows["user_id"]][:, None], tokens], 1) if users else tokens


@pytest.mark.parametrize("n_user_buckets", [0, 7])
@pytest.mark.parametrize("sizes", [(6, 6, 6), (4, 5, 6, 7)])
def test_logits_are_those_of_hugging_faces_t5(build_tiger, sizes, n_user_buckets):
    _, model, _, _, test = build_tiger(sizes, n_user_buckets=n_user_buckets, max_position_distance=20, n_position_buckets=16)
    for parameter in model.parameters():  # norms and biases away from where they begin
        torch.nn.init.normal_(parameter, mean=parameter.mean().item(), std=0.3 * parameter.std().item() + 0.1)
    rows = rows_of(test)
    pytest.importorskip("transformers")
    peer = runpy.run_path(str(BENCHMARKS / "hugging_face.py"))["t5_of"](model)
    history = padded_history(model, rows, users=n_user_buckets > 0)
    with torch.no_grad():
        logits, target = model(rows)
        expected = peer(input_ids=history, attention_mask=(history > 0).long(), labels=model.tokens[rows["item_id"]])
    assert torch.equal(target, model.tokens[rows["item_id"]])
    assert torch.allclose(logits, expected.logits, atol=1e-5)
    assert torch.allclose(model.calculate_loss(rows), expected.loss * len(sizes), atol=1e-5)  # theirs is the mean over levels


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("n_buckets, max_distance", [(32, 128), (8, 20)])
def test_position_buckets_are_t5s(causal, n_buckets, max_distance):
    modeling = pytest.importorskip("transformers.models.t5.modeling_t5")
    bias = RelativePositionBias(2, n_buckets, max_distance, causal)
    behind = torch.arange(-300, 300)
    expected = modeling.T5Attention._relative_position_bucket(-behind, not causal, n_buckets, max_distance)
    assert torch.equal(bias.bucket(behind), expected)
    future = bias(9)[0, :, *torch.triu_indices(9, 9, 1)]
    assert (future == -torch.inf).all() if causal else future.isfinite().all()


@pytest.mark.parametrize("sizes", [(4, 50), (6, 6, 6), (3, 3, 3, 3, 3)])
def test_loss_is_the_negative_log_probability_of_the_item(build_tiger, sizes):
    """Also: what `step` computes code by code is what teacher forcing computes at once."""
    _, model, _, _, test = build_tiger(sizes)
    rows = rows_of(test)
    assert torch.allclose(model.calculate_loss(rows), -model.predict(rows).mean(), atol=1e-5)


@torch.no_grad()
def test_steps_of_many_beams_are_teacher_forcing(build_tiger):
    """Beams that branch, swap and die: each one's log-probabilities are those of its own prefix, over the whole vocabulary."""
    _, model, train, _, test = build_tiger((6, 5, 4, 3))
    rows = rows_of(test, 3)
    generator = torch.Generator().manual_seed(1)
    state, tokens, parents = model.start(model.read(rows)), None, None
    prefixes = torch.zeros(3, 1, 0, dtype=torch.int64)
    first = 1
    for level, (size, width) in enumerate(zip(model.codebook_sizes, (4, 9, 5, 1))):
        log_probs = model.step(state, tokens, parents)  # [3, W, K]
        assert log_probs.shape == (3, prefixes.shape[1], size)
        for user in range(3):
            for beam, prefix in enumerate(prefixes[user]):
                model.codes[1, :level] = prefix
                model.tokens[1, :level] = prefix + 1 + torch.tensor([0, 6, 11, 15])[:level]
                one = rows[[user]]
                one["item_id"] = torch.tensor([1])
                logits, _ = model(one)
                expected = logits[0, level].log_softmax(-1)[first : first + size]
                assert torch.allclose(log_probs[user, beam], expected, atol=1e-5)
        first += size
        parents = torch.randint(prefixes.shape[1], (3, width), generator=generator)
        tokens = torch.randint(size, (3, width), generator=generator)
        prefixes = torch.cat([prefixes.gather(1, parents[..., None].expand(-1, -1, level)), tokens[..., None]], -1)


def test_padding_and_batch_mates_do_not_matter(build_tiger):
    _, model, _, _, test = build_tiger()
    rows = rows_of(test)
    alone = [rows[[i]] for i in range(len(rows))]
    assert torch.allclose(model.predict(rows), torch.cat([model.predict(row) for row in alone]), atol=1e-5)
    losses = torch.stack([model.calculate_loss(row) for row in alone])
    assert torch.allclose(model.calculate_loss(rows), losses.mean(), atol=1e-5)


def test_no_padding_is_computed(build_tiger):
    """Linear layers over the history see exactly the real positions; those of its keys and values see none before it comes to decoding."""
    _, model, _, _, test = build_tiger()
    rows = rows_of(test)
    n_real = 3 * int(rows["item_length"].sum()) + len(rows)  # three codes an item and a user token a row
    seen = []
    for layer in model.encoder:
        layer.inner.register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
    for layer in model.decoder:
        layer.cross_kv.register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
    model.calculate_loss(rows)
    model.start(model.read(rows))
    assert seen == [n_real] * len(seen) and len(seen) == 2 + (2 + 2)


@torch.no_grad()
def test_logits_stand_in_the_order_of_the_batch(build_tiger):
    _, model, _, _, test = build_tiger()
    rows = rows_of(test)
    assert not rows["item_length"].sort(stable=True).indices.equal(torch.arange(len(rows)))  # inside, the shortest comes first
    logits, target = model(rows)
    assert torch.equal(target, model.tokens[rows["item_id"]])
    for row in range(len(rows)):
        assert torch.allclose(logits[row], model(rows[[row]])[0][0], atol=1e-5)


@pytest.mark.parametrize("share", [True, False])
def test_a_wide_beam_is_exhaustive_search(build_tiger, share):
    sizes = (4, 5, 6) if share else (6, 6, 6)
    _, model, train, _, test = build_tiger(sizes, share=share, num_beams=1000)
    rows = rows_of(test, 8)
    items, scores = model.recommend(rows, 20)
    for row in range(len(rows)):
        one = rows[[row] * (train.item_num - 1)]
        one["item_id"] = torch.arange(1, train.item_num)
        exact = model.predict(one)
        assert torch.allclose(scores[row], exact.sort(descending=True).values[:20], atol=1e-5)
        assert torch.allclose(scores[row], exact[items[row] - 1], atol=1e-5)
        assert len(set(items[row].tolist())) == 20


def test_loss_temperature(build_tiger):
    """It divides the logits of the loss alone: what is decoded does not know it."""
    _, plain, _, _, test = build_tiger()
    _, sharp, *_ = build_tiger(loss_temperature=0.5)
    rows = rows_of(test)
    logits, target = plain(rows)
    expected = F.cross_entropy(logits.transpose(1, 2) / 0.5, target, reduction="none").sum(1).mean()
    assert torch.allclose(sharp.calculate_loss(rows), expected, atol=1e-5)
    assert torch.equal(sharp.predict(rows), plain.predict(rows))


def test_users_share_tokens_by_hash_and_unknown_users_have_none(build_tiger):
    _, model, train, _, test = build_tiger(n_user_buckets=7)
    assert model.user_tokens[0] == 0 and model.user_tokens[1:].min() == model.n_tokens
    assert len(model.user_tokens.unique()) == 8 and model.user_tokens.max() == model.embedding.num_embeddings - 1
    rows = rows_of(test, 8)
    score = model.predict(rows)
    unknown = Interaction({**rows.interaction, "user_id": torch.zeros(8, dtype=torch.int64)})
    absent = Interaction({key: rows[key] for key in ("item_id", "item_id_list", "item_length")})
    assert torch.allclose(model.predict(unknown), model.predict(absent), atol=1e-5)
    assert not torch.allclose(model.predict(unknown), score, atol=1e-3)


@torch.no_grad()
def test_bfloat16_stays_near_float32(build_tiger):
    _, model, _, _, test = build_tiger()
    rows = rows_of(test)
    loss, score = model.calculate_loss(rows), model.predict(rows)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.allclose(model.calculate_loss(rows), loss, rtol=0.03)
        assert torch.allclose(model.predict(rows), score, rtol=0.1)


def test_training_computes_what_evaluation_does(build_tiger):
    """A CPU takes a path of its own where weights are dropped; here the chance of that is nil."""
    _, model, _, _, test = build_tiger(dropout=1e-9)
    rows = rows_of(test)
    logits, target = model.eval()(rows)
    trained, same = model.train()(rows)
    assert torch.equal(target, same)
    assert torch.allclose(trained, logits, atol=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model.calculate_loss(rows)
    loss.backward()
    assert torch.allclose(loss, model.eval().calculate_loss(rows), rtol=0.03)
    assert all(weight.grad.isfinite().all() for weight in model.parameters() if weight.grad is not None)
    _, model, *_ = build_tiger(dropout=0.5)
    assert not torch.allclose(model.train()(rows)[0], model(rows)[0], atol=1e-2)


def test_it_learns(build_tiger):
    """With dropout on it learns a batch of its own loader by heart: the codes are random, so only the histories tell the targets."""
    config, model, train, _, _ = build_tiger(train_batch_size=32)
    batch = next(iter(TrainDataLoader(config, train, None, shuffle=True)))
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        loss = model.calculate_loss(batch)
        loss.backward()
        optimizer.step()
    assert all(parameter.grad.isfinite().all() and parameter.grad.any() for parameter in model.parameters())
    assert model.eval().calculate_loss(batch) < 0.7 * 3 * torch.tensor(6.0).log()


@pytest.mark.parametrize(
    "keys, message",
    [
        ({"loss_temperature": 0}, "loss_temperature is 0; give a number above 0"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"n_user_buckets": -1}, "n_user_buckets is -1"),
        ({"n_position_buckets": 3}, "n_position_buckets is 3"),
        ({"max_position_distance": 16}, "max_position_distance is 16 and n_position_buckets 32"),
    ],
    ids=str,
)
def test_settings_out_of_range_are_named(tiny_settings, keys, message):
    with pytest.raises(UserError, match=message):
        config = Config("TIGER", "tiny", config_dict={**tiny_settings, **keys})
        check_parameters(TIGER.hyperparameters, config)
        TIGER.check(config)


def test_what_it_says_of_itself(tiny_settings):
    config = Config("TIGER", "tiny", config_dict=tiny_settings)
    check_parameters(TIGER.hyperparameters, config)
    TIGER.check(config)
    assert TIGER.needs(config) == Needs(semantic_ids=UNIQUE) and TIGER.loss_name(config) == "NLL of semantic ID"


def test_presets_set_known_keys():
    presets = sorted((properties() / "preset").glob("*-TIGER.yaml"))
    assert presets
    for path in presets:
        config = Config("TIGER", "tiny", [path], {"strict_config": True, "device": "cpu"})
        assert {key: config[key] for key in load_yaml(path)} == load_yaml(path)


def test_a_run_trains_and_scores(tiny_settings):
    stages = {"tokenizer": "Random", "tokenizer_epochs": 0, "epochs": 1, "train_batch_size": 512}
    settings = {**tiny_settings, **SMALL, **stages}
    result = run_recbole_r3vae("TIGER", "tiny", config_dict=settings)
    assert result["name"] == "TIGER[Random]"
    assert 0 <= result["test_result"]["recall@20"] <= 1
