"""Histories and windows against RecBole's own prefix rows."""

from __future__ import annotations

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
