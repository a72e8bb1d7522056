"""Training, evaluation and clicks see the pixels that people see; a picture that cannot be used costs only
itself.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from ml_backend.clicks.training.options import ClickOptions
from ml_backend.clicks.training.window_samples import Sampler
from ml_backend.errors import ModelError
from ml_backend.examples import Example
from ml_backend.images.store import ImageStore
from ml_backend.learners.base import LeftOut, TrainSpec
from ml_backend.learners.maskrcnn.learner import MaskRcnn
from ml_backend.learners.maskrcnn.training_crops import Crops, CropSettings
from ml_backend.learners.readable_examples import readable_examples
from ml_backend.settings import BackendSettings

from .pictures import save_16_bit, save_truncated, save_turned
from .shapes import LABELS, draw_examples, encode

HW = (48, 80)
FAST = {"iterations": 2, "batch": 1, "size": 64, "channels": 16, "weights": "none", "threads": 1}
Save = Callable[[Path, npt.NDArray[np.uint8]], Path]


def upright() -> npt.NDArray[np.uint8]:
    """Grey with a bright object low on the right, so that every turn shows."""
    picture = np.full((*HW, 3), 20, np.uint8)
    picture[30:44, 56:74] = 220
    return picture


def truth() -> npt.NDArray[np.bool_]:
    return np.asarray(upright()[:, :, 0] > 100)


def example(path: Path, task: int = 1) -> Example:
    return Example(task, path, (0,), (encode(truth()),))


SAVED = [
    pytest.param(lambda path, pixels, o=o: save_turned(path, pixels, o), id=f"orientation-{o}")
    for o in (3, 6, 8)
] + [pytest.param(save_16_bit, id="16-bit")]


def bright(pixels: npt.NDArray[np.generic]) -> npt.NDArray[np.bool_]:
    grey = pixels[..., 0].astype(np.float64)
    return np.asarray(grey > (grey.min() + grey.max()) / 2)


@pytest.mark.parametrize("save", SAVED)
def test_training_crops_lie_under_their_masks(tmp_path: Path, save: Save) -> None:
    crops = Crops(
        [example(save(tmp_path / "a.png", upright()))],
        CropSettings(64, 1.0, "image", "none", jitter=0.0),
        seed=0,
        length=8,
    )
    for index in range(len(crops)):
        image, target = crops[index]
        if len(target["masks"]):
            mask = target["masks"][0].numpy().astype(bool)
            found = bright(image.permute(1, 2, 0).numpy())
            assert (mask & found).sum() / (mask | found).sum() > 0.8


@pytest.mark.parametrize("save", SAVED)
def test_click_samples_lie_under_their_masks(tmp_path: Path, save: Save) -> None:
    sampler = Sampler([example(save(tmp_path / "a.png", upright()))], size=64, seed=0)
    seen = 0
    for sample in sampler.draw(12):
        if 0.05 < sample.target.mean() < 0.95:
            found = bright(sample.image)
            assert (sample.target & found).sum() / (sample.target | found).sum() > 0.8
            seen += 1
    assert seen


@pytest.mark.parametrize("save", SAVED)
def test_training_sees_what_inference_sees(tmp_path: Path, save: Save) -> None:
    """Inference and clicks take their pixels from the image store; so does what people are shown."""
    path = save(tmp_path / "a.png", upright())
    store = ImageStore(BackendSettings(data_dir=tmp_path / "data", allow_image_dirs=str(tmp_path)))
    ref = store.get(str(path))
    assert ref.hw == HW
    shown = store.pixels(ref)
    crops = Crops([example(path)], CropSettings(64, 1.0, "image", "none"), seed=0, length=1)
    np.testing.assert_array_equal(crops._load(0).pixels, shown)
    np.testing.assert_array_equal(Sampler([example(path)], size=64, seed=0)._image(0), shown)
    np.testing.assert_array_equal(bright(shown), truth())


@pytest.mark.skipif(importlib.util.find_spec("detectron2") is None, reason="detectron2 is not installed")
@pytest.mark.parametrize("save", SAVED)
def test_the_detectron2_mapper_sees_it_too(tmp_path: Path, save: Save) -> None:
    from ml_backend.learners.detectron2.learner import _config, _Mapper, _record
    from ml_backend.learners.detectron2.settings import detectron2_options

    cfg = _config(LABELS, detectron2_options("light", {"size": 48}), "cpu", seed=0)
    sample = _Mapper(cfg)(_record(example(save(tmp_path / "a.png", upright()))))
    mask = sample["instances"].gt_masks.tensor[0].numpy()
    found = bright(sample["image"].permute(1, 2, 0).numpy())
    assert (mask & found).sum() / (mask | found).sum() > 0.8


@pytest.mark.parametrize("save", SAVED)
def test_evaluation_measures_on_the_upright_picture(
    tmp_path: Path, save: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that finds what is bright is right about every form of the picture."""
    from ml_backend.instances import Instances
    from ml_backend.learners.maskrcnn.predictor import MaskRcnnPredictor

    def find_bright(self: object, images: list[npt.NDArray[np.uint8]]) -> object:
        for image in images:
            yield Instances(
                np.zeros(1, np.int64),
                np.array([[56, 30, 74, 44]], np.float32),
                [encode(bright(image))],
                np.ones(1, np.float32),
                np.ones(1, np.float32),
                np.zeros((1, 0), np.float32),
            )

    monkeypatch.setattr(MaskRcnnPredictor, "predict", find_bright)
    test = example(save(tmp_path / "a.png", upright()))
    spec = TrainSpec(("blob",), (test,), (test,), device="cpu", options=FAST)
    report = MaskRcnn().train(spec, tmp_path / "v", lambda *_: None)
    assert report.evaluation.metrics["AP75"][0] > 0.99
    assert report.left_out == ()


