"""Chains of masks: kept by content, bounded by bytes, embedded only when a mask must be made."""

from __future__ import annotations

import numpy as np
import pytest

from ml_backend.clicks.base import Embedding, Prompt
from ml_backend.clicks.serving.mask_chain import MaskChains
from tests.ml_backend.clicks.click_helpers import TellTale

POINTS = ((20.0, 20.0, True), (40.0, 30.0, True), (50.0, 50.0, False))


def embedding() -> Embedding:
    return Embedding("telltale-1", (60, 80), {"v": np.array([5], np.float32)})


def prompt(clicks: int) -> Prompt:
    return Prompt(POINTS[:clicks], None, "Cat")


def test_what_is_in_memory_needs_no_embedding() -> None:
    chains, segmenter = MaskChains(), TellTale()
    made = chains.mask("sha", segmenter, prompt(3), None, embedding)
    assert segmenter.segments == 3
    for clicks in (3, 2, 1):
        chains.mask("sha", segmenter, prompt(clicks), None, lambda: pytest.fail("embedded again"))
    assert chains.mask("sha", segmenter, prompt(3), None, embedding) is made
    assert segmenter.segments == 3
    chains.mask("other", segmenter, prompt(1), None, embedding)
    assert segmenter.segments == 4


def test_memory_is_bounded_by_bytes_and_a_chain_is_made_again_alike() -> None:
    segmenter = TellTale()
    room_for_two = MaskChains(2500)
    first = room_for_two.mask("sha", segmenter, prompt(3), None, embedding)
    assert len(room_for_two._masks) == 2
    assert room_for_two._masks.nbytes <= 2500
    room_for_two.mask("other", segmenter, prompt(3), None, embedding)
    again = room_for_two.mask("sha", segmenter, prompt(3), None, embedding)
    assert again.rle == first.rle
    assert segmenter.segments == 9


def test_a_prompt_without_clicks_is_refused() -> None:
    with pytest.raises(ValueError, match="point or a box"):
        MaskChains().mask("sha", TellTale(), Prompt((), None, "Cat"), None, embedding)
