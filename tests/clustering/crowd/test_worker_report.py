"""Reports of workers: careless ones are found, careful ones are not suspended."""

from __future__ import annotations

import numpy as np
import pytest

from clustering.crowd import Answers, worker_report
from tests.clustering.crowd.played_workers import answers_of, played


def test_careless_worker_is_found_and_careful_ones_are_not() -> None:
    suspicions = np.zeros(4)
    for seed in range(20):
        skills = ((0.95, 0.92), (0.93, 0.95), (0.95, 0.9), (0.6, 0.55))
        answers, good = played(items=150, skills=skills, seed=seed)
        gold = np.where(np.arange(150) % 4 == 0, good.astype(float), np.nan)
        report = worker_report(answers, gold=gold)
        suspicions += report.suspended
        assert (report.sensitivity_interval[:, 0] < report.sensitivity_interval[:, 1]).all()
        assert report.gold_good[0] + report.gold_bad[0] == 38
    assert suspicions[3] >= 18
    assert suspicions[:3].sum() <= 3


def test_nobody_is_suspended_for_a_slip() -> None:
    """Reports are read after every answer. A worker who is right 19 times in 20 is hardly ever suspended."""
    careful = guessing = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        good = rng.random(30) < 0.5
        for accuracy in (0.95, 0.5):
            yes = (good == (rng.random(30) < accuracy)).astype(float)
            answers = answers_of([(i, 0, float(value)) for i, value in enumerate(yes)])
            ever = [
                bool(worker_report(answers.take(np.arange(n)), gold=good.astype(float)).fails_gold[0])
                for n in ((1, 2, 3, 5, 8, 12, 20, 30) if accuracy > 0.5 else (30,))
            ]
            careful += accuracy > 0.5 and any(ever)
            guessing += accuracy == 0.5 and any(ever)
    assert careful <= 3
    assert guessing >= 57


def test_who_says_yes_to_everything_is_caught() -> None:
    answers, good = played(items=120, seed=5)
    lazy = Answers(np.arange(120), np.full(120, 9), np.ones(120), np.full(120, 1.2))
    both = Answers(*(np.concatenate([getattr(answers, c), getattr(lazy, c)]) for c in Answers.__slots__))
    gold = np.where(np.arange(120) % 5 == 0, good.astype(float), np.nan)
    report = worker_report(both, gold=gold)
    row = int(np.flatnonzero(report.worker == 9)[0])
    assert report.fails_gold[row]
    assert report.straight_lining[row]
    assert report.longest_run[row] == 120
    assert report.gold_yes[row] == report.gold_good[row] > 0
    assert report.gold_bad[row] > report.gold_no[row] == 0
    assert not report.straight_lining[report.worker != 9].any()


def test_yes_to_masks_that_are_good_is_no_straight_line() -> None:
    answers, _ = played(items=200, good_share=1.0, skills=((1.0, 0.9), (1.0, 0.9), (0.99, 0.9)), seed=6)
    assert not worker_report(answers).straight_lining.any()


def test_speed_and_repeats_are_reported() -> None:
    rows = [(i, 0, 1.0) for i in range(40)]
    hurried = answers_of(rows, seconds=0.2)
    report = worker_report(hurried, floor_s=0.6)
    assert report.too_fast[0]
    assert report.hurried[0] == 1.0
    assert report.seconds[0] == pytest.approx(0.2)
    # the same twenty items twice, half of them answered differently
    repeats = answers_of([(i, 0, 1.0) for i in range(20)] + [(i, 0, float(i % 2)) for i in range(20)])
    report = worker_report(repeats)
    assert report.repeats[0] == 20
    assert report.consistency[0] == pytest.approx(0.5)
    assert report.inconsistent[0]
    unknown = worker_report(Answers(np.array([0]), np.array([0]), np.array([np.nan]), np.array([np.nan])))
    assert np.isnan(unknown.seconds[0])
    assert unknown.unsure[0] == 1
    assert not unknown.suspended[0]
