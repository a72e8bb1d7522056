"""What it is worth that a click beside a proposal may extend it, and what it costs new objects there.

    python -m bench.click_beside --data mushrooms --limit 18 --cache work
    python -m bench.click_beside --data nuclei_dsb2018_a --limit 80 --cache work --reach 0.1 --reach 0.2

``--data`` is a folder with images/ and annotations.json (COCO). Proposals are out of fold: models are trained
on half of the pictures and look at the other half. A simulated person makes the first click for every object
whose mask must be mended (a proposal overlaps it by 0.3 to 0.85) or made (none does). Clicks that lie on no
proposal are played twice: from nothing, and from the proposal that ``find_start`` chooses.

``clicks``: mean number until IoU 0.85, ``--most`` + 1 where that is not reached; ``first_iou``: IoU after the
first click; ``fewer``, ``more``: objects. One line of JSON per kind of object, reach and lost hull.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

import numpy as np

from bench.detection_set import with_training_environment
from bench.planted import out_of_fold
from ml_backend.clicks import start_masks
from ml_backend.clicks.base import ClickSegmenter, Embedding, Prompt, StartMask
from ml_backend.clicks.evaluation.proposal_pairs import pair_proposals
from ml_backend.clicks.evaluation.robots import ROBOTS, Robot, RobotClick
from ml_backend.clicks.evaluation.simulated_clicks import Mask, mask_iou
from ml_backend.clicks.serving.catalog import build_segmenter
from ml_backend.clicks.serving.proposal_start import find_start
from ml_backend.clicks.start_masks import Proposals, start_mask_from
from ml_backend.examples import Example
from ml_backend.images.decode import read_image
from ml_backend.instances import Instances
from ml_backend.kinds.registry import get_kind
from ml_backend.masks.rle import decode_rle, encode_mask
from ml_backend.settings import BackendSettings
from sync.lab.labelled_pictures import from_coco, sample

_ENOUGH = 0.85
_SMALLEST_PX = 30
_PER_PICTURE = 3


@dataclass(slots=True)
class Played:
    """One first click: what was clicked, and the IoUs after each click by start."""

    kind: str
    plain: list[float]
    chosen: dict[tuple[float, float], list[float]] = field(default_factory=dict)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=40, help="pictures (default: 40)")
    parser.add_argument("--segmenter", default="classical")
    parser.add_argument("--reach", type=float, action="append", help="default: that of the software")
    parser.add_argument("--lost-hull", type=float, action="append", help="default: that of the software")
    parser.add_argument("--most", type=int, default=6, help="clicks of an object (default: 6)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--cache", type=Path, help="folder that keeps predictions")
    options = parser.parse_args()
    with_training_environment("bench.click_beside")
    kind = get_kind("instances")
    with tempfile.TemporaryDirectory() as scratch:
        data = sample(
            from_coco(options.data / "images", options.data / "annotations.json", kind),
            options.limit,
            seed=options.seed,
        )
        cache = (options.cache or Path(scratch)) / f"{options.data.name}-beside-{options.seed}.pkl"
        found = out_of_fold(
            data.examples, data.labels, kind, folds=2, seed=options.seed, cache=cache,
            options={"threads": "1", "weights": "none"},
        )  # fmt: skip
        segmenter = build_segmenter(options.segmenter, BackendSettings())
        rules = [
            (reach, lost)
            for reach in options.reach or [start_masks.EXTEND_REACH]
            for lost in options.lost_hull or [start_masks.MOST_LOST_HULL]
        ]
        rows = [
            row
            for example in data.examples
            if example.task_id in found
            for row in play_picture(segmenter, example, found[example.task_id], rules, most=options.most)
        ]
    for line in figures(rows, rules, options.most):
        print(json.dumps({"set": options.data.name, "segmenter": segmenter.name, **line}))


def play_picture(
    segmenter: ClickSegmenter,
    example: Example,
    found: Instances,
    rules: Sequence[tuple[float, float]],
    *,
    most: int,
) -> Iterator[Played]:
    """Play first clicks of one picture that lie on no proposal, a few of each kind and robot."""
    found = found.take(np.argsort(-found.score * found.quality, kind="stable"))
    found = found.take(np.flatnonzero(found.score * found.quality >= start_masks.MIN_PROPOSAL))
    if not len(found):
        return
    label = "object"
    proposals = Proposals("v", (label,), found)
    found.label[:] = 0
    masks = [decode_rle(rle).astype(bool) for rle in found.rle]
    covered = np.any(masks, axis=0)
    image = read_image(example.image)
    embedding = segmenter.embed(image)
    pairs = pair_proposals(list(example.rle), found.rle, min_iou=0.3)
    left = {"mend": _PER_PICTURE, "make": _PER_PICTURE}
    for i in np.random.default_rng(example.task_id).permutation(len(example.rle)).tolist():
        target = decode_rle(example.rle[i]).astype(bool)
        pair = pairs[i]
        shown = np.zeros_like(target) if pair is None else masks[pair]
        kind = "make" if pair is None else "mend"
        if target.sum() < _SMALLEST_PX or mask_iou(shown, target) >= _ENOUGH or not left[kind]:
            continue
        for robot in ROBOTS.values():
            click = robot(shown, target, [])
            if click is None or not click.positive or covered[click.y, click.x]:
                continue
            left[kind] = max(0, left[kind] - 1)
            yield _play(segmenter, embedding, target, click, robot, proposals, rules, kind, most)


def _play(
    segmenter: ClickSegmenter, embedding: Embedding, target: Mask, click: RobotClick, robot: Robot,
    proposals: Proposals, rules: Sequence[tuple[float, float]], kind: str, most: int,
) -> Played:  # fmt: skip
    def series(start: StartMask | None) -> list[float]:
        clicks, ious = [click], []
        while True:
            points = tuple((float(c.x), float(c.y), c.positive) for c in clicks)
            answer = segmenter.segment(embedding, Prompt(points, None, "object"), start)
            shown = answer.masks[0].astype(bool)
            ious.append(mask_iou(shown, target))
            following = robot(shown, target, [(c.x, c.y) for c in clicks])
            if ious[-1] >= _ENOUGH or len(clicks) >= most or following is None:
                return ious
            clicks.append(following)
            logits = None if answer.logits is None else answer.logits[0]
            start = start_mask_from(shown, logits=logits, from_proposal=False)

    prompt = Prompt(((float(click.x), float(click.y), True),), None, "object")
    row = Played(kind, series(None))
    extended: list[float] | None = None
    for rule in rules:
        with (
            mock.patch.object(start_masks, "EXTEND_REACH", rule[0]),
            mock.patch.object(start_masks, "MOST_LOST_HULL", rule[1]),
        ):
            start = find_start(
                proposals, 1, prompt, embedding.hw,
                lambda first, chain: encode_mask(
                    segmenter.segment(embedding, first, chain.mask).masks[0].astype(bool)
                ),
            )  # fmt: skip
        if start is not None:
            extended = extended or series(start.chain.mask)
            row.chosen[rule] = extended
    return row


def figures(
    rows: Sequence[Played], rules: Sequence[tuple[float, float]], most: int
) -> Iterator[dict[str, object]]:
    """Both ways side by side, per rule and kind of object."""
    clicks: Callable[[list[float]], int] = lambda ious: len(ious) if ious[-1] >= _ENOUGH else most + 1  # noqa: E731
    for rule in rules:
        for kind in ("mend", "make"):
            mine = [row for row in rows if row.kind == kind]
            if not mine:
                continue
            before = np.array([clicks(row.plain) for row in mine])
            after = np.array([clicks(row.chosen.get(rule, row.plain)) for row in mine])
            yield {
                "object": kind, "reach": rule[0], "lost_hull": rule[1], "n": len(mine),
                "extended": sum(rule in row.chosen for row in mine),
                "clicks": [round(float(before.mean()), 2), round(float(after.mean()), 2)],
                "first_iou": [
                    round(float(np.mean([row.plain[0] for row in mine])), 2),
                    round(float(np.mean([row.chosen.get(rule, row.plain)[0] for row in mine])), 2),
                ],
                "fewer": int((after < before).sum()), "more": int((after > before).sum()),
            }  # fmt: skip


if __name__ == "__main__":
    main()
