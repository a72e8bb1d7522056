"""A click segmenter as the source of proposals."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from ml_backend.clicks.base import ClickResult, Embedding, Prompt, StartMask
from ml_backend.clicks.serving.automatic_masks import SegmenterMasks
from ml_backend.errors import BadInput, ModelError
from ml_backend.learners.weak.maps import unpack
from ml_backend.learners.weak.proposals import find_proposals
from ml_backend.learners.weak.sources import get_source


class ByBrightness:
    """The pixels of exactly the clicked brightness, and a looser, less trusted mask."""

    name = encoder = "brightness"
    nbytes = 0
    persist = True
    device = "cpu"

    def embed(self, image: npt.NDArray[np.uint8]) -> Embedding:
        return Embedding(self.encoder, (image.shape[0], image.shape[1]), {"pixels": image})

    def segment(self, embedding: Embedding, prompt: Prompt, start_mask: StartMask | None) -> ClickResult:
        (point,) = prompt.points
        grey = embedding.arrays["pixels"][..., 0]
        here = grey == grey[int(point[1]), int(point[0])]
        logits = np.stack([np.where(here, 5.0, -5.0), np.where(here, 5.0, 0.0)]).astype(np.float32)
        return ClickResult(np.stack([here, here]), np.array([0.9, 0.8], np.float32), logits)


def test_a_grid_of_clicks_gives_each_object_once() -> None:
    image = np.zeros((80, 100, 3), np.uint8)
    image[10:30, 10:40] = 120
    image[45:70, 50:90] = 220
    found = find_proposals(image, SegmenterMasks(ByBrightness(), 64), most=10, work_side=100)
    assert len(found) == 2  # the background covers too much
    assert np.allclose(found.prior, 0.9)
    side = unpack(found.packed).shape[1]
    shares = unpack(found.packed).reshape(2, -1).sum(axis=1) / side**2
    assert np.allclose(sorted(shares), [600 / 8000, 1000 / 8000], atol=0.01)


def test_a_segmenter_without_checkpoint_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GROUNDSWELL_SEGMENTER", "classical")
    with pytest.raises(BadInput, match="no automatic masks"):
        get_source("segmenter", 100)
    monkeypatch.setenv("GROUNDSWELL_SEGMENTER", "sam")
    monkeypatch.delenv("GROUNDSWELL_SAM_CHECKPOINT", raising=False)
    with pytest.raises(ModelError):
        get_source("segmenter", 100)
    with pytest.raises(BadInput, match="no source"):
        get_source("guess", 100)


def test_its_name_tells_weights_apart() -> None:
    one, other = ByBrightness(), ByBrightness()
    other.encoder = "other weights"
    assert SegmenterMasks(one, 8).name == SegmenterMasks(one, 64).name != SegmenterMasks(other, 8).name
