"""COCO files: what is read, and what is refused with the record named."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from ml_backend.errors import BadInput
from ml_backend.masks.coco import box_to_rle, load_coco

SHARED = Path(os.environ.get("GROUNDSWELL_SHARED_DATA", Path(__file__).parents[4] / "shared" / "data"))


def document() -> dict[str, Any]:
    square = [[2, 2, 8, 2, 8, 8, 2, 8]]
    return {
        "categories": [{"id": 7, "name": "cell"}, {"id": 3, "name": "spot"}],
        "images": [{"id": 5, "file_name": "a.png", "height": 10, "width": 12}],
        "annotations": [
            {"id": 1, "image_id": 5, "category_id": 3, "segmentation": square, "bbox": [2, 2, 6, 6]},
            {"id": 2, "image_id": 5, "category_id": 7, "segmentation": [], "bbox": [1, 0, 4, 3]},
            {
                "id": 3,
                "image_id": 5,
                "category_id": 7,
                "segmentation": {"size": [10, 12], "counts": [0, 5, 115]},
            },
            {
                "id": 4,
                "image_id": 5,
                "category_id": 7,
                "segmentation": square,
                "bbox": [0, 0, 1, 1],
                "iscrowd": 1,
            },
        ],
    }


def write(folder: Path, value: Any) -> Path:
    Image.fromarray(np.zeros((10, 12, 3), np.uint8)).save(folder / "a.png")
    path = folder / "coco.json"
    path.write_text(json.dumps(value))
    return path


def test_reads_polygons_boxes_and_runs(tmp_path: Path) -> None:
    found = load_coco(tmp_path, write(tmp_path, document()))
    assert found.categories == ("cell", "spot")
    (image,) = found.images
    assert image.label == (1, 0, 0)
    assert image.boxes_only == (False, True, False)
    polygon, box, runs = (coco_mask.decode(dict(rle)) for rle in image.rle)
    assert polygon.sum() == 36
    np.testing.assert_array_equal(np.argwhere(box).min(0), [0, 1])
    assert box.sum() == 12
    assert runs.sum() == 5
    assert runs[:5, 0].all()
    assert found.n_instances == 3
    assert found.examples()[0].task_id == 5
    json.dumps(image.rle)


@pytest.mark.parametrize(
    ("path", "value", "field"),
    [
        (("categories",), [], "categories"),
        (("categories", 1, "id"), 7, "categories[1]"),
        (("images",), {}, "images"),
        (("images", 0, "file_name"), "b.png", "images[0].file_name"),
        (("images", 0, "height"), 0, "images[0]"),
        (("annotations", 0, "image_id"), 6, "annotations[0].image_id"),
        (("annotations", 1, "category_id"), 1, "annotations[1].category_id"),
        (("annotations", 0, "segmentation"), [[1, 2, 3, 4]], "annotations[0].segmentation"),
        (("annotations", 0, "segmentation"), [["x"] * 6], "annotations[0].segmentation"),
        (("annotations", 2, "segmentation", "size"), [12, 10], "annotations[2].segmentation.size"),
        (("annotations", 2, "segmentation", "counts"), [0, 5], "annotations[2].segmentation.counts"),
        (("annotations", 2, "segmentation", "counts"), "zzz", "annotations[2].segmentation.counts"),
        (("annotations", 2, "segmentation", "counts"), "", "annotations[2].segmentation.counts"),
        (("annotations", 1, "bbox"), [1, 2, 0, 4], "annotations[1].bbox"),
        (("annotations", 1, "bbox"), None, "annotations[1].bbox"),
        (("annotations", 1, "bbox"), [1, 2, 10**400, 4], "annotations[1].bbox"),
        (("annotations", 2, "segmentation", "counts"), [0, -5, 125], "annotations[2].segmentation.counts[1]"),
        (("annotations", 2, "segmentation", "counts"), "é", "annotations[2].segmentation.counts"),
        (("annotations", 0, "segmentation"), [[0, 0, 1e300, 0, 5, 5]], "annotations[0].segmentation"),
        (("annotations", 0, "segmentation"), [[0, 0, math.nan, 0, 5, 5]], "annotations[0].segmentation"),
        (("annotations", 0, "segmentation"), "2 2 8 2 8 8", "annotations[0].segmentation"),
    ],
)
def test_refuses_and_names_the_record(
    tmp_path: Path, path: tuple[str | int, ...], value: Any, field: str
) -> None:
    wrong: Any = document()
    inner = wrong
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    with pytest.raises(BadInput) as caught:
        load_coco(tmp_path, write(tmp_path, wrong))
    assert caught.value.field == field


def test_refuses_what_is_not_json(tmp_path: Path) -> None:
    path = write(tmp_path, [])
    with pytest.raises(BadInput, match="not a COCO object"):
        load_coco(tmp_path, path)
    path.write_text("{")
    with pytest.raises(BadInput, match="JSON"):
        load_coco(tmp_path, path)
    with pytest.raises(BadInput, match="no file"):
        load_coco(tmp_path, tmp_path / "none.json")


def test_box_is_cut_at_the_border() -> None:
    decoded = coco_mask.decode(dict(box_to_rle((8, 5, 10, 10), (10, 12))))
    assert decoded.sum() == 4 * 5


@pytest.mark.skipif(not SHARED.is_dir(), reason="the sample data sets are not on this machine")
def test_reads_the_sample_sets() -> None:
    for name, labels in (("nuclei_dsb2018_a", 1), ("bccd_cells", 3), ("coco_natural_a", 80)):
        found = load_coco(SHARED / name / "images", SHARED / name / "annotations.json")
        assert len(found.categories) == labels
        assert found.n_instances > 1000
