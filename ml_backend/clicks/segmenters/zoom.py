"""What all click networks share: choose the window the network sees, and bring its answer back to the image.

A click network sees a square window of the picture, resized to its input size: RGB, maps of the clicks and
the box, and the previous mask. So large pictures and small objects cost the same. The window is chosen from
what is known of the object: previous mask, box and clicks, or the usual object size for the very first click.
It is chosen again, up to ``MAX_REFITS`` times, when the answer shows that the window was too wide or cut the
object. This is the zoom-in of RITM (Sofiiuk et al. 2021) and FocalClick (Chen et al. 2022).

Pure arrays: no torch, no onnxruntime.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from ml_backend.clicks.base import ClickResult, Embedding, Prompt, StartMask
from ml_backend.clicks.segmenters.honour_clicks import honour_clicks
from ml_backend.clicks.segmenters.windows import (
    Window,
    blend_logits,
    box_around,
    click_maps,
    click_points,
    crop_image,
    crop_mask,
    fit_window,
    mean_agreement,
    paste_logits,
    windows_agree,
)
from ml_backend.clicks.start_masks import box_of_mask
from ml_backend.errors import BadPrompt

__all__ = ["FirstAnswer", "ZoomSegmenter"]

MARGIN = 1.8
"""Side of a window, as a multiple of the object's extent."""
MAX_REFITS = 2
FOCUS, FOCUS_GAIN = 2.5, 0.6
"""The network runs again on the part that a correction changed, in a window of ``FOCUS`` times the extent of
that part. This happens only if the new window has at most ``FOCUS_GAIN`` times the side of the first one.
"""

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class FirstAnswer:
    """What a first click could mean; ``window`` is where the network saw it, None if another said it."""

    result: ClickResult
    window: Window | None = None


