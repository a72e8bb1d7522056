"""The yes of people who err: false promises under adversarial asking, runs of answers, what is left open."""

from __future__ import annotations

import numpy as np
import pytest

from clustering.evidence import Noise
from clustering.search._singles import answer_runs
from clustering.search._singles import test_singles as run_test
from tests.clustering.evidence.trials import most_failures

PURITY = 0.85


def test_runs_count_the_yes_before_the_first_no() -> None:
    item = np.array([3, 1, 3, 1, 3, 0, 4, 4])
    answer = np.array([1, 1, 1, 0, 0, np.nan, 0, 1], np.float32)
    count, run = answer_runs(item, answer, 6)
    assert count.tolist() == [1, 2, 0, 3, 2, 0]
    assert run.tolist() == [0, 1, 0, 2, 0, 0]
    count, run = answer_runs(np.zeros(0, np.int64), np.zeros(0, np.float32), 2)
    assert count.tolist() == run.tolist() == [0, 0]


def _hostile_play(
    share: float, n: int, noise: Noise, alpha: float, strategy: str, rng: np.random.Generator
) -> bool:
    """Whether, at any moment, too few of the accepted masks were good."""
    good = np.zeros(n, bool)
    good[rng.permutation(n)[: round(share * n)]] = True
    # only those who err ask on: the adversary knows the truth and the answers so far
    order, ends = np.arange(n), np.unique(np.linspace(n / 6, n, 6).astype(np.int64))
    count, run = np.zeros(n, np.int64), np.zeros(n, np.int64)
    for _ in range(3 * n // 4):
        fresh = count == 0
        again = (run == count) & (count > 0) & (count < 3)
        if strategy == "bad first":
            key = np.where(fresh & ~good, 3.0, np.where(again & ~good, 2.0, np.where(fresh, 1.0, -1.0)))
        elif strategy == "again first":  # second and third answers where a bad mask got a yes
            key = np.where(again & ~good, 3.0, np.where(fresh & ~good, 2.0, np.where(fresh, 1.0, -1.0)))
        else:  # as many bad ones among the yes as the promise just forbids: then stop asking about bad ones
            yes = run >= 1
            enough = (yes & ~good).sum() > (1 - PURITY) * max(yes.sum(), 1)
            key = np.where(fresh & (good == enough), 2.0, np.where(fresh, 1.0, -1.0))
        item = int(np.argmax(key + 1e-6 * rng.random(n)))
        if key[item] < 0:
            break
        said = rng.random() < (noise.sensitivity if good[item] else 1.0 - noise.specificity)
        run[item] += int(said and run[item] == count[item])
        count[item] += 1
        found = run_test(order, ends, count, run, purity=PURITY, noise=noise, alpha=alpha)
        if found.accepted.any() and good[found.accepted].mean() < PURITY - 1e-9:
            return True
    return False


@pytest.mark.parametrize("strategy", ["bad first", "again first", "stop in time"])
@pytest.mark.parametrize("share", [0.5, 0.8])
def test_whatever_is_asked_next_few_promises_are_broken(strategy: str, share: float) -> None:
    noise, alpha, runs = Noise(sensitivity=0.9, specificity=0.8), 0.2, 25
    rng = np.random.default_rng(round(10 * share))
    broken = sum(_hostile_play(share, 60, noise, alpha, strategy, rng) for _ in range(runs))
    assert broken <= most_failures(alpha, runs)


def test_a_single_yes_is_enough_where_nearly_all_are_good() -> None:
    n = 200
    order, ends = np.arange(n), np.array([50, 100, 200])
    count = np.ones(n, np.int64)
    run = (np.arange(n) % 20 > 0).astype(np.int64)  # one no in twenty
    found = run_test(order, ends, count, run, purity=PURITY, noise=Noise(specificity=0.9), alpha=0.02)
    np.testing.assert_array_equal(found.accepted, run == 1)
    assert len(found.open) == 0
    assert (found.asked, found.yes) == (200, 190)


def test_where_half_of_the_answers_are_no_a_second_yes_is_wanted_and_enough() -> None:
    n = 400
    order, ends = np.arange(n), np.array([100, 200, 400])
    noise = Noise(sensitivity=0.9, specificity=0.8)
    count = np.ones(n, np.int64)
    run = (np.arange(n) % 2).astype(np.int64)
    first = run_test(order, ends, count, run, purity=PURITY, noise=noise, alpha=0.02)
    assert not first.accepted.any()
    np.testing.assert_array_equal(first.open, np.flatnonzero(run))  # best first, those with a yes only
    # of those asked again nearly all get another yes
    count[first.open] += 1
    run[first.open[np.arange(len(first.open)) % 10 > 0]] += 1
    second = run_test(order, ends, count, run, purity=PURITY, noise=noise, alpha=0.02)
    np.testing.assert_array_equal(second.accepted, run >= 2)


def test_the_yes_of_people_who_guess_is_worth_nothing() -> None:
    n = 300
    rng = np.random.default_rng(0)
    noise = Noise(sensitivity=0.7, specificity=0.5)
    order, ends = np.arange(n), np.array([100, 300])
    run = (rng.random(n) < 0.5).astype(np.int64)
    found = run_test(order, ends, np.ones(n, np.int64), run, purity=PURITY, noise=noise, alpha=0.05)
    assert not found.accepted.any()


def test_answers_that_never_pass_a_bad_mask_need_no_proof() -> None:
    run = np.array([1, 0, 1, 1])
    found = run_test(
        np.arange(4), np.array([4]), np.ones(4, np.int64), run, purity=PURITY, noise=Noise(), alpha=0.01
    )
    np.testing.assert_array_equal(found.accepted, run == 1)


@pytest.mark.parametrize("level", [1, 2])
def test_lists_share_the_error(level: int) -> None:
    """A list that just passes with all of a level's error to itself fails where others may pass as well."""
    noise, purity = Noise(sensitivity=1.0, specificity=0.9), 0.85
    no, yes = (20, 80) if level == 1 else (60, 80)  # at level 2 the first answers cannot pass
    n = no + yes
    count = np.concatenate([np.ones(no, np.int64), np.full(yes, level)])
    run = np.concatenate([np.zeros(no, np.int64), np.full(yes, level)])
    if level == 2:
        run[-5:] = 1  # five second answers are no

    def accepted(alpha: float, ends: list[int]) -> int:
        found = run_test(np.arange(n), np.array(ends), count, run, purity=purity, noise=noise, alpha=alpha)
        return int(found.accepted.sum())

    least = min(a for a in 10.0 ** np.linspace(-12, -1, 441) if accepted(a, [n]))
    # the masks without a yes come first, so only the list of all masks can pass
    ends = [no // 4, no // 2, no, n]
    share = len(ends) if level == 1 else len(ends) * (len(ends) + 1) / 2
    assert accepted(0.9 * share * least, ends) == 0
    assert accepted(1.1 * share * least, ends) == int((run >= level).sum())
