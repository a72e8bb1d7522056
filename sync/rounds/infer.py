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
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Final

from sqlalchemy import select

from ml_backend.artifacts.model_versions import ModelRegistry, VersionInfo
from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.artifacts.pool_index import PoolIndex, read_index
from ml_backend.artifacts.pool_parts import has_edges
from ml_backend.artifacts.pool_writer import PoolWriter
from ml_backend.images.store import ImageStore
from ml_backend.instances import Instances
from ml_backend.learners.registry import LEARNERS
from ml_backend.learners.version_files import needs_files_elsewhere
from sync.executor.base import Executor, Job
from sync.executor.choice import executor_of
from sync.executor.local import LocalExecutor
from sync.rounds.early import is_early
from sync.rounds.infer_plan import LookedAt, next_try, tasks_left
from sync.rounds.loaded_pictures import Loaded, loaded_batches
from sync.rounds.look_tasks import FEATURES, MASKS, MODEL, Asked, Finding, FoundBatch, find
from sync.rounds.mask_embeddings import OWN, embeddings_from
from sync.rounds.picture_vectors import VectorWriter
from sync.rounds.progress import Memo, Progress
from sync.rounds.round_records import finish_step, update_round
from sync.rounds.task_queries import finished_test_ids, note_image_errors, open_task_ids, task_images
from sync.settings import Settings
from sync.store.database import utc_now
from sync.store.project_store import ProjectStore
from sync.store.round_state import has_finished
from sync.store.tables import InferenceRecord, RoundRecord

__all__ = ["infer", "pool_index", "tasks_to_infer"]

_log = logging.getLogger(__name__)
_FOLDER: Final = "folder"


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
        executor = _executor(settings, memo, info, progress)
        looked: list[Loaded] = []
        with _Filling(db, settings, paths, info.version) as pool:
            job = _job(db, settings, paths, executor, info)
            until = None if limit_s is None else started + limit_s
            batches = _found(db, settings, images, progress, executor, job, pool.vectors, todo, until)
            for batch, result in batches:
                found_here, failed_here = pool.add(batch, result)
                looked += [replace(item, ref=None, picture=None) for item in batch]
                found, failed, done = found + found_here, failed + failed_here, done + len(batch)
                progress.report("infer", done / len(todo), f"{done} of {len(todo)} tasks, {found} instances")
        # after the last part is written: a task noted here is not looked at again
        _note_looked_at(db, info.version, looked)
    is_whole = done == len(todo) or has_finished(record, "infer") or is_early(record)
    if is_whole:
        registry.set_current(db.id, info.version, guard=db.guard)
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


def _note_looked_at(db: ProjectStore, version: str, looked: Sequence[Loaded]) -> None:
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


def _executor(settings: Settings, memo: Memo, info: VersionInfo, progress: Progress) -> Executor:
    """Where this version looks at pictures: here, when it reads files that are on this machine alone."""
    executor = executor_of(settings, memo)
    if executor.elsewhere and needs_files_elsewhere(info.folder):
        progress.report("infer", 0.0, f"{info.learner} reads files of this machine: no other one helps")
        return LocalExecutor()
    return executor


def _job(
    db: ProjectStore, settings: Settings, paths: ProjectPaths, executor: Executor, info: VersionInfo
) -> Job[Finding, Sequence[Asked], FoundBatch]:
    """What is to be done with each batch of pictures. Raises BadInput when a model of features is missing."""
    folders = {MODEL: info.folder}
    chosen = {
        MASKS: embeddings_from(settings, paths, info.version, guard=db.guard),
        FEATURES: settings.features or "classical",
    }
    for name, choice in chosen.items():
        if choice not in (OWN, "classical"):
            folders[name] = Path(choice)
    device = executor.device(settings.device)
    finding = Finding(
        learner=LEARNERS[info.learner],
        device=device,
        twice=settings.order_mirror or settings.order == "tta",
        shown_from=settings.push_min_score,
        mask_features=_FOLDER if MASKS in folders else chosen[MASKS],
        features=_FOLDER if FEATURES in folders else chosen[FEATURES],
        with_edges=has_edges(paths.pool(info.version)),
    )
    return Job(find, finding, "gpu" if device.startswith("cuda") else "cpu", folders, "inference")


