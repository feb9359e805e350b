"""A trained model in use: the evaluation's ranking, what may be recommended, and items that come and go."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from recbole.data.interaction import Interaction
from recbole.utils.case_study import full_sort_topk

from recbole_r3vae.data.content.vectors import VectorFile
from recbole_r3vae.errors import UserError
from recbole_r3vae.quick_start import load_data_and_model
from recbole_r3vae.serve.recommender import Recommender
from recbole_r3vae.sid.table import SemanticIDs


@pytest.fixture
def exact(checkpoint):
    """A recommender that scores every item."""
    return Recommender(checkpoint(), {"num_beams": "exact"})


def scores_of(recommender, history) -> pd.Series:
    """Brute force: the teacher-forced log-probability of every item, one by one."""
    served = recommender.served
    rows = [served.row_of[item] for item in history][-10:]
    n = len(served.item_ids) - 1
    batch = Interaction({
        "item_id": torch.arange(1, n + 1),
        "item_id_list": torch.tensor([rows + [0] * (10 - len(rows))]).repeat(n, 1),
        "item_length": torch.full((n,), len(rows)),
    })  # fmt: skip
    return pd.Series(served.model.predict(batch).numpy(), index=served.item_ids[1:])


def assert_best(table: pd.DataFrame, scores: pd.Series, k: int) -> None:
    """The table holds k best items in order; items of equal scores may change places."""
    best = scores.sort_values(ascending=False)[:k]
    assert list(table["rank"]) == list(range(1, len(best) + 1))
    assert np.allclose(table["score"], best, atol=1e-4)
    assert np.allclose(table["score"], scores[table["item"]], atol=1e-4) and table["item"].is_unique


@pytest.mark.parametrize("part", ["valid", "test"])
@pytest.mark.parametrize("model", ["R3GR", "TIGER", "SASRec", "BPR", "HSTU"])
def test_as_of_an_evaluation_is_its_ranking(checkpoint, model, part):
    recommender = Recommender(checkpoint(model))
    users = recommender.users.users(part)
    table = recommender.recommend(users=users, k=20, as_of=part, exclude_seen=model == "BPR", batch_size=7)
    _, network, dataset, _, valid_data, test_data = load_data_and_model(checkpoint(model) / "best.pth")
    data = valid_data if part == "valid" else test_data
    assert len(users) == data.sample_size
    numbers = torch.tensor([dataset.token2id("user_id", user) for user in users])
    scores, items = full_sort_topk(numbers.numpy(), network, data, 20)
    assert list(table["user"]) == [user for user in users for _ in range(20)]
    assert np.allclose(table["score"], scores.flatten(), atol=1e-4)
    ours = table["item"].to_numpy().reshape(-1, 20)
    theirs = dataset.field2id_token["item_id"][items.numpy()].astype(str)
    gaps = (scores[:, :-1] - scores[:, 1:]).numpy() > 1e-4
    clear = np.c_[np.ones(len(users), bool), gaps] & np.c_[gaps, np.zeros(len(users), bool)]  # neighbours score apart
    assert clear.mean() > 0.5 and (ours == theirs)[clear].all()
    assert ("sid" in table) == (model in ("R3GR", "TIGER"))


def test_users_have_their_whole_histories(checkpoint, histories):
    recommender = Recommender(checkpoint())
    users = recommender.users
    assert set(users.users()) == set(histories)
    for as_of, held_out in (("now", 0), ("test", 1), ("valid", 2)):
        expected = {user: items[: len(items) - held_out] for user, items in histories.items()}
        assert dict(users.of(list(histories), as_of)) == expected
    some = list(histories)[:5]
    by_name = recommender.recommend(users=some, k=5)
    assert by_name.equals(recommender.recommend({user: histories[user] for user in some}, k=5))
    unnamed = recommender.recommend([histories[user] for user in some], k=5)
    assert list(unnamed["row"]) == [row for row in range(5) for _ in range(5)]
    assert unnamed.drop(columns="row").equals(by_name.drop(columns="user"))


def test_a_model_of_times_gets_them_with_users_and_refuses_histories_without(checkpoint, histories, tiny_data):
    """The times are those of the user's own interactions, whatever items the checkpoint does not know."""
    recommender, users = Recommender(checkpoint("HSTU")), list(histories)[:4]
    inter = pd.read_csv(tiny_data / "tiny" / "tiny.inter", sep="\t", dtype={"user_id:token": str})
    for user, items, times in recommender.histories_of(users, "test"):
        own = inter[inter["user_id:token"] == user]["timestamp:float"].sort_values().to_numpy()[:-1]
        assert items == histories[user][:-1] and times == list(own - inter["timestamp:float"].min())
    table = recommender.recommend(users=users, k=5)
    triples = [(user, ["unknown", *items], [-1.0, *times]) for user, items, times in recommender.histories_of(users)]
    again = pd.concat(recommender.stream(triples, 5, "user", True), ignore_index=True)
    assert table.equals(again) and recommender.skipped.items == 4
    later = [(user, items, [time * 50 for time in times]) for user, items, times in recommender.histories_of(users)]
    assert not np.allclose(pd.concat(recommender.stream(later, 5, "user", True))["score"], table["score"])
    with pytest.raises(UserError, match="HSTU reads the time of every interaction, .* name users of the dataset"):
        recommender.recommend([histories[users[0]]])


