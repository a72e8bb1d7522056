"""Turn a network's logits into a mask that agrees with every click. Pure arrays."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from ml_backend.clicks.base import Prompt

__all__ = ["honour_clicks"]

Mask = npt.NDArray[np.bool_]


def honour_clicks(full: npt.NDArray[np.float32], prompt: Prompt, previous: Mask | None) -> Mask:
    """Logits (H, W) -> mask that agrees with every click. Of two clicks on one pixel the later one wins.

    If a positive click lies outside the mask, the connected pixels around it whose logits are about as high
    or higher are added. If a negative click lies inside, those whose logits are about as low or lower are
    removed. The change reaches at most half way to the nearest opposite click.

    Parts of the mask without a positive click are removed. They stay if they belong to the previous mask
    (an object may be visible in two pieces), or if there is no positive click at all.
    """
    height, width = full.shape
    mask = full > 0
    pixels = [
        (min(max(int(x), 0), width - 1), min(max(int(y), 0), height - 1), p) for x, y, p in prompt.points
    ]
    for x, y, positive in pixels:
        if mask[y, x] == positive:
            continue
        others = [np.hypot(x - u, y - v) for u, v, p in pixels if p != positive]
        reach = max(1.0, min([0.5 * float(d) for d in others] + [0.1 * float(np.sqrt(mask.sum() + 1)) + 2.0]))
        _flip_around(mask, full, x, y, reach, positive=positive)
    for (
        x,
        y,
        positive,
    ) in pixels:  # the clicked pixels themselves always; a later click overrules an earlier one
        mask[y, x] = positive
    count, parts = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    wanted = [parts[y, x] for x, y, positive in pixels if positive and mask[y, x]]
    if count > 2 and wanted:
        keep = np.zeros(count, bool)
        keep[wanted] = True
        if previous is not None:
            overlap = np.bincount(parts[previous & mask], minlength=count)
            keep |= overlap > 0.5 * np.bincount(parts.ravel(), minlength=count)
        keep[0] = False
        mask = keep[parts]
    return np.asarray(mask, np.bool_)


def _flip_around(
    mask: Mask, full: npt.NDArray[np.float32], x: int, y: int, reach: float, *, positive: bool
) -> None:
    """Set the pixels within ``reach`` of (x, y) that look like the clicked one, connected to it, in place."""
    r = int(np.ceil(reach))
    top, left = max(y - r, 0), max(x - r, 0)
    patch = full[top : y + r + 1, left : x + r + 1]
    ys, xs = np.mgrid[top : top + patch.shape[0], left : left + patch.shape[1]]
    near = (xs - x) ** 2 + (ys - y) ** 2 <= reach**2
    alike = patch >= full[y, x] - 0.5 if positive else patch <= full[y, x] + 0.5
    _, parts = cv2.connectedComponents((near & alike).astype(np.uint8), connectivity=4)
    mask[top : y + r + 1, left : x + r + 1][parts == parts[y - top, x - left]] = positive
