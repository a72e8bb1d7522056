"""Masks of everything on a picture: which count, which are doubles, and what a picture may cost."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch

from ml_backend.clicks.base import ClickResult, Embedding, Prompt, StartMask
from ml_backend.clicks.everything import PointsSegmenter, segment_everything
from ml_backend.clicks.everything_settings import EverythingSettings
from ml_backend.clicks.segmenters.classical import ClassicalSegmenter
from ml_backend.clicks.segmenters.hf import HfSegmenter
from ml_backend.clicks.segmenters.hf_models import load_model
from ml_backend.masks.rle import decode_rle, rle_hw
from tests.ml_backend.clicks.hf_folders import KINDS, save

ALL = EverythingSettings(side=16, min_score=0.0, min_stability=0.0, min_trust=0.0, overlap=1.0)


class Plain:
    """The clicked pixel's brightness everywhere, or the brightest of a box; notes what it was asked."""

    name = encoder = "plain"
    nbytes = 0
    device = "cpu"

    def __init__(self, *, persist: bool = True, iou: float = 0.9, edge: float = 5.0) -> None:
        self.persist, self.iou, self.edge = persist, iou, edge
        self.asked: list[Prompt] = []
        self.seen = (0, 0)

    def embed(self, image: npt.NDArray[np.uint8]) -> Embedding:
        self.seen = (image.shape[0], image.shape[1])
        return Embedding(self.encoder, self.seen, {"pixels": image})

    def segment(self, embedding: Embedding, prompt: Prompt, start_mask: StartMask | None) -> ClickResult:
        self.asked.append(prompt)
        grey = embedding.arrays["pixels"][..., 0].astype(int)
        if prompt.box is not None:
            x0, y0, x1, y1 = (round(v) for v in prompt.box)
            inside = np.zeros(grey.shape, np.bool_)
            inside[y0:y1, x0:x1] = True
            here = inside & (grey == grey[inside].max()) & (grey > 0)
            return ClickResult(here[None], np.array([self.iou], np.float32), None)
        ((x, y, _),) = prompt.points
        here = grey == grey[int(y), int(x)]
        logits = np.where(here, self.edge, -self.edge).astype(np.float32)
        return ClickResult(here[None], np.array([self.iou], np.float32), logits[None])


def scene() -> npt.NDArray[np.uint8]:
    """Two rectangles on black, which covers too much to be an object itself."""
    image = np.zeros((80, 100, 3), np.uint8)
    image[10:30, 10:40] = 120
    image[45:70, 50:90] = 220
    return image


def boxes(image: npt.NDArray[np.uint8], segmenter: object, settings: EverythingSettings) -> list[list[int]]:
    found = segment_everything(segmenter, image, settings)  # type: ignore[arg-type]
    return sorted([c.x, c.y, c.x + c.inside.shape[1], c.y + c.inside.shape[0]] for c in found.crops)


@pytest.mark.parametrize("persist", [True, False])
def test_each_object_is_found_once(persist: bool) -> None:
    segmenter = Plain(persist=persist)
    found = boxes(scene(), segmenter, replace(ALL, overlap=0.5))
    # a box around a candidate may miss the last pixel of the object
    assert np.allclose(found, [[10, 10, 40, 30], [50, 45, 90, 70]], atol=0 if persist else 2)
    assert all((prompt.box is None) == persist for prompt in segmenter.asked)


def test_points_on_a_mask_that_counts_are_not_asked_again() -> None:
    small = np.zeros((160, 160, 3), np.uint8)
    small[40:72, 40:72] = 200  # 4 % of the picture
    asked = Plain()
    segment_everything(asked, small, replace(ALL, side=16, max_share=0.3))
    on_it = [p for prompt in asked.asked for p in prompt.points if 40 <= p[0] < 72 and 40 <= p[1] < 72]
    assert len(on_it) == 1
    assert len(asked.asked) > 200  # the background is no mask that counts
    assert len({prompt.points for prompt in asked.asked}) == len(asked.asked)