def test_nothing_known_at_all_is_an_error_with_an_id_of_each_side(checkpoint, history):
    recommender = Recommender(checkpoint())
    with pytest.raises(UserError, match=r"knows none of the 3 items of these histories, such as '50\.0'; its items are called '\d+'"):
        recommender.recommend([["50.0", "181.0"], [], ["7.0"]])
    assert len(recommender.recommend([[]])) == 0  # nothing was asked
    assert len(recommender.recommend([["50.0"], history], k=2)) == 2


def test_a_user_token_takes_part_when_users_are_named(checkpoint, histories):
    recommender = Recommender(checkpoint("TIGER"))
    named = recommender.recommend(users=list(histories)[:3], k=5)
    nameless = recommender.recommend({user: histories[user] for user in list(histories)[:3]}, k=5)
    assert not np.allclose(named["score"], nameless["score"], atol=1e-4)


def test_the_semantic_ids_of_a_table_are_its_items(exact, history):
    table = exact.recommend([history], k=148)
    codes = dict(zip(exact.served.sids.item_ids, exact.served.sids.codes.tolist()))
    assert all("-".join(map(str, codes[item])) == sid for item, sid in zip(table["item"], table["sid"]))
    assert set(table["item"]) == set(exact.served.item_ids[1:])


def test_seen_and_allowed_items_against_brute_force(exact, histories):
    users = list(histories)[:4]
    scores = {user: scores_of(exact, histories[user]) for user in users}
    for user, part in exact.recommend({user: histories[user] for user in users}, k=15).groupby("user"):
        assert_best(part, scores[user], 15)
    unseen = exact.recommend({user: histories[user] for user in users}, k=15, exclude_seen=True, batch_size=3)
    for user, part in unseen.groupby("user"):
        assert_best(part, scores[user].drop(set(histories[user])), 15)  # also of what the model's window no longer holds
    allowed = sorted(exact.served.item_ids[1:])[::3]
    both = exact.recommend({user: histories[user] for user in users}, k=15, exclude_seen=True, allow=allowed)
    for user, part in both.groupby("user"):
        assert_best(part, scores[user][allowed].drop(set(histories[user]), errors="ignore"), 15)


def test_recboles_models_leave_out_what_they_are_told(checkpoint, history):
    recommender = Recommender(checkpoint("SASRec"))
    every = recommender.recommend([history], k=148).set_index("item")["score"]
    allowed = sorted(every.index)[::2]
    table = recommender.recommend([history], k=10, exclude_seen=True, allow=allowed)
    expected = every[[item for item in every.index if item in allowed and item not in history]][:10]
    assert list(table["item"]) == list(expected.index) and np.allclose(table["score"], expected, atol=1e-5)


@pytest.mark.parametrize("model, more", [("R3GR", {"num_beams": "exact"}), ("R3GR", {"rank_by": "dense"}), ("WindowSASRec", {})])
def test_what_may_come_against_brute_force(checkpoint, histories, model, more):
    """Any mixture of allowed, excluded, removed and met items, and of those that nobody knows."""
    recommender, user = Recommender(checkpoint(model, **more)), list(histories)[3]
    items, scores, draw = sorted(recommender.served.item_ids[1:]), scores_of(recommender, histories[user]), np.random.default_rng(0)
    removed = set()
    for _ in range(12):
        allow = set(draw.choice(items, draw.integers(1, 149), False)) if draw.random() < 0.6 else None
        exclude = set(draw.choice(items, draw.integers(149), False)) if draw.random() < 0.6 else None
        if draw.random() < 0.3:
            removed |= (gone := set(draw.choice(items, 5, False)))
            recommender.remove_items(gone)
        seen = bool(draw.random() < 0.5)
        may = set(items if allow is None else allow) - (exclude or set()) - removed - set(histories[user] if seen else ())
        table = recommender.recommend(
            {user: histories[user]}, 12, exclude_seen=seen, allow=None if allow is None else [*allow, "x"],
            exclude=None if exclude is None else ["y", *exclude],
        )  # fmt: skip
        assert len(table) == min(12, len(may))
        assert_best(table, scores[[item for item in items if item in may]], 12)


