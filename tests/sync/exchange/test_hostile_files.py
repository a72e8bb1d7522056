"""Files that want to do harm, or are merely strange: each is refused row by row, and nothing else changes."""

from __future__ import annotations

import csv
import functools
import io
import json
import os
import unicodedata
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ml_backend.artifacts.pool_tables import task_of_key
from ml_backend.artifacts.verdicts import read_verdicts, write_verdicts
from ml_backend.errors import BadInput, StorageError
from sync.exchange.content import Choice, origins_of
from sync.exchange.export import export_project
from sync.exchange.file_names import OtherEndings, TaskPicture, file_names
from sync.exchange.import_report import ProblemFile
from sync.exchange.import_targets import Annotations
from sync.exchange.readers.json_depth import MOST_LEVELS, ShallowJson
from sync.exchange.readers.registry import open_reader
from sync.exchange.readers.rows import Problem
from sync.exchange.task_names import TaskNames
from sync.projects.pictures import find_images
from sync.rounds.pull import pull
from sync.rounds.round_records import trained_round
from tests.sync.conftest import World
from tests.sync.exchange.test_import import SQUARE, coco_file, polygon, yolo
from tests.sync.exchange.test_round_trip import LABELS, bring_in, drawn, make
from tests.sync.steps import step

FAR = "1e300"
"""a number whose square is none"""


@pytest.mark.parametrize(
    "row",
    [
        f'"score": {FAR}, "segmentation": [[4, 4, 20, 4, 20, 20]]',
        f'"bbox": [{FAR}, 1, 5, 5]',
        f'"bbox": [1, 1, {FAR}, {FAR}]',
        f'"segmentation": [[4, 4, {FAR}, 4, 20, 20]]',
        '"segmentation": {"size": [48, 64], "counts": [-5, 3077]}',
        '"segmentation": {"size": [64, 48], "counts": [3072]}',
        '"segmentation": {"size": [48, 64], "counts": "\\u00ff~~~"}',
        '"segmentation": [[]]',
        '"segmentation": [[4, 4, 20, 4, 20, "20"]]',
        f'"rotation": 5, "bbox": [1, 1, 9, 9], "segmentation": [[0, 0, {FAR}, 0, 20, 20, 4, 20]]',
    ],
)
@pytest.mark.parametrize("kind", ["instances", "boxes"])
def test_a_bad_number_rejects_its_row_and_not_the_import(tmp_path: Path, kind: Any, row: str) -> None:
    world = make(tmp_path / "w", kind)
    path = coco_file(tmp_path / "c.json", [polygon("i1", 3, *SQUARE)])
    text = path.read_text()
    extra = f'{{"image_id": "i0", "category_id": 3, {row}}}, '
    path.write_text(text.replace('"annotations": [', f'"annotations": [{extra}'))
    done = bring_in(world, "coco", path, kind="predictions", version="v")
    assert done.created == 3 + (done.rejected == 0)
    assert done.rejected == 1 or (kind, '"counts"' in row) == ("boxes", True)
    assert drawn(world, 0) == []


@pytest.mark.parametrize("degrees", ["1e300", "-30", "720"])
def test_turns_beyond_a_full_one(tmp_path: Path, degrees: str) -> None:
    world = make(tmp_path / "w", "boxes")
    path = coco_file(tmp_path / "c.json", [polygon("i0", 3, *SQUARE) | {"rotation": 0}])
    path.write_text(path.read_text().replace('"rotation": 0', f'"rotation": {degrees}'))
    assert bring_in(world, "coco", path, kind="predictions", version="v").created == 4
    (row,) = world.studio.predictions(world.tasks[0])
    assert 0 <= row.result[0]["value"]["rotation"] <= 360


@pytest.mark.parametrize("text", ["1" * 5000, "1e400", "NaN", "[" * 5000 + "]" * 5000, "[" * 900])
def test_json_beyond_all_bounds_is_no_coco(tmp_path: Path, text: str) -> None:
    world = make(tmp_path / "w", "instances")
    path = coco_file(tmp_path / "c.json", [polygon("i1", 3, *SQUARE)])
    extra = f'{{"image_id": "i0", "category_id": 3, "note": {text}}}, '
    path.write_text(path.read_text().replace('"annotations": [', f'"annotations": [{extra}'))
    with pytest.raises(BadInput, match="not readable"):
        bring_in(world, "coco", path)
    assert world.studio.task(world.tasks[1]).annotations == ()


