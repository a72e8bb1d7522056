"""Scores of likely label mistakes: annotations against predictions of a model that did not learn from them.

Objects are looked at as in ObjectLab (Tkachenko, Thyagarajan, Mueller 2023, arXiv 2309.00832): an object may
be overlooked, badly placed, or have a swapped label; each of these gives a quality of the picture, and their
geometric mean is the quality of its annotation. How much a difference says depends on how good the model is:
each one is weighed against how often this model differs like this (``difference_scores``).

Classes of whole pictures follow confident learning (Northcutt, Jiang, Chuang 2021, JAIR 70) and, where a
picture has several, its extension to many labels (Thyagarajan et al. 2022, arXiv 2211.13895). Qualities of
parts become one by the soft minimum that Lad and Mueller (2023, arXiv 2307.05080) found best for
segmentation. Everything here is written from these papers.

Predictions must come from a model that was not trained on the picture: one that was repeats its mistakes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from clustering.arrays import Bools, Floats, Ints

__all__ = [
    "FINE",
    "NOTHING",
    "PLACED",
    "SHARES",
    "SWAPPED",
    "Differences",
    "class_mistakes",
    "difference_scores",
    "geometric_mean",
    "object_differences",
    "rows_by",
    "soft_minimum",
    "tag_mistakes",
]

FINE, PLACED, NOTHING, SWAPPED = range(4)
"""What a prediction says of a drawn object: right; elsewhere or of another size; not there; another label."""
SHARES: Final = {"overlooked": 0.05, "placed": 0.02, "nothing": 0.003, "swapped": 0.03}
"""Share of objects with each mistake that is taken for usual. Tuned on planted errors in blood cells."""
SAME_PLACE: Final = 0.5
"""two objects with at least this IoU lie in the same place"""
COVERED: Final = 0.5
"""a prediction of which drawn objects cover at least this share is none that was overlooked"""
TOUCHES: Final = 0.05
"""IoU from which on a prediction may be of an object that was drawn in another place"""
UNSURE: Final = 0.1
"""predictions less sure say nothing"""
KNOWN: Final = 0.3
"""an object that a prediction finds with this confidence is there"""
TEMPERATURE: Final = 0.1
"""of the soft minimum, as in Lad and Mueller"""
_POOLED: Final = 20.0
"""objects of all labels that count beside those of a label itself, and before any was seen"""
_USUAL: Final = 0.05
"""how often a model is taken to differ before any object was seen"""


@dataclass(frozen=True, slots=True, eq=False)
class Differences:
    """Annotation and predictions of one picture compared.

    Attributes
    ----------
    drawn : (d,) int64 of each drawn object: ``FINE``, ``PLACED``, ``NOTHING`` or ``SWAPPED``
    strength : (d,) in 0..1, how sure the model is of that; 0 for fine ones
    by : (d,) int64, the prediction that says so, -1 for none
    overlooked : (f,) in 0..1, confidence of predictions that nobody drew; 0 for all others
    agrees : (f,) bool, whether a drawn object of its label lies in the place of a prediction
    """

    drawn: Ints
    strength: Floats
    by: Ints
    overlooked: Floats
    agrees: Bools


def object_differences(
    iou: Floats, covered: Floats, among: Floats, found_label: Ints, confidence: Floats, drawn_label: Ints
) -> Differences:
    """Compare f predictions with d drawn objects of one picture.

    Parameters
    ----------
    iou : (f, d) IoU of prediction and drawn object
    covered : (f, d) share of the prediction's area that lies in the drawn object
    among : (f, f) IoU of the predictions with each other
    found_label, drawn_label : (f,), (d,) numbers of the labels
    confidence : (f,) in 0..1, how sure the model is

    An object is swapped when a prediction of another label in its place is surer than those of its own; badly
    placed when a prediction that has no object of its own overlaps it a little; and nothing is there when no
    prediction is in its place. Time and memory O(f·(f + d)).
    """
    f, d = iou.shape
    same = (found_label[:, None] == drawn_label) if f and d else np.zeros((f, d), bool)
    here = iou >= SAME_PLACE
    alone = ~here.any(axis=1)
    belongs = iou.argmax(axis=1) if d else np.zeros(f, np.int64)
    drawn, strength, by = np.zeros(d, np.int64), np.zeros(d), np.full(d, -1, np.int64)
    explained: Bools = np.zeros(f, bool)
    for j in range(d):
        support = confidence[here[:, j] & same[:, j]].max(initial=0.0)
        rivals = np.flatnonzero(here[:, j] & ~same[:, j])
        near = np.flatnonzero((iou[:, j] >= TOUCHES) & same[:, j] & alone & (belongs == j))
        for kind, rows in ((SWAPPED, rivals), (PLACED, near)):
            if len(rows) and confidence[rows].max() > max(support, UNSURE):
                best = int(rows[confidence[rows].argmax()])
                drawn[j], strength[j], by[j] = kind, confidence[best] - support, best
                explained[best] = True
                break
        else:
            if support < KNOWN:
                drawn[j], strength[j] = NOTHING, 1.0 - support
    free = alone & (covered.sum(axis=1) < COVERED) & ~explained & (confidence >= UNSURE)
    overlooked = _once(np.where(free, confidence, 0.0), among)
    return Differences(drawn, strength, by, overlooked, (here & same).any(axis=1))


def _once(score: Floats, among: Floats) -> Floats:
    """The scores, 0 for all but the best of predictions in the same place."""
    out = score.copy()
    for i in np.argsort(-score, kind="stable").tolist():
        if out[i] > 0:
            rivals = among[i] >= SAME_PLACE
            rivals[i] = False
            out[rivals] = 0.0
    return out


def difference_scores(
    strength: Floats,
    label: Ints,
    chances: Floats,
    *,
    share: float,
    pooled: bool = False,
    picture: Ints | None = None,
    nearby: Floats | None = None,
) -> Floats:
    """(n,) how likely each difference of one kind is a mistake of the annotation rather than of the model.

    Parameters
    ----------
    strength : (n,) how sure the model is of each difference
    label : (n,) numbers of the labels
    chances : (labels, n) objects of each label on which the model could have differed as strongly as this
    share : share of objects that is taken to have this mistake, see ``SHARES``
    pooled : look at all labels together. A mistake that gives an object another label is common among the
        objects of a rare one
    picture, nearby : (n,) number of the picture of each difference, and how many objects of this picture,
        those without an agreeing one among them, the model could have differed on as strongly; given
        together. Models are worse on some pictures than on others

    The score is share / (share + rate). The rate is that of other differences of the same label that are as
    strong or stronger, mistakes among them: where many annotations are wrong, scores are low and their order
    stays. Each label borrows 20 objects from all labels together, and these begin with 20 of which the
    model differs on 5 %. Each picture, where it counts, borrows 20 from the label.
    Time O(n·labels + n log n).
    """
    rate = _label_rates(strength, label, chances, pooled=pooled)
    if picture is not None and nearby is not None:
        for mine in rows_by(picture):
            rate[mine] = (_at_least(strength[mine]) + _POOLED * rate[mine]) / (nearby[mine] + _POOLED)
    return np.asarray(share / (share + rate), np.float64)


def rows_by(number: Ints) -> list[Ints]:
    """The rows of each distinct number. Time O(n log n)."""
    order = np.argsort(number, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(number[order])) + 1) if len(order) else []


def _label_rates(strength: Floats, label: Ints, chances: Floats, *, pooled: bool) -> Floats:
    """(n,) share of the objects of a label on which the model differs as strongly as each time."""
    total = chances.sum(axis=0)
    everywhere = (_at_least(strength) + _POOLED * _USUAL) / (total + _POOLED)
    if pooled:
        return np.asarray(everywhere, np.float64)
    rate = np.empty(len(strength))
    for number in np.unique(label):
        mine = label == number
        rate[mine] = (_at_least(strength[mine]) + _POOLED * everywhere[mine]) / (
            chances[number, mine] + _POOLED
        )
    return rate


def _at_least(values: Floats) -> Floats:
    """(n,) how many other values are as large as each."""
    return len(values) - 1.0 - np.searchsorted(np.sort(values), values, "left").astype(np.float64)


def soft_minimum(quality: Floats, *, temperature: float = TEMPERATURE) -> float:
    """The mean of qualities in 0..1, weighted towards the smallest; 1 when there is none."""
    if not len(quality):
        return 1.0
    weight = np.exp((quality.min() - quality) / temperature)
    return float((weight * quality).sum() / weight.sum())


def geometric_mean(parts: list[float]) -> float:
    """Of qualities in 0..1; 0 when one is 0."""
    return float(np.exp(np.mean(np.log(np.maximum(parts, 1e-9)))))


def class_mistakes(probability: Floats, given: Ints) -> tuple[Floats, Ints]:
    """Score of each picture's class being wrong, and the class that it seems to be.

    Parameters
    ----------
    probability : (n, k) of each class, by a model that was not trained on the picture
    given : (n,) the class people said

    Returns
    -------
    (n,) score in 0..1 and (n,) int64 the likelier class. A class counts as said by the model when its
    probability reaches the mean that it has on pictures of this class (the threshold of confident learning),
    so that a model which is never sure of a rare class still speaks for it. The score of a picture in the
    off-diagonal of the confident joint is 1/2 + (p_likely - p_given)/2; all others have 0.
    """
    n, k = probability.shape
    score, likely = np.zeros(n), np.asarray(given, np.int64).copy()
    if not n or k < 2:
        return score, likely
    threshold = np.array(
        [probability[given == j, j].mean() if (given == j).any() else np.inf for j in range(k)]
    )
    reached = np.where(probability >= threshold, probability, -1.0)
    best = reached.argmax(axis=1)
    off = (reached.max(axis=1) >= 0) & (best != given)
    rows = np.flatnonzero(off)
    margin = probability[rows, best[rows]] - probability[rows, given[rows]]
    score[rows] = np.clip(0.5 + margin / 2, 0.0, 1.0)
    likely[rows] = best[rows]
    return score, likely


def tag_mistakes(probability: Floats, given: Bools) -> Floats:
    """(n, k) score of each yes or no being wrong, where a picture may have several classes: each class is a
    choice of two for itself. ``probability`` and ``given`` are (n, k)."""
    out = np.zeros(probability.shape)
    for j in range(probability.shape[1]):
        both = np.stack([1.0 - probability[:, j], probability[:, j]], axis=1)
        out[:, j] = class_mistakes(both, given[:, j].astype(np.int64))[0]
    return out
