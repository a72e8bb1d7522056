"""PAC labels: the bound on the error of the whole set, its draws, and what people are asked about."""

from __future__ import annotations

import numpy as np
import pytest

from clustering.answers import AnswerLog, Stream
from clustering.search import PacLabels
from clustering.simulation import Run, play
from tests.clustering.search.test_platt import scored_pool


def error_of_the_whole(run: Run, good: np.ndarray) -> float:
    """Share of all masks that the policy labels wrongly, if people label what it leaves to them."""
    unseen = run.step.decision >= 0
    return float((unseen & ~good).sum() / len(good))


def test_the_error_of_the_whole_set_is_bounded() -> None:
    errors, sizes = [], []
    for seed in range(60):
        project, good = scored_pool(2000, seed=seed % 6)
        run = play(PacLabels(purity=0.9, delta=0.1), project, np.where(good, 0.9, 0.4), seed=seed)
        errors.append(error_of_the_whole(run, good))
        sizes.append(int((run.step.decision >= 0).sum()))
    assert np.mean(np.array(errors) > 0.1) <= 0.1
    assert max(errors) > 0.03  # the bound is not idle
    assert min(sizes) > 200


def test_a_pool_that_misleads_its_scores_keeps_the_bound() -> None:
    """The surest masks are the bad ones."""
    broken = 0
    for seed in range(40):
        project, good = scored_pool(2000, slope=-2.0, seed=seed % 4)
        run = play(PacLabels(purity=0.9, delta=0.1), project, np.where(good, 0.9, 0.4), seed=seed)
        broken += error_of_the_whole(run, good) > 0.1
    assert broken <= 4


def test_unsure_masks_are_asked_about_more_often() -> None:
    project, good = scored_pool(5000)
    run = play(PacLabels(sample=1500, least=0.2), project, np.where(good, 0.9, 0.4), seed=0)
    sample = run.log.take(run.log.stream == Stream.CALIBRATION)
    prior = project.columns.prior
    sure = prior > np.quantile(prior, 0.8)
    unsure = prior < np.quantile(prior, 0.2)
    assert sure[sample.item].sum() < 0.7 * unsure[sample.item].sum()
    chance = sample.inclusion
    assert chance[sure[sample.item]].mean() < chance[unsure[sample.item]].mean()
    assert chance.min() >= 0.2


def test_everything_at_or_above_the_threshold_goes_to_people() -> None:
    project, good = scored_pool(1500)
    run = play(PacLabels(), project, np.where(good, 0.9, 0.4), seed=0)
    prior = project.columns.prior
    unseen = run.step.decision >= 0
    asked = np.isin(np.arange(1500), run.log.item)
    assert prior[unseen].min() > prior[~unseen & ~asked].max(initial=0.0)
    assert run.curve.recall[-1] > 0.97
    assert (run.step.label[asked] == np.where(good[asked], 1, -1)).all()


def test_without_good_masks_nothing_is_accepted() -> None:
    project, _ = scored_pool(1500)
    run = play(PacLabels(), project, np.zeros(1500), seed=0)
    # a small set may be all bad and still be a small share of the whole
    assert (run.step.decision >= 0).sum() <= 0.15 * 1500


def test_the_first_step_asks_the_same_sample_again() -> None:
    project, good = scored_pool(800)
    policy = PacLabels()
    first = policy.step(project, AnswerLog.empty(), budget=1000, seed=1).questions
    half = AnswerLog.empty().extended(first.take(slice(0, 40)), good[first.item[:40]])
    rest = policy.step(project, half, budget=1000, seed=1).questions
    assert sorted(rest.item) == sorted(first.item[40:])


@pytest.mark.parametrize(
    "options", [{"purity": 0.0}, {"delta": 1.0}, {"least": 0.0}, {"sample": 0}], ids=lambda o: next(iter(o))
)
def test_bad_options_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        PacLabels(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("delta", [0.05, 0.2])
def test_no_sample_that_chance_gives_more_often_than_promised_is_accepted(delta: float) -> None:
    """Where one mask in ten is bad, n draws show no bad one with probability 0.9^n: below delta, or no."""
    policy = PacLabels(purity=0.9, delta=delta, least=1.0)
    uncertain = np.linspace(0.01, 0.5, 400)
    accepted = [n for n in range(1, 120) if policy._threshold(uncertain, np.full(n, 0.005), np.zeros(n)) > 0]
    assert accepted
    assert 0.9 ** min(accepted) <= delta
    assert 0.9 ** min(accepted) > delta / 10, "the bound asks for no more than it needs"
