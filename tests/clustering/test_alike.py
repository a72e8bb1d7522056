"""Similarity to given points, and the choice with limits."""

from __future__ import annotations

import numpy as np
import pytest

from clustering.alike import alikeness, apart, best_rows, rank_score, scaling_of


def test_scaled_rows_have_length_one_and_constant_numbers_tell_nothing() -> None:
    rng = np.random.default_rng(0)
    points = rng.normal(5, 3, (200, 4)).astype(np.float32)
    points[:, 2] = 7
    scale = scaling_of(points)
    scaled = scale(points)
    assert np.linalg.norm(scaled, axis=1) == pytest.approx(np.ones(200), abs=1e-5)
    assert not scaled[:, 2].any()
    odd = points[:1].copy()
    odd[:, 2] = 1e9
    assert scale(odd) == pytest.approx(scaled[:1])
    assert scaling_of(points[:0])(points).shape == (200, 4)


def test_what_looks_like_the_wanted_comes_first() -> None:
    rng = np.random.default_rng(1)
    groups = [
        centre + rng.normal(0, 0.1, (20, 3)).astype(np.float32) for centre in np.eye(3, dtype=np.float32)
    ]
    points = np.concatenate(groups)
    found = alikeness(points, groups[0][:1])
    assert found[:20].min() > found[20:].max()
    assert ((found >= 0) & (found <= 1)).all()


def test_looking_like_a_whole_object_counts_half() -> None:
    alike, objectness = np.array([0.8, 0.8, 0.6, 1.0]), np.array([0.2, 0.6, 0.7, 1.0])
    found = rank_score(alike, objectness)
    assert found[1] > found[0]
    assert found[2] > found[0], "0.25 more of an object make up for 0.2 less alike"
    assert found[3] == pytest.approx(1.0)
    assert rank_score(np.zeros(1), np.zeros(1)).tolist() == [0.0]


def test_one_odd_example_does_not_decide() -> None:
    wanted = np.array([[1, 0], [1, 0.05], [1, -0.05], [0, 1]], np.float32)
    found = alikeness(np.array([[1, 0], [0, 1]], np.float32), wanted)
    assert found[0] > found[1] + 0.2


def test_of_clashing_rows_the_best_stays() -> None:
    clash = np.eye(4, dtype=bool)
    clash[0, 1] = clash[1, 0] = clash[1, 2] = clash[2, 1] = True
    assert apart(np.array([0.5, 0.9, 0.6, 0.1]), clash).tolist() == [1, 3]
    assert apart(np.array([0.9, 0.5, 0.6, 0.1]), clash).tolist() == [0, 2, 3]


def test_the_best_rows_keep_to_their_share() -> None:
    score = np.array([0.9, 0.8, 0.7, 0.6, 0.5])
    picture = [1, 1, 1, 2, 2]
    assert best_rows(score, picture, most=3, per_picture=2).tolist() == [0, 1, 3]
    assert best_rows(score, picture, most=9, per_picture=1).tolist() == [0, 3]
    assert best_rows(score[:0], [], most=3, per_picture=1).tolist() == []
