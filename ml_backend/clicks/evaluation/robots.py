"""Simulated users: where a person would click next, given what the mask still gets wrong.

Two placements occur in the literature. Compare figures only if both come from the same one:

``component_robot``  the largest connected component of wrong pixels, clicked at its inner-most pixel.
``ritm_robot``       the inner-most wrong pixel of the whole picture, clicked pixels left out; the robot of
                     RITM, FocalClick and SimpleClick (Sofiiuk et al. 2021), the standard for published
                     clicks-to-IoU.

The inner-most pixel is the one with the largest exact Euclidean distance to the nearest pixel that is not
wrong. Pixels beyond the border count as not wrong. Both robots are pure and deterministic: of equal maxima
the first in row order wins.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

__all__ = ["ROBOTS", "Robot", "RobotClick", "component_robot", "inner_distance", "ritm_robot"]


@dataclass(frozen=True, slots=True)
class RobotClick:
    """One simulated click on pixel column ``x``, row ``y``.

    ``positive`` is the true class there. ``depth_px`` is the distance to the nearest pixel that is not
    wrong in the same way; ``wrong_px`` the area of the wrong region the robot looked at (component robot:
    the component; RITM robot: all false negatives or all false positives).
    """

    x: int
    y: int
    positive: bool
    depth_px: float
    wrong_px: int


Robot = Callable[[npt.NDArray[np.bool_], npt.NDArray[np.bool_], Sequence[tuple[int, int]]], RobotClick | None]
"""(predicted (H, W), target (H, W), clicked pixels (x, y)) -> next click, or None when nothing is left to
say.
"""


def inner_distance(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    """Exact Euclidean distance of each True pixel to the nearest False one; outside the picture is False.

    mask (H, W) bool -> (H, W) float32, 0 where False. O(H·W).
    """
    padded = np.zeros((mask.shape[0] + 2, mask.shape[1] + 2), np.uint8)
    padded[1:-1, 1:-1] = mask
    distance: npt.NDArray[np.float32] = cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return distance[1:-1, 1:-1]


def _check(predicted: npt.NDArray[np.bool_], target: npt.NDArray[np.bool_]) -> None:
    if predicted.shape != target.shape or predicted.ndim != 2:
        raise ValueError(
            f"predicted and target must be (H, W) alike, got {predicted.shape} and {target.shape}"
        )
    if predicted.dtype != np.bool_ or target.dtype != np.bool_:
        # A soft mask would count as foreground wherever it is not exactly zero.
        raise ValueError(f"masks must be bool, got {predicted.dtype} and {target.dtype}: binarise first")


@dataclass(frozen=True, slots=True)
class _Wrong:
    """What is wrong, cut to the window that holds all of it: distances inside it equal those of the whole
    picture. ``missing`` and ``extra`` (h, w) bool; ``x0``, ``y0`` where the window begins.
    """

    x0: int
    y0: int
    missing: npt.NDArray[np.bool_]
    extra: npt.NDArray[np.bool_]


def _wrong(predicted: npt.NDArray[np.bool_], target: npt.NDArray[np.bool_]) -> _Wrong | None:
    """None when nothing is wrong. ValueError when the masks are not bool and of one shape."""
    _check(predicted, target)
    wrong = predicted != target
    rows = np.flatnonzero(wrong.any(axis=1))
    if len(rows) == 0:
        return None
    columns = np.flatnonzero(wrong.any(axis=0))
    y0, x0 = int(rows[0]), int(columns[0])
    window = (slice(y0, int(rows[-1]) + 1), slice(x0, int(columns[-1]) + 1))
    return _Wrong(x0, y0, target[window] & ~predicted[window], predicted[window] & ~target[window])


def ritm_robot(
    predicted: npt.NDArray[np.bool_], target: npt.NDArray[np.bool_], clicked: Sequence[tuple[int, int]] = ()
) -> RobotClick | None:
    """The larger of the two maxima of the false-negative and the false-positive distance map: the
    robot of RITM (Sofiiuk et al. 2022).

    Clicked pixels are zero in both maps, so no pixel is clicked twice. A tie goes to the negative click, as
    in the published protocol. None when no unclicked pixel is wrong.
    """
    if (found := _wrong(predicted, target)) is None:
        return None
    row0, column0 = found.y0, found.x0
    best: RobotClick | None = None
    for positive, wrong in ((False, found.extra), (True, found.missing)):
        distance = inner_distance(wrong)
        for x, y in clicked:
            if 0 <= y - row0 < distance.shape[0] and 0 <= x - column0 < distance.shape[1]:
                distance[y - row0, x - column0] = 0.0
        at = int(distance.argmax())
        depth = float(distance.flat[at])
        if depth > (best.depth_px if best is not None else 0.0):
            y, x = divmod(at, distance.shape[1])
            best = RobotClick(x + column0, y + row0, positive, depth, int(np.count_nonzero(wrong)))
    return best


def component_robot(
    predicted: npt.NDArray[np.bool_], target: npt.NDArray[np.bool_], clicked: Sequence[tuple[int, int]] = ()
) -> RobotClick | None:
    """The inner-most pixel of the largest 8-connected component of wrong pixels (Xu et al. 2016).

    False negatives and false positives form separate components; of equal areas the false negative wins.
    ``clicked`` is accepted for the common signature and not used: a person whose click changed nothing
    clicks the same spot again.
    """
    if (found := _wrong(predicted, target)) is None:
        return None
    best: RobotClick | None = None
    for positive, wrong in ((True, found.missing), (False, found.extra)):
        count, labels, stats, _ = cv2.connectedComponentsWithStats(wrong.astype(np.uint8), connectivity=8)
        if count < 2:
            continue
        largest = 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
        area = int(stats[largest, cv2.CC_STAT_AREA])
        if best is not None and area <= best.wrong_px:
            continue
        left, top = int(stats[largest, cv2.CC_STAT_LEFT]), int(stats[largest, cv2.CC_STAT_TOP])
        width, height = int(stats[largest, cv2.CC_STAT_WIDTH]), int(stats[largest, cv2.CC_STAT_HEIGHT])
        distance = inner_distance(labels[top : top + height, left : left + width] == largest)
        at = int(distance.argmax())
        y, x = divmod(at, width)
        column, row = x + left + found.x0, y + top + found.y0
        best = RobotClick(column, row, positive, float(distance.flat[at]), area)
    return best


ROBOTS: Mapping[str, Robot] = {"ritm": ritm_robot, "component": component_robot}
"""Name on the command line -> robot."""
