"""From tags alone to masks: the learner as a whole on small drawn pictures."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ml_backend.errors import BadInput, ModelError
from ml_backend.examples import Example
from ml_backend.images.decode import read_image
from ml_backend.learners.base import TrainReport, TrainSpec
from ml_backend.learners.evaluation import match_iou
from ml_backend.learners.registry import get_learner
from ml_backend.learners.weak.learner import Cim

from .coloured import LABELS, draw

SMALL = {"iterations": 80, "batch": 4, "most": 60}
REFINE = {"refine_iterations": 4, "refine_batch": 1, "refine_size": 64, "refine_channels": 16}
REFINE |= {"refine_weights": "none", "refine_max_side": 128, "refine_target_px": 12}


def silent(share: float, line: str) -> None:
    """Progress that nobody reads."""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Example], list[Example]]:
    folder = tmp_path_factory.mktemp("weak") / "images"
    return draw(folder, 9), draw(folder, 4, seed=1, keep_masks=True)


@pytest.fixture(scope="module")
def trained(
    pictures: tuple[list[Example], list[Example]], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, TrainSpec, TrainReport]:
    train, test = pictures
    blank = tmp_path_factory.mktemp("bad") / "blank.png"
    Image.new("RGB", (64, 48), (90, 90, 90)).save(blank)
    broken = blank.with_name("broken.png")
    broken.write_bytes(b"\x89PNG\r\n")
    extra = (
        Example(70, blank, (), (), tags=(0,)),
        Example(71, broken, (), (), tags=(1,)),
    )
    spec = TrainSpec(
        LABELS,
        (*train, *extra),
        tuple(test),
        device="cpu",
        options={**SMALL, "refine": "off"},
    )
    out = tmp_path_factory.mktemp("version") / "v1"
    return out, spec, Cim().train(spec, out, silent)


def test_tags_alone_find_the_objects(trained: tuple[Path, TrainSpec, TrainReport]) -> None:
    folder, spec, report = trained
    assert report.evaluation.metrics["AP25"][0] > 0.8
    assert report.evaluation.metrics["tags"][0] > 0.9
    assert report.evaluation.n_images == 4
    (found,) = Cim().load(folder, device="cpu").predict([read_image(spec.test[2].image)])
    assert set(found.label.tolist()) == {0, 1}
    assert ((found.score > 0) & (found.score <= 1)).all()
    assert ((found.quality > 0) & (found.quality <= 1)).all()
    assert match_iou(found, spec.test[2]).max() > 0.25


def test_pictures_that_cannot_be_used_are_named(trained: tuple[Path, TrainSpec, TrainReport]) -> None:
    reasons = {entry.task_id: entry.reason for entry in trained[2].left_out}
    assert set(reasons) == {70, 71}
    assert "proposals" in reasons[70]


def test_same_seed_gives_the_same_version(
    trained: tuple[Path, TrainSpec, TrainReport], tmp_path: Path
) -> None:
    _, spec, _ = trained
    fewer = dataclasses.replace(
        spec, train=spec.train[:4], test=(), options={**spec.options, "iterations": 5}
    )
    images = [read_image(spec.test[0].image)]
    found = []
    for name in ("a", "b"):
        Cim().train(fewer, tmp_path / name, silent)
        found.append(next(Cim().load(tmp_path / name, device="cpu").predict(images)))
    assert np.array_equal(found[0].score, found[1].score)
    assert list(found[0].rle) == list(found[1].rle)


def test_a_version_without_refinement_is_not_exported(
    trained: tuple[Path, TrainSpec, TrainReport], tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match="refine=on"):
        Cim().export(trained[0], tmp_path / "model.ts")
    with pytest.raises(ModelError, match="holds no model"):
        Cim().load(tmp_path)


def test_a_refined_version_predicts_by_mask_rcnn(
    pictures: tuple[list[Example], list[Example]], tmp_path: Path
) -> None:
    train, test = pictures
    options = {**SMALL, **REFINE, "iterations": 20}
    spec = TrainSpec(LABELS, tuple(train[:4]), tuple(test[:1]), device="cpu", options=options)
    report = get_learner("cim").train(spec, tmp_path / "v1", silent)
    assert "proposals of 4 pictures" in report.started_from
    assert "random weights" in report.started_from
    predictor = Cim().load(tmp_path / "v1", device="cpu")
    assert predictor.labels == LABELS
    list(predictor.predict([read_image(test[0].image)]))


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"proposals": "guess"}, "options.proposals"),
        ({"nms": "1.5"}, "options.nms"),
        ({"dropout": 1}, "options.dropout"),
        ({"refine": "maybe"}, "options.refine"),
        ({"refine_batch": 0}, "options.refine_batch"),
        ({"refine_nothing": 1}, "options.refine_nothing"),
        ({"speed": 1}, "options.speed"),
    ],
)
def test_wrong_options_are_named(options: dict[str, object], field: str) -> None:
    with pytest.raises(BadInput) as caught:
        Cim().check_options("light", options)
    assert caught.value.field == field


def test_a_project_without_a_tag_is_refused(
    pictures: tuple[list[Example], list[Example]], tmp_path: Path
) -> None:
    untagged = tuple(dataclasses.replace(example, tags=()) for example in pictures[0][:2])
    with pytest.raises(BadInput, match="no picture has a tag"):
        Cim().train(TrainSpec(LABELS, untagged, ()), tmp_path / "v1", silent)
