"""A first click seen in several windows: the answer with which the others agree most is given."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from ml_backend.clicks.base import ClickResult, Embedding, Prompt, StartMask
from ml_backend.clicks.segmenters.windows import Mask, Window, mean_agreement
from ml_backend.clicks.segmenters.zoom import ZoomSegmenter
from ml_backend.clicks.start_masks import box_of_mask

HW = (200, 240)
CLICK = Prompt(((120.0, 100.0, True),), None, "")


def disc(radius: float) -> Mask:
    ys, xs = np.mgrid[: HW[0], : HW[1]]
    return np.asarray((xs - 120) ** 2 + (ys - 100) ** 2 <= radius**2)


def iou(one: Mask, two: Mask) -> float:
    return float((one & two).sum() / (one | two).sum())


class Windows(ZoomSegmenter):
    """Sees a disc around the click, of another radius in each window; ``sure``: how high its logits are."""

    name = encoder = "windows"
    size = 64
    first_side = 60.0

    def __init__(
        self, radius: dict[int, float], opinion: float | None = None, sure: dict[int, float] | None = None
    ) -> None:
        self.more_first_sides = tuple(float(side) for side in radius if side != 60)
        self._radius, self._opinion, self._sure = radius, opinion, sure or {}
        self.looks: list[int] = []

    def _look(
        self,
        image: npt.NDArray[np.uint8],
        prompt: Prompt,
        start_mask: StartMask | None,
        window: Window,
    ) -> npt.NDArray[np.float32]:
        self.looks.append(window.side)
        nearest = min(self._radius, key=lambda side: abs(side - window.side))
        scale = window.side / self.size
        at = (np.arange(self.size) + 0.5) * scale - 0.5
        inside = (at[None] + window.x0 - 120) ** 2 + (at[:, None] + window.y0 - 100) ** 2
        height = self._sure.get(nearest, 8.0)
        return np.where(inside <= self._radius[nearest] ** 2, height, -height).astype(np.float32)

    def _logits(self, *args: npt.NDArray[np.generic]) -> npt.NDArray[np.float32]:
        raise NotImplementedError

    def _other_opinion(self, embedding: Embedding, prompt: Prompt) -> ClickResult | None:
        if self._opinion is None:
            return None
        return ClickResult(disc(self._opinion)[None], np.array([0.4], np.float32), None)


def first(segmenter: Windows) -> Mask:
    embedding = segmenter.embed(np.zeros((*HW, 3), np.uint8))
    return np.asarray(segmenter.segment(embedding, CLICK, None).masks[0])


def test_the_window_that_others_agree_with_answers_though_another_is_surer() -> None:
    radius = {60: 12.0, 120: 40.0, 180: 44.0}
    found = first(Windows(radius, sure={60: 30.0, 120: 2.0, 180: 2.0}))
    assert iou(found, disc(40)) > 0.9
    lonely = first(Windows({60: 12.0, 120: 13.0, 180: 44.0}, sure={60: 2.0, 120: 2.0, 180: 30.0}))
    assert iou(lonely, disc(12.5)) > 0.8


def test_somebody_elses_answer_counts_as_one_of_them() -> None:
    radius = {60: 12.0, 180: 44.0}
    assert iou(first(Windows(radius, opinion=40.0)), disc(44)) > 0.8
    assert iou(first(Windows(radius, opinion=13.0)), disc(12.5)) > 0.8


def test_their_answer_itself_can_be_given_with_its_own_score() -> None:
    segmenter = Windows({60: 12.0, 180: 26.0}, opinion=18.0)  # between the two
    embedding = segmenter.embed(np.zeros((*HW, 3), np.uint8))
    best, others = segmenter._segment(embedding, CLICK, None)
    np.testing.assert_array_equal(best.masks[0], disc(18))
    assert best.iou[0] == np.float32(0.4)
    assert len(others) == 2
    assert segmenter.segment_all(embedding, CLICK).masks.shape == (3, *HW)


def test_a_network_that_knows_the_usual_size_looks_once_and_asks_nobody() -> None:
    segmenter = Windows({60: 20.0}, opinion=50.0)
    assert iou(first(segmenter), disc(20)) > 0.85
    assert len(segmenter.looks) == 1


def test_later_clicks_and_boxes_have_one_window() -> None:
    segmenter = Windows({60: 20.0, 180: 44.0}, opinion=50.0)
    embedding = segmenter.embed(np.zeros((*HW, 3), np.uint8))
    start = StartMask(disc(30), None, box_of_mask(disc(30)), False)
    for prompt, before in ((CLICK, start), (Prompt((), (90.0, 70.0, 150.0, 130.0), ""), None)):
        segmenter.looks.clear()
        assert segmenter._segment(embedding, prompt, before)[1] == []
        assert max(segmenter.looks) < 180


@pytest.mark.parametrize(
    ("radii", "wanted"),
    [
        ((10.0,), [0.0]),
        ((10.0, 10.0), [1.0, 1.0]),
        ((10.0, 10.0, -1.0), [0.5, 0.5, 0.0]),
        ((-1.0, -1.0), [0.0, 0.0]),
    ],
)
def test_agreement_is_the_mean_iou_with_the_others(radii: tuple[float, ...], wanted: list[float]) -> None:
    masks = [disc(radius) if radius > 0 else np.zeros(HW, bool) for radius in radii]
    np.testing.assert_allclose(mean_agreement(masks), wanted)


def test_agreement_of_different_masks() -> None:
    small, large = disc(20), disc(40)
    shared = iou(small, large)
    np.testing.assert_allclose(
        mean_agreement([small, large, large]), [shared, (shared + 1) / 2, (shared + 1) / 2]
    )
