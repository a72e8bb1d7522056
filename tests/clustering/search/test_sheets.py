"""Contact sheets: what stands together, and that numbers last while a sheet is answered."""

from __future__ import annotations

import numpy as np
import pytest

from clustering.answers import Form
from clustering.costs import LARGEST_SHEET, Costs
from clustering.search import Certified
from clustering.search._sheets import cut_sheets
from tests.clustering.search_pools import answer_all, known_pool, play_through


@pytest.mark.parametrize("q", [0, 1, 2, 24, 25, 52, 60])
def test_sheets_hold_like_masks_best_first_and_a_small_rest_stands_alone(q: int) -> None:
    p_yes = np.random.default_rng(q).random(q)
    order, sheet = cut_sheets(p_yes, Costs(), first_sheet=100)
    assert sorted(order) == list(range(q))
    assert (np.diff(p_yes[order]) <= 0).all()
    numbers, sizes = np.unique(sheet[sheet >= 0], return_counts=True)
    assert numbers.tolist() == list(range(100, 100 + len(numbers)))
    assert (sizes <= LARGEST_SHEET).all()
    assert (sizes >= Costs().smallest_sheet).all()
    assert (sheet < 0).sum() < Costs().smallest_sheet


def test_the_form_is_the_quicker_one() -> None:
    p_yes = np.full(40, 0.9)
    for costs in (Costs(), Costs(sheet=9.0), Costs(question=0.3), Costs(sheet=0.0)):
        _, sheet = cut_sheets(p_yes, costs, first_sheet=0)
        for number in np.unique(sheet[sheet >= 0]).tolist():
            k = int((sheet == number).sum())
            assert costs.sheet + k * costs.sheet_mask < k * costs.question
        if costs.question <= costs.sheet_mask:
            assert (sheet < 0).all()


def test_sheets_keep_their_numbers_while_they_are_answered() -> None:
    tree, pool, truth = known_pool(1500)
    # a harvested mask may move to another sheet when the verifier is fitted again: only until the harvest
    numbers: dict[tuple[int, int], int] = {}
    forms = set()
    for step in play_through(Certified(harvest=False), tree, pool, truth, budget=17):
        asked = step.questions
        forms |= set(asked.form.tolist())
        assert ((asked.sheet >= 0) == (asked.form == Form.SHEET)).all()
        for item, phase, sheet in zip(
            asked.item.tolist(), asked.phase.tolist(), asked.sheet.tolist(), strict=True
        ):
            assert numbers.setdefault((item, phase), sheet) == sheet
    assert Form.SHEET in forms
    log, step = answer_all(Certified(sheets=False), tree, pool, truth, budget=100)
    assert step.done
    assert len(log)


def test_without_sheets_every_question_stands_alone() -> None:
    tree, pool, truth = known_pool(400)
    for step in play_through(Certified(sheets=False), tree, pool, truth, budget=60):
        assert (step.questions.form == Form.SINGLE).all()
        assert (step.questions.sheet == -1).all()
