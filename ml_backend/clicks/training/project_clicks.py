"""Simulated people who click in a project: as the service answers, from proposals and with or without a
ranking.

A person wants one true mask. Where a proposal is good enough nobody clicks. Where it covers the object badly
its error is clicked. Elsewhere nothing is on the screen. The first answer starts from a proposal if the
service would start there (``find_start``), and every further one from the mask before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Final

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from ml_backend.clicks.base import ClickSegmenter, Embedding, Prompt, StartMask
from ml_backend.clicks.evaluation.proposal_pairs import pair_proposals
from ml_backend.clicks.evaluation.robots import Robot, RobotClick, inner_distance
from ml_backend.clicks.evaluation.simulated_clicks import ClickTrace, mask_iou
from ml_backend.clicks.ranking.candidates import is_first
from ml_backend.clicks.ranking.features import FEATURES, UsualSize, features_of
from ml_backend.clicks.ranking.joint import JointSegmenter
from ml_backend.clicks.ranking.ranker import Ranker, Seen
from ml_backend.clicks.serving.proposal_start import find_start
from ml_backend.clicks.start_masks import MIN_PROPOSAL, Proposals, box_of_mask, start_mask_from
from ml_backend.instances import Rle
from ml_backend.masks.rle import encode_mask

__all__ = [
    "GOOD_ENOUGH",
    "ClickedPicture",
    "Wanted",
    "first_prompts",
    "no_ranking",
    "play",
    "seen_clicks",
    "usual_sizes",
    "wanted_of",
]

Mask = npt.NDArray[np.bool_]

GOOD_ENOUGH: Final = 0.85
_MEANT: Final = 0.3
"""From this IoU on a proposal is about an object."""
_SMALLEST_PX: Final = 12
_INNER: Final = 0.4
"""People click anywhere in the inner part of an object: at least so deep, as a share of the deepest."""
_BOX_NOISE: Final = 0.03


@dataclass(frozen=True, slots=True, eq=False)
class ClickedPicture:
    """A finished picture: its true masks with their labels, and what the project's model proposes there."""

    image: Path
    labels: tuple[str, ...]
    rle: tuple[Rle, ...]
    proposals: Proposals | None


@dataclass(frozen=True, slots=True, eq=False)
class Wanted:
    """One true mask, and the proposal that is on the screen there when the person begins; None: nothing."""

    mask: Mask
    label: str
    shown: Mask | None


def wanted_of(picture: ClickedPicture, rows: Sequence[int], *, from_nothing: bool = False) -> list[Wanted]:
    """The masks of these rows that would be clicked: those too small to click are left out, and those with a
    good proposal.

    ``from_nothing``: as if no proposal was on the screen (candidates they are still).
    """
    found = picture.proposals
    kept: list[int] = []
    if found is not None and not from_nothing:
        worth = found.instances.score * found.instances.quality
        kept = [int(i) for i in np.argsort(-worth, kind="stable") if worth[i] >= MIN_PROPOSAL]
    pairs: list[int | None] = [None] * len(picture.rle)
    if found is not None and kept:
        pairs = pair_proposals(picture.rle, [found.instances.rle[i] for i in kept], min_iou=_MEANT)
    wanted = []
    for row in rows:
        mask = coco_mask.decode(picture.rle[row]).astype(np.bool_)
        if np.count_nonzero(mask) < _SMALLEST_PX:
            continue
        pair, shown = pairs[row], None
        if found is not None and pair is not None:
            shown = coco_mask.decode(found.instances.rle[kept[pair]]).astype(np.bool_)
            if mask_iou(shown, mask) >= GOOD_ENOUGH:
                continue
        wanted.append(Wanted(mask, picture.labels[row], shown))
    return wanted


