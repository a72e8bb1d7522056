"""Generated pools: each kind is hard in the way it says."""

from __future__ import annotations

import numpy as np
import pytest

from bench.pools import CORRECT_IOU, KINDS, LabelPool, make_labels, make_pool


def correlation(kind: str, column: str) -> float:
    made = make_labels(kind, 4000, seed=1, dim=16)
    values = np.concatenate([getattr(part.pool, column) for part in made])
    return float(np.corrcoef(values, np.concatenate([part.iou for part in made]))[0, 1])


@pytest.mark.parametrize("kind", list(KINDS))
def test_the_same_seed_gives_the_same_pools(kind: str) -> None:
    def made(seed: int) -> list[LabelPool]:
        return make_labels(kind, 1000, seed=seed, dim=4)

    assert sum(len(part.pool) for part in made(0)) == 1000
    for first, second in zip(made(0), made(0), strict=True):
        np.testing.assert_array_equal(first.iou, second.iou)
        np.testing.assert_array_equal(first.pool.embedding, second.pool.embedding)
    assert made(0)[0].iou.tolist() != made(1)[0].iou.tolist()


def test_heads_are_strong_weak_or_useless() -> None:
    assert correlation("strong", "quality") > 0.85
    assert correlation("weak", "quality") < 0.7
    assert correlation("weak", "score") < correlation("strong", "score") - 0.1
    assert abs(correlation("blind", "quality")) < 0.1
    assert abs(correlation("blind", "score")) < 0.1


def test_overconfident_pools_hold_clusters_of_bad_masks_that_look_best() -> None:
    pool, iou = make_pool(4000, seed=1, dim=16, kind=KINDS["overconfident"])
    strong = make_pool(4000, seed=1, dim=16)
    best = np.argsort(-pool.prior)[:400]
    assert (iou[best] > CORRECT_IOU).mean() < 0.75
    assert (strong[1][np.argsort(-strong[0].prior)[:400]] > CORRECT_IOU).mean() > 0.95
    np.testing.assert_array_equal(pool.embedding, strong[0].embedding)


def test_hidden_quality_is_not_in_the_embedding() -> None:
    def seen(kind: str) -> float:
        pool, iou = make_pool(6000, seed=1, dim=16, kind=KINDS[kind])
        fit, test = np.arange(0, 6000, 2), np.arange(1, 6000, 2)
        # the IoU of the nearest neighbours says what an embedding can tell
        near = [int(((pool.embedding[fit] - pool.embedding[row]) ** 2).sum(axis=1).argmin()) for row in test]
        return float(np.corrcoef(iou[fit][near], iou[test])[0, 1])

    assert seen("hidden") < 0.55
    assert seen("strong") > 0.65


def test_labels_differ_in_size_and_purity() -> None:
    twenty = make_labels("labels20", 5000, seed=0, dim=4)
    assert [len(part.pool) for part in twenty] == [250] * 20
    shares = [float((part.iou > CORRECT_IOU).mean()) for part in twenty]
    assert min(shares) < 0.15
    assert max(shares) > 0.6
    eighty = [len(part.pool) for part in make_labels("labels80", 5000, seed=0, dim=4)]
    assert len(eighty) == 80
    assert sum(eighty) == 5000
    assert eighty[0] > 8 * eighty[20] > 0
    assert min(eighty) >= 5
    with pytest.raises(ValueError, match="at least 5"):
        make_labels("labels80", 100)
    with pytest.raises(ValueError, match="magic"):
        make_labels("magic", 100)
