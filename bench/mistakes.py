"""How many planted label mistakes are found, and how many looks that costs.

    python -m bench.mistakes objects --data bccd_cells --kind boxes --limit 100 --cache work
    python -m bench.mistakes classes --data magnetic_tile --limit 600 --cache work
    python -m bench.mistakes twins --data nuclei_dsb2018_a
    python -m bench.mistakes objects --quick --cache work      # drawn pictures, a few steps

``--data`` is a folder with images/ and annotations.json (COCO), or labels.csv. Errors are planted into 3 % of
the objects per kind of error (8 % of the pictures for classes); models are trained on the annotations with
the errors, two or three parts of the pictures in turn, and look at the part they were not trained on.

``--again 4`` plants errors four more times on the pictures that are judged, with other seeds, and looks for
them with the same predictions: figures are means then, with ``sd``, the standard deviation over plantings.

``precision``: share of the first k findings that hit a planted error that none before them hit, where k is
the number planted; ``recall``: share of the errors of a kind among the first k, and the first 2 k. Baselines
with the same predictions: ``random`` order of all drawn objects and all finds that overlap none, and
``confidence``: objects by how unsure the model is of them, such finds by how sure. For ``segmentation`` both
take the connected parts of drawn and found areas as objects. Real mistakes of the data count against all
three.

``twins``: copies are made of a fifth of the pictures, each changed in one way; ``recall`` by change,
``others`` are pairs of pictures that are reported although none is a copy of the other.
One line of JSON per figure.
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from bench.detection_set import load_examples, with_training_environment
from bench.planted import Box, Planted, out_of_fold, plant, plant_classes
from ml_backend.artifacts.mistakes import Finding, MistakeTable
from ml_backend.artifacts.pool_tables import PoolTable
from ml_backend.examples import Example
from ml_backend.images.decode import read_image
from ml_backend.images.fingerprints import fingerprint
from ml_backend.instances import Instances
from ml_backend.kinds.base import ProjectKind
from ml_backend.kinds.registry import Wanted, get_kind
from ml_backend.label_studio.config_builder import build_label_config
from ml_backend.label_studio.label_config import parse_label_config
from ml_backend.masks.components import components
from ml_backend.masks.rle import rle_hw
from ml_backend.masks.shapes import boxes_of
from sync.lab.labelled_pictures import LabelledPictures, from_coco, from_csv, sample
from sync.mistakes.fingerprints import Fingerprint
from sync.mistakes.gather import gather
from sync.mistakes.judged import JudgedTask
from sync.mistakes.measure import measure_task
from sync.mistakes.twins import find_twins
from sync.report.mistake_pictures import finding_picture
from sync.report.mistakes_page import render_mistakes_page

Ranked = list[tuple[float, int, Box]]
"""score, task, place"""
_HIT = 0.3
_SHOWN = 0.3


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["objects", "classes", "twins"])
    parser.add_argument("--data", type=Path, help="folder of a labelled set (default: drawn pictures)")
    parser.add_argument("--kind", default="instances", help="instances, boxes or segmentation")
    parser.add_argument("--limit", type=int, default=80, help="pictures (default: 80)")
    parser.add_argument("--share", type=float, default=0.0, help="planted share (default: .03, classes .08)")
    parser.add_argument("--folds", type=int, default=2)
    parser.add_argument("--parts", type=int, default=0, help="train and judge so many folds only")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--again", type=int, default=0, help="plantings more (objects)")
    parser.add_argument("--cache", type=Path, help="folder that keeps predictions")
    parser.add_argument("--page", type=Path, help="write the page of the first 12 findings (objects)")
    parser.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help="of the learner")
    parser.add_argument("--images", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--coco", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--quick", action="store_true", help="a few steps: a test of the benchmark")
    options = parser.parse_args()
    with_training_environment("bench.mistakes")
    with tempfile.TemporaryDirectory() as scratch:
        run: dict[str, Callable[[argparse.Namespace, Path], None]] = {
            "objects": objects,
            "classes": classes,
            "twins": twins,
        }
        run[options.what](options, options.cache or Path(scratch))


def objects(options: argparse.Namespace, cache: Path) -> None:
    """Overlooked, badly placed and swapped objects."""
    kind = get_kind(options.kind)
    drawn_kind = get_kind("instances") if kind.whole_labels else kind
    name, data = _pictures(options, cache, drawn_kind)
    made, planted = plant(data.examples, data.labels, share=options.share or 0.03, seed=options.seed)
    trained = [_as_kind(example, data.labels, options.kind) for example in made]
    found = out_of_fold(
        trained, data.labels, kind, folds=options.folds, seed=options.seed, options=_chosen(options),
        cache=cache / f"{name}-{kind.name}-{options.seed}.pkl", parts=options.parts,
    )  # fmt: skip
    figures: dict[tuple[str, str], list[float]] = {}
    counts = []
    for more in range(options.again + 1):
        if more:
            made, planted = plant(
                data.examples, data.labels, share=options.share or 0.03, seed=options.seed + 100 * more
            )
        made = [example for example in made if example.task_id in found]
        planted = [error for error in planted if error.task in found]
        counts.append(len(planted))
        findings, judged = _listed(made, found, data.labels, kind)
        if options.page is not None and not more:
            _write_page(options.page, name, made, findings, judged)
        ours: Ranked = [(f.score, f.task_id, (f.x0, f.y0, f.x1, f.y1)) for f in findings]
        plain = _by_confidence(
            [_as_kind(e, data.labels, "components") for e in made] if kind.whole_labels else made,
            {task: _in_parts(one) for task, one in found.items()} if kind.whole_labels else found,
        )
        rng = np.random.default_rng(options.seed)
        shuffles = [[plain[i] for i in rng.permutation(len(plain))] for _ in range(20)]
        for order, rankings in (("ours", [ours]), ("confidence", [plain]), ("random", shuffles)):
            for figure, value in _figures(rankings, planted).items():
                figures.setdefault((figure, order), []).append(value)
    place = {"set": name, "kind": kind.name, "pictures": len(made), "seed": options.seed}
    for (figure, order), values in figures.items():
        if len(values) > 1:
            place |= {"sd": round(float(np.std(values, ddof=1)), 4), "plantings": len(values)}
        _figure(figure, order, float(np.mean(values)), planted=round(float(np.mean(counts))), **place)


def _listed(
    made: Sequence[Example], found: dict[int, Instances], labels: tuple[str, ...], kind: ProjectKind
) -> tuple[list[Finding], dict[int, JudgedTask]]:
    """The list as people see it, the likeliest first, and what it follows from."""
    wanted = (Wanted(kind.name, labels),)
    judged = {}
    for example in made:
        hw = _size(example)
        measured = measure_task(
            wanted, _rows(example, labels), _table(found[example.task_id], labels, hw), hw, labels=labels,
            shown_from=_SHOWN,
        )  # fmt: skip
        judged[example.task_id] = JudgedTask("", "out of fold", measured)
    config = parse_label_config(build_label_config(labels, kind=kind.name))
    return sorted(gather(config, judged), key=lambda finding: -finding.score), judged


def _in_parts(found: Instances) -> Instances:
    """Each connected part of what was found for itself, as sure as the whole."""
    parts = [(i, part) for i, rle in enumerate(found.rle) for part in components(rle)]
    of = np.array([i for i, _ in parts], np.int64)
    rle = [part for _, part in parts]
    return Instances(
        found.label[of], boxes_of(rle), rle, found.score[of], found.quality[of], found.embedding[of]
    )


def classes(options: argparse.Namespace, cache: Path) -> None:
    """Wrong classes of whole pictures."""
    kind = get_kind("classes")
    data = sample(from_csv(options.data / "images", options.data / "labels.csv", options.data / "groups.csv"),
                  options.limit, seed=options.seed)  # fmt: skip
    name, share = options.data.name, options.share or 0.08
    made, wrong = plant_classes(data.examples, len(data.labels), share=share, seed=options.seed)
    found = out_of_fold(
        made, data.labels, kind, folds=max(options.folds, 3), seed=options.seed, options=_chosen(options),
        cache=cache / f"{name}-classes-{options.seed}.pkl", groups=data.group,
    )  # fmt: skip
    judged = {}
    wanted = (Wanted("classes", data.labels, exclusive=True),)
    for example in made:
        hw = (1, 1)
        rows = [{"id": "", "label": data.labels[tag], "rle": None} for tag in example.tags]
        table = _table(found[example.task_id], data.labels, hw)
        measured = measure_task(wanted, rows, table, hw, labels=data.labels, shown_from=_SHOWN)
        judged[example.task_id] = JudgedTask("", "out of fold", measured)
    config = parse_label_config(build_label_config(data.labels, kind="classes"))
    findings = sorted(gather(config, judged), key=lambda finding: -finding.score)
    top = {task: max(row.measured.probability.values()) for task, row in judged.items()}
    orders = {
        "ours": [finding.task_id for finding in findings],
        # the least sure pictures first, whatever their label
        "confidence": sorted(top, key=top.__getitem__),
    }
    place = {"set": name, "kind": "classes", "pictures": len(made), "seed": options.seed}
    k = len(wrong)
    for order, tasks in orders.items():
        _figure("precision", order, sum(task in wrong for task in tasks[:k]) / k, planted=k, **place)
        _figure("recall_2k", order, sum(task in wrong for task in tasks[: 2 * k]) / k, planted=k, **place)
    _figure("precision", "random", k / len(made), planted=k, **place)
    _figure("recall_2k", "random", 2 * k / len(made), planted=k, **place)


def twins(options: argparse.Namespace, cache: Path) -> None:
    """Copies of pictures."""
    paths = sorted((options.data / "images").iterdir())[: options.limit]
    rng = np.random.default_rng(options.seed)
    copied = rng.choice(len(paths), max(1, len(paths) // 5), replace=False).tolist()
    prints = {i: _print(read_image(path)) for i, path in enumerate(paths)}
    for change, alter in _CHANGES.items():
        more = {1_000_000 + i: _print(alter(read_image(paths[i]))) for i in copied}
        pairs = find_twins(prints | more, (), {})
        hits = {each.task for each in pairs if each.task >= 1_000_000 and each.task - 1_000_000 == each.other}
        others = sum(not (each.task - 1_000_000 == each.other or each.task < 1_000_000) for each in pairs)
        _figure(
            "recall",
            change,
            len(hits) / len(copied),
            set=options.data.name,
            copies=len(copied),
            others=others,
        )
    own = find_twins(prints, (), {})
    _figure("pairs_without_copies", "", float(len(own)), set=options.data.name, pictures=len(paths))
    for each in own[:8]:
        print(json.dumps({"pair": [paths[each.task].name, paths[each.other].name]}))


def _jpeg(pixels: npt.NDArray[np.uint8], quality: int) -> npt.NDArray[np.uint8]:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file), np.uint8)


def _smaller(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    return np.asarray(cv2.resize(pixels, None, fx=0.6, fy=0.6, interpolation=cv2.INTER_AREA), np.uint8)


def _brighter(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    return np.clip(pixels.astype(np.float32) * 1.15 + 10, 0, 255).astype(np.uint8)


def _cropped(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    y, x = (round(0.02 * n) for n in pixels.shape[:2])
    return np.ascontiguousarray(pixels[y : pixels.shape[0] - y, x : pixels.shape[1] - x])


_CHANGES: dict[str, Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.uint8]]] = {
    "none": lambda pixels: pixels,
    "JPEG quality 40": lambda pixels: _jpeg(pixels, 40),
    "0.6 of the size": _smaller,
    "brighter": _brighter,
    "2 % cut off each side": _cropped,
    "mirrored": lambda pixels: np.ascontiguousarray(pixels[:, ::-1]),
}


def _print(pixels: npt.NDArray[np.uint8]) -> Fingerprint:
    import hashlib

    bits = fingerprint(pixels)
    sha = hashlib.sha256(pixels.tobytes()).hexdigest()
    return Fingerprint("", sha, b"" if bits is None else bits.tobytes())


def _pictures(options: argparse.Namespace, cache: Path, kind: Any) -> tuple[str, LabelledPictures]:
    if options.data is None:
        _, labels, examples = load_examples(options, cache)
        data = LabelledPictures(labels, examples, tuple(str(e.task_id) for e in examples))
        return "drawn", sample(data, 12 if options.quick else options.limit, seed=options.seed)
    data = from_coco(options.data / "images", options.data / "annotations.json", kind)
    return options.data.name, sample(data, options.limit, seed=options.seed)


def _chosen(options: argparse.Namespace) -> dict[str, Any]:
    chosen: dict[str, Any] = {"threads": "1"} | dict(pair.split("=", 1) for pair in options.option)
    if options.what == "classes":
        chosen.pop("threads")
    elif options.kind != "segmentation":
        chosen = {"weights": "none", **chosen}
    if options.quick:
        chosen |= {"iterations": "5", "batch": "2", "size": "64"}
        if options.kind != "segmentation":
            chosen["channels"] = "16"
    return chosen | dict(get_kind("classes" if options.what == "classes" else options.kind).learner_options)


def _write_page(
    out: Path,
    name: str,
    examples: Sequence[Example],
    findings: Sequence[Finding],
    judged: dict[int, JudgedTask],
) -> None:
    of_task = {example.task_id: example for example in examples}
    about = {"finished": len(examples), "judged": {"out of fold": len(judged)}, "unjudged": 0}
    cards = []
    for finding in findings[:12]:
        example = of_task[finding.task_id]
        cards.append((finding, finding_picture(read_image(example.image), example.rle, finding)))
    table = MistakeTable("", about, tuple(findings))
    out.write_text(render_mistakes_page(name, table, cards, link="#"))


def _as_kind(example: Example, labels: Sequence[str], kind: str) -> Example:
    import dataclasses

    drawn = get_kind(kind).to_instances(
        [(labels[n], rle) for n, rle in zip(example.label, example.rle, strict=True)]
    )
    return dataclasses.replace(
        example, label=tuple(labels.index(name) for name, _ in drawn), rle=tuple(rle for _, rle in drawn)
    )


def _rows(example: Example, labels: Sequence[str]) -> list[dict[str, Any]]:
    pairs = zip(example.label, example.rle, strict=True)
    return [{"id": f"r{i}", "label": labels[n], "rle": rle} for i, (n, rle) in enumerate(pairs)]


def _size(example: Example) -> tuple[int, int]:
    if example.rle:
        return rle_hw(example.rle[0])
    height, width = read_image(example.image).shape[:2]
    return int(height), int(width)


def _table(found: Instances, labels: Sequence[str], hw: tuple[int, int]) -> PoolTable:
    n = len(found)
    names = np.empty(n, object)
    names[:] = [labels[i] for i in found.label]
    counts = np.empty(n, object)
    counts[:] = [str(rle["counts"]) for rle in found.rle]
    sizes = (
        np.array([rle_hw(rle) for rle in found.rle], np.int32).reshape(n, 2)
        if n
        else np.zeros((0, 2), np.int32)
    )
    key = np.array([f"k{i}" for i in range(n)], object)
    return PoolTable(
        key, np.zeros(n, np.int64), names, found.box_xyxy, counts, sizes, found.score, found.quality,
        found.embedding, np.zeros((n, 10), np.float32),
    )  # fmt: skip


def _by_confidence(examples: Sequence[Example], found: dict[int, Instances]) -> Ranked:
    """Drawn objects by how unsure the model is of them, finds that overlap none by how sure."""
    ranked: Ranked = []
    for example in examples:
        mine = found[example.task_id]
        there, seen = boxes_of(example.rle), boxes_of(mine.rle)
        overlap = _box_iou(seen, there)
        for j, label in enumerate(example.label):
            same = (overlap[:, j] >= 0.5) & (mine.label == label)
            ranked.append(
                (1.0 - float(mine.score[same].max(initial=0.0)), example.task_id, _as_box(there[j]))
            )
        for i in np.flatnonzero((overlap < 0.5).all(axis=1) & (mine.score >= _SHOWN)).tolist():
            ranked.append((float(mine.score[i]), example.task_id, _as_box(seen[i])))
    return sorted(ranked, key=lambda row: -row[0])


def _box_iou(first: npt.NDArray[np.float32], second: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    a, b = first[:, None].astype(np.float64), second[None].astype(np.float64)
    sides = np.maximum(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0)
    both = sides.prod(axis=-1)
    areas = (a[..., 2:] - a[..., :2]).prod(axis=-1) + (b[..., 2:] - b[..., :2]).prod(axis=-1)
    return np.asarray(both / np.maximum(areas - both, 1e-9), np.float64)


def _as_box(row: npt.NDArray[np.float32]) -> Box:
    return float(row[0]), float(row[1]), float(row[2]), float(row[3])


def _hits(ranked: Ranked, planted: Sequence[Planted]) -> list[int]:
    """For each entry the planted error that it is the first to hit, -1 for none."""
    of_task: dict[int, list[int]] = {}
    for number, error in enumerate(planted):
        of_task.setdefault(error.task, []).append(number)
    taken: set[int] = set()
    out = []
    for _, task, box in ranked:
        best, most = -1, _HIT
        for number in of_task.get(task, ()):
            places = np.array([planted[number].box, planted[number].drawn], np.float32)
            overlap = float(_box_iou(np.array([box], np.float32), places).max())
            if number not in taken and overlap >= most:
                best, most = number, overlap
        taken.add(best)
        out.append(best)
    return out


def _figures(rankings: Sequence[Ranked], planted: Sequence[Planted]) -> dict[str, float]:
    """Figures of an order, the means of several."""
    k, of_kind = len(planted), Counter(error.kind for error in planted)
    figures: dict[str, list[float]] = {}
    for ranked in rankings:
        hits = _hits(ranked[: 2 * k], planted)
        figures.setdefault("precision", []).append(sum(h >= 0 for h in hits[:k]) / k)
        for name, part in (("recall", hits[:k]), ("recall_2k", hits)):
            found = Counter(planted[h].kind for h in part if h >= 0)
            for kind, n in of_kind.items():
                figures.setdefault(f"{name}/{kind}", []).append(found[kind] / n)
    return {name: float(np.mean(values)) for name, values in figures.items()}


def _figure(name: str, order: str, value: float, **more: Any) -> None:
    print(json.dumps({"name": name, "order": order, "value": round(value, 4), **more}), flush=True)


if __name__ == "__main__":
    main()
