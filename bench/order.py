"""How well the score by which tasks are ordered follows what was wrong on them: JSON lines, one per score.

``python -m bench.order --images DIR --coco FILE --model FOLDER --kind instances --skip-trained 12``

A trained version looks at pictures with known truth. For each score: its rank correlation (Spearman) with the
share of wrong objects and with the number of fixes, and how many pictures tie. ``before`` is the score that
Groundswell pushed until now: the mean doubt of the five most doubtful instances. ``ours, fitted`` is
calibrated on some of the pictures, drawn at random, and measured on the others (mean of the draws).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.stats import spearmanr

from ml_backend.examples import Example
from ml_backend.images.decode import read_image
from ml_backend.instances import Instances
from ml_backend.kinds.registry import get_kind
from ml_backend.learners.doubt_scorer import fit_scorer, plain_scorer
from ml_backend.learners.evaluation import match_iou
from ml_backend.learners.mirrored import predict_twice
from ml_backend.learners.registry import get_learner
from ml_backend.learners.uncertainty import SHOWN_FROM, named_doubts
from ml_backend.masks.shapes import box_rle
from sync.lab.labelled_pictures import from_coco
from sync.rounds.picture_truth import Fixes

Floats = npt.NDArray[np.float64]
TOP = 5
DRAWS = 50


def score_before(found: Instances) -> float:
    """The doubt that was used until now; see the top of this module."""
    if not len(found):
        return 0.5
    s, q = found.score.astype(np.float64), found.quality.astype(np.float64)
    doubt = np.minimum(4.0 * s * (1.0 - s) + s * (1.0 - q), 1.0)
    return float(np.sort(doubt)[::-1][:TOP].mean())


def fixes_of(found: Instances, truth: Example, good_iou: float) -> Fixes:
    """What a person had to mend; each true object is found once."""
    shown = found.take(found.score >= SHOWN_FROM)
    good = 0
    for i in range(len(truth.label)):
        one = Example(truth.task_id, truth.image, truth.label[i : i + 1], truth.rle[i : i + 1])
        good += bool(len(shown)) and bool((match_iou(shown, one) > good_iou).any())
    return Fixes(len(truth.label), len(shown), min(good, len(shown)))


def rank_correlation(score: Floats, truth: Floats) -> float:
    """Spearman's, 0 where one of them does not vary."""
    if score.std() == 0 or truth.std() == 0:
        return 0.0
    return float(spearmanr(score, truth)[0])


def rows_of(before: Floats, doubts: Mapping[str, Floats], fixes: Sequence[Fixes]) -> list[dict[str, object]]:
    """One row per score."""
    n = len(fixes)
    share, count = np.array([f.share for f in fixes]), np.array([float(f.count) for f in fixes])
    scores = {"before": before, **doubts, "ours": plain_scorer("ours", tuple(doubts)).values(doubts, n)}
    without = {name: column for name, column in doubts.items() if name != "tta"}
    if "tta" in doubts:
        scores["ours without tta"] = plain_scorer("ours", tuple(without)).values(without, n)
    rows: list[dict[str, object]] = [
        {
            "score": name,
            "share": round(rank_correlation(column, share), 3),
            "fixes": round(rank_correlation(column, count), 3),
            "ties": n - len(np.unique(column)),
        }
        for name, column in scores.items()
    ]
    rng = np.random.default_rng(0)
    for known in (10, 25, 50):
        if known >= n // 2:
            continue
        found = {"fitted": [], "equal": []}  # type: dict[str, list[float]]
        for _ in range(DRAWS):
            train = np.zeros(n, bool)
            train[rng.choice(n, known, replace=False)] = True
            for name, scorer in (
                ("fitted", fit_scorer(doubts, share, train)),
                ("equal", plain_scorer("ours", tuple(doubts))),
            ):
                found[name].append(rank_correlation(scorer.values(doubts, n)[~train], share[~train]))
        rows.append(
            {
                "score": f"ours, fitted on {known}",
                "share": round(float(np.mean(found["fitted"])), 3),
                "equal weights there": round(float(np.mean(found["equal"])), 3),
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--coco", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True, help="folder of a trained version")
    parser.add_argument("--learner", default="maskrcnn")
    parser.add_argument("--kind", default="instances")
    parser.add_argument(
        "--skip-trained", type=int, default=0, help="pictures that `groundswell pool` trained it on (seed 0)"
    )
    parser.add_argument("--mirror", action="store_true", help="also the doubt tta")
    options = parser.parse_args()
    kind = get_kind(options.kind)
    data = from_coco(options.images, options.coco, kind)
    order = np.random.default_rng(0).permutation(len(data.examples))[options.skip_trained :]
    predictor = get_learner(options.learner).load(options.model)
    before, named, fixes = [], [], []
    for row in order.tolist():
        image = read_image(data.examples[row].image)
        (found,) = predict_twice(predictor, [image]) if options.mirror else list(predictor.predict([image]))
        named.append(named_doubts(found))
        before.append(score_before(found))
        if kind.unit == "box":
            boxes = [box_rle(tuple(box), image.shape[:2]) for box in found.box_xyxy.tolist()]
            found = Instances(found.label, found.box_xyxy, boxes, found.score, found.quality, found.embedding)
        fixes.append(fixes_of(found, data.examples[row], kind.good_iou))
    names = sorted(set.intersection(*(set(one) for one in named)))
    doubts = {name: np.array([one[name] for one in named]) for name in names}
    head = {"pictures": len(fixes), "mean share": round(float(np.mean([f.share for f in fixes])), 3)}
    for line in (head, *rows_of(np.array(before), doubts, fixes)):
        print(json.dumps(line))


if __name__ == "__main__":
    main()
