"""Files, columns and splits are refused before anything is trained; parts that were split before are the split they came from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from recbole.data.dataset import SequentialDataset

from recbole_r3vae.config import Config
from recbole_r3vae.data.clicks import ClickHistoryDataset
from recbole_r3vae.data.ordered import histories_with_targets, time_ordered
from recbole_r3vae.data.sequences import TARGET_LIST_FIELD, PrefixDataset, TimedWindowDataset, WindowDataset
from recbole_r3vae.data.split import met_before, told_repeats
from recbole_r3vae.errors import UserError
from recbole_r3vae.quick_start import run_recbole_r3vae
from recbole_r3vae.quick_start.lookup import create_dataset, data_preparation

USER, ITEM, TIME = "user_id:token", "item_id:token", "timestamp:float"
HISTORY, TIMES = "item_id_list:token_seq", "timestamp_list:float_seq"
PARTS = {"benchmark_filename": ["train", "valid", "test"]}
PLAIN = {**PARTS, "load_col": {"inter": ["user_id", "item_id", "timestamp"]}}
WITH_HISTORIES = {**PARTS, "load_col": {"inter": ["user_id", "item_id", "timestamp", "item_id_list", "timestamp_list"]}}


@pytest.fixture(scope="module")
def parts(tiny_data, tmp_path_factory) -> Path:
    """``tiny`` with distinct times, whole and left one out for each of validation and test, with and without a history in each line."""
    folder = tmp_path_factory.mktemp("parts") / "tiny"
    folder.mkdir()
    frame = pd.read_csv(tiny_data / "tiny" / "tiny.inter", sep="\t", dtype={USER: str, ITEM: str})[[USER, ITEM, TIME]]
    frame[TIME] = 1e9 + 3600 * frame.groupby(USER)[TIME].rank(method="first")
    frame = frame.sort_values([USER, TIME], kind="stable", ignore_index=True)
    frame.sample(frac=1, random_state=1).to_csv(folder / "tiny.inter", sep="\t", index=False)
    for column, source, plain in ((HISTORY, ITEM, str), (TIMES, TIME, lambda time: str(int(time)))):
        words, begin = frame[source].map(plain), frame.groupby(USER)[TIME].transform(lambda times: times.index[0])
        frame[column] = [" ".join(words[start:end]) for start, end in zip(begin, frame.index)]
    left = frame.groupby(USER)[TIME].rank(ascending=False)
    for name, rows in (("train", frame[left > 2]), ("valid", frame[left == 2]), ("test", frame[left == 1])):
        rows.sample(frac=1, random_state=2).to_csv(folder / f"tiny.{name}.inter", sep="\t", index=False)
    (folder / "tiny.item").write_bytes((tiny_data / "tiny" / "tiny.item").read_bytes())
    return folder.parent


def built(dataset_class, folder, max_len=7, model="SASRec", **more):
    values = {"data_path": str(folder), "MAX_ITEM_LIST_LENGTH": max_len, **more}
    return time_ordered(dataset_class)(Config(model, "tiny", config_dict=values)).build()


def rows(dataset, *fields) -> list[tuple]:
    """Of a built part, with external ids, whatever the numbers are."""
    batch = dataset[np.arange(len(dataset))] if dataset.__class__.__name__ == "PrefixDataset" else dataset.inter_feat

    def of(field):
        values = batch[field].tolist()
        if field in ("user_id", "item_id", "item_id_list", TARGET_LIST_FIELD):
            names = dataset.field2id_token["user_id" if field == "user_id" else "item_id"]
            values = [tuple(names[entry] for entry in row) if isinstance(row, list) else names[row] for row in values]
        return [tuple(row) if isinstance(row, list) else row for row in values]

    return sorted(zip(*(of(field) for field in fields)))


FIELDS = ("user_id", "item_id_list", "item_length")


@pytest.mark.parametrize("dataset_class, of_training, of_test", [
    (SequentialDataset, ("item_id",), ("item_id", "timestamp")),
    (WindowDataset, (TARGET_LIST_FIELD,), ("item_id",)),
    (TimedWindowDataset, (TARGET_LIST_FIELD, "timestamp_list"), ("item_id", "timestamp_list")),
    (PrefixDataset, ("item_id",), ("item_id",)),
])  # fmt: skip
def test_plain_parts_are_the_split_they_came_from(parts, dataset_class, of_training, of_test):
    whole = built(dataset_class, parts, load_col=PLAIN["load_col"])
    for part, (ours, theirs) in enumerate(zip(built(dataset_class, parts, **PLAIN), whole)):
        more = of_test if part else of_training
        assert len(ours) == len(theirs) > 0
        assert rows(ours, *FIELDS, *more) == rows(theirs, *FIELDS, *more)


@pytest.mark.parametrize("dataset_class, more", [
    (SequentialDataset, ("timestamp_list",)), (WindowDataset, ()), (TimedWindowDataset, ("timestamp_list",)), (PrefixDataset, ()),
])  # fmt: skip
@pytest.mark.parametrize("max_len", [3, 50])
def test_histories_in_the_lines_are_read_as_they_are(parts, dataset_class, more, max_len):
    """Every line is one target after the last items of its history; those without a history are left out."""
    ours, whole = (built(dataset_class, parts, max_len, **values) for values in (WITH_HISTORIES, {"load_col": PLAIN["load_col"]}))
    for mine, theirs in zip(ours[1:], whole[1:]):
        assert rows(mine, *FIELDS, "item_id", *more) == rows(theirs, *FIELDS, "item_id", *more)
        assert mine.inter_feat["item_id_list"].shape[1] == max_len
    expected = rows(built(PrefixDataset, parts, max_len, load_col=PLAIN["load_col"])[0], *FIELDS, "item_id")
    if issubclass(dataset_class, WindowDataset) and dataset_class is not PrefixDataset:
        found = [
            (user, history, length, next(item for item in targets if item != "[PAD]"))
            for user, history, length, targets in rows(ours[0], *FIELDS, TARGET_LIST_FIELD)
            if targets[length - 1] != "[PAD]" and sum(item != "[PAD]" for item in targets) == 1
        ]
    else:
        found = rows(ours[0], *FIELDS, "item_id")
    assert sorted(found) == expected


def test_histories_in_the_lines_are_cropped_as_windows_are(parts):
    train, *_ = built(TimedWindowDataset, parts, 7, model="HSTU", crop_probability=1.0, **WITH_HISTORIES)
    whole, names = train.inter_feat, ("item_id_list", TARGET_LIST_FIELD, "timestamp_list")
    train.begin_epoch(0)
    drawn = train[np.arange(len(train))]
    later = (whole["item_length"] - drawn["item_length"]).tolist()
    assert all(0 < n < length or length == 1 for n, length in zip(later, whole["item_length"].tolist()))
    for row, n in enumerate(later):
        assert all(torch.equal(drawn[field][row, : 7 - n], whole[field][row, n:]) for field in names)


@pytest.mark.parametrize("more", [PLAIN, WITH_HISTORIES], ids=["plain", "histories"])
def test_clicks_have_the_histories_of_their_parts(parts, more):
    settings = {**more, "eval_args": {"mode": "labeled"}, "ctr_features": []}
    _, *evaluation = built(ClickHistoryDataset, parts, 50, "DIN", **settings)
    frame = pd.read_csv(parts / "tiny" / "tiny.inter", sep="\t", dtype={USER: str, ITEM: str}).sort_values([USER, TIME])
    met = {user: tuple(rows[ITEM]) for user, rows in frame.groupby(USER)}
    for left, part in zip((2, 1), evaluation):
        batch = part.join(part.inter_feat[torch.arange(len(part))])
        users, items = part.field2id_token["user_id"][batch["user_id"]], part.field2id_token["item_id"]
        found = {(user, tuple(items[row[:length]])) for user, row, length in zip(users, batch["item_id_list"], batch["item_length"])}
        assert found == {(user, history[:-left]) for user, history in met.items()}


@pytest.mark.parametrize("model", ["R3GR", "TIGER", "HSTU", "BSARec", "SASRec", "GRU4Rec", "BPR", "DeepFM", "DIN"])
@pytest.mark.parametrize("more", [PLAIN, WITH_HISTORIES], ids=["plain", "histories"])
def test_every_model_runs_on_parts(parts, tiny_settings, model, more):
    stages = {"tokenizer": "RKMeans", "tokenizer_epochs": 0} if model in ("R3GR", "TIGER") else {}
    own = {"n_heads", "inner_size", *({"hidden_size"} if model in ("BPR", "DeepFM", "DIN", "TIGER") else ())}
    settings = {key: value for key, value in tiny_settings.items() if key not in own}
    sizes = {"n_heads": 2} if model in ("R3GR", "HSTU", "BSARec", "SASRec") else {}
    sizes |= {"n_layers": 1, "n_decoder_layers": 1, "hidden_size": 16, "head_size": 8, "inner_size": 16} if model == "TIGER" else {}
    columns = {**more["load_col"], "item": ["item_id", "movie_title"]}
    changed = {"epochs": 1, "train_batch_size": 512, "data_path": str(parts), "load_col": columns}
    result = run_recbole_r3vae(model, "tiny", config_dict={**settings, **stages, **sizes, **more, **changed})
    assert result["test_result"]
    if model not in ("DeepFM", "DIN"):
        assert result["users"] is not None and len(result["test"]["left_out"]) == 6


def test_what_histories_tell_counts_as_met(parts, tiny_settings):
    """Also what is the target of no line; the same cells as those of the whole file."""
    def seen(**more):
        config = Config("BPR", "tiny", config_dict={**tiny_settings, "data_path": str(parts), **more})
        dataset = create_dataset(config)
        _, valid_data, test_data = data_preparation(config, dataset)
        users, items = (np.asarray(dataset.field2id_token[field]).astype(str) for field in ("user_id", "item_id"))
        return [{(users[u], items[i]) for u, i in zip(*loader.seen.nonzero())} for loader in (valid_data, test_data)]

    assert seen(**WITH_HISTORIES) == seen(**PLAIN) == seen(load_col=PLAIN["load_col"])


def test_a_target_that_its_own_history_holds_was_met_before(tmp_path):
    """By the histories up to a part and the targets of the parts before it, counted by hand."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    lines = {"train": ["u\tb\t3\ta", "v\tb\t3\td"], "valid": ["u\tc\t4\ta b", "v\ta\t4\td b"], "test": ["u\ta\t5\ta b c", "v\tc\t5\td b a"]}
    for name, rows in lines.items():
        (folder / f"tiny.{name}.inter").write_text("\n".join([f"{USER}\t{ITEM}\t{TIME}\t{HISTORY}", *rows]) + "\n")
    more = {**PARTS, "load_col": {"inter": ["user_id", "item_id", "timestamp", "item_id_list"]}}
    config = Config("BPR", "tiny", config_dict={"data_path": str(tmp_path), **more})
    dataset = create_dataset(config)
    _, valid_data, test_data = data_preparation(config, dataset)
    users, items = (np.asarray(dataset.field2id_token[field]).astype(str) for field in ("user_id", "item_id"))
    seen = [{users[u] + items[i] for u, i in zip(*loader.seen.nonzero())} for loader in (valid_data, test_data)]
    assert seen == [{"ua", "ub", "vd", "vb"}, {"ua", "ub", "uc", "vd", "vb", "va"}]
    assert all(loader.seen.max() == 1 for loader in (valid_data, test_data))
    assert met_before(valid_data).sum() == 0 and met_before(test_data).tolist() == [users[u] == "u" for u in test_data._dataset.inter_feat["user_id"]]
    assert "1 of 2 test targets" in told_repeats("tiny", valid_data, test_data)


