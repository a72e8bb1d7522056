"""Small pictures on which objects of two colours lie, tagged with what they show; truth is known."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from ml_backend.examples import Example
from ml_backend.masks.rle import encode_mask

LABELS = ("berry", "leaf")
_COLOURS = {0: (190, 40, 60), 1: (60, 160, 50)}
_STONE = (120, 120, 150)
HW = (96, 128)


def draw(folder: Path, n: int, *, seed: int = 0, keep_masks: bool = False) -> list[Example]:
    """``n`` pictures with one to three objects per tag, each with a dark core (a tempting part), and stones
    that no tag names. Without ``keep_masks`` an example holds tags only."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    examples = []
    for k in range(n):
        tags = ((0,), (1,), (0, 1))[k % 3]
        pixels = np.full((*HW, 3), (205, 195, 175), np.float32) + rng.normal(0, 4, (*HW, 3))
        taken = np.zeros(HW, np.uint8)
        labels, masks = [], []
        for tag in (*tags, None):
            for _ in range(int(rng.integers(1, 4))):
                mask = _place(rng, taken)
                if mask is None:
                    continue
                taken |= mask
                inside = mask > 0
                pixels[inside] = np.array(_STONE if tag is None else _COLOURS[tag]) + rng.normal(0, 6, 3)
                if tag is not None:
                    core = cv2.erode(mask, np.ones((7, 7), np.uint8)) > 0
                    pixels[core] *= 0.55
                    labels.append(tag)
                    masks.append(encode_mask(inside))
        pixels += rng.normal(0, 3, pixels.shape)
        path = folder / f"picture-{seed}-{k}.png"
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path)
        drawn = (tuple(labels), tuple(masks)) if keep_masks else ((), ())
        examples.append(Example(1000 * seed + k, path, *drawn, tags=tuple(sorted(set(labels)))))
    return examples


def _place(rng: np.random.Generator, taken: np.ndarray) -> np.ndarray | None:
    for _ in range(20):
        mask = np.zeros(HW, np.uint8)
        centre = (int(rng.integers(14, HW[1] - 14)), int(rng.integers(14, HW[0] - 14)))
        axes = (int(rng.integers(9, 15)), int(rng.integers(9, 15)))
        cv2.ellipse(mask, centre, axes, float(rng.uniform(0, 180)), 0, 360, 1, -1)
        if not (cv2.dilate(mask, np.ones((5, 5), np.uint8)) & taken).any():
            return mask
    return None
