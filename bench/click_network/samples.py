"""Training samples from generated scenes and real sets, mixed, at several stages of being clicked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from bench.click_network.scenes import Cutout, Scene, SceneMaker
from ml_backend.clicks.training.window_samples import Sample, Sampler, next_click
from ml_backend.examples import Example
from ml_backend.images.decode import read_image

__all__ = ["Bank", "MixedSampler", "cut_out"]

Mask = npt.NDArray[np.bool_]
KEPT_SCENES, NEW_SCENE_EVERY = 120, 24
"""So many scenes are at hand; after so many samples from scenes the oldest makes room for a new one."""
FIRST_LOOK = (0.9, 8.0)
"""Side of the window of a first click, as a multiple of the object: nobody knows how large it is."""
MEAN_CLICKS, MOST_CLICKS = 3.0, 12


def cut_out(examples: Sequence[Example], count: int, rng: np.random.Generator) -> list[Cutout]:
    """Up to ``count`` random objects of at least 200 pixels, spread over the pictures."""
    found: list[Cutout] = []
    for example in (examples[int(i)] for i in rng.permutation(len(examples))):
        image = read_image(example.image)
        for i in rng.permutation(len(example.rle))[: max(1, 2 * count // len(examples))]:
            mask = coco_mask.decode(example.rle[int(i)]).astype(np.bool_)
            if mask.sum() < 200:
                continue
            x, y, w, h = cv2.boundingRect(mask.view(np.uint8))
            found.append(Cutout(image[y : y + h, x : x + w].copy(), mask[y : y + h, x : x + w].copy()))
            if len(found) == count:
                return found
    return found


class MixedSampler(Sampler):
    """Draws from scenes with probability ``generated``, else from one of the real sets, each as likely.

    The first window of a sample may be far too wide or a little too narrow: the network serves every kind of
    picture, so the size of its objects is not known.
    """

    def __init__(
        self, sets: Sequence[Sequence[Example]], makers: SceneMaker, *, size: int, seed: int, generated: float
    ) -> None:
        super().__init__([example for one in sets for example in one], size=size, seed=seed)
        known = {id(example): at for at, (example, _) in enumerate(self._examples)}
        self._sets = [[known[id(e)] for e in one if id(e) in known] for one in sets]
        self._generated = generated
        self._maker = makers
        self._scenes: list[Scene] = []
        self._drawn = 0

    def _scene(self) -> Scene:
        rng = self.rng
        if len(self._scenes) < KEPT_SCENES or self._drawn % NEW_SCENE_EVERY == 0:
            scene = self._maker.make(rng)
            while not scene.masks:
                scene = self._maker.make(rng)
            self._scenes.append(scene)
            del self._scenes[:-KEPT_SCENES]
        self._drawn += 1
        fresh = len(self._scenes) < KEPT_SCENES
        return self._scenes[-1 if fresh else int(rng.integers(len(self._scenes)))]

    def _pick(self) -> tuple[npt.NDArray[np.uint8], Mask]:
        rng = self.rng
        if rng.random() < self._generated:
            scene = self._scene()
            return scene.image, scene.masks[int(rng.integers(len(scene.masks)))]
        rows = self._sets[int(rng.integers(len(self._sets)))]
        weights = self._p[rows] / self._p[rows].sum()
        index = int(rng.choice(rows, p=weights))
        example, usable = self._examples[index]
        return self._image(index), coco_mask.decode(example.rle[int(rng.choice(usable))]).astype(np.bool_)

    def _first_side(self, mask: Mask) -> float:
        _, _, width, height = cv2.boundingRect(mask.view(np.uint8))
        low, high = np.log(FIRST_LOOK)
        return float(max(24.0, max(width, height) * np.exp(self.rng.uniform(low, high))))


@dataclass(slots=True)
class _Slot:
    sample: Sample
    left: int


class Bank:
    """Samples of one size that are being clicked. Each step of the training takes some, learns from them as
    they are, and puts them back with one more click where the network was wrong. So a click costs no forward
    pass of its own, and late clicks are learnt from too.
    """

    def __init__(self, sampler: MixedSampler, *, size: int, slots: int) -> None:
        self._sampler = sampler
        self._size = size
        self._slots = [self._new() for _ in range(slots)]
        self._at: list[int] = []

    def _new(self) -> _Slot:
        self._sampler.size = self._size
        rng = self._sampler.rng
        left = min(MOST_CLICKS, int(rng.exponential(MEAN_CLICKS)))
        return _Slot(self._sampler.draw(1)[0], left)

    def take(self, count: int) -> list[Sample]:
        """``count`` random samples; ``put_back`` says what the network made of them."""
        self._at = [int(i) for i in self._sampler.rng.permutation(len(self._slots))[:count]]
        return [self._slots[i].sample for i in self._at]

    def put_back(self, predicted: npt.NDArray[np.bool_]) -> None:
        """The masks (count, S, S) that the network gave for the samples taken last."""
        for at, mask in zip(self._at, predicted, strict=True):
            slot = self._slots[at]
            wrong = int((mask != slot.sample.target).sum())
            if slot.left <= 0 or wrong <= 0.02 * int(slot.sample.target.sum()):
                self._slots[at] = self._new()
                continue
            next_click(slot.sample, mask, self._sampler.rng)
            slot.left -= 1
