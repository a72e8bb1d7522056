"""Outlines of things that never were: blobs, polygons, limbs and real outlines, alone or joined."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

__all__ = ["Family", "draw_family", "draw_shape", "human_outline"]

Mask = npt.NDArray[np.bool_]
_KINDS = ("blob", "polygon", "ellipse", "rectangle", "limb", "real")
_ODDS = (0.34, 0.2, 0.12, 0.1, 0.12, 0.12)


@dataclass(frozen=True, slots=True, eq=False)
class Family:
    """What alike objects of a scene share: the kind of outline and, for ``real``, the outline itself."""

    kind: str
    outline: npt.NDArray[np.float32] | None
    stretch: float


def draw_family(rng: np.random.Generator, outlines: list[npt.NDArray[np.float32]]) -> Family:
    """A random family; ``outlines`` are real ones, (n, 2) points within -1..1."""
    kind = str(rng.choice(_KINDS, p=_ODDS))
    if kind == "real" and not outlines:
        kind = "blob"
    outline = outlines[int(rng.integers(len(outlines)))] if kind == "real" else None
    return Family(kind, outline, float(np.exp(rng.normal(0, 0.35))))


def _contour(rng: np.random.Generator, family: Family) -> npt.NDArray[np.float32]:
    """(n, 2) points of one closed outline, about within -1..1."""
    turns = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    if family.kind == "real" and family.outline is not None:
        points = family.outline
    elif family.kind == "polygon":
        corners = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(3, 10))))
        radius = rng.uniform(0.45, 1.0, len(corners))
        points = np.stack([radius * np.cos(corners), radius * np.sin(corners)], 1)
    elif family.kind == "rectangle":
        points = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * rng.uniform(0.6, 1.0, 2)
        points = points + rng.normal(0, 0.06, points.shape)
    else:
        radius = np.ones_like(turns)
        if family.kind == "blob":
            strength = rng.uniform(0.05, 0.35)
            for k in range(2, 8):
                radius += strength / (k - 1) * rng.normal() * np.cos(k * turns + rng.uniform(0, 2 * np.pi))
            radius = np.maximum(radius, 0.2)
        points = np.stack([radius * np.cos(turns), radius * np.sin(turns)], 1)
    points = points * (1.0, family.stretch)
    return np.asarray(points / max(1e-3, float(np.abs(points).max())), np.float32)


def draw_shape(
    rng: np.random.Generator, family: Family, at: tuple[float, float], radius: float, hw: tuple[int, int]
) -> npt.NDArray[np.uint8]:
    """One object around ``at`` (x, y), ``radius`` pixels large: (H, W) uint8 coverage 0..255."""
    out = np.zeros(hw, np.uint8)
    angle = rng.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    if family.kind == "limb":
        steps = rng.normal(0, 1, (int(rng.integers(2, 6)), 2)) @ np.diag([1.0, family.stretch])
        points = np.cumsum(steps, 0)
        points = (points - points.mean(0)) / max(1e-3, float(np.abs(points - points.mean(0)).max()))
        thick = max(2, int(radius * rng.uniform(0.12, 0.5)))
        path = np.round((points @ turn.T * radius + at) * 16).astype(np.int32)
        cv2.polylines(out, [path], False, 255, thick, cv2.LINE_AA, 4)
        return out
    points = _contour(rng, family) @ turn.T * radius + at
    cv2.fillPoly(out, [np.round(points * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
    if rng.random() < 0.04:  # a hole, as in a cup's handle
        hole = np.round((points - at) * rng.uniform(0.2, 0.6) * 16 + np.array(at) * 16).astype(np.int32)
        cv2.fillPoly(out, [hole], 0, cv2.LINE_AA, 4)
    return out


def human_outline(mask: Mask, rng: np.random.Generator) -> Mask:
    """The mask as a person may have drawn it: corners cut, a little too wide or too narrow. Half of the masks
    stay exact.
    """
    if rng.random() < 0.5:
        return mask
    size = float(np.sqrt(max(1, int(mask.sum()))))
    out = mask.astype(np.uint8)
    grow = float(rng.normal(0, 0.012 * size + 0.4))
    radius = round(abs(grow))
    if radius:
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
        grown = cv2.dilate(out, kernel) if grow > 0 else cv2.erode(out, kernel)
        out = grown if grown.any() else out
    contours, _ = cv2.findContours(out, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    tolerance = max(0.5, size * float(np.exp(rng.uniform(np.log(0.006), np.log(0.05)))))
    drawn = np.zeros_like(out)
    polygons = [cv2.approxPolyDP(c, tolerance, True) for c in contours]
    cv2.fillPoly(drawn, [p for p in polygons if len(p) >= 3], 1)
    return np.asarray(drawn, np.bool_) if drawn.any() else mask
