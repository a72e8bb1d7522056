"""Plays: costs, curves, noise, budgets, and the counting of broken promises."""

from __future__ import annotations

import numpy as np
import pytest

from clustering.answers import Questions
from clustering.evidence import Noise
from clustering.search import make_policy
from clustering.simulation import Costs, merge_curves, play, violations
from tests.clustering.search_pools import flat_pool, known_pool


def test_costs_count_sheets_once() -> None:
    sheet = np.array([-1, -1, 3, 3, 3, 8])
    whole = np.zeros(6, np.int64)
    questions = Questions(whole, whole, np.zeros(6, np.int8), np.ones(6), (sheet >= 0).astype(np.int8), sheet)
    assert Costs().seconds(questions) == pytest.approx(2 * 1.4 + 2 * 1.0 + 4 * 0.25)
    assert Costs(question=1, sheet=10, sheet_mask=0).seconds(questions) == pytest.approx(22)
    with pytest.raises(ValueError, match="drawn_mask"):
        Costs(drawn_mask=-1.0)


def test_curve_of_a_play_matches_its_final_state() -> None:
    tree, pool, truth = known_pool(1500)
    iou = np.where(truth, 0.9, 0.3)
    run = play(make_policy("original"), tree, pool, iou, seed=0, batch=60)
    curve, accepted = run.curve, run.step.label > 0
    assert (curve.questions[0], curve.masks[0], curve.hours[0]) == (0, 0, 0.0)
    assert curve.questions[-1] == len(run.log)
    assert curve.hours[-1] == pytest.approx(len(run.log) * 1.4 / 3600)
    assert curve.masks[-1] == accepted.sum()
    assert curve.precision[-1] == pytest.approx(truth[accepted].mean())
    assert curve.quality[-1] == pytest.approx(iou[accepted].mean())
    assert curve.recall[-1] == pytest.approx((truth & accepted).sum() / truth.sum())
    assert curve.propagated[-1] == (accepted & (run.step.decision >= 0)).sum()
    assert (np.diff(curve.questions) > 0).all()
    assert (np.diff(curve.hours) > 0).all()
    assert np.isnan(curve.precision[0])
    assert run.masks_per_question == pytest.approx(accepted.sum() / len(run.log))
    assert run.worst_propagated <= curve.propagated_precision[-1]
    assert run.worst_precision <= curve.precision[-1]


def test_contact_sheets_save_hours() -> None:
    tree, pool, truth = known_pool(1500)
    with_sheets, alone = (
        play(make_policy("certified", sheets=sheets), tree, pool, truth.astype(float), seed=0)
        for sheets in (True, False)
    )
    assert with_sheets.curve.questions[-1] == pytest.approx(alone.curve.questions[-1], rel=0.3)
    assert with_sheets.curve.hours[-1] < 0.75 * alone.curve.hours[-1]


def test_budget_is_kept() -> None:
    tree, pool, truth = known_pool(1500)
    run = play(make_policy("certified"), tree, pool, truth.astype(float), seed=0, budget=100)
    assert len(run.log) == 100
    assert not run.step.done


def test_plays_repeat_for_a_seed_and_differ_between_seeds() -> None:
    tree, pool, truth = known_pool(400)
    noise = Noise(sensitivity=0.8, specificity=0.8)
    runs = [
        play(make_policy("original"), tree, pool, truth.astype(float), seed=s, noise=noise) for s in (1, 1, 2)
    ]
    np.testing.assert_array_equal(runs[0].log.item, runs[1].log.item)
    np.testing.assert_array_equal(runs[0].log.yes, runs[1].log.yes)
    assert runs[0].log.item.tolist() != runs[2].log.item.tolist()


def test_played_workers_err_as_told() -> None:
    tree, pool, _ = flat_pool(3000, good=0.5)
    iou = np.where(np.arange(3000) < 1500, 0.9, 0.2)
    noise = Noise(sensitivity=0.9, specificity=0.7)
    run = play(
        make_policy("universal-cut", clusters=1, sample=3000),
        tree,
        pool,
        iou,
        seed=0,
        noise=noise,
        batch=3000,
    )
    said = run.log.yes[np.argsort(run.log.item)]
    assert said[:1500].mean() == pytest.approx(0.9, abs=0.03)
    assert said[1500:].mean() == pytest.approx(0.3, abs=0.04)


def test_merged_curves_add_up() -> None:
    tree, pool, truth = known_pool(400)
    runs = [
        play(make_policy("original"), tree, pool, truth.astype(float), seed=s, batch=b)
        for s, b in ((0, 15), (1, 60))
    ]
    merged = merge_curves([run.curve for run in runs])
    assert len(merged) == max(len(run.curve) for run in runs)
    assert merged.masks[-1] == sum(run.curve.masks[-1] for run in runs)
    assert merged.correct_in_pool == 2 * truth.sum()
    with pytest.raises(ValueError, match="no curve"):
        merge_curves([])


def test_violations_come_with_an_interval() -> None:
    broken, plays, low, high = violations([0.9, 0.84, np.nan, 0.85], 0.85)
    assert (broken, plays) == (1, 4)
    assert low < 0.25 < high


def test_bad_truth_is_named() -> None:
    tree, pool, truth = known_pool(400)
    with pytest.raises(ValueError, match="one true IoU per instance"):
        play(make_policy("original"), tree, pool, truth[:-1].astype(float), seed=0)
    with pytest.raises(ValueError, match="true IoU is not within"):
        play(make_policy("original"), tree, pool, np.full(400, 1.5), seed=0)
    with pytest.raises(ValueError, match="batch"):
        play(make_policy("original"), tree, pool, truth.astype(float), seed=0, batch=0)


@pytest.mark.parametrize("n", [0, 1, 2])
@pytest.mark.parametrize("name", ["certified", "original"])
def test_empty_and_tiny_pools(name: str, n: int) -> None:
    tree, pool, _ = flat_pool(n)
    run = play(make_policy(name), tree, pool, np.ones(n), seed=0)
    assert run.step.done
    assert len(run.curve) >= 1
