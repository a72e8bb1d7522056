"""Discs on a dark picture, a segmenter that finds them too small, and a model that proposes them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from ml_backend.clicks.base import ClickResult, Embedding, Prompt, StartMask
from ml_backend.clicks.ranking.features import FEATURES
from ml_backend.clicks.start_masks import Proposals
from ml_backend.examples import Example
from ml_backend.instances import Instances
from ml_backend.masks.rle import encode_mask
from tests.ml_backend.clicks.click_helpers import disc

Mask = npt.NDArray[np.bool_]
HW = (64, 80)
DISCS = ((20, 20, 9), (56, 40, 13))
"""(x, y, radius) of the objects on every picture."""


def weights(**named: float) -> tuple[float, ...]:
    """Weights of a ranking, by feature with ``_`` for a space."""
    known = {name.replace(" ", "_"): 0.0 for name in FEATURES}
    assert set(named) <= set(known)
    return tuple((known | named).values())


def proposals(masks: Sequence[Mask], scores: Sequence[float] | None = None, version: str = "v1") -> Proposals:
    """Masks that a model proposes for the label Cat."""
    n = len(masks)
    boxes = np.array([cv2.boundingRect(m.astype(np.uint8)) for m in masks], np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    worth = np.ones(n, np.float32) if scores is None else np.array(scores, np.float32)
    found = Instances(
        np.zeros(n, np.int64), boxes, [encode_mask(m) for m in masks], worth, np.ones(n, np.float32),
        np.zeros((n, 0), np.float32),
    )  # fmt: skip
    return Proposals(version, ("Cat", "Dog"), found)


class Small:
    """Finds a disc of radius ``radius`` at the last click, or adds one to what it starts from; a negative
    click takes it away.
    """

    device = "cpu"
    nbytes = 0
    persist = False

    def __init__(
        self, radius: float = 4, score: float = 0.9, encoder: str = "small-1", name: str = "small"
    ) -> None:
        self.name = name
        self.radius, self.score, self.encoder = radius, score, encoder
        self.starts: list[StartMask | None] = []

    def embed(self, image: npt.NDArray[np.uint8]) -> Embedding:
        return Embedding(self.encoder, (image.shape[0], image.shape[1]), {"pixels": image})

    def segment(self, embedding: Embedding, prompt: Prompt, start_mask: StartMask | None) -> ClickResult:
        self.starts.append(start_mask)
        mask = np.zeros(embedding.hw, bool) if start_mask is None else start_mask.mask.copy()
        if prompt.points:
            x, y, positive = prompt.points[-1]
            mask[disc(embedding.hw, x, y, self.radius)] = positive
        elif prompt.box is not None:
            x0, y0, x1, y1 = prompt.box
            mask |= disc(embedding.hw, (x0 + x1) / 2, (y0 + y1) / 2, self.radius)
        return ClickResult(mask[None], np.array([self.score], np.float32), None)


class Finder:
    """A model whose proposals are the discs; with ``wrong`` they lie beside them."""

    labels = ("Cat",)
    embedding_dim = 0
    nbytes = 0

    def __init__(self, *, wrong: bool = False) -> None:
        self.moved = 5 if wrong else 0

    def predict(self, images: Sequence[npt.NDArray[np.uint8]]) -> Iterator[Instances]:
        for image in images:
            hw = (image.shape[0], image.shape[1])
            yield proposals([disc(hw, x + self.moved, y, r) for x, y, r in DISCS]).instances


def picture(path: Path, seed: int) -> Example:
    """A finished picture with the two discs."""
    image = np.random.default_rng(seed).integers(0, 30, (*HW, 3), dtype=np.uint8)
    masks = [disc(HW, x, y, r) for x, y, r in DISCS]
    for mask in masks:
        image[mask] += 150
    cv2.imwrite(str(path), image)
    return Example(seed, path, (0, 0), tuple(encode_mask(mask) for mask in masks))
