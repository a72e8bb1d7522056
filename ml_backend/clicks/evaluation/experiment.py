"""One click evaluation from files: pick targets, find proposals, run the simulated users, report.

The masks are split by image, so a segmenter trained here never sees an image that it is measured on. The same
seed and fraction give the same split for every segmenter.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pycocotools import mask as coco_mask

from ml_backend.clicks.base import ClickSegmenter
from ml_backend.clicks.evaluation.proposal_pairs import pair_proposals, read_proposals
from ml_backend.clicks.evaluation.report import as_json
from ml_backend.clicks.evaluation.robots import ROBOTS, RobotClick
from ml_backend.clicks.evaluation.simulated_clicks import (
    TARGET_IOUS,
    ClickTarget,
    ClickTrace,
    Start,
    compare,
    evaluate_clicks,
    score,
)
from ml_backend.errors import BadInput
from ml_backend.images.decode import read_image
from ml_backend.instances import Rle
from ml_backend.learners.base import Predictor
from ml_backend.masks.coco import CocoImage, CocoSet

__all__ = [
    "ClickExperiment",
    "ClickSplit",
    "compare_reports",
    "pick_targets",
    "predict_proposals",
    "run_experiment",
    "split_images",
]

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class ClickSplit:
    """Images to train on and images to measure on, by a seeded shuffle."""

    train: tuple[CocoImage, ...]
    test: tuple[CocoImage, ...]


@dataclass(frozen=True, slots=True)
class ClickExperiment:
    """What to run. At most ``limit`` masks are measured, spread over the test images. Masks smaller than
    ``min_area`` pixels are left out (nobody clicks single pixels).
    """

    robot: Literal["ritm", "component"] = "ritm"
    starts: tuple[Start, ...] = ("empty",)
    limit: int | None = None
    max_clicks: int = 20
    min_area: int = 12
    min_proposal_iou: float = 0.3
    seed: int = 0


def split_images(images: CocoSet, *, train_fraction: float, seed: int) -> ClickSplit:
    """Shuffle the images and give the first share to training. BadInput when a side would be empty."""
    order = np.random.default_rng(seed).permutation(len(images.images))
    cut = round(train_fraction * len(order))
    parts = [tuple(images.images[int(i)] for i in part) for part in (order[:cut], order[cut:])]
    if not parts[1] or (train_fraction > 0 and not parts[0]):
        raise BadInput(
            f"{len(order)} images cannot be split with a training share of {train_fraction}",
            field="train_fraction",
        )
    return ClickSplit(*parts)


def pick_targets(
    images: Sequence[CocoImage],
    categories: Sequence[str],
    experiment: ClickExperiment,
    proposals: Mapping[int, Sequence[Rle]],
) -> list[ClickTarget]:
    """Masks to click: one random mask of each image, then a second of each, and so on. Each comes with its
    proposal if one overlaps enough.

    Proposals (by image id) are paired with *all* masks of their image before any are left out. BadInput
    when there is no mask.
    """
    rng = np.random.default_rng(experiment.seed)
    queues: list[list[ClickTarget]] = []
    for image in images:
        found = proposals.get(image.image_id, ())
        pairs = pair_proposals(image.rle, found, min_iou=experiment.min_proposal_iou)
        usable = [
            ClickTarget(image.path, categories[label], rle, None if pair is None else found[pair])
            for label, rle, box, pair in zip(image.label, image.rle, image.boxes_only, pairs, strict=True)
            if not box and int(coco_mask.area(rle)) >= experiment.min_area
        ]
        queues.append([usable[int(i)] for i in rng.permutation(len(usable))])
    targets = [
        queue[turn]
        for turn in range(max(map(len, queues), default=0))
        for queue in queues
        if turn < len(queue)
    ]
    if not targets:
        raise BadInput("no masks to click", field="coco", hint="Boxes alone cannot be measured")
    return targets[: experiment.limit]


def predict_proposals(
    predictor: Predictor, images: Sequence[CocoImage], *, min_score: float = 0.3
) -> dict[int, list[Rle]]:
    """Masks that a trained model version finds on the images, by image id, best score first."""
    found: dict[int, list[Rle]] = {}
    for image in images:
        instances = next(iter(predictor.predict([read_image(image.path)])))
        order = [int(i) for i in np.argsort(-instances.score) if instances.score[i] >= min_score]
        found[image.image_id] = [instances.rle[i] for i in order]
    return found


def stored_proposals(path: Path, images: Sequence[CocoImage]) -> dict[int, list[Rle]]:
    """Masks of a stored COCO prediction, by image id, best score first."""
    return read_proposals(path, {image.image_id: image.hw for image in images})


def run_experiment(
    segmenter: ClickSegmenter, targets: Sequence[ClickTarget], experiment: ClickExperiment, say: Say
) -> dict[str, Any]:
    """Simulated users over all starts; the report as JSON values, see docs/click-networks.md for its
    fields.
    """
    if "proposal" in experiment.starts and not any(t.proposal is not None for t in targets):
        raise BadInput(
            "none of the masks has a proposal",
            field="proposals",
            hint="Do image ids and sizes match the COCO file?",
        )
    began = time.monotonic()

    def progress(done: int, total: int) -> None:
        if done % 20 == 0 or done == total:
            say(f"{segmenter.name}: {done} of {total} masks, {time.monotonic() - began:.0f} s")

    traces, embed_s = evaluate_clicks(
        segmenter, targets, read_image, starts=experiment.starts, robot=ROBOTS[experiment.robot],
        max_clicks=experiment.max_clicks, progress=progress,
    )  # fmt: skip
    report: dict[str, Any] = {
        "segmenter": segmenter.name,
        "encoder": segmenter.encoder,
        "settings": as_json(experiment),
        "starts": {
            start: as_json(
                score(found, segmenter=segmenter.name, max_clicks=experiment.max_clicks, embed_s=embed_s)
            )
            for start, found in traces.items()
        },
        "traces": {start: [_trace_row(trace) for trace in found] for start, found in traces.items()},
    }
    if "empty" in traces and "proposal" in traces:
        report["proposal_against_empty"] = _paired(traces, experiment)
    return report


def _paired(traces: Mapping[Start, list[ClickTrace]], experiment: ClickExperiment) -> dict[str, Any]:
    """Paired differences: all masks, and those that had a proposal to start from."""
    had = [trace.had_proposal for trace in traces["proposal"]]
    some = {start: [t for t, kept in zip(found, had, strict=True) if kept] for start, found in traces.items()}
    return {
        name: [
            as_json(
                compare(part["empty"], part["proposal"], target_iou=iou, max_clicks=experiment.max_clicks)
            )
            for iou in TARGET_IOUS
        ]
        for name, part in (("all", traces), ("with_proposal", some))
    }


def compare_reports(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Paired differences of two reports of ``run_experiment`` over the same masks: per common start and
    target IoU the fields of ``PairedScores`` (below 0: b needs fewer clicks), with ``a``, ``b``, ``start``.
    """
    rows = []
    for start in a["traces"]:
        if start not in b["traces"]:
            continue
        pair = [[_trace(row, start) for row in report["traces"][start]] for report in (a, b)]
        most = int(a["settings"]["max_clicks"])
        for iou in TARGET_IOUS:
            scores = as_json(compare(*pair, target_iou=iou, max_clicks=most))
            rows.append({"a": a["segmenter"], "b": b["segmenter"], "start": start, **scores})
    return rows


def _trace(row: Mapping[str, Any], start: Start) -> ClickTrace:
    clicks = tuple(RobotClick(x, y, bool(positive), 0.0, 0) for x, y, positive in row["clicks"])
    return ClickTrace(row["image"], start, row["had_proposal"], tuple(row["ious"]), clicks, ())


def _trace_row(trace: ClickTrace) -> dict[str, Any]:
    return {
        "image": trace.image,
        "had_proposal": trace.had_proposal,
        "ious": [round(v, 6) for v in trace.ious],
        "clicks": [[c.x, c.y, int(c.positive)] for c in trace.clicks],
    }


def with_starts(experiment: ClickExperiment, asked: Sequence[Start]) -> ClickExperiment:
    """Both starts when the proposal start is asked for, as its gain is measured against the empty one."""
    return replace(experiment, starts=("empty", "proposal") if "proposal" in asked else ("empty",))
