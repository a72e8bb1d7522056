"""Detectors that were trained elsewhere, as predictors of a project without any finished task."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.models import get_model
from torchvision.ops import box_iou

from ml_backend.errors import BadInput, ModelError
from ml_backend.images.decode import read_image
from ml_backend.instances import Instances
from ml_backend.learners.base import TrainReport, TrainSpec
from ml_backend.learners.boxes.description import BoxNetwork
from ml_backend.learners.boxes.learner import OneStage
from ml_backend.learners.cold_start.box_masks import box_masks
from ml_backend.learners.cold_start.learner import ZeroShot
from ml_backend.learners.cold_start.predictor import ColdStartPredictor
from ml_backend.learners.cold_start.settings import cold_start_settings
from ml_backend.learners.maskrcnn.geometry import Geometry
from ml_backend.learners.registry import get_learner
from ml_backend.learners.weights import save_weights
from ml_backend.masks.rle import decode_rle, rle_box
from ml_backend.masks.shapes import box_rle

from ..shapes import draw_examples
from . import tiny_models

LABELS = ("disc", "square")
ALL = 1e-6
"""A threshold that random weights pass."""
IMAGE = (np.random.default_rng(0).random((70, 110, 3)) * 255).astype(np.uint8)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    root = tmp_path_factory.mktemp("models")

    def make(name: str, *args: Any) -> Path:
        folder = root / name
        if not folder.exists():
            getattr(tiny_models, name)(folder, *args)
        return folder

    return make


def start(out: Path, options: dict[str, Any], labels: tuple[str, ...] = LABELS, **fields: Any) -> TrainReport:
    learner = get_learner("zero-shot")
    learner.check_options("light", options)
    spec = TrainSpec(labels, (), fields.pop("test", ()), device="cpu", options=options, **fields)
    return learner.train(spec, out, lambda share, line: None)


def predictor(out: Path) -> ColdStartPredictor:
    return ZeroShot().load(out, device="cpu")


def own_version(folder: Path, labels: tuple[str, ...]) -> Path:
    """A version of a box learner with random weights that is not shy."""
    torch.manual_seed(1)
    network = BoxNetwork(labels, "small", 16, Geometry(1.0, ((20.0,),), (1.0,), 40), "image", 0.0, 0.9)
    model = OneStage().build(network)
    folder.mkdir()
    save_weights(model.state_dict(), folder / "weights.safetensors")
    (folder / "learner.json").write_text(json.dumps({"learner": "fcos", **network.to_json()}))
    return folder


def well_formed(found: Instances, labels: int) -> None:
    assert len(found)
    assert ((found.label >= 0) & (found.label < labels)).all()
    assert (found.box_xyxy >= 0).all()
    assert (found.box_xyxy[:, 2:] <= [IMAGE.shape[1], IMAGE.shape[0]]).all()
    assert ((found.score > 0) & (found.score <= 1)).all()
    assert ((found.quality >= 0) & (found.quality <= 1)).all()
    assert found.embedding.shape == (len(found), 128)
    assert np.isfinite(found.embedding).all()
    assert np.ptp(found.embedding, axis=0).max() > 0 or len(found) == 1


def test_a_version_speaks_through_a_class_map(tmp_path: Path) -> None:
    theirs = ("red", "white", "dust", "other")
    version = own_version(tmp_path / "v7", theirs)
    mapping = {"map": {"red": "disc", "white": "disc"}, "drop": ["dust"], "default": "square"}
    options = {"detector": str(version), "class_map": mapping, "nms": 1.0, "score_threshold": ALL}
    report = start(tmp_path / "cold", options)
    assert report.started_from == "no training: version v7 of learner fcos"
    assert report.iterations == 0
    assert report.evaluation.n_images == 0
    found = next(predictor(tmp_path / "cold").predict([IMAGE]))
    before = next(OneStage().load(version, device="cpu").predict([IMAGE]))
    kept = before.take(before.label != 2)
    assert set(before.label.tolist()) == {0, 1, 2, 3}
    well_formed(found, 2)
    assert np.array_equal(np.bincount(found.label), [(kept.label < 2).sum(), (kept.label == 3).sum()])
    assert np.allclose(np.sort(found.quality), np.sort(kept.quality))
    assert list(found.rle) == [box_rle(box, IMAGE.shape[:2]) for box in found.box_xyxy.tolist()]


def test_nobody_needs_the_working_directory_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own_version(tmp_path / "v1", LABELS)
    monkeypatch.chdir(tmp_path)
    start(tmp_path / "cold", {"detector": "v1", "score_threshold": ALL})
    monkeypatch.chdir("/")
    assert len(next(predictor(tmp_path / "cold").predict([IMAGE])))
    shutil.rmtree(tmp_path / "v1")
    with pytest.raises(ModelError, match="v1"):
        predictor(tmp_path / "cold")


def test_limits_are_options(tmp_path: Path) -> None:
    version = own_version(tmp_path / "v1", LABELS)

    def found(name: str, **options: Any) -> Instances:
        start(tmp_path / name, {"detector": str(version), **options})
        return next(predictor(tmp_path / name).predict([IMAGE]))

    every = found("all", score_threshold=ALL, nms=1.0)
    few = found("few", score_threshold=ALL, nms=1.0, max_detections=3)
    assert np.allclose(np.sort(every.score)[-3:], np.sort(few.score))
    half = float(np.median(every.score))
    assert len(found("sure", score_threshold=half, nms=1.0)) == (every.score >= np.float32(half)).sum()
    apart = found("apart", score_threshold=ALL, nms=0.1)
    assert len(apart) < len(every)
    for label in range(2):
        box = torch.from_numpy(apart.box_xyxy[apart.label == label])
        assert (box_iou(box, box).fill_diagonal_(0) <= 0.1).all()
    assert len(found("shy")) == 0  # the usual threshold


def test_the_test_split_is_measured(tmp_path: Path) -> None:
    version = own_version(tmp_path / "v1", LABELS)
    test = tuple(draw_examples(tmp_path / "images", 2))
    report = start(tmp_path / "cold", {"detector": str(version), "score_threshold": ALL}, test=test)
    assert report.evaluation.n_images == 2
    assert {"AP", "AP50", "AP50/disc", "AP/square"} <= set(report.evaluation.metrics)


def test_a_detector_of_torchvision_with_weights_of_a_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    name = "ssdlite320_mobilenet_v3_large"
    model = get_model(name, weights=None, weights_backbone=None, num_classes=4).eval()
    torch.save(model.state_dict(), tmp_path / "own.pth")
    options = {
        "detector": f"torchvision/{name}",
        "weights": str(tmp_path / "own.pth"),
        "classes": "round, flat, rest",
        "class_map": {"map": {"round": "disc", "flat": "square"}},
        "score_threshold": ALL,
        "nms": 1,
        "max_detections": 20,
    }
    report = start(tmp_path / "cold", options)
    assert "own.pth" in report.started_from
    found = next(predictor(tmp_path / "cold").predict([IMAGE]))
    well_formed(found, 2)
    with torch.inference_mode():
        theirs = model([torch.from_numpy(IMAGE).permute(2, 0, 1) / 255])[0]
    box = theirs["boxes"].numpy()
    fits = np.isin(theirs["labels"].numpy(), (1, 2)) & ((box[:, 2:] - box[:, :2]) >= 1).all(axis=1)
    assert np.array_equal(np.sort(found.score), np.sort(theirs["scores"].numpy()[fits])[-20:])
    with pytest.raises(ModelError, match="do not fit"):
        start(tmp_path / "x", options | {"classes": ["disc"], "class_map": None})


def test_torchvision_is_asked_for_what_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(BadInput, match="no detector 'yolo'"):
        start(tmp_path / "x", {"detector": "torchvision/yolo"})
    with pytest.raises(ModelError, match=r"there is no .*pth"):
        start(tmp_path / "x", {"detector": "torchvision/ssd300_vgg16", "weights": "cached"})
    with pytest.raises(BadInput, match="classes of their own"):
        start(tmp_path / "x", {"detector": "torchvision/ssd300_vgg16", "classes": "a,b"})


def test_a_detector_of_transformers_with_classes(models: Callable[..., Path], tmp_path: Path) -> None:
    from transformers import AutoImageProcessor, AutoModelForObjectDetection

    folder = models("dfine", ("disc", "cat", "dog"))
    mapping = json.dumps({"map": {"cat": "square"}})  # disc is a label here too, dog is nothing
    start(
        tmp_path / "cold", {"detector": str(folder), "class_map": mapping, "score_threshold": 0.02, "nms": 1}
    )
    found = next(predictor(tmp_path / "cold").predict([IMAGE]))
    well_formed(found, 2)
    processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True)
    model = AutoModelForObjectDetection.from_pretrained(folder, local_files_only=True).eval()
    with torch.inference_mode():
        said = model(**processor(images=IMAGE, return_tensors="pt"))
    theirs = processor.post_process_object_detection(said, threshold=0.02, target_sizes=[IMAGE.shape[:2]])[0]
    sides = (theirs["boxes"][:, 2:] - theirs["boxes"][:, :2]).amin(dim=1)
    fits = (theirs["labels"] < 2) & (sides >= 1)
    assert np.allclose(np.sort(found.score), np.sort(theirs["scores"][fits].numpy()), atol=1e-5)
    assert set(found.label.tolist()) == set(theirs["labels"][fits].tolist())


def test_words_are_looked_for_by_owl(models: Callable[..., Path], tmp_path: Path) -> None:
    from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor

    folder = models("owl")
    options = {
        "detector": str(folder),
        "synonyms": {"disc": ["round thing"], "square": ["flat box"]},
        "only_synonyms": ["square"],
        "prompt": "my {}",
        "score_threshold": ALL,
        "nms": 1,
    }
    report = start(tmp_path / "cold", options)
    texts = ["my disc", "my round thing", "my flat box"]
    assert report.started_from.endswith(f"looking for: {', '.join(texts)}")
    found = next(predictor(tmp_path / "cold").predict([IMAGE]))
    well_formed(found, 2)
    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModelForZeroShotObjectDetection.from_pretrained(folder).eval()
    with torch.inference_mode():
        said = model(**processor(text=[texts], images=IMAGE, return_tensors="pt"))
    theirs = processor.post_process_grounded_object_detection(
        said, threshold=ALL, target_sizes=[IMAGE.shape[:2]]
    )[0]
    label = np.array([0, 0, 1])[theirs["labels"].numpy()]
    order = {round(float(s), 5): int(k) for s, k in zip(theirs["scores"], label, strict=True)}
    assert [order[round(float(s), 5)] for s in found.score] == found.label.tolist()


def test_words_are_looked_for_by_grounding_dino(models: Callable[..., Path], tmp_path: Path) -> None:
    from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor

    folder = models("grounding_dino")
    options = {"detector": str(folder), "synonyms": '{"disc": ["Round thing."]}', "score_threshold": ALL}
    start(tmp_path / "cold", options | {"nms": 1})
    found = next(predictor(tmp_path / "cold").predict([IMAGE]))
    well_formed(found, 2)
    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModelForZeroShotObjectDetection.from_pretrained(folder).eval()
    given = processor(text="disc. round thing. square.", images=IMAGE, return_tensors="pt")
    words = processor.tokenizer.convert_ids_to_tokens(given["input_ids"][0])
    assert words == ["[CLS]", "disc", ".", "round", "thing", ".", "square", ".", "[SEP]"]
    with torch.inference_mode():
        said = model(**given)
    token = said.logits[0].sigmoid().numpy()
    each = np.stack([token[:, [1]].max(1), token[:, [3, 4]].max(1), token[:, [6]].max(1)], axis=1)
    expected = {round(float(row.max()), 5): (0, 0, 1)[int(row.argmax())] for row in each}
    assert len(found) > 3
    assert [expected[round(float(s), 5)] for s in found.score] == found.label.tolist()
    whole = processor.post_process_grounded_object_detection(
        said, threshold=0, target_sizes=[IMAGE.shape[:2]]
    )
    clipped = whole[0]["boxes"].numpy().clip(0, [110, 70, 110, 70])
    near = np.abs(found.box_xyxy[:, None] - clipped[None]).max(axis=2).min(axis=1)
    assert near.max() < 1e-2


def test_sam3_gives_masks_for_words(models: Callable[..., Path], tmp_path: Path) -> None:
    from transformers import Sam3Model, Sam3Processor

    folder = models("sam3")
    start(tmp_path / "cold", {"detector": str(folder), "score_threshold": ALL, "nms": 1})
    found = next(predictor(tmp_path / "cold").predict([IMAGE]))
    well_formed(found, 2)
    processor = Sam3Processor.from_pretrained(folder)
    model = Sam3Model.from_pretrained(folder).eval()
    for label, name in enumerate(LABELS):
        with torch.inference_mode():
            said = model(**processor(images=IMAGE, text=name, return_tensors="pt"))
        theirs = processor.post_process_instance_segmentation(
            said, threshold=ALL, target_sizes=[IMAGE.shape[:2]]
        )[0]
        mine = found.take(found.label == label)
        assert np.allclose(np.sort(mine.score), np.sort(theirs["scores"].numpy()), atol=1e-4)
        best = int(mine.score.argmax())
        mask = theirs["masks"][int(theirs["scores"].argmax())].numpy().astype(bool)
        assert (decode_rle(mine.rle[best]) != mask).mean() < 0.01
    filled = [box_rle(box, IMAGE.shape[:2]) for box in found.box_xyxy.tolist()]
    assert list(found.rle) != filled


def test_masks_are_cut_out_of_boxes(models: Callable[..., Path], tmp_path: Path) -> None:
    (example,) = draw_examples(tmp_path, 1, seed=3)
    image = read_image(example.image)
    box = np.array([rle_box(rle) for rle in example.rle], np.float32)
    true = np.stack([decode_rle(rle).astype(bool) for rle in example.rle])

    def iou(how: str) -> np.ndarray:
        masks, quality = box_masks(how, "cached")(image, box)
        assert quality is None
        got = np.stack([decode_rle(rle).astype(bool) for rle in masks])
        return (got & true).sum((1, 2)) / (got | true).sum((1, 2))

    discs = np.array(example.label) == 0
    assert discs.any()
    assert iou("grabcut")[discs].min() > 0.9 > iou("box")[discs].max()
    same = [box_masks("grabcut", "cached")(image, box)[0] for _ in range(2)]
    assert same[0] == same[1]
    flat = np.full((30, 40, 3), 90, np.uint8)  # nothing to tell apart: the box stays
    masks, _ = box_masks("grabcut", "cached")(flat, np.array([[5, 5, 20, 20], [0, 0, 40, 30]], np.float32))
    assert all(decode_rle(mask).any() for mask in masks)
    sam = box_masks(str(models("sam")), "cached")
    masks, quality = sam(image, box)
    assert len(masks) == len(box) == len(quality)
    assert all(list(mask["size"]) == list(image.shape[:2]) for mask in masks)
    assert sam(image, box[:0])[0] == []


def test_an_instances_project_gets_masks_from_a_box_detector(
    models: Callable[..., Path], tmp_path: Path
) -> None:
    version = own_version(tmp_path / "v1", LABELS)
    options = {"detector": str(models("dfine", ("disc", "cat", "dog"))), "score_threshold": 0.02}
    test = tuple(draw_examples(tmp_path / "images", 1))
    start(tmp_path / "cold", options | {"masks": str(models("sam"))}, labels=("disc",), test=test)
    found = next(predictor(tmp_path / "cold").predict([IMAGE]))
    assert set(found.label.tolist()) <= {0}
    # a box learner's masks are no masks of objects: they are cut out too
    start(tmp_path / "cut", {"detector": str(version), "masks": "grabcut", "score_threshold": ALL})
    found = next(predictor(tmp_path / "cut").predict([read_image(test[0].image)]))
    assert list(found.rle) != [box_rle(box, (96, 128)) for box in found.box_xyxy.tolist()]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "options.detector: no detector"),
        ({"detector": "x", "color": 1}, "options.color: there is no such option"),
        ({"detector": "x", "nms": 2}, "options.nms: must be at most 1"),
        ({"detector": "x", "prompt": "a photo"}, "options.prompt"),
        ({"detector": "x", "class_map": {"maps": {}}}, "'maps' is not known"),
        (
            {"detector": "x", "class_map": '{"map": {"car": "disc", "car": "square"}}'},
            "'car' is mapped twice",
        ),
        ({"detector": "x", "class_map": {"map": {"car": "disc"}, "drop": ["car"]}}, "'car' is mapped twice"),
        ({"detector": "x", "class_map": {"map": {"car": 3}}}, "no label"),
        ({"detector": "x", "class_map": "no/such/file.json"}, "cannot be read"),
        ({"detector": "x", "class_map": "{"}, "no JSON"),
        ({"detector": "x", "synonyms": {"disc": [" "]}}, "not empty"),
        ({"detector": "x", "only_synonyms": "disc"}, "has no synonyms"),
    ],
)
def test_options_are_checked_before_anything_is_loaded(options: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        get_learner("zero-shot").check_options("light", options)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"class_map": {"map": {"red": "ring"}}}, "the project has no label 'ring'"),
        ({"class_map": {"default": "ring"}}, "the project has no label 'ring'"),
        ({"class_map": {"map": {"green": "disc"}}}, "the model has no label 'green'"),
        ({"class_map": {"drop": ["red", "white"]}}, "none of the model's labels"),
        ({}, "none of the model's labels"),
        ({"synonyms": {"disc": ["cd"]}}, "looks for no words"),
    ],
)
def test_a_class_map_must_fit_both_sides(options: dict[str, Any], said: str, tmp_path: Path) -> None:
    version = own_version(tmp_path / "v1", ("red", "white"))
    with pytest.raises(BadInput, match=said):
        start(tmp_path / "cold", {"detector": str(version), **options})


def test_a_class_map_may_be_a_file(tmp_path: Path) -> None:
    (tmp_path / "map.json").write_text('{"map": {"red": "disc"}, "default": ""}')
    settings = cold_start_settings({"detector": "x", "class_map": str(tmp_path / "map.json")}, LABELS)
    assert settings.class_map.named == {"red": "disc"}
    assert settings.class_map.default == ""


def test_detectors_by_words_have_no_classes_and_need_clear_words(
    models: Callable[..., Path], tmp_path: Path
) -> None:
    options = {"detector": str(models("owl"))}
    with pytest.raises(BadInput, match="no classes to map"):
        start(tmp_path / "x", options | {"class_map": {"default": "disc"}})
    with pytest.raises(BadInput, match="'disc' and 'square' are both looked for as 'Disc'"):
        start(tmp_path / "x", options | {"synonyms": {"square": ["Disc"]}})
    with pytest.raises(BadInput, match="no labels"):
        start(tmp_path / "x", options, labels=())


def test_what_cannot_be_loaded_is_named(models: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be loaded by transformers"):
        start(tmp_path / "x", {"detector": str(tmp_path / "nothing"), "weights": "cached"})
    with pytest.raises(BadInput, match="'sam', which finds no objects"):
        start(tmp_path / "x", {"detector": str(models("sam"))})
    with pytest.raises(ModelError, match="holds no cold start"):
        predictor(tmp_path)
    start(tmp_path / "cold", {"detector": str(models("owl"))})
    with pytest.raises(ModelError, match="not exported"):
        ZeroShot().export(tmp_path / "cold", tmp_path / "out")
    with pytest.raises(ModelError, match="itself a cold start"):
        start(tmp_path / "x", {"detector": str(tmp_path / "cold")})
