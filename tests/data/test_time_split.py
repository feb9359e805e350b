"""The split by time against an oracle that reads the file line by line, and what must not reach a training."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_r3vae.config import Config, tokenizer_config
from recbole_r3vae.data.sequences import TARGET_LIST_FIELD
from recbole_r3vae.data.split import held_out
from recbole_r3vae.data.time_split import NO_PART, are_positions, parts, points_of, stages
from recbole_r3vae.errors import UserError
from recbole_r3vae.quick_start import run_recbole_r3vae
from recbole_r3vae.quick_start.collaborative import CollaborativeModel, training_interactions
from recbole_r3vae.quick_start.lookup import create_dataset, data_preparation
from recbole_r3vae.record import Record, unpack
from recbole_r3vae.serve.users import UserHistories
from recbole_r3vae.trainer.checkpoint_file import load_checkpoint

USER, ITEM, TIME = "user_id:token", "item_id:token", "timestamp:float"
SPLIT = {"eval_args": {"split": {"GTS": [0.6, 0.8]}}}
MODELS = [("Pop", {}), ("BPR", {}), ("SASRec", {"loss_type": "CE"}), ("R3GR", {}), ("HSTU", {}), ("TIGER", {})]


def read(folder) -> list[tuple[str, str, float]]:
    """User, item and time of each line, in time order, equal times in the order of the file."""
    frame = pd.read_csv(Path(folder) / "tiny" / "tiny.inter", sep="\t", dtype={USER: str, ITEM: str})
    return list(frame.sort_values(TIME, kind="stable")[[USER, ITEM, TIME]].itertuples(index=False, name=None))


def oracle(lines, points=(0.6, 0.8)):
    """Training interactions, and user to (history, target) of validation and of test."""
    times = sorted(time for *_, time in lines)
    first, second = (times[int(share * (len(times) - 1))] for share in points)
    training = [(user, item) for user, item, time in lines if time <= first]
    asked = []
    for begin, end in ((first, second), (second, float("inf"))):
        found = {}
        for user in {user for user, *_ in lines}:
            before = [item for who, item, time in lines if who == user and time <= begin]
            after = [item for who, item, time in lines if who == user and begin < time <= end]
            if before and after:
                found[user] = (before, after[0])
        asked.append(found)
    return training, *asked


@pytest.fixture(scope="module")
def busy(tiny_data, tmp_path_factory) -> Path:
    """``tiny`` over days that its users share, with ties, repeats, items that come late, and users who do or who leave early."""
    folder = tmp_path_factory.mktemp("busy") / "tiny"
    folder.mkdir()
    frame = pd.read_csv(tiny_data / "tiny" / "tiny.inter", sep="\t", dtype={USER: str, ITEM: str})[[USER, ITEM, TIME]]
    random = np.random.default_rng(0)
    begin = frame[USER].map({user: random.integers(0, 80) for user in sorted(frame[USER].unique())})
    frame[TIME] = 1e9 + 86400.0 * (begin + random.integers(0, 30, len(frame)))
    items, early = sorted(frame[ITEM].unique()), frame[TIME] < 1e9 + 86400 * 60
    frame.loc[frame.index[::3], ITEM] = items[31]
    frame.loc[early & frame[ITEM].isin(items[:30]), ITEM] = items[30]
    frame.to_csv(folder / "tiny.inter", sep="\t", index=False)
    (folder / "tiny.item").write_bytes((tiny_data / "tiny" / "tiny.item").read_bytes())
    return folder.parent


def prepared(folder, settings, model="SASRec", **more):
    config = Config(model, "tiny", config_dict={**settings, **SPLIT, "data_path": str(folder), "MAX_ITEM_LIST_LENGTH": 50, **more})
    return data_preparation(config, create_dataset(config))


def named(dataset, field, values):
    names = dataset.field2id_token[field]
    return [names[value] for value in values]


# -- the rule ----------------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 12)), min_size=3, max_size=40), st.floats(0.05, 0.9), st.floats(0.05, 0.9))
@settings(max_examples=300, deadline=None)
def test_stages_and_parts_against_the_oracle(events, one, other):
    points = (min(one, other), max(one, other))
    lines = sorted(((user, str(place), float(time)) for place, (user, time) in enumerate(events)), key=lambda line: line[2])
    users, times = np.array([line[0] for line in lines]), np.array([line[2] for line in lines])
    try:
        stage = stages(users, times, points)
    except UserError:
        assert are_positions(users, times) or len({sum(t > cut for cut in np.quantile(times, points, method="lower")) for t in times}) < 3
        return
    training, valid, test = oracle(lines, points)
    found = parts(users, stage)
    assert [line[:2] for line, part in zip(lines, found) if part == 0] == training
    for number, expected in ((1, valid), (2, test)):
        assert {line[0]: line[1] for line, part in zip(lines, found) if part == number} == {u: target for u, (_, target) in expected.items()}
    assert set(found) <= {NO_PART, 0, 1, 2}
    shuffled = np.random.default_rng(0).permutation(len(lines))
    assert (stages(users[shuffled], times[shuffled], points) == stage[shuffled]).all()  # whatever the order of the lines


def test_an_interaction_at_a_point_lies_before_it():
    stage = stages(np.array(list("abcdefghij")), np.array([1.0, 2, 3, 4, 4, 4, 7, 8, 9, 9]), (0.4, 0.7))
    assert stage.tolist() == [0, 0, 0, 0, 0, 0, 1, 2, 2, 2]  # the points are 4 and 7


@pytest.mark.parametrize("split, expected", [
    ({"GTS": [0.8, 0.9]}, (0.8, 0.9)), ({"GTS": (0.5, 0.75)}, (0.5, 0.75)), ({"LS": "valid_and_test"}, None), ({"RS": [8, 1, 1]}, None),
    (None, None),
])  # fmt: skip
def test_points(split, expected):
    assert points_of({"split": split}) == expected


@pytest.mark.parametrize("points", [[0.9, 0.8], [0.8, 0.8], [8, 1, 1], [0.8], 0.8, "late", [0, 0.9], [0.8, 1], [True, 0.9], None])
def test_points_out_of_range_are_refused(points):
    with pytest.raises(UserError, match=r"of GTS write two shares .*: \{GTS: \[0.8, 0.9\]\}"):
        points_of({"split": {"GTS": points}})


# -- the parts of a dataset --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model, more", MODELS)
def test_every_model_is_asked_the_same_and_knows_the_same(busy, tiny_settings, model, more):
    lines = read(busy)
    training, valid, test = oracle(lines)
    train_data, valid_data, test_data = prepared(busy, tiny_settings, model, **more)
    for loader, expected in ((valid_data, valid), (test_data, test)):
        dataset = loader._dataset
        users = named(dataset, "user_id", dataset.inter_feat["user_id"].tolist())
        targets = named(dataset, "item_id", dataset.inter_feat["item_id"].tolist())
        assert dict(zip(users, targets)) == {user: target for user, (_, target) in expected.items()} and len(users) == len(expected)
        if "item_id_list" in dataset.inter_feat:
            rows = zip(dataset.inter_feat["item_id_list"].tolist(), dataset.inter_feat["item_length"].tolist())
            histories = [named(dataset, "item_id", row[:length]) for row, length in rows]
            assert dict(zip(users, histories)) == {user: history[-50:] for user, (history, _) in expected.items()}
    for loader, stage in ((valid_data, 0), (test_data, 1)):  # what is left out
        cut = sorted(time for *_, time in lines)[int((0.6, 0.8)[stage] * (len(lines) - 1))]
        cells = loader.seen.tocoo()
        ids = [loader._dataset.field2id_token[field] for field in ("user_id", "item_id")]
        met = {(ids[0][user], ids[1][item]): count for user, item, count in zip(cells.row, cells.col, cells.data)}
        assert met == Counter((user, item) for user, item, time in lines if time <= cut)
    dataset = train_data.dataset
    if model in ("Pop", "BPR"):
        rows = zip(*(named(dataset, field, dataset.inter_feat[field].tolist()) for field in ("user_id", "item_id")))
        assert Counter(rows) == Counter(training)
        return
    first, targets = set(), []  # a user's first interaction is the beginning of his history, in all models of histories
    for user, item in training:
        targets += [item] if user in first else []
        first.add(user)
    assert {str(dataset.field2id_token["item_id"][item]): count for item, count in dataset.counter("item_id").items()} == Counter(targets)
    if TARGET_LIST_FIELD in dataset.inter_feat:
        assert int((dataset.inter_feat[TARGET_LIST_FIELD] > 0).sum()) == len(targets)


def test_the_test_is_described_alike_for_all_models(busy, tiny_settings):
    training, _, test = oracle(read(busy))
    first = held_out(*prepared(busy, tiny_settings)[1:])
    counts, lengths = Counter(item for _, item in training), Counter(user for user, _ in training)
    described = first.describe()
    assert list(unpack(described["popularity"], "int32")) == [counts[test[user][1]] for user in sorted(test)]
    assert list(unpack(described["history"], "int32")) == [lengths[user] for user in sorted(test)]
    assert list(first.met_before) == [test[user][1] in test[user][0] for user in sorted(test)] and first.met_before.any()
    for model, more in MODELS:
        assert held_out(*prepared(busy, tiny_settings, model, **more)[1:]).describe() == described


@pytest.mark.parametrize("model", ["SASRec", "BPR", "R3GR", "HSTU"])
def test_histories_as_of_a_part_are_those_of_the_evaluation(busy, tiny_settings, model):
    lines = read(busy)
    _, valid, test = oracle(lines)
    config = Config(model, "tiny", config_dict={**tiny_settings, **SPLIT, "data_path": str(busy)})
    histories = UserHistories(create_dataset(config))
    for as_of, expected in (("valid", valid), ("test", test)):
        users = histories.users(as_of)
        assert dict(histories.of(users, as_of)) == {user: history for user, (history, _) in expected.items()}
    user = lines[0][0]
    assert dict(histories.of([user])) == {user: [item for who, item, _ in lines if who == user]}


# -- nothing of what comes later reaches a training --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def versions(busy, tmp_path_factory) -> dict[str, Path]:
    """The dataset with some items after the first point, with others, and with these and one other before it; ids keep their numbers."""
    frame = pd.read_csv(busy / "tiny" / "tiny.inter", sep="\t", dtype={USER: str, ITEM: str})
    frame = frame.sort_values(TIME, kind="stable", ignore_index=True)
    later = (frame[TIME] > np.quantile(frame[TIME], 0.6, method="lower")).to_numpy()
    early, found = sorted(frame[ITEM][~later].unique()), {}
    for name, seed in (("one", 1), ("other", 2), ("trained on", 2)):
        own = frame.copy()
        own.loc[later, ITEM] = np.random.default_rng(seed).choice(early, later.sum())
        if name == "trained on":
            assert not later[700] and (own[ITEM][:700] == own[ITEM][700]).any()
            own.loc[700, ITEM] = next(item for item in own[ITEM][:700] if item != own[ITEM][700])
        found[name] = tmp_path_factory.mktemp("version")
        (found[name] / "tiny").mkdir()
        own.to_csv(found[name] / "tiny" / "tiny.inter", sep="\t", index=False)
        (found[name] / "tiny" / "tiny.item").write_bytes((busy / "tiny" / "tiny.item").read_bytes())
    return found


@pytest.mark.parametrize("model", ["LETTER", "R3GR"])
def test_collaborative_signals_of_a_tokenizer_are_of_the_training_part(versions, tiny_settings, model):
    """Of a tokenizer by itself, and of one that a generator trains: its split is the run's."""
    found = []
    for folder in versions.values():
        values = {**tiny_settings, **SPLIT, "data_path": str(folder), "latent_dim": 8, "collaborative_epochs": 2}
        config = Config(model, "tiny", config_dict={**values, **({"tokenizer": "LETTER"} if model == "R3GR" else {})})
        stage = tokenizer_config(config) if model == "R3GR" else config
        collaborative = CollaborativeModel(stage, create_dataset(config))
        assert Counter(map(tuple, collaborative.interactions)) == Counter(oracle(read(folder))[0])
        found.append(collaborative.description)
    assert found[0] == found[1] != found[2]


