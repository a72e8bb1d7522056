"""Crops of questions: cut out before they are asked, so that nobody waits for them."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Final

from sqlalchemy import select

from ml_backend.images.crops import CropStore
from ml_backend.images.store import ImageStore
from ml_backend.instances import Rle
from sync.executor.base import Executor, Job
from sync.executor.local import LocalExecutor
from sync.review.crop_tasks import Cutting, ToCut, cut
from sync.review.question import Question
from sync.rounds.loaded_pictures import Loaded, loaded_batches
from sync.rounds.progress import Progress
from sync.settings import Settings
from sync.store.project_store import ProjectStore
from sync.store.tables import TaskRecord

__all__ = ["make_crops"]

_BATCH: Final = 4
"""pictures whose crops are one task"""
_FEW: Final = 16
"""fewer pictures are done here before another process has begun"""


def make_crops(
    db: ProjectStore,
    settings: Settings,
    images: ImageStore,
    progress: Progress,
    executor: Executor,
    questions: Sequence[Question],
) -> dict[str, str]:
    """Make the crops of these questions that are not there; why there is none, by instance.

    A picture is fetched only while a crop of it is missing. Raises StudioError, StorageError.
    """
    crops = CropStore(settings.data_dir, images, size_px=settings.crop_size_px)
    missing: dict[int, dict[str, Rle]] = defaultdict(dict)
    for question in questions:
        if not crops.path(db.id, question.instance).exists():
            missing[question.task_id][question.instance] = question.rle
    if not missing:
        return {}
    addresses = _addresses(db, list(missing))
    errors = {
        instance: f"task {task} was deleted"
        for task, masks in missing.items()
        if task not in addresses
        for instance in masks
    }
    if executor.ships and len(addresses) < _FEW:
        executor = LocalExecutor()
    sent: deque[list[Loaded]] = deque()

    def inputs() -> Iterator[list[ToCut]]:
        with closing(
            loaded_batches(
                images,
                db.id,
                list(addresses),
                addresses,
                size=_BATCH,
                encoded=executor.ships,
                max_pixels=settings.max_image_pixels,
            )
        ) as batches:
            for batch in batches:
                sent.append(batch)
                yield [
                    ToCut(item.picture, tuple(missing[item.task].values()))
                    for item in batch
                    if item.picture is not None
                ]

    results = executor.map(
        Job(cut, Cutting(settings.crop_size_px), what="crops"),
        inputs(),
        check=lambda: progress.at("review.crops"),
        said=lambda line: progress.report("review", 0.0, line),
    )
    with closing(results):
        for result in results:
            rows = iter(result)
            for item in sent.popleft():
                row = next(rows) if item.picture is not None else None
                error = item.error if row is None else row.error
                if row is None or error:
                    errors |= dict.fromkeys(missing[item.task], error)
                    continue
                for instance, data in zip(missing[item.task], row.crops, strict=True):
                    crops.put(db.id, instance, data)
    return errors


def _addresses(db: ProjectStore, tasks: Sequence[int]) -> dict[int, str]:
    """Addresses of the pictures of these tasks, in their order; deleted tasks are left out."""
    found: dict[int, str] = {}
    with db.read() as session:
        for start in range(0, len(tasks), 500):
            query = select(TaskRecord.id, TaskRecord.image).where(
                TaskRecord.id.in_(tasks[start : start + 500])
            )
            found |= {task: image for task, image in session.execute(query)}
    return {task: found[task] for task in tasks if task in found}
