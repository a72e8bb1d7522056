"""First clicks answered by the best of all candidates, against each part alone.

    python -m bench.joint_clicks --data SETS/mushrooms --work work --segmenter classical

``--data`` is a folder with images/ and annotations.json (COCO; classes are not told apart). The pictures are
shuffled by ``--seed``. The first ``--train`` train a Mask R-CNN (proposals) and a click network, the next
``--learn`` teach the ranking, the next ``--test`` are clicked. Models are kept in ``--work`` for the next
time; ``--model`` and ``--network`` name folders of models that were made elsewhere from the same pictures.

Nobody clicks an object whose proposal is good enough; one that is covered badly is clicked where its
proposal is wrong; others from nothing. ``--start nothing``: all are clicked as if no proposal was shown. Ways
to answer:

``segmenter``, ``network``  the segmenter and the project's network alone, no proposals
``usual``                   the segmenter, started from a proposal under or beside the first click
``proposal``                the best proposal under the first click as it is; else as ``usual``
``surest``                  the candidate with the highest score of its source
``joint``                   the candidate that ranks highest
``oracle``                  the candidate with the highest true IoU: what a perfect ranking could reach

One line of JSON per robot and way: mean clicks to IoU 0.85 (``--most`` where it is never reached), share
that never reach it, IoU after the first click, each with its 95 % bootstrap interval over pictures; and the
paired differences of ``joint``. ``chance`` is that of the adoption test against ``usual``. Before these come
lines that compare the constants of the ranking, by cross-fitting on the pictures that teach; with
``--choose`` only these.
With ``--time`` the CPU and wall seconds of first clicks are measured instead.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.detection_set import with_training_environment
from ml_backend.clicks.base import ClickSegmenter, Prompt
from ml_backend.clicks.evaluation.adoption import decide_adoption
from ml_backend.clicks.evaluation.experiment import ClickSplit
from ml_backend.clicks.evaluation.proposal_model import load_proposal_model, train_proposal_model
from ml_backend.clicks.evaluation.robots import ROBOTS
from ml_backend.clicks.evaluation.simulated_clicks import ClickTrace, mask_iou
from ml_backend.clicks.project_network.click_net import ProjectSegmenter, save_network
from ml_backend.clicks.ranking.candidates import Candidate, usual_of
from ml_backend.clicks.ranking.features import features_of
from ml_backend.clicks.ranking.joint import JointSegmenter
from ml_backend.clicks.ranking.ranker import Ranker, Seen, fit_ranker
from ml_backend.clicks.serving.catalog import build_segmenter
from ml_backend.clicks.training.options import ClickOptions
from ml_backend.clicks.training.project_clicks import (
    GOOD_ENOUGH,
    ClickedPicture,
    Wanted,
    first_prompts,
    no_ranking,
    play,
    seen_clicks,
    usual_sizes,
    usual_start,
    wanted_of,
)
from ml_backend.clicks.training.ranking import clicked_pictures
from ml_backend.clicks.training.trainer import train_network
from ml_backend.images.decode import read_image
from ml_backend.masks.coco import CocoImage, load_coco
from ml_backend.settings import BackendSettings

WAYS = ("segmenter", "network", "usual", "proposal", "surest", "joint", "oracle")
_LABEL = "object"


@dataclass(frozen=True, slots=True)
class Parts:
    """What a project has: the segmenter in use, its network, and the ranking with what it knows of sizes."""

    base: ClickSegmenter
    network: ClickSegmenter | None
    ranker: Ranker
    beside: ClickSegmenter | None = None
    """Where the network is in use: the segmenter that is asked beside it."""


@dataclass(frozen=True)
class ByRule(Ranker):
    """A ranking that follows a rule instead of weights."""

    rule: Callable[[Candidate], float] = lambda candidate: candidate.score

    def choose(
        self, candidates: Sequence[Candidate], prompt: Prompt, pixels: npt.NDArray[np.uint8]
    ) -> Candidate:
        """The candidate of the highest value; the usual one among equals."""
        shown = [usual_of(candidates), *(c for c in candidates if not c.usual)]
        return max(shown, key=self.rule)


def main() -> None:
    """See the head of this file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--network", type=Path)
    parser.add_argument("--no-model", action="store_true", help="there are no proposals")
    parser.add_argument("--segmenter", default="classical", help="the one in use; `project`: the network")
    parser.add_argument("--beside", default="classical", help="with --segmenter project: asked beside it")
    parser.add_argument("--train", type=int, default=12, help="pictures (default: 12)")
    parser.add_argument("--learn", type=int, default=20, help="pictures (default: 20)")
    parser.add_argument("--test", type=int, default=20, help="pictures (default: 20)")
    parser.add_argument("--objects", type=int, default=4, help="per picture (default: 4)")
    parser.add_argument("--start", choices=("shown", "nothing"), default="shown")
    parser.add_argument("--robot", choices=("both", *ROBOTS), default="both")
    parser.add_argument("--way", action="append", choices=WAYS, help="default: all")
    parser.add_argument("--most", type=int, default=10, help="clicks of an object (default: 10)")
    parser.add_argument("--iterations", type=int, help="of both models (default: those of the software)")
    parser.add_argument("--first-weights", default="random", choices=("random", "shipped"))
    parser.add_argument(
        "--unseen", action="store_true", help="leave out what the shipped network learnt from"
    )
    parser.add_argument("--no-network", action="store_true", help="the project has no click network")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--choose", action="store_true")
    parser.add_argument("--time", action="store_true")
    asked = parser.parse_args()
    with_training_environment("bench.joint_clicks")
    learn, test, parts = prepare(asked)
    said: dict[str, Any] = {
        "set": asked.data.name,
        "segmenter": asked.segmenter,
        "network": parts.network is not None,
    }
    said["proposals"] = not asked.no_model
    if asked.time:
        print(json.dumps({**said, "first click": timed(test, parts)}))
        return
    seen = list(look(learn, parts, asked.objects, asked.seed, from_nothing=asked.start == "nothing"))
    for line in chosen(seen):
        print(json.dumps({**said, **line}), flush=True)
    if asked.choose:
        return
    parts = replace(parts, ranker=replace(parts.ranker, weights=fit_ranker(seen)))
    for robot in ROBOTS if asked.robot == "both" else (asked.robot,):
        traces = clicked(test, parts, asked, robot)
        for line in figures(traces, asked.most):
            print(json.dumps({**said, "start": asked.start, "robot": robot, **line}), flush=True)


