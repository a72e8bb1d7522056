"""The learner as a whole: train, load, predict, continue with more labels, export."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from ml_backend.devices import resolve_device
from ml_backend.errors import BadInput, ModelError
from ml_backend.images.decode import read_image
from ml_backend.instances import Instances
from ml_backend.learners.base import TrainReport, TrainSpec
from ml_backend.learners.evaluation import match_iou
from ml_backend.learners.maskrcnn.learner import MaskRcnn
from ml_backend.learners.registry import LEARNERS, get_learner

from .shapes import LABELS, draw_examples

FAST = {"iterations": 80, "continue_iterations": 4, "batch": 2, "size": 128, "channels": 32, "lr": 2e-3}
FAST |= {"weights": "none", "threads": 1, "target_px": 20, "max_side": 128, "max_detections": 30}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainSpec, TrainReport, list[str]]:
    folder = tmp_path_factory.mktemp("maskrcnn")
    spec = TrainSpec(
        LABELS,
        tuple(draw_examples(folder / "images", 12)),
        tuple(draw_examples(folder / "images", 4, seed=1)),
        device="cpu",
        options=FAST,
    )
    lines: list[str] = []
    shares: list[float] = []

    def note(share: float, line: str) -> None:
        shares.append(share)
        lines.append(line)

    report = MaskRcnn().train(spec, folder / "v1", note)
    assert shares == sorted(shares)
    assert shares[-1] == 1
    return folder / "v1", spec, report, lines


def same(a: Instances, b: Instances) -> bool:
    return (
        np.array_equal(a.label, b.label)
        and np.allclose(a.box_xyxy, b.box_xyxy, atol=1e-3)
        and np.allclose(a.score, b.score, atol=1e-5)
        and np.allclose(a.embedding, b.embedding, atol=1e-4)
        and list(a.rle) == list(b.rle)
    )


def test_learns_drawn_shapes_from_random_weights(
    trained: tuple[Path, TrainSpec, TrainReport, list[str]],
) -> None:
    folder, spec, report, lines = trained
    assert report.started_from == "random weights (published ones were not wanted)"
    assert "random weights" in lines[0]
    assert report.iterations == 80
    assert report.history[-1][1] < report.history[0][1]
    assert report.evaluation.n_images == 4
    value, low, high = report.evaluation.metrics["AP50"]
    assert low <= value <= high
    assert value > 0.5
    assert {p.name for p in folder.iterdir()} == {"weights.safetensors", "learner.json"}
    described = json.loads((folder / "learner.json").read_text())
    assert described["labels"] == list(LABELS)
    found = next(MaskRcnn().load(folder, device="cpu").predict([read_image(spec.test[0].image)]))
    sure = found.take(found.score > 0.5)
    assert len(sure) >= 2
    assert np.median(match_iou(sure, spec.test[0])) > 0.6


def test_predictions_are_well_formed(trained: tuple[Path, TrainSpec, TrainReport, list[str]]) -> None:
    folder, spec, _, _ = trained
    predictor = MaskRcnn().load(folder, device="cpu")
    images = [read_image(example.image) for example in spec.test]
    images.append(np.zeros((40, 300, 3), np.uint8))
    found = list(predictor.predict(images))
    assert len(found) == len(images)
    assert list(predictor.predict([])) == []
    for image, instances in zip(images, found, strict=True):
        n = len(instances)
        assert n <= 30
        assert instances.embedding.shape == (n, predictor.embedding_dim)
        assert instances.box_xyxy.dtype == np.float32
        assert ((instances.label >= 0) & (instances.label < 2)).all()
        assert ((instances.score > 0) & (instances.score <= 1)).all()
        assert ((instances.quality >= 0) & (instances.quality <= 1)).all()
        assert np.isfinite(instances.embedding).all()
        assert (instances.box_xyxy[:, 2:] >= instances.box_xyxy[:, :2]).all()
        assert (instances.box_xyxy.max(initial=0) <= max(image.shape)).all()
        for rle, box in zip(instances.rle, instances.box_xyxy, strict=True):
            assert rle["size"] == list(image.shape[:2])
            rows, columns = np.nonzero(coco_mask.decode(dict(rle)))
            if len(rows):
                assert box[0] - 3 <= columns.min() <= columns.max() <= box[2] + 3
                assert box[1] - 3 <= rows.min() <= rows.max() <= box[3] + 3


def test_batch_size_changes_nothing(trained: tuple[Path, TrainSpec, TrainReport, list[str]]) -> None:
    folder, spec, _, _ = trained
    predictor = MaskRcnn().load(folder, device="cpu")
    images = [read_image(example.image) for example in spec.test]
    together = list(predictor.predict(images))
    alone = [next(predictor.predict([image])) for image in images]
    assert all(same(a, b) for a, b in zip(together, alone, strict=True))


def test_threads_get_their_own_answers(trained: tuple[Path, TrainSpec, TrainReport, list[str]]) -> None:
    folder, spec, _, _ = trained
    predictor = MaskRcnn().load(folder, device="cpu")
    images = [read_image(example.image) for example in spec.test]
    expected = [next(predictor.predict([image])) for image in images]
    wrong: list[int] = []

    def ask(which: int) -> None:
        for _ in range(3):
            if not same(next(predictor.predict([images[which]])), expected[which]):
                wrong.append(which)

    threads = [threading.Thread(target=ask, args=(i % len(images),)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_running_out_of_memory_halves_the_batch_then_leaves_the_gpu(
    trained: tuple[Path, TrainSpec, TrainReport, list[str]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder, spec, _, _ = trained
    predictor = MaskRcnn().load(folder, device="cpu")
    images = [read_image(example.image) for example in spec.test]
    expected = [next(predictor.predict([image])) for image in images]
    real = predictor._batch_of
    failures = iter([True, True, True])
    sizes: list[int] = []

    def sometimes(part: list[np.ndarray]) -> list[Instances]:
        sizes.append(len(part))
        if next(failures, False):
            raise torch.cuda.OutOfMemoryError("pretended")
        return real(part)

    monkeypatch.setattr(predictor, "_batch_of", sometimes)
    found = list(predictor.predict(images))
    assert sizes[:4] == [4, 2, 1, 1]
    assert all(same(a, b) for a, b in zip(found, expected, strict=True))
    assert "batches of 2" in caplog.text
    assert "on the CPU" in caplog.text
    monkeypatch.setattr(predictor.fallback, "_clock", lambda: float("inf"))
    assert same(next(predictor.predict(images[:1])), expected[0])
    assert predictor.fallback.notice == ""  # after a pause the device was tried again


def test_training_again_gives_the_same_model(tmp_path: Path) -> None:
    """A killed training is simply run again."""
    spec = TrainSpec(
        LABELS, tuple(draw_examples(tmp_path, 3)), (), device="cpu", options=FAST | {"iterations": 3}
    )
    for name in ("a", "b"):
        MaskRcnn().train(spec, tmp_path / name, lambda share, line: None)
    first, second = ((tmp_path / name / "weights.safetensors").read_bytes() for name in ("a", "b"))
    assert first == second


def test_continues_from_a_version_with_another_list_of_labels(
    trained: tuple[Path, TrainSpec, TrainReport, list[str]], tmp_path: Path
) -> None:
    folder, spec, _, _ = trained
    relabelled = tuple(
        type(e)(e.task_id, e.image, tuple(2 - label for label in e.label), e.rle) for e in spec.test
    )
    again = TrainSpec(
        ("star", "square", "disc"),
        relabelled,
        relabelled,
        device="cpu",
        start=folder,
        options=FAST | {"continue_lr": 1e-6},
    )
    report = MaskRcnn().train(again, tmp_path / "v2", lambda share, line: None)
    assert report.started_from == "version v1 (new labels: star)"
    assert report.iterations == 4
    before = next(MaskRcnn().load(folder, device="cpu").predict([read_image(spec.test[0].image)]))
    after = next(MaskRcnn().load(tmp_path / "v2", device="cpu").predict([read_image(spec.test[0].image)]))
    old, new = before.take(before.score > 0.5), after.take(after.score > 0.45)
    # labels 0 disc, 1 square became 2 and 1: what was known is still known under its new number
    assert len(old) >= 2
    assert set(2 - old.label) <= set(new.label.tolist())
    assert report.evaluation.metrics["AP50"][0] > 0.2
    assert "AP/star" not in report.evaluation.metrics


def test_export_runs_without_our_code(
    trained: tuple[Path, TrainSpec, TrainReport, list[str]], tmp_path: Path
) -> None:
    folder, spec, _, _ = trained
    written = MaskRcnn().export(folder, tmp_path / "model.pt")
    manifest = json.loads(written.with_suffix(".json").read_text())
    assert manifest["labels"] == list(LABELS)
    image = read_image(spec.test[0].image)
    result = torch.jit.load(str(written))(torch.from_numpy(image.copy()).permute(2, 0, 1))
    ours = next(MaskRcnn().load(folder, device="cpu").predict([image]))
    sure = result["scores"].numpy() > 0.5
    assert sure.sum() == (ours.score > 0.5).sum()
    assert result["masks"].shape[1:] == image.shape[:2]
    theirs = coco_mask.encode(
        np.asfortranarray(result["masks"].numpy()[sure].transpose(1, 2, 0).astype(np.uint8))
    )
    iou = coco_mask.iou(theirs, [dict(r) for r in ours.take(ours.score > 0.5).rle], [0] * int(sure.sum()))
    assert iou.max(axis=1).min() > 0.8


def test_refuses_what_cannot_be_loaded(
    trained: tuple[Path, TrainSpec, TrainReport, list[str]], tmp_path: Path
) -> None:
    folder = trained[0]
    with pytest.raises(ModelError, match="holds no model"):
        MaskRcnn().load(tmp_path)
    for name in ("weights.safetensors", "learner.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    (tmp_path / "weights.safetensors").write_bytes(b"no weights at all")
    with pytest.raises(ModelError, match="cannot be read as weights"):
        MaskRcnn().load(tmp_path, device="cpu")
    described = json.loads((folder / "learner.json").read_text())
    (tmp_path / "weights.safetensors").write_bytes((folder / "weights.safetensors").read_bytes())
    (tmp_path / "learner.json").write_text(json.dumps(described | {"labels": ["a", "b", "c"]}))
    with pytest.raises(ModelError, match="do not fit"):
        MaskRcnn().load(tmp_path, device="cpu")
    (tmp_path / "learner.json").write_text(json.dumps({"learner": "maskrcnn"}))
    with pytest.raises(ModelError, match="damaged"):
        MaskRcnn().load(tmp_path, device="cpu")
    (tmp_path / "learner.json").write_text(json.dumps({"learner": "other"}))
    with pytest.raises(ModelError, match="learner 'other'"):
        MaskRcnn().load(tmp_path, device="cpu")


def test_refuses_an_empty_training_set(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no instance"):
        MaskRcnn().train(TrainSpec(LABELS, (), ()), tmp_path, lambda share, line: None)


def test_devices_and_learners_by_name() -> None:
    assert resolve_device("cpu") == "cpu"
    with pytest.raises(ModelError, match="unknown device"):
        resolve_device("abacus")
    if not torch.cuda.is_available():
        with pytest.raises(ModelError, match="no CUDA"):
            resolve_device("cuda")
    assert get_learner("maskrcnn").name == "maskrcnn"
    assert {"maskrcnn", "detectron2", "several"} <= set(LEARNERS)
    with pytest.raises(BadInput, match="maskrcnn"):
        get_learner("none")
