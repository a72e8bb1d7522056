"""Ground truth of a COCO set, found by the address that a picture has in Label Studio."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import unquote

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from ml_backend.errors import BadInput
from ml_backend.instances import Rle
from ml_backend.label_studio.regions import Region, region_id
from ml_backend.masks.coco import CocoImage, CocoSet
from ml_backend.masks.rle import rle_box

__all__ = ["GOOD_IOU", "Truth"]

GOOD_IOU = 0.75
"""a mask is good when it overlaps a true instance of its label at least this much"""
_UPLOAD = re.compile(r"^[0-9a-f]{8}-")


class Truth:
    """Ground truth found by the address of an image in Label Studio.

    Raises BadInput when two pictures of the set would share a name.
    """

    def __init__(self, coco: CocoSet) -> None:
        self.labels = coco.categories
        self._by_name: dict[str, CocoImage] = {}
        for image in coco.images:
            name = _plain(image.path.name)
            if name in self._by_name:
                raise BadInput(f"two pictures are named {name}", field="images", hint="Rename one of them")
            self._by_name[name] = image

    def image(self, address: str) -> CocoImage:
        """The picture behind a task's image address (upload, local file or path)."""
        name = address.rsplit("/", 1)[-1].rsplit("?d=", 1)[-1]
        for candidate in (name, unquote(name), _UPLOAD.sub("", name)):
            if candidate in self._by_name:
                return self._by_name[candidate]
        raise BadInput(
            f"the ground truth does not know {address}", field="annotations", hint="Is it of another set?"
        )

    def regions(self, address: str) -> list[Region]:
        """The true instances as regions, their ids following from the picture."""
        image = self.image(address)
        return [
            Region(
                id=region_id(f"truth:{image.image_id}:{i}"),
                kind="mask",
                label=self.labels[label],
                rle=rle,
                box_xyxy=rle_box(rle),
            )
            for i, (label, rle) in enumerate(zip(image.label, image.rle, strict=True))
        ]

    def best_iou(self, address: str, label: str, masks: Sequence[Rle]) -> npt.NDArray[np.float64]:
        """(n,) largest IoU of each mask with a true instance of ``label`` in the picture, 0 without one."""
        return self.best_match(address, label, masks)[0]

    def best_match(
        self, address: str, label: str, masks: Sequence[Rle]
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        """(n,) largest IoU as above, and (n,) the place of that instance among those of ``label``."""
        image = self.image(address)
        true = [_bytes(rle) for k, rle in zip(image.label, image.rle, strict=True) if self.labels[k] == label]
        if not true or not masks:
            return np.zeros(len(masks)), np.full(len(masks), -1, np.int64)
        found = coco_mask.iou([_bytes(rle) for rle in masks], true, [0] * len(true))
        table = np.asarray(found, np.float64)
        return table.max(axis=1), table.argmax(axis=1).astype(np.int64)


def _plain(name: str) -> str:
    """A file name as Label Studio stores it."""
    return re.sub(r"(?u)[^-\w.]", "", name.strip().replace(" ", "_"))


def _bytes(rle: Rle) -> dict[str, Any]:
    counts = rle["counts"]
    return {"size": rle["size"], "counts": counts.encode() if isinstance(counts, str) else counts}
