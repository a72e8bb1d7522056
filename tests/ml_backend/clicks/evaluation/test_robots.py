"""Both click robots on masks small enough to check by hand."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.ndimage import distance_transform_edt

from ml_backend.clicks.evaluation.robots import ROBOTS, Robot, component_robot, inner_distance, ritm_robot

Mask = npt.NDArray[np.bool_]


def block(shape: tuple[int, int], *boxes: tuple[int, int, int, int]) -> Mask:
    """(x0, y0, x1, y1) boxes, exclusive ends."""
    mask = np.zeros(shape, bool)
    for x0, y0, x1, y1 in boxes:
        mask[y0:y1, x0:x1] = True
    return mask


NOTHING = block((20, 30))


@pytest.mark.parametrize("robot", [ritm_robot, component_robot])
def test_first_click_is_the_middle_of_the_object(robot: Robot) -> None:
    click = robot(NOTHING, block((20, 30), (10, 5, 15, 10)), [])
    assert click is not None
    assert (click.x, click.y, click.positive) == (12, 7, True)
    assert click.depth_px == 3.0


@pytest.mark.parametrize("robot", [ritm_robot, component_robot])
def test_border_counts_as_outside(robot: Robot) -> None:
    # A full-picture object: without the zero border every distance would be undefined; with it the middle
    # wins.
    click = robot(block((9, 9)), block((9, 9), (0, 0, 9, 9)), [])
    assert click is not None
    assert (click.x, click.y, click.depth_px) == (4, 4, 5.0)


@pytest.mark.parametrize("robot", [ritm_robot, component_robot])
def test_nothing_wrong_nothing_to_click(robot: Robot) -> None:
    target = block((20, 30), (3, 3, 9, 9))
    assert robot(target, target.copy(), []) is None
    assert robot(NOTHING, NOTHING, []) is None


@pytest.mark.parametrize("robot", [ritm_robot, component_robot])
def test_too_much_gives_a_negative_click(robot: Robot) -> None:
    target = block((20, 30), (2, 2, 9, 9))
    click = robot(target | block((20, 30), (15, 8, 20, 13)), target, [])
    assert click is not None
    assert (click.x, click.y, click.positive) == (17, 10, False)


def test_the_two_robots_differ_as_defined() -> None:
    # Missing: a long thin strip of 2x20 = 40 px, depth 1. Superfluous: a compact square of 5x5 = 25 px,
    # depth 3.
    target = block((20, 30), (5, 15, 25, 17))
    predicted = block((20, 30), (5, 3, 10, 8))
    by_area, by_depth = component_robot(predicted, target, []), ritm_robot(predicted, target, [])
    assert by_area is not None
    assert by_depth is not None
    assert (by_area.positive, by_area.wrong_px) == (True, 40)
    assert (by_depth.positive, by_depth.x, by_depth.y) == (False, 7, 5)


def test_ritm_never_clicks_twice() -> None:
    target = block((20, 30), (10, 5, 15, 10))
    clicked: list[tuple[int, int]] = []
    for _ in range(25):
        click = ritm_robot(NOTHING, target, clicked)
        assert click is not None
        assert (click.x, click.y) not in clicked
        clicked.append((click.x, click.y))
    assert ritm_robot(NOTHING, target, clicked) is None


def test_ties() -> None:
    target, predicted = block((20, 30), (1, 1, 6, 6)), block((20, 30), (20, 1, 25, 6))
    ritm, component = ritm_robot(predicted, target, []), component_robot(predicted, target, [])
    assert ritm is not None
    assert not ritm.positive
    assert component is not None
    assert component.positive


def test_diagonal_neighbours_are_one_component() -> None:
    target = block((20, 30), (0, 0, 3, 3), (3, 3, 6, 6), (10, 10, 14, 14))
    click = component_robot(NOTHING, target, [])
    assert click is not None
    assert click.wrong_px == 18


@pytest.mark.parametrize("robot", ROBOTS.values())
def test_soft_masks_are_refused(robot: Robot) -> None:
    soft = np.full((4, 4), 0.2)
    with pytest.raises(ValueError, match="binarise first"):
        robot(soft, np.zeros((4, 4), bool), [])
    with pytest.raises(ValueError, match="alike"):
        robot(np.zeros((4, 5), bool), np.zeros((4, 4), bool), [])


masks = arrays(bool, (11, 13), elements=st.booleans())


@settings(max_examples=60, deadline=None)
@given(masks, masks)
def test_clicks_against_an_independent_definition(predicted: Mask, target: Mask) -> None:
    def depth(mask: Mask) -> npt.NDArray[np.float64]:
        return np.asarray(distance_transform_edt(np.pad(mask, 1)))[1:-1, 1:-1]

    missing, extra = depth(target & ~predicted), depth(predicted & ~target)
    np.testing.assert_allclose(inner_distance(target & ~predicted), missing, rtol=1e-5)
    click = ritm_robot(predicted, target, [])
    if click is None:
        assert (predicted == target).all()
    else:
        assert click.positive == bool(target[click.y, click.x])
        assert predicted[click.y, click.x] != target[click.y, click.x]
        assert click.positive == (missing.max() > extra.max())
        assert click.depth_px == pytest.approx(max(missing.max(), extra.max()), rel=1e-5)
