"""A tiny drawn data set: bright discs and dark squares on noise, easy enough to learn in seconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from ml_backend.examples import Example
from ml_backend.instances import Rle

LABELS = ("disc", "square")


def encode(bitmap: np.ndarray) -> Rle:
    found = coco_mask.encode(np.asfortranarray(bitmap.astype(np.uint8)))
    return {"size": list(bitmap.shape), "counts": found["counts"].decode()}


def draw_examples(
    folder: Path, count: int, *, seed: int = 0, hw: tuple[int, int] = (96, 128)
) -> list[Example]:
    """``count`` images with 3 to 5 objects each, written to ``folder``."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    rows, columns = np.mgrid[: hw[0], : hw[1]]
    examples = []
    for i in range(count):
        image = rng.normal(110, 12, (*hw, 3))
        taken = np.zeros(hw, bool)
        labels, rles = [], []
        for _ in range(rng.integers(3, 6)):
            radius = rng.uniform(9, 14)
            y, x = rng.uniform(10, hw[0] - 10), rng.uniform(10, hw[1] - 10)
            label = int(rng.integers(2))
            if label == 0:
                bitmap = (columns - x) ** 2 + (rows - y) ** 2 <= radius**2
            else:
                bitmap = (abs(columns - x) <= radius * 0.9) & (abs(rows - y) <= radius * 0.9)
            if (bitmap & taken).any():
                continue
            taken |= bitmap
            image[bitmap] = rng.normal((230, 220, 120) if label == 0 else (30, 40, 90), 8, (bitmap.sum(), 3))
            labels.append(label)
            rles.append(encode(bitmap))
        path = folder / f"{seed}-{i}.png"
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(path)
        examples.append(Example(i, path, tuple(labels), tuple(rles)))
    return examples
