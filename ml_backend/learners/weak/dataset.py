"""From examples to bags: the pictures that are mined, with their proposals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ml_backend.examples import Example
from ml_backend.images.decode import read_image
from ml_backend.learners.base import LeftOut, Progress
from ml_backend.learners.weak.bags import Bag, drawn_of, make_bag
from ml_backend.learners.weak.features import classical_features
from ml_backend.learners.weak.proposals import find_proposals
from ml_backend.learners.weak.settings import CimSettings
from ml_backend.learners.weak.sources import get_source

__all__ = ["make_bags"]


def make_bags(
    examples: Sequence[Example], labels: int, settings: CimSettings, *, seed: int, progress: Progress
) -> tuple[list[Example], list[Bag], tuple[LeftOut, ...]]:
    """The examples that are mined (``settings.pictures`` at most), the bag of each, and the tasks on whose
    pictures no proposals were found. ``labels``: their number. Pictures must be readable."""
    if settings.pictures and len(examples) > settings.pictures:
        drawn = np.random.default_rng(seed).permutation(len(examples))[: settings.pictures]
        examples = [examples[i] for i in sorted(drawn.tolist())]
    source = get_source(settings.proposals, settings.most)
    kept, bags, left_out = [], [], []
    for number, example in enumerate(examples, 1):
        given = drawn_of(example)
        found = find_proposals(
            read_image(example.image),
            source,
            most=settings.most,
            work_side=settings.work_side,
            drawn=[rle for _, rle in given.masks],
        )
        if len(found):
            features = classical_features(found)
            bags.append(make_bag(example.task_id, found, features, example.tags, given, labels))
            kept.append(example)
        else:
            left_out.append(LeftOut(example.task_id, "no proposals were found: is the picture blank?"))
        progress(number / len(examples), f"proposals of picture {number}/{len(examples)}: {len(found)}")
    return kept, bags, tuple(left_out)
