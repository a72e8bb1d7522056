"""Plays: curves, people who err, budgets, and the counting of broken promises."""

from __future__ import annotations

import numpy as np
import pytest

from clustering.answers import AnswerLog, PolicyStep, Stream
from clustering.project_pool import ProjectPool
from clustering.search import make_policy
from clustering.search._parts import DecisionRows, QuestionRows
from clustering.simulation import People, default_batch, play, violations
from tests.clustering.search_pools import flat_pool, known_pool


class AskAll:
    """Asks about every mask ``times`` times; delivers those with a yes, and mask 0 unseen at first."""

    name = "ask-all"

    def __init__(self, times: int = 1) -> None:
        self.times = times

    def step(
        self, project: ProjectPool, log: AnswerLog, *, budget: int, seed: int, certificate: int = 1
    ) -> PolicyStep:
        n = len(project)
        questions = QuestionRows(budget)
        if len(log) < self.times * n:
            questions.add(np.arange(n), stream=Stream.SEARCH, inclusion=1.0)
        label, decision = np.zeros(n, np.int8), np.full(n, -1, np.int64)
        label[log.item] = np.where(log.yes > 0.5, 1, -1)
        if not len(log):
            label[0], decision[0] = 1, 0
        rows = DecisionRows(0.95)
        return PolicyStep(questions.build(), rows.build(), label, decision, not questions.room)


def project_of(n: int) -> tuple[ProjectPool, np.ndarray]:
    tree, pool, truth = known_pool(n)
    return ProjectPool.single(pool, tree), truth


def test_curve_of_a_play_matches_its_final_state() -> None:
    project, truth = project_of(1500)
    iou = np.where(truth, 0.9, 0.3)
    run = play(make_policy("original"), project, iou, seed=0, batch=60)
    curve, delivered = run.curve, run.step.label > 0
    unseen = delivered & (run.step.decision >= 0)
    assert (curve.questions[0], curve.masks[0], curve.seconds[0]) == (0, 0, 0.0)
    assert curve.questions[-1] == len(run.log)
    assert curve.seconds[-1] == pytest.approx(len(run.log) * 1.4)
    assert curve.masks[-1] == delivered.sum()
    assert curve.unseen[-1] == unseen.sum()
    assert curve.unseen_correct[-1] == (unseen & truth).sum()
    assert curve.verified[-1] == curve.verified_correct[-1] == (delivered & ~unseen & truth).sum()
    assert curve.precision[-1] == pytest.approx(truth[delivered].mean())
    assert curve.quality[-1] == pytest.approx(iou[delivered].mean())
    assert curve.recall[-1] == pytest.approx((truth & delivered).sum() / truth.sum())
    missing = (truth & ~delivered).sum()
    assert curve.hours_to_finish[-1] == pytest.approx((len(run.log) * 1.4 + missing * 80.0) / 3600)
    assert curve.hours_to_finish[0] == pytest.approx(truth.sum() * 80.0 / 3600)
    assert (np.diff(curve.questions) > 0).all()
    assert (np.diff(curve.seconds) > 0).all()
    assert np.isnan(curve.precision[0])
    assert run.masks_per_question == pytest.approx(delivered.sum() / len(run.log))


def test_a_curve_is_read_at_equal_questions_or_seconds() -> None:
    project, truth = project_of(1500)
    curve = play(make_policy("original"), project, truth.astype(float), seed=0, batch=60).curve
    assert curve.at("masks", questions=59) == 0
    assert curve.at("questions", questions=130) == 120
    assert curve.at("questions", seconds=120 * 1.4 + 0.1) == 120
    assert curve.at("masks", questions=10**9) == curve.masks[-1]
    assert curve.at("masks") == curve.masks[-1]


def test_a_promise_broken_at_any_step_counts() -> None:
    project, _ = project_of(400)
    # mask 0 is bad and stands alone at the first step; it is gone when people have answered
    iou = np.full(400, 0.9)
    iou[0] = 0.5
    run = play(AskAll(), project, iou, seed=0, batch=400)
    assert run.worst_unseen == 0.0
    assert run.curve.unseen[-1] == 0
    assert run.curve.precision[-1] == 1.0
    assert run.worst_precision == 0.0


def test_contact_sheets_save_hours() -> None:
    project, truth = project_of(1500)
    with_sheets, alone = (
        play(make_policy("certified", sheets=sheets), project, truth.astype(float), seed=0)
        for sheets in (True, False)
    )
    assert with_sheets.curve.seconds[-1] < 0.75 * alone.curve.seconds[-1]


def test_budget_is_kept() -> None:
    project, truth = project_of(1500)
    run = play(make_policy("certified"), project, truth.astype(float), seed=0, budget=100)
    assert len(run.log) == 100
    assert not run.step.done


