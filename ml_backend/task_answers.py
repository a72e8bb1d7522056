"""Predictions for the tasks of one request: from the pool of a model version, else from the model itself.

A task that cannot be answered gets *no* prediction, written as an empty list: Label Studio stores nothing
then and asks again later. An empty prediction would be stored, and would mean that the image has no objects.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ml_backend.artifacts.order_lines import line_of
from ml_backend.artifacts.pool_tables import PoolTable, TaskEntry
from ml_backend.artifacts.task_orders import TaskOrder
from ml_backend.artifacts.verdicts import NO_VERDICTS, VerdictTable
from ml_backend.errors import BadImage, BadInput, GroundswellError, ModelError
from ml_backend.images.store import ImageRef
from ml_backend.instances import Instances
from ml_backend.label_studio.label_config import LabelConfig
from ml_backend.label_studio.protocol import TaskIn
from ml_backend.learners.base import Predictor
from ml_backend.learners.doubt_scorer import DoubtScorer
from ml_backend.learners.uncertainty import confidence, named_doubts
from ml_backend.services import Services
from ml_backend.task_prediction import make_prediction, table_of, usable_instances

__all__ = ["Answers", "ModelSource", "answer_tasks"]

_log = logging.getLogger(__name__)

_BATCH: Final = 4


@dataclass(frozen=True, slots=True)
class Answers:
    """What ``/predict`` answers.

    Attributes
    ----------
    results : one entry per task, in order: a prediction, or an empty list when there is none
    errors : why a task has no prediction, by its place in the request
    """

    results: Sequence[dict[str, Any] | list[Any]]
    errors: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ModelSource:
    """Where the masks come from, and how they are shown.

    Attributes
    ----------
    version : the model version, which names the pool and the weights
    stored_as : the version that predictions carry in Label Studio
    config : the label config that people see now
    min_score : class score from which undecided masks are shown
    max_tags_per_pixel : see ``make_prediction``
    """

    project_id: int
    version: str
    stored_as: str
    config: LabelConfig
    min_score: float
    max_tags_per_pixel: int | None = None


def answer_tasks(
    services: Services, source: ModelSource, tasks: Sequence[TaskIn], budget_s: float | None
) -> Answers:
    """Predictions of one model version. The model is asked for at most ``budget_s`` seconds.

    When no task has an answer and the fault is ours (no model, no memory, no Label Studio, no time) its error
    is raised: ModelError, StudioError or StorageError.
    """
    return _Batch(services, source, tasks).answers(budget_s)


class _Batch:
    """The tasks of one request, with what was found for each so far."""

    def __init__(self, services: Services, source: ModelSource, tasks: Sequence[TaskIn]) -> None:
        self._services = services
        self._source = source
        self._tasks = tasks
        self._round, self._verdicts = self._decisions()
        self._order = self._served_order()
        self._found: dict[int, dict[str, Any]] = {}
        self._failed: dict[int, GroundswellError] = {}

    def answers(self, budget_s: float | None) -> Answers:
        for place, task in enumerate(self._tasks):
            if task.problem:
                self._fail(place, BadInput(task.problem, field=f"tasks[{place}]"))
        self._answer_stored(self._open_places())
        self._predict_live(self._open_places(), budget_s)
        ours = [error for error in self._failed.values() if not isinstance(error, BadInput)]
        if ours and not self._found:
            raise ours[0]
        results: list[dict[str, Any] | list[Any]] = [
            self._found.get(place, []) for place in range(len(self._tasks))
        ]
        return Answers(results, {place: str(error) for place, error in sorted(self._failed.items())})

    def _open_places(self) -> list[int]:
        """Places in the request that have neither an answer nor an error yet."""
        places = range(len(self._tasks))
        return [place for place in places if place not in self._found and place not in self._failed]

    def _decisions(self) -> tuple[int, VerdictTable]:
        """The round that the version was trained in, and what was decided about its masks so far."""
        project_id, version = self._source.project_id, self._source.version
        try:
            info = self._services.registry.info(project_id, version)
            number = int(info.manifest.get("round", 0))  # 0: of no round
            return number, self._services.verdicts.of(project_id, number)
        except GroundswellError as error:  # the masks are there and can be shown as undecided
            _log.warning("project %s: no verdicts of %s: %s", project_id, version, error)
            return 0, NO_VERDICTS

    def _served_order(self) -> TaskOrder | None:
        """The order that the worker pushed for this version, None when there is none."""
        try:
            return self._services.orders.of(self._source.project_id, self._source.version)
        except GroundswellError as error:  # the masks are there, only their order is not known
            _log.warning("project %s: no order of tasks: %s", self._source.project_id, error)
            return None

    def _score(self, task_id: int | None, unordered: float, found: Instances | None = None) -> float:
        """The score of a task in the order; one that is new to it comes where its doubts say."""
        if self._order is None:
            return float(np.float32(unordered))  # as pools keep it, so that live and stored scores are equal
        known = None if task_id is None else self._order.score_of(task_id)
        if known is not None:
            return known
        value = 1.0 - unordered
        if found is not None:
            doubts = named_doubts(found, shown_from=self._source.min_score)
            scorer = DoubtScorer.from_json(self._order.about["scorer"])
            value = float(scorer.values({name: np.array([d]) for name, d in doubts.items()}, 1)[0])
        return self._order.score_between(value)

    def _answer_stored(self, places: Sequence[int]) -> None:
        """Answer what the pool holds."""
        stored = self._stored([i for place in places if (i := self._tasks[place].id) is not None])
        for place in places:
            found = stored.get(self._tasks[place].id)
            if found is None:
                continue
            entry, rows = found
            if entry.error:
                self._fail(place, BadImage(entry.error, field="data"))
            else:
                score = self._score(self._tasks[place].id, entry.score)
                self._answer(place, rows, entry.hw, score, come_from="store")

    def _stored(self, task_ids: Sequence[int]) -> Mapping[int | None, tuple[TaskEntry, PoolTable]]:
        pool = self._services.pools.of(self._source.project_id, self._source.version)
        try:
            tables = pool.read(task_ids)
            entries = {task_id: pool.entry(task_id) for task_id in tables}
        except GroundswellError as error:  # the model can be asked instead
            _log.warning("project %s: pool of %s: %s", self._source.project_id, self._source.version, error)
            return {}
        return {task_id: (e, tables[task_id]) for task_id, e in entries.items() if e is not None}

    def _predict_live(self, places: Sequence[int], budget_s: float | None) -> None:
        """Ask the model, a few images at a time. The first failure of the model ends it."""
        if not places:
            return
        end = None if budget_s is None else time.monotonic() + budget_s
        error: GroundswellError
        try:
            with self._services.predictors.use(
                self._source.project_id, self._source.version, device=self._services.settings.device
            ) as predictor:
                for start in range(0, len(places), _BATCH):
                    if end is not None and time.monotonic() > end:
                        raise ModelError(
                            f"busy: {len(places) - start} of {len(places)} tasks would not be done in time",
                            hint="The worker predicts all open tasks by itself; ask for fewer at once",
                        )
                    self._predict_few(places[start : start + _BATCH], predictor)
            return
        except GroundswellError as raised:
            error = raised
        except (RuntimeError, MemoryError, ValueError, OSError) as raised:
            _log.exception("project %s: model %s failed", self._source.project_id, self._source.version)
            error = ModelError(
                f"the model failed ({raised})", hint="See the log of the backend: is there enough memory?"
            )
        for place in self._open_places():
            self._fail(place, error)

    def _predict_few(self, places: Sequence[int], predictor: Predictor) -> None:
        loaded: list[tuple[int, ImageRef, npt.NDArray[np.uint8]]] = []
        for place in places:
            try:
                loaded.append((place, *self._load(self._tasks[place])))
            except GroundswellError as error:
                self._fail(place, error)
        with self._services.metrics.phase("predict"):
            found = list(predictor.predict([pixels for _, _, pixels in loaded]))
        for (place, ref, _), instances in zip(loaded, found, strict=True):
            usable = usable_instances(instances)
            rows = table_of(self._tasks[place].id or 0, usable, predictor.labels, ref.hw)
            unordered = confidence(usable, shown_from=self._source.min_score)
            score = self._score(self._tasks[place].id, unordered, usable)
            self._answer(place, rows, ref.hw, score, come_from="model")

    def _load(self, task: TaskIn) -> tuple[ImageRef, npt.NDArray[np.uint8]]:
        address = self._source.config.image_of(task.data)
        metrics = self._services.metrics
        with metrics.phase("fetch"):
            ref = self._services.images.get(address, task_id=task.id, project_id=self._source.project_id)
        with metrics.phase("decode"):
            return ref, self._services.images.pixels(ref)

    def _answer(
        self, place: int, rows: PoolTable, hw: tuple[int, int], score: float, *, come_from: str
    ) -> None:
        try:
            with self._services.metrics.phase("serialise"):
                made = make_prediction(
                    rows,
                    self._source.config,
                    hw,
                    self._verdicts,
                    round_number=self._round,
                    min_score=self._source.min_score,
                    score=score,
                    max_tags_per_pixel=self._source.max_tags_per_pixel,
                    why="" if self._order is None else line_of(self._order, self._tasks[place].id or 0),
                )
        except GroundswellError as error:
            self._fail(place, error)
            return
        self._services.metrics.predicted(come_from)
        self._found[place] = {
            "result": made.result,
            "score": made.score,
            "model_version": self._source.stored_as,
        }

    def _fail(self, place: int, error: GroundswellError) -> None:
        _log.warning("project %s task %s: %s", self._source.project_id, self._tasks[place].id, error)
        self._services.metrics.failed(type(error).__name__)
        self._failed[place] = error
