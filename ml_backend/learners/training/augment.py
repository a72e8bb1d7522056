"""Random changes of training pictures together with their boxes and masks (torchvision's v2 transforms)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

__all__ = ["PRESETS", "Augment"]

PRESETS = ("none", "photo", "any")
_PER_OBJECT = ("boxes", "masks", "labels", "weights")


@dataclass(frozen=True)
class Augment:
    """Draws one change of a picture from a seed.

    Attributes
    ----------
    preset : ``none`` (resize only), ``photo`` (mirrored left to right, brightness, contrast, colour),
        ``any`` (also up to down and quarter turns: microscopes, trays seen from above)
    height, width : size of the result in pixels
    crop : smallest share of the area that a random crop keeps; 1 = the picture is not cropped
    min_side_px : boxes and masks smaller than this after the change are dropped
    """

    preset: str
    height: int
    width: int
    crop: float = 1.0
    min_side_px: float = 1.0

    def __call__(
        self, image: Tensor, target: Mapping[str, Tensor], seed: int | tuple[int, ...]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The changed picture, (3, height, width) uint8, and its target.

        ``image``: (3, h, w) uint8. ``target``: ``boxes`` (n, 4) float xyxy in pixels of ``image``, ``masks``
        (n, h, w) uint8; both may be missing. ``labels`` and ``weights`` (n, …) lose the rows of the objects
        that are dropped. ``semantic``, (h, w) whole numbers, is moved like a mask. Other entries pass
        unchanged.
        """
        values: dict[str, Any] = dict(target)
        size = (int(image.shape[-2]), int(image.shape[-1]))
        if "boxes" in values:
            values["boxes"] = tv_tensors.BoundingBoxes(
                values["boxes"].reshape(-1, 4), format="XYXY", canvas_size=size
            )
        for name in ("masks", "semantic"):
            if name in values:
                values[name] = tv_tensors.Mask(values[name])
        numbers = np.random.SeedSequence(seed).generate_state(1, np.uint64)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(numbers[0]) >> 1)
            moved, values = self._transform(tv_tensors.Image(image), values)
        plain = {
            name: value.as_subclass(Tensor) if isinstance(value, tv_tensors.TVTensor) else value
            for name, value in values.items()
        }
        return moved.as_subclass(Tensor), self._without_lost(plain)

    @cached_property
    def _transform(self) -> v2.Transform:
        steps: list[v2.Transform] = []
        size = (self.height, self.width)
        if self.preset not in PRESETS:
            raise ValueError(f"no preset is called {self.preset!r}")
        if self.preset == "any":
            steps += [v2.RandomVerticalFlip(), v2.RandomChoice([v2.Identity(), _QuarterTurn()])]
        if self.preset != "none":
            steps.append(v2.RandomHorizontalFlip())
        if self.crop < 1:
            steps.append(
                v2.RandomResizedCrop(size, scale=(self.crop, 1.0), ratio=(0.75, 1.33), antialias=True)
            )
        else:
            steps.append(v2.Resize(size, antialias=True))
        if self.preset != "none":
            steps.append(v2.ColorJitter(brightness=0.25, contrast=0.25, saturation=0.25, hue=0.03))
        steps.append(v2.ClampBoundingBoxes())
        return v2.Compose(steps)

    def _without_lost(self, target: dict[str, Tensor]) -> dict[str, Tensor]:
        if "masks" in target:
            masks = target["masks"].bool()
            extents = torch.stack([masks.any(2).sum(1), masks.any(1).sum(1)], dim=1)
        elif "boxes" in target:
            extents = target["boxes"][:, 2:] - target["boxes"][:, :2]
        else:
            return target
        keep = (extents >= self.min_side_px).all(1)
        return {name: value[keep] if name in _PER_OBJECT else value for name, value in target.items()}


class _QuarterTurn(v2.Transform):  # type: ignore[misc]
    """A quarter turn: pixels stay sharp and boxes stay boxes."""

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return v2.functional.rotate(inpt, 90.0, expand=True)
