"""A tiny drawn data set for classes: stripes across, stripes down, or dots, on noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from ml_backend.examples import Example

LABELS = ("across", "down", "dots")


def draw_tagged(folder: Path, count: int, *, seed: int = 0, several: bool = False) -> tuple[Example, ...]:
    """``count`` pictures of 48 x 64 pixels, one label each, or any number of them where ``several``."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    rows, columns = np.mgrid[:48, :64]
    examples = []
    for i in range(count):
        tags = [int(t) for t in np.flatnonzero(rng.random(3) < 0.4)] if several else [i % 3]
        image = rng.normal(120, 10, (48, 64))
        if 0 in tags:
            image += 40 * np.sign(np.sin(rows * rng.uniform(0.5, 0.8) + rng.uniform(0, 6)))
        if 1 in tags:
            image += 40 * np.sign(np.sin(columns * rng.uniform(0.5, 0.8) + rng.uniform(0, 6)))
        if 2 in tags:
            for y, x in rng.uniform((6, 6), (42, 58), (6, 2)):
                image[(rows - y) ** 2 + (columns - x) ** 2 < 12] = 240
        path = folder / f"{seed}-{i}.png"
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).convert("RGB").save(path)
        examples.append(Example(seed * 1000 + i, path, (), (), tags=tuple(tags)))
    return tuple(examples)