def test_plays_repeat_for_a_seed_and_differ_between_seeds() -> None:
    project, truth = project_of(400)
    people = People(sensitivity=0.8, specificity=0.8)
    runs = [
        play(make_policy("original"), project, truth.astype(float), seed=s, people=people) for s in (1, 1, 2)
    ]
    np.testing.assert_array_equal(runs[0].log.item, runs[1].log.item)
    np.testing.assert_array_equal(runs[0].log.answer, runs[1].log.answer)
    assert runs[0].log.item.tolist() != runs[2].log.item.tolist()


def test_every_question_is_answered_by_another_person() -> None:
    tree, pool, _ = flat_pool(3000, good=0.5)
    iou = np.where(np.arange(3000) < 1500, 0.9, 0.2)
    run = play(
        AskAll(times=2),
        ProjectPool.single(pool, tree),
        iou,
        seed=0,
        people=People(sensitivity=0.9, specificity=0.7),
        batch=3000,
    )
    first, second = run.log.answer[:3000], run.log.answer[3000:]
    assert first[:1500].mean() == pytest.approx(0.9, abs=0.03)
    assert first[1500:].mean() == pytest.approx(0.3, abs=0.04)
    # independent errors: a mask wrongly passed once is passed again as often as any other
    assert second[1500:][first[1500:] == 1].mean() == pytest.approx(0.3, abs=0.07)


def test_the_verdict_is_what_all_answers_say_at_even_odds() -> None:
    tree, pool, _ = flat_pool(2000)
    run = play(
        AskAll(times=2),
        ProjectPool.single(pool, tree),
        np.full(2000, 0.9),
        seed=0,
        people=People(sensitivity=0.9, specificity=0.8),
        batch=2000,
    )
    first, second = run.log.answer[:2000], run.log.answer[2000:]
    odds = {0: 1 / 8, 1: 9 / 2}
    for a in (0, 1):
        for b in (0, 1):
            rows = np.flatnonzero((first == a) & (second == b))
            expected = odds[a] * odds[b] / (1 + odds[a] * odds[b])
            # rows of the first answer carry the verdict of both, too
            np.testing.assert_allclose(run.log.yes[rows], expected, rtol=1e-5)
            np.testing.assert_allclose(run.log.yes[2000 + rows], expected, rtol=1e-5)


def test_lenient_people_pass_near_misses_and_careless_ones_toss_up() -> None:
    tree, pool, _ = flat_pool(4000)
    project = ProjectPool.single(pool, tree)
    iou = np.where(np.arange(4000) < 2000, 0.7, 0.4)

    def said(people: People) -> tuple[float, float]:
        answer = play(AskAll(), project, iou, seed=0, people=people, batch=4000).log.answer
        return float(answer[:2000].mean()), float(answer[2000:].mean())

    near, far = said(People(sensitivity=0.95, specificity=0.95, near_miss_specificity=0.4))
    assert near == pytest.approx(0.6, abs=0.04)
    assert far == pytest.approx(0.05, abs=0.02)
    near, far = said(People(specificity=0.9, careless=0.2))
    assert near == pytest.approx(0.18, abs=0.03)
    assert far == pytest.approx(0.18, abs=0.03)
    with pytest.raises(ValueError, match="careless"):
        People(careless=1.5)
    with pytest.raises(ValueError, match="say nothing"):
        People(sensitivity=0.5, specificity=0.5)


def test_violations_come_with_an_interval() -> None:
    broken, plays, low, high = violations([0.9, 0.84, np.nan, 0.85], 0.85)
    assert (broken, plays) == (1, 4)
    assert low < 0.25 < high


def test_large_pools_are_asked_in_large_batches() -> None:
    assert default_batch(0) == default_batch(3000) == 60
    assert default_batch(1_000_000) == 20_000


def test_bad_truth_is_named() -> None:
    project, truth = project_of(400)
    with pytest.raises(ValueError, match="one true IoU per instance"):
        play(make_policy("original"), project, truth[:-1].astype(float), seed=0)
    with pytest.raises(ValueError, match="true IoU is not within"):
        play(make_policy("original"), project, np.full(400, 1.5), seed=0)
    with pytest.raises(ValueError, match="batch"):
        play(make_policy("original"), project, truth.astype(float), seed=0, batch=0)


@pytest.mark.parametrize("n", [0, 1, 2])
@pytest.mark.parametrize("name", ["certified", "original"])
def test_empty_and_tiny_pools(name: str, n: int) -> None:
    tree, pool, _ = flat_pool(n)
    run = play(make_policy(name), ProjectPool.single(pool, tree), np.ones(n), seed=0)
    assert run.step.done
    assert len(run.curve) >= 1


def test_labels_are_played_as_one_project() -> None:
    pools = [flat_pool(60), flat_pool(90, prior=0.7)]
    project = ProjectPool([pool for _, pool, _ in pools], [tree for tree, _, _ in pools])
    run = play(make_policy("original"), project, np.full(150, 0.9), seed=0)
    assert run.curve.correct_in_pool == 150
    assert run.log.item.max() >= 60