def test_training_interactions_of_a_general_model(busy, tiny_settings):
    config = Config("BPR", "tiny", config_dict={**tiny_settings, **SPLIT, "data_path": str(busy)})
    assert Counter(map(tuple, training_interactions(create_dataset(config)))) == Counter(oracle(read(busy))[0])


@pytest.mark.parametrize("model, more", [("Recency", {}), ("R3GR", {"rank_by": "dense", "repeat_prior": True, "tokenizer": "LETTER"})])
def test_later_interactions_do_not_change_what_is_learnt(versions, tiny_settings, tmp_path, model, more):
    """All that a model is after training, to the bit: weights, popularity, the prior on repeats, the codes beside it."""
    states = []
    for name, folder in versions.items():
        places = {"data_path": str(folder), "checkpoint_dir": str(tmp_path / name / "saved"), "content_cache_dir": str(tmp_path / name)}
        values = {**tiny_settings, **SPLIT, **more, **places, "epochs": 1, "eval_step": 1, "collaborative_epochs": 2, "tokenizer_epochs": 2}
        result = run_recbole_r3vae(model, "tiny", config_dict=values)
        states.append(load_checkpoint(Path(result["run_dir"]) / "best.pth")["model"])
    assert all((states[0][key] == states[1][key]).all() for key in states[0])
    assert any((states[0][key] != states[2][key]).any() for key in states[0])


