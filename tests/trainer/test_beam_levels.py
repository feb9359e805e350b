"""What a test says of the targets' prefixes in the beam: of every model that writes codes, under both rules, and at no validation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from recbole.utils import init_seed

from recbole_r3vae.config import RULES, Config
from recbole_r3vae.data.content import load_content
from recbole_r3vae.model.contract import Sources
from recbole_r3vae.quick_start import run_recbole_r3vae
from recbole_r3vae.quick_start.lookup import create_dataset, data_preparation, get_trainer
from recbole_r3vae.record import Record
from recbole_r3vae.record.ranks import beam_levels
from recbole_r3vae.sid.table import SemanticIDs

SMALL = {"head_size": 8, "n_layers": 1, "n_decoder_layers": 1, "hidden_size": 16, "inner_size": 32, "n_heads": 2, "text_inner_sizes": []}
WRITES_CODES = {
    "R3GR": {}, "R3GR, both heads": {"rank_by": "both"}, "TIGER": {}, "TIGERCausal": {}, "LIGER": {}, "COBRA": {}, "GLASS": {"recent_items": 3},
    "examples.rerank:Rerank": {},
}  # fmt: skip
OTHERS = {"R3GR": {"rank_by": "dense"}, "LIGER": {"rank_by": "dense"}, "COBRA": {"rank_by": "dense"}, "WindowSASRec": {}, "BPR": {}}


def untrained(settings, model, unique=True, **more):
    """A trainer around a model with random weights, and its loaders."""
    config = Config(model.partition(",")[0], "tiny", config_dict={**settings, **SMALL, "eval_batch_size": 25, **more})
    init_seed(0, True)
    dataset = create_dataset(config)
    generator = torch.Generator().manual_seed(1)
    every = torch.cartesian_prod(*[torch.arange(8)] * 3)[torch.randperm(512, generator=generator)[: dataset.item_num]]
    codes = every if unique else every // 4
    codes[0] = -1
    sids = SemanticIDs(codes, (8, 8, 8), [str(item) for item in dataset.field2id_token["item_id"]])
    config.contract.give(dataset, Sources(sids, load_content(dataset, config)), config)
    train_data, valid_data, test_data = data_preparation(config, dataset)
    network = config.model_class(config, train_data.dataset)
    trainer = get_trainer(config)(config, network.eval())
    trainer.eval_collector.data_collect(train_data)
    return trainer, valid_data, test_data


@pytest.mark.parametrize("model", WRITES_CODES)
def test_every_model_that_writes_codes_says_it(tiny_settings, model):
    """By the model's own steps, one target at a time; and the rankings are what they are without."""
    trainer, _, test_data = untrained(tiny_settings, model, num_beams=20, **WRITES_CODES[model])
    trainer.evaluate(test_data, load_best_model=False)
    network, told = trainer.model, trainer.beam_levels
    assert set(told) == set(RULES) and [len(levels) for levels in told.values()] == [3, 3]
    ranks = []
    for interaction, _, _, items in test_data:
        plain, watched = (network.recommend_under(interaction, 20, [None], strict=False, targets=who)[0] for who in (None, items))
        assert plain.prefix_ranks is None and torch.equal(plain.items, watched.items) and torch.equal(plain.scores, watched.scores)
        ranks.append(watched.prefix_ranks)
        codes = network.codes[items]
        with torch.no_grad():
            first = network.step(network.start(network.read(interaction)), None, None)[:, 0]  # all 8 first codes are in the beam
        exist = torch.bincount(network.codes[1:, 0], minlength=8) > 0
        better = (first > first.gather(1, codes[:, :1])) & exist
        assert torch.equal(watched.prefix_ranks[:, 0], 1 + better.sum(1))
        assert network.heads["generate"].watched is None
    assert told["stay"] == beam_levels(torch.cat(ranks).numpy())


@pytest.mark.parametrize("model", OTHERS)
def test_no_other_model_says_anything(tiny_settings, model):
    trainer, _, test_data = untrained(tiny_settings, model, **OTHERS[model])
    trainer.evaluate(test_data, load_best_model=False)
    assert set(trainer.results) == set(RULES) and not trainer.beam_levels


@pytest.mark.parametrize("num_beams", [20, "exact"])
def test_the_last_level_is_the_rank_of_the_target(tiny_settings, num_beams):
    """Where no two items share a semantic ID; memory is short, so that users come a few at a time."""
    trainer, _, test_data = untrained(tiny_settings, "R3GR", num_beams=num_beams, valid_rule="stay")
    kept, keep = {}, trainer._keep

    def keeping(rule, result):
        keep(rule, result)
        kept[rule] = trainer.evaluator.prefix_ranks.numpy()

    trainer._keep = keeping
    type(trainer.model.heads["generate"]).rows_at_once, before = property(lambda head: 7), type(trainer.model.heads["generate"]).rows_at_once
    try:
        trainer.evaluate(test_data, load_best_model=False)
    finally:
        type(trainer.model.heads["generate"]).rows_at_once = before
    for rule in RULES:
        assert kept[rule].shape == (60, 3) and np.array_equal(np.where(kept[rule][:, 2] <= 20, kept[rule][:, 2], 0), trainer.ranks[rule])
    assert not np.array_equal(kept["stay"], kept["left_out"])
    assert (kept["stay"] > 0).all() == (num_beams == "exact")


def test_a_validation_does_not_ask(tiny_settings):
    trainer, valid_data, test_data = untrained(tiny_settings, "R3GR")
    asked, recommend = [], trainer.model.recommend_under
    trainer.model.recommend_under = lambda *args: asked.append(args[-1]) or recommend(*args)
    trainer._valid_epoch(valid_data)
    assert asked == [None] * len(valid_data) and not trainer.beam_levels
    trainer.evaluate(test_data, load_best_model=False)
    targets = torch.cat(asked[len(valid_data) :])
    assert torch.equal(targets, test_data._dataset.inter_feat["item_id"])


def test_a_run_prints_and_keeps_it(tiny_settings, caplog):
    caplog.set_level("INFO")
    settings = {**tiny_settings, "tokenizer": "Random", "tokenizer_epochs": 0, "epochs": 1}
    result = run_recbole_r3vae("R3GR", "tiny", config_dict=settings)
    levels = result["beam_levels"]["left_out"]
    assert Record.read(f"{result['run_dir']}/result.json").beam_levels == result["beam_levels"] and len(levels) == 4
    assert "level  target in the beam   at rank 1   mean rank         CRP  (met left out)" in caplog.text
    line = [line.split() for line in caplog.text.splitlines() if line.split()[:1] == ["2"] and len(line.split()) == 5]
    assert line == [["2", *(f"{levels[1][key]:.4f}" for key in ("in_beam", "first")), f"{levels[1]['rank']:.2f}", f"{levels[1]['crp']:+.2f}"]]
