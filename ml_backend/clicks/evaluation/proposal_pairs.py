"""Proposals to start clicking from: read from a stored prediction, and paired with the true masks.

A stored prediction is a COCO file: either the list of results (``image_id``, ``segmentation``, ``score``)
that COCO tools write, or a dataset whose ``annotations`` are the predictions.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from pycocotools import mask as coco_mask

from ml_backend.errors import BadInput
from ml_backend.instances import Rle
from ml_backend.masks.coco import segmentation_to_rle

__all__ = ["pair_proposals", "read_proposals"]


def read_proposals(
    path: Path, sizes: Mapping[int, tuple[int, int]], *, min_score: float = 0.0
) -> dict[int, list[Rle]]:
    """Proposed masks by image id, best score first; entries of images not in ``sizes`` (id -> (H, W)) are
    skipped.

    Raises BadInput when the file is not COCO JSON of masks.
    """
    try:
        data = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise BadInput(f"no such file: {path}", field="proposals") from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise BadInput(f"not JSON: {path}", field="proposals") from error
    rows = data.get("annotations") if isinstance(data, dict) else data
    if not isinstance(rows, list):
        raise BadInput("neither a list of COCO results nor a dataset with annotations", field="proposals")
    scored: dict[int, list[tuple[float, Rle]]] = {}
    for index, row in enumerate(rows):
        field = f"proposals[{index}]"
        if not isinstance(row, Mapping) or "image_id" not in row or "segmentation" not in row:
            raise BadInput("needs image_id and segmentation", field=field)
        size = sizes.get(row["image_id"])
        score = float(row.get("score", 1.0))
        if size is None or score < min_score:
            continue
        rle = segmentation_to_rle(row["segmentation"], size, field=f"{field}.segmentation")
        scored.setdefault(row["image_id"], []).append((score, rle))
    return {
        image: [rle for _, rle in sorted(found, key=lambda item: -item[0])] for image, found in scored.items()
    }


def pair_proposals(
    targets: Sequence[Rle], proposals: Sequence[Rle], *, min_iou: float = 0.3
) -> list[int | None]:
    """For each target of one image, the index of its proposal: one to one, greedily by falling IoU, or None.

    A proposal that overlaps less than ``min_iou`` is about something else: the person would start without it.
    """
    pairs: list[int | None] = [None] * len(targets)
    if not targets or not proposals:
        return pairs
    iou = np.asarray(coco_mask.iou(list(proposals), list(targets), [0] * len(targets))).T
    free = iou.copy()
    while free.size and free.max() >= min_iou:
        target, proposal = np.unravel_index(int(free.argmax()), free.shape)
        pairs[int(target)] = int(proposal)
        free[target, :] = -1.0
        free[:, proposal] = -1.0
    return pairs
