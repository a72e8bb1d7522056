"""Is a mask of everything worth starting a click from, before a project has a model of its own?

    python -m bench.everything_clicks --data nuclei_dsb2018_a --segmenter shipped --limit 6

For some true objects of each picture a simulated person clicks until IoU 0.85: once from nothing, and once as
the service would with the masks of everything as proposals, that is from the mask under the first click.
Pictures are those of the part ``report`` of ``bench.segment_everything``. Prints one line of JSON:

``on_mask``: objects whose first click lies on a mask; for these ``clicks``: mean number from nothing and from
the mask, ``--most`` + 1 where 0.85 is not reached, with ``difference``, its 95 % interval by a bootstrap over
pictures; ``first_iou``: IoU after the first click; ``fewer``, ``more``: objects.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bench.segment_everything import halves
from ml_backend.clicks.base import ClickSegmenter, Embedding, Prompt, StartMask
from ml_backend.clicks.evaluation.robots import ritm_robot
from ml_backend.clicks.evaluation.simulated_clicks import Mask, mask_iou
from ml_backend.clicks.everything import segment_everything
from ml_backend.clicks.serving.catalog import build_segmenter
from ml_backend.clicks.start_masks import Proposals, proposal_for, start_mask_from
from ml_backend.examples import Example
from ml_backend.images.decode import read_image
from ml_backend.instances import Instances
from ml_backend.masks.rle import decode_rle, rle_box
from ml_backend.settings import BackendSettings

_ENOUGH, _SMALLEST_PX, _LABEL = 0.85, 30, "object"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--segmenter", default="shipped")
    parser.add_argument("--limit", type=int, default=6, help="pictures (default: 6)")
    parser.add_argument("--objects", type=int, default=6, help="of a picture (default: 6)")
    parser.add_argument("--most", type=int, default=6, help="clicks of an object (default: 6)")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    segmenter = build_segmenter(options.segmenter, BackendSettings())
    played: list[tuple[int, list[float], list[float]]] = []
    n = 0
    for example in halves(options.data, options.seed)["report"][: options.limit]:
        rows, asked = play_picture(segmenter, example, objects=options.objects, most=options.most)
        played += [(example.task_id, *row) for row in rows]
        n += asked
    print(
        json.dumps(
            {
                "set": options.data.name,
                "segmenter": segmenter.name,
                "pictures": options.limit,
                "objects": n,
                "on_mask": len(played),
                **figures(played, options.most),
            }
        )
    )


def play_picture(
    segmenter: ClickSegmenter, example: Example, *, objects: int, most: int
) -> tuple[list[tuple[list[float], list[float]]], int]:
    """IoUs after each click from nothing and from a mask, per object with a mask; and objects tried."""
    image = read_image(example.image)
    proposals = Proposals("v", (_LABEL,), _instances(segmenter, image))
    embedding = segmenter.embed(image)
    rows, tried = [], 0
    for i in np.random.default_rng(example.task_id).permutation(len(example.rle)).tolist():
        target = decode_rle(example.rle[i]).astype(bool)
        if tried == objects or target.sum() < _SMALLEST_PX:
            continue
        tried += 1
        click = ritm_robot(np.zeros_like(target), target, [])
        assert click is not None, "an object has a middle"
        prompt = Prompt(((float(click.x), float(click.y), True),), None, _LABEL)
        found = proposal_for(proposals, prompt, embedding.hw)
        if found is not None:
            rows.append(
                (
                    series(segmenter, embedding, target, None, most),
                    series(segmenter, embedding, target, found[1], most),
                )
            )
    return rows, tried


def series(
    segmenter: ClickSegmenter, embedding: Embedding, target: Mask, start: StartMask | None, most: int
) -> list[float]:
    """IoU after each click; the first click is in the middle of the object, whatever is shown."""
    shown = np.zeros_like(target)
    clicks: list[tuple[int, int, bool]] = []
    ious: list[float] = []
    while len(clicks) < most:
        following = ritm_robot(shown, target, [(x, y) for x, y, _ in clicks])
        if following is None:
            break
        clicks.append((following.x, following.y, following.positive))
        points = tuple((float(x), float(y), positive) for x, y, positive in clicks)
        answer = segmenter.segment(embedding, Prompt(points, None, _LABEL), start)
        shown = answer.masks[0].astype(bool)
        ious.append(mask_iou(shown, target))
        if ious[-1] >= _ENOUGH:
            break
        logits = None if answer.logits is None else answer.logits[0]
        start = start_mask_from(shown, logits=logits, from_proposal=False)
    return ious


def figures(played: list[tuple[int, list[float], list[float]]], most: int) -> dict[str, object]:
    """Both ways side by side."""
    if not played:
        return {}

    def number(ious: list[float]) -> int:
        return len(ious) if ious[-1] >= _ENOUGH else most + 1

    picture = np.array([row[0] for row in played])
    plain, masked = (np.array([number(row[k]) for row in played], float) for k in (1, 2))
    rng = np.random.default_rng(0)
    ids = np.unique(picture)
    drawn = []
    for _ in range(2000):
        rows = np.concatenate([np.flatnonzero(picture == i) for i in rng.choice(ids, len(ids))])
        drawn.append(float((masked - plain)[rows].mean()))
    return {
        "clicks": [round(float(plain.mean()), 2), round(float(masked.mean()), 2)],
        "difference": [round(float(np.quantile(drawn, q)), 2) for q in (0.025, 0.975)],
        "first_iou": [round(float(np.mean([row[k][0] for row in played])), 2) for k in (1, 2)],
        "fewer": int((masked < plain).sum()),
        "more": int((masked > plain).sum()),
    }


def _instances(segmenter: ClickSegmenter, image: npt.NDArray[np.uint8]) -> Instances:
    found = segment_everything(segmenter, image)
    rles = found.rles()
    box = np.array([rle_box(rle) for rle in rles], np.float32).reshape(-1, 4)
    n = len(rles)
    return Instances(np.zeros(n, np.int64), box, rles, found.trust, found.score, np.zeros((n, 0), np.float32))


if __name__ == "__main__":
    main()
