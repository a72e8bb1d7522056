"""Pseudo labels for Mask R-CNN: the mined instances of the training pictures, as examples."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from ml_backend.examples import Example
from ml_backend.instances import Rle
from ml_backend.learners.weak.bags import Bag
from ml_backend.learners.weak.heads import Heads
from ml_backend.learners.weak.predictor import head_scores
from ml_backend.learners.weak.proposals import rle_at
from ml_backend.learners.weak.selection import select, suppress

__all__ = ["pseudo_example", "pseudo_examples"]

_DOUBTFUL = 0.5
"""Proposals above this share of the threshold are neither object nor background."""


def pseudo_examples(
    heads: Heads, examples: Sequence[Example], bags: Sequence[Bag], *, threshold: float, nms: float
) -> list[Example]:
    """One example per bag, in order; see ``pseudo_example``."""
    return [
        pseudo_example(heads, example, bag, threshold=threshold, nms=nms)
        for example, bag in zip(examples, bags, strict=True)
    ]


def pseudo_example(heads: Heads, example: Example, bag: Bag, *, threshold: float, nms: float) -> Example:
    """The picture with drawn masks as they are, and mined ones of the tags that nobody drew.

    Mined masks have their score as weight; what is doubtful becomes an area to ignore. The best proposal of a
    tag is an instance even below the threshold, since something must show the tag.
    """
    classes, integrity, _ = head_scores(heads, bag.features, bag.prior)
    score = np.where(bag.big[:, None], 0, classes * integrity)
    drawn = np.flatnonzero(bag.given >= 0)
    tags = bag.tags.copy()
    tags[bag.given[drawn]] = False
    iou, cover = bag.iou.astype(np.float32), bag.cover.astype(np.float32)
    chosen = select(score, iou, cover, threshold=threshold, nms=nms, tags=tags)
    place = np.concatenate([drawn, chosen.place])
    label = np.concatenate([bag.given[drawn], chosen.label])
    weight = [1.0] * len(drawn) + score[chosen.place, chosen.label].tolist()
    best = np.where(tags, score, 0).max(axis=1)
    if len(place):
        best = np.where((iou[:, place] > 0.1).any(axis=1) | (cover[:, place] > 0.5).any(axis=1), 0, best)
    doubtful = suppress(np.where(best >= _DOUBTFUL * threshold, best, 0).astype(np.float32), iou, cover, nms)
    return dataclasses.replace(
        example,
        label=tuple(int(v) for v in label),
        rle=tuple(_mask(bag, int(i)) for i in place),
        ignore=example.ignore + tuple(_mask(bag, int(i)) for i in doubtful),
        weight=tuple(float(np.clip(v, 0.05, 1)) for v in weight),
    )


def _mask(bag: Bag, place: int) -> Rle:
    return rle_at(bag.crops[place], bag.work_hw, bag.hw)
