"""The certified policy: what it learns from, what it asks, what it decides. Its promise: test_promise."""

from __future__ import annotations

from dataclasses import fields, replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pytest

from bench.pools import make_pool
from clustering.answers import AUDIT, Action, AnswerLog, PolicyStep, Stream
from clustering.costs import Costs
from clustering.evidence import Noise
from clustering.pool import Pool
from clustering.project_pool import Lessons, ProjectPool
from clustering.search import Certified, make_policy
from clustering.search._plan import HARVEST_PHASE, calibration_phase, error_of_certificate
from clustering.search.certified import LABEL_ESTIMATE
from tests.clustering.search_pools import (
    answer_all,
    flat_pool,
    known_pool,
    old_answers,
    play_through,
    strong_pool,
)

CERTIFICATE = "certificate over all labels"
Truth = npt.NDArray[np.bool_]


@lru_cache(maxsize=1)
def _finished() -> tuple[AnswerLog, PolicyStep]:
    tree, pool, truth = strong_pool(1000)
    return answer_all(Certified(), tree, pool, truth, budget=60)


def _answered(
    policy: Certified, project: ProjectPool, truth: Truth, *, seed: int = 0, budget: int = 100
) -> tuple[AnswerLog, PolicyStep]:
    log = AnswerLog.empty()
    while True:
        step = policy.step(project, log, budget=budget, seed=seed)
        if not len(step.questions):
            return log, step
        log = log.extended(step.questions, truth[step.questions.item])


def _rows(pool: Pool, rows: npt.NDArray[np.int64]) -> Pool:
    return Pool(pool.embedding[rows], pool.score[rows], pool.quality[rows], pool.extras[rows])


