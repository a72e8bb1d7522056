"""Out and in again: every format gives back what was drawn, for our reader and for those of others."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pycocotools.coco import COCO

from ml_backend.kinds.base import Kind
from ml_backend.label_studio.config_builder import build_label_config
from ml_backend.masks.rle import decode_rle, encode_mask, rle_box, rle_iou
from sync.exchange.content import Item
from sync.exchange.export import export_project
from sync.exchange.import_labels import import_labels
from sync.exchange.import_regions import LabelNames
from sync.exchange.import_report import ImportReport, ProblemFile
from sync.exchange.import_targets import ImportPlan
from sync.exchange.readers.registry import open_reader
from sync.rounds.pull import pull
from sync.rounds.task_queries import finished_tasks
from tests.sync.conftest import HW, World
from tests.sync.exchange.loaders import iou, load_voc, load_yolo
from tests.sync.steps import step

LABELS = ("disc", "bar")
TWO = """<View><Image name="image" value="$image"/>
<RectangleLabels name="box" toName="image" smart="false">
<Label value="leaf"/><Label value="bud"/></RectangleLabels>
<Choices name="state" toName="image" choice="single"><Choice value="fresh"/><Choice value="dry"/></Choices>
</View>"""


def make(folder: Path, kind: Kind, *, n: int = 4, **options: Any) -> World:
    return World(folder, n, config=build_label_config(LABELS, kind=kind, **options))


def bring_in(world: World, format: str, path: Path, **options: Any) -> ImportReport:
    opened = world.open()
    names = LabelNames(opened.config.labels, options.pop("renamed", {}))
    reader = open_reader(format, path, names.known, options.pop("classes", None))
    rest = {name: options.pop(name) for name in ("pictures", "coming") if name in options}
    plan = ImportPlan(format, **options)
    with ProblemFile(path.parent / f"{path.name}.problems.csv") as problems:
        return import_labels(
            opened.studio, opened.id, opened.config, opened.images, reader, names, plan, problems, **rest
        )


def drawn(world: World, number: int) -> list[tuple[str, Any]]:
    """Labels and masks (None: a class) of a task as the worker pulls them."""
    step(pull, world.open())
    found = finished_tasks(world.open().db)
    if world.tasks[number] not in found:
        return []
    _, annotation = found[world.tasks[number]]
    rows = [(row["label"], row["rle"]) for row in annotation.regions]
    return sorted(rows, key=lambda row: (row[0], str(row[1])))


def draw(world: World, kind: str) -> None:
    """Finish three tasks: two with objects (one ragged, with a hole and in two parts), one with none."""
    if kind == "classes":
        for number, picked in enumerate((["disc"], ["bar"], [])):
            world.studio.create_annotation(world.tasks[number], choice(picked))
        return
    if kind == "boxes":
        for number in (0, 1):
            boxes = [(label, rle_box(encode_mask(mask))) for label, mask in world.scenes[number].masks]
            world.studio.create_annotation(world.tasks[number], [rectangle(*row) for row in boxes])
    else:
        from ml_backend.label_studio.label_config import parse_label_config
        from ml_backend.label_studio.region_writer import to_result
        from ml_backend.label_studio.regions import Region

        config = parse_label_config(world.studio.project(world.project_id).label_config)
        ragged = np.zeros(HW, bool)
        ragged[2:20, 2:30] = True
        ragged[6:12, 8:15] = False
        ragged[30:40, 40:60] = True
        shown = [world.scenes[0].masks, [("disc", ragged), ("bar", np.eye(*HW, dtype=bool))]]
        for number, masks in enumerate(shown):
            regions = [
                Region(f"r{i}", "mask", label, encode_mask(mask), (0.0, 0.0, 1.0, 1.0))
                for i, (label, mask) in enumerate(masks)
            ]
            world.studio.create_annotation(world.tasks[number], to_result(regions, config, HW))
    world.studio.create_annotation(world.tasks[2], [])


def choice(picked: Sequence[str], name: str = "class") -> list[dict[str, Any]]:
    if not picked:
        return []
    value = {"choices": list(picked)}
    return [{"type": "choices", "from_name": name, "to_name": "image", "value": value}]


def rectangle(label: str, box: Sequence[float], name: str = "box", rotation: float = 0) -> dict[str, Any]:
    x0, y0, x1, y1 = box
    value = {"x": x0 / HW[1] * 100, "y": y0 / HW[0] * 100, "rotation": rotation}
    value |= {"width": (x1 - x0) / HW[1] * 100, "height": (y1 - y0) / HW[0] * 100}
    return {
        "id": f"r{label}{x0}{y0}", "type": "rectanglelabels", "from_name": name, "to_name": "image",
        "original_width": HW[1], "original_height": HW[0], "image_rotation": 0,
        "value": {**value, "rectanglelabels": [label]},
    }  # fmt: skip


# kind, format, options of the export, the lowest IoU of any mask after the round trip
TRIPS: list[tuple[Kind, str, dict[str, Any], float]] = [
    ("instances", "coco", {}, 1.0),
    ("instances", "masks", {}, 0.95),  # where two objects overlap, a pixel has one number
    ("instances", "yolo", {"with_images": True}, 1.0),
    ("instances", "voc", {}, 0.95),
    ("weak", "coco", {}, 1.0),
    ("boxes", "coco", {}, 1.0),
    ("boxes", "yolo", {"with_images": True}, 1.0),
    ("boxes", "voc", {}, 1.0),
    ("segmentation", "coco", {}, 1.0),
    ("segmentation", "masks", {}, 0.95),
    ("segmentation", "yolo", {"with_images": True}, 1.0),
    ("segmentation", "voc", {}, 0.95),
    ("components", "masks", {}, 0.95),
    ("components", "coco", {}, 1.0),
    ("classes", "csv", {}, 1.0),
]


@pytest.mark.parametrize(("kind", "format", "options", "least"), TRIPS)
def test_out_and_in_again(
    tmp_path: Path, kind: Kind, format: str, options: dict[str, Any], least: float
) -> None:
    world, twin = make(tmp_path / "a", kind), make(tmp_path / "b", kind)
    draw(world, kind)
    step(pull, world.open())
    out = tmp_path / ("out.json" if format == "coco" else "out.csv" if format == "csv" else "out")
    step(export_project, world.open(), out, format=format, **options)
    done = bring_in(twin, format, out)
    # where people may only tag, an empty annotation says nothing about places
    count = 2 if kind == "weak" else 3
    assert (done.rejected, done.held_back, done.created) == (0, 0, count)
    for number in range(count):
        before, after = drawn(world, number), drawn(twin, number)
        if kind in ("segmentation", "components"):
            before, after = whole(before), whole(after)
        assert [label for label, _ in after] == [label for label, _ in before]
        pairs = match(before, after)
        assert all(value >= least for value in pairs), pairs
    assert finished(twin) == set(twin.tasks[:count])
    again = bring_in(twin, format, out)
    assert (again.created, again.updated, again.there) == (0, 0, count)


def whole(rows: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    from ml_backend.kinds.segmentation import one_per_label

    return sorted(one_per_label(rows), key=lambda row: row[0])


def match(before: list[tuple[str, Any]], after: list[tuple[str, Any]]) -> list[float]:
    """IoU of each mask with the best of its label on the other side."""
    found = []
    for label, rle in before:
        if rle is not None:
            others = [other for name, other in after if name == label]
            found.append(float(rle_iou([rle], others).max()))
    return found


def finished(world: World) -> set[int]:
    step(pull, world.open())
    return set(finished_tasks(world.open().db))


def test_others_read_what_we_write(tmp_path: Path) -> None:
    world = make(tmp_path / "a", "instances")
    draw(world, "instances")
    step(pull, world.open())
    opened = world.open()
    for name, options in (("yolo", {"with_images": True}), ("voc", {"with_images": True}), ("coco", {})):
        step(export_project, opened, tmp_path / name, format=name, **options)
    coco = COCO(str(tmp_path / "coco"))
    for number in range(3):
        masks = drawn(world, number)
        truth = [(label, decode_rle(rle)) for label, rle in masks]
        theirs = {
            "coco": [
                (coco.cats[row["category_id"]]["name"], coco.annToMask(row).astype(bool))
                for row in coco.loadAnns(coco.getAnnIds(world.tasks[number]))
            ],
            "yolo": [(s.label, s.mask) for s in load_yolo(tmp_path / "yolo", f"{number:03d}.png")],
            "voc": [(s.label, s.mask) for s in load_voc(tmp_path / "voc", f"{number:03d}")],
        }
        for name, found in theirs.items():
            assert sorted(label for label, _ in found) == [label for label, _ in truth], name
            for label, mask in truth:
                best = max(iou(mask, other) for their, other in found if their == label and other is not None)
                # index masks lose what two objects share; a loader that draws the line of a polygon, too,
                # makes it a little larger
                assert best > {"coco": 0.999, "voc": 0.97, "yolo": 0.8}[name], (name, number, best)
    for seen, (_, mask) in zip(load_voc(tmp_path / "voc", "000"), world.scenes[0].masks, strict=True):
        assert seen.box == rle_box(encode_mask(mask))
    assert (tmp_path / "voc" / "JPEGImages" / "000.png").read_bytes() == (
        world.images / "000.png"
    ).read_bytes()
    rows = list(csv.DictReader(io.StringIO((tmp_path / "yolo" / "origins.csv").read_text())))
    assert {(row["file"], row["source"]) for row in rows} == {
        ("labels/000.txt", "human"),
        ("labels/001.txt", "human"),
    }


def test_boxes_around_masks_and_other_readers_of_boxes(tmp_path: Path) -> None:
    world = make(tmp_path / "a", "instances")
    draw(world, "instances")
    step(pull, world.open())
    options = {"with_images": True, "boxes": True}
    step(export_project, world.open(), tmp_path / "yolo", format="yolo", **options)
    step(export_project, world.open(), tmp_path / "voc", format="voc", boxes=True)
    assert not (tmp_path / "voc" / "SegmentationObject").exists()
    expected = sorted((label, rle_box(encode_mask(mask))) for label, mask in world.scenes[0].masks)
    found = sorted((seen.label, seen.box) for seen in load_yolo(tmp_path / "yolo", "000.png"))
    for (label, box), (name, other) in zip(expected, found, strict=True):
        assert name == label
        assert other == pytest.approx(box, abs=1e-3)
    assert load_yolo(tmp_path / "yolo", "002.png") == []


def test_parquet_has_the_layout_of_the_image_feature(tmp_path: Path) -> None:
    world = make(tmp_path / "a", "instances")
    draw(world, "instances")
    step(pull, world.open())
    step(export_project, world.open(), tmp_path / "out", format="parquet", with_images=True)
    (file,) = (tmp_path / "out" / "data").glob("*.parquet")
    table = pq.read_table(file)
    about = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
    assert about["image"] == {"_type": "Image"}
    assert set(about) == set(table.column_names)
    names = about["objects"]["label"]["feature"]["names"]
    first, _, third = table.to_pylist()
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(first["image"]["bytes"]))), world.scenes[0].image)
    objects = first["objects"]
    masks = zip(objects["label"], objects["mask_size"], objects["mask_counts"], strict=True)
    shown = [(names[n], decode_rle({"size": size, "counts": counts})) for n, size, counts in masks]
    for (label, mask), (name, found) in zip(world.scenes[0].masks, shown, strict=True):
        assert name == label
        assert np.array_equal(mask, found)
    assert set(objects["source"]) == {"human"}
    assert third["objects"]["label"] == []
    datasets = pytest.importorskip("datasets")
    loaded = datasets.load_dataset("parquet", data_files=str(file), cache_dir=str(tmp_path / "cache"))[
        "train"
    ]
    assert loaded.features["objects"]["label"].feature.names == list(LABELS)
    assert loaded[0]["image"].size == (HW[1], HW[0])


def test_supervision_reads_what_we_write(tmp_path: Path) -> None:
    sv = pytest.importorskip("supervision")
    world = make(tmp_path / "a", "instances")
    draw(world, "instances")
    step(pull, world.open())
    for name, options in (("yolo", {"with_images": True}), ("voc", {}), ("coco", {})):
        step(export_project, world.open(), tmp_path / name, format=name, **options)
    images = str(tmp_path / "yolo" / "images")
    sets = {
        "yolo": sv.DetectionDataset.from_yolo(
            images, str(tmp_path / "yolo" / "labels"), str(tmp_path / "yolo" / "data.yaml"), force_masks=True
        ),
        "voc": sv.DetectionDataset.from_pascal_voc(images, str(tmp_path / "voc" / "Annotations")),
        "coco": sv.DetectionDataset.from_coco(images, str(tmp_path / "coco"), force_masks=True),
    }
    for name, found in sets.items():
        assert len(found) == 3, name
        counts = {Path(path).name: len(detections) for path, _, detections in found}
        assert counts == {"000.png": 3, "001.png": 2, "002.png": 0}, name
        assert set(found.classes) == set(LABELS)
        (detections,) = [d for path, _, d in found if Path(path).name == "000.png"]
        for (label, mask), box in zip(world.scenes[0].masks, detections.xyxy, strict=True):
            assert box == pytest.approx(rle_box(encode_mask(mask)), abs=1.01), (name, label)


def test_rotated_boxes_and_classes_of_one_project(tmp_path: Path) -> None:
    world = World(tmp_path / "a", 3, config=TWO)
    twin = World(tmp_path / "b", 3, config=TWO)
    turned = rectangle("bud", (30.0, 10.0, 44.0, 18.0), rotation=30)
    rows = [rectangle("leaf", (3.25, 4.5, 20.0, 30.75)), turned, *choice(["fresh"], "state")]
    world.studio.create_annotation(world.tasks[0], rows)
    world.studio.create_annotation(world.tasks[1], choice(["dry"], "state"))
    step(pull, world.open())
    step(export_project, world.open(), tmp_path / "a.json", format="coco")
    step(export_project, world.open(), tmp_path / "a.csv", format="csv")
    assert bring_in(twin, "coco", tmp_path / "a.json").created == 2
    done = bring_in(twin, "csv", tmp_path / "a.csv")
    assert (done.updated, done.there, done.untouched) == (2, 0, 0)
    step(pull, twin.open())
    (_, one), (_, two) = (finished_tasks(twin.open().db)[task] for task in twin.tasks[:2])
    assert [row["label"] for row in one.regions] == ["leaf", "bud", "fresh"]
    assert one.regions[0]["box_xyxy"] == pytest.approx([3.25, 4.5, 20.0, 30.75], abs=0.01)
    assert one.regions[1]["rotated"] == pytest.approx([30, 10, 14, 8, 30], abs=0.02)
    assert [row["label"] for row in two.regions] == ["dry"]
    for format, name in (("coco", "a.json"), ("csv", "a.csv")):  # in any order, again and again
        again = bring_in(twin, format, tmp_path / name)
        assert (again.created, again.updated, again.there) == (0, 0, 2)


def test_classes_are_exported_in_the_order_of_names_and_no_picture_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make(tmp_path / "a", "classes")
    for i in (3, 0, 2):
        world.studio.create_annotation(world.tasks[i], choice(["bar" if i else "disc"]))
    step(pull, world.open())
    opened = world.open()

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("a picture was opened")

    monkeypatch.setattr(type(opened.images), "get", refuse)
    done = step(export_project, opened, tmp_path / "a.csv", format="csv")
    with (tmp_path / "a.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["file"], row["label"]) for row in rows] == [
        ("000.png", "disc"), ("002.png", "bar"), ("003.png", "bar"),
    ]  # fmt: skip
    assert (done.images, done.annotations, done.left_out) == (3, {"human": 3}, [])


def test_an_export_may_hold_one_origin_only(tmp_path: Path) -> None:
    from ml_backend.kinds.registry import Wanted
    from sync.exchange.content import Choice, Content, LeftOut, Shown, origins_of
    from sync.exchange.writing import ExportOptions
    from sync.exchange.yolo_export import write_yolo

    assert origins_of(["drawn"]) == {"human"}
    world = make(tmp_path / "a", "instances")
    draw(world, "instances")
    step(pull, world.open())
    for origin, count in (("drawn", 3), ("propagated", 0)):
        choice_ = Choice(origins_of([origin]))
        done = step(export_project, world.open(), tmp_path / f"{origin}.json", choice=choice_)
        assert done.images == count
    found = Item("cell", encode_mask(np.ones((4, 4), bool)), {"source": "propagated", "round": 2})
    shown = [Shown(1, "a.jpg", (4, 4), "", False, [found])]
    left: list[LeftOut] = []
    write_yolo(
        Content([Wanted("instances", ("cell",))], shown, left, {}, {1: "a.jpg", 2: "a.png"}),
        tmp_path / "y",
        ExportOptions(),
    )
    assert [p.name for p in (tmp_path / "y" / "labels").iterdir()] == ["a.jpg.txt"]