def _found(
    db: ProjectStore,
    settings: Settings,
    images: ImageStore,
    progress: Progress,
    executor: Executor,
    job: Job[Finding, Sequence[Asked], FoundBatch],
    vectors: VectorWriter,
    todo: Sequence[int],
    until: float | None,
) -> Generator[tuple[list[Loaded], FoundBatch]]:
    """Batches with what was found on those of their pictures that could be fetched, in order.

    After ``until``, seconds of ``time.monotonic``, no further batch is begun; the first always is.
    """
    sent: deque[list[Loaded]] = deque()

    def inputs() -> Iterator[list[Asked]]:
        with closing(
            loaded_batches(
                images,
                db.id,
                todo,
                task_images(db),
                size=settings.infer_batch,
                encoded=executor.ships,
                max_pixels=settings.max_image_pixels,
            )
        ) as batches:
            for number, batch in enumerate(batches):
                if number and until is not None and time.monotonic() > until:
                    return
                sent.append(batch)
                yield [
                    Asked(item.picture, vectors.lacks(item.task, item.image))
                    for item in batch
                    if item.picture is not None
                ]

    results = executor.map(
        job,
        inputs(),
        check=lambda: progress.at("infer.batch"),
        said=lambda line: progress.report("infer", 0.0, line),
    )
    with closing(results):
        for result in results:
            yield _judged(sent.popleft(), result), result


def _judged(batch: Sequence[Loaded], result: FoundBatch) -> list[Loaded]:
    """The batch with the reasons why pictures could not be decoded."""
    rows = iter(result.found)
    judged = []
    for item in batch:
        error = next(rows).error if item.picture is not None else ""
        if error:
            _log.warning("task %s: %s", item.task, error)
        judged.append(replace(item, error=error) if error else item)
    return judged


class _Filling:
    """A pool that is being filled with what was found, and the vectors of its pictures. A context manager."""

    def __init__(self, db: ProjectStore, settings: Settings, paths: ProjectPaths, version: str) -> None:
        self._db = db
        self._settings = settings
        self._folder = paths.pool(version)
        self._stack = ExitStack()
        self._writer: PoolWriter | None = None
        self.vectors = self._stack.enter_context(VectorWriter(db, paths, settings.features, version))

    def __enter__(self) -> _Filling:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)  # also after an error: what was added is good

    def add(self, batch: Sequence[Loaded], result: FoundBatch) -> tuple[int, int]:
        """Add one batch; returns instances found and tasks that could not be read."""
        if self._writer is None:  # the first result tells what the model is like
            self._writer = self._stack.enter_context(
                PoolWriter(
                    self._folder,
                    result.labels,
                    embedding_dim=result.embedding_dim,
                    tasks_per_part=self._settings.infer_part,
                    guard=self._db.guard,
                )
            )
        rows = iter(result.found)
        found = failed = 0
        for item in batch:
            row = next(rows) if item.picture is not None else None
            if row is None or item.ref is None or item.error:
                failed += 1
                nothing = Instances.empty(result.embedding_dim)
                self._writer.add(item.task, nothing, score=1.0, error=item.error)
                continue
            if row.left_out:
                text = "project %s task %s: %d instances left out, not finite or there twice"
                _log.warning(text, self._db.id, item.task, row.left_out)
            found += len(row.instances)
            self._writer.add(
                item.task,
                row.instances,
                hw=item.ref.hw,
                image_sha=item.ref.sha,
                score=row.score,
                edges=row.edges,
            )
            self.vectors.add(item.task, item.image, own=row.instances.feature, frozen=row.vector)
        note_image_errors(self._db, {item.task: item.error for item in batch})
        return found, failed
