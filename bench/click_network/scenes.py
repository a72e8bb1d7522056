"""Generated pictures with exact masks: things of one or several parts, before a background, that hide each
other. What varies: outline, colour, pattern, light, size, number, sharpness, noise.

Real pictures lend patterns (``textures``), outlines and cut-outs, so that not all of it is drawn.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from bench.click_network.shapes import draw_family, draw_shape, human_outline

__all__ = ["Cutout", "Scene", "SceneMaker"]

Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]
MIN_PX = 40


@dataclass(frozen=True, slots=True, eq=False)
class Cutout:
    """One real object: image (h, w, 3) uint8 of its box and mask (h, w) bool."""

    image: npt.NDArray[np.uint8]
    mask: Mask


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """image (S, S, 3) uint8; masks: what may be clicked, each (S, S) bool."""

    image: npt.NDArray[np.uint8]
    masks: tuple[Mask, ...]


class SceneMaker:
    """``make`` draws one scene. ``textures`` are pictures (H, W, 3) uint8; all may be empty."""

    def __init__(
        self, textures: list[npt.NDArray[np.uint8]], cutouts: list[Cutout], *, side: int = 256
    ) -> None:
        self.side = side
        self._textures = textures
        self._cutouts = cutouts
        self._outlines = [_outline(c.mask) for c in cutouts]

    def make(self, rng: np.random.Generator) -> Scene:
        side = self.side
        regions = self._background(rng)
        canvas = np.zeros((side, side, 3), np.float32)
        for region in regions:
            canvas[region] = self._material(rng)[region]
        if rng.random() < 0.5:
            canvas = _blur(canvas, rng.uniform(0.5, 5.0))
        owner = np.zeros((side, side), np.int32)  # 0 background, else number of the part
        parts_of: list[list[int]] = []
        number = 0
        alike = rng.random() < 0.4
        family = draw_family(rng, self._outlines)
        material = self._material(rng)
        scale = float(np.exp(rng.uniform(np.log(9), np.log(0.42 * side))))
        count = int(rng.integers(6, 40)) if alike and scale < 30 else int(rng.integers(2, 9))
        for _ in range(count):
            if not alike:
                family = draw_family(rng, self._outlines)
                scale = float(np.exp(rng.uniform(np.log(8), np.log(0.45 * side))))
            radius = scale * float(np.exp(rng.normal(0, 0.18)))
            at = (float(rng.uniform(0, side)), float(rng.uniform(0, side)))
            parts: list[int] = []
            if self._cutouts and rng.random() < 0.12:
                number += 1
                if self._paste(rng, canvas, owner, number, at, radius):
                    parts_of.append([number])
                continue
            more = 1 if alike and rng.random() < 0.7 else 1 + int(rng.choice(4, p=(0.45, 0.3, 0.15, 0.1)))
            look = material if alike and rng.random() < 0.9 else self._material(rng)
            if rng.random() < 0.25:  # hardly to be told from what lies behind
                x, y = int(min(at[0], side - 1)), int(min(at[1], side - 1))
                look = look + 0.75 * (canvas[y, x] - look.mean((0, 1)))
            shared = _light(rng, side)
            for part in range(more):
                number += 1
                where, size = at, radius
                if part:
                    angle, size = rng.uniform(0, 2 * np.pi), radius * float(rng.uniform(0.3, 0.9))
                    reach = radius * float(rng.uniform(0.5, 1.1))
                    where = (at[0] + reach * float(np.cos(angle)), at[1] + reach * float(np.sin(angle)))
                    if rng.random() < 0.6:
                        look = self._material(rng)
                    family = draw_family(rng, self._outlines)
                cover = draw_shape(rng, family, where, size, (side, side))
                if rng.random() < 0.15:
                    cover = cv2.GaussianBlur(cover, (0, 0), float(rng.uniform(0.6, 2.0)))
                self._lay(rng, canvas, owner, number, cover, look * shared)
                parts.append(number)
            parts_of.append(parts)
        masks = self._targets(rng, owner, parts_of, regions)
        return Scene(_photograph(canvas, rng), masks)

    def _lay(
        self, rng: np.random.Generator, canvas: Floats, owner: npt.NDArray[np.int32], number: int,
        cover: npt.NDArray[np.uint8], look: Floats,
    ) -> None:  # fmt: skip
        """Paint one part over what is there, in place: shadow, rounding, edge line, then itself."""
        alpha = cover.astype(np.float32)[..., None] / 255.0
        inside = cover > 127
        if rng.random() < 0.25:
            dx, dy = rng.uniform(-8, 8, 2)
            moved = cv2.warpAffine(cover, np.array([[1, 0, dx], [0, 1, dy]]), (self.side, self.side))
            canvas *= 1 - float(rng.uniform(0.1, 0.6)) * _blur(moved.astype(np.float32)[..., None] / 255, 4.0)
        if rng.random() < 0.45:  # rounded: darker (or lighter) towards the edge
            depth = cv2.distanceTransform(inside.astype(np.uint8), cv2.DIST_L2, 3)
            width = max(2.0, float(depth.max()) * float(rng.uniform(0.3, 1.0)))
            look = look * (1 + float(rng.normal(0, 0.25)) * (1 - np.minimum(depth / width, 1)))[..., None]
        if rng.random() < 0.15:  # a drawn edge
            line = inside & (cv2.erode(inside.astype(np.uint8), np.ones((3, 3), np.uint8)) == 0)
            look = np.where(line[..., None], look * float(rng.uniform(0.3, 1.6)), look)
        canvas *= 1 - alpha
        canvas += alpha * look
        owner[inside] = number

    def _paste(
        self, rng: np.random.Generator, canvas: Floats, owner: npt.NDArray[np.int32], number: int,
        at: tuple[float, float], radius: float,
    ) -> bool:  # fmt: skip
        """A real object, turned and scaled, in place. False when nothing of it falls into the picture."""
        cutout = self._cutouts[int(rng.integers(len(self._cutouts)))]
        height, width = cutout.mask.shape
        scale = 2 * radius / max(height, width)
        matrix = cv2.getRotationMatrix2D((width / 2, height / 2), float(rng.uniform(0, 360)), scale)
        matrix[:, 2] += (at[0] - width / 2, at[1] - height / 2)
        size = (self.side, self.side)
        cover = cv2.warpAffine(cutout.mask.astype(np.uint8) * 255, matrix, size)
        if int((cover > 127).sum()) < MIN_PX:
            return False
        pixels = cv2.warpAffine(cutout.image, matrix, size, borderMode=cv2.BORDER_REFLECT)
        look = pixels.astype(np.float32)[..., rng.permutation(3)] * float(np.exp(rng.normal(0, 0.3)))
        self._lay(rng, canvas, owner, number, cover, look)
        return True

    def _background(self, rng: np.random.Generator) -> list[Mask]:
        """One to four regions that fill the picture."""
        side = self.side
        regions = [np.ones((side, side), np.bool_)]
        for _ in range(int(rng.choice(4, p=(0.4, 0.3, 0.2, 0.1)))):
            ys, xs = _grid(side)
            angle, wave = rng.uniform(0, np.pi), rng.uniform(0, 0.06) * side
            along = xs * np.cos(angle) + ys * np.sin(angle)
            across = -xs * np.sin(angle) + ys * np.cos(angle)
            cut = across + wave * np.sin(along / side * rng.uniform(3, 15)) > np.quantile(
                across, rng.uniform(0.2, 0.8)
            )
            last = regions.pop()
            regions += [part for part in (last & cut, last & ~cut) if part.any()]
        return regions

    def _targets(
        self, rng: np.random.Generator, owner: npt.NDArray[np.int32], parts_of: list[list[int]],
        regions: list[Mask],
    ) -> tuple[Mask, ...]:  # fmt: skip
        """Whole objects as far as they are seen; now and then a part, or a region of the background."""
        masks = []
        for parts in parts_of:
            masks.append(np.isin(owner, parts))
            if len(parts) > 1 and rng.random() < 0.15:
                masks.append(owner == parts[int(rng.integers(len(parts)))])
        if rng.random() < 0.35:
            masks.append((owner == 0) & regions[int(rng.integers(len(regions)))])
        return tuple(human_outline(m, rng) for m in masks if MIN_PX <= int(m.sum()) <= 0.7 * m.size)

    def _material(self, rng: np.random.Generator) -> Floats:
        """(S, S, 3) float32, about 0..255: a colour, a pattern or a piece of a real picture."""
        side = self.side
        kind = rng.random()
        colour = _colour(rng)
        if kind < 0.3 and self._textures:
            return self._texture(rng)
        drift = rng.normal(0, 40) + rng.normal(0, 20, 3)
        other = np.asarray(np.clip(colour + drift, 0, 255), np.float32)
        mix = np.zeros((side, side), np.float32)
        if kind < 0.7:
            for grid, weight in ((3, 0.5), (9, 0.3), (30, 0.25), (100, 0.2)):
                noise = rng.normal(0, weight * rng.uniform(0, 2), (grid, grid)).astype(np.float32)
                mix += cv2.resize(noise, (side, side), interpolation=cv2.INTER_CUBIC)
        elif kind < 0.85:
            ys, xs = _grid(side)
            angle, pace = float(rng.uniform(0, np.pi)), float(2 * np.pi / rng.uniform(5, 50))
            down, across = float(np.sin(angle)) * pace, float(np.cos(angle)) * pace
            mix = np.sin(xs * across + ys * down)
            if rng.random() < 0.4:
                mix = np.sign(mix * np.sin(ys * across - xs * down))
        out = colour + mix[..., None] * (other - colour)
        return np.asarray(out * _light(rng, side), np.float32)

    def _texture(self, rng: np.random.Generator) -> Floats:
        picture = self._textures[int(rng.integers(len(self._textures)))]
        size = int(min(*picture.shape[:2], rng.integers(48, 400)))
        y, x = (int(rng.integers(n - size + 1)) for n in picture.shape[:2])
        piece = cv2.resize(picture[y : y + size, x : x + size], (self.side, self.side))
        out = piece.astype(np.float32)[..., rng.permutation(3)]
        mean = out.mean((0, 1))
        tint = mean if rng.random() < 0.4 else rng.uniform(20, 235, 3)
        contrast = np.float32(np.exp(rng.normal(0, 0.4)))
        return np.asarray((out - mean) * contrast + np.asarray(tint, np.float32), np.float32)


def _outline(mask: Mask) -> npt.NDArray[np.float32]:
    """The largest outline of a mask as points within -1..1."""
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    points = max(contours, key=len)[:, 0].astype(np.float32)
    middle = (points.max(0) + points.min(0)) / 2
    return np.asarray((points - middle) / max(1.0, float(np.abs(points - middle).max())), np.float32)


def _light(rng: np.random.Generator, side: int) -> Floats:
    """(S, S, 1) float32 factor: light from one side."""
    ys, xs = _grid(side)
    a, b = (float(v) / side for v in rng.normal(0, 0.3, 2))
    return np.asarray(1 - 0.5 * side * (a + b) + a * xs + b * ys, np.float32)[..., None]


@lru_cache(maxsize=4)
def _grid(side: int) -> tuple[Floats, Floats]:
    """Row and column numbers of every pixel, each (S, S) float32."""
    ys, xs = np.mgrid[:side, :side].astype(np.float32)
    return ys, xs


def _colour(rng: np.random.Generator) -> Floats:
    """(3,) float32: mostly dull, as most things are, now and then bright."""
    grey, most = rng.uniform(10, 245), 120 if rng.random() < 0.3 else 30
    return np.asarray(np.clip(grey + rng.normal(0, 1, 3) * rng.uniform(0, most), 0, 255), np.float32)


def _blur(array: Floats, sigma: float) -> Floats:
    out = cv2.GaussianBlur(array, (0, 0), float(sigma))
    return np.asarray(out.reshape(array.shape), np.float32)


def _photograph(canvas: Floats, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Blur, noise, tone, colour or grey, JPEG: what a camera or a microscope does."""
    if rng.random() < 0.6:
        canvas = _blur(canvas, rng.uniform(0.3, 1.5))
    canvas = np.clip(canvas, 0, 255)
    canvas = 255 * (canvas / 255) ** float(np.exp(rng.normal(0, 0.25)))
    if rng.random() < 0.12:
        canvas = np.repeat(canvas.mean(-1, keepdims=True), 3, -1)
    if rng.random() < 0.6:
        noise = rng.standard_normal(canvas.shape, np.float32)
        canvas = canvas + float(rng.uniform(1, 14)) * noise
    image = np.clip(canvas, 0, 255).astype(np.uint8)
    if rng.random() < 0.5:
        quality = int(rng.integers(35, 95))
        _, packed = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
        image = np.asarray(cv2.imdecode(packed, cv2.IMREAD_COLOR), np.uint8)
    return image
