"""What the network is told about a window: distances over edges, the classical answer."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import dijkstra

from ml_backend.clicks.base import Prompt
from ml_backend.clicks.segmenters.classical import ClassicalSegmenter
from ml_backend.clicks.segmenters.input_maps import N_INPUT_MAPS, compute_input_maps, geodesic_distance

Mask = npt.NDArray[np.bool_]
NO_CLICKS = np.zeros((0, 3), np.float32)


def shortest(cost: npt.NDArray[np.float32], seeds: Mask) -> npt.NDArray[np.float64]:
    """The same distances by Dijkstra: entering a pixel costs what it says."""
    height, width = cost.shape
    index = np.arange(height * width).reshape(height, width)
    pairs = [(index[:, :-1], index[:, 1:]), (index[:-1], index[1:])]
    start = np.concatenate([np.concatenate([a.ravel(), b.ravel()]) for a, b in pairs])
    end = np.concatenate([np.concatenate([b.ravel(), a.ravel()]) for a, b in pairs])
    graph = coo_matrix(
        (cost.ravel()[end].astype(float), (start, end)), shape=(index.size, index.size)
    ).tocsr()
    return np.asarray(dijkstra(graph, indices=np.flatnonzero(seeds), min_only=True)).reshape(cost.shape)


@pytest.mark.parametrize("seed", range(4))
def test_distances_are_those_of_dijkstra(seed: int) -> None:
    rng = np.random.default_rng(seed)
    cost = rng.uniform(0.1, 3, (17, 23)).astype(np.float32)
    seeds = rng.random((17, 23)) < 0.02
    seeds[3, 4] = True
    found = geodesic_distance(cost, seeds, rounds=30)
    np.testing.assert_allclose(found, shortest(cost, seeds), rtol=1e-3, atol=1e-2)
    few = geodesic_distance(cost, seeds)
    assert (few >= found - 1e-2).all()  # fewer rounds find longer ways, never shorter ones
    assert np.mean(few > found * 1.05 + 0.01) < 0.05


def test_stacks_are_those_one_by_one_and_no_seed_is_far() -> None:
    rng = np.random.default_rng(9)
    cost = rng.uniform(0.1, 3, (2, 1, 12, 10)).astype(np.float32)
    seeds = np.zeros((1, 2, 12, 10), np.bool_)
    seeds[0, 0, 5, 5] = True
    found = geodesic_distance(cost, seeds)
    assert found.shape == (2, 2, 12, 10)
    for i in range(2):
        np.testing.assert_allclose(found[i, 0], geodesic_distance(cost[i, 0], seeds[0, 0]), atol=1e-3)
    assert found[:, 0].max() < 1e3
    assert found[:, 1].min() > 9e3


def scene() -> tuple[npt.NDArray[np.uint8], Mask]:
    """A bright square on a dark ground, 64×64."""
    mask = np.zeros((64, 64), np.bool_)
    mask[16:48, 20:52] = True
    image = np.random.default_rng(0).normal(60, 6, (64, 64, 3))
    image[mask] += 120
    return np.clip(image, 0, 255).astype(np.uint8), mask


def test_maps_tell_the_clicked_region_from_the_rest() -> None:
    image, mask = scene()
    empty, nothing = np.zeros((3, 64, 64), np.float32), np.zeros((64, 64), np.bool_)
    points = np.array([(35, 30, 1)], np.float32)
    maps = compute_input_maps(image, empty, nothing, points)
    assert maps.shape == (N_INPUT_MAPS, 64, 64)
    assert maps.dtype == np.float32
    alone = ClassicalSegmenter()
    expected = alone.segment(alone.embed(image), Prompt(((35.5, 30.5, True),), None, ""), None).masks[0]
    assert (maps[0] == expected).all()
    inner = np.zeros_like(mask)
    inner[20:44, 24:48] = True
    for near, which in ((1, 2), (3, 4)):
        assert maps[near][inner].min() > maps[near][~mask].max()
        assert not maps[which].any()  # clicks of one sign only
    both = compute_input_maps(image, empty, nothing, np.array([(35, 30, 1), (6, 6, 0)], np.float32))
    for which in (2, 4):
        assert both[which][inner].min() > 0.2
        assert both[which][:10, :10].max() < 0
        assert np.abs(both[which]).max() <= 1


def test_previous_mask_is_corrected_only_where_a_click_contradicts_it() -> None:
    image, mask = scene()
    empty = np.zeros((3, 64, 64), np.float32)
    previous = mask.copy()
    previous[16:48, 40:52] = False
    assert (compute_input_maps(image, empty, previous, NO_CLICKS)[0] == previous).all()
    agreed = compute_input_maps(image, empty, previous, np.array([(25, 30, 1)], np.float32))
    assert (agreed[0] == previous).all()
    added = compute_input_maps(image, empty, previous, np.array([(46, 32, 1)], np.float32))[0] > 0
    assert (added & mask).sum() > 0.9 * mask.sum()


def test_a_box_is_answered_too() -> None:
    image, mask = scene()
    clicks = np.zeros((3, 64, 64), np.float32)
    clicks[2, 14:50, 18:54] = 1
    maps = compute_input_maps(image, clicks, np.zeros((64, 64), np.bool_), NO_CLICKS)
    found = maps[0] > 0
    assert (found & mask).sum() > 0.9 * (found | mask).sum()
    assert not maps[1:].any()
