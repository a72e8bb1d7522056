"""Push: a prediction for every unfinished task that shows the round's masks and decisions.

All predictions that are shown carry one version label, ``<model version>.<digest of the decisions>``. A push
compares what each task should show with what was sent for it (``push_plan``). A few changed predictions are
replaced one by one under the label that is shown. When many changed, a whole new set is sent under a new
label. (It is sent in bulk, as Label Studio goes through the whole project at each import.) When the new set
is complete the project is switched to it, and then the old set is deleted. So annotators see either the old
set or the new one. After a kill, the next push makes the same comparison and goes on.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import Any

import numpy as np

from ml_backend.artifacts.order_lines import line_of
from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.artifacts.pool_index import PoolIndex
from ml_backend.artifacts.pool_tables import PoolTable
from ml_backend.artifacts.pools import read_pool
from ml_backend.artifacts.task_orders import TaskOrder
from ml_backend.artifacts.verdicts import VerdictTable, read_verdicts
from ml_backend.clicks.serving.prewarm import save_upcoming
from ml_backend.errors import BadInput, StudioError
from ml_backend.label_studio.label_config import LabelConfig
from ml_backend.label_studio.region_check import validate_result
from ml_backend.task_prediction import make_prediction
from sync.rounds.absent import AbsentLabels, absent_labels, is_absent
from sync.rounds.infer import pool_index
from sync.rounds.order import ensure_order, known_order, order_key
from sync.rounds.progress import Memo, Progress
from sync.rounds.push_plan import PushPlan, Shown, plan_push, shown_by_task
from sync.rounds.pushed_notes import load_pushed, note_pushed, save_pushed
from sync.rounds.round_records import digest_of, finish_step, update_round, version_prefix
from sync.rounds.task_queries import open_task_ids, task_images
from sync.settings import Settings
from sync.store.database import utc_now
from sync.store.project_store import ProjectStore
from sync.store.tables import RoundRecord
from sync.studio.prepared import PreparedPredictions
from sync.studio.protocol import PredictionRow, StudioClient

__all__ = ["PushReport", "PushState", "expected_push", "note_order", "push", "push_state", "serving_order"]

_READ_TASKS = 256
_COLUMNS = ("key", "task_id", "label", "box", "rle", "score", "quality")
_SAVED_EVERY = 20
"""predictions that are replaced between two notes of what was sent"""
_FIRST_ROWS = 500
"""predictions in the first request of a push, at most"""


@dataclass(frozen=True, slots=True)
class PushReport:
    """What a push did: rows sent now, tasks that hold a prediction now, older versions removed."""

    version: str
    sent: int
    tasks: int
    accepted: int
    retired: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class PushState:
    """What should be shown, what was sent, and the difference. ``absent``: labels that pictures do not have.

    ``is_urgent`` says that tasks lack a prediction; changed decisions may wait.
    """

    index: PoolIndex
    order: TaskOrder
    verdicts: VerdictTable
    absent: Mapping[int, AbsentLabels]
    wanted: dict[int, Shown]
    held: dict[str, dict[int, Shown]]
    plan: PushPlan

    @property
    def is_urgent(self) -> bool:
        """Whether tasks lack a prediction, or no prediction of this round is shown yet."""
        return not self.held or bool(self.plan.add and self.plan.version in self.held)


def push_state(
    db: ProjectStore,
    config: LabelConfig,
    settings: Settings,
    paths: ProjectPaths,
    memo: Memo,
    record: RoundRecord,
) -> PushState:
    """Compare what each task should show with what was sent; asks the store and files only."""
    index = pool_index(paths, memo, record.model_version)
    order = ensure_order(db, config, settings, paths, memo, record, index, _wanted(db, index))
    verdicts, absent = read_verdicts(paths.round(record.number)), absent_labels(db, config.wanted)
    wanted, held, plan = _compared(
        db, config, settings, paths, record, index, verdicts, absent, order_key=order.key
    )
    return PushState(index, order, verdicts, absent, wanted, held, plan)


def expected_push(
    db: ProjectStore,
    config: LabelConfig,
    settings: Settings,
    paths: ProjectPaths,
    memo: Memo,
    record: RoundRecord,
) -> PushPlan:
    """What the next push of a round would send. Writes nothing: an order still to be made counts as made."""
    index = pool_index(paths, memo, record.model_version)
    verdicts, absent = read_verdicts(paths.round(record.number)), absent_labels(db, config.wanted)
    key, order = order_key(settings, record.model_version), known_order(paths, memo, record.model_version)
    if order is not None and order.key.rstrip("+") == key:
        key = order.key
    return _compared(db, config, settings, paths, record, index, verdicts, absent, order_key=key)[2]


def _compared(
    db: ProjectStore,
    config: LabelConfig,
    settings: Settings,
    paths: ProjectPaths,
    record: RoundRecord,
    index: PoolIndex,
    verdicts: VerdictTable,
    absent: Mapping[int, AbsentLabels],
    *,
    order_key: str,
) -> tuple[dict[int, Shown], dict[str, dict[int, Shown]], PushPlan]:
    """What each task should show, what was sent, and the difference."""
    setting = digest_of((record.model_version, config.digest, *_shown_how(settings), order_key))
    wanted = shown_by_task(
        _wanted(db, index),
        index,
        verdicts,
        setting=setting,
        round_number=record.number,
        absent={task: found.labels for task, found in absent.items()},
    )
    held = load_pushed(paths.round(record.number))
    plan = plan_push(
        wanted,
        held,
        shown=record.pushed if record.pushed in held else "",
        fresh=_fresh_version(config, settings, record, verdicts, order_key, absent),
        with_bounds=record.review_done,
    )
    return wanted, held, plan


def _shown_how(settings: Settings) -> tuple[object, ...]:
    """What decides, beside pool and verdicts, which masks are shown."""
    most = settings.max_tags_per_pixel
    return (settings.push_min_score,) if most is None else (settings.push_min_score, most)


def _fresh_version(
    config: LabelConfig,
    settings: Settings,
    record: RoundRecord,
    verdicts: VerdictTable,
    order: str,
    absent: Mapping[int, AbsentLabels],
) -> str:
    """Name of a new set of predictions with the decisions so far, different from that of the shown set."""
    shown: tuple[object, ...] = (verdicts.digest, config.digest, *_shown_how(settings), order)
    if absent:
        shown += tuple((task, *sorted(found.labels)) for task, found in absent.items())
    version = f"{record.model_version}.{digest_of(shown)[:8]}"
    if version == record.pushed:
        version = f"{record.model_version}.{digest_of((*shown, version))[:8]}"
    return version


def push(
    db: ProjectStore,
    studio: StudioClient,
    config: LabelConfig,
    settings: Settings,
    paths: ProjectPaths,
    progress: Progress,
    memo: Memo,
    record: RoundRecord,
) -> PushReport:
    """Make Label Studio show the round's instances and decisions; safe to repeat and to kill anywhere.

    Raises StudioError when Label Studio refuses a chunk; what was sent before stays and is not sent again.
    """
    started = time.monotonic()
    state = _with_what_is_there(
        db, studio, push_state(db, config, settings, paths, memo, record), config, settings, record
    )
    version = state.plan.version
    sender = _Sender(db, studio, settings, paths, progress, record, state)
    sender.add(_rows(config, settings, paths, record, version, state.plan.add, state))
    sender.replace(_rows(config, settings, paths, record, version, state.plan.replace, state))
    wanted = state.wanted
    retired: list[str] = []
    if wanted:
        progress.at("push.switch")
        if studio.project(db.id).model_version != version:
            studio.set_model_version(db.id, version)
        retired = _retire(db, studio, progress, version)
        if sender.sent or set(state.held) - {version}:
            save_pushed(paths.round(record.number), {version: state.held.get(version, {})}, guard=db.guard)
        note_order(db, settings, paths, memo, record)
    report = PushReport(version, sender.sent, len(wanted), sender.accepted, tuple(retired))
    if sender.sent or record.pushed != version:
        update_round(db, paths, record.number, pushed=version, pushed_at=utc_now())
        figures: dict[str, Any] = {"version": version, "tasks": len(wanted), "sent": sender.sent}
        before = float(record.figures.get("push", {}).get("seconds", 0.0))
        figures["seconds"] = round(before + time.monotonic() - started, 3)
        finish_step(db, paths, record.number, "push", figures)
    progress.report("push", 1.0, f"{len(wanted)} tasks show {version}, {sender.sent} sent")
    return report


def _with_what_is_there(
    db: ProjectStore,
    studio: StudioClient,
    state: PushState,
    config: LabelConfig,
    settings: Settings,
    record: RoundRecord,
) -> PushState:
    """The state without predictions that somebody deleted, and with those sent but not yet written down.

    A kill right after sending leaves predictions that were not written down. Those under the label of a new
    set are right, since that label names their content. Those under the label that is shown are replaced.
    """
    counts = studio.prediction_versions(db.id)
    names = {name for name in (record.pushed, state.plan.version) if name}
    if all(counts.get(name, 0) == len(state.held.get(name, {})) for name in names):
        return state
    held: dict[str, dict[int, Shown]] = {}
    for name in sorted(names):
        there = studio.predicted_tasks(db.id, name) if counts.get(name) else set()
        noted = state.held.get(name, {})
        unknown = Shown("") if name == record.pushed else None
        held[name] = {
            task: noted.get(task) or unknown or state.wanted[task]
            for task in sorted(there)
            if task in noted or unknown is not None or task in state.wanted
        }
    shown = record.pushed if held.get(record.pushed) else ""
    fresh = _fresh_version(config, settings, record, state.verdicts, state.order.key, state.absent)
    plan = plan_push(state.wanted, held, shown=shown, fresh=fresh, with_bounds=record.review_done)
    return replace(state, held=held, plan=plan)


class _Sender:
    """Sends predictions and notes what was sent."""

    def __init__(
        self,
        db: ProjectStore,
        studio: StudioClient,
        settings: Settings,
        paths: ProjectPaths,
        progress: Progress,
        record: RoundRecord,
        state: PushState,
    ) -> None:
        self._db, self._studio, self._settings, self._progress = db, studio, settings, progress
        self._folder = paths.round(record.number)
        self._state = state
        self._total = len(state.plan.add) + len(state.plan.replace)
        self._has_begun = False
        self.sent = self.accepted = 0

    def add(self, rows: Iterator[PredictionRow]) -> None:
        """Send new predictions in chunks. Raises StudioError when Label Studio keeps fewer than were sent.

        The next chunk is made while Label Studio stores this one; there are never more than two.
        """
        rows = self._counted(rows)
        first = next(rows, None)
        if first is None:
            return
        label_config = self._studio.project(self._db.id).label_config
        for chunk in _made_ahead(_chunks(self._settings, label_config, chain([first], rows))):
            self._progress.at("push.chunk")
            created = self._studio.import_predictions(self._db.id, chunk)
            if created != len(chunk):
                raise StudioError(
                    f"Label Studio kept {created} of {len(chunk)} predictions",
                    field=f"project {self._db.id}",
                    hint="The rest is sent at the next look; does the label config have the model's labels?",
                )
            self._note(chunk.task_ids)

    def replace(self, rows: Iterator[PredictionRow]) -> None:
        """Replace predictions one by one."""
        rows = self._counted(rows)
        while part := list(islice(rows, _SAVED_EVERY)):
            # after a kill the note must not say that the old ones are still there: the decisions may be as
            # before by then, and nothing would be sent
            self._write({row.task_id: Shown("") for row in part})
            for row in part:
                self._progress.at("push.replace")
                self._studio.replace_prediction(self._db.id, row)
            self._note([row.task_id for row in part])

    def _counted(self, rows: Iterator[PredictionRow]) -> Iterator[PredictionRow]:
        """The same rows; the accepted instances in them are counted."""
        for row in rows:
            self.accepted += sum("meta" in item for item in row.result)
            yield row

    def _note(self, tasks: Sequence[int]) -> None:
        self._write({task: self._state.wanted[task] for task in tasks})
        self.sent += len(tasks)
        self._progress.report("push", 0.9 * self.sent / self._total, f"{self.sent} of {self._total} sent")

    def _write(self, rows: Mapping[int, Shown]) -> None:
        """Note what these tasks hold now, in memory and on disk."""
        version = self._state.plan.version
        if not self._has_begun:  # from here on the lines say what this push did to what was held before
            save_pushed(self._folder, self._state.held, guard=self._db.guard)
            self._has_begun = True
        self._state.held.setdefault(version, {}).update(rows)
        note_pushed(self._folder, version, rows, guard=self._db.guard)


def _made_ahead(chunks: Iterator[PreparedPredictions]) -> Iterator[PreparedPredictions]:
    """The same chunks, each made while the caller is busy with the one before it."""
    with ThreadPoolExecutor(1, thread_name_prefix="push") as thread:
        ahead = thread.submit(next, chunks, None)
        while (chunk := ahead.result()) is not None:
            ahead = thread.submit(next, chunks, None)
            yield chunk


def _wanted(db: ProjectStore, index: PoolIndex) -> list[int]:
    """Unfinished tasks the model could read, in order of id."""
    open_ids = set(open_task_ids(db))
    return [task for task in index.task_id.tolist() if task in open_ids and task not in index.error]


def serving_order(
    db: ProjectStore, paths: ProjectPaths, memo: Memo, record: RoundRecord
) -> list[tuple[int, str]]:
    """Unfinished tasks and their images in the order in which uncertainty sampling serves them."""
    order = known_order(paths, memo, record.model_version)
    if order is None:
        return []
    score = dict(zip(order.task_id.tolist(), order.score.tolist(), strict=True))
    wanted = [task for task in _wanted(db, pool_index(paths, memo, record.model_version)) if task in score]
    images = task_images(db)
    return [(task, images[task]) for task in sorted(wanted, key=score.__getitem__)]


def note_order(
    db: ProjectStore, settings: Settings, paths: ProjectPaths, memo: Memo, record: RoundRecord
) -> None:
    """Write down which tasks are served next, for the backend's preparation of clicks."""
    save_upcoming(settings.data_dir, db.id, serving_order(db, paths, memo, record), guard=db.guard)