def prepare(asked: argparse.Namespace) -> tuple[list[ClickedPicture], list[ClickedPicture], Parts]:
    """The pictures to learn from and to click, and the models; these are trained if they are not there."""
    data = load_coco(asked.data / "images", asked.data / "annotations.json")
    order = [data.images[int(i)] for i in np.random.default_rng(asked.seed).permutation(len(data.images))]
    images = [replace(image, label=(0,) * len(image.label)) for image in order]
    train, rest = images[: asked.train], images[asked.train :]
    if asked.unseen:
        names = sorted(image.path.name for image in images)
        learnt = {name for at, name in enumerate(names) if at % 5 < 3}  # see bench.click_network.sets
        rest = [image for image in rest if image.path.name not in learnt]
    folder = asked.work / f"{asked.data.name}-{asked.train}-{asked.seed}"
    model = asked.model or folder / "model"
    say = lambda share, line: None  # noqa: E731
    if not model.exists() and not asked.no_model:
        options = {"threads": 1} | ({} if asked.iterations is None else {"iterations": asked.iterations})
        train_proposal_model(ClickSplit(tuple(train), ()), (_LABEL,), model, say, options=options)
    network = None
    if not asked.no_network:
        network = ProjectSegmenter(asked.network or _network(train, folder / "network", asked))
    base = network if asked.segmenter == "project" else build_segmenter(asked.segmenter, BackendSettings())
    assert base is not None
    predictor = None if asked.no_model else load_proposal_model(model)

    def pictures(part: Sequence[CocoImage]) -> list[ClickedPicture]:
        found = clicked_pictures([image.example() for image in part], (_LABEL,), predictor)
        for picture in found:
            if picture.proposals is not None:
                picture.proposals.instances.label[:] = 0
        return [replace(p, proposals=p.proposals and replace(p.proposals, labels=(_LABEL,))) for p in found]

    sizes = usual_sizes([((_LABEL,) * len(image.rle), image.rle) for image in train])
    parts = Parts(base, None if base is network else network, replace(no_ranking(), sizes=sizes))
    if base is network:
        parts = replace(parts, beside=build_segmenter(asked.beside, BackendSettings()))
    wanted = asked.test if not asked.choose else 0
    return (
        pictures([] if asked.time else rest[: asked.learn]),
        pictures(rest[asked.learn : asked.learn + wanted]),
        parts,
    )


