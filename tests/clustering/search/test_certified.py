"""The certified policy: its promise over many seeds, with and without noise, and that it cannot be misled."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from bench.pools import make_pool
from clustering.answers import Action, AnswerLog, Form, Stream
from clustering.evidence.answer_noise import Noise
from clustering.pool import Pool
from clustering.search import Certified, make_policy
from clustering.search._parts import final_verdicts
from clustering.search._plan import BATCHES, Plan, make_plan
from clustering.search._sets import NestedSets, evaluate_sets, nest_sets, set_p_value
from clustering.search._sheets import cut_sheets, sheet_size
from clustering.simulation import play
from clustering.trees.linkage import grow_tree
from clustering.verifier import fit_logistic, fit_verifier, make_features, smooth_over_tree
from tests.clustering.search_pools import answer_all, flat_pool, known_pool, play_through


@pytest.mark.parametrize("noise", [Noise(), Noise(sensitivity=0.95, specificity=0.9)])
def test_the_set_test_keeps_its_promise_under_continuous_looking(noise: Noise) -> None:
    """The hardest case by construction: whatever set is delivered is just below the promise, predictions
    flatter it.
    """
    rng = np.random.default_rng(0)
    n, alpha, runs, broken, certified = 600, 0.1, 300, 0, 0
    predicted = np.linspace(0.999, 0.78, n).astype(np.float32)
    sets = nest_sets(predicted, np.ones(n, bool), purity=0.85, noise=noise, alpha=alpha, min_set=30, most=200)
    assert sets is not None
    assert sets.planned > 80
    # a set of share g delivers g / (1 - asked · (1 - g)) of good ones when its wrong answers are left out
    asked = sets.planned / len(sets.order) if noise.exact else 0.0
    good = 0.85 * (1 - asked) / (1 - 0.85 * asked)
    bad = int((1 - good) * n) + 1
    truth = np.ones(n, bool)
    truth[(np.arange(bad) * n) // bad] = False  # evenly along the order: all sets are alike
    for _ in range(runs):
        rank = rng.permutation(len(sets.order))[: sets.planned]
        chance = np.where(truth[sets.order[rank]], noise.sensitivity, 1 - noise.specificity)
        yes = (rng.random(len(rank)) < chance).astype(float)
        # evidence counts by its maximum, so the last look sees what any look saw
        test = evaluate_sets(sets, rank, yes, noise=noise, alpha=alpha)
        if test.certified:
            delivered = np.ones(test.certified, bool)
            if noise.exact:
                delivered[rank[(rank < test.certified) & (yes == 0)]] = False
            broken += truth[sets.order[: test.certified]][delivered].mean() < 0.85
            certified += 1
    assert broken <= runs * alpha + 2 * np.sqrt(runs * alpha * (1 - alpha))
    assert certified > 0  # it is at the edge indeed


@given(
    size=st.integers(1, 40),
    share=st.floats(0.05, 1.0),
    target=st.floats(0.5, 0.99),
    alpha=st.floats(0.005, 0.3),
)
def test_the_p_value_of_a_broken_promise_is_valid(
    size: int, share: float, target: float, alpha: float
) -> None:
    """By enumeration: whatever the number of good members, the promise is broken and yet accepted with
    probability at most alpha.
    """
    n = max(1, round(share * size))
    sets = NestedSets(np.arange(size), np.array([size]), np.ones(1), target, np.ones(size), n, size)
    p = np.array([set_p_value(sets, 0, np.repeat([1.0, 0.0], [k, n - k]), exact=True) for k in range(n + 1)])
    k = np.arange(n + 1)
    for good in range(size + 1):
        breaks = good < target * (size - n + k) - 1e-9
        chance = stats.hypergeom.pmf(k, size, good, n)
        assert chance[breaks & (p <= alpha)].sum() <= alpha + 1e-12


def test_the_set_test_has_power() -> None:
    rng = np.random.default_rng(1)
    certified = []
    for _ in range(50):
        predicted = np.sort(rng.beta(6, 1, 2000).astype(np.float32))[::-1].copy()
        truth = rng.random(2000) < predicted
        sets = nest_sets(
            predicted, np.ones(2000, bool), purity=0.8, noise=Noise(), alpha=0.05, min_set=30, most=300
        )
        assert sets is not None
        rank = rng.permutation(len(sets.order))[:300]
        yes = truth[sets.order[rank]].astype(float)
        certified.append(evaluate_sets(sets, rank, yes, noise=Noise(), alpha=0.05).certified)
    assert np.mean(np.array(certified) > 1000) > 0.9


def test_a_closed_look_stays_closed() -> None:
    rng = np.random.default_rng(2)
    predicted = np.linspace(0.99, 0.7, 800).astype(np.float32)
    truth = rng.random(800) < 0.7
    sets = nest_sets(
        predicted, np.ones(800, bool), purity=0.85, noise=Noise(), alpha=0.05, min_set=30, most=400
    )
    assert sets is not None
    rank = rng.permutation(len(sets.order))[:400]
    yes = truth[sets.order[rank]].astype(float)
    closed = [
        evaluate_sets(sets, rank[:t], yes[:t], noise=Noise(), alpha=0.05).closed for t in range(0, 400, 7)
    ]
    assert closed == sorted(closed)
    assert closed[-1]  # hopeless, and seen to be so before the plan is spent


def test_nothing_promising_makes_no_sets() -> None:
    low = np.full(500, 0.3, np.float32)
    options = {"purity": 0.85, "noise": Noise(), "alpha": 0.05, "min_set": 30, "most": 100}
    assert nest_sets(low, np.ones(500, bool), **options) is None  # type: ignore[arg-type]
    assert nest_sets(np.ones(500, np.float32), np.zeros(500, bool), **options) is None  # type: ignore[arg-type]


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
    # phases of calibration are the last of each look
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
    assert (step.label > 0).sum() > 200  # certified with the missing answer taken for a no
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


def test_sheets_group_what_is_probably_right() -> None:
    assert [sheet_size(p) for p in (0.9, 0.95, 0.98, 0.5, 1.0)] == [7, 14, 34, 1, 36]
    p_yes = np.concatenate([np.full(40, 0.98), np.full(10, 0.9), [0.4, 0.3]])
    order, sheet = cut_sheets(p_yes, first_sheet=100)
    assert sorted(order) == list(range(52))
    _, sizes = np.unique(sheet[sheet >= 0], return_counts=True)
    assert sizes.max() <= 36
    assert sizes.min() >= 2
    assert (sheet[-2:] == -1).all()  # more likely wrong than right: asked alone
    for number in np.unique(sheet[sheet >= 0])[:-1]:
        assert np.prod(p_yes[order][sheet == number]) >= 0.5 - 1e-6
    assert cut_sheets(np.zeros(0), first_sheet=0)[0].shape == (0,)


def test_sheets_keep_their_numbers_while_they_are_answered() -> None:
    tree, pool, truth = known_pool(1500)
    numbers: dict[int, int] = {}
    forms = set()
    for step in play_through(Certified(), tree, pool, truth, budget=17):
        asked = step.questions
        forms |= set(asked.form.tolist())
        assert ((asked.sheet >= 0) == (asked.form == Form.SHEET)).all()
        for item, sheet in zip(asked.item.tolist(), asked.sheet.tolist(), strict=True):
            assert numbers.setdefault(item, sheet) == sheet
    assert forms == {Form.SINGLE, Form.SHEET}
    _, step = answer_all(Certified(sheets=False), tree, pool, truth, budget=100)
    assert step.done


def test_search_inclusion_probabilities_are_honest() -> None:
    """Horvitz-Thompson with the logged probabilities recovers the share of good masks."""
    tree, pool, truth = known_pool(1500)
    estimates = []
    for seed in range(60):
        first = Certified().step(tree, pool, AnswerLog.empty(), budget=1000, seed=seed).questions
        estimates.append((truth[first.item] / first.inclusion).sum() / len(pool))
    error = np.std(estimates) / np.sqrt(len(estimates))
    assert np.mean(estimates) == pytest.approx(truth.mean(), abs=4 * error)


def test_questions_grow_slower_than_the_square_root() -> None:
    def most(n: int) -> int:
        plan = make_plan(n, purity=0.85, delta=0.05, noise=Noise(), effort=1.0, audit=None)
        return sum(sum(look.search) + look.calibrate for look in plan.looks) + plan.audit

    assert most(1_000_000) / most(10_000) < 0.5 * np.sqrt(100)
    assert sum(
        look.alpha for look in make_plan(9, purity=0.9, delta=0.05, noise=Noise(), effort=1, audit=0).looks
    ) <= (0.05 + 1e-12)
    assert Plan.tag(Plan.phase(1, 0)) == -6


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


def test_verifier_beats_the_detector_and_is_calibrated() -> None:
    tree, pool, truth = known_pool(1500)
    rng = np.random.default_rng(0)
    item = rng.choice(1500, 300, replace=False)
    predicted = fit_verifier(make_features(pool), tree, item, truth[item], seed=0)
    rest = np.setdiff1d(np.arange(1500), item)

    def loss(p: npt.NDArray[np.float32]) -> float:
        p = np.clip(p.astype(float), 0.01, 0.99)
        return float(-np.where(truth[rest], np.log(p[rest]), np.log(1 - p[rest])).mean())

    assert loss(predicted) < 0.9 * loss(pool.prior)
    for low, high in ((0.0, 0.2), (0.8, 1.0)):
        inside = rest[(predicted[rest] >= low) & (predicted[rest] < high)]
        assert truth[inside].mean() == pytest.approx(predicted[inside].mean(), abs=0.07)


def test_verifier_without_answers_is_the_detector() -> None:
    tree, pool, _ = known_pool(400)
    features = make_features(pool)
    none = np.zeros(0, np.int64)
    np.testing.assert_allclose(
        fit_verifier(features, tree, none, none, seed=0), np.clip(pool.prior, 0.02, 0.98), atol=1e-5
    )
    one_kind = fit_verifier(features, tree, np.arange(12), np.zeros(12), seed=0)
    assert (one_kind <= np.clip(pool.prior, 0.02, 0.98) + 1e-6).all()


def test_verifier_copes_with_constant_columns() -> None:
    tree, pool, truth = flat_pool(200, good=0.5)
    item = np.arange(0, 200, 4)
    predicted = fit_verifier(make_features(pool), tree, item, truth[item], seed=0)
    assert np.isfinite(predicted).all()
    bare = Pool(np.zeros((200, 0), np.float32), pool.score, pool.quality, np.ones((200, 2), np.float32))
    assert np.isfinite(fit_verifier(make_features(bare), tree, item, truth[item], seed=0)).all()


def test_logistic_regression_is_scikit_learns() -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 4))
    y = (rng.random(300) < 1 / (1 + np.exp(-x @ [1.0, -2.0, 0.5, 0.0]))).astype(float)
    theirs = linear_model.LogisticRegression(C=0.5, fit_intercept=False, tol=1e-10).fit(x, y).coef_[0]
    np.testing.assert_allclose(fit_logistic(x, y, np.full(4, 2.0)), theirs, atol=1e-4)


def test_smoothing_over_the_tree() -> None:
    tree, _, _ = known_pool(400)
    children = tree.children(tree.root)
    assert children is not None
    item = np.concatenate([tree.members(child)[:20] for child in children])
    residual = np.where(tree.is_member(children[0], item), 0.4, -0.4)
    smooth = smooth_over_tree(tree, item, residual)
    assert (smooth[tree.members(children[0])] > 0.15).all()
    assert (smooth[tree.members(children[1])] < -0.15).all()
    np.testing.assert_allclose(smooth_over_tree(tree, item, residual, at=item), smooth[item])
    assert (smooth_over_tree(tree, item[:0], residual[:0]) == 0).all()


def test_latest_verdict_counts() -> None:
    log = AnswerLog(
        np.array([3, 1, 3]), np.array([1, 1, 0], np.float32), np.full(3, -1), np.zeros(3, np.int8), np.ones(3)
    )
    items, yes = final_verdicts(log)
    assert items.tolist() == [1, 3]
    assert yes.tolist() == [1.0, 0.0]


@pytest.mark.slow
def test_more_masks_per_question_than_the_original_at_20k() -> None:
    from clustering.trees.linkage import grow_tree

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