def _rows(
    config: LabelConfig,
    settings: Settings,
    paths: ProjectPaths,
    record: RoundRecord,
    version: str,
    tasks: Sequence[int],
    state: PushState,
) -> Iterator[PredictionRow]:
    folder = paths.pool(record.model_version)
    for start in range(0, len(tasks), _READ_TASKS):
        part = tasks[start : start + _READ_TASKS]
        pool = read_pool(folder, columns=_COLUMNS, task_ids=part, index=state.index)
        pool = pool.take(np.flatnonzero(~is_absent(state.absent, pool)))
        for task, rows in zip(part, _by_task(pool, part), strict=True):
            entry = state.index.entry(task)
            score = state.order.score_of(task)
            assert entry is not None, "only tasks of the index are wanted"
            assert score is not None, "they all have a place"
            made = make_prediction(
                pool.take(rows),
                config,
                entry.hw,
                state.verdicts,
                round_number=record.number,
                min_score=settings.push_min_score,
                score=score,
                max_tags_per_pixel=settings.max_tags_per_pixel,
                why=line_of(state.order, task),
            )
            problems = validate_result(made.result, config, made.score)
            if problems:
                raise BadInput(
                    problems[0],
                    field=f"prediction of task {task}",
                    hint="Nothing of this chunk was sent; has the label config changed since training?",
                )
            yield PredictionRow(task, made.result, made.score, version)


