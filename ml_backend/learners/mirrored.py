"""Test-time augmentation: does the model find the same on the mirrored picture?

After CALD (Yu et al. 2022, arXiv 2103.10374), which compares boxes and class probabilities of a picture and
of changed copies of it. It takes a second look at each picture, so finding takes twice as long.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco

from ml_backend.instances import Instances
from ml_backend.learners.base import Predictor
from ml_backend.learners.uncertainty import SHOWN_FROM
from ml_backend.masks.rle import decode_rle

__all__ = ["disagreement", "predict_twice"]

_PARTNER_FROM = 0.1
"""class score from which an instance counts as found again"""


def predict_twice(
    predictor: Predictor, images: Sequence[npt.NDArray[np.uint8]], *, shown_from: float = SHOWN_FROM
) -> list[Instances]:
    """What the model finds, with the doubt ``tta``: how far it differs on the mirrored picture."""
    found = list(predictor.predict(images))
    again = predictor.predict([np.ascontiguousarray(image[:, ::-1]) for image in images])
    return [
        replace(one, doubts={**one.doubts, "tta": disagreement(one, other, shown_from=shown_from)})
        for one, other in zip(found, again, strict=True)
    ]


def disagreement(found: Instances, mirrored: Instances, *, shown_from: float = SHOWN_FROM) -> float:
    """0 = the same was found on the mirrored picture, 1 = nothing was found again.

    For each instance that is shown, in either of the two: 1 − the largest IoU · (1 − difference of the
    scores) with an instance of its label in the other one; the mean. 0 when nothing is shown in both. Memory:
    one picture's masks of the mirrored ones.
    """
    one = found.take(found.score >= _PARTNER_FROM)
    two = mirrored.take(mirrored.score >= _PARTNER_FROM)
    shown = np.concatenate([one.score >= shown_from, two.score >= shown_from])
    if not shown.any():
        return 0.0
    if not len(one) or not len(two):
        return 1.0
    back = [coco.encode(np.asfortranarray(decode_rle(rle).astype(np.uint8)[:, ::-1])) for rle in two.rle]
    overlap = np.asarray(coco.iou([dict(rle) for rle in one.rle], back, [0] * len(back)), np.float64)
    agreement = overlap.reshape(len(one), len(two)) * (one.label[:, None] == two.label)
    agreement *= 1.0 - np.abs(one.score[:, None].astype(np.float64) - two.score)
    best = np.concatenate([agreement.max(axis=1), agreement.max(axis=0)])
    return float(1.0 - best[shown].mean())