def test_masks_that_are_unsure_unstable_or_of_a_wrong_size_do_not_count() -> None:
    image = scene()
    assert boxes(image, Plain(iou=0.4), replace(ALL, min_score=0.5)) == []
    assert boxes(image, Plain(iou=float("nan")), ALL) == []
    assert boxes(image, Plain(iou=float("nan"), persist=False), ALL) == []
    assert boxes(image, Plain(edge=0.5), replace(ALL, min_stability=0.5)) == []
    assert boxes(image, Plain(iou=0.4), replace(ALL, min_trust=0.5)) == []
    assert boxes(image, Plain(), replace(ALL, min_px=700)) == [[50, 45, 90, 70]]
    assert boxes(image, Plain(), replace(ALL, max_share=0.1)) == [[10, 10, 40, 30]]
    assert len(boxes(image, Plain(), replace(ALL, most=1))) == 1


def test_points_on_a_large_mask_are_asked_too() -> None:
    """It may hold further objects."""
    image = np.zeros((160, 160, 3), np.uint8)
    image[32:128, 32:128] = 120  # 36 % of the picture
    image[60:66, 60:66] = 220  # between the points of the coarse grids
    found = boxes(image, Plain(), replace(ALL, side=32, max_share=0.5, min_px=10))
    assert [60, 60, 66, 66] in found
    assert [32, 32, 128, 128] in found


class Soft(Plain):
    """Sure of what is bright, and in doubt about as much beside it."""

    def segment(self, embedding: Embedding, prompt: Prompt, start_mask: StartMask | None) -> ClickResult:
        sure = super().segment(embedding, prompt, start_mask)
        assert sure.logits is not None
        beside = np.roll(sure.masks, 15, axis=2) & ~sure.masks
        return ClickResult(sure.masks, sure.iou, np.where(beside, np.float32(-0.5), sure.logits))


def test_a_mask_that_would_grow_at_a_lower_threshold_is_unstable() -> None:
    stable = segment_everything(Plain(), scene(), ALL)
    assert stable.stability.tolist() == [1.0, 1.0]
    soft = segment_everything(Soft(), scene(), ALL)
    assert len(soft.crops) == 2
    assert ((soft.stability > 0.4) & (soft.stability < 0.8)).all()


