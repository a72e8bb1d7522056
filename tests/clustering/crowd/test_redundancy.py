"""Who is asked next, and when to stop."""

from __future__ import annotations

import numpy as np

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
