"""The verifier: better than the detector, calibrated, and sound where it knows nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from scipy import special

from bench.pools import CORRECT_IOU, make_pool
from clustering.pool import Pool
from clustering.project_pool import Lessons, ProjectPool
from clustering.verifier import Features, fit_logistic, fit_verifier, make_features

Bools = npt.NDArray[np.bool_]


def generated(n: int, seed: int = 1) -> tuple[ProjectPool, Bools]:
    pool, iou = make_pool(n, seed=seed, dim=16)
    return ProjectPool.single(pool), iou > CORRECT_IOU


def plain(score: npt.ArrayLike, *, extras: int = 0, embedding: int = 0) -> Pool:
    """A pool that knows nothing but scores."""
    given = np.asarray(score, np.float32)
    n = len(given)
    return Pool(
        np.ones((n, embedding), np.float32), given, np.ones(n, np.float32), np.ones((n, extras), "f4")
    )


def log_loss(p: npt.NDArray[np.float32], truth: Bools) -> float:
    inside = np.clip(p.astype(np.float64), 1e-6, 1 - 1e-6)
    return float(-np.where(truth, np.log(inside), np.log(1 - inside)).mean())


def calibration_error(p: npt.NDArray[np.float32], truth: Bools, bins: int = 10) -> float:
    """Mean distance of predicted and true share, over bins of equally many masks."""
    groups = np.array_split(np.argsort(p, kind="stable"), bins)
    return float(sum(abs(p[g].mean() - truth[g].mean()) * len(g) for g in groups) / len(p))


def held_out(
    project: ProjectPool, truth: Bools, answers: int, seed: int
) -> tuple[npt.NDArray[np.float32], Bools]:
    """What is predicted for masks without an answer, and their truth."""
    item = np.random.default_rng(seed).choice(len(truth), answers, replace=False)
    rest = np.setdiff1d(np.arange(len(truth)), item)
    fit = fit_verifier(make_features(project), item, truth[item], seed=seed)
    return fit.p_yes[rest], truth[rest]


def test_beats_the_detector() -> None:
    project, truth = generated(1500)
    item = np.random.default_rng(0).choice(1500, 300, replace=False)
    p = fit_verifier(make_features(project), item, truth[item], seed=0).p_yes
    rest = np.setdiff1d(np.arange(1500), item)
    assert log_loss(p[rest], truth[rest]) < 0.9 * log_loss(project.columns.prior[rest], truth[rest])


@pytest.mark.parametrize(("answers", "most"), [(100, 0.10), (300, 0.06), (1000, 0.04)])
def test_is_calibrated_on_masks_without_answers(answers: int, most: float) -> None:
    project, truth = generated(4000)
    errors = [calibration_error(*held_out(project, truth, answers, seed)) for seed in range(4)]
    assert np.mean(errors) < most


def test_learns_what_a_straight_line_cannot() -> None:
    """Masks are good in the middle of the scores alone: no linear function of the score tells them apart."""
    rng = np.random.default_rng(3)
    score = rng.uniform(0.1, 0.9, 3000)
    truth = rng.random(3000) < np.where(abs(score - 0.5) < 0.2, 0.9, 0.1)
    p, good = held_out(ProjectPool.single(plain(score)), truth, 600, 0)
    assert p[good].mean() > 0.7
    assert p[~good].mean() < 0.4
    features = make_features(ProjectPool.single(plain(score)))
    assert set(features.bends.tolist()) >= {1, 3}  # score and prior; quality is constant


def test_few_values_make_few_knots() -> None:
    project = ProjectPool.single(plain(np.repeat([0.2, 0.8], 100)))
    assert len(make_features(project).bends) == 0
    assert len(make_features(ProjectPool.single(plain([0.3]))).bends) == 0


def test_rows_are_bent_as_the_docstring_says() -> None:
    project, _ = generated(500)
    features = make_features(project)
    rows = features.bent(features.columns)
    assert rows.shape == (500, len(features.penalty))
    np.testing.assert_array_equal(rows[:, : features.columns.shape[1]], features.columns)
    beyond = rows[:, features.columns.shape[1] :]
    assert abs(beyond.mean(axis=0)).max() < 1e-4
    np.testing.assert_allclose(beyond.std(axis=0), 1.0, atol=1e-3)
    low = features.columns[:, features.bends[0]] <= features.knot[0]
    assert len(np.unique(beyond[low, 0])) == 1


def test_without_answers_it_is_the_detector() -> None:
    project, _ = generated(400)
    features = make_features(project)
    none = np.zeros(0, np.int64)
    prior = np.clip(project.columns.prior, 0.02, 0.98)
    np.testing.assert_allclose(fit_verifier(features, none, none, seed=0).p_yes, prior, atol=1e-5)
    one_kind = fit_verifier(features, np.arange(12), np.zeros(12), seed=0).p_yes
    assert (one_kind <= prior + 1e-6).all()
    assert one_kind.mean() < prior.mean() - 0.01


def test_copes_with_constant_columns() -> None:
    truth = np.arange(200) < 100
    item = np.arange(0, 200, 4)
    for pool in (plain(np.full(200, 0.9), embedding=4), plain(np.full(200, 0.9), extras=2)):
        p = fit_verifier(make_features(ProjectPool.single(pool)), item, truth[item], seed=0).p_yes
        np.testing.assert_allclose(p, 0.5, atol=0.05)


def test_labels_differ_where_nothing_else_does() -> None:
    pools = [plain(np.full(300, 0.8), embedding=2), plain(np.full(300, 0.8), embedding=2)]
    rng = np.random.default_rng(0)
    truth = rng.random(600) < np.repeat([0.9, 0.3], 300)
    item = rng.choice(600, 200, replace=False)
    p = fit_verifier(make_features(ProjectPool(pools)), item, truth[item], seed=0).p_yes
    assert p[:300].mean() == pytest.approx(0.9, abs=0.1)
    assert p[300:].mean() == pytest.approx(0.3, abs=0.1)


def test_lessons_teach_as_answers_do() -> None:
    pool, iou = make_pool(2400, seed=5, dim=16)
    truth = iou > CORRECT_IOU
    picture = np.arange(400) // 20
    taught = Lessons(_rows(pool, slice(0, 400)), np.zeros(400, np.int64), truth[:400], picture)
    project = ProjectPool([_rows(pool, slice(400, None))], lessons=taught)
    none = np.zeros(0, np.int64)
    fit = fit_verifier(make_features(project), none, none, seed=0, good=truth[:400], picture=picture)
    rest = truth[400:]
    assert log_loss(fit.p_yes, rest) < 0.9 * log_loss(project.columns.prior, rest)
    assert calibration_error(fit.p_yes, rest) < 0.06
    assert fit.p_lessons.shape == (400,)


def test_a_lesson_is_estimated_without_its_own_picture() -> None:
    """Truth that follows pictures by chance alone must not be found again in the estimates."""
    rng = np.random.default_rng(1)
    picture = np.repeat(np.arange(60), 10)
    truth = (rng.random(60) < 0.5)[picture]
    marks = rng.normal(size=(60, 16)).astype(np.float32)[picture]  # each picture is easily told from others
    pool = Pool(marks, np.full(600, 0.9, "f4"), np.full(600, 0.9, "f4"), np.zeros((600, 0), "f4"))
    project = ProjectPool([pool], lessons=Lessons(pool, np.zeros(600, np.int64), truth, picture))
    none = np.zeros(0, np.int64)
    fit = fit_verifier(make_features(project), none, none, seed=0, good=truth, picture=picture)
    assert log_loss(fit.p_lessons, truth) > 0.6
    # the same masks, estimated with their own pictures, look as if something could be learnt
    assert log_loss(fit.p_yes, truth) < log_loss(fit.p_lessons, truth) - 0.04


def test_an_answer_of_an_earlier_round_is_a_hint() -> None:
    project, truth = generated(1000)
    rng = np.random.default_rng(0)
    item, old = np.split(rng.permutation(1000)[:300], [200])
    features = make_features(project)
    without = fit_verifier(features, item, truth[item], seed=0).p_yes
    fit = fit_verifier(features, item, truth[item], seed=0, hint_item=old, hint_yes=truth[old])
    assert log_loss(fit.p_yes[old], truth[old]) < 0.6 * log_loss(without[old], truth[old])


def test_many_answers_are_thinned_out_the_same_way_every_time() -> None:
    project, truth = generated(12_000)
    features = make_features(project)
    item = np.arange(11_000)
    first, second = (fit_verifier(features, item, truth[item], seed=4) for _ in range(2))
    np.testing.assert_array_equal(first.p_yes, second.p_yes)
    assert calibration_error(first.p_yes[11_000:], truth[11_000:]) < 0.06


def test_blocks_of_rows_give_what_one_block_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    project, truth = generated(700)
    features = make_features(project)
    item = np.arange(0, 700, 3)
    whole = fit_verifier(features, item, truth[item], seed=0).p_yes
    monkeypatch.setattr("clustering.verifier._BLOCK", 64)
    np.testing.assert_allclose(fit_verifier(features, item, truth[item], seed=0).p_yes, whole, atol=1e-5)


def test_logistic_regression_is_scikit_learns() -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 4))
    y = (rng.random(300) < special.expit(x @ [1.0, -2.0, 0.5, 0.0])).astype(float)
    theirs = linear_model.LogisticRegression(C=0.5, fit_intercept=False, tol=1e-10).fit(x, y).coef_[0]
    np.testing.assert_allclose(fit_logistic(x, y, np.full(4, 2.0)), theirs, atol=1e-4)
    started = fit_logistic(x, y, np.full(4, 2.0), start=np.array([5.0, 5.0, -5.0, 1.0]))
    np.testing.assert_allclose(started, theirs, atol=1e-4)


def test_knots_pay_on_skewed_scores() -> None:
    """Without knots the same regression predicts worse where log-odds are no straight line of the columns."""
    rng = np.random.default_rng(7)
    score = rng.beta(4.0, 0.4, 6000)  # most scores crowd near 1, as those of detectors do
    truth = rng.random(6000) < np.where(score > 0.999, 0.95, np.where(score > 0.95, 0.6, 0.15))
    project = ProjectPool.single(plain(np.clip(score, 0.0, 1.0)))
    item = rng.choice(6000, 800, replace=False)
    rest = np.setdiff1d(np.arange(6000), item)
    bent = make_features(project)
    with_knots, without = (
        log_loss(fit_verifier(f, item, truth[item], seed=0).p_yes[rest], truth[rest])
        for f in (bent, straight(bent))
    )
    assert with_knots < without - 0.005


def straight(features: Features) -> Features:
    """The same without knots."""
    width = features.columns.shape[1]
    nothing = np.zeros(0, np.float32)
    return replace(
        features,
        bends=np.zeros(0, np.int64),
        knot=nothing,
        mean=nothing,
        spread=nothing,
        penalty=features.penalty[:width],
    )


def _rows(pool: Pool, rows: slice) -> Pool:
    return Pool(pool.embedding[rows], pool.score[rows], pool.quality[rows], pool.extras[rows])
