"""Histories and windows against RecBole's own prefix rows."""

from __future__ import annotations

import copy
import shutil
from collections import Counter

import numpy as np
import pandas as pd
import pytest
import torch
from recbole.data.dataset import SequentialDataset

from recbole_r3vae.config import Config
from recbole_r3vae.data.ordered import time_ordered
from recbole_r3vae.data.sequences import TARGET_LIST_FIELD, PrefixDataset, TimedWindowDataset, WindowDataset


def settings(folder, max_len=10, **more) -> Config:
    values = {"data_path": str(folder), "load_col": {"inter": ["user_id", "item_id", "timestamp"]}, "MAX_ITEM_LIST_LENGTH": max_len}
    return Config("SASRec", "tiny", config_dict={**values, **more})


def rows(dataset, *fields):
    return [tuple(np.asarray(dataset.inter_feat[field][i]).tolist() for field in fields) for i in range(len(dataset))]


@pytest.mark.parametrize("max_len", [3, 7, 10, 50])
@pytest.mark.parametrize("split", [{"LS": "valid_and_test"}, {"RS": [0.8, 0.1, 0.1]}])
def test_split_is_recboles(tiny_data, max_len, split):
    """Validation and test rows are RecBole's to the letter, and every RecBole training target is a target exactly once."""
    config = settings(tiny_data, max_len, eval_args={"split": split, "order": "TO", "group_by": "user", "mode": "full"})
    train, valid, test = WindowDataset(config).build()
    expected_train, expected_valid, expected_test = time_ordered(SequentialDataset)(config).build()
    fields = ("user_id", "item_id", "item_id_list", "item_length")
    for ours, theirs in ((valid, expected_valid), (test, expected_test)):
        assert [tuple(map(str, r)) for r in rows(ours, *fields)] == [tuple(map(str, r)) for r in rows(theirs, *fields)]
    feat = train.inter_feat
    position = feat[TARGET_LIST_FIELD].nonzero()
    got = Counter(
        (int(feat["user_id"][row]), int(feat["item_id_list"][row, column]), int(feat[TARGET_LIST_FIELD][row, column]))
        for row, column in position.tolist()
    )
    want = Counter(
        (int(user), int(history[length - 1]), int(target))
        for user, history, length, target in rows(expected_train, "user_id", "item_id_list", "item_length", "item_id")
    )
    assert got == want
    assert train.item_counter == expected_train.item_counter