def _by_task(pool: PoolTable, tasks: Sequence[int]) -> Iterator[np.ndarray[Any, np.dtype[np.intp]]]:
    """Rows of each task, in the order of ``tasks``; one sort for all."""
    order = np.argsort(pool.task_id, kind="stable")
    ids = pool.task_id[order]
    for task in tasks:
        yield order[np.searchsorted(ids, task, "left") : np.searchsorted(ids, task, "right")]


def _chunks(
    settings: Settings, label_config: str, rows: Iterator[PredictionRow]
) -> Iterator[PreparedPredictions]:
    """Rows in chunks bounded by number and by bytes of JSON, checked. Raises StudioError.

    The first chunk is a small one, so that Label Studio does not wait for long; each further one may be four
    times as large, because a request has a cost of its own, which grows with the project.
    """
    limit = min(settings.push_rows, _FIRST_ROWS)
    chunk = PreparedPredictions(label_config)
    for row in rows:
        chunk.add(row)
        if len(chunk) >= limit or chunk.size >= settings.push_bytes:
            chunk.check()
            yield chunk
            chunk = PreparedPredictions(label_config)
            limit = min(settings.push_rows, 4 * limit)
    if chunk:
        chunk.check()
        yield chunk


def _retire(db: ProjectStore, studio: StudioClient, progress: Progress, version: str) -> list[str]:
    """Delete our older prediction versions; other people's predictions stay."""
    mine = version_prefix(db.id)
    old = [name for name in studio.prediction_versions(db.id) if name.startswith(mine) and name != version]
    for name in old:
        progress.at("push.retire")
        studio.delete_predictions(db.id, name)
    return old