# -- a run -------------------------------------------------------------------------------------------------------------------


def test_a_run_says_and_records_its_split(busy, tiny_settings, caplog):
    caplog.set_level("INFO")
    training, _, test = oracle(read(busy))
    values = {**tiny_settings, **SPLIT, "data_path": str(busy), "epochs": 1, "eval_step": 1}
    result = run_recbole_r3vae("Recency", "tiny", config_dict=values)
    record = Record.read(Path(result["run_dir"]) / "result.json")
    known_items, known_users = {item for _, item in training}, {user for user, _ in training}
    cold, unknown = (sum(target not in known_items for _, target in test.values()), sum(user not in known_users for user in test))
    assert cold and unknown
    assert f"split by time: {len(test)} test users; the targets of {cold} ({cold / len(test):.1%}) are cold" in caplog.text
    assert f"{unknown} ({unknown / len(test):.1%}) have no training interaction themselves" in caplog.text
    assert record.config["eval_args"]["split"] == {"GTS": [0.6, 0.8]} and len(record.ranks("stay")) == len(test)
    assert record.repeated_targets == sum(target in history for history, target in test.values())
    other = run_recbole_r3vae("Recency", "tiny", config_dict={**values, "eval_args": {"split": {"GTS": [0.6, 0.85]}}})
    assert other["run_dir"] != result["run_dir"]


