"""Click segmentation without weights: seeded GrabCut on a window around the prompt."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from ml_backend.artifacts import ProjectPaths
from ml_backend.clicks.base import ClickResult, Embedding, Prior, Prompt
from ml_backend.errors import BadPrompt
from ml_backend.settings import BackendSettings

__all__ = ["ClassicalSegmenter", "from_settings"]

_WORK_SIDE = 192


class ClassicalSegmenter:
    """GrabCut on a window; the embedding is the image itself."""

    name = "classical"
    encoder = "pixels"
    device = "cpu"
    persist = False

    def embed(self, image: npt.NDArray[np.uint8]) -> Embedding:
        return Embedding(self.encoder, (image.shape[0], image.shape[1]), {"pixels": image})

    def segment(self, embedding: Embedding, prompt: Prompt, prior: Prior | None) -> ClickResult:
        if not prompt.points and prompt.box is None:
            if prior is None:
                raise BadPrompt("no clicks, no box and nothing to start from", field="context.result")
            return _result(prior.mask, 1.0)
        image = embedding.arrays["pixels"]
        height, width = embedding.hw
        x0, y0, x1, y1 = _window(prompt, prior, height, width)
        scale = min(1.0, _WORK_SIDE / max(x1 - x0, y1 - y0))
        size = (max(8, round((x1 - x0) * scale)), max(8, round((y1 - y0) * scale)))
        crop = cv2.resize(image[y0:y1, x0:x1], size, interpolation=cv2.INTER_AREA)
        trimap = np.full(crop.shape[:2], cv2.GC_PR_BGD, np.uint8)
        if prior is not None:
            small = cv2.resize(
                prior.mask[y0:y1, x0:x1].astype(np.uint8), size, interpolation=cv2.INTER_NEAREST
            )
            trimap[small > 0] = cv2.GC_PR_FGD
        fx, fy = size[0] / (x1 - x0), size[1] / (y1 - y0)
        if prompt.box is not None:
            bx0, by0, bx1, by1 = prompt.box
            inside = np.zeros_like(trimap, bool)
            inside[
                int((by0 - y0) * fy) : int((by1 - y0) * fy) + 1,
                int((bx0 - x0) * fx) : int((bx1 - x0) * fx) + 1,
            ] = 1
            trimap[~inside] = cv2.GC_BGD
            if prior is None:
                trimap[inside] = cv2.GC_PR_FGD
        elif prior is None:
            cv2.circle(
                trimap, _at(prompt.points[0], x0, y0, fx, fy), max(3, min(size) // 5), cv2.GC_PR_FGD, -1
            )
        for point in prompt.points:
            value = cv2.GC_FGD if point[2] else cv2.GC_BGD
            cv2.circle(trimap, _at(point, x0, y0, fx, fy), 2, value, -1)
        mask = np.zeros((height, width), np.bool_)
        foreground = (trimap == cv2.GC_FGD) | (trimap == cv2.GC_PR_FGD)
        if foreground.any() and not foreground.all():
            cv2.grabCut(crop, trimap, None, np.zeros((1, 65)), np.zeros((1, 65)), 2, cv2.GC_INIT_WITH_MASK)
            foreground = (trimap == cv2.GC_FGD) | (trimap == cv2.GC_PR_FGD)
        mask[y0:y1, x0:x1] = cv2.resize(
            foreground.astype(np.uint8), (x1 - x0, y1 - y0), interpolation=cv2.INTER_NEAREST
        ).astype(bool)
        return _result(mask, 0.5)


def _at(point: tuple[float, float, bool], x0: int, y0: int, fx: float, fy: float) -> tuple[int, int]:
    return int((point[0] - x0) * fx), int((point[1] - y0) * fy)


def _window(prompt: Prompt, prior: Prior | None, height: int, width: int) -> tuple[int, int, int, int]:
    xs = [p[0] for p in prompt.points]
    ys = [p[1] for p in prompt.points]
    for box in (prompt.box, prior.box_xyxy if prior is not None else None):
        if box is not None:
            xs += [box[0], box[2]]
            ys += [box[1], box[3]]
    pad = 0.3 * max(max(xs) - min(xs), max(ys) - min(ys)) + 16
    if len(xs) == 1:
        pad = max(48.0, 0.15 * max(height, width))
    return (
        max(0, int(min(xs) - pad)),
        max(0, int(min(ys) - pad)),
        min(width, int(max(xs) + pad) + 1),
        min(height, int(max(ys) + pad) + 1),
    )


def _result(mask: npt.NDArray[np.bool_], iou: float) -> ClickResult:
    return ClickResult(mask[None], np.array([iou], np.float32), None)


def from_settings(settings: BackendSettings, project: ProjectPaths | None) -> ClassicalSegmenter:
    """The segmenter needs no settings."""
    return ClassicalSegmenter()
