"""The baseline that asks about every mask, best first, while that pays."""

from __future__ import annotations

import numpy as np

from clustering.answers import AnswerLog
from clustering.search import VerifyAll
from clustering.simulation import People, play
from tests.clustering.search.test_platt import scored_pool


def test_everything_good_is_found_and_nothing_else_is_delivered() -> None:
    project, good = scored_pool(1500)
    run = play(VerifyAll(), project, np.where(good, 0.9, 0.4), seed=0)
    assert run.curve.precision[-1] == 1.0
    assert run.curve.recall[-1] > 0.98
    assert (run.step.decision == -1).all()
    assert run.curve.unseen.max() == 0


def test_best_first() -> None:
    project, _ = scored_pool(1500)
    first = VerifyAll().step(project, AnswerLog.empty(), budget=60, seed=0).questions
    prior = project.columns.prior
    others = np.setdiff1d(np.arange(1500), first.item)
    assert prior[first.item].min() >= prior[others].max()
    assert (np.diff(prior[first.item]) <= 0).all()


def test_it_stops_when_the_last_answers_bring_too_little() -> None:
    project, good = scored_pool(3000)
    best = project.columns.prior > np.quantile(project.columns.prior, 0.8)
    run = play(VerifyAll(), project, np.where(good & best, 0.9, 0.4), seed=0)
    assert run.curve.recall[-1] == 1.0
    assert len(run.log) < 1500
    # where drawing takes no longer than asking, nothing is worth a question
    assert len(play(VerifyAll(drawn_mask_s=0.4), project, good.astype(float), seed=0).log) == 0


def test_people_who_err_are_believed() -> None:
    project, good = scored_pool(1500)
    run = play(
        VerifyAll(),
        project,
        np.where(good, 0.9, 0.4),
        seed=0,
        people=People(sensitivity=0.9, specificity=0.7),
    )
    assert run.curve.precision[-1] < 0.9
