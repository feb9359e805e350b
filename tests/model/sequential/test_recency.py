"""Recency: its order is that of a plain loop, and popularity counts training targets alone."""

from __future__ import annotations

import torch
from recbole.data.interaction import Interaction


def expected_order(history: list[int], counts, n_items: int) -> list[int]:
    last = {item: place for place, item in enumerate(history)}
    met = sorted(last, key=last.get, reverse=True)
    return met + sorted((item for item in range(1, n_items) if item not in last), key=lambda item: -counts[item])


def test_the_last_items_come_first_and_the_most_popular_after_them(build):
    model, train, *_ = build("Recency")
    counts = train.counter("item_id")
    histories = [[7], [3, 5, 3, 9], [4, 4, 4], list(range(1, model.max_seq_length + 1))]
    items = torch.zeros(len(histories), model.max_seq_length, dtype=torch.long)
    for row, history in enumerate(histories):
        items[row, : len(history)] = torch.tensor(history)
    rows = Interaction({"item_id_list": items, "item_length": torch.tensor([len(history) for history in histories])})
    scores = model.full_sort_predict(rows)
    for row, history in enumerate(histories):
        order = expected_order(history, counts, model.n_items)
        found = scores[row, 1:].argsort(descending=True) + 1
        n_met = len(set(history))
        assert found[:n_met].tolist() == order[:n_met]
        rest = [counts[item] for item in found[n_met:].tolist()]
        assert rest == [counts[item] for item in order[n_met:]] and len(set(rest)) > 2


def test_it_learns_nothing(build):
    model, train, *_ = build("Recency")
    loss = model.calculate_loss(train.inter_feat[:4])
    loss.backward()
    assert loss.item() == 0 and all(parameter.grad is None or not parameter.grad.any() for parameter in model.parameters())
