"""Predictions of a published model on a folder of pictures, as a COCO or CSV file; nothing is trained.

The work is done in batches, and every finished batch is kept in ``<file>.parts/`` until the file is written.
Called again after a kill with the same model and pictures, it goes on with the batches that are missing.
"""

from __future__ import annotations

import csv
import io
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ml_backend.artifacts.files import read_json, write_atomic, write_json
from ml_backend.box_density import within_density
from ml_backend.errors import BadImage, BadInput
from ml_backend.images.decode import read_image
from ml_backend.instances import Instances
from ml_backend.kinds.base import ProjectKind
from ml_backend.kinds.instances import INSTANCES
from ml_backend.kinds.registry import KINDS
from ml_backend.learners.base import Predictor
from ml_backend.learners.class_map import ClassMap, class_map
from ml_backend.learners.registry import get_learner
from ml_backend.masks.rle import rle_area
from ml_backend.task_prediction import usable_instances
from sync.rounds.given_rounds import GivenModel
from sync.rounds.round_records import digest_of

__all__ = ["FolderReport", "kind_of_learner", "kind_of_model", "predict_folder"]

_AT_ONCE = 4
"""pictures per model call"""


@dataclass(frozen=True, slots=True)
class FolderReport:
    """What was written: pictures, instances, seconds per picture (all of it: reading, model, writing), and
    the pictures that could not be read, each with the reason. ``resumed`` counts pictures of earlier calls.
    """

    pictures: int
    instances: int
    seconds_per_picture: float
    unreadable: Mapping[str, str]
    resumed: int


def kind_of_model(model: GivenModel) -> ProjectKind:
    """The kind of labels that a model finds. Raises BadInput when it finds several."""
    learner = model.learner
    if learner == "adopted":
        learner = str(read_json(model.folder / "learner.json").get("of", ""))
    if learner == "several":
        raise BadInput(
            "this model finds several kinds of labels",
            field="model",
            hint="Predict with one of its parts, the folders part-0, part-1, … in it",
        )
    return kind_of_learner(learner)


def kind_of_learner(learner: str) -> ProjectKind:
    """The kind of labels that a learner finds; instances for learners that no kind names."""
    found = [kind for kind in KINDS.values() if learner in kind.learners]
    return found[0] if found else INSTANCES


def predict_folder(
    model: GivenModel,
    pictures: Sequence[Path],
    folder: Path,
    out: Path,
    *,
    min_score: float,
    batch: int = 50,
    device: str = "auto",
    ours: Sequence[str] | None = None,
    named: Mapping[str, str] | None = None,
    default: str | None = None,
    progress: Callable[[float, str], None] = lambda share, line: None,
) -> FolderReport:
    """Write what ``model`` finds on ``pictures`` to ``out``: CSV when it is called so, else COCO.

    A picture that cannot be read is named in the report and, in COCO, under ``info``. Raises ModelError when
    the model cannot be loaded, BadInput when the batch is empty or the class map does not fit.

    Parameters
    ----------
    pictures : files below ``folder``; names in the file are relative to it
    min_score : class score from which instances are written
    batch : pictures that are kept together; a kill loses at most one batch
    ours, named, default : the class map, see ``class_map``; default: the model's own labels
    """
    if batch < 1:
        raise BadInput(f"a batch of {batch} pictures", field="batch", hint="1 or more")
    names = [path.relative_to(folder).as_posix() for path in pictures]
    predictor = get_learner(model.learner).load(model.folder, device=device)
    mapping = class_map(predictor.labels, ours, named or {}, default=default)
    kind = kind_of_model(model)
    parts = _Parts(out, _signature(model, pictures, names, min_score, mapping, batch))
    batches = [range(at, min(at + batch, len(names))) for at in range(0, len(names), batch)]
    resumed, seconds = 0, 0.0
    for number, places in enumerate(batches):
        if parts.has(number):
            resumed += len(places)
            continue
        started = time.monotonic()
        files = [(names[i], pictures[i]) for i in places]
        rows = list(_predicted(predictor, files, mapping, kind, min_score))
        parts.write(number, rows)
        seconds += time.monotonic() - started
        progress((number + 1) / len(batches), f"{places[-1] + 1} of {len(names)} pictures")
    found = [row for number in range(len(batches)) for row in parts.read(number)]
    if out.suffix.lower() == ".csv":
        write_atomic(out, _csv(found, kind).encode())
    else:
        write_json(out, _coco(found, kind, mapping.ours, model, min_score))
    parts.remove()
    return FolderReport(
        pictures=len(found),
        instances=sum(len(row["instances"]) for row in found),
        seconds_per_picture=round(seconds / max(len(names) - resumed, 1), 4),
        unreadable={row["file"]: row["error"] for row in found if row["error"]},
        resumed=resumed,
    )


