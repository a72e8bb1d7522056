"""One number per task, from its instances, by which tasks are ordered.

``confidence`` is what Label Studio gets as the score of a prediction. 1 = the model is sure of everything
it found, 0 = it is as uncertain as possible. Uncertainty sampling serves the lowest first.

The doubt about an instance is a sum of two parts. One is high when the class score is near one half (Lewis &
Gale 1994). The other is high when the mask is probably wrong (low predicted IoU), weighted by the probability
that the object exists. The k most doubtful instances are averaged. A sum would favour crowded pictures, the
maximum would depend on a single stray box, and a mean over all would hide a hard object among easy ones. A
picture without detections may be empty, or all its objects may be missed, so it gets a middle value.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from ml_backend.instances import Instances

__all__ = ["confidence", "instance_doubt"]

TOP_K: Final = 5
NOTHING_FOUND: Final = 0.5


def instance_doubt(
    score: npt.NDArray[np.float32], quality: npt.NDArray[np.float32]
) -> npt.NDArray[np.float64]:
    """(n,) doubt in 0..1 about each instance: 0 = surely right, or surely not an object; 1 = as uncertain as
    possible.

    ``4 s (1 - s)`` is 1 at a class score of one half; ``s (1 - q)`` is the chance that an object is there
    whose mask is wrong.
    """
    s = np.clip(np.nan_to_num(score.astype(np.float64)), 0.0, 1.0)
    q = np.clip(np.nan_to_num(quality.astype(np.float64)), 0.0, 1.0)
    return np.asarray(np.minimum(4.0 * s * (1.0 - s) + s * (1.0 - q), 1.0), np.float64)


def confidence(instances: Instances, *, top_k: int = TOP_K) -> float:
    """Score of a task in 0..1: 1 minus the mean doubt of its ``top_k`` most doubtful instances.

    1 = nothing to correct is expected, 0 = least certain (served first); 0.5 when nothing was found.
    """
    if top_k < 1:
        raise ValueError(f"top_k must be at least 1, got {top_k}")
    if len(instances) == 0:
        return NOTHING_FOUND
    doubt = np.sort(instance_doubt(instances.score, instances.quality))[::-1]
    return float(1.0 - doubt[:top_k].mean())
