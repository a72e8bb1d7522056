"""How well pictures are told apart by tag: mean average precision with bootstrap intervals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ml_backend.learners.classes.evaluation import average_precision

__all__ = ["tag_metrics"]

Floats = npt.NDArray[np.float64]


def tag_metrics(
    score: npt.NDArray[np.float32],
    tags: npt.NDArray[np.bool_],
    labels: Sequence[str],
    *,
    resamples: int = 200,
    seed: int = 0,
) -> dict[str, tuple[float, float, float]]:
    """``tags`` (mean AP over labels) and ``tags/<label>`` of ``score`` (n, C) against ``tags`` (n, C).

    A label that all pictures have, or none, says nothing and is left out; with no other label the result is
    empty. 95 % bootstrap over pictures.
    """
    n = len(score)
    judged = [k for k in range(len(labels)) if tags[:, k].any() and not tags[:, k].all()] if n else []
    if not judged:
        return {}
    draws = [np.arange(n), *np.random.default_rng(seed).integers(0, n, (resamples, n))]
    values = np.array([[_precision(score[d, k], tags[d, k]) for k in judged] for d in draws])
    found = {"tags": _interval(_means(values))}
    for place, k in enumerate(judged):
        found[f"tags/{labels[k]}"] = _interval(values[:, place])
    return found


def _precision(score: npt.NDArray[np.float32], is_true: npt.NDArray[np.bool_]) -> float:
    """Average precision; NaN without a true or a false one."""
    if is_true.all():
        return float("nan")
    return average_precision(score.astype(np.float64), is_true.astype(np.float64))


def _means(values: Floats) -> Floats:
    known = ~np.isnan(values)
    total = np.where(known, values, 0).sum(axis=1)
    return np.where(known.any(axis=1), total / np.maximum(known.sum(axis=1), 1), np.nan)


def _interval(values: Floats) -> tuple[float, float, float]:
    drawn = values[1:][~np.isnan(values[1:])]
    low, high = np.quantile(drawn, [0.025, 0.975]) if len(drawn) else (values[0], values[0])
    return float(values[0]), float(low), float(high)