def test_unknown_items_of_a_rule_are_named(checkpoint, history, caplog):
    recommender = Recommender(checkpoint())
    recommender.recommend([history], 3, allow=["no allow", *history], exclude=["no exclude", "neither", history[0]])
    words = [record.message for record in caplog.records]
    assert f"1 of {len(history) + 1} allowed items are unknown to the checkpoint: 'no allow'" in words
    assert "2 of 3 excluded items are unknown to the checkpoint: 'no exclude', 'neither'" in words


@pytest.mark.parametrize("model, more", [
    ("R3GR", {"num_beams": "exact"}), ("R3GR", {"rank_by": "dense"}), ("SASRec", {}), ("WindowSASRec", {}), ("BPR", {}),
])  # fmt: skip
def test_more_than_the_catalogue_holds_is_the_catalogue(checkpoint, histories, model, more):
    recommender, users = Recommender(checkpoint(model, **more)), list(histories)[:2]
    table = recommender.recommend(users=users, k=10_000)
    for _, part in table.groupby("user"):
        assert sorted(part["item"]) == sorted(recommender.served.item_ids[1:]) and list(part["rank"]) == list(range(1, len(part) + 1))


def test_a_history_of_nothing_gets_nothing(checkpoint, history):
    recommender = Recommender(checkpoint())
    for histories in ([], [[]], {"a": []}):
        table = recommender.recommend(histories)
        assert len(table) == 0 and list(table)[1:] == ["rank", "item", "score", "sid"]
    assert set(recommender.recommend({"a": [], "b": history})["user"]) == {"b"} and recommender.skipped.empty == 1


def test_an_item_is_explained_by_its_codes(exact, new_items):
    served = exact.served
    told = exact.explain("50", 3)
    assert told.sid == "-".join(map(str, served.sids.codes[served.row_of["50"]].tolist())) and len(told.nearest) == 3
    exact.add_items(new_items(exact, "new", {"n1": list(told.codes)}, collision_policy="share"))
    again = exact.explain("50", 3)
    assert again.sharing == tuple(n + 1 for n in told.sharing) and again.nearest[0].item == "n1" and again.nearest[0].shared == 4


def test_fewer_results_than_asked_for_are_a_short_list(checkpoint, histories):
    recommender = Recommender(checkpoint())
    three = list(recommender.served.item_ids[1:4])
    table = recommender.recommend(list(histories.values())[:2], k=10, allow=three)
    assert list(table["row"]) == [0, 0, 0, 1, 1, 1] and set(table["item"]) == set(three)
    nothing = recommender.recommend([three], k=10, allow=three, exclude_seen=True)
    assert len(nothing) == 0 and list(nothing) == ["row", "rank", "item", "score", "sid"]


def test_a_narrow_beam_finds_what_it_finds(checkpoint, history):
    recommender = Recommender(checkpoint(), {"num_beams": 4})
    assert len(recommender.recommend([history], k=4)) == 4
    for k in (5, 1000):
        with pytest.raises(UserError, match=f"k is {k}, and R3GR finds as many items as its beam is wide, num_beams=4; lower k"):
            recommender.stream([(0, history)], k=k)  # said before anything is read


def test_unknown_items_are_passed_over_and_counted(checkpoint, history, caplog):
    recommender = Recommender(checkpoint())
    given = [["x", *history, "y"], history, [], ["x"]]
    table = recommender.recommend(given, k=5)
    assert list(table["row"].unique()) == [0, 1]
    assert table[table["row"] == 0].drop(columns="row").equals(table[table["row"] == 1].drop(columns="row").set_index(table.index[:5]))
    assert (recommender.skipped.items, recommender.skipped.histories, recommender.skipped.empty) == (3, 2, 2)
    assert len([record for record in caplog.records if "unknown to the checkpoint" in record.message]) == 1


