"""How many of the k offered masks are right: "more like this" against the proposals' own scores and chance.

    python -m bench.more_like_this --images nuclei/images --coco nuclei/annotations.json
    python -m bench.more_like_this --images photos --coco photos.json --least 20 --part tune

Some masks of a class are given, as one or several finished pictures or as single masks of them. Of the
proposals on all other pictures the k most alike are taken, at most a fifth of k on a picture. One is right
when its IoU with an object of the class is at least one half. One line of JSON for each way and k: the mean
precision over classes and draws of the given masks with its 95 % interval (bootstrap over draws), and as
baseline the proposals by objectness. Ways:

- ``alike``: what the command does: similarity with the nearest masks given, and objectness;
- ``alike_cut``: the same with features of the masks cut out (``--features``) in place of the built-in ones;
- ``nearest``: similarity alone; ``mean``: cosine with the mean of the masks given;
- ``contrast``: as ``alike``, less the similarity with what else is on the finished pictures;
- ``objectness``: the proposals by their own score; ``random``: in any order.

``more_like_this_ceiling``: the share of objects that some proposal fits; none of the ways can show more.
Pictures are split in halves: constants were chosen on ``--part tune``, figures are of ``report``.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bench.detection_set import add_arguments, load_examples, print_figure
from clustering.alike import Scaling, alikeness, apart, best_rows, rank_score, scaling_of
from ml_backend.examples import Example
from ml_backend.images.decode import read_image
from ml_backend.learners.alike.looks import Looks, clash, describer, propose
from ml_backend.learners.mask_features import MaskFeatures
from ml_backend.learners.weak.sources import get_source
from ml_backend.masks.rle import rle_iou

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]
_RIGHT, _ELSE = 0.5, 0.3
_KS = (10, 50, 100)


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """A picture: its proposals by two descriptions, the drawn masks, and how they overlap."""

    looks: Looks
    clash: Bools
    iou: npt.NDArray[np.float64]
    label: npt.NDArray[np.int64]
    feature: Mapping[str, Floats]
    drawn: Mapping[str, Floats]

    def right(self, label: int) -> Bools:
        """(n,) which proposals are objects of the label."""
        fits = self.iou[:, self.label == label]
        return np.asarray((fits >= _RIGHT).any(axis=1), np.bool_)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser)
    parser.add_argument("--part", choices=("tune", "report"), default="report")
    parser.add_argument("--pictures", type=int, default=60, help="of the part, at most")
    parser.add_argument("--least", type=int, default=30, help="objects that a class must have")
    parser.add_argument("--draws", type=int, default=20, help="of given masks, per class")
    parser.add_argument("--source", default="classical", help="of proposals")
    parser.add_argument("--features", default="classical", help="of cut masks, or the folder of a model")
    parser.add_argument("--quick", action="store_true", help="few pictures: a test of the benchmark")
    options = parser.parse_args()
    if options.quick:
        options.pictures, options.draws, options.least = 5, 3, 3
    with tempfile.TemporaryDirectory() as scratch:
        name, labels, examples = load_examples(options, Path(scratch))
        mine = [e for i, e in enumerate(examples) if (i % 2 == 0) == (options.part == "tune")]
        seen = look_at(mine[: options.pictures], options.source, MaskFeatures(options.features), name)
    measure(name, labels, seen, options)


def look_at(examples: Sequence[Example], source: str, cut: MaskFeatures, name: str) -> list[Seen]:
    """The pictures with all that is compared; prints what they cost."""
    masks, own = get_source(source, 100), describer("own")
    seen, spent, count = [], {"own": 0.0, "cut": 0.0}, 0
    for example in examples:
        image = read_image(example.image)
        begun = time.process_time()
        looks, drawn = propose(image, own, masks, drawn=example.rle)
        middle = time.process_time()
        features = cut(image, [*looks.rle, *example.rle])
        spent["own"] += middle - begun
        spent["cut"] += time.process_time() - middle
        n = len(looks.rle)
        count += n
        seen.append(
            Seen(
                looks,
                clash(looks.rle),
                rle_iou(looks.rle, example.rle),
                np.asarray(example.label, np.int64),
                {"own": looks.feature, "cut": features[:n]},
                {"own": drawn, "cut": features[n:]},
            )
        )
    for which, seconds in spent.items():
        what = "proposals_and_looks" if which == "own" else "cut_features"
        more = {"set": name, "what": what, "proposals": count}
        print_figure("more_like_this_cpu_s_per_1000", 1000 * seconds / max(count, 1), "s", None, **more)
    return seen


def measure(name: str, labels: Sequence[str], seen: Sequence[Seen], options: argparse.Namespace) -> None:
    """Print the figures of one set."""
    count = np.bincount(np.concatenate([s.label for s in seen]), minlength=len(labels))
    of = [i for i in range(len(labels)) if count[i] >= options.least]
    place = {"set": name, "part": options.part, "pictures": len(seen), "classes": len(of)}
    ceiling = [float((s.iou >= _RIGHT).any(axis=0).mean()) for s in seen if len(s.label)]
    print_figure("more_like_this_ceiling", float(np.mean(ceiling)), "", None, **place)
    scales = {which: scaling_of(np.concatenate([s.feature[which] for s in seen])) for which in ("own", "cut")}
    for given, pictures in (
        ("1 mask", 0),
        ("3 masks", 0),
        ("10 masks", 0),
        ("1 picture", 1),
        ("3 pictures", 3),
    ):
        wanted = int(given.split()[0])
        found: dict[tuple[str, int], list[float]] = {}
        for label in of:
            for draw in range(options.draws):
                rng = np.random.default_rng([options.seed, label, wanted, pictures, draw])
                for key, value in one_draw(seen, label, wanted, pictures, scales, rng).items():
                    found.setdefault(key, []).append(value)
        for (way, k), values in found.items():
            low, high = interval(values, options.seed)
            baseline = None if way in ("objectness", "random") else float(np.mean(found["objectness", k]))
            more = {"given": given, "k": k, "low": low, "high": high, "draws": len(values)}
            print_figure(f"more_like_this_{way}", float(np.mean(values)), "", baseline, **more, **place)


def one_draw(
    seen: Sequence[Seen],
    label: int,
    wanted: int,
    pictures: int,
    scales: Mapping[str, Scaling],
    rng: np.random.Generator,
) -> dict[tuple[str, int], float]:
    """Precision by way and k; empty when the class is on no other picture.

    With ``pictures`` that many finished pictures are given, with all that is drawn on them; else ``wanted``
    masks from as few pictures as hold so many, of which nothing else is known.
    """
    order = rng.permutation([i for i, s in enumerate(seen) if (s.label == label).any()])
    used: list[int] = []
    rows: list[npt.NDArray[np.int64]] = []
    for i in order.tolist():
        mine = rng.permutation(np.flatnonzero(seen[i].label == label))
        used.append(i)
        rows.append(mine if pictures else mine[: wanted - sum(map(len, rows))])
        if len(used) == pictures or (not pictures and sum(map(len, rows)) >= wanted):
            break
    rest = [s for i, s in enumerate(seen) if i not in used]
    if not any((s.label == label).any() for s in rest):
        return {}
    scores: dict[str, list[npt.NDArray[np.float64]]] = {
        "objectness": [s.looks.prior.astype(np.float64) for s in rest],
        "random": [rng.random(len(s.looks.rle)) for s in rest],
    }
    prior = scores["objectness"]
    for which, scale in scales.items():
        good = np.concatenate([scale(seen[i].drawn[which])[r] for i, r in zip(used, rows, strict=True)])
        points = [scale(s.feature[which]) for s in rest]
        near = [alikeness(p, good) for p in points]
        suffix = "" if which == "own" else "_cut"
        scores[f"alike{suffix}"] = [rank_score(a, p) for a, p in zip(near, prior, strict=True)]
        if which == "cut":
            continue
        mean = good.mean(axis=0)
        scores["nearest"] = near
        scores["mean"] = [np.asarray(p @ mean, np.float64) for p in points]
        if pictures:
            parts = [scale(seen[i].drawn[which])[seen[i].label != label] for i in used]
            parts += [scale(seen[i].feature[which])[(seen[i].iou < _ELSE).all(axis=1)] for i in used]
            far = [alikeness(p, np.concatenate(parts)) for p in points]
            less = [np.clip(0.5 + a - b, 0, 1) for a, b in zip(near, far, strict=True)]
            scores["contrast"] = [rank_score(a, p) for a, p in zip(less, prior, strict=True)]
    return {(way, k): precision(value, rest, label, k) for way, value in scores.items() for k in _KS}


def precision(score: Sequence[npt.NDArray[np.float64]], rest: Sequence[Seen], label: int, k: int) -> float:
    """The share of right ones among the k best that are apart, at most a fifth of k on a picture."""
    kept = [apart(value, s.clash) for value, s in zip(score, rest, strict=True)]
    value = np.concatenate([one[rows] for one, rows in zip(score, kept, strict=True)])
    right = np.concatenate([s.right(label)[rows] for s, rows in zip(rest, kept, strict=True)])
    picture = np.repeat(np.arange(len(rest)), [len(rows) for rows in kept])
    best = best_rows(value, picture, most=k, per_picture=max(3, k // 5))
    return float(right[best].mean()) if len(best) else 0.0


def interval(values: Sequence[float], seed: int) -> tuple[float, float]:
    """95 % interval of the mean: bootstrap over the draws."""
    rng = np.random.default_rng(seed)
    means = rng.choice(np.asarray(values), (1000, len(values))).mean(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return round(float(low), 3), round(float(high), 3)


if __name__ == "__main__":
    main()
