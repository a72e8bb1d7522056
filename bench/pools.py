"""Synthetic pools with known truth, of any size, for the benchmarks of trees, search and economy."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from clustering.pool import Pool

__all__ = ["CORRECT_IOU", "make_pool"]

CORRECT_IOU = 0.75
"""A mask counts as correct iff its true IoU is above this (Papadopoulos et al. 2021)."""

_LATENT = 8
_CENTRES = 200
_BLOCK = 65536
_TASTE = np.array([1.0, 0.7, 0.4, 0.2, 0.0, 0.0, 0.0, 0.0])


def make_pool(n: int, *, seed: int = 0, dim: int = 128) -> tuple[Pool, npt.NDArray[np.float32]]:
    """Draw a pool of one label whose embedding tells something about the quality of its masks.

    An instance has an 8-d latent z = centre + 0.6·N(0, I), with 200 centres 3·N(0, I) of Dirichlet(1)
    weights; its embedding is a noisy random projection of z. Its expected IoU is
    g = 0.30 + 0.62·sigmoid(0.9·z·w), its true IoU Beta(14g, 14(1−g)); ``quality`` is the IoU seen with
    noise and ``score`` is g seen with noise, floored at 0.5.

    Parameters
    ----------
    n : number of instances, 0 or more
    seed : the same n, seed and dim give the same pool
    dim : length of the embedding

    Returns
    -------
    pool : Pool of n rows, embedding (n, dim) float32, no extras
    iou : (n,) float32 in 0..1, the true mask IoU; a mask is correct iff it is above ``CORRECT_IOU``

    Raises
    ------
    ValueError : n is negative or dim is not positive

    Time O(n·dim), memory the embedding plus one block of 65,536 rows.
    """
    if n < 0 or dim < 1:
        raise ValueError(f"n is {n} and dim {dim}: a pool needs n >= 0 and dim >= 1")
    rng = np.random.default_rng(seed)
    centres = 3.0 * rng.standard_normal((_CENTRES, _LATENT))
    weights = rng.dirichlet(np.ones(_CENTRES))
    latent = centres[rng.choice(_CENTRES, size=n, p=weights)]
    latent += 0.6 * rng.standard_normal((n, _LATENT))
    projection = (rng.standard_normal((_LATENT, dim)) / np.sqrt(_LATENT)).astype(np.float32)
    embedding = np.empty((n, dim), np.float32)
    for low in range(0, n, _BLOCK):  # float32 noise by the block: a million rows stay near half a gigabyte
        rows = slice(low, min(low + _BLOCK, n))
        noise = rng.standard_normal((rows.stop - low, dim), dtype=np.float32)
        embedding[rows] = latent[rows].astype(np.float32) @ projection + np.float32(0.3) * noise
    taste = _TASTE / np.linalg.norm(_TASTE)
    expected = 0.30 + 0.62 / (1.0 + np.exp(-0.9 * (latent @ taste)))
    iou = rng.beta(14.0 * expected, 14.0 * (1.0 - expected))
    quality = np.clip(iou + 0.03 + 0.12 * rng.standard_normal(n), 0.0, 1.0)
    score = np.clip(0.60 + 0.38 * expected + 0.10 * rng.standard_normal(n), 0.5, 1.0)
    pool = Pool(
        embedding=embedding,
        score=score.astype(np.float32),
        quality=quality.astype(np.float32),
        extras=np.zeros((n, 0), np.float32),
    )
    return pool, iou.astype(np.float32)