@pytest.mark.parametrize("place", ["images", "categories", "annotations", "info"])
@pytest.mark.parametrize("bracket", ["[]", "{}"])
def test_brackets_inside_of_brackets_are_refused_before_they_cost_memory(
    tmp_path: Path, place: str, bracket: str
) -> None:
    world = make(tmp_path / "w", "instances")
    path = coco_file(tmp_path / "c.json", [polygon("i1", 3, *SQUARE)])
    document = json.loads(path.read_text())
    document[place] = "HERE"
    opening = '{"a":' if bracket == "{}" else "["
    path.write_text(json.dumps(document).replace('"HERE"', opening * 200_000 + "1" + bracket[1] * 200_000))
    with pytest.raises(BadInput, match=r"c\.json is not readable: lists inside of more than 500 lists"):
        bring_in(world, "coco", path)
    assert all(world.studio.task(task).annotations == () for task in world.tasks)


def test_brackets_in_texts_are_no_brackets(tmp_path: Path) -> None:
    data = json.dumps({"a": ["[" * 2000, "\\", '"' + "{" * 2000 + "\\", [[1]]], "[": 1}).encode()
    for size in (1, 2, 3, 7, 65536):
        file = ShallowJson(io.BytesIO(data), tmp_path)
        read = b""
        while part := file.read(size):
            read += part
        assert read == data
    deep = b'{"a": "' + b"[" * 9 + b'\\"' + b'"' + b", " + b'"b": ' + b"[" * MOST_LEVELS
    for size in (1, 5, 65536):
        file = ShallowJson(io.BytesIO(deep), tmp_path)
        with pytest.raises(BadInput):
            list(iter(functools.partial(file.read, size), b""))
        assert ShallowJson(io.BytesIO(deep[:-1]), tmp_path).read() == deep[:-1]


def test_a_legend_of_brackets_is_refused(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "legend.json").write_text("[" * 200_000)
    with pytest.raises(BadInput, match="is no legend"):
        open_reader("masks", tmp_path, LABELS)


@pytest.mark.parametrize("size", [(10**9, 10**9), (True, True), (10**18, 1)])
def test_no_picture_is_so_large(tmp_path: Path, size: tuple[Any, Any]) -> None:
    for kind in ("instances", "boxes"):
        world = make(tmp_path / kind, kind)  # type: ignore[arg-type]
        path = coco_file(tmp_path / "c.json", [polygon("i0", 3, *SQUARE)])
        document = json.loads(path.read_text())
        document["images"][0] |= {"width": size[0], "height": size[1]}
        path.write_text(json.dumps(document))
        done = bring_in(world, "coco", path, kind="predictions", version="v")
        if size == (True, True):  # no size: the picture's own is taken
            assert done.created == 4
            continue
        assert (done.created, done.held_back) == (3, 1)
        assert "size of a picture" in next(iter(done.reasons))