class _Parts:
    """Finished batches on disk. Those of another model, other pictures or options are thrown away."""

    def __init__(self, out: Path, signature: str) -> None:
        self._folder = out.with_name(f"{out.name}.parts")
        about = self._folder / "about.json"
        if not about.exists() or read_json(about).get("signature") != signature:
            shutil.rmtree(self._folder, ignore_errors=True)
            write_json(about, {"signature": signature})

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:06d}.json"

    def has(self, number: int) -> bool:
        return self._path(number).exists()

    def write(self, number: int, rows: Sequence[Mapping[str, Any]]) -> None:
        write_json(self._path(number), rows)

    def read(self, number: int) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = read_json(self._path(number))
        return rows

    def remove(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


def _signature(
    model: GivenModel,
    pictures: Sequence[Path],
    names: Sequence[str],
    min_score: float,
    mapping: ClassMap,
    batch: int,
) -> str:
    stats = [path.stat() for path in pictures]
    files = [[name, at.st_size, at.st_mtime_ns] for name, at in zip(names, stats, strict=True)]
    to = [mapping.theirs, mapping.ours, mapping.to]
    made = float(model.manifest.get("created_at", 0.0))
    return digest_of([str(model.folder.resolve()), model.version, made, min_score, to, batch, files])


def _predicted(
    predictor: Predictor,
    files: Sequence[tuple[str, Path]],
    mapping: ClassMap,
    kind: ProjectKind,
    min_score: float,
) -> Iterator[dict[str, Any]]:
    """One row per picture: its name, size, why it could not be read, and what was found on it."""
    for at in range(0, len(files), _AT_ONCE):
        read = [_read(path) for _, path in files[at : at + _AT_ONCE]]
        results = iter(predictor.predict([pixels for pixels, _ in read if pixels is not None]))
        for (name, _), (pixels, error) in zip(files[at : at + _AT_ONCE], read, strict=True):
            if pixels is None:
                yield {"file": name, "hw": [0, 0], "error": error, "instances": []}
                continue
            found = _shown(usable_instances(mapping.apply(next(results))), kind, min_score)
            yield {
                "file": name,
                "hw": list(pixels.shape[:2]),
                "error": "",
                "instances": [_as_json(found, i, mapping.ours) for i in range(len(found))],
            }


def _read(path: Path) -> tuple[npt.NDArray[np.uint8] | None, str]:
    try:
        return read_image(path), ""
    except BadImage as error:
        return None, str(error)


def _as_json(found: Instances, i: int, labels: Sequence[str]) -> dict[str, Any]:
    return {
        "label": labels[int(found.label[i])],
        "score": round(float(found.score[i]), 6),
        "box": [round(float(edge), 2) for edge in found.box_xyxy[i]],
        "rle": dict(found.rle[i]),
    }


def _shown(found: Instances, kind: ProjectKind, min_score: float) -> Instances:
    """The instances that a prediction in Label Studio would show."""
    area = np.array([rle_area(rle) for rle in found.rle], np.float64)
    found = found.take((found.score >= min_score) & (area > 0))
    if not kind.max_tags_per_pixel:
        return found
    kept = within_density(found.box_xyxy, found.score, at_most=kind.max_tags_per_pixel)
    return found.take(np.array(kept, np.intp))


def _csv(rows: Sequence[Mapping[str, Any]], kind: ProjectKind) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    places = [] if kind.unit == "picture" else ["x0", "y0", "x1", "y1"]
    writer.writerow(["file", "label", "score", *places])
    for row in rows:
        for found in row["instances"]:
            writer.writerow([row["file"], found["label"], found["score"], *(found["box"] if places else ())])
    return text.getvalue()


def _coco(
    rows: Sequence[Mapping[str, Any]],
    kind: ProjectKind,
    labels: Sequence[str],
    model: GivenModel,
    min_score: float,
) -> dict[str, Any]:
    number = {label: i + 1 for i, label in enumerate(labels)}
    readable = [row for row in rows if not row["error"]]
    annotations: list[dict[str, Any]] = []
    for image, row in enumerate(readable, 1):
        for found in row["instances"]:
            x0, y0, x1, y1 = found["box"]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": number[found["label"]],
                    "bbox": [x0, y0, round(x1 - x0, 2), round(y1 - y0, 2)],
                    "area": float(rle_area(found["rle"])),
                    "score": found["score"],
                    "iscrowd": 0,
                    **({} if kind.unit == "box" else {"segmentation": found["rle"]}),
                }
            )
    return {
        "info": {
            "model_version": model.version,
            "learner": model.learner,
            "min_score": min_score,
            "unreadable": {row["file"]: row["error"] for row in rows if row["error"]},
        },
        "images": [
            {"id": i, "file_name": row["file"], "height": row["hw"][0], "width": row["hw"][1]}
            for i, row in enumerate(readable, 1)
        ],
        "categories": [{"id": i, "name": label} for label, i in number.items()],
        "annotations": annotations,
    }
