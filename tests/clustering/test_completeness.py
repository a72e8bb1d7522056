"""Completeness: the cut, what is found on test pictures, and how often the bound on the share found holds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from clustering.completeness import Cut, KnownObjects, completeness, decision_cut, found_share


def test_the_cut_is_the_least_estimate_above_which_all_is_settled() -> None:
    p = np.array([0.9, 0.5, 0.8, 0.2, 0.1, 0.02])
    lost = np.array([0, 0, 0, 1, 0, 1], float)
    assert decision_cut(p, lost) == Cut(0.5, 1.0)
    assert decision_cut(p, np.zeros(6)) == Cut(0.02, 1.0)
    assert decision_cut(p, np.ones(6)).kept == 0.0
    assert decision_cut([], []).kept == 0.0


def test_a_single_open_mask_costs_one_mask_and_no_more() -> None:
    p = np.linspace(0.99, 0.5, 100)
    lost = np.zeros(100)
    lost[3] = 1.0
    cut = decision_cut(p, lost)
    assert cut.p == pytest.approx(0.5)
    assert cut.kept == pytest.approx(1.0 - 1.0 / p.sum())


def test_masks_of_equal_estimate_lie_on_the_same_side() -> None:
    assert decision_cut([0.9, 0.6, 0.6, 0.6], [0, 0, 1, 1]) == Cut(0.9, 1.0)
    assert decision_cut([0.9, 0.6, 0.6], [0, 0, 1]) == Cut(0.6, pytest.approx(1 - 1 / 2.1))


def _known(**columns: Any) -> KnownObjects:
    usual: dict[str, Any] = {
        "good": [True, True, False, True, True],
        "object": [0, 0, 1, 1, 0],
        "picture": [3, 3, 3, 3, 8],
        "label": [0, 0, 0, 1, 0],
        "pictures": [3, 8, 9],
        "objects": [[2, 1], [1, 0], [0, 4]],
    }
    return KnownObjects(**{name: np.array(value) for name, value in (usual | columns).items()})


def test_an_object_is_found_once_by_a_good_mask_above_the_cut() -> None:
    def shares(p_known: list[float], lost: list[float], **columns: Any) -> list[float]:
        label = np.array([0, 0, 1])
        found = completeness([0.9, 0.5, 0.4], lost, label, p_known, _known(**columns), others=50)
        assert found is not None
        assert found.whole.pictures == 3
        rows = [found.whole, *found.labels]
        assert all(row is not None and 0.0 <= row.lower <= row.share for row in rows)
        return [row.share for row in rows if row is not None]

    # two masks on one object, a bad one, one of the other label, one on another picture
    assert shares([0.9] * 5, [0, 0, 0]) == pytest.approx([3 / 8, 2 / 3, 1 / 5])
    assert shares([0.1, 0.1, 0.9, 0.9, 0.9], [0, 0, 0]) == pytest.approx([2 / 8, 1 / 3, 1 / 5])
    # the last mask of the pool is open, so nothing below .5 counts
    assert shares([0.9, 0.9, 0.9, 0.45, 0.9], [0, 0, 1]) == pytest.approx([2 / 8, 2 / 3, 0.0])
    # half lost to a wrong no: all of it of the first label
    halved = shares([0.9] * 5, [0.7, 0, 0])
    assert halved == pytest.approx([3 / 8 * (1 - 0.7 / 1.8), 2 / 3 * (1 - 0.7 / 1.4), 1 / 5])


def test_each_bound_fails_with_the_probability_that_was_asked_for() -> None:
    """The bounds of all labels and of one are those of ``found_share`` with the same delta."""
    pictures = np.arange(18)
    objects = np.column_stack([np.full(18, 3), np.full(18, 2)])
    columns = {
        "good": np.ones(18, bool),
        "object": np.zeros(18, int),
        "picture": pictures,
        "label": pictures % 2,
    }
    known = KnownObjects(**columns, pictures=pictures, objects=objects)  # type: ignore[arg-type]
    found = [(pictures % 2 == 0).astype(int), (pictures % 2).astype(int)]
    for delta in (0.01, 0.05, 0.2):
        got = completeness([0.9], [0], np.zeros(1, int), np.full(18, 0.9), known, others=50, delta=delta)
        assert got is not None
        assert got.whole == found_share(found[0] + found[1], objects.sum(axis=1), others=50, delta=delta)
        assert got.labels[0] == found_share(found[0], objects[:, 0], others=50, delta=delta)
        assert got.labels[1] == found_share(found[1], objects[:, 1], others=50, delta=delta)


def test_labels_that_nobody_drew_get_no_statement() -> None:
    nothing = _known(objects=[[2, 0], [1, 0], [0, 0]])
    found = completeness([0.9], [0], np.zeros(1, int), [0.9] * 3 + [0.1, 0.9], nothing, others=50)
    assert found is not None
    assert found.labels[1] is None
    empty = _known(objects=np.zeros((3, 2), int), good=np.zeros(5, bool))
    assert completeness([0.9], [0], np.zeros(1, int), [0.9] * 5, empty, others=50) is None


def test_wrong_columns_are_refused() -> None:
    with pytest.raises(ValueError, match="different lengths"):
        _known(good=[True])
    with pytest.raises(ValueError, match="not among"):
        _known(picture=[3, 3, 3, 3, 7])
    with pytest.raises(ValueError, match="rows of objects"):
        _known(pictures=[3, 8])
    with pytest.raises(ValueError, match="more objects found"):
        found_share([3], [2], others=5)
    with pytest.raises(ValueError, match="others"):
        found_share([1], [2], others=0)
    assert found_share([0, 0], [0, 0], others=5) is None


def test_pictures_that_are_all_right_tell_as_much_as_their_number() -> None:
    for k in (5, 18, 60):
        found = found_share([7] * k, [7] * k, others=10**6)
        assert found is not None
        # of equal pictures the exact bound is delta ** (1 / k) (Clopper & Pearson 1934)
        assert found.lower == pytest.approx(0.05 ** (1 / k), abs=0.01)
    whole, half = found_share([4, 9], [5, 9], others=9), found_share([4, 9], [5, 9], others=9, kept=0.5)
    assert whole is not None
    assert half is not None
    assert (half.lower, half.share) == (0.5 * whole.lower, 0.5 * whole.share)
    same = [found_share([7] * 20, [7] * 20, others=others) for others in (10, 1000)]
    assert same[0] is not None
    assert same[1] is not None
    assert same[0].lower < same[1].lower - 0.02, "chance in few other pictures counts, too"


@pytest.mark.parametrize("kind", ["all or nothing", "largest missed", "as good everywhere"])
@pytest.mark.parametrize("k", [5, 18])
def test_the_bound_holds_on_sets_of_very_different_pictures(kind: str, k: int) -> None:
    rng = np.random.default_rng(k)
    objects = np.maximum(1, np.exp(rng.normal(3.0, 1.0, 400)).round()).astype(int)
    share = {
        "all or nothing": (rng.random(400) < 0.85).astype(float),
        "largest missed": np.where(objects > np.quantile(objects, 0.85), 0.4, 0.95),
        "as good everywhere": np.full(400, 0.8),
    }[kind]
    found = rng.binomial(objects, share)
    broken, draws = 0, 300
    for _ in range(draws):
        order = rng.permutation(400)
        test, rest = order[:k], order[k:]
        bound = found_share(found[test], objects[test], others=len(rest), draws=400)
        assert bound is not None
        broken += bound.lower > found[rest].sum() / objects[rest].sum()
    assert broken <= 23, "more than 15 + 2 standard deviations of 300 draws at 5 %"
