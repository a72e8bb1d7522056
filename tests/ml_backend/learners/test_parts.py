"""Parts of the learner: geometry, crops, pasting, embedding numbers, settings, weights."""

from __future__ import annotations

import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco_mask

from ml_backend.errors import BadImage, BadInput, ModelError
from ml_backend.examples import Example
from ml_backend.images.decode import read_image
from ml_backend.learners.embedding import expected_iou, mask_attention, projection_matrix
from ml_backend.learners.mask_pasting import crop_to_rle, paste_masks, without_specks
from ml_backend.learners.maskrcnn.architecture import NetworkConfig, build_network, copy_weights
from ml_backend.learners.maskrcnn.geometry import BoxSizes, Geometry, fit_geometry, measure
from ml_backend.learners.maskrcnn.settings import train_settings
from ml_backend.learners.maskrcnn.training_crops import Crops, CropSettings
from ml_backend.learners.pixels import normalise
from ml_backend.learners.training.images import image_cache_bytes
from ml_backend.learners.weights import published_weights, read_weights, save_weights

from .shapes import draw_examples, encode


def sizes(side: float, n: int = 50, hw: tuple[int, int] = (256, 256)) -> BoxSizes:
    return BoxSizes(np.full((n, 2), side), np.array([n]), np.array([hw]))


def test_small_objects_are_enlarged_and_large_ones_reduced() -> None:
    small = fit_geometry(sizes(14.0), target_px=28)
    assert small.scale == pytest.approx(2)
    large = fit_geometry(sizes(200.0, hw=(1000, 1500)), target_px=28)
    assert large.scale < 0.3
    assert large.scale * 1000 >= 255
    assert fit_geometry(sizes(2.0)).scale <= 3
    assert fit_geometry(sizes(14.0, hw=(3000, 4000)), max_side=640).scale <= 1


def test_anchors_cover_the_objects_with_equal_counts_per_level() -> None:
    rng = np.random.default_rng(0)
    wh = np.exp(rng.normal(3.5, 0.8, (500, 2)))
    found = fit_geometry(BoxSizes(wh, np.array([500]), np.array([[480, 640]])))
    counts = {len(level) for level in found.anchor_sizes}
    assert len(counts) == 1
    flat = [v for level in found.anchor_sizes for v in level]
    assert flat == sorted(flat)
    side = np.sqrt(wh.prod(1)) * found.scale
    assert flat[0] < np.quantile(side, 0.1)
    assert flat[-1] > np.quantile(side, 0.9)
    assert list(found.anchor_ratios) == sorted(found.anchor_ratios)
    one_size = fit_geometry(sizes(30.0))
    assert len(one_size.anchor_sizes) == 1


def test_the_cap_follows_the_fullest_image() -> None:
    assert fit_geometry(sizes(20.0, n=120)).max_detections == 180
    assert fit_geometry(sizes(20.0, n=2)).max_detections == 50
    assert fit_geometry(sizes(20.0, n=2000)).max_detections == 400
    assert fit_geometry(sizes(20.0), detection_cap=7).max_detections == 7
    assert fit_geometry(measure([])).max_detections == 50


def crops(folder: Path, **changes: Any) -> Crops:
    options: dict[str, Any] = {"side": 96, "scale": 1.5, "normalise": "image", "turn": "any"}
    return Crops(draw_examples(folder, 3), CropSettings(**{**options, **changes}), 5, 20)


@pytest.mark.parametrize("turn", ["none", "quarter", "any"])
def test_masks_move_with_the_pixels(tmp_path: Path, turn: str) -> None:
    """Discs are bright and squares dark in the image: so they must be under the moved masks."""
    drawn = crops(tmp_path, turn=turn)
    seen = 0
    for i in range(12):
        image, target = drawn[i]
        assert image.shape == (3, 96, 96)
        assert target["masks"].shape == (len(target["labels"]), 96, 96)
        for mask, label, box in zip(target["masks"], target["labels"], target["boxes"], strict=True):
            inside = image[:, mask.bool()].mean()
            assert (inside > 0.3) if label == 1 else (inside < -0.3)
            rows, columns = np.nonzero(mask.numpy())
            expected = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert box.tolist() == expected
            seen += 1
    assert seen > 15


def test_boxes_stay_filled_under_quarter_turns(tmp_path: Path) -> None:
    example = draw_examples(tmp_path, 1)[0]
    bitmap = np.zeros((96, 128), np.uint8)
    bitmap[20:50, 30:80] = 1
    boxed = Example(0, example.image, (0,), (encode(bitmap),))
    drawn = Crops([boxed], CropSettings(96, 1.0, "image", "quarter"), 0, 20)
    for i in range(20):
        _, target = drawn[i]
        for mask, box in zip(target["masks"], target["boxes"], strict=True):
            area = float((box[2] - box[0]) * (box[3] - box[1]))
            assert float(mask.sum()) == pytest.approx(area, rel=0.02)


