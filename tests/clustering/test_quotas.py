"""Quotas per class: full permutations, shares in every prefix, nothing stolen by the class listed first."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from clustering.quotas import NOTHING, apply_quotas, shares_of


def _single(labels: list[int], k: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """One class per task; -1 is nothing."""
    found = np.zeros((len(labels), k), bool)
    rows = [i for i, label in enumerate(labels) if label >= 0]
    found[rows, [labels[i] for i in rows]] = True
    return found


def test_every_prefix_is_within_one_of_its_shares() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(-1, 3, 4000)
    shares = np.array([0.5, 0.25, 0.05, 0.2])
    order = rng.permutation(len(labels))
    served = apply_quotas(order, _single(labels.tolist(), 3), shares)
    assert sorted(served.tolist()) == list(range(len(labels)))
    kind = np.where(labels < 0, 3, labels)[served]
    enough = int(min(np.bincount(kind, minlength=4) / shares))
    for name in range(4):
        held = np.cumsum(kind[:enough] == name)
        assert np.abs(held - shares[name] * np.arange(1, enough + 1)).max() <= 1.0 + 1e-9
    place = np.empty(len(order), int)
    place[order] = np.arange(len(order))
    for name in range(4):  # the wanted order holds inside each class
        assert (np.diff(place[served[kind == name]]) > 0).all()


def test_what_a_class_lacks_goes_to_the_others_in_proportion() -> None:
    labels = [0] * 4 + [1] * 300 + [2] * 300 + [-1] * 300
    served = apply_quotas(np.arange(904), _single(labels, 3), np.array([0.4, 0.3, 0.1, 0.2]))
    first = np.array(labels)[served[:100]]
    counts = {name: int((first == name).sum()) for name in (0, 1, 2, -1)}
    assert counts[0] == 4
    assert counts[1] == pytest.approx(96 * 0.3 / 0.6, abs=1)
    assert counts[2] == pytest.approx(96 * 0.1 / 0.6, abs=1)
    assert counts[-1] == pytest.approx(96 * 0.2 / 0.6, abs=1)


def test_the_order_of_the_labels_does_not_matter() -> None:
    rng = np.random.default_rng(1)
    found = rng.random((500, 4)) < [0.5, 0.3, 0.1, 0.05]
    shares = np.array([0.1, 0.2, 0.3, 0.25, 0.15])
    order = rng.permutation(500)
    served = apply_quotas(order, found, shares)
    turned = apply_quotas(order, found[:, ::-1], np.append(shares[3::-1], shares[4]))
    assert served.tolist() == turned.tolist()


def test_pictures_of_several_classes_are_not_taken_for_the_class_listed_first() -> None:
    # classes 0 and 1 always come together; each is to be seen as often as class 2
    found = np.array([[True, True, False]] * 300 + [[False, False, True]] * 300)
    served = apply_quotas(np.arange(600), found, np.array([1 / 3, 1 / 3, 1 / 3, 0.0]))
    for size in (30, 90, 300):
        assert found[served[:size], 2].sum() == pytest.approx(size / 3, abs=1)


def test_pictures_without_a_find_have_a_share_of_their_own() -> None:
    found = _single([-1] * 50 + [0] * 50, 1)
    served = apply_quotas(np.arange(100), found, np.array([0.9, 0.1]))
    assert (served[:20] < 50).sum() == 2
    none = apply_quotas(np.arange(100), found, np.array([1.0, 0.0]))
    assert none.tolist() == [*range(50, 100), *range(50)], "no share: at the end"


def test_classes_without_a_share_do_not_count() -> None:
    found = np.array([[True, True], [True, False], [False, True], [False, False]])
    served = apply_quotas(np.array([1, 3, 0, 2]), found, np.array([0.0, 1.0, 0.0]))
    assert served.tolist() == [0, 2, 1, 3]


def test_nothing_to_order() -> None:
    assert apply_quotas(np.zeros(0, int), np.zeros((0, 2), bool), np.array([0.5, 0.5, 0.0])).tolist() == []
    served = apply_quotas(np.array([1, 0]), np.zeros((2, 0), bool), np.array([1.0]))
    assert served.tolist() == [1, 0]


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="2 shares for 2 classes"):
        apply_quotas(np.arange(3), np.zeros((3, 2), bool), np.array([0.5, 0.5]))
    with pytest.raises(ValueError, match="each of 3 tasks once"):
        apply_quotas(np.array([0, 0, 1]), np.zeros((3, 1), bool), np.array([0.5, 0.5]))


def test_shares_are_one_per_label_and_one_for_nothing() -> None:
    assert shares_of({"a": 0.5, "b": 0.295, NOTHING: 0.2}, ["b", "a"]).sum() == pytest.approx(1)
    assert shares_of({"a": 0.5, "b": 0.3, NOTHING: 0.2}, ["b", "a"]).tolist() == pytest.approx(
        [0.3, 0.5, 0.2]
    )


@pytest.mark.parametrize(
    ("balance", "labels", "said"),
    [
        ({"a": 1.0}, ["a"], "no share of 'NULL'"),
        ({"a": 0.5, "NULL": 0.2, "c": 0.3}, ["a"], "'c' is no label"),
        ({"a": 0.5, "NULL": 0.4}, ["a"], "sum to 0.9"),
        ({"a": 1.5, "NULL": -0.5}, ["a"], "from 0 to 1"),
        ({"a": float("nan"), "NULL": 0.5}, ["a"], "from 0 to 1"),
        ({"NULL": 1.0}, ["NULL"], "cannot be told"),
    ],
)
def test_wrong_shares_are_refused(balance: dict[str, float], labels: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        shares_of(balance, labels)