def test_interactions_that_recbole_leaves_out_are_counted(tiny_data, tmp_path, caplog):
    folder = shutil.copytree(tiny_data, tmp_path / "data")
    path = next(folder.rglob("tiny.item"))
    header, first, *others = path.read_text().splitlines(keepends=True)
    item = first.split("\t")[0]
    lines = next(folder.rglob("tiny.inter")).read_text().splitlines()[1:]
    n_of_item = sum(line.split("\t")[1] == item for line in lines)
    columns = {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id"]}
    WindowDataset(settings(folder, load_col=columns))
    assert "are left out" not in caplog.text
    path.write_text(header + "".join(others))
    assert len(WindowDataset(settings(folder, load_col=columns)).inter_feat) == len(lines) - n_of_item
    assert f"tiny: {n_of_item} of {len(lines):,} interactions" in caplog.text and "its .item file does not name" in caplog.text


@pytest.mark.parametrize("max_len", [4, 10])
def test_windows_are_pieces_of_the_history(tiny_data, max_len):
    config = settings(tiny_data, max_len)
    dataset = WindowDataset(config)
    train, *_ = dataset.build()
    sequence = dataset.item_sequence.tolist()
    feat = train.inter_feat
    first_seen = set()
    for user, inputs, targets, length in rows(train, "user_id", "item_id_list", TARGET_LIST_FIELD, "item_length"):
        inputs, targets = inputs[:length], targets[:length]
        where = [i for i in range(len(sequence) - length) if sequence[i : i + length] == inputs]
        assert any(all(t in (0, sequence[i + 1 + j]) for j, t in enumerate(targets)) for i in where)
        context = max_len // 2 if user in first_seen else 0
        assert not any(targets[:context]) and all(targets[context:])
        first_seen.add(user)
    assert (feat["item_length"] <= max_len).all() and (feat["item_length"] > 0).all()
    beyond = torch.arange(max_len) >= feat["item_length"][:, None]
    assert not feat["item_id_list"][beyond].any() and not feat[TARGET_LIST_FIELD][beyond].any()


@pytest.mark.parametrize("max_len", [3, 10, 50])
@pytest.mark.parametrize("split", [{"LS": "valid_and_test"}, {"RS": [0.8, 0.1, 0.1]}])
def test_prefixes_are_recboles_rows(tiny_data, max_len, split):
    """Every training interaction after a user's first is a target once, its history is RecBole's, and is kept as a pointer."""
    config = settings(tiny_data, max_len, eval_args={"split": split, "order": "TO", "group_by": "user", "mode": "full"})
    fields = ("user_id", "item_id", "item_id_list", "item_length")
    for ours, theirs in zip(PrefixDataset(config).build(), time_ordered(SequentialDataset)(config).build()):
        assert len(ours) == len(theirs)
        batch = ours[np.arange(len(ours))]
        for field in fields:
            assert torch.equal(batch[field], theirs.inter_feat[field].to(batch[field].dtype)), field
        assert ours.item_counter == theirs.item_counter
    train, *_ = PrefixDataset(config).build()
    assert all(column.dim() == 1 for column in train.inter_feat.interaction.values())


@pytest.mark.parametrize("normalize_all", [True, None])
def test_timed_windows_are_windows_with_the_files_times(tiny_data, normalize_all):
    """To the second, since the first interaction of all, whether or not RecBole would stretch them to [0, 1]."""
    config = settings(tiny_data, 7, normalize_all=normalize_all)
    frame = pd.read_csv(tiny_data / "tiny" / "tiny.inter", sep="\t", dtype={"user_id:token": str, "item_id:token": str})
    seconds = frame["timestamp:float"] - frame["timestamp:float"].min()
    when = dict(zip(zip(frame["user_id:token"], frame["item_id:token"]), seconds))  # nobody meets an item twice
    for plain, timed in zip(WindowDataset(config).build(), TimedWindowDataset(config).build()):
        assert all(torch.equal(plain.inter_feat[field], timed.inter_feat[field]) for field in plain.inter_feat)
        for user, items, times, length in rows(timed, "user_id", "item_id_list", "timestamp_list", "item_length"):
            name = timed.id2token("user_id", user)
            expected = [when[name, item] for item in timed.id2token("item_id", items[:length])]
            assert times[:length] == pytest.approx(expected, abs=1) and not any(times[length:])


def test_time_order_survives_float32(tmp_path):
    """Two interactions one second apart at 1e9 s are the same float32; RecBole alone would keep the file's order."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    times = [1_000_000_003, 1_000_000_002, 1_000_000_001, 1_000_000_000, 999_999_999]
    assert len({float(np.float32(t)) for t in times}) < len(times)
    frame = pd.DataFrame({"user_id:token": "u", "item_id:token": [f"i{t}" for t in times], "timestamp:float": times})
    frame.to_csv(folder / "tiny.inter", sep="\t", index=False)
    config = settings(tmp_path)
    for dataset_class in (WindowDataset, time_ordered(SequentialDataset)):
        dataset = dataset_class(config)
        _, _, test = dataset.build()
        history = dataset.id2token("item_id", test.inter_feat["item_id_list"][0])
        assert list(history[:4]) == [f"i{t}" for t in sorted(times)[:4]]
        assert dataset.id2token("item_id", test.inter_feat["item_id"][0]) == "i1000000003"


def test_time_ordered_keeps_a_class_that_has_it():
    assert time_ordered(WindowDataset) is WindowDataset


@pytest.mark.parametrize("split", [{"LS": "valid_and_test"}, {"RS": [0.8, 0.1, 0.1]}])
def test_prefix_rows_count_what_they_read(tiny_data, split):
    """Every interaction in the history of a training row once; not those that only validation or test see."""
    config = settings(tiny_data, eval_args={"split": split, "order": "TO", "group_by": "user", "mode": "full"})
    train, _, _ = PrefixDataset(config).build()
    read = {place for start, target in rows(train, "user_start", "target_position") for place in range(start, target)}
    assert train.counter("item_id_list") == Counter(int(train.item_sequence[place]) for place in read)
    assert len(read) < len(train.item_sequence)


# -- windows that differ from epoch to epoch -----------------------------------------------------------------------------------


def days(folder, data, per_day=5):
    """``tiny`` with a column of days: each user's first interactions on one day, the next on another …, none longer than ``per_day``."""
    frame = pd.read_csv(data / "tiny" / "tiny.inter", sep="\t", dtype={"user_id:token": str, "item_id:token": str})
    frame = frame.sort_values("timestamp:float", kind="stable")
    place = frame.groupby("user_id:token").cumcount()
    frame["day:float"] = 1e9 + (place // per_day) * 10.0  # neighbours are one float32
    (folder / "tiny").mkdir(parents=True)
    frame.to_csv(folder / "tiny" / "tiny.inter", sep="\t", index=False)
    return folder


DAYS = {"load_col": {"inter": ["user_id", "item_id", "timestamp", "day"]}, "shuffle_ties": "day"}
FIELDS = ("user_id", "item_id_list", TARGET_LIST_FIELD, "item_length")


def windows_config(folder, max_len=10, **more) -> Config:
    """Of a model whose rows are windows, so that it has their keys."""
    values = {"data_path": str(folder), "load_col": {"inter": ["user_id", "item_id", "timestamp"]}, "MAX_ITEM_LIST_LENGTH": max_len}
    return Config("WindowSASRec", "tiny", config_dict={**values, **more})


def rows_of_epoch(train, epoch):
    train.begin_epoch(epoch)
    batch = train[np.arange(len(train))]
    return [tuple(np.asarray(batch[field][row]).tolist() for field in FIELDS) for row in range(len(train))]


def sequences_of(train):
    """Each user's training sequence as written windows have it: inputs, and every target after the input before it."""
    found = {}
    for user, inputs, targets, length in rows(train, *FIELDS):
        whole = [*inputs[:length], targets[length - 1]]
        old = found.get(user, [])
        overlap = next(n for n in range(min(len(old), len(whole)), -1, -1) if old[len(old) - n :] == whole[:n])
        found[user] = old + whole[overlap:]
    return found


@pytest.mark.parametrize("max_len", [4, 10])
@pytest.mark.parametrize("dataset_class", [WindowDataset, TimedWindowDataset])
def test_a_cropped_window_is_the_end_of_one(tiny_data, max_len, dataset_class):
    train, *_ = dataset_class(windows_config(tiny_data, max_len, crop_probability=0.5)).build()
    whole, cut, possible = rows(train, *FIELDS), Counter(), 0
    times = train.inter_feat["timestamp_list"].tolist() if dataset_class is TimedWindowDataset else None
    for epoch in range(40):
        drawn = rows_of_epoch(train, epoch)
        drawn_times = train[np.arange(len(train))]["timestamp_list"].tolist() if times else None
        for row, ((user, inputs, targets, length), (u, i, t, n)) in enumerate(zip(whole, drawn)):
            later = length - n
            assert user == u and 0 <= later < max(length, 1) and n >= 1
            assert i == inputs[later:] + [0] * later and t == targets[later:] + [0] * later and t[n - 1] > 0
            assert times is None or drawn_times[row] == times[row][later:] + [0] * later
            cut[later, length] += 1
            possible += length > 1
    n_cut = sum(count for (later, _), count in cut.items() if later)
    assert n_cut / possible == pytest.approx(0.5, abs=0.03)
    counts = [cut[later, max_len] for later in range(1, max_len)]
    assert min(counts) > 0.7 * np.mean(counts) and max(counts) < 1.3 * np.mean(counts)


@pytest.mark.parametrize("max_len", [4, 10, 50])
@pytest.mark.parametrize("split", [{"LS": "valid_and_test"}, {"RS": [0.8, 0.1, 0.1]}])
def test_interactions_of_a_day_change_places_within_training(tiny_data, tmp_path, max_len, split):
    """By loops: each run of a user's training interactions of one day has the same items, and every position of every window is of that order."""
    folder = days(tmp_path / "data", tiny_data)
    evaluation = {"split": split, "order": "TO", "group_by": "user", "mode": "full"}
    train, *others = TimedWindowDataset(windows_config(folder, max_len, eval_args=evaluation, **DAYS)).build()
    plain = TimedWindowDataset(windows_config(folder, max_len, eval_args=evaluation)).build()
    for ours, theirs in zip((train, *others), plain):
        assert all(torch.equal(ours.inter_feat[field], theirs.inter_feat[field]) for field in theirs.inter_feat)
    evaluated = [{field: part.inter_feat[field].clone() for field in part.inter_feat} for part in others]
    before, moved = sequences_of(train), 0
    for epoch in range(3):
        rows_of_epoch(train, epoch)
        batch = train[np.arange(len(train))]
        assert torch.equal(batch["timestamp_list"], train.inter_feat["timestamp_list"])
        assert torch.equal(batch[TARGET_LIST_FIELD] > 0, train.inter_feat[TARGET_LIST_FIELD] > 0)
        drawn = copy.copy(train)
        drawn.inter_feat = batch
        after = sequences_of(drawn)
        assert after.keys() == before.keys()
        for user, sequence in before.items():
            for begin in range(0, len(sequence), 5):
                day = slice(begin, begin + 5)
                assert sorted(after[user][day]) == sorted(sequence[day])
                moved += after[user][day] != sequence[day]
        for _, inputs, targets, length in rows(drawn, *FIELDS):  # what is a target is the next input
            assert all(targets[place] in (0, inputs[place + 1]) for place in range(length - 1))
        for part, expected in zip(others, evaluated):
            part.begin_epoch(epoch)
            everything = part[np.arange(len(part))]
            assert all(torch.equal(everything[field], expected[field]) for field in expected)
        assert train.item_counter == plain[0].item_counter
    assert moved > 100


def test_all_orders_of_a_day_come_equally_often_and_the_split_and_users_stay_apart(tmp_path):
    """The last day of u's training goes on in its validation, and t's only day has the number of u's first."""
    frame = pd.DataFrame({"user_id:token": list("ttttuuuuuuu"), "item_id:token": list("opqrabcdefg"), "timestamp:float": range(11)})
    frame["day:float"] = [0, 0, 0, 0, 0, 1, 2, 2, 2, 2, 3]
    (tmp_path / "tiny").mkdir()
    frame.to_csv(tmp_path / "tiny" / "tiny.inter", sep="\t", index=False)
    train, *_ = WindowDataset(windows_config(tmp_path, crop_probability=0.0, **DAYS)).build()
    orders = Counter()
    for epoch in range(1200):
        first, second = ("".join(train.id2token("item_id", [*row[1][: row[3]], row[2][row[3] - 1]])) for row in rows_of_epoch(train, epoch))
        assert second[:2] == "ab"
        orders[first] += 1
        orders[second[2:]] += 1
    assert orders.keys() == {"op", "po", "cde", "ced", "dce", "dec", "ecd", "edc"}
    assert all(count == pytest.approx(600 if len(names) == 2 else 200, abs=75) for names, count in orders.items())


def test_a_window_of_one_input_is_not_cropped(tmp_path):
    frame = pd.DataFrame({"user_id:token": list("ttttuuuuu"), "item_id:token": list("opqrabcde"), "timestamp:float": range(9)})
    (tmp_path / "tiny").mkdir()
    frame.to_csv(tmp_path / "tiny" / "tiny.inter", sep="\t", index=False)
    train, *_ = WindowDataset(windows_config(tmp_path, crop_probability=1.0)).build()
    whole, drawn = rows(train, *FIELDS), rows_of_epoch(train, 0)
    assert drawn[0] == whole[0] and whole[0][3] == 1  # t has one training target, …
    assert drawn[1][3] == 1 and whole[1][3] == 2  # … and u two


def test_an_epoch_is_a_function_of_the_seed_and_its_number(tiny_data, tmp_path):
    folder = days(tmp_path / "data", tiny_data)
    one, other, third = (
        WindowDataset(windows_config(folder, crop_probability=0.5, seed=seed, **DAYS)).build()[0] for seed in (1, 1, 2)
    )
    state = torch.get_rng_state()
    first = rows_of_epoch(one, 0)
    assert rows_of_epoch(one, 1) != first != rows_of_epoch(third, 0)
    assert rows_of_epoch(other, 1) == rows_of_epoch(one, 1) and rows_of_epoch(one, 0) == first
    assert torch.equal(torch.get_rng_state(), state)  # dropout knows nothing of it


@pytest.mark.parametrize("more", [{}, {"crop_probability": 0.0, "shuffle_ties": None}])
def test_without_either_the_rows_are_the_same_objects_every_epoch(tiny_data, more):
    train, *_ = WindowDataset(windows_config(tiny_data, **more)).build()
    train.begin_epoch(3)
    batch = train[np.arange(len(train))]
    assert all(torch.equal(batch[field], train.inter_feat[field]) for field in train.inter_feat) and train._drawn is None
