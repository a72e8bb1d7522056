"""The learner as a whole: train, load, predict, go on, export; data as bad as it comes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from ml_backend.errors import BadInput, ModelError
from ml_backend.images.decode import read_image
from ml_backend.learners.base import TrainReport, TrainSpec
from ml_backend.learners.classes.learner import Classifier
from ml_backend.learners.classes.squares import square
from ml_backend.learners.registry import get_learner
from ml_backend.masks.rle import rle_area

from .stripes import LABELS, draw_tagged

LINEAR = {"weights": "none", "method": "linear", "side": 64, "threads": 1}
NETWORK = {**LINEAR, "method": "network", "iterations": 40, "batch": 8, "folds": 2, "lr": 3e-3, "ema": 0.8}


def train(folder: Path, spec: TrainSpec, name: str = "v1") -> TrainReport:
    shares: list[float] = []
    report = Classifier().train(spec, folder / name, lambda share, line: shares.append(share))
    assert shares == sorted(shares)
    assert shares[-1] == 1
    return report


@pytest.fixture(scope="module")
def linear(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainSpec, TrainReport]:
    folder = tmp_path_factory.mktemp("linear")
    spec = TrainSpec(
        LABELS,
        draw_tagged(folder / "images", 30),
        draw_tagged(folder / "images", 30, seed=1),
        device="cpu",
        options=LINEAR,
        exclusive=True,
    )
    return folder, spec, train(folder, spec)


def test_a_linear_head_on_patch_filters_learns_stripes_and_dots(
    linear: tuple[Path, TrainSpec, TrainReport],
) -> None:
    folder, _, report = linear
    assert report.started_from.startswith("a linear head on filters learnt from patches")
    assert "cross-validation over 30 pictures" in report.started_from
    value, low, high = report.evaluation.metrics["accuracy"]
    assert low <= value <= high
    assert value > 0.8
    for name in ("balanced_accuracy", "AUC", "F1/dots", "precision/down", "recall/across"):
        assert report.evaluation.metrics[name][0] > 0.6
    assert {p.name for p in (folder / "v1").iterdir()} == {"weights.safetensors", "learner.json"}
    assert json.loads((folder / "v1" / "learner.json").read_text())["started_from"] == report.started_from


def test_a_single_choice_gives_one_row_that_covers_the_picture(
    linear: tuple[Path, TrainSpec, TrainReport],
) -> None:
    folder, spec, _ = linear
    predictor = get_learner("classifier").load(folder / "v1", device="cpu")
    images = [read_image(example.image) for example in spec.test]
    found = list(predictor.predict(images))
    assert len(found) == 30
    for instances in found:
        assert len(instances) == 1
        assert instances.box_xyxy.tolist() == [[0, 0, 64, 48]]
        assert rle_area(instances.rle[0]) == 48 * 64
        assert instances.quality.tolist() == [1.0]
        assert 1 / 3 <= instances.score[0] <= 1
        assert instances.embedding.shape == (1, predictor.embedding_dim)
        assert np.linalg.norm(instances.feature) == pytest.approx(1, abs=1e-5)
        assert set(instances.doubts) == {"entropy", "margin", "max_probability"}
        assert all(0 <= value <= 1 for value in instances.doubts.values())
    sure = min(found, key=lambda one: one.doubts["entropy"])
    assert sure.score[0] == max(one.score[0] for one in found)
    (again,) = predictor.predict(images[3:4])
    assert np.allclose(again.score, found[3].score, atol=1e-5)  # whatever else is in the batch
    assert list(predictor.predict([])) == []


def test_scores_are_calibrated(linear: tuple[Path, TrainSpec, TrainReport]) -> None:
    assert linear[2].evaluation.metrics["ECE"][0] < 0.25


def test_multiple_choice_gives_a_row_for_each_likely_label(tmp_path: Path) -> None:
    spec = TrainSpec(
        LABELS,
        draw_tagged(tmp_path, 40, several=True),
        draw_tagged(tmp_path, 30, seed=1, several=True),
        device="cpu",
        options={**LINEAR, "least": 0.3},
    )
    report = train(tmp_path, spec)
    assert report.evaluation.metrics["accuracy"][0] > 0.75
    assert report.evaluation.metrics["average_precision"][0] > 0.75
    predictor = Classifier().load(tmp_path / "v1", device="cpu")
    found = list(predictor.predict([read_image(example.image) for example in spec.test]))
    assert len({len(instances) for instances in found}) > 1
    for instances in found:
        assert (instances.score >= 0.3).all()
        assert (np.diff(instances.score) <= 0).all()
        assert len(set(instances.label.tolist())) == len(instances)


def test_the_whole_network_is_trained_and_goes_on(tmp_path: Path) -> None:
    images = draw_tagged(tmp_path / "images", 24)
    spec = TrainSpec(LABELS[:2], _of_two(images), (), device="cpu", options=NETWORK, exclusive=True)
    report = train(tmp_path, spec)
    assert report.started_from.startswith("the whole of MobileNetV3-small, random weights")
    assert report.iterations == 40
    assert report.history[-1][1] < report.history[0][1]
    more = dataclasses.replace(
        spec,
        labels=LABELS,
        train=images,
        start=tmp_path / "v1",
        options={**NETWORK, "continue_iterations": 3},
    )
    report = train(tmp_path, more, "v2")
    assert report.started_from.startswith("version v1; ")
    assert report.iterations == 3
    assert Classifier().load(tmp_path / "v2", device="cpu").labels == LABELS


def test_cross_validation_chooses_between_head_and_network(tmp_path: Path) -> None:
    spec = TrainSpec(
        LABELS,
        draw_tagged(tmp_path / "images", 18),
        (),
        device="cpu",
        options={**NETWORK, "method": "auto", "network_from": 18, "iterations": 2, "ema": 0},
        exclusive=True,
    )
    report = train(tmp_path, spec)
    # two steps teach a network nothing
    assert report.started_from.startswith("a linear head on filters")
    assert "the whole of MobileNetV3-small" in report.started_from
    few = dataclasses.replace(spec, options={**spec.options, "network_from": 19})
    assert "MobileNet" not in train(tmp_path, few, "v2").started_from.split("(chosen")[1]
    early = train(tmp_path, dataclasses.replace(spec, seconds=5.0), "v3")
    assert early.cut_short
    assert "MobileNet" not in early.started_from.split("(chosen")[1]
    assert not train(tmp_path, dataclasses.replace(few, seconds=5.0), "v4").cut_short


def test_a_killed_training_goes_on_from_its_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a fold that takes less than the time between two checkpoints is trained again
    monkeypatch.setattr("ml_backend.learners.training.loop._Run._save_due", lambda self, save_s: True)

    class Killed(Exception):
        pass

    spec = TrainSpec(
        LABELS, draw_tagged(tmp_path, 12), (), device="cpu", options={**NETWORK, "iterations": 8},
        exclusive=True, resume=tmp_path / "resume",
    )  # fmt: skip
    lines: list[str] = []

    def note(share: float, line: str) -> None:
        lines.append(line)
        if line.startswith("cross-validation 2: iteration 3/8"):
            raise Killed

    with pytest.raises(Killed):
        Classifier().train(spec, tmp_path / "v1", note)
    before = len(lines)
    Classifier().train(spec, tmp_path / "v1", lambda share, line: lines.append(line))
    first = [line for line in lines[before:] if line.startswith("cross-validation 1")]
    assert first == ["cross-validation 1: going on from iteration 8"]  # its end is told again, not its steps
    second = [line.partition(",")[0] for line in lines[before:] if line.startswith("cross-validation 2")]
    assert second == [
        "cross-validation 2: going on from iteration 2",
        *(f"cross-validation 2: iteration {step}/8" for step in range(3, 9)),
    ]


def test_labels_without_examples_keep_a_small_probability(tmp_path: Path) -> None:
    images = _of_two(draw_tagged(tmp_path / "images", 18))
    spec = TrainSpec(LABELS, images, (), device="cpu", options=LINEAR, exclusive=True)
    report = train(tmp_path, spec)
    assert "dots has no example yet" in report.started_from
    predictor = Classifier().load(tmp_path / "v1", device="cpu")
    p, _ = predictor.probabilities([read_image(images[0].image)])
    assert p[0, 2] == pytest.approx(1 / (len(images) + 3))
    assert p.sum() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("exclusive", [True, False])
def test_one_label_alone_gives_a_model_that_says_so(tmp_path: Path, exclusive: bool) -> None:
    images = tuple(dataclasses.replace(example, tags=(1,)) for example in draw_tagged(tmp_path / "images", 6))
    spec = TrainSpec(LABELS, images, images[:2], device="cpu", options=LINEAR, exclusive=exclusive)
    report = train(tmp_path, spec)
    assert "nothing to tell apart" in report.started_from or "every picture is down" in report.started_from
    assert report.evaluation.metrics["accuracy"][0] == 1
    (found,) = Classifier().load(tmp_path / "v1", device="cpu").predict([read_image(images[0].image)])
    assert found.label[0] == 1
    assert 0 < found.doubts["entropy"] < 1
    assert len(found.feature) == 128


def test_a_label_with_one_example_is_learnt(tmp_path: Path) -> None:
    images = draw_tagged(tmp_path / "images", 18)
    once = tuple(e for e in images if e.tags != (2,)) + tuple(e for e in images if e.tags == (2,))[:1]
    report = train(tmp_path, TrainSpec(LABELS, once, (), device="cpu", options=LINEAR, exclusive=True))
    assert "no example" not in report.started_from
    p, _ = Classifier().load(tmp_path / "v1", device="cpu").probabilities([read_image(once[-1].image)])
    assert np.isfinite(p).all()


def test_a_single_picture_gives_a_model(tmp_path: Path) -> None:
    images = draw_tagged(tmp_path / "images", 2)
    train(tmp_path, TrainSpec(LABELS, images[:1], (), device="cpu", options=LINEAR, exclusive=True))
    train(tmp_path, TrainSpec(LABELS, images, (), device="cpu", options=LINEAR, exclusive=True), "v2")


def test_what_cannot_be_used_is_left_out_with_the_reason(tmp_path: Path) -> None:
    images = list(draw_tagged(tmp_path / "images", 12))
    images[0].image.write_bytes(b"no picture")
    images[1] = dataclasses.replace(images[1], tags=())
    images[2] = dataclasses.replace(images[2], tags=(0, 1))
    images[3] = dataclasses.replace(images[3], tags=(7,))
    spec = TrainSpec(LABELS, tuple(images), (), device="cpu", options=LINEAR, exclusive=True)
    reasons = {entry.task_id: entry.reason for entry in train(tmp_path, spec).left_out}
    assert set(reasons) == {0, 1, 2, 3}
    assert reasons[1] == "nobody chose a label for it"
    assert "2 labels" in reasons[2]
    with pytest.raises(ModelError, match="task 0"):
        train(tmp_path, dataclasses.replace(spec, train=tuple(images[:2])))
    with pytest.raises(BadInput):
        train(tmp_path, dataclasses.replace(spec, train=()))


def test_options_are_checked() -> None:
    learner = Classifier()
    learner.check_options("light", {"features": "/somewhere", "method": "linear"})
    for options in ({"method": "best"}, {"side": 8}, {"folds": 1}, {"least": 1.5}, {"nothing": 1}):
        with pytest.raises(BadInput, match=rf"options\.{next(iter(options))}"):
            learner.check_options("light", options)


def test_unknown_positive_label_and_missing_features_are_named(tmp_path: Path) -> None:
    spec = TrainSpec(LABELS, draw_tagged(tmp_path, 3), (), device="cpu", options={**LINEAR, "positive": "x"})
    with pytest.raises(BadInput, match=r"options\.positive"):
        train(tmp_path, spec)
    spec = dataclasses.replace(spec, options={**LINEAR, "features": str(tmp_path / "nothing")})
    with pytest.raises(BadInput, match=r"options\.features"):
        train(tmp_path, spec)


def test_damaged_versions_are_named(linear: tuple[Path, TrainSpec, TrainReport], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="holds no model"):
        Classifier().load(tmp_path)
    description = json.loads((linear[0] / "v1" / "learner.json").read_text())
    for change in ({"learner": "maskrcnn"}, {"features": {"kind": "magic"}}, {"side": "wide"}):
        (tmp_path / "learner.json").write_text(json.dumps(description | change))
        (tmp_path / "weights.safetensors").write_bytes(
            (linear[0] / "v1" / "weights.safetensors").read_bytes()
        )
        with pytest.raises(ModelError):
            Classifier().load(tmp_path)


@pytest.mark.parametrize("suffix", [".onnx", ".pt"])
def test_exports_answer_as_the_learner_does(
    linear: tuple[Path, TrainSpec, TrainReport], tmp_path: Path, suffix: str
) -> None:
    folder, spec, _ = linear
    learner = Classifier()
    out = learner.export(folder / "v1", tmp_path / f"model{suffix}")
    manifest = json.loads(out.with_suffix(".json").read_text())
    assert manifest["labels"] == list(LABELS)
    images = [read_image(example.image) for example in spec.test]
    pixels = np.stack([square(image, manifest["side"]) for image in images]).transpose(0, 3, 1, 2)
    if suffix == ".onnx":
        onnxruntime = pytest.importorskip("onnxruntime")
        session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
        p, embedding = session.run(None, {"pixels": pixels.astype(np.float32)})
    else:
        with torch.inference_mode():
            p, embedding = (t.numpy() for t in torch.jit.load(out)(torch.from_numpy(pixels).float()))
    wanted, vectors = learner.load(folder / "v1", device="cpu").probabilities(images)
    assert np.allclose(p, wanted, atol=1e-4)
    assert np.allclose(embedding, vectors, atol=5e-3)


def _of_two(images: tuple) -> tuple:
    return tuple(example for example in images if example.tags != (2,))
