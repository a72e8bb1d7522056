"""The published rule in the project: what it counts as yes, its questions on sheets, its finish."""

from __future__ import annotations

import numpy as np
import pytest

from clustering.answers import Action, AnswerLog, Stream
from clustering.costs import QUESTION_S
from clustering.project_pool import ProjectPool
from clustering.search import Original
from clustering.simulation import play
from tests.clustering.search_pools import flat_pool, known_pool


def test_verdicts_on_people_who_err_count_as_yes_or_no() -> None:
    """A yes of somebody who errs at times is no 0.9 of a yes: the published rule counts answers."""
    tree, pool, _ = flat_pool(60)
    project = ProjectPool.single(pool, tree)
    asked = Original().step(project, AnswerLog.empty(), budget=15, seed=0).questions
    said = np.arange(15) < 13
    log = AnswerLog.empty().extended(asked, said, np.where(said, 0.905, 0.05))
    step = Original().step(project, log, budget=0, seed=0)
    assert (step.decisions.yes[0], step.decisions.action[0]) == (13, Action.ACCEPT)


def test_as_published_questions_stand_alone_and_the_search_ends() -> None:
    tree, pool, truth = known_pool(1500)
    project = ProjectPool.single(pool, tree)
    plain = play(Original(), project, truth.astype(float), seed=0)
    sheets = play(Original(sheets=True), project, truth.astype(float), seed=0)
    assert sorted(plain.log.item) == sorted(sheets.log.item)
    np.testing.assert_array_equal(plain.step.label, sheets.step.label)
    assert plain.curve.seconds[-1] == pytest.approx(len(plain.log) * QUESTION_S)
    assert sheets.curve.seconds[-1] < 0.6 * plain.curve.seconds[-1]


def test_finishing_leaves_the_search_as_it_is_and_finds_the_rest() -> None:
    tree, pool, truth = known_pool(1500)
    project = ProjectPool.single(pool, tree)
    plain = play(Original(sheets=True), project, truth.astype(float), seed=0)
    whole = play(Original(sheets=True, finish=True), project, truth.astype(float), seed=0)
    np.testing.assert_array_equal(whole.log.item[: len(plain.log)], plain.log.item)
    accepted = (plain.step.decision >= 0) & (plain.step.label > 0)
    np.testing.assert_array_equal((whole.step.decision >= 0) & (whole.step.label > 0), accepted)
    assert whole.curve.recall[-1] > 0.98 > plain.curve.recall[-1]
    assert whole.step.done
    assert (whole.log.stream[len(plain.log) :] == Stream.HARVEST).all()
    assert len(np.unique(whole.log.item[len(plain.log) :])) == len(whole.log) - len(plain.log)
