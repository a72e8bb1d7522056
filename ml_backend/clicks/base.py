"""Click segmentation: typed prompts, the segmenter protocol, and what it returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

__all__ = ["ClickResult", "ClickSegmenter", "Embedding", "ManyMasks", "Prompt", "StartMask"]


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a person asked for on one image, in pixels of the original image. Built once at the edge.

    Attributes
    ----------
    points : ((x, y, positive), …) in click order
    box : (x0, y0, x1, y1) or None
    label : class of the wanted mask
    """

    points: tuple[tuple[float, float, bool], ...]
    box: tuple[float, float, float, float] | None
    label: str


@dataclass(frozen=True, slots=True, eq=False)
class Embedding:
    """What ``embed`` computed for one image: arrays only, so that it can be stored and mapped.

    ``hw`` is the size of the original image; ``arrays`` are named float arrays (features, or the image itself
    for segmenters that need pixels); ``encoder`` names the encoder and its weights, and is part of the cache
    key.
    """

    encoder: str
    hw: tuple[int, int]
    arrays: dict[str, npt.NDArray[np.generic]]

    @property
    def nbytes(self) -> int:
        return sum(a.nbytes for a in self.arrays.values())


@dataclass(frozen=True, slots=True, eq=False)
class StartMask:
    """A mask to start from: a proposal the click fell on, or the mask of the previous click.

    ``mask`` (H, W) bool at original size; ``logits`` (256, 256) float32 low-resolution logits or None;
    ``box_xyxy`` in pixels; ``from_proposal`` False when it is this annotator's own previous mask.
    """

    mask: npt.NDArray[np.bool_]
    logits: npt.NDArray[np.float32] | None
    box_xyxy: tuple[float, float, float, float]
    from_proposal: bool


@dataclass(frozen=True, slots=True, eq=False)
class ClickResult:
    """Best mask first.

    masks : (k, H, W) bool; iou : (k,) float32 predicted IoU in 0..1; logits : (k, h, w) float32 low-res
    logits to feed back as ``StartMask.logits``, or None where the segmenter has none.
    """

    masks: npt.NDArray[np.bool_]
    iou: npt.NDArray[np.float32]
    logits: npt.NDArray[np.float32] | None


class ClickSegmenter(Protocol):
    """Stateless between calls: ``segment`` is a pure function of its arguments, safe under threads."""

    name: str
    encoder: str
    """Names encoder architecture, weights digest and preprocessing: part of every embedding's key."""
    nbytes: int
    """Memory of its weights; 0 where there are none."""
    persist: bool
    """False when the embedding is the picture itself. Then nothing is computed ahead or kept on disk."""

    @property
    def device(self) -> str:
        """Where it runs now; encoders of one device take turns."""
        ...

    def embed(self, image: npt.NDArray[np.uint8]) -> Embedding:
        """Encode one (H, W, 3) uint8 RGB image."""
        ...

    def segment(self, embedding: Embedding, prompt: Prompt, start_mask: StartMask | None) -> ClickResult:
        """Masks for the prompt. With no points and no box, the answer is the start mask itself, unchanged."""
        ...


@runtime_checkable
class ManyMasks(Protocol):
    """A segmenter that knows several masks for a first click."""

    def segment_all(self, embedding: Embedding, prompt: Prompt) -> ClickResult:
        """As ``segment`` without a start mask; the same mask first, then the others it considered."""
        ...
