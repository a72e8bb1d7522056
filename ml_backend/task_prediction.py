"""Which masks of a task people see: what was decided counts, then the score; one mask per object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from ml_backend.artifacts.pool_tables import PoolTable
from ml_backend.artifacts.verdicts import Verdict
from ml_backend.label_studio.label_config import LabelConfig
from ml_backend.label_studio.regions import to_result
from ml_backend.masks.rle import rle_iou

__all__ = ["shown_regions"]

_SAME_OBJECT_IOU: Final = 0.75


def shown_regions(
    rows: PoolTable,
    config: LabelConfig,
    hw: tuple[int, int],
    verdicts: Mapping[str, Verdict],
    *,
    round_number: int,
    min_score: float,
) -> list[dict[str, Any]]:
    """Regions of one task: accepted ones marked, rejected ones left out, undecided ones from a score on.

    Parameters
    ----------
    rows : the task's rows of the pool
    hw : size of its image
    verdicts : what was decided, by instance key
    round_number : the round they belong to
    min_score : class score from which undecided masks are shown

    Raises what ``to_result`` raises.
    """
    found = [verdicts.get(str(key)) for key in rows.key]
    known = set(config.labels)
    keep = [
        i
        for i, verdict in enumerate(found)
        if str(rows.label[i]) in known
        and (verdict.verdict > 0 if verdict is not None else rows.score[i] >= min_score)
    ]
    keep = best_of_each_object(rows, keep, found)
    shown = rows.take(np.array(keep, np.intp))
    return to_result(
        shown.instances(config.labels),
        config,
        hw,
        labels=config.labels,
        keys=[str(key) for key in shown.key],
        meta=[None if (v := found[i]) is None else v.meta(round_number) for i in keep],
    )


def best_of_each_object(rows: PoolTable, keep: list[int], found: Sequence[Verdict | None]) -> list[int]:
    """``keep`` without undecided masks that lie on a better one: the detector may name an object twice.

    An accepted mask goes before an undecided one, then the higher score; accepted masks always stay.
    """
    order = sorted(keep, key=lambda i: (found[i] is None, -float(rows.score[i])))
    masks = [rows.rle(i) for i in order]
    overlap = rle_iou(masks, masks) > _SAME_OBJECT_IOU
    best: list[int] = []
    for place, i in enumerate(order):
        if found[i] is not None or not overlap[place, best].any():
            best.append(place)
    return sorted(order[place] for place in best)