def test_bad_pictures_are_left_out_and_named(tmp_path: Path) -> None:
    good = draw_examples(tmp_path / "images", 4)
    truncated = save_truncated(tmp_path / "half.png", upright())
    (tmp_path / "text.png").write_text("not an image")
    bad = [
        example(truncated, 101),
        replace(good[0], task_id=102, image=tmp_path / "text.png"),
        replace(good[0], task_id=103, image=tmp_path / "gone.png"),
        replace(good[0], task_id=104, rle=(encode(np.ones((3, 5))),), label=(0,)),
    ]
    spec = TrainSpec(LABELS, (*good[:2], *bad[:3]), (*good[2:], bad[3]), device="cpu", options=FAST)
    report = MaskRcnn().train(spec, tmp_path / "v", lambda *_: None)
    reasons = {entry.task_id: entry.reason for entry in report.left_out}
    assert set(reasons) == {101, 102, 103, 104}
    assert "damaged" in reasons[101]
    assert "not an image" in reasons[102]
    assert "cannot read" in reasons[103]
    assert "[3, 5]" in reasons[104]
    assert report.evaluation.n_images == 2
    assert report.iterations == 2


def test_training_fails_only_when_nothing_is_left(tmp_path: Path) -> None:
    bad = tuple(example(save_truncated(tmp_path / f"{i}.png", upright()), i) for i in range(5))
    with pytest.raises(ModelError, match=r"task 0: .*damaged.*and 2 more") as caught:
        MaskRcnn().train(
            TrainSpec(LABELS, bad, (), device="cpu", options=FAST), tmp_path / "v", lambda *_: None
        )
    assert caught.value.field == "train"


def test_order_is_kept_and_images_without_masks_count_too(tmp_path: Path) -> None:
    good = draw_examples(tmp_path, 3)
    empty = Example(9, save_truncated(tmp_path / "half.png", upright()), (), ())
    found = readable_examples([good[2], empty, good[0], Example(8, good[1].image, (), ())])
    assert [e.task_id for e in found.kept] == [2, 0, 8]
    assert [entry.task_id for entry in found.left_out] == [9]
    assert isinstance(found.left_out[0], LeftOut)


def test_a_click_training_leaves_bad_pictures_out_and_names_them(tmp_path: Path) -> None:
    from ml_backend.clicks.segmenters.classical import ClassicalSegmenter
    from ml_backend.clicks.training.trainer import train_click_model

    good = draw_examples(tmp_path / "images", 4)
    bad = [example(save_truncated(tmp_path / f"{i}.png", upright()), 100 + i) for i in range(2)]
    out = tmp_path / "out"
    out.mkdir()
    report = train_click_model(
        [*good[:2], bad[0]],
        [*good[2:], bad[1]],
        out,
        ClassicalSegmenter(),
        lambda *_: None,
        labels=LABELS,
        options=ClickOptions(
            size=48, small_size=32, width=8, batch=2, iterations=2, threads=1, eval_limit=2, max_clicks=1
        ),
    )
    assert [entry.task_id for entry in report.left_out] == [100, 101]
    assert report.n_train_images == 2