class ZoomSegmenter(ABC):
    """A ClickSegmenter around one network call. ``segment`` is pure; subclasses lock their device in
    ``_logits``.
    """

    name: str
    encoder: str
    device: str = "cpu"
    nbytes: int = 0
    persist: bool = False
    """False: an embedding is the picture itself, which is in the image cache already."""
    size: int
    """Side of the network's input, in pixels."""
    first_side: float
    """Side of the window for a first click with nothing else known, in pixels of the picture."""
    more_first_sides: tuple[float, ...] = ()
    """Further windows for a first click. For networks that serve pictures of which nobody knows how large
    their objects are; the answer counts with which the others agree most.
    """
    min_side: float = 32.0

    def embed(self, image: npt.NDArray[np.uint8]) -> Embedding:
        """The picture itself: the network looks at windows of it, so there is nothing to compute ahead."""
        return Embedding(self.encoder, (image.shape[0], image.shape[1]), {"pixels": image})

    @abstractmethod
    def _logits(
        self,
        image: npt.NDArray[np.uint8],
        clicks: npt.NDArray[np.float32],
        previous: npt.NDArray[np.float32],
        points: npt.NDArray[np.float32],
    ) -> npt.NDArray[np.float32]:
        """The network on one window -> (size, size) logits; above 0 is object.

        image (size, size, 3) uint8; clicks (3, size, size) and previous (size, size) of 0/1; points (n, 3)
        the clicks inside the window as (x, y, positive) in its pixels, for networks that draw their own maps.
        """

    def segment(self, embedding: Embedding, prompt: Prompt, start_mask: StartMask | None) -> ClickResult:
        """The mask for the prompt (k = 1). With neither click nor box it is the start mask itself.

        Raises BadPrompt when there is no click, no box and no start mask.
        """
        return self._segment(embedding, prompt, start_mask)[0]

    def segment_all(self, embedding: Embedding, prompt: Prompt) -> ClickResult:
        """The mask of ``segment`` without a start, then the other answers that were considered; no further
        network runs.
        """
        best, others = self._segment(embedding, prompt, None)
        found = [best, *others]
        return ClickResult(
            np.concatenate([one.masks for one in found]), np.concatenate([one.iou for one in found]), None
        )

    def _segment(
        self, embedding: Embedding, prompt: Prompt, start_mask: StartMask | None
    ) -> tuple[ClickResult, list[ClickResult]]:
        """The answer, and the answers to a first click that were not chosen."""
        image = np.asarray(embedding.arrays["pixels"], np.uint8)
        if start_mask is not None and not start_mask.mask.any():
            start_mask = None
        if not prompt.points and prompt.box is None and start_mask is None:
            raise BadPrompt("a click, a box or a mask to start from is needed", field="prompt")
        if start_mask is None and prompt.box is None and self.more_first_sides:
            best, *others = self.first_answers(embedding, prompt)
            return best.result, [answer.result for answer in others]
        window = self._first_window(embedding.hw, prompt, start_mask, self.first_side)
        logits = self._look(image, prompt, start_mask, window)
        if not prompt.points and prompt.box is None and start_mask is not None:
            return _result(start_mask.mask, window, logits), []
        for _ in range(MAX_REFITS):
            better = _refit(logits, window, embedding.hw, prompt, self.min_side)
            if better is None:
                break
            again = self._look(image, prompt, start_mask, better)
            tighter = better.side < window.side
            if tighter and start_mask is None and not windows_agree(logits, window, again, better):
                break  # the tighter window shows another object: keep the first answer
            window, logits = better, again
        mask = np.zeros(embedding.hw, np.bool_)
        rows, columns, patch = paste_logits(logits, window, embedding.hw)
        if start_mask is not None and prompt.points:
            patch = self._sharpen(image, prompt, start_mask, window.side, patch, (rows, columns))
        previous = None if start_mask is None else start_mask.mask[rows, columns]
        inside = _shifted(prompt, embedding.hw, rows, columns)
        mask[rows, columns] = honour_clicks(patch, inside, previous)
        return _result(mask, window, logits), []

    def _plain(
        self, logits: npt.NDArray[np.float32], window: Window, prompt: Prompt, hw: tuple[int, int]
    ) -> ClickResult:
        """The mask that the logits of one window show."""
        mask = np.zeros(hw, np.bool_)
        rows, columns, patch = paste_logits(logits, window, hw)
        mask[rows, columns] = honour_clicks(patch, _shifted(prompt, hw, rows, columns), None)
        return _result(mask, window, logits)

    def _sharpen(
        self,
        image: npt.NDArray[np.uint8],
        prompt: Prompt,
        start_mask: StartMask,
        side: int,
        patch: npt.NDArray[np.float32],
        at: tuple[slice, slice],
    ) -> npt.NDArray[np.float32]:
        """Refine the logits ``patch`` where the last click changed something; returns the new patch.

        ``patch`` covers the rows and columns ``at``. The network runs again on a smaller window around the
        change, unless that would not be much smaller than the first one, of ``side`` pixels.
        """
        rows, columns = at
        x, y, positive = prompt.points[-1]
        column, row = int(x) - columns.start, int(y) - rows.start
        if not (0 <= row < patch.shape[0] and 0 <= column < patch.shape[1]):
            return patch
        before = start_mask.mask[rows, columns]
        if bool(before[row, column]) == positive:
            return patch  # nothing was wrong there
        changed = ((patch > 0) != before).astype(np.uint8)
        changed[row, column] = 1
        _, parts = cv2.connectedComponents(changed, connectivity=8)
        x0, y0, x1, y1 = box_of_mask(parts == parts[row, column])
        box = (x0 + columns.start, y0 + rows.start, x1 + columns.start, y1 + rows.start)
        hw = (start_mask.mask.shape[0], start_mask.mask.shape[1])
        closer = fit_window(box, max(FOCUS * max(x1 - x0, y1 - y0), self.min_side), hw)
        if closer.side > FOCUS_GAIN * side:
            return patch
        return blend_logits(patch, at, self._look(image, prompt, start_mask, closer), closer, hw)

    def first_answers(self, embedding: Embedding, prompt: Prompt) -> list[FirstAnswer]:
        """What a first click could mean: seen in windows of ``first_side`` and ``more_first_sides``, and by
        ``_other_opinion``.

        They are not refined in windows that fit them better: on pictures to choose by that made them worse.
        First comes the one whose mean IoU with the others is highest. The network's own expectation cannot
        compare windows: it does not know what lies outside of each.
        """
        image = np.asarray(embedding.arrays["pixels"], np.uint8)
        seen: list[tuple[Window, npt.NDArray[np.float32]]] = []
        for side in (self.first_side, *self.more_first_sides):
            window = self._first_window(embedding.hw, prompt, None, side)
            if all(window != known for known, _ in seen):
                seen.append((window, self._look(image, prompt, None, window)))
        seen.sort(key=lambda look: -_expected_iou(look[1], look[1] > 0))
        found = [FirstAnswer(self._plain(at, near, prompt, embedding.hw), near) for near, at in seen]
        opinion = self._other_opinion(embedding, prompt)
        if opinion is not None:
            found.append(FirstAnswer(opinion))
        agreed = mean_agreement([answer.result.masks[0] for answer in found])
        return [found[int(i)] for i in np.argsort(-agreed, kind="stable")]

    def _other_opinion(self, embedding: Embedding, prompt: Prompt) -> ClickResult | None:
        """What a first click means to somebody else than the network; None: nobody is asked."""
        return None

    def _first_window(
        self, hw: tuple[int, int], prompt: Prompt, start_mask: StartMask | None, first_side: float
    ) -> Window:
        boxes = [(x, y, x + 1, y + 1) for x, y, positive in prompt.points if positive]
        if prompt.box is not None:
            boxes.append(prompt.box)
        if start_mask is not None:
            boxes.append(box_of_mask(start_mask.mask))
        if not boxes:  # negative clicks alone: nothing can be inside, look around them
            boxes = [(x, y, x + 1, y + 1) for x, y, _ in prompt.points]
        union = box_around(boxes)
        side = max(union[2] - union[0], union[3] - union[1]) * MARGIN
        known = start_mask is not None or prompt.box is not None
        return fit_window(union, max(side, self.min_side if known else first_side), hw)

    def _look(
        self, image: npt.NDArray[np.uint8], prompt: Prompt, start_mask: StartMask | None, window: Window
    ) -> npt.NDArray[np.float32]:
        previous: npt.NDArray[np.float32] = np.zeros((self.size, self.size), np.float32)
        if start_mask is not None:
            previous = crop_mask(start_mask.mask, window, self.size).astype(np.float32)
        points = click_points(prompt, window, self.size)
        maps = click_maps(points, prompt.box, window, self.size)
        return self._logits(crop_image(image, window, self.size), maps, previous, points)


