"""How many clicks a simulated user needs with a ClickSegmenter: NoC, failures, IoU per click, with intervals.

The simulated user (Xu et al. 2016; Sofiiuk et al. 2022) wants one true mask. The user looks at the mask
shown, clicks where a robot says, and stops once the mask is good enough or after ``max_clicks``. With a
proposal, the user first sees the segmenter's answer to it without a click. Each click starts from the
segmenter's own last mask, never from the true one.

All intervals are 95 % bootstrap over *images*, because the masks of one image are not independent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Literal

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from ml_backend.clicks.base import ClickSegmenter, Embedding, Prompt, StartMask
from ml_backend.clicks.evaluation.robots import Robot, RobotClick, ritm_robot
from ml_backend.clicks.start_masks import box_of_mask
from ml_backend.instances import Rle

__all__ = [
    "ClickScores",
    "ClickTarget",
    "ClickTrace",
    "Interval",
    "PairedScores",
    "Start",
    "binarise",
    "compare",
    "evaluate_clicks",
    "mask_iou",
    "score",
    "simulate_user",
]

Mask = npt.NDArray[np.bool_]
Start = Literal["empty", "proposal"]
TARGET_IOUS = (0.85, 0.90)
# Human time as in the simulation of Marchesoni-Acland's iaseg-paper code: a click takes U(0, 4) s,
# going to the next mask 0.4 s.
SECONDS_PER_HUMAN_CLICK, SECONDS_TO_NEXT = 2.0, 0.4


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, eq=False)
class ClickTarget:
    """One true mask to be clicked on one image; ``proposal`` is what a model proposes for it, if anything."""

    image: Path
    label: str
    rle: Rle
    proposal: Rle | None = None


@dataclass(frozen=True, slots=True, eq=False)
class ClickTrace:
    """What one simulated user did on one target.

    ``ious[k]`` is the IoU after k clicks (``ious[0]`` before any), up to the click at which the user stopped;
    ``click_s`` the segmenter's seconds for each click.
    """

    image: str
    start: Start
    had_proposal: bool
    ious: tuple[float, ...]
    clicks: tuple[RobotClick, ...]
    click_s: tuple[float, ...]

    def clicks_to(self, iou: float) -> int | None:
        """Clicks until the IoU was first reached (0 = the start already was), None when it never was."""
        return next((k for k, value in enumerate(self.ious) if value >= iou), None)


@dataclass(frozen=True, slots=True)
class ClickScores:
    """Scores of one segmenter on one set of targets (NoC and NoF as in Sofiiuk et al. 2022).

    noc, nof : by target IoU: mean clicks to reach it (failures count as ``max_clicks``), share never
    reaching it. iou_at : mean IoU after k = 0..max_clicks clicks; a user who stopped keeps the mask at
    which they stopped. seconds_per_mask : human time of the simulation (2 s a click, 0.4 s to the next)
    plus the segmenter's. click_s, click_s_p95, embed_s : mean and 95th percentile seconds of the segmenter
    per click, mean per image.
    """

    segmenter: str
    start: Start
    n_targets: int
    n_images: int
    n_proposals: int
    max_clicks: int
    noc: Mapping[str, Interval]
    nof: Mapping[str, Interval]
    iou_at: tuple[Interval, ...]
    seconds_per_mask: Interval
    click_s: float
    click_s_p95: float
    embed_s: float


@dataclass(frozen=True, slots=True)
class PairedScores:
    """The same targets under two conditions a and b, in the same order.

    ``difference`` is mean NoC of b minus that of a (below 0: b needs fewer clicks); ``oracle`` the mean NoC
    if the better of the two were chosen for each target; fewer/equal/more count targets by clicks of b
    against a.
    """

    target_iou: float
    n_targets: int
    difference: Interval
    oracle: Interval
    fewer: int
    equal: int
    more: int


def binarise(mask: npt.NDArray[np.generic]) -> Mask:
    """A bool mask of a bool, 0/1 or probability map: float maps are cut at 0.5, never at "non-zero"."""
    if mask.dtype == np.bool_:
        return mask.astype(np.bool_, copy=False)
    if np.issubdtype(mask.dtype, np.floating):
        return np.asarray(mask, np.float64) > 0.5
    return np.asarray(mask != 0, np.bool_)


def mask_iou(predicted: Mask, target: Mask) -> float:
    """IoU of two (H, W) bool masks; 1 when both are empty (the right answer to an empty target)."""
    union = int(np.count_nonzero(predicted | target))
    return int(np.count_nonzero(predicted & target)) / union if union else 1.0


def simulate_user(
    segmenter: ClickSegmenter,
    embedding: Embedding,
    target: Mask,
    *,
    proposal: Mask | None = None,
    image: str = "",
    label: str = "",
    start: Start = "empty",
    robot: Robot = ritm_robot,
    max_clicks: int = 20,
    stop_iou: float = max(TARGET_IOUS),
) -> ClickTrace:
    """Click one target (H, W) bool until its IoU is ``stop_iou`` or ``max_clicks`` are used.

    An empty target costs nothing when the shown mask is empty and one action (clear) when it is not.
    """
    shown = np.zeros(target.shape, bool)
    start_mask: StartMask | None = None
    if start == "proposal" and proposal is not None and proposal.any():
        start_mask = StartMask(mask=proposal, logits=None, box_xyxy=box_of_mask(proposal), from_proposal=True)
        shown = binarise(segmenter.segment(embedding, Prompt((), None, label), start_mask).masks[0])
    had_proposal = start_mask is not None
    ious = [mask_iou(shown, target)]
    clicks: list[RobotClick] = []
    seconds: list[float] = []
    if not target.any():
        if ious[0] < 1.0:
            ious.append(1.0)
        return ClickTrace(image, start, had_proposal, tuple(ious), (), ())
    while len(clicks) < max_clicks and ious[-1] < stop_iou:
        click = robot(shown, target, [(c.x, c.y) for c in clicks])
        if click is None:
            break
        clicks.append(click)
        points = tuple((float(c.x), float(c.y), c.positive) for c in clicks)
        began = perf_counter()
        result = segmenter.segment(embedding, Prompt(points, None, label), start_mask)
        seconds.append(perf_counter() - began)
        shown = binarise(result.masks[0])
        logits = None if result.logits is None else result.logits[0]
        start_mask = StartMask(mask=shown, logits=logits, box_xyxy=box_of_mask(shown), from_proposal=False)
        ious.append(mask_iou(shown, target))
    return ClickTrace(image, start, had_proposal, tuple(ious), tuple(clicks), tuple(seconds))


def evaluate_clicks(
    segmenter: ClickSegmenter,
    targets: Sequence[ClickTarget],
    read_image: Callable[[Path], npt.NDArray[np.uint8]],
    *,
    starts: Sequence[Start] = ("empty",),
    robot: Robot = ritm_robot,
    max_clicks: int = 20,
    stop_iou: float = max(TARGET_IOUS),
    progress: Callable[[int, int], None] | None = None,
) -> tuple[dict[Start, list[ClickTrace]], list[float]]:
    """Simulated users on every target, once per start; each image is read and embedded once.

    Returns the traces per start (all in the order of the targets grouped by image) and the seconds of each
    ``embed``.
    """
    by_image: dict[Path, list[ClickTarget]] = {}
    for target in targets:
        by_image.setdefault(target.image, []).append(target)
    traces: dict[Start, list[ClickTrace]] = {start: [] for start in starts}
    embed_s: list[float] = []
    done = 0
    for path, group in by_image.items():
        picture = read_image(path)
        began = perf_counter()
        embedding = segmenter.embed(picture)
        embed_s.append(perf_counter() - began)
        for target in group:
            mask = coco_mask.decode(target.rle).astype(np.bool_)
            proposal = None if target.proposal is None else coco_mask.decode(target.proposal).astype(np.bool_)
            for start in starts:
                trace = simulate_user(
                    segmenter, embedding, mask, proposal=proposal, image=path.name, label=target.label,
                    start=start, robot=robot, max_clicks=max_clicks, stop_iou=stop_iou,
                )  # fmt: skip
                traces[start].append(trace)
            done += 1
            if progress is not None:
                progress(done, len(targets))
    return traces, embed_s


def _noc(traces: Iterable[ClickTrace], iou: float, max_clicks: int) -> npt.NDArray[np.float64]:
    reached = [trace.clicks_to(iou) for trace in traces]
    return np.array([max_clicks if clicks is None else clicks for clicks in reached], np.float64)


def _bootstrap(
    values: npt.NDArray[np.float64], groups: Sequence[str], *, draws: int, seed: int
) -> list[Interval]:
    """Means of the columns of values (n, m) with 95 % intervals over resampled groups. O(draws · groups ·
    m).
    """
    names, index = np.unique(np.asarray(groups), return_inverse=True)
    sums = np.zeros((len(names), values.shape[1]))
    np.add.at(sums, index, values)
    counts = np.bincount(index, minlength=len(names)).astype(np.float64)
    weights = np.random.default_rng(seed).multinomial(
        len(names), np.full(len(names), 1 / len(names)), size=draws
    )
    means = (weights @ sums) / (weights @ counts)[:, None]
    low, high = np.percentile(means, [2.5, 97.5], axis=0)
    return [
        Interval(float(m), float(a), float(b)) for m, a, b in zip(values.mean(axis=0), low, high, strict=True)
    ]


def score(
    traces: Sequence[ClickTrace],
    *,
    segmenter: str,
    max_clicks: int = 20,
    target_ious: Sequence[float] = TARGET_IOUS,
    embed_s: Sequence[float] = (),
    draws: int = 1000,
    seed: int = 0,
) -> ClickScores:
    """Scores of the traces of one segmenter from one start. ValueError when there are none."""
    if not traces:
        raise ValueError("no traces to score")
    noc = np.stack([_noc(traces, iou, max_clicks) for iou in target_ious], axis=1)
    nof = np.array([[t.clicks_to(iou) is None for iou in target_ious] for t in traces], np.float64)
    curve = np.array([[t.ious[min(k, len(t.ious) - 1)] for k in range(max_clicks + 1)] for t in traces])
    human = [SECONDS_PER_HUMAN_CLICK * (len(t.ious) - 1) + SECONDS_TO_NEXT + sum(t.click_s) for t in traces]
    columns = np.concatenate([noc, nof, curve, np.array(human)[:, None]], axis=1)
    intervals = _bootstrap(columns, [t.image for t in traces], draws=draws, seed=seed)
    n = len(target_ious)
    names = [f"{iou:.2f}" for iou in target_ious]
    click_s = [s for t in traces for s in t.click_s]
    return ClickScores(
        segmenter=segmenter,
        start=traces[0].start,
        n_targets=len(traces),
        n_images=len({t.image for t in traces}),
        n_proposals=sum(t.had_proposal for t in traces),
        max_clicks=max_clicks,
        noc=dict(zip(names, intervals[:n], strict=True)),
        nof=dict(zip(names, intervals[n : 2 * n], strict=True)),
        iou_at=tuple(intervals[2 * n : -1]),
        seconds_per_mask=intervals[-1],
        click_s=float(np.mean(click_s)) if click_s else 0.0,
        click_s_p95=float(np.percentile(click_s, 95)) if click_s else 0.0,
        embed_s=float(np.mean(embed_s)) if embed_s else 0.0,
    )


def compare(
    a: Sequence[ClickTrace],
    b: Sequence[ClickTrace],
    *,
    target_iou: float = 0.90,
    max_clicks: int = 20,
    draws: int = 1000,
    seed: int = 0,
) -> PairedScores:
    """Paired comparison of two runs over the same targets in the same order; ValueError when they do not
    pair.
    """
    if not a or [t.image for t in a] != [t.image for t in b]:
        raise ValueError(f"runs do not pair: {len(a)} and {len(b)} traces over the same targets are needed")
    noc_a, noc_b = _noc(a, target_iou, max_clicks), _noc(b, target_iou, max_clicks)
    columns = np.stack([noc_b - noc_a, np.minimum(noc_a, noc_b)], axis=1)
    difference, oracle = _bootstrap(columns, [t.image for t in a], draws=draws, seed=seed)
    return PairedScores(
        target_iou=target_iou,
        n_targets=len(a),
        difference=difference,
        oracle=oracle,
        fewer=int((noc_b < noc_a).sum()),
        equal=int((noc_b == noc_a).sum()),
        more=int((noc_b > noc_a).sum()),
    )
