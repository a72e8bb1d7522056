"""Who is asked next, and when to stop."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.special import expit

from clustering.crowd import fit_crowd, next_workers, verdicts
from tests.clustering.crowd.played_workers import answers_of


def test_adaptive_redundancy_stops_at_the_cap() -> None:
    split = [(0, w, float(w % 2)) for w in range(4)]
    open_item = answers_of(split)
    model = fit_crowd(open_item, prior=[0.5])
    assert next_workers(open_item, model)[0].tolist() == [0]
    capped = answers_of([*split, (0, 4, np.nan)])
    ask, expert = next_workers(capped, fit_crowd(capped, prior=[0.5]), cap=5)
    assert ask.tolist() == []
    assert expert.tolist() == [0]


def test_adaptive_redundancy_is_cheap_and_right() -> None:
    """Played until everything is settled: fewer than two answers each, no more errors than delta says."""
    rng = np.random.default_rng(4)
    items, accuracy = 600, 0.92
    prior = rng.beta(6, 2, items).clip(0.05, 0.95)
    good = rng.random(items) < prior
    rows: list[tuple[int, int, float]] = []
    asking = np.flatnonzero(np.ones(items, bool))
    for worker in range(5):
        right = rng.random(len(asking)) < accuracy
        rows += [(int(i), worker, float(good[i] == r)) for i, r in zip(asking, right, strict=True)]
        answers = answers_of(rows)
        model = fit_crowd(answers, prior=prior)
        asking, _ = next_workers(answers, model, delta=0.05)
    item, p_yes = verdicts(answers, prior=prior)
    assert len(rows) < 2.0 * items
    assert ((p_yes > 0.5) != good[item]).mean() < 0.05


def test_an_item_is_open_until_a_wrong_verdict_is_as_rare_as_promised() -> None:
    answers = answers_of([(item, 0, 1.0) for item in range(6)])
    model = fit_crowd(answers, prior=[0.5] * 6)
    for delta in (0.01, 0.05, 0.2):
        edge = np.log((1 - delta) / delta)
        log_odds = np.array([0.0, -edge + 0.01, edge - 0.01, edge + 0.01, -edge - 0.01, 9.0])
        ask, _ = next_workers(answers, replace(model, p_yes=expit(log_odds)), delta=delta)
        assert sorted(ask.tolist()) == [0, 1, 2]
