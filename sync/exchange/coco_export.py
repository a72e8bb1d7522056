"""Export: everything that is known about the masks of a project, as one COCO file with provenance.

Per annotation, besides the COCO fields::

    "source": "human" | "verified" | "propagated"
    human:       "person" (Label Studio user), "annotation" (its id)
    verified:    "round", "instance"; workers looked at exactly this mask
    propagated:  "round", "instance", "cluster", "decision", "test", and the interval of the cluster's purity:
                 "purity_lower", "purity_upper", "confidence"

``info`` names the round and the model version that the accepted masks come from, and every picture that was
left out with the reason. ``info.decisions`` lists every decision of that round, ``info.audits`` the final
audits among them. ``info.promise`` is what holds for the accepted masks that nobody looked at, ``info.found``
the share of objects found on pictures that nobody drew on, over all labels and for each; ``info.says`` says
both in words. They are null where nothing can be promised.

A task that a person finished holds what that person drew and nothing else. Other tasks hold the accepted
masks of the last reviewed round. Rejected and undecided masks are left out.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco
from sqlalchemy import select

from clustering.answers import AUDIT
from ml_backend.artifacts.files import write_json
from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.artifacts.pools import read_pool, read_tasks
from ml_backend.artifacts.verdicts import NO_VERDICTS, VerdictTable, read_verdicts
from ml_backend.errors import BadImage, BadInput, StudioError
from ml_backend.images.store import ImageStore
from ml_backend.label_studio.label_config import LabelConfig
from sync.exchange.file_names import TaskPicture, file_names
from sync.review.promise_text import promise_lines
from sync.rounds.round_records import has_finished
from sync.rounds.task_queries import finished_tasks
from sync.store.project_store import ProjectStore
from sync.store.tables import DecisionRecord, RoundRecord, TaskRecord
from sync.studio.protocol import PATH_FIELD

__all__ = ["FORMATS", "ExportReport", "LeftOut", "coco_document", "export_project", "reviewed_round"]

FORMATS = ("coco",)


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A picture that is not in the export, and why."""

    task_id: int
    file_name: str
    reason: str


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What an export holds.

    ``annotations`` counts masks by source. ``round`` and ``model_version`` are those of the accepted masks,
    None before anything was reviewed; ``review_done`` says whether all questions of that round were answered.
    """

    images: int
    annotations: Mapping[str, int]
    round: int | None
    model_version: str | None
    review_done: bool
    left_out: Sequence[LeftOut]
    says: Sequence[str] = ()


def export_project(
    db: ProjectStore,
    config: LabelConfig,
    paths: ProjectPaths,
    images: ImageStore,
    out: Path,
    *,
    format: str = "coco",
) -> ExportReport:
    """Write the export to ``out``.

    Raises BadInput on an unknown format, StorageError when the file cannot be written.
    """
    if format not in FORMATS:
        raise BadInput(f"unknown format {format!r}", field="format", hint=f"One of {', '.join(FORMATS)}")
    document = coco_document(db, config, paths, images)
    write_json(out, document)
    counts = Counter(str(row["source"]) for row in document["annotations"])
    info = document["info"]
    return ExportReport(
        images=len(document["images"]),
        annotations={name: counts[name] for name in sorted(counts)},
        round=info["round"],
        model_version=info["model_version"],
        review_done=info["review_done"],
        left_out=[LeftOut(row["task"], row["file_name"], row["reason"]) for row in info["left_out"]],
        says=info["says"],
    )


def reviewed_round(rounds: Sequence[RoundRecord]) -> RoundRecord | None:
    """The round whose accepted masks are exported: the newest whose review is done.

    While no review is done: the newest that has accepted masks, else the newest whose review has begun. A
    round that is still training or asking its first questions never hides masks that an earlier round
    accepted.
    """
    begun = [record for record in rounds if has_finished(record, "review")]
    done = [record for record in begun if record.review_done]
    accepting = [record for record in begun if record.figures.get("review", {}).get("accepted")]
    return max(done or accepting or begun, key=lambda record: record.number, default=None)


def coco_document(
    db: ProjectStore, config: LabelConfig, paths: ProjectPaths, images: ImageStore
) -> dict[str, Any]:
    """The COCO document of a project: ``images``, ``annotations``, ``categories`` and an ``info`` block.

    The picture of a finished task without any region is opened for its size. When it cannot be read the task
    is left out and named in ``info.left_out``.
    """
    labels = config.labels
    category = {label: number for number, label in enumerate(labels, start=1)}
    finished = finished_tasks(db)
    names = _file_names(db)
    image_rows: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    left_out: list[dict[str, Any]] = []

    def add(task: TaskRecord, hw: tuple[int, int], rows: Iterable[dict[str, Any]]) -> None:
        image_rows.append(
            {
                "id": task.id,
                "file_name": names[task.id],
                "height": hw[0],
                "width": hw[1],
                "source": task.image,
            }
        )
        for row in rows:
            annotations.append({"id": len(annotations) + 1, "image_id": task.id, **row})

    for task, annotation in finished.values():
        rows = [
            {
                **_mask_row(region["rle"], category[region["label"]]),
                "source": "human",
                "person": annotation.completed_by,
                "annotation": annotation.id,
            }
            for region in annotation.regions
            if region["label"] in category
        ]
        try:
            hw = _size(images, task, annotation.regions)
        except (BadImage, StudioError) as error:
            left_out.append({"task": task.id, "file_name": names[task.id], "reason": str(error)})
            continue
        add(task, hw, rows)
    with db.read() as session:
        rounds = list(session.scalars(select(RoundRecord).where(RoundRecord.project_id == db.id)))
    record = reviewed_round(rounds)
    verdicts = NO_VERDICTS if record is None else read_verdicts(paths.round(record.number))
    if record is not None and len(verdicts):
        for task, hw, rows in _accepted(db, paths, record, verdicts, category, set(finished)):
            add(task, hw, rows)
    return {
        "info": {**_info(db, record), "left_out": left_out},
        "images": image_rows,
        "annotations": annotations,
        "categories": [{"id": number, "name": label} for label, number in category.items()],
    }


def _file_names(db: ProjectStore) -> dict[int, str]:
    """File names of all tasks of the project, exported or not: a later export gives the same names."""
    query = select(TaskRecord.id, TaskRecord.data, TaskRecord.image).where(TaskRecord.project_id == db.id)
    with db.read() as session:
        rows = [
            TaskPicture(task, str(data.get(PATH_FIELD) or ""), image)
            for task, data, image in session.execute(query.order_by(TaskRecord.id))
        ]
    return file_names(rows)


def _accepted(
    db: ProjectStore,
    paths: ProjectPaths,
    record: RoundRecord,
    verdicts: VerdictTable,
    category: Mapping[str, int],
    finished: set[int],
) -> Iterable[tuple[TaskRecord, tuple[int, int], list[dict[str, Any]]]]:
    """Tasks nobody finished that hold accepted masks, with those masks."""
    folder = paths.pool(record.model_version)
    table = read_pool(folder, columns=("key", "task_id", "label", "rle", "score", "quality"))
    keep = [
        row
        for row, key in enumerate(table.key)
        if (verdict := verdicts.get(str(key))) is not None
        and verdict.verdict > 0
        and str(table.label[row]) in category
    ]
    tasks = read_tasks(folder)
    size = {int(task): tasks.hw[row] for row, task in enumerate(tasks.task_id)}
    by_task: dict[int, list[dict[str, Any]]] = {}
    for row in sorted(keep, key=lambda row: (int(table.task_id[row]), str(table.key[row]))):
        verdict = verdicts.rows[str(table.key[row])]
        provenance = verdict.provenance(record.number)
        provenance["instance"] = provenance.pop("key")
        by_task.setdefault(int(table.task_id[row]), []).append(
            {
                **_mask_row(table.rle(row), category[str(table.label[row])]),
                "score": round(float(table.score[row]), 4),
                "quality": round(float(table.quality[row]), 4),
                "model_version": record.model_version,
                **provenance,
            }
        )
    with db.read() as session:
        for task_id, rows in by_task.items():
            task = session.get(TaskRecord, task_id)
            if task is not None and task_id not in finished:
                hw = size[task_id]
                yield task, (int(hw[0]), int(hw[1])), rows


def _mask_row(rle: Mapping[str, Any], category_id: int) -> dict[str, Any]:
    """The COCO fields of a mask."""
    return {
        "category_id": category_id,
        "segmentation": {"size": list(rle["size"]), "counts": rle["counts"]},
        "bbox": [round(float(x), 2) for x in np.asarray(coco.toBbox(rle)).tolist()],
        "area": int(coco.area(rle)),
        "iscrowd": 0,
    }


def _size(images: ImageStore, task: TaskRecord, regions: Sequence[Any]) -> tuple[int, int]:
    """Height and width in pixels; without regions the picture is opened. Raises BadImage, StudioError."""
    if regions:
        height, width = regions[0]["rle"]["size"]
        return int(height), int(width)
    return images.get(task.image, task_id=task.id, project_id=task.project_id).hw


def _number(value: float) -> float | None:
    """JSON knows no NaN."""
    return value if math.isfinite(value) else None


def _info(db: ProjectStore, record: RoundRecord | None) -> dict[str, Any]:
    info: dict[str, Any] = {
        "description": f"Groundswell export of project {db.id} ({db.title})",
        "project": db.key,
        "round": None if record is None else record.number,
        "model_version": None if record is None else record.model_version,
        "review_done": record is not None and record.review_done,
        "decisions": [],
        "audits": [],
        "promise": None,
        "found": None,
        "says": [],
    }
    if record is None:
        return info
    review = record.figures.get("review", {})
    info |= {"promise": review.get("promise"), "found": review.get("found"), "says": promise_lines(review)}
    query = select(DecisionRecord).where(
        DecisionRecord.project_id == db.id, DecisionRecord.round == record.number
    )
    with db.read() as session:
        info["decisions"] = [
            {
                "label": row.label,
                "number": row.number,
                "cluster": row.cluster,
                "action": row.action,
                "members": row.members,
                "asked": row.asked,
                "yes": row.yes,
                "purity_lower": _number(row.lower),
                "purity_upper": _number(row.upper),
                "confidence": _number(row.confidence),
                "test": row.test,
            }
            for row in session.scalars(query.order_by(DecisionRecord.label, DecisionRecord.number))
        ]
    info["audits"] = [row for row in info["decisions"] if row["test"] == AUDIT]
    return info
