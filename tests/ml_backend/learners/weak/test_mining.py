"""Which proposals are mined, and what the others learn from them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ml_backend.examples import Example
from ml_backend.learners.weak.bags import Bag, drawn_of
from ml_backend.learners.weak.candidates import Crop
from ml_backend.learners.weak.maps import GRID, overlap_maps, pack
from ml_backend.learners.weak.mining import MiningSettings, mine
from ml_backend.learners.weak.seeds import initial_clusters
from ml_backend.masks.shapes import box_rle

HW = (128, 128)
PART, WHOLE, LOOSE, OTHER, FAR = range(5)
CROPS = [(20, 20, 10, 10), (16, 16, 30, 30), (14, 14, 36, 36), (80, 16, 30, 30), (20, 90, 20, 20)]


def bag_of(tags: tuple[bool, ...] = (True, False)) -> Bag:
    crops = [Crop(x, y, np.ones((h, w), np.bool_)) for x, y, w, h in CROPS]
    packed = pack(crops, HW, GRID)
    iou, cover = overlap_maps(packed)
    n = len(crops)
    return Bag(
        task_id=1,
        features=np.zeros((n, 3), np.float32),
        prior=np.array([0.6, 0.8, 0.3, 0.7, 0.1], np.float32),
        iou=iou.astype(np.float16),
        cover=cover.astype(np.float16),
        big=np.zeros(n, np.bool_),
        tags=np.array(tags),
        given=np.full(n, -1, np.int64),
        points=(),
        crops=crops,
        work_hw=HW,
        hw=HW,
        packed=packed,
    )


def scores(values: list[float], label: int = 0) -> npt.NDArray[np.float32]:
    found = np.zeros((len(values), 3), np.float32)
    found[:, label + 1] = values
    found[:, 0] = 1 - np.asarray(values)
    return found


QUIET = np.zeros(5, np.bool_)
ONE_SEED = MiningSettings(seed_share=0.2)


def run(bag: Bag, classes: list[float], integrity: list[float], settings: MiningSettings = ONE_SEED):  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(0)
    return mine(bag, scores(classes), scores(integrity), 1, settings, rng, QUIET)


def test_a_part_is_replaced_by_the_complete_object_that_contains_it() -> None:
    pseudo = run(bag_of(), [0.9, 0.6, 0.5, 0.1, 0.1], [0.2, 0.8, 0.4, 0.9, 0.1])
    assert pseudo.mined.tolist() == [WHOLE]
    assert pseudo.label.tolist() == [0, 1, 1, 0, 0]  # the part is background, the loose mask is the object
    assert np.isclose(pseudo.weight[WHOLE], 0.6 * 0.8)
    assert pseudo.weight[[OTHER, FAR]].tolist() == [0, 0]  # nothing is known of what overlaps nothing
    assert pseudo.complete.tolist() == [0, 1, 1, 0, 0]


def test_without_integrity_the_part_stays() -> None:
    off = MiningSettings(seed_share=0.2, integrity=False)
    assert run(bag_of(), [0.9, 0.6, 0.5, 0.1, 0.1], [0.2, 0.8, 0.4, 0.9, 0.1], off).mined.tolist() == [PART]


def test_scenes_are_never_mined_and_quiet_proposals_are_background() -> None:
    bag = bag_of()
    bag.big[LOOSE] = True
    rng = np.random.default_rng(0)
    classes, integrity = scores([0.9, 0.1, 0.5, 0.1, 0.1]), scores([0.1, 0.2, 0.9, 0.9, 0.1])
    quiet = np.array([False, False, False, False, True])
    pseudo = mine(bag, classes, integrity, 0, ONE_SEED, rng, quiet)
    assert pseudo.mined.tolist() == [WHOLE]
    assert pseudo.weight[FAR] > 0
    assert pseudo.label[FAR] == 0


def test_drawn_masks_and_points_are_taken_as_they_are() -> None:
    bag = bag_of()
    bag.given[OTHER] = 0
    assert run(bag, [0.9] * 5, [0.9] * 5).mined.tolist() == [OTHER]
    at = np.array([True, True, True, False, False])
    pointed = dataclasses.replace(bag_of(), points=((0, at),))
    assert run(pointed, [0.5, 0.6, 0.3, 0.9, 0.9], [0.5, 0.8, 0.4, 0.9, 0.9]).mined.tolist() == [WHOLE]


def test_pictures_without_a_tag_are_background() -> None:
    pseudo = run(bag_of((False, False)), [0.9] * 5, [0.9] * 5)
    assert not pseudo.label.any()
    assert pseudo.weight.all()


def test_clusters_grow_around_the_strongest_responses() -> None:
    bag = bag_of()
    response = np.stack([bag.prior, bag.prior], axis=1)
    found = initial_clusters(bag, response, np.array([True, True]))
    assert found.label.tolist() == [0, 0]
    assert found.cluster[WHOLE] == found.cluster[LOOSE] == 0
    assert found.cluster[OTHER] == 1
    assert found.background[PART]  # overlaps an object without being it
    assert found.cluster[FAR] == -1
    assert not found.background[FAR]
    # where every picture has the tag, nothing else says what is background
    alone = initial_clusters(bag, response, np.array([False, False]))
    assert alone.background[FAR]


def test_tiny_masks_are_points_and_empty_ones_nothing() -> None:
    masks = (box_rle((10, 20, 14, 24), HW), box_rle((0, 0, 60, 60), HW))
    drawn = drawn_of(Example(1, Path("x.png"), (0, 1), masks))
    assert [label for label, _ in drawn.masks] == [1]
    assert drawn.points == ((0, 12 / 128, 22 / 128),)
