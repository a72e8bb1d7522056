"""Ground truth of a COCO set, found by the address that a picture has in Label Studio."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import unquote

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from ml_backend.errors import BadInput
from ml_backend.instances import Rle
from ml_backend.kinds.base import ProjectKind, as_drawn
from ml_backend.kinds.instances import INSTANCES
from ml_backend.label_studio.regions import Region, region_id
from ml_backend.masks.coco import CocoImage, CocoSet
from ml_backend.masks.rle import rle_box
from ml_backend.masks.shapes import whole_rle

__all__ = ["Truth", "as_wanted"]

_UPLOAD = re.compile(r"^[0-9a-f]{8}-")


class Truth:
    """Ground truth found by the address of an image in Label Studio.

    ``kind`` says what of the set's masks a project wants: the masks, boxes around them, one mask per label,
    or which labels there are. Raises BadInput when two pictures of the set would share a name.
    """

    def __init__(self, coco: CocoSet, kind: ProjectKind = INSTANCES) -> None:
        self.labels = coco.categories
        self.kind = kind
        self._by_name: dict[str, CocoImage] = {}
        for image in coco.images:
            name = _plain(image.path.name)
            if name in self._by_name:
                raise BadInput(f"two pictures are named {name}", field="images", hint="Rename one of them")
            self._by_name[name] = as_wanted(image, self.labels, kind)

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
                kind="box" if self.kind.unit == "box" else "mask",
                label=self.labels[label],
                rle=rle,
                box_xyxy=rle_box(rle),
            )
            for i, (label, rle) in enumerate(zip(image.label, image.rle, strict=True))
        ]

    @property
    def has_several(self) -> bool:
        """Whether people must be able to pick several classes of a picture."""
        return self.kind.unit == "picture" and any(len(image.label) != 1 for image in self._by_name.values())

    def tags(self, address: str) -> list[str]:
        """Labels that the picture shows, in the order of the set."""
        return [self.labels[label] for label in sorted(set(self.image(address).label))]

    def is_good(self, address: str, label: str, rle: Rle) -> bool:
        """Whether a mask is one of a true instance of its label, as the kind asks for."""
        return bool(self.best_iou(address, label, [rle])[0] > self.kind.good_iou)

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


def as_wanted(image: CocoImage, labels: Sequence[str], kind: ProjectKind) -> CocoImage:
    """A picture with the instances that a project of this kind wants to have found on it."""
    number = {label: i for i, label in enumerate(labels)}
    if kind.to_instances is as_drawn and kind.unit != "picture":
        return image
    if kind.unit == "picture":
        found = [(labels[label], whole_rle(image.hw)) for label in sorted(set(image.label))]
    else:
        drawn = [(labels[label], rle) for label, rle in zip(image.label, image.rle, strict=True)]
        found = kind.to_instances(drawn)
    return replace(
        image,
        label=tuple(number[label] for label, _ in found),
        rle=tuple(rle for _, rle in found),
        boxes_only=(kind.unit == "box",) * len(found),
    )


def _plain(name: str) -> str:
    """A file name as Label Studio stores it."""
    return re.sub(r"(?u)[^-\w.]", "", name.strip().replace(" ", "_"))


def _bytes(rle: Rle) -> dict[str, Any]:
    counts = rle["counts"]
    return {"size": rle["size"], "counts": counts.encode() if isinstance(counts, str) else counts}