@pytest.mark.parametrize("model, change, expected", [
    ("SASRec", {"split": {"GTS": [8, 1, 1]}}, "of GTS write two shares"),
    ("BPR", {"split": {"TS": [8, 1, 1]}}, r"or two points of time \{GTS: \[0.8, 0.9\]\}"),
    ("BPR", {"order": "RO"}, "order in eval_args is RO, and GTS splits by time; write order: TO"),
    ("DeepFM", {}, "GTS asks for one item a user, and DeepFM predicts labels here"),
    ("BPR", {"split": {"GTS": [0.001, 0.002]}}, "leaves nothing between or after its points of time"),
])  # fmt: skip
def test_what_cannot_be_split_is_refused(busy, tiny_settings, model, change, expected):
    values = {**tiny_settings, "data_path": str(busy), "eval_args": {**SPLIT["eval_args"], **change}}
    if model == "DeepFM":
        values |= {"ctr_features": [], "metrics": ["AUC"], "valid_metric": "AUC"}
    with pytest.raises(UserError, match=expected):
        run_recbole_r3vae(model, "tiny", config_dict=values)


@pytest.mark.parametrize("model", ["BPR", "SASRec"])
@pytest.mark.parametrize("late, part", [("efab", "validation"), ("abgh", "test"), ("abcd", None), ("abab", None)])
def test_parts_that_are_empty_are_refused(tmp_path, model, late, part):
    """Eight users of whom two come between the points and two after them; nobody is asked who has no history."""
    lines = [f"{user}\t{item}\t{time}" for time, (user, item) in enumerate(zip("abcdabcdabcd" + late, "uvwxyz" * 3))]
    (tmp_path / "plays").mkdir()
    (tmp_path / "plays" / "plays.inter").write_text("user_id:token\titem_id:token\ttimestamp:float\n" + "\n".join(lines) + "\n")
    values = {"data_path": str(tmp_path), "eval_args": {"split": {"GTS": [0.75, 0.88]}}, "load_col": None, "device": "cpu"}
    config = Config(model, "plays", config_dict=values)
    if part is None:
        assert [len(loader._dataset) for loader in data_preparation(config, create_dataset(config))[1:]] == [2, 2]
        return
    with pytest.raises(UserError, match=f"its {part} part is empty, as no user has an interaction there and one before it"):
        data_preparation(config, create_dataset(config))


def test_positions_are_refused(busy, tiny_settings, tmp_path):
    frame = pd.read_csv(busy / "tiny" / "tiny.inter", sep="\t", dtype={USER: str, ITEM: str})
    frame[TIME] = frame.groupby(USER)[TIME].rank(method="first")
    (tmp_path / "tiny").mkdir()
    frame.to_csv(tmp_path / "tiny" / "tiny.inter", sep="\t", index=False)
    values = {**tiny_settings, **SPLIT, "data_path": str(tmp_path), "load_col": {"inter": ["user_id", "item_id", "timestamp"]}}
    for model in ("BPR", "SASRec", "HSTU"):
        with pytest.raises(UserError, match="GTS splits by time, and the times are the same 1, 2, 3 … for every user"):
            run_recbole_r3vae(model, "tiny", config_dict=values)
