"""Which items are cold, what users are then asked, and lines of files that are left as they are."""

from __future__ import annotations

import numpy as np
import pytest

from recbole_r3vae.data.cold import ask, random_items, recent_items, select_lines
from recbole_r3vae.errors import UserError


def test_a_random_share_depends_on_the_seed_and_not_on_the_order():
    items = [f"i{n}" for n in range(200)]
    cold = random_items(items, 0.05, 1)
    assert len(cold) == 10 and cold < set(items)
    assert cold == random_items([*reversed(items), *items], 0.05, 1) != random_items(items, 0.05, 2)
    assert len(random_items(items[:3], 0.01, 1)) == 1 and len(random_items(items[:3], 0.99, 1)) == 2  # one cold, one warm at least
    drawn = [item for seed in range(400) for item in random_items(items[:10], 0.2, seed)]
    counts = np.array([drawn.count(item) for item in items[:10]])
    assert (abs(counts - 80) < 40).all()  # each with equal chance: standard deviation 8


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, 5, "many"])
def test_shares_out_of_range_are_refused(share):
    with pytest.raises(UserError, match="cold_share"):
        random_items(["a", "b"], share, 1)


def test_recent_items_against_brute_force():
    rng = np.random.default_rng(0)
    for _ in range(20):
        users, items = rng.integers(0, 6, 80), rng.integers(0, 25, 80).astype(str)
        times = rng.integers(0, 60, 80).astype(float)  # with ties
        since = sorted(times)[80 - 24]
        expected = {item for item in items if min(time for time, other in zip(times, items) if other == item) >= since}
        if expected:
            assert recent_items(users, items, times, 0.3) == expected
        else:
            with pytest.raises(UserError, match="0 of"):
                recent_items(users, items, times, 0.3)


def test_positions_are_not_taken_for_times():
    users, items = np.array([1, 1, 1, 2, 2]), np.array(list("abcda"))
    for scale in (1.0, 0.25):  # RecBole's normalisation keeps what they are
        with pytest.raises(UserError, match="positions, not times"):
            recent_items(users, items, scale * np.array([1.0, 2, 3, 1, 2]), 0.3)
    assert recent_items(users, items, np.array([1.0, 2, 3, 1, 4]), 0.4) == {"c"}


def test_questions_have_warm_histories_and_any_target():
    histories = [("u", list("abxcx")), ("v", list("axbc")), ("w", list("axc")), ("z", ["x"])]
    questions, left_out = ask(histories, {"x"})
    assert [(question.user, question.history, question.target) for question in questions] == [
        ("u", list("abc"), "x"), ("v", list("ab"), "c"),
    ]  # fmt: skip
    assert left_out == 2


def test_lines_are_selected_and_not_changed(tmp_path):
    header = "user_id:token\titem_id:token\ttime:float\n"
    (tmp_path / "d.inter").write_bytes((header + 'u1\ti1\t1.50\nu1\ti "2"\t02\r\nu2\ti1\t3').encode())
    wanted = {"item_id": {"i1", 'i "2"'}, "user_id": {"u1"}}
    assert select_lines(tmp_path / "d.inter", wanted) == header + 'u1\ti1\t1.50\nu1\ti "2"\t02\r\n'
    assert select_lines(tmp_path / "d.inter", {"item_id": {"i1"}}) == header + "u1\ti1\t1.50\nu2\ti1\t3\n"
    assert select_lines(tmp_path / "d.inter", {"item_id": set()}) == header
    with pytest.raises(UserError, match="no field 'item'; did you mean 'item_id'"):
        select_lines(tmp_path / "d.inter", {"item": set()})
    with pytest.raises(UserError, match="a cold-start split needs it"):
        select_lines(tmp_path / "d.item", {"item_id": set()})
