"""Clicks of several segmenters on the same objects: ``python -m bench.click_network.judge``.

``--part unseen`` (default) are sets that nothing was learnt from or chosen by: coco_natural_a and
bsds500_segments. ``--part report`` are the pictures of the other sets that were kept for this, and generated
scenes of another seed; ``--part choose`` are those by which constants were chosen. One line of JSON per
figure: clicks (a failure counts as 20) with a 95 % interval over pictures, the paired difference from the
first segmenter, the share never reached, milliseconds a click.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from bench.click_network.scenes import SceneMaker
from bench.click_network.sets import SETS, divide
from ml_backend.clicks.base import ClickSegmenter
from ml_backend.clicks.evaluation.experiment import (
    ClickExperiment,
    compare_reports,
    pick_targets,
    run_experiment,
)
from ml_backend.clicks.evaluation.robots import ROBOTS
from ml_backend.clicks.evaluation.simulated_clicks import ClickTarget
from ml_backend.clicks.project_network.click_net import ProjectSegmenter
from ml_backend.clicks.serving.catalog import build_segmenter
from ml_backend.masks.coco import load_coco
from ml_backend.settings import BackendSettings

UNSEEN = ("coco_natural_a", "bsds500_segments")
SCENE_SEEDS = {"choose": 900_001, "report": 900_002}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--segmenter", action="append", required=True, help="name, or folder of a version")
    parser.add_argument("--part", choices=("unseen", "report", "choose"), default="unseen")
    parser.add_argument("--only", nargs="*", help="of these sets alone")
    parser.add_argument("--robot", nargs="*", default=list(ROBOTS), choices=list(ROBOTS))
    parser.add_argument("--limit", type=int, default=300, help="objects of each set, spread over pictures")
    parser.add_argument("--reports", type=Path, help="folder that keeps every click, to go on or to compare")
    arguments = parser.parse_args()
    segmenters = [_build(name) for name in arguments.segmenter]
    with tempfile.TemporaryDirectory() as scratch:
        for name, targets in _targets(
            arguments.data, arguments.part, arguments.only, arguments.limit, Path(scratch)
        ):
            for robot in arguments.robot:
                runs = [
                    run_targets(segmenter, targets, robot, kept_file(arguments.reports, name, robot, label))
                    for segmenter, label in zip(segmenters, arguments.segmenter, strict=True)
                ]
                for run, label in zip(runs, arguments.segmenter, strict=True):
                    print(json.dumps(result_row(name, robot, label, run, runs[0])), flush=True)


def _build(name: str) -> ClickSegmenter:
    folder = Path(name)
    return ProjectSegmenter(folder) if folder.is_dir() else build_segmenter(name, BackendSettings())


def kept_file(folder: Path | None, name: str, robot: str, label: str) -> Path | None:
    if folder is None:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{name}-{robot}-{Path(label).name}.json"


def _targets(
    data: Path, part: str, only: list[str] | None, limit: int, scratch: Path
) -> Iterator[tuple[str, list[ClickTarget]]]:
    experiment = ClickExperiment(limit=limit)
    for name in UNSEEN if part == "unseen" else (*SETS, "generated"):
        if only and name not in only:
            continue
        if part == "unseen":
            whole = load_coco(data / name / "images", data / name / "annotations.json")
            yield name, pick_targets(whole.images, whole.categories, experiment, {})
        elif name == "generated":
            yield name, generated_targets(limit, SCENE_SEEDS[part], scratch)
        else:
            division = divide(data / name)
            images = division.choose if part == "choose" else division.report
            yield name, pick_targets(images, division.categories, experiment, {})


def generated_targets(count: int, seed: int, folder: Path) -> list[ClickTarget]:
    """``count`` objects of generated scenes, two of a scene, whose pictures are written into ``folder``."""
    rng = np.random.default_rng(seed)
    maker = SceneMaker([], [], side=320)
    targets: list[ClickTarget] = []
    while len(targets) < count:
        scene = maker.make(rng)
        path = folder / f"scene-{seed}-{len(targets)}.png"
        cv2.imwrite(str(path), cv2.cvtColor(scene.image, cv2.COLOR_RGB2BGR))
        for at in rng.permutation(len(scene.masks))[: min(2, count - len(targets))]:
            rle = coco_mask.encode(np.asfortranarray(scene.masks[int(at)].astype(np.uint8)))
            targets.append(
                ClickTarget(path, "thing", {"size": rle["size"], "counts": rle["counts"].decode()})
            )
    return targets


def run_targets(
    segmenter: ClickSegmenter, targets: list[ClickTarget], robot: Any, kept: Path | None
) -> dict[str, Any]:
    if kept is not None and kept.exists():
        found: dict[str, Any] = json.loads(kept.read_text())
        return found
    run = run_experiment(segmenter, targets, ClickExperiment(robot=robot), lambda line: None)
    if kept is not None:
        kept.write_text(json.dumps(run))
    return run


def result_row(
    name: str, robot: str, label: str, run: dict[str, Any], first: dict[str, Any]
) -> dict[str, Any]:
    scores = run["starts"]["empty"]
    row: dict[str, Any] = {
        "name": f"clicks.{name}.{robot}.{Path(label).name}",
        "unit": "clicks",
        "objects": scores["n_targets"],
        "pictures": scores["n_images"],
        "noc85": _interval(scores["noc"]["0.85"]),
        "noc90": _interval(scores["noc"]["0.90"]),
        "never85": round(scores["nof"]["0.85"]["value"], 3),
        "never90": round(scores["nof"]["0.90"]["value"], 3),
        "iou_at": [round(scores["iou_at"][k]["value"], 3) for k in (1, 3, 5, 10, 20)],
        "ms_per_click": round(1000 * scores["click_s"], 1),
    }
    if run is not first:
        for pair in compare_reports(first, run):
            row[f"difference{pair['target_iou'] * 100:.0f}"] = _interval(pair["difference"])
        row["ratio85"] = round(row["noc85"][0] / first["starts"]["empty"]["noc"]["0.85"]["value"], 3)
    return row


def _interval(values: dict[str, float]) -> list[float]:
    return [round(values[key], 2) for key in ("value", "low", "high")]


if __name__ == "__main__":
    main()