def play(
    segmenter: ClickSegmenter,
    embedding: Embedding,
    wanted: Wanted,
    *,
    usual: ClickSegmenter,
    proposals: Proposals | None,
    robot: Robot,
    max_clicks: int,
    image: str = "",
) -> ClickTrace:
    """Click one object until it is good enough. ``usual`` is the segmenter without a ranking: it says which
    proposal the first click starts from. ``ious[0]`` is the IoU of what is on the screen at first.
    """
    shown = np.zeros_like(wanted.mask) if wanted.shown is None else wanted.shown
    ious, clicks, seconds = [mask_iou(shown, wanted.mask)], list[RobotClick](), list[float]()
    start: StartMask | None = None
    while len(clicks) < max_clicks and ious[-1] < GOOD_ENOUGH:
        click = robot(shown, wanted.mask, [(c.x, c.y) for c in clicks])
        if click is None:
            break
        clicks.append(click)
        points = tuple((float(c.x), float(c.y), c.positive) for c in clicks)
        prompt = Prompt(points, None, wanted.label)
        began = perf_counter()
        if len(clicks) == 1:
            start = usual_start(usual, embedding, prompt, proposals)
        result = segmenter.segment(embedding, prompt, start)
        seconds.append(perf_counter() - began)
        shown = result.masks[0].astype(np.bool_)
        logits = None if result.logits is None else result.logits[0]
        start = start_mask_from(shown, logits=logits, from_proposal=False)
        ious.append(mask_iou(shown, wanted.mask))
    return ClickTrace(
        image, "empty", wanted.shown is not None, tuple(ious), tuple(clicks), tuple(seconds)
    )  # fmt: skip


def usual_start(
    usual: ClickSegmenter, embedding: Embedding, prompt: Prompt, proposals: Proposals | None
) -> StartMask | None:
    """The proposal that the service starts from."""
    found = find_start(
        proposals,
        0,
        prompt,
        embedding.hw,
        lambda first, chain: encode_mask(
            usual.segment(embedding, first, chain.mask).masks[0].astype(np.bool_)
        ),
    )
    return None if found is None else found.chain.mask


def first_prompts(wanted: Wanted, robots: Sequence[Robot], rng: np.random.Generator) -> list[Prompt]:
    """First clicks and a box as people might make them for one object."""
    inner = inner_distance(wanted.mask)
    anywhere = np.flatnonzero(inner.ravel() >= _INNER * inner.max())
    spots = [int(inner.argmax()), int(rng.choice(anywhere))]
    places = [divmod(spot, wanted.mask.shape[1])[::-1] for spot in spots]
    if wanted.shown is not None:
        clicks = [robot(wanted.shown, wanted.mask, []) for robot in robots]
        places += [(click.x, click.y) for click in clicks if click is not None and click.positive]
    prompts = [Prompt(((float(x), float(y), True),), None, wanted.label) for x, y in dict.fromkeys(places)]
    x0, y0, x1, y1 = box_of_mask(wanted.mask)
    noise = rng.normal(0, _BOX_NOISE, 4) * np.array([x1 - x0, y1 - y0, x1 - x0, y1 - y0])
    height, width = wanted.mask.shape
    drawn = np.clip(np.array([x0, y0, x1, y1]) + noise, 0, [width, height, width, height])
    if drawn[2] - drawn[0] >= 2 and drawn[3] - drawn[1] >= 2:
        box = (float(drawn[0]), float(drawn[1]), float(drawn[2]), float(drawn[3]))
        prompts.append(Prompt((), box, wanted.label))
    return prompts


def seen_clicks(
    joint: JointSegmenter,
    embedding: Embedding,
    wanted: Wanted,
    robots: Sequence[Robot],
    rng: np.random.Generator,
    *,
    picture: int,
    sizes: Callable[[str], UsualSize | None],
) -> Iterator[Seen]:
    """What the candidates of simulated first prompts look like, and how good each was."""
    for prompt in first_prompts(wanted, robots, rng):
        if not is_first(prompt):
            continue
        start = usual_start(joint.base, embedding, prompt, joint.proposals)
        found = [c for c in joint.candidates(embedding, prompt, start) if c.usual or c.mask.any()]
        features = features_of(found, prompt, joint.pixels(), sizes(prompt.label))
        yield Seen(features, np.array([mask_iou(c.mask, wanted.mask) for c in found]), picture)


def usual_sizes(pictures: Sequence[tuple[Sequence[str], Sequence[Rle]]]) -> dict[str, UsualSize]:
    """Mean and spread of the log area by label, where there are at least three objects of it."""
    areas: dict[str, list[float]] = {}
    for labels, rles in pictures:
        for label, rle in zip(labels, rles, strict=True):
            if area := int(coco_mask.area(rle)):
                areas.setdefault(label, []).append(float(np.log(area)))
    return {
        label: UsualSize(float(np.mean(found)), float(np.std(found)))
        for label, found in areas.items()
        if len(found) >= 3
    }


def no_ranking() -> Ranker:
    """A ranking that leaves every answer as it is: candidates can be gathered before there is one."""
    return Ranker((0.0,) * len(FEATURES))