def test_crops_repeat_with_their_seed_and_visit_all_images(tmp_path: Path) -> None:
    first, second = crops(tmp_path)[4], crops(tmp_path)[4]
    torch.testing.assert_close(first[0], second[0])
    assert not torch.equal(crops(tmp_path)[5][0], first[0])
    drawn = crops(tmp_path)
    for i in range(3):
        drawn[i]
    assert drawn._kept is not None
    assert set(drawn._kept.keys()) == {0, 1, 2}


def test_crops_travel_to_other_processes_without_their_pictures(tmp_path: Path) -> None:
    drawn = crops(tmp_path)
    first = drawn[0]
    sent = pickle.loads(pickle.dumps(drawn))
    assert drawn._kept.keys() != []
    assert sent._kept.keys() == []
    torch.testing.assert_close(sent[0][0], first[0])


def test_decoded_pictures_are_bounded_by_bytes_over_all_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples = draw_examples(tmp_path, 3)
    one = Crops(examples, CropSettings(96, 1.0, "image", "any"), seed=0, length=12)
    size = one._load(0).nbytes
    assert size >= one._load(0).pixels.nbytes == 96 * 128 * 3
    small = Crops(examples, CropSettings(96, 1.0, "image", "any"), 0, 12, cache_bytes=int(2.5 * size))
    for index in range(12):
        torch.testing.assert_close(small[index][0], one[index][0])
    assert small._kept is not None
    assert 0 < small._kept.nbytes <= 2.5 * size
    free = 4 * 1024**3
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=free))
    assert image_cache_bytes(0) == image_cache_bytes(1) == free // 4
    assert 8 * image_cache_bytes(8) == free // 4
    free = 1024**4
    assert 8 * image_cache_bytes(8) == 8 * 1024**3


def test_wrong_sizes_and_broken_images_are_named(tmp_path: Path) -> None:
    example = draw_examples(tmp_path, 1)[0]
    wrong = Example(77, example.image, (0,), (encode(np.ones((4, 4))),))
    with pytest.raises(BadImage, match="task 77"):
        Crops([wrong], CropSettings(96, 1.0, "image", "none"), 0, 1)[0]
    (tmp_path / "broken.png").write_bytes(b"nothing of the kind")
    with pytest.raises(BadImage, match=r"broken\.png"):
        read_image(tmp_path / "broken.png")


@settings(max_examples=100, deadline=None)
@given(hnp.arrays(bool, st.tuples(st.integers(1, 20), st.integers(1, 20))), st.data())
def test_crop_to_rle_is_what_pycocotools_encodes(crop: np.ndarray, data: st.DataObject) -> None:
    top, left = data.draw(st.integers(0, 5)), data.draw(st.integers(0, 5))
    below, right = data.draw(st.integers(0, 5)), data.draw(st.integers(0, 5))
    full = np.pad(crop, ((top, below), (left, right)))
    assert crop_to_rle(crop, (left, top), full.shape) == encode(full)


def test_crop_to_rle_of_nothing() -> None:
    assert crop_to_rle(np.zeros((0, 4), bool), (3, 2), (6, 7)) == encode(np.zeros((6, 7)))


@pytest.mark.parametrize("lag", [0.0, 0.5])
def test_pasted_masks_are_the_grid_looked_up_at_pixel_centres(lag: float) -> None:
    """Against torch's grid_sample over the whole image."""
    rng = np.random.default_rng(0)
    soft = torch.nn.functional.interpolate(torch.from_numpy(rng.random((12, 1, 5, 5))), 28, mode="bicubic")
    probability = soft[:, 0].clamp(0, 1).numpy().astype(np.float32)
    corner = rng.uniform(-5, 90, (12, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(8, 70, (12, 2))], axis=1).astype(np.float32)
    ours = paste_masks(probability, boxes, (120, 140), lag_px=lag)
    for grid, box, rle in zip(probability, boxes, ours, strict=True):
        x = (np.arange(140) + 0.5 - lag - box[0]) / (box[2] - box[0]) * 2 - 1
        y = (np.arange(120) + 0.5 - lag - box[1]) / (box[3] - box[1]) * 2 - 1
        places = torch.from_numpy(np.stack(np.meshgrid(x, y), axis=-1).astype(np.float32))[None]
        whole = torch.nn.functional.grid_sample(
            torch.from_numpy(grid)[None, None], places, align_corners=False
        )
        expected = whole[0, 0].numpy() > 0.5
        got = coco_mask.decode(dict(rle)).astype(bool)
        assert (expected & got).sum() / (expected | got).sum() > 0.98
    assert paste_masks(np.zeros((0, 28, 28), np.float32), np.zeros((0, 4), np.float32), (9, 9)) == []


