"""Infer: the instances a model version finds on every unfinished task, as columns on disk.

It also looks at the finished tasks of the test split, on which the version was not trained: people drew every
object there, so the truth of what it finds is known (``known_masks``). All other readers of a pool take the
unfinished tasks only.

Instances are written part by part. After a kill, the next run goes on with the tasks that no finished part
holds. Images of the next batch are fetched and decoded while the model works on this one. When all tasks are
done, the version becomes the one that serves.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from sqlalchemy import select

from ml_backend.artifacts.model_versions import ModelRegistry
from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.artifacts.pool_index import PoolIndex, read_index
from ml_backend.artifacts.pool_writer import PoolWriter
from ml_backend.errors import BadImage, ImageUnavailable
from ml_backend.images.store import ImageRef, ImageStore
from ml_backend.instances import Instances
from ml_backend.learners.base import Predictor
from ml_backend.learners.mask_features import MaskFeatures
from ml_backend.learners.mirrored import predict_twice
from ml_backend.learners.registry import get_learner
from ml_backend.learners.uncertainty import confidence
from ml_backend.task_prediction import usable_instances
from sync.rounds.early import is_early
from sync.rounds.infer_plan import LookedAt, next_try, tasks_left
from sync.rounds.mask_embeddings import mask_features_of
from sync.rounds.picture_vectors import VectorWriter
from sync.rounds.progress import Memo, Progress
from sync.rounds.round_records import finish_step, has_finished, update_round
from sync.rounds.task_queries import finished_test_ids, note_image_errors, open_task_ids, task_images
from sync.settings import Settings
from sync.store.database import utc_now
from sync.store.project_store import ProjectStore
from sync.store.tables import InferenceRecord, RoundRecord

__all__ = ["infer", "pool_index", "tasks_to_infer"]

_log = logging.getLogger(__name__)
_FETCHERS = 4


@dataclass(frozen=True, slots=True)
class _Loaded:
    """One task's image, or why it could not be read; ``passes`` says that the fault may pass."""

    task: int
    image: str
    ref: ImageRef | None
    pixels: npt.NDArray[np.uint8] | None
    error: str
    passes: bool = False


def pool_index(paths: ProjectPaths, memo: Memo, version: str) -> PoolIndex:
    """The index of a version's pool; only parts that are new since the last call are opened.

    Raises StorageError when a pool that was there is gone.
    """
    name = ("pool index", paths.project_id)
    kept = memo.get(name)
    known = kept[1] if isinstance(kept, tuple) and kept[0] == version else None
    index = read_index(paths.pool(version), known)
    memo[name] = (version, index)
    return index


def tasks_to_infer(db: ProjectStore, paths: ProjectPaths, memo: Memo, record: RoundRecord) -> list[int]:
    """Tasks whose present image the round's version has not looked at, in order of id.

    They are the unfinished ones, and the finished ones of the round's test split. While there was none, and
    nothing changed since, and no failed image is to be tried again, no task is looked at.
    """
    version = record.model_version
    index = pool_index(paths, memo, version)
    name = ("nothing to infer", db.id)
    state = (db.revision().tasks, db.key, version, record.split, index.parts)
    kept = memo.get(name)
    now = utc_now()
    if isinstance(kept, tuple) and kept[0] == state and (kept[1] is None or now < kept[1]):
        return []
    addresses = task_images(db)
    looked_at = _looked_at(db, version)
    left = tasks_left(
        {task: addresses[task] for task in (*open_task_ids(db), *finished_test_ids(db, record.split))},
        set(index.task_id.tolist()),
        index.error.keys(),
        looked_at,
        now,
    )
    if left:
        memo.pop(name, None)
    else:
        later = [known.retry_at for known in looked_at.values() if known.retry_at is not None]
        memo[name] = (state, min((at for at in later if at > now), default=None))
    return left


def _looked_at(db: ProjectStore, version: str) -> dict[int, LookedAt]:
    row = InferenceRecord
    query = select(row.task_id, row.image, row.tries, row.retry_at).where(
        row.project_id == db.id, row.model_version == version
    )
    with db.read() as session:
        return {
            task: LookedAt(image, tries, retry_at) for task, image, tries, retry_at in session.execute(query)
        }


