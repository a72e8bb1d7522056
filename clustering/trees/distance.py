"""Distance between masks: appearance plus predicted quality (Papadopoulos et al., ICCV 2021).

D(i, j) = z(‖f_i − f_j‖₂) + z(|s_i − s_j|). Here f is the embedding of a mask and s its prior. z divides by
the standard deviation over all pairs and subtracts the smallest value. The quality term makes large pure
clusters appear near the root.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clustering.arrays import Floats

__all__ = [
    "BLOCK_BYTES",
    "Standardisation",
    "check_columns",
    "condensed_bytes",
    "condensed_distances",
    "sample_standardisation",
]


BLOCK_BYTES = 64 << 20
"""Temporary memory of one block of rows in bytes; larger blocks are not faster."""


@dataclass(frozen=True, slots=True)
class Standardisation:
    """The three numbers that turn two raw distances into D.

    ``D = appearance_scale·‖f_i−f_j‖ + prior_scale·|s_i−s_j| − shift``. A scale is 1/standard deviation over
    the pairs, or 0 where all pairs are equally far apart. ``shift`` is the sum of the two scaled minima: it
    moves every height by the same amount and changes no merge.
    """

    appearance_scale: float
    prior_scale: float
    shift: float


def check_columns(embedding: npt.ArrayLike, prior: npt.ArrayLike) -> tuple[Floats, Floats]:
    """The two columns as arrays of floats, checked.

    Returns
    -------
    embedding : (n, d) floating, as given where it already is floating
    prior : (n,) float64

    Raises
    ------
    ValueError : wrong number of axes, different lengths, or a value that is not finite
    """
    features = np.asarray(embedding)
    if features.dtype not in (np.float32, np.float64):
        features = features.astype(np.float64)
    quality = np.asarray(prior, np.float64)
    if features.ndim != 2 or quality.ndim != 1 or len(features) != len(quality):
        raise ValueError(
            f"embedding is {features.shape}, prior {quality.shape}: expected (n, d) and (n,) with the same n"
        )
    for name, column in (("embedding", features), ("prior", quality)):
        # cheap test first: where a sum is finite, all its values are
        with np.errstate(over="ignore", invalid="ignore"):
            total = column.sum(dtype=np.float64)
        if not np.isfinite(total) and not np.isfinite(column).all():
            raise ValueError(f"{name} holds a value that is not finite: drop those instances first")
    return features, quality


def condensed_bytes(n: int) -> int:
    """Bytes of the condensed float64 matrix of n instances: 8·n(n−1)/2."""
    return 4 * n * (n - 1)


def condensed_distances(
    embedding: npt.ArrayLike,
    prior: npt.ArrayLike,
    *,
    standardisation: Standardisation | None = None,
    block_bytes: int = BLOCK_BYTES,
) -> Floats:
    """D of all pairs in the condensed order of scipy and fastcluster.

    Parameters
    ----------
    embedding : (n, d) floating
    prior : (n,) floating, s of each mask
    standardisation : scales to use; None = exactly those of these n instances
    block_bytes : temporary memory of the row blocks

    Returns
    -------
    (n(n−1)/2,) float64, pair (i, j) with i < j at i·n − i(i+1)/2 + j − i − 1

    Raises
    ------
    ValueError : see ``check_columns``

    Time O(n²d), memory the result plus ``block_bytes``.
    """
    features, quality = check_columns(embedding, prior)
    n = len(features)
    result = np.empty(n * (n - 1) // 2, np.float64)
    if n < 2:
        return result
    # centred: far from the origin ‖a‖² + ‖b‖² − 2a·b would lose digits
    centred = features - features.mean(axis=0, dtype=np.float64)
    squared = np.einsum("ij,ij->i", centred, centred)
    rows = max(1, block_bytes // (8 * n))
    for low in range(0, n - 1, rows):
        high = min(low + rows, n - 1)
        block = _euclidean(centred[low:high], squared[low:high], centred[low:], squared[low:])
        for i in range(low, high):  # one contiguous copy per row
            begin = _row_start(i, n)
            result[begin : begin + n - 1 - i] = block[i - low, i - low + 1 :]
    scales = standardisation or _exact_standardisation(result, quality)
    _add_prior(result, quality, scales, block_bytes)
    return result


def sample_standardisation(
    embedding: npt.ArrayLike, prior: npt.ArrayLike, *, pairs: int = 200_000, seed: int
) -> Standardisation:
    """The scales of a pool too large for all pairs, from ``pairs`` random pairs.

    The shift is 0: a sample does not know the smallest distance, and a constant changes no merge.

    Parameters
    ----------
    embedding : (n, d) floating; prior : (n,) floating
    seed : the same seed gives the same pairs

    Raises
    ------
    ValueError : see ``check_columns``

    Time O(pairs·d), memory O(pairs) plus one block.
    """
    features, quality = check_columns(embedding, prior)
    n = len(features)
    if n < 2:
        return Standardisation(0.0, 0.0, 0.0)
    rng = np.random.default_rng(seed)
    first = rng.integers(0, n, pairs)
    second = (first + rng.integers(1, n, pairs)) % n  # never the instance itself
    appearance = np.empty(pairs, np.float64)
    step = max(1, BLOCK_BYTES // (8 * max(1, features.shape[1])))
    for low in range(0, pairs, step):
        part = slice(low, low + step)
        gap = features[first[part]].astype(np.float64) - features[second[part]]
        appearance[part] = np.sqrt(np.einsum("ij,ij->i", gap, gap))
    return Standardisation(
        _inverse(float(appearance.std()), float(appearance.max())),
        _inverse(_prior_deviation(quality), float(np.abs(quality).max())),
        0.0,
    )


def _row_start(i: int, n: int) -> int:
    return i * n - i * (i + 1) // 2


def _euclidean(a: Floats, squared_a: Floats, b: Floats, squared_b: Floats) -> Floats:
    block: Floats = a @ b.T
    block *= -2.0
    block += squared_a[:, None]
    block += squared_b[None, :]
    np.maximum(block, 0.0, out=block)  # rounding may leave a tiny negative square
    return np.sqrt(block, out=block)


def _inverse(deviation: float, magnitude: float) -> float:
    """1/deviation; 0 where the deviation is no more than rounding, for values of that magnitude."""
    return 1.0 / deviation if deviation > 1e-7 * magnitude else 0.0


def _prior_deviation(prior: Floats) -> float:
    """Standard deviation of |s_i − s_j| over all pairs, in closed form: O(n log n)."""
    n = len(prior)
    ordered = np.sort(prior - prior.mean())
    pairs = n * (n - 1) / 2.0
    mean = float((ordered * (2.0 * np.arange(n) - n + 1.0)).sum()) / pairs
    square = float(n * (ordered**2).sum() - ordered.sum() ** 2) / pairs
    return float(np.sqrt(max(square - mean**2, 0.0)))


def _exact_standardisation(appearance: Floats, prior: Floats) -> Standardisation:
    largest = float(appearance.max())
    # two-pass variance in blocks: no temporary of the size of the matrix
    mean = float(appearance.mean())
    step = BLOCK_BYTES // 8
    total = 0.0
    for low in range(0, len(appearance), step):
        gap = appearance[low : low + step] - mean
        total += float(gap @ gap)
    appearance_scale = _inverse(float(np.sqrt(total / len(appearance))), largest)
    prior_scale = _inverse(_prior_deviation(prior), float(np.abs(prior).max()))
    closest = float(np.diff(np.sort(prior)).min())
    shift = appearance_scale * float(appearance.min()) + prior_scale * closest
    return Standardisation(appearance_scale, prior_scale, shift)


def _add_prior(condensed: Floats, prior: Floats, scales: Standardisation, block_bytes: int) -> None:
    n = len(prior)
    scaled = prior * scales.prior_scale
    buffer = np.empty(n, np.float64)
    for i in range(n - 1):
        row = condensed[_row_start(i, n) : _row_start(i, n) + n - 1 - i]
        gap = np.subtract(scaled[i + 1 :], scaled[i], out=buffer[: n - 1 - i])
        np.abs(gap, out=gap)
        row *= scales.appearance_scale
        row += gap
        row -= scales.shift
        np.maximum(row, 0.0, out=row)  # rounding around the smallest distance