def test_specks_and_pinholes_go_and_parts_and_holes_stay() -> None:
    yy, xx = np.mgrid[:28, :28]
    disc = np.hypot(yy - 12, xx - 10) < 9
    ring = disc & (np.hypot(yy - 12, xx - 10) > 3)  # the hole is an eighth of it
    checkers = (xx >= 22) & (yy >= 20) & ((xx + yy) % 2 == 0)
    halves = disc & (np.abs(xx - 12) > 1)  # behind a post
    pricked = disc.copy()
    pricked[12, 10:12] = False
    notched = disc.copy()
    notched[:, 15:] = False  # the outside touches three sides, and is one part with the frame
    bitmaps = [disc, ring, disc | checkers, halves, pricked, notched, disc & False, disc | True, checkers]
    given = np.where(np.stack(bitmaps), 0.9, 0.2).astype(np.float32)
    before = given.copy()
    tidy = without_specks(given) > 0.5
    expected = [disc, ring, disc, halves, disc, notched, disc & False, disc | True]
    np.testing.assert_array_equal(tidy[:-1], np.stack(expected))
    assert tidy[-1].any()  # nothing but specks: no mask is made empty
    np.testing.assert_array_equal(given, before)
    assert without_specks(np.zeros((0, 28, 28), np.float32)).shape == (0, 28, 28)


def test_expected_iou_says_what_it_says() -> None:
    sure = torch.zeros(1, 28, 28)
    sure[:, 5:20, 5:20] = 1
    assert expected_iou(sure).item() == 1
    assert expected_iou(torch.zeros(1, 28, 28)).item() == 0
    unsure = sure * 0.6 + (1 - sure) * 0.1
    by_hand = 0.6 * 225 / (225 + 0.1 * (784 - 225))
    assert expected_iou(unsure).item() == pytest.approx(by_hand)
    # the same number by sampling objects from the probabilities
    drawn = torch.rand(4000, 28, 28, generator=torch.Generator().manual_seed(0)) < unsure
    mask = unsure > 0.5
    iou = (drawn & mask).sum((1, 2)) / (drawn | mask).sum((1, 2))
    assert iou.mean().item() == pytest.approx(by_hand, abs=0.01)


def test_embedding_ignores_what_the_mask_does_not_cover() -> None:
    generator = torch.Generator().manual_seed(0)
    projection = projection_matrix(8 * 49)
    roi = torch.rand(1, 8, 7, 7, generator=generator)
    mask = torch.zeros(1, 28, 28)
    mask[:, :12] = 1
    other = roi.clone()
    other[:, :, 3:] = 9
    torch.testing.assert_close(mask_attention(roi, mask, projection), mask_attention(other, mask, projection))
    other[:, :, 0] = 9
    assert not torch.allclose(mask_attention(roi, mask, projection), mask_attention(other, mask, projection))


def test_projection_is_fixed_and_keeps_lengths() -> None:
    torch.testing.assert_close(projection_matrix(500), projection_matrix(500))
    assert projection_matrix(500)[0, 0].item() == pytest.approx(1.764052345967664 / np.sqrt(128))
    x = torch.randn(200, 500, generator=torch.Generator().manual_seed(1))
    ratio = (x @ projection_matrix(500)).norm(dim=1) / x.norm(dim=1)
    assert ratio.mean().item() == pytest.approx(1, abs=0.05)


def config(labels: tuple[str, ...], backbone: str = "small", levels: int = 2) -> NetworkConfig:
    anchors = tuple((16.0 * 2**i,) for i in range(levels))
    return NetworkConfig(labels, backbone, 32, Geometry(1.0, anchors, (0.5, 1.0, 2.0), 20), "image")


def test_config_survives_json() -> None:
    import json

    one = config(("a", "b"))
    assert NetworkConfig.from_json(json.loads(json.dumps(one.to_json()))) == one


def test_too_many_anchor_levels_are_refused() -> None:
    with pytest.raises(ModelError, match="5 levels"):
        build_network(config(("a",), levels=5))
    with pytest.raises(ModelError, match="no backbone"):
        build_network(config(("a",), backbone="big"))


@pytest.mark.parametrize("hw", [(40, 300), (256, 256)])
def test_pool_scales_do_not_depend_on_the_first_image(hw: tuple[int, int]) -> None:
    model = build_network(config(("a",))).eval()
    with torch.inference_mode():
        model([torch.rand(3, *hw)])
    assert list(model.roi_heads.box_roi_pool.scales) == [1 / 4, 1 / 8, 1 / 16, 1 / 32]