class Partial(Plain):
    """Answers a box with the left quarter of it."""

    def segment(self, embedding: Embedding, prompt: Prompt, start_mask: StartMask | None) -> ClickResult:
        assert prompt.box is not None
        x0, y0, x1, y1 = (round(v) for v in prompt.box)
        here = np.zeros(embedding.hw, np.bool_)
        here[y0:y1, x0 : x0 + max(1, (x1 - x0) // 4)] = True
        return ClickResult(here[None], np.array([0.9], np.float32), None)


def test_an_answer_unlike_its_candidate_is_not_trusted() -> None:
    found = segment_everything(Partial(persist=False), scene(), ALL)
    assert len(found.crops)
    assert found.stability.max() < 0.5
    assert boxes(scene(), Partial(persist=False), replace(ALL, min_trust=0.5)) == []


def test_small_parts_and_holes_are_dropped() -> None:
    image = scene()
    image[2:4, 96:98] = 120  # a speck of the brightness of the first object
    image[20:22, 20:22] = 0  # a hole in it
    found = segment_everything(Plain(), image, ALL)
    (first,) = [crop for crop in found.crops if crop.x == 10]
    assert first.inside.shape == (20, 30)
    assert first.inside.all()


class Nested(Plain):
    """Knows two masks of a click: the whole and the left half of it, which is less sure."""

    def segment_all(self, embedding: Embedding, prompt: Prompt) -> ClickResult:
        whole = self.segment(embedding, prompt, None)
        half = whole.masks[0].copy()
        columns = np.flatnonzero(half.any(axis=0))
        half[:, columns[len(columns) // 2] :] = False
        logits = np.where(np.stack([whole.masks[0], half]), 5.0, -5.0).astype(np.float32)
        return ClickResult(np.stack([whole.masks[0], half]), np.array([0.9, 0.8], np.float32), logits)


def test_of_parts_and_wholes_the_surer_ones_stay() -> None:
    assert len(boxes(scene(), Nested(), ALL)) == 4
    assert boxes(scene(), Nested(), replace(ALL, overlap=0.5)) == [[10, 10, 40, 30], [50, 45, 90, 70]]
    assert boxes(scene(), Nested(), replace(ALL, nms=0.4)) == [[10, 10, 40, 30], [50, 45, 90, 70]]


def test_the_same_picture_gives_the_same_masks_and_a_blank_one_none() -> None:
    rng = np.random.default_rng(0)
    image = scene()
    image += rng.integers(0, 20, image.shape, dtype=np.uint8)
    segmenter = ClassicalSegmenter()
    settings = EverythingSettings(candidates=8, min_trust=0.1)
    one, two = (segment_everything(segmenter, image, settings) for _ in range(2))
    assert len(one.crops) >= 2
    assert one.rles() == two.rles()
    assert one.trust.tolist() == sorted(two.trust.tolist(), reverse=True)
    blank = np.full((40, 50, 3), 90, np.uint8)
    for segmenter_of_any in (segmenter, Plain(persist=True), Plain(persist=False)):
        nothing = segment_everything(segmenter_of_any, blank)
        assert (nothing.crops, nothing.trust.shape, nothing.rles()) == ([], (0,), [])
    for shape in ((1, 1, 3), (1, 300, 3), (300, 2, 3)):
        assert segment_everything(Plain(), np.zeros(shape, np.uint8)).crops == []


@pytest.mark.parametrize("persist", [True, False])
def test_a_huge_picture_is_looked_at_reduced(persist: bool) -> None:
    image = np.zeros((1000, 4000, 3), np.uint8)
    image[300:700, 1000:1800] = 200
    segmenter = Plain(persist=persist)
    found = segment_everything(segmenter, image, replace(ALL, work_side=512))
    assert segmenter.seen == (128, 512)
    assert (found.hw, found.work_hw) == ((1000, 4000), (128, 512))
    assert {rle_hw(rle) for rle in found.rles()} == {(1000, 4000)}
    truth = image[..., 0] > 0
    masks = [decode_rle(rle) for rle in found.rles()]
    assert max((mask & truth).sum() / (mask | truth).sum() for mask in masks) > 0.9


@pytest.fixture(scope="module", params=KINDS)
def hf(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> HfSegmenter:
    torch.set_num_threads(1)
    return HfSegmenter(*load_model(save(request.param, tmp_path_factory.mktemp("hf") / request.param)))


def test_many_clicks_at_once_answer_as_each_alone(hf: HfSegmenter) -> None:
    image = (np.random.default_rng(0).random((90, 130, 3)) * 255).astype(np.uint8)
    embedding = hf.embed(image)
    points = np.array([[60.0, 45.0], [20.0, 70.0], [101.0, 30.0]], np.float32)
    assert isinstance(hf, PointsSegmenter)
    together = hf.segment_points(embedding, points)
    each = len(together.masks) // len(points)
    assert together.masks.shape == (3 * each, 90, 130)
    assert together.logits is not None
    for number, (x, y) in enumerate(points.tolist()):
        alone = hf.segment(embedding, Prompt(((x, y, True),), None, ""), None)
        rows = slice(number * each, (number + 1) * each)
        best = int(together.iou[rows].argmax())
        assert together.iou[rows][best] == pytest.approx(float(alone.iou[0]), abs=1e-5)
        assert alone.logits is not None
        limit = float(np.abs(alone.logits).max())
        assert np.allclose(together.logits[rows][best].clip(-limit, limit), alone.logits[0], atol=1e-3)


def test_random_weights_of_transformers_give_masks_of_everything(hf: HfSegmenter) -> None:
    image = (np.random.default_rng(1).random((90, 130, 3)) * 255).astype(np.uint8)
    settings = replace(ALL, side=4, max_share=1.0, min_px=1)
    found = segment_everything(hf, image, settings)
    assert {rle_hw(rle) for rle in found.rles()} == {(90, 130)}
    assert found.rles() == segment_everything(hf, image, settings).rles()