def test_histories_are_read_batch_by_batch(checkpoint, history, monkeypatch):
    recommender, read, sizes = Recommender(checkpoint()), [], []
    rank = recommender.served.rank
    monkeypatch.setattr(recommender.served, "rank", lambda batch, *rest: sizes.append(len(batch)) or rank(batch, *rest))

    def endless():
        while True:
            read.append(0)
            yield len(read), history

    frames = recommender.stream(endless(), k=3, batch_size=4)
    assert not read
    for n in range(1, 4):
        assert len(next(frames)) == 12 and len(read) == 4 * n and sizes == [4] * n
    monkeypatch.setattr("recbole_r3vae.serve.batches.MASK_CELLS", 2 * 149)  # masks of users are big: fewer users at a time
    del read[:], sizes[:]
    next(recommender.stream(endless(), k=3, batch_size=4, exclude_seen=True))
    assert len(read) == 2 and sizes == [2]


# -- items that come and go ---------------------------------------------------------------------------------------------------------


def test_new_items_are_recommended_at_once_and_old_ones_stay(exact, history, new_items, free_codes):
    old, before = exact.served.sids, scores_of(exact, history)
    assert exact.add_items(new := new_items(exact, "new", {"n1": free_codes(old)[0]})) == 1
    after = scores_of(exact, history)
    assert np.allclose(after[before.index], before, atol=1e-6)
    assert exact.served.sids.align(old.item_ids).content_hash == old.content_hash
    table = exact.recommend([history], k=149)
    assert_best(table, after, 149)
    assert "n1" in set(table["item"])

    exact.remove_items(["n1", "50"])
    gone = exact.recommend([history], k=149)
    assert set(gone["item"]) == set(table["item"]) - {"n1", "50"}
    exact.recommend([["n1"], ["50"]], k=5)  # what is gone is still read
    assert exact.skipped.items == 0
    assert exact.add_items(new) == 0  # known; it comes back
    assert set(exact.recommend([history], k=149)["item"]) == set(table["item"]) - {"50"}


def test_a_new_item_in_a_history_is_read_by_its_codes_and_its_vector(checkpoint, new_items):
    """A twin of an old item is read as the old one; one with another vector is not."""
    recommender = Recommender(checkpoint(item_inputs=["codes", "text", "id"], id_dropout=0.3))
    served = recommender.served
    row = served.row_of["50"]
    with torch.no_grad():
        served.model.items.id_embedding.weight[row] = 0  # the twin has no id embedding
    vectors = served.model.sources.content.embeddings[[row, row]] * np.array([[1], [-1]])
    codes = served.sids.codes[row].tolist()
    recommender.add_items(new_items(recommender, "new", {"twin": codes, "other": codes}, vectors, collision_policy="share"))
    table = recommender.recommend({name: [name] for name in ("50", "twin", "other")}, k=20)
    scores = {name: part["score"].to_numpy() for name, part in table.groupby("user")}
    assert np.allclose(scores["50"], scores["twin"], atol=1e-5) and not np.allclose(scores["50"], scores["other"], atol=1e-3)


def test_the_runs_collision_policy_decides(exact, new_items, history):
    sids = exact.served.sids
    codes = sids.codes[exact.served.row_of["50"]].tolist()
    with pytest.raises(UserError, match="of another item"):
        exact.add_items(taken := new_items(exact, "taken", {"n1": codes}))
    assert "n1" not in exact.served.row_of
    assert exact.add_items(new_items(exact, "raw", {"n2": codes[:3]})) == 1  # without the extra code: it gets one
    placed = exact.served.sids.codes[exact.served.row_of["n2"]].tolist()
    used = {row[3] for row in sids.codes.tolist() if row[:3] == codes[:3]}
    assert placed[:3] == codes[:3] and placed[3] == min(set(range(sids.codebook_sizes[3])) - used)
    assert exact.add_items(taken, policy="share") == 1
    table = exact.recommend([history], k=150).set_index("item")
    assert table["score"]["n1"] == table["score"]["50"]


