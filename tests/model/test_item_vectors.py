"""Vectors of items against sums written out, item by item."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from recbole_r3vae.data.content import ItemContent
from recbole_r3vae.model.contract import Sources
from recbole_r3vae.model.item_vectors import ItemInputs, ItemVectors, KeepsVectors, modalities
from recbole_r3vae.sid.table import SemanticIDs

SIZES, SIZE, WIDTH = (3, 4, 2), 5, 6


def sources(n_items: int, seed: int = 0) -> Sources:
    """Of ``n_items`` with the padding item; the first items are the same whatever their number."""
    drawn = np.random.default_rng(seed)
    rows = [([int(drawn.integers(size)) for size in SIZES], drawn.normal(size=WIDTH)) for _ in range(n_items - 1)]
    ids = ["[PAD]", *(f"i{row}" for row in range(1, n_items))]
    codes = torch.tensor([[-1] * len(SIZES), *(codes for codes, _ in rows)])
    vectors = np.array([np.zeros(WIDTH), *(vector / np.linalg.norm(vector) for _, vector in rows)], dtype=np.float32)
    return Sources(SemanticIDs(codes, SIZES, ids, ordered=False), ItemContent(vectors, ids, {"kind": "test"}, "0"))


def build(inputs: list[str], merge: str = "sum", n_items: int = 9, **more: float) -> ItemVectors:
    torch.manual_seed(0)
    return ItemVectors(inputs, merge, SIZE, n_items, sources(n_items), **more)


def written_out(items: ItemVectors, known: Sources, item: int) -> Tensor:
    """The vector of one item, from the weights and what the item is."""
    found = torch.zeros(SIZE)
    codes, first = known.semantic_ids.codes[item].tolist(), 1  # token 0 is padding, then come the codes of each level
    embeddings = []
    for code, size in zip(codes, SIZES):
        embeddings.append(items.code_embedding.weight[first + code])
        first += size
    if "codes" in items.item_inputs:
        found = found + (sum(embeddings) if items.merge == "sum" else items.code_projection(torch.cat(embeddings)))
    if "text" in items.item_inputs:
        found = found + items.content_projection(torch.from_numpy(known.content.embeddings[item]))
    if "id" in items.item_inputs:
        found = found + items.id_embedding.weight[item]
    return found


COMBINATIONS = [list(some) for n in (1, 2, 3) for some in itertools.combinations(("codes", "text", "id"), n)]


@torch.no_grad()
@pytest.mark.parametrize("merge", ["sum", "concat"])
@pytest.mark.parametrize("inputs", COMBINATIONS, ids="+".join)
@pytest.mark.parametrize("inner", [0, 7])
def test_a_vector_is_the_sum_of_what_the_item_is(inputs, merge, inner):
    items, known = build(inputs, merge, content_inner_size=inner).eval(), sources(9)
    expected = torch.stack([written_out(items, known, item) for item in range(1, 9)])
    assert torch.allclose(items.catalogue()[1:], expected, atol=1e-6)
    some = torch.tensor([3, 8, 3, 1])
    assert torch.allclose(items(some), expected[some - 1], atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("inputs", COMBINATIONS, ids="+".join)
def test_what_is_new_is_known_like_the_old_and_its_id_is_not(inputs):
    items = build(inputs).eval()
    before = items.catalogue()
    items.grow(sources(12))
    after = items.catalogue()
    assert torch.equal(after[1:9], before[1:]) and len(after) == 12
    if "id" in inputs:
        assert (items.id_embedding.weight[9:] == 0).all() and items.id_embedding.weight.requires_grad
    expected = torch.stack([written_out(items, sources(12), item) for item in range(9, 12)])
    assert torch.allclose(after[9:], expected, atol=1e-6) and torch.allclose(items(torch.arange(9, 12)), expected, atol=1e-6)


def test_codes_and_ids_are_hidden_in_training_alone_and_so_often():
    items = build(["codes", "id"], code_dropout=0.25, id_dropout=0.5)
    with torch.no_grad():
        items.id_embedding.weight.zero_()[1:] = 100.0  # an id weighs 100 …
        items.code_embedding.weight.zero_()[1:] = 1.0  # … and a code 1
    every = torch.ones(4000, dtype=torch.int64)
    seen = items.train()(every)[:, 0]
    assert (seen // 100).mean().item() == pytest.approx(0.5, abs=0.04)
    assert (seen % 100).mean().item() == pytest.approx(0.75 * len(SIZES), abs=0.06)
    assert (items.eval()(every) == 100 + len(SIZES)).all()
    assert (items.train().catalogue()[1:] == 100 + len(SIZES)).all()  # what is ranked is whole


def test_every_gradient_of_the_catalogue_is_that_of_the_items_read_one_by_one():
    items, weight = build(["codes", "text", "id"]), torch.randn(9, SIZE)
    gradients = []
    for vectors in (items.catalogue()[1:], items(torch.arange(1, 9))):
        items.zero_grad()
        (vectors * weight[1:]).sum().backward()
        gradients.append({name: part.grad.clone() for name, part in items.named_parameters()})
    assert gradients[0].keys() == gradients[1].keys()
    assert all(torch.allclose(part, gradients[1][name], atol=1e-5) and part.abs().sum() > 0 for name, part in gradients[0].items())
    assert (gradients[0]["code_embedding.weight"][0] == 0).all()


@pytest.mark.parametrize("merge", ["sum", "concat"])
def test_an_items_vector_is_the_sum_of_its_tokens_rows_where_it_is_its_codes(merge):
    items = build(["codes"], merge)
    if merge == "concat":
        torch.nn.init.normal_(items.code_projection.bias)
    table, catalogue = items.code_table(), items.catalogue()
    assert table.shape == (1 + sum(SIZES), SIZE)
    for item in range(1, 9):
        torch.testing.assert_close(sum(table[token] for token in items.tokens[item].tolist()), catalogue[item])
    for inputs in (["codes", "text"], ["text"], ["codes", "id"]):
        assert build(inputs, merge).code_table() is None


def test_inputs_that_are_none():
    takes = ItemInputs().takes
    assert takes(["codes"]) and takes(["text", "image", "id"]) and modalities(["codes", "image", "id", "text"]) == ("image", "text")
    assert not any(takes(value) for value in ([], "codes", ["codes", "codes"], ["codes", ""], [1], None))


class Keeper(KeepsVectors, torch.nn.Linear):
    """Counts how often it is asked."""

    asked = 0

    def all_vectors(self) -> Tensor:
        self.asked += 1
        return self.weight * 2


def test_vectors_are_kept_while_nothing_changes():
    keeper = Keeper(3, 4)
    assert torch.equal(keeper.kept_vectors(), keeper.weight * 2) and keeper.kept_vectors() is not keeper.kept_vectors()  # in training
    keeper.eval()
    keeper.asked = 0
    assert keeper.kept_vectors() is keeper.kept_vectors() and keeper.asked == 1
    changes = [lambda: keeper.load_state_dict(keeper.state_dict()), lambda: keeper.train().eval(), lambda: keeper.double(), keeper.forget]
    for n, change in enumerate(changes, start=2):
        change()
        assert torch.equal(keeper.kept_vectors(), keeper.weight * 2) and keeper.asked == n
