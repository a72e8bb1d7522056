"""Candidate sets and their test: the promise by simulation, gaps, stages, and power."""

from __future__ import annotations

import numpy as np
import pytest

from clustering.arrays import Floats
from clustering.costs import Costs
from clustering.evidence import Noise, noise_from_gold
from clustering.search._plan import MIN_SET, STAGES, Terms
from clustering.search._sets import NestedSets, nest_sets
from clustering.search._sets import test_sets as run_test
from tests.clustering.evidence.trials import most_failures

EXACT, NOISY = Noise(), Noise(sensitivity=0.95, specificity=0.9)


def _terms(noise: Noise | None = EXACT, purity: float = 0.85) -> Terms:
    return Terms(purity, 0.05, noise or NOISY, noise, Costs(), sheets=True)


def _nest(p: Floats, terms: Terms, *, alpha: float = 0.05, most: int = 200) -> NestedSets | None:
    return nest_sets(p, np.ones(len(p), bool), terms=terms, alpha=alpha, most=most)


def _sets(n: int, stages: tuple[int, ...], *sizes: int) -> NestedSets:
    """Sets of given sizes that share the error evenly."""
    size = np.array(sizes or (n,), np.int64)
    even = np.full(len(size), 1.0 / len(size))
    return NestedSets(np.arange(n), size, even, np.full(len(size), 0.96), stages, likely=n, hoped=n)


def _play(
    sets: NestedSets, truth: np.ndarray, terms: Terms, alpha: float, rng: np.random.Generator
) -> tuple[bool, bool]:
    """Whether a set was certified at some number of answers, and whether its unseen masks were too bad."""
    rank = rng.permutation(len(sets.order))[: sets.stages[-1]]
    noise = terms.noise or EXACT
    good = truth[sets.order[rank]]
    yes = (rng.random(len(rank)) < np.where(good, noise.sensitivity, 1 - noise.specificity)).astype(
        np.float32
    )
    certified = broken = False
    for answers in sets.stages:
        told = np.where(np.arange(len(yes)) < answers, yes, np.nan).astype(np.float32)
        test = run_test(sets, rank, told, terms=terms, alpha=alpha)
        if test.certified:
            unseen = np.setdiff1d(np.arange(test.certified), rank[: test.read])
            certified = True
            broken |= bool(len(unseen)) and truth[sets.order[unseen]].mean() < terms.purity - 1e-9
    return certified, broken


