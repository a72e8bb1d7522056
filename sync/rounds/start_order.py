"""Cold start: which tasks come first while there is no model: typical pictures of different kinds.

With few labels, typical pictures teach more than odd or random ones (``clustering.typical``), if the features
tell kinds of pictures apart: with classical features that was not so (docs/figures.md), and nothing is done
then unless ``order_start`` asks for it. Label Studio
learns of their order through score-only predictions. The first training replaces them.

The frozen test split must be a random sample of the project, or what is measured on it says nothing about the
rest. So some places go to tasks that were drawn uniformly from all before the typical ones were chosen:
always as many as the split needs of those finished so far. ``frozen_test_split`` takes it from them.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from clustering.typical import typical_order
from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.artifacts.task_orders import TaskOrder, place_among, read_order, write_order
from ml_backend.clicks.serving.prewarm import save_upcoming
from ml_backend.images.store import ImageStore
from sync.executor.base import Job
from sync.executor.choice import executor_of
from sync.rounds.loaded_pictures import Loaded, Picture, loaded_batches
from sync.rounds.look_tasks import FEATURES, Describing, describe
from sync.rounds.picture_vectors import VectorWriter, vectors_of
from sync.rounds.progress import Memo, Progress
from sync.rounds.round_records import version_prefix
from sync.rounds.task_queries import finished_digests, note_image_errors, open_task_ids, task_images
from sync.settings import Settings
from sync.store.project_store import ProjectStore
from sync.studio.protocol import PredictionRow, StudioClient

__all__ = ["START", "drawn_uniformly", "start_order", "start_version", "typical_first"]

START = "start"
"""name of the order in place of a model version"""
_BATCH = 8
_MOST = 1000
"""pictures that are looked at: before so many are labelled there is a model"""


def start_version(project_id: int) -> str:
    """The version of the predictions that carry the order; pushes remove it like older ones of ours."""
    return f"{version_prefix(project_id)}0-{START}"


def drawn_uniformly(paths: ProjectPaths) -> set[int]:
    """Tasks whose places were drawn uniformly from all tasks; empty without a cold start."""
    order = read_order(paths.order(START))
    return set() if order is None else set(order.task_id[order.explored].tolist())


def start_order(
    tasks: Sequence[int],
    feature: npt.NDArray[np.float32],
    uniform: Sequence[int],
    *,
    groups: int,
    test_fraction: float,
    test_min: int,
    labelled: npt.NDArray[np.float32] | None = None,
    seed: int = 0,
) -> list[int]:
    """Tasks in order.

    Parameters
    ----------
    tasks : with a row of ``feature`` each
    uniform : those of them that were drawn uniformly, in the order of the draw
    groups : tasks that are wanted for the first training

    Of the first m tasks, as many are uniform ones as a test split of m finished tasks needs (while there are
    enough): at least ``test_min``, ``test_fraction`` of m, half of m at most.
    """
    drawn = set(uniform)
    rows = [row for row, task in enumerate(tasks) if task not in drawn]
    ranked = typical_order(feature[rows], groups, labelled=labelled, seed=seed)
    streams = {True: list(uniform)[::-1], False: [tasks[rows[int(i)]] for i in ranked][::-1]}
    out: list[int] = []
    taken = 0
    for place in range(len(tasks)):
        needed = min(max(test_min, math.ceil(test_fraction * (place + 1))), (place + 1) // 2)
        is_uniform = bool(streams[True]) and (taken < needed or not streams[False])
        out.append(streams[is_uniform].pop())
        taken += is_uniform
    return out


def typical_first(
    db: ProjectStore,
    studio: StudioClient,
    settings: Settings,
    paths: ProjectPaths,
    images: ImageStore,
    progress: Progress,
    memo: Memo,
) -> int:
    """Give the open tasks of a project without a model their places; returns how many were sent.

    Safe to repeat and to kill. Nothing happens when another order is wished for (``order``), or when somebody
    else's predictions are there: people see those.
    """
    is_wanted = settings.features != "classical" if settings.order_start is None else settings.order_start
    if settings.order != "ours" or not is_wanted:
        return 0
    name = ("typical first", db.id)
    state = db.revision()
    if memo.get(name) == state and paths.order(START).exists():
        return 0
    order = read_order(paths.order(START))
    open_ids = open_task_ids(db)
    known = set() if order is None else set(order.task_id.tolist())
    new = [task for task in open_ids if task not in known]
    seen = 0 if order is None else len(order)
    if order is not None and order.about["sent"] and (not new or seen >= _MOST):
        memo[name] = state
        return 0
    version = start_version(db.id)
    if set(studio.prediction_versions(db.id)) - {version} or len(open_ids) < 2:
        return 0
    if order is None or (new and seen < _MOST):
        order = _extended(db, settings, paths, images, progress, memo, order, new, open_ids)
        write_order(paths.order(START), order, guard=db.guard)
    there = studio.predicted_tasks(db.id, version)
    score = dict(zip(order.task_id.tolist(), order.score.tolist(), strict=True))
    rows = [
        PredictionRow(task, [], score[task], version)
        for task in open_ids
        if task in score and task not in there
    ]
    for start in range(0, len(rows), settings.push_rows):
        progress.at("start.chunk")
        studio.import_predictions(db.id, rows[start : start + settings.push_rows])
    if rows or there:
        progress.at("start.switch")
        if studio.project(db.id).model_version != version:
            studio.set_model_version(db.id, version)
    sent = replace(order, about={**order.about, "sent": True})
    write_order(paths.order(START), sent, guard=db.guard)
    addresses = task_images(db)
    served = sorted((task for task in open_ids if task in score), key=score.__getitem__)
    save_upcoming(settings.data_dir, db.id, [(task, addresses[task]) for task in served], guard=db.guard)
    progress.report("order", 1.0, f"typical pictures first: {len(rows)} tasks have a place")
    return len(rows)


def _extended(
    db: ProjectStore,
    settings: Settings,
    paths: ProjectPaths,
    images: ImageStore,
    progress: Progress,
    memo: Memo,
    order: TaskOrder | None,
    new: Sequence[int],
    open_ids: Sequence[int],
) -> TaskOrder:
    """The order with the new tasks in it, each with the same chance to be among the uniform ones."""
    rng = np.random.default_rng([settings.seed, db.id, 0 if order is None else len(order)])
    shuffled = [int(task) for task in rng.permutation(np.array(new, np.int64))]
    chosen = shuffled[: _MOST - (0 if order is None else len(order))]
    _look_at(db, settings, paths, images, progress, memo, chosen)
    done = sorted(finished_digests(db))
    feature, labelled = vectors_of(paths, settings.features, "", chosen, done)
    # from the front of a shuffled list: a uniform draw
    uniform = chosen[: max(settings.test_min, math.ceil(settings.test_fraction * len(chosen)))]
    ranked = start_order(
        chosen,
        feature,
        uniform,
        groups=max(settings.min_finished, 2),
        test_fraction=settings.test_fraction,
        test_min=settings.test_min,
        labelled=labelled if len(labelled) else None,
        seed=settings.seed,
    )
    n = len(ranked)
    ids = np.array(ranked, np.int64)
    value = 1.0 - (np.arange(n) + 0.5) / max(n, 1)
    score = 1.0 - value
    if order is not None:
        score = place_among(order.value, order.score, value)
    by_id = np.argsort(ids)
    texts = np.array([""] * n, object)
    fresh = TaskOrder(
        START,
        {"method": "typical", "sent": False, "features": settings.features},
        ids[by_id],
        score[by_id],
        value[by_id],
        np.full(n, np.nan),
        np.ones(n),
        np.full(n, np.nan),
        np.full(n, -1, np.int64),
        np.isin(ids, np.array(uniform, np.int64))[by_id],
        np.full(n, len(uniform) / max(n, 1)),
        texts,
        texts,
    )
    return fresh if order is None else replace(order.joined(fresh), about=fresh.about)


def _look_at(
    db: ProjectStore,
    settings: Settings,
    paths: ProjectPaths,
    images: ImageStore,
    progress: Progress,
    memo: Memo,
    tasks: Sequence[int],
) -> None:
    """Compute the vectors of pictures that have none; a picture that cannot be read gets none."""
    addresses = task_images(db)
    executor = executor_of(settings, memo)
    is_folder = settings.features not in ("", "classical")
    folders = {FEATURES: Path(settings.features)} if is_folder else {}
    describing = Describing("folder" if is_folder else "classical")
    sent: deque[list[Loaded]] = deque()
    errors: dict[int, str] = {}
    with VectorWriter(db, paths, settings.features) as vectors:
        left = [task for task in tasks if vectors.lacks(task, addresses[task])]

        def inputs() -> Iterator[list[Picture]]:
            with closing(
                loaded_batches(
                    images,
                    db.id,
                    left,
                    addresses,
                    size=_BATCH,
                    encoded=executor.ships,
                    max_pixels=settings.max_image_pixels,
                )
            ) as batches:
                for batch in batches:
                    sent.append(batch)
                    yield [item.picture for item in batch if item.picture is not None]

        results = executor.map(
            Job(describe, describing, "cpu", folders, "embedding"),
            inputs(),
            check=lambda: progress.at("start.picture"),
            said=lambda line: progress.report("order", 0.0, line),
        )
        for result in results:
            rows = iter(result)
            for item in sent.popleft():
                row = next(rows) if item.picture is not None else None
                errors[item.task] = item.error if row is None else row.error
                if row is not None and not row.error:
                    vectors.add(item.task, item.image, frozen=row.vector)
            done = len(errors)
            progress.report("order", done / len(left), f"{done} of {len(left)} pictures looked at")
    note_image_errors(db, errors)
