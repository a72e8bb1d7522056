"""Masks that could answer a first click or a box, from everything that a project has.

They come from the proposals of its model, from its own click network, and from the segmenter in use, which
may offer several. The first candidate is always the *usual* one: what is answered without a ranking.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from ml_backend.clicks.base import ClickResult, ClickSegmenter, Embedding, ManyMasks, Prompt, StartMask
from ml_backend.clicks.start_masks import Proposals, box_iou
from ml_backend.masks.rle import rle_hw

__all__ = [
    "SOURCES",
    "Candidate",
    "candidates_of",
    "honours",
    "is_first",
    "proposal_candidates",
    "usual_of",
]

Mask = npt.NDArray[np.bool_]

SOURCES: Final = ("segmenter", "more", "start", "proposal", "network", "configured")
"""Where a candidate comes from: the segmenter in use, its further masks of the same prompt, the segmenter
started from a proposal, a proposal as it is, the project's own network. Where that network is in use, the
configured segmenter is another source.
"""
MIN_WORTH: Final = 0.1
"""Proposals whose score × quality is lower are no candidates."""
MOST_PROPOSALS: Final = 3
_MIN_BOX_IOU: Final = 0.5
_MORE_SCORE: Final = 0.1
"""Further masks with a lower predicted IoU are no candidates."""


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """``mask`` (H, W) bool; ``score`` what its source expects of it, 0..1 (not finite: nothing is known);
    ``usual``: what is answered without a ranking; ``logits`` to refine it by, as in ``ClickResult``.
    """

    mask: Mask
    score: float
    source: str
    usual: bool = False
    logits: npt.NDArray[np.float32] | None = None


def is_first(prompt: Prompt) -> bool:
    """Whether candidates are gathered for a prompt: one positive click, or a box, and nothing else yet."""
    if prompt.box is not None:
        return not prompt.points
    return len(prompt.points) == 1 and prompt.points[0][2]


def honours(mask: Mask, prompt: Prompt) -> bool:
    """Whether an (H, W) mask is not empty and agrees with every click; of two clicks on a pixel the later
    counts.
    """
    if not mask.any():
        return False
    wanted: dict[tuple[int, int], bool] = {}
    for x, y, positive in prompt.points:
        wanted[min(max(int(y), 0), mask.shape[0] - 1), min(max(int(x), 0), mask.shape[1] - 1)] = positive
    return all(bool(mask[at]) == positive for at, positive in wanted.items())


def candidates_of(
    segmenter: ClickSegmenter,
    embedding: Embedding,
    prompt: Prompt,
    start: StartMask | None,
    proposals: Proposals | None,
    second: Callable[[Prompt], ClickResult] | None,
    second_source: str = "network",
) -> list[Candidate]:
    """All candidates for a first prompt, the usual one first. Others that disagree with the click are left
    out.

    ``start`` is the proposal that the usual answer starts from; ``second`` asks the other segmenter that the
    project has, ``second_source`` names it.
    """
    found: list[Candidate] = []
    if start is not None:
        result = segmenter.segment(embedding, prompt, start)
        found.append(Candidate(result.masks[0], float(result.iou[0]), "start", True, _logits(result, 0)))
    if isinstance(segmenter, ManyMasks):
        result = segmenter.segment_all(embedding, prompt)
    else:
        result = segmenter.segment(embedding, prompt, None)
    for index, (mask, iou) in enumerate(zip(result.masks, result.iou, strict=True)):
        if index and float(iou) < _MORE_SCORE:
            continue
        usual = start is None and index == 0
        source = "more" if index else "segmenter"
        found.append(Candidate(mask, float(iou), source, usual, _logits(result, index)))
    if second is not None:
        result = second(prompt)
        found.append(Candidate(result.masks[0], float(result.iou[0]), second_source))
    found += proposal_candidates(proposals, prompt, embedding.hw)
    return [c for c in found if c.usual or honours(c.mask, prompt)]


def proposal_candidates(proposals: Proposals | None, prompt: Prompt, hw: tuple[int, int]) -> list[Candidate]:
    """Proposals of the prompt's label that hold its click, or whose box is about the one drawn: the best few
    by score × quality.
    """
    if proposals is None or prompt.label not in proposals.labels or prompt.label in proposals.whole:
        return []
    found = proposals.instances
    worth = found.score * found.quality
    label = proposals.labels.index(prompt.label)
    near = (found.label == label) & (worth >= MIN_WORTH)
    if prompt.box is not None:
        near &= box_iou(found.box_xyxy, prompt.box) >= _MIN_BOX_IOU
    else:
        x, y, _ = prompt.points[0]
        box = found.box_xyxy
        near &= (box[:, 0] <= x) & (x <= box[:, 2]) & (box[:, 1] <= y) & (y <= box[:, 3])
    chosen: list[Candidate] = []
    for row in sorted(np.flatnonzero(near).tolist(), key=lambda row: -float(worth[row])):
        if rle_hw(found.rle[row]) != hw:
            continue  # of an earlier picture of the task
        mask = coco_mask.decode(found.rle[row]).astype(np.bool_)
        if honours(mask, replace(prompt, box=None)):
            chosen.append(Candidate(mask, float(worth[row]), "proposal"))
        if len(chosen) == MOST_PROPOSALS:
            break
    return chosen


def _logits(result: ClickResult, index: int) -> npt.NDArray[np.float32] | None:
    return None if result.logits is None else result.logits[index]


def usual_of(candidates: Sequence[Candidate]) -> Candidate:
    """What is answered without a ranking. ValueError when it is not among them."""
    usual = next((c for c in candidates if c.usual), None)
    if usual is None:
        raise ValueError("the usual answer is not among the candidates")
    return usual
