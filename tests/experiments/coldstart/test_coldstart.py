"""Nothing that is trained knows a cold item, places are dealt out as stated, and the figures are those of a loop in plain Python."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from recbole_r3vae.cli import main
from recbole_r3vae.config import Config, tokenizer_config
from recbole_r3vae.data.sequences import TARGET_LIST_FIELD
from recbole_r3vae.errors import UserError
from recbole_r3vae.experiments.coldstart.lists import best, measure, mix, random_expectation, similarities, slots
from recbole_r3vae.experiments.coldstart.run import run_coldstart
from recbole_r3vae.experiments.coldstart.split import make_split
from recbole_r3vae.quick_start.lookup import create_dataset, data_preparation
from recbole_r3vae.quick_start.semantic_ids import load_tokenizer
from recbole_r3vae.serve.recommender import Recommender
from recbole_r3vae.serve.users import UserHistories
from recbole_r3vae.sid.table import SemanticIDs

FAST = {"tokenizer": "RKMeans", "tokenizer_epochs": 0, "epochs": 1, "seed": 3}
SHARE = 0.2


def words(settings, **more) -> list[str]:
    return [f"--{key}={json.dumps(value)}" for key, value in {**settings, **FAST, **more}.items()]


def with_other_texts(data: Path, folder: Path, items) -> Path:
    """The dataset ``tiny`` with nonsense for the texts of some items."""
    texts = pd.read_csv(data / "tiny" / "tiny.item", sep="\t", dtype=str, keep_default_na=False)
    texts.loc[texts["item_id:token"].isin(items), ["movie_title:token_seq", "class:token_seq"]] = ["Zyzzyva quux", "Gibberish"]
    (folder / "tiny").mkdir(parents=True)
    texts.to_csv(folder / "tiny" / "tiny.item", sep="\t", index=False)
    (folder / "tiny" / "tiny.inter").write_bytes((data / "tiny" / "tiny.inter").read_bytes())
    return folder


@pytest.fixture
def config(tiny_settings):
    return Config("R3GR", "tiny", config_dict={**tiny_settings, **FAST})


# -- the split ---------------------------------------------------------------------------------------------------------------------


def test_no_training_sees_a_cold_item(config, tiny_settings):
    split = make_split(config, SHARE, "random")
    assert len(split.cold) == 30 and len(split.warm) == 118 and not split.cold & split.warm  # of 148
    warm = Config("R3GR", "tiny", config_dict={**tiny_settings, **FAST, **split.settings})
    dataset = create_dataset(warm)
    names = np.array(dataset.field2id_token["item_id"]).astype(str)
    assert set(names[1:]) == split.warm
    histories = UserHistories(dataset)
    last = {user: items[-1] for user, items in histories.of(list(histories.number))}
    whole = UserHistories(create_dataset(config))
    dataset.semantic_ids = None
    train, valid, test = data_preparation(warm, dataset)
    held_out = {str(dataset.field2id_token["user_id"][user]): names[item] for user, item in zip(
        test.dataset.inter_feat["user_id"].tolist(), test.dataset.inter_feat["item_id"].tolist())}  # fmt: skip
    trained = train.dataset.inter_feat
    targets_of = {user: set() for user in last}
    for user, items in zip(trained["user_id"].tolist(), trained[TARGET_LIST_FIELD].tolist()):
        targets_of[str(dataset.field2id_token["user_id"][user])].update(names[[item for item in items if item]])
    n_cold = 0
    for question in split.questions:
        [(_, everything)] = whole.of([question.user])
        assert question.target == everything[-1] and len(question.history) >= 2
        assert question.history == [item for item in everything[:-1] if item not in split.cold]
        if question.target in split.warm:  # the same question as RecBole's test on the warm dataset
            assert held_out[question.user] == last[question.user] == question.target not in targets_of[question.user]
        n_cold += question.target in split.cold
    assert 0 < n_cold < len(split.questions) and len(split.questions) + split.left_out == 60


def test_minimal_numbers_of_interactions_count_before_the_split_and_not_after(tiny_settings):
    config = Config("R3GR", "tiny", config_dict={**tiny_settings, **FAST, "item_inter_num_interval": "[5,inf)"})
    split = make_split(config, SHARE, "random")
    whole = create_dataset(config)
    assert split.warm | split.cold == set(map(str, whole.field2id_token["item_id"][1:])) and whole.item_num < 149
    left = create_dataset(Config("R3GR", "tiny", config_dict={**tiny_settings, **FAST, **split.settings}))
    assert left.item_num - 1 == len(split.warm)
    cold_events = sum(item in split.cold for user in UserHistories(whole).of(list(UserHistories(whole).number)) for item in user[1])
    assert left.inter_num == whole.inter_num - cold_events > 0


def test_settings_beside_the_data_hold_for_the_warm_items_too(tiny_settings, tiny_data, tmp_path):
    folder = with_other_texts(tiny_data, tmp_path / "own", [])
    own = {key: tiny_settings[key] for key in ("load_col", "item_text_fields", "codebook_sizes")} | {"MAX_ITEM_LIST_LENGTH": 7}
    (folder / "tiny" / "tiny.yaml").write_text(json.dumps(own))
    given = {**{key: value for key, value in tiny_settings.items() if key not in own}, **FAST, "data_path": str(folder)}
    first = make_split(Config("R3GR", "tiny", config_dict=given), SHARE, "random")
    warm = Config("R3GR", "tiny", config_dict={**given, **first.settings})
    assert {key: warm[key] for key in own if key != "codebook_sizes"} == {key: own[key] for key in own if key != "codebook_sizes"}
    assert tokenizer_config(warm)["codebook_sizes"] == own["codebook_sizes"]
    (folder / "tiny" / "tiny.yaml").write_text(json.dumps({**own, "MAX_ITEM_LIST_LENGTH": 8}))
    assert make_split(Config("R3GR", "tiny", config_dict=given), SHARE, "random").folder != first.folder  # runs of other settings stay apart


def test_files_of_another_separator_and_encoding(config, tiny_settings, tiny_data, tmp_path):
    (tmp_path / "comma" / "tiny").mkdir(parents=True)
    for ending in ("inter", "item"):
        text = (tiny_data / "tiny" / f"tiny.{ending}").read_text(encoding="utf-8")
        (tmp_path / "comma" / "tiny" / f"tiny.{ending}").write_text(text.replace("\t", "|"), encoding="utf-16")
    more = {"data_path": str(tmp_path / "comma"), "field_separator": "|", "encoding": "utf-16"}
    split = make_split(Config("R3GR", "tiny", config_dict={**tiny_settings, **FAST, **more}), SHARE, "random")
    assert split.cold == make_split(config, SHARE, "random").cold
    dataset = create_dataset(Config("R3GR", "tiny", config_dict={**tiny_settings, **FAST, **more, **split.settings}))
    assert set(np.array(dataset.field2id_token["item_id"]).astype(str)[1:]) == split.warm


def test_recent_items_of_real_times(config):
    split = make_split(config, 0.5, "recent")
    frame = pd.read_csv(Path(config["data_path"]) / "tiny.inter", sep="\t", dtype={"item_id:token": str})
    first = frame.groupby("item_id:token")["timestamp:float"].min()
    assert min(first[list(split.cold)]) > max(first[list(split.warm)])


def test_cold_texts_change_nothing_that_is_warm(tiny_settings, tiny_data, tmp_path):
    runs = []
    for data in (tiny_data, None):
        data = data or with_other_texts(tiny_data, tmp_path / "other", runs[0][1].cold)
        places = {"checkpoint_dir": str(tmp_path / f"saved {len(runs)}"), "content_cache_dir": str(tmp_path / f"cache {len(runs)}")}
        settings = {**tiny_settings, **FAST, **places, "data_path": str(data)}
        split = make_split(Config("R3GR", "tiny", config_dict=settings), SHARE, "random")
        run_coldstart(
            "tiny", cold_share=SHARE, epsilons=[0.2], output=tmp_path / f"out {len(runs)}", arguments=words(settings)
        )
        [run_dir] = [path.parent for path in split.folder.rglob("best.pth")]
        runs.append((run_dir, split))
    (one, first), (other, second) = runs
    assert first.cold == second.cold and first.hash == second.hash and one != other
    for name in ("model.safetensors", "encoder/item_encoder.safetensors", "encoder/item_encoder.json", "suffix.sid"):
        assert (one / "tokenizer" / name).read_bytes() == (other / "tokenizer" / name).read_bytes()
    assert set(load_tokenizer(one / "tokenizer").raw.item_ids[1:]) == first.warm
    weights = [Recommender(run_dir).served.model.state_dict() for run_dir in (one, other)]
    assert weights[0].keys() == weights[1].keys() and all((weights[0][key] == weights[1][key]).all() for key in weights[0])
    codes = [SemanticIDs.load(split.folder / "cold.sid").codes[1:] for split in (first, second)]
    assert (codes[1][:, :3] == codes[1][0, :3]).all() and not (codes[0][:, :3] == codes[0][0, :3]).all()  # one text, one place


# -- lists and figures ---------------------------------------------------------------------------------------------------------------


def mixed_by_hand(warm, cold, epsilon):
    warm, cold, mixed = list(warm), [item for item in cold if item], []
    for place in range(1, len(warm) + 1):
        before, now = (math.floor(round(epsilon * n, 6)) for n in (place - 1, place))
        mixed.append((cold if now > before and cold else warm).pop(0))
    return mixed


@pytest.mark.parametrize("epsilon", [0.0, 0.1, 0.29, 1 / 3, 0.5, 0.7, 1.0])
def test_places_against_brute_force(epsilon):
    rng = np.random.default_rng(1)
    warm, cold = (np.stack([rng.permutation(50)[:20] for _ in range(30)]) + start for start in (1, 101))
    for row, n_cold in enumerate(rng.integers(0, 21, 30)):
        cold[row, n_cold:] = 0  # the generator found no more
    mixed = mix(warm, cold, epsilon)
    assert mixed.tolist() == [mixed_by_hand(*rows, epsilon) for rows in zip(warm, cold)]
    for k in (5, 10, 20):
        assert ((mixed[:, :k] > 100).sum(1) <= math.floor(round(epsilon * k, 6))).all()
        assert slots(epsilon, 20)[:k].sum() == math.floor(round(epsilon * k, 6))


def test_metrics_of_a_tiny_set(config):
    lists = np.zeros((4, 20), dtype=np.int64)
    lists[0, 0] = lists[1, 6] = lists[2, 19] = 7  # ranks 1, 7, 20; the last user's target is not found
    found = measure(config, lists, np.full(4, 7))
    ranks = [1, 7, 20]
    for k in (5, 10, 20):
        assert found[f"recall@{k}"] == pytest.approx(sum(rank <= k for rank in ranks) / 4)
        assert found[f"ndcg@{k}"] == pytest.approx(sum(1 / math.log2(1 + rank) for rank in ranks if rank <= k) / 4, abs=1e-6)


@pytest.mark.parametrize("epsilon, n_cold", [(0.1, 12), (0.5, 12), (1.0, 6)])
def test_random_places_reach_what_is_expected(config, epsilon, n_cold):
    rng = np.random.default_rng(2)
    n = 20_000
    cold = np.zeros((n, 20), dtype=np.int64)
    cold[:, : min(n_cold, 20)] = rng.permuted(np.tile(np.arange(101, 101 + n_cold), (n, 1)), axis=1)[:, :20]
    drawn = measure(config, mix(np.tile(np.arange(1, 21), (n, 1)), cold, epsilon), rng.integers(101, 101 + n_cold, n))
    expected = random_expectation(epsilon, n_cold, config["metrics"], config["topk"])
    assert drawn.keys() == expected.keys()
    for name, value in expected.items():
        assert drawn[name] == pytest.approx(value, abs=4 * 0.5 / math.sqrt(n))  # four standard errors at most
    assert expected["recall@20"] == (min(n_cold, 20 * epsilon) / n_cold)
    assert random_expectation(0.2, 10, ["MRR"], [10]) == {"mrr@10": None}


def test_content_neighbours_against_brute_force():
    rng = np.random.default_rng(3)
    vectors = rng.normal(size=(30, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors[0] = 0
    histories = [[1, 2, 3], [29], [4, 4, 9, 11]]
    lists = best(similarities(vectors, histories), 40)
    for row, history in zip(lists, histories):
        score = {item: np.mean([vectors[item] @ vectors[seen] for seen in history]) for item in range(1, 30) if item not in history}
        expected = sorted(score, key=lambda item: -score[item])
        assert row[: len(expected)].tolist() == expected and not row[len(expected) :].any()


# -- all of it -----------------------------------------------------------------------------------------------------------------------


def test_the_command(tiny_settings):
    command = ["coldstart", "--dataset=tiny", f"--cold_share={SHARE}", "--epsilon=0,0.1,1", "--sasrec", "--SASRec.hidden_size=8", "--SASRec.epochs=1"]
    assert main([*command, *words(tiny_settings)]) == 0
    report = json.loads(Path("results/coldstart_tiny.json").read_text())
    assert report["split"]["cold_items"] == 30 and report["split"]["cold_users"] + report["split"]["warm_users"] <= 60
    assert report["tokenized"]["items"] == 30 and report["name"] == "R3GR[RKMeans]" and "data_path" not in report["config"]
    rows = {(row["method"], row["epsilon"]): row for row in report["rows"]}
    name = "R3GR[RKMeans]"
    fillings = [name, f"{name}, re-ranked", "content ItemKNN", "random cold items"]
    assert set(rows) == {
        (f"{name}, one list", None), ("content ItemKNN, one list", None), ("SASRec", None), (name, 0),
        *((filling, epsilon) for filling in fillings for epsilon in (0.1, 1)),
    }  # fmt: skip
    zero = dict.fromkeys(rows[name, 0]["cold"], 0)
    assert rows[name, 0]["cold"] == rows["SASRec", None]["cold"] == zero  # neither can
    for filling in fillings:
        assert rows[filling, 1]["warm"] == zero  # all places are for cold items
        assert rows[filling, 0.1]["warm"] == rows[name, 0.1]["warm"]
        assert rows[filling, 0.1]["cold"]["recall@5"] == 0  # floor(0.1 * 5) places
    assert rows[name, 0]["warm"]["recall@20"] >= rows[name, 0.1]["warm"]["recall@20"]
    assert rows["random cold items", 0.1]["cold"]["recall@10"] == pytest.approx(1 / 30)
    page = Path("results/coldstart_tiny.md").read_text()
    assert set(report["trainings"]) == {name, "SASRec"} and "SASRec: 1 epochs in" in page
    assert "## Cold targets" in page and page.count(f"| {name} | 0.1 |") == 2 and report["command"] in page

    trained = {path: path.stat().st_mtime_ns for path in Path(tiny_settings["checkpoint_dir"]).rglob("best.pth")}
    assert len(trained) == 2 and main([*command, *words(tiny_settings)]) == 0  # taken up, and the same
    assert json.loads(Path("results/coldstart_tiny.json").read_text())["rows"] == report["rows"]
    assert {path: path.stat().st_mtime_ns for path in trained} == trained


@pytest.mark.parametrize("given, message", [
    (["--model=SASRec"], "does not recommend by semantic IDs"),
    (["--cold_share=1.5"], "cold_share is 1.5"),
    (["--cold_by=age"], "choose random or recent"),
    (["--epsilon=0,2"], "epsilon has 2"),
    (["--candidates=5"], "from the largest topk=20 to num_beams=30"),
    (["--candidates=31"], "from the largest topk=20 to num_beams=30"),
    (["--sid_file=x.sid"], "sid_file was made with all items in sight"),
    (["--content_encoder={text: tfidf-svd, image: {encoder: file, file: v.npy}}"], "content_encoder has image from a file of vectors"),
    (["--content_encoder=[tfidf-svd, {encoder: BPR}]"], "unknown content_encoder"),
    (["--content_encoder={text: tfidf-svd, taste: BPR}"], "content_encoder has taste from BPR, which learns them from interactions"),
    (["--metrics=[GAUC]"], "GAUC"),
    (["--learning_rat=1"], "did you mean 'learning_rate'"),
    (["--SASRec.hiden_size=1"], "unknown key --SASRec.hiden_size"),
    (['--eval_args={"split": {"RS": [8, 1, 1]}, "group_by": "user", "order": "TO", "mode": "full"}'], "leaves one test item out"),
    (['--eval_args={"split": {"GTS": [0.8, 0.9]}}'], "leaves one test item out of each user's history"),
    (['--eval_args={"ties": 1}'], "a cold-start split keeps the order of the file, and ties in eval_args draws another; leave it out"),
])  # fmt: skip
def test_what_the_protocol_cannot_do_is_refused(tiny_settings, given, message, capfd):
    np.save("v.npy", np.ones((1, 2), "f"))
    Path("v.ids").write_text("1\n")
    assert main(["coldstart", "--dataset=tiny", *words(tiny_settings), *given]) == 2
    assert message in capfd.readouterr().err
    assert not list(Path(tiny_settings["checkpoint_dir"]).rglob("*.pth")) and not Path("results").exists()


def test_no_text_is_an_error(tiny_settings, tiny_data, tmp_path):
    (tmp_path / "bare" / "tiny").mkdir(parents=True)
    (tmp_path / "bare" / "tiny" / "tiny.inter").write_bytes((tiny_data / "tiny" / "tiny.inter").read_bytes())
    settings = {**tiny_settings, "data_path": str(tmp_path / "bare")}
    with pytest.raises(UserError, match="tiny.item"):
        run_coldstart("tiny", arguments=words(settings))
