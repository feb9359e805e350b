"""What the test of a split is about, from the file alone, the same for every model and order of lines."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from recbole_r3vae.config import Config
from recbole_r3vae.data.split import held_out, told_repeats
from recbole_r3vae.quick_start import run_recbole_r3vae
from recbole_r3vae.quick_start.lookup import create_dataset, data_preparation
from recbole_r3vae.record import Record, unpack

USER, ITEM, TIME = "user_id:token", "item_id:token", "timestamp:float"


def loaders_of(settings, model="BPR", **more):
    config = Config(model, "tiny", config_dict={**settings, **more})
    return data_preparation(config, create_dataset(config))[1:]


def split_of(settings, model="BPR", **more):
    return held_out(*loaders_of(settings, model, **more))


def rewritten(settings, folder, change) -> dict:
    """Settings for the dataset whose interactions are ``change(frame)``."""
    frame = pd.read_csv(Path(settings["data_path"]) / "tiny" / "tiny.inter", sep="\t", dtype={USER: str, ITEM: str})
    (folder / "tiny").mkdir(parents=True)
    change(frame).to_csv(folder / "tiny" / "tiny.inter", sep="\t", index=False)
    (folder / "tiny" / "tiny.item").write_bytes((Path(settings["data_path"]) / "tiny" / "tiny.item").read_bytes())
    return {**settings, "data_path": str(folder)}


@pytest.fixture
def distinct_times(tiny_settings, tmp_path):
    """Without ties, whose order would be that of the file."""
    def rank(frame):
        return frame.assign(**{TIME: frame.groupby(USER)[TIME].rank(method="first")})

    return rewritten(tiny_settings, tmp_path / "distinct", rank)


def test_popularity_and_history_are_those_of_the_training_part(distinct_times):
    path = Path(distinct_times["data_path"]) / "tiny" / "tiny.inter"
    frame = pd.read_csv(path, sep="\t", dtype={USER: str, ITEM: str}).sort_values([USER, TIME])
    training = frame.groupby(USER).apply(lambda rows: rows[:-2], include_groups=False)
    counts, targets = training[ITEM].value_counts(), frame.groupby(USER)[ITEM].last()
    described = split_of(distinct_times).describe()
    assert described["users"] == len(targets) == 60
    assert list(unpack(described["popularity"], "int32")) == [counts.get(item, 0) for item in targets]
    assert list(unpack(described["history"], "int32")) == list(frame[USER].value_counts().sort_index() - 2)


def test_one_split_for_all_models_and_any_order_of_lines(distinct_times, tmp_path):
    shuffled = rewritten(distinct_times, tmp_path / "shuffled", lambda frame: frame.sample(frac=1, random_state=0))
    first = split_of(distinct_times)
    for settings in (distinct_times, shuffled):
        for model, more in (("BPR", {}), ("SASRec", {"loss_type": "CE"}), ("R3GR", {}), ("Pop", {})):
            assert split_of(settings, model, **more).describe() == first.describe()


@pytest.mark.parametrize("change", ["target", "training"])
def test_another_split_has_another_hash(distinct_times, tmp_path, change):
    def swap(frame):
        """A user's last item for the first, or his second for the third of another user."""
        mine = frame.index[frame[USER] == frame[USER].iloc[0]][[0, -1] if change == "target" else [0, 1]]
        frame.loc[mine, TIME] = frame.loc[mine[::-1], TIME].to_numpy()
        return frame if change == "target" else frame.drop(mine[0])

    assert split_of(rewritten(distinct_times, tmp_path / "other", swap)).split != split_of(distinct_times).split


@pytest.mark.parametrize("evaluation", [
    {"split": {"RS": [0.6, 0.2, 0.2]}, "order": "TO", "group_by": "user", "mode": "full"},
    {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "uni20"},
])  # fmt: skip
def test_several_targets_or_sampled_candidates_have_no_ranks(tiny_settings, evaluation):
    assert split_of(tiny_settings, eval_args=evaluation) is None


# -- targets that were met before ----------------------------------------------------------------------------------------------------


@pytest.fixture
def repeating(distinct_times, tmp_path):
    """Every third user's last item is his first; that before it of every second one his second."""
    def repeat(frame):
        frame = frame.sort_values([USER, TIME], kind="stable", ignore_index=True)
        for number, (_, rows) in enumerate(frame.groupby(USER)):
            if number % 3 == 0:
                frame.loc[rows.index[-1], ITEM] = rows[ITEM].iloc[0]
            if number % 2 == 0:
                frame.loc[rows.index[-2], ITEM] = rows[ITEM].iloc[1]
        return frame

    return rewritten(distinct_times, tmp_path / "repeating", repeat)


@pytest.mark.parametrize("model, more", [("BPR", {}), ("SASRec", {"loss_type": "CE"}), ("R3GR", {})])
def test_repeats_are_counted_and_said(repeating, model, more):
    loaders = loaders_of(repeating, model, **more)
    frame = pd.read_csv(Path(repeating["data_path"]) / "tiny" / "tiny.inter", sep="\t", dtype={USER: str, ITEM: str})
    met = [rows[ITEM].iloc[-1] in set(rows[ITEM].iloc[:-1]) for _, rows in frame.sort_values([USER, TIME]).groupby(USER)]
    assert held_out(*loaders).met_before.tolist() == met and sum(met) == 20
    assert "30 of 60 validation and 20 of 60 test targets are items that their users had met before" in told_repeats("tiny", *loaders)


def test_nothing_is_said_where_nothing_repeats(distinct_times):
    loaders = loaders_of(distinct_times)
    assert not held_out(*loaders).met_before.any() and told_repeats("tiny", *loaders) is None


@pytest.mark.parametrize("model", ["BPR", "R3GR"])
def test_repeated_and_new_targets_are_measured_apart(repeating, model, caplog):
    more = {"tokenizer": "RKMeans", "tokenizer_epochs": 0} if model == "R3GR" else {}
    caplog.set_level("INFO")
    result = run_recbole_r3vae(model, "tiny", config_dict={**repeating, **more, "epochs": 1})
    record = Record.read(Path(result["run_dir"]) / "result.json")
    assert record.by_repeat == result["by_repeat"] and record.repeated_targets == 20
    met = split_of(repeating).met_before
    for rule in ("left_out", "stay"):
        ranks = record.ranks(rule)
        for name, kept in (("repeated", met), ("new", ~met)):
            assert record.by_repeat[name][rule]["recall@10"] == pytest.approx(((ranks[kept] > 0) & (ranks[kept] <= 10)).mean())
        whole = sum(kept.mean() * record.by_repeat[name][rule]["ndcg@10"] for name, kept in (("repeated", met), ("new", ~met)))
        assert whole == pytest.approx(result["test"][rule]["ndcg@10"], abs=1e-5)
    assert len([line for line in caplog.messages if "are items that their users had met before" in line]) == 1
    assert "20 test targets had been met before, and stay candidates under both rules: ndcg@10 of these and of the others" in caplog.text


def test_several_targets_a_user_are_counted_too(repeating):
    split = {"split": {"RS": [0.6, 0.2, 0.2]}, "order": "TO", "group_by": "user", "mode": "full"}
    result = run_recbole_r3vae("Pop", "tiny", config_dict={**repeating, "eval_args": split, "epochs": 1})
    assert result["repeated_targets"] == 50 and result["by_repeat"] is None  # the last fifth holds both