def test_items_that_do_not_fit_are_refused(checkpoint, exact, tmp_path, new_items, free_codes):
    sids = exact.served.sids
    [code] = free_codes(sids)
    changed = next(item for item in sids.item_ids[1:] if sids.codes[exact.served.row_of[item]].tolist() != code)
    for codes, meta, message in (
        ({"n1": [7, 7, 7, 999]}, {}, "codebook"),
        ({"n1": code, changed: code}, {"collision_policy": "share"}, "what was trained stays"),
        ({"n1": code}, {"extends": "0" * 64}, "made to stand beside"),
    ):
        rows = torch.tensor([[-1] * 4, *codes.values()])
        SemanticIDs(rows, (*sids.codebook_sizes[:3], 1000), ["[PAD]", *codes], meta).save(tmp_path / "bad.sid")
        np.save(tmp_path / "bad.npy", np.ones((len(codes), 32), dtype=np.float32))
        (tmp_path / "bad.ids").write_text("".join(f"{name}\n" for name in codes))
        with pytest.raises(UserError, match=message):
            exact.add_items(tmp_path / "bad.sid")
    good = new_items(exact, "good", {"n1": code}, np.ones((1, 5)))
    with pytest.raises(UserError, match="length 5, the model reads 32"):
        exact.add_items(good)
    good.with_suffix(".npy").unlink()
    with pytest.raises(UserError, match="there are none of the new items"):
        exact.add_items(good)
    assert set(exact.served.item_ids) == set(sids.item_ids) and len(VectorFile(tmp_path / "bad.npy").ids) == 1
    with pytest.raises(UserError, match="SASRec knows the items of its training"):
        Recommender(checkpoint("SASRec")).add_items("no such file.sid")  # said before anything is read


# -- what a user gets wrong -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments, message", [
    ({"users": ["13", "nobody"]}, "unknown to dataset tiny: 'nobody'"),
    ({"users": ["[PAD]"]}, "unknown to dataset tiny"),
    ({"users": [], "as_of": "tomorrow"}, "as_of is 'tomorrow'"),
    ({"histories": [["50"]], "users": ["13"]}, "either histories or users"),
    ({}, "either histories or users"),
    ({"histories": [["50"]], "allow": ["x", "y"]}, "none of the 2 allowed items"),
    ({"histories": [["50"]], "k": 0}, "k .--topk. is 0; give a whole number from 1"),
    ({"histories": [["50"]], "k": 2.5}, "k .--topk. is 2.5; give a whole number from 1"),
    ({"histories": [["50"]], "k": True}, "k .--topk. is True"),
    ({"histories": [["50"]], "k": "3"}, "k .--topk. is '3'"),
    ({"histories": [["50"]], "batch_size": None}, "batch_size is None"),
    ({"histories": ["50 181"]}, r"a history takes a list of ids, got the text '50 181'; write \['50 181'\]"),
    ({"histories": {"ann": "50"}}, "a history takes a list"),
    ({"histories": "50"}, "histories takes a list"),
    ({"users": "13"}, "users takes a list"),
    ({"histories": [["50"]], "allow": "50"}, "allow takes a list"),
    ({"histories": [["50"]], "exclude": "50"}, "exclude takes a list"),
])  # fmt: skip
def test_bad_requests(checkpoint, arguments, message):
    with pytest.raises(UserError, match=message):
        Recommender(checkpoint()).recommend(**arguments)


@pytest.mark.parametrize("n", [-1, 1.5, True, "2"])
def test_an_explanation_takes_a_whole_number_of_neighbours(checkpoint, n):
    with pytest.raises(UserError, match="n is .*; give a whole number from 0"):
        Recommender(checkpoint()).explain("50", n=n)


def test_bad_checkpoints(checkpoint, tmp_path):
    for path in (tmp_path, tmp_path / "absent.pth"):
        with pytest.raises(UserError, match="there is no checkpoint"):
            Recommender(path)
    with pytest.raises(UserError, match="damaged"):
        (tmp_path / "best.pth").write_bytes(b"x")
        Recommender(tmp_path)
    for beams in (0, "wide"):
        with pytest.raises(UserError, match="num_beams is"):
            Recommender(checkpoint(), {"num_beams": beams})
    with pytest.raises(UserError, match="does not know: 'x'"):
        Recommender(checkpoint()).remove_items(["x"])
    with pytest.raises(UserError, match="remove_items takes a list"):
        Recommender(checkpoint()).remove_items("50")
    with pytest.raises(UserError, match="WindowSASRec has no semantic IDs to explain an item by"):
        Recommender(checkpoint("WindowSASRec")).explain("50")
    with pytest.raises(UserError, match="item 'x' is not among the 148 items"):
        Recommender(checkpoint()).explain("x")
    with pytest.raises(UserError, match="knows users, not histories"):
        Recommender(checkpoint("BPR")).recommend([["50"]])
    with pytest.raises(UserError, match="has no beams"):
        Recommender(checkpoint("BPR"), {"num_beams": 5})
    with pytest.raises(UserError, match="as_of=test needs a split"):
        by_share = {"split": {"RS": [8, 1, 1]}, "group_by": "user", "order": "TO", "mode": "full"}
        Recommender(checkpoint(), {"eval_args": by_share}).users.users("test")
