"""MMQGR: the codes that it ranks by, keeps and hands on are those of the tokenizer as training has left it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from recbole.data.interaction import Interaction

from recbole_r3vae.config import Config
from recbole_r3vae.data.sequences import TARGET_LIST_FIELD
from recbole_r3vae.errors import UserError
from recbole_r3vae.model.generator.mmqgr import MMQGR
from recbole_r3vae.quick_start import load_data_and_model, run_recbole_r3vae
from recbole_r3vae.quick_start.lookup import create_dataset
from recbole_r3vae.quick_start.provide import provide
from recbole_r3vae.quick_start.semantic_ids import load_tokenizer
from recbole_r3vae.serve.recommender import Recommender
from recbole_r3vae.serve.tokenize import tokenize_items
from recbole_r3vae.sid.table import SemanticIDs
from recbole_r3vae.trainer.checkpoint_file import load_checkpoint, sources_of

SIZES = [8, 7, 6, 8, 5, 9]
TWO = {
    "content_encoder": {
        "title": {"encoder": "tfidf-svd", "fields": ["movie_title"], "dim": 16},
        "genre": {"encoder": "tfidf-svd", "fields": ["class"], "dim": 8},
    },
    "codebook_sizes": SIZES, "latent_dim": 8, "gate_hidden_sizes": [], "decoder_hidden_sizes": [], "learning_rate": 0.02, "state": "error",
}  # fmt: skip


@pytest.fixture
def settings(tiny_settings):
    return {**tiny_settings, **TWO}


@pytest.fixture
def model(settings):
    """A function from more settings to a model as a run makes it, and its training rows."""

    def make(**more):
        config = Config("MMQGR", "tiny", config_dict={**settings, **more})
        provided = provide(config, create_dataset(config), show_progress=False)
        train, _, _ = config.model_class.dataset_class(config).build()
        train.sources = provided.sources
        torch.manual_seed(7)
        return config.model_class(config, train), train, provided

    return make


def windows(train, n=16) -> Interaction:
    return train.inter_feat[list(range(n))]


def step(model, batch, rate=0.1):
    optimizer = torch.optim.SGD(model.parameters(), rate)
    model.calculate_loss(batch).backward()
    optimizer.step()
    model.after_step(batch)


def own_codes(model) -> torch.Tensor:
    return model.tokenizer.tokenize(model.item_content[1:])


def test_it_begins_with_the_tokenizer_of_the_first_stage(model):
    net, _, provided = model()
    for name, value in provided.tokenizer.model.state_dict().items():
        assert torch.equal(net.tokenizer.state_dict()[name], value), name
    assert torch.equal(own_codes(net), provided.sources.semantic_ids.codes[1:])
    assert not provided.sources.semantic_ids.ordered


def test_the_soft_path_is_the_sum_of_code_embeddings(model):
    net, _, _ = model()
    with torch.no_grad():
        expected = net.items.catalogue()
        torch.testing.assert_close(net.soft_vectors(), expected)
    row = sum(net.items.code_embedding.weight[token] for token in net.tokens[5])
    torch.testing.assert_close(net.soft_vectors()[5], row)
    assert net.train().catalogue().requires_grad and not net.soft_vectors()[0].any()


def test_the_loss_is_that_of_r3gr_and_what_is_kept(model):
    net, train, _ = model(dropout=0.0)
    batch = windows(train)
    net.train()
    found = net.calculate_loss(batch)
    met = {int(i) for field in (net.ITEM_SEQ, TARGET_LIST_FIELD) for i in batch[field].flatten() if i}
    x = net.item_content[sorted(met)]
    out = net.tokenizer.mixture(x)
    kept = 0.5 * (x - out.reconstruction).square().sum(1).mean() + 0.5 * (x - out.auxiliary).square().sum(1).mean()
    net.eval()  # by codes, not by the soft path
    downstream = super(type(net), net).calculate_loss(batch)
    assert found.item() == pytest.approx((downstream + kept).item(), rel=1e-5)
    for term, share in (("reconstruction", 0.25), ("auxiliary", 2.0)):
        other, _, _ = model(dropout=0.0, **{f"tuning_{term}_weight": share})
        change = other.train().calculate_loss(batch) - found
        assert change.item() == pytest.approx((share - 0.5) * net.tokenizer.losses(x)[term].item(), abs=2e-4)


def test_the_loss_over_items_moves_experts_and_codewords_and_no_gate(model):
    """Through the codes: gates and decoders are moved by what is reconstructed."""
    net, train, _ = model(tuning_reconstruction_weight=0.0, tuning_auxiliary_weight=0.0)
    net.train().calculate_loss(windows(train)).backward()
    for name, parameter in net.tokenizer.named_parameters():
        moved = parameter.grad is not None and bool(parameter.grad.abs().sum() > 0)
        assert moved == name.startswith(("experts", "levels")), name


def test_cosines_are_divided_by_the_temperature(model):
    """A hot softmax is flat: what moves codewords falls as one over tau."""

    def reach(temperature):
        net, train, _ = model(tuning_temperature=temperature, tuning_reconstruction_weight=0.0, tuning_auxiliary_weight=0.0, dropout=0.0)
        net.train().calculate_loss(windows(train)).backward()
        return sum(level.codebook.weight.grad.abs().sum().item() for level in net.tokenizer.levels)

    assert reach(200.0) == pytest.approx(reach(100.0) / 2, rel=0.05) and reach(100.0) < 0.05 * reach(0.1)


def test_codes_are_stale_in_no_place_after_a_step(model):
    net, train, provided = model()
    first, batch = provided.sources.semantic_ids.codes, windows(train)
    net.train()
    for _ in range(5):
        step(net, batch, rate=2.0)
    codes = own_codes(net)
    assert not torch.equal(codes, first[1:])
    assert torch.equal(net.sources.semantic_ids.codes[1:], codes)  # in the middle of training
    step(net, batch, rate=2.0)
    net.eval()
    codes = own_codes(net)
    for held in (net.codes[1:], net.sources.semantic_ids.codes[1:], net.other_parameter()["codes"][1:]):
        assert torch.equal(held, codes)
    assert torch.equal(net.tokens, net.sources.semantic_ids.tokens()) and torch.equal(net.items.tokens, net.tokens)
    assert net.sources.semantic_ids.meta["tuned_by"] == "MMQGR" and not net.sources.semantic_ids.ordered
    rows = windows(train, 4)
    users = net.user_vectors(net.read(rows))
    torch.testing.assert_close(net.item_vectors(), torch.nn.functional.normalize(net.soft_vectors(), dim=-1))
    scores = users @ net.item_vectors()[1:].T
    assert torch.equal(net.recommend(rows, 1)[0][:, 0], scores.argmax(1) + 1)


def test_a_run_keeps_what_became_of_the_codes(settings):
    result = run_recbole_r3vae("MMQGR", "tiny", config_dict=settings)
    folder = Path(result["run_dir"])
    state = load_checkpoint(folder / "best.pth")
    kept = sources_of(state["sources"]).semantic_ids
    tuned, first = load_tokenizer(folder / "tokenizer"), sorted(Path(settings["checkpoint_dir"]).glob("tiny/MMQ-*"))
    [stage_one] = [path for path in first if (path / "raw.sid").is_file()]
    assert result["name"] == "MMQGR[MMQ]" and result["sid_file"] == str(folder / "tokenizer" / "raw.sid")
    table = SemanticIDs.load(result["sid_file"], kept.item_ids)
    assert not torch.equal(table.codes, SemanticIDs.load(stage_one / "raw.sid", kept.item_ids).codes)  # they moved
    assert torch.equal(table.codes, kept.codes) and torch.equal(state["other_parameter"]["codes"], kept.codes)
    for name, value in tuned.model.state_dict().items():
        assert torch.equal(value, state["model"][f"tokenizer.{name}"]), name
    _, model, *_ = load_data_and_model(folder)
    assert torch.equal(tuned.model.tokenize(model.item_content[1:]), kept.codes[1:]) and torch.equal(model.codes, kept.codes)
    record = json.loads((folder / "result.json").read_text())
    used = [len(column.unique()) for column in kept.codes[1:].unbind(1)]
    assert [level["used"] for level in tuned.description["quality"]["levels"]] == used
    before = json.loads((stage_one / "tokenizer.json").read_text())["quality"]
    assert record["quality"]["unique_ratio"] == tuned.description["quality"]["unique_ratio"]
    assert before["reconstruction"] != tuned.description["quality"]["reconstruction"]
    # A second generator takes them from the file, and recommendations are by them.
    again = run_recbole_r3vae("R3GR", "tiny", config_dict={**settings, "rank_by": "dense", "sid_file": result["sid_file"], "item_inputs": ["codes"]})
    assert again["test_result"]
    served = Recommender(folder)
    assert torch.equal(served.served.sids.codes, kept.codes)
    first = kept.item_ids[1]
    found = served.recommend([[first]], k=3)
    rows = [kept.item_ids.index(item) for item in found["item"]]
    assert found["sid"].tolist() == ["-".join(map(str, kept.codes[row].tolist())) for row in rows]
    # New items get the codes of the tuned tokenizer: those of the items that they are twins of.
    twins = pd.read_csv(Path(settings["data_path"]) / "tiny" / "tiny.item", sep="\t", dtype=str, keep_default_na=False)[:10]
    old = [kept.item_ids.index(item) for item in twins["item_id:token"]]
    twins.assign(**{"item_id:token": "twin" + twins["item_id:token"]}).to_csv("new.item", sep="\t", index=False)
    new = tokenize_items(folder, "new.item", "new.sid").sids
    assert torch.equal(new.codes[1:], kept.codes[old])
    assert served.add_items("new.sid") == 10
    both = served.recommend([[first]], k=150).set_index("item")["score"]
    assert np.allclose(both["twin" + twins["item_id:token"]], both[twins["item_id:token"]], atol=1e-5)


def test_a_resumed_run_ends_with_the_same_bits(settings):
    whole = run_recbole_r3vae("MMQGR", "tiny", config_dict=settings)
    places = {**settings, "checkpoint_dir": str(Path(settings["checkpoint_dir"]).parent / "again")}

    class Killed(BaseException):
        pass

    calculate_loss, calls = MMQGR.calculate_loss, []

    def until_killed(self, batch):
        calls.append(batch)
        if len(calls) == 2:  # in the second epoch
            raise Killed
        return calculate_loss(self, batch)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(MMQGR, "calculate_loss", until_killed)
        with pytest.raises(Killed):
            run_recbole_r3vae("MMQGR", "tiny", config_dict=places)
    resumed = run_recbole_r3vae("MMQGR", "tiny", config_dict={**places, "resume": True})
    assert resumed["test"] == whole["test"]
    one, other = (load_checkpoint(Path(r["run_dir"]) / "best.pth") for r in (whole, resumed))
    assert all(torch.equal(value, other["model"][name]) for name, value in one["model"].items())
    assert torch.equal(one["other_parameter"]["codes"], other["other_parameter"]["codes"])


def test_new_items_get_codes_of_the_tuned_tokenizer(model):
    net, train, provided = model()
    net.train()
    for _ in range(3):
        step(net, windows(train), rate=2.0)
    net.eval()
    sources = net.sources
    vector = np.asarray(sources.content.embeddings[3:4])
    codes = net.tokenizer.tokenize(torch.from_numpy(np.array(vector)))
    ids = [*sources.semantic_ids.item_ids, "new"]
    sids = replace(sources.semantic_ids, codes=torch.cat([sources.semantic_ids.codes, codes]), item_ids=ids)
    content = replace(sources.content, embeddings=np.concatenate([sources.content.embeddings, vector]), item_ids=ids)
    net.grow(replace(sources, semantic_ids=sids, content=content))
    assert net.n_items == len(ids) == len(net.item_content) and torch.equal(net.codes[-1], net.codes[3])
    torch.testing.assert_close(net.item_vectors()[-1], net.item_vectors()[3])


@pytest.mark.parametrize(("given", "says"), [
    ({"rank_by": "generate"}, "rank_by is 'generate'; give dense"),
    ({"item_inputs": ["title"]}, r"item_inputs is \['title'\], and MMQGR tunes codes"),
    ({"sid_file": "some.sid"}, "sid_file is some.sid, and MMQGR trains a tokenizer on"),
    ({"tokenizer": "RQVAE"}, "tokenizer is RQVAE, whose codes have no soft path; give one that is tunable, such as MMQ"),
    ({"sid_dropout": 0.1}, "sid_dropout is 0.1"),
    ({"n_negatives": 5}, "n_negatives is 5"),
    ({"tuning_temperature": 0.0}, "tuning_temperature is 0.0"),
])  # fmt: skip
def test_what_it_refuses(settings, given, says):
    with pytest.raises(UserError, match=says):
        run_recbole_r3vae("MMQGR", "tiny", config_dict={**settings, **given})


def test_text_beside_codes_is_one_modality_of_all_that_is_tokenized(model):
    net, _, provided = model(item_inputs=["codes", "title"])
    assert net.items.content.shape[1] == 16 and net.item_content.shape[1] == 24
    net.eval()
    with_codes = net.items.content_projection(net.items.content[4]) + net.items.code_embedding(net.tokens[4]).sum(0)
    torch.testing.assert_close(net.items.catalogue()[4], with_codes)
