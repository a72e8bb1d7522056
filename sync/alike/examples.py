"""The masks that people drew: what is wanted, and on which pictures all else is not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ml_backend.errors import BadInput
from ml_backend.kinds.base import LabelledMask
from ml_backend.label_studio.label_config import LabelConfig
from ml_backend.masks.rle import rle_area, rle_hw
from sync.rounds.region_rows import drawn_masks, lacks_masks
from sync.rounds.task_queries import finished_tasks
from sync.store.project_store import ProjectStore
from sync.store.tables import TaskRecord

__all__ = ["Drawn", "drawn_pictures"]


@dataclass(frozen=True, slots=True)
class Drawn:
    """One finished task: its picture, and the masks of all labels on it; ``digest`` of the annotation."""

    task: int
    image: str
    digest: str
    masks: tuple[LabelledMask, ...]


def drawn_pictures(db: ProjectStore, config: LabelConfig, tasks: Sequence[int] = ()) -> list[Drawn]:
    """Finished tasks with at least one mask, in order of id; of ``tasks`` alone where some are named.

    Raises BadInput naming ``task`` when one of them is not of the project, is not finished, or has no mask.
    """
    found = []
    for task, (record, annotation) in finished_tasks(db).items():
        if tasks and task not in tasks:
            continue
        rows = [row for row in annotation.regions if row["rle"] is not None]
        if lacks_masks(config.wanted, annotation.regions) or not rows:
            continue
        masks = drawn_masks(config.wanted, rows, rle_hw(rows[0]["rle"]))
        kept = tuple((label, rle) for label, rle in masks if rle_area(rle))
        if kept:
            found.append(Drawn(task, record.image, annotation.digest, kept))
    missing = sorted(set(tasks) - {drawn.task for drawn in found})
    if missing:
        raise _why_not(db, missing[0])
    return found


def _why_not(db: ProjectStore, task: int) -> BadInput:
    with db.read() as session:
        record = session.get(TaskRecord, task)
    if record is None or record.project_id != db.id:
        said = f"task {task} is not of project {db.id}"
    elif record.broken:
        said = f"task {task} cannot be used: {record.broken}"
    elif not record.finished:
        said = f"task {task} is not finished: nobody has submitted an annotation"
    else:
        said = f"nothing with an outline was drawn on task {task}"
    return BadInput(said, field="task", hint="Name finished tasks with masks, or leave the option out")