def _network(train: Sequence[CocoImage], folder: Path, asked: argparse.Namespace) -> Path:
    if not folder.exists():
        options = ClickOptions(first_weights=asked.first_weights)
        if asked.iterations is not None:
            options = replace(options, iterations=asked.iterations, seconds=float("inf"))
        network, manifest, _, _ = train_network(
            [image.example() for image in train], options, lambda share, line: None
        )
        folder.mkdir(parents=True)
        save_network(folder, network, manifest)
    return folder


def look(
    pictures: Sequence[ClickedPicture], parts: Parts, objects: int, seed: int, *, from_nothing: bool
) -> Iterator[Seen]:
    """Candidates of simulated first prompts on the pictures that teach."""
    rng = np.random.default_rng(seed)
    for number, picture in enumerate(pictures):
        pixels = read_image(picture.image)
        joint = _joint(parts, parts.ranker, picture, pixels)
        embedding = parts.base.embed(pixels)
        rows = rng.permutation(len(picture.rle))[:objects].tolist()
        for wanted in wanted_of(picture, rows, from_nothing=from_nothing):
            yield from seen_clicks(
                joint, embedding, wanted, tuple(ROBOTS.values()), rng,
                picture=number, sizes=parts.ranker.sizes.get,
            )  # fmt: skip


def chosen(seen: Sequence[Seen]) -> Iterator[dict[str, Any]]:
    """Mean IoU of the chosen candidate by the constants of the ranking; five folds of whole pictures."""
    fold = {p: i % 5 for i, p in enumerate(sorted({row.picture for row in seen}))}
    usual = float(np.mean([row.ious[0] for row in seen]))
    best = float(np.mean([row.ious.max() for row in seen]))
    for sharpness in (0.05, 0.1, 0.2):
        for ridge in (0.003, 0.01, 0.03):
            kept = []
            for number in range(5):
                learnt = [row for row in seen if fold[row.picture] != number]
                weights = fit_ranker(learnt, sharpness=sharpness, ridge=ridge)
                kept += [
                    float(row.ious[int((row.features @ np.array(weights)).argmax())])
                    for row in seen
                    if fold[row.picture] == number
                ]
            yield {
                "sharpness": sharpness, "ridge": ridge, "clicks": len(seen), "usual": round(usual, 4),
                "ranked": round(float(np.mean(kept)), 4), "oracle": round(best, 4),
            }  # fmt: skip


def clicked(
    pictures: Sequence[ClickedPicture], parts: Parts, asked: argparse.Namespace, robot: str
) -> dict[str, list[ClickTrace]]:
    """Every way to answer on the same objects in the same order."""
    rng = np.random.default_rng(asked.seed + 1)
    traces: dict[str, list[ClickTrace]] = {way: [] for way in asked.way or WAYS}
    if parts.network is None:
        traces.pop("network", None)
    for picture in pictures:
        pixels = read_image(picture.image)
        embedding = parts.base.embed(pixels)
        rows = rng.permutation(len(picture.rle))[: asked.objects].tolist()
        for wanted in wanted_of(picture, rows, from_nothing=asked.start == "nothing"):
            for way, found in traces.items():
                alone = way in ("segmenter", "network")
                segmenter: ClickSegmenter = parts.base
                seen = embedding
                if way == "network" and parts.network is not None:
                    segmenter, seen = parts.network, parts.network.embed(pixels)
                elif way not in ("segmenter", "usual"):
                    segmenter = _joint(parts, _ranker(way, parts.ranker, wanted), picture, pixels)
                found.append(
                    play(
                        segmenter, seen, wanted, usual=segmenter if alone else parts.base,
                        proposals=None if alone else picture.proposals, robot=ROBOTS[robot],
                        max_clicks=asked.most, image=picture.image.name,
                    )
                )  # fmt: skip
    return traces


def _ranker(way: str, learnt: Ranker, wanted: Wanted) -> Ranker:
    rules: dict[str, Callable[[Candidate], float]] = {
        "proposal": lambda c: c.score if c.source == "proposal" else 0.0,
        "surest": lambda c: c.score,
        "oracle": lambda c: mask_iou(c.mask, wanted.mask),
    }
    return ByRule((), rule=rules[way]) if way in rules else learnt


def _joint(
    parts: Parts, ranker: Ranker, picture: ClickedPicture, pixels: npt.NDArray[np.uint8]
) -> JointSegmenter:
    second = parts.beside if parts.beside is not None else parts.network
    return JointSegmenter(
        parts.base, ranker, second=second, proposals=picture.proposals, pixels=lambda: pixels, key=""
    )