def test_many_categories_are_read_in_time(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    names = [{"id": n, "name": f"label {n}"} for n in range(100_000)]
    path.write_text(json.dumps({"images": [], "annotations": [], "categories": names}))
    assert len(open_reader("coco", path, LABELS).labels) == 100_000
    for double in ({"id": 1, "name": "new"}, {"id": -1, "name": "label 7"}):
        path.write_text(json.dumps({"images": [], "annotations": [], "categories": [*names[:9], double]}))
        with pytest.raises(BadInput, match="there twice"):
            open_reader("coco", path, LABELS)


@pytest.mark.parametrize(
    "changes",
    [
        {"filename": "."},
        {"filename": "/"},
        {"filename": "../../000.png"},
        {"width": "-64"},
        {"width": "0.4"},
        {"width": "1e300", "height": "1e300"},
        {"head": '<?xml version="1.0" encoding="x-none"?>'},
        {"name": "x" * 10_000},
    ],
)
def test_strange_voc_files(tmp_path: Path, changes: dict[str, str]) -> None:
    given = {"filename": "000.png", "width": "64", "height": "48", "head": "", "name": "disc"} | changes
    folder = tmp_path / "voc" / "Annotations"
    folder.mkdir(parents=True)
    box = "<bndbox><xmin>1</xmin><ymin>3</ymin><xmax>10</xmax><ymax>20</ymax></bndbox>"
    for stem, values in (
        ("000", given),
        ("001", given | {"filename": "001.png"} | dict.fromkeys(changes, "")),
    ):
        if stem == "001":
            values = {"filename": "001.png", "width": "64", "height": "48", "head": "", "name": "disc"}
        (folder / f"{stem}.xml").write_text(
            f"{values['head']}<annotation><filename>{values['filename']}</filename><size><width>"
            f"{values['width']}</width><height>{values['height']}</height></size>"
            f"<object><name>{values['name']}</name>{box}</object></annotation>"
        )
    world = make(tmp_path / "w", "boxes")
    done = bring_in(world, "voc", tmp_path / "voc")
    assert done.created == 1 + (
        changes == {"filename": "../../000.png"} or set(changes.values()) & {".", "/"} != set()
    )
    assert (done.rejected == 0) == (done.created == 2)


def test_a_legend_names_masks_of_its_own_folder_only(tmp_path: Path) -> None:
    Image.fromarray(np.ones((48, 64), np.uint8)).save(tmp_path / "secret.png")
    folder = tmp_path / "masks"
    folder.mkdir()
    Image.fromarray(np.ones((48, 64), np.uint8)).save(folder / "000.png")
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    labels = [{"value": 1, "label": "disc"}]
    for numbers in ("labels", "objects"):
        for name in ("../secret.png", str(tmp_path / "secret.png")):
            legend = {"labels": labels, "numbers": numbers}
            legend["pictures"] = [{"mask": name, "file_name": "000.png", "labels": labels}]
            (folder / "legend.json").write_text(json.dumps(legend))
            (found,) = open_reader("masks", folder, LABELS).pictures()
            assert isinstance(found, Problem), name
            assert "secret" not in found.reason


def test_a_legend_without_values_is_refused(tmp_path: Path) -> None:
    Image.fromarray(np.ones((48, 64), np.uint8)).save(tmp_path / "000.png")
    for row in ({}, {"value": "x", "label": "disc"}, {"value": None}):
        legend = {"labels": [], "numbers": "objects"}
        legend["pictures"] = [{"mask": "000.png", "file_name": "000.png", "labels": [row]}]
        (tmp_path / "legend.json").write_text(json.dumps(legend))
        with pytest.raises(BadInput, match="no legend"):
            list(open_reader("masks", tmp_path, LABELS).pictures())


BOMB = "".join(
    [
        "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n",
        *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9)),
        "names: [*a8]\n",
    ]
)


def test_names_of_yaml_are_text(tmp_path: Path) -> None:
    path = yolo(tmp_path / "y", p000="")
    (path / "data.yaml").write_text(BOMB)
    with pytest.raises(BadInput, match="no list of names"):
        open_reader("yolo", path, LABELS)
    (path / "data.yaml").write_text("names: [no, 007, 1.10, ~]\n")
    assert open_reader("yolo", path, LABELS).labels == ("no", "007", "1.10", "~")
    (path / "data.yaml").write_text("names: {1: disc, 0: bar}\n")
    assert open_reader("yolo", path, LABELS).labels == ("disc", "bar")
    for text in ("names: {a: disc}", "names: disc", "names: []", "names: {0: {a: b}}", "names: ["):
        (path / "data.yaml").write_text(text)
        with pytest.raises(BadInput):
            open_reader("yolo", path, LABELS)


