"""When asking about masks one by one stops to pay."""

from __future__ import annotations

import numpy as np
import pytest

from clustering.costs import Costs
from clustering.search._worth import least_worth, worth_asking

EVERY = np.ones(500, bool)


def test_asking_pays_while_it_takes_less_time_than_drawing() -> None:
    assert least_worth(Costs()) == pytest.approx((1.5 / 24 + 0.4) / 80)
    assert least_worth(Costs(sheet_mask=9.0)) == pytest.approx(1.4 / 80)
    assert least_worth(Costs(drawn_mask=0.0)) == 1.0


def test_best_first_and_none_below_the_bar() -> None:
    p = np.linspace(0.0, 0.999, 500)
    order = worth_asking(p, EVERY & (np.arange(500) != 499), np.zeros(0), bar=0.5)
    assert order[0] == 498
    assert (np.diff(p[order]) < 0).all()
    assert p[order].min() >= 0.5


def test_the_last_answers_end_it_whatever_the_estimate_says() -> None:
    p = np.full(500, 0.02)
    assert len(worth_asking(p, EVERY, np.zeros(99), bar=0.01)) == 500
    assert len(worth_asking(p, EVERY, np.zeros(100), bar=0.01)) == 0
    assert len(worth_asking(p, EVERY, np.r_[np.zeros(95), np.ones(5)], bar=0.01)) == 500


def test_the_tail_is_asked_about_while_it_brings_something() -> None:
    """A model may see no good mask left although one in twenty of the last ones was good."""
    p = np.full(500, 0.001)
    brought = np.r_[np.zeros(3900), np.tile([1.0] + [0.0] * 19, 5)]
    assert len(worth_asking(p, EVERY, brought, bar=0.01)) == 200
    assert len(worth_asking(p, EVERY, brought, bar=0.01, tail=False)) == 0
    assert len(worth_asking(p, EVERY, np.zeros(4000), bar=0.01)) == 0
    # nothing was asked yet: there is only the model
    assert len(worth_asking(p, EVERY, np.zeros(0), bar=0.01)) == 0
