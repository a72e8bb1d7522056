"""Files of other tools with anything in them: pictures, problems that say where, or one clear refusal."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ml_backend.errors import BadInput
from ml_backend.label_studio.config_builder import build_label_config
from ml_backend.label_studio.label_config import parse_label_config
from ml_backend.label_studio.region_check import validate_result
from sync.exchange.import_regions import LabelNames, convert
from sync.exchange.readers.registry import open_reader
from sync.exchange.readers.rows import PictureRows, Problem
from tests.fuzzing import fuzz, junk, numbers, refusal, texts

LABELS = ("disc", "bar")
HW = (48, 64)
CONFIGS = [
    parse_label_config(build_label_config(LABELS, kind=kind))
    for kind in ("instances", "boxes", "segmentation", "classes")
]

lists = st.lists(numbers, max_size=10)
segmentations = st.lists(lists, max_size=3) | st.fixed_dictionaries(
    {"size": st.just(list(HW)) | junk, "counts": lists | texts | junk}
)
annotations = st.fixed_dictionaries(
    {},
    optional={
        "image_id": st.sampled_from([0, 1]) | junk,
        "category_id": st.sampled_from([0, 1]) | junk,
        "segmentation": segmentations | junk,
        "bbox": lists | junk,
        "score": numbers | junk,
        "rotation": numbers | junk,
        "iscrowd": junk,
    },
)
images = st.fixed_dictionaries(
    {},
    optional={
        "id": st.sampled_from([0, 1]) | junk,
        "file_name": st.sampled_from(["000.png", "001.png"]) | junk,
        "width": st.just(HW[1]) | numbers | junk,
        "height": st.just(HW[0]) | numbers | junk,
    },
)
coco = st.fixed_dictionaries(
    {
        "images": st.lists(images | junk, max_size=3) | junk,
        "categories": st.just([{"id": n, "name": label} for n, label in enumerate(LABELS)]) | junk,
        "annotations": st.lists(annotations | junk, max_size=4) | junk,
    }
)
words = (
    numbers.map(str) | st.sampled_from(["0", "1", "0.5", "0.25", "1e309", "nan", "-0", "0x1", "1_0"]) | texts
)
lines = st.lists(words, max_size=8).map(" ".join)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzzed")


def clean(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def write(path: Path, text: str) -> None:
    path.write_bytes(text.encode("utf-8", "surrogatepass"))


def everything(format: str, path: Path) -> Iterator[PictureRows | Problem]:
    yield from open_reader(format, path, LABELS).pictures()


def read(format: str, path: Path) -> None:
    """Read all of it, and make results of it for each kind of project."""
    found = refusal(lambda: list(everything(format, path)))
    if isinstance(found, BadInput):
        assert found.field
        assert found.message
        return
    for one in found:
        if isinstance(one, Problem):
            assert one.reason
            continue
        for config in CONFIGS:
            made = convert(
                one.rows,
                HW,
                config,
                LabelNames(config.labels, {}),
                file="f",
                picture=one.name,
                with_scores=True,
            )
            assert validate_result(made.result, config) == []
            assert all(problem.reason for problem in made.problems)
            json.dumps(made.result, allow_nan=False).encode()


@given(document=coco | junk)
@fuzz(150)
def test_any_coco_file(folder: Path, document: Any) -> None:
    path = folder / "c.json"
    path.write_text(json.dumps(document))
    read("coco", path)


@given(st.text(max_size=60) | st.binary(max_size=60).map(lambda data: data.decode("latin-1")))
@fuzz(60)
def test_any_text_as_coco_and_csv(folder: Path, text: str) -> None:
    for format, name in (("coco", "t.json"), ("csv", "t.csv")):
        write(folder / name, text)
        read(format, folder / name)


@given(files=st.lists(st.lists(lines, max_size=4), min_size=1, max_size=2), names=st.none() | texts | junk)
@fuzz(120)
def test_any_yolo_folder(folder: Path, files: list[list[str]], names: Any) -> None:
    root = clean(folder / "yolo")
    (root / "labels").mkdir()
    for number, content in enumerate(files):
        write(root / "labels" / f"{number:03d}.txt", "\n".join(content))
    write(root / "data.yaml", "names: [disc, bar]" if names is None else f"names: {json.dumps(names)}")
    read("yolo", root)


@given(
    rows=st.lists(st.lists(texts | words | st.sampled_from(["000.png", "disc"]), max_size=5), max_size=5),
    head=st.sampled_from(
        ["file,label,score", "file;label;probability", "label\tfile", "file,label,label", "x"]
    ),
)
@fuzz(120)
def test_any_csv(folder: Path, rows: list[list[str]], head: str) -> None:
    between = next(mark for mark in (",", ";", "\t", "x") if mark in head)
    write(folder / "x.csv", "\n".join([head, *(between.join(row) for row in rows)]))
    read("csv", folder / "x.csv")


@st.composite
def voc_files(draw: st.DrawFn) -> str:
    def element(name: str, values: st.SearchStrategy[str]) -> str:
        return f"<{name}>{escape(draw(values))}</{name}>" if draw(st.booleans()) else ""

    plain = st.characters(min_codepoint=32, exclude_categories=("Cs", "Cc"))
    text = st.text(plain, max_size=8)
    number = numbers.map(str) | text
    objects = ""
    for _ in range(draw(st.integers(0, 3))):
        edges = "".join(element(edge, number) for edge in ("xmin", "ymin", "xmax", "ymax"))
        objects += (
            f"<object>{element('name', st.sampled_from(LABELS) | text)}<bndbox>{edges}</bndbox></object>"
        )
    size = element("width", number) + element("height", number)
    name = element("filename", st.sampled_from(["000.png", "..", ".", "/", "a/b.png"]) | text)
    return f"<annotation>{name}<size>{size}</size>{objects}</annotation>"


@given(text=voc_files() | texts, values=st.none() | st.integers(0, 3))
@fuzz(120)
def test_any_voc_file(folder: Path, text: str, values: int | None) -> None:
    root = clean(folder / "voc")
    (root / "Annotations").mkdir()
    write(root / "Annotations" / "000.xml", text)
    if values is not None:
        (root / "SegmentationObject").mkdir()
        Image.fromarray(np.full(HW, values, np.uint8)).save(root / "SegmentationObject" / "000.png")
    read("voc", root)
