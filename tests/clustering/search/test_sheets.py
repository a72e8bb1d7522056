"""Contact sheets: sizes, what stands together, and numbers that stay."""

from __future__ import annotations

import numpy as np

from clustering.answers import Form
from clustering.search import Certified
from clustering.search._sheets import cut_sheets, sheet_size
from tests.clustering.search_pools import answer_all, known_pool, play_through


def test_sheets_group_what_is_probably_right() -> None:
    assert [sheet_size(p) for p in (0.9, 0.95, 0.98, 0.5, 1.0)] == [7, 14, 34, 1, 36]
    p_yes = np.concatenate([np.full(40, 0.98), np.full(10, 0.9), [0.4, 0.3]])
    order, sheet = cut_sheets(p_yes, first_sheet=100)
    assert sorted(order) == list(range(52))
    _, sizes = np.unique(sheet[sheet >= 0], return_counts=True)
    assert sizes.max() <= 36
    assert sizes.min() >= 2
    assert (sheet[-2:] == -1).all()  # more likely wrong than right: asked alone
    for number in np.unique(sheet[sheet >= 0])[:-1]:
        assert np.prod(p_yes[order][sheet == number]) >= 0.5 - 1e-6
    assert cut_sheets(np.zeros(0), first_sheet=0)[0].shape == (0,)


def test_sheets_keep_their_numbers_while_they_are_answered() -> None:
    tree, pool, truth = known_pool(1500)
    numbers: dict[int, int] = {}
    forms = set()
    for step in play_through(Certified(), tree, pool, truth, budget=17):
        asked = step.questions
        forms |= set(asked.form.tolist())
        assert ((asked.sheet >= 0) == (asked.form == Form.SHEET)).all()
        for item, sheet in zip(asked.item.tolist(), asked.sheet.tolist(), strict=True):
            assert numbers.setdefault(item, sheet) == sheet
    assert forms == {Form.SINGLE, Form.SHEET}
    _, step = answer_all(Certified(sheets=False), tree, pool, truth, budget=100)
    assert step.done
