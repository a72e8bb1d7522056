"""Several learners as one: parts get their own labels; what they find comes back under the common ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from ml_backend.errors import BadInput, ModelError
from ml_backend.examples import Example
from ml_backend.learners.base import TrainSpec
from ml_backend.learners.registry import LEARNERS, check_options
from ml_backend.learners.several import Several
from ml_backend.masks.rle import encode_mask
from tests.sync import tiny_learner

LABELS = ("red", "wet", "blue")
PARTS = [
    {"kind": "instances", "learner": "tiny", "labels": ["red", "blue"]},
    {"kind": "boxes", "learner": "tiny", "labels": ["wet"]},
]


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LEARNERS, tiny_learner.NAME, tiny_learner.TARGET)


def example(folder: Path, number: int, colours: dict[int, tuple[int, int, int]]) -> Example:
    pixels = np.zeros((40, 60, 3), np.uint8)
    rles = []
    for place, colour in enumerate(colours.values()):
        mask = np.zeros((40, 60), bool)
        mask[5:15, 5 + 20 * place : 15 + 20 * place] = True
        pixels[mask] = colour
        rles.append(encode_mask(mask))
    path = folder / f"{number}.png"
    cv2.imwrite(str(path), pixels[..., ::-1])
    return Example(number, path, tuple(colours), tuple(rles))


def spec(folder: Path, **changes: Any) -> TrainSpec:
    colours = {0: (250, 0, 0), 1: (0, 250, 0), 2: (0, 0, 250)}
    every = tuple(example(folder, number, colours) for number in range(4))
    return TrainSpec(LABELS, every[:2], every[2:], **{"options": {"parts": PARTS}, **changes})


def test_parts_are_trained_apart_and_found_together(tmp_path: Path) -> None:
    report = Several().train(spec(tmp_path), tmp_path / "out", lambda share, line: None)
    assert report.learner == "several"
    assert any(name.startswith("boxes ") for name in report.evaluation.metrics)
    predictor = Several().load(tmp_path / "out")
    assert predictor.labels == LABELS
    (instances,) = predictor.predict([cv2.imread(str(tmp_path / "0.png"))[..., ::-1]])
    # the first part names each blob red or blue, the second calls all of them wet
    assert sorted(instances.label.tolist()) == [0, 0, 1, 1, 1, 2] or sorted(instances.label.tolist()) == [
        0, 1, 1, 1, 2, 2,
    ]  # fmt: skip
    assert instances.embedding.shape == (6, predictor.embedding_dim)


def test_a_part_without_examples_waits_and_the_others_are_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tiny_learner.TinyLearner.train

    def picky(self: Any, spec: TrainSpec, out: Path, progress: Any) -> Any:
        if spec.labels == ("wet",):
            raise BadInput("there is no instance to train on", field="train")
        return whole(self, spec, out, progress)

    monkeypatch.setattr(tiny_learner.TinyLearner, "train", picky)
    report = Several().train(spec(tmp_path), tmp_path / "out", lambda share, line: None)
    assert "boxes: not trained" in report.started_from
    (instances,) = Several().load(tmp_path / "out").predict([np.zeros((8, 8, 3), np.uint8)])
    assert len(instances) == 0
    only = spec(tmp_path, options={"parts": PARTS[1:]})
    with pytest.raises(BadInput, match="no instance to train on"):
        Several().train(only, tmp_path / "none", lambda share, line: None)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({}, "options.parts"),
        ({"parts": []}, "options.parts"),
        ({"parts": PARTS, "iterations": 3}, "options.parts"),
        ({"parts": [{"kind": "boxes", "labels": ["a"]}]}, "options.parts"),
        ({"parts": [{"kind": "instances", "learner": "maskrcnn", "labels": ["a"], "options": {"iter": 1}}]},
         "options.parts.0.options.iter"),
    ],
)  # fmt: skip
def test_wrong_parts_are_named(options: dict[str, Any], field: str) -> None:
    with pytest.raises(BadInput) as caught:
        check_options("several", "light", options)
    assert caught.value.field == field


def test_a_folder_of_another_learner_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="holds no model"):
        Several().load(tmp_path)


def test_two_parts_of_one_kind_keep_their_figures_and_files_apart(tmp_path: Path) -> None:
    same = [{**part, "kind": "classes"} for part in PARTS]
    report = Several().train(
        spec(tmp_path, options={"parts": same}), tmp_path / "out", lambda share, line: None
    )
    names = set(report.evaluation.metrics)
    assert any(name.startswith("classes-2 ") for name in names)
    assert any(" " not in name for name in names)


def test_a_task_that_teaches_one_part_is_not_left_out(tmp_path: Path) -> None:
    from ml_backend.learners.base import Evaluation, LeftOut, TrainReport
    from ml_backend.learners.several import _left_out

    def report(*tasks: int) -> TrainReport:
        left_out = tuple(LeftOut(task, "nobody chose a label for it") for task in tasks)
        return TrainReport("tiny", "", 1, 1.0, Evaluation(1, 1, {}), left_out=left_out)

    assert [entry.task_id for entry in _left_out([report(1, 2), report(2, 3)])] == [2]