def infer(
    db: ProjectStore,
    settings: Settings,
    paths: ProjectPaths,
    images: ImageStore,
    progress: Progress,
    memo: Memo,
    record: RoundRecord,
    *,
    limit_s: float | None = None,
) -> RoundRecord:
    """Fill the pool of the round's version for all tasks it should hold; safe to repeat and to kill.

    After ``limit_s`` seconds no further batch is begun; the tasks left are missing in the pool. A round whose
    step is not finished yet stays so then, and the version before it serves on; but an early one is shown.

    A task whose image cannot be read gets an empty row with the reason. One that could not be fetched is
    tried again by later looks, at growing intervals. One that is damaged is tried again by the next version.
    """
    registry = ModelRegistry(settings.data_dir)
    todo = tasks_to_infer(db, paths, memo, record)
    if not todo and has_finished(record, "infer") and registry.current(db.id) == record.model_version:
        progress.report("infer", 1.0, "0 tasks looked at, 0 instances")
        return record
    info = registry.info(db.id, record.model_version)
    if is_early(record):  # what people wait for first
        open_tasks = set(open_task_ids(db))
        todo.sort(key=lambda task: task not in open_tasks)
    started = time.monotonic()
    found = failed = done = 0
    if todo:
        predictor = get_learner(info.learner).load(info.folder, device=settings.device)
        features = mask_features_of(settings, paths, info.version, guard=db.write)
        writer = PoolWriter(
            paths.pool(info.version),
            predictor.labels,
            embedding_dim=predictor.embedding_dim if features is None else features.dim,
            tasks_per_part=settings.infer_part,
            guard=db.write,
        )
        looked: list[_Loaded] = []
        with writer, VectorWriter(db, paths, settings.features, info.version) as vectors:
            for batch in _loaded_batches(db, settings, images, todo):
                progress.at("infer.batch")
                found_here, failed_here = _infer_batch(
                    db, settings, predictor, features, writer, vectors, batch
                )
                looked += [replace(item, ref=None, pixels=None) for item in batch]
                found, failed, done = found + found_here, failed + failed_here, done + len(batch)
                progress.report("infer", done / len(todo), f"{done} of {len(todo)} tasks, {found} instances")
                if limit_s is not None and time.monotonic() - started > limit_s:
                    break
        # after the last part is written: a task noted here is not looked at again
        _note_looked_at(db, info.version, looked)
    is_whole = done == len(todo) or has_finished(record, "infer") or is_early(record)
    if is_whole:
        registry.set_current(db.id, info.version, guard=db.write)
        progress.report("infer", 1.0, f"{done} tasks looked at, {found} instances")
    if not todo and has_finished(record, "infer"):
        return record
    before = record.figures.get("infer", {})
    figures = {
        "seconds": round(before.get("seconds", 0.0) + time.monotonic() - started, 3),
        "tasks": before.get("tasks", 0) + done,
        "instances": before.get("instances", 0) + found,
        "unreadable": before.get("unreadable", 0) + failed,
    }
    if is_whole:
        return finish_step(db, paths, record.number, "infer", figures)
    return update_round(db, paths, record.number, figures={**record.figures, "infer": figures})


def _note_looked_at(db: ProjectStore, version: str, looked: Sequence[_Loaded]) -> None:
    known = _looked_at(db, version)
    now = utc_now()
    with db.write() as session:
        for item in looked:
            before = known.get(item.task)
            same = before is not None and before.image == item.image
            tries = (before.tries if before is not None and same else 0) + 1 if item.error else 0
            session.merge(
                InferenceRecord(
                    project_id=db.id,
                    task_id=item.task,
                    model_version=version,
                    image=item.image,
                    tries=tries,
                    retry_at=next_try(tries, now) if item.passes else None,
                )
            )


def _infer_batch(
    db: ProjectStore,
    settings: Settings,
    predictor: Predictor,
    features: MaskFeatures | None,
    writer: PoolWriter,
    vectors: VectorWriter,
    batch: Sequence[_Loaded],
) -> tuple[int, int]:
    """Add one batch to the pool; returns instances found and tasks that could not be read."""
    pixels = [item.pixels for item in batch if item.pixels is not None]
    if settings.order_mirror or settings.order == "tta":
        results = predict_twice(predictor, pixels, shown_from=settings.push_min_score)
    else:
        results = list(predictor.predict(pixels))
    readable = [item for item in batch if item.pixels is not None]
    usable = [_usable(db, item.task, found) for item, found in zip(readable, results, strict=True)]
    of_task = {item.task: instances for item, instances in zip(readable, usable, strict=True)}
    for item in batch:
        if item.pixels is None or item.ref is None:
            writer.add(item.task, Instances.empty(predictor.embedding_dim), score=1.0, error=item.error)
            continue
        instances = of_task[item.task]
        writer.add(
            item.task,
            instances if features is None else features.embed(item.pixels, instances),
            hw=item.ref.hw,
            image_sha=item.ref.sha,
            score=confidence(instances, shown_from=settings.push_min_score),
            image=item.pixels,
        )
    vectors.add([item.task for item in readable], [item.image for item in readable], pixels, usable)
    note_image_errors(db, {item.task: item.error for item in batch})
    return sum(map(len, usable)), len(batch) - len(readable)


def _usable(db: ProjectStore, task: int, instances: Instances) -> Instances:
    """``usable_instances``, with a note in the log about what was left out."""
    usable = usable_instances(instances)
    if len(usable) < len(instances):
        left_out = len(instances) - len(usable)
        _log.warning(
            "project %s task %s: %d instances left out, not finite or there twice", db.id, task, left_out
        )
    return usable


def _loaded_batches(
    db: ProjectStore, settings: Settings, images: ImageStore, tasks: Sequence[int]
) -> Iterator[list[_Loaded]]:
    """Batches of decoded images, the next one being fetched while this one is used."""
    addresses = task_images(db)
    size = settings.infer_batch
    batches = [tasks[start : start + size] for start in range(0, len(tasks), size)]

    with ThreadPoolExecutor(_FETCHERS, thread_name_prefix="fetch") as threads:

        def submit(number: int) -> list[Future[_Loaded]]:
            if number >= len(batches):
                return []
            return [threads.submit(_load, db, images, task, addresses[task]) for task in batches[number]]

        ahead = submit(0)
        for number in range(len(batches)):
            current, ahead = ahead, submit(number + 1)
            yield [future.result() for future in current]


def _load(db: ProjectStore, images: ImageStore, task: int, image: str) -> _Loaded:
    try:
        ref = images.get(image, task_id=task, project_id=db.id)
        return _Loaded(task, image, ref, images.pixels(ref), "")
    except BadImage as error:
        _log.warning("project %s task %s: %s", db.id, task, error)
        return _Loaded(task, image, None, None, str(error), isinstance(error, ImageUnavailable))
