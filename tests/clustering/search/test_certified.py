"""The certified policy: its promise over many seeds, with and without noise, and that it cannot be misled."""

from __future__ import annotations

import numpy as np
import pytest

from bench.pools import make_pool
from clustering.answers import Action, AnswerLog, Stream
from clustering.evidence import Noise
from clustering.search import Certified, make_policy
from clustering.search._plan import BATCHES
from clustering.simulation import play
from clustering.trees import grow_tree
from tests.clustering.search_pools import answer_all, known_pool, play_through


@pytest.mark.parametrize("noise", [None, Noise(sensitivity=0.95, specificity=0.9)])
def test_promise_over_many_plays(noise: Noise | None) -> None:
    broken, certified = 0, 0
    runs = 20
    for seed in range(runs):
        tree, pool, truth = known_pool(1500, seed % 3)
        options = (
            {} if noise is None else {"sensitivity": noise.sensitivity, "specificity": noise.specificity}
        )
        policy = make_policy("certified", purity=0.85, delta=0.1, **options)
        run = play(policy, tree, pool, truth.astype(float), seed=seed, noise=noise)
        assert run.step.done
        broken += run.worst_precision < 0.85
        certified += run.curve.propagated[-1] > 0
    assert broken <= 0.1 * runs
    assert certified >= (runs // 3 if noise else runs - 3)


def test_a_hopeless_pool_is_left_alone() -> None:
    tree, pool, _ = known_pool(1500)
    log, step = answer_all(Certified(), tree, pool, np.zeros(1500, bool), budget=50)
    assert step.done
    assert not (step.label > 0).any()
    assert len(log) < 0.25 * 1500


def test_a_perfect_pool_is_accepted_whole() -> None:
    tree, pool, _ = known_pool(1500)
    log, step = answer_all(Certified(), tree, pool, np.ones(1500, bool), budget=50)
    assert (step.label > 0).mean() > 0.95
    assert len(log) < 0.25 * 1500


def test_certification_ignores_answers_that_taught_the_verifier() -> None:
    """The draw of the acceptance test is fresh: nothing of it was answered before."""
    tree, pool, truth = known_pool(1500)
    log, _ = answer_all(Certified(), tree, pool, truth, budget=50)
    assert len(np.unique(log.item)) == len(log)
    test = log.stream == Stream.CALIBRATION
    assert test.any()
    assert (log.cluster <= -2).all()
    # calibration is the last phase of each attempt
    phase = -2 - log.cluster
    assert set((phase[test] % (BATCHES + 1)).tolist()) == {BATCHES}
    assert (phase[log.stream == Stream.SEARCH] % (BATCHES + 1) < BATCHES).all()


def test_calibration_answers_do_not_move_the_sets_they_test() -> None:
    tree, pool, truth = known_pool(1500)
    steps = play_through(Certified(), tree, pool, truth, budget=30)
    first = next(i for i, step in enumerate(steps) if (step.questions.stream == Stream.CALIBRATION).any())
    log = AnswerLog.empty()
    for step in steps[:first]:
        log = log.extended(step.questions, truth[step.questions.item])
    honest = Certified().step(tree, pool, log, budget=400, seed=0).questions
    lied = log.extended(honest.take(slice(0, 30)), np.zeros(30))
    after = Certified().step(tree, pool, lied, budget=400, seed=0).questions
    np.testing.assert_array_equal(np.sort(after.item), np.sort(honest.item[30:]))


def test_a_stuck_question_delays_nothing_but_the_end() -> None:
    tree, pool, truth = known_pool(1500)
    log, stuck = AnswerLog.empty(), -1
    while True:
        step = Certified(purity=0.9).step(tree, pool, log, budget=60, seed=0)
        asked = step.questions
        if stuck < 0 and (asked.stream == Stream.CALIBRATION).any():
            stuck = int(asked.item[0])
        keep = np.flatnonzero(asked.item != stuck)
        if not len(keep):
            break
        log = log.extended(asked.take(keep), truth[asked.item[keep]])
    assert not step.done
    assert step.questions.item.tolist() == [stuck]
    assert (step.label > 0).sum() > 200  # certified, with the missing answer counted as a no
    assert step.label[stuck] == 0
    patient = log.extended(step.questions, truth[[stuck]])
    after = Certified(purity=0.9).step(tree, pool, patient, budget=60, seed=0)
    assert (after.label > 0).sum() >= (step.label > 0).sum()


def test_audit_publishes_an_interval_that_covers() -> None:
    missed = 0
    for seed in range(20):
        tree, pool, truth = known_pool(1500, seed % 3)
        log, step = answer_all(Certified(audit=60), tree, pool, truth, budget=60, seed=seed)
        if "audit" not in step.decisions.test:
            continue
        row = step.decisions.test.index("audit")
        assert step.decisions.asked[row] == 60
        audited = log.item[log.stream == Stream.AUDIT]
        assert len(audited) == 60
        others = (log.stream != Stream.AUDIT) & (log.cluster >= step.decisions.cluster[row])
        delivered = (step.decision == 0) | np.isin(np.arange(1500), audited)
        assert not np.isin(np.flatnonzero(delivered), log.item[others]).any()
        share = truth[delivered].mean()
        missed += not step.decisions.lower[row] <= share <= step.decisions.upper[row]
    assert missed <= 3
    tree, pool, truth = known_pool(1500)
    log, _ = answer_all(Certified(audit=0), tree, pool, truth, budget=60)
    assert not (log.stream == Stream.AUDIT).any()


def test_decisions_say_what_is_promised() -> None:
    tree, pool, truth = known_pool(1500)
    _, step = answer_all(Certified(purity=0.8, delta=0.1), tree, pool, truth, budget=60)
    assert step.decisions.action[0] == Action.ACCEPT
    assert step.decisions.lower[0] == 0.8
    assert step.decisions.confidence[0] == pytest.approx(0.9)
    assert step.decisions.test[0] == "exact and betting tests in sequence"
    assert ((step.decision == 0) <= (step.label == 1)).all()


def test_noisy_yes_to_a_hopeless_mask_is_not_believed() -> None:
    tree, pool, _ = known_pool(1500)
    noise = Noise(sensitivity=0.95, specificity=0.9)
    policy = Certified(sensitivity=0.95, specificity=0.9)
    run = play(policy, tree, pool, np.zeros(1500), seed=0, noise=noise)
    said_yes = run.log.yes.sum()
    assert said_yes > 5
    assert (run.step.label > 0).sum() < 0.3 * said_yes


def test_noise_from_gold_keeps_the_promise() -> None:
    tree, pool, truth = known_pool(1500)
    noise = Noise(sensitivity=0.95, specificity=0.9)
    masks = []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        gold = (int(rng.binomial(400, 0.95)), 400, int(rng.binomial(400, 0.9)), 400)
        run = play(Certified(gold=gold), tree, pool, truth.astype(float), seed=seed, noise=noise)
        assert not run.worst_precision < 0.85
        masks.append(run.curve.masks[-1])
    assert max(masks) > 150
    # the less is known about the workers, the more must be proven
    assert Certified(gold=(38, 40, 36, 40)).noise.observed(0.85) > Certified(gold=gold).noise.observed(0.85)


def test_search_inclusion_probabilities_are_honest() -> None:
    """Horvitz-Thompson with the logged probabilities recovers the share of good masks."""
    tree, pool, truth = known_pool(1500)
    estimates = []
    for seed in range(60):
        first = Certified().step(tree, pool, AnswerLog.empty(), budget=1000, seed=seed).questions
        estimates.append((truth[first.item] / first.inclusion).sum() / len(pool))
    error = np.std(estimates) / np.sqrt(len(estimates))
    assert np.mean(estimates) == pytest.approx(truth.mean(), abs=4 * error)


def test_options_are_checked() -> None:
    for options, word in (
        ({"purity": 1.0}, "purity"),
        ({"delta": 0.0}, "delta"),
        ({"effort": 0.0}, "effort"),
        ({"sensitivity": 0.5, "specificity": 0.4}, "say nothing"),
        ({"gold": (3, 2, 1, 1)}, "gold"),
        ({"gold": (2, 2, 0, 1)}, "gold items"),
    ):
        with pytest.raises(ValueError, match=word):
            make_policy("certified", **options)


@pytest.mark.slow
def test_more_masks_per_question_than_the_original_at_20k() -> None:
    pool, iou = make_pool(20_000, seed=5, dim=16)
    tree = grow_tree(pool, seed=0)
    ours = play(make_policy("certified", purity=0.88), tree, pool, iou, seed=0)
    theirs = play(make_policy("original"), tree, pool, iou, seed=0, batch=450)
    assert ours.masks_per_question > 2 * theirs.masks_per_question
    assert ours.curve.precision[-1] >= theirs.curve.precision[-1]
    assert ours.worst_precision >= 0.88


def test_a_tiny_pool_is_verified_best_first_as_far_as_that_pays() -> None:
    tree, pool, truth = known_pool(80)
    log, step = answer_all(Certified(), tree, pool, np.zeros(80, bool), budget=20)
    assert step.done
    assert len(log) < 60  # not worth asking on
    log, step = answer_all(Certified(), tree, pool, truth, budget=20)
    assert step.done
    assert (step.decision == -1).all()  # nobody is labelled by propagation
    found = (step.label > 0).sum()
    np.testing.assert_array_equal(truth[step.label > 0], True)
    assert found > 0.8 * truth.sum()
    first = log.item[:20]
    assert pool.prior[first].mean() > pool.prior.mean()


def test_a_tail_that_answers_speak_against_is_rejected() -> None:
    pool, iou = make_pool(6000, seed=0)
    tree = grow_tree(pool, seed=0)
    shares = []
    for seed in range(4):
        _, step = answer_all(Certified(), tree, pool, iou > 0.75, budget=500, seed=seed)
        rejected = (step.label < 0) & (step.decision >= 0)
        if not rejected.any():
            continue
        row = int(step.decision[rejected][0])
        assert step.decisions.action[row] == Action.REJECT
        assert step.decisions.upper[row] <= 0.1
        assert (step.decision[rejected] == row).all()
        shares.append((iou[rejected] > 0.75).mean())
    assert shares
    assert max(shares) < 0.15


def test_carried_answers_spare_search_questions() -> None:
    tree, pool, truth = known_pool(1500)
    fresh = Certified().step(tree, pool, AnswerLog.empty(), budget=500, seed=0).questions
    carried = np.random.default_rng(0).choice(1500, 40, replace=False)
    log = AnswerLog(
        carried,
        truth[carried].astype(np.float32),
        np.full(40, -1),
        np.full(40, Stream.SEARCH, np.int8),
        np.ones(40),
    )
    told, _ = answer_all(Certified(), tree, pool, truth, budget=500, log=log)
    searched = int((told.stream == Stream.SEARCH).sum()) - 40
    assert 0 <= searched < len(fresh)
