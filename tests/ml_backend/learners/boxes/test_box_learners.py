"""The box learners as a whole: train, load, predict, continue with more labels, export."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ml_backend.errors import BadInput, ModelError
from ml_backend.examples import Example
from ml_backend.images.decode import read_image
from ml_backend.instances import Instances
from ml_backend.learners.base import TrainReport, TrainSpec
from ml_backend.learners.boxes.crops import BoxCrops, CropSettings
from ml_backend.learners.boxes.description import BoxNetwork
from ml_backend.learners.boxes.detector import covered_by
from ml_backend.learners.boxes.learner import BoxLearner, OneStage
from ml_backend.learners.evaluation import match_iou
from ml_backend.learners.maskrcnn.geometry import Geometry
from ml_backend.learners.registry import get_learner
from ml_backend.masks.rle import rle_box, rle_hw
from ml_backend.masks.shapes import box_rle

from ..pictures import save_truncated
from ..shapes import LABELS, draw_examples

FAST = {"continue_iterations": 3, "batch": 2, "size": 96, "channels": 16, "lr": 3e-3, "backbone": "small"}
FAST |= {"weights": "none", "threads": 1, "target_px": 20, "max_side": 128, "max_detections": 30}
ENOUGH = {"fasterrcnn": 70, "fcos": 130}
"""Iterations after which a learner finds most of the drawn shapes."""


@dataclass(frozen=True)
class Trained:
    learner: BoxLearner
    folder: Path
    spec: TrainSpec
    report: TrainReport

    def find(self, image: np.ndarray) -> Instances:
        return next(self.learner.load(self.folder, device="cpu").predict([image]))


def boxed(example: Example) -> Example:
    """Boxes drawn around the shapes."""
    return dataclasses.replace(example, rle=tuple(box_rle(rle_box(rle), rle_hw(rle)) for rle in example.rle))


def make(name: str) -> BoxLearner:
    learner = get_learner(name)
    assert isinstance(learner, BoxLearner)
    return learner


@pytest.fixture(scope="module", params=ENOUGH)
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    name = request.param
    folder = tmp_path_factory.mktemp(name)
    spec = TrainSpec(
        LABELS,
        tuple(boxed(e) for e in draw_examples(folder / "images", 12)),
        tuple(boxed(e) for e in draw_examples(folder / "images", 6, seed=1)),
        device="cpu",
        options=FAST | {"iterations": ENOUGH[name]},
    )
    shares: list[float] = []
    learner = make(name)
    report = learner.train(spec, folder / "v1", lambda share, line: shares.append(share))
    assert shares == sorted(shares)
    assert shares[-1] == 1
    return Trained(learner, folder / "v1", spec, report)


def test_learns_drawn_shapes_from_random_weights(trained: Trained) -> None:
    report = trained.report
    assert report.started_from == "random weights (published ones were not wanted)"
    assert report.history[-1][1] < report.history[0][1]
    value, low, high = report.evaluation.metrics["AP50"]
    assert low <= value <= high
    assert value > 0.5
    assert set(report.evaluation.metrics) >= {f"{m}/{label}" for m in ("AP", "AP50") for label in LABELS}
    assert {p.name for p in trained.folder.iterdir()} == {"weights.safetensors", "learner.json"}


def test_boxes_are_the_networks_own_and_masks_are_filled_boxes(trained: Trained) -> None:
    predictor = trained.learner.load(trained.folder, device="cpu")
    assert predictor.nbytes > 0
    images = [read_image(example.image) for example in trained.spec.test]
    images.append(np.zeros((40, 300, 3), np.uint8))
    found = list(predictor.predict(images))
    assert list(predictor.predict([])) == []
    assert sum(len(f) for f in found) > 6
    for image, one in zip(images, found, strict=True):
        hw = (image.shape[0], image.shape[1])
        n = len(one)
        assert n <= 30
        assert one.embedding.shape == (n, predictor.embedding_dim)
        assert np.isfinite(one.embedding).all()
        assert ((one.score > 0) & (one.score <= 1)).all()
        assert ((one.quality >= 0) & (one.quality <= 1)).all()
        assert (one.box_xyxy[:, :2] >= -1e-3).all()
        assert (one.box_xyxy[:, 2:] <= np.array(hw[::-1]) + 1e-3).all()
        assert list(one.rle) == [box_rle(box, hw) for box in one.box_xyxy]
    every = np.concatenate([one.box_xyxy for one in found])
    assert (np.abs(every - every.round()) > 0.01).any()  # fractions of pixels


def test_embeddings_tell_the_labels_apart(trained: Trained) -> None:
    rows, labels = [], []
    for example in trained.spec.test:
        one = trained.find(read_image(example.image))
        sure = one.take((match_iou(one, example) > 0.5) & (one.score > 0.3))
        rows.append(sure.embedding)
        labels.append(sure.label)
    embedding, label = np.concatenate(rows), np.concatenate(labels)
    assert {0, 1} <= set(label.tolist())
    distance = np.linalg.norm(embedding[:, None] - embedding[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    assert (label[distance.argmin(axis=1)] == label).mean() > 0.8


def test_a_loaded_version_finds_what_the_trained_one_found(trained: Trained) -> None:
    image = read_image(trained.spec.test[0].image)
    first, second = trained.find(image), trained.find(image)
    assert np.array_equal(first.box_xyxy, second.box_xyxy)
    predictor = trained.learner.load(trained.folder, device="cpu")
    images = [read_image(example.image) for example in trained.spec.test]
    together = list(predictor.predict(images))
    for one, image in zip(together, images, strict=True):
        alone = next(predictor.predict([image]))
        assert np.array_equal(one.label, alone.label)
        assert np.allclose(one.box_xyxy, alone.box_xyxy, atol=1e-2)
        assert np.allclose(one.score, alone.score, atol=1e-4)


def test_limits_of_detections_are_options(trained: Trained, tmp_path: Path) -> None:
    few = dict(FAST) | {"iterations": 1, "max_detections": 2, "score_threshold": 0.0, "nms": 1.0}
    spec = dataclasses.replace(trained.spec, options=few | {"continue_iterations": 1, "continue_lr": 1e-9})
    trained.learner.train(dataclasses.replace(spec, start=trained.folder), tmp_path / "v", _quiet)
    image = read_image(spec.test[0].image)
    assert len(next(trained.learner.load(tmp_path / "v", device="cpu").predict([image]))) == 2
    with pytest.raises(BadInput, match="at most 1"):
        trained.learner.check_options("light", {"score_threshold": 1.5})
    with pytest.raises(BadInput, match="no preset"):
        trained.learner.check_options("heavy", {})


def test_continues_with_another_list_of_labels(trained: Trained, tmp_path: Path) -> None:
    def turned(example: Example) -> Example:
        return dataclasses.replace(example, label=tuple(2 - label for label in example.label))

    again = dataclasses.replace(
        trained.spec,
        labels=("star", "square", "disc"),
        train=tuple(turned(e) for e in trained.spec.test),
        test=tuple(turned(e) for e in trained.spec.test),
        start=trained.folder,
        options=FAST | {"continue_lr": 1e-7},
    )
    report = trained.learner.train(again, tmp_path / "v2", _quiet)
    assert report.started_from == "version v1 (new labels: star)"
    assert report.iterations == 3
    old, new = trained.report.evaluation.metrics, report.evaluation.metrics
    assert new["AP50/disc"][0] > old["AP50/disc"][0] - 0.15
    assert new["AP50/square"][0] > old["AP50/square"][0] - 0.15
    assert "AP/star" not in new


def test_the_export_equals_the_predictor(trained: Trained, tmp_path: Path) -> None:
    written = trained.learner.export(trained.folder, tmp_path / "model.pt")
    assert json.loads(written.with_suffix(".json").read_text())["labels"] == list(LABELS)
    # a picture that needs no resize: then both prepare the same pixels
    scale = json.loads((trained.folder / "learner.json").read_text())["geometry"]["scale"]
    image = read_image(trained.spec.test[0].image)
    result = torch.jit.load(str(written))(torch.from_numpy(image.copy()).permute(2, 0, 1))
    ours = trained.find(image)
    sure = result["scores"].numpy() > 0.3
    theirs = result["boxes"].numpy()[sure]
    assert len(theirs) == (ours.score > 0.3).sum() > 0
    tolerance_px = 1e-2 if scale == 1 else 1.0  # torch and OpenCV resize differently
    assert np.abs(theirs - ours.box_xyxy[ours.score > 0.3]).max() < tolerance_px
    tolerance = 1e-3 if scale == 1 else 0.1
    for name, column in (("scores", ours.score), ("quality", ours.quality)):
        assert np.abs(result[name].numpy()[sure] - column[ours.score > 0.3]).max() < tolerance
    assert np.array_equal(result["labels"].numpy()[sure], ours.label[ours.score > 0.3])


def test_bad_examples_do_not_stop_a_training(trained: Trained, tmp_path: Path) -> None:
    good = trained.spec.train[0]
    pixels = read_image(good.image)
    empty = box_rle((0, 0, 1, 1), (96, 128)) | {"counts": "`P2"}
    spec = dataclasses.replace(
        trained.spec,
        labels=(*LABELS, "never"),  # a label without an example
        train=(
            good,
            Example(101, save_truncated(tmp_path / "half.png", pixels), good.label, good.rle),
            Example(102, good.image, (0,), (box_rle((0, 0, 5, 5), (50, 50)),)),
            # no area; hardly any; not trusted; undecided
            Example(
                103,
                good.image,
                (0, 0, 1),
                (empty, box_rle((3, 3, 4, 4), (96, 128)), good.rle[0]),
                ignore=(good.rle[-1],),
                weight=(1.0, 1.0, 0.2),
            ),
            Example(104, good.image, (), ()),
        ),
        options=FAST | {"iterations": 4},
    )
    report = trained.learner.train(spec, tmp_path / "v", _quiet)
    assert {entry.task_id for entry in report.left_out} == {101, 102}
    assert trained.learner.load(tmp_path / "v", device="cpu").labels == (*LABELS, "never")
    single = dataclasses.replace(spec, train=(good,), test=(), labels=LABELS)
    assert trained.learner.train(single, tmp_path / "w", _quiet).evaluation.n_images == 0
    with pytest.raises(BadInput, match="no instance"):
        trained.learner.train(dataclasses.replace(spec, train=spec.train[4:]), tmp_path / "x", _quiet)


def test_training_again_gives_the_same_model(trained: Trained, tmp_path: Path) -> None:
    spec = dataclasses.replace(trained.spec, test=(), options=FAST | {"iterations": 2})
    for name in ("a", "b"):
        trained.learner.train(spec, tmp_path / name, _quiet)
    first, second = ((tmp_path / name / "weights.safetensors").read_bytes() for name in ("a", "b"))
    assert first == second


def test_refuses_what_cannot_be_loaded(trained: Trained, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="holds no model"):
        trained.learner.load(tmp_path)
    for name in ("weights.safetensors", "learner.json"):
        (tmp_path / name).write_bytes((trained.folder / name).read_bytes())
    described = json.loads((trained.folder / "learner.json").read_text())
    (tmp_path / "learner.json").write_text(json.dumps(described | {"labels": ["a", "b", "c"]}))
    with pytest.raises(ModelError, match="do not fit"):
        trained.learner.load(tmp_path, device="cpu")
    (tmp_path / "learner.json").write_text(json.dumps({"learner": trained.learner.name}))
    with pytest.raises(ModelError, match="damaged"):
        trained.learner.load(tmp_path, device="cpu")
    (tmp_path / "learner.json").write_text(json.dumps({"learner": "other"}))
    with pytest.raises(ModelError, match="learner 'other'"):
        trained.learner.load(tmp_path, device="cpu")


def _quiet(share: float, line: str) -> None:
    """Nobody listens."""


def test_areas_to_ignore_are_neither_object_nor_background() -> None:
    areas = torch.tensor([[10.0, 10.0, 30.0, 40.0]])
    boxes = torch.tensor([[12.0, 12.0, 20.0, 20.0], [0.0, 0.0, 22.0, 60.0], [50.0, 50.0, 60.0, 60.0]])
    assert covered_by(boxes, areas).tolist() == [True, False, False]
    assert covered_by(boxes, areas[:0]).tolist() == [False, False, False]
    torch.manual_seed(0)
    network = BoxNetwork(("a",), "small", 16, Geometry(1.0, ((16.0,),), (1.0,), 20), "image", 0.05, 0.5)
    model = OneStage().build(network).train()
    image = [torch.rand(3, 64, 64)]

    def loss(ignore: list[list[float]]) -> float:
        target = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
        target |= {"weights": torch.zeros(0), "ignore": torch.tensor(ignore).reshape(-1, 4)}
        return model.losses(image, [target])["classes"].item()

    nothing, half, whole = loss([]), loss([[0, 0, 31.9, 64]]), loss([[0, 0, 64, 64]])
    assert 0 < half < nothing
    assert half == pytest.approx(nothing / 2, rel=0.3)
    assert whole == 0


def test_a_box_cut_by_the_crop_teaches_nothing_where_little_of_it_shows(tmp_path: Path) -> None:
    (example,) = draw_examples(tmp_path, 1)
    box = box_rle((0, 0, 100, 96), (96, 128))
    crops = BoxCrops(
        [dataclasses.replace(example, label=(0,), rle=(box,))],
        CropSettings(32, 1.0, 1600, "image", True),
        seed=0,
        length=20,
    )
    samples = [crops[i][1] for i in range(20)]
    assert sum(len(target["boxes"]) for target in samples) == 0
    assert sum(len(target["ignore"]) for target in samples) > 10
    same = crops[3][1]["ignore"]
    assert torch.equal(same, samples[3]["ignore"])


def test_crops_of_a_long_picture_are_scaled_as_the_network_scales_it(tmp_path: Path) -> None:
    path = tmp_path / "long.png"
    Image.new("RGB", (20000, 50), (90, 120, 150)).save(path)
    hw = (50, 20000)
    example = Example(1, path, (0,), (box_rle((4000, 0, 8000, 50), hw),))
    crops = BoxCrops([example], CropSettings(64, 1.0, 1000, "image", False), seed=0, length=4)
    targets = [crops[i][1] for i in range(4)]
    shown = torch.cat([target[name] for target in targets for name in ("boxes", "ignore")])
    assert len(shown)
    assert (shown[:, 3] - shown[:, 1]).max() < 4, "the picture is two network pixels high"
