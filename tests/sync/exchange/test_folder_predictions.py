"""An existing model on a folder of pictures: the file, its class map, and going on after a kill."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from ml_backend.artifacts.files import write_json
from ml_backend.errors import BadInput, ModelError
from ml_backend.kinds.boxes import BOXES
from ml_backend.kinds.classes import CLASSES
from sync.exchange.folder_predictions import kind_of_learner, predict_folder
from sync.rounds.given_rounds import GivenModel, find_model
from tests.sync import tiny_learner
from tests.sync.conftest import World

MakeWorld = Callable[..., World]
COLOURS = [[220, 60, 60], [60, 220, 60]]


@pytest.fixture
def model(tmp_path: Path) -> GivenModel:
    """A version of another installation: a folder with a manifest."""
    folder = tmp_path / "gs9-r1-0123456789"
    write_json(folder / "tiny.json", {"labels": ["disc", "bar"], "colours": COLOURS})
    write_json(folder / "manifest.json", {"learner": "tiny", "version": folder.name, "created_at": 5.0})
    return GivenModel(folder.name, folder, "tiny", 0, json.loads((folder / "manifest.json").read_text()))


@pytest.fixture
def pictures(make_world: MakeWorld) -> tuple[World, list[Path]]:
    world = make_world(7)
    return world, sorted(world.images.iterdir())


def test_a_coco_file_holds_what_the_model_finds(
    model: GivenModel, pictures: tuple[World, list[Path]], tmp_path: Path
) -> None:
    world, files = pictures
    (world.images / "zz-broken.png").write_text("no picture")
    out = tmp_path / "out.json"
    report = predict_folder(
        model, [*files, world.images / "zz-broken.png"], world.images, out, min_score=0.5, batch=3
    )
    found = json.loads(out.read_text())
    assert (report.pictures, report.instances, report.resumed) == (8, 21, 0)
    assert list(report.unreadable) == list(found["info"]["unreadable"]) == ["zz-broken.png"]
    assert found["info"]["model_version"] == model.version
    assert [row["name"] for row in found["categories"]] == ["disc", "bar"]
    names = {row["id"]: row["name"] for row in found["categories"]}
    for image, scene in zip(found["images"], world.scenes, strict=True):
        mine = [row for row in found["annotations"] if row["image_id"] == image["id"]]
        assert sorted(names[row["category_id"]] for row in mine) == sorted(label for label, _ in scene.masks)
        for row in mine:
            mask = coco_mask.decode(row["segmentation"])
            assert any(np.array_equal(mask, true) for _, true in scene.masks)
            assert row["bbox"] == list(coco_mask.toBbox(row["segmentation"]))
    assert not out.with_name("out.json.parts").exists()


def test_labels_are_mapped_merged_and_dropped(
    model: GivenModel, pictures: tuple[World, list[Path]], tmp_path: Path
) -> None:
    world, files = pictures

    def counts(**options: Any) -> dict[str, int]:
        predict_folder(model, files, world.images, tmp_path / "out.json", min_score=0.0, **options)
        found = json.loads((tmp_path / "out.json").read_text())
        names = {row["id"]: row["name"] for row in found["categories"]}
        labels = [names[row["category_id"]] for row in found["annotations"]]
        return {name: labels.count(name) for name in names.values()}

    whole = counts()
    assert sum(whole.values()) == 21
    assert counts(named={"disc": "thing", "bar": "thing"}) == {"thing": 21}
    assert counts(named={"disc": ""}) == {"bar": whole["bar"]}
    assert counts(ours=("round", "bar"), named={"disc": "round"}) == {
        "round": whole["disc"],
        "bar": whole["bar"],
    }
    assert counts(ours=("bar", "rest"), default="rest") == {"bar": 0, "rest": 21}
    with pytest.raises(BadInput, match="none of the model's labels"):
        counts(ours=("cat",))
    with pytest.raises(BadInput, match="no label 'cat'"):
        counts(named={"cat": "thing"})


def test_a_killed_call_goes_on_where_it_was(
    model: GivenModel, pictures: tuple[World, list[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, files = pictures
    whole, out = tmp_path / "whole.json", tmp_path / "out.json"
    predict_folder(model, files, world.images, whole, min_score=0.5, batch=2)

    def die(share: float, line: str) -> None:
        if share > 0.6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict_folder(model, files, world.images, out, min_score=0.5, batch=2, progress=die)
    assert not out.exists()
    looked: list[int] = []
    predict = tiny_learner.TinyPredictor.predict
    monkeypatch.setattr(
        tiny_learner.TinyPredictor,
        "predict",
        lambda self, images: looked.append(len(images)) or predict(self, images),
    )
    report = predict_folder(model, files, world.images, out, min_score=0.5, batch=2)
    assert (report.resumed, sum(looked)) == (6, 1)
    assert out.read_bytes() == whole.read_bytes()
    with pytest.raises(KeyboardInterrupt):
        predict_folder(model, files, world.images, out, min_score=0.5, batch=2, progress=die)
    files[0].touch()  # another picture, perhaps: nothing is taken from the parts
    assert predict_folder(model, files, world.images, out, min_score=0.5, batch=2).resumed == 0


def test_csv_by_the_name_of_the_file(
    model: GivenModel, pictures: tuple[World, list[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, files = pictures
    out = tmp_path / "out.csv"
    predict_folder(model, files, world.images, out, min_score=0.5)
    rows = list(csv.DictReader(out.open()))
    assert len(rows) == 21
    assert list(rows[0]) == ["file", "label", "score", "x0", "y0", "x1", "y1"]
    monkeypatch.setattr("sync.exchange.folder_predictions.kind_of_learner", lambda learner: CLASSES)
    predict_folder(model, files, world.images, out, min_score=0.5)
    assert list(next(csv.DictReader(out.open()))) == ["file", "label", "score"]
    monkeypatch.setattr("sync.exchange.folder_predictions.kind_of_learner", lambda learner: BOXES)
    predict_folder(model, files, world.images, tmp_path / "out.json", min_score=0.5)
    assert "segmentation" not in json.loads((tmp_path / "out.json").read_text())["annotations"][0]


def test_models_are_found_by_name_and_by_folder(make_world: MakeWorld, model: GivenModel) -> None:
    world = make_world(8)
    assert find_model(world.settings, str(model.folder)) == model
    world.label(*range(5))
    world.worker().look(world.project_id)
    version = world.studio.project(world.project_id).model_version.partition(".")[0]
    found = find_model(world.settings, version)
    assert (found.project, found.learner, found.version) == (world.project_id, "tiny", version)
    with pytest.raises(ModelError, match="is not there"):
        find_model(world.settings, f"gs{world.project_id}-r7-0123456789")
    for name in ("maskrcnn", "gsX-r1", "gs1"):
        with pytest.raises(BadInput, match="there is no model"):
            find_model(world.settings, name)
    (model.folder / "manifest.json").unlink()
    with pytest.raises(BadInput, match="which learner"):
        find_model(world.settings, str(model.folder))


def test_the_kind_follows_from_the_learner() -> None:
    assert kind_of_learner("fasterrcnn").name == "boxes"
    assert kind_of_learner("unheard-of").name == "instances"
