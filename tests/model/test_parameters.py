"""What values keys may have, and what is said of others."""

from __future__ import annotations

import math

import numpy as np
import pytest

from recbole_r3vae.errors import UserError
from recbole_r3vae.model.contract import Contract
from recbole_r3vae.model.parameters import SHARE, Choice, Either, Flag, ListOf, Number, Whole, check_parameters

CASES = [
    (Whole(), [1, 7, np.int64(3)], [0, 1.0, True, "1", None]),
    (Whole(0, 4), [0, 4], [-1, 5]),
    (Number(), [0, -1.5, np.float32(2)], [math.inf, math.nan, "0", None, True]),
    (Number(above=0), [1e-9], [0, -1]),
    (Number(at_least=0, at_most=1), [0, 1], [-0.1, 1.1]),
    (SHARE, [0, 0.99], [1, 1.0, -0.01]),
    (Flag(), [True, False], [0, 1, "True", None]),
    (Choice("a", "b"), ["a"], ["A", "c", None, ["a"]]),
    (ListOf(Whole(2)), [[2], [3, 4]], [[], [1], 2, "22"]),
    (Either(None, "exact", Whole(5)), [None, "exact", 5], ["other", 4, False]),
]


@pytest.mark.parametrize("parameter, good, bad", CASES, ids=lambda value: getattr(value, "expected", lambda: "")())
def test_what_is_taken(parameter, good, bad):
    assert [value for value in good if not parameter.takes(value)] == []
    assert [value for value in bad if parameter.takes(value)] == []


def test_the_refusal_names_key_value_and_what_may_be_given():
    with pytest.raises(UserError, match=r"^encoder is 'htsu'; did you mean 'hstu'\?; give transformer or hstu$"):
        check_parameters({"encoder": Choice("transformer", "hstu")}, {"encoder": "htsu"})
    with pytest.raises(UserError, match=r"^dropout is 1; give a number from 0 below 1$"):
        check_parameters({"dropout": SHARE}, {"dropout": 1})
    with pytest.raises(UserError, match=r"^num_beams is 0; give a whole number from 1 or exact$"):
        check_parameters({"num_beams": Either(Whole(), "exact")}, {"num_beams": 0})


def test_a_class_has_the_keys_of_its_ancestors_and_may_say_them_anew():
    class Parent(Contract):
        hyperparameters = {"size": Whole(), "rate": Number(above=0)}

    class Child(Parent):
        hyperparameters = {"size": Whole(8), "depth": Whole()}

    Parent.check({"size": 1, "rate": 1})
    for change in ({"size": 7}, {"rate": 0}, {"depth": 0}):
        with pytest.raises(UserError, match=next(iter(change))):
            Child.check({"size": 8, "rate": 1, "depth": 1, **change})
