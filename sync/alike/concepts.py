"""Masks by SAM 3 beside the proposals: all that has the label's name, or looks like the most alike mask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ml_backend.instances import Rle
from ml_backend.learners.alike.looks import Looks, clash
from ml_backend.masks.rle import rle_box
from sync.alike.looks import Looker
from sync.rounds.progress import Progress

if TYPE_CHECKING:
    from ml_backend.learners.alike.sam3_concepts import Sam3Concepts

__all__ = ["with_concepts"]


def with_concepts(
    model: Sam3Concepts,
    looker: Looker,
    address: Mapping[int, str],
    seen: Mapping[int, Looks],
    offered: Sequence[tuple[int, str, Rle]],
    labels: Sequence[str],
    progress: Progress,
) -> dict[int, Looks]:
    """``seen`` with SAM 3's masks, which take the place of the proposals that they overlap.

    Each label is a concept: its name, with the box of the most alike mask on that picture where one was
    found. ``offered`` are those, (task, label, mask), the most alike first. How alike the new masks are is
    worked out as for all others.
    """
    best: dict[tuple[int, str], tuple[float, float, float, float]] = {}
    for task, label, rle in offered:
        best.setdefault((task, label), rle_box(rle))
    out = {}
    for number, (task, looks) in enumerate(seen.items(), 1):
        progress.at("alike.concept")
        progress.report("alike", number / len(seen), f"SAM 3 looks at picture {number} of {len(seen)}")
        boxes = [best.get((task, label)) for label in labels]
        out[task] = _extended(model, looker, task, address[task], looks, labels, boxes)
    return out


def _extended(
    model: Sam3Concepts,
    looker: Looker,
    task: int,
    address: str,
    looks: Looks,
    labels: Sequence[str],
    boxes: Sequence[tuple[float, float, float, float] | None],
) -> Looks:
    from ml_backend.learners.alike.sam3_concepts import Concept

    asked = [Concept(label.replace("_", " "), box) for label, box in zip(labels, boxes, strict=True)]
    found = model(looker.pixels(task, address), asked)
    rles: list[Rle] = [rle for one, _ in found for rle in one]
    if not rles:
        return looks
    n = len(looks.rle)
    taken = clash([*looks.rle, *rles])[n:, :n].any(axis=0)
    kept = np.flatnonzero(~taken)
    return Looks(
        looks.hw,
        [*(looks.rle[i] for i in kept), *rles],
        np.concatenate([looks.prior[kept], *(score for _, score in found)]).astype(np.float32),
        np.concatenate([looks.feature[kept], looker.drawn(task, address, rles)]),
    )
