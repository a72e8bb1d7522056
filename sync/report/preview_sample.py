"""The pictures of a preview: a random sample of unfinished tasks with what the model finds on them."""

from __future__ import annotations

import base64
import io
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from ml_backend.artifacts.pool_tables import PoolTable
from ml_backend.errors import BadImage, BadInput, StudioError
from ml_backend.images.store import ImageStore
from ml_backend.instances import Rle
from ml_backend.kinds.base import ProjectKind
from ml_backend.masks.outlines import outline_rings
from ml_backend.masks.rle import decode_rle, rle_box
from sync.store.project_store import ProjectStore
from sync.store.tables import TaskRecord

__all__ = ["Drawn", "Shot", "choose_tasks", "mask_path", "render_shots"]

_log = logging.getLogger(__name__)
SHOT_PX = 440
"""Longer side of a picture on the page."""
_QUALITY = 74
_EACH_LABEL = 2
"""Pictures on which each label is shown, where there are so many."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """One prediction: number of its label, score, and an SVG path in pixels of the shot ("" for a class)."""

    label: int
    score: float
    path: str


@dataclass(frozen=True, slots=True)
class Shot:
    """A picture of the page: ``jpeg`` is empty where it cannot be read. ``for_label`` says for which rare
    label it was added; "" when it was drawn at random."""

    task: int
    for_label: str
    width: int
    height: int
    jpeg: bytes
    drawn: tuple[Drawn, ...]

    @property
    def data_uri(self) -> str:
        """The picture as text for a page."""
        return "" if not self.jpeg else "data:image/jpeg;base64," + base64.b64encode(self.jpeg).decode()


def choose_tasks(
    tasks: Sequence[int],
    table: PoolTable,
    labels: Sequence[str],
    *,
    sample: int,
    shown_from: float,
    seed: int,
) -> list[tuple[int, str]]:
    """Tasks at random, and for which label each was added ("" for those that are there by chance alone).

    Each label that the model finds anywhere, with a score of ``shown_from`` or more, is on two of the
    pictures, or on as many as there are: the rarest labels choose first, among their own pictures at random.
    The rest is a plain random sample.
    """
    order = np.random.default_rng([seed, 0x5A3]).permutation(np.array(sorted(tasks), np.int64)).tolist()
    rank = {task: place for place, task in enumerate(order)}
    shown = table.score >= shown_from
    found: dict[str, list[int]] = {}
    for label in labels:
        mine = np.unique(table.task_id[shown & (table.label == label)]).tolist()
        found[label] = sorted((task for task in mine if task in rank), key=rank.__getitem__)
    chosen: dict[int, str] = {}
    for label in sorted((label for label in labels if found[label]), key=lambda label: len(found[label])):
        missing = _EACH_LABEL - sum(task in chosen for task in found[label])
        for task in [task for task in found[label] if task not in chosen][: max(0, missing)]:
            if len(chosen) < sample:
                chosen[task] = "" if rank[task] < sample else label
    for task in order:
        if len(chosen) >= sample:
            break
        chosen.setdefault(task, "")
    return sorted(chosen.items(), key=lambda entry: rank[entry[0]])


def render_shots(
    db: ProjectStore,
    images: ImageStore,
    chosen: Sequence[tuple[int, str]],
    table: PoolTable,
    labels: Sequence[str],
    kinds: Sequence[ProjectKind],
    *,
    report: Callable[[float, str], None] = lambda share, line: None,
) -> list[Shot]:
    """Read, scale and outline. A picture that cannot be read stands there without pixels."""
    number = {label: i for i, label in enumerate(labels)}
    shots = []
    for place, (task, for_label) in enumerate(chosen):
        rows = np.flatnonzero(table.task_id == task)
        rows = rows[np.argsort(-table.score[rows], kind="stable")]
        height, width = (int(v) for v in table.hw[rows[0]]) if len(rows) else (0, 0)
        jpeg, hw = _picture(db, images, task)
        height, width = hw if not height else (height, width)
        scale = SHOT_PX / max(height, width, 1)
        drawn = []
        for row in rows.tolist():
            label = str(table.label[row])
            if label in number:
                path = mask_path(table.rle(row), scale, kinds[number[label]].unit)
                drawn.append(Drawn(number[label], round(float(table.score[row]), 3), path))
        size = (round(width * scale), round(height * scale))
        shots.append(Shot(task, for_label, *size, jpeg, tuple(drawn)))
        report((place + 1) / len(chosen), f"picture {place + 1} of {len(chosen)}")
    return shots


def _picture(db: ProjectStore, images: ImageStore, task: int) -> tuple[bytes, tuple[int, int]]:
    """JPEG at the size of the page, and (height, width) of the picture itself."""
    with db.read() as session:
        record = session.get(TaskRecord, task)
    try:
        if record is None:
            raise BadInput(f"task {task} is gone", field="task")
        image = images.get(record.image, task_id=task, project_id=db.id)
        pixels = images.pixels(image)
    except (BadImage, BadInput, StudioError) as error:
        _log.warning("no picture of task %s in the preview: %s", task, error)
        return b"", (3 * SHOT_PX // 4, SHOT_PX)
    height, width = pixels.shape[:2]
    small = Image.fromarray(pixels)
    small.thumbnail((SHOT_PX, SHOT_PX))
    file = io.BytesIO()
    small.save(file, "JPEG", quality=_QUALITY)
    return file.getvalue(), (height, width)


def mask_path(rle: Rle, scale: float, unit: str) -> str:
    """SVG path of a mask (with all parts and holes) or of its box; "" for a class of the whole picture."""
    if unit == "picture":
        return ""
    x0, y0, x1, y1 = (int(v) for v in rle_box(rle))
    if x1 <= x0 or y1 <= y0:
        return ""
    if unit == "box":
        return _ring(np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], np.float64) * scale)
    inside = decode_rle(rle)[y0:y1, x0:x1]
    # a pixel of the page is the finest detail that can be seen
    parts = []
    for ring in outline_rings(inside, holes=True):
        thin = cv2.approxPolyDP(ring, max(0.5, 0.7 / scale), closed=True).reshape(-1, 2).astype(np.float64)
        if len(thin) < 3:
            left, top = thin.min(axis=0)
            right, bottom = thin.max(axis=0)
            thin = np.array([[left, top], [right + 1, top], [right + 1, bottom + 1], [left, bottom + 1]])
        else:
            thin = thin + 0.5
        parts.append(_ring((thin + np.array([x0, y0])) * scale))
    return "".join(parts)


def _ring(points: npt.NDArray[np.float64]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points.tolist()) + "Z"
