"""A generated set of pictures with true masks: metal parts, fruit and leaves on textured tables.

It gives newcomers something to label at once, and tests a small set whose truth is known. Every picture has a
textured background, uneven light, soft shadows, objects of several classes with varied shape, size and
colour that overlap and hide each other, and sensor noise. Same seed, same pictures.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from ml_backend.artifacts.files import publish_dir, write_json

__all__ = ["LABELS", "SAMPLE_PICTURES", "Picture", "draw_picture", "make_sample_set"]

SAMPLE_PICTURES = 60
"""pictures of the set that the demo draws"""

LABELS = ("washer", "nut", "apple", "leaf")
_MIN_VISIBLE = 0.35
"""an object of which less than this share is visible is left out of the truth: people would not draw it"""
_SUPERSAMPLE = 2
Rng = np.random.Generator
Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """One picture and its instances.

    Attributes
    ----------
    rgb : (H, W, 3) uint8
    label : per instance, index into ``LABELS``
    mask : (n, H, W) bool, the visible part of each instance
    """

    rgb: npt.NDArray[np.uint8]
    label: tuple[int, ...]
    mask: Bools


@dataclass(frozen=True, slots=True, eq=False)
class _Object:
    """An object on its own canvas: alpha and colour (float 0..1), height above the table in pixels."""

    alpha: Floats
    rgb: Floats
    height_px: float


def make_sample_set(
    folder: Path, *, n: int = SAMPLE_PICTURES, seed: int = 0, hw: tuple[int, int] = (384, 512)
) -> Path:
    """Write ``folder/images/*.jpg`` and ``folder/annotations.json`` (COCO, masks as RLE); returns the folder.

    A folder that is there already is kept as it is.
    """
    if folder.exists():
        return folder
    with publish_dir(folder) as staging:
        (staging / "images").mkdir()
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for i in range(n):
            picture = draw_picture(np.random.default_rng([seed, i]), hw)
            name = f"sample{i:03d}.jpg"
            bgr = cv2.cvtColor(picture.rgb, cv2.COLOR_RGB2BGR)
            cv2.imwrite(str(staging / "images" / name), bgr, [cv2.IMWRITE_JPEG_QUALITY, 92])
            images.append({"id": i + 1, "file_name": name, "height": hw[0], "width": hw[1]})
            for label, mask in zip(picture.label, picture.mask, strict=True):
                annotations.append(_annotation(len(annotations) + 1, i + 1, label, mask))
        categories = [{"id": k + 1, "name": name} for k, name in enumerate(LABELS)]
        write_json(
            staging / "annotations.json",
            {"images": images, "annotations": annotations, "categories": categories},
        )
    return folder


def _annotation(number: int, image_id: int, label: int, mask: Bools) -> dict[str, Any]:
    rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {
        "id": number,
        "image_id": image_id,
        "category_id": label + 1,
        "segmentation": {"size": list(rle["size"]), "counts": rle["counts"].decode()},
        "bbox": [float(v) for v in coco_mask.toBbox(rle)],
        "area": float(coco_mask.area(rle)),
        "iscrowd": 0,
    }


def draw_picture(rng: Rng, hw: tuple[int, int] = (384, 512)) -> Picture:
    """Draw one picture of size ``hw`` with 4 to 11 objects."""
    big = (hw[0] * _SUPERSAMPLE, hw[1] * _SUPERSAMPLE)
    canvas = _table(rng, big)
    light = np.deg2rad(rng.uniform(0, 360))
    labels: list[int] = []
    full: list[Bools] = []
    visible: list[Bools] = []
    for _ in range(int(rng.integers(4, 12))):
        label = int(rng.integers(len(LABELS)))
        size = rng.uniform(0.13, 0.27) * min(big)
        item = _DRAW[label](rng, size)
        place = _free_place(rng, big, item, full)
        if place is None:
            continue
        mask = _paste(canvas, item, place, light)
        full.append(mask)
        for k, seen in enumerate(visible):
            visible[k] = seen & ~mask
        labels.append(label)
        visible.append(mask)
    rgb = _camera(rng, canvas, light, hw)
    keep = [k for k in range(len(labels)) if visible[k].sum() >= _MIN_VISIBLE * full[k].sum()]
    masks = [_shrink(visible[k], hw) for k in keep]
    stacked = np.stack(masks) if masks else np.zeros((0, *hw), bool)
    return Picture(rgb, tuple(labels[k] for k in keep), stacked)


# ---- the scene ----------------------------------------------------------------------------------------


def _noise(rng: Rng, hw: tuple[int, ...], scale_px: float) -> Floats:
    """Smooth noise in 0..1 whose blobs are about ``scale_px`` wide."""
    small = rng.random((max(2, int(hw[0] / scale_px) + 2), max(2, int(hw[1] / scale_px) + 2)), np.float32)
    smooth = cv2.resize(small, (hw[1], hw[0]), interpolation=cv2.INTER_CUBIC)
    return np.asarray(np.clip(smooth, 0, 1), np.float32)


def _table(rng: Rng, hw: tuple[int, int]) -> Floats:
    """A wooden, stone or cloth surface, (H, W, 3) in 0..1."""
    kind = int(rng.integers(3))
    if kind == 0:
        tone = np.array([[0.55, 0.38, 0.23], [0.72, 0.55, 0.36], [0.40, 0.27, 0.17]])[rng.integers(3)]
        y, x = np.mgrid[0 : hw[0], 0 : hw[1]].astype(np.float32)
        angle = rng.normal(0, 0.08)
        across = y * np.cos(angle) + x * np.sin(angle) + 26 * _noise(rng, hw, 150)
        grain = 0.5 + 0.5 * np.sin(across / rng.uniform(5, 9) + 5 * _noise(rng, hw, 90))
        fine = cv2.resize(rng.random((hw[0], max(2, hw[1] // 40)), np.float32), (hw[1], hw[0]))
        texture = 0.80 + 0.16 * grain + 0.14 * fine
        boards = 0.7 + 0.3 * np.clip(np.abs((y % (hw[0] / 3)) - 2) / 4, 0, 1)
        texture = texture * boards
    elif kind == 1:
        tone = np.array([[0.62, 0.62, 0.60], [0.42, 0.44, 0.47], [0.75, 0.72, 0.66]])[rng.integers(3)]
        texture = 0.75 + 0.25 * _noise(rng, hw, 60) + 0.18 * (_noise(rng, hw, 8) - 0.5)
        texture = texture + 0.25 * (_noise(rng, hw, 3) > 0.86) * (rng.random() - 0.4)
    else:
        tone = np.array([[0.30, 0.38, 0.52], [0.70, 0.68, 0.60], [0.45, 0.30, 0.32]])[rng.integers(3)]
        y, x = np.mgrid[0 : hw[0], 0 : hw[1]].astype(np.float32)
        weave = np.sin(x * np.pi / 3.5) * np.sin(y * np.pi / 3.5)
        texture = 0.88 + 0.10 * weave + 0.22 * (_noise(rng, hw, 120) - 0.5)
    tint = 1 + 0.06 * (_noise(rng, hw, 200)[..., None] - 0.5) * np.array([1, 0, -1])
    surface = tone * texture[..., None] * tint
    return np.asarray(np.clip(surface, 0, 1), np.float32)


def _free_place(rng: Rng, hw: tuple[int, int], item: _Object, others: list[Bools]) -> tuple[int, int] | None:
    """Top-left corner where at most a third of the object covers others; a few may hang over the border."""
    h, w = item.alpha.shape
    shape = item.alpha > 0.5
    for _ in range(12):
        top = int(rng.integers(-h // 5, hw[0] - h + h // 5))
        left = int(rng.integers(-w // 5, hw[1] - w + w // 5))
        covered = 0
        y0, y1, x0, x1 = max(top, 0), min(top + h, hw[0]), max(left, 0), min(left + w, hw[1])
        inside = shape[y0 - top : y1 - top, x0 - left : x1 - left]
        for other in others:
            covered += int((other[y0:y1, x0:x1] & inside).sum())
        if covered <= rng.choice([0.0, 0.08, 0.3]) * shape.sum():
            return top, left
    return None


def _paste(canvas: Floats, item: _Object, place: tuple[int, int], light: float) -> Bools:
    """Draw shadow and object into ``canvas``; returns the object's mask on it."""
    top, left = place
    h, w = item.alpha.shape
    # only the part of the canvas that the object and its shadow cover is changed
    reach = int(item.height_px * 2.5) + 12
    y0, y1 = max(top - reach, 0), min(top + h + reach, canvas.shape[0])
    x0, x1 = max(left - reach, 0), min(left + w + reach, canvas.shape[1])
    shift = np.array([[1, 0, left - x0], [0, 1, top - y0]], np.float32)
    size = (x1 - x0, y1 - y0)
    alpha = cv2.warpAffine(item.alpha, shift, size)
    colour = cv2.warpAffine(item.rgb, shift, size)
    cast = item.height_px * np.array([np.cos(light), np.sin(light)])
    shadow = cv2.warpAffine(alpha, np.array([[1, 0, cast[0]], [0, 1, cast[1]]], np.float32), size)
    shadow = cv2.GaussianBlur(shadow, (0, 0), 1 + item.height_px * 0.45)
    contact = cv2.GaussianBlur(alpha, (0, 0), 3)
    dark = 1 - 0.55 * np.maximum(shadow, 0.6 * contact)
    window = canvas[y0:y1, x0:x1]
    window *= dark[..., None]
    window += (colour - window) * alpha[..., None]
    mask = np.zeros(canvas.shape[:2], bool)
    mask[y0:y1, x0:x1] = alpha > 0.5
    return mask


def _camera(rng: Rng, canvas: Floats, light: float, hw: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Uneven light, vignette, colour cast, slight blur, sensor noise, 8 bits."""
    height, width = canvas.shape[:2]
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
    fall = 1 + rng.uniform(0.05, 0.22) * -(x * np.cos(light) + y * np.sin(light))
    vignette = 1 - rng.uniform(0.05, 0.2) * (x**2 + y**2) / 2
    cast = 1 + rng.normal(0, 0.035, 3)
    lit = canvas * (fall * vignette)[..., None] * cast * rng.uniform(0.82, 1.15)
    small = cv2.resize(lit.astype(np.float32), (hw[1], hw[0]), interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (0, 0), rng.uniform(0.3, 0.8))
    shot = rng.normal(0, 1, small.shape) * rng.uniform(0.008, 0.025) * np.sqrt(np.clip(small, 0.02, 1))
    return np.asarray((np.clip(small + shot, 0, 1) * 255).round(), np.uint8)


def _shrink(mask: Bools, hw: tuple[int, int]) -> Bools:
    share = cv2.resize(mask.astype(np.float32), (hw[1], hw[0]), interpolation=cv2.INTER_AREA)
    return np.asarray(share >= 0.5)


# ---- the objects: drawn on a canvas of their own, light from the top left, turned afterwards ------------


def _grid(size: float) -> tuple[Floats, Floats]:
    """x and y in -1.2..1.2 on a square canvas that holds an object of ``size`` pixels across."""
    side = int(size * 1.2)
    y, x = np.mgrid[-1.2 : 1.2 : side * 1j, -1.2 : 1.2 : side * 1j].astype(np.float32)
    return x, y


def _edge(signed: Floats, size: float) -> Floats:
    """Alpha of a signed distance in object units (negative inside), with a soft edge of about a pixel."""
    return np.asarray(np.clip(0.5 - signed * size / 2, 0, 1), np.float32)


def _turned(x: Floats, y: Floats, angle: float) -> tuple[Floats, Floats]:
    cos, sin = np.cos(angle), np.sin(angle)
    return x * cos + y * sin, -x * sin + y * cos


def _metal(rng: Rng, x: Floats, y: Floats, signed: Floats) -> Floats:
    """Brushed metal (steel, brass or dark): brightness by direction, bright bevel at the edge."""
    tone = np.array([[0.66, 0.68, 0.71], [0.76, 0.62, 0.33], [0.35, 0.36, 0.39]])[
        rng.choice(3, p=[0.55, 0.3, 0.15])
    ]
    sweep = 0.85 + 0.3 * np.cos(2 * (np.arctan2(y, x) - rng.uniform(0, np.pi)))
    scratch = 1 + 0.12 * (_noise(rng, x.shape, 3) - 0.5)
    bevel = np.exp(-((signed + 0.07) ** 2) / 0.003) * (0.35 - 0.35 * (x + y))
    rust = np.clip(_noise(rng, x.shape, 18) - rng.uniform(0.55, 1.0), 0, 1)[..., None] * 1.6
    rgb = tone * (sweep * scratch)[..., None] + bevel[..., None]
    rgb = rgb * (1 - rust) + np.array([0.42, 0.22, 0.11]) * rust
    return np.asarray(np.clip(rgb, 0, 1), np.float32)


def _washer(rng: Rng, size: float) -> _Object:
    x, y = _grid(size)
    u, v = _turned(x, y, rng.uniform(0, np.pi))
    v = v / rng.uniform(0.8, 1.0)  # seen a little from the side
    radius = np.sqrt(u**2 + v**2)
    hole = rng.uniform(0.38, 0.6)
    signed = np.maximum(radius - 1, hole - radius).astype(np.float32)
    return _Object(_edge(signed, size), _metal(rng, x, y, signed), 0.035 * size)


def _nut(rng: Rng, size: float) -> _Object:
    x, y = _grid(size)
    u, v = _turned(x, y, rng.uniform(0, np.pi))
    v = v / rng.uniform(0.85, 1.0)
    angle = np.arctan2(v, u)
    radius = np.sqrt(u**2 + v**2)
    sector = np.mod(angle, np.pi / 3) - np.pi / 6
    outside = radius * np.cos(sector) - 0.87
    hole = rng.uniform(0.42, 0.5)
    signed = np.maximum(outside, hole - radius).astype(np.float32)
    rgb = _metal(rng, x, y, signed)
    rgb *= (0.86 + 0.14 * np.cos(np.floor(np.mod(angle, 2 * np.pi) / (np.pi / 3)) * 1.9))[..., None]
    thread = np.clip(1 - np.abs(radius - hole - 0.05) / 0.05, 0, 1)[..., None]
    return _Object(_edge(signed, size), (rgb * (1 - 0.5 * thread)).astype(np.float32), 0.09 * size)


def _apple(rng: Rng, size: float) -> _Object:
    x, y = _grid(size)
    u, v = _turned(x, y, rng.uniform(0, 2 * np.pi))
    angle = np.arctan2(v, u)
    radius = np.sqrt(u**2 + v**2)
    outline = (
        0.93 + 0.05 * np.cos(2 * angle + rng.uniform(0, 6)) - 0.10 * np.exp(-((angle - 1.57) ** 2) / 0.06)
    )
    outline += rng.normal(0, 0.012) * np.cos(5 * angle)
    signed = (radius - outline).astype(np.float32)
    depth = np.sqrt(np.clip(1 - (radius / outline) ** 2, 0, 1))
    first, second = (np.array(c) for c in _SKINS[rng.integers(len(_SKINS))])
    stripes = _noise(rng, x.shape, size / 6) * 0.6 + 0.4 * (0.5 + 0.5 * np.sin(angle * rng.integers(14, 26)))
    blend = np.clip(stripes * 1.3 - rng.uniform(0, 0.5), 0, 1)[..., None]
    rgb = first * (1 - blend) + second * blend
    rgb = rgb * (0.42 + 0.62 * depth)[..., None] * (1 - 0.16 * (x + y))[..., None]
    shine = np.exp(-((x + 0.36) ** 2 + (y + 0.40) ** 2) / 0.035)[..., None]
    rgb = rgb + 0.55 * shine
    stem = np.exp(-(((u - 0.02) ** 2) / 0.004 + ((v - 0.35) ** 2) / 0.012))[..., None]
    rgb = rgb * (1 - 0.75 * stem) + np.array([0.2, 0.13, 0.06]) * 0.75 * stem
    return _Object(_edge(signed, size), np.clip(rgb, 0, 1).astype(np.float32), 0.17 * size)


_SKINS = (
    ((0.86, 0.72, 0.28), (0.74, 0.12, 0.13)),
    ((0.62, 0.74, 0.24), (0.50, 0.66, 0.18)),
    ((0.90, 0.80, 0.36), (0.86, 0.48, 0.20)),
    ((0.70, 0.10, 0.14), (0.48, 0.05, 0.10)),
)


def _leaf(rng: Rng, size: float) -> _Object:
    x, y = _grid(size)
    u, v = _turned(x, y, rng.uniform(0, 2 * np.pi))
    v = v + rng.uniform(-0.25, 0.25) * (u**2 - 0.5)  # bent
    width = rng.uniform(0.34, 0.58)
    along = np.clip((1 - u) / 2, 0, 1)
    profile = width * np.sin(np.pi * along ** rng.uniform(0.7, 1.1)) ** 0.8
    profile = profile + 0.025 * np.sin(u * rng.uniform(18, 34)) * (profile > 0.05)
    signed = np.where(np.abs(u) < 1, np.abs(v) - profile, np.abs(u) - 1 + 0.05).astype(np.float32) * 0.8
    fresh = np.array([[0.20, 0.42, 0.12], [0.35, 0.50, 0.16], [0.70, 0.52, 0.13], [0.58, 0.28, 0.10]])
    tone = fresh[rng.integers(4)] * rng.uniform(0.85, 1.2)
    side = 0.93 + 0.10 * np.sign(v)
    veins = np.exp(-(np.mod(np.abs(v) * 1.2 - u * 0.9, 0.17) ** 2) / 0.0004) * 0.14
    middle = np.exp(-(v**2) / 0.0006) * 0.28
    patches = 0.85 + 0.3 * _noise(rng, x.shape, size / 8)
    rgb = tone * (side * patches)[..., None] + (veins + middle)[..., None] * np.array([0.9, 0.95, 0.6])
    return _Object(_edge(signed, size), np.clip(rgb, 0, 1).astype(np.float32), 0.03 * size)


_DRAW: tuple[Callable[[Rng, float], _Object], ...] = (_washer, _nut, _apple, _leaf)
