"""Masks of everything on a picture, against the true objects of a set.

    python -m bench.segment_everything --data mushrooms --segmenter shipped --limit 6
    python -m bench.segment_everything --data nuclei_dsb2018_a --segmenter classical --part report

``--data`` is a folder with images/ and annotations.json (COCO). The pictures are halved at random: constants
were chosen on the part ``choose``, ``report`` is for the figures. One line of JSON per way:

- ``everything``: ``segment_everything`` as a cold start uses it;
- ``candidates``: the classical candidates that it starts from, without a segmenter, best first, as many;
- ``weak_segmenter``, ``weak_classical``: proposals of a project that learns from tags, from either source.

``recall50``, ``recall75``: share of the true objects that some mask fits with that IoU; ``precision``: share
of the masks that fit a true object with an IoU of one half. Times are seconds of the processor a picture.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ml_backend.clicks.base import ClickSegmenter
from ml_backend.clicks.everything import segment_everything
from ml_backend.clicks.everything_settings import EverythingSettings
from ml_backend.clicks.serving.automatic_masks import SegmenterMasks
from ml_backend.clicks.serving.catalog import build_segmenter
from ml_backend.examples import Example
from ml_backend.images.decode import read_image
from ml_backend.instances import Rle
from ml_backend.learners.weak.proposals import MaskSource, find_proposals, rle_at
from ml_backend.learners.weak.sources import get_source
from ml_backend.masks.coco import load_coco
from ml_backend.masks.rle import rle_iou
from ml_backend.settings import BackendSettings

__all__ = ["figures", "halves", "measure"]

_WORK_SIDE, _CLASSICAL_MOST = 480, 300

Way = Callable[[npt.NDArray[np.uint8]], Sequence[Rle]]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--segmenter", default="classical")
    parser.add_argument("--part", choices=("choose", "report"), default="report")
    parser.add_argument("--limit", type=int, default=6, help="pictures (default: 6)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--min-trust", type=float, default=EverythingSettings().min_trust)
    parser.add_argument("--weak", action="store_true", help="also the proposals for learning from tags")
    parser.add_argument("--most", type=int, default=120, help="proposals for learning from tags")
    options = parser.parse_args()
    chosen = halves(options.data, options.seed)[options.part]
    segmenter = build_segmenter(options.segmenter, BackendSettings())
    for way, line in measure(
        chosen[: options.limit],
        segmenter,
        EverythingSettings(min_trust=options.min_trust),
        most=options.most,
        weak=options.weak,
    ).items():
        place = {"set": options.data.name, "part": options.part, "segmenter": segmenter.name, "way": way}
        print(json.dumps({**place, **line}), flush=True)


def halves(data: Path, seed: int) -> dict[str, list[Example]]:
    """The pictures of a set, halved at random."""
    examples = load_coco(data / "images", data / "annotations.json").examples()
    order = np.random.default_rng(seed).permutation(len(examples)).tolist()
    half = len(order) // 2
    return {
        "choose": [examples[i] for i in order[:half]],
        "report": [examples[i] for i in order[half:]],
    }


def measure(
    examples: Sequence[Example],
    segmenter: ClickSegmenter,
    settings: EverythingSettings,
    *,
    most: int,
    weak: bool = False,
) -> dict[str, dict[str, float]]:
    """Figures of each way on the same pictures. ``most``: proposals for learning from tags."""
    found: dict[str, list[tuple[Sequence[Rle], float]]] = {}
    for example in examples:
        image = read_image(example.image)
        masks = _timed(lambda image: segment_everything(segmenter, image, settings).rles(), image)
        found.setdefault("everything", []).append(masks)
        ways: dict[str, Way] = {
            "candidates": _proposals(get_source("classical", _CLASSICAL_MOST), max(1, len(masks[0])))
        }
        if weak:
            ways["weak_segmenter"] = _proposals(SegmenterMasks(segmenter, most), most)
            ways["weak_classical"] = _proposals(get_source("classical", _CLASSICAL_MOST), most)
        for way, call in ways.items():
            found.setdefault(way, []).append(_timed(call, image))
    return {way: figures(rows, examples) for way, rows in found.items()}


def figures(rows: Sequence[tuple[Sequence[Rle], float]], examples: Sequence[Example]) -> dict[str, float]:
    """Of (masks, seconds) per picture: recall, precision, masks and seconds a picture."""
    hits: Mapping[str, list[float]] = {"recall50": [], "recall75": [], "precision": []}
    for (rles, _), example in zip(rows, examples, strict=True):
        truth = list(example.rle)
        iou = np.zeros((len(rles), len(truth)))
        if rles and truth:
            iou = np.asarray(rle_iou(list(rles), truth)).reshape(iou.shape)
        best = iou.max(axis=0, initial=0.0)
        hits["recall50"].extend((best >= 0.5).tolist())
        hits["recall75"].extend((best >= 0.75).tolist())
        hits["precision"].extend((iou.max(axis=1, initial=0.0) >= 0.5).tolist())
    return {
        **{name: round(float(np.mean(values)), 3) if values else 0.0 for name, values in hits.items()},
        "masks_per_picture": round(float(np.mean([len(rles) for rles, _ in rows])), 1),
        "true_per_picture": round(float(np.mean([len(example.rle) for example in examples])), 1),
        "cpu_seconds": round(float(np.mean([seconds for _, seconds in rows])), 2),
        "pictures": len(rows),
    }


def _proposals(source: MaskSource, most: int) -> Way:
    def call(image: npt.NDArray[np.uint8]) -> list[Rle]:
        found = find_proposals(image, source, most=most, work_side=_WORK_SIDE)
        return [rle_at(crop, found.work_hw, found.hw) for crop in found.crops]

    return call


def _timed(way: Way, image: npt.NDArray[np.uint8]) -> tuple[Sequence[Rle], float]:
    started = time.process_time()
    masks = way(image)
    return masks, time.process_time() - started


if __name__ == "__main__":
    main()