def test_labels_move_by_name() -> None:
    old, new = build_network(config(("a", "b"))), build_network(config(("c", "b", "a")))
    fresh = new.state_dict()["roi_heads.box_predictor.cls_score.weight"].clone()
    left = copy_weights(new, old.state_dict(), old_labels=("a", "b"), new_labels=("c", "b", "a"))
    assert left == []
    for name, per_class in (("box_predictor.cls_score", 1), ("box_predictor.bbox_pred", 4)):
        for part in ("weight", "bias"):
            mine = new.state_dict()[f"roi_heads.{name}.{part}"].unflatten(0, (-1, per_class))
            before = old.state_dict()[f"roi_heads.{name}.{part}"].unflatten(0, (-1, per_class))
            torch.testing.assert_close(mine[[0, 3, 2]], before)
    mine = new.state_dict()["roi_heads.mask_predictor.mask_fcn_logits.weight"]
    before = old.state_dict()["roi_heads.mask_predictor.mask_fcn_logits.weight"]
    torch.testing.assert_close(mine[[0, 3, 2]], before)
    torch.testing.assert_close(new.state_dict()["roi_heads.box_predictor.cls_score.weight"][1], fresh[1])
    torch.testing.assert_close(
        new.state_dict()["backbone.stem.0.weight"], old.state_dict()["backbone.stem.0.weight"]
    )


def test_normalise_by_image_and_by_imagenet() -> None:
    image = torch.rand(3, 8, 8) * 0.01 + 0.02
    by_image = normalise(image, "image", (float(image.mean()), 0.5))
    assert abs(float(by_image.mean())) < 1e-5
    white = normalise(torch.ones(3, 2, 2), "imagenet")
    torch.testing.assert_close(white[:, 0, 0], torch.tensor([2.2489, 2.4286, 2.64]), atol=1e-3, rtol=0)
    assert torch.isfinite(normalise(torch.zeros(3, 4, 4), "image")).all()


@pytest.mark.parametrize(
    ("preset", "options", "field"),
    [
        ("heavy", {}, "preset"),
        ("light", {"epochs": 3}, "options.epochs"),
        ("light", {"iterations": "many"}, "options.iterations"),
        ("light", {"iterations": 0}, "options.iterations"),
        ("light", {"lr": -1}, "options.lr"),
        ("light", {"backbone": "vgg"}, "options.backbone"),
        ("light", {"size": 100}, "options.size"),
    ],
)
def test_wrong_options_are_named(preset: str, options: dict[str, Any], field: str) -> None:
    with pytest.raises(BadInput) as caught:
        train_settings(preset, options)
    assert caught.value.field == field


def test_options_go_over_the_preset() -> None:
    chosen = train_settings("full", {"iterations": "7", "lr": 1})
    assert (chosen.iterations, chosen.lr, chosen.backbone) == (7, 1.0, "resnet50")


def test_published_weights_are_taken_or_their_absence_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    state, said = published_weights("mobilenet_v3_large", wanted="cached")
    assert state is None
    assert "no mobilenet_v3_large-5c1a4163.pth" in said
    assert published_weights("small", wanted="auto") == (
        None,
        "random weights (there are no published ones for backbone 'small')",
    )
    (tmp_path / "checkpoints").mkdir()
    torch.save({"x": torch.ones(2)}, tmp_path / "checkpoints" / "mobilenet_v3_large-5c1a4163.pth")
    state, said = published_weights("mobilenet_v3_large", wanted="auto")
    assert state is not None
    assert state["x"].tolist() == [1, 1]
    assert said == "published weights: MobileNetV3-large trained on ImageNet (cached)"


def test_weights_files(tmp_path: Path) -> None:
    save_weights({"a": torch.arange(3.0)}, tmp_path / "w.safetensors")
    assert read_weights(tmp_path / "w.safetensors")["a"].tolist() == [0, 1, 2]
    torch.save({"model": {"b": torch.ones(1)}}, tmp_path / "w.pth")
    assert list(read_weights(tmp_path / "w.pth")) == ["b"]
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ModelError, match="no state dict"):
        read_weights(tmp_path / "list.pth")
    with pytest.raises(ModelError, match="no weights at"):
        read_weights(tmp_path / "none.pth")


def test_mobilenet_starts_from_its_published_weights() -> None:
    from torchvision.models import mobilenet_v3_large

    published = mobilenet_v3_large(weights=None).state_dict()
    model = build_network(config(("a",), backbone="mobilenet_v3_large"))
    copy_weights(model, {f"backbone.{name}": value for name, value in published.items()})
    taken = model.backbone.features[5].block[0][0].weight
    torch.testing.assert_close(taken, published["features.5.block.0.0.weight"])
