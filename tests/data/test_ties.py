"""``ties`` in ``eval_args``: interactions of one time in an order that is drawn, whatever the order of the file."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from recbole_r3vae.config import Config
from recbole_r3vae.errors import UserError
from recbole_r3vae.experiments.leaderboard.sentences import split_words
from recbole_r3vae.quick_start import run_recbole_r3vae
from recbole_r3vae.quick_start.lookup import create_dataset, data_preparation
from recbole_r3vae.record import Record
from recbole_r3vae.serve.users import UserHistories

USER, ITEM, TIME = "user_id:token", "item_id:token", "timestamp:float"


@pytest.fixture(scope="module")
def days(tiny_data, tmp_path_factory) -> dict[str, Path]:
    """``tiny`` with five days a user, within a day by ascending item id, as in Amazon's files; and its lines in another order."""
    frame = pd.read_csv(tiny_data / "tiny" / "tiny.inter", sep="\t", dtype={USER: str, ITEM: str})[[USER, ITEM, TIME]]
    frame[TIME] = 86400.0 * (frame.groupby(USER)[TIME].rank(pct=True) * 5).astype(int)
    frame = frame.sort_values([USER, TIME, ITEM])
    found = {}
    for name, lines in (("sorted", frame), ("mixed", frame.sample(frac=1, random_state=0))):
        folder = tmp_path_factory.mktemp(name)
        (folder / "tiny").mkdir()
        lines.to_csv(folder / "tiny" / "tiny.inter", sep="\t", index=False)
        (folder / "tiny" / "tiny.item").write_bytes((tiny_data / "tiny" / "tiny.item").read_bytes())
        found[name] = folder
    return found


def sequences(folder, settings, model="SASRec", **evaluation) -> dict[str, list[str]]:
    """Each user's items, validation and test at the end; what is asked in the evaluation and what is served agree."""
    values = {**settings, "loss_type": "CE", "data_path": str(folder), "MAX_ITEM_LIST_LENGTH": 50, "eval_args": evaluation}
    config = Config(model, "tiny", config_dict=values)
    histories = UserHistories(create_dataset(config))
    found = dict(histories.of(histories.users("now")))
    _, valid_data, test_data = data_preparation(config, create_dataset(config))
    for place, loader in ((-2, valid_data), (-1, test_data)):
        part = loader._dataset
        names = [part.field2id_token[field][np.asarray(part.inter_feat[field])] for field in ("user_id", "item_id")]
        assert len(names[0]) and all(found[user][place] == item for user, item in zip(*names))
    return found


def by_day(folder) -> dict[str, list[set[str]]]:
    frame = pd.read_csv(folder / "tiny" / "tiny.inter", sep="\t", dtype={USER: str, ITEM: str})
    found = defaultdict(list)
    for (user, _), day in frame.groupby([USER, TIME]):
        found[user].append(set(day[ITEM]))
    return found


def ascending(histories) -> float:
    """Share of neighbours whose ids ascend."""
    pairs = [(one, other) for history in histories.values() for one, other in zip(history, history[1:])]
    return float(np.mean([one < other for one, other in pairs]))


@pytest.mark.parametrize("model", ["SASRec", "R3GR", "Pop"])
def test_an_order_within_a_day_is_drawn_and_days_stay_in_order(days, tiny_settings, model):
    of_file = sequences(days["sorted"], tiny_settings, model)
    drawn = sequences(days["sorted"], tiny_settings, model, ties=1)
    assert ascending(of_file) > 0.85 and 0.4 < ascending(drawn) < 0.6
    for user, sets in by_day(days["sorted"]).items():
        history = iter(drawn[user])
        assert [{next(history) for _ in items} for items in sets] == sets
    assert drawn != sequences(days["sorted"], tiny_settings, model, ties=2)


def test_the_draw_does_not_depend_on_file_or_model(days, tiny_settings):
    first = sequences(days["sorted"], tiny_settings, ties=3)
    assert first == sequences(days["mixed"], tiny_settings, ties=3)
    assert first == sequences(days["mixed"], tiny_settings, "R3GR", ties=3)
    fewer = sequences(days["mixed"], {**tiny_settings, "item_inter_num_interval": "[8,inf)"}, ties=3)
    assert sum(map(len, fewer.values())) < sum(map(len, first.values()))
    for user, history in fewer.items():
        kept = set(history)
        assert history == [item for item in first[user] if item in kept]


def test_parts_are_drawn_one_by_one(days, tiny_settings, tmp_path):
    folder = tmp_path / "parts" / "tiny"
    folder.mkdir(parents=True)
    frame = pd.read_csv(days["sorted"] / "tiny" / "tiny.inter", sep="\t", dtype={USER: str, ITEM: str})
    place = frame.groupby(USER).cumcount(ascending=False)
    for part, rows in (("train", place > 1), ("valid", place == 1), ("test", place == 0)):
        frame[rows].to_csv(folder / f"tiny.{part}.inter", sep="\t", index=False)
    (folder / "tiny.item").write_bytes((days["sorted"] / "tiny" / "tiny.item").read_bytes())
    more = {**tiny_settings, "benchmark_filename": ["train", "valid", "test"]}
    of_file, drawn = (sequences(folder.parent, more, **evaluation) for evaluation in ({}, {"ties": 1}))
    assert of_file != drawn
    assert all(of_file[user][-2:] == drawn[user][-2:] and set(of_file[user]) == set(drawn[user]) for user in of_file)


def test_a_run_records_its_draw(days, tiny_settings):
    values = {**tiny_settings, "data_path": str(days["sorted"])}
    of_file, drawn = (run_recbole_r3vae("Pop", "tiny", config_dict={**values, "eval_args": e}) for e in ({}, {"ties": 5}))
    assert of_file["run_dir"] != drawn["run_dir"] and of_file["split"] != drawn["split"]
    record = Record.read(Path(drawn["run_dir"]) / "result.json")
    assert record.config["eval_args"]["ties"] == 5
    assert "in an order drawn by seed 5" in split_words({"config": record.config})
    assert "ties" not in Record.read(Path(of_file["run_dir"]) / "result.json").config["eval_args"]


@pytest.mark.parametrize("evaluation, expected", [
    ({"ties": -1}, "ties in eval_args is -1; give the seed"),
    ({"ties": True}, "ties in eval_args is True; give the seed"),
    ({"ties": "random"}, "ties in eval_args is 'random'; give the seed"),
    ({"ties": 2020, "order": "RO"}, "ties in eval_args draws the order of interactions of one time, and order is RO"),
])  # fmt: skip
def test_what_cannot_be_drawn_is_refused(days, tiny_settings, evaluation, expected):
    with pytest.raises(UserError, match=expected):
        run_recbole_r3vae("Pop", "tiny", config_dict={**tiny_settings, "data_path": str(days["sorted"]), "eval_args": evaluation})
