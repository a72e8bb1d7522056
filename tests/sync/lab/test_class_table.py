"""The table of classes that a demo takes as its truth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ml_backend.errors import BadInput
from ml_backend.kinds.classes import CLASSES
from ml_backend.masks.rle import decode_rle
from sync.lab.class_table import load_class_table
from sync.lab.ground_truth import Truth


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for name in ("a.png", "b.png"):
        Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(tmp_path / "images" / name)
    return tmp_path


def load(folder: Path, text: str):  # type: ignore[no-untyped-def]
    (folder / "labels.csv").write_text(text)
    return load_class_table(folder / "images", folder / "labels.csv")


def test_classes_cover_their_pictures_and_files_are_found_from_either_folder(folder: Path) -> None:
    found = load(folder, "file,label,by\na.png,wet,x\nimages/b.png,dry,x\na.png,cold,x\na.png,wet,y\n")
    assert found.categories == ("wet", "dry", "cold")
    assert [image.path.name for image in found.images] == ["a.png", "b.png"]
    assert [image.label for image in found.images] == [(0, 2), (1,)]
    assert all(decode_rle(rle).shape == (4, 6) and decode_rle(rle).all() for rle in found.images[0].rle)
    truth = Truth(found, CLASSES)
    assert truth.has_several
    assert truth.tags("/data/upload/1/0a1b2c3d-a.png") == ["wet", "cold"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name,label\na.png,wet\n", "no column 'file'"),
        ("file,label\n", "holds no picture"),
        ("file,label\na.png,\n", "a file and a label are needed"),
        ("file,label\nc.png,wet\n", "no picture"),
    ],
)
def test_a_wrong_table_is_named(folder: Path, text: str, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        load(folder, text)


def test_a_file_that_is_no_picture_is_named(folder: Path) -> None:
    (folder / "images" / "c.png").write_text("no picture")
    with pytest.raises(BadInput, match="is no picture"):
        load(folder, "file,label\nc.png,wet\n")


def test_a_table_written_by_a_spreadsheet_is_read(folder: Path) -> None:
    assert load(folder, "\ufefffile,label\na.png,wet\n").categories == ("wet",)
