"""Examples in the form in which detectron2 trains on them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np

from ml_backend.examples import Example

__all__ = ["TrainingMapper", "record_of"]


class TrainingMapper:
    """Turns a record into a training sample: its masks and the picture, resized and flipped at random."""

    def __init__(self, cfg: Any) -> None:
        from detectron2.data.transforms import AugmentationList, RandomFlip, ResizeShortestEdge

        sizes = tuple(cfg.INPUT.MIN_SIZE_TRAIN)
        self._augment = AugmentationList(
            [ResizeShortestEdge(sizes, cfg.INPUT.MAX_SIZE_TRAIN, "choice"), RandomFlip()]
        )

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        import torch
        from detectron2.data.detection_utils import annotations_to_instances, filter_empty_instances
        from detectron2.data.detection_utils import transform_instance_annotations as move
        from detectron2.data.transforms import AugInput

        from ml_backend.images.decode import read_image

        record = copy.copy(record)
        given = AugInput(np.ascontiguousarray(read_image(Path(record["file_name"]))[:, :, ::-1]))
        transforms = self._augment(given)
        hw = given.image.shape[:2]
        record["image"] = torch.as_tensor(np.ascontiguousarray(given.image.transpose(2, 0, 1)))
        annotations = [move(copy.deepcopy(a), transforms, hw) for a in record.pop("annotations")]
        found = annotations_to_instances(annotations, hw, mask_format="bitmask")
        found.gt_boxes = found.gt_masks.get_bounding_boxes()
        record["instances"] = filter_empty_instances(found)
        return record


def record_of(example: Example) -> dict[str, Any]:
    """An example in the form of detectron2's datasets."""
    from detectron2.structures import BoxMode
    from pycocotools import mask as coco_mask

    height, width = (int(v) for v in example.rle[0]["size"])  # type: ignore[attr-defined]
    return {
        "file_name": str(example.image),
        "image_id": example.task_id,
        "height": height,
        "width": width,
        "annotations": [
            {
                "bbox": coco_mask.toBbox(dict(rle)).tolist(),
                "bbox_mode": BoxMode.XYWH_ABS,
                "category_id": label,
                "segmentation": dict(rle),
                "iscrowd": 0,
            }
            for label, rle in zip(example.label, example.rle, strict=True)
        ],
    }
