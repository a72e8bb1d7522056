"""Overlaps from packed bits, and what is chosen by them."""

from __future__ import annotations

import numpy as np
import torch

from ml_backend.learners.weak.bags import Bag, Drawn, is_big, make_bag
from ml_backend.learners.weak.candidates import Crop, Maps
from ml_backend.learners.weak.maps import FINE, GRID, grid_side, overlap_maps, pack, unpack
from ml_backend.learners.weak.proposals import Proposals
from ml_backend.learners.weak.responses import class_responses
from ml_backend.learners.weak.selection import select, suppress
from ml_backend.learners.weak.tag_metrics import tag_metrics
from ml_backend.masks.shapes import box_rle

HW = (128, 128)


def box(x: int, y: int, w: int, h: int) -> Crop:
    return Crop(x, y, np.ones((h, w), np.bool_))


def test_iou_and_cover_are_those_of_the_pixels() -> None:
    rng = np.random.default_rng(0)
    crops = [
        Crop(int(x), int(y), rng.random((int(h), int(w))) < 0.7)
        for x, y, w, h in zip(*rng.integers(0, 60, (2, 12)), *rng.integers(20, 60, (2, 12)), strict=True)
    ]
    dense = np.zeros((12, *HW), np.float32)
    for mask, crop in zip(dense, crops, strict=True):
        h, w = crop.inside.shape
        mask[crop.y : crop.y + h, crop.x : crop.x + w] = crop.inside
    packed = pack(crops, HW, GRID)
    assert np.array_equal(unpack(packed), dense > 0)
    flat = dense.reshape(12, -1)
    shared, area = flat @ flat.T, flat.sum(axis=1)
    iou, cover = overlap_maps(packed)
    assert np.allclose(iou, shared / (area[:, None] + area - shared))
    assert np.allclose(cover, shared / area[None, :])
    some, _ = overlap_maps(packed[:3], packed)
    assert np.array_equal(some, iou[:3])


def test_no_masks_have_maps_too_and_specks_keep_a_cell() -> None:
    iou, cover = overlap_maps(pack([], HW, GRID))
    assert iou.shape == cover.shape == (0, 0)
    speck = pack([box(511, 0, 1, 1)], (512, 512), GRID)
    assert np.bitwise_count(speck).sum() == 1


def test_small_masks_get_a_fine_grid() -> None:
    assert grid_side([box(0, 0, 40, 40)], HW) == GRID
    assert grid_side([box(0, 0, 4, 4)], HW) == FINE


def test_only_what_covers_nearly_all_is_the_scene() -> None:
    crops = [box(0, 0, 128, 128), *(box(10 * i, 10 * i, 9, 9) for i in range(10))]
    _, cover = overlap_maps(pack(crops, HW, GRID))
    assert is_big(cover).tolist() == [True] + [False] * 10


def test_suppression_goes_by_masks_and_by_what_contains_what() -> None:
    whole, part, double, other = (
        box(10, 10, 40, 40),
        box(12, 12, 10, 10),
        box(11, 11, 40, 40),
        box(60, 60, 9, 9),
    )
    iou, cover = overlap_maps(pack([whole, part, double, other], HW, GRID))
    score = np.array([0.9, 0.8, 0.7, 0.2], np.float32)
    assert suppress(score, iou, cover, 0.3).tolist() == [0, 3]
    # two diagonal lines whose boxes overlap entirely are two objects
    line = np.eye(40, dtype=np.bool_)
    crossing = [Crop(10, 10, line), Crop(10, 10, line[::-1])]
    iou, cover = overlap_maps(pack(crossing, HW, GRID))
    assert len(suppress(np.array([0.9, 0.8], np.float32), iou, cover, 0.3)) == 2


def test_the_best_of_each_tag_stays_and_other_labels_go() -> None:
    crops = [box(0, 0, 20, 20), box(40, 0, 20, 20), box(80, 0, 20, 20)]
    iou, cover = overlap_maps(pack(crops, HW, GRID))
    score = np.array([[0.9, 0.1, 0.8], [0.2, 0.05, 0.1], [0.6, 0.01, 0.3]], np.float32)
    tagged = select(score, iou, cover, threshold=0.5, nms=0.3, tags=np.array([True, True, False]))
    assert list(zip(tagged.place.tolist(), tagged.label.tolist(), strict=True)) == [(0, 0), (2, 0), (0, 1)]
    free = select(score, iou, cover, threshold=0.5, nms=0.3)
    assert set(free.label.tolist()) == {0}


def test_tags_are_measured_where_pictures_differ() -> None:
    score = np.array([[0.9, 0.5], [0.8, 0.5], [0.3, 0.5], [0.1, 0.5]], np.float32)
    tags = np.array([[True, True], [False, True], [True, True], [False, True]])
    found = tag_metrics(score, tags, ("a", "b"))
    assert set(found) == {"tags", "tags/a"}
    assert np.isclose(found["tags"][0], (1 + 2 / 3) / 2)
    assert found["tags"][1] <= found["tags"][0] <= found["tags"][2]
    assert tag_metrics(score[:0], tags[:0], ("a", "b")) == {}


def test_equal_scores_count_the_same_in_any_order() -> None:
    score = np.full((4, 1), 0.5, np.float32)
    for tags in ([True, True, False, False], [False, False, True, True]):
        assert tag_metrics(score, np.array(tags)[:, None], ("a",))["tags/a"][0] == 0.5


def bag_of(crops: list[Crop], drawn: Drawn) -> Bag:
    n = len(crops)
    maps = Maps(np.zeros((*HW, 3), np.float32), np.zeros(HW, np.float32))
    found = Proposals(
        HW, HW, crops, pack(crops, HW, GRID), np.ones(n, np.float32), np.zeros((n, 1), np.float32), maps
    )
    return make_bag(1, found, np.ones((n, 3), np.float32), (0,), drawn, 2)


def test_what_a_person_drew_is_no_scene_however_large() -> None:
    crops = [*(box(10 * i, 10 * i, 9, 9) for i in range(10)), box(0, 0, 128, 128)]
    assert bag_of(crops, Drawn()).big.tolist() == [False] * 10 + [True]
    whole = box_rle((0, 0, 128, 128), HW)
    assert not bag_of(crops, Drawn(((1, whole),))).big.any()


def test_a_picture_with_one_proposal_has_a_response() -> None:
    bags = [bag_of([box(10, 10, 20, 20)], Drawn()) for _ in range(2)]
    bags[1].tags[:] = (False, True)
    for response in class_responses(bags, torch.zeros(3), torch.ones(3)):
        assert np.isfinite(response).all()
