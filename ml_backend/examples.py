"""Training examples: a finished task as an image file and its true instances."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ml_backend.instances import Rle

__all__ = ["Example"]


@dataclass(frozen=True, slots=True)
class Example:
    """One finished task: an image on disk and its true instances.

    Attributes
    ----------
    task_id : Label Studio task
    image : path of a decodable image file
    label : per instance, index into ``TrainSpec.labels``
    rle : per instance, COCO RLE at the size of the image; the filled box where boxes are drawn
    tags : labels of the picture as a whole (choices): its classes, or what it shows without saying where
    ignore : areas where objects may be that nobody confirmed, COCO RLE: neither object nor background
    weight : per instance, how far it is trusted, in 0..1; empty: 1 each
    """

    task_id: int
    image: Path
    label: tuple[int, ...]
    rle: tuple[Rle, ...]
    tags: tuple[int, ...] = ()
    ignore: tuple[Rle, ...] = ()
    weight: tuple[float, ...] = ()
