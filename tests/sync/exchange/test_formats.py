"""Export formats: COCO boxes and masks, CSV of classes, indexed PNGs; formats that do not fit."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from ml_backend.errors import BadInput
from ml_backend.instances import Rle
from ml_backend.kinds.registry import Wanted
from ml_backend.label_studio.config_builder import build_label_config
from ml_backend.masks.shapes import box_rle
from sync.exchange.coco_export import write_coco
from sync.exchange.content import Content, Item, LeftOut, Shown
from sync.exchange.csv_export import COLUMNS, write_csv
from sync.exchange.export import choose_format, export_project
from sync.exchange.masks_export import write_masks
from sync.rounds.pull import pull
from tests.fakes.label_studio import FakeStudio
from tests.sync.conftest import World
from tests.sync.steps import step

HW = (40, 60)
INFO = {"round": 2, "model_version": "gs-r2", "review_done": True, "says": ["…"]}
HUMAN = {"source": "human", "person": 7, "annotation": 70}
PROPAGATED = {"score": 0.91, "quality": 0.8, "model_version": "gs-r2", "source": "propagated", "round": 2}
PROPAGATED |= {"instance": "k", "cluster": 3, "purity_lower": 0.9, "purity_upper": 0.97, "confidence": 0.95}


def content(wanted: list[Wanted], *pictures: tuple[str, bool, list[Item]]) -> Content:
    shown = [
        Shown(task, name, HW, f"/data/{name}", finished, items)
        for task, (name, finished, items) in enumerate(pictures, start=1)
    ]
    names = {picture.task_id: picture.file_name for picture in shown}
    return Content(wanted, shown, [LeftOut(99, "broken.png", "damaged")], INFO, names)


def box(x0: int, y0: int, x1: int, y1: int) -> Rle:
    return box_rle((x0, y0, x1, y1), HW)


def test_boxes_keep_their_edges_and_rotated_ones_their_corners(tmp_path: Path) -> None:
    upright = Item("cell", box(3, 4, 20, 30), HUMAN, (3.25, 4.5, 20.0, 30.75))
    turned = Item("cell", box(0, 5, 17, 32), HUMAN, (0, 5, 17, 32), (20.0, 10.0, 10.0, 4.0, 90.0))
    found = Item("disc", box(5, 5, 9, 9), PROPAGATED, (5.1, 5.2, 9.3, 9.4))
    wanted = [Wanted("boxes", ("cell", "disc"))]
    write_coco(content(wanted, ("a.png", True, [upright, turned]), ("b.png", False, [found])), tmp_path / "c")
    coco = COCO(str(tmp_path / "c"))
    first, second, third = coco.loadAnns([1, 2, 3])
    assert first["bbox"] == [3.25, 4.5, 16.75, 26.25]
    assert first["segmentation"] == []
    assert first["area"] == pytest.approx(16.75 * 26.25, abs=0.01)
    assert (first["source"], first["person"]) == ("human", 7)
    # turned by 90° about its top left corner (20, 10): it lies to the left of it, and hangs down
    assert second["segmentation"] == [[20.0, 10.0, 20.0, 20.0, 16.0, 20.0, 16.0, 10.0]]
    assert second["bbox"] == [16.0, 10.0, 4.0, 10.0]
    assert (second["rotation"], second["area"]) == (90.0, 40.0)
    assert coco.annToMask(second)[10:20, 16:20].all()
    assert (third["category_id"], third["source"], third["purity_lower"]) == (2, "propagated", 0.9)
    assert coco.dataset["info"]["left_out"][0]["file_name"] == "broken.png"


def test_classes_are_lines_with_their_origin(tmp_path: Path) -> None:
    wanted = [Wanted("classes", ("ok", "bad"), exclusive=True)]
    pictures = content(
        wanted,
        ("b,1.png", True, [Item("ok", None, HUMAN), Item("bad", None, HUMAN)]),
        ("a.png", False, [Item("ok", None, PROPAGATED)]),
        ("c.png", True, []),
    )
    write_csv(pictures, tmp_path / "classes.csv")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "classes.csv").read_text())))
    assert tuple(rows[0]) == COLUMNS
    assert [(row["file"], row["label"], row["source"]) for row in rows] == [
        ("a.png", "ok", "propagated"),
        ("b,1.png", "ok", "human"),
        ("b,1.png", "bad", "human"),
        ("c.png", "", "human"),
    ]
    assert (rows[0]["probability"], rows[0]["purity_lower"], rows[0]["round"]) == ("0.91", "0.9", "2")
    assert (rows[1]["probability"], rows[1]["person"], rows[1]["task"]) == ("", "7", "1")


def test_pngs_hold_label_numbers_and_say_what_is_unknown(tmp_path: Path) -> None:
    wanted = [Wanted("segmentation", ("sky", "tree"))]
    sky, tree = Item("sky", box(0, 0, 60, 20), HUMAN), Item("tree", box(10, 10, 20, 40), HUMAN)
    half, rest = Item("sky", box(0, 0, 60, 20), PROPAGATED), Item("tree", box(10, 10, 20, 40), PROPAGATED)
    write_masks(
        content(
            wanted,
            ("d/a.jpg", True, [tree, sky]),
            ("d/b.jpg", False, [half]),
            ("d/b.png", False, [half, rest]),
            ("e.png", True, []),
        ),
        tmp_path / "out",
    )
    legend = json.loads((tmp_path / "out" / "legend.json").read_text())
    assert [row["mask"] for row in legend["pictures"]] == ["d/a.png", "d/b.jpg.png", "d/b.png.png", "e.png"]
    assert [(row["value"], row["label"], row["colour"]) for row in legend["labels"]] == [
        (1, "sky", "#800000"),
        (2, "tree", "#008000"),
    ]
    assert legend["pictures"][1]["labels"][0]["source"] == "propagated"
    assert legend["info"]["left_out"][0]["reason"] == "damaged"
    read = [np.asarray(Image.open(tmp_path / "out" / row["mask"])) for row in legend["pictures"]]
    assert all(values.shape == HW for values in read)
    assert (read[0][30, 15], read[0][15, 15], read[0][5, 5], read[0][30, 50]) == (2, 2, 1, 0)
    assert (read[1][5, 5], read[1][30, 15], read[1][30, 50]) == (1, 255, 255)
    assert (read[2][30, 15], read[2][30, 50]) == (2, 0)
    assert not read[3].any()
    with Image.open(tmp_path / "out" / "d" / "a.png") as picture:
        assert picture.mode == "P"
        assert picture.convert("RGB").getpixel((5, 5)) == (128, 0, 0)
    with pytest.raises(BadInput, match="there already"):
        write_masks(content(wanted), tmp_path / "out")
    many = [Wanted("segmentation", tuple(f"l{i}" for i in range(255)))]
    with pytest.raises(BadInput, match="8 bits"):
        write_masks(content(many), tmp_path / "many")


def test_a_format_must_suit_a_kind() -> None:
    boxes, classes = Wanted("boxes", ("cell",)), Wanted("classes", ("ok", "bad"))
    assert choose_format([boxes, classes], "") == ("coco", [boxes])
    assert choose_format([classes, boxes], "") == ("csv", [classes])
    assert choose_format([boxes, classes], "csv") == ("csv", [classes])
    with pytest.raises(BadInput, match=r"'masks' does not fit") as caught:
        choose_format([boxes, classes], "png")
    assert caught.value.hint == "Formats of boxes: coco, yolo, voc, parquet; classes: csv, parquet"
    with pytest.raises(BadInput, match="'tiff' is not known"):
        choose_format([boxes], "tiff")


def test_a_segmentation_project_exports_one_mask_per_label(tmp_path: Path) -> None:
    world = World(tmp_path / "world", 3, config=build_label_config(("disc", "bar"), kind="segmentation"))
    world.label(0, 1)
    step(pull, world.open())
    done = step(export_project, world.open(), tmp_path / "a.json")
    assert (done.format, done.images, done.round) == ("coco", 2, None)
    coco = COCO(str(tmp_path / "a.json"))
    for task, scene in zip(world.tasks, world.scenes[:2], strict=False):
        rows = coco.loadAnns(coco.getAnnIds(task))
        names = [coco.cats[row["category_id"]]["name"] for row in rows]
        assert sorted(names) == sorted({label for label, _ in scene.masks})
        for name, row in zip(names, rows, strict=True):
            union = np.logical_or.reduce([mask for label, mask in scene.masks if label == name])
            assert np.array_equal(coco.annToMask(row).astype(bool), union)
            assert row["iscrowd"] == 0
    done = step(export_project, world.open(), tmp_path / "masks", format="png")
    legend = json.loads((tmp_path / "masks" / "legend.json").read_text())
    number = {row["label"]: row["value"] for row in legend["labels"]}
    for row, scene in zip(legend["pictures"], world.scenes[:2], strict=True):
        values = np.asarray(Image.open(tmp_path / "masks" / row["mask"]))
        for label, mask in scene.masks:
            assert (values[mask] == number[label]).all()
    with pytest.raises(BadInput, match="'csv' does not fit"):
        step(export_project, world.open(), tmp_path / "b.csv", format="csv")


def test_boxes_and_classes_of_one_project(tmp_path: Path) -> None:
    world = World(tmp_path / "world", 2, FakeStudio(), config=TWO)
    world.studio.create_annotation(
        world.tasks[0],
        [
            rectangle(x=10.0, y=20.0, width=50.0, height=25.0, rotation=0),
            rectangle(x=50.0, y=20.0, width=20.0, height=10.0, rotation=30),
            {"type": "choices", "from_name": "state", "to_name": "image", "value": {"choices": ["fresh"]}},
        ],
    )
    step(pull, world.open())
    done = step(export_project, world.open(), tmp_path / "a.json")
    assert (done.format, done.annotations) == ("coco", {"human": 2})
    assert done.other_labels == ["fresh", "dry"]
    first, second = COCO(str(tmp_path / "a.json")).loadAnns([1, 2])
    assert first["bbox"] == pytest.approx([6.4, 9.6, 32.0, 12.0], abs=0.01)
    assert second["rotation"] == 30
    assert second["segmentation"][0][:2] == pytest.approx([32.0, 9.6], abs=0.01)
    assert second["area"] == pytest.approx(12.8 * 4.8, abs=0.05)
    step(export_project, world.open(), tmp_path / "a.csv", format="csv")
    (row,) = csv.DictReader(io.StringIO((tmp_path / "a.csv").read_text()))
    assert (row["file"], row["label"], row["source"]) == ("000.png", "fresh", "human")


TWO = """<View><Image name="image" value="$image"/>
<RectangleLabels name="box" toName="image" smart="false"><Label value="leaf"/></RectangleLabels>
<Choices name="state" toName="image" choice="single"><Choice value="fresh"/><Choice value="dry"/></Choices>
</View>"""


def rectangle(**value: float) -> dict[str, Any]:
    return {
        "id": f"r{value['x']}", "type": "rectanglelabels", "from_name": "box", "to_name": "image",
        "original_width": 64, "original_height": 48, "image_rotation": 0,
        "value": {**value, "rectanglelabels": ["leaf"]},
    }  # fmt: skip
