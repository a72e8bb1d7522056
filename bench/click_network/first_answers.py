"""How an answer to a first click is chosen, on pictures to choose by.

``python -m bench.click_network.first_answers --data SETS``

For each set the mean IoU after one click of: every single answer of ``shipped``; the one of which the network
itself expects most; the one with which the others agree most (what is served); the truly best. ``--better``
prints instead how many clicks to IoU 0.85 somebody needs who knows the true mask and takes the better of the
answers of ``shipped`` and ``classical`` at every click.

The pictures are those that ``judge`` keeps for choosing, and of the two unseen sets those that its figures
(120 objects, a picture each) do not use. One line of JSON per set.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from bench.click_network.judge import SCENE_SEEDS, UNSEEN, generated_targets
from bench.click_network.sets import SETS, divide
from ml_backend.clicks.base import ClickResult, ClickSegmenter, Embedding, Prompt, StartMask
from ml_backend.clicks.evaluation.experiment import ClickExperiment, pick_targets
from ml_backend.clicks.evaluation.robots import ritm_robot
from ml_backend.clicks.evaluation.simulated_clicks import ClickTarget, mask_iou, simulate_user
from ml_backend.clicks.segmenters.classical import ClassicalSegmenter
from ml_backend.clicks.segmenters.shipped import ShippedSegmenter
from ml_backend.images.decode import read_image
from ml_backend.masks.coco import load_coco

Mask = npt.NDArray[np.bool_]
MAX_CLICKS = 12


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--only", nargs="*", help="of these sets alone")
    parser.add_argument("--limit", type=int, default=120, help="objects of each set, spread over pictures")
    parser.add_argument("--better", action="store_true", help="the better of two segmenters at every click")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        for name, targets in _targets(arguments.data, arguments.only, arguments.limit, Path(scratch)):
            row = clicks_of_the_better(targets) if arguments.better else first_ious(targets)
            print(json.dumps({"name": f"first_answers.{name}", "objects": len(targets), **row}), flush=True)


def _targets(
    data: Path, only: list[str] | None, limit: int, scratch: Path
) -> Iterator[tuple[str, list[ClickTarget]]]:
    experiment = ClickExperiment(limit=limit)
    for name in (*UNSEEN, *SETS, "generated"):
        if only and name not in only:
            continue
        if name == "generated":
            yield name, generated_targets(limit, SCENE_SEEDS["choose"], scratch)
        elif name in SETS:
            division = divide(data / name)
            yield name, pick_targets(division.choose, division.categories, experiment, {})
        else:
            whole = load_coco(data / name / "images", data / name / "annotations.json")
            yield name, pick_targets(whole.images[120:], whole.categories, experiment, {})


def first_ious(targets: list[ClickTarget]) -> dict[str, object]:
    """Mean IoU after one click, by how the answer is chosen."""
    segmenter = ShippedSegmenter(threads=1)
    found: dict[str, list[float]] = {}
    for target in targets:
        pixels, true = read_image(target.image), _mask(target)
        click = ritm_robot(np.zeros_like(true), true, [])
        if click is None:
            continue
        prompt = Prompt(((float(click.x), float(click.y), True),), None, "")
        embedding = segmenter.embed(pixels)
        answers = segmenter.first_answers(embedding, prompt)
        ious = [mask_iou(answer.result.masks[0], true) for answer in answers]
        trust = [-1.0 if a.window is None else float(a.result.iou[0]) for a in answers]
        chosen = {"agreed": ious[0], "surest": ious[int(np.argmax(trust))], "truly best": max(ious)}
        for answer, iou in zip(answers, ious, strict=True):
            chosen["classical" if answer.window is None else f"window {answer.window.side}"] = iou
        for how, iou in chosen.items():
            found.setdefault(how, []).append(iou)
    return {"unit": "IoU", **{how: round(float(np.mean(ious)), 3) for how, ious in found.items()}}


class _Better:
    """Answers with what is better of two segmenters, as only the true mask can tell."""

    name = encoder = "better"
    device = "cpu"
    nbytes = 0
    persist = False

    def __init__(self, both: tuple[ClickSegmenter, ClickSegmenter], true: Mask) -> None:
        self._both, self._true = both, true

    def embed(self, image: npt.NDArray[np.uint8]) -> Embedding:
        return self._both[0].embed(image)

    def segment(self, embedding: Embedding, prompt: Prompt, start_mask: StartMask | None) -> ClickResult:
        answers = [one.segment(embedding, prompt, start_mask) for one in self._both]
        return max(answers, key=lambda answer: mask_iou(answer.masks[0], self._true))


def clicks_of_the_better(targets: list[ClickTarget]) -> dict[str, object]:
    """Mean clicks to IoU 0.85, ``MAX_CLICKS`` at most, of each segmenter and of the better of both."""
    shipped, classical = ShippedSegmenter(threads=1), ClassicalSegmenter()
    clicks: dict[str, list[int]] = {}
    for target in targets:
        pixels, true = read_image(target.image), _mask(target)
        for segmenter in (shipped, classical, _Better((shipped, classical), true)):
            trace = simulate_user(
                segmenter, segmenter.embed(pixels), true, max_clicks=MAX_CLICKS, stop_iou=0.85
            )
            reached = trace.ious[-1] >= 0.85
            clicks.setdefault(segmenter.name, []).append(len(trace.clicks) if reached else MAX_CLICKS)
    return {"unit": "clicks", **{name: round(float(np.mean(n)), 2) for name, n in clicks.items()}}


def _mask(target: ClickTarget) -> Mask:
    return np.asarray(coco_mask.decode(target.rle), np.bool_)


if __name__ == "__main__":
    main()
