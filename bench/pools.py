"""Synthetic pools with known truth, of any size, for the benchmarks of trees, search and economy.

An instance has an 8-d latent z; its embedding is a noisy random projection of z. Its expected IoU is a
function of z, its true IoU Beta-distributed around that. ``quality`` is the IoU and ``score`` the expected
IoU as the detector sees them. ``KINDS`` says in what the kinds of pools differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clustering.arrays import Floats
from clustering.pool import Pool

__all__ = ["CORRECT_IOU", "KINDS", "Kind", "LabelPool", "make_labels", "make_pool"]

CORRECT_IOU = 0.75
"""A mask counts as correct iff its true IoU is above this (Papadopoulos et al. 2021)."""

_LATENT = 8
_CENTRES, _CENTRES_OF_MANY = 200, 5
_BLOCK = 65536
_TASTE = np.array([1.0, 0.7, 0.4, 0.2, 0.0, 0.0, 0.0, 0.0])
_SPREAD = 3.1
"""Standard deviation of the part of the latent that decides about quality: that of 3·N(0, 1) centres."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """In what a kind of generated pool differs from the others.

    Attributes
    ----------
    quality_sd, score_sd : how far the detector's two numbers are off
    traps : share of clusters whose masks are bad (expected IoU 0.5), although the detector sees the best
    hidden : share of the variance of the expected IoU (on the scale of its log-odds) that the embedding does
        not show; ``quality`` still sees it
    blind : score and quality are noise alone
    labels : number of labels
    zipf : sizes of the labels fall as 1 / rank; otherwise all are the same
    base_sd : how far the labels differ in the log-odds of their quality
    """

    quality_sd: float = 0.12
    score_sd: float = 0.10
    traps: float = 0.0
    hidden: float = 0.0
    blind: bool = False
    labels: int = 1
    zipf: bool = False
    base_sd: float = 0.0


KINDS: dict[str, Kind] = {
    "strong": Kind(),
    "weak": Kind(quality_sd=0.3, score_sd=0.2),
    "overconfident": Kind(traps=0.2),
    "hidden": Kind(hidden=0.4, quality_sd=0.25, score_sd=0.2),
    "blind": Kind(blind=True),
    "labels20": Kind(labels=20, quality_sd=0.2, score_sd=0.15, base_sd=1.0),
    "labels80": Kind(labels=80, zipf=True, quality_sd=0.2, score_sd=0.15, base_sd=1.0),
}
"""``strong`` flatters: quality and IoU correlate by 0.9. With the noise of the IoU itself, about 60 % of its
variance are not in the embedding of ``hidden`` pools. ``labels20`` of 5,000 masks are 20 labels of 250."""


@dataclass(frozen=True, slots=True, eq=False)
class LabelPool:
    """The generated pool of one label, and the true IoU (n,) of its masks."""

    label: str
    pool: Pool
    iou: npt.NDArray[np.float32]


def make_pool(
    n: int, *, seed: int = 0, dim: int = 128, kind: Kind | None = None
) -> tuple[Pool, npt.NDArray[np.float32]]:
    """Draw a pool of one label.

    The latent is z = centre + 0.6·N(0, I), with 200 centres 3·N(0, I) of Dirichlet(1) weights; the expected
    IoU is g = 0.30 + 0.62·sigmoid(0.9·z·w), the true IoU Beta(14g, 14(1−g)).

    Parameters
    ----------
    n : number of instances, 0 or more
    seed : the same n, seed, dim and kind give the same pool
    dim : length of the embedding
    kind : None = ``KINDS["strong"]``; its labels are not read

    Returns
    -------
    pool : Pool of n rows, embedding (n, dim) float32, no extras
    iou : (n,) float32 in 0..1, the true mask IoU; a mask is correct iff it is above ``CORRECT_IOU``

    Raises
    ------
    ValueError : n is negative or dim is not positive

    Time O(n·dim), memory the embedding plus one block of 65,536 rows.
    """
    made = _make([n], kind or KINDS["strong"], seed, dim)[0]
    return made.pool, made.iou


def make_labels(name: str, n: int, *, seed: int = 0, dim: int = 128) -> list[LabelPool]:
    """Draw the pool of a project, ``n`` masks of all labels together, of the kind ``KINDS[name]``.

    Where there are several labels, each has 5 clusters of its own and its own share of good masks. Raises
    ValueError for an unknown kind, a negative n, or fewer than 5 masks per label.
    """
    if name not in KINDS:
        raise ValueError(f"no kind of pool is named {name!r}; choose one of {', '.join(KINDS)}")
    kind = KINDS[name]
    if kind.labels > 1 and n < 5 * kind.labels:
        raise ValueError(f"{n} masks of {kind.labels} labels: at least 5 each are needed")
    return _make(_sizes(n, kind), kind, seed, dim)


def _sizes(n: int, kind: Kind) -> list[int]:
    weight = 1.0 / np.arange(1, kind.labels + 1) if kind.zipf else np.ones(kind.labels)
    least = 5 if kind.labels > 1 else 0
    free = n - least * kind.labels
    ends = np.round(np.cumsum(weight) / weight.sum() * free).astype(int)
    return (least + np.diff(np.concatenate([[0], ends]))).tolist()


def _make(sizes: Sequence[int], kind: Kind, seed: int, dim: int) -> list[LabelPool]:
    if min(sizes) < 0 or dim < 1:
        raise ValueError(f"n is {min(sizes)} and dim {dim}: a pool needs n >= 0 and dim >= 1")
    rng = np.random.default_rng(seed)
    # whatever a kind adds is drawn from a second stream, so that all kinds of one seed share their latents
    more = np.random.default_rng([seed, 1])
    centres_each = _CENTRES if len(sizes) == 1 else _CENTRES_OF_MANY
    base = kind.base_sd * more.standard_normal(len(sizes))
    projection: npt.NDArray[np.float32] | None = None
    made: list[LabelPool] = []
    for number, n in enumerate(sizes):
        centres = 3.0 * rng.standard_normal((centres_each, _LATENT))
        weights = rng.dirichlet(np.ones(centres_each))
        centre = rng.choice(centres_each, size=n, p=weights)
        latent = centres[centre]
        latent += 0.6 * rng.standard_normal((n, _LATENT))
        if projection is None:  # one network embeds all labels
            projection = (rng.standard_normal((_LATENT, dim)) / np.sqrt(_LATENT)).astype(np.float32)
        embedding = _embed(latent, projection, rng)
        taste = _TASTE / np.linalg.norm(_TASTE)
        shown = latent @ taste + base[number]
        if kind.hidden:
            unseen = _SPREAD * more.standard_normal(n)
            decides = np.sqrt(1.0 - kind.hidden) * shown + np.sqrt(kind.hidden) * unseen
        else:
            decides = shown
        expected, seen = _expected(decides), _expected(shown)
        trap = np.flatnonzero(more.random(centres_each) < kind.traps)
        trapped = np.isin(centre, trap)
        truly = np.where(trapped, 0.5, expected)
        iou = rng.beta(14.0 * truly, 14.0 * (1.0 - truly))
        looks = np.where(trapped, more.beta(14.0 * 0.9, 14.0 * 0.1, n), iou) if len(trap) else iou
        quality = np.clip(looks + 0.03 + kind.quality_sd * rng.standard_normal(n), 0.0, 1.0)
        score = np.clip(
            0.60 + 0.38 * np.where(trapped, 0.9, seen) + kind.score_sd * rng.standard_normal(n), 0.5, 1.0
        )
        if kind.blind:
            quality, score = more.uniform(0.4, 1.0, n), more.uniform(0.5, 1.0, n)
        pool = Pool(
            embedding=embedding,
            score=score.astype(np.float32),
            quality=quality.astype(np.float32),
            extras=np.zeros((n, 0), np.float32),
        )
        made.append(LabelPool(f"label {number}", pool, iou.astype(np.float32)))
    return made


def _expected(decides: Floats) -> Floats:
    return np.asarray(0.30 + 0.62 / (1.0 + np.exp(-0.9 * decides)), np.float64)


def _embed(
    latent: Floats, projection: npt.NDArray[np.float32], rng: np.random.Generator
) -> npt.NDArray[np.float32]:
    n, dim = len(latent), projection.shape[1]
    embedding = np.empty((n, dim), np.float32)
    for low in range(0, n, _BLOCK):  # float32 noise by the block: a million rows stay near half a gigabyte
        rows = slice(low, min(low + _BLOCK, n))
        noise = rng.standard_normal((rows.stop - low, dim), dtype=np.float32)
        embedding[rows] = latent[rows].astype(np.float32) @ projection + np.float32(0.3) * noise
    return embedding
