"""The baseline that scales the detector's score by a random sample, and what it shares with the others."""

from __future__ import annotations

import numpy as np
import pytest

from clustering.answers import AnswerLog, Form, Stream
from clustering.costs import LARGEST_SHEET
from clustering.pool import Pool
from clustering.project_pool import ProjectPool
from clustering.search import Platt
from clustering.search._scores import platt_scaled
from clustering.simulation import People, play


def scored_pool(n: int, *, slope: float = 1.5, seed: int = 0) -> tuple[ProjectPool, np.ndarray]:
    """A pool whose prior is off by a line in log-odds, and whether each mask is good."""
    rng = np.random.default_rng(seed)
    odds = rng.normal(0.0, 1.5, n)
    good = rng.random(n) < 1.0 / (1.0 + np.exp(-(slope * odds - 0.7)))
    score = (1.0 / (1.0 + np.exp(-odds))).astype(np.float32)
    pool = Pool(np.zeros((n, 2), np.float32), score, np.ones(n, np.float32), np.zeros((n, 0), np.float32))
    return ProjectPool.single(pool), good


def test_the_line_of_platt_is_found_from_answers() -> None:
    project, good = scored_pool(20_000)
    item = np.arange(0, 20_000, 10)
    p = platt_scaled(project.columns.prior, item, good[item].astype(float))
    for low, high in ((0.0, 0.2), (0.2, 0.5), (0.5, 0.8), (0.8, 1.0)):
        inside = (p >= low) & (p < high)
        assert good[inside].mean() == pytest.approx(p[inside].mean(), abs=0.03)


def test_without_answers_the_prior_is_believed() -> None:
    project, _ = scored_pool(100)
    p = platt_scaled(project.columns.prior, np.zeros(0, np.int64), np.zeros(0))
    np.testing.assert_allclose(p, np.clip(project.columns.prior, 0.01, 0.99), atol=1e-6)


def test_a_better_score_never_means_a_worse_mask() -> None:
    project, good = scored_pool(500, slope=-2.0)
    p = platt_scaled(project.columns.prior, np.arange(500), good.astype(float))
    order = np.argsort(project.columns.prior)
    assert (np.diff(p[order]) >= -1e-12).all()


def test_asks_a_random_sample_and_accepts_the_largest_set_that_is_pure_on_average() -> None:
    project, good = scored_pool(4000)
    policy = Platt(purity=0.8, sample=600)
    run = play(policy, project, np.where(good, 0.9, 0.4), seed=3)
    assert len(run.log) == 600
    assert (run.log.stream == Stream.CALIBRATION).all()
    assert len(np.unique(run.log.item)) == 600
    # a random sample: as good as the pool
    assert good[run.log.item].mean() == pytest.approx(good.mean(), abs=0.07)
    unseen = run.step.decision >= 0
    assert good[unseen].mean() == pytest.approx(0.8, abs=0.04)
    # one mask of a lower score more would already be too many
    prior = project.columns.prior
    asked = np.isin(np.arange(4000), run.log.item)
    assert prior[unseen].min() >= prior[~unseen & ~asked].max()
    larger = prior > np.quantile(prior[~unseen & ~asked], 0.9)
    assert run.step.p_yes is not None
    assert run.step.p_yes[larger].mean() < 0.8


def test_finishing_asks_about_the_rest_but_moves_no_accepted_set() -> None:
    project, good = scored_pool(1500)
    iou = np.where(good, 0.9, 0.4)
    cut = play(Platt(sample=200), project, iou, seed=0)
    whole = play(Platt(sample=200, finish=True), project, iou, seed=0)
    np.testing.assert_array_equal(cut.step.decision >= 0, whole.step.decision >= 0)
    assert whole.curve.recall[-1] > 0.98 > cut.curve.recall[-1]
    assert whole.curve.hours_to_finish[-1] < cut.curve.hours_to_finish[-1]
    # the tail is not worth it: drawing a rare good mask takes less time than asking about all others
    assert len(whole.log) < 1500


def test_estimates_are_corrected_for_people_who_err() -> None:
    project, good = scored_pool(4000)
    people = People(sensitivity=0.85, specificity=0.9)
    iou = np.where(good, 0.9, 0.4)
    told, untold = (
        play(Platt(purity=0.8, sample=1500, **noise), project, iou, seed=0, people=people).step.decision >= 0
        for noise in ({"sensitivity": 0.85, "specificity": 0.9}, {})
    )
    # a good mask gets a yes from 85 of 100 people: taken as true, that looks impure
    assert untold.sum() < 0.8 * told.sum()
    assert 0.78 < good[told].mean() < good[untold].mean()


def test_questions_stand_on_sheets_unless_told_otherwise() -> None:
    project, _ = scored_pool(1000)
    asked = Platt(sample=100).step(project, AnswerLog.empty(), budget=100, seed=0).questions
    assert np.bincount(asked.sheet[asked.sheet >= 0]).max() == LARGEST_SHEET
    alone = Platt(sample=100, sheets=False).step(project, AnswerLog.empty(), budget=100, seed=0).questions
    assert (alone.form == Form.SINGLE).all()
    assert sorted(alone.item) == sorted(asked.item)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"purity": 1.0}, ValueError),
        ({"sample": 0}, ValueError),
        ({"sheet_s": -1.0}, ValueError),
        ({"flavour": 3}, TypeError),
        ({"sheet": 3.0}, TypeError),
    ],
)
def test_bad_options_are_refused(options: dict[str, float], error: type[Exception]) -> None:
    with pytest.raises(error, match=next(iter(options)).removesuffix("_s")):
        Platt(**options)  # type: ignore[arg-type]
