"""The columns of a pool are checked once, at the edge."""

from __future__ import annotations

import numpy as np
import pytest

from clustering.pool import Pool


def _columns(n: int = 3) -> dict[str, np.ndarray]:
    return {
        "embedding": np.ones((n, 4), np.float32),
        "score": np.full(n, 0.5, np.float32),
        "quality": np.full(n, 0.8, np.float32),
        "extras": np.zeros((n, 0), np.float32),
    }


@pytest.mark.parametrize("n", [0, 1, 3])
def test_prior_is_the_product_of_score_and_quality(n: int) -> None:
    pool = Pool(**_columns(n))
    assert len(pool) == n
    np.testing.assert_allclose(pool.prior, np.full(n, 0.4, np.float32))
    assert pool.prior.dtype == np.float32


@pytest.mark.parametrize("name", ["embedding", "quality", "extras"])
def test_columns_of_different_length_are_refused(name: str) -> None:
    columns = _columns()
    columns[name] = columns[name][:2]
    with pytest.raises(ValueError, match=f"{name} has 2 rows, score has 3"):
        Pool(**columns)


@pytest.mark.parametrize("name", ["embedding", "score", "quality"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused_with_their_row(name: str, value: float) -> None:
    columns = _columns()
    columns[name][1] = value
    with pytest.raises(ValueError, match=f"{name} is not finite in row 1"):
        Pool(**columns)
