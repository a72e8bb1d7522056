"""D = z(‖f_i−f_j‖) + z(|s_i−s_j|) against scipy's pdist and the definition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import pdist, squareform

from clustering.trees.distance import (
    Standardisation,
    check_columns,
    condensed_bytes,
    condensed_distances,
    sample_standardisation,
)


def _columns(n: int, dim: int = 5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(3.0, 2.0, (n, dim)), rng.random(n)


def _by_definition(embedding: np.ndarray, prior: np.ndarray) -> np.ndarray:
    def z(raw: np.ndarray) -> np.ndarray:
        scaled = (raw - raw.mean()) / raw.std()
        return scaled - scaled.min()

    return z(pdist(embedding)) + z(pdist(prior[:, None], "cityblock"))


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(3, 40),
    dim=st.integers(1, 9),
    seed=st.integers(0, 10**6),
    block=st.sampled_from([1, 400, 10**6]),
)
def test_equals_the_definition_whatever_the_block(n: int, dim: int, seed: int, block: int) -> None:
    embedding, prior = _columns(n, dim, seed)
    ours = condensed_distances(embedding, prior, block_bytes=block)
    np.testing.assert_allclose(ours, _by_definition(embedding, prior), atol=1e-6)


def test_is_not_below_zero_and_touches_it_without_the_prior() -> None:
    embedding, _ = _columns(30)
    ours = condensed_distances(embedding, np.full(30, 0.7))
    assert ours.min() == 0.0
    raw = pdist(embedding)
    np.testing.assert_allclose(ours, (raw - raw.min()) / raw.std(), atol=1e-9)


def test_float32_embeddings_far_from_the_origin_keep_their_digits() -> None:
    rng = np.random.default_rng(1)
    embedding = (1000.0 + rng.normal(size=(50, 16))).astype(np.float32)
    ours = condensed_distances(embedding, np.zeros(50))
    raw = pdist(embedding.astype(np.float64))
    np.testing.assert_allclose(ours, (raw - raw.min()) / raw.std(), atol=1e-5)


@pytest.mark.parametrize("n", [0, 1])
def test_no_pairs(n: int) -> None:
    assert condensed_distances(np.zeros((n, 3)), np.zeros(n)).shape == (0,)
    assert sample_standardisation(np.zeros((n, 3)), np.zeros(n), seed=0) == Standardisation(0.0, 0.0, 0.0)


@pytest.mark.parametrize("n", [2, 7])
def test_equal_instances_are_at_distance_zero(n: int) -> None:
    ours = condensed_distances(np.full((n, 3), 0.1), np.full(n, 0.3))
    np.testing.assert_array_equal(ours, np.zeros(n * (n - 1) // 2))


def test_given_scales_are_used_as_they_are() -> None:
    embedding, prior = _columns(12)
    ours = condensed_distances(embedding, prior, standardisation=Standardisation(2.0, 3.0, 0.0))
    np.testing.assert_allclose(ours, 2.0 * pdist(embedding) + 3.0 * pdist(prior[:, None]), atol=1e-9)


def test_order_is_that_of_scipy() -> None:
    embedding, prior = _columns(9)
    square = squareform(condensed_distances(embedding, prior, standardisation=Standardisation(1.0, 0.0, 0.0)))
    assert square[2, 7] == pytest.approx(np.linalg.norm(embedding[2] - embedding[7]))


def test_sampled_scales_are_near_the_exact_ones_and_repeat() -> None:
    embedding, prior = _columns(400, dim=8)
    sampled = sample_standardisation(embedding, prior, pairs=40_000, seed=3)
    assert sampled.appearance_scale == pytest.approx(1.0 / pdist(embedding).std(), rel=0.03)
    assert sampled.prior_scale == pytest.approx(1.0 / pdist(prior[:, None]).std(), rel=1e-6)
    assert sampled.shift == 0.0
    assert sampled == sample_standardisation(embedding, prior, pairs=40_000, seed=3)
    assert sampled != sample_standardisation(embedding, prior, pairs=40_000, seed=4)


def test_condensed_bytes_is_what_numpy_takes() -> None:
    assert condensed_bytes(100) == np.empty(100 * 99 // 2).nbytes


@pytest.mark.parametrize(
    ("embedding", "prior", "message"),
    [
        (np.zeros((3, 2)), np.zeros(4), r"expected \(n, d\) and \(n,\)"),
        (np.zeros(3), np.zeros(3), r"expected \(n, d\)"),
        (np.array([[0.0], [np.nan]]), np.zeros(2), "embedding holds a value that is not finite"),
        (np.zeros((2, 1)), np.array([0.0, np.inf]), "prior holds a value that is not finite"),
        (np.array([[np.inf], [-np.inf]]), np.zeros(2), "embedding holds"),
    ],
)
def test_bad_columns_are_named(embedding: np.ndarray, prior: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        condensed_distances(embedding, prior)


def test_integers_and_huge_finite_values_are_taken() -> None:
    features, quality = check_columns(np.array([[1], [2]]), [0, 1])
    assert features.dtype == np.float64
    assert quality.dtype == np.float64
    check_columns(np.full((4, 2), 1e308), np.zeros(4))
