"""Positives left: the bound holds at every moment, however the picks are chosen, and it is of use."""

from __future__ import annotations

import numpy as np
import pytest

from clustering.remaining import Picks, Remaining, remaining_log_wealth, remaining_positives


def play(truth: np.ndarray, doubt: np.ndarray, share: float, steps: int, rng: np.random.Generator) -> Picks:
    """Picks by highest ``doubt``, updated by what was found, with a share of uniform ones."""
    n = len(truth)
    left = np.ones(n, bool)
    score = doubt.copy()
    positive, q, least = [], [], []
    for step in range(steps):
        best = int(np.argmax(np.where(left, score, -np.inf)))
        row = best
        if rng.random() < share:
            rows = np.flatnonzero(left)
            row = int(rows[rng.integers(len(rows))])
        uniform = share / (n - step)
        positive.append(truth[row])
        q.append(uniform + (1 - share if row == best else 0.0))
        least.append(uniform)
        left[row] = False
        if truth[row]:  # a model that learns: neighbours of what was found come first
            score[max(0, row - 3) : row + 4] += 0.5
    return Picks.in_turn(np.array(positive), np.ones(steps, bool), np.array(q), np.array(least))


def uniform(positive: np.ndarray, pool: int) -> Picks:
    t = len(positive)
    q = 1.0 / (pool - np.arange(t))
    return Picks.in_turn(positive, np.ones(t, bool), q, q)


def left_of(picks: Picks, pool: int, **options: float) -> Remaining:
    """What is left of a pool in which only the picks were labelled."""
    found = int((picks.positive & picks.answered).sum())
    return remaining_positives(picks, found=found, left=pool - int(picks.answered.sum()), **options)


@pytest.mark.parametrize(("prevalence", "share"), [(0.02, 0.5), (0.1, 0.1), (0.4, 1.0)])
def test_the_bound_fails_at_any_moment_in_no_more_than_5_percent_of_plays(
    prevalence: float, share: float
) -> None:
    rng = np.random.default_rng(int(1000 * prevalence + 10 * share))
    plays, failed = 500, 0
    for _ in range(plays):
        truth = rng.random(300) < prevalence
        doubt = 1.5 * truth * (rng.random(300) < 0.7) + rng.normal(0, 1, 300)  # blind for some positives
        picks = play(truth, doubt, share, 120, rng)
        failed += bool(remaining_log_wealth(picks, int(truth.sum())).max() >= -np.log(0.05))
    assert failed <= 0.05 * plays + 2 * np.sqrt(plays * 0.05 * 0.95)


def test_the_estimate_has_no_bias() -> None:
    rng = np.random.default_rng(0)
    errors = []
    for _ in range(300):
        truth = rng.random(200) < 0.2
        picks = play(truth, truth + rng.normal(0, 0.7, 200), 0.3, 100, rng)
        found = int(picks.positive.sum())
        # the mean of the clipped estimate is too high where nothing is left; here much is
        errors.append(left_of(picks, 200).estimate - (truth.sum() - found))
    assert abs(np.mean(errors)) < 3 * np.std(errors) / np.sqrt(len(errors)) + 1.0


def test_the_bound_falls_as_uniform_picks_find_nothing() -> None:
    uppers = [left_of(uniform(np.zeros(t, bool), 1000), 1000).upper for t in (20, 100, 300, 800)]
    assert uppers == sorted(uppers, reverse=True)
    assert uppers[1] < 60
    assert uppers[2] < 16  # three over the share that was seen, and a little for looking all the time


def test_nothing_follows_without_picks_by_chance() -> None:
    assert remaining_positives(Picks.joined([]), found=7, left=50) == Remaining(7, 50, None, 50, False)


def test_stopping_is_suggested_when_few_of_all_positives_can_be_left() -> None:
    q = 1.0 / (800 - np.arange(600))  # after 200 positives that people chose themselves
    rest = Picks.in_turn(np.zeros(600, bool), np.ones(600, bool), q, q, gone=200)
    found = remaining_positives(rest, found=200, left=200)
    assert found.upper <= 10
    assert found.may_stop
    assert not remaining_positives(rest, found=200, left=200, miss=0.001).may_stop


def test_picks_of_several_orders_count_together() -> None:
    whole = uniform(np.zeros(400, bool), 1000)
    first = uniform(np.zeros(200, bool), 1000)
    q = 1.0 / (800 - np.arange(200))
    second = Picks.in_turn(np.zeros(200, bool), np.ones(200, bool), q, q)
    assert left_of(Picks.joined([first, second]), 1000) == left_of(whole, 1000)


def test_everything_labelled_leaves_nothing() -> None:
    found = left_of(uniform(np.array([True, False, True]), 3), 3)
    assert found == Remaining(2, 0, 0.0, 0, True)
    assert left_of(uniform(np.zeros(0, bool), 0), 0).upper == 0


def test_skipped_pictures_may_all_be_positive() -> None:
    picks = uniform(np.zeros(300, bool), 1000)
    skipped = Picks.in_turn(picks.positive, np.arange(300) % 10 != 0, picks.probability, picks.least)
    few, many = left_of(picks, 1000), left_of(skipped, 1000)
    assert many.left == 730
    assert many.upper >= few.upper + 30


def test_positives_among_uniform_picks_raise_the_bound() -> None:
    some = np.zeros(200, bool)
    some[::20] = True
    found = left_of(uniform(some, 1000), 1000)
    assert found.estimate == pytest.approx(40, abs=8)
    assert 40 < found.upper < 140
    assert not found.may_stop


def test_impossible_probabilities_are_refused() -> None:
    one = np.ones(1, bool)
    for q, least in ((0.1, 0.2), (1.5, 0.1), (0.5, 0.0)):
        with pytest.raises(ValueError, match="probabilities"):
            Picks.in_turn(one, one, np.array([q]), np.array([least]))
