"""Human seconds: what a set of questions takes."""

from __future__ import annotations

import numpy as np
import pytest

from clustering.answers import Questions
from clustering.costs import LARGEST_SHEET, Costs


def _questions(sheet: list[int]) -> Questions:
    numbers = np.array(sheet, np.int64)
    whole = np.zeros(len(sheet), np.int64)
    form = (numbers >= 0).astype(np.int8)
    return Questions(whole, whole, whole, np.zeros(len(sheet), np.int8), np.ones(len(sheet)), form, numbers)


def test_a_sheet_is_paid_once_and_each_mask_on_it() -> None:
    asked = _questions([-1, -1, 3, 3, 3, 8])
    assert Costs().seconds(asked) == pytest.approx(2 * 1.4 + 2 * 1.5 + 4 * 0.4)
    assert Costs(question=1, sheet=10, sheet_mask=0).seconds(asked) == pytest.approx(22)
    assert Costs().seconds(_questions([])) == 0.0


def test_the_smallest_sheet_is_the_first_that_is_quicker() -> None:
    for costs in (Costs(), Costs(sheet=5.0), Costs(question=1.0, sheet=1.0), Costs(sheet=0.1)):
        k = costs.smallest_sheet
        assert costs.sheet + k * costs.sheet_mask < k * costs.question
        if k > 2:
            assert costs.sheet + (k - 1) * costs.sheet_mask >= (k - 1) * costs.question
    assert Costs(question=0.4).smallest_sheet > LARGEST_SHEET
    assert Costs(question=0.4).mask == 0.4
    assert Costs().mask == pytest.approx(1.5 / LARGEST_SHEET + 0.4)


def test_negative_times_are_refused() -> None:
    for name in ("question", "sheet", "sheet_mask", "drawn_mask"):
        with pytest.raises(ValueError, match=name):
            Costs(**{name: -1.0})
        with pytest.raises(ValueError, match=name):
            Costs(**{name: float("nan")})
