"""Export: everything that is known about the masks of a project, as one COCO file with provenance.

Per annotation, besides the COCO fields::

    "source": "human" | "verified" | "propagated"
    human:       "person" (Label Studio user), "annotation" (its id)
    verified:    "round", "instance"; workers looked at exactly this mask
    propagated:  "round", "instance", "cluster", "decision", "test", and the interval of the cluster's purity:
                 "purity_lower", "purity_upper", "confidence"

``info.decisions`` lists every decision of the newest round, ``info.audits`` those that are a final audit of
what was accepted: the purity to quote.

Tasks a person finished hold what that person drew and nothing else; other tasks hold the accepted masks of
the newest round. Rejected and undecided masks are left out.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
from pycocotools import mask as coco
from sqlalchemy import select

from clustering.answers import AUDIT
from ml_backend.artifacts.files import write_json
from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.artifacts.pools import read_pool, read_tasks
from ml_backend.artifacts.verdicts import NO_VERDICTS, VerdictTable, read_verdicts
from ml_backend.errors import BadInput
from ml_backend.images.store import ImageStore
from ml_backend.label_studio.label_config import LabelConfig
from sync.rounds.round_records import trained_round
from sync.rounds.task_queries import finished_tasks
from sync.store.project_store import ProjectStore
from sync.store.tables import DecisionRecord, RoundRecord, TaskRecord

__all__ = ["FORMATS", "coco_document", "export_project"]

FORMATS = ("coco",)


def export_project(
    db: ProjectStore,
    config: LabelConfig,
    paths: ProjectPaths,
    images: ImageStore,
    out: Path,
    *,
    format: str = "coco",
) -> dict[str, int]:
    """Write the export; returns the number of images and of annotations by source.

    Raises BadInput on an unknown format, StorageError when the file cannot be written.
    """
    if format not in FORMATS:
        raise BadInput(f"unknown format {format!r}", field="format", hint=f"One of {', '.join(FORMATS)}")
    document = coco_document(db, config, paths, images)
    write_json(out, document)
    counts = Counter(str(row["source"]) for row in document["annotations"])
    return {"images": len(document["images"]), **{name: counts[name] for name in sorted(counts)}}


def coco_document(
    db: ProjectStore, config: LabelConfig, paths: ProjectPaths, images: ImageStore
) -> dict[str, Any]:
    """The COCO document of a project: ``images``, ``annotations``, ``categories`` and an ``info`` block."""
    labels = config.labels
    category = {label: number for number, label in enumerate(labels, start=1)}
    finished = finished_tasks(db)
    image_rows: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []

    def add(task: TaskRecord, hw: tuple[int, int], rows: Iterable[dict[str, Any]]) -> None:
        image_rows.append(_image_row(task, hw))
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
        hw = _size(images, task, annotation.regions)
        if hw is not None:
            add(task, hw, rows)
    record = trained_round(db)
    verdicts = NO_VERDICTS if record is None else read_verdicts(paths.round(record.number))
    if record is not None and len(verdicts):
        for task, hw, rows in _accepted(db, paths, record, verdicts, category, set(finished)):
            add(task, hw, rows)
    return {
        "info": _info(db, record),
        "images": image_rows,
        "annotations": annotations,
        "categories": [{"id": number, "name": label} for label, number in category.items()],
    }


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


def _image_row(task: TaskRecord, hw: tuple[int, int]) -> dict[str, Any]:
    name = PurePosixPath(unquote(urlsplit(task.image).path)).name or task.image[:80]
    return {"id": task.id, "file_name": name, "height": hw[0], "width": hw[1], "source": task.image}


def _size(images: ImageStore, task: TaskRecord, regions: list[Any]) -> tuple[int, int] | None:
    """Size of the image of a finished task; an empty one has to be looked at."""
    if regions:
        height, width = regions[0]["rle"]["size"]
        return int(height), int(width)
    if task.image_error:
        return None
    return images.get(task.image, task_id=task.id).hw


def _number(value: float) -> float | None:
    """JSON knows no NaN."""
    return value if math.isfinite(value) else None


def _info(db: ProjectStore, record: RoundRecord | None) -> dict[str, Any]:
    info: dict[str, Any] = {
        "description": f"Groundswell export of project {db.id} ({db.title})",
        "project": db.key,
        "round": None if record is None else record.number,
        "model_version": None if record is None else record.model_version,
        "decisions": [],
        "audits": [],
    }
    if record is None:
        return info
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
