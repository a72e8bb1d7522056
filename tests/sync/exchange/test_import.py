"""Imports: what every format may say, what is refused and how it is named, and a second run."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from ml_backend.errors import BadInput, StudioError
from ml_backend.label_studio.config_builder import build_label_config
from ml_backend.masks.rle import decode_rle
from sync.exchange.file_names import TaskPicture
from sync.exchange.import_regions import LabelNames
from sync.exchange.readers.registry import open_reader
from sync.exchange.readers.rows import PictureRows, Problem
from sync.exchange.task_names import TaskNames
from sync.rounds.pull import pull
from sync.rounds.task_queries import finished_tasks
from tests.fakes.label_studio import FakeStudio
from tests.sync.conftest import HW, World
from tests.sync.exchange.test_round_trip import LABELS, bring_in, drawn, make
from tests.sync.steps import step


def coco_file(path: Path, annotations: list[dict[str, Any]], **changes: Any) -> Path:
    """Four pictures of 64 × 48, categories disc (3) and bar (7)."""
    images = [{"id": f"i{n}", "file_name": f"{n:03d}.png", "height": 48, "width": 64} for n in range(4)]
    rows = [{"id": n, "iscrowd": 0, **row} for n, row in enumerate(annotations)]
    document = {"annotations": rows, "images": images}
    document["categories"] = [{"id": 3, "name": "disc"}, {"id": 7, "name": "bar"}]
    path.write_text(json.dumps(document | changes))
    return path


def polygon(image: str, category: int, *points: float) -> dict[str, Any]:
    return {"image_id": image, "category_id": category, "segmentation": [list(points)], "bbox": [0, 0, 9, 9]}


SQUARE = (4.0, 4.0, 20.0, 4.0, 20.0, 20.0, 4.0, 20.0)


def test_coco_masks_in_every_form(tmp_path: Path) -> None:
    world = make(tmp_path / "w", "instances")
    mask = np.zeros(HW, np.uint8)
    mask[10:20, 30:50] = 1
    packed = coco_mask.encode(np.asfortranarray(mask))
    plain = {"size": list(HW), "counts": [30 * 48 + 10, *[10, 38] * 19, 10, 48 * 14 - 20 + 10 - 10 + 10 + 10]}
    plain["counts"][-1] = 48 * 64 - sum(plain["counts"][:-1])
    compressed = {"size": list(HW), "counts": packed["counts"].decode()}
    rows = [
        polygon("i0", 3, *SQUARE),
        {"image_id": "i1", "category_id": 7, "segmentation": compressed},
        {"image_id": "i0", "category_id": 7, "segmentation": plain},
    ]
    done = bring_in(world, "coco", coco_file(tmp_path / "c.json", rows))
    assert (done.pictures, done.created, done.rejected) == (4, 4, 0)
    assert done.labels == {"bar": 2, "disc": 1}
    (bar, first), (disc, square) = drawn(world, 0)
    assert (bar, disc) == ("bar", "disc")
    assert np.array_equal(decode_rle(first), mask.astype(bool))
    assert decode_rle(square)[4:20, 4:20].all()
    assert decode_rle(square).sum() == 256
    assert drawn(world, 2) == []  # the file has these pictures, without objects
    step(pull, world.open())
    assert len(finished_tasks(world.open().db)) == 4


def test_what_is_rejected_is_named_and_its_picture_is_held_back(tmp_path: Path) -> None:
    world = make(tmp_path / "w", "instances")
    rows = [
        polygon("i0", 3, *SQUARE),
        polygon("i0", 3, 1, 1, 2),
        polygon("i1", 3, *SQUARE),
        polygon("i9", 3, *SQUARE),
        {"image_id": "i1", "category_id": 5, "segmentation": [list(SQUARE)]},
        {"image_id": "i2", "category_id": 3, "bbox": [1, 1, 5, 5], "segmentation": []},
        {"image_id": "i3", "category_id": 3, "iscrowd": 1, "segmentation": {"size": [2, 2], "counts": [4]}},
    ]
    path = coco_file(tmp_path / "c.json", rows)
    done = bring_in(world, "coco", path)
    assert (done.created, done.held_back, done.rejected, done.left_out) == (1, 3, 4, 1)
    with (tmp_path / "c.json.problems.csv").open() as file:
        found = {row["row"]: row for row in csv.DictReader(file)}
    assert {row: found[row]["field"] for row in found} == {
        "annotations[3]": "image_id",
        "annotations[1]": "segmentation",
        "annotations[4]": "category_id",
        "annotations[5]": "segmentation",
        "annotations[6]": "iscrowd",
    }
    assert found["annotations[1]"]["picture"] == "000.png"
    assert found["annotations[1]"]["reason"].startswith("a polygon needs three points")
    assert "a box alone is no mask" in found["annotations[5]"]["reason"]
    rest = bring_in(world, "coco", path, keep_rest=True)
    assert (rest.created, rest.there, rest.held_back) == (2, 1, 1)
    assert [label for label, _ in drawn(world, 0)] == ["disc"]


def test_labels_may_have_other_names_and_unknown_ones_are_rejected(tmp_path: Path) -> None:
    world = World(tmp_path / "w", 4, config=build_label_config(("round",), kind="boxes"))
    rows = [polygon("i0", 3, *SQUARE), polygon("i0", 7, *SQUARE), polygon("i1", 7, *SQUARE)]
    path = coco_file(tmp_path / "c.json", rows)
    done = bring_in(world, "coco", path, renamed={"disc": "round"})
    assert (done.created, done.held_back, done.rejected) == (2, 2, 2)
    assert max(done.reasons, key=lambda reason: done.reasons[reason]).startswith(
        "label: the project has no label 'bar'"
    )
    done = bring_in(world, "coco", path, renamed={"disc": "round", "bar": ""})
    assert (done.created, done.there, done.rejected, done.left_out) == (2, 2, 0, 2)
    with pytest.raises(BadInput, match="no label 'square'"):
        LabelNames(("round",), {"disc": "square"})


def test_people_s_work_stays_and_imported_work_is_brought_up_to_date(tmp_path: Path) -> None:
    world = make(tmp_path / "w", "instances")
    world.label(1)
    path = coco_file(tmp_path / "c.json", [polygon("i0", 3, *SQUARE), polygon("i1", 7, *SQUARE)])
    done = bring_in(world, "coco", path)
    assert (done.created, done.untouched, done.left_out) == (3, 1, 1)
    assert len(drawn(world, 1)) == 3
    coco_file(path, [polygon("i0", 7, *SQUARE), polygon("i2", 7, *SQUARE)])
    done = bring_in(world, "coco", path)
    assert (done.created, done.updated, done.there, done.untouched) == (0, 2, 1, 1)
    assert [label for label, _ in drawn(world, 0)] == ["bar"]
    (annotation,) = world.studio.task(world.tasks[0]).annotations
    world.studio.update_annotation(annotation.id, world.scenes[0].result())  # a person corrects it
    done = bring_in(world, "coco", path)
    assert (done.updated, done.untouched) == (0, 2)
    assert len(drawn(world, 0)) == 3


def test_a_dry_run_changes_nothing(tmp_path: Path) -> None:
    world = make(tmp_path / "w", "instances")
    path = coco_file(tmp_path / "c.json", [polygon("i0", 3, *SQUARE), polygon("i1", 3, 1, 1, 2)])
    before = json.dumps([str(row) for row in world.studio.tasks(world.project_id)])
    for kind in ("annotations", "predictions"):
        done = bring_in(world, "coco", path, kind=kind, version="v", dry_run=True)
        assert (done.created, done.rejected, done.shown) == (3, 1, kind == "annotations")
    assert json.dumps([str(row) for row in world.studio.tasks(world.project_id)]) == before
    assert world.studio.prediction_versions(world.project_id) == {}
    empty = World(tmp_path / "e", 4, FakeStudio())
    empty.studio.delete_tasks(empty.project_id, empty.tasks)
    names = [f"{n:03d}.png" for n in range(4)]
    done = bring_in(empty, "coco", path, dry_run=True, pictures=world.images, coming=names)
    assert (done.created, done.held_back) == (3, 1)


def test_predictions_are_shown_where_nothing_else_is(tmp_path: Path) -> None:
    world = make(tmp_path / "w", "instances")
    rows = [polygon("i0", 3, *SQUARE) | {"score": 0.9}, polygon("i0", 7, *SQUARE) | {"score": 0.5}]
    rows += [polygon("i1", 7, *SQUARE) | {"score": 1.5}, polygon("i1", 7, *SQUARE) | {"score": 0.25}]
    path = coco_file(tmp_path / "c.json", rows)
    done = bring_in(world, "coco", path, kind="predictions", version="import-c")
    assert (done.created, done.held_back, done.rejected, done.shown) == (4, 0, 1, True)
    (row,) = world.studio.predictions(world.tasks[0])
    assert (row.score, row.model_version) == (0.7, "import-c")
    assert [item["score"] for item in row.result] == [0.9, 0.5]
    (row,) = world.studio.predictions(world.tasks[1])
    assert len(row.result) == 1
    again = bring_in(world, "coco", path, kind="predictions", version="import-c")
    assert (again.created, again.there) == (0, 4)
    other = bring_in(world, "coco", path, kind="predictions", version="other")
    assert (other.created, other.shown) == (4, False)
    assert finished_tasks(world.open().db) == {}


@pytest.mark.parametrize("kind", ["annotations", "predictions"])
def test_a_kill_in_the_middle_and_a_second_run_give_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr("sync.exchange.import_labels._BATCH", 1)
    rows = [polygon(f"i{n}", 3, *(v + n for v in SQUARE)) for n in range(4)]
    path = coco_file(tmp_path / "c.json", rows)
    calm = make(tmp_path / "calm", "instances")
    bring_in(calm, "coco", path, kind=kind, version="v")
    world = make(tmp_path / "w", "instances")
    method = "import_annotation" if kind == "annotations" else "import_predictions"
    for at in range(1, 5):  # each attempt comes one picture further, and dies before or after it is stored
        left = [1]

        def die(name: str, left: list[int] = left) -> None:
            if name == method:
                left[0] -= 1
                if left[0] < 0:
                    raise StudioError("the network went away")

        world.studio.before_call = die
        try:
            bring_in(world, "coco", path, kind=kind, version="v")
        except StudioError:
            assert at < 4
    world.studio.before_call = None
    done = bring_in(world, "coco", path, kind=kind, version="v")
    assert (done.created, done.there) == (0, 4)
    for mine, theirs in zip(world.tasks, calm.tasks, strict=True):
        if kind == "predictions":
            assert [row.result for row in world.studio.predictions(mine)] == [
                row.result for row in calm.studio.predictions(theirs)
            ]
            continue
        (one,), (two,) = world.studio.task(mine).annotations, calm.studio.task(theirs).annotations
        assert one.result == two.result


def test_sizes_are_checked_where_the_pictures_are(tmp_path: Path) -> None:
    world = make(tmp_path / "w", "instances")
    path = coco_file(tmp_path / "c.json", [polygon("i0", 3, *SQUARE)])
    document = json.loads(path.read_text())
    document["images"][0] |= {"width": 128, "height": 96}
    path.write_text(json.dumps(document))
    done = bring_in(world, "coco", path, pictures=world.images)
    assert (done.created, done.held_back) == (3, 1)
    (reason,) = done.reasons
    assert reason == "picture: the file speaks of 128×96 pixels, the picture has 64×48"


def yolo(folder: Path, **files: str) -> Path:
    (folder / "labels" / "train").mkdir(parents=True)
    (folder / "data.yaml").write_text("path: .\ntrain: images\nnames:\n  0: disc\n  1: bar\n")
    for stem, text in files.items():
        (folder / "labels" / "train" / f"{stem[1:]}.txt").write_text(text)
    return folder


def test_yolo_lines(tmp_path: Path) -> None:
    world = make(tmp_path / "w", "boxes")
    path = yolo(
        tmp_path / "y",
        p000="0 0.5 0.5 0.25 0.5\n\n1 0.125 0.25 0.25 0.5 0.75\n",
        p001="1 0.25 0.25 0.5 0.25 0.5 0.5 0.25 0.5\n",
        p002="",
        p003="0 0.5 0.5 20 30\n7 0.5 0.5 0.1 0.1\nx y\n0 0.5 0.5\n0 nan 0 1 1\n0 0.5 0.5 0 0.1\n",
    )
    done = bring_in(world, "yolo", path)
    assert (done.created, done.held_back, done.rejected) == (3, 1, 6)
    step(pull, world.open())
    found = finished_tasks(world.open().db)
    rows = found[world.tasks[0]][1].regions
    assert [row["box_xyxy"] for row in rows] == [[24, 12, 40, 36], [0, 0, 16, 24]]
    assert found[world.tasks[1]][1].regions[0]["box_xyxy"] == [16, 12, 32, 24]
    assert found[world.tasks[2]][1].regions == []
    masks = make(tmp_path / "m", "instances")
    done = bring_in(masks, "yolo", path)
    assert set(done.reasons) >= {"segmentation: a box alone is no mask, and the project wants masks"}
    assert (done.created, drawn(masks, 1)[0][0]) == (2, "bar")
    with pytest.raises(BadInput, match=r"no data\.yaml"):
        open_reader("yolo", (tmp_path / "y" / "labels" / "train"), ())
    (tmp_path / "names").write_text("one\ntwo\n")
    reader = open_reader("yolo", tmp_path / "y" / "labels" / "train", (), tmp_path / "names")
    assert reader.labels == ("one", "two")


def test_masks_by_label_and_by_object(tmp_path: Path) -> None:
    disc, bar = np.zeros(HW, np.uint8), np.zeros(HW, np.uint8)
    disc[2:10, 2:10] = disc[20:30, 40:50] = 255
    bar[30:40, 2:10] = 1
    layouts: dict[str, dict[str, Any]] = {
        "folders": {"disc/000.png": disc, "bar/000.png": bar},
        "endings": {"000_disc.png": disc, "000_bar.png": bar},
        "numbers": {"000.png": np.where(disc > 0, 1, 0) + 2 * bar},
    }
    for name, files in layouts.items():
        for kind, count in (("segmentation", 2), ("instances", 3)):
            root = tmp_path / f"{name}-{kind}"
            for file, values in files.items():
                (root / file).parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(values.astype(np.uint8)).save(root / file)
            world = make(tmp_path / f"w-{name}-{kind}", kind)  # type: ignore[arg-type]
            done = bring_in(world, "masks", root)
            assert (done.created, done.rejected) == (1, 0), (name, kind)
            found = drawn(world, 0)
            assert [label for label, _ in found] == ["bar", *["disc"] * (count - 1)], (name, kind)
            union = np.logical_or.reduce([decode_rle(rle) for label, rle in found if label == "disc"])
            assert np.array_equal(union, disc > 0)
    root = tmp_path / "objects"
    root.mkdir()
    for number, place in enumerate(((2, 10), (20, 30)), start=1):
        values = np.zeros(HW, np.uint8)
        values[place[0] : place[1], 5:60] = 1
        values[place[0] : place[1], 30] = 0  # one object in two parts
        Image.fromarray(values).save(root / f"000_disc_{number}.png")
    world = make(tmp_path / "w-objects", "instances")
    bring_in(world, "masks", root)
    assert len(drawn(world, 0)) == 2
    Image.fromarray(np.full((*HW, 3), (1, 2, 3), np.uint8)).save(root / "001.png")
    (tmp_path / "objects" / "002.png").write_bytes(b"no picture")
    Image.fromarray(np.full(HW, 9, np.uint8)).save(root / "003.png")
    done = bring_in(world, "masks", root)
    assert (done.rejected, done.there, done.held_back) == (3, 1, 1)


def test_classes_of_pictures(tmp_path: Path) -> None:
    world = make(tmp_path / "w", "classes")
    path = tmp_path / "c.csv"
    path.write_text(
        "file;label;score\n000.png;disc;0.5\n001.png;disc;\n001.png;bar;\n002.png;;\n;disc;\n003.png;disc;x\n"
    )
    done = bring_in(world, "csv", path)
    assert (done.created, done.held_back, done.rejected) == (2, 2, 3)
    assert any("one class only" in reason for reason in done.reasons)
    assert (drawn(world, 0), drawn(world, 2)) == ([("disc", None)], [])
    several = make(tmp_path / "s", "classes", multiple=True)
    assert bring_in(several, "csv", path, keep_rest=True).created == 3
    assert [label for label, _ in drawn(several, 1)] == ["bar", "disc"]
    weak = make(tmp_path / "weak", "weak")
    done = bring_in(weak, "csv", path)
    assert drawn(weak, 1) == [("bar", None), ("disc", None)]  # tags: what is there, not where
    assert weak.studio.task(weak.tasks[1]).annotations[0].result[0]["value"] == {"choices": ["disc", "bar"]}
    masks = make(tmp_path / "m", "instances")
    assert set(bring_in(masks, "csv", path).reasons) >= {
        "label: 'disc' is drawn in this project, and the row names a class of the picture"
    }
    of_masks = coco_file(tmp_path / "c.json", [polygon("i0", 3, *SQUARE), polygon("i0", 3, *SQUARE)])
    fresh = make(tmp_path / "f", "classes")
    assert bring_in(fresh, "coco", of_masks).labels == {"disc": 1}


def test_coco_results_are_read_beside_their_images(tmp_path: Path) -> None:
    world = make(tmp_path / "w", "instances")
    about = coco_file(tmp_path / "about.json", [])
    found = [polygon("i1", 3, *SQUARE) | {"score": 0.75}]
    (tmp_path / "r.json").write_text(json.dumps(found))
    done = bring_in(world, "coco", tmp_path / "r.json", classes=about, kind="predictions", version="r")
    assert (done.pictures, done.created, done.labels) == (1, 1, {"disc": 1})
    (row,) = world.studio.predictions(world.tasks[1])
    assert row.score == 0.75
    with pytest.raises(BadInput, match="names its labels"):
        open_reader("coco", about, LABELS, about)


def test_a_mask_that_a_polygon_cannot_hold_is_mentioned(tmp_path: Path) -> None:
    world = make(tmp_path / "w", "instances", output="polygon")
    far = [30.0, 30.0, 46.0, 30.0, 46.0, 46.0, 30.0, 46.0]
    rows = [polygon("i0", 3, *SQUARE), polygon("i1", 3, *SQUARE)]
    rows[1]["segmentation"].append(far)
    done = bring_in(world, "coco", coco_file(tmp_path / "c.json", rows))
    assert (done.created, done.rejected, done.changed) == (4, 0, 1)
    assert list(done.reasons) == ["segmentation: one polygon covers 0.50 of its mask (IoU)"]
    (one,) = drawn(world, 0)
    assert decode_rle(one[1])[4:20, 4:20].all()


def test_voc_files(tmp_path: Path) -> None:
    folder = tmp_path / "voc" / "Annotations"
    folder.mkdir(parents=True)
    box = "<bndbox><xmin>1</xmin><ymin>3</ymin><xmax>10</xmax><ymax>20.0</ymax></bndbox>"
    item = f"<object><name>disc</name>{box}</object>"
    size = "<size><width>64</width><height>48</height></size>"
    texts = {
        "000": f"<annotation><filename>000.png</filename>{size}{item}</annotation>",
        "001": f"<annotation>{size}<object><name>disc</name></object></annotation>",
        "002": "<annotation>",
        "003": '<!DOCTYPE x [<!ENTITY a "b">]><annotation>&a;</annotation>',
    }
    for stem, text in texts.items():
        (folder / f"{stem}.xml").write_text(text)
    world = make(tmp_path / "w", "boxes")
    done = bring_in(world, "voc", tmp_path / "voc")
    assert (done.created, done.rejected, done.held_back) == (1, 3, 1)
    step(pull, world.open())
    (row,) = finished_tasks(world.open().db)[world.tasks[0]][1].regions
    assert row["box_xyxy"] == [0, 2, 10, 20]


def test_files_of_another_format_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[1, 2")
    (tmp_path / "b.json").write_text('{"images": []}')
    (tmp_path / "d.json").write_text('{"images": [}')
    (tmp_path / "c.csv").write_text("picture,class\na,b\n")
    (tmp_path / "empty").mkdir()
    for format, name, text in (
        ("coco", "a.json", "a list of results"),
        ("coco", "d.json", "not readable as JSON"),
        ("coco", "b.json", "no categories"),
        ("csv", "c.csv", "no columns file and label"),
        ("voc", "empty", "no XML files"),
        ("masks", "empty", "no folder with PNG files"),
        ("yolo", "empty", "no data"),
        ("coco", "nowhere", "is not there"),
        ("kitti", "empty", "is not known"),
    ):
        with pytest.raises(BadInput, match=text):
            open_reader(format, tmp_path / name, LABELS)


def test_a_large_coco_file_is_grouped_on_disk(tmp_path: Path) -> None:
    rows = [polygon(f"i{n % 4}", 3, *SQUARE) for n in range(2000)]
    found = list(open_reader("coco", coco_file(tmp_path / "c.json", rows), LABELS).pictures())
    assert [len(one.rows) for one in found if isinstance(one, PictureRows)] == [500] * 4
    assert [row.where for row in found[1].rows[:2]] == ["annotations[1]", "annotations[5]"]  # type: ignore[union-attr]


def test_names_find_the_task_that_is_meant() -> None:
    held = [
        TaskPicture(1, "a/one.png", "/data/upload/1/1234abcd-one.png"),
        TaskPicture(2, "b/one.png", "/data/upload/1/1234abce-one.png"),
        TaskPicture(3, "", "/data/upload/1/0123abcd-two_three.png"),
        TaskPicture(4, "", "/data/local-files/?d=set/four%20five.png"),
        TaskPicture(5, "", "https://example.org/p/six.jpg?w=3"),
        TaskPicture(6, "x/six.png", ""),
    ]
    names = TaskNames(held)
    assert names.find("b/one.png") == names.find("images\\b\\one.png") == 2
    assert names.find("two three.png") == names.find("somewhere/0123abcd-two_three.png") == 3
    assert names.find("four five.png") == names.find("four%20five.png") == 4
    assert names.find("six.jpg") == 5
    assert names.find("x/six", no_suffix=True) == 6
    for name, text in (("one.png", "2 tasks"), ("seven.png", "no task")):
        with pytest.raises(BadInput, match=text):
            names.find(name)


def test_two_names_of_one_picture(tmp_path: Path) -> None:
    world = make(tmp_path / "w", "instances")
    images = [{"id": n, "file_name": f"{n}/000.png", "height": 48, "width": 64} for n in range(2)]
    path = coco_file(tmp_path / "c.json", [], images=images)
    done = bring_in(world, "coco", path)
    assert (done.created, done.held_back) == (1, 1)


def test_reports_as_json(tmp_path: Path) -> None:
    from sync.exchange.import_report import ProblemFile

    with ProblemFile(tmp_path / "r.json", always=True) as problems:
        pass
    assert json.loads((tmp_path / "r.json").read_text()) == []
    with ProblemFile(tmp_path / "r.json") as problems:
        for number in range(7):
            problems.add(Problem("rejected", "f", f"line {number}", "x", "=why", "p"))
    assert [row["row"] for row in json.loads((tmp_path / "r.json").read_text())] == [
        f"line {n}" for n in range(7)
    ]
    assert len(problems.examples) == 5
    with ProblemFile(tmp_path / "r.csv") as problems:
        problems.add(Problem("rejected", "f", "", "x", "=why", "p"))
    assert ",'=why," in (tmp_path / "r.csv").read_text()
    with pytest.raises(BadInput, match="neither"):
        ProblemFile(tmp_path / "r.txt")