@pytest.mark.parametrize(("noise", "n"), [(EXACT, 80), (EXACT, 600), (NOISY, 600)])
def test_sets_just_below_the_promise_pass_rarely(noise: Noise, n: int) -> None:
    """The hardest case: every set holds just less than promised, and the predictions say more."""
    rng, alpha, runs = np.random.default_rng(n), 0.2, 600
    terms = _terms(noise)
    sets = _nest(np.linspace(0.999, 0.93, n), terms, alpha=alpha, most=n // 3)
    assert sets is not None
    assert len(sets.stages) >= 2
    truth = np.ones(n, bool)
    bad = int(0.15 * n) + 1
    truth[(np.arange(bad) * n) // bad] = False  # evenly along the order: all sets are alike
    played = np.array([_play(sets, truth, terms, alpha, rng) for _ in range(runs)])
    assert played[:, 1].sum() <= most_failures(alpha, runs)
    assert played[:, 0].sum() > 0.02 * runs  # the case is close to the promise, or nothing would pass


@pytest.mark.parametrize("sizes", [(60,), (30, 60), (20, 40, 80, 160), (25, 30, 36, 43, 52, 62, 75, 90)])
def test_no_number_of_good_masks_fools_the_test(sizes: tuple[int, ...]) -> None:
    """Sets whose rests are now good enough and now not, as the draw has it."""
    rng, alpha, runs = np.random.default_rng(len(sizes)), 0.2, 300
    n, terms = sizes[-1], _terms()
    first = n // 4
    sets = _sets(n, (first, 2 * first), *sizes)
    worst = 0
    for share in (0.8, 0.85, 0.9):
        # each ring of the sets has this share
        truth = np.ones(n, bool)
        for low, high in zip((0, *sizes[:-1]), sizes, strict=True):
            truth[rng.permutation(np.arange(low, high))[: round((1 - share) * (high - low))]] = False
        broken = sum(_play(sets, truth, terms, alpha, rng)[1] for _ in range(runs))
        worst = max(worst, broken)
    assert worst <= most_failures(alpha, runs)


def test_answers_behind_a_gap_do_not_count() -> None:
    sets = _sets(400, (40, 80))
    rank = np.random.default_rng(0).permutation(400)[:80]
    yes = np.ones(80, np.float32)
    whole = run_test(sets, rank, yes, terms=_terms(), alpha=0.05)
    assert whole.certified == 400
    for missing in (0, 20, 39):
        gap = yes.copy()
        gap[missing] = np.nan
        test = run_test(sets, rank, gap, terms=_terms(), alpha=0.05)
        assert (test.certified, test.wanted, test.over) == (0, 40, False)
    # a gap in a later stage leaves the earlier one as it was
    gap = yes.copy()
    gap[60] = np.nan
    assert run_test(sets, rank, gap, terms=_terms(), alpha=0.05).read == 40


def test_an_answer_that_is_neither_counts_as_no() -> None:
    sets = _sets(400, (40,))
    rank = np.random.default_rng(0).permutation(400)[:40]
    yes = np.ones(40, np.float32)
    yes[:10] = 0.0
    test = run_test(sets, rank, yes, terms=_terms(), alpha=0.05)
    assert test.over
    assert not test.certified


def test_a_stage_is_asked_only_while_it_may_bring_more() -> None:
    sets = _sets(2000, (60, 120))
    rank = np.random.default_rng(0).permutation(2000)[:120]
    none = np.full(120, np.nan, np.float32)
    start = run_test(sets, rank, none, terms=_terms(), alpha=0.05)
    assert (start.wanted, start.over) == (60, False)
    sure = none.copy()
    sure[:60] = 1.0  # certified whole: nothing is left to gain
    after = run_test(sets, rank, sure, terms=_terms(), alpha=0.05)
    assert (after.certified, after.over) == (2000, True)
    hopeless = none.copy()
    hopeless[:60] = np.arange(60) % 2  # half of them good
    after = run_test(sets, rank, hopeless, terms=_terms(), alpha=0.05)
    assert (after.certified, after.over) == (0, True)
    close = none.copy()
    close[:60] = np.arange(60) % 15 > 0  # 56 of 60: not proven, worth more answers
    after = run_test(sets, rank, close, terms=_terms(), alpha=0.05)
    assert (after.certified, after.over, after.wanted) == (0, False, 120)


def test_while_nobody_knows_how_people_err_nothing_is_certified() -> None:
    sets = _sets(400, (40, 80))
    rank = np.random.default_rng(0).permutation(400)[:80]
    test = run_test(sets, rank, np.ones(80, np.float32), terms=_terms(None), alpha=0.05)
    assert not test.certified


def test_little_gold_certifies_less_than_much() -> None:
    """People are right in 19 of 20 and 9 of 10 cases, and 88 of 100 answers are yes."""
    sets = _sets(2000, (400,))
    rank = np.random.default_rng(0).permutation(2000)[:400]
    yes = (np.arange(400) % 100 < 88).astype(np.float32)
    found = []
    for k in (60, 4000):
        _, cautious = noise_from_gold(round(0.95 * k), k, round(0.9 * k), k, alpha=0.01)
        found.append(run_test(sets, rank, yes, terms=_terms(cautious), alpha=0.05).certified)
    assert found == [0, 2000]


def test_the_test_has_power() -> None:
    rng, terms = np.random.default_rng(1), _terms(purity=0.8)
    certified = []
    for _ in range(30):
        predicted = np.sort(rng.beta(6, 1, 2000))[::-1].copy()
        truth = rng.random(2000) < predicted
        sets = _nest(predicted, terms, most=300)
        assert sets is not None
        rank = rng.permutation(len(sets.order))[: sets.stages[-1]]
        yes = truth[sets.order[rank]].astype(np.float32)
        certified.append(run_test(sets, rank, yes, terms=terms, alpha=0.05).certified)
    assert np.mean(np.array(certified) > 1000) > 0.9


def test_sets_are_nested_best_first_and_share_the_error() -> None:
    rng = np.random.default_rng(2)
    p = rng.beta(3, 1, 1500)
    eligible = rng.random(1500) < 0.8
    for noise in (EXACT, NOISY):
        sets = nest_sets(p, eligible, terms=_terms(noise), alpha=0.02, most=200)
        assert sets is not None
        assert (np.diff(sets.size) > 0).all()
        assert sets.size[0] >= MIN_SET
        assert sets.size[-1] == len(sets.order)
        assert eligible[sets.order].all()
        assert (np.diff(p[sets.order]) <= 0).all()
        assert sets.weight.sum() == pytest.approx(1.0)
        assert sets.weight[0] > 0  # the strictest set left is the first start
        assert list(sets.stages) == sorted(set(sets.stages))
        assert 1 <= len(sets.stages) <= len(STAGES)
        assert 0 < sets.likely <= len(sets.order)


def test_nothing_promising_makes_no_sets() -> None:
    assert _nest(np.full(500, 0.3), _terms()) is None
    assert nest_sets(np.ones(500), np.zeros(500, bool), terms=_terms(), alpha=0.05, most=100) is None
    assert _nest(np.ones(MIN_SET - 1), _terms()) is None
    # promising, but too small for the answers that a proof would take
    small = _nest(np.full(30, 0.9), _terms())
    assert small is None or not small.stages
