"""The learner of one mask per label: train, load, predict, continue, export; bad data."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ml_backend.errors import BadInput, ModelError
from ml_backend.examples import Example
from ml_backend.images.decode import read_image
from ml_backend.learners.base import TrainReport, TrainSpec
from ml_backend.learners.registry import get_learner
from ml_backend.learners.segmentation.learner import DeepLabV3, hold_out
from ml_backend.masks.components import components
from ml_backend.masks.rle import decode_rle, empty_rle, encode_mask

from .pictures import save_truncated
from .shapes import LABELS, draw_examples

FAST = {"iterations": 40, "continue_iterations": 3, "batch": 4, "size": 64, "weights": "none", "threads": 1}
FAST |= {"target_px": 20, "max_side": 96, "lr": 3e-3, "held_out": 0.2}
Trained = tuple[Path, TrainSpec, TrainReport]


def spec_of(train: tuple[Example, ...], test: tuple[Example, ...] = (), **options: object) -> TrainSpec:
    return TrainSpec(LABELS, train, test, device="cpu", options={**FAST, **options})


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("deeplabv3")
    spec = spec_of(
        tuple(draw_examples(folder / "images", 12)), tuple(draw_examples(folder / "images", 4, seed=1))
    )
    shares: list[float] = []
    report = DeepLabV3().train(spec, folder / "v1", lambda share, line: shares.append(share))
    assert shares == sorted(shares)
    assert shares[-1] == 1
    return folder / "v1", spec, report


def test_learns_drawn_shapes_from_random_weights(trained: Trained) -> None:
    folder, _, report = trained
    assert report.started_from == "random weights (published ones were not wanted)"
    assert report.iterations == 40
    assert report.history[-1][1] < report.history[0][1]
    metrics = report.evaluation.metrics
    value, low, high = metrics["IoU"]
    assert low <= value <= high
    assert value > 0.35
    assert metrics["IoU"][0] == pytest.approx((metrics["IoU/disc"][0] + metrics["IoU/square"][0]) / 2)
    assert metrics["Dice/disc"][0] > metrics["IoU/disc"][0]
    assert {p.name for p in folder.iterdir()} == {"weights.safetensors", "learner.json"}
    described = json.loads((folder / "learner.json").read_text())
    assert described["labels"] == list(LABELS)
    assert all(0 < cut < 1 for cut in described["threshold"])
    assert described["calibration"][0] != [1.0, 0.0]  # two pictures were held out


def test_one_row_per_label_and_well_formed(trained: Trained) -> None:
    folder, spec, _ = trained
    predictor = DeepLabV3().load(folder, device="cpu")
    images = [read_image(example.image) for example in spec.test]
    images.append(np.zeros((40, 300, 3), np.uint8))
    images.append(np.zeros((1, 1, 3), np.uint8))
    found = list(predictor.predict(images))
    assert list(predictor.predict([])) == []
    for image, rows in zip(images, found, strict=True):
        assert len(set(rows.label.tolist())) == len(rows) <= 2
        assert rows.embedding.shape == (len(rows), predictor.embedding_dim)
        assert predictor.embedding_dim <= 128
        assert rows.feature.shape == (128,)
        assert {"entropy", "margin", "boundary"} <= rows.doubts.keys()
        assert all(0 <= value <= 1 for value in rows.doubts.values())
        for column in (rows.score, rows.quality):
            assert ((column >= 0) & (column <= 1)).all()
        maps = predictor.maps(image)
        for label, rle, box in zip(rows.label, rows.rle, rows.box_xyxy, strict=True):
            mask = decode_rle(rle)
            assert np.array_equal(mask, maps[label] > predictor.config.threshold[label])
            y, x = np.nonzero(mask)
            assert box.tolist() == [x.min(), y.min(), x.max() + 1, y.max() + 1]
    alone = [next(predictor.predict([image])) for image in images]
    for a, b in zip(found, alone, strict=True):
        assert np.allclose(a.score, b.score, atol=1e-4)


def test_components_are_the_pieces_of_the_mask(trained: Trained) -> None:
    folder, spec, _ = trained
    predictor = DeepLabV3().load(folder, device="cpu")
    image = read_image(spec.test[0].image)
    whole = next(predictor.predict([image]))
    predictor.config = dataclasses.replace(predictor.config, unit="component")
    parts = next(predictor.predict([image]))
    expected = [rle for mask in whole.rle for rle in components(mask)]
    assert list(parts.rle) == expected
    assert len(parts) > len(whole)
    assert np.ptp(parts.embedding, axis=0).max() > 0


def test_goes_on_from_a_version_with_a_new_label(trained: Trained, tmp_path: Path) -> None:
    folder, spec, _ = trained
    first = dataclasses.replace(
        spec, labels=("leaf", *LABELS), start=folder, test=(),
        train=tuple(dataclasses.replace(e, label=tuple(k + 1 for k in e.label)) for e in spec.train[:4]),
    )  # fmt: skip
    report = DeepLabV3().train(first, tmp_path / "v2", lambda share, line: None)
    assert report.started_from == "version v1 (new labels: leaf)"
    assert report.iterations == 3
    assert report.evaluation.metrics == {}
    old, new = (DeepLabV3()._read(at)[1].last.weight for at in (folder, tmp_path / "v2"))
    assert torch.allclose(old, new[1:], atol=0.05)
    assert new[0].abs().max() < 0.1


def test_a_killed_training_goes_on_and_time_may_be_limited(trained: Trained, tmp_path: Path) -> None:
    _, spec, _ = trained
    spec = dataclasses.replace(spec_of(spec.train, iterations=3, batch=2), resume=tmp_path / "resume")
    first = DeepLabV3().train(spec, tmp_path / "v1", lambda share, line: None)
    again = DeepLabV3().train(spec, tmp_path / "v2", lambda share, line: None)
    assert again.history == first.history
    one, two = (DeepLabV3()._read(at)[1].state_dict() for at in (tmp_path / "v1", tmp_path / "v2"))
    assert all(torch.equal(one[name], two[name]) for name in one)
    short = dataclasses.replace(spec, resume=None, seconds=1e-3, options={**spec.options, "iterations": 500})
    assert DeepLabV3().train(short, tmp_path / "v3", lambda share, line: None).iterations < 10


def test_an_export_gives_the_same_maps(trained: Trained, tmp_path: Path) -> None:
    folder, spec, _ = trained
    file = DeepLabV3().export(folder, tmp_path / "model.pt")
    manifest = json.loads(file.with_suffix(".json").read_text())
    assert manifest["labels"] == list(LABELS)
    script = torch.jit.load(str(file))
    predictor = DeepLabV3().load(folder, device="cpu")
    for image in [read_image(spec.test[0].image), np.full((300, 170, 3), 90, np.uint8)]:
        with torch.inference_mode():
            out = script(torch.from_numpy(image).permute(2, 0, 1))
        maps = predictor.maps(image)
        assert np.abs(out["probabilities"].numpy() - maps).max() < 1e-4
        cut = np.array(predictor.config.threshold, np.float32)[:, None, None]
        sure = np.abs(maps - cut) > 1e-4
        assert np.array_equal(out["masks"].numpy()[sure], (maps > cut)[sure])


def test_bad_data_is_left_out_and_the_rest_is_learnt(tmp_path: Path) -> None:
    """A truncated picture, an empty mask, pictures without masks, a label nobody used."""
    good = draw_examples(tmp_path / "images", 4)
    noise = np.random.default_rng(0).integers(0, 255, (96, 128, 3), np.uint8)
    cut = Example(90, save_truncated(tmp_path / "cut.png", noise), (0,), (empty_rle((96, 128)),))
    Image.fromarray(noise).save(tmp_path / "noise.png")
    nothing = Example(91, tmp_path / "noise.png", (), ())
    blank = Example(92, tmp_path / "noise.png", (0,), (empty_rle((96, 128)),))
    wrong = Example(93, tmp_path / "noise.png", (), (), ignore=(empty_rle((5, 5)),))
    train = (*good, cut, nothing, blank, wrong)
    spec = dataclasses.replace(spec_of(train, (nothing,), iterations=2), labels=(*LABELS, "unused"))
    report = DeepLabV3().train(spec, tmp_path / "v1", lambda share, line: None)
    assert [entry.task_id for entry in report.left_out] == [90, 93]
    assert report.evaluation.metrics == {}
    assert report.evaluation.n_images == 1
    predictor = DeepLabV3().load(tmp_path / "v1", device="cpu")
    assert predictor.labels == (*LABELS, "unused")
    next(predictor.predict([noise]))


def test_no_mask_at_all_and_files_that_do_not_fit(trained: Trained, tmp_path: Path) -> None:
    _, spec, _ = trained
    empty = tuple(dataclasses.replace(e, label=(), rle=()) for e in spec.train)
    with pytest.raises(BadInput, match="no instance"):
        DeepLabV3().train(spec_of(empty), tmp_path / "v", lambda share, line: None)
    with pytest.raises(ModelError, match="holds no model"):
        DeepLabV3().load(tmp_path)
    torch.save({"x": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(ModelError, match=r"nothing in other\.pth"):
        DeepLabV3().train(
            spec_of(spec.train, weights=str(tmp_path / "other.pth")), tmp_path / "v", lambda share, line: None
        )


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"batch": 1}, "options.batch"),
        ({"size": 100}, "options.size"),
        ({"threshold": "1.5"}, "options.threshold"),
        ({"threshold": "high"}, "options.threshold"),
        ({"unit": "box"}, "options.unit"),
        ({"held_out": 0.9}, "options.held_out"),
        ({"zoom": 0.5}, "options.zoom"),
    ],
)
def test_options_are_checked(options: dict[str, object], field: str) -> None:
    learner = get_learner("deeplabv3")
    with pytest.raises(BadInput) as caught:
        learner.check_options("light", options)
    assert caught.value.field == field
    learner.check_options("full", {"threshold": "0.3", "unit": "component"})


def test_few_pictures_are_all_used() -> None:
    examples = tuple(Example(i, Path("x"), (), ()) for i in range(10))
    assert hold_out(examples[:7], 0.2, 0) == (examples[:7], ())
    train, held_out = hold_out(examples, 0.2, 0)
    assert len(train) == 8
    assert {e.task_id for e in train + held_out} == set(range(10))
    assert encode_mask(np.zeros((2, 2), bool)) == empty_rle((2, 2))