def test_a_report_takes_any_name(tmp_path: Path) -> None:
    world = make(tmp_path / "w", "boxes")
    path = yolo(tmp_path / "y", p000="0 0.5 0.5 0.25 0.5\n")
    odd = os.fsencode(path / "labels" / "train") + b"/caf\xe9.txt"  # a name of another time, no UTF-8
    with open(odd, "w") as file:
        file.write("0 0.5 0.5 0.25 0.5\n")
    for ending in ("csv", "json"):
        with ProblemFile(tmp_path / f"r.{ending}") as problems:
            problems.add(Problem("rejected", "f", "", "x", "why", os.fsdecode(b"caf\xe9")))
        assert "caf" in (tmp_path / f"r.{ending}").read_text()
    done = bring_in(world, "yolo", path)
    assert (done.created, done.held_back) == (1, 1)


@pytest.mark.parametrize("text", ["=1", "+1", "-1", "@x", "\t=1"])
def test_no_cell_of_a_report_is_a_formula(tmp_path: Path, text: str) -> None:
    with ProblemFile(tmp_path / "r.csv") as problems:
        problems.add(Problem("rejected", text, text, text, text, text))
    with (tmp_path / "r.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert [row[name][0] for name in ("file", "row", "field", "reason", "picture")] == ["'"] * 5
    with ProblemFile(tmp_path / "r.csv") as problems:
        problems.add(Problem("rejected", "a\r=1,=2\n=3", "", "", "", ""))
    with (tmp_path / "r.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 1


def test_an_accent_may_be_written_in_two_ways() -> None:
    one, two = (unicodedata.normalize(form, "é.png") for form in ("NFC", "NFD"))
    assert one != two
    for held in (TaskPicture(1, one, "/data/upload/1/1234abcd-x.png"), TaskPicture(1, two, "")):
        names = TaskNames([held])
        assert names.find(one) == names.find(two) == names.find(f"deep/{two}") == 1
    stored = TaskNames(
        [TaskPicture(1, "", "/data/upload/1/1234abcd-e.png")]
    )  # as Label Studio wrote the second
    assert stored.find(two) == 1


def test_a_huge_picture_is_refused_and_the_others_get_in(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    data = bytearray((tmp_path / "a.png").read_bytes())
    data[16:24] = (60_000).to_bytes(4, "big") * 2
    import zlib

    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    (tmp_path / "b.png").write_bytes(bytes(data))
    found, refused = find_images(tmp_path)
    assert [path.name for path in found] == ["a.png"]
    assert len(refused) == 1


# ---- people at work meanwhile --------------------------------------------------------------------------


@pytest.mark.parametrize("was_imported", [False, True])
def test_what_people_do_while_an_import_runs_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, was_imported: bool
) -> None:
    monkeypatch.setattr("sync.exchange.import_labels._BATCH", 1)
    world = make(tmp_path / "w", "instances")
    path = coco_file(tmp_path / "c.json", [polygon("i1", 7, *SQUARE)])
    if was_imported:
        bring_in(world, "coco", path)
        coco_file(path, [polygon("i0", 7, *SQUARE), polygon("i1", 3, *SQUARE)])
    plain = Annotations.store
    batches: list[int] = []

    def store(self: Annotations, batch: Any) -> Any:
        batches.append(1)
        if len(batches) == 2:  # the first picture is in; a person finishes or mends the second
            if was_imported:
                (annotation,) = world.studio.task(world.tasks[1]).annotations
                world.studio.update_annotation(annotation.id, world.scenes[1].result())
            else:
                world.label(1)
        return plain(self, batch)

    monkeypatch.setattr(Annotations, "store", store)
    done = bring_in(world, "coco", path)
    assert done.untouched == 1
    assert [label for label, _ in drawn(world, 1)] == sorted(label for label, _ in world.scenes[1].masks)
    assert len(world.studio.task(world.tasks[1]).annotations) == 1


def test_a_person_who_finishes_the_task_in_the_same_seconds_is_not_hidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for size in (1, 200):  # the next look is that of the next batch, or the one at the end
        monkeypatch.setattr("sync.exchange.import_labels._BATCH", size)
        world = make(tmp_path / str(size), "instances")
        path = coco_file(tmp_path / "c.json", [polygon("i1", 7, *SQUARE)])
        plain = world.studio.import_annotations

        def send(rows: Any, world: World = world, plain: Any = plain) -> int:
            if any(row.task_id == world.tasks[1] for row in rows):
                world.label(1)
            return int(plain(rows))

        monkeypatch.setattr(world.studio, "import_annotations", send)
        done = bring_in(world, "coco", path)
        assert (done.created, done.untouched, done.left_out) == (3, 1, 1)
        assert [label for label, _ in drawn(world, 1)] == sorted(label for label, _ in world.scenes[1].masks)
        (annotation,) = world.studio.task(world.tasks[1]).annotations
        assert annotation.import_id is None
        monkeypatch.undo()
        again = bring_in(world, "coco", path)
        assert (again.created, again.there, again.untouched) == (0, 3, 1)


def test_a_person_who_skips_the_task_in_the_same_seconds_takes_nothing_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make(tmp_path / "w", "instances")
    path = coco_file(tmp_path / "c.json", [polygon("i1", 7, *SQUARE)])
    plain = world.studio.import_annotations

    def send(rows: Any) -> int:
        world.studio.create_annotation(world.tasks[1], [], was_cancelled=True)
        return int(plain(rows))

    monkeypatch.setattr(world.studio, "import_annotations", send)
    assert bring_in(world, "coco", path).created == 4
    assert [label for label, _ in drawn(world, 1)] == ["bar"]


def test_what_is_mended_while_another_is_brought_up_to_date_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make(tmp_path / "w", "instances")
    path = coco_file(tmp_path / "c.json", [polygon("i0", 7, *SQUARE), polygon("i1", 7, *SQUARE)])
    bring_in(world, "coco", path)
    coco_file(path, [polygon("i0", 3, *SQUARE), polygon("i1", 3, *SQUARE)])
    plain = world.studio.import_annotations
    sent: list[int] = []

    def send(rows: Any) -> int:
        if not sent:  # the first is being written; a person mends the second
            (annotation,) = world.studio.task(world.tasks[1]).annotations
            world.studio.update_annotation(annotation.id, world.scenes[1].result())
        sent.extend(row.task_id for row in rows)
        return int(plain(rows))

    monkeypatch.setattr(world.studio, "import_annotations", send)
    done = bring_in(world, "coco", path)
    assert (done.updated, done.untouched) == (1, 1)
    assert sent == [world.tasks[0]]
    assert [label for label, _ in drawn(world, 1)] == sorted(label for label, _ in world.scenes[1].masks)


def test_an_imported_annotation_that_was_skipped_stays_skipped(tmp_path: Path) -> None:
    world = make(tmp_path / "w", "instances")
    path = coco_file(tmp_path / "c.json", [polygon("i1", 7, *SQUARE)])
    bring_in(world, "coco", path)
    (annotation,) = world.studio.task(world.tasks[1]).annotations
    world.studio._get("annotations", annotation.id)["was_cancelled"] = True
    done = bring_in(world, "coco", path)
    assert (done.created, done.there, done.untouched) == (0, 3, 1)
    assert drawn(world, 1) == []


def test_pictures_that_come_while_an_export_runs_wait_for_the_next(tmp_path: Path) -> None:
    world = make(tmp_path / "w", "instances")
    world.label(0, 1)
    step(pull, world.open())
    opened = world.open()
    from sync.exchange import export as module

    plain = module.collect

    def collect(*args: Any, **more: Any) -> Any:
        found = plain(*args, **more)
        new = world.studio.import_tasks(
            world.project_id, [{"image": world.studio.task(world.tasks[2]).data["image"]}]
        )
        world.studio.create_annotation(new[0], world.scenes[2].result())
        step(pull, world.open())
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "collect", collect)
        done = step(export_project, opened, tmp_path / "out", format="yolo")
    assert done.images == 2


# ---- names of exported files ---------------------------------------------------------------------------


def _named(*paths: str) -> list[str]:
    rows = [TaskPicture(number, path, "") for number, path in enumerate(paths, start=1)]
    found = file_names(rows)
    return [found[number] for number in range(1, len(paths) + 1)]


def test_no_two_tasks_get_one_name() -> None:
    assert len(set(_named("task-3/a.jpg", "a.jpg", "a.jpg"))) == 3
    assert len(set(_named("task-3/task-3/a.jpg", "a.jpg", "a.jpg", "task-3/a.jpg"))) == 4


def test_names_that_are_one_on_some_disk_differ() -> None:
    assert _named("A.jpg", "a.jpg", "d/A.jpg", "D/a.JPG") == [
        "A.jpg",
        "task-2/a.jpg",
        "d/A.jpg",
        "task-4/D/a.JPG",
    ]
    composed, apart = (unicodedata.normalize(form, "é.jpg") for form in ("NFC", "NFD"))
    assert _named(composed, apart) == [composed, f"task-2/{apart}"]
    assert _named("task-2/a.jpg", "TASK-2/a.jpg")[1] == "task-2/TASK-2/a.jpg"


def test_names_with_another_ending_differ_too() -> None:
    names = {1: "d/A.jpg", 2: "d/a.png", 3: "b.jpg"}
    found = OtherEndings(names, ".txt")
    assert [found[task] for task in names] == ["d/A.jpg.txt", "d/a.png.txt", "b.txt"]
    names = {1: "a.jpg", 2: "A.bmp", 3: "a.JPG.tif"}
    found = OtherEndings(names, ".txt")
    assert [found[task] for task in names] == ["a.jpg.txt", "A.bmp.txt", "a.JPG.tif.txt"]


@pytest.mark.parametrize("name", ["a" * 300 + ".jpg", "a\0b.jpg", "a\nb.jpg", "ä" * 200 + ".jpg"])
def test_every_name_can_be_written(tmp_path: Path, name: str) -> None:
    rows = [TaskPicture(1, name, ""), TaskPicture(2, f"b{name}", "")]
    for found in file_names(rows).values():
        (tmp_path / found).write_bytes(b"")  # with room for the ending of another format
        assert found.endswith(".jpg")
        assert found.isprintable()
    assert len(list(tmp_path.iterdir())) == 2


def test_an_export_over_a_folder_is_refused(tmp_path: Path) -> None:
    world = make(tmp_path / "w", "instances")
    (tmp_path / "out").mkdir()
    (tmp_path / "file").write_bytes(b"x")
    for out in (tmp_path / "out", tmp_path / "file" / "deeper" / "out.json"):
        with pytest.raises(StorageError, match="cannot write"):
            step(export_project, world.open(), out, format="coco")
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


def test_what_a_person_finished_hides_its_accepted_masks_from_every_origin(
    make_world: Callable[..., World], tmp_path: Path
) -> None:
    world = make_world(16, policy="original", policy_options={"min_size": 2}, review_form="single")
    world.label(*range(6))
    world.review_to_the_end()

    def accepted() -> set[int]:
        out = tmp_path / "found.json"
        step(export_project, world.open(), out, choice=Choice(origins_of(["verified", "propagated"])))
        return {image["id"] for image in json.loads(out.read_text())["images"]}

    before = accepted()
    assert before
    task = min(before)
    world.label(world.tasks.index(task))
    step(pull, world.open())
    assert accepted() == before - {task}


def test_a_rejected_mask_beside_an_accepted_one_is_not_exported(
    make_world: Callable[..., World], tmp_path: Path
) -> None:
    world = make_world(16, policy="original", policy_options={"min_size": 2}, review_form="single")
    world.label(*range(6))
    world.review_to_the_end()
    record = trained_round(world.open().db)
    assert record is not None
    folder = world.open().paths.round(record.number)

    def exported() -> set[str]:
        out = tmp_path / "found.json"
        step(export_project, world.open(), out, choice=Choice(origins_of(["verified", "propagated"])))
        return {row["instance"] for row in json.loads(out.read_text())["annotations"]}

    before = exported()
    tasks = Counter(task_of_key(key) for key in before)
    rejected = min(key for key in before if tasks[task_of_key(key)] > 1)
    rows = [
        replace(row, verdict=-1) if row.key == rejected else row for row in read_verdicts(folder).values()
    ]
    write_verdicts(folder, rows)
    assert exported() == before - {rejected}
