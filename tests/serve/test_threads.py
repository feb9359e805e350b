"""Several threads at one recommender: the answers of one thread, and of one catalogue."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Event, Thread

import pandas as pd
import pytest
import torch

from recbole_r3vae.config.registry import MODEL_ROOMS, get_model, own_models
from recbole_r3vae.errors import UserError
from recbole_r3vae.serve import recommender as recommender_module
from recbole_r3vae.serve.models import twin_of
from recbole_r3vae.serve.recommender import Recommender

DENSE = {"rank_by": "dense", "item_inputs": ["codes", "text", "id"]}
KINDS = [("R3GR", {}), ("R3GR", DENSE), ("R3GR", {"rank_by": "both"}), ("TIGER", {}), ("HSTU", {}), ("SASRec", {}), ("BPR", {}), ("LightGCN", {})]
GROWING = [("R3GR", {}), ("R3GR", DENSE), ("TIGER", {})]
RANKERS = sorted([*own_models(MODEL_ROOMS[1]), *own_models(MODEL_ROOMS[2])])


def side_by_side(tasks) -> list:
    """What functions return that begin at the same moment, each in a thread."""
    barrier = Barrier(len(tasks))

    def run(task):
        torch.set_num_threads(1)  # torch has a number for each thread
        barrier.wait(30)
        return task()

    with ThreadPoolExecutor(len(tasks)) as pool:
        return [future.result(60) for future in [pool.submit(run, task) for task in tasks]]


@pytest.mark.parametrize("model, more", KINDS)
def test_many_readers_get_the_answers_of_one(checkpoint, histories, model, more):
    """Also of a recommender that nobody has asked before, whose caches are empty."""
    alone, shared = Recommender(checkpoint(model, **more)), Recommender(checkpoint(model, **more))
    users = list(histories)
    parts = [users[start::12] for start in range(12)]
    expected = [alone.recommend(users=part, k=5, exclude_seen=bool(number % 2)) for number, part in enumerate(parts)]

    def of(number: int):
        part = parts[number]
        return lambda: [shared.recommend(users=part, k=5, exclude_seen=bool(number % 2)) for _ in range(2)]

    for round_ in range(0, 12, 4):
        for number, answers in zip(range(round_, round_ + 4), side_by_side([of(number) for number in range(round_, round_ + 4)])):
            assert all(answer.equals(expected[number]) for answer in answers)


def test_models_of_recbole_are_asked_by_one_thread_at_a_time(checkpoint, histories, monkeypatch):
    """LightGCN sets one of two things that it keeps, and is taken for complete."""
    recommender, inside, most = Recommender(checkpoint("LightGCN")), [], []
    ranks = type(recommender.served.model).full_sort_predict

    def watched(self, interaction):
        inside.append(0)
        most.append(len(inside))
        time.sleep(0.01)
        inside.pop()
        return ranks(self, interaction)

    monkeypatch.setattr(type(recommender.served.model), "full_sort_predict", watched)
    side_by_side([lambda: recommender.recommend(users=list(histories)[:2])] * 6)
    assert most == [1] * 6


def state_of(network) -> list:
    """Which objects a model and its heads hold, and how often tensors were written to."""
    parts = [*network.modules(), *getattr(network, "heads", {}).values()]
    own = [(number, name, id(value)) for number, part in enumerate(parts) for name, value in vars(part).items()]
    tensors = [*network.named_buffers(), *network.named_parameters()]
    return own + [(name, id(value), value._version) for name, value in tensors]


@pytest.mark.parametrize("model", RANKERS)
def test_ranking_leaves_a_model_of_ours_as_it_is(checkpoint, histories, model):
    """So threads need not wait for each other. What the first call keeps, such as a tree or the vectors of all items, is of the catalogue."""
    recommender, users = Recommender(checkpoint(model)), list(histories)
    network = recommender.served.model
    recommender.recommend(users=users[:3], k=5)
    before = state_of(network)
    recommender.recommend(users=users[3:9], k=7, exclude_seen=True)
    assert state_of(network) == before


@pytest.mark.parametrize("model, more", GROWING)
def test_the_first_who_asks_after_a_change_makes_nothing(checkpoint, history, new_items, free_codes, model, more):
    """The tree of the new catalogue and the vectors of its items are made before it takes the place of the old one."""
    recommender = Recommender(checkpoint(model, **more))
    recommender.add_items(new_items(recommender, "new", {"n0": free_codes(recommender.served.sids)[0]}, collision_policy="share"))
    network = recommender.served.model
    before = state_of(network)
    recommender.recommend([history], k=5)
    assert state_of(network) == before


def steps(recommender, sids) -> list:
    """What a writer does, one thing after the other."""
    first, second, third = sids
    return [
        lambda: recommender.add_items(first), lambda: recommender.remove_items(["50", "n0"]), lambda: recommender.add_items(second),
        lambda: recommender.add_items(first), lambda: recommender.remove_items(["181"]), lambda: recommender.add_items(third),
    ]  # fmt: skip


@pytest.mark.parametrize("model, more", GROWING)
def test_every_answer_beside_a_writer_is_of_one_catalogue(checkpoint, histories, new_items, free_codes, model, more):
    alone, shared = Recommender(checkpoint(model, **more)), Recommender(checkpoint(model, **more))
    codes = free_codes(alone.served.sids, 9)
    sids = [
        new_items(alone, name, {f"n{number}": codes[number] for number in numbers}, collision_policy="share")
        for name, numbers in (("first", range(3)), ("second", range(3, 6)), ("third", range(6, 9)))
    ]
    asked = {"new": ["n0", "50", "n4", "n8"], **{user: histories[user] for user in list(histories)[:2]}}
    everything = {"k": 30} if alone.served.model.most_items < 148 else {"k": 200}

    def answer(recommender) -> pd.DataFrame:
        return recommender.recommend(asked, **everything)

    states = [answer(alone)]
    for step in steps(alone, sids):
        step()
        states.append(answer(alone))
    assert sum(not a.equals(b) for a, b in zip(states, states[1:])) >= 3  # there is something to mix up

    done = Event()

    def read() -> list[pd.DataFrame]:
        found = []
        while not (finished := done.is_set()) or not found:
            found.append(answer(shared))
        return [*found, answer(shared)] if finished else found

    def write() -> list:
        try:
            for step in steps(shared, sids):
                step()
                time.sleep(0.05)
        finally:
            done.set()
        return []

    *readers, _ = side_by_side([read, read, read, write])
    for found in readers:
        places = [[place for place, state in enumerate(states) if state.equals(table)] for table in found]
        assert all(places), "an answer is of none of the catalogues"
        assert places[-1][-1] == len(states) - 1
        now = 0
        for possible in places:  # and nobody goes back to an earlier one
            now = next(place for place in possible if place >= now)


@pytest.mark.parametrize("model, more", GROWING)
def test_while_a_model_learns_items_readers_have_the_one_before(checkpoint, histories, new_items, free_codes, monkeypatch, model, more):
    recommender, pairs = Recommender(checkpoint(model, **more)), list(histories.items())[:6]
    new = new_items(recommender, "new", {"n0": free_codes(recommender.served.sids)[0]}, collision_policy="share")
    before, half, go_on = recommender.recommend(dict(pairs), k=20), Event(), Event()
    network = type(recommender.served.model)
    grow = network.grow

    def slow(self, sources):
        grow(self, sources)
        half.set()
        assert go_on.wait(30)

    monkeypatch.setattr(network, "grow", slow)
    writer = Thread(target=recommender.add_items, args=(new,))
    writer.start()
    try:
        assert half.wait(30)
        assert recommender.recommend(dict(pairs), k=20).equals(before)
        long = recommender.stream(pairs, 20, "user", batch_size=2)
        first = next(long)
    finally:
        go_on.set()
        writer.join()
    rest = list(long)  # begun before: it goes on with what it began with
    assert pd.concat([first, *rest], ignore_index=True)[["user", "item"]].equals(before[["user", "item"]])
    assert "n0" in set(recommender.recommend(dict(pairs[:1]), k=20, allow=["n0", "50"])["item"])


def test_writers_wait_for_each_other(checkpoint, new_items, free_codes, monkeypatch):
    recommender = Recommender(checkpoint())
    grow = type(recommender.served.model).grow
    monkeypatch.setattr(type(recommender.served.model), "grow", lambda *given: time.sleep(0.02) or grow(*given))
    files = [
        new_items(recommender, f"file{number}", {f"n{number}": code})
        for number, code in enumerate(free_codes(recommender.served.sids, 4))
    ]
    counts = side_by_side([lambda path=path: recommender.add_items(path) for path in files] + [lambda: recommender.remove_items(["50"])])
    assert counts == [1, 1, 1, 1, None]
    assert set(recommender.served.item_ids) >= {"n0", "n1", "n2", "n3"} and recommender.served.removed == {"50"}


@pytest.mark.parametrize("more", [DENSE, {"rank_by": "both"}])
def test_vectors_that_are_kept_are_those_of_the_catalogue_now(checkpoint, history, new_items, free_codes, more):
    """Of one that has kept them before items came, and of one that has not."""
    warm, cold = Recommender(checkpoint(**more)), Recommender(checkpoint(**more))
    new = new_items(warm, "new", {"n0": free_codes(warm.served.sids)[0]}, collision_policy="share")
    warm.recommend([history], k=5)
    assert warm.add_items(new) == cold.add_items(new) == 1
    asked = {"old": history, "new": ["n0", *history]}
    assert warm.recommend(asked, k=30).equals(cold.recommend(asked, k=30))


def test_a_refused_change_changes_nothing(checkpoint, history, new_items, free_codes):
    recommender = Recommender(checkpoint(**DENSE))
    before, served = recommender.recommend([history], k=30), recommender.served
    bad = new_items(recommender, "bad", {"n0": free_codes(served.sids)[0]}, torch.ones(1, 5).numpy(), collision_policy="share")
    with pytest.raises(UserError, match="length 5"):
        recommender.add_items(bad)
    assert recommender.served is served and recommender.recommend([history], k=30).equals(before)


def test_what_was_skipped_is_of_the_thread(checkpoint, history):
    recommender = Recommender(checkpoint())
    recommender.recommend([["x", *history]])

    def asks(n: int):
        def ask() -> int:
            recommender.recommend([["x"] * n + history])
            time.sleep(0.02)
            return recommender.skipped.items

        return ask

    assert side_by_side([asks(n) for n in (2, 3, 4)]) == [2, 3, 4] and recommender.skipped.items == 1


def test_the_dataset_is_read_once(checkpoint, monkeypatch):
    recommender, read = Recommender(checkpoint()), []
    create = recommender_module.create_dataset
    monkeypatch.setattr(recommender_module, "create_dataset", lambda config: read.append(0) or create(config))
    first, *others = side_by_side([lambda: recommender.users] * 4)
    assert len(read) == 1 and all(users is first for users in others)


def test_a_twin_shares_the_weights_and_learns_alone(checkpoint):
    network = Recommender(checkpoint(**DENSE)).served.model
    twin = twin_of(network)
    weights = dict(network.named_parameters())
    assert twin.state_dict().keys() == network.state_dict().keys() and twin.sources is network.sources
    for name, value in twin.named_parameters():
        assert value.data_ptr() == weights[name].data_ptr() and value is not weights[name]
    for name, value in twin.named_buffers():
        assert value.data_ptr() == network.get_buffer(name).data_ptr()
    assert all(head.model is twin for head in twin.heads.values()) and not twin.training
    twin.items.id_embedding.weight.data = torch.zeros(3, 16)
    assert len(network.items.id_embedding.weight) == 149


def test_the_rooms_are_known():
    assert {"R3GR", "TIGER", "HSTU", "WindowSASRec", "BSARec"} <= set(RANKERS) and all(map(get_model, RANKERS))