def _noisy(truth: Truth, noise: Noise, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    chance = np.where(truth, noise.sensitivity, 1.0 - noise.specificity)
    return (rng.random(len(truth)) < chance).astype(np.float32)


# ---- the whole of a play --------------------------------------------------------------------------------


def test_a_hopeless_pool_is_left_alone() -> None:
    tree, pool, _ = known_pool(1500)
    log, step = answer_all(Certified(), tree, pool, np.zeros(1500, bool), budget=50)
    assert step.done
    assert not (step.label > 0).any()
    assert len(log) < 0.3 * 1500


def test_a_perfect_pool_is_accepted_whole() -> None:
    tree, pool, _ = known_pool(1500)
    log, step = answer_all(Certified(), tree, pool, np.ones(1500, bool), budget=50)
    assert (step.label > 0).mean() > 0.95
    assert len(log) < 0.3 * 1500


def test_a_finished_play_delivers_nearly_all_good_masks() -> None:
    _, _, truth = strong_pool(1000)
    _, step = _finished()
    assert step.done
    delivered = step.label > 0
    assert truth[delivered & (step.decision >= 0)].mean() >= 0.85
    assert truth[delivered & (step.decision < 0)].all()
    assert (truth & delivered).sum() > 0.95 * truth.sum()


def test_a_tiny_pool_is_verified_best_first_as_far_as_that_pays() -> None:
    tree, pool, truth = known_pool(80)
    log, step = answer_all(Certified(), tree, pool, np.zeros(80, bool), budget=20)
    assert step.done
    assert len(log) < 80  # not worth asking on
    log, step = answer_all(Certified(), tree, pool, truth, budget=20)
    assert step.done
    assert (step.decision[step.label > 0] == -1).all()  # no mask is accepted unseen
    np.testing.assert_array_equal(truth[step.label > 0], True)
    assert (step.label > 0).sum() > 0.9 * truth.sum()


# ---- streams and phases ---------------------------------------------------------------------------------


def test_the_draw_of_the_certificate_is_fresh() -> None:
    log, _ = _finished()
    assert len(np.unique(log.item)) == len(log)
    test = log.stream == Stream.CALIBRATION
    assert test.any()
    assert set((log.phase[test] % 10).tolist()) == {9}
    assert (log.phase[log.stream == Stream.SEARCH] < calibration_phase(0)).all()
    harvested = log.stream == Stream.HARVEST
    assert (log.phase[harvested] % 10 == 0).all()
    assert (log.cluster == -1).all()


def test_calibration_answers_do_not_move_the_sets_they_test() -> None:
    tree, pool, truth = strong_pool(1000)
    steps = play_through(Certified(), tree, pool, truth, budget=30)
    first = next(i for i, step in enumerate(steps) if (step.questions.stream == Stream.CALIBRATION).any())
    log, project = AnswerLog.empty(), ProjectPool.single(pool, tree)
    for step in steps[:first]:
        log = log.extended(step.questions, truth[step.questions.item])
    honest = Certified().step(project, log, budget=400, seed=0).questions
    lied = log.extended(honest.take(slice(0, 30)), np.zeros(30))
    after = Certified().step(project, lied, budget=400, seed=0).questions
    np.testing.assert_array_equal(np.sort(after.item), np.sort(honest.item[30:]))


def test_where_people_err_later_verdicts_do_not_move_the_sets() -> None:
    """Verdicts of all answers change when more people answer; the first answer of one person stays."""
    tree, pool, truth = strong_pool(1000)
    project = ProjectPool.single(pool, tree)
    policy = Certified(sensitivity=0.95, specificity=0.9)
    log = AnswerLog.empty()
    while not (log.stream == Stream.CALIBRATION).any():
        asked = policy.step(project, log, budget=40, seed=0).questions
        log = log.extended(asked, truth[asked.item])
    moved = replace(log, yes=np.clip(0.5 + 0.4 * (0.5 - log.yes), 0, 1).astype(np.float32))
    ours, theirs = (policy.step(project, some, budget=200, seed=0) for some in (log, moved))
    np.testing.assert_array_equal(ours.questions.item, theirs.questions.item)


def test_a_missing_answer_holds_the_certificate_up_and_nothing_else() -> None:
    tree, pool, truth = strong_pool(1000)
    project = ProjectPool.single(pool, tree)
    log, stuck = AnswerLog.empty(), -1
    policy = Certified(purity=0.85)
    while True:
        step = policy.step(project, log, budget=60, seed=0)
        asked = step.questions
        if stuck < 0 and (asked.stream == Stream.CALIBRATION).any():
            stuck = int(asked.item[0])
        keep = np.flatnonzero(asked.item != stuck)
        if not len(keep):
            break
        log = log.extended(asked.take(keep), truth[asked.item[keep]])
    assert not step.done
    assert step.questions.item.tolist() == [stuck]
    assert (step.decision == -1).all()  # an answer that may be a no: nothing is certified yet
    patient = log.extended(step.questions, truth[[stuck]])
    log, after = answer_all(policy, tree, pool, truth, budget=60, log=patient)
    assert after.done
    assert (after.decision[after.label > 0] >= 0).sum() > 20


def test_search_inclusion_probabilities_are_honest() -> None:
    """Horvitz-Thompson with the logged probabilities recovers the share of good masks."""
    tree, pool, truth = known_pool(1500)
    project, policy = ProjectPool.single(pool, tree), Certified()
    estimates = []
    for seed in range(60):
        first = policy.step(project, AnswerLog.empty(), budget=1000, seed=seed).questions
        estimates.append((truth[first.item] / first.inclusion).sum() / len(pool))
    error = np.std(estimates) / np.sqrt(len(estimates))
    assert np.mean(estimates) == pytest.approx(truth.mean(), abs=4 * error)


# ---- what it learns from --------------------------------------------------------------------------------


def _with_lessons(k: int) -> tuple[ProjectPool, Truth]:
    _, pool, truth = known_pool(1500)
    rows = np.random.default_rng(3).permutation(1500)
    known, rest = rows[:k], rows[k:]
    lessons = Lessons(_rows(pool, known), np.zeros(k, np.int64), truth[known], np.arange(k) // 5)
    return ProjectPool([_rows(pool, rest)], lessons=lessons), truth[rest]


def test_enough_lessons_take_the_place_of_the_search() -> None:
    project, truth = _with_lessons(300)
    log, step = _answered(Certified(), project, truth)
    assert not (log.stream == Stream.SEARCH).any()
    assert log.stream[0] == Stream.CALIBRATION  # the certificate still asks about a fresh random sample
    assert step.done
    assert step.p_lessons is not None
    assert step.p_lessons.shape == (300,)
    few, truth = _with_lessons(20)
    asked, _ = _answered(Certified(), few, truth)
    none, truth = _with_lessons(0)
    all_asked, _ = _answered(Certified(), none, truth)
    searched = [int((log.stream == Stream.SEARCH).sum()) for log in (asked, all_asked)]
    assert searched[0] == pytest.approx(searched[1] - 20, abs=2)


def test_lessons_of_other_lengths_are_refused() -> None:
    _, pool, truth = known_pool(80)
    with pytest.raises(ValueError, match="different lengths"):
        Lessons(pool, np.zeros(80, np.int64), truth[:79], np.zeros(80, np.int64))


def test_answers_about_an_earlier_mask_teach_but_verify_nothing() -> None:
    tree, pool, truth = known_pool(1500)
    rows = np.random.default_rng(0).choice(1500, 200, replace=False)
    carried = old_answers(rows, truth[rows], stream=Stream.CARRIED)
    project = ProjectPool.single(pool, tree)
    plain = Certified().step(project, AnswerLog.empty(), budget=500, seed=0)
    step = Certified().step(project, carried, budget=500, seed=0)
    assert not step.label.any()
    assert plain.p_yes is not None
    assert step.p_yes is not None
    # they teach: about themselves and about others
    others = np.setdiff1d(np.arange(1500), rows)
    for some in (rows, others):
        error = [np.abs(p[some] - truth[some]).mean() for p in (plain.p_yes, step.p_yes)]
        assert error[1] < 0.9 * error[0]
    # and they spare questions of the search, but may be asked about themselves
    assert not (step.questions.stream == Stream.SEARCH).any()
    log, done = answer_all(Certified(), tree, pool, truth, budget=200, log=carried)
    again = np.isin(rows, log.item[200:])
    assert again.any()
    seen = np.isin(np.arange(1500), log.item[200:])
    np.testing.assert_array_equal(done.decision[seen], -1)
    unseen_hints = rows[~again]
    assert (done.label[unseen_hints] != 0).any()
    assert (done.decision[unseen_hints][done.label[unseen_hints] != 0] >= 0).all()


def test_answers_of_an_earlier_round_about_the_same_mask_verify_it() -> None:
    tree, pool, truth = known_pool(1500)
    rows = np.random.default_rng(0).choice(1500, 40, replace=False)
    fresh, _ = answer_all(Certified(), tree, pool, truth, budget=500)
    log, step = answer_all(Certified(), tree, pool, truth, budget=500, log=old_answers(rows, truth[rows]))
    searched = int(((log.stream == Stream.SEARCH) & (log.phase >= 0)).sum())
    assert searched == pytest.approx((fresh.stream == Stream.SEARCH).sum() - 40, abs=2)
    assert not np.isin(log.item[40:], rows).any()
    np.testing.assert_array_equal(step.label[rows] > 0, truth[rows])


# ---- harvest, rejects, forecasts ------------------------------------------------------------------------


def test_the_harvest_stops_when_it_no_longer_pays() -> None:
    """Good masks lie among the likely ones only; the others are not worth looking at."""
    rng = np.random.default_rng(0)
    n = 1500
    likely = np.arange(n) < 500
    truth = likely & (rng.random(n) < 0.7)
    side = np.where(likely, 0.9, 0.12).astype(np.float32)
    pool = Pool(rng.standard_normal((n, 6)).astype(np.float32), side, side, np.zeros((n, 0), np.float32))
    log, step = _answered(Certified(), ProjectPool.single(pool), truth)
    assert step.done
    harvested = log.item[(log.stream == Stream.HARVEST) & (log.phase == HARVEST_PHASE)]
    assert len(harvested)
    assert (step.label[truth] > 0).all()
    assert np.isin(np.flatnonzero(~likely), log.item).mean() < 0.5
    # where a drawn mask costs nothing, nothing is harvested
    cheap, _ = _answered(Certified(drawn_mask_s=0.0), ProjectPool.single(pool), truth)
    assert not ((cheap.stream == Stream.HARVEST) & (cheap.phase == HARVEST_PHASE)).any()


def test_the_harvest_can_be_switched_off() -> None:
    tree, pool, truth = known_pool(1500)
    log, step = answer_all(Certified(harvest=False), tree, pool, truth, budget=100)
    assert step.done
    assert step.forecast is not None
    assert (step.forecast.questions, step.forecast.masks) == (0, 0)
    assert not (log.phase == HARVEST_PHASE).any()


def test_a_tail_that_answers_speak_against_is_rejected() -> None:
    shares = []
    for seed in range(3):
        pool, iou = make_pool(3000, seed=seed, dim=16)
        _, step = _answered(Certified(), ProjectPool.single(pool), iou > 0.75, budget=500)
        rejected = (step.label < 0) & (step.decision >= 0)
        if not rejected.any():
            continue
        row = int(step.decision[rejected][0])
        assert step.decisions.action[row] == Action.REJECT
        assert (step.decision[rejected] == row).all()
        shares.append((iou[rejected] > 0.75).mean())
    assert shares
    assert max(shares) < 0.15


@pytest.mark.parametrize("drawn_mask_s", [0.0, 0.7])
def test_good_masks_are_not_rejected_because_drawing_them_is_quick(drawn_mask_s: float) -> None:
    tree, pool, truth = known_pool(400)
    _, step = answer_all(Certified(drawn_mask_s=drawn_mask_s), tree, pool, truth, budget=60)
    assert step.done
    unseen = (step.label < 0) & (step.decision >= 0)
    assert truth[unseen].sum() <= 0.2 * unseen.sum()


def test_the_forecast_is_about_right_and_ends_at_nothing() -> None:
    tree, pool, truth = known_pool(1500)
    steps = play_through(Certified(), tree, pool, truth, budget=60)
    costs = Costs()
    for step in steps:
        coming = step.forecast
        assert coming is not None
        assert coming.answer_seconds == pytest.approx(coming.questions * costs.mask)
        assert coming.drawing_seconds == pytest.approx(coming.masks * costs.drawn_mask)
        assert coming.questions >= len(step.questions)
    last, middle = steps[-1].forecast, steps[len(steps) // 2]
    assert last is not None
    assert (last.questions, last.masks) == (0, 0)
    assert middle.forecast is not None
    found = int((steps[-1].label[truth] > 0).sum() - (middle.label[truth] > 0).sum())
    assert 0.5 * found <= middle.forecast.masks <= 2.0 * found


# ---- decisions ------------------------------------------------------------------------------------------


def test_decisions_say_what_is_promised_and_of_which_masks() -> None:
    tree, pool, truth = strong_pool(1000)
    log, step = answer_all(Certified(purity=0.8, delta=0.1), tree, pool, truth, budget=60)
    row = step.decisions.test.index(CERTIFICATE)
    assert step.decisions.action[row] == Action.ACCEPT
    assert (step.decisions.label[row], step.decisions.cluster[row]) == (-1, -1)
    assert step.decisions.lower[row] == 0.8
    assert step.decisions.confidence[row] == pytest.approx(0.9)
    assert step.decisions.phase[row] % 10 == 9
    carried = step.decision == row
    assert carried.any()
    assert (step.label[carried] == 1).all()
    assert not np.isin(np.flatnonzero(carried), log.item).any()  # only masks that nobody saw


def test_one_certificate_covers_all_labels_with_estimates_beside_it() -> None:
    pool, iou = make_pool(2000, seed=2, dim=16)
    truth = iou > 0.75
    parts = np.split(np.random.default_rng(0).permutation(2000), [1000, 1500, 1750, 1900])
    project = ProjectPool([_rows(pool, part) for part in parts])
    log, step = _answered(Certified(purity=0.8), project, truth[np.concatenate(parts)])
    rows = [k for k, test in enumerate(step.decisions.test) if test == CERTIFICATE]
    assert len(rows) == 1
    unseen = step.decision == rows[0]
    assert len(np.unique(project.label[unseen])) > 1
    estimates = [k for k, test in enumerate(step.decisions.test) if test == LABEL_ESTIMATE]
    numbers = step.decisions.label[estimates]
    assert set(np.unique(project.label[unseen]).tolist()) <= set(numbers.tolist())
    assert step.decisions.asked[estimates].sum() == step.decisions.asked[rows[0]]
    assert step.decisions.yes[estimates].sum() == step.decisions.yes[rows[0]]
    assert not np.isin(estimates, step.decision).any()  # an estimate is no promise
    assert (step.decisions.lower[estimates] < step.decisions.upper[estimates]).all()
    assert ((log.item >= 0) & (log.item < len(project))).all()


def test_tests_and_noise_share_the_error_that_was_promised(monkeypatch: pytest.MonkeyPatch) -> None:
    spent: list[float] = []

    def noise(*counts: int, alpha: float) -> tuple[None, Noise]:
        spent.append(alpha)
        return None, Noise(sensitivity=0.9, specificity=0.9)

    monkeypatch.setattr("clustering.search.certified.noise_from_gold", noise)
    for number in (1, 2, 7):
        promised = error_of_certificate(0.02, number)
        assert Certified(delta=0.02)._terms(number).alpha == pytest.approx(promised)
        left = Certified(delta=0.02, gold=(45, 50, 45, 50))._terms(number).alpha
        assert left + spent.pop() == pytest.approx(promised)


def test_a_later_certificate_needs_more_evidence() -> None:
    tree, pool, _ = strong_pool(1000)
    project, policy = ProjectPool.single(pool, tree), Certified()
    log, step = _finished()
    row = step.decisions.test.index(CERTIFICATE)
    assert (step.decision == row).any()
    # the same answers, were they drawn for the thousandth certificate, prove nothing
    late = policy.step(project, log, budget=0, seed=0, certificate=1000)
    assert CERTIFICATE not in late.decisions.test
    with pytest.raises(ValueError, match="the first is 1"):
        policy.step(project, log, budget=0, seed=0, certificate=0)


def test_answers_of_an_earlier_certificate_do_not_count_for_the_next() -> None:
    tree, pool, truth = strong_pool(1000)
    log, _ = _finished()
    old = replace(log, phase=np.full(len(log), -1))
    step = Certified().step(ProjectPool.single(pool, tree), old, budget=60, seed=1, certificate=2)
    assert CERTIFICATE not in step.decisions.test
    np.testing.assert_array_equal(step.label[log.item] > 0, truth[log.item])  # they verify all the same


# ---- audit ----------------------------------------------------------------------------------------------


def test_audit_publishes_an_interval_that_covers() -> None:
    missed = audited_plays = 0
    for seed in range(8):
        tree, pool, truth = strong_pool(1000, seed % 3)
        log, step = answer_all(Certified(audit=60, harvest=False), tree, pool, truth, budget=150, seed=seed)
        audited = log.item[log.stream == Stream.AUDIT]
        if AUDIT not in step.decisions.test:
            assert not len(audited)
            continue
        row = step.decisions.test.index(AUDIT)
        assert step.decisions.asked[row] == len(audited) <= 60
        certified = step.decision == step.decisions.test.index(CERTIFICATE)
        delivered = certified | np.isin(np.arange(1000), audited)
        missed += not step.decisions.lower[row] <= truth[delivered].mean() <= step.decisions.upper[row]
        audited_plays += 1
    assert audited_plays >= 5
    assert missed <= 3
    tree, pool, truth = strong_pool(1000)
    log, _ = answer_all(Certified(audit=0, harvest=False), tree, pool, truth, budget=60)
    assert not (log.stream == Stream.AUDIT).any()


@pytest.mark.parametrize("errs", [False, True])
def test_a_failed_audit_takes_the_certificate_back(errs: bool) -> None:
    """People were wrong while it was tested: the audit finds half of the accepted masks bad."""
    tree, pool, _ = flat_pool(1200, prior=0.9)
    truth = np.random.default_rng(0).random(1200) < 0.5
    project = ProjectPool.single(pool, tree)
    policy = Certified(sensitivity=0.95, specificity=0.9) if errs else Certified()
    log, certified_once = AnswerLog.empty(), False
    while True:
        step = policy.step(project, log, budget=100, seed=0)
        unseen = (step.label > 0) & (step.decision >= 0)
        audits = AUDIT in step.decisions.test
        certified_once |= bool(unseen.any())
        if audits:
            assert not unseen.any()
        if not len(step.questions) or (log.stream == Stream.HARVEST).sum() > 200:
            break
        asked = step.questions
        # all yes until the audit begins
        honest = (asked.stream == Stream.AUDIT) | (asked.stream == Stream.HARVEST)
        log = log.extended(asked, np.where(honest, truth[asked.item], 1.0))
    assert certified_once
    assert audits
    row = step.decisions.test.index(AUDIT)
    assert step.decisions.upper[row] < 0.85
    assert CERTIFICATE not in step.decisions.test


def test_asking_others_about_audited_masks_leaves_the_audit_as_it_was() -> None:
    tree, pool, truth = strong_pool(1000)
    project, policy, log = ProjectPool.single(pool, tree), Certified(specificity=0.9), AnswerLog.empty()
    while True:
        step = policy.step(project, log, budget=200, seed=0)
        if AUDIT in step.decisions.test:
            break
        log = log.extended(step.questions, truth[step.questions.item])
    row = step.decisions.test.index(AUDIT)
    audited = log.take(log.stream == Stream.AUDIT)
    good = audited.take(audited.answer == 1)
    again = replace(
        good,
        phase=np.full(len(good), HARVEST_PHASE, np.int64),
        stream=np.full(len(good), Stream.HARVEST, np.int8),
    )
    columns = [np.concatenate([getattr(log, f.name), getattr(again, f.name)]) for f in fields(AnswerLog)]
    after = policy.step(project, AnswerLog(*columns), budget=200, seed=0)
    assert AUDIT in after.decisions.test
    assert after.decisions.asked[after.decisions.test.index(AUDIT)] == step.decisions.asked[row]
    assert after.decisions.yes[after.decisions.test.index(AUDIT)] == step.decisions.yes[row]
    assert not (after.questions.stream == Stream.AUDIT).any()


# ---- people who err -------------------------------------------------------------------------------------


def test_noisy_yes_to_a_hopeless_mask_is_not_believed() -> None:
    tree, pool, _ = known_pool(1500)
    noise, rng = Noise(sensitivity=0.95, specificity=0.9), np.random.default_rng(0)
    policy, project, log = Certified(sensitivity=0.95, specificity=0.9), ProjectPool.single(pool, tree), None
    log = AnswerLog.empty()
    while True:
        step = policy.step(project, log, budget=100, seed=0)
        if not len(step.questions):
            break
        log = log.extended(step.questions, _noisy(np.zeros(len(step.questions), bool), noise, rng))
    assert log.answer.sum() > 5
    assert not (step.label > 0).any()


def test_too_little_gold_asks_on_but_delivers_nothing() -> None:
    tree, pool, truth = known_pool(400)
    project, log = ProjectPool.single(pool, tree), AnswerLog.empty()
    policy = Certified(gold=(2, 2, 0, 1))
    for _ in range(8):
        step = policy.step(project, log, budget=60, seed=0)
        assert not (step.label > 0).any()
        if not len(step.questions):
            break
        log = log.extended(step.questions, truth[step.questions.item])
    assert len(log) > 100
    # the same answers with enough gold: now they count
    after = Certified(gold=(1900, 2000, 1900, 2000)).step(project, log, budget=60, seed=0)
    assert (after.label > 0).any()


def test_options_are_checked() -> None:
    for options, word in (
        ({"purity": 1.0}, "purity"),
        ({"purity": 0.5}, "purity"),
        ({"delta": 0.0}, "delta"),
        ({"audit": -1}, "audit"),
        ({"sensitivity": 0.5, "specificity": 0.4}, "say nothing"),
        ({"gold": (3, 2, 1, 1)}, "gold"),
        ({"gold": (1, 2, 1)}, "gold"),
        ({"gold": (0.5, 1, 1, 1)}, "gold"),
        ({"gold": {1: 2}}, "gold"),
        ({"audit": 2.5}, "audit"),
        ({"sheets": "false"}, "sheets"),
        ({"harvest": "no"}, "harvest"),
        ({"sheet_s": float("inf")}, "sheet"),
        ({"drawn_mask_s": float("inf")}, "drawn_mask"),
        ({"question_s": -1.0}, "question"),
    ):
        with pytest.raises(ValueError, match=word):
            make_policy("certified", **options)
    assert make_policy("auto").name == "certified"  # what projects set up earlier may still name