def figures(traces: dict[str, list[ClickTrace]], most: int) -> Iterator[dict[str, Any]]:
    """Means with intervals, and the paired differences of ``joint`` from every other way."""
    table = {way: _columns(found, most) for way, found in traces.items()}
    pictures = [trace.image for trace in next(iter(traces.values()))]
    weights = _resampled(pictures)
    for way, values in table.items():
        clicks, never, first = (_interval(values[:, i], pictures, weights) for i in range(3))
        line: dict[str, Any] = {
            "way": way, "objects": len(values), "pictures": len(set(pictures)),
            "shown": sum(trace.had_proposal for trace in traces[way]),
            "clicks": clicks, "never": never[0], "first_iou": first,
        }  # fmt: skip
        if "joint" in table and way != "joint":
            gap = table["joint"] - values
            line["joint_minus_this"] = {
                "clicks": _interval(gap[:, 0], pictures, weights),
                "first_iou": _interval(gap[:, 2], pictures, weights),
                "fewer": int((gap[:, 0] < 0).sum()),
                "more": int((gap[:, 0] > 0).sum()),
                "later clicks": _interval(gap[:, 3], pictures, weights),
            }
        if way == "usual" and "joint" in traces:
            verdict = decide_adoption(traces["joint"], traces["usual"], look=1, max_clicks=most)
            line["chance"], line["adopted"] = round(verdict.chance, 5), verdict.use
        yield line


def _columns(traces: Sequence[ClickTrace], most: int) -> npt.NDArray[np.float64]:
    """Per object: clicks, whether never good enough, IoU after the first click, clicks after the first."""
    rows = []
    for trace in traces:
        reached = trace.clicks_to(GOOD_ENOUGH)
        clicks = most if reached is None else reached
        rows.append([clicks, reached is None, trace.ious[min(1, len(trace.ious) - 1)], max(0, clicks - 1)])
    return np.array(rows, np.float64)


def _resampled(pictures: Sequence[str], draws: int = 2000) -> npt.NDArray[np.float64]:
    n = len(set(pictures))
    return np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=draws).astype(np.float64)


def _interval(
    values: npt.NDArray[np.float64], pictures: Sequence[str], weights: npt.NDArray[np.float64]
) -> list[float]:
    """Mean, and its 95 % bootstrap interval over pictures."""
    place = np.unique(np.array(pictures), return_inverse=True)[1]
    sums, counts = np.bincount(place, values), np.bincount(place)
    low, high = np.percentile((weights @ sums) / (weights @ counts), [2.5, 97.5])
    return [round(float(v), 3) for v in (values.mean(), low, high)]


def timed(pictures: Sequence[ClickedPicture], parts: Parts) -> dict[str, Any]:
    """Mean CPU and wall milliseconds of first clicks, each way in turn on the same click."""
    rng = np.random.default_rng(0)
    spent: dict[str, list[tuple[float, float]]] = {}
    threads = ThreadPoolExecutor(2)

    def run(name: str, work: Callable[..., Any], *given: Any) -> Any:
        cpu, wall = process_time(), perf_counter()
        result = work(*given)
        spent.setdefault(name, []).append((process_time() - cpu, perf_counter() - wall))
        return result

    for picture in pictures:
        pixels = read_image(picture.image)
        embedding = parts.base.embed(pixels)
        joint, beside = (_joint(parts, parts.ranker, picture, pixels) for _ in range(2))
        beside.threads = threads
        for wanted in wanted_of(picture, rng.permutation(len(picture.rle))[:2].tolist(), from_nothing=True):
            prompt = first_prompts(wanted, (), rng)[0]
            start = usual_start(parts.base, embedding, prompt, picture.proposals)
            found = joint.candidates(embedding, prompt, start)  # also warms up
            run("segmenter", parts.base.segment, embedding, prompt, None)
            if start is not None:
                run("from a proposal", parts.base.segment, embedding, prompt, start)
            if parts.network is not None:
                run("network", parts.network.segment, parts.network.embed(pixels), prompt, None)
            run("joint", joint.segment, embedding, prompt, start)
            run("joint, two threads", beside.segment, embedding, prompt, start)
            features = run("features", features_of, found, prompt, pixels, None)
            run("values", parts.ranker.values, features)
    return {
        name: {"cpu_ms": _median(rows, 0), "wall_ms": _median(rows, 1), "n": len(rows)}
        for name, rows in spent.items()
    }


def _median(rows: Sequence[tuple[float, float]], column: int) -> float:
    return round(1000 * float(np.median([row[column] for row in rows])), 2)


if __name__ == "__main__":
    main()
