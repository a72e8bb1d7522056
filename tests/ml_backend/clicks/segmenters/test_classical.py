"""The segmenter without weights: clean pictures, corrections, proposals, big pictures, and real nuclei."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from ml_backend.clicks.base import ClickResult, Prompt
from ml_backend.clicks.evaluation.simulated_clicks import mask_iou, simulate_user
from ml_backend.clicks.segmenters.classical import ClassicalSegmenter
from ml_backend.clicks.segmenters.edge_path import outline, polish
from ml_backend.clicks.start_masks import start_mask_from
from ml_backend.errors import BadPrompt
from ml_backend.masks.coco import load_coco
from ml_backend.masks.rle import decode_rle

Mask = npt.NDArray[np.bool_]


def ellipse(hw: tuple[int, int], x: float, y: float, rx: float, ry: float) -> Mask:
    ys, xs = np.mgrid[: hw[0], : hw[1]]
    return np.asarray(((xs - x) / rx) ** 2 + ((ys - y) / ry) ** 2 <= 1)


def paint(hw: tuple[int, int], masks: list[Mask], *, noise: float = 4.0) -> npt.NDArray[np.uint8]:
    """Bright objects on dark, blurred and noisy."""
    image = np.full((*hw, 3), 40, np.float32)
    for index, mask in enumerate(masks):
        image[mask] = (170, 120 + 20 * index, 90)
    image = cv2.GaussianBlur(image, (0, 0), 1.0)
    image += np.random.default_rng(0).normal(0, noise, image.shape)
    return np.asarray(np.clip(image, 0, 255), np.uint8)


def run(image: npt.NDArray[np.uint8], prompt: Prompt, start: Mask | None = None) -> ClickResult:
    segmenter = ClassicalSegmenter()
    start_mask = None if start is None else start_mask_from(start, from_proposal=True)
    return segmenter.segment(segmenter.embed(image), prompt, start_mask)


@pytest.mark.parametrize("radius", [8, 20, 60, 150])
@pytest.mark.parametrize("off", [0.0, 0.4])
def test_one_click_finds_objects_of_every_size(radius: int, off: float) -> None:
    truth = ellipse((480, 640), 330, 230, 1.3 * radius, radius)
    result = run(paint((480, 640), [truth]), Prompt(((330 + off * radius, 230.0, True),), None, "x"))
    assert mask_iou(result.masks[0], truth) > (0.85 if radius < 10 else 0.9)


def test_touching_objects_are_told_apart() -> None:
    left, right = ellipse((200, 200), 70, 100, 30, 30), ellipse((200, 200), 131, 100, 30, 30)
    image = paint((200, 200), [left, right])
    result = run(image, Prompt(((70.0, 100.0, True),), None, "x"))
    assert mask_iou(result.masks[0], left) > 0.85


@pytest.mark.parametrize(
    "box", [(100.0, 50.0, 300.0, 200.0), (-1.0, -1.0, 1.0, 1.0), (398.0, 297.0, 400.0, 300.0)]
)
def test_a_box_bounds_the_mask(box: tuple[float, float, float, float]) -> None:
    truth = ellipse((300, 400), 200, 125, 90, 65)
    mask = run(paint((300, 400), [truth]), Prompt((), box, "x")).masks[0]
    ys, xs = np.nonzero(mask)
    assert len(ys) > 0
    assert xs.min() >= np.floor(box[0])
    assert xs.max() <= np.ceil(box[2])
    assert ys.min() >= np.floor(box[1])
    assert ys.max() <= np.ceil(box[3])
    if box[0] == 100:
        assert mask_iou(mask, truth) > 0.9


def test_clicks_are_obeyed_and_change_only_their_surroundings() -> None:
    truth = ellipse((200, 300), 100, 100, 50, 50)
    image = paint((200, 300), [truth], noise=20)
    start = ellipse((200, 300), 120, 100, 70, 50)
    away = run(image, Prompt(((170.0, 100.0, False),), None, "x"), start).masks[0]
    assert not away[100, 170]
    depth = 20  # of the click below the edge of the start: nothing farther from any edge may change
    inside = cv2.distanceTransform(start.astype(np.uint8), cv2.DIST_L2, 5)
    outside = cv2.distanceTransform((~start).astype(np.uint8), cv2.DIST_L2, 5)
    far = (inside > depth + 3) | (outside > depth + 3)
    ys, xs = np.mgrid[:200, :300]
    far &= np.hypot(xs - 170, ys - 100) > 3 * depth
    np.testing.assert_array_equal(away[far], start[far])
    assert mask_iou(away, truth) > mask_iou(start, truth) + 0.1
    more = run(image, Prompt(((60.0, 100.0, True),), None, "x"), ellipse((200, 300), 120, 100, 30, 50)).masks[
        0
    ]
    assert more[100, 60]


def test_zero_clicks_return_the_proposal_itself() -> None:
    start = ellipse((60, 80), 30, 30, 11, 7)
    np.testing.assert_array_equal(run(paint((60, 80), [start]), Prompt((), None, "x"), start).masks[0], start)
    with pytest.raises(BadPrompt):
        run(paint((60, 80), [start]), Prompt((), None, "x"))


@pytest.mark.parametrize("hw", [(1, 1), (2, 300), (5, 5), (4000, 3000)])
def test_flat_pictures_of_any_size(hw: tuple[int, int]) -> None:
    image = np.full((*hw, 3), 90, np.uint8)
    x, y = hw[1] - 0.5, hw[0] / 2
    mask = run(image, Prompt(((x, y, True), (0.0, 0.0, False)), None, "x")).masks[0]
    assert mask.shape == hw
    assert mask.dtype == np.bool_


def test_a_small_object_in_a_large_picture_is_cut_at_full_size() -> None:
    image = np.full((3000, 4000, 3), 40, np.uint8)
    image[1400:1600, 1900:2100] = paint((200, 200), [ellipse((200, 200), 100, 100, 26, 20)])
    truth = np.zeros((3000, 4000), bool)
    truth[1400:1600, 1900:2100] = ellipse((200, 200), 100, 100, 26, 20)
    result = run(image, Prompt(((2000.0, 1500.0, True),), None, "x"))
    assert mask_iou(result.masks[0], truth) > 0.85


def test_same_click_same_mask() -> None:
    image = paint((120, 120), [ellipse((120, 120), 60, 60, 30, 20)], noise=30)
    prompt = Prompt(((60.0, 60.0, True), (80.0, 90.0, False)), None, "x")
    cv2.setRNGSeed(7)
    first = run(image, prompt).masks
    cv2.setRNGSeed(8)
    np.testing.assert_array_equal(run(image, prompt).masks, first)


def test_outline_stays_inside_barred_points() -> None:
    image = np.zeros((100, 100, 1), np.float32)
    image[ellipse((100, 100), 50, 50, 40, 40)] = 50
    assert outline(image, 50, 50, reach_px=60)[50, 80]
    assert not outline(image, 50, 50, reach_px=60, barred=[(75.0, 50.0)])[50, 80]


def test_polish_keeps_masks_it_cannot_improve() -> None:
    tiny = np.zeros((9, 9), bool)
    tiny[4, 4] = True
    np.testing.assert_array_equal(polish(np.zeros((9, 9, 3), np.uint8), tiny, band=0.5), tiny)


def test_real_nuclei_and_mushrooms_within_a_few_clicks() -> None:
    shared = Path(os.environ.get("GROUNDSWELL_SHARED_DATA", Path(__file__).parents[5] / "shared" / "data"))
    if not (shared / "mushrooms").exists():
        pytest.skip("shared data is not here")
    segmenter = ClassicalSegmenter()
    for name, images, wanted in (("mushrooms", 2, 0.8), ("nuclei_dsb2018_a", 6, 0.6)):
        dataset = load_coco(shared / name / "images", shared / name / "annotations.json")
        ious = []
        for entry in dataset.images[:images]:
            image = cv2.cvtColor(cv2.imread(str(entry.path)), cv2.COLOR_BGR2RGB)
            embedding = segmenter.embed(np.asarray(image, np.uint8))
            for rle in entry.rle[:3]:
                ious.append(simulate_user(segmenter, embedding, decode_rle(rle), max_clicks=3).ious[-1])
        assert np.mean(ious) > wanted, name


def test_a_click_snaps_a_loose_proposal_to_the_picture() -> None:
    truth = ellipse((200, 300), 150, 100, 60, 40)
    image = paint((200, 300), [truth])
    loose = ellipse((200, 300), 158, 106, 74, 50)
    clicked = run(image, Prompt(((222.0, 108.0, False),), None, "x"), loose).masks[0]
    assert mask_iou(loose, truth) < 0.65
    assert mask_iou(clicked, truth) > 0.9
    # An outline of something else is not taken: the proposal stays, but for the click's surroundings.
    other = ellipse((200, 300), 150, 100, 15, 90)
    kept = run(image, Prompt(((150.0, 185.0, False),), None, "x"), other).masks[0]
    assert not kept[185, 150]
    assert not kept[100, 100]


@pytest.mark.parametrize(("x", "y", "radius"), [(100, 110, 42), (280, 100, 50), (200, 220, 46)])
def test_one_click_in_the_middle_of_a_plain_disc(x: int, y: int, radius: int) -> None:
    """Red discs on noisy green, the picture of the browser test: the whole disc, nothing cut off."""
    image = np.full((300, 400, 3), (60, 110, 70), np.float64)
    discs = [
        ellipse((300, 400), cx, cy, r, r) for cx, cy, r in ((100, 110, 42), (280, 100, 50), (200, 220, 46))
    ]
    for disc in discs:
        image[disc] = (200, 60, 50)
    image += np.random.default_rng(0).normal(0, 6, image.shape)
    found = run(np.clip(image, 0, 255).astype(np.uint8), Prompt(((x, y, True),), None, "x")).masks[0]
    assert mask_iou(found, ellipse((300, 400), x, y, radius, radius)) > 0.95


@pytest.mark.parametrize("positive", [True, False])
def test_a_click_on_the_edge_moves_it_where_the_colour_agrees(positive: bool) -> None:
    truth = ellipse((120, 120), 60, 60, 30, 30)
    image = paint((120, 120), [truth])
    start = truth.copy()
    if positive:
        start[:32] = False  # a cap of two pixels is missing
        click = (60.0, 31.0, True)
    else:
        start[28:30, 50:70] = True  # a strip of two pixels too much
        click = (60.0, 29.0, False)
    segmenter = ClassicalSegmenter()
    prompt = Prompt(((60.0, 60.0, True), click), None, "x")
    after = segmenter.segment(
        segmenter.embed(image), prompt, start_mask_from(start, from_proposal=False)
    ).masks[0]
    assert after[int(click[1]), int(click[0])] == positive
    assert mask_iou(after, truth) > mask_iou(start, truth)
    assert not (after != start)[40:].any()
