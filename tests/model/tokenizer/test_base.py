"""What every tokenizer declares and keeps to, whichever it is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from recbole.model.abstract_recommender import AbstractRecommender

from recbole_r3vae.config.registry import MODEL_ROOMS, own_models
from recbole_r3vae.config.sources import load_yaml, properties
from recbole_r3vae.data.items import ItemVectors
from recbole_r3vae.errors import UserError
from recbole_r3vae.model.contract import TOKENIZE, Contract, Needs
from recbole_r3vae.model.tokenizer.quantize.codebook import Codebook

TOKENIZERS = own_models(MODEL_ROOMS[0])
TRAINED = [name for name, model in TOKENIZERS.items() if not model.fitted]
EVERY = pytest.mark.parametrize("name", TOKENIZERS)

SMALL = {"hidden_sizes": [32], "latent_dim": 8}
DIVERSE = {"codebook_learning": "loss", "sinkhorn_iterations": 20, "cluster_every": 2}
VARIANTS = [
    *(("R3VAE", {"rating_mode": mode, "decoder": decoder}) for mode in ("top1", "softmax", "ste") for decoder in ("identity", "mlp")),
    *(("RQVAE", {"codebook_learning": learning, **SMALL}) for learning in ("ema", "loss", "simvq")),
    ("RQVAE", {"sinkhorn_levels": [-1], "gradient_estimator": "rotation", "restart_below": 0.9, **SMALL}),
    ("VQVAE", SMALL),
    ("CoST", SMALL),
    ("LETTER", {**DIVERSE, **SMALL}),
    *(("MMQ", {"codebook_learning": learning, "latent_dim": 8}) for learning in ("ema", "loss")),
    ("LETTER", {"codebook_learning": "ema", "diversity_weight": 0, **SMALL}),
    ("PRISM", {"warm_epochs": 0, "anchoring_epochs": 0, **SMALL}),
    ("PRISM", {"codebook_learning": "ema", "anchor_weight": 0, **SMALL}),
]
PARTS = {"text": slice(0, 12), "collaborative": slice(12, 16)}  # PRISM's alone asks for them


def rows(items):
    return torch.from_numpy(items.embeddings[1:])


@pytest.fixture(scope="module")
def social(catalogue):
    """Items with collaborative embeddings, of which some have none, and with facts."""
    items, draw = catalogue(300, parts=PARTS), np.random.default_rng(1)
    facts = {"item_popularity": draw.random(301, dtype=np.float32), "item_categories": draw.integers(0, 5, size=(301, 3))}
    embeddings = np.random.default_rng(0).normal(size=(301, 8)).astype(np.float32)
    embeddings[:40] = 0
    return ItemVectors(items.content, embeddings, facts)


def batch(items, wanted):
    facts = {name: torch.from_numpy(values[1:])[wanted] for name, values in items.facts.items()}
    return {"item_emb": rows(items)[wanted], "item_cf": torch.from_numpy(items.collaborative[1:])[wanted], **facts}


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def differing(before, after):
    return {name for name, value in before.items() if not torch.equal(value, after[name])}


# -- what it declares ----------------------------------------------------------------------------------------


@EVERY
def test_a_tokenizer_keeps_to_the_contract(name):
    model = TOKENIZERS[name]
    assert issubclass(model, (Contract, AbstractRecommender)) and model.task == TOKENIZE
    assert model.needs({}) == Needs(content=(), interactions=name == "LETTER", popularity=name == "PRISM", categories=name == "PRISM")
    assert callable(model.parameters)  # torch's, not a table


@EVERY
def test_every_key_of_its_own_has_a_range_that_takes_the_default(name, tokenizer, catalogue):
    """Its own: what its YAML says beyond what RecBole's trainer reads and `Config` checks."""
    of_config = {"learner", "train_neg_sample_args", "valid_metric", "clip_grad_norm", "content_encoder"}
    keys = {key for model in TOKENIZERS[name].__mro__ for key in vars(model).get("hyperparameters", ())}
    assert set(load_yaml(properties() / "model" / f"{name}.yaml")) - of_config <= keys
    tokenizer(name, catalogue(parts=PARTS))
    for key, value in {"codebook_sizes": [1, 2], "epochs": -1, "stopping_step": 0.5, "learning_rate": float("nan")}.items():
        with pytest.raises(UserError, match=f"^{key} is "):
            tokenizer(name, catalogue(parts=PARTS), **{key: value})