def test_columns_that_are_not_said_are_asked_for(tiny_settings):
    given = {**tiny_settings, "load_col": {**PLAIN["load_col"], "item": None}}
    with pytest.raises(UserError, match="load_col has nothing for item; list fields of tiny.item"):
        create_dataset(Config("BPR", "tiny", config_dict=given))


def test_a_key_of_other_models_is_told_and_not_read(tiny_settings, caplog):
    create_dataset(Config("BPR", "tiny", config_dict={**tiny_settings, "crop_probability": "half"}))
    assert "unknown keys in config_dict" in caplog.text and "crop_probability" in caplog.text


def test_a_later_part_stays_behind_whatever_its_times_say(tmp_path):
    """Else a training target would be predicted from what is tested."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    for name, lines in (("train", "u a 9 u b 8 u c 7"), ("valid", "u d 5"), ("test", "u e 1")):
        cells = lines.split()
        text = "".join("\t".join(cells[at : at + 3]) + "\n" for at in range(0, len(cells), 3))
        (folder / f"tiny.{name}.inter").write_text(f"{USER}\t{ITEM}\t{TIME}\n{text}")
    train, valid, test = built(WindowDataset, tmp_path, **PLAIN)
    assert rows(train, "item_id_list", TARGET_LIST_FIELD)[0] == (("c", "b", *["[PAD]"] * 5), ("b", "a", *["[PAD]"] * 5))
    assert rows(valid, "item_id_list", "item_id")[0] == (("c", "b", "a", *["[PAD]"] * 4), "d")
    assert rows(test, "item_id_list", "item_id")[0] == (("c", "b", "a", "d", *["[PAD]"] * 3), "e")


def test_histories_and_their_targets_lie_one_after_the_other():
    values, start, position = histories_with_targets([np.array([3, 4]), np.array([], dtype=int), np.array([5])], np.array([7, 8, 9]))
    assert values.tolist() == [3, 4, 7, 8, 5, 9] and start.tolist() == [0, 3, 4] and position.tolist() == [2, 3, 5]


# -- refusals ------------------------------------------------------------------------------------------------------------------------


def never(*arguments, **keywords):
    pytest.fail("something was trained")


@pytest.mark.parametrize("model", ["R3GR", "BPR"])
@pytest.mark.parametrize("change, expected", [
    ({"TIME_FIELD": "time"}, "TIME_FIELD is 'time', and .*tiny.inter has no such column: it has user_id, item_id, timestamp.*'timestamp'"),
    ({"USER_ID_FIELD": "customer"}, "USER_ID_FIELD is 'customer'"),
    ({"ITEM_ID_FIELD": "article"}, "ITEM_ID_FIELD is 'article'"),
    ({"load_col": {"inter": ["user_id", "item_id"], "item": ["item_id"]}}, "'timestamp', which TIME_FIELD names, and load_col"),
    ({"load_col": {"inter": ["user_id", "item_id", "timestamp"], "item": ["movie_title"]}}, "tiny.item has a column 'item_id', which ITEM"),
    ({"load_col": None, "unload_col": {"inter": ["item_id"]}}, "'item_id', which ITEM_ID_FIELD names, and unload_col keeps"),
    ({"eval_args": {"split": {"LS": "both"}}}, "of LS choose valid_and_test, valid_only, test_only"),
    ({"eval_args": {"split": {"RS": [8, 2]}}}, "write three ratios"),
    ({"eval_args": {"split": "LS"}}, "write {LS: valid_and_test} or ratios"),
    ({"eval_args": {"order": "BY_TIME"}}, "order in eval_args is 'BY_TIME'; write TO"),
    ({"eval_args": {"group_by": "item"}}, "group_by in eval_args is 'item'; write user"),
    ({"benchmark_filename": ["train", "test"]}, r"benchmark_filename is \['train', 'test'\]; name three parts"),
    ({"benchmark_filename": ["train", "valid", "dev"]}, "there is no .*tiny.dev.inter; parts that are there: tiny.test.inter, tiny"),
])  # fmt: skip
def test_what_cannot_be_read_or_split_is_refused_before_anything_is_trained(parts, tiny_settings, monkeypatch, model, change, expected):
    monkeypatch.setattr("recbole_r3vae.quick_start.provide.train_tokenizer", never)
    with pytest.raises(UserError, match=expected):
        run_recbole_r3vae(model, "tiny", config_dict={**tiny_settings, "data_path": str(parts), "strict_config": False, **change})


@pytest.mark.parametrize("change, expected", [
    ({"shuffle_ties": "day"}, "shuffle_ties is 'day', and .*tiny.inter has no such column: it has user_id, item_id, timestamp"),
    ({"shuffle_ties": "timestamp_list", **PLAIN}, "'timestamp_list', which shuffle_ties names, and load_col keeps it from being read"),
    ({"shuffle_ties": "timestamp", **WITH_HISTORIES}, "shuffle_ties is 'timestamp', and the parts bring histories"),
    ({"eval_args": {"ties": 1}, **WITH_HISTORIES}, "ties in eval_args is 1, and the parts bring histories, whose order stands in item_id_list"),
    ({"shuffle_ties": 3}, r"shuffle_ties is 3 \(int\), it must be str"),
    ({"crop_probability": -0.1}, "crop_probability is -0.1; give"),
    ({"crop_probability": 1.5}, "crop_probability is 1.5; give a number from 0 up to 1"),
])  # fmt: skip
def test_windows_that_cannot_be_drawn_are_refused_likewise(parts, tiny_settings, monkeypatch, change, expected):
    monkeypatch.setattr("recbole_r3vae.quick_start.provide.train_tokenizer", never)
    with pytest.raises(UserError, match=expected):
        run_recbole_r3vae("R3GR", "tiny", config_dict={**tiny_settings, "data_path": str(parts), **change})


@pytest.mark.parametrize("model", ["R3GR", "SASRec", "DIN"])
def test_a_random_order_is_refused_for_models_of_histories(tiny_settings, monkeypatch, model):
    monkeypatch.setattr("recbole_r3vae.quick_start.provide.train_tokenizer", never)
    with pytest.raises(UserError, match="reads histories: histories are in time order; write order: TO"):
        run_recbole_r3vae(model, "tiny", config_dict={**tiny_settings, "eval_args": {"order": "RO", "split": {"RS": [8, 1, 1]}}})


def changed_part(parts, folder, name, change) -> str:
    (folder / "tiny").mkdir(parents=True)
    for path in (parts / "tiny").iterdir():
        (folder / "tiny" / path.name).write_bytes(path.read_bytes())
    path = folder / "tiny" / f"tiny.{name}.inter"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(change(lines)) + "\n")
    return str(folder)


@pytest.mark.parametrize("name", ["train", "valid", "test"])
@pytest.mark.parametrize("change, expected", [
    (lambda lines: [*lines, "u\tNA\t1\t2\t3"], "item_id is 'NA', and RecBole would read that as missing"),
    (lambda lines: [*lines, "u\t2\t\t2\t3"], "timestamp is ''"),
    (lambda lines: [*lines, "u\t2\t1"], "expected 5 columns as in line 1, got 3"),
    (lambda lines: lines[:1], "no lines after its header"),
    (lambda lines: [line.rpartition("\t")[0] for line in lines], "no column timestamp_list:float_seq, and .* has|reads the time of every"),
])  # fmt: skip
def test_parts_are_checked_as_whole_files_are(parts, tiny_settings, tmp_path, name, change, expected):
    folder = changed_part(parts, tmp_path / "changed", name, change)
    for model in ("BPR", "HSTU"):
        with pytest.raises(UserError, match=expected):
            create_dataset(Config(model, "tiny", config_dict={**tiny_settings, **WITH_HISTORIES, "data_path": folder}))


def test_times_of_histories_are_asked_for_where_they_are_read(parts, tiny_settings):
    columns = {"inter": ["user_id", "item_id", "timestamp", "item_id_list"]}
    settings = {**tiny_settings, **PARTS, "load_col": columns, "data_path": str(parts)}
    create_dataset(Config("SASRec", "tiny", config_dict=settings))
    with pytest.raises(UserError, match="HSTU reads the time of every item .* no column timestamp_list:float_seq is read; add it"):
        create_dataset(Config("HSTU", "tiny", config_dict=settings))


def test_columns_that_are_not_there_are_said(tiny_settings, caplog):
    columns = {"inter": ["user_id", "item_id", "timestamp", "clicks"], "item": ["item_id", "titel"]}
    create_dataset(Config("SASRec", "tiny", config_dict={**tiny_settings, "load_col": columns}))
    assert "load_col names clicks, and " in caplog.text and "load_col names titel, and " in caplog.text
    assert "it has item_id, movie_title, release_year, class" in caplog.text


def test_filters_that_parts_ignore_are_said(parts, tiny_settings, caplog):
    settings = {**tiny_settings, **PLAIN, "data_path": str(parts)}
    create_dataset(Config("BPR", "tiny", config_dict=settings))
    assert "does nothing" not in caplog.text
    create_dataset(Config("BPR", "tiny", config_dict={**settings, "user_inter_num_interval": "[6,inf)"}))
    assert "taken as they are, and user_inter_num_interval does nothing" in caplog.text
