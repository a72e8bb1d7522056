"""From scores of proposals to instances: suppression of doubles by mask, the best of each tag always kept."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Chosen", "select", "suppress"]

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

_CONTAINED = 0.85


@dataclass(frozen=True, slots=True, eq=False)
class Chosen:
    """``place`` (m,) int64 proposals, ``label`` (m,) int64."""

    place: Ints
    label: Ints


def suppress(score: Floats, iou: Floats, cover: Floats, nms: float) -> Ints:
    """Places kept, the best first.

    A mask goes when its IoU with a better one exceeds ``nms``, or when one of the two contains the other.
    Boxes are not asked: those of neighbours overlap, their masks do not.
    """
    gone = score <= 0
    kept: list[int] = []
    for i in np.argsort(-score, kind="stable").tolist():
        if not gone[i]:
            kept.append(i)
            gone |= (iou[i] > nms) | (cover[i] > _CONTAINED) | (cover[:, i] > _CONTAINED)
    return np.asarray(kept, np.int64)


def select(
    score: Floats,
    iou: Floats,
    cover: Floats,
    *,
    threshold: float,
    nms: float,
    tags: Bools | None = None,
) -> Chosen:
    """Instances among n proposals by ``score`` (n, C).

    ``tags`` (C,) are the picture's labels where they are known: others are dropped, and the best proposal of
    each tag is kept whatever its score. A proposal gets the label of its highest score only.
    """
    allowed = score if tags is None else np.where(tags, score, 0)
    best_label = allowed.argmax(axis=1) if allowed.size else np.zeros(len(score), np.int64)
    places, labels = [], []
    for label in range(score.shape[1]):
        if tags is not None and not tags[label]:
            continue
        own = np.where(best_label == label, allowed[:, label], 0).astype(np.float32)
        kept = suppress(np.where(own >= threshold, own, 0).astype(np.float32), iou, cover, nms)
        if not len(kept) and tags is not None and len(score):
            kept = np.array([int(allowed[:, label].argmax())], np.int64)
        places.append(kept)
        labels.append(np.full(len(kept), label, np.int64))
    if not places:
        return Chosen(np.zeros(0, np.int64), np.zeros(0, np.int64))
    return Chosen(np.concatenate(places), np.concatenate(labels))