@EVERY
def test_fitted_is_what_has_nothing_to_train(name, tokenizer, catalogue):
    trains = any(parameter.requires_grad for parameter in tokenizer(name, catalogue(parts=PARTS)).parameters())
    assert TOKENIZERS[name].fitted == (not trains)


@pytest.mark.parametrize(
    "name, first",
    [(name, "codebook") for name in ("R3VAE", "RQVAE", "VQVAE", "CoST", "LETTER", "MMQ", "PRISM", "RKMeans", "BalancedRKMeans", "OPQ")]
    + [("LSH", "hyperplanes"), ("Random", "factors")],
)
def test_codes_are_ordered_where_the_first_decides_what_the_next_mean(name, first, tokenizer, social):
    """With another first codebook, the further codes of unordered digits stay, and others change."""
    model = tokenizer(name, social, codebook_sizes=[16, 16, 16]).eval()
    model.initialise(social)
    before = model.tokenize(rows(social))
    with torch.no_grad():
        if first == "codebook":
            weight = next(module for module in model.modules() if isinstance(module, Codebook)).weight
            weight.copy_(weight[torch.randperm(16, generator=torch.Generator().manual_seed(0))].roll(1, dims=1))
        elif first == "hyperplanes":
            model.hyperplanes[:4].neg_()
        else:
            model.factors[:, 0] += 2
    after = model.tokenize(rows(social))
    assert not torch.equal(after[:, 0], before[:, 0])
    assert torch.equal(after[:, 1:], before[:, 1:]) == (not model.ordered)


@pytest.mark.parametrize("name", ["HierarchicalKMeans", "GAOQ"])
def test_the_codes_of_a_tree_are_ordered(name, tokenizer, social):
    """One number under two parents is two nodes: of items with equal second codes, those that share the first are nearer."""
    model = tokenizer(name, social, **({"items_per_prefix": 20.0} if name == "GAOQ" else {"slots_per_item": None})).eval()
    model.initialise(social)
    codes, distance = model.tokenize(rows(social)), torch.cdist(rows(social), rows(social))
    second = (codes[:, 1, None] == codes[:, 1]) & ~torch.eye(300, dtype=torch.bool)
    both = second & (codes[:, 0, None] == codes[:, 0])
    assert model.ordered and distance[both].mean() < 0.8 * distance[second & ~both].mean()


# -- losses and hooks ----------------------------------------------------------------------------------------


def test_all_that_train_are_tested_below():
    assert {name for name, _ in VARIANTS} == set(TRAINED)


@pytest.mark.parametrize("name, settings", VARIANTS, ids=str)
def test_evaluating_a_loss_changes_nothing(name, settings, tokenizer, social):
    model = tokenizer(name, social, **settings)
    model.initialise(social)
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for step in range(3):  # before the first step of a training as after others
        torch.manual_seed(step)
        interaction, before = batch(social, torch.randperm(300)[:100]), state(model)
        values = []
        for _ in range(2):
            torch.manual_seed(step)  # what is drawn inside a loss is drawn anew
            optimizer.zero_grad()
            terms = model.calculate_loss(interaction)
            sum(terms).backward()
            values.append(torch.stack(terms).detach())
        assert torch.equal(*values) and differing(before, state(model)) == set()
        optimizer.step()
        model.after_step(interaction)


@pytest.mark.parametrize("name, settings", VARIANTS, ids=str)
def test_a_hook_moves_what_has_no_gradient_and_that_once(name, settings, tokenizer, social):
    model = tokenizer(name, social, **settings)
    model.initialise(social)
    model.train()
    interaction = batch(social, torch.arange(100))
    model.begin_epoch(0)
    trained = {key for key, parameter in model.named_parameters() if parameter.requires_grad}
    averages = settings.get("codebook_learning", "loss" if name == "PRISM" else "ema") == "ema" and name != "R3VAE"
    for step in range(2):
        before = state(model)
        model.calculate_loss(interaction)
        model.after_step(interaction)
        moved = differing(before, state(model))
        assert not moved & trained
        assert averages == any(key.endswith("codebook.weight") for key in moved)
        assert ("batches" in moved) == (name == "LETTER" and not averages)
    model.eval()
    model.calculate_loss(interaction)
    before = state(model)
    model.after_step(interaction)  # nothing was assigned while training since the last step
    assert not {key for key in differing(before, state(model)) if "codebook" in key}
