"""The model class of the ML-backend protocol (2.x): ``setup``, ``predict``, ``fit``. Dispatch, nothing else.

An instance stands for one project during one request and is cheap to make. The contract is the one of
``label_studio_ml.model.LabelStudioMLBase``, without the package: ``predict`` returns one dict per task with
``result``, ``score`` and ``model_version``, ``fit`` takes an event and its data.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ml_backend.artifacts.inbox import mark_dirty
from ml_backend.artifacts.pool_tables import PoolTable, TaskEntry, instance_key
from ml_backend.artifacts.project_facts import ProjectFacts
from ml_backend.artifacts.verdicts import NO_VERDICTS, VerdictTable
from ml_backend.errors import BadInput, GroundswellError, ModelError
from ml_backend.images.store import ImageRef
from ml_backend.instances import Instances
from ml_backend.label_studio.label_config import LabelConfig, parse_label_config
from ml_backend.label_studio.protocol import TaskIn
from ml_backend.label_studio.regions import to_result
from ml_backend.learners.uncertainty import confidence
from ml_backend.services import Services
from ml_backend.task_prediction import shown_regions

__all__ = ["UNTRAINED", "GroundswellModel"]

_log = logging.getLogger(__name__)

UNTRAINED: Final = "groundswell-untrained"
"""Version reported before the first training: Label Studio wants one."""

_BATCH: Final = 4
_MIN_SCORE: Final = 0.3


class GroundswellModel:
    """One project's view of the services.

    ``project_id`` and ``label_config`` come from the request; what the worker wrote about the project
    counts more. Raises BadInput when the project is unknown and there is no label config to go by.
    """

    def __init__(self, services: Services, project_id: int | None, label_config: str = "") -> None:
        self._services = services
        self.project_id = project_id or 0
        self.facts: ProjectFacts | None = None
        if project_id is not None:
            try:
                self.facts = services.facts.get(project_id)
            except BadInput:
                if not label_config:
                    raise
        # what people see now is what Label Studio sends along; facts may be older by one look of the worker
        self.config: LabelConfig = parse_label_config(label_config or self._known_facts().label_config)

    def setup(self) -> dict[str, Any]:
        """What ``/setup`` answers. Constant time: reads two small files, no model."""
        return {"model_version": self.model_version}

    @property
    def model_version(self) -> str:
        """Version that Label Studio shows, the one that serves, or ``UNTRAINED``."""
        shown = self.facts.model_version if self.facts is not None else ""
        return shown or self._serving() or UNTRAINED

    def predict(
        self, tasks: Sequence[Mapping[str, Any]], context: Mapping[str, Any] | None = None, **_: Any
    ) -> list[dict[str, Any]]:
        """The contract's form: raw task dicts in, one prediction per task out."""
        parsed = [TaskIn(t.get("id"), t.get("data") or {}) for t in tasks]
        return [self.click(parsed[0], context)] if context else self.predict_tasks(parsed)

    def fit(self, event: str, data: Mapping[str, Any] | None = None, **_: Any) -> dict[str, Any]:
        """Training is the worker's: this leaves a note in its inbox and returns at once. ``data`` is not
        read.
        """
        facts = self._known_facts()
        for project_id in (facts.project_id, facts.label_project_id):
            if project_id:
                mark_dirty(self._services.settings.data_dir, project_id, event)
        return {"status": "noted"}

    # clicks

    def click(self, task: TaskIn, context: Mapping[str, Any]) -> dict[str, Any]:
        """Answer an interactive request. Raises what the click service raises: one person waits for it."""
        if task.problem:
            raise BadInput(task.problem, field="tasks[0]")
        facts = self.facts or ProjectFacts(
            self.project_id, str(self.project_id), "", self.config.kind, self.config.xml, self.config.labels
        )
        # the config people see now, and the version whose pool holds the proposals
        seen = facts.with_changes(label_config=self.config.xml, model_version=self._serving())
        return self._services.clicks.predict({"id": task.id, "data": task.data}, context, seen)

    # batches

    def predict_tasks(
        self, tasks: Sequence[TaskIn], *, budget_s: float | None = None
    ) -> list[dict[str, Any]]:
        """One prediction per task, in order. A task that cannot be answered gets an empty one and a logged
        reason.

        Answers come from the pool of the version that serves, with what was decided about its masks; only
        tasks it does not hold reach the model.
        When that takes longer than ``budget_s`` seconds ModelError is raised (an empty answer would be
        stored for good).
        """
        version = self._serving()
        answers: dict[int, dict[str, Any]] = {}
        live: list[int] = []
        stored = self._stored([t.id for t in tasks if t.id is not None], version)
        decided = self._decided(version) if stored else (0, NO_VERDICTS)
        for index, task in enumerate(tasks):
            if task.problem:
                answers[index] = self._failed(task, BadInput(task.problem, field=f"tasks[{index}]"))
            elif task.id in stored:
                answers[index] = self._answer_stored(task, *stored[task.id], decided)
            elif not version:
                self._services.metrics.predicted("none")
                answers[index] = self._empty(0.0)
            else:
                live.append(index)
        if live:
            answers.update(self._predict_live(tasks, live, version, budget_s))
        return [answers[i] for i in range(len(tasks))]

    def _stored(self, ids: Iterable[int], version: str) -> dict[int | None, tuple[TaskEntry, PoolTable]]:
        if not version:
            return {}
        pool = self._services.pools.of(self.project_id, version)
        tables = pool.read(ids)
        found: dict[int | None, tuple[TaskEntry, PoolTable]] = {}
        for task_id, table in tables.items():
            entry = pool.entry(task_id)
            if entry is not None:
                found[task_id] = (entry, table)
        return found

    def _answer_stored(
        self, task: TaskIn, entry: TaskEntry, table: PoolTable, decided: tuple[int, VerdictTable]
    ) -> dict[str, Any]:
        if entry.error:
            return self._failed(task, BadInput(entry.error, field="data"))
        try:
            with self._services.metrics.phase("serialise"):
                result = shown_regions(
                    table,
                    self.config,
                    entry.hw,
                    decided[1],
                    round_number=decided[0],
                    min_score=self._min_score(),
                )
        except GroundswellError as error:
            return self._failed(task, error)
        self._services.metrics.predicted("store")
        return self._answer(result, entry.score)

    def _predict_live(
        self, tasks: Sequence[TaskIn], live: Sequence[int], version: str, budget_s: float | None
    ) -> dict[int, dict[str, Any]]:
        """Run the model, a few pictures at a time."""
        end = None if budget_s is None else time.monotonic() + budget_s
        answers: dict[int, dict[str, Any]] = {}
        services = self._services
        try:
            with services.predictors.use(
                self.project_id, version, device=services.settings.device
            ) as predictor:
                for start in range(0, len(live), _BATCH):
                    if end is not None and time.monotonic() > end:
                        raise _Busy(len(live) - start)
                    loaded: list[tuple[int, ImageRef, npt.NDArray[np.uint8]]] = []
                    for index in live[start : start + _BATCH]:
                        try:
                            loaded.append((index, *self._load(tasks[index])))
                        except GroundswellError as error:
                            answers[index] = self._failed(tasks[index], error)
                    with services.metrics.phase("predict"):
                        found = list(predictor.predict([pixels for _, _, pixels in loaded]))
                    for (index, ref, _), instances in zip(loaded, found, strict=True):
                        answers[index] = self._answer_live(tasks[index], ref, instances, predictor.labels)
        except _Busy as busy:
            raise ModelError(
                f"busy: {busy.left} of {len(live)} tasks would not be done in time",
                hint="The worker predicts all open tasks by itself; ask for fewer at once",
            ) from None
        except GroundswellError as error:  # the model cannot be loaded: every task that needs it
            for index in live:
                answers.setdefault(index, self._failed(tasks[index], error))
        except (RuntimeError, MemoryError, ValueError, OSError) as error:
            _log.exception("project %s: model %s failed", self.project_id, version)
            for index in live:
                answers.setdefault(
                    index, self._failed(tasks[index], ModelError(f"the model failed ({error})"))
                )
        return answers

    def _load(self, task: TaskIn) -> tuple[ImageRef, npt.NDArray[np.uint8]]:
        address = self.config.image_of(task.data)
        metrics = self._services.metrics
        with metrics.phase("fetch"):
            ref = self._services.images.get(address, task_id=task.id, project_id=self.project_id or None)
        with metrics.phase("decode"):
            return ref, self._services.images.pixels(ref)

    def _answer_live(
        self, task: TaskIn, ref: ImageRef, instances: Instances, labels: Sequence[str]
    ) -> dict[str, Any]:
        score = confidence(instances)
        known = np.array([labels[i] in self.config.labels for i in instances.label], bool)
        shown = instances.take(np.flatnonzero(known & (instances.score >= self._min_score())))
        keys = [
            instance_key(task.id or 0, labels[int(i)], str(rle["counts"]))
            for i, rle in zip(shown.label, shown.rle, strict=True)
        ]
        try:
            with self._services.metrics.phase("serialise"):
                result = self._results(shown, ref.hw, keys, labels)
        except GroundswellError as error:
            return self._failed(task, error)
        self._services.metrics.predicted("model")
        return self._answer(result, score)

    # pieces

    def _decided(self, version: str) -> tuple[int, VerdictTable]:
        """The round a version was trained in, and what was decided in it so far."""
        try:
            info = self._services.registry.info(self.project_id, version)
            number = int(info.manifest.get("round", 0))  # 0: of no round
            return number, self._services.verdicts.of(self.project_id, number)
        except GroundswellError as error:  # the masks are there and can be shown as undecided
            _log.warning("project %s: no verdicts of %s: %s", self.project_id, version, error)
            return 0, NO_VERDICTS

    def _results(
        self, instances: Instances, hw: tuple[int, int], keys: Sequence[str], labels: Sequence[str] = ()
    ) -> list[dict[str, Any]]:
        return to_result(instances, self.config, hw, labels=labels or self.config.labels, keys=keys)

    def _min_score(self) -> float:
        options = self.facts.options if self.facts is not None else {}
        return float(options.get("push_min_score", _MIN_SCORE))

    def _serving(self) -> str:
        return (self._services.registry.current(self.project_id) or "") if self.project_id else ""

    def _known_facts(self) -> ProjectFacts:
        if self.facts is None:
            raise BadInput("is missing", field="project", hint="Send Label Studio's project key")
        return self.facts

    def _answer(self, result: list[dict[str, Any]], score: float) -> dict[str, Any]:
        return {
            "result": result,
            "score": round(min(max(score, 0.0), 1.0), 6),
            "model_version": self.model_version,
        }

    def _empty(self, score: float) -> dict[str, Any]:
        return self._answer([], score)

    def _failed(self, task: TaskIn, error: GroundswellError) -> dict[str, Any]:
        """An empty answer; score 1 keeps a task that cannot be shown from being served first."""
        _log.warning("project %s task %s: %s", self.project_id, task.id, error)
        self._services.metrics.failed(type(error).__name__)
        return self._empty(1.0) | {"error": str(error)}


class _Busy(Exception):
    """The time for live predictions is over."""

    def __init__(self, left: int) -> None:
        super().__init__(left)
        self.left = left