def _refit(
    logits: npt.NDArray[np.float32], window: Window, hw: tuple[int, int], prompt: Prompt, min_side: float
) -> Window | None:
    """A better window for the object found, or None when this one is good."""
    found = logits > 0
    if not found.any():
        return None
    size = len(found)
    scale = window.side / size
    x0, y0, x1, y1 = box_of_mask(found)
    cut = (
        (x0 == 0 and window.x0 > 0)
        or (y0 == 0 and window.y0 > 0)
        or (x1 == size and window.x0 + window.side < hw[1])
        or (y1 == size and window.y0 + window.side < hw[0])
    )
    box = (window.x0 + x0 * scale, window.y0 + y0 * scale, window.x0 + x1 * scale, window.y0 + y1 * scale)
    box = box_around([box, *((x, y, x + 1, y + 1) for x, y, positive in prompt.points if positive)])
    if cut:
        wider = fit_window(box, window.side * 1.6, hw)
        return wider if wider.side > window.side else None
    tight = fit_window(box, max(max(box[2] - box[0], box[3] - box[1]) * MARGIN, min_side), hw)
    return tight if tight.side < 0.75 * window.side else None


def _shifted(prompt: Prompt, hw: tuple[int, int], rows: slice, columns: slice) -> Prompt:
    """The prompt's clicks inside the patch, in pixels of the patch. A click on the right or lower border of
    the image belongs to its last pixel.
    """
    points = []
    for x, y, positive in prompt.points:
        column, row = min(max(int(x), 0), hw[1] - 1), min(max(int(y), 0), hw[0] - 1)
        if rows.start <= row < rows.stop and columns.start <= column < columns.stop:
            points.append((float(column - columns.start), float(row - rows.start), positive))
    return Prompt(tuple(points), None, prompt.label)


def _result(mask: Mask, window: Window, logits: npt.NDArray[np.float32]) -> ClickResult:
    """The mask with its expected IoU under the network's own pixel probabilities: E|P∩M| / E|P∪M|."""
    iou = _expected_iou(logits, crop_mask(mask, window, len(logits)))
    return ClickResult(mask[None].copy(), np.array([iou], np.float32), None)


def _expected_iou(logits: npt.NDArray[np.float32], inside: Mask) -> float:
    """IoU of ``inside`` (S, S) with the object, as the logits' own probabilities expect it; 0 where both are
    empty.
    """
    probability = 1.0 / (1.0 + np.exp(-np.clip(logits, -30, 30)))
    common, rest = float(probability[inside].sum()), float(probability[~inside].sum())
    union = float(inside.sum()) + rest
    return min(max(common / union, 0.0), 1.0) if union > 0 else 0.0
